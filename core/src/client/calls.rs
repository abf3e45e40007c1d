//! The table of a client's calls: which wait, which are unsettled, which slot is whose, and what is acknowledged.

mod settle;

use super::Call;
use super::call::{CallEntry, CallState, Calls, Cancel, EVENT, InFlight, QUEUE, TODO};
use super::recovery::{self, SessionLost};
use super::timers::{NextDue, Timers};
use crate::ids::{CallId, Xid, slot_of, steps_to_slot};
use crate::outcome::NotExecuted;
use crate::storage::list::{List, NIL};
use crate::storage::{Array, Body, ClientStorage, FreeSlots, Places, Table};
use crate::time::{Instant, Timer};
use crate::wire::REQUEST_HEADER_LEN;

/// The index of the call that occupies a slot; `NIL` where the slot is free.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(crate) struct CallIndex(u32);

impl Default for CallIndex {
    fn default() -> Self {
        CallIndex(NIL)
    }
}

impl CallIndex {
    pub(crate) fn is_free(&self) -> bool {
        self.0 == NIL
    }
}

/// The calls by slot.
type SlotMap<S> = <S as ClientStorage>::SlotMap<CallIndex>;

/// All calls of a client.
///
/// Invariants: `queue` has the unsettled calls, in the order of their xids, and behind them those that wait, in the order in
/// which they get theirs; `slots` has exactly the calls whose state has an xid; at most one leaves, and that is the one in
/// `partial`.
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(super) struct CallTable<S: ClientStorage> {
    pub(super) calls: Calls<S>,
    pub(super) slots: SlotMap<S>,
    pub(super) free_slots: S::FreeSlots,
    pub(super) queue: List<QUEUE>,
    /// The calls whose methods must be compared with the server's first, in the order in which they began. None without a connection.
    pub(super) held: List<QUEUE>,
    pub(super) unsettled_len: usize,
    pub(super) first_waiting: Option<u32>,
    pub(super) todo: List<TODO>,
    pub(super) events: List<EVENT>,
    timers: Timers<S>,
    /// Memory of a call that was released, for the next one: so lone calls need none.
    spare: S::Body,
    /// Bytes of all bodies kept.
    bytes: usize,
    /// The highest xid given; 0 before the first.
    pub(super) last_xid: u64,
    /// The highest xid settled.
    pub(super) settled_high: u64,
    /// The highest xid that may be sent to the server, as `acked` too: an owner with a journal has journaled all up to it.
    pub(super) journaled_up_to: u64,
    /// The first call that has its xid and waits for its record.
    pub(super) first_unjournaled: Option<u32>,
    /// The slots that this session may use.
    pub(super) granted: u32,
    /// No higher xid can be given.
    exhausted: bool,
    /// The next unsettled call to be sent again or asked for after a resume.
    pub(super) resume_at: Option<u32>,
    /// The request that is leaving.
    pub(super) partial: Option<PartialRequest>,
    /// Whether the calls' owner settles them.
    durable: bool,
}

/// A request of which not all fitted into the output.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) struct PartialRequest {
    pub(super) index: u32,
    pub(super) header: [u8; REQUEST_HEADER_LEN],
    /// Bytes of header and body that have left.
    pub(super) at: usize,
}

impl<S: ClientStorage> CallTable<S> {
    pub(super) fn new(durable: bool, xid_before_first: u64) -> CallTable<S> {
        CallTable {
            calls: Calls::<S>::default(),
            slots: SlotMap::<S>::default(),
            free_slots: S::FreeSlots::default(),
            queue: List::default(),
            held: List::default(),
            unsettled_len: 0,
            first_waiting: None,
            todo: List::default(),
            events: List::default(),
            timers: Timers::default(),
            spare: S::Body::default(),
            bytes: 0,
            last_xid: xid_before_first,
            settled_high: 0,
            journaled_up_to: xid_before_first,
            first_unjournaled: None,
            granted: 0,
            exhausted: false,
            resume_at: None,
            partial: None,
            durable,
        }
    }

    /// The most slots that the storage can serve.
    pub(super) const SLOTS_MAX: usize = SlotMap::<S>::CAPACITY;

    pub(super) fn pending(&self) -> usize {
        self.calls.len()
    }

