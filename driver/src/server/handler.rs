//! Handlers: from a request's bytes to its reply, started once and answered once.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context as TaskContext, Poll, Waker};

use bytes::Bytes;
use oncewire_core::{CallKey, Instant, NoReply, NotExecuted, Running, Xid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::limits::Permit;
use super::state::{Shared, State};
use super::transactional::Work;
use crate::caught::{Guarded, caught};
use crate::decode::{ValueLimits, decode};
use crate::method::{Method, MethodOptions};
use crate::runtime::Timer;
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
    /// Calls that wait for their records are part of what the server's tasks share, and must not keep it alive.
    shared: Weak<Shared>,
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
        Context { caller, xid: key.xid(), deadline, shared: Arc::downgrade(shared), key }
    }

    /// Whether nobody waits for the call any more: its caller has cancelled it or has gone for good, or a drain's grace
    /// is over. A handler may stop then, or not: what it returns is the outcome (S19).
    ///
    /// A caller has gone for good when its session was without a connection for the length of its lease, not at the
    /// moment at which its connection breaks.
    pub fn is_cancelled(&self) -> bool {
        let Some(shared) = self.shared.upgrade() else { return true };
        shared.with(|state, _| !state.machine.is_wanted(self.key))
    }

    /// Waits until nobody waits for the call any more, or it has ended.
    ///
    /// A handler that waits for long, a long poll say, waits for this too: otherwise it, its session and what it holds
    /// stay after its caller has died. [`Method::drop_on_cancel`](crate::Method::drop_on_cancel) does it for the whole
    /// handler.
    pub async fn cancelled(&self) {
        std::future::poll_fn(|cx| match self.shared.upgrade() {
            Some(shared) => shared.poll_unwanted(self.key, cx),
            None => Poll::Ready(()),
        })
        .await;
    }
}

/// The erased form of a handler.
pub(super) trait Handle: Send + Sync + 'static {
    /// Decodes the arguments and says how the call is to be executed. Nothing of it is executed by that.
    fn plan(&self, context: Context, body: Body<'_>) -> Result<Plan, NotExecuted>;

    /// The same for a call that was started already: it may begin to be executed.
    ///
    /// # Panics
    /// If the function does. A panic while decoding is no panic, but an error.
    fn begin(&self, context: Context, body: Body<'_>) -> Result<ReplyFuture, NotExecuted> {
        match decoded(|| self.plan(context, body))? {
            Plan::Future(future) => Ok(future),
            // There is none without a ledger, and with one no call is started before its plan.
            Plan::Transaction(..) => Err(NotExecuted::LedgerFailed),
        }
    }
}

/// What decoding has brought; a panic refuses the call.
pub(super) fn decoded<T>(
    decode: impl FnOnce() -> Result<T, NotExecuted>,
) -> Result<T, NotExecuted> {
    caught(decode).unwrap_or(Err(NotExecuted::BadArguments))
}

/// A request's body, as it was received.
#[derive(Clone, Copy)]
pub(super) struct Body<'d> {
    pub(super) bytes: &'d [u8],
    /// What they are part of, if that is to be shared.
    pub(super) large: Option<&'d Bytes>,
}

impl Body<'_> {
    #[inline]
    pub(super) fn keep(&self) -> Bytes {
        crate::buffer::share(self.bytes, self.large)
    }

    /// Where the buffer lies that it shares; empty if it shares none.
    fn buffer(&self) -> Range<usize> {
        let of = |large: &Bytes| {
            let start = large.as_ptr().addr();
            start..start + large.len()
        };
        self.large.map_or(0..0, of)
    }
}

/// A reply that may be kept for long, and counts by its length: a small part of a large request is copied, since it would
/// hold all of the request's memory.
fn apart(reply: Bytes, buffer: &Range<usize>) -> Bytes {
    let is_part = buffer.contains(&reply.as_ptr().addr());
    if is_part && reply.len() < buffer.len() / 2 { Bytes::copy_from_slice(&reply) } else { reply }
}

/// How a call is executed.
pub(super) enum Plan {
    /// By a future that does nothing before it is polled; with a ledger, once its started record is stable.
    Future(ReplyFuture),
    /// In the ledger's transaction.
    Transaction(Guarded<Box<dyn Work>>, Context),
}

impl Plan {
    fn future(future: impl Future<Output = Result<Bytes, Unencodable>> + Send + 'static) -> Plan {
        Plan::Future(Guarded::new(Box::pin(future)))
    }
}

/// The bytes of a reply. Wherever it is dropped, a panic in that ends there.
pub(super) type ReplyFuture = Guarded<BoxFuture<'static, Result<Bytes, Unencodable>>>;

