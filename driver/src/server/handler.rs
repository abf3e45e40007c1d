//! Handlers: from a request's bytes to the future, or the transaction, that executes it.
//!
//! Arguments are decoded before anything runs, within the bounds of `decode.rs`. So what cannot be decoded is
//! `NotExecuted(BadArguments)`, for certain, and leaves no record with a ledger.

use std::any::Any;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use bytes::Bytes;
use oncewire_core::NotExecuted;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::context::Context;
use super::runner::Waits;
use crate::buffer::{Encoded, Spare, is_small_part};
use crate::caught::{Guarded, caught};
use crate::decode::{ValueLimits, decode_shared};
use crate::method::{Method, MethodOptions};
use crate::transport::BoxFuture;

/// A method and what executes it.
pub(super) struct MethodEntry {
    /// Empty for one that has a number only.
    pub(super) name: &'static str,
    pub(super) handler: Box<dyn Handle>,
    pub(super) options: MethodOptions,
    pub(super) waits: Waits,
}

impl MethodEntry {
    pub(super) fn new(
        name: &'static str,
        handler: Box<dyn Handle>,
        options: MethodOptions,
    ) -> MethodEntry {
        MethodEntry { name, handler, options, waits: Waits::default() }
    }
}

/// The erased form of a handler.
pub(super) trait Handle: Send + Sync + 'static {
    /// Decodes the arguments and says how to execute the call. Nothing of it is executed by that.
    ///
    /// # Panics
    /// If decoding does.
    fn plan(&self, context: Context, body: Body<'_>) -> Result<Plan, NotExecuted>;

    /// The same for a call that was started already: it may begin to be executed. `decoded` is set before it does. What it replies
    /// at once is put into `reply`.
    ///
    /// # Panics
    /// If decoding does, or the function: `decoded` says which.
    fn begin(
        &self,
        context: Context,
        body: Body<'_>,
        spare: &mut Spare,
        decoded: &mut bool,
        reply: &mut Encoded,
    ) -> Result<Begun, NotExecuted>;
}

/// How far a call has come that was begun.
pub(super) enum Begun {
    /// Its reply is where it was to be put.
    Ready(Result<(), Failure>),
    /// It was polled once.
    Pending(ReplyFuture),
}

impl Begun {
    /// A future that was polled, and its reply to come.
    fn pending(reply: impl Future<Output = Reply> + Send + 'static) -> Begun {
        Begun::Pending(Guarded::new(Box::pin(reply)))
    }
}

/// The memory of a handler's future: it is polled there for the first time, and nearly always for the last. If it is not
/// ready, both go on as a task.
struct Place<F>(Pin<Box<Option<F>>>);

impl<F> Place<F> {
    /// Drops the future. If that panics, it has been dropped all the same.
    #[inline]
    fn clear(&mut self) {
        let _panicked = caught(|| self.0.set(None));
    }
}

impl<F: Future> Future for Place<F> {
    type Output = F::Output;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<F::Output> {
        self.0.as_mut().as_pin_mut().map_or(Poll::Pending, |future| future.poll(cx))
    }
}

/// Memory for a longer future is not kept: there is one for each method on each thread, for as long as the thread lives.
const SPARE_LEN_MAX: usize = 4 << 10;

/// Polls a handler's future once, in the memory of the call before it. Returns what it has returned.
///
/// # Errors
/// The future, if it is not ready.
#[inline]
fn poll_once<F: Future + 'static>(spare: &mut Spare, future: F) -> Result<F::Output, Place<F>> {
    let mut cx = TaskContext::from_waker(Waker::noop());
    let Some(place) = spare.as_deref_mut().and_then(<dyn Any>::downcast_mut::<Place<F>>) else {
        return poll_first(spare, future);
    };
    place.0.set(Some(future));
    match Pin::new(&mut *place).poll(&mut cx) {
        Poll::Ready(output) => {
            place.clear();
            Ok(output)
        }
        Poll::Pending => Err(std::mem::replace(place, Place(Box::pin(None)))),
    }
}

/// The same for the first call of a method on this thread.
#[cold]
fn poll_first<F: Future + 'static>(spare: &mut Spare, future: F) -> Result<F::Output, Place<F>> {
    let mut cx = TaskContext::from_waker(Waker::noop());
    let mut place = Place(Box::pin(Some(future)));
    let Poll::Ready(output) = Pin::new(&mut place).poll(&mut cx) else { return Err(place) };
    place.clear();
    if size_of::<F>() <= SPARE_LEN_MAX {
        *spare = Some(Box::new(place));
    }
    Ok(output)
}

/// A request's body, as it was received.
#[derive(Clone, Copy)]
pub(super) struct Body<'d> {
    pub(super) bytes: &'d [u8],
    /// The buffer that they are a part of, if it can be shared instead of copied.
    pub(super) large: Option<&'d Bytes>,
}

