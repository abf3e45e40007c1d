//! Durable calls: their owner keeps them in a journal, so that they outlive the machine. All calls of a
//! [durable](ClientConfig::durable) client are, and none of another.
//!
//! A durable call is journaled twice: with its xid before its first byte is sent, and with its outcome before it is
//! settled, so that the server keeps the answer until then:
//!
//! ```text
//!  call ─► poll_unjournaled (xid) ─► [owner writes] ─► journaled ─► sent ─► answer ─► [owner writes] ─► settle
//! ```
//!
//! A machine that is [restored](Client::restore) from what was written resumes the session: what the server never read
//! is sent again under the same xid, and the rest is asked for (S21). Nothing above what is journaled was ever
//! sent to the server, neither in a request nor as `acked`, so the numbers that a restored machine gives are new (S8).

use super::call::{CallEntry, CallState, InFlight};
use super::calls::{CallIndex, CallTable};
use super::{Call, Client, ClientConfig, ClientSession, Phase};
use crate::ids::{CallId, MethodId, SessionId, Xid};
use crate::storage::{Array, Body, ClientStorage, Places, Table};
use crate::time::{Instant, Timer};
use crate::wire;

/// A durable call that has its xid and must be journaled before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnjournaledCall<'a> {
    /// Which call.
    pub call: CallId,
    /// Its number in the session.
    pub xid: Xid,
    /// Which procedure.
    pub method: MethodId,
    /// Whether it may run more than once.
    pub idempotent: bool,
    /// Whether its body begins with a block of metadata.
    pub metadata: bool,
    /// Its arguments.
    pub body: &'a [u8],
}

impl<S: ClientStorage> Client<S> {
    /// A client that continues the session of an earlier one, restored from its journal: give it the calls that were
    /// not settled with [`restore_call`](Client::restore_call), and then connect.
    ///
    /// `xid_last` is the highest number that was recorded in that session, of calls settled since too. Limits of
    /// `config` that are below what the session was granted are raised to that, and it is
    /// [durable](ClientConfig::durable).
    ///
    /// `None` if this storage has no room for the slots that the session was granted.
    pub fn restore(
        mut config: ClientConfig,
        session: ClientSession,
        xid_last: u64,
    ) -> Option<Client<S>> {
        let grants = session.grants;
        let slots_max = u32::try_from(CallTable::<S>::SLOTS_MAX).unwrap_or(u32::MAX).min(65_536);
        if !(1..=slots_max).contains(&grants.slots) || xid_last > Xid::MAX {
            return None;
        }
        config.durable = true;
        config.slots = config.slots.max(grants.slots);
        config.request_len_max = config.request_len_max.max(grants.request_len_max);
        config.reply_len_max = config.reply_len_max.max(grants.reply_len_max);
        let mut client = Client::new(config);
        client.session = Some(session);
        client.table.grant(grants.slots);
        client.table.restore_numbers(xid_last);
        Some(client)
    }

    /// A call of the restored session that was recorded and not settled. Give all of them before the first attempt to
    /// connect and before the first new call, in the order of their xids. A byte of it may have been sent, so it is in
    /// doubt until the session is resumed. Its method, flags and body must be those that were recorded (S10); its timeout
    /// counts from now.
    ///
    /// `None` if it cannot be: it comes too late, behind a new call or out of order, its slot is taken, it is one-way, its
    /// metadata are behind a length (`with_len`), or there is no room.
    pub fn restore_call(&mut self, now: Instant, xid: Xid, call: Call<'_>) -> Option<CallId> {
        self.advance_clock(now);
        let early = self.phase == Phase::Start && self.session.is_some();
        if !early || call.one_way {
            return None;
        }
        let deadline = self.now + call.timeout;
        if call.metadata {
            // It was granted when the call was journaled.
            self.flags_refused &= !wire::FLAG_METADATA;
        }
        self.table.restore_call(xid, call, deadline)
    }

