//! Handlers that wait for their calls' cancels (S19).

use std::collections::BTreeMap;
use std::task::{Context, Waker};

use oncewire_core::{CallKey, SessionKey, Xid};

/// By session and call: the wakers of contexts.
///
/// Every end of a call wakes them, also one that no machine reports, such as a ledger's failure: a clone of a context may
/// have left the handler, and its wait would last for ever (C147).
#[derive(Default)]
pub(super) struct Cancels {
    sessions: BTreeMap<SessionKey, BTreeMap<Xid, Vec<Waker>>>,
}

impl Cancels {
    /// Registers the waker that polls, once.
    pub(super) fn wait(&mut self, call: CallKey, cx: &mut Context<'_>) {
        let calls = self.sessions.entry(call.session()).or_default();
        crate::caught::add_waker(calls.entry(call.xid()).or_default(), cx);
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
        to_wake.extend(calls.remove(&call.xid()).into_iter().flatten());
        if calls.is_empty() {
            self.sessions.remove(&call.session());
        }
    }

    /// No outcome of a session is needed any more.
    pub(super) fn wake_session(&mut self, session: SessionKey, to_wake: &mut Vec<Waker>) {
        let calls = self.sessions.remove(&session).unwrap_or_default();
        to_wake.extend(calls.into_values().flatten());
    }

    /// No outcome is needed any more.
    pub(super) fn wake_all(&mut self, to_wake: &mut Vec<Waker>) {
        let sessions = std::mem::take(&mut self.sessions);
        to_wake.extend(sessions.into_values().flat_map(BTreeMap::into_values).flatten());
    }
}
