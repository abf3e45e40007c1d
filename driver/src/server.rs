//! Servers: methods, connections, drain.
//!
//! | file | what it does |
//! |---|---|
//! | `server.rs` | the handle |
//! | `server/builder.rs` | how a server is described |
//! | `server/build_error.rs` | why one cannot be built |
//! | `server/state.rs` | what all tasks share: the machine, and which task to wake |
//! | `server/principals.rs` | the numbers of callers |
//! | `server/conn.rs` | the task of one connection |
//! | `server/provided.rs` | what hooks give to handlers |
//! | `server/pace.rs` | how long its turns are |
//! | `server/authorization.rs` | which callers may call which methods |
//! | `server/limits.rs` | how many handlers run, and the queues before them |
//! | `server/turns.rs` | whose turn it is in a queue |
//! | `server/waiting.rs` | calls that cannot run at once: their turn comes, or they are refused |
//! | `server/context.rs` | what a handler can know of its call |
//! | `server/handler.rs` | from a request's bytes to a future or a transaction |
//! | `server/around.rs` | hooks that wrap handlers |
//! | `server/stateful.rs` | handlers that share a state |
//! | `server/blocking.rs` | handlers that block their thread |
//! | `server/transactional.rs` | handlers that run in the ledger's transaction |
//! | `server/execution.rs` | a call runs, and ends |
//! | `server/observed.rs` | what observers learn; the verbs that start, refuse and end calls |
//! | `server/tags.rs` | the names of sessions for logs |
//! | `server/status.rs` | what a server says of itself |
//! | `server/cancels.rs` | handlers that wait for their calls' cancels |
//! | `server/recording.rs` | what is recorded, and when |
//! | `server/ledger_queue.rs` | what is on its way to the ledger |
//! | `server/lanes.rs` | makes batches of it: which entries go together, and in which lane |
//! | `server/batch.rs` | a batch of it, as the ledger sees it |
//! | `server/ledger_task.rs` | the task that does what waited for the ledger |
//! | `server/any_ledger.rs` | a ledger whose kind is forgotten |
//! | `server/restore.rs` | takes back what a ledger has kept |
//! | `server/sharing.rs` | sessions that move between servers with the same ledger |
//! | `server/timer_task.rs` | the task that keeps time |

mod any_ledger;
mod around;
mod authorization;
pub(crate) mod batch;
mod blocking;
mod build_error;
mod builder;
mod cancels;
mod conn;
mod context;
mod execution;
mod handler;
mod lanes;
mod ledger_queue;
mod ledger_task;
mod limits;
mod observed;
mod pace;
mod principals;
mod provided;
mod recording;
pub(crate) mod restore;
mod runner;
mod sharing;
mod state;
mod stateful;
mod status;
mod tags;
mod timer_task;
mod transactional;
mod turns;
mod waiting;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use oncewire_core::{Instance, NotExecuted, ServerCounters, ServerId};

use crate::ledger::entry::LedgerError;
use crate::observe::Event;
use crate::transport::{Accept, BoxStream, Subject, yield_now};
pub use around::{Handled, Next, NextTransactional, Refusal};
pub(crate) use authorization::allows;
pub use build_error::BuildError;
pub use builder::ServerBuilder;
pub use context::Context;
use state::Shared;
pub use stateful::{StateHandler, StatefulBuilder};
#[cfg(feature = "stream")]
pub(crate) use transactional::InTransaction;

/// A server: executes calls of many sessions over many connections, each call once.
///
/// Cheap to clone; all clones are the same server.
///
/// ```
/// use oncewire_driver::{Method, Server};
///
/// const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");
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
    instance: Instance,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("id", &self.id)
            .field("instance", &self.instance)
            .field("counters", &self.counters())
            .finish()
    }
}

