//! Handlers: from a request's bytes to its reply, started once and answered once.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use oncewire_core::{Admission, CallKey, Instant, NotExecuted, Running, Xid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::state::{Shared, State};
use super::transactional::Work;
use crate::runtime::{Runtime, Timer};
use crate::transport::{BoxFuture, Subject};

/// What a handler can know of its call.
#[derive(Clone)]
pub struct Context {
    /// Who is calling, as far as the transport can say.
    pub caller: Subject,
    /// The call's number in its session.
    pub xid: Xid,
    /// When the caller gives up, on the server's clock.
    pub deadline: Instant,
    shared: Arc<Shared>,
    key: CallKey,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("caller", &self.caller)
            .field("xid", &self.xid)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Context {
    pub(super) fn new(
        shared: &Arc<Shared>,
        key: CallKey,
        deadline: Instant,
        caller: Subject,
    ) -> Context {
        Context { caller, xid: key.xid(), deadline, shared: shared.clone(), key }
    }

    /// Whether nobody waits for the call any more. A handler may stop then, or not: what it returns is the outcome
    /// (S19).
    pub fn is_cancelled(&self) -> bool {
        self.shared.with(|state, _| state.machine.is_cancelled(self.key))
    }
}

/// The erased form of a handler: takes a call all the way to its reply.
pub(super) trait Handle: Send + Sync + 'static {
    fn handle(&self, gate: Gate, body: &[u8]) -> BoxFuture<'static, ()>;

    /// The same in two steps, with the ledger's record in between.
    fn plan(&self, body: &[u8]) -> Result<Plan, NotExecuted>;
}

/// How a call is executed that a ledger records.
pub(super) enum Plan {
    /// Once its started record is stable.
    Recorded(Launch),
    /// In the ledger's transaction.
    Transaction(Box<dyn Work>),
}

/// Makes the future of a call that was started.
pub(super) type Launch = Box<dyn FnOnce(Guard, Context) -> BoxFuture<'static, ()> + Send>;

/// A typed handler.
pub(super) struct Typed<F, A, R> {
    function: Arc<F>,
    types: std::marker::PhantomData<fn(A) -> R>,
}

impl<F, A, R> Typed<F, A, R> {
    pub(super) fn new(function: F) -> Self {
        Typed { function: Arc::new(function), types: std::marker::PhantomData }
    }
}

impl<F, A, R, Fut> Handle for Typed<F, A, R>
where
    F: Fn(Context, A) -> Fut + Send + Sync + 'static,
    A: DeserializeOwned + Send + 'static,
    R: Serialize + 'static,
    Fut: Future<Output = R> + Send + 'static,
{
    fn handle(&self, gate: Gate, body: &[u8]) -> BoxFuture<'static, ()> {
        // Decoded before the start: what cannot be decoded is not executed.
        let arguments = postcard::from_bytes::<A>(body);
        let function = self.function.clone();
        Box::pin(async move {
            let Ok(arguments) = arguments else { return gate.refuse(NotExecuted::BadArguments) };
            let Some((running, context)) = gate.start() else { return };
            running.reply_encoded(&function(context, arguments).await);
        })
    }

    fn plan(&self, body: &[u8]) -> Result<Plan, NotExecuted> {
        let arguments = postcard::from_bytes::<A>(body).map_err(|_| NotExecuted::BadArguments)?;
        let function = self.function.clone();
        let launch = move |running: Guard, context| -> BoxFuture<'static, ()> {
            Box::pin(async move {
                running.reply_encoded(&function(context, arguments).await);
            })
        };
        Ok(Plan::Recorded(Box::new(launch)))
    }
}

/// A handler of bytes.
pub(super) struct Raw<F> {
    function: Arc<F>,
}

impl<F> Raw<F> {
    pub(super) fn new(function: F) -> Self {
        Raw { function: Arc::new(function) }
    }
}

impl<F, Fut> Handle for Raw<F>
where
    F: Fn(Context, Bytes) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Bytes> + Send + 'static,
{
    fn handle(&self, gate: Gate, body: &[u8]) -> BoxFuture<'static, ()> {
        let function = self.function.clone();
        let body = Bytes::copy_from_slice(body);
        Box::pin(async move {
            let Some((running, context)) = gate.start() else { return };
            let reply = function(context, body).await;
            running.reply(reply);
        })
    }

    fn plan(&self, body: &[u8]) -> Result<Plan, NotExecuted> {
        let (function, body) = (self.function.clone(), Bytes::copy_from_slice(body));
        let launch = move |running: Guard, context| -> BoxFuture<'static, ()> {
            Box::pin(async move { running.reply(function(context, body).await) })
        };
        Ok(Plan::Recorded(Box::new(launch)))
    }
}

