//! Servers: methods, connections, drain.
//!
//! | file | what it does |
//! |---|---|
//! | `server.rs` | the builder and the handle |
//! | `server/state.rs` | what all tasks share: the machine, and who is to be woken |
//! | `server/names.rs` | the numbers that stand for who is calling |
//! | `server/conn.rs` | the task of one connection |
//! | `server/pace.rs` | how long its turns are |
//! | `server/handler.rs` | from a request's bytes to its reply |
//! | `server/transactional.rs` | the same in the ledger's transaction |
//! | `server/records.rs` | what is on its way to the ledger |
//! | `server/clerk.rs` | the task that sees to what waited for it |

mod clerk;
mod conn;
mod handler;
mod names;
mod pace;
mod records;
mod state;
mod transactional;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use oncewire_core::{
    Instant, MethodId, Server as Machine, ServerConfig, ServerCounters, ServerError, ServerId,
    ServiceName,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ledger::{Ledger, LedgerError, NoLedger, Rollback};
use crate::method::Method;
use crate::runtime::{Runtime, SmolRuntime, Timer};
use crate::transport::{Accept, BoxStream, Subject};
use clerk::Clerk;
pub use handler::Context;
use handler::{Handle, Raw, Typed};
use names::Names;
use records::Submit;
pub use records::{Batch, Restore, Transactional};
use state::Shared;
use transactional::TypedTransactional;

/// A method and what executes it.
struct MethodEntry {
    handler: Box<dyn Handle>,
    time_limit: Option<Duration>,
}

/// Why a server could not be built.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// The service's name has more than 64 bytes.
    ServiceNameTooLong {
        /// Its bytes.
        len: usize,
    },
    /// The methods do not go together.
    Methods(ServerError),
    /// A transactional method is declared idempotent: what may run twice needs no record, and what has a record does not
    /// run twice.
    TransactionalIdempotent(MethodId),
    /// The configuration names a server id, and the ledger has another.
    OtherServerId {
        /// That of the configuration.
        configured: ServerId,
        /// The ledger's.
        ledger: ServerId,
    },
    /// The ledger could not be read.
    Ledger(LedgerError),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::ServiceNameTooLong { len } => {
                write!(f, "the service's name has {len} bytes, 64 are allowed")
            }
            BuildError::Methods(error) => error.fmt(f),
            BuildError::TransactionalIdempotent(method) => {
                write!(f, "the transactional method {method} is declared idempotent")
            }
            BuildError::OtherServerId { configured, ledger } => write!(
                f,
                "the configuration names the server {configured}, the ledger belongs to {ledger}"
            ),
            BuildError::Ledger(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BuildError {}

/// The server id of a description that gives none: a random one takes its place.
const UNNAMED: ServerId = ServerId::from_bytes([0; 16]);

/// A ledger of any kind.
trait AnyLedger: Submit {
    fn identity(&self) -> crate::ledger::Identity;
    fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError>;
    fn into_submit(self: Box<Self>) -> Box<dyn Submit>;
}

impl<L: Ledger> AnyLedger for L {
    fn identity(&self) -> crate::ledger::Identity {
        Ledger::identity(self)
    }

    fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError> {
        Ledger::recover(self, restore)
    }

    fn into_submit(self: Box<Self>) -> Box<dyn Submit> {
        self
    }
}

/// Describes a server: its methods, its limits, its ledger, its runtime.
pub struct ServerBuilder<L = NoLedger> {
    service: String,
    methods: Vec<(oncewire_core::MethodSpec, MethodEntry)>,
    config: ServerConfig,
    runtime: Option<Arc<dyn Runtime>>,
    ledger: Option<Box<dyn AnyLedger>>,
    transactional: Vec<MethodId>,
    types: PhantomData<fn() -> L>,
}

impl<L> fmt::Debug for ServerBuilder<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods: Vec<_> = self.methods.iter().map(|(spec, _)| spec.id).collect();
        f.debug_struct("ServerBuilder")
            .field("service", &self.service)
            .field("methods", &methods)
            .finish_non_exhaustive()
    }
}

