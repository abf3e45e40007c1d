//! What becomes of a call, with its reply decoded; and the ticket that may be left of it.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use oncewire_core::{Executed, NoReply, NotExecuted, Unknown};
use serde::de::DeserializeOwned;

use super::pending::PendingId;
use super::shared::Shared;
use crate::decode::{ValueLimits, decode_shared};
use crate::reply::{RawOutcome, ReplyBody};

/// The one truthful outcome of a call.
///
/// | to | use |
/// |---|---|
/// | tell all outcomes apart | `match` |
/// | take the reply, by `?` | [`ok`](Outcome::ok); [`Call::result`](crate::Call::result) says more in its error |
/// | do so, and keep the ticket | [`into_result`](Outcome::into_result) |
/// | make again what was not executed | [`or_not_executed`](Outcome::or_not_executed), [`Retry`](crate::Retry) |
/// | look, and keep the outcome | [`failure`](Outcome::failure), [`executed`](Outcome::executed) |
///
/// There is no `map`: a ticket gives the reply that the method has, later. Map the `Result`.
#[derive(Debug)]
#[must_use = "the call may not have been executed: this says whether it was"]
pub enum Outcome<R> {
    /// Executed; here is the reply.
    Reply(R),
    /// Executed, perhaps in part, but there is no reply to show.
    NoReply(NoReply),
    /// Not executed, and it never will be.
    NotExecuted(NotExecuted),
    /// It is not known whether it was executed. The ticket, if there is one, waits for the answer.
    Unknown(Unknown, Option<Ticket<R>>),
}

impl<R> Outcome<R> {
    /// Whether the call was executed.
    pub fn executed(&self) -> Executed {
        match self {
            Outcome::Reply(_) | Outcome::NoReply(_) => Executed::Yes,
            Outcome::NotExecuted(_) => Executed::No,
            Outcome::Unknown(..) => Executed::Unknown,
        }
    }

    /// The reply, or why there is none; drops the ticket.
    ///
    /// # Errors
    /// Everything but a reply.
    pub fn ok(self) -> Result<R, CallFailure> {
        match self {
            Outcome::Reply(reply) => Ok(reply),
            Outcome::NoReply(why) => Err(CallFailure::NoReply(why)),
            Outcome::NotExecuted(why) => Err(CallFailure::NotExecuted(why)),
            Outcome::Unknown(why, _) => Err(CallFailure::Unknown(why)),
        }
    }

    /// Why there is no reply, if there is none: what to branch on, without taking the outcome.
    pub fn failure(&self) -> Option<CallFailure> {
        match self {
            Outcome::Reply(_) => None,
            Outcome::NoReply(why) => Some(CallFailure::NoReply(*why)),
            Outcome::NotExecuted(why) => Some(CallFailure::NotExecuted(*why)),
            Outcome::Unknown(why, _) => Some(CallFailure::Unknown(*why)),
        }
    }
}

/// Why a call has no reply, in any of the three outcomes without one: a value to branch on, and an error to pass on.
/// [`FailedCall`](crate::FailedCall) carries it together with the call's ticket and report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallFailure {
    /// Executed, perhaps in part.
    NoReply(NoReply),
    /// Not executed, and it never will be.
    NotExecuted(NotExecuted),
    /// It is not known whether it was executed.
    Unknown(Unknown),
}

impl CallFailure {
    /// Whether the call was executed.
    pub fn executed(&self) -> Executed {
        match self {
            CallFailure::NoReply(_) => Executed::Yes,
            CallFailure::NotExecuted(_) => Executed::No,
            CallFailure::Unknown(_) => Executed::Unknown,
        }
    }
}

impl fmt::Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallFailure::NoReply(why) => why.fmt(f),
            CallFailure::NotExecuted(why) => why.fmt(f),
            CallFailure::Unknown(why) => why.fmt(f),
        }
    }
}

impl std::error::Error for CallFailure {}

impl<R> From<CallFailure> for Outcome<R> {
    /// Without a ticket.
    fn from(failure: CallFailure) -> Outcome<R> {
        match failure {
            CallFailure::NoReply(why) => Outcome::NoReply(why),
            CallFailure::NotExecuted(why) => Outcome::NotExecuted(why),
            CallFailure::Unknown(why) => Outcome::Unknown(why, None),
        }
    }
}

/// How the bytes of a reply become a value.
///
/// A function pointer, so that calls need no bound on their reply's type.
pub(crate) struct Decode<R> {
    /// Always ready. See [`Decode::poll_reply`].
    decode: fn(&mut ReplyBody, &ValueLimits) -> Poll<Outcome<R>>,
    limits: ValueLimits,
    types: PhantomData<fn() -> R>,
}

impl<R> Clone for Decode<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Decode<R> {}

impl<R: DeserializeOwned + 'static> Decode<R> {
    pub(crate) fn postcard(limits: ValueLimits) -> Decode<R> {
        let decode = |body: &mut ReplyBody, limits: &ValueLimits| match decode_shared(
            body.as_slice(),
            body.shared(),
            *limits,
        ) {
            Some(reply) => Poll::Ready(Outcome::Reply(reply)),
            None => Poll::Ready(Outcome::NoReply(NoReply::Undecodable)),
        };
        Decode { decode, limits, types: PhantomData }
    }
}