    pub(super) fn pending_bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn unsettled_len(&self) -> usize {
        self.unsettled_len
    }

    pub(super) fn nothing_unsettled(&self) -> bool {
        self.unsettled_len == 0
    }

    pub(super) fn nothing_waits(&self) -> bool {
        self.first_waiting.is_none() && self.held.is_empty()
    }

    /// Whether no call has anything to send now.
    #[inline(always)]
    pub(super) fn has_nothing_to_send(&self) -> bool {
        self.first_waiting.is_none() && self.only_waits()
    }

    /// The same but for calls that wait.
    #[inline(always)]
    pub(super) fn only_waits(&self) -> bool {
        self.todo.is_empty() && self.resume_at.is_none() && self.partial.is_none()
    }

    /// Whether nothing is pending; events not yet polled count as ended.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.held.is_empty()
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// No call's timer is due before this.
    pub(super) fn earliest_timer(&self) -> Timer {
        if self.is_idle() { Timer::OFF } else { self.timers.earliest() }
    }

    pub(super) fn next_due(&mut self, now: Instant, steps: &mut u32) -> NextDue {
        self.timers.next_due(now, &self.calls, steps)
    }

    pub(super) fn rearm(&mut self, index: u32) {
        if let Some(entry) = self.calls.live(index) {
            self.timers.set(index, entry.timer());
        }
    }

    /// Everything at or below this xid is settled (S9). Numbers between settled ones were never used.
    ///
    /// Nor does it pass what is journaled: an owner that is restored from its journal would use those numbers (S8).
    #[inline]
    pub(super) fn acked(&self) -> u64 {
        debug_assert!(self.journaled_up_to <= self.last_xid && self.settled_high <= self.last_xid);
        match self.queue.front().and_then(|index| self.calls.live(index)?.state.xid()) {
            Some(lowest) => (lowest.get() - 1).min(self.journaled_up_to),
            None => self.journaled_up_to,
        }
    }

    /// The same for the request of a call, whose xid the table may not have noted yet.
    #[inline]
    pub(super) fn acked_with(&self, index: u32, xid: Xid) -> u64 {
        if self.queue.front() == Some(index) {
            return (xid.get() - 1).min(self.journaled_up_to);
        }
        self.acked()
    }

    /// Whether something above `acked` is settled.
    #[inline]
    pub(super) fn settled_above(&self, acked: u64) -> bool {
        self.settled_high > acked
    }

    /// Puts a new call at the end of those that wait; `None` when there is no room, or if its metadata are behind a length.
    #[cold]
    pub(super) fn admit_any(&mut self, call: Call<'_>, deadline: Instant) -> Option<CallId> {
        if call.with_len && call.metadata {
            return None;
        }
        match call.with_len {
            true => self.admit::<true>(call, deadline),
            false => self.admit::<false>(call, deadline),
        }
    }

    /// The same of one that was checked, where it is known whether its length precedes its body.
    #[inline]
    pub(super) fn admit<const WITH_LEN: bool>(
        &mut self,
        call: Call<'_>,
        deadline: Instant,
    ) -> Option<CallId> {
        let make = || CallEntry::new(&call, S::Body::default(), deadline);
        let (key, entry) = self.calls.insert_with(make)?;
        let len = call.len::<WITH_LEN>();
        let stored = match WITH_LEN {
            true => entry.body.store_with_len(call.body),
            false => entry.body.store_in(call.body, &mut self.spare),
        };
        if !stored {
            self.calls.free(key.index);
            return None;
        }
        self.bytes += len;
        entry.put_behind(self.queue.links_at_end());
        self.queue.append(&mut self.calls, key.index, |_: &CallEntry<S::Body>| true);
        self.first_waiting.get_or_insert(key.index);
        self.timers.set(key.index, Timer::at(deadline));
        Some(CallId(key))
    }

