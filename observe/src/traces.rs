//! Traces across processes: a span for each call at its client and one at its server, joined by what the call carries.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oncewire_driver::observe::{CallEnd, CallInfo, Event, MethodName, Observer, Source};
use oncewire_driver::{
    ClientOptions, Context, Handled, NewCall, Next, NextTransactional, ServerBuilder, SessionTag,
    Xid,
};

use crate::labels;
use crate::span::{FinishedSpan, SpanKind};
use crate::trace_context::{SpanId, TraceContext, TraceId};

/// Takes spans that have ended, to export them. It is called by the tasks and threads in which they end, and should be quick.
pub trait SpanSink: Send + Sync + 'static {
    /// A span has ended.
    fn export(&self, span: &FinishedSpan);
}

impl<F: Fn(&FinishedSpan) + Send + Sync + 'static> SpanSink for F {
    fn export(&self, span: &FinishedSpan) {
        self(span);
    }
}

impl<T: SpanSink + ?Sized> SpanSink for Arc<T> {
    fn export(&self, span: &FinishedSpan) {
        (**self).export(span);
    }
}

/// Makes spans of calls, as the part of one process in traces that go through several.
///
/// A call's span at its client begins when the call does, ends with its outcome, and covers all of its sendings. The call carries the
/// span's [context](TraceContext) in its metadata, so that the span of its handler is a child of it, in whichever process that
/// is. What the handler calls in turn is a child of the handler's span.
///
/// Cheap to clone; one may watch many clients and servers.
///
/// ```
/// use oncewire_driver::{ClientOptions, Method, Server};
/// use oncewire_observe::{FinishedSpan, Traces};
///
/// const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");
///
/// let traces = Traces::new(|span: &FinishedSpan| println!("{} in {}", span.name, span.context.trace()));
/// let builder = Server::builder("toy").method(&ADD_ONE, |_context, n: i32| async move { n + 1 });
/// let server = traces.watch_server(builder).build();
/// let options = traces.watch_client(ClientOptions::default());
/// # server.unwrap(); drop(options);
/// ```
///
/// # What is current
///
/// The *current* span is that of the handler, or of the work in [`span`](Traces::span), whose future is being polled, or whose
/// transactional function runs. A call that begins then is a child of it: await it, or [start](oncewire_driver::Call::start) it, where
/// that is the case. In a task of its own, or on the thread of a handler that blocks, there is none, unless
/// [`TraceContext::scope`] or [`TraceContext::within`] says so. A call for which there is none begins a trace.
#[derive(Clone)]
pub struct Traces(Arc<Inner>);

struct Inner {
    sink: Box<dyn SpanSink>,
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
    /// For the ids of traces and spans.
    seed: RandomState,
    next: AtomicU64,
    /// One of so many new traces is recorded.
    one_in: u64,
    open: Mutex<Open>,
}

/// Spans of calls that have not ended. A source is at the same place for as long as its observers are called with it.
#[derive(Default)]
struct Open {
    clients: HashMap<(usize, u64), FinishedSpan>,
    servers: HashMap<(SessionTag, Xid), FinishedSpan>,
    /// Contexts of handlers, until an observer has seen their calls' ends; if one wants them.
    handlers: Option<HashMap<(SessionTag, Xid), TraceContext>>,
}

/// Contexts of handlers that are remembered; of more none is.
const HANDLERS_MAX: usize = 65_536;

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = self.open();
        f.debug_struct("Traces")
            .field("calls", &open.clients.len())
            .field("handlers", &open.servers.len())
            .finish_non_exhaustive()
    }
}

thread_local! {
    static CURRENT: RefCell<Option<TraceContext>> = const { RefCell::new(None) };
}

/// Puts back what was current before.
struct Entered(Option<TraceContext>);

impl Entered {
    fn new(context: Option<TraceContext>) -> Entered {
        Entered(CURRENT.with(|current| current.replace(context)))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.with(|current| *current.borrow_mut() = self.0.take());
    }
}

