//! Code of the user's that may panic: it ends here.
//!
//! A panic carries a payload, and the payload's drop is the user's code too. One that panicked in its drop went through
//! every `catch_unwind` here: it ended the task of a connection, and its call ran for ever.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Waker};

/// It panicked, and the panic hook has said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Panicked;

/// Calls `code`. What it leaves behind when it panics must not be used.
#[inline(always)]
pub(crate) fn caught<T>(code: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|payload| {
        bury(payload);
        Panicked
    })
}

/// Drops the payload of a panic, which may panic again, and so may that panic's payload.
#[cold]
pub(crate) fn bury(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(again);
    }
}

/// A value whose drop is the user's code: if that panics, it ends there.
///
/// The user's code may call the server or the client that it belongs to: no lock may be held where one is dropped.
pub(crate) struct Guarded<T>(Option<T>);

impl<T> Guarded<T> {
    #[inline]
    pub(crate) fn new(value: T) -> Guarded<T> {
        Guarded(Some(value))
    }

    /// The value; `None` never, as long as it was not dropped.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        self.0.as_ref()
    }

    /// The same, to change it.
    #[inline]
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_mut()
    }
}

impl<T> Drop for Guarded<T> {
    #[inline]
    fn drop(&mut self) {
        if let Some(value) = self.0.take() {
            // The panic hook has said so.
            let _panicked = caught(|| drop(value));
        }
    }
}

/// Wakes all of them: a waker that panics keeps none from being woken that come after it.
#[inline]
pub(crate) fn wake_all(wakers: Vec<Waker>) {
    let mut wakers = wakers.into_iter();
    // The one that has panicked was taken out.
    while caught(|| wakers.by_ref().for_each(Waker::wake)).is_err() {}
}

/// Registers the waker that polls. The waker that was there before may be all that is left of its task, whose drop is the
/// user's code: it goes to `dropped`, which must be dropped without the lock.
#[inline]
pub(crate) fn register(slot: &mut Option<Waker>, cx: &Context<'_>, dropped: &mut Vec<Waker>) {
    if slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        return;
    }
    if let Some(before) = slot.replace(cx.waker().clone()) {
        dropped.push(before);
    }
}

/// Adds the waker that polls to those that are woken later, once.
pub(crate) fn add_waker(wakers: &mut Vec<Waker>, cx: &mut Context<'_>) {
    if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
        wakers.push(cx.waker().clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Panics when it is dropped, with another of its kind for a payload.
    struct Bomb(u32);

    impl Drop for Bomb {
        fn drop(&mut self) {
            if self.0 > 0 {
                std::panic::panic_any(Bomb(self.0 - 1));
            }
        }
    }

    #[test]
    fn a_payload_that_panics_when_it_is_dropped_ends_there() {
        for depth in 0..4 {
            assert_eq!(caught(|| std::panic::panic_any(Bomb(depth))), Err::<(), _>(Panicked));
            drop(Guarded::new(Bomb(depth)));
        }
        assert_eq!(caught(|| 7), Ok(7));
    }
}