/// A call that was let in, on its way to a handler. Dropped without a start, it is refused: a slot is never pinned.
pub(super) struct Gate {
    shared: Arc<Shared>,
    admission: Option<Admission>,
    context: Context,
}

impl Gate {
    pub(super) fn new(
        shared: Arc<Shared>,
        admission: Admission,
        deadline: Instant,
        caller: Subject,
    ) -> Gate {
        let context = Context::new(&shared, admission.key(), deadline, caller);
        Gate { shared, admission: Some(admission), context }
    }

    /// Decides whether the call runs (S17).
    fn start(mut self) -> Option<(Guard, Context)> {
        let admission = self.admission.take()?;
        // Refused: the client is told why. The time is the one that is: those before it may have taken theirs.
        let now = self.shared.runtime.now();
        let start = |state: &mut State, now| state.machine.start(now, admission).ok();
        let running = self.shared.with_at(now, start)?;
        let guard = Guard {
            shared: self.shared.clone(),
            running: Some(running),
            started: now,
            recorded: None,
        };
        Some((guard, self.context.clone()))
    }

    pub(super) fn refuse(mut self, why: NotExecuted) {
        self.conclude(why);
    }

    fn conclude(&mut self, why: NotExecuted) {
        if let Some(admission) = self.admission.take() {
            self.shared.with(|state, now| state.machine.refuse(now, admission, why));
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.conclude(NotExecuted::Overloaded);
    }
}

/// A call that runs. Dropped without a reply, because its handler panicked or took too long, it ends as aborted (S14).
pub(super) struct Guard {
    shared: Arc<Shared>,
    running: Option<Running>,
    started: Instant,
    /// Whether its end is recorded before it is told.
    recorded: Option<OneWay>,
}

/// Whether nobody waits for a call's reply (S23).
type OneWay = bool;

impl Guard {
    /// Of a call whose started record is stable.
    pub(super) fn recorded(
        shared: Arc<Shared>,
        running: Running,
        started: Instant,
        one_way: OneWay,
    ) -> Guard {
        Guard { shared, running: Some(running), started, recorded: Some(one_way) }
    }

    fn reply_encoded<R: Serialize>(self, reply: &R) {
        match postcard::to_allocvec(reply) {
            Ok(body) => self.reply(body.into()),
            // Executed, but its reply cannot be told.
            Err(_) => drop(self),
        }
    }

    fn reply(mut self, body: Bytes) {
        let Some(running) = self.running.take() else { return };
        // What is kept has no time.
        self.shared.with_at(self.started, |state, now| match self.recorded {
            None => state.reply(now, running, body),
            Some(true) => state.record_finish(now, running, Some(Bytes::new())),
            Some(false) => state.record_finish(now, running, Some(body)),
        });
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.shared.with(|state, now| match self.recorded {
                None => state.machine.abort(now, running),
                Some(_) => state.record_finish(now, running, None),
            });
        }
    }
}

/// A handler that runs: catches its panics and watches its time limit.
pub(super) struct Execution {
    future: Option<BoxFuture<'static, ()>>,
    limit: Option<Box<dyn Timer>>,
    shared: Arc<Shared>,
}

impl Execution {
    pub(super) fn new(shared: Arc<Shared>, future: BoxFuture<'static, ()>) -> Execution {
        Execution { future: Some(future), limit: None, shared }
    }

    /// Sets the time limit; done only when the handler was not ready at once.
    pub(super) fn limit(&mut self, runtime: &dyn Runtime, limit: Duration) {
        let at = runtime.now() + limit;
        let mut timer = runtime.timer();
        timer.set(at);
        self.limit = Some(timer);
    }
}

impl Future for Execution {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(future) = &mut this.future else { return Poll::Ready(()) };
        // A panic drops nothing yet; the drop of the future below ends the call as aborted.
        let poll = std::panic::AssertUnwindSafe(|| future.as_mut().poll(cx));
        let ended = match std::panic::catch_unwind(poll) {
            Ok(poll) => poll.is_ready(),
            Err(_) => {
                this.shared.with(|state, _| state.panics += 1);
                true
            }
        };
        let overdue = |limit: &mut Box<dyn Timer>| limit.poll(cx).is_ready();
        if ended || this.limit.as_mut().is_some_and(overdue) {
            drop_quietly(this.future.take());
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        drop_quietly(self.future.take());
    }
}

/// A handler's own drops may panic too; the server lives on.
fn drop_quietly(future: Option<BoxFuture<'static, ()>>) {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(future)));
    // The panic hook has told about it.
    let _told = result;
}

impl fmt::Debug for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execution").finish_non_exhaustive()
    }
}
