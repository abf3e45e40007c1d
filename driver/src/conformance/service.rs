//! What the servers of the suite offer, and what they saw.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use oncewire_core::{MethodId, MethodSpec};

use crate::method::Method;
use crate::server::{Context, Server, ServerBuilder};

pub(crate) const ADD_ONE: Method<u64, u64> = Method::new("conformance/add_one");
pub(crate) const PUT: Method<u64, u64> = Method::new("conformance/put");
pub(crate) const GET: Method<(), u64> = Method::new("conformance/get");
/// Waits until the test lets it go, then returns its argument.
pub(crate) const WAIT: Method<u64, u64> = Method::new("conformance/wait").reply_len_max(16);
/// The same, and may run more than once.
pub(crate) const WAIT_AGAIN: Method<u64, u64> =
    Method::new("conformance/wait_again").idempotent().reply_len_max(16);
pub(crate) const FAIL: Method<(), Result<u64, String>> = Method::new("conformance/fail");
pub(crate) const PANIC: Method<(), u64> = Method::new("conformance/panic");
/// Panics before there is a future to poll.
pub(crate) const PANIC_AT_ONCE: Method<(), u64> = Method::new("conformance/panic_at_once");
/// Returns so many bytes.
pub(crate) const BLOB: Method<u32, Vec<u8>> =
    Method::new("conformance/blob").reply_len_max(4 << 20);
/// The same, of at most 1000 bytes.
pub(crate) const SMALL_BLOB: Method<u32, Vec<u8>> =
    Method::new("conformance/small_blob").reply_len_max(1000);
/// Never returns, and has ten seconds.
pub(crate) const HANG: Method<(), u64> =
    Method::new("conformance/hang").time_limit(Duration::from_secs(10));
/// Returns its bytes.
pub(crate) const ECHO: MethodId = MethodId::of("conformance/echo");

/// The same number, another type of reply: a client of another version.
pub(crate) const ADD_ONE_OF_ANOTHER_VERSION: Method<u64, String> =
    Method::new("conformance/add_one");

/// What all servers of one test share: it outlives each of them.
pub(crate) struct Service {
    runs: AtomicU64,
    stored: AtomicU64,
    waiting: AtomicU64,
    /// Of each handler that waited, until it ends, what it can know of its call.
    contexts: Mutex<Vec<Option<Context>>>,
    /// Each argument of `ADD_ONE`, as often as it ran.
    arguments: Mutex<Vec<u64>>,
    permits: (smol::channel::Sender<()>, smol::channel::Receiver<()>),
}

impl Service {
    pub(crate) fn new() -> Arc<Service> {
        Arc::new(Service {
            runs: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            contexts: Mutex::default(),
            arguments: Mutex::default(),
            permits: smol::channel::unbounded(),
        })
    }

    /// Handlers that have begun, of all methods.
    pub(crate) fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }

    /// Handlers that have begun to wait, of all time.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Handlers that wait and whose call is cancelled.
    pub(crate) fn cancelled(&self) -> usize {
        let contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        contexts.iter().flatten().filter(|context| context.is_cancelled()).count()
    }

    /// The arguments with which `ADD_ONE` ran.
    pub(crate) fn arguments(&self) -> Vec<u64> {
        self.arguments.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets so many waiting handlers go, now or when they come.
    pub(crate) fn let_go(&self, handlers: usize) {
        for _ in 0..handlers {
            self.permits.0.try_send(()).expect("the channel has no limit");
        }
    }

    async fn wait(self: Arc<Service>, context: Context, n: u64) -> u64 {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let watched = Watched::new(&self, context);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.permits.1.recv().await.expect("the service holds the sender");
        drop(watched);
        n
    }

    /// A server that offers all of it.
    pub(crate) fn offer(self: &Arc<Service>, name: &str) -> ServerBuilder {
        self.offer_but(name, false)
    }

    /// The same, but `WAIT_AGAIN` is not declared idempotent.
    pub(crate) fn offer_but(self: &Arc<Service>, name: &str, strict: bool) -> ServerBuilder {
        let strictly = Method::<u64, u64>::new(WAIT_AGAIN.name()).reply_len_max(16);
        let again = if strict { &strictly } else { &WAIT_AGAIN };
        let count = |service: &Service| {
            service.runs.fetch_add(1, Ordering::SeqCst);
        };
        let of = || self.clone();
        let (add, put, get, wait, wait_again) = (of(), of(), of(), of(), of());
        let (fail, panic, blob, small, hang, echo) = (of(), of(), of(), of(), of(), of());
        Server::builder(name)
            .method(&ADD_ONE, move |_, n: u64| {
                count(&add);
                add.arguments.lock().unwrap_or_else(PoisonError::into_inner).push(n);
                async move { n.wrapping_add(1) }
            })
            .method(&PUT, move |_, n: u64| {
                count(&put);
                let before = put.stored.swap(n, Ordering::SeqCst);
                async move { before }
            })
            .method(&GET, move |_, ()| {
                let stored = get.stored.load(Ordering::SeqCst);
                async move { stored }
            })
            .method(&WAIT, move |context, n| wait.clone().wait(context, n))
            .method(again, move |context, n| wait_again.clone().wait(context, n))
            .method(&FAIL, move |_, ()| {
                count(&fail);
                async { Err("no such account".to_owned()) }
            })
            .method(&PANIC, move |_, ()| {
                count(&panic);
                // Not `panic!`: a message and a backtrace in the log of a run that is well would be taken for its failure.
                async { std::panic::resume_unwind(Box::new("as it should")) }
            })
            .method(&PANIC_AT_ONCE, move |_, ()| -> std::future::Ready<u64> {
                std::panic::resume_unwind(Box::new("as it should"))
            })
            .method(&BLOB, move |_, len: u32| {
                count(&blob);
                async move { vec![7; len as usize] }
            })
            .method(&SMALL_BLOB, move |_, len: u32| {
                count(&small);
                async move { vec![7; len as usize] }
            })
            .method(&HANG, move |_, ()| {
                count(&hang);
                std::future::pending::<u64>()
            })
            .method_raw(echo_spec(), move |_, body: Bytes| {
                count(&echo);
                async move { body }
            })
    }
}

/// A handler that waits: its context can be looked at.
struct Watched {
    service: Arc<Service>,
    at: usize,
}

impl Watched {
    fn new(service: &Arc<Service>, context: Context) -> Watched {
        let mut contexts = service.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        contexts.push(Some(context));
        Watched { service: service.clone(), at: contexts.len() - 1 }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let contexts = self.service.contexts.lock();
        contexts.unwrap_or_else(PoisonError::into_inner)[self.at] = None;
    }
}

fn echo_spec() -> MethodSpec {
    let mut spec = MethodSpec::new(ECHO);
    spec.reply_len_max = 2 << 20;
    spec
}

/// Arguments as they are in a request's body.
pub(crate) fn arguments<A: serde::Serialize>(arguments: &A) -> Vec<u8> {
    postcard::to_allocvec(arguments).expect("arguments of a test can be encoded")
}

/// A reply's body as a value.
pub(crate) fn value<R: serde::de::DeserializeOwned>(body: &[u8]) -> R {
    postcard::from_bytes(body).expect("a reply of the suite's service")
}
