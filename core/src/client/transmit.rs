//! Frames that a client sends, in the order in which they must leave.

mod acks;

use core::num::NonZeroUsize;
use core::time::Duration;

use super::call::{CallEntry, CallState, Cancel, InFlight, NextFrame};
use super::calls::PartialRequest;
use super::recovery::{self, Resumed};
use super::{Client, Goodbye, Phase};
use crate::ids::Xid;
use crate::keepalive::NEVER;
use crate::outcome::Outcome;
use crate::storage::{Body, ClientStorage, Places};
use crate::time::{Instant, Timer};
use crate::wire::writer::FrameWriter;
use crate::wire::{self, Frame, Hello, REQUEST_HEADER_LEN, RequestHeader, Resume, Role};

/// A shorter time would come again at once, for ever.
const RESEND_AFTER_MIN: Duration = Duration::from_millis(1);

/// What waits to be sent on the current connection, apart from requests and questions.
#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(super) struct Output {
    hello: bool,
    pub(super) pong: bool,
    pub(super) ping: bool,
    /// Our `Goodbye`, if it was sent, is due again (S27). It counts as sent all the same: no request follows it.
    goodbye_again: bool,
    /// Bytes of the replies that were settled since a frame has said of all that they are (S16). `None` if none was.
    ack_owed: Option<usize>,
    /// The first slot of the next `Ack`, while a round of them is leaving.
    ack_round: Option<u32>,
}

impl Output {
    pub(super) fn greet(&mut self) {
        self.hello = true;
    }

    #[inline]
    fn has_control(&self) -> bool {
        self.hello | self.pong | self.ping
    }

    pub(super) fn owes_ack(&self) -> bool {
        self.ack_owed.is_some() || self.ack_round.is_some()
    }
}

/// Whether there may be more to send.
enum Step {
    More,
    /// Nothing to send, or no room for it.
    Stop,
}

impl<S: ClientStorage> Client<S> {
    /// Writes what is due at the front of `out` and returns its length; `None` when there is nothing to send.
    /// Bytes so written count as sent. Poll until `None` after every other `&mut self` call. Durable calls leave only once
    /// [`poll_unjournaled`](Client::poll_unjournaled) has returned them and [`journaled`](Client::journaled) has covered
    /// them.
    ///
    /// A body of 64 KiB or more in shared memory is not copied behind its header: what is written ends with that, and
    /// [`take_shared_tail`](Client::take_shared_tail) has the body. Polled again without that, it is copied.
    ///
    /// `out` must hold at least [`wire::CONTROL_LEN_MAX`] bytes: in a shorter one, some frames never fit.
    #[inline]
    pub fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<NonZeroUsize> {
        self.advance_clock(now);
        if !self.has_nothing_to_send() {
            return self.transmit(out);
        }
        debug_assert!(self.step_sends_nothing(), "both ways find the same");
        None
    }

    /// Whether nothing is due on a connection that is up: what is found after all has been sent.
    #[inline(always)]
    fn has_nothing_to_send(&self) -> bool {
        let is_quiet = self.table.has_nothing_to_send() && !self.output.has_control();
        is_quiet && self.is_connected() && !self.wants_ack() && !self.wants_goodbye()
    }

    /// Whether a step would have nothing to send either; then it changes nothing.
    #[cold]
    fn step_sends_nothing(&mut self) -> bool {
        let mut scratch = [0; 64];
        let mut out = FrameWriter::new(&mut scratch);
        matches!(self.transmit_step(&mut out), Step::Stop) && out.written() == 0
    }

    #[inline(never)]
    fn transmit(&mut self, out: &mut [u8]) -> Option<NonZeroUsize> {
        let mut written = 0;
        // As nearly always: there are calls that wait, and nothing goes before them. What goes behind them, the next poll finds.
        if self.may_begin_calls() && self.table.only_waits() && !self.output.has_control() {
            let mut writer = FrameWriter::new(out);
            self.send_all_waiting(&mut writer);
            written = writer.written();
        }
        if written == 0 {
            written = self.transmit_any(out);
        }
        let written = NonZeroUsize::new(written);
        if written.is_some() {
            self.keepalive.on_sent();
        }
        written
    }

    /// Writes whatever is due. Apart, so that for calls that wait the writer need not lie in memory.
    #[cold]
    fn transmit_any(&mut self, out: &mut [u8]) -> usize {
        let mut writer = FrameWriter::new(out);
        while let Step::More = self.transmit_step(&mut writer) {}
        writer.written()
    }

