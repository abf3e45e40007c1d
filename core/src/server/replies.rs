//! Memory for calls and their replies, and their discard (S9, S11).

use super::conn::{PartialBody, PartialFrame, Woken};
use super::dedup::{self, AckEffect};
use super::session::Slots;
use super::slot::{SlotState, SlotView};
use super::{
    Calls, Conns, MethodSpec, PrincipalQuota, Server, ServerConfig, ServerCounters, Session, Slot,
};
use crate::budget::{self, Amounts};
use crate::error::ProtocolError;
use crate::ids::Key;
use crate::outcome::{NoReply, Status};
use crate::storage::list::{Links, NIL};
use crate::storage::{Array, Body, Places, ServerStorage, Table};
use crate::wire::Ack;

/// One session, and what the replies kept in it count against: on the path of a call each of them is looked up once.
pub(super) struct SessionView<'s, T: ServerStorage> {
    pub(super) key: Key,
    pub(super) session: &'s mut Session<T>,
    pub(super) quota: &'s mut PrincipalQuota,
    pub(super) counters: &'s mut ServerCounters,
    pub(super) config: &'s ServerConfig,
    held: &'s mut u64,
    pub(super) conns: &'s mut Conns<T>,
    woken: &'s mut Woken,
}

impl<T: ServerStorage> Server<T> {
    #[inline]
    pub(super) fn view(&mut self, index: u32) -> Option<SessionView<'_, T>> {
        let (key, session) = self.sessions.keyed_mut(index)?;
        let quota = self.quotas.live_mut(session.quota)?;
        Some(SessionView {
            key,
            session,
            quota,
            counters: &mut self.counters,
            config: &self.config,
            held: &mut self.held,
            conns: &mut self.conns,
            woken: &mut self.woken,
        })
    }
}