impl Decode<Bytes> {
    pub(crate) fn raw() -> Decode<Bytes> {
        let decode = |body: &mut ReplyBody, _: &_| Poll::Ready(Outcome::Reply(body.take_bytes()));
        Decode { decode, limits: ValueLimits::DEFAULT, types: PhantomData }
    }
}

impl<R> Decode<R> {
    /// The outcome of a call with this reply, which is taken out of `body` if it is not copied: ready, as a poll returns it. To wrap it
    /// there would move it as soon as it is written, and the processor waits for that longer than it takes to decode it.
    #[inline]
    pub(crate) fn poll_reply(&self, body: &mut ReplyBody) -> Poll<Outcome<R>> {
        (self.decode)(body, &self.limits)
    }

    fn reply(&self, body: &mut ReplyBody) -> Outcome<R> {
        match self.poll_reply(body) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Outcome::NoReply(NoReply::Undecodable),
        }
    }

    /// The outcome; the body of a reply is taken out of `raw`, if it is not copied.
    pub(crate) fn outcome(&self, raw: &mut RawOutcome, ticket: Option<Ticket<R>>) -> Outcome<R> {
        match raw {
            RawOutcome::Reply(body) => self.reply(body),
            RawOutcome::NoReply(why) => Outcome::NoReply(*why),
            RawOutcome::NotExecuted(why) => Outcome::NotExecuted(*why),
            RawOutcome::Unknown(why, _) => Outcome::Unknown(*why, ticket),
        }
    }
}

/// The right to learn the outcome of a call later, after it was `Unknown` (S18).
///
/// It sends nothing by itself, and holding it does not ask for the call to be executed. Dropping it tells the server that
/// the call's outcome is not needed any more.
pub struct Ticket<R> {
    shared: Arc<Shared>,
    state: TicketState,
    decode: Decode<R>,
    /// An earlier attempt, at another server, may have run: no answer here says that the call was not executed.
    may_have_run: bool,
}

#[derive(Clone, Copy, Debug)]
enum TicketState {
    Waiting(PendingId),
    /// Its outcome was taken: what it answers from then on.
    Spent(CallFailure),
}

impl<R> Ticket<R> {
    pub(super) fn new(shared: Arc<Shared>, id: PendingId, decode: Decode<R>) -> Ticket<R> {
        Ticket { shared, state: TicketState::Waiting(id), decode, may_have_run: false }
    }

    /// That of the last of several attempts, of which an earlier one may have run (S22).
    pub(super) fn of_last_attempt(self) -> Ticket<R> {
        let mut ticket = self;
        ticket.may_have_run = true;
        ticket
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Waits for the final outcome: a reply, `NotExecuted`, or `Unknown` without a ticket when the session is lost and
    /// there is nothing left to ask. May take as long as the server does; dropping this future loses nothing.
    /// [`resolve`](Ticket::resolve) waits no longer than it is told.
    ///
    /// A ticket that is asked again after that answers the same at once; in the place of a reply, which it gives once,
    /// `NoReply(`[`AlreadyGiven`](NoReply::AlreadyGiven)`)`.
    pub async fn wait(&mut self) -> Outcome<R> {
        let wait = TicketWait(self);
        std::future::poll_fn(|cx| wait.0.poll_final(cx)).await
    }

    pub(super) fn poll_final(&mut self, cx: &mut Context<'_>) -> Poll<Outcome<R>> {
        let id = match self.state {
            TicketState::Waiting(id) => id,
            TicketState::Spent(answer) => return Poll::Ready(answer.into()),
        };
        let mut outcome = None;
        self.shared.poll_outcome(id, cx, &mut outcome);
        let Some(raw) = &mut outcome else { return Poll::Pending };
        self.stop_waiting();
        // Whatever panics below has taken it all the same.
        self.state = TicketState::Spent(CallFailure::NoReply(NoReply::AlreadyGiven));
        let trace = match raw {
            RawOutcome::Reply(_) if !self.shared.has_seen_calls() => None,
            _ => self.shared.take_trace(id),
        };
        let outcome = self.decode.outcome(raw, None);
        self.shared.observe_outcome(id.name(), &outcome, trace, None);
        let outcome = match outcome {
            Outcome::NotExecuted(_) if self.may_have_run => {
                Outcome::Unknown(Unknown::Repeated, None)
            }
            outcome => outcome,
        };
        if let Some(failure) = outcome.failure() {
            self.state = TicketState::Spent(failure);
        }
        Poll::Ready(outcome)
    }

    /// It is not polled for now: another call must read in its place.
    pub(super) fn stop_waiting(&self) {
        if let TicketState::Waiting(id) = self.state {
            self.shared.stop_waiting(id);
        }
    }

    fn is_spent(&self) -> bool {
        matches!(self.state, TicketState::Spent(_))
    }

    /// Whether it waits in a fork of the client's process, where nothing would end it.
    pub(super) fn is_left_in_fork(&self) -> bool {
        !self.is_spent() && self.shared.is_forked()
    }
}

/// One wait for a ticket's outcome.
struct TicketWait<'a, R>(&'a mut Ticket<R>);

impl<R> Drop for TicketWait<'_, R> {
    fn drop(&mut self) {
        self.0.stop_waiting();
    }
}

impl<R> Drop for Ticket<R> {
    fn drop(&mut self) {
        if let TicketState::Waiting(id) = self.state {
            self.shared.abandon(id);
        }
    }
}

impl<R> fmt::Debug for Ticket<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("done", &self.is_spent()).finish_non_exhaustive()
    }
}