/// Connections that are accepted one after another: then other tasks get their turn.
const ACCEPTS_MAX: usize = 16;
/// How long accepting pauses after an error.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Server {
    /// Describes a server for the service of this name, of at most 64 bytes.
    pub fn builder(service: impl Into<String>) -> ServerBuilder {
        ServerBuilder::new(service.into())
    }

    /// Names this server's set of completion records: new at every start, unless a ledger keeps them.
    pub fn id(&self) -> ServerId {
        self.id
    }

    /// This start of the server, as clients see it: see [`ServerBuilder::instance`].
    pub fn instance(&self) -> Instance {
        self.instance
    }

    /// Accepts connections and serves them, until a drain is complete or the transport says that there will be no
    /// more. Several transports can be served at once. Dropping the future stops accepting; connections live on.
    ///
    /// Each connection takes a descriptor, of which a process often has 1,024: see
    /// [`conns_max`](oncewire_core::ServerConfig::conns_max). Where none is free, those that wait to be accepted wait on, observers learn
    /// it ([`AcceptFailed`](crate::observe::Event::AcceptFailed)), and it is tried again soon.
    ///
    /// # Errors
    /// The error after which the transport can accept no more, or the ledger's (S31): what has no record is not
    /// answered, and new calls are refused. End the process then, and start again when the cause is mended.
    pub async fn serve(&self, acceptor: impl Accept) -> io::Result<()> {
        let mut failed = 0_u32;
        for accepts in 1_usize.. {
            if accepts.is_multiple_of(ACCEPTS_MAX) {
                yield_now().await;
            }
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
                Some(Ok((stream, subject))) => {
                    failed = 0;
                    self.serve_stream(stream, subject);
                }
                Some(Err(Stop::Ledger(error))) => return Err(io::Error::other(error)),
                Some(Err(Stop::Transport(error))) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(());
                }
                Some(Err(Stop::Transport(error))) if is_final(&error) => return Err(error),
                Some(Err(Stop::Transport(error))) => {
                    failed = failed.saturating_add(1);
                    self.shared.note_accept_failed(|| acceptor.address(), &error, failed);
                    self.pause(ACCEPT_PAUSE).await;
                }
            }
        }
        Ok(())
    }

    /// Serves one connection that was accepted by other means, in its own task.
    pub fn serve_stream(&self, stream: BoxStream, subject: Subject) {
        // Beyond the limit of connections, the newcomer is closed.
        let Some(id) = self.shared.connect(&subject) else { return };
        let task = conn::ConnTask::new(self.shared.clone(), id, subject, stream);
        self.shared.runtime.spawn(Box::pin(task));
    }

    /// Shuts down gracefully (S25): clients are notified, what is not started is refused, what runs is finished and answered,
    /// and clients have until `grace` is over to fetch the replies that are kept. Complete when no connection is left. A client that lost
    /// its connection less than a keepalive's time before is waited for as well, within the grace, unless a ledger keeps
    /// its session for the next server: its calls in doubt may never have been read, and only this server can say so.
    pub async fn drain(&self, grace: Duration) {
        self.shared.with(|state, now| {
            state.observe(|| Event::DrainBegan);
            state.machine.drain(now, grace);
            state.refuse_waiting(now, NotExecuted::ShuttingDown);
        });
        std::future::poll_fn(|cx| self.shared.poll_drained(cx)).await;
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What the server holds and has done.
    pub fn counters(&self) -> ServerCounters {
        self.shared.with(|state, _| state.machine.counters())
    }

    /// How many handlers run, and what waits for them.
    pub fn load(&self) -> Load {
        self.shared.with(|state, _| {
            let (running, waiting) = state.limits.counts();
            Load { running, waiting, overloaded: state.overloaded }
        })
    }

    /// What handlers did that they should not.
    pub fn handler_faults(&self) -> HandlerFaults {
        self.shared.with(|state, _| HandlerFaults {
            panics: state.panics,
            replies_too_large: state.replies_too_large,
            unencodable: state.unencodable,
            rollbacks: state.rollbacks,
        })
    }

    /// The error after which the ledger can write no more (S31); `None` while all is well.
    pub fn ledger_error(&self) -> Option<LedgerError> {
        self.shared.with(|state, _| state.ledger_queue.as_ref().and_then(|r| r.error.clone()))
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

/// How busy a server's handlers are: see [`ServerBuilder::concurrency`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Load {
    /// Calls that run now, with a ledger those too whose records are being written before they start.
    pub running: usize,
    /// Calls that wait for one that runs.
    pub waiting: usize,
    /// Calls refused since the start because too many waited.
    pub overloaded: u64,
}

/// What handlers did that they should not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandlerFaults {
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