impl<'d> Body<'d> {
    /// One that was kept.
    pub(super) fn kept(kept: &'d Encoded) -> Body<'d> {
        let large = match kept {
            Encoded::Shared { bytes, .. } => Some(bytes),
            Encoded::Short { .. } => None,
        };
        Body { bytes: kept.as_kept(), large }
    }

    #[inline]
    pub(super) fn keep(&self) -> Bytes {
        crate::buffer::share(self.bytes, self.large)
    }

    /// Where the buffer lies that it shares; empty if it shares none.
    #[inline]
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
#[inline]
fn apart(reply: Bytes, buffer: &Range<usize>) -> Encoded {
    let copied = is_small_part(&reply, buffer);
    Encoded::from(if copied { Bytes::copy_from_slice(&reply) } else { reply })
}

/// How a call is executed.
pub(super) enum Plan {
    /// By a future that does nothing before it is polled; with a ledger, once its started record is stable.
    Future(ReplyFuture),
    /// In the ledger's transaction.
    Transaction(Guarded<Box<dyn Work>>, Context),
}

impl Plan {
    fn future(future: impl Future<Output = Reply> + Send + 'static) -> Plan {
        Plan::Future(Guarded::new(Box::pin(future)))
    }
}

/// A call that runs in a transaction: synchronously, and again if the transaction was rolled back for a neighbour.
pub(super) trait Work: Send {
    fn run(&mut self, transaction: &mut dyn Any, context: &Context) -> Ran;
}

/// How a run of a transactional handler ended.
pub(super) enum Ran {
    Done(Encoded),
    RolledBack {
        why: String,
        panicked: bool,
    },
    /// A hook did not let it run.
    Refused(NotExecuted),
}

impl Ran {
    pub(super) fn rolled_back(why: impl Into<String>) -> Ran {
        Ran::RolledBack { why: why.into(), panicked: false }
    }
}

/// The bytes of a reply.
pub(super) type Reply = Result<Encoded, Failure>;

/// A reply to come. Wherever it is dropped, a panic in that ends there.
pub(super) type ReplyFuture = Guarded<BoxFuture<'static, Reply>>;

/// Why a handler has no reply to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It was executed, and its reply cannot be encoded: which method's, and why.
    Unencodable(String),
    /// A hook did not let it run.
    Refused(NotExecuted),
    /// It was executed, perhaps in part: it, or a hook around it, has panicked.
    Panicked,
    /// Likewise: a hook around it has not said how it ended.
    Dropped,
}

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
        let arguments = decode_arguments(body, self.limits)?;
        let (function, name, buffer) = (self.function.clone(), self.name, body.buffer());
        Ok(Plan::future(async move { encoded(&function(context, arguments).await, buffer, name) }))
    }

    fn begin(
        &self,
        context: Context,
        body: Body<'_>,
        spare: &mut Spare,
        decoded: &mut bool,
        reply: &mut Encoded,
    ) -> Result<Begun, NotExecuted> {
        let arguments = decode_arguments(body, self.limits)?;
        *decoded = true;
        let name = self.name;
        Ok(match poll_once(spare, (self.function)(context, arguments)) {
            Ok(value) => Begun::Ready(encode_reply(&value, reply, move || body.buffer(), name)),
            Err(future) => {
                let buffer = body.buffer();
                Begun::pending(async move { encoded(&future.await, buffer, name) })
            }
        })
    }
}

#[inline]
pub(super) fn decode_arguments<A: DeserializeOwned + 'static>(
    body: Body<'_>,
    limits: ValueLimits,
) -> Result<A, NotExecuted> {
    decode_shared(body.bytes, body.large, limits).ok_or(NotExecuted::BadArguments)
}

#[inline]
fn encode_reply<R: Serialize + 'static>(
    value: &R,
    place: &mut Encoded,
    request: impl FnOnce() -> Range<usize>,
    method: &'static str,
) -> Result<(), Failure> {
    let encoded = crate::buffer::encode_reply(value, place, request);
    encoded.map_err(|error| unencodable(method, &error))
}

#[cold]
fn unencodable(method: &'static str, error: &postcard::Error) -> Failure {
    Failure::Unencodable(format!("{method}: the reply cannot be encoded: {error}"))
}

fn encoded<R: Serialize + 'static>(
    value: &R,
    request: Range<usize>,
    method: &'static str,
) -> Reply {
    let mut reply = Encoded::EMPTY;
    encode_reply(value, &mut reply, || request, method).map(|()| reply)
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

    fn begin(
        &self,
        context: Context,
        body: Body<'_>,
        spare: &mut Spare,
        decoded: &mut bool,
        reply: &mut Encoded,
    ) -> Result<Begun, NotExecuted> {
        *decoded = true;
        let (buffer, body) = (body.buffer(), body.keep());
        // Behind that, so that the context is not moved before it.
        Ok(match poll_once(spare, (self.function)(context, body)) {
            Ok(bytes) => {
                *reply = apart(bytes, &buffer);
                Begun::Ready(Ok(()))
            }
            Err(future) => Begun::pending(async move { Ok(apart(future.await, &buffer)) }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the memory of a handler that holds so many bytes is kept.
    fn is_kept<const LEN: usize>() -> bool {
        let mut spare = None;
        let bytes = [1; LEN];
        let future = async move {
            std::future::ready(()).await;
            bytes[LEN - 1]
        };
        assert!(poll_once(&mut spare, future).is_ok_and(|last| last == 1));
        spare.is_some()
    }

    #[test]
    fn the_memory_of_a_handler_with_much_on_its_stack_is_not_kept() {
        assert!(is_kept::<100>());
        assert!(!is_kept::<10_000>());
    }

    #[test]
    fn a_small_part_of_a_large_request_is_copied_to_be_a_reply() {
        let large = Bytes::from(vec![7; 100_000]);
        let body = Body { bytes: &large[32..], large: Some(&large) };
        let buffer = body.buffer();
        let part = body.keep().slice(1_000..3_000);
        let apart = |reply| apart(reply, &buffer).into_bytes();
        let reply = apart(part.clone());
        assert_eq!(reply, part);
        assert_ne!(reply.as_ptr(), part.as_ptr(), "it holds nothing of the request");
        let most = body.keep();
        assert_eq!(apart(most.clone()).as_ptr(), most.as_ptr(), "no copy of all of it");
        let other = Bytes::from(vec![1; 10]);
        assert_eq!(apart(other.clone()).as_ptr(), other.as_ptr());
        let small = Body { bytes: &large[..10], large: None };
        assert!(small.buffer().is_empty());
    }
}
