//! A call: described, then begun, then awaited.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use oncewire_core::{self as core, CallError, MethodId, NotExecuted, Unknown};
use serde::Serialize;

use super::description::Description;
use super::outcome::{CallFailure, Decode, Outcome, Ticket};
use super::pending::{PendingId, Trace};
use super::report::CallReport;
use super::servers::{Group, Moving};
use super::shared::Shared;
use super::unreplied::CallResult;
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
const UNENCODABLE: NotExecuted = NotExecuted::NotBegun(CallError::Unencodable);

enum State<R> {
    /// Begins when it is first polled; or why it cannot.
    Fresh(Result<Description, NotExecuted>),
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
    /// Without arguments yet. `idempotent`: what the method says of itself; calls of bytes have no method to ask.
    #[inline]
    pub(super) fn new(
        shared: &Arc<Shared>,
        method: CalledMethod,
        idempotent: bool,
        decode: Decode<R>,
    ) -> Call<R> {
        let mut call = core::Call::new(method.id, &[]);
        call.timeout = shared.options.timeout;
        call.fail_fast = shared.options.fail_fast;
        call.idempotent = idempotent;
        let hooked = !shared.options.hooks.is_empty();
        let (arguments, metadata) = (Encoded::EMPTY, None);
        Call::of(shared, method, Description { call, arguments, metadata, hooked }, decode)
    }

    /// The call of a description.
    #[inline]
    pub(super) fn of(
        shared: &Arc<Shared>,
        method: CalledMethod,
        description: Description,
        decode: Decode<R>,
    ) -> Call<R> {
        Call { shared: shared.clone(), state: State::Fresh(Ok(description)), decode, method }
    }

    /// Makes it at one of several servers, and at another one if that is lost; or at this member of them only.
    #[cold]
    pub(super) fn make_at_any(&mut self, group: Arc<Group>, only: Option<usize>) {
        self.state = match self.state.take() {
            State::Fresh(Ok(description)) => {
                let moving = Moving::new(group, only, self.method, self.decode, description);
                State::Moving(Box::new(moving))
            }
            other => other,
        };
    }

    #[inline]
    pub(super) fn set_arguments(&mut self, arguments: Encoded) {
        self.change(|call| call.arguments = arguments);
    }

    /// Encodes its arguments, where they stay until it begins. If they cannot be, it does not.
    #[inline(always)]
    pub(super) fn encode<A: Serialize>(&mut self, arguments: &A) {
        if let State::Fresh(Ok(call)) = &mut self.state
            && crate::buffer::encode_into(arguments, &mut call.arguments).is_err()
        {
            self.refuse_to_begin();
        }
    }

    #[cold]
    #[inline(never)]
    fn refuse_to_begin(&mut self) {
        self.state = State::Fresh(Err(UNENCODABLE));
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
        self.change(|call| call.call.timeout = timeout);
    }

