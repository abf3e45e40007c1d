//! From admission to reply: the only way to run a call and to answer it.
//!
//! [`Admission`] and [`Running`] are rights that cannot be copied: a call cannot be started twice, nor answered twice.
//! A driver can write to a ledger before [`Server::start`] and before [`Server::reply`]: until then nothing leaves.

use core::fmt;

use super::dedup::{self, StartFacts};
use super::session::SessionState;
use super::slot::{SlotState, SlotView};
use super::{Server, Session, Slot};
use crate::ids::{ConnId, Key, SessionId, SessionKey, Xid};
use crate::outcome::{NoReply, NotExecuted, Status};
use crate::storage::{Payload, Places, ServerStorage, Table};
use crate::time::Instant;

/// Which call at which server: a name, not a right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallKey {
    pub(super) session: Key,
    pub(super) slot: u32,
    pub(super) xid: Xid,
}

impl CallKey {
    /// The session it belongs to.
    pub fn session(&self) -> SessionKey {
        SessionKey(self.session)
    }

    /// Its number in that session.
    pub fn xid(&self) -> Xid {
        self.xid
    }

    /// The slot that it occupies there.
    pub fn slot(&self) -> u32 {
        self.slot
    }
}

/// The right to start a call that was admitted.
///
/// Give it to [`Server::start`] or [`Server::refuse`]: losing it pins the call's slot until its session ends.
#[derive(Debug)]
#[must_use = "a call that is neither started nor refused pins its slot"]
pub struct Admission {
    pub(crate) key: CallKey,
}

impl Admission {
    /// Which call.
    pub fn key(&self) -> CallKey {
        self.key
    }
}

/// The right to answer a call that runs.
///
/// Give it to [`Server::reply`], [`Server::abort`], [`Server::no_reply`] or [`Server::roll_back`]: losing it pins the
/// call's slot, and its session, for good.
#[derive(Debug)]
#[must_use = "a call that is never answered pins its slot and its session"]
pub struct Running {
    pub(crate) key: CallKey,
    pub(crate) reply_len_max: u32,
}

impl Running {
    /// Which call.
    pub fn key(&self) -> CallKey {
        self.key
    }

    /// Bytes of the longest reply that will be kept; a longer one is recorded as too large (S15).
    pub fn reply_len_max(&self) -> usize {
        self.reply_len_max as usize
    }
}

/// [`Server::start`] or [`Server::authorize`] has refused a call: it will never run, and its client learns why. A connection is
/// refused by a [`Refuse`](crate::Refuse).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallRefused(pub NotExecuted);

impl fmt::Display for CallRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::error::Error for CallRefused {}

/// The reply was recorded as executed without a body (S15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTooLarge {
    /// Bytes in the reply.
    pub len: usize,
    /// Bytes that the method declares and the session was granted, whichever is less.
    pub max: usize,
}

impl fmt::Display for ReplyTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the reply has {} bytes, {} are allowed", self.len, self.max)
    }
}

impl core::error::Error for ReplyTooLarge {}

/// What a ledger records of a call (S28, S29).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallRecord<'a> {
    /// The call's number.
    pub xid: Xid,
    /// The digest of its request.
    pub digest: u64,
    /// How far it had come.
    pub state: RecordState<'a>,
}

/// How far a recorded call had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordState<'a> {
    /// Started, and not known to be finished: never run again (S28).
    Started,
    /// Finished with this reply.
    Done(&'a [u8]),
    /// Finished without a reply to show. A reason that only a client can have becomes `Aborted`.
    NoReply(NoReply),
}

impl<'a> RecordState<'a> {
    /// What is kept of a call that a ledger restores. S28: of one that was started no more can be known, and it is never
    /// run again.
    fn kept(self) -> (Status, &'a [u8]) {
        match self {
            RecordState::Started => (Status::Interrupted, &[]),
            RecordState::Done(body) => (Status::Done, body),
            RecordState::NoReply(why) => (dedup::status_of_no_reply(why), &[]),
        }
    }
}

