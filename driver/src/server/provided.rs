//! Values that hooks give to the handlers that they are around.

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::Arc;

use crate::caught::Guarded;
use crate::sync::Lock;

/// A [`Guarded`] one: its drop is the program's code, and may come in a task that all calls need.
type Value = Arc<dyn Any + Send + Sync>;

/// What hooks have given to a call, one value of each type.
#[derive(Default)]
pub(super) struct Provided(Lock<Vec<(TypeId, Value)>>);

impl fmt::Debug for Provided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provided").finish_non_exhaustive()
    }
}

impl Provided {
    /// Takes the place of a value of the same type.
    pub(super) fn put<T: Any + Send + Sync>(&self, value: T) {
        let (id, value): (_, Value) = (TypeId::of::<T>(), Arc::new(Guarded::new(value)));
        let mut values = self.0.lock();
        let before = match values.iter_mut().find(|(of, _)| *of == id) {
            Some((_, there)) => Some(std::mem::replace(there, value)),
            None => {
                values.push((id, value));
                None
            }
        };
        // Not with the lock.
        drop(values);
        drop(before);
    }

    pub(super) fn get<T: Any + Send + Sync + Clone>(&self) -> Option<T> {
        let id = TypeId::of::<T>();
        let value = {
            let values = self.0.lock();
            values.iter().find(|(of, _)| *of == id).map(|(_, value)| value.clone())
        };
        value?.downcast_ref::<Guarded<T>>()?.get().cloned()
    }
}
