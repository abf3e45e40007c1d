//! Tasks that wait for the same thing, under a lock of its owner's: each leaves nothing behind when it stops waiting.

use std::collections::BTreeMap;
use std::task::{Context, Waker};

/// The name of one that waits; it has none before it waits.
pub(crate) type Place = Option<u64>;

/// Who waits. A waker is the user's code: those that are given back are called, or dropped, without the lock.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    last: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl Waiters {
    /// Registers the waker that polls, in place of the one that this waiter had.
    #[must_use = "it is dropped without the lock"]
    pub(crate) fn wait(&mut self, place: &mut Place, cx: &Context<'_>) -> Option<Waker> {
        let place = *place.get_or_insert_with(|| {
            self.last += 1;
            self.last
        });
        self.wakers.insert(place, cx.waker().clone())
    }

    /// It waits no more.
    #[must_use = "it is dropped without the lock"]
    pub(crate) fn leave(&mut self, place: &mut Place) -> Option<Waker> {
        self.wakers.remove(&place.take()?)
    }

    /// All of them, to be woken. Those that are not content wait again.
    #[must_use = "they are woken without the lock"]
    pub(crate) fn take(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.wakers).into_values().collect()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.wakers.len()
    }
}
