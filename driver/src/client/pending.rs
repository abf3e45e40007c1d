//! The calls that wait for their outcomes.
//!
//! The machine forgets a call when it ends, and may give its [`CallId`] to another one at once. A call is pending here
//! until its outcome is taken, or it is dropped. So pending calls have their own ids.

use std::sync::Arc;
use std::task::{Context, Waker};

use oncewire_core::{CallId, NotExecuted, Unknown, Xid};

use super::report::SessionInfo;
use crate::caught::register;
use crate::reply::{RawOutcome, Received};

/// A pending call; a later one with the same index has another serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PendingId {
    index: u32,
    serial: u32,
}

impl PendingId {
    /// The same as one number.
    pub(super) fn name(self) -> u64 {
        u64::from(self.index) << 32 | u64::from(self.serial)
    }
}

/// Invariants: an index is in `free` if its entry has no `call`. `by_call` leads to the entry whose `call` it is, until
/// that has its last outcome. `ready` counts the entries with an outcome.
#[derive(Default)]
pub(super) struct PendingCalls {
    entries: Vec<PendingCall>,
    free: Vec<u32>,
    /// Indices of entries by [`CallId::index`], or [`NONE`].
    by_call: Vec<u32>,
    /// Where calls were whose outcomes have just been taken, and are no replies, or whose calls are observed.
    traces: Vec<(PendingId, Trace)>,
    /// Outcomes that have not been taken.
    ready: usize,
    /// How often all followers were forgotten.
    rounds: u64,
    /// The call that is being polled: it takes its outcome itself and need not be woken.
    pub(super) polled: Option<PendingId>,
}

/// No entry.
const NONE: u32 = u32::MAX;

/// How a call is polled.
#[derive(Clone, Copy, Debug)]
pub(super) enum Polled {
    /// Its outcome is there: it was begun under the same lock, and has ended at once.
    Ended,
    /// No other call leads. Whether it is among the followers.
    First(bool),
    /// It is among the followers of another one. Whether it was not before.
    Behind(bool),
    /// The leader has not been polled since this call was last polled: its future may be stalled, or its task may have polled this
    /// one instead.
    Stalled,
}

/// Memory for as many wakers is made when the first outcome of a read is there.
const WAKERS_RESERVED_MAX: usize = 64;

/// What a call was known by at its server.
#[derive(Clone, Debug)]
pub(super) struct Trace {
    pub(super) xid: Option<Xid>,
    /// The session that the client had.
    pub(super) session: Option<Arc<SessionInfo>>,
}

#[derive(Default)]
struct PendingCall {
    serial: u32,
    /// `None` if the entry is free.
    call: Option<CallId>,
    waker: Option<Waker>,
    outcome: Option<RawOutcome>,
    /// Of an outcome that is no reply, or whose call is observed.
    trace: Option<Trace>,
    /// [`PendingCalls::round`] if it is among the followers: see [`Reader`](super::reader::Reader).
    follows: u64,
    /// An observer has seen it begin.
    is_observed: bool,
    /// [`Reader::leads`](super::reader::Reader) when it was last polled; 0 if it never was.
    polled_at: u64,
}

impl PendingCall {
    /// Frees the entry for a later call.
    #[inline]
    fn release(&mut self) {
        self.serial = self.serial.wrapping_add(1);
        self.call = None;
        self.waker = None;
        self.outcome = None;
        self.follows = 0;
        self.is_observed = false;
        self.polled_at = 0;
    }
}

