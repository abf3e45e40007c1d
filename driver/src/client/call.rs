//! A call: described, then begun, then awaited.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use oncewire_core::{MethodId, NotBegun, NotExecuted, Unknown};

use super::description::Description;
use super::outcome::{CallFailure, Decode, Outcome, Ticket};
use super::pending::{PendingId, Trace};
use super::report::CallReport;
use super::result::CallResult;
use super::servers::{Group, Moving};
use super::shared::Shared;
use crate::buffer::Encoded;
use crate::metadata::{Metadata, MetadataKey, MetadataType};
use crate::method::{Method, Typed};
use crate::reply::RawOutcome;
use crate::runtime::Runtime;

/// A call: a future of its outcome. It begins when it is first polled, or with [`start`](Call::start).
///
/// Its options are set before it begins, and have no effect later. Dropping it cancels the call: if it was not started at
/// the server it never will be (S19).
///
/// ```
/// use oncewire_driver::{Client, Method};
///
/// const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");
///
/// async fn calls(client: Client) {
///     let [one, other] = [1, 2].map(|n| smol::spawn(client.call(&ADD_ONE, &n)));
///     println!("{:?} {:?}", one.await, other.await);
/// }
///
/// fn call(client: &Client) {
///     println!("{:?}", client.call(&ADD_ONE, &3).block());
/// }
/// ```
#[must_use = "a call begins when it is awaited, and is cancelled when it is dropped"]
pub struct Call<R> {
    shared: Arc<Shared>,
    state: State<R>,
    /// Until it has begun.
    description: Description,
    decode: Decode<R>,
    method: CalledMethod,
}

/// What is called, for reports.
#[derive(Clone, Copy)]
pub(super) struct CalledMethod {
    pub(super) id: MethodId,
    /// Empty if it has none.
    pub(super) name: &'static str,
    /// What it is compared by, if it has a signature.
    pub(super) typed: Option<Typed>,
}

impl CalledMethod {
    pub(super) fn of<A, R>(method: &Method<A, R>) -> CalledMethod {
        CalledMethod { id: method.id(), name: method.name(), typed: method.typed() }
    }

    /// One that has a number only.
    pub(super) fn of_bytes(id: MethodId) -> CalledMethod {
        CalledMethod { id, name: "", typed: None }
    }
}

/// The error of a call that was never tried.
const UNENCODABLE: NotExecuted = NotExecuted::NotBegun(NotBegun::Unencodable);

enum State<R> {
    /// Begins when it is first polled.
    Fresh,
    /// Why it cannot begin.
    Refused(NotExecuted),
    /// Of a client of several servers: each attempt is a call of its own.
    Moving(Box<Moving<R>>),
    Waiting(PendingId),
    /// Begun before this process was forked: only the parent can learn its outcome.
    Forked,
    Done,
}

impl<R> State<R> {
    fn take(&mut self) -> State<R> {
        std::mem::replace(self, State::Done)
    }
}

impl<R> Call<R> {
    /// `idempotent`: what the method says of itself; calls of bytes have no method to ask.
    #[inline(always)]
    pub(super) fn new(
        shared: &Arc<Shared>,
        method: CalledMethod,
        idempotent: bool,
        arguments: Encoded,
        decode: Decode<R>,
    ) -> Call<R> {
        Call::of(shared, method, Description::new(&shared.options, idempotent, arguments), decode)
    }

    /// The call of a description.
    #[inline(always)]
    pub(super) fn of(
        shared: &Arc<Shared>,
        method: CalledMethod,
        description: Description,
        decode: Decode<R>,
    ) -> Call<R> {
        Call { shared: shared.clone(), state: State::Fresh, description, decode, method }
    }

    /// Makes it at one of several servers, and at another one if that is lost; or at this member of them only.
    #[cold]
    pub(super) fn make_at_any(&mut self, group: Arc<Group>, only: Option<usize>) {
        if let State::Fresh = self.state {
            let description = self.description.take();
            let moving = Moving::new(group, only, self.method, self.decode, description);
            self.state = State::Moving(Box::new(moving));
        }
    }

    /// One whose arguments cannot be encoded: it does not begin.
    #[cold]
    #[inline(never)]
    pub(super) fn unencodable(
        shared: &Arc<Shared>,
        method: CalledMethod,
        decode: Decode<R>,
    ) -> Call<R> {
        let mut call = Call::new(shared, method, false, Encoded::EMPTY, decode);
        call.state = State::Refused(UNENCODABLE);
        call
    }

