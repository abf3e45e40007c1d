//! How a call leaves the table: settled, ended while it waited, reported; and when its slot and its entry are free again.

use super::{CallIndex, CallTable};
use crate::client::call::{CallEvent, CallState, Caller, InFlight, KnownCall};
use crate::ids::{CallId, Xid};
use crate::outcome::{Outcome, Unknown};
use crate::storage::{Body, ClientStorage, FreeSlots, Places, Table};

impl<S: ClientStorage> CallTable<S> {
    /// Whether a call's owner settles it, once it has an outcome: not if it has forgotten it.
    pub(in crate::client) fn owner_settles(&self, caller: Caller) -> bool {
        self.durable && caller != Caller::Gone
    }

    /// S9: takes the answer of a call that waits for nothing else, as nearly every call does: its caller waits for the outcome,
    /// and beside that only the queue and its slot know of it. So it is looked up once, and its place is free at once. `None`,
    /// and nothing done, if it is another one, or if `is_settled` says that it is not settled by it.
    #[inline(always)]
    pub(in crate::client) fn settle_plain(
        &mut self,
        xid: Xid,
        is_settled: impl FnOnce(KnownCall) -> bool,
    ) -> Option<CallId> {
        if self.durable || self.partial.is_some() || self.resume_at.is_some() {
            return None;
        }
        let slot = self.slot_of(xid);
        let index = self.slots.at(slot)?.0;
        let mut place = self.calls.occupied(index)?;
        let key = place.key();
        let entry = place.get_mut()?;
        let CallState::InFlight(InFlight { xid: own, .. }) = entry.state else { return None };
        let is_plain = own == xid && entry.caller == Caller::Waiting && !entry.is_on_todo();
        if !is_plain || !is_settled(entry.known()) {
            return None;
        }
        debug_assert!(entry.event.is_none(), "nothing was reported of it");
        debug_assert!(self.first_unjournaled.is_none(), "that is of durable calls");
        let neighbours = entry.neighbours();
        self.bytes -= entry.body.len();
        entry.body.leave_in(&mut self.spare);
        place.free();
        self.queue.join(&mut self.calls, neighbours.prev, neighbours.next);
        self.settled_high = self.settled_high.max(xid.get());
        self.unsettled_len -= 1;
        self.free_slot(index, slot);
        Some(CallId(key))
    }

    /// S9: takes an unsettled call's answer. Returns its id if its caller waits for the outcome.
    #[inline]
    pub(in crate::client) fn settle(&mut self, index: u32) -> Option<CallId> {
        self.settle_reporting(index, |_, _| None)
    }

    /// Settles a call whose outcome no received data brings; false if that is its owner's to do.
    pub(in crate::client) fn settle_with(&mut self, index: u32, outcome: Outcome<'static>) -> bool {
        let caller = self.calls.live(index).map_or(Caller::Gone, |entry| entry.caller);
        if self.owner_settles(caller) {
            self.answer_durable(index);
            self.push_event(index, outcome);
            return false;
        }
        self.settle_at_once(index, outcome);
        true
    }

    pub(super) fn settle_at_once(&mut self, index: u32, outcome: Outcome<'static>) {
        self.settle_reporting(index, |has_caller, _| has_caller.then_some(outcome));
    }

    /// Settles a durable call that has its outcome; if that was not polled yet, it still comes.
    pub(super) fn settle_answered(&mut self, index: u32) {
        self.settle_reporting(index, |_, unpolled| unpolled);
    }

