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
use super::pending::Trace;
use super::report::CallReport;
use super::result::CallResult;
use super::servers::{Group, Moving};
use super::shared::Shared;
use super::untyped::{Polled, Progress, UNENCODABLE, UntypedCall};
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
    untyped: UntypedCall,
    decode: Decode<R>,
    /// Of a client of several servers: each attempt is a call of its own.
    moving: Option<Box<Moving<R>>>,
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

impl<R> Call<R> {
    /// `idempotent`, `timeout`: what the method says of itself; calls of bytes have no method to ask.
    #[inline(always)]
    pub(super) fn new(
        shared: &Arc<Shared>,
        method: CalledMethod,
        idempotent: bool,
        timeout: Option<Duration>,
        arguments: Encoded,
        decode: Decode<R>,
    ) -> Call<R> {
        let description = Description::new(&shared.options, idempotent, timeout, arguments);
        Call::of(shared, method, description, decode)
    }

    /// The call of a description.
    #[inline(always)]
    pub(super) fn of(
        shared: &Arc<Shared>,
        method: CalledMethod,
        description: Description,
        decode: Decode<R>,
    ) -> Call<R> {
        let (shared, progress) = (shared.clone(), Progress::Fresh);
        let untyped = UntypedCall { shared, progress, description, method };
        Call { untyped, decode, moving: None }
    }

    /// Makes it at one of several servers, and at another one if that is lost; or at this member of them only.
    #[cold]
    pub(super) fn make_at_any(&mut self, group: Arc<Group>, only: Option<usize>) {
        if let Progress::Fresh = self.untyped.progress {
            let description = self.untyped.description.take();
            let moving = Moving::new(group, only, self.untyped.method, self.decode, description);
            self.moving = Some(Box::new(moving));
            self.untyped.progress = Progress::Done;
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
        let mut call = Call::new(shared, method, false, None, Encoded::EMPTY, decode);
        call.untyped.progress = Progress::Refused(UNENCODABLE);
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

    /// Time until the caller gives up (S17). Without it the first of these holds that was given: that of the client's handle
    /// ([`Client::with_timeout`](crate::Client::with_timeout)), of the method ([`Method::timeout`]), of the client
    /// ([`ClientOptions::timeout`](crate::ClientOptions::timeout)).
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
        &self.untyped.shared.runtime
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
        match (&self.untyped.progress, &mut self.moving) {
            (Progress::Fresh, _) => change(&mut self.untyped.description),
            (_, Some(moving)) => moving.description().map_or((), change),
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
        if let Some(moving) = &mut self.moving {
            moving.start();
        }
        let untyped = &mut self.untyped;
        if let Progress::Fresh | Progress::Refused(_) = untyped.progress {
            untyped.progress = match untyped.begin() {
                Ok(id) => Progress::Waiting(id),
                Err(why) => Progress::Refused(why),
            };
            send(&untyped.shared);
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
        let untyped = &mut self.untyped;
        if untyped.shared.is_forked() {
            let forked = || Progress::Refused(NotExecuted::NotBegun(NotBegun::Forked));
            untyped.progress = match (self.moving.take(), untyped.progress.take()) {
                (Some(moving), _) if moving.has_begun() => Progress::Forked,
                (Some(_), _) | (None, Progress::Fresh) => forked(),
                (None, Progress::Waiting(_) | Progress::Forked) => Progress::Forked,
                (None, Progress::Refused(why)) => Progress::Refused(why),
                (None, Progress::Done) => Progress::Done,
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
        match &self.moving {
            Some(moving) => moving.report(failure, trace),
            None => self.untyped.shared.report(self.untyped.method, failure, trace),
        }
    }

    /// Which of several servers was called last.
    pub(super) fn member(&self) -> Option<usize> {
        self.moving.as_ref()?.member()
    }

    /// [`Call::poll_traced`] where no outcome was found, and none is waited for here.
    #[cold]
    #[inline(never)]
    fn poll_other(&mut self, cx: &mut Context<'_>, trace: &mut Option<Trace>) -> Poll<Outcome<R>> {
        if let Some(moving) = &mut self.moving {
            return moving.poll(cx, trace);
        }
        match self.untyped.progress.take() {
            Progress::Refused(why) => {
                self.untyped.shared.ask_again();
                Poll::Ready(Outcome::NotExecuted(why))
            }
            Progress::Forked => Poll::Ready(Outcome::Unknown(Unknown::Closed, None)),
            _ => Poll::Pending,
        }
    }

    /// An outcome was taken that is no reply, or of a call that may be observed.
    #[cold]
    #[inline(never)]
    fn end(&mut self, mut raw: RawOutcome, trace: &mut Option<Trace>) -> Poll<Outcome<R>> {
        let untyped = &mut self.untyped;
        let Progress::Waiting(id) = untyped.progress.take() else { return Poll::Pending };
        *trace = untyped.shared.take_trace(id);
        let ticket = matches!(raw, RawOutcome::Unknown(_, true))
            .then(|| Ticket::new(untyped.shared.clone(), id, self.decode));
        let outcome = self.decode.outcome(&mut raw, ticket);
        let method = Some(untyped.method);
        untyped.shared.observe_outcome(id.name(), &outcome, trace.clone(), method);
        Poll::Ready(outcome)
    }

    /// The outcome; and in `trace` where the call was, if that is no reply.
    #[inline]
    pub(super) fn poll_traced(
        &mut self,
        cx: &mut Context<'_>,
        trace: &mut Option<Trace>,
    ) -> Poll<Outcome<R>> {
        let mut outcome = None;
        match self.untyped.poll(cx, &mut outcome) {
            Polled::Pending => return Poll::Pending,
            Polled::Ended => {}
            Polled::Refused | Polled::Other => return self.poll_other(cx, trace),
        }
        match &mut outcome {
            Some(RawOutcome::Reply(body)) if !self.untyped.shared.has_seen_calls() => {
                self.untyped.progress = Progress::Done;
                self.decode.poll_reply(body)
            }
            Some(_) => outcome.map_or(Poll::Pending, |raw| self.end(raw, trace)),
            None => Poll::Pending,
        }
    }
}

impl<R> Future for Call<R> {
    type Output = Outcome<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome<R>> {
        self.poll_traced(cx, &mut None)
    }
}

impl<R> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Call");
        let UntypedCall { progress, description, method, .. } = &self.untyped;
        match (&self.moving, progress) {
            (Some(moving), _) => debug.field("begun", &moving.has_begun()),
            (None, Progress::Fresh) => debug
                .field("method", &method.id)
                .field("timeout", &description.timeout)
                .field("fail_fast", &description.fail_fast)
                .field("idempotent", &description.idempotent),
            (None, Progress::Refused(why)) => debug.field("not_executed", why),
            (None, Progress::Waiting(_) | Progress::Forked) => debug.field("begun", &true),
            (None, Progress::Done) => debug.field("done", &true),
        };
        debug.finish_non_exhaustive()
    }
}
