//! Frames that come to a server.

use super::Server;
use super::Slot;
use super::execute::{Admission, CallKey};
use super::parts::{End, IncomingFrame, SlotState};
use crate::client::Received;
use crate::digest::digest;
use crate::error::{CloseReason, ProtocolError};
use crate::fate::{self, Arrival, Asked, SlotView};
use crate::ids::{ConnId, MethodId, SessionKey, Xid};
use crate::outcome::{NoReply, NotExecuted, Status};
use crate::storage::{Array, Lazy, Places, ServerStorage, Table};
use crate::time::Instant;
use crate::wire::{self, Ack, Decoded, Frame, Refuse, RequestHeader, Role};

/// Bytes by which an incomplete frame must grow within the frame timeout.
const FRAME_PROGRESS_LEN: usize = 64 << 10;

/// What a connection brought for the driver.
#[derive(Debug)]
#[non_exhaustive]
pub enum Incoming<'d> {
    /// A call to execute.
    Request(Request<'d>),
    /// A call that runs is no longer wanted: its handler may stop, or not (S19).
    Cancel(CallKey),
}

/// A call that was admitted: to be started or refused.
#[derive(Debug)]
pub struct Request<'d> {
    /// The right to start it. Losing it pins a slot.
    pub admission: Admission,
    /// Which procedure.
    pub method: MethodId,
    /// Its place among [`Server::methods`].
    pub method_index: usize,
    /// Its arguments, borrowed from the received bytes.
    pub body: &'d [u8],
    /// When it may no longer be started, on this machine's clock (S17).
    pub deadline: Instant,
    /// Whether it may run more than once (S22).
    pub idempotent: bool,
    /// Whether nobody waits for its reply's body (S23).
    pub one_way: bool,
}

