//! How a call leaves the table: settled, ended while it waited, reported; and when its slot and its entry are free again.

use super::{CallIndex, CallTable};
use crate::client::call::{CallState, Caller};
use crate::ids::{CallId, Xid};
use crate::outcome::{Outcome, Unknown};
use crate::storage::{Body, ClientStorage, FreeSlots, Places, Table};

impl<S: ClientStorage> CallTable<S> {
    /// S9: takes an unsettled call's answer. Returns its id if its caller waits for the outcome.
    pub(in crate::client) fn settle(&mut self, index: u32) -> Option<CallId> {
        let key = self.calls.key_at(index)?;
        let has_caller = self.unlink_settled(index)?;
        self.release(index);
        has_caller.then_some(CallId(key))
    }

    /// Settles a call whose outcome no received data brings; false if that is its owner's to do.
    pub(in crate::client) fn settle_with(&mut self, index: u32, outcome: Outcome<'static>) -> bool {
        let durable = self.calls.at(index).is_some_and(|entry| entry.durable);
        if !durable {
            self.settle_at_once(index, outcome);
        } else if self.answer_durable(index).is_some() {
            self.push_event(index, outcome);
        }
        !durable
    }

    pub(super) fn settle_at_once(&mut self, index: u32, outcome: Outcome<'static>) {
        if self.unlink_settled(index) == Some(true) {
            self.push_event(index, outcome);
        }
        self.release(index);
    }

    /// Takes an unsettled call off the lists, and forgets an event of it that was not polled; says whether a
    /// caller waits. `None` if it was not unsettled.
    #[inline]
    pub(super) fn unlink_settled(&mut self, index: u32) -> Option<bool> {
        let entry = self.calls.at_mut(index)?;
        if !entry.is_unsettled() {
            return None;
        }
        entry.state = CallState::Settled;
        entry.event = None;
        let listened = entry.take_caller();
        let xid = entry.xid.map_or(0, Xid::get);
        let (has_todo, has_event) = (entry.is_on_todo(), entry.is_on_events());
        self.settled_high = self.settled_high.max(xid);
        if self.resume_at == Some(index) {
            self.advance_resume();
        }
        if self.first_unjournaled == Some(index) {
            self.first_unjournaled = self.unsettled.next(&self.calls, index);
        }
        self.unsettled.unlink(&mut self.calls, index);
        self.unsettled_len -= 1;
        if has_todo {
            self.todo.unlink(&mut self.calls, index);
        }
        if has_event {
            self.events.unlink(&mut self.calls, index);
        }
        Some(listened)
    }

    /// Ends a call that waits.
    pub(in crate::client) fn end(&mut self, index: u32, outcome: Outcome<'static>) {
        let Some(entry) = self.calls.at_mut(index) else { return };
        entry.state = CallState::Settled;
        let listened = entry.take_caller();
        self.waiting.unlink(&mut self.calls, index);
        if listened {
            self.push_event(index, outcome);
        }
        self.release(index);
    }

    /// Reports that an unsettled call's outcome is unknown for now; its id stays valid as a ticket.
    pub(in crate::client) fn report_unknown(&mut self, index: u32, why: Unknown) {
        let Some(entry) = self.calls.at_mut(index) else { return };
        if entry.caller == Caller::Waiting {
            entry.caller = Caller::HoldsTicket;
            self.push_event(index, Outcome::Unknown { why, ticket: true });
        }
    }

    pub(super) fn push_event(&mut self, index: u32, outcome: Outcome<'static>) {
        if let Some(entry) = self.calls.at_mut(index) {
            entry.event = Some(outcome);
        }
        self.events.push_back(&mut self.calls, index);
    }

    /// Forgets an event that was not polled, and the call with it if it is over.
    pub(in crate::client) fn drop_event(&mut self, index: u32) {
        self.events.unlink(&mut self.calls, index);
        let Some(entry) = self.calls.at_mut(index) else { return };
        entry.event = None;
        if entry.state == CallState::Settled {
            self.release(index);
        }
    }

    #[inline]
    pub(in crate::client) fn poll_event(&mut self) -> Option<(CallId, Outcome<'static>)> {
        let index = self.events.pop_front(&mut self.calls)?;
        let id = CallId(self.calls.key_at(index)?);
        let entry = self.calls.at_mut(index)?;
        let outcome = entry.event.take()?;
        if entry.state == CallState::Settled {
            self.release(index);
        }
        Some((id, outcome))
    }

    /// Frees a settled call's slot and then the call, each as soon as nothing needs it: the slot when its request has
    /// left, the call when its event was polled as well.
    #[inline]
    pub(super) fn release(&mut self, index: u32) {
        if self.in_transmit == Some(index) {
            return;
        }
        self.free_slot_of(index);
        if let Some(entry) = self.calls.at_mut(index).filter(|entry| entry.event.is_none()) {
            self.bytes -= entry.body.as_slice().len();
            entry.body.leave_in(&mut self.spare);
            self.calls.free(index);
        }
    }

    #[inline]
    pub(super) fn free_slot_of(&mut self, index: u32) {
        let Some(xid) = self.calls.at(index).and_then(|entry| entry.xid) else { return };
        let slot = self.slot_of(xid);
        if let Some(call) = self.slots.at_mut(slot)
            && call.0 == index
        {
            *call = CallIndex::default();
            self.free_slots.note_freed(slot);
        }
    }
}