    /// The next durable call to be journaled, which has just been given its xid. Poll until `None` whenever
    /// [`poll_transmit`](Client::poll_transmit) is polled, and then events: what cannot be sent ends there.
    ///
    /// Once it is written, and all those before it, say so with [`journaled`](Client::journaled).
    pub fn poll_unjournaled(&mut self, now: Instant) -> Option<UnjournaledCall<'_>> {
        self.advance_clock(now);
        if !self.may_begin_calls() || !self.config.durable {
            return None;
        }
        loop {
            let index = self.table.first_waiting?;
            let entry = self.table.calls.live(index)?;
            if let Some(outcome) = self.refuse_to_send(entry) {
                self.table.end(index, outcome);
                continue;
            }
            let behind = entry.behind();
            let xid = self.table.assign_xid(index, behind)?;
            let (key, entry) = self.table.calls.keyed_mut(index)?;
            entry.state = CallState::Numbered { xid };
            let (idempotent, metadata) =
                (entry.has(wire::FLAG_IDEMPOTENT), entry.has(wire::FLAG_METADATA));
            // A journal has it in one piece.
            entry.body.join();
            let CallEntry { method, ref body, .. } = *entry;
            let (call, body) = (CallId(key), body.last_piece());
            return Some(UnjournaledCall { call, xid, method, idempotent, metadata, body });
        }
    }

    /// The durable calls of this session up to this xid are journaled and may be sent. Nothing happens if the
    /// session has ended meanwhile: its calls that were not sent get other numbers in the next one.
    pub fn journaled(&mut self, now: Instant, session: SessionId, up_to: Xid) {
        self.advance_clock(now);
        if self.session.is_none_or(|own| own.id != session) {
            return;
        }
        // A server that drains refuses it, which is an answer; what cannot leave now is found by the next resume.
        let now_due = self.is_connected() && !self.has_said_goodbye();
        self.table.note_journaled(up_to.get(), now_due);
    }

    /// The outcome of a durable call is journaled, or need not be: the call is settled, and the server may forget its
    /// answer. Nothing happens to a call that has no final outcome, or is not durable.
    pub fn settle(&mut self, now: Instant, id: CallId) {
        self.advance_clock(now);
        let entry = self.table.calls.get(id.0);
        if entry.is_some_and(|entry| matches!(entry.state, CallState::Answered { .. })) {
            self.table.settle(id.0.index);
            self.note_settled(0);
        }
    }
}

impl<S: ClientStorage> CallTable<S> {
    fn restore_numbers(&mut self, xid_last: u64) {
        self.last_xid = xid_last;
        self.journaled_up_to = xid_last;
        // S16: the resume says in bits which of them are settled.
        self.settled_high = xid_last;
        // Of every slot that they may have been on, not only of those below the highest of an unsettled call.
        if let Some(last) = self.granted.checked_sub(1).filter(|_| xid_last > 0) {
            self.slots.at_or_grow(u32::try_from(xid_last).unwrap_or(last).min(last));
        }
    }

    fn restore_call(&mut self, xid: Xid, call: Call<'_>, deadline: Instant) -> Option<CallId> {
        let in_order = match self.queue.back() {
            Some(last) => self.calls.live(last)?.state.xid() < Some(xid),
            None => true,
        };
        let slot = self.slot_of(xid);
        let free = self.slots.at(slot).is_none_or(CallIndex::is_free);
        if !in_order || !free || xid.get() > self.last_xid || self.first_waiting.is_some() {
            return None;
        }
        let id = self.admit_any(call, deadline)?;
        let index = id.0.index;
        self.occupy_slot(index, slot, None)?;
        let entry = self.calls.live_mut(index)?;
        entry.state = CallState::InFlight(InFlight::new(xid));
        entry.may_have_run = true;
        Some(id)
    }

    /// All calls up to this xid may be sent; those that could not be before are queued if that is `now_due`.
    fn note_journaled(&mut self, up_to: u64, now_due: bool) {
        self.journaled_up_to = self.journaled_up_to.max(up_to.min(self.last_xid));
        // A round of S21 that has not come to them yet will.
        let now_due = now_due && self.resume_at.is_none();
        while let Some(index) = self.first_unjournaled {
            let Some(entry) = self.calls.live(index) else { return };
            if entry.state.xid().is_none_or(|xid| xid.get() > self.journaled_up_to) {
                return;
            }
            let is_numbered = matches!(entry.state, CallState::Numbered { .. });
            debug_assert!(is_numbered || matches!(entry.state, CallState::Answered { .. }));
            if now_due && is_numbered {
                self.note_todo(index);
            }
            self.first_unjournaled = self.unsettled_after(Some(index));
        }
    }

    /// A durable call has its final outcome: nothing more is sent of it, and its slot stays taken. Returns its id if its
    /// caller waits for the outcome.
    pub(super) fn answer_durable(&mut self, index: u32) -> Option<CallId> {
        let (key, entry) = self.calls.keyed_mut(index)?;
        debug_assert!(entry.state.may_be_sent(), "{:?}", entry.state);
        let xid = entry.state.xid()?;
        entry.state = CallState::Answered { xid };
        entry.deadline = Timer::OFF;
        entry.event = None;
        let has_caller = entry.take_caller();
        self.todo.unlink(&mut self.calls, index);
        self.events.unlink(&mut self.calls, index);
        has_caller.then_some(CallId(key))
    }
}
