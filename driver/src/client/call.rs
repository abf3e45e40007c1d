//! The future of one call, and the ticket that may be left of it.
//!
//! Whoever polls first while nobody reads becomes the leader: it reads the socket for all. When its own answer has
//! come, or it is dropped, it passes the lead on to another one that waits.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use oncewire_core::{self as core, CallError, NotExecuted};

use super::pending::PendingId;
use super::state::Shared;
use crate::outcome::{Decode, Outcome, RawOutcome};

/// A call on its way. Dropping it cancels the call: if it was not started it never will be (S19).
#[must_use = "dropping a call cancels it"]
pub struct CallFuture<R> {
    shared: Arc<Shared>,
    state: State,
    decode: Decode<R>,
}

enum State {
    /// To be begun when it is first polled, if it can be.
    Fresh(Result<core::Call<'static>, NotExecuted>),
    Waiting(PendingId),
    Done,
}

impl<R> CallFuture<R> {
    pub(super) fn new(
        shared: Arc<Shared>,
        begun: Result<PendingId, NotExecuted>,
        decode: Decode<R>,
    ) -> CallFuture<R> {
        let state = match begun {
            Ok(id) => State::Waiting(id),
            Err(why) => State::Fresh(Err(why)),
        };
        CallFuture { shared, state, decode }
    }

    #[inline]
    pub(super) fn fresh(
        shared: Arc<Shared>,
        call: Result<core::Call<'static>, CallError>,
        decode: Decode<R>,
    ) -> CallFuture<R> {
        let state = State::Fresh(call.map_err(NotExecuted::NotBegun));
        CallFuture { shared, state, decode }
    }
}

impl<R> Future for CallFuture<R> {
    type Output = Outcome<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome<R>> {
        let this = &mut *self;
        let (id, poll) = match &mut this.state {
            State::Waiting(id) => (*id, this.shared.poll_outcome(*id, cx)),
            State::Done => return Poll::Pending,
            State::Fresh(call) => {
                let call = std::mem::replace(call, Err(NotExecuted::Closed));
                match call.and_then(|call| this.shared.begin_and_poll(call, cx)) {
                    Ok((id, poll)) => {
                        this.state = State::Waiting(id);
                        (id, poll)
                    }
                    Err(why) => {
                        this.state = State::Done;
                        return Poll::Ready(Outcome::NotExecuted(why));
                    }
                }
            }
        };
        let raw = std::task::ready!(poll);
        this.state = State::Done;
        let ticket = matches!(raw, RawOutcome::Unknown(_, true)).then(|| Ticket {
            shared: this.shared.clone(),
            id: Some(id),
            decode: this.decode,
        });
        Poll::Ready(this.decode.outcome(raw, ticket))
    }
}

impl<R> Drop for CallFuture<R> {
    fn drop(&mut self) {
        if let State::Waiting(id) = self.state {
            self.shared.abandon(id);
        }
    }
}

impl<R> fmt::Debug for CallFuture<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallFuture").finish_non_exhaustive()
    }
}

/// The right to learn later what became of a call whose outcome was `Unknown` (S18).
///
/// It sends nothing by itself. Holding it is not a wish that the call be executed; dropping it tells the server that
/// nobody wants the call any more.
pub struct Ticket<R> {
    shared: Arc<Shared>,
    id: Option<PendingId>,
    decode: Decode<R>,
}

impl<R> Ticket<R> {
    /// Waits for the final outcome: a reply, `NotExecuted`, or `Unknown` without a ticket when the session is lost and
    /// there is nothing left to ask. May take as long as the server does; dropping this future loses nothing.
    ///
    /// Once it has told the outcome it has no more to tell, and waits for ever.
    pub async fn wait(&mut self) -> Outcome<R> {
        let Some(id) = self.id else { return std::future::pending().await };
        let wait = TicketWait { shared: &self.shared, id };
        let raw = std::future::poll_fn(|cx| wait.shared.poll_outcome(id, cx)).await;
        drop(wait);
        self.id = None;
        self.decode.outcome(raw, None)
    }
}

/// One wait for a ticket's outcome: when it is dropped, others must read.
struct TicketWait<'a> {
    shared: &'a Shared,
    id: PendingId,
}

impl Drop for TicketWait<'_> {
    fn drop(&mut self) {
        self.shared.stop_waiting(self.id);
    }
}

impl<R> Drop for Ticket<R> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.shared.abandon(id);
        }
    }
}

impl<R> fmt::Debug for Ticket<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("told", &self.id.is_none()).finish_non_exhaustive()
    }
}