impl<T: ServerStorage> SessionView<'_, T> {
    #[inline]
    pub(super) fn slot(&self, slot_number: u32) -> Option<&Slot<T::Body>> {
        self.session.calls.as_deref()?.slots.at(slot_number)
    }

    #[inline]
    pub(super) fn slot_mut(&mut self, slot_number: u32) -> Option<&mut Slot<T::Body>> {
        self.session.calls.as_deref_mut()?.slots.at_mut(slot_number)
    }

    /// Makes a slot if it is not there. False if there is no memory for it: without any, a call on it cannot even be
    /// refused, since a refusal is kept.
    pub(super) fn make_slot(&mut self, slot_number: u32) -> bool {
        if self.slot(slot_number).is_some() {
            return true;
        }
        let growth = match self.session.calls.as_deref() {
            Some(calls) => calls.slots.growth(slot_number),
            None => Slots::<T>::default().growth(slot_number),
        };
        let fits = growth == 0 || self.fits_requests(growth);
        if fits {
            self.grow(slot_number);
        }
        fits
    }

    /// Makes a slot, and counts its memory, whether or not there is any left.
    #[cold]
    pub(super) fn grow(&mut self, slot_number: u32) {
        let calls = self.session.calls.get_or_insert_default();
        let growth = calls.slots.growth(slot_number);
        calls.table_bytes += growth;
        self.counters.table_bytes += u64::from(growth);
        self.quota.request_bytes += u64::from(growth);
        let slot = calls.slots.at_or_grow(slot_number);
        debug_assert!(slot.is_some(), "no more slots are granted than the storage has");
    }

    /// S16: nothing is kept and nothing can come that `acked` does not judge: the session goes back to a few words.
    pub(super) fn release_if_idle(&mut self) {
        let session = &mut *self.session;
        let calls = session.calls.as_deref().filter(|calls| calls.is_empty());
        let Some(calls) = calls.filter(|_| session.acked >= session.seen) else { return };
        debug_assert!(calls.running == 0 && calls.request_bytes == 0, "what runs is held");
        let bytes = u64::from(calls.table_bytes);
        self.counters.table_bytes -= bytes;
        self.quota.request_bytes -= bytes;
        session.calls = None;
    }

    /// Puts a new call on its slot, on which nothing is kept. It is held as one that is admitted, and that many bytes are set
    /// aside for its reply and its request (S11).
    #[inline(always)]
    pub(super) fn hold(
        &mut self,
        slot_number: u32,
        xid: u64,
        (reply, request): (u32, u32),
        fill: impl FnOnce(&mut Slot<T::Body>),
    ) {
        let session = &mut *self.session;
        session.seen = session.seen.max(xid);
        let Some(calls) = session.calls.as_deref_mut() else { return };
        let links = calls.held.insert(&mut calls.slots, slot_number, xid);
        let Some(slot) = calls.slots.live_mut(slot_number) else { return };
        debug_assert!(slot.state == SlotState::Discarded && slot.bytes == 0);
        debug_assert!(!slot.held_links.0.is_linked() && !slot.is_late.0);
        debug_assert!(slot.xid <= xid && slot.request_bytes == 0);
        slot.xid = xid;
        slot.state = SlotState::Admitted;
        (slot.bytes, slot.request_bytes) = (reply, request);
        slot.held_links.0 = links;
        fill(slot);
        if !links.is_linked() {
            calls.held.insert_late(&mut calls.slots, slot_number);
        }
        calls.running += 1;
        *self.held += 1;
        self.counters.running += 1;
        calls.count_set_aside(self.quota, self.counters, (reply, request));
    }

    /// Sets so many bytes aside for a call that was admitted without any.
    pub(super) fn reserve(&mut self, slot_number: u32, (reply, request): (u32, u32)) {
        let Some(calls) = self.session.calls.as_deref_mut() else { return };
        let Some(slot) = calls.slots.live_mut(slot_number) else { return };
        debug_assert!(slot.state == SlotState::Admitted);
        debug_assert!(slot.bytes == 0 && slot.request_bytes == 0, "nothing was set aside");
        (slot.bytes, slot.request_bytes) = (reply, request);
        calls.count_set_aside(self.quota, self.counters, (reply, request));
    }

    /// S11: bytes of the longest reply that a call of this method may give.
    #[inline]
    pub(super) fn reply_max(&self, method: &MethodSpec) -> u32 {
        method.reply_len_max.min(self.session.grants().reply_len_max)
    }

    /// S11: whether there is memory for a call's reply and its request.
    #[inline(always)]
    pub(super) fn fits(&self, reply: u32, request: u32) -> bool {
        self.fits_kept(reply) && self.fits_requests(request)
    }

    #[inline(always)]
    fn fits_kept(&self, bytes: u32) -> bool {
        let held = Amounts {
            session: self.session.calls.as_deref().map_or(0, |calls| calls.kept_bytes),
            principal: self.quota.kept_bytes,
            server: self.counters.kept_bytes,
        };
        let limits = Amounts {
            session: self.config.kept_per_session_max,
            principal: self.config.kept_per_principal_max,
            server: self.config.kept_max,
        };
        budget::has_room(held, limits, u64::from(bytes))
    }

    #[inline(always)]
    pub(super) fn fits_requests(&self, bytes: u32) -> bool {
        let held = Amounts {
            session: self.session.calls.as_deref().map_or(0, Calls::request_and_table_bytes),
            principal: self.quota.request_bytes,
            server: self.counters.request_bytes
                + self.counters.coming_bytes
                + self.counters.table_bytes,
        };
        let limits = Amounts {
            session: self.config.requests_per_session_max,
            principal: self.config.requests_per_principal_max,
            server: self.config.requests_max,
        };
        budget::has_room(held, limits, u64::from(bytes))
    }

    /// S9: takes in `acked` and discards what it covers.
    ///
    /// # Errors
    /// If it covers a call that runs; nothing is changed then (S10).
    #[inline]
    pub(super) fn acknowledge(&mut self, acked: u64) -> Result<(), ProtocolError> {
        if acked <= self.session.acked {
            return Ok(());
        }
        let calls = self.session.calls.as_deref_mut().filter(|calls| calls.running > 0);
        if calls.is_some_and(|calls| calls.held.has_running_up_to(&calls.slots, acked)) {
            return Err(ProtocolError::AckAhead { acked });
        }
        self.session.acked = acked;
        self.discard_up_to(acked);
        Ok(())
    }

    /// Discards all that is kept up to an xid. Apart, so that admission has the registers.
    #[inline(never)]
    fn discard_up_to(&mut self, acked: u64) {
        let Some(calls) = self.session.calls.as_deref_mut() else { return };
        let conn = self.conns.at_mut(self.session.conn);
        let mut partial = conn.and_then(|conn| conn.partial.as_mut());
        let mut freed = Freed::default();
        calls.discard_in_order(acked, partial.as_deref_mut(), &mut freed);
        while let Some(number) = calls.held.late_up_to(&calls.slots, acked) {
            calls.discard(number, partial.as_deref_mut(), &mut freed);
        }
        self.count_freed(freed);
    }

    /// S10: an `Ack` must not cover a slot whose call runs.
    pub(super) fn check_settled(&self, ack: &Ack) -> Result<(), ProtocolError> {
        if settled_slots(ack).any(|number| self.effect_of(ack, number) == AckEffect::Ahead) {
            return Err(ProtocolError::AckAhead { acked: ack.acked });
        }
        Ok(())
    }

    /// S9: discards what is kept on the slots whose bits are set.
    pub(super) fn discard_settled(&mut self, ack: &Ack) {
        for number in settled_slots(ack) {
            if self.effect_of(ack, number) == AckEffect::Discard {
                self.discard(number);
            }
        }
    }

    fn effect_of(&self, ack: &Ack, slot_number: u32) -> AckEffect {
        let slot = self.slot(slot_number).map_or(SlotView::UNUSED, Slot::view);
        dedup::classify_settled(&slot, ack.last)
    }

    /// Forgets what is kept on a slot; its xid stays. Nothing happens if nothing is kept.
    #[inline]
    pub(super) fn discard(&mut self, slot_number: u32) {
        let Some(calls) = self.session.calls.as_deref_mut() else { return };
        let conn = self.conns.at_mut(self.session.conn);
        let partial = conn.and_then(|conn| conn.partial.as_mut());
        let mut freed = Freed::default();
        calls.discard(slot_number, partial, &mut freed);
        self.count_freed(freed);
    }

    /// What was discarded is not counted any more, but for a frame that is finished all the same.
    #[inline]
    fn count_freed(&mut self, freed: Freed) {
        let Freed { calls, bytes, half_sent } = freed;
        *self.held -= calls;
        self.counters.half_sent_bytes += half_sent;
        self.give_back(bytes);
    }

    /// A reply that was leaving has left, or its connection is gone.
    pub(super) fn release_partial<B>(&mut self, partial: &PartialFrame<B>) {
        match partial.body {
            PartialBody::Slot(number) | PartialBody::Taken(number) => {
                self.forget_idempotent(number);
            }
            PartialBody::Detached { bytes, .. } | PartialBody::TakenDetached { bytes } => {
                debug_assert!(u64::from(bytes) <= self.counters.half_sent_bytes);
                self.counters.half_sent_bytes -= u64::from(bytes);
                self.give_back(u64::from(bytes));
                self.release_if_idle();
            }
        }
    }

    /// These bytes are no longer kept.
    #[inline]
    fn give_back(&mut self, bytes: u64) {
        if let Some(calls) = self.session.calls.as_deref_mut() {
            calls.kept_bytes -= bytes;
        }
        self.quota.kept_bytes -= bytes;
        self.counters.kept_bytes -= bytes;
    }

    /// Puts a slot among those with something to send, if its session has a connection and the slot's request or
    /// `Ask` came on it (S4).
    pub(super) fn enqueue_reply(&mut self, slot_number: u32) {
        let (conn, epoch) = (self.session.conn, self.session.epoch);
        let Some(calls) = self.session.calls.as_deref_mut() else { return };
        if conn != NIL && calls.slots.live(slot_number).is_some_and(|slot| slot.is_due(epoch)) {
            calls.out.push_back(&mut calls.slots, slot_number);
            self.wake(conn);
        }
    }

    /// Puts the session's connection among those with an event.
    #[inline(always)]
    pub(super) fn wake(&mut self, conn: u32) {
        self.woken.push(self.conns, conn);
    }

    /// The connection is gone: nothing can be sent on it. What is kept stays until it is asked for (S4).
    pub(super) fn unqueue_replies(&mut self) {
        while let Some(number) = self.pop_out() {
            self.forget_idempotent(number);
            if let Some(slot) = self.slot_mut(number) {
                slot.not_seen = 0;
            }
        }
    }

    fn pop_out(&mut self) -> Option<u32> {
        let calls = self.session.calls.as_deref_mut()?;
        calls.out.pop_front(&mut calls.slots)
    }

    /// S22: the reply of a call has left, or was not sent: it need not be kept if the call may run again.
    pub(super) fn forget_idempotent(&mut self, slot_number: u32) {
        let lossy = self.config.lossy;
        let Some(calls) = self.session.calls.as_deref_mut() else { return };
        let Some(slot) = calls.slots.live_mut(slot_number) else { return };
        if dedup::is_forgotten_once_sent(slot.idempotent, lossy, slot.state) {
            slot.state = SlotState::Kept(Status::NoReply(NoReply::NotKept));
            slot.body.release();
            let freed = core::mem::take(&mut slot.bytes);
            self.give_back(u64::from(freed));
        }
    }
}