impl<L: Ledger> ServerBuilder<L> {
    /// Offers a typed method whose calls run in the ledger's transaction (S29): what `function` writes there and the
    /// record of its reply become durable together, or not at all. So a call with retries is executed exactly once
    /// across crashes.
    ///
    /// `function` runs on the ledger's thread and delays other calls while it does. It is to do nothing but read and
    /// write in the transaction: it is run again when a neighbour in the same commit was rolled back, or a crash came
    /// before the commit. An error or a panic rolls back what it did, and only that; the client learns
    /// `NotExecuted(Aborted)`.
    pub fn transactional<A, R, F>(mut self, method: &Method<A, R>, function: F) -> Self
    where
        F: Fn(&mut L::Transaction, &Context, A) -> Result<R, Rollback> + Send + Sync + 'static,
        A: DeserializeOwned + Send + 'static,
        R: Serialize + 'static,
    {
        let handler =
            Box::new(TypedTransactional::<L::Transaction, F, A, R>::new(function, method.values()));
        let entry = MethodEntry { handler, time_limit: None };
        self.methods.push((method.spec(), entry));
        self.transactional.push(method.id());
        self
    }
}

impl ServerBuilder<NoLedger> {
    /// Keeps sessions and calls in a ledger, so that they survive a crash. Every call that is not idempotent is recorded
    /// from now on; see [`ledger`](crate::ledger).
    pub fn ledger<L: Ledger>(self, ledger: L) -> ServerBuilder<L> {
        let ServerBuilder { service, methods, config, runtime, transactional, .. } = self;
        let ledger: Option<Box<dyn AnyLedger>> = Some(Box::new(ledger));
        let types = PhantomData;
        ServerBuilder { service, methods, config, runtime, ledger, transactional, types }
    }
}

impl<L> ServerBuilder<L> {
    /// Offers a typed method. Each call is executed by `function`, at most once unless the method is idempotent.
    ///
    /// The future is polled once at once, and only if it is not ready becomes a task: what it does before its first
    /// await delays other calls of its connection. A panic, or more time than the method's limit, ends the call as
    /// aborted (S14).
    pub fn method<A, R, F, Fut>(mut self, method: &Method<A, R>, function: F) -> Self
    where
        F: Fn(Context, A) -> Fut + Send + Sync + 'static,
        A: DeserializeOwned + Send + 'static,
        R: Serialize + 'static,
        Fut: Future<Output = R> + Send + 'static,
    {
        let handler = Box::new(Typed::<F, A, R>::new(function, method));
        let entry = MethodEntry { handler, time_limit: method.limit() };
        self.methods.push((method.spec(), entry));
        self
    }

    /// Offers a method of bytes; `spec` says what else there is to know of it.
    pub fn method_raw<F, Fut>(mut self, spec: oncewire_core::MethodSpec, function: F) -> Self
    where
        F: Fn(Context, Bytes) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Bytes> + Send + 'static,
    {
        let entry = MethodEntry { handler: Box::new(Raw::new(function)), time_limit: None };
        self.methods.push((spec, entry));
        self
    }