    /// Time until the caller gives up (S17).
    pub fn timeout(self, timeout: Duration) -> Self {
        self.described(|call| call.timeout = timeout)
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
    ///     call.result().await.map_err(|unreplied| unreplied.to_string())
    /// }
    /// ```
    pub fn timeout_at_most(self, timeout: Duration) -> Self {
        self.described(|call| call.timeout = call.timeout.min(timeout))
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
        self.described(|call| call.fail_fast = fail_fast)
    }

    /// Allows the call to run more than once: it is repeated, on another server too, until it is answered. The server
    /// refuses it if the method is not declared idempotent (S22).
    ///
    /// For calls of bytes: those of a [`Method`](crate::Method) that is declared idempotent are so without it.
    pub fn idempotent(self) -> Self {
        self.described(|call| call.idempotent = true)
    }

    /// The call runs at most once though its method is idempotent: its reply is kept, and with a ledger recorded. If its
    /// server is replaced meanwhile it ends as `Unknown` instead of running again.
    pub fn at_most_once(self) -> Self {
        self.described(|call| call.idempotent = false)
    }

    #[inline]
    fn described(self, change: impl FnOnce(&mut core::Call<'static>)) -> Self {
        self.changed(|description| change(&mut description.call))
    }

    #[inline]
    fn changed(mut self, change: impl FnOnce(&mut Description)) -> Self {
        self.change(change);
        self
    }

    #[inline]
    fn change(&mut self, change: impl FnOnce(&mut Description)) {
        match &mut self.state {
            State::Fresh(Ok(description)) => change(description),
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
            State::Fresh(call) => {
                let call = std::mem::replace(call, Err(NotExecuted::Closed));
                self.state = match self.begin(call) {
                    Ok(id) => State::Waiting(id),
                    Err(why) => State::Fresh(Err(why)),
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
    /// The timeout is kept, because deadlines are the client's. The client's own task, which dials, runs on the client's
    /// runtime: with the default one, on smol's global threads. In a fork of the process that made the client there are no such
    /// threads: there it ends as [`NotBegun`](NotExecuted::NotBegun), or, if the parent has begun it, as `Unknown`.
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
                State::Fresh(Err(why)) => State::Fresh(Err(why)),
                State::Fresh(Ok(_)) | State::Moving(_) => {
                    State::Fresh(Err(NotExecuted::NotBegun(CallError::Forked)))
                }
            };
        }
        self
    }

    /// The same call as a future of a `Result`, for `?`: its error keeps the ticket, and says which method of which server was
    /// called, why there is no reply, and by what session and number the server's records know the call.
    ///
    /// ```
    /// use oncewire_driver::{Client, Method, Unreplied};
    ///
    /// const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");
    ///
    /// async fn add_two(client: &Client, n: i32) -> Result<i32, Unreplied<i32>> {
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
    fn begin(&self, call: Result<Description, NotExecuted>) -> Result<PendingId, NotExecuted> {
        let Call { shared, method, .. } = self;
        let begun = shared.observe_start(method).filter(|_| call.is_ok());
        let on_begun = |id, connections| shared.observe_begun(id, begun, connections);
        let result = call.and_then(|mut call| {
            shared.begin(call.take_call(shared, method, begun.as_ref())?, method, on_begun)
        });
        result.inspect_err(|why| shared.observe_not_begun(begun, *why))
    }

    /// Begins the call and polls it for the first time, where that is observed.
    #[cold]
    #[inline(never)]
    fn begin_and_poll_observed(
        &mut self,
        call: Result<Description, NotExecuted>,
        cx: &mut Context<'_>,
    ) -> Result<(PendingId, Poll<RawOutcome>), NotExecuted> {
        let Call { shared, state, method, .. } = self;
        let begun = match &call {
            // One that failed in `start` has been observed there.
            Ok(_) | Err(UNENCODABLE) => shared.observe_start(method),
            Err(_) => None,
        };
        let on_begun = |id, connections| {
            *state = State::Waiting(id);
            shared.observe_begun(id, begun, connections);
        };
        let begin = |mut call: Description| {
            let call = call.take_call(shared, method, begun.as_ref())?;
            shared.begin_and_poll(call, method, cx, on_begun)
        };
        let result = call.and_then(begin);
        result.inspect_err(|why| shared.observe_not_begun(begun, *why))
    }

    /// The outcome; and in `trace` where the call was, if that is no reply.
    #[inline]
    pub(super) fn poll_traced(
        &mut self,
        cx: &mut Context<'_>,
        trace: &mut Option<Trace>,
    ) -> Poll<Outcome<R>> {
        let (id, poll) = match &mut self.state {
            State::Waiting(id) => (*id, self.shared.poll_outcome(*id, cx)),
            State::Moving(moving) => return moving.poll(cx, trace),
            State::Done => return Poll::Pending,
            State::Forked => {
                self.state = State::Done;
                return Poll::Ready(Outcome::Unknown(Unknown::Closed, None));
            }
            State::Fresh(call) => {
                let call = std::mem::replace(call, Err(NotExecuted::Closed));
                let begun = match self.shared.is_heard() {
                    false => {
                        let Call { shared, state, method, .. } = self;
                        let on_begun = |id, _| *state = State::Waiting(id);
                        call.and_then(|mut call| {
                            let call = call.take_call(shared, method, None)?;
                            shared.begin_and_poll(call, method, cx, on_begun)
                        })
                    }
                    true => self.begin_and_poll_observed(call, cx),
                };
                match begun {
                    Ok(polled) => polled,
                    Err(why) => {
                        self.state = State::Done;
                        return Poll::Ready(Outcome::NotExecuted(why));
                    }
                }
            }
        };
        let raw = std::task::ready!(poll);
        self.state = State::Done;
        if let RawOutcome::Reply(_) = raw
            && self.shared.observed.is_none()
        {
            return Poll::Ready(self.decode.outcome(raw, None));
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
            State::Fresh(Ok(Description { call, .. })) => debug
                .field("method", &call.method)
                .field("timeout", &call.timeout)
                .field("fail_fast", &call.fail_fast)
                .field("idempotent", &call.idempotent),
            State::Fresh(Err(why)) => debug.field("not_executed", why),
            State::Moving(moving) => debug.field("begun", &moving.has_begun()),
            State::Waiting(_) | State::Forked => debug.field("begun", &true),
            State::Done => debug.field("done", &true),
        };
        debug.finish_non_exhaustive()
    }
}