    /// Gives the first waiting call its xid, on the lowest free slot (S8): it is unsettled from now on, and the caller says in
    /// which state. `behind` is the call behind it. `None` if no slot is free, or if the session has run out of numbers.
    #[inline(always)]
    pub(super) fn assign_xid(&mut self, index: u32, behind: Option<u32>) -> Option<Xid> {
        if self.exhausted {
            return None;
        }
        let slot = self.lowest_free_slot()?;
        // The smallest number above all others that falls on the slot.
        let next = self.last_xid.checked_add(1)?;
        let ahead = steps_to_slot(next, slot, self.granted);
        let Some(xid) = next.checked_add(ahead).and_then(Xid::new) else {
            self.exhausted = true;
            return None;
        };
        debug_assert_eq!(self.slot_of(xid), slot);
        self.last_xid = xid.get();
        if self.durable {
            self.first_unjournaled.get_or_insert(index);
        } else {
            self.journaled_up_to = xid.get();
        }
        self.occupy_slot(index, slot, behind)?;
        Some(xid)
    }

    /// The first call that waits is unsettled from now on, and has the highest xid.
    #[inline(always)]
    pub(super) fn occupy_slot(&mut self, index: u32, slot: u32, behind: Option<u32>) -> Option<()> {
        debug_assert_eq!(self.first_waiting, Some(index));
        debug_assert_eq!(self.queue.next(&self.calls, index), behind);
        let place = match self.slots.at_mut(slot) {
            Some(place) => place,
            None => self.slots.at_or_grow(slot)?,
        };
        debug_assert!(place.is_free(), "a slot has one call");
        *place = CallIndex(index);
        self.free_slots.note_taken(slot);
        self.first_waiting = behind;
        self.unsettled_len += 1;
        Some(())
    }

    #[inline]
    fn lowest_free_slot(&self) -> Option<u32> {
        let slot = self.free_slots.first_from(0, &self.slots, CallIndex::is_free);
        (slot < self.granted).then_some(slot)
    }

    pub(super) fn slot_of(&self, xid: Xid) -> u32 {
        slot_of(xid.get(), self.granted)
    }

    /// The call that occupies `xid`'s slot under that very number.
    #[inline]
    pub(super) fn find(&mut self, xid: Xid) -> Option<(u32, &mut CallEntry<S::Body>)> {
        let index = self.slots.at(self.slot_of(xid))?.0;
        let entry = self.calls.at_mut(index)?;
        (entry.state.xid() == Some(xid)).then_some((index, entry))
    }

    pub(super) fn was_given(&self, xid: Xid) -> bool {
        // What is not journaled yet was not sent, and cannot be answered.
        xid.get() <= self.journaled_up_to
    }

    /// The slots from `base` on everything of which is settled, as the bits of an `Ack`, and its base: at or above this
    /// one. `None` behind the last one.
    pub(super) fn settled_bits(&self, base: u32) -> Option<(u32, u64)> {
        let first = self.free_slots.first_from(base, &self.slots, CallIndex::is_free);
        let base = first / 64 * 64;
        if base >= self.slots.len() as u32 {
            return None;
        }
        let free = |at: &u32| self.slots.at(base + at).is_some_and(CallIndex::is_free);
        Some((base, (0..64).filter(free).fold(0, |bits, at| bits | 1 << at)))
    }

    /// The request that was leaving has left, or never will.
    pub(super) fn transmit_finished(&mut self) {
        let Some(PartialRequest { index, .. }) = self.partial.take() else { return };
        if let Some(entry) = self.calls.live_mut(index)
            && let CallState::Leaving { xid } = entry.state
        {
            entry.state = CallState::Over;
            self.free_slot(index, self.slot_of(xid));
            self.release(index);
        }
    }

    /// An unsettled call has something to send.
    pub(super) fn note_todo(&mut self, index: u32) {
        debug_assert!(self.calls.live(index).is_some_and(|entry| entry.state.has_todo()));
        self.todo.push_back(&mut self.calls, index);
    }

    /// The resume has sent something of a call: if it was cancelled, a `Cancel` follows.
    pub(super) fn cancel_again(&mut self, index: u32) {
        if self.calls.live(index).is_some_and(|entry| entry.state.has_todo()) {
            self.note_todo(index);
        }
    }

    pub(super) fn note_cancel_sent(&mut self, index: u32) {
        if let Some(entry) = self.calls.live_mut(index)
            && let CallState::InFlight(InFlight { abandoned: Some(abandoned), .. }) =
                &mut entry.state
        {
            abandoned.cancel = Cancel::Sent;
        }
    }

    pub(super) fn first_to_do(&self) -> Option<u32> {
        self.todo.front()
    }

    pub(super) fn done(&mut self, index: u32) {
        self.todo.unlink(&mut self.calls, index);
    }