    /// Changes the limits: see [`ServerConfig`](oncewire_core::ServerConfig).
    pub fn configure(mut self, change: impl FnOnce(&mut ServerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Runs on a runtime of your own.
    pub fn runtime(mut self, runtime: Arc<dyn Runtime>) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Builds the server. It serves nobody before [`Server::serve`].
    ///
    /// # Errors
    /// What is wrong with its description.
    pub fn build(self) -> Result<Server, BuildError> {
        let len = self.service.len();
        let too_long = BuildError::ServiceNameTooLong { len };
        let service = ServiceName::new(&self.service).ok_or(too_long)?;
        let runtime = self.runtime.unwrap_or_else(|| SmolRuntime::global());
        let mut config = self.config;
        config.service = service;
        if let Some(ledger) = &self.ledger {
            let identity = ledger.identity();
            let (configured, ledger) = (config.server, identity.server);
            if configured != UNNAMED && configured != ledger {
                return Err(BuildError::OtherServerId { configured, ledger });
            }
            (config.server, config.commit) = (ledger, identity.commit);
            config.records_sessions = true;
        }
        if config.server == UNNAMED {
            let mut id = [0; 16];
            runtime.random(&mut id);
            config.server = ServerId::from_bytes(id);
        }
        let specs: Vec<_> = self.methods.iter().map(|(spec, _)| *spec).collect();
        let wrong = |spec: &&oncewire_core::MethodSpec| {
            spec.idempotent && self.transactional.contains(&spec.id)
        };
        if let Some(spec) = specs.iter().find(wrong) {
            return Err(BuildError::TransactionalIdempotent(spec.id));
        }
        let mut machine = Machine::new(config, &specs).map_err(BuildError::Methods)?;
        let by_id = |(spec, entry): (oncewire_core::MethodSpec, MethodEntry)| (spec.id, entry);
        let mut entries: HashMap<MethodId, MethodEntry> =
            self.methods.into_iter().map(by_id).collect();
        let sorted = machine.methods().iter().filter_map(|spec| entries.remove(&spec.id));
        let methods = sorted.collect();
        let mut names = Names::default();
        let ledger = match self.ledger {
            None => None,
            Some(ledger) => {
                let mut restore = Restore {
                    machine: &mut machine,
                    names: &mut names,
                    now: runtime.now(),
                    sessions: HashMap::new(),
                    lost: Vec::new(),
                };
                ledger.recover(&mut restore).map_err(BuildError::Ledger)?;
                let records = Box::new(restore.into_records());
                Some((ledger.into_submit(), records))
            }
        };
        let shared = Shared::new(machine, methods, runtime.clone(), names, ledger);
        if shared.ledger.is_some() {
            runtime.spawn(Box::pin(Clerk { shared: Arc::downgrade(&shared) }));
        }
        runtime.spawn(Box::pin(Keeper { shared: Arc::downgrade(&shared), timer: runtime.timer() }));
        Ok(Server { shared, id: config.server })
    }
}

/// A server: executes calls of many sessions over many connections, each call once.
///
/// Cheap to clone; all clones are the same server.
///
/// ```
/// use oncewire_driver::{Method, Server};
///
/// const ADD_ONE: Method<i32, i32> = Method::new("toy.add_one");
///
/// let server = Server::builder("toy")
///     .method(&ADD_ONE, |_context, n: i32| async move { n + 1 })
///     .build()
///     .unwrap();
/// println!("server {}", server.id());
/// ```
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
    id: ServerId,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("id", &self.id).field("counters", &self.counters()).finish()
    }
}