/// The call was executed, and its reply cannot be encoded: which method's, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unencodable(pub(super) String);

/// A typed handler.
pub(super) struct Typed<F, A, R> {
    function: Arc<F>,
    name: &'static str,
    limits: ValueLimits,
    types: std::marker::PhantomData<fn(A) -> R>,
}

impl<F, A, R> Typed<F, A, R> {
    pub(super) fn new(function: F, method: &Method<A, R>) -> Self {
        let (name, limits) = (method.name(), method.values());
        Typed { function: Arc::new(function), name, limits, types: std::marker::PhantomData }
    }
}

impl<F, A, R, Fut> Handle for Typed<F, A, R>
where
    F: Fn(Context, A) -> Fut + Send + Sync + 'static,
    A: DeserializeOwned + Send + 'static,
    R: Serialize + 'static,
    Fut: Future<Output = R> + Send + 'static,
{
    fn plan(&self, context: Context, body: Body<'_>) -> Result<Plan, NotExecuted> {
        let arguments = decode_arguments(body.bytes, self.limits)?;
        let (function, name) = (self.function.clone(), self.name);
        Ok(Plan::future(async move { encoded(function(context, arguments), name).await }))
    }

    fn begin(&self, context: Context, body: Body<'_>) -> Result<ReplyFuture, NotExecuted> {
        let arguments = decoded(|| decode_arguments(body.bytes, self.limits))?;
        Ok(Guarded::new(Box::pin(encoded((self.function)(context, arguments), self.name))))
    }
}

#[inline]
pub(super) fn decode_arguments<A: DeserializeOwned>(
    bytes: &[u8],
    limits: ValueLimits,
) -> Result<A, NotExecuted> {
    decode(bytes, limits).ok_or(NotExecuted::BadArguments)
}

async fn encoded<R: Serialize>(
    reply: impl Future<Output = R>,
    method: &'static str,
) -> Result<Bytes, Unencodable> {
    let encoded = crate::buffer::encode(&reply.await);
    encoded.map_err(|error| Unencodable(format!("{method}: the reply cannot be encoded: {error}")))
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
    fn plan(&self, context: Context, body: Body<'_>) -> Result<Plan, NotExecuted> {
        let function = self.function.clone();
        let (body, buffer) = (body.keep(), body.buffer());
        Ok(Plan::future(async move { Ok(apart(function(context, body).await, &buffer)) }))
    }

    fn begin(&self, context: Context, body: Body<'_>) -> Result<ReplyFuture, NotExecuted> {
        let buffer = body.buffer();
        let reply = (self.function)(context, body.keep());
        Ok(Guarded::new(Box::pin(async move { Ok(apart(reply.await, &buffer)) })))
    }
}

/// A call that runs.
pub(super) struct Execution {
    running: Running,
    permit: Permit,
    /// With a ledger: its end is recorded before it is told, and whether nobody waits for its reply (S23).
    recorded: Option<OneWay>,
    future: ReplyFuture,
}

/// Whether nobody waits for a call's reply (S23).
type OneWay = bool;

impl Execution {
    /// A call that was started.
    pub(super) fn new(running: Running, permit: Permit, future: ReplyFuture) -> Execution {
        Execution { running, permit, recorded: None, future }
    }

    /// The same, of a call whose started record is stable.
    pub(super) fn recorded(self, one_way: OneWay) -> Execution {
        Execution { recorded: Some(one_way), ..self }
    }

    /// Polls it once at once: how it ended, if it did; the rest of it becomes a task.
    #[inline]
    pub(super) fn run(mut self, shared: &Arc<Shared>, options: &MethodOptions) -> Option<Ended> {
        let mut cx = TaskContext::from_waker(Waker::noop());
        match poll_caught(&mut self.future, &mut cx) {
            Poll::Ready(end) => {
                let Execution { running, permit, recorded, future } = self;
                drop(future);
                Some(Ended { running, permit, recorded, end })
            }
            Poll::Pending => {
                let limit = options.time_limit.map(|limit| {
                    let mut timer = shared.runtime.timer();
                    timer.set(shared.runtime.now() + limit);
                    timer
                });
                let drop_on_cancel = options.drop_on_cancel;
                let execution = Some(self);
                let task = Task { execution, limit, drop_on_cancel, shared: shared.clone() };
                shared.runtime.spawn(Box::pin(task));
                None
            }
        }
    }
}

/// A call that was started and has ended: to be told to the machine.
#[must_use = "a call whose end is not told pins its slot"]
pub(super) struct Ended {
    running: Running,
    permit: Permit,
    recorded: Option<OneWay>,
    end: End,
}