impl TraceContext {
    /// What is current in this thread now.
    pub fn current() -> Option<TraceContext> {
        CURRENT.with(|current| current.borrow().clone())
    }

    /// Runs `work` with this as what is current: on the thread of a handler that blocks, say.
    pub fn scope<T>(&self, work: impl FnOnce() -> T) -> T {
        let _entered = Entered::new(Some(self.clone()));
        work()
    }

    /// The same for a future, whenever it is polled: for a task of its own, say.
    pub async fn within<F: Future>(self, work: F) -> F::Output {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| self.scope(|| work.as_mut().poll(cx))).await
    }
}

impl Traces {
    /// Gives spans that end to `sink`.
    pub fn new(sink: impl SpanSink) -> Traces {
        Traces(Arc::new(Inner {
            sink: Box::new(sink),
            clock: Box::new(time_of_day),
            seed: RandomState::new(),
            next: AtomicU64::new(0),
            one_in: 1,
            open: Mutex::default(),
        }))
    }

    /// Records one of `n` of the traces that begin here, by chance; 0 counts as 1. Traces that began elsewhere are recorded if that
    /// process has said so. What is not recorded is carried on all the same.
    pub fn one_in(mut self, n: u64) -> Traces {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.one_in = n.max(1);
        }
        self
    }

    /// With a clock of your own: nanoseconds since 1970.
    pub fn with_clock(mut self, clock: impl Fn() -> u64 + Send + Sync + 'static) -> Traces {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.clock = Box::new(clock);
        }
        self
    }

    /// Makes spans of the calls of a client with these options.
    pub fn watch_client(&self, options: ClientOptions) -> ClientOptions {
        let traces = self.clone();
        let hook = move |call: &mut NewCall| traces.carry(call);
        options.with_observer(self.clone()).with_around(hook)
    }

    /// Makes spans of the runs of a server's handlers. Other hooks that are given to the server later run inside of them.
    pub fn watch_server<L>(&self, builder: ServerBuilder<L>) -> ServerBuilder<L> {
        let (calls, transactions) = (self.clone(), self.clone());
        builder
            .observe(self.clone())
            .around(move |context, next| calls.clone().around(context, next))
            .around_transactional(move |context, next| {
                transactions.around_transactional(context, next)
            })
    }

    /// Does `work` in a span of this name: a child of the current one, or the first one of a trace.
    pub async fn span<F: Future>(&self, name: impl Into<Cow<'static, str>>, work: F) -> F::Output {
        let span = self.begin(TraceContext::current(), name.into(), SpanKind::Internal);
        let context = span.context.clone();
        let running = Running { traces: self, key: None, span: Some(span) };
        let output = context.within(work).await;
        running.end(|_| ());
        output
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        (self.0.clock)()
    }

    /// Eight bytes of an id. They are no secret, but no two are alike: also not those of a process and of its fork.
    fn random(&self) -> u64 {
        loop {
            let mut hasher = self.0.seed.build_hasher();
            hasher.write_u64(self.0.next.fetch_add(1, Ordering::Relaxed));
            hasher.write_u32(std::process::id());
            match hasher.finish() {
                0 => {}
                random => return random,
            }
        }
    }

    fn begin(
        &self,
        parent: Option<TraceContext>,
        name: Cow<'static, str>,
        kind: SpanKind,
    ) -> FinishedSpan {
        let span = SpanId::from_number(self.random());
        let start = self.now();
        let context = match &parent {
            Some(parent) => parent.child(span),
            None => {
                let trace = TraceId::from_numbers(self.random(), self.random());
                let sampled = self.0.one_in == 1 || self.random().is_multiple_of(self.0.one_in);
                TraceContext::new(trace, span, sampled)
            }
        };
        FinishedSpan::begin(context, parent.map(|parent| parent.span()), name, kind, start)
    }

    /// From now on the contexts of handlers are kept until they are asked for.
    #[cfg(feature = "tracing")]
    pub(crate) fn remember_handlers(&self) {
        self.open().handlers.get_or_insert_default();
    }

    /// Some are never asked for, because what an observer was to see was lost.
    #[cfg(feature = "tracing")]
    pub(crate) fn forget_handlers(&self) {
        self.open().handlers.iter_mut().for_each(HashMap::clear);
    }

    /// The context of a call's span, at its client, or of its handler's, once.
    #[cfg(feature = "tracing")]
    pub(crate) fn context_of(&self, source: &Source, call: &CallInfo) -> Option<TraceContext> {
        let mut open = self.open();
        if source.is_server() {
            return open.handlers.as_mut()?.remove(&(call.session?, call.xid?));
        }
        open.clients.get(&key(source, call.number)).map(|span| span.context.clone())
    }

    fn begin_call(
        &self,
        parent: Option<TraceContext>,
        method: MethodName,
        kind: SpanKind,
    ) -> FinishedSpan {
        let mut span = self.begin(parent, Cow::Borrowed(labels::method(method)), kind);
        span.set("rpc.system.name", "oncewire");
        span.set("rpc.method", labels::method(method));
        if method.name.is_empty() {
            span.set("rpc.method_original", method.to_string());
        }
        span
    }

    fn finish(&self, mut span: FinishedSpan) {
        if span.context.is_sampled() {
            span.end = self.now().max(span.start);
            self.0.sink.export(&span);
        }
    }

    fn start_client(&self, source: &Source, call: &CallInfo) {
        let Source::Client { address, .. } = source else { return };
        let mut span = self.begin_call(TraceContext::current(), call.method, SpanKind::Client);
        span.set("server.address", address.clone());
        self.open().clients.insert(key(source, call.number), span);
    }

    /// Gives a call the context of its span.
    fn carry(&self, call: &mut NewCall) {
        let observed = call.observed().map(|(source, number)| key(source, number));
        let context =
            observed.and_then(|key| self.open().clients.get(&key).map(|span| span.context.clone()));
        let context = context.unwrap_or_else(|| {
            // Nothing is reported of a one-way call: its span is that it was begun.
            let parent = TraceContext::current();
            let mut span = self.begin_call(parent, call.method(), SpanKind::Client);
            span.set("oncewire.one_way", true);
            let context = span.context.clone();
            self.finish(span);
            context
        });
        context.set(|key, value| call.set_metadata(key, value));
    }

    fn end_client(&self, source: &Source, call: &CallInfo, end: &CallEnd, reconnects: u64) {
        let Some(mut span) = self.open().clients.remove(&key(source, call.number)) else { return };
        describe_end(&mut span, end);
        if let Some(session) = call.session {
            span.set("oncewire.session", session.to_string());
        }
        if let Some(xid) = call.xid {
            span.set("oncewire.xid", xid.get());
        }
        span.set("oncewire.reconnects", reconnects);
        self.finish(span);
    }

    /// The span of a handler that is about to run.
    fn start_server(&self, context: &Context, method: MethodName) -> (Running<'_>, TraceContext) {
        let remote = context.all_metadata().and_then(TraceContext::of);
        let mut span = self.begin_call(remote, method, SpanKind::Server);
        let entered = span.context.clone();
        span.set("oncewire.xid", context.xid.get());
        let Some(session) = context.session() else {
            return (Running { traces: self, key: None, span: Some(span) }, entered);
        };
        span.set("oncewire.session", session.to_string());
        let key = (session, context.xid);
        let mut open = self.open();
        open.servers.insert(key, span);
        if let Some(handlers) = &mut open.handlers
            && handlers.len() < HANDLERS_MAX
        {
            handlers.insert(key, entered.clone());
        }
        drop(open);
        (Running { traces: self, key: Some(key), span: None }, entered)
    }

    async fn around(self, context: Context, next: Next) -> Handled {
        let (running, entered) = self.start_server(&context, next.method());
        let handled = entered.within(next.run()).await;
        running.end(|span| describe_end(span, &handled.end()));
        handled
    }

    fn around_transactional(&self, context: &Context, next: NextTransactional<'_>) -> Handled {
        let (running, entered) = self.start_server(context, next.method());
        let handled = entered.scope(|| next.run());
        running.end(|span| describe_end(span, &handled.end()));
        handled
    }

    /// Something has happened to the connection of all calls of a client.
    fn event_of_client(&self, source: &Source, name: &'static str, event: &Event) {
        let (now, place) = (self.now(), key(source, 0).0);
        let mut open = self.open();
        let spans = open.clients.iter_mut().filter(|((source, _), _)| *source == place);
        spans.for_each(|(_, span)| span.event(now, name, event.to_string()));
    }

    /// Something has happened to a call at its server.
    fn event_of_server(
        &self,
        session: Option<SessionTag>,
        xid: Option<Xid>,
        name: &'static str,
        event: &Event,
    ) {
        let (Some(session), Some(xid)) = (session, xid) else { return };
        let now = self.now();
        if let Some(span) = self.open().servers.get_mut(&(session, xid)) {
            span.event(now, name, event.to_string());
        }
    }
}