/// How long accepting pauses after an error.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Server {
    /// Describes a server for the service of this name, of at most 64 bytes.
    pub fn builder(service: impl Into<String>) -> ServerBuilder {
        let service = service.into();
        // A name that is too long is told of by `build`.
        let name = ServiceName::new(&service).unwrap_or(ServiceName::EMPTY);
        let config = ServerConfig::new(UNNAMED, name);
        ServerBuilder {
            service,
            methods: Vec::new(),
            config,
            runtime: None,
            ledger: None,
            transactional: Vec::new(),
            types: PhantomData,
        }
    }

    /// Names this server's set of completion records: new at every start, unless a ledger keeps them.
    pub fn id(&self) -> ServerId {
        self.id
    }

    /// Accepts connections and serves them, until a drain is complete or the transport says that there will be no
    /// more. Several transports can be served at once. Dropping the future stops accepting; connections live on.
    ///
    /// # Errors
    /// The error after which the transport can accept no more, or the ledger's (S31): what has no record is not
    /// answered, and new calls are refused. End the process then, and start again when the cause is mended.
    pub async fn serve(&self, acceptor: impl Accept) -> io::Result<()> {
        loop {
            let accepted = {
                let mut accept = acceptor.accept();
                std::future::poll_fn(|cx| {
                    if self.shared.poll_drained(cx).is_ready() {
                        return Poll::Ready(None);
                    }
                    if let Poll::Ready(error) = self.shared.poll_ledger_failed(cx) {
                        return Poll::Ready(Some(Err(Stop::Ledger(error))));
                    }
                    let accepted = accept.as_mut().poll(cx);
                    accepted.map(|accepted| Some(accepted.map_err(Stop::Transport)))
                })
                .await
            };
            match accepted {
                None => return Ok(()),
                Some(Ok((stream, subject))) => self.serve_stream(stream, subject),
                Some(Err(Stop::Ledger(error))) => return Err(io::Error::other(error)),
                Some(Err(Stop::Transport(error))) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(());
                }
                Some(Err(Stop::Transport(error))) if is_final(&error) => return Err(error),
                Some(Err(Stop::Transport(_))) => self.pause(ACCEPT_PAUSE).await,
            }
        }
    }

    /// Serves one connection that was accepted by other means, in a task of its own.
    pub fn serve_stream(&self, stream: BoxStream, subject: Subject) {
        // Beyond the limit of connections, the newcomer is closed.
        let Some(id) = self.shared.connect(&subject) else { return };
        let task = conn::ConnTask::new(self.shared.clone(), id, subject, stream);
        self.shared.runtime.spawn(Box::pin(task));
    }

    /// Ends in good order (S25): clients are told, what is not started is refused, what runs is finished and answered,
    /// and everybody has until `grace` is over to fetch what is kept. Complete when no connection is left.
    pub async fn drain(&self, grace: Duration) {
        self.shared.with(|state, now| state.machine.drain(now, grace));
        std::future::poll_fn(|cx| self.shared.poll_drained(cx)).await;
    }

    /// What the server holds and has done.
    pub fn counters(&self) -> ServerCounters {
        self.shared.with(|state, _| state.machine.counters())
    }

    /// What handlers did that they should not.
    pub fn mishaps(&self) -> Mishaps {
        self.shared.with(|state, _| Mishaps {
            panics: state.panics,
            replies_too_large: state.replies_too_large,
            unencodable: state.unencodable,
            rollbacks: state.rollbacks,
        })
    }

    /// The error after which the ledger can write no more (S31); `None` while all is well.
    pub fn ledger_error(&self) -> Option<LedgerError> {
        self.shared.with(|state, _| state.records.as_ref().and_then(|r| r.error.clone()))
    }

    /// Why the last transactional call that was rolled back was rolled back.
    pub fn last_rollback(&self) -> Option<String> {
        self.shared.with(|state, _| state.last_rollback.clone())
    }

    /// Which method's reply was the last that could not be encoded, and why.
    pub fn last_unencodable(&self) -> Option<String> {
        self.shared.with(|state, _| state.last_unencodable.clone())
    }

    async fn pause(&self, pause: Duration) {
        let mut timer = self.shared.runtime.timer();
        timer.set(self.shared.runtime.now() + pause);
        std::future::poll_fn(|cx| timer.poll(cx)).await;
    }
}

/// What handlers did that they should not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mishaps {
    /// Handlers that panicked.
    pub panics: u64,
    /// Replies that were larger than their method declares or the session was granted.
    pub replies_too_large: u64,
    /// Replies that could not be encoded: see [`Server::last_unencodable`].
    pub unencodable: u64,
    /// Transactional handlers that were rolled back: see [`Server::last_rollback`].
    pub rollbacks: u64,
}

/// Why nothing more is accepted.
enum Stop {
    Transport(io::Error),
    Ledger(LedgerError),
}

/// Whether accepting again would only fail again.
fn is_final(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, NotFound, Unsupported};
    matches!(error.kind(), InvalidInput | NotFound | Unsupported)
}

/// The task that keeps a server's time. Ends with the server.
struct Keeper {
    shared: std::sync::Weak<Shared>,
    timer: Box<dyn Timer>,
}

/// How often the keeper looks whether its server still exists.
const KEEPER_LOOK: Duration = Duration::from_secs(1);

impl Future for Keeper {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        loop {
            let Some(shared) = self.shared.upgrade() else { return Poll::Ready(()) };
            let at = shared.with(|state, now| {
                if state.machine.poll_timeout().is_some_and(|at| at <= now) {
                    state.machine.handle_timeout(now);
                }
                state.sweep(now);
                state.sweep_names();
                state.keeper = Some(cx.waker().clone());
                let at = state.machine.poll_timeout().unwrap_or(Instant::FAR_FUTURE);
                state.armed = at.min(now + KEEPER_LOOK);
                state.armed
            });
            self.timer.set(at);
            let mut timer = pin!(&mut self.timer);
            if timer.poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