    fn transmit_step(&mut self, out: &mut FrameWriter<'_>) -> Step {
        if self.table.partial.is_some() {
            return self.continue_request(out);
        }
        if self.output.has_control() {
            return self.send_control(out);
        }
        if !self.is_connected() {
            return Step::Stop;
        }
        // S21: calls in doubt come first, in xid order, so that the server admits them in that order (S13).
        if let Some(index) = self.table.resume_at {
            return self.resume_call(index, out);
        }
        if let Some(index) = self.table.first_to_do() {
            return self.do_for_call(index, out);
        }
        if self.may_begin_calls() {
            self.send_all_waiting(out);
            if self.table.partial.is_some() {
                return Step::Stop;
            }
        }
        if self.wants_ack() {
            return self.send_ack(out);
        }
        if self.wants_goodbye()
            && out.control(&Frame::Goodbye(Role::Client))
            && let Phase::Up { goodbye, .. } = &mut self.phase
        {
            *goodbye = Goodbye::Said;
            self.output.goodbye_again = false;
        }
        Step::Stop
    }

    #[cold]
    fn send_control(&mut self, out: &mut FrameWriter<'_>) -> Step {
        debug_assert!(self.has_connection());
        if self.output.hello {
            return self.send_hello(out);
        }
        let (waits, frame) = if self.output.pong {
            (&mut self.output.pong, Frame::Pong(Role::Client))
        } else {
            (&mut self.output.ping, Frame::Ping(Role::Client))
        };
        *waits = !out.control(&frame);
        if *waits { Step::Stop } else { Step::More }
    }

    fn send_hello(&mut self, out: &mut FrameWriter<'_>) -> Step {
        let acked = self.table.acked();
        let resume = self.session.map(|session| Resume { session: session.id, acked });
        let hello = Hello {
            magic: wire::MAGIC,
            version_min: wire::VERSION,
            version_max: wire::VERSION,
            features: self.features(),
            resume,
            slots: self.slots_max(),
            request_len_max: self.config.request_len_max.min(S::Body::LEN_MAX as u32),
            reply_len_max: self.config.reply_len_max,
            service: self.config.service,
            server: self.config.server,
            token: self.config.token,
        };
        if !out.control(&Frame::Hello(hello)) {
            return Step::Stop;
        }
        self.output.hello = false;
        if let Some(after) = self.config.resend_after {
            self.timers.hello_again = Timer::at(self.now + after.max(RESEND_AFTER_MIN));
        }
        Step::More
    }

    /// What a `Hello` of this client offers.
    pub(super) fn features(&self) -> u32 {
        let durable = if self.config.durable { wire::FEATURE_DURABLE } else { 0 };
        let patient = if self.config.keepalive == NEVER { wire::FEATURE_PATIENT } else { 0 };
        let token = if self.config.token.is_some() { wire::FEATURE_TOKEN } else { 0 };
        durable | patient | token | wire::FEATURE_METADATA
    }

    pub(super) fn slots_max(&self) -> u32 {
        let storage = u32::try_from(super::CallTable::<S>::SLOTS_MAX).unwrap_or(u32::MAX);
        self.config.slots.clamp(1, 65_536).min(storage)
    }

    /// S21 for one call.
    fn resume_call(&mut self, index: u32, out: &mut FrameWriter<'_>) -> Step {
        debug_assert!(!self.has_said_goodbye(), "nothing was unsettled then");
        let Phase::Up { seen, .. } = self.phase else { return Step::Stop };
        let Some(entry) = self.table.calls.live(index) else { return Step::Stop };
        let Some(xid) = entry.state.xid() else { return Step::Stop };
        let known = recovery::Resume {
            above_seen: xid.get() > seen,
            journaled: xid.get() <= self.table.journaled_up_to,
            lossy: self.config.resend_after.is_some(),
        };
        match recovery::resumed(entry.known(), known) {
            Resumed::Send(frame) => {
                if !self.send(index, frame, out) {
                    return Step::Stop;
                }
                self.table.advance_resume();
                self.table.cancel_again(index);
            }
            // It moves the resume on.
            Resumed::Settle(outcome) => self.settle_with(index, outcome),
            Resumed::Hold => {
                if let Some(entry) = self.table.calls.live_mut(index)
                    && let CallState::InFlight(sent) = &mut entry.state
                {
                    sent.hold();
                }
                self.table.advance_resume();
            }
            Resumed::Skip => self.table.advance_resume(),
            Resumed::Stop => self.table.resume_at = None,
        }
        Step::More
    }