    /// Sends a value beside the arguments, for whatever reads it at the server
    /// ([`Context::metadata`](crate::Context::metadata)): a request's id, a tenant, a trace's context. One of the same key is
    /// replaced.
    ///
    /// It is part of the call: a request that is sent again carries the same. A server that takes no metadata does not execute
    /// the call ([`MetadataUnsupported`](NotExecuted::MetadataUnsupported)), which may then be made without. With more than 32
    /// pairs or 1,024 bytes the call is not begun. Long arguments are copied once to join them.
    pub fn metadata<T: MetadataType>(self, key: &MetadataKey<T>, value: impl Into<T>) -> Self {
        self.changed(|call| call.metadata.get_or_insert_default().set(key, value))
    }

    /// Sends this metadata, in the place of what was set before: that of the call that a handler works for, say.
    ///
    /// ```
    /// # use oncewire_driver::{Call, Client, Context, Method, Outcome};
    /// const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");
    ///
    /// /// A handler that calls another service on behalf of its own caller.
    /// async fn add_two(context: Context, client: &Client, n: i32) -> Outcome<i32> {
    ///     let call = client.call(&ADD_ONE, &(n + 1)).timeout_at_most(context.remaining());
    ///     call.with_metadata(context.all_metadata().cloned().unwrap_or_default()).await
    /// }
    /// ```
    pub fn with_metadata(self, metadata: Metadata) -> Self {
        self.changed(|call| call.metadata = Some(Box::new(metadata)))
    }

