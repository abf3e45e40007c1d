//! Frames that come to a server.

use super::conn::{IncomingFrame, Phase};
use super::dedup::{self, AskAnswer, CancelEffect, SessionFacts};
use super::event::{Notice, Verdict};
use super::execute::CallKey;
use super::incoming::Incoming;
use super::long::Coming;
use super::replies::SessionView;
use super::session::SessionState;
use super::slot::{SlotState, SlotView};
use super::{Server, Slot};
use crate::client::Received;
use crate::error::{CloseReason, ProtocolError};
use crate::ids::{ConnId, SessionKey, Xid};
use crate::storage::list::NIL;
use crate::storage::{Places, ServerStorage, Table};
use crate::time::Instant;
use crate::wire::{self, Ack, ClientControl, Control, Metadata, Parsed, RequestHeader};

/// Bytes by which an incomplete frame must grow within the frame timeout.
const FRAME_PROGRESS_LEN: usize = 64 << 10;

/// What follows the bytes that were taken.
enum Next<'d> {
    /// What is behind them.
    More,
    /// Nothing, until this many bytes are here.
    Wanted(usize),
    /// The owner's turn.
    Item(Incoming<'d>),
}

impl<T: ServerStorage> Server<T> {
    /// Takes received bytes of a connection, up to the first call or cancel among them.
    ///
    /// Give the bytes that were not taken again, with whatever came behind them; while `item` is `Some`, there may be
    /// more in what is there already. Of a connection that the machine has let go of, everything is taken and dropped.
    ///
    /// # Errors
    /// The client broke the protocol. A `Refuse` that says so waits to be sent: poll events, transmit, and close the
    /// connection when [`ServerEvent::Close`](super::ServerEvent::Close) comes.
    #[inline]
    pub fn handle_data<'d>(
        &mut self,
        now: Instant,
        conn: ConnId,
        data: &'d [u8],
    ) -> Result<Received<Incoming<'d>>, ProtocolError> {
        self.advance_clock(now);
        if data.is_empty() { Ok(Received::NOTHING) } else { self.take_first(conn, data) }
    }

    /// Takes what is at the front of `data`, and what is behind it if it is nothing for the owner.
    fn take_first<'d>(
        &mut self,
        conn: ConnId,
        data: &'d [u8],
    ) -> Result<Received<Incoming<'d>>, ProtocolError> {
        // As nearly always: the next call, and nothing else to see to.
        let Some((session, header, body)) = self.find_plain_request(conn, data) else {
            return self.take_frames(conn, data, 0);
        };
        let consumed = wire::REQUEST_HEADER_LEN + body.len();
        match self.handle_request(session, &header, body, (Metadata::EMPTY, body, Ok(()))) {
            Ok(Some(request)) => {
                Ok(Received { consumed, item: Some(Incoming::Request(request)), wanted: 0 })
            }
            Ok(None) if self.notice.is_none() => self.take_frames(conn, data, consumed),
            Ok(None) => Ok(Received { consumed, item: Some(Incoming::Notice), wanted: 0 }),
            Err(error) => Err(self.close_for(conn.0.index, error)),
        }
    }

    /// The request at the front of `data`, and its session, if it is a plain one and no incomplete frame was noted before.
    /// [`take_front`](Server::take_front) finds the same, but looks for whatever may come.
    #[inline(always)]
    fn find_plain_request<'d>(
        &mut self,
        conn: ConnId,
        data: &'d [u8],
    ) -> Option<(u32, RequestHeader, &'d [u8])> {
        let conn = self.conns.get_mut(conn.0)?;
        let index = conn.session.filter(|_| conn.phase == Phase::Up && conn.incoming.is_none())?;
        debug_assert!(matches!(conn.coming, Coming::Nothing), "it is an incomplete frame's");
        let len_max = conn.request_len_max.0;
        let (header, body) = wire::plain_request(data, len_max)?;
        debug_assert!(
            matches!(
                wire::parse_client(data, len_max),
                Ok(Parsed::OfCall(parsed, whole, _)) if parsed == header && whole.len() == body.len()
            ),
            "both ways find the same"
        );
        conn.keepalive.on_progress();
        Some((index, header, body))
    }

    /// Takes the frames behind `consumed`, up to the first one that is for the owner.
    #[inline(never)]
    fn take_frames<'d>(
        &mut self,
        conn: ConnId,
        data: &'d [u8],
        mut consumed: usize,
    ) -> Result<Received<Incoming<'d>>, ProtocolError> {
        // Where nothing came, or all was taken, an incomplete frame whose bytes are elsewhere keeps its time.
        while consumed < data.len() {
            let (len, next) = match self.take_front(conn, &data[consumed..]) {
                Ok(taken) => taken,
                Err(error) => return Err(self.close_for(conn.0.index, error)),
            };
            consumed += len;
            match next {
                Next::More => {}
                // S2: what is behind a `Hello` is judged before its owner has a turn, in which the `Welcome` may leave.
                Next::Item(Incoming::Notice) if consumed < data.len() && !self.is_up(conn) => {}
                Next::Wanted(_) if self.notice.is_some() => {
                    return Ok(Received { consumed, item: Some(Incoming::Notice), wanted: 0 });
                }
                Next::Wanted(wanted) => return Ok(Received { consumed, item: None, wanted }),
                Next::Item(item) => {
                    return Ok(Received { consumed, item: Some(item), wanted: 0 });
                }
            }
        }
        Ok(Received { consumed, item: None, wanted: 0 })
    }

    /// Takes what is at the front of `data`, which is not empty; returns how much.
    fn take_front<'d>(
        &mut self,
        conn: ConnId,
        data: &'d [u8],
    ) -> Result<(usize, Next<'d>), ProtocolError> {
        let index = conn.0.index;
        let Some(live) = self.conns.get_mut(conn.0).filter(|conn| conn.is_read()) else {
            return Ok((data.len(), Next::More));
        };
        if let Coming::Dropped(_) = live.coming {
            // No frame is at the front, and bytes of a body say nothing of what came.
            live.keepalive.on_progress();
            return Ok(match self.drop_coming(index, data)? {
                (len, 0) => (len, self.next_notice()),
                (len, wanted) => (len, Next::Wanted(wanted)),
            });
        }
        live.keepalive.on_bytes(data);
        let was_partial = live.incoming.is_some();
        // S2: until its `Welcome` has left, a session takes nothing.
        let session = live.session.filter(|_| live.phase == Phase::Up);
        let body_len_max = session.map_or(0, |_| live.request_len_max.0);
        let parsed = wire::parse_client(data, body_len_max).map_err(|error| {
            if session.is_some() { error } else { wire::first_frame_error(data, error) }
        })?;
        if was_partial && !matches!(parsed, Parsed::Incomplete(_)) {
            self.note_whole(index);
        }
        match parsed {
            Parsed::OfCall(header, body, len) => {
                let session = session.ok_or(ProtocolError::NoSession)?;
                let content = self.content(session, &header, body)?;
                let request = self.handle_request(session, &header, body, content)?;
                let item = request.map(|request| Next::Item(Incoming::Request(request)));
                Ok((len, item.unwrap_or_else(|| self.next_notice())))
            }
            Parsed::Control(control, len) => {
                let item = self.handle_control(index, session, control, data)?;
                Ok((len, item.map_or_else(|| self.next_notice(), Next::Item)))
            }
            Parsed::Incomplete(_) if session.is_none() && wire::is_not_hello(data) => {
                Err(ProtocolError::NoSession)
            }
            Parsed::Incomplete(wanted) => {
                self.note_partial(index, data.len());
                Ok(match self.note_coming(index, data, wanted)? {
                    0 => (0, Next::Wanted(wanted)),
                    len => (len, Next::More),
                })
            }
        }
    }

    #[cold]
    fn is_up(&self, conn: ConnId) -> bool {
        self.conns.get(conn.0).is_none_or(|conn| conn.phase == Phase::Up)
    }

    /// After a frame that brought nothing to do.
    #[inline]
    fn next_notice<'d>(&self) -> Next<'d> {
        if self.notice.is_none() { Next::More } else { Next::Item(Incoming::Notice) }
    }

    /// C42: the frame at the front is whole; the next one has its own time.
    pub(super) fn note_whole(&mut self, index: u32) {
        self.end_incoming(index);
        self.end_coming(index);
    }

    fn end_incoming(&mut self, index: u32) {
        let Some(conn) = self.conns.live_mut(index) else { return };
        conn.incoming = None;
        if conn.phase != Phase::AwaitingHello {
            self.stop_timer(index);
        }
    }

    /// C42: the frame at the front is incomplete; of it `len` bytes are here. A large frame on a slow line is no
    /// slow one: what counts is how long it takes to get on.
    pub(super) fn note_partial(&mut self, index: u32, len: usize) {
        let now = self.now;
        let Some(conn) = self.conns.live_mut(index) else { return };
        if conn.incoming.is_some_and(|frame| len < frame.len + FRAME_PROGRESS_LEN) {
            return;
        }
        debug_assert!(conn.is_read() && len > 0, "nothing comes on a connection that is closed");
        conn.incoming = Some(IncomingFrame { since: now, judged: now, len });
        if conn.phase != Phase::AwaitingHello {
            self.stop_timer(index);
            self.receiving.push_back(&mut self.conns, index);
        }
    }

    /// The client broke the protocol.
    #[cold]
    fn close_for(&mut self, index: u32, error: ProtocolError) -> ProtocolError {
        self.notice = None;
        let session = self.conns.live(index).and_then(|conn| conn.session);
        self.close_conn(index, CloseReason::Protocol(error));
        if let (ProtocolError::FalseRetry { .. }, Some(session)) = (error, session) {
            self.abort_session(session, SessionState::Aborting);
        }
        error
    }

    fn handle_control<'d>(
        &mut self,
        conn: u32,
        session: Option<u32>,
        control: Control<'_>,
        data: &[u8],
    ) -> Result<Option<Incoming<'d>>, ProtocolError> {
        let frame = control.decode_client().map_err(|error| match session {
            Some(_) => error,
            None => wire::first_frame_error(data, error),
        })?;
        let bound = session.ok_or(ProtocolError::NoSession);
        match frame {
            ClientControl::Hello(hello) => self.handle_hello(conn, &hello)?,
            ClientControl::Ask(xid, ask) => self.handle_ask(bound?, xid, ask)?,
            ClientControl::Ack(ack) => self.handle_ack(bound?, ack)?,
            ClientControl::Cancel(xid) => return Ok(self.handle_cancel(bound?, xid)),
            ClientControl::Ping => {
                bound?;
                let goodbye = self.repeats_goodbye();
                if let Some(conn) = self.conns.live_mut(conn) {
                    conn.send.pong = true;
                    conn.send.goodbye |= goodbye;
                }
                self.wake(conn);
            }
            ClientControl::Pong => {
                bound?;
            }
            ClientControl::Goodbye => {
                let index = bound?;
                if let Some(session) = self.sessions.live_mut(index) {
                    session.state = SessionState::Closing;
                }
                self.end_if_due(index);
            }
        }
        Ok(None)
    }

    /// S21.
    fn handle_ask(&mut self, index: u32, xid: Xid, ask: u16) -> Result<(), ProtocolError> {
        let number = xid.get();
        let Some(mut view) = self.view(index) else { return Ok(()) };
        debug_assert!(view.session.state.is_open() && view.session.conn != NIL, "it is bound");
        view.counters.asks += 1;
        let slot_number = view.session.slot_of(number);
        let slot = view.slot(slot_number).map_or(SlotView::UNUSED, Slot::view);
        let answer = dedup::classify_ask(&view.facts(), &slot, number)?;
        let call = CallKey { session: view.key, slot: slot_number, xid };
        match answer {
            AskAnswer::Dropped => {}
            AskAnswer::WhenDone | AskAnswer::Kept => view.route_answer(slot_number),
            AskAnswer::NotSeen if view.make_slot(slot_number) => {
                view.discard(slot_number);
                let Some(slot) = view.slot_mut(slot_number) else { return Ok(()) };
                (slot.not_seen, slot.ask) = (number, ask);
                view.enqueue_reply(slot_number);
            }
            AskAnswer::NotSeen => {
                let conn = view.session.conn;
                self.close_when_sent(conn, CloseReason::NoRoom);
                return Ok(());
            }
        }
        let verdict = match answer {
            AskAnswer::Dropped => Verdict::Dropped,
            AskAnswer::WhenDone => Verdict::WhenDone,
            AskAnswer::Kept => Verdict::Kept,
            AskAnswer::NotSeen => Verdict::NotSeen,
        };
        self.note(Notice::Duplicate { call, method: None, verdict });
        Ok(())
    }

    fn handle_cancel<'d>(&mut self, index: u32, xid: Xid) -> Option<Incoming<'d>> {
        let key = self.sessions.key_at(index)?;
        let session = self.sessions.live_mut(index)?;
        let slot_number = session.slot_of(xid.get());
        let slot = session.calls.as_deref_mut()?.slots.at_mut(slot_number)?;
        let call = CallKey { session: key, slot: slot_number, xid };
        let item = match dedup::classify_cancel(&slot.view(), slot.cancelled, xid.get()) {
            CancelEffect::Nothing => return None,
            CancelEffect::Withdraw => Incoming::Withdrawn(call),
            CancelEffect::Interrupt => Incoming::Cancel(call),
        };
        slot.cancelled = true;
        Some(item)
    }

    fn handle_ack(&mut self, index: u32, ack: Ack) -> Result<(), ProtocolError> {
        let Some(mut view) = self.view(index) else { return Ok(()) };
        view.check_settled(&ack)?;
        view.acknowledge(ack.acked)?;
        view.discard_settled(&ack);
        view.release_if_idle();
        self.end_if_due(index);
        Ok(())
    }

    /// The session that `key` names, unless it has ended.
    pub(super) fn live_session(&self, key: SessionKey) -> Option<u32> {
        let session = self.sessions.get(key.0)?;
        (!session.state.is_ended()).then_some(key.0.index)
    }
}

impl<T: ServerStorage> SessionView<'_, T> {
    /// What the decisions in `dedup.rs` look at.
    #[inline]
    pub(super) fn facts(&self) -> SessionFacts {
        SessionFacts {
            acked: self.session.acked,
            seen: self.session.seen,
            closing: self.session.state == SessionState::Closing,
            lossy: self.config.lossy,
        }
    }

    /// S4: a call was sent again or asked for on this connection, so its answer goes there: now, if it is kept.
    pub(super) fn route_answer(&mut self, slot_number: u32) {
        let epoch = self.session.epoch;
        let Some(slot) = self.slot_mut(slot_number) else { return };
        slot.epoch = epoch;
        if let SlotState::Kept(_) = slot.state {
            self.enqueue_reply(slot_number);
        }
    }
}