/// A span that ends wherever its work is dropped.
struct Running<'t> {
    traces: &'t Traces,
    /// Its place among the open ones.
    key: Option<(SessionTag, Xid)>,
    /// The span itself, if it has none.
    span: Option<FinishedSpan>,
}

impl Running<'_> {
    fn end(mut self, describe: impl FnOnce(&mut FinishedSpan)) {
        self.finish(describe);
    }

    fn finish(&mut self, describe: impl FnOnce(&mut FinishedSpan)) {
        let open = self.key.take().and_then(|key| self.traces.open().servers.remove(&key));
        let Some(mut span) = open.or_else(|| self.span.take()) else { return };
        describe(&mut span);
        self.traces.finish(span);
    }
}

impl Drop for Running<'_> {
    /// The time of the work is over, or it has panicked.
    fn drop(&mut self) {
        self.finish(|span| {
            if let SpanKind::Server = span.kind {
                span.set("rpc.response.status_code", "ABORTED");
            }
            span.error = Some("ABORTED");
        });
    }
}

fn key(source: &Source, number: u64) -> (usize, u64) {
    (std::ptr::from_ref(source).addr(), number)
}

fn describe_end(span: &mut FinishedSpan, end: &CallEnd) {
    span.set("rpc.response.status_code", end.status());
    if *end != CallEnd::Replied {
        span.set("error.type", end.status());
        span.error = Some(end.status());
    }
    span.set("oncewire.executed", labels::executed(end.executed()));
}