    /// Begins the round of S21 after a resume.
    pub(super) fn start_resume(&mut self) {
        self.resume_at = self.unsettled_after(None);
    }

    pub(super) fn advance_resume(&mut self) {
        self.resume_at = self.resume_at.and_then(|index| self.unsettled_after(Some(index)));
    }

    /// The connection is gone: nothing is left to send on it, and what it carried is in doubt.
    pub(super) fn break_connection(&mut self) {
        self.resume_at = None;
        while self.todo.pop_front(&mut self.calls).is_some() {}
        self.release_all_held();
        self.transmit_finished();
        let mut next = self.unsettled_after(None);
        while let Some(index) = next {
            next = self.unsettled_after(Some(index));
            if let Some(entry) = self.calls.live_mut(index)
                && let CallState::InFlight(sent) = &mut entry.state
            {
                sent.note_disconnected();
                entry.may_have_run = true;
            }
        }
        debug_assert!(self.is_consistent());
    }

    /// S3: the session is over. Calls that are repeated wait again, before those that wait already.
    pub(super) fn session_lost(&mut self) {
        debug_assert!(self.partial.is_none(), "the connection is gone");
        self.first_unjournaled = None;
        let mut next = self.unsettled_after(None);
        while let Some(index) = next {
            next = self.unsettled_after(Some(index));
            let Some(entry) = self.calls.live_mut(index) else { break };
            match recovery::session_lost(entry.known()) {
                SessionLost::Repeat => {
                    let xid = entry.state.xid();
                    entry.state = CallState::Waiting;
                    self.unsettled_len -= 1;
                    if let Some(xid) = xid {
                        self.free_slot(index, self.slot_of(xid));
                    }
                }
                SessionLost::Settle(outcome) => self.settle_at_once(index, outcome),
                SessionLost::KeepOutcome => self.settle_answered(index),
            }
        }
        self.first_waiting = self.queue.front();
        debug_assert!(self.nothing_unsettled() && self.is_consistent());
    }

    /// Whether the queue, the slots and the states go together. Looks at every call.
    fn is_consistent(&self) -> bool {
        let (mut last, mut unsettled) = (None, 0);
        let mut next = self.unsettled_after(None);
        while let Some(index) = next {
            next = self.unsettled_after(Some(index));
            let Some(xid) = self.calls.live(index).and_then(|entry| entry.state.xid()) else {
                return false;
            };
            let holder = self.slots.live(self.slot_of(xid)).map(|call| call.0);
            if last >= Some(xid) || holder != Some(index) {
                return false;
            }
            (last, unsettled) = (Some(xid), unsettled + 1);
        }
        let waits = |index| self.calls.live(index).map(|entry| entry.state);
        unsettled == self.unsettled_len
            && self.first_waiting.is_none_or(|index| waits(index) == Some(CallState::Waiting))
    }

    /// Ends everything that waits, as not executed.
    pub(super) fn end_waiting(&mut self, why: NotExecuted) {
        while let Some(index) = self.first_waiting {
            let Some(entry) = self.calls.live(index) else { return };
            let outcome = recovery::not_executed(entry.known(), why);
            self.end(index, outcome);
        }
    }

    /// Numbers start again; the grant is set by the next `Welcome`. Nothing may be unsettled.
    pub(super) fn start_session(&mut self, xid_before_first: u64) {
        debug_assert!(self.nothing_unsettled() && self.partial.is_none());
        self.last_xid = xid_before_first;
        self.journaled_up_to = xid_before_first;
        self.first_unjournaled = None;
        self.settled_high = 0;
        self.exhausted = false;
        debug_assert!(self.slots.iter().all(CallIndex::is_free));
    }

    pub(super) fn grant(&mut self, slots: u32) {
        self.granted = slots;
    }

    /// The unsettled call after `after`, in xid order; the first one after `None`.
    pub(super) fn unsettled_after(&self, after: Option<u32>) -> Option<u32> {
        self.call_after(after).filter(|index| Some(*index) != self.first_waiting)
    }

    /// The same, and behind the unsettled calls those that wait.
    pub(super) fn call_after(&self, after: Option<u32>) -> Option<u32> {
        after.map_or(self.queue.front(), |index| self.queue.next(&self.calls, index))
    }
}