    /// Settles an unsettled call. What is reported of it is decided by whether a caller waits, and by what was to be reported
    /// and was not polled. Returns its id if a caller waits.
    fn settle_reporting(
        &mut self,
        index: u32,
        report: impl FnOnce(bool, Option<Outcome<'static>>) -> Option<Outcome<'static>>,
    ) -> Option<CallId> {
        let (key, entry) = self.calls.keyed_mut(index)?;
        let Some(xid) = entry.state.xid() else {
            debug_assert!(false, "only an unsettled call is settled: {:?}", entry.state);
            return None;
        };
        debug_assert!(self.unsettled_len > 0 && !matches!(entry.state, CallState::Leaving { .. }));
        let has_caller = entry.take_caller();
        let neighbours = entry.neighbours();
        let (was_on_todo, was_on_events) = (entry.is_on_todo(), entry.event.is_some());
        entry.event = report(has_caller, entry.event.take());
        let is_on_events = entry.event.is_some();
        let is_leaving = self.partial.is_some_and(|partial| partial.index == index);
        let is_done = !is_leaving && !is_on_events;
        entry.state = if is_leaving { CallState::Leaving { xid } } else { CallState::Over };
        if is_done {
            self.bytes -= entry.body.len();
            entry.body.leave_in(&mut self.spare);
        }
        self.settled_high = self.settled_high.max(xid.get());
        if self.resume_at == Some(index) {
            self.advance_resume();
        }
        if self.first_unjournaled == Some(index) {
            self.first_unjournaled = self.unsettled_after(Some(index));
        }
        if is_done {
            // Its links go with it.
            self.queue.join(&mut self.calls, neighbours.prev, neighbours.next);
        } else {
            self.queue.unlink(&mut self.calls, index);
        }
        self.unsettled_len -= 1;
        if was_on_todo {
            self.todo.unlink(&mut self.calls, index);
        }
        if was_on_events {
            self.events.unlink(&mut self.calls, index);
        }
        if is_on_events {
            if let Some(entry) = self.calls.live_mut(index) {
                entry.event_xid = Some(xid);
            }
            self.events.push_back(&mut self.calls, index);
        }
        if !is_leaving {
            self.free_slot(index, self.slot_of(xid));
        }
        if is_done {
            self.calls.free(index);
        }
        has_caller.then_some(CallId(key))
    }

    /// Ends a call that waits, or is held.
    pub(in crate::client) fn end(&mut self, index: u32, outcome: Outcome<'static>) {
        let Some(entry) = self.calls.live_mut(index) else { return };
        debug_assert!(matches!(entry.state, CallState::Waiting | CallState::Held));
        let is_held = entry.state == CallState::Held;
        entry.state = CallState::Over;
        let has_caller = entry.take_caller();
        if is_held {
            self.held.unlink(&mut self.calls, index);
        } else {
            self.leave_queue(index);
        }
        if has_caller {
            self.push_event(index, outcome);
        }
        self.release(index);
    }

    /// Takes a call that waits off the queue.
    pub(in crate::client) fn leave_queue(&mut self, index: u32) {
        if self.first_waiting == Some(index) {
            self.first_waiting = self.queue.next(&self.calls, index);
        }
        self.queue.unlink(&mut self.calls, index);
    }

    /// Reports that an unsettled call's outcome is unknown for now; its id stays valid as a ticket.
    pub(in crate::client) fn report_unknown(&mut self, index: u32, why: Unknown) {
        let Some(entry) = self.calls.live_mut(index) else { return };
        if entry.caller == Caller::Waiting {
            entry.caller = Caller::HoldsTicket;
            self.push_event(index, Outcome::Unknown { why, ticket: true });
        }
    }

    pub(super) fn push_event(&mut self, index: u32, outcome: Outcome<'static>) {
        if let Some(entry) = self.calls.live_mut(index) {
            debug_assert!(entry.event.is_none(), "the earlier one was taken off");
            entry.event = Some(outcome);
            entry.event_xid = entry.state.xid();
        }
        self.events.push_back(&mut self.calls, index);
    }

    /// Forgets an event that was not polled, and the call with it if it is over.
    pub(in crate::client) fn drop_event(&mut self, index: u32) {
        self.events.unlink(&mut self.calls, index);
        if let Some(entry) = self.calls.live_mut(index) {
            entry.event = None;
            entry.event_xid = None;
        }
        self.release(index);
    }

    #[inline]
    pub(in crate::client) fn poll_event(&mut self) -> Option<(CallId, CallEvent)> {
        let index = self.events.pop_front(&mut self.calls)?;
        let (key, entry) = self.calls.keyed_mut(index)?;
        let xid = entry.event_xid.take();
        let outcome = entry.event.take();
        debug_assert!(outcome.is_some(), "it was on the list");
        self.release(index);
        Some((CallId(key), CallEvent { outcome: outcome?, xid }))
    }

    /// Frees the place of a call that is over and has no event.
    #[inline]
    pub(super) fn release(&mut self, index: u32) {
        if let Some(entry) = self.calls.live_mut(index)
            && matches!(entry.state, CallState::Over)
            && entry.event.is_none()
        {
            self.bytes -= entry.body.len();
            entry.body.leave_in(&mut self.spare);
            self.calls.free(index);
        }
    }

    /// A call does not occupy its slot any more.
    #[inline(always)]
    pub(super) fn free_slot(&mut self, index: u32, slot: u32) {
        let place = self.slots.live_mut(slot);
        debug_assert!(place.as_ref().is_some_and(|call| call.0 == index), "the slot is another's");
        if let Some(call) = place {
            *call = CallIndex::default();
        }
        self.free_slots.note_freed(slot);
    }
}