    /// Sends one of the frames that a call has to send.
    fn do_for_call(&mut self, index: u32, out: &mut FrameWriter<'_>) -> Step {
        let Some(entry) = self.table.calls.live(index) else { return Step::Stop };
        let next = match entry.state {
            CallState::Numbered { .. } => Some(NextFrame::Request),
            CallState::InFlight(sent) => sent.next,
            _ => None,
        };
        let sent = match (next, entry.state) {
            (Some(next), _) => match recovery::repeated(entry.known(), next) {
                Some(frame) => self.send(index, frame, out),
                None => {
                    // The comparison of its method puts it on the list again.
                    self.table.done(index);
                    return Step::More;
                }
            },
            (None, CallState::InFlight(sent)) if sent.cancel() == Cancel::Due => {
                let is_sent = out.control(&Frame::Cancel(sent.xid));
                if is_sent {
                    self.table.note_cancel_sent(index);
                }
                is_sent
            }
            // The resume has sent it.
            _ => true,
        };
        if !sent {
            return Step::Stop;
        }
        if !self.table.calls.live(index).is_some_and(|entry| entry.state.has_todo()) {
            self.table.done(index);
        }
        Step::More
    }

    fn send(&mut self, index: u32, frame: NextFrame, out: &mut FrameWriter<'_>) -> bool {
        match frame {
            NextFrame::Request => self.send_request(index, out),
            NextFrame::Ask => self.send_ask(index, out),
        }
    }

    /// Sends calls that wait, as far as there are slots for them, and room.
    #[inline(always)]
    fn send_all_waiting(&mut self, out: &mut FrameWriter<'_>) {
        // All acknowledge what the first one does, since none of those that it leaves unsettled is settled meanwhile.
        let mut acked = None;
        while let Some(index) = self.table.first_waiting
            && let Step::More = self.send_waiting(index, &mut acked, out)
        {}
    }

    #[inline(always)]
    fn send_waiting(
        &mut self,
        index: u32,
        acked: &mut Option<u64>,
        out: &mut FrameWriter<'_>,
    ) -> Step {
        if self.config.durable {
            // Its owner takes it from `poll_unjournaled`.
            return Step::Stop;
        }
        let Some(entry) = self.table.calls.live(index) else { return Step::Stop };
        let len = entry.body.len();
        if let Some(outcome) = self.refuse_to_send(entry) {
            self.table.end(index, outcome);
            return Step::More;
        }
        // It gets its xid only when its first byte leaves (S8).
        if !out.has_room_for(REQUEST_HEADER_LEN + len, REQUEST_HEADER_LEN) {
            return Step::Stop;
        }
        let behind = entry.behind();
        let Some(xid) = self.table.assign_xid(index, behind) else { return Step::Stop };
        let acked = match *acked {
            Some(acked) => acked,
            None => *acked.insert(self.acknowledge_with(index, xid)),
        };
        if self.write_request(index, xid, acked, out) { Step::More } else { Step::Stop }
    }

