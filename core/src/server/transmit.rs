//! What a server asks of its owner: its events, and the frames to send.

use core::num::NonZeroUsize;

use super::conn::{PartialBody, PartialFrame, Phase};
use super::session::SessionState;
use super::slot::SlotState;
use super::{Conn, Server, ServerEvent, Sessions};
use crate::error::CloseReason;
use crate::ids::{ConnId, SessionKey, Xid};
use crate::outcome::Status;
use crate::storage::list::NIL;
use crate::storage::{Body, Places, ServerStorage, Table};
use crate::time::Instant;
use crate::wire::writer::FrameWriter;
use crate::wire::{self, Frame, REPLY_HEADER_LEN, Refuse, ReplyHeader, Role};

/// Whether there may be more to send.
enum Step {
    More,
    /// Nothing to send, or no room for it.
    Stop,
}

impl<T: ServerStorage> Server<T> {
    /// The next event. Poll until `None` after every other `&mut self` call.
    #[inline]
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        let none = self.woken.is_empty()
            && self.abandoned.is_empty()
            && self.ended.is_empty()
            && self.drain.is_none();
        if none { None } else { self.next_event() }
    }

    fn next_event(&mut self) -> Option<ServerEvent> {
        while let Some(index) = self.woken.pop(&mut self.conns) {
            let Some((key, conn)) = self.conns.keyed_mut(index) else { continue };
            if conn.takes_record() {
                self.wake(index);
                return Some(ServerEvent::SessionOpened(ConnId(key)));
            }
            if conn.takes_claim() {
                return Some(ServerEvent::SessionWanted(ConnId(key)));
            }
            if has_to_send::<T>(conn, &self.sessions) {
                return Some(ServerEvent::Transmit(ConnId(key)));
            }
            if let Some(reason) = conn.closing() {
                self.remove_conn(index);
                return Some(ServerEvent::Close(ConnId(key), reason));
            }
        }
        if let Some(index) = self.abandoned.pop_front(&mut self.sessions) {
            return self.sessions.key_at(index).map(|key| ServerEvent::Abandoned(SessionKey(key)));
        }
        if let Some(index) = self.ended.pop_front(&mut self.sessions) {
            let session = self.sessions.remove(index)?;
            return Some(ServerEvent::SessionEnded(session.id, session.state.end()));
        }
        if self.drain.is_some() { self.next_of_drain() } else { None }
    }

    /// What a drain has to do when nothing else is left, and that it is over.
    #[cold]
    #[inline(never)]
    fn next_of_drain(&mut self) -> Option<ServerEvent> {
        let began = self.drain.as_ref().filter(|drain| !drain.reported)?.began;
        if let Some(index) = self.vain_greeting(began) {
            self.close_conn(index, CloseReason::Refused(Refuse::ShuttingDown));
            return self.next_event();
        }
        let drained = self.is_drained();
        if let Some(drain) = &mut self.drain {
            drain.reported = drained;
        }
        drained.then_some(ServerEvent::Drained)
    }

    /// A connection from before a drain whose `Hello` is not waited for: no session is left that it could resume. Those that
    /// came since are judged by their `Hello`s.
    fn vain_greeting(&self, began: Instant) -> Option<u32> {
        let index = self.greeting.front().filter(|_| self.sessions.len() == 0)?;
        (self.conns.live(index)?.since < began).then_some(index)
    }

    /// Writes what is due on a connection at the front of `out` and returns its length; `None` when there is
    /// nothing to send. Poll until `None` when [`ServerEvent::Transmit`] names the
    /// connection, and then poll events again: a connection to be closed is closed after its last frame.
    ///
    /// A body of 64 KiB or more in shared memory is not copied behind its header: what is written ends with that, and
    /// [`take_shared_tail`](Server::take_shared_tail) has the body. Polled again without that, it is copied.
    ///
    /// `out` must hold at least [`wire::CONTROL_LEN_MAX`] bytes: in a shorter one, some frames never fit.
    #[inline(always)]
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        conn: ConnId,
        out: &mut [u8],
    ) -> Option<NonZeroUsize> {
        self.advance_clock(now);
        let live = self.conns.get(conn.0)?;
        // As nearly always: there are replies to send, or nothing.
        let session = live.session.filter(|_| live.sends_replies());
        if let Some(session) = session.and_then(|session| self.sessions.live(session))
            && session.state == SessionState::Open
            && session.calls.as_deref().is_none_or(|calls| calls.out.is_empty())
        {
            // Nor does the end of the session, which is open, or of its connection, which is up, wait for it.
            return None;
        }
        self.transmit(conn.0.index, session, out)
    }

    /// Writes what is due on a connection, whose replies come first if it is their session's turn.
    #[inline(never)]
    fn transmit(
        &mut self,
        index: u32,
        replies_of: Option<u32>,
        out: &mut [u8],
    ) -> Option<NonZeroUsize> {
        let mut writer = FrameWriter::new(out);
        let step = match replies_of {
            Some(session) => self.send_replies(index, session, &mut writer),
            None => Step::More,
        };
        let mut written = writer.written();
        if let Step::More = step {
            written = self.transmit_more(index, FrameWriter::behind(out, written));
        }
        let written = NonZeroUsize::new(written);
        if written.is_none() {
            self.all_sent(index);
        } else if let Some(conn) = self.conns.live_mut(index) {
            conn.keepalive.on_sent();
        }
        written
    }

    /// Writes what else is due. Apart, so that for replies the writer need not lie in memory.
    #[cold]
    fn transmit_more(&mut self, index: u32, mut out: FrameWriter<'_>) -> usize {
        while let Step::More = self.transmit_step(index, &mut out) {}
        out.written()
    }

    /// Nothing is left to send on a connection: closes it if it was waiting for that, and ends its session likewise.
    fn all_sent(&mut self, index: u32) {
        let Some(conn) = self.conns.live(index) else { return };
        match (conn.phase, conn.session) {
            (Phase::Closing(_), _) => self.wake(index),
            (Phase::Finishing(reason), _) => {
                // Or there was no room for the rest of it.
                if !has_to_send::<T>(conn, &self.sessions) {
                    self.close_conn(index, reason);
                }
            }
            (_, Some(session)) => self.end_if_due(session),
            (_, None) => {}
        }
    }

    fn transmit_step(&mut self, index: u32, out: &mut FrameWriter<'_>) -> Step {
        let Some(conn) = self.conns.live_mut(index) else { return Step::Stop };
        match conn.phase {
            Phase::AwaitingRecord { .. } | Phase::AwaitingSession { .. } => return Step::Stop,
            Phase::WelcomeDue { .. } => return self.send_welcome(index, out),
            _ => {}
        }
        if conn.partial.is_some() {
            return self.continue_reply(index, out);
        }
        if !conn.send.is_empty() {
            return self.send_control(index, out);
        }
        let Some(session) = conn.session else { return Step::Stop };
        self.send_replies(index, session, out)
    }

    /// From then on requests are taken.
    fn send_welcome(&mut self, index: u32, out: &mut FrameWriter<'_>) -> Step {
        let welcome = self.conns.live(index).and_then(|conn| self.welcome(conn));
        let sent = welcome.is_some_and(|welcome| out.control(&Frame::Welcome(welcome)));
        match self.conns.live_mut(index).filter(|_| sent) {
            Some(conn) => {
                conn.phase = Phase::Up;
                Step::More
            }
            None => Step::Stop,
        }
    }

    fn send_control(&mut self, index: u32, out: &mut FrameWriter<'_>) -> Step {
        let Some(conn) = self.conns.live(index) else { return Step::Stop };
        let sent = if conn.send.welcome_again {
            self.welcome(conn).is_none_or(|welcome| out.control(&Frame::Welcome(welcome)))
        } else if conn.send.refuse {
            let refuse = conn.closing().and_then(|reason| self.refuse_for(reason));
            let instance = self.config.instance;
            refuse.is_none_or(|refuse| out.control(&Frame::Refuse(refuse, instance)))
        } else {
            false
        };
        let Some(conn) = self.conns.live_mut(index) else { return Step::Stop };
        let send = &mut conn.send;
        let sent = if send.welcome_again {
            send.welcome_again = !sent;
            sent
        } else if send.refuse {
            send.refuse = !sent;
            sent
        } else if send.pong {
            send.pong = !out.control(&Frame::Pong(Role::Server));
            !send.pong
        } else if send.ping {
            send.ping = !out.control(&Frame::Ping(Role::Server));
            !send.ping
        } else {
            send.goodbye = !out.control(&Frame::Goodbye(Role::Server));
            !send.goodbye
        };
        if sent { Step::More } else { Step::Stop }
    }

    /// Writes the replies that wait, as far as there is room.
    #[inline(always)]
    fn send_replies(&mut self, index: u32, session_index: u32, out: &mut FrameWriter<'_>) -> Step {
        let Some(session) = self.sessions.live_mut(session_index) else { return Step::Stop };
        debug_assert!(session.conn == index, "a session's replies leave on its connection");
        let Some(calls) = session.calls.as_deref_mut() else { return Step::Stop };
        let mut number = calls.out.front().unwrap_or(NIL);
        let mut forgotten = None;
        let step = loop {
            if number == NIL {
                break Step::Stop;
            }
            let Some(slot) = calls.slots.live_mut(number) else { break Step::Stop };
            let (status, xid) = match slot.state {
                SlotState::Kept(status) => (status, slot.xid),
                _ => (Status::NotSeen { ask: slot.ask }, slot.not_seen),
            };
            let own = if status == Status::Done { slot.body.own() } else { Some(&[][..]) };
            let body_len = own.map_or_else(|| slot.body.shared_len(), <[u8]>::len);
            let header = Xid::new(xid)
                .and_then(|xid| wire::reply_header(&ReplyHeader { status, xid }, body_len));
            let Some(header) = header else {
                number = core::mem::take(&mut slot.out_links).next;
                continue;
            };
            let len = REPLY_HEADER_LEN + body_len;
            if !out.has_room_for(len, REPLY_HEADER_LEN) {
                break Step::Stop;
            }
            let at = match own {
                Some(body) => out.write(&header, body),
                // Where a link loses messages, a frame is one of them (S27), and does not leave in pieces.
                None => out.write_shared(&header, &slot.body, !self.config.lossy),
            };
            let sent = core::mem::replace(&mut number, core::mem::take(&mut slot.out_links).next);
            self.counters.replies += 1;
            if at < len {
                if let Some(conn) = self.conns.live_mut(index) {
                    conn.partial = Some(PartialFrame { header, at, body: PartialBody::Slot(sent) });
                }
                break Step::Stop;
            }
            if slot.idempotent {
                forgotten = Some(sent);
                break Step::More;
            }
        };
        // All before this one have left.
        calls.out.join(&mut calls.slots, NIL, number);
        if let Some(sent) = forgotten
            && let Some(mut view) = self.view(session_index)
        {
            view.forget_idempotent(sent);
        }
        step
    }

    fn continue_reply(&mut self, index: u32, out: &mut FrameWriter<'_>) -> Step {
        let Some(conn) = self.conns.live_mut(index) else { return Step::Stop };
        let session_index = conn.session.unwrap_or(NIL);
        let Some(partial) = &mut conn.partial else { return Step::More };
        let body = match &partial.body {
            // Polled again, so the driver has written it.
            PartialBody::Taken(_) | PartialBody::TakenDetached { .. } => {
                self.end_reply(index, session_index);
                return Step::More;
            }
            PartialBody::Detached { body, .. } => Some(body),
            PartialBody::Slot(number) => self
                .sessions
                .live(session_index)
                .and_then(|session| session.calls.as_deref()?.slots.at(*number))
                .map(|slot| &slot.body),
        };
        debug_assert!(body.is_some(), "what is leaving outlives its slot");
        if let Some(body) = body {
            debug_assert!(
                partial.at <= REPLY_HEADER_LEN + body.len(),
                "it is the reply that began"
            );
            partial.at = out.write_rest(&partial.header, body, partial.at);
            if partial.at < REPLY_HEADER_LEN + body.len() {
                return Step::Stop;
            }
        }
        self.end_reply(index, session_index);
        Step::More
    }

    /// The reply that was leaving on a connection has left.
    fn end_reply(&mut self, index: u32, session_index: u32) {
        let partial = self.conns.live_mut(index).and_then(|conn| conn.partial.take());
        if let (Some(partial), Some(mut view)) = (partial, self.view(session_index)) {
            view.release_partial(&partial);
        }
    }

    /// After [`poll_transmit`](Server::poll_transmit): the rest of the frame that is leaving on a connection, if it is in
    /// shared memory. It counts as sent whole. Send it before anything else, without copying it, and poll this
    /// connection's transmit again only when it has left: until then its bytes stay counted as kept (S11).
    #[cfg(feature = "alloc")]
    pub fn take_shared_tail(&mut self, conn: ConnId) -> Option<bytes::Bytes> {
        let live = self.conns.get_mut(conn.0)?;
        let session_index = live.session.unwrap_or(NIL);
        let partial = live.partial.as_mut()?;
        let from = partial.at.checked_sub(REPLY_HEADER_LEN)?;
        let (rest, taken) = match &partial.body {
            PartialBody::Detached { body, bytes } => {
                (body.shared_from(from)?, PartialBody::TakenDetached { bytes: *bytes })
            }
            PartialBody::Slot(number) => {
                let calls = self.sessions.live(session_index)?.calls.as_deref()?;
                let rest = calls.slots.at(*number)?.body.shared_from(from)?;
                (rest, PartialBody::Taken(*number))
            }
            PartialBody::Taken(_) | PartialBody::TakenDetached { .. } => return None,
        };
        partial.body = taken;
        Some(rest)
    }
}

/// Whether a connection has something to send.
#[inline]
pub(super) fn has_to_send<T: ServerStorage>(conn: &Conn<T::Body>, sessions: &Sessions<T>) -> bool {
    match conn.phase {
        // S30, S34.
        Phase::AwaitingRecord { .. } | Phase::AwaitingSession { .. } => return false,
        Phase::WelcomeDue { .. } => return true,
        _ => {}
    }
    let has_replies = || {
        let session = conn.session.and_then(|index| sessions.live(index));
        let calls = session.and_then(|session| session.calls.as_deref());
        calls.is_some_and(|calls| !calls.out.is_empty())
    };
    conn.partial.as_ref().is_some_and(PartialFrame::is_here)
        || !conn.send.is_empty()
        || has_replies()
}