    pub(super) fn set_metadata(&mut self, metadata: Metadata) {
        self.change(|call| call.metadata = Some(Box::new(metadata)));
    }

    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.change(|call| call.timeout = timeout);
    }

    /// Time until the caller gives up (S17).
    pub fn timeout(self, timeout: Duration) -> Self {
        self.changed(|call| call.timeout = timeout)
    }

    /// The same, if that is sooner: for a call that is part of something that has a deadline of its own.
    ///
    /// ```
    /// # use oncewire_driver::{Call, Client, Context, Method};
    /// const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");
    ///
    /// /// A handler that calls another service, for as long as its own caller waits.
    /// async fn add_two(context: Context, client: &Client, n: i32) -> Result<i32, String> {
    ///     let call = client.call(&ADD_ONE, &(n + 1)).timeout_at_most(context.remaining());
    ///     call.result().await.map_err(|failed| failed.to_string())
    /// }
    /// ```
    pub fn timeout_at_most(self, timeout: Duration) -> Self {
        self.changed(|call| call.timeout = call.timeout.min(timeout))
    }

    /// A part of something that hooks have seen as a whole.
    #[cfg(feature = "stream")]
    pub(super) fn unseen(self) -> Self {
        self.changed(|call| call.hooked = false)
    }

    pub(super) fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.shared.runtime
    }

    /// Whether it ends when the connection breaks, instead of waiting for the resume (S21).
    pub fn fail_fast(self, fail_fast: bool) -> Self {
        self.changed(|call| call.fail_fast = fail_fast)
    }

    /// Allows the call to run more than once: it is repeated, on another server too, until it is answered. The server
    /// refuses it if the method is not declared idempotent (S22).
    ///
    /// For calls of bytes: those of a [`Method`](crate::Method) that is declared idempotent are so without it.
    pub fn idempotent(self) -> Self {
        self.changed(|call| call.idempotent = true)
    }

    /// The call runs at most once though its method is idempotent: its reply is kept, and with a ledger recorded. If its
    /// server is replaced meanwhile it ends as `Unknown` instead of running again.
    pub fn at_most_once(self) -> Self {
        self.changed(|call| call.idempotent = false)
    }

    #[inline]
    fn changed(mut self, change: impl FnOnce(&mut Description)) -> Self {
        self.change(change);
        self
    }

    #[inline]
    fn change(&mut self, change: impl FnOnce(&mut Description)) {
        match &mut self.state {
            State::Fresh => change(&mut self.description),
            State::Moving(moving) => moving.description().map_or((), change),
            _ => {}
        }
    }

    /// Begins the call now, before it is awaited.
    pub fn start(self) -> Call<R> {
        self.start_and(Shared::ensure_sent)
    }

    /// The same for a call that leaves by itself: this thread writes it at once, so that the client's task need not wake for it.
    #[cfg(feature = "stream")]
    pub(crate) fn start_now(self) -> Call<R> {
        self.start_and(Shared::write_now)
    }

    /// Begins it, unless it has begun; `send` has it sent.
    fn start_and(mut self, send: impl FnOnce(&Shared)) -> Call<R> {
        match &mut self.state {
            State::Fresh | State::Refused(_) => {
                self.state = match self.begin() {
                    Ok(id) => State::Waiting(id),
                    Err(why) => State::Refused(why),
                };
                send(&self.shared);
            }
            State::Moving(moving) => moving.start(),
            State::Waiting(_) | State::Forked | State::Done => {}
        }
        self
    }

    /// Blocks this thread until the call has its outcome. For threads that run nothing else: not inside an `async` function or a
    /// handler, where it would block the executor.
    ///
    /// The timeout is kept, because deadlines are the client's. The client's own task, which dials unless the
    /// [first call does](crate::Connect::dials_anywhere), runs on the client's runtime: with the default one, on smol's global
    /// threads. In a fork of the process that made the client there are no such threads: there it ends as [`NotBegun`](NotExecuted::NotBegun), or, if the parent has begun it, as `Unknown`.
    pub fn block(self) -> Outcome<R> {
        smol::block_on(self.unless_forked())
    }

    /// In a fork of the client's process nothing would end the call, so it ends before it begins.
    pub(super) fn unless_forked(mut self) -> Self {
        if self.shared.is_forked() {
            self.state = match self.state.take() {
                State::Waiting(_) | State::Forked => State::Forked,
                State::Moving(moving) if moving.has_begun() => State::Forked,
                State::Done => State::Done,
                State::Refused(why) => State::Refused(why),
                State::Fresh | State::Moving(_) => {
                    State::Refused(NotExecuted::NotBegun(NotBegun::Forked))
                }
            };
        }
        self
    }

    /// The same call as a future of a `Result`, for `?`: its error keeps the ticket, and says which method of which server was
    /// called, why there is no reply, and by what session and number the server's records know the call.
    ///
    /// ```
    /// use oncewire_driver::{Client, FailedCall, Method};
    ///
    /// const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");
    ///
    /// async fn add_two(client: &Client, n: i32) -> Result<i32, FailedCall<i32>> {
    ///     let n = client.call(&ADD_ONE, &n).result().await?;
    ///     client.call(&ADD_ONE, &n).result().await
    /// }
    ///
    /// fn add_one(client: &Client, n: i32) -> Result<i32, Box<dyn std::error::Error>> {
    ///     Ok(client.call(&ADD_ONE, &n).result().block()?)
    /// }
    /// ```
    pub fn result(self) -> CallResult<R> {
        CallResult(self)
    }

    /// What is known of the call.
    pub(super) fn report(&self, failure: CallFailure, trace: Option<Trace>) -> CallReport {
        if let State::Moving(moving) = &self.state {
            return moving.report(failure, trace);
        }
        self.shared.report(self.method, failure, trace)
    }

    /// Which of several servers was called last.
    pub(super) fn member(&self) -> Option<usize> {
        match &self.state {
            State::Moving(moving) => moving.member(),
            _ => None,
        }
    }

    /// Begins the call before it is polled.
    ///
    /// Whatever panics before it has begun, here and below: it will not begin later, when its arguments are gone.
    fn begin(&mut self) -> Result<PendingId, NotExecuted> {
        let Call { shared, state, description, method, .. } = self;
        if let State::Refused(why) = state {
            return Err(*why);
        }
        *state = State::Refused(NotExecuted::Closed);
        let begun = shared.observe_start(method);
        let on_begun = |state: &mut _, id| shared.observe_begun(state, id, begun);
        let prepared = description.prepare(shared, method, begun.as_ref());
        let result = prepared.and_then(|()| shared.begin(description, method, on_begun));
        result.inspect_err(|why| shared.observe_not_begun(begun, *why))
    }

    /// Begins the call and polls it for the first time, where that is observed.
    #[cold]
    #[inline(never)]
    fn begin_and_poll_observed(
        &mut self,
        cx: &mut Context<'_>,
        outcome: &mut Option<RawOutcome>,
    ) -> Result<PendingId, NotExecuted> {
        let Call { shared, state, description, method, .. } = self;
        let refused = match state {
            State::Refused(why) => Some(*why),
            _ => None,
        };
        let begun = match refused {
            None | Some(UNENCODABLE) => shared.observe_start(method),
            // It has failed in `start`, and was observed there.
            Some(_) => None,
        };
        *state = State::Refused(NotExecuted::Closed);
        let on_begun = |client: &mut _, id| {
            *state = State::Waiting(id);
            shared.observe_begun(client, id, begun);
        };
        let prepared = match refused {
            Some(why) => Err(why),
            None => description.prepare(shared, method, begun.as_ref()),
        };
        let result = prepared
            .and_then(|()| shared.begin_and_poll(description, method, cx, on_begun, outcome));
        result.inspect_err(|why| shared.observe_not_begun(begun, *why))
    }

    /// Begins the call and polls it for the first time. What comes of it at once is in `outcome`.
    #[inline]
    fn begin_and_poll(
        &mut self,
        cx: &mut Context<'_>,
        outcome: &mut Option<RawOutcome>,
    ) -> Result<PendingId, NotExecuted> {
        if self.shared.is_heard() {
            return self.begin_and_poll_observed(cx, outcome);
        }
        let Call { shared, state, description, method, .. } = self;
        if let State::Refused(why) = state {
            return Err(*why);
        }
        *state = State::Refused(NotExecuted::Closed);
        description.prepare(shared, method, None)?;
        let on_begun = |_: &mut _, id| *state = State::Waiting(id);
        shared.begin_and_poll(description, method, cx, on_begun, outcome)
    }

    /// [`Call::poll_traced`] where there is no call of this client to wait for.
    #[cold]
    #[inline(never)]
    fn poll_other(&mut self, cx: &mut Context<'_>, trace: &mut Option<Trace>) -> Poll<Outcome<R>> {
        match &mut self.state {
            State::Moving(moving) => moving.poll(cx, trace),
            State::Forked => {
                self.state = State::Done;
                Poll::Ready(Outcome::Unknown(Unknown::Closed, None))
            }
            _ => Poll::Pending,
        }
    }

    /// The outcome; and in `trace` where the call was, if that is no reply.
    #[inline]
    pub(super) fn poll_traced(
        &mut self,
        cx: &mut Context<'_>,
        trace: &mut Option<Trace>,
    ) -> Poll<Outcome<R>> {
        let mut outcome = None;
        let id = match self.state {
            State::Waiting(id) => {
                self.shared.poll_outcome(id, cx, &mut outcome);
                id
            }
            State::Fresh | State::Refused(_) => match self.begin_and_poll(cx, &mut outcome) {
                Ok(id) => id,
                Err(why) => {
                    self.state = State::Done;
                    self.shared.ask_again();
                    return Poll::Ready(Outcome::NotExecuted(why));
                }
            },
            State::Moving(_) | State::Forked | State::Done => return self.poll_other(cx, trace),
        };
        let Some(raw) = &mut outcome else { return Poll::Pending };
        self.state = State::Done;
        if let RawOutcome::Reply(body) = raw
            && !self.shared.has_seen_calls()
        {
            return self.decode.poll_reply(body);
        }
        *trace = self.shared.take_trace(id);
        let ticket = matches!(raw, RawOutcome::Unknown(_, true))
            .then(|| Ticket::new(self.shared.clone(), id, self.decode));
        let outcome = self.decode.outcome(raw, ticket);
        self.shared.observe_outcome(id.name(), &outcome, trace.clone(), Some(self.method));
        Poll::Ready(outcome)
    }
}

impl<R> Future for Call<R> {
    type Output = Outcome<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome<R>> {
        self.poll_traced(cx, &mut None)
    }
}

impl<R> Drop for Call<R> {
    fn drop(&mut self) {
        if let State::Waiting(id) = self.state {
            self.shared.abandon(id);
        }
    }
}

impl<R> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Call");
        match &self.state {
            State::Fresh => debug
                .field("method", &self.method.id)
                .field("timeout", &self.description.timeout)
                .field("fail_fast", &self.description.fail_fast)
                .field("idempotent", &self.description.idempotent),
            State::Refused(why) => debug.field("not_executed", why),
            State::Moving(moving) => debug.field("begun", &moving.has_begun()),
            State::Waiting(_) | State::Forked => debug.field("begun", &true),
            State::Done => debug.field("done", &true),
        };
        debug.finish_non_exhaustive()
    }
}