impl Ended {
    /// It never came to its handler.
    pub(super) fn refused(running: Running, permit: Permit, why: NotExecuted) -> Ended {
        Ended { running, permit, recorded: None, end: End::Refused(why) }
    }

    /// Its handler panicked before it was polled.
    pub(super) fn panicked(running: Running, permit: Permit) -> Ended {
        Ended { running, permit, recorded: None, end: End::Panicked }
    }
}

/// How a call that was started has ended.
enum End {
    Replied(Bytes),
    /// Executed, perhaps in part (S14).
    Panicked,
    /// Likewise: it took too long, or nobody waited for it any more, or its task was dropped.
    Dropped,
    /// Executed (S15).
    Unencodable(Unencodable),
    /// Not executed.
    Refused(NotExecuted),
}

impl State {
    /// A call has ended.
    #[inline]
    pub(super) fn finish(&mut self, at: Instant, ended: Ended) {
        let Ended { running, permit, recorded, end } = ended;
        self.release(permit);
        // It waits for its cancel no more.
        self.note_cancel(running.key());
        let reply = match end {
            End::Replied(body) => Ok(body),
            End::Panicked => {
                self.panics += 1;
                Err(NoReply::Aborted)
            }
            End::Dropped => Err(NoReply::Aborted),
            End::Unencodable(Unencodable(why)) => {
                self.unencodable += 1;
                self.last_unencodable = Some(why);
                Err(NoReply::Unencodable)
            }
            End::Refused(why) => return self.machine.roll_back(at, running, why),
        };
        match (recorded, reply) {
            (None, Ok(body)) => self.reply(at, running, body),
            (None, Err(why)) => self.machine.no_reply(at, running, why),
            (Some(true), Ok(_)) => self.record_finish(at, running, Ok(Bytes::new())),
            (Some(_), reply) => self.record_finish(at, running, reply),
        }
    }
}

/// The task of a handler that was not ready at once: catches its panics and watches its time limit. Dropped before it
/// has ended, the call ends as aborted.
struct Task {
    execution: Option<Execution>,
    limit: Option<Box<dyn Timer>>,
    drop_on_cancel: bool,
    shared: Arc<Shared>,
}

impl Task {
    /// Whether its call is to be dropped: it has taken too long, or nobody waits for it any more.
    fn is_over(&mut self, cx: &mut TaskContext<'_>) -> bool {
        let Some(execution) = &self.execution else { return false };
        let key = execution.running.key();
        let unwanted = self.drop_on_cancel && self.shared.poll_unwanted(key, cx).is_ready();
        unwanted || self.limit.as_mut().is_some_and(|limit| limit.poll(cx).is_ready())
    }

    fn end(&mut self, end: End) {
        let Some(Execution { running, permit, recorded, future }) = self.execution.take() else {
            return;
        };
        drop(future);
        let ended = Ended { running, permit, recorded, end };
        self.shared.with(|state, now| state.finish(now, ended));
    }
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(execution) = &mut this.execution else { return Poll::Ready(()) };
        let end = match poll_caught(&mut execution.future, cx) {
            Poll::Ready(end) => end,
            Poll::Pending if this.is_over(cx) => End::Dropped,
            Poll::Pending => return Poll::Pending,
        };
        this.end(end);
        Poll::Ready(())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.end(End::Dropped);
    }
}

#[inline]
fn poll_caught(future: &mut ReplyFuture, cx: &mut TaskContext<'_>) -> Poll<End> {
    let Some(future) = future.get_mut() else { return Poll::Ready(End::Dropped) };
    match caught(|| future.as_mut().poll(cx)) {
        Ok(poll) => poll.map(|reply| match reply {
            Ok(body) => End::Replied(body),
            Err(why) => End::Unencodable(why),
        }),
        Err(_) => Poll::Ready(End::Panicked),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_part_of_a_large_request_is_copied_to_be_a_reply() {
        let large = Bytes::from(vec![7; 100_000]);
        let body = Body { bytes: &large[32..], large: Some(&large) };
        let buffer = body.buffer();
        let part = body.keep().slice(1_000..3_000);
        let reply = apart(part.clone(), &buffer);
        assert_eq!(reply, part);
        assert_ne!(reply.as_ptr(), part.as_ptr(), "it holds nothing of the request");
        let most = body.keep();
        assert_eq!(apart(most.clone(), &buffer).as_ptr(), most.as_ptr(), "no copy of all of it");
        let other = Bytes::from(vec![1; 10]);
        assert_eq!(apart(other.clone(), &buffer).as_ptr(), other.as_ptr());
        let small = Body { bytes: &large[..10], large: None };
        assert!(small.buffer().is_empty());
    }
}
