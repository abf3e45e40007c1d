//! Frames that come to a client.

use super::call::{CallState, Caller, NextFrame};
use super::config::DialFailure;
use super::recovery::{self, AfterRefuse, Answer, Heard};
use super::timers::ConnTimers;
use super::{Client, ClientSession, Goodbye, Phase, Received, Reply, ServerInfo};
use crate::error::{CloseReason, ProtocolError};
use crate::instance::{Instance, Schemas};
use crate::outcome::{Executed, Outcome, Status};
use crate::storage::{ClientStorage, Places};
use crate::time::Instant;
use crate::wire::{self, Control, Parsed, Refuse, ReplyHeader, ServerControl, VERSION, Welcome};

impl<S: ClientStorage> Client<S> {
    /// Takes received bytes, up to the first answer among them.
    ///
    /// Give the bytes that were not taken again, with whatever came behind them; while `item` is `Some`, there may be
    /// more in what is there already. Without a connection, everything is taken and dropped (S4).
    ///
    /// # Errors
    /// The server broke the protocol. The machine has let go of the connection: close it, and connect again.
    #[inline]
    pub fn handle_data<'d>(
        &mut self,
        now: Instant,
        data: &'d [u8],
    ) -> Result<Received<Reply<'d>>, ProtocolError> {
        self.advance_clock(now);
        if data.is_empty() { Ok(Received::NOTHING) } else { self.take_first(data) }
    }

    /// Takes what is at the front of `data`, and what is behind it if it is no answer.
    fn take_first<'d>(&mut self, data: &'d [u8]) -> Result<Received<Reply<'d>>, ProtocolError> {
        // As nearly always: the reply to a call, and nothing else to see to.
        let plain = wire::plain_reply(data, self.config.reply_len_max);
        let (Some((xid, body)), Phase::Up { goodbye, .. }) = (plain, self.phase) else {
            return self.take_frames(data, 0);
        };
        debug_assert!(
            matches!(
                wire::parse_server(data, self.config.reply_len_max),
                Ok(Parsed::OfCall(ReplyHeader { status: Status::Done, xid: parsed }, whole, _))
                    if parsed == xid && whole.len() == body.len()
            ),
            "both ways find the same"
        );
        let heard = self.heard(goodbye);
        let mut is_kept = true;
        let settled = self.table.settle_plain(xid, |known| {
            is_kept = recovery::is_kept_until_acked(known.idempotent, heard.lossy);
            let answer = recovery::answer(known, heard, Status::Done, body);
            matches!(answer, Answer::Settle(Outcome::Reply(_)))
        });
        let Some(call) = settled else { return self.take_frames(data, 0) };
        self.keepalive.on_progress();
        self.note_settled(if is_kept { body.len() } else { 0 });
        let reply = Reply { call, xid, outcome: Outcome::Reply(body) };
        Ok(Received { consumed: wire::REPLY_HEADER_LEN + body.len(), item: Some(reply), wanted: 0 })
    }

    /// Takes the frames behind `consumed`, up to the first answer.
    #[inline(never)]
    fn take_frames<'d>(
        &mut self,
        data: &'d [u8],
        mut consumed: usize,
    ) -> Result<Received<Reply<'d>>, ProtocolError> {
        let mut wanted = 0;
        let mut item = None;
        while item.is_none() && self.has_connection() {
            let rest = &data[consumed..];
            if rest.is_empty() {
                return Ok(Received { consumed, item, wanted });
            }
            self.keepalive.on_bytes(rest);
            let (step, len) = match wire::parse_server(rest, self.config.reply_len_max) {
                Ok(Parsed::Incomplete(len)) => {
                    wanted = len;
                    return Ok(Received { consumed, item, wanted });
                }
                Ok(Parsed::OfCall(header, body, len)) => (self.handle_reply(header, body), len),
                Ok(Parsed::Control(control, len)) => (self.handle_control(control), len),
                Err(error) => (Err(error), 0),
            };
            consumed += len;
            item = step.map_err(|error| self.handle_broken(error))?;
        }
        if !self.has_connection() && item.is_none() {
            consumed = data.len();
        }
        Ok(Received { consumed, item, wanted })
    }

    /// The server broke the protocol.
    #[cold]
    #[inline(never)]
    fn handle_broken(&mut self, error: ProtocolError) -> ProtocolError {
        match self.phase {
            Phase::Greeting { .. } => self.fail_greeting(DialFailure::of_greeting(&error)),
            _ => self.disconnect(),
        }
        error
    }

    fn handle_control<'d>(
        &mut self,
        control: Control<'_>,
    ) -> Result<Option<Reply<'d>>, ProtocolError> {
        match (control.decode_server()?, &mut self.phase) {
            (ServerControl::Welcome(welcome), Phase::Greeting { server_leaving }) => {
                let server_leaving = *server_leaving;
                self.handle_welcome(&welcome, server_leaving)?;
            }
            (ServerControl::Welcome(welcome), _) => {
                // S27: the answer to a `Hello` that was sent twice.
                let again = self.session.is_some_and(|session| session.id == welcome.session);
                if self.config.resend_after.is_none() || !again {
                    return Err(ProtocolError::UnexpectedWelcome);
                }
            }
            (ServerControl::Refuse(refuse, instance), _) => self.handle_refuse(refuse, instance),
            (ServerControl::Ping, _) => {
                self.output.pong = true;
                self.repeat_if_lossy();
            }
            (ServerControl::Pong, _) => {}
            // S25: the server drains; no new call leaves on this connection.
            (ServerControl::Goodbye, Phase::Greeting { server_leaving }) => *server_leaving = true,
            (ServerControl::Goodbye, Phase::Up { goodbye: goodbye @ Goodbye::NotSaid, .. }) => {
                *goodbye = Goodbye::ServerSaid;
            }
            (ServerControl::Goodbye, _) => {}
        }
        Ok(None)
    }

    /// What an answer on this connection is judged by.
    #[inline]
    fn heard(&self, goodbye: Goodbye) -> Heard {
        Heard {
            lossy: self.config.resend_after.is_some(),
            server_leaving: goodbye == Goodbye::ServerSaid,
        }
    }

    fn handle_reply<'d>(
        &mut self,
        header: ReplyHeader,
        body: &'d [u8],
    ) -> Result<Option<Reply<'d>>, ProtocolError> {
        let xid = header.xid;
        let unexpected = ProtocolError::UnexpectedAnswer { xid: xid.get() };
        let Phase::Up { goodbye, .. } = self.phase else { return Err(unexpected) };
        if !self.table.was_given(xid) {
            return Err(unexpected);
        }
        let heard = self.heard(goodbye);
        let Some((index, entry)) = self.table.find(xid) else {
            self.counters.late_answers += 1;
            return Ok(None);
        };
        let caller = entry.caller;
        let known = entry.known();
        match recovery::answer(known, heard, header.status, body) {
            Answer::Unexpected => Err(unexpected),
            Answer::Stale => Ok(None),
            Answer::Late => {
                self.counters.late_answers += 1;
                Ok(None)
            }
            Answer::SendAgain => {
                if let CallState::InFlight(sent) = &mut entry.state {
                    sent.next = Some(NextFrame::Request);
                }
                self.table.note_todo(index);
                Ok(None)
            }
            Answer::Hold => {
                if let CallState::InFlight(sent) = &mut entry.state {
                    sent.hold();
                }
                Ok(None)
            }
            Answer::Settle(outcome) if self.table.owner_settles(caller) => {
                let call = self.table.answer_durable(index);
                Ok(call.map(|call| Reply { call, xid, outcome }))
            }
            Answer::Settle(outcome) => {
                if caller == Caller::Gone {
                    self.note_unreported(index, outcome.executed());
                }
                let call = self.table.settle(index);
                let is_kept = recovery::is_kept_until_acked(known.idempotent, heard.lossy);
                self.note_settled(if is_kept { body.len() } else { 0 });
                Ok(call.map(|call| Reply { call, xid, outcome }))
            }
        }
    }

    /// A call is settled of which nothing is reported: it is one-way, or was forgotten.
    #[cold]
    #[inline(never)]
    fn note_unreported(&mut self, index: u32, executed: Executed) {
        let one_way =
            self.table.calls.live(index).is_some_and(|entry| entry.has(wire::FLAG_ONE_WAY));
        if one_way && executed == Executed::Yes {
            self.counters.one_way_executed += 1;
        }
    }

    fn handle_welcome(
        &mut self,
        welcome: &Welcome,
        server_leaving: bool,
    ) -> Result<(), ProtocolError> {
        debug_assert!(!self.is_connected());
        let grants = welcome.grants;
        let opened_read = self.session.is_none() && welcome.seen != 0;
        let sane = welcome.version == VERSION
            && !opened_read
            && welcome.features & !self.features() == 0
            && (1..=self.slots_max()).contains(&grants.slots)
            && grants.keepalive_ms > 0;
        if !sane {
            return Err(ProtocolError::UnexpectedWelcome);
        }
        let Welcome { service, server, instance, schemas, .. } = *welcome;
        self.server_info = Some(ServerInfo { instance, schemas });
        if let Some(reason) = recovery::check_server(&self.config, service, server) {
            self.refuse_for_good(reason);
            return Ok(());
        }
        let resumed = self.session.is_some();
        if let Some(session) = self.session {
            let known = recovery::Resumable {
                session: &session,
                sent: self.table.journaled_up_to,
                metadata_granted: self.flags_refused & wire::FLAG_METADATA == 0,
            };
            if let Some(end) = recovery::check_resumed(known, welcome) {
                self.session_lost(end, CloseReason::Refused(Refuse::SessionUnknown));
                return Ok(());
            }
            self.counters.resumes += 1;
        } else {
            self.counters.sessions += 1;
        }
        self.session = Some(ClientSession {
            id: welcome.session,
            server: welcome.server,
            service: welcome.service,
            grants,
            commit: welcome.commit,
        });
        let takes_metadata = welcome.features & wire::FEATURE_METADATA != 0;
        self.flags_refused = if takes_metadata { 0 } else { wire::FLAG_METADATA };
        let goodbye = if server_leaving { Goodbye::ServerSaid } else { Goodbye::NotSaid };
        self.phase = Phase::Up { seen: welcome.seen, goodbye };
        self.timers = ConnTimers::default();
        self.schedule_check();
        self.table.grant(grants.slots);
        self.table.start_resume();
        self.table.forget_comparisons();
        // S16: what was acknowledged by bits is acknowledged again after a resume.
        let at_once = self.table.settled_above(self.table.acked());
        self.schedule_ack(at_once);
        self.pending_events.connected = Some(resumed);
        Ok(())
    }

    fn handle_refuse(&mut self, refuse: Refuse, instance: Instance) {
        if self.server_info.is_none_or(|info| info.instance != instance) {
            self.server_info = Some(ServerInfo { instance, schemas: Schemas::EMPTY });
        }
        match recovery::after_refuse(&self.config, refuse) {
            AfterRefuse::Disconnect(reason) => self.drop_connection(reason),
            AfterRefuse::LoseSession(why, reason) if self.session.is_some() => {
                self.session_lost(why, reason);
            }
            AfterRefuse::LoseSession(_, reason) => self.drop_connection(reason),
            AfterRefuse::GiveUp(reason) => self.refuse_for_good(reason),
        }
    }
}
