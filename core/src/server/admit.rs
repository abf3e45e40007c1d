//! Requests: known or new, and if new, admitted or refused.

use super::dedup::{self, AdmissionFacts, Arrival, RequestFacts};
use super::event::Notice;
use super::execute::{Admission, CallKey};
use super::incoming::Request;
use super::metadata::Content;
use super::notice::arrival_verdict;
use super::replies::SessionView;
use super::session::Reach;
use super::slot::{SlotState, SlotView};
use super::{MethodSpec, Server, Slot};
use crate::digest::digest;
use crate::error::{CloseReason, ProtocolError};
use crate::ids::MethodId;
use crate::outcome::{NotExecuted, Status};
use crate::storage::list::NIL;
use crate::storage::{Payload, ServerStorage};
use crate::time::Instant;
use crate::wire::{self, RequestHeader};

impl<T: ServerStorage> Server<T> {
    /// S10. Nothing is changed before it is certain that the client keeps the rules.
    #[inline(always)]
    pub(super) fn handle_request<'d>(
        &mut self,
        index: u32,
        header: &RequestHeader,
        whole: &[u8],
        (metadata, body, content): Content<'d>,
    ) -> Result<Option<Request<'d>>, ProtocolError> {
        let digest = digest(header.method, header.flags, whole);
        let deadline = self.now.after_millis(header.remaining_ms);
        let admitted =
            self.admit_request(index, header, (digest, deadline), whole.len(), content)?;
        Ok(admitted.map(|(key, method_index)| Request {
            admission: Admission { key },
            method: header.method,
            method_index,
            metadata,
            body,
            deadline,
            idempotent: header.flags & wire::FLAG_IDEMPOTENT != 0,
            one_way: header.flags & wire::FLAG_ONE_WAY != 0,
        }))
    }

    /// The same for a request of which no more is known than its header, its digest and its length; `content` says what is
    /// wrong with the rest. One right to start it may be made of the key, with which the index of its method comes.
    #[inline(always)]
    pub(super) fn admit_request(
        &mut self,
        index: u32,
        header: &RequestHeader,
        (digest, deadline): (u64, Instant),
        len: usize,
        content: Result<(), NotExecuted>,
    ) -> Result<Option<(CallKey, usize)>, ProtocolError> {
        let method = self.find_method(header.method);
        let (draining, ledger_failed) = (self.drain.is_some(), self.ledger_failed);
        let Some(mut view) = self.view(index) else { return Ok(None) };
        debug_assert!(view.session.state.is_open() && view.session.conn != NIL, "it is bound");
        let (xid, slot_number) = (header.xid, view.session.slot_of(header.xid.get()));
        let idempotent = header.flags & wire::FLAG_IDEMPOTENT != 0;
        let request = RequestFacts { xid: xid.get(), acked: header.acked, digest, idempotent };
        let facts = view.facts();
        // S9: what is kept there is discarded by a later xid. What `acked` covers is when it is taken in: nothing kept is at or
        // below it then.
        let (arrival, is_there, is_kept) = match view.slot(slot_number) {
            Some(slot) => (
                dedup::classify_request(&facts, &slot.view(), &request)?,
                true,
                matches!(slot.state, SlotState::Kept(_)) && slot.xid > header.acked,
            ),
            None => (dedup::classify_request(&facts, &SlotView::UNUSED, &request)?, false, false),
        };
        view.acknowledge(header.acked)?;
        let key = CallKey { session: view.key, slot: slot_number, xid };
        if !view.note_arrival(arrival, slot_number) {
            let slot = view.slot(slot_number).map_or(SlotView::UNUSED, Slot::view);
            let verdict = arrival_verdict(arrival, &slot);
            self.note(Notice::Duplicate { call: key, method: Some(header.method), verdict });
            return Ok(None);
        }
        if !is_there && !view.make_slot(slot_number) {
            let conn = view.session.conn;
            self.close_when_sent(conn, CloseReason::NoRoom);
            return Ok(None);
        }
        if is_kept {
            view.discard(slot_number);
        }
        let one_way = header.flags & wire::FLAG_ONE_WAY != 0;
        // S11: memory for it and for its reply is set aside, or it is refused. Where its owner must allow it first, then.
        let waits = view.config.authorizes;
        let reply = match method {
            Some((_, method)) if !one_way && !waits => view.reply_max(&method),
            _ => 0,
        };
        let request_len = if waits { 0 } else { len as u32 };
        let facts = AdmissionFacts {
            content,
            method: method.map(|(_, method)| method),
            idempotent,
            draining,
            ledger_failed,
            fits: view.fits(reply, request_len),
        };
        let why = match (dedup::may_admit(&facts), method) {
            (Ok(()), Some((method_index, _))) => {
                let bytes = (reply, request_len);
                view.admit(slot_number, header, (digest, deadline), bytes);
                view.counters.admitted += 1;
                return Ok(Some((key, method_index)));
            }
            (refusal, _) => refusal.err().unwrap_or(NotExecuted::UnknownMethod),
        };
        self.refuse_new(index, key, header, (digest, deadline), why);
        Ok(None)
    }

    /// Refuses a new request: it is admitted without memory, and ends at once (S12).
    #[cold]
    #[inline(never)]
    fn refuse_new(
        &mut self,
        index: u32,
        call: CallKey,
        header: &RequestHeader,
        (digest, deadline): (u64, Instant),
        why: NotExecuted,
    ) {
        if let Some(mut view) = self.view(index) {
            view.admit(call.slot, header, (digest, deadline), (0, 0));
        }
        self.finish(index, call.slot, Status::Refused(why), Payload::EMPTY);
        self.note(Notice::Refused { call, method: header.method, why });
    }

    /// A method that is offered, and its index.
    #[inline]
    fn find_method(&self, id: MethodId) -> Option<(usize, MethodSpec)> {
        let methods = &self.methods;
        let at = methods.binary_search_by_key(&id, |method| method.id).ok()?;
        Some((at, methods[at]))
    }
}

impl<T: ServerStorage> SessionView<'_, T> {
    /// Counts what is not to run, and answers a duplicate; true for what is to run.
    #[inline]
    fn note_arrival(&mut self, arrival: Arrival, slot_number: u32) -> bool {
        match arrival {
            Arrival::New | Arrival::Rerun => return true,
            Arrival::Stale => self.counters.stale += 1,
            Arrival::Duplicate => {
                self.route_answer(slot_number);
                self.counters.duplicates += 1;
            }
        }
        false
    }

    /// Puts a new request on its slot: from then on its session has been used.
    #[inline(always)]
    fn admit(
        &mut self,
        slot_number: u32,
        header: &RequestHeader,
        (digest, deadline): (u64, Instant),
        bytes: (u32, u32),
    ) {
        self.session.reach = Reach::Used;
        let epoch = self.session.epoch;
        self.hold(slot_number, header.xid.get(), bytes, |slot| {
            slot.fill(header, digest, deadline, epoch);
        });
    }
}
