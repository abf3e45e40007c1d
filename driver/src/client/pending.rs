//! Who waits for which call.
//!
//! The machine forgets a call when it ends and may give its number to another one at once; a wait lasts until whoever
//! waits has taken the outcome. So waits have numbers of their own.

use std::task::{Context, Waker};

use oncewire_core::{CallId, NotExecuted, Unknown};

use crate::caught::register;
use crate::outcome::RawOutcome;

/// One wait; a later one in the same place has another serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PendingId {
    index: u32,
    serial: u32,
}

#[derive(Default)]
pub(super) struct PendingCalls {
    places: Vec<PendingCall>,
    free: Vec<u32>,
    /// By [`CallId::index`].
    by_call: Vec<Option<PendingId>>,
    /// Outcomes that nobody has taken yet.
    untaken: usize,
}

#[derive(Default)]
struct PendingCall {
    serial: u32,
    /// `None` when the place is free.
    call: Option<CallId>,
    waker: Option<Waker>,
    outcome: Option<RawOutcome>,
    /// Stands among the followers.
    follows: bool,
    /// How often leading calls had been polled when it last was; 0 if it never was.
    looked_at: u64,
}

impl PendingCall {
    /// Makes its place free for a later one.
    #[inline]
    fn release(&mut self) {
        self.serial = self.serial.wrapping_add(1);
        self.call = None;
        self.waker = None;
        self.outcome = None;
        self.follows = false;
        self.looked_at = 0;
    }
}

impl PendingCalls {
    #[inline]
    pub(super) fn insert(&mut self, call: CallId) -> PendingId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(PendingCall::default());
            self.places.len() as u32 - 1
        });
        let place = &mut self.places[index as usize];
        place.call = Some(call);
        let id = PendingId { index, serial: place.serial };
        if self.by_call.len() <= call.index() {
            self.by_call.resize(call.index() + 1, None);
        }
        self.by_call[call.index()] = Some(id);
        id
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    #[inline]
    fn get(&self, id: PendingId) -> Option<&PendingCall> {
        self.places.get(id.index as usize).filter(|w| w.serial == id.serial && w.call.is_some())
    }

    #[inline]
    fn get_mut(&mut self, id: PendingId) -> Option<&mut PendingCall> {
        self.places.get_mut(id.index as usize).filter(|w| w.serial == id.serial && w.call.is_some())
    }

    /// Ends a wait; says which call it was for, if that one has not ended.
    #[inline]
    pub(super) fn remove(&mut self, id: PendingId, dropped: &mut Vec<Waker>) -> Option<CallId> {
        let wait = self.get_mut(id)?;
        dropped.extend(wait.waker.take());
        let call = wait.call?;
        let untaken = wait.outcome.is_some();
        wait.release();
        self.untaken -= usize::from(untaken);
        self.free.push(id.index);
        let entry = self.by_call.get_mut(call.index())?;
        if *entry == Some(id) {
            *entry = None;
            return Some(call);
        }
        None
    }

    /// Whether there are outcomes that nobody has taken yet.
    #[inline]
    pub(super) fn has_untaken(&self) -> bool {
        self.untaken > 0
    }

    pub(super) fn contains(&self, id: PendingId) -> bool {
        self.get(id).is_some()
    }

    /// Registers who is to be woken when the outcome is there.
    #[inline]
    pub(super) fn wait(&mut self, id: PendingId, cx: &mut Context<'_>, dropped: &mut Vec<Waker>) {
        if let Some(wait) = self.get_mut(id) {
            register(&mut wait.waker, cx, dropped);
        }
    }

    #[inline]
    pub(super) fn has_outcome(&self, id: PendingId) -> bool {
        self.get(id).is_some_and(|wait| wait.outcome.is_some())
    }

    /// The outcome, once; ends the wait unless a ticket is left of it.
    #[inline]
    pub(super) fn take_outcome(&mut self, id: PendingId) -> Option<RawOutcome> {
        let wait = self.get_mut(id)?;
        let outcome = wait.outcome.take()?;
        // When it was told, the wait was parted from its call.
        let ended = !matches!(outcome, RawOutcome::Unknown(_, true));
        if ended {
            wait.release();
            self.free.push(id.index);
        }
        self.untaken -= 1;
        Some(outcome)
    }

    /// The waker of a wait that has no outcome yet.
    #[inline]
    pub(super) fn waker(&self, id: PendingId) -> Option<&Waker> {
        self.get(id).filter(|wait| wait.outcome.is_none())?.waker.as_ref()
    }

    /// The same, taken out.
    #[inline]
    pub(super) fn take_waker(&mut self, id: PendingId) -> Option<Waker> {
        self.get_mut(id).filter(|wait| wait.outcome.is_none())?.waker.take()
    }

    #[inline]
    pub(super) fn follows(&self, id: PendingId) -> bool {
        self.get(id).is_some_and(|wait| wait.follows)
    }

    /// Notes that a wait is polled, after leading calls were polled `leads` times; says whether they were since it last
    /// was.
    #[inline]
    pub(super) fn note_look(&mut self, id: PendingId, leads: u64) -> bool {
        let Some(wait) = self.get_mut(id) else { return true };
        std::mem::replace(&mut wait.looked_at, leads) != leads
    }

    /// Notes whether a wait stands among the followers; says whether that is new.
    #[inline]
    pub(super) fn set_follows(&mut self, id: PendingId, follows: bool) -> bool {
        let Some(wait) = self.get_mut(id) else { return false };
        std::mem::replace(&mut wait.follows, follows) != follows
    }

    /// A call has an outcome. Whoever waits for it is woken, but for `own`, which is being polled.
    #[inline]
    pub(super) fn tell(
        &mut self,
        call: CallId,
        outcome: RawOutcome,
        own: Option<PendingId>,
        wake: &mut Vec<Waker>,
    ) {
        let ticket = matches!(outcome, RawOutcome::Unknown(_, true));
        let Some(entry) = self.by_call.get_mut(call.index()) else { return };
        let Some(id) = *entry else { return };
        if !ticket {
            *entry = None;
        }
        if let Some(wait) = self.get_mut(id).filter(|wait| wait.call == Some(call)) {
            let first = wait.outcome.replace(outcome).is_none();
            if own != Some(id) {
                wake.extend(wait.waker.take());
            }
            self.untaken += usize::from(first);
        }
    }

    /// The calls that have not ended.
    pub(super) fn calls(&self) -> Vec<CallId> {
        let pending = self.by_call.iter().flatten();
        pending.filter_map(|id| self.get(*id)?.call).collect()
    }

    /// The client is gone: every wait that has no outcome gets the truest one there is.
    pub(super) fn end_all(&mut self, wake: &mut Vec<Waker>) {
        self.by_call.clear();
        for wait in self.places.iter_mut().filter(|wait| wait.call.is_some()) {
            wait.outcome = Some(match wait.outcome.take() {
                None | Some(RawOutcome::Unknown(_, true)) => {
                    RawOutcome::Unknown(Unknown::Closed, false)
                }
                Some(RawOutcome::NotExecuted(NotExecuted::Cancelled)) => {
                    RawOutcome::NotExecuted(NotExecuted::Closed)
                }
                Some(outcome) => outcome,
            });
            wake.extend(wait.waker.take());
        }
        self.untaken = self.places.iter().filter(|wait| wait.outcome.is_some()).count();
    }
}