impl<T: ServerStorage> Server<T> {
    /// Says whether the caller may make a call that was admitted, with [`ServerConfig::authorizes`]: the first thing to do
    /// with it, before its arguments are decoded. If it is allowed, memory is set aside for it, a request of `request_len`
    /// bytes to the method at `method_index`; otherwise, or without room, it is refused, and that is kept like any answer
    /// (S12).
    ///
    /// Only new calls come here: a duplicate is answered from what is kept, and an `Ask` is, too.
    ///
    /// # Errors
    /// Why it will never run.
    ///
    /// [`ServerConfig::authorizes`]: crate::ServerConfig::authorizes
    pub fn authorize(
        &mut self,
        now: Instant,
        admission: Admission,
        method_index: usize,
        request_len: usize,
        allowed: bool,
    ) -> Result<Admission, CallRefused> {
        debug_assert!(self.config.authorizes, "memory was set aside when it was admitted");
        self.advance_clock(now);
        let key = admission.key;
        let gone = CallRefused(NotExecuted::Cancelled);
        let method = self.methods.get(method_index).copied().ok_or(gone)?;
        let index = self.live_session(key.session()).ok_or(gone)?;
        let view = &mut self.view(index).ok_or(gone)?;
        let waits =
            |slot: &&Slot<T::Body>| slot.xid == key.xid.get() && slot.state == SlotState::Admitted;
        let slot = view.slot(key.slot).filter(waits).ok_or(gone)?;
        let reply = if slot.one_way { 0 } else { view.reply_max(&method) };
        let bytes = (reply, u32::try_from(request_len).unwrap_or(u32::MAX));
        match dedup::may_reserve(allowed, view.fits(bytes.0, bytes.1)) {
            Ok(()) => {
                view.reserve(key.slot, bytes);
                Ok(admission)
            }
            Err(why) => {
                self.finish(index, key.slot, Status::Refused(why), Payload::EMPTY);
                Err(CallRefused(why))
            }
        }
    }

    /// Decides whether an admitted call runs (S17): a passed deadline, a cancel or a drain has it refused, and its
    /// client learns so. Write a started record before, and start only when it is stable (S28).
    ///
    /// # Errors
    /// Why it will never run.
    #[inline]
    pub fn start(&mut self, now: Instant, admission: Admission) -> Result<Running, CallRefused> {
        self.advance_clock(now);
        let key = admission.key;
        let gone = CallRefused(NotExecuted::Cancelled);
        let (draining, ledger_failed, now) = (self.drain.is_some(), self.ledger_failed, self.now);
        let session = self.sessions.get_mut(key.session).ok_or(gone)?;
        if session.state.is_ended() {
            return Err(gone);
        }
        let aborting = session.state.is_aborting();
        let calls = session.calls.as_deref_mut().ok_or(gone)?;
        let slot = calls.slots.at_mut(key.slot).ok_or(gone)?;
        if slot.xid != key.xid.get() || slot.state != SlotState::Admitted {
            return Err(gone);
        }
        let facts = StartFacts {
            cancelled: slot.cancelled,
            aborting,
            past_deadline: slot.deadline <= now,
            draining,
            ledger_failed,
        };
        if let Err(why) = dedup::may_start(&facts) {
            self.finish(key.session.index, key.slot, Status::Refused(why), Payload::EMPTY);
            return Err(CallRefused(why));
        }
        debug_assert!(slot.not_seen == 0, "a request answers the question whether it came");
        slot.state = SlotState::Running;
        Ok(Running { key, reply_len_max: slot.bytes })
    }

    /// Refuses an admitted call. A reason that only a client can have becomes `BadArguments`.
    pub fn refuse(&mut self, now: Instant, admission: Admission, why: NotExecuted) {
        self.advance_clock(now);
        self.conclude(admission.key, SlotState::Admitted, |_| {
            (dedup::status_of_refusal(why), Payload::EMPTY)
        });
    }

