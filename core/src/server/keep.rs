//! Room for replies, and their discard (S9, S11).

use super::parts::{PartialBody, SlotState};
use super::{Server, Slot};
use crate::error::ProtocolError;
use crate::outcome::{NoReply, Status};
use crate::storage::{Body, Lazy, Places, ServerStorage};
use crate::wire::Ack;

impl<T: ServerStorage> Server<T> {
    /// S11: sets `bytes` aside for a call; false if there is no room.
    pub(super) fn reserve(&mut self, index: u32, slot_number: u32, bytes: u32) -> bool {
        let Some(session) = self.sessions.at_mut(index) else { return false };
        let Some(share) = self.shares.at_mut(session.share) else { return false };
        let Some(calls) = session.calls.get() else { return false };
        let wanted = u64::from(bytes);
        let fits = calls.kept_bytes + wanted <= self.config.kept_per_session_max
            && share.kept_bytes + wanted <= self.config.kept_per_principal_max
            && self.counters.kept_bytes + wanted <= self.config.kept_max;
        if fits {
            self.count(index, slot_number, bytes);
        }
        fits
    }

    /// Sets `bytes` aside for a restored call, even where there is no room.
    pub(super) fn count(&mut self, index: u32, slot_number: u32, bytes: u32) {
        let Some(session) = self.sessions.at_mut(index) else { return };
        let Some(share) = self.shares.at_mut(session.share) else { return };
        let Some(calls) = session.calls.get_mut() else { return };
        let Some(slot) = calls.slots.at_mut(slot_number) else { return };
        slot.bytes = bytes;
        calls.kept_bytes += u64::from(bytes);
        share.kept_bytes += u64::from(bytes);
        self.counters.kept_bytes += u64::from(bytes);
    }

    /// Counts only `bytes` for a slot from now on, which is no more than was counted.
    pub(super) fn shrink(&mut self, index: u32, slot_number: u32, bytes: u32) {
        let Some(session) = self.sessions.at_mut(index) else { return };
        let Some(share) = self.shares.at_mut(session.share) else { return };
        let Some(calls) = session.calls.get_mut() else { return };
        let Some(slot) = calls.slots.at_mut(slot_number) else { return };
        let freed = u64::from(slot.bytes.saturating_sub(bytes));
        slot.bytes -= freed as u32;
        calls.kept_bytes -= freed;
        share.kept_bytes -= freed;
        self.counters.kept_bytes -= freed;
    }

    /// S9: brings X up to `acked` and discards what it covers.
    ///
    /// # Errors
    /// If it covers a call that runs; nothing is changed then (S10).
    pub(super) fn acknowledge(&mut self, index: u32, acked: u64) -> Result<(), ProtocolError> {
        let Some(session) = self.sessions.at_mut(index) else { return Ok(()) };
        if acked <= session.acked {
            return Ok(());
        }
        if let Some(calls) = session.calls.get() {
            let mut next = calls.held.front();
            while let Some(slot) = next.and_then(|number| calls.slots.at(number)) {
                if slot.xid > acked {
                    break;
                }
                if slot.state.is_running() {
                    return Err(ProtocolError::AckAhead { acked });
                }
                next = next.and_then(|number| calls.held.next(&calls.slots, number));
            }
        }
        session.acked = acked;
        while let Some(number) = self.first_held_up_to(index, acked) {
            self.discard(index, number);
        }
        Ok(())
    }

    fn first_held_up_to(&self, index: u32, acked: u64) -> Option<u32> {
        let calls = self.sessions.at(index)?.calls.get()?;
        let number = calls.held.front()?;
        (calls.slots.at(number)?.xid <= acked).then_some(number)
    }

    /// S10: an `Ack` must not cover a slot whose call runs.
    pub(super) fn check_settled(&self, index: u32, ack: &Ack) -> Result<(), ProtocolError> {
        let Some(calls) = self.sessions.at(index).and_then(|session| session.calls.get()) else {
            return Ok(());
        };
        let runs = |number: u32| calls.slots.at(number).is_some_and(|slot| slot.state.is_running());
        if settled_slots(ack).any(runs) {
            return Err(ProtocolError::AckAhead { acked: ack.acked });
        }
        Ok(())
    }