/// What was discarded, and is still counted.
#[derive(Clone, Copy, Debug, Default)]
struct Freed {
    calls: u64,
    bytes: u64,
    /// Bytes of a reply that is leaving, which stay counted until it has left.
    half_sent: u64,
}

impl Freed {
    /// Takes what is kept on a slot, and the slot's links among those with something to send.
    #[inline(always)]
    fn take<B: Body>(
        &mut self,
        slot_number: u32,
        slot: &mut Slot<B>,
        partial: Option<&mut PartialFrame<B>>,
    ) -> Links {
        slot.state = SlotState::Discarded;
        let bytes = core::mem::take(&mut slot.bytes);
        // A frame that has begun to leave is finished, whatever becomes of its slot, and counted until it has left.
        if partial.is_some_and(|partial| partial.outlive(slot_number, &mut slot.body, bytes)) {
            self.half_sent += u64::from(bytes);
        } else {
            self.bytes += u64::from(bytes);
        }
        self.calls += 1;
        slot.body.release();
        core::mem::take(&mut slot.out_links)
    }
}

impl<T: ServerStorage> Calls<T> {
    /// S11: counts what is set aside for a call's reply and its request in its session, its principal's share, and in all.
    #[inline(always)]
    fn count_set_aside(
        &mut self,
        quota: &mut PrincipalQuota,
        counters: &mut ServerCounters,
        (reply, request): (u32, u32),
    ) {
        let (reply, request) = (u64::from(reply), u64::from(request));
        self.kept_bytes += reply;
        self.request_bytes += request;
        quota.kept_bytes += reply;
        quota.request_bytes += request;
        counters.kept_bytes += reply;
        counters.request_bytes += request;
    }