impl<T: ServerStorage> Server<T> {
    /// Takes received bytes of a connection, up to the first call or cancel among them.
    ///
    /// Give the bytes that were not taken again, with whatever came behind them; while `item` is `Some`, there may be
    /// more in what is there already. Of a connection that the machine has let go of, everything is taken and dropped.
    ///
    /// # Errors
    /// The client broke the protocol. A `Refuse` that says so is to be sent: poll events, transmit, and close the
    /// connection when [`ServerEvent::Close`](super::ServerEvent::Close) comes.
    pub fn handle_data<'d>(
        &mut self,
        now: Instant,
        conn: ConnId,
        data: &'d [u8],
    ) -> Result<Received<Incoming<'d>>, ProtocolError> {
        self.tick(now);
        let index = conn.0.index;
        let mut consumed = 0;
        loop {
            let Some(live) = self.conns.get_mut(conn.0).filter(|conn| conn.closing.is_none())
            else {
                return Ok(Received { consumed: data.len(), item: None, wanted: 0 });
            };
            if consumed == 0 && !data.is_empty() {
                live.alive.hear();
            }
            let rest = &data[consumed..];
            if rest.is_empty() {
                live.incoming = None;
                return Ok(Received { consumed, item: None, wanted: 0 });
            }
            let session = live.session;
            let body_len_max = session
                .and_then(|index| self.sessions.at(index))
                .map_or(0, |session| session.grants().request_len_max);
            let result = match wire::decode(rest, Role::Client, body_len_max) {
                Ok(Decoded::Incomplete(wanted)) => {
                    self.note_partial(index, rest.len());
                    return Ok(Received { consumed, item: None, wanted });
                }
                Ok(Decoded::Frame(frame, len)) => {
                    consumed += len;
                    // C42: the frame is whole; the next one has its own time.
                    live.incoming = None;
                    self.handle_frame(index, session, frame)
                }
                Err(error) if session.is_none() => Err(wire::first_frame_error(rest, error)),
                Err(error) => Err(error),
            };
            match result {
                Ok(None) => {}
                Ok(item) => return Ok(Received { consumed, item, wanted: 0 }),
                Err(error) => {
                    self.close_for(index, session, error);
                    return Err(error);
                }
            }
        }
    }

    /// C42: the frame at the front is incomplete; of it `len` bytes are here. A large frame on a slow line is no
    /// slow one: what counts is how long it takes to get on.
    fn note_partial(&mut self, index: u32, len: usize) {
        let now = self.now;
        let Some(conn) = self.conns.at_mut(index) else { return };
        match &mut conn.incoming {
            Some(frame) if len < frame.len + FRAME_PROGRESS_LEN => {}
            incoming => *incoming = Some(IncomingFrame { since: now, len }),
        }
    }

    fn close_for(&mut self, index: u32, session: Option<u32>, error: ProtocolError) {
        let refuse = Refuse::Protocol(error.code());
        self.close_conn(index, Some(refuse), CloseReason::Protocol(error));
        if let (ProtocolError::FalseRetry { .. }, Some(session)) = (error, session) {
            self.doom_session(session);
        }
    }

    fn handle_frame<'d>(
        &mut self,
        conn: u32,
        session: Option<u32>,
        frame: Frame<'d>,
    ) -> Result<Option<Incoming<'d>>, ProtocolError> {
        let bound = session.ok_or(ProtocolError::NoSession);
        match frame {
            Frame::Hello(hello) => self.handle_hello(conn, &hello)?,
            Frame::Request(header, body) => return self.handle_request(bound?, header, body),
            Frame::Ask(xid) => self.handle_ask(bound?, xid)?,
            Frame::Ack(ack) => self.handle_ack(bound?, ack)?,
            Frame::Cancel(xid) => return Ok(self.handle_cancel(bound?, xid)),
            Frame::Ping(_) => {
                bound?;
                if let Some(conn) = self.conns.at_mut(conn) {
                    conn.send.pong = true;
                }
                self.wake(conn);
            }
            Frame::Pong(_) => {
                bound?;
            }
            Frame::Goodbye(_) => {
                let index = bound?;
                if let Some(session) = self.sessions.at_mut(index) {
                    session.end = End::Leaving;
                }
                self.end_if_due(index);
            }
            // A server's frames never decode as a client's.
            Frame::Welcome(_) | Frame::Refuse(_) | Frame::Reply(..) => {
                return Err(ProtocolError::NoSession);
            }
        }
        Ok(None)
    }

    /// S10. Nothing is changed before it is certain that the client keeps the rules.
    fn handle_request<'d>(
        &mut self,
        index: u32,
        header: RequestHeader,
        body: &'d [u8],
    ) -> Result<Option<Incoming<'d>>, ProtocolError> {
        let digest = digest(header.method, header.flags, body);
        let arrival = self.judge_request(index, &header, digest)?;
        self.acknowledge(index, header.acked)?;
        let Some(session) = self.sessions.at_mut(index) else { return Ok(None) };
        let slot_number = session.slot_of(header.xid.get());
        let epoch = session.epoch;
        let calls = session.calls.get_or_make();
        let Some(slot) = calls.slots.at_or_grow(slot_number) else { return Ok(None) };
        match arrival {
            Arrival::Stale => {
                self.counters.stale += 1;
                return Ok(None);
            }
            Arrival::Duplicate => {
                slot.epoch = epoch;
                match slot.state {
                    // S22: done, and nothing was kept: it runs again.
                    SlotState::Kept(Status::NoReply(NoReply::NotKept)) => {}
                    SlotState::Kept(_) => {
                        self.counters.duplicates += 1;
                        self.queue(index, slot_number);
                        return Ok(None);
                    }
                    _ => {
                        self.counters.duplicates += 1;
                        return Ok(None);
                    }
                }
            }
            Arrival::FalseRetry | Arrival::New => {}
        }
        Ok(self.admit(index, slot_number, &header, digest, body))
    }

    /// What a request is, as if its X were brought up already.
    ///
    /// # Errors
    /// What shows that it comes from a wrong client.
    fn judge_request(
        &self,
        index: u32,
        header: &RequestHeader,
        digest: u64,
    ) -> Result<Arrival, ProtocolError> {
        let xid = header.xid.get();
        if header.acked >= xid {
            return Err(ProtocolError::AckAhead { acked: header.acked });
        }
        let Some(session) = self.sessions.at(index) else { return Ok(Arrival::Stale) };
        if session.end == End::Leaving {
            return Err(ProtocolError::AfterGoodbye);
        }
        let slot = session.calls.get().and_then(|calls| calls.slots.at(session.slot_of(xid)));
        let view = slot.map_or(SlotView::UNUSED, Slot::view);
        let arrival = fate::arrival(session.acked.max(header.acked), view, xid, digest);
        match arrival {
            Arrival::FalseRetry => return Err(ProtocolError::FalseRetry { xid }),
            Arrival::New => {
                if slot.is_some_and(|slot| slot.state.is_running()) {
                    return Err(ProtocolError::SlotBusy { xid, running: view.xid });
                }
                let idempotent = header.flags & wire::FLAG_IDEMPOTENT != 0;
                let not_seen = slot.is_some_and(|slot| slot.not_seen == xid);
                let leave = idempotent || not_seen || self.config.lossy;
                if xid <= session.seen && !leave {
                    return Err(ProtocolError::OutOfOrder { xid, seen: session.seen });
                }
            }
            Arrival::Stale | Arrival::Duplicate => {}
        }
        Ok(arrival)
    }

    /// S11: reserves room for the call's reply, or refuses it.
    fn admit<'d>(
        &mut self,
        index: u32,
        slot_number: u32,
        header: &RequestHeader,
        digest: u64,
        body: &'d [u8],
    ) -> Option<Incoming<'d>> {
        // S9: a later xid on its slot.
        self.discard(index, slot_number);
        let idempotent = header.flags & wire::FLAG_IDEMPOTENT != 0;
        let one_way = header.flags & wire::FLAG_ONE_WAY != 0;
        let methods = self.methods.as_slice();
        let found = methods.binary_search_by_key(&header.method, |method| method.id);
        let method = found.ok().and_then(|at| methods.get(at)).copied();
        let now = self.now;
        let xid = header.xid;
        let session = self.sessions.at_mut(index)?;
        session.used = true;
        session.seen = session.seen.max(xid.get());
        let (epoch, reply_len_max) = (session.epoch, session.grants().reply_len_max);
        let calls = session.calls.get_mut()?;
        let slot = calls.slots.at_mut(slot_number)?;
        slot.xid = xid.get();
        slot.digest = digest;
        slot.deadline = now + core::time::Duration::from_millis(u64::from(header.remaining_ms));
        slot.not_seen = 0;
        slot.epoch = epoch;
        slot.state = SlotState::LetIn;
        slot.idempotent = idempotent;
        slot.one_way = one_way;
        slot.cancelled = false;
        let deadline = slot.deadline;
        calls.held.insert_sorted(&mut calls.slots, slot_number, |other| other.xid < xid.get());
        calls.running += 1;
        self.held += 1;
        self.counters.running += 1;
        let room = method
            .map_or(0, |method| if one_way { 0 } else { method.reply_len_max.min(reply_len_max) });
        let refusal = match method {
            None => Some(NotExecuted::UnknownMethod),
            Some(_) if self.drain.is_some() => Some(NotExecuted::ShuttingDown),
            Some(_) if self.ledger_failed => Some(NotExecuted::LedgerFailed),
            Some(method) if idempotent && !method.idempotent => Some(NotExecuted::NotIdempotent),
            Some(_) if !self.reserve(index, slot_number, room) => Some(NotExecuted::Overloaded),
            Some(_) => None,
        };
        if let Some(why) = refusal {
            self.finish(index, slot_number, Status::Refused(why), &[][..]);
            return None;
        }
        self.counters.admitted += 1;
        let key = CallKey { session: self.sessions.key_at(index)?, slot: slot_number, xid };
        Some(Incoming::Request(Request {
            admission: Admission { key },
            method: header.method,
            method_index: found.ok()?,
            body,
            deadline,
            idempotent,
            one_way,
        }))
    }

    /// S21.
    fn handle_ask(&mut self, index: u32, xid: Xid) -> Result<(), ProtocolError> {
        let number = xid.get();
        let Some(session) = self.sessions.at_mut(index) else { return Ok(()) };
        let slot_number = session.slot_of(number);
        let (epoch, acked) = (session.epoch, session.acked);
        let calls = session.calls.get_or_make();
        let Some(slot) = calls.slots.at_or_grow(slot_number) else { return Ok(()) };
        self.counters.asks += 1;
        match fate::asked(acked, slot.view(), number) {
            Asked::Stale => {}
            Asked::Here => {
                slot.epoch = epoch;
                if let SlotState::Kept(_) = slot.state {
                    self.queue(index, slot_number);
                }
            }
            Asked::NotSeen => {
                if slot.state.is_running() {
                    return Err(ProtocolError::SlotBusy { xid: number, running: slot.xid });
                }
                slot.not_seen = number;
                self.discard(index, slot_number);
                self.queue(index, slot_number);
            }
        }
        Ok(())
    }

    fn handle_cancel<'d>(&mut self, index: u32, xid: Xid) -> Option<Incoming<'d>> {
        let key = self.sessions.key_at(index)?;
        let session = self.sessions.at_mut(index)?;
        let slot_number = session.slot_of(xid.get());
        let slot = session.calls.get_mut()?.slots.at_mut(slot_number)?;
        if slot.xid != xid.get() {
            return None;
        }
        match slot.state {
            SlotState::LetIn => {
                slot.cancelled = true;
                None
            }
            SlotState::Running if !core::mem::replace(&mut slot.cancelled, true) => {
                Some(Incoming::Cancel(CallKey { session: key, slot: slot_number, xid }))
            }
            _ => None,
        }
    }

    fn handle_ack(&mut self, index: u32, ack: Ack) -> Result<(), ProtocolError> {
        self.check_settled(index, &ack)?;
        self.acknowledge(index, ack.acked)?;
        self.discard_settled(index, &ack);
        let Some(session) = self.sessions.at_mut(index) else { return Ok(()) };
        // S16: nothing is kept and nothing can come that X does not judge.
        let idle = session.acked >= session.seen
            && session
                .calls
                .get()
                .is_some_and(|calls| calls.held.is_empty() && calls.out.is_empty());
        if idle {
            session.calls.release();
        }
        self.end_if_due(index);
        Ok(())
    }

    /// The session that `key` names, unless it has ended.
    pub(super) fn live_session(&self, key: SessionKey) -> Option<u32> {
        let session = self.sessions.at(key.0.index)?;
        (self.sessions.contains(key.0) && session.end != End::Ended).then_some(key.0.index)
    }
}