    /// Answers a call: its reply is kept until the client has seen it, and sent if it can be. Write the completion
    /// record before, and reply only when it is stable (S28, S29).
    ///
    /// If its session has ended meanwhile, nothing happens.
    ///
    /// # Errors
    /// If the reply is too large; the call is then recorded as executed without a body (S15).
    #[inline]
    pub fn reply<'a>(
        &mut self,
        now: Instant,
        running: Running,
        body: impl Into<Payload<'a>>,
    ) -> Result<(), ReplyTooLarge> {
        let body = body.into();
        self.answer(now, running, body.as_slice().len(), false, body, None).map(|_| ())
    }

    /// Answers a call like [`reply`](Server::reply), and writes the reply to `out` at once if it may leave on `conn` now. `conn` is
    /// the connection that brought the request, and `out` the free part of the buffer of what is sent on it next.
    ///
    /// Returns the length in bytes of the frame that was written at the front of `out`. The frame has left the machine, like one that
    /// [`poll_transmit`](Server::poll_transmit) wrote: send it before anything that is polled later.
    ///
    /// Returns 0 if nothing was written. The reply then waits for [`poll_transmit`](Server::poll_transmit), as after `reply`. That is so
    /// if its client does not listen on `conn` (S4), if other frames wait there, if `out` has no room for the whole frame, or if the
    /// body is shared.
    ///
    /// It saves a lone reply its event and its poll. Where many calls end at once, one poll writes all their replies as cheaply.
    ///
    /// # Errors
    /// If the reply is too large; the call is then recorded as executed without a body (S15), and nothing is written.
    #[inline]
    pub fn reply_into<'a>(
        &mut self,
        now: Instant,
        running: Running,
        body: impl Into<Payload<'a>>,
        conn: ConnId,
        out: &mut [u8],
    ) -> Result<usize, ReplyTooLarge> {
        let body = body.into();
        self.answer(now, running, body.as_slice().len(), false, body, Some((conn.0, out)))
    }

    /// [`reply`](Server::reply) with a body that is sent behind its length, a varint, which is a part of it for the client: what
    /// most encodings write of bytes. So these need not be copied to be encoded.
    ///
    /// # Errors
    /// Likewise.
    #[cfg(feature = "alloc")]
    #[cold]
    pub fn reply_with_len(
        &mut self,
        now: Instant,
        running: Running,
        body: bytes::Bytes,
    ) -> Result<(), ReplyTooLarge> {
        let len = crate::wire::len_with_len(body.len());
        self.answer(now, running, len, true, body.into(), None).map(|_| ())
    }

    /// Keeps a reply of `len` bytes, and writes it to `out` if it may leave there now. Returns the bytes that were written.
    #[inline(always)]
    fn answer(
        &mut self,
        now: Instant,
        running: Running,
        len: usize,
        with_len: bool,
        body: Payload<'_>,
        out: Option<(Key, &mut [u8])>,
    ) -> Result<usize, ReplyTooLarge> {
        self.advance_clock(now);
        let max = running.reply_len_max();
        let mut too_large = false;
        let end = |slot: &Slot<T::Body>| {
            let status = dedup::status_of_reply(slot.one_way, len, max);
            too_large = status != Status::Done;
            let is_kept = status == Status::Done && !slot.one_way;
            (status, if is_kept { body } else { Payload::EMPTY })
        };
        let sent = self.conclude_as(with_len, running.key, SlotState::Running, end, out);
        if too_large { Err(ReplyTooLarge { len, max }) } else { Ok(sent) }
    }

    /// The handler panicked or passed its time limit: executed, perhaps in part, and never again (S14).
    pub fn abort(&mut self, now: Instant, running: Running) {
        self.no_reply(now, running, NoReply::Aborted);
    }

    /// The call was executed, and there is no reply to show. A reason that only a client can have becomes `Aborted`.
    pub fn no_reply(&mut self, now: Instant, running: Running, why: NoReply) {
        self.advance_clock(now);
        let status = dedup::status_of_no_reply(why);
        self.conclude(running.key, SlotState::Running, |_| (status, Payload::EMPTY));
    }

    /// A call that was started has left no trace, and never will: the transaction in which it ran was rolled back (S14),
    /// or it never came to its handler. A reason that only a client can have becomes `BadArguments`.
    pub fn roll_back(&mut self, now: Instant, running: Running, why: NotExecuted) {
        self.advance_clock(now);
        self.conclude(running.key, SlotState::Running, |_| {
            (dedup::status_of_refusal(why), Payload::EMPTY)
        });
    }

    /// The session of a call and its slot, unless the session has ended or the slot has moved on.
    fn find(&self, key: CallKey) -> Option<(&Session<T>, &Slot<T::Body>)> {
        let session = self.sessions.live(self.live_session(key.session())?)?;
        let slot = session.calls.as_deref()?.slots.at(key.slot)?;
        (slot.xid == key.xid.get()).then_some((session, slot))
    }

    /// Whether a client no longer wants a call that is admitted or runs.
    pub fn is_cancelled(&self, key: CallKey) -> bool {
        self.find(key).is_some_and(|(_, slot)| slot.cancelled)
    }

    /// Whether a call that is admitted or runs is still wanted: it was not cancelled, the lease of its session is not
    /// over, and neither is the grace of a drain. False for a call that has finished.
    pub fn is_wanted(&self, key: CallKey) -> bool {
        let grace_is_over = self.drain.as_ref().is_some_and(|drain| drain.over);
        !grace_is_over
            && self.find(key).is_some_and(|(session, slot)| {
                session.state.is_open() && slot.state.is_running() && !slot.cancelled
            })
    }

    /// What a ledger writes of a call beside its reply: its session's id and its request's digest.
    pub fn record_of(&self, key: CallKey) -> Option<(SessionId, u64)> {
        self.find(key).map(|(session, slot)| (session.id, slot.digest))
    }

    /// The calls of a session that are admitted, run, or are kept, by xid: of all others a ledger may forget its record.
    pub fn held_calls(&self, session: SessionKey) -> impl Iterator<Item = Xid> {
        let index = self.live_session(session);
        let calls = index.and_then(|index| self.sessions.live(index)?.calls.as_deref());
        let xids = calls.map(|calls| calls.held.xids(&calls.slots));
        xids.into_iter().flatten().filter_map(Xid::new)
    }

    /// Puts back what a ledger has kept of a call (S28). A record never replaces one of a later xid on its slot.
    ///
    /// False, and nothing done, if a later one is there, if the call runs, or if the client has seen its answer.
    pub fn restore_call(&mut self, session: SessionKey, record: CallRecord<'_>) -> bool {
        let Some(index) = self.live_session(session) else { return false };
        let number = record.xid.get();
        let Some(mut view) = self.view(index) else { return false };
        let slot_number = view.session.slot_of(number);
        let slot = view.slot(slot_number).map_or(SlotView::UNUSED, Slot::view);
        let started = record.state == RecordState::Started;
        if !dedup::may_restore(view.session.acked, &slot, number, started) {
            return false;
        }
        view.discard(slot_number);
        let (status, body) = record.state.kept();
        if view.slot(slot_number).is_none() {
            view.grow(slot_number);
        }
        // What was kept before the restart is kept after it, whatever the budget says now (S11).
        view.hold(slot_number, number, (body.len() as u32, 0), |slot| {
            slot.digest = record.digest;
            slot.idempotent = false;
            slot.one_way = false;
        });
        self.finish(index, slot_number, status, body.into());
        true
    }

    /// Ends a call that is in `state`, as `end` says; nothing happens if it, or its session, is not there any more
    /// (C30).
    #[inline(always)]
    fn conclude<'a>(
        &mut self,
        key: CallKey,
        state: SlotState,
        end: impl FnOnce(&Slot<T::Body>) -> (Status, Payload<'a>),
    ) {
        self.conclude_as(false, key, state, end, None);
    }

    /// The same of one whose body, if that is shared, may be kept behind its length, and whose reply may be written at once: see
    /// [`finish`](SessionView::finish). Returns the bytes that were written.
    #[inline(always)]
    fn conclude_as<'a>(
        &mut self,
        with_len: bool,
        key: CallKey,
        state: SlotState,
        end: impl FnOnce(&Slot<T::Body>) -> (Status, Payload<'a>),
        out: Option<(Key, &mut [u8])>,
    ) -> usize {
        let index = key.session.index;
        let Some(mut view) = self.view(index) else { return 0 };
        if view.key != key.session || view.session.state.is_ended() {
            return 0;
        }
        let end = |slot: &Slot<T::Body>| {
            (slot.xid == key.xid.get() && slot.state == state).then(|| end(slot))
        };
        let (is_unsent, sent) = view.finish(key.slot, with_len, end, out);
        if is_unsent || view.session.state != SessionState::Open {
            self.finish_unsent(index, key.slot, is_unsent);
        }
        sent
    }

    /// Records the end of a call that was admitted or ran, and sends it if its client listens.
    pub(super) fn finish(
        &mut self,
        index: u32,
        slot_number: u32,
        status: Status,
        body: Payload<'_>,
    ) {
        let Some(mut view) = self.view(index) else { return };
        let (is_unsent, _) = view.finish(slot_number, false, |_| Some((status, body)), None);
        self.finish_unsent(index, slot_number, is_unsent);
    }

    /// What is left to do for a call that has ended and whose client does not listen, or whose session may be over. Apart, so that a
    /// view of the session need not lie in memory for it.
    #[cold]
    fn finish_unsent(&mut self, index: u32, slot_number: u32, is_unsent: bool) {
        let Some(mut view) = self.view(index) else { return };
        if is_unsent {
            view.forget_idempotent(slot_number);
        }
        if view.session.state != SessionState::Open {
            self.end_if_due(index);
        }
    }
}