impl PendingCalls {
    #[inline(always)]
    pub(super) fn insert(&mut self, call: CallId) -> PendingId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(PendingCall::default());
            self.entries.len() as u32 - 1
        });
        let entry = &mut self.entries[index as usize];
        debug_assert!(entry.call.is_none(), "a free entry has no call");
        entry.call = Some(call);
        let id = PendingId { index, serial: entry.serial };
        if self.by_call.len() <= call.index() {
            self.by_call.resize(call.index() + 1, NONE);
        }
        debug_assert_eq!(self.by_call[call.index()], NONE, "the machine's last call has ended");
        self.by_call[call.index()] = index;
        id
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    #[inline]
    fn get(&self, id: PendingId) -> Option<&PendingCall> {
        self.entries.get(id.index as usize).filter(|entry| entry.serial == id.serial)
    }

    #[inline]
    fn get_mut(&mut self, id: PendingId) -> Option<&mut PendingCall> {
        // That of a free entry is no one's yet.
        self.entries.get_mut(id.index as usize).filter(|entry| entry.serial == id.serial)
    }

    /// Removes a call; its [`CallId`] if it has not ended.
    #[inline]
    pub(super) fn remove(&mut self, id: PendingId, dropped: &mut Vec<Waker>) -> Option<CallId> {
        let entry = self.get_mut(id)?;
        dropped.extend(entry.waker.take());
        entry.trace = None;
        let call = entry.call?;
        let was_ready = entry.outcome.is_some();
        entry.release();
        self.ready -= usize::from(was_ready);
        self.free.push(id.index);
        let of_call = self.by_call.get_mut(call.index())?;
        if *of_call == id.index {
            *of_call = NONE;
            return Some(call);
        }
        None
    }

    /// Whether there are outcomes that have not been taken.
    #[inline]
    pub(super) fn has_ready(&self) -> bool {
        self.ready > 0
    }

    /// Whether there are calls without an outcome.
    #[inline]
    pub(super) fn has_waiting(&self) -> bool {
        self.ready < self.len()
    }

    pub(super) fn contains(&self, id: PendingId) -> bool {
        self.get(id).is_some()
    }

    /// A call is polled: registers the waker that is called when the outcome is there. `leads`, if another call leads, is how often
    /// leading calls were polled.
    #[inline(always)]
    pub(super) fn note_poll(
        &mut self,
        id: PendingId,
        cx: &mut Context<'_>,
        leads: Option<u64>,
        dropped: &mut Vec<Waker>,
    ) -> Polled {
        let round = self.round();
        let Some(entry) = self.get_mut(id) else {
            return leads.map_or(Polled::First(false), |_| Polled::Behind(false));
        };
        if entry.outcome.is_some() {
            return Polled::Ended;
        }
        register(&mut entry.waker, cx, dropped);
        match leads {
            None => Polled::First(entry.follows == round),
            Some(leads) if std::mem::replace(&mut entry.polled_at, leads) == leads => {
                Polled::Stalled
            }
            Some(_) => Polled::Behind(std::mem::replace(&mut entry.follows, round) != round),
        }
    }

    #[inline]
    pub(super) fn has_outcome(&self, id: PendingId) -> bool {
        self.get(id).is_some_and(|entry| entry.outcome.is_some())
    }

    /// Puts the outcome into `place`, which is empty, if it is there: once. The call is pending no more, unless a ticket is left
    /// of it.
    #[inline]
    pub(super) fn take_outcome(&mut self, id: PendingId, place: &mut Option<RawOutcome>) -> bool {
        let Some(entry) = self.get_mut(id).filter(|entry| entry.outcome.is_some()) else {
            return false;
        };
        let before = std::mem::replace(place, entry.outcome.take());
        debug_assert!(before.is_none(), "an outcome is taken once");
        // So there is nothing to drop.
        std::mem::forget(before);
        let is_traced = entry.trace.is_some();
        // `complete` has taken it out of `by_call`.
        let is_last = !matches!(place, Some(RawOutcome::Unknown(_, true)));
        if is_last {
            entry.release();
            self.free.push(id.index);
        }
        if is_traced {
            self.keep_trace(id);
        }
        self.ready -= 1;
        true
    }

    /// Keeps where a call was whose outcome is being taken.
    #[cold]
    fn keep_trace(&mut self, id: PendingId) {
        let entry = self.entries.get_mut(id.index as usize);
        let trace = entry.and_then(|entry| entry.trace.take());
        self.traces.extend(trace.map(|trace| (id, trace)));
    }

    /// An observer has seen it begin: where it was is kept beside its reply, too.
    pub(super) fn set_observed(&mut self, id: PendingId) {
        if let Some(entry) = self.get_mut(id) {
            entry.is_observed = true;
        }
    }

    /// Notes where a call is that has not ended.
    pub(super) fn set_trace(&mut self, call: CallId, trace: Trace) {
        let index = self.by_call.get(call.index()).copied().unwrap_or(NONE);
        if let Some(entry) = self.entries.get_mut(index as usize) {
            entry.trace = Some(trace);
        }
    }

    /// Where a call was whose outcome was taken and is no reply, once.
    pub(super) fn take_trace(&mut self, id: PendingId) -> Option<Trace> {
        let at = self.traces.iter().position(|(of, _)| *of == id)?;
        Some(self.traces.swap_remove(at).1)
    }

    /// The waker of a call that has no outcome yet.
    #[inline]
    pub(super) fn waker(&self, id: PendingId) -> Option<&Waker> {
        self.get(id).filter(|entry| entry.outcome.is_none())?.waker.as_ref()
    }

    /// The same of a follower, taken out. It follows no more.
    #[inline]
    pub(super) fn take_follower(&mut self, id: PendingId) -> Option<Waker> {
        let entry = self.get_mut(id)?;
        entry.follows = 0;
        if entry.outcome.is_none() { entry.waker.take() } else { None }
    }

    /// Notes that a call is among the followers; whether that is a change.
    pub(super) fn set_follows(&mut self, id: PendingId) -> bool {
        let round = self.round();
        let Some(entry) = self.get_mut(id) else { return false };
        std::mem::replace(&mut entry.follows, round) != round
    }

    /// No call is among the followers any more.
    #[inline]
    pub(super) fn forget_followers(&mut self) {
        self.rounds += 1;
    }

    /// What those have that are among the followers now; never 0.
    #[inline]
    fn round(&self) -> u64 {
        self.rounds + 1
    }

    /// A call has an outcome: wakes its task, unless it is being polled. `trace` says where it was.
    #[inline]
    pub(super) fn complete(
        &mut self,
        call: CallId,
        outcome: Received<'_>,
        trace: impl FnOnce() -> Trace,
        wake: &mut Vec<Waker>,
    ) {
        let polled = self.polled;
        let (is_reply, leaves_ticket) = (outcome.is_reply(), outcome.leaves_ticket());
        let Some(of_call) = self.by_call.get_mut(call.index()) else { return };
        let index = *of_call;
        if !leaves_ticket {
            *of_call = NONE;
        }
        let pending = self.entries.len() - self.free.len();
        // None of a one-way call, and of one that was abandoned.
        let entry = self.entries.get_mut(index as usize);
        if let Some(entry) = entry.filter(|entry| entry.call == Some(call)) {
            let is_polled = polled == Some(PendingId { index, serial: entry.serial });
            let is_first = entry.outcome.is_none();
            outcome.keep_in(&mut entry.outcome);
            entry.trace = (!is_reply || entry.is_observed).then(trace);
            if !is_polled && let Some(waker) = entry.waker.take() {
                if wake.capacity() == 0 {
                    // As many as may follow, so that it does not grow in steps.
                    wake.reserve(pending.min(WAKERS_RESERVED_MAX));
                }
                wake.push(waker);
            }
            self.ready += usize::from(is_first);
        }
    }

    /// The calls that have not ended.
    pub(super) fn calls(&self) -> Vec<CallId> {
        self.by_call.iter().filter_map(|index| self.entries.get(*index as usize)?.call).collect()
    }

    /// The client is gone: every call without an outcome gets the truest one there is.
    pub(super) fn end_all(&mut self, wake: &mut Vec<Waker>) {
        self.by_call.clear();
        for entry in self.entries.iter_mut().filter(|entry| entry.call.is_some()) {
            entry.outcome = Some(match entry.outcome.take() {
                None | Some(RawOutcome::Unknown(_, true)) => {
                    RawOutcome::Unknown(Unknown::Closed, false)
                }
                Some(RawOutcome::NotExecuted(NotExecuted::Cancelled)) => {
                    RawOutcome::NotExecuted(NotExecuted::Closed)
                }
                Some(outcome) => outcome,
            });
            wake.extend(entry.waker.take());
        }
        self.ready = self.entries.iter().filter(|entry| entry.outcome.is_some()).count();
    }
}
