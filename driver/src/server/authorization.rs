//! Which callers may call which methods.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use oncewire_core::MethodSpec;

use super::handler::MethodEntry;
use crate::caught::caught;
use crate::transport::Subject;

/// Says whether a caller may call a method.
pub(crate) type Authorize = Arc<dyn Fn(&Subject, &str) -> bool + Send + Sync>;

pub(super) struct Authorization {
    allows: Authorize,
    /// In the order of the machine's methods.
    names: Vec<Cow<'static, str>>,
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Authorization {
    pub(super) fn new<'m>(
        allows: Authorize,
        methods: impl Iterator<Item = (&'m MethodSpec, &'m MethodEntry)>,
    ) -> Authorization {
        let name = |(spec, entry): (&MethodSpec, &MethodEntry)| match entry.name {
            "" => Cow::Owned(spec.id.to_string()),
            name => Cow::Borrowed(name),
        };
        Authorization { allows, names: methods.map(name).collect() }
    }

    /// Asks the program, without any lock.
    pub(super) fn allows(&self, caller: &Subject, method_index: usize) -> bool {
        allows(&self.allows, caller, self.names.get(method_index).map_or("", |name| name))
    }
}

/// What panics has not allowed it.
pub(crate) fn allows(authorize: &Authorize, caller: &Subject, method: &str) -> bool {
    caught(|| authorize(caller, method)).unwrap_or(false)
}
