//! Handlers that wait for their calls' cancels (S19).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::task::{Context, Waker};

use oncewire_core::{CallKey, SessionKey, Xid};

use crate::waiters::Place;

/// By session and call: the wakers of contexts, each under the place of the task that waits.
///
/// Every end of a call wakes them, also one that no machine reports, such as a ledger's failure: a clone of a context may
/// have left the handler, and its wait would last for ever (C147). A task that stops waiting earlier takes its waker out: a call may run
/// for days, and wait in a new task each time (C454).
#[derive(Default)]
pub(super) struct Cancels {
    sessions: BTreeMap<SessionKey, BTreeMap<Xid, BTreeMap<u64, Waker>>>,
    /// Places given out, to all calls: a session that was abandoned may come back, with tasks that were woken and still have theirs.
    last: u64,
}

impl Cancels {
    /// Registers the waker that polls. Returns the one that was in its place.
    #[must_use = "it is dropped without the lock"]
    pub(super) fn wait(
        &mut self,
        call: CallKey,
        place: &mut Place,
        cx: &Context<'_>,
    ) -> Option<Waker> {
        let place = *place.get_or_insert_with(|| {
            self.last += 1;
            self.last
        });
        let calls = self.sessions.entry(call.session()).or_default();
        match calls.entry(call.xid()).or_default().entry(place) {
            Entry::Occupied(mut waits) if !waits.get().will_wake(cx.waker()) => {
                Some(waits.insert(cx.waker().clone()))
            }
            Entry::Occupied(_) => None,
            Entry::Vacant(waits) => {
                waits.insert(cx.waker().clone());
                None
            }
        }
    }

    /// The task that waited in this place has stopped. Returns its waker.
    #[must_use = "it is dropped without the lock"]
    pub(super) fn leave(&mut self, call: CallKey, place: &mut Place) -> Option<Waker> {
        let place = place.take()?;
        let calls = self.sessions.get_mut(&call.session())?;
        let waiting = calls.get_mut(&call.xid())?;
        let waker = waiting.remove(&place);
        if waiting.is_empty() {
            calls.remove(&call.xid());
        }
        if calls.is_empty() {
            self.sessions.remove(&call.session());
        }
        waker
    }

    /// A call was cancelled, or has ended.
    #[inline]
    pub(super) fn wake(&mut self, call: CallKey, to_wake: &mut Vec<Waker>) {
        if !self.sessions.is_empty() {
            self.wake_call(call, to_wake);
        }
    }

    fn wake_call(&mut self, call: CallKey, to_wake: &mut Vec<Waker>) {
        let Some(calls) = self.sessions.get_mut(&call.session()) else { return };
        debug_assert!(!calls.is_empty(), "a session without waits has no entry");
        to_wake.extend(calls.remove(&call.xid()).unwrap_or_default().into_values());
        if calls.is_empty() {
            self.sessions.remove(&call.session());
        }
    }

    /// No outcome of a session is needed any more.
    pub(super) fn wake_session(&mut self, session: SessionKey, to_wake: &mut Vec<Waker>) {
        let calls = self.sessions.remove(&session).unwrap_or_default();
        to_wake.extend(calls.into_values().flat_map(BTreeMap::into_values));
    }

    /// No outcome is needed any more.
    pub(super) fn wake_all(&mut self, to_wake: &mut Vec<Waker>) {
        let sessions = std::mem::take(&mut self.sessions);
        let calls = sessions.into_values().flat_map(BTreeMap::into_values);
        to_wake.extend(calls.flat_map(BTreeMap::into_values));
    }
}