#[expect(
    clippy::disallowed_methods,
    reason = "a trace shows the time of day; tests pass another clock"
)]
fn time_of_day() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Observer for Traces {
    fn observe(&self, source: &Source, event: &Event) {
        if source.is_server() {
            return match event {
                Event::Duplicate { session, xid, .. } => {
                    self.event_of_server(*session, Some(*xid), "oncewire.duplicate", event);
                }
                Event::HandlerPanicked { call, .. } => {
                    self.event_of_server(call.session, call.xid, "oncewire.panic", event);
                }
                Event::RolledBack { call, .. } => {
                    self.event_of_server(call.session, call.xid, "oncewire.rollback", event);
                }
                _ => (),
            };
        }
        let name = match event {
            Event::CallStarted { call, .. } => return self.start_client(source, call),
            Event::CallEnded { call, end, reconnects, .. } => {
                return self.end_client(source, call, end, *reconnects);
            }
            Event::ConnectionOpened { .. } => "oncewire.connect",
            Event::ConnectionClosed { .. } => "oncewire.disconnect",
            Event::DialFailed { .. } => "oncewire.dial_failed",
            Event::SessionOpened { .. } => "oncewire.session.open",
            Event::SessionResumed { .. } => "oncewire.session.resume",
            Event::SessionRefused { .. } => "oncewire.session.refused",
            Event::SessionLost { .. } => "oncewire.session.lost",
            _ => return,
        };
        self.event_of_client(source, name, event);
    }
}
