//! A call: described, then awaited.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use oncewire_core::{self as core, CallError, MethodId, NotExecuted};

use super::outcome::{Decode, Outcome, Ticket};
use super::pending::PendingId;
use super::shared::Shared;
use crate::reply::RawOutcome;

/// A call that was described and not begun: await it.
#[must_use = "a call begins when it is awaited"]
pub struct Call<R> {
    shared: Arc<Shared>,
    method: MethodId,
    body: Result<Bytes, CallError>,
    timeout: Duration,
    fail_fast: bool,
    idempotent: bool,
    decode: Decode<R>,
    reply: PhantomData<fn() -> R>,
}

impl<R> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.method)
            .field("timeout", &self.timeout)
            .field("fail_fast", &self.fail_fast)
            .field("idempotent", &self.idempotent)
            .finish_non_exhaustive()
    }
}

impl<R> Call<R> {
    /// `idempotent`: what the method says of itself; calls of bytes have no method to ask.
    pub(super) fn new(
        shared: &Arc<Shared>,
        method: MethodId,
        idempotent: bool,
        body: Result<Bytes, CallError>,
        decode: Decode<R>,
    ) -> Call<R> {
        let (timeout, fail_fast) = (shared.options.timeout, shared.options.fail_fast);
        let shared = shared.clone();
        Call { shared, method, body, timeout, fail_fast, idempotent, decode, reply: PhantomData }
    }

    /// Time until the caller gives up (S17).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether it ends when the connection breaks, instead of waiting for the resume (S21).
    pub fn fail_fast(mut self, fail_fast: bool) -> Self {
        self.fail_fast = fail_fast;
        self
    }

    /// Allows the call to run more than once: it is repeated, on another server too, until it is answered. The server
    /// refuses it if the method is not declared idempotent (S22).
    ///
    /// For calls of bytes: those of a [`Method`](crate::Method) that is declared idempotent are so without it.
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// The call runs at most once though its method is idempotent: its reply is kept, and with a ledger recorded. If its
    /// server is replaced meanwhile it ends as `Unknown` instead of running again.
    pub fn at_most_once(mut self) -> Self {
        self.idempotent = false;
        self
    }

    /// Begins the call now, before it is awaited.
    pub fn start(mut self) -> CallFuture<R> {
        let begun = match self.describe() {
            Ok(call) => self.shared.begin(call),
            Err(error) => Err(NotExecuted::NotBegun(error)),
        };
        self.shared.ensure_sent();
        CallFuture::new(self.shared, begun, self.decode)
    }

    fn describe(&mut self) -> Result<core::Call<'static>, CallError> {
        let body = std::mem::replace(&mut self.body, Ok(Bytes::new()))?;
        let mut call = core::Call::new(self.method, body);
        call.timeout = self.timeout;
        call.fail_fast = self.fail_fast;
        call.idempotent = self.idempotent;
        Ok(call)
    }
}

impl<R> IntoFuture for Call<R> {
    type Output = Outcome<R>;
    type IntoFuture = CallFuture<R>;

    fn into_future(mut self) -> CallFuture<R> {
        let call = self.describe();
        CallFuture::fresh(self.shared, call, self.decode)
    }
}

/// A call on its way. Dropping it cancels the call: if it was not started it never will be (S19).
#[must_use = "dropping a call cancels it"]
pub struct CallFuture<R> {
    shared: Arc<Shared>,
    state: State,
    decode: Decode<R>,
}

enum State {
    /// Begins when it is first polled; or why it cannot.
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
        let ticket = matches!(raw, RawOutcome::Unknown(_, true))
            .then(|| Ticket::new(this.shared.clone(), id, this.decode));
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