    /// How a call that waits ends instead of being sent, if it does.
    #[inline]
    pub(super) fn refuse_to_send(&self, entry: &CallEntry<S::Body>) -> Option<Outcome<'static>> {
        let granted = self.session.map_or(0, |session| session.grants.request_len_max);
        let waiting = recovery::Waiting {
            deadline_passed: entry.deadline.is_due(self.now),
            fits: entry.body.len() <= granted as usize,
            metadata_unsupported: entry.has(self.flags_refused),
        };
        recovery::refuse_to_send(entry.known(), waiting)
    }

    /// Begins to send a request again; false if there is no room for its beginning.
    fn send_request(&mut self, index: u32, out: &mut FrameWriter<'_>) -> bool {
        let Some(entry) = self.table.calls.live(index) else { return false };
        let Some(xid) = entry.state.xid() else { return false };
        let len = entry.body.len();
        let has_room = out.has_room_for(REQUEST_HEADER_LEN + len, REQUEST_HEADER_LEN);
        if has_room {
            let acked = self.acknowledge_with(index, xid);
            self.write_request(index, xid, acked, out);
        }
        has_room
    }

    /// Begins to send a request for whose beginning there is room.
    #[inline(always)]
    fn write_request(
        &mut self,
        index: u32,
        xid: Xid,
        acked: u64,
        out: &mut FrameWriter<'_>,
    ) -> bool {
        debug_assert!(
            self.is_connected() && !self.has_said_goodbye() && self.table.partial.is_none()
        );
        debug_assert!(self.table.was_given(xid), "S8: no byte leaves of what is not journaled");
        debug_assert_eq!(acked, self.table.acked_with(index, xid));
        let Some(entry) = self.table.calls.live_mut(index) else { return true };
        entry.note_sent(xid, NextFrame::Request);
        self.counters.sent += 1;
        self.counters.resends += u64::from(entry.may_have_run);
        let header = RequestHeader {
            flags: entry.flags,
            method: entry.method,
            remaining_ms: entry.deadline.millis_left(self.now),
            xid,
            acked,
        };
        let own = entry.body.own();
        let len = own.map_or_else(|| entry.body.shared_len(), <[u8]>::len);
        let header = wire::request_header(&header, len);
        debug_assert!(header.is_some(), "a body is no longer than the session's grant");
        let Some(header) = header else { return true };
        let at = match own {
            Some(body) => out.write(&header, body),
            // Where a link loses messages, a frame is one of them (S27), and does not leave in pieces.
            None => out.write_shared(&header, &entry.body, self.config.resend_after.is_none()),
        };
        let is_whole = at == REQUEST_HEADER_LEN + len;
        if !is_whole {
            self.table.partial = Some(PartialRequest { index, header, at });
        }
        self.arm_resend(index);
        is_whole
    }

    /// Writes more of the request that is leaving.
    #[inline]
    fn continue_request(&mut self, out: &mut FrameWriter<'_>) -> Step {
        let Some(partial) = &mut self.table.partial else { return Step::More };
        let Some(entry) = self.table.calls.live(partial.index) else { return Step::Stop };
        partial.at = out.write_rest(&partial.header, &entry.body, partial.at);
        if partial.at < REQUEST_HEADER_LEN + entry.body.len() {
            return Step::Stop;
        }
        self.table.transmit_finished();
        Step::More
    }

    /// After [`poll_transmit`](Client::poll_transmit): the rest of the frame that is leaving, if it is in shared memory.
    /// It counts as sent whole. Send it before anything else, without copying it.
    #[cfg(feature = "alloc")]
    pub fn take_shared_tail(&mut self) -> Option<bytes::Bytes> {
        let partial = self.table.partial.as_ref()?;
        let from = partial.at.checked_sub(REQUEST_HEADER_LEN)?;
        let rest = self.table.calls.live(partial.index)?.body.shared_from(from)?;
        self.table.transmit_finished();
        Some(rest)
    }

    fn send_ask(&mut self, index: u32, out: &mut FrameWriter<'_>) -> bool {
        let Some(entry) = self.table.calls.live_mut(index) else { return false };
        let (xid, number) = match entry.state {
            CallState::InFlight(sent) => (sent.xid, sent.next_ask()),
            // The server says that it has read it.
            CallState::Numbered { xid } => (xid, InFlight::new(xid).next_ask()),
            state => {
                debug_assert!(false, "{state:?}");
                return false;
            }
        };
        if !out.control(&Frame::Ask(xid, number)) {
            return false;
        }
        entry.note_sent(xid, NextFrame::Ask);
        debug_assert!(self.table.was_given(xid), "S8: nothing leaves of what is not journaled");
        self.counters.asks += 1;
        self.arm_resend(index);
        true
    }

    /// S27: on a link that loses messages, an unanswered request or question is sent again.
    #[inline(always)]
    pub(super) fn arm_resend(&mut self, index: u32) {
        let Some(after) = self.config.resend_after else { return };
        if let Some(entry) = self.table.calls.live_mut(index)
            && let CallState::InFlight(sent) = &mut entry.state
        {
            let after = after.max(RESEND_AFTER_MIN).saturating_mul(1 << sent.resends);
            sent.resend = Timer::at(self.now + after);
            self.table.rearm(index);
        }
    }

    fn wants_goodbye(&self) -> bool {
        let Phase::Up { goodbye, .. } = self.phase else { return false };
        if goodbye == Goodbye::Said {
            return self.output.goodbye_again;
        }
        recovery::may_say_goodbye(recovery::KnownSession {
            server_leaving: goodbye == Goodbye::ServerSaid,
            exhausted: self.table.is_exhausted(),
            closing: self.is_closing(),
            nothing_waits: self.table.nothing_waits(),
            nothing_unsettled: self.table.nothing_unsettled(),
        })
    }
}