    /// Forgets what is kept on a slot; its xid stays. Nothing happens if nothing is kept. `partial` is the frame that is leaving
    /// on the session's connection.
    #[inline(always)]
    fn discard(
        &mut self,
        slot_number: u32,
        partial: Option<&mut PartialFrame<T::Body>>,
        freed: &mut Freed,
    ) {
        let Some(slot) = self.slots.at_mut(slot_number) else { return };
        if !matches!(slot.state, SlotState::Kept(_)) {
            return;
        }
        let out = freed.take(slot_number, slot, partial);
        if slot.is_late.0 {
            self.held.remove_late(&mut self.slots, slot_number);
        } else {
            let links = core::mem::take(&mut slot.held_links.0);
            self.held.remove(&mut self.slots, slot_number, links);
        }
        if out.is_linked() {
            self.out.join(&mut self.slots, out.prev, out.next);
        }
    }

    /// The same for all calls up to an xid, but those that came late. None of them runs.
    #[inline(always)]
    fn discard_in_order(
        &mut self,
        acked: u64,
        mut partial: Option<&mut PartialFrame<T::Body>>,
        freed: &mut Freed,
    ) {
        let mut number = self.held.first_in_order();
        while number != NIL
            && let Some(slot) = self.slots.live_mut(number)
            && slot.xid <= acked
        {
            debug_assert!(matches!(slot.state, SlotState::Kept(_)) && !slot.is_late.0);
            let next = core::mem::take(&mut slot.held_links.0).next;
            let out = freed.take(number, slot, partial.as_deref_mut());
            if out.is_linked() {
                self.out.join(&mut self.slots, out.prev, out.next);
            }
            self.held.pass(number, next);
            number = next;
        }
        self.held.begin_at(&mut self.slots, number);
    }
}

/// The slots whose bits are set in an `Ack`.
fn settled_slots(ack: &Ack) -> impl Iterator<Item = u32> + use<> {
    let (base, settled) = (ack.base, ack.settled);
    (0..64)
        .filter(move |bit| settled & (1 << bit) != 0)
        .filter_map(move |bit| base.checked_add(bit))
}
