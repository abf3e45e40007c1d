//! Servers: methods, connections, drain.
//!
//! | file | what it does |
//! |---|---|
//! | `server.rs` | the builder and the handle |
//! | `server/state.rs` | what all tasks share: the machine, and who is to be woken |
//! | `server/conn.rs` | the task of one connection |
//! | `server/handler.rs` | from a request's bytes to its reply |

mod conn;
mod handler;
mod state;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
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

use crate::method::Method;
use crate::runtime::{Runtime, SmolRuntime, Timer};
use crate::transport::{Accept, BoxStream, Subject};
pub use handler::Context;
use handler::{Handle, Raw, Typed};
use state::Shared;

/// A method and what executes it.
struct MethodEntry {
    handler: Box<dyn Handle>,
    time_limit: Option<Duration>,
}

/// Why a server could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// The service's name has more than 64 bytes.
    ServiceNameTooLong {
        /// Its bytes.
        len: usize,
    },
    /// The methods do not go together.
    Methods(ServerError),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::ServiceNameTooLong { len } => {
                write!(f, "the service's name has {len} bytes, 64 are allowed")
            }
            BuildError::Methods(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BuildError {}

/// The server id of a description that gives none: a random one takes its place.
const UNNAMED: ServerId = ServerId::from_bytes([0; 16]);

/// Describes a server: its methods, its limits, its runtime.
pub struct ServerBuilder {
    service: String,
    methods: Vec<(oncewire_core::MethodSpec, MethodEntry)>,
    config: ServerConfig,
    runtime: Option<Arc<dyn Runtime>>,
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods: Vec<_> = self.methods.iter().map(|(spec, _)| spec.id).collect();
        f.debug_struct("ServerBuilder")
            .field("service", &self.service)
            .field("methods", &methods)
            .finish_non_exhaustive()
    }
}

impl ServerBuilder {
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
        let handler = Box::new(Typed::<F, A, R>::new(function));
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
        if config.server == UNNAMED {
            let mut id = [0; 16];
            runtime.random(&mut id);
            config.server = ServerId::from_bytes(id);
        }
        let specs: Vec<_> = self.methods.iter().map(|(spec, _)| *spec).collect();
        let machine = Machine::new(config, &specs).map_err(BuildError::Methods)?;
        let by_id = |(spec, entry): (oncewire_core::MethodSpec, MethodEntry)| (spec.id, entry);
        let mut entries: HashMap<MethodId, MethodEntry> =
            self.methods.into_iter().map(by_id).collect();
        let sorted = machine.methods().iter().filter_map(|spec| entries.remove(&spec.id));
        let methods = sorted.collect();
        let shared = Shared::new(machine, methods, runtime.clone());
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
        ServerBuilder { service, methods: Vec::new(), config, runtime: None }
    }

    /// Names this run of the server: new at every start.
    pub fn id(&self) -> ServerId {
        self.id
    }

    /// Accepts connections and serves them, until a drain is complete or the transport says that there will be no
    /// more. Several transports can be served at once. Dropping the future stops accepting; connections live on.
    ///
    /// # Errors
    /// The error after which the transport can accept no more.
    pub async fn serve(&self, acceptor: impl Accept) -> io::Result<()> {
        loop {
            let accepted = {
                let mut accept = acceptor.accept();
                std::future::poll_fn(|cx| {
                    if self.shared.poll_drained(cx).is_ready() {
                        return Poll::Ready(None);
                    }
                    accept.as_mut().poll(cx).map(Some)
                })
                .await
            };
            match accepted {
                None => return Ok(()),
                Some(Ok((stream, subject))) => self.serve_stream(stream, subject),
                Some(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(());
                }
                Some(Err(error)) if is_final(&error) => return Err(error),
                Some(Err(_)) => self.pause(ACCEPT_PAUSE).await,
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

    /// Handlers that panicked, and replies that were larger than their method declares.
    pub fn mishaps(&self) -> Mishaps {
        self.shared.with(|state, _| Mishaps {
            panics: state.panics,
            replies_too_large: state.replies_too_large,
        })
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
}

/// Whether accepting again would only fail again.
fn is_final(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
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