    /// S9: discards what stands on the slots whose bits are set.
    pub(super) fn discard_settled(&mut self, index: u32, ack: &Ack) {
        for number in settled_slots(ack) {
            self.discard(index, number);
        }
    }

    /// Forgets what is kept on a slot; its xid stays. Nothing happens if nothing is kept.
    pub(super) fn discard(&mut self, index: u32, slot_number: u32) {
        self.shrink_if_kept(index, slot_number);
        let Some(session) = self.sessions.at_mut(index) else { return };
        let conn = self.conns.at_mut(session.conn);
        let Some(calls) = session.calls.get_mut() else { return };
        let Some(slot) = calls.slots.at_mut(slot_number) else { return };
        if !matches!(slot.state, SlotState::Kept(_)) {
            return;
        }
        slot.state = SlotState::Discarded;
        // A frame that has begun to leave is finished, whatever becomes of its slot.
        if let Some(partial) = conn.and_then(|conn| conn.partial.as_mut())
            && matches!(partial.body, PartialBody::Slot(number) if number == slot_number)
        {
            partial.body = PartialBody::Moved(core::mem::take(&mut slot.body));
        } else {
            slot.body.clear();
        }
        calls.held.unlink(&mut calls.slots, slot_number);
        calls.out.unlink(&mut calls.slots, slot_number);
        self.held -= 1;
    }

    fn shrink_if_kept(&mut self, index: u32, slot_number: u32) {
        let Some(calls) = self.sessions.at(index).and_then(|session| session.calls.get()) else {
            return;
        };
        if calls.slots.at(slot_number).is_some_and(|s| matches!(s.state, SlotState::Kept(_))) {
            self.shrink(index, slot_number, 0);
        }
    }

    /// Puts a slot among those with something to send, if its session has a connection and the slot's request or
    /// `Ask` came on it (S4).
    pub(super) fn queue(&mut self, index: u32, slot_number: u32) {
        let Some(session) = self.sessions.at_mut(index) else { return };
        let (conn, epoch) = (session.conn, session.epoch);
        let Some(calls) = session.calls.get_mut() else { return };
        let due = calls
            .slots
            .at(slot_number)
            .is_some_and(|slot| slot.not_seen != 0 || slot.epoch == epoch);
        if due && self.conns.at(conn).is_some() {
            calls.out.push_back(&mut calls.slots, slot_number);
            self.wake(conn);
        }
    }

    /// The connection is gone: nothing is to be sent on it. What is kept stays until it is asked for (S4).
    pub(super) fn drop_routes(&mut self, index: u32) {
        while let Some(number) = self.pop_out(index) {
            self.forget_idempotent(index, number);
            if let Some(slot) = self.slot_mut(index, number) {
                slot.not_seen = 0;
            }
        }
    }

    /// The next slot with something to send.
    pub(super) fn pop_out(&mut self, index: u32) -> Option<u32> {
        let calls = self.sessions.at_mut(index)?.calls.get_mut()?;
        calls.out.pop_front(&mut calls.slots)
    }

    /// S22: no body is kept for an idempotent call; only that it is done.
    ///
    /// On a lossy link it is kept (S27): there the repetition comes while the first reply may be under way, and if it
    /// ran, the client's X could cover it.
    pub(super) fn forget_idempotent(&mut self, index: u32, slot_number: u32) {
        if self.config.lossy {
            return;
        }
        let Some(slot) = self.slot_mut(index, slot_number) else { return };
        if slot.idempotent && slot.state == SlotState::Kept(Status::Done) {
            slot.state = SlotState::Kept(Status::NoReply(NoReply::NotKept));
            slot.body.clear();
            self.shrink(index, slot_number, 0);
        }
    }

    pub(super) fn slot_mut(&mut self, index: u32, slot_number: u32) -> Option<&mut Slot<T::Body>> {
        self.sessions.at_mut(index)?.calls.get_mut()?.slots.at_mut(slot_number)
    }
}

/// The slots whose bits are set in an `Ack`.
fn settled_slots(ack: &Ack) -> impl Iterator<Item = u32> + use<> {
    let (base, settled) = (ack.base, ack.settled);
    (0..64)
        .filter(move |bit| settled & (1 << bit) != 0)
        .filter_map(move |bit| base.checked_add(bit))
}
