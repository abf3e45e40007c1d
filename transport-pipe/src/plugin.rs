//! Programs that a host starts and calls: plugins.
//!
//! A [`Plugin`] is a program that serves a service over its stdin and stdout, with [`StdioAcceptor`](crate::StdioAcceptor). Its
//! host starts it, calls it through a [`Client`], and gets a truthful outcome for each call when it ends.
//!
//! ```no_run
//! use std::process::Command;
//! use oncewire_pipe::plugin::Plugin;
//! use oncewire_pipe::Method;
//!
//! const RESIZE: Method<(u32, u32), Vec<u8>> = Method::new("thumb/resize");
//!
//! # smol::block_on(async {
//! let thumb = Plugin::builder("thumb", Command::new("/usr/lib/photo/thumb"))
//!     .on_stderr(|line| eprintln!("{line}"))
//!     .start();
//! match thumb.client().call(&RESIZE, &(160, 90)).await.ok() {
//!     Ok(image) => println!("{} bytes", image.len()),
//!     // "unknown whether executed: the session ended before the answer came; plugin thumb: the program ended with
//!     // status 1: out of memory"
//!     Err(failure) => println!("{}", thumb.explain(failure)),
//! }
//! thumb.stop().await;
//! # });
//! ```
//!
//! | what happens | what is done | what a caller sees |
//! |---|---|---|
//! | the program ends in mid call | it is started again, as the [`RestartPolicy`] says | calls in flight: `Unknown(SessionEnded)`, or they run again if they are idempotent; the others wait for the next run |
//! | it ends too often | nothing more is started | at once `NotExecuted`; calls in flight: `Unknown(SessionEnded)` |
//! | there is no such program, or it may not be run | the same | the same |
//! | it writes something else to its stdout | it is killed, and not started again | the same, and what it wrote |
//! | it computes for long, or a debugger holds it | nothing, unless [`give_up_after`](PluginBuilder::give_up_after) says otherwise | calls wait, each until its deadline |
//! | it fills its stderr | lines are passed on, as far as they are taken | nothing |
//! | it ends, and programs that it started do not | they are killed with its process group | |
//!
//! Never more than one process of a plugin lives: the next is started once the last one has ended and was waited for. When
//! its [`Plugin`] is dropped, its process group is killed before the drop returns. A host that ends without that, by
//! [`exit`](std::process::exit) or a signal, closes the plugin's stdin, at which a plugin with a `StdioAcceptor` ends by itself.
//!
//! A program that leaves its process group, as a daemon does, is not found by any of this.
//!
//! | file | what it does |
//! |---|---|
//! | `plugin.rs` | what a host uses |
//! | `plugin/host.rs` | decides when a program is started, ended and given up |
//! | `plugin/policy.rs` | how often, and after which pause |
//! | `plugin/run.rs` | follows one run of a program from its start to its end |
//! | `plugin/process.rs` | a process group: started, killed, waited for |
//! | `plugin/stream.rs` | its stdin and stdout as a connection, and what is no plugin |
//! | `plugin/stderr.rs` | its stderr, line by line |
//! | `plugin/end.rs` | how it ended, in words |
//! | `plugin/thread.rs` | the thread that waits for all plugins |

mod end;
mod host;
mod policy;
mod process;
mod run;
mod stderr;
mod stream;
mod thread;

use std::fmt;
use std::io::Write;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oncewire_driver::{CallFailure, Client, ClientOptions, NEVER, NotExecuted, Unknown};
use smol::future::or;

pub use end::{EndReason, PluginEnd, PluginFailure};
use host::{Host, PluginConnector};
pub use policy::RestartPolicy;
use stderr::Sink;
pub use stderr::StderrLine;

/// A program that is started, called, started again when it ends, and ended with its process group.
pub struct Plugin {
    host: Arc<Host>,
    client: Client,
}

impl Plugin {
    /// A plugin of this name, which messages say. The command's standard streams become pipes.
    pub fn builder(name: &str, command: Command) -> PluginBuilder {
        let mut options =
            ClientOptions::default().with_keepalive(NEVER).with_connect_timeout(NEVER);
        // The restart policy says how long a restart waits.
        options.backoff_min = Duration::from_millis(1);
        options.backoff_max = Duration::from_millis(20);
        PluginBuilder {
            name: name.into(),
            command,
            policy: RestartPolicy::default(),
            stop_grace: Duration::from_secs(2),
            keeps_sessions: false,
            on_stderr: Arc::new(|line| {
                // `eprintln!` panics where the host's own stderr has no reader any more.
                let _ = writeln!(std::io::stderr(), "{line}");
            }),
            options,
        }
    }

    /// Makes calls; a service's client wraps it.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The plugin's name.
    pub fn name(&self) -> &str {
        &self.host.name
    }

    /// What it is doing, and how it last ended.
    pub fn status(&self) -> PluginStatus {
        self.host.status()
    }

    /// A failed call together with the end of its plugin, where that may be why it failed. Ask it soon: it is the last end
    /// that is known.
    pub fn explain(&self, call: CallFailure) -> PluginFailure {
        let may_be_why = match call {
            CallFailure::NoReply(_) => false,
            // But for what the server answered, and what the caller did.
            CallFailure::NotExecuted(why) => !matches!(
                why,
                NotExecuted::Aborted
                    | NotExecuted::BadArguments
                    | NotExecuted::Cancelled
                    | NotExecuted::LedgerFailed
                    | NotExecuted::NotBegun(_)
                    | NotExecuted::NotIdempotent
                    | NotExecuted::Overloaded
                    | NotExecuted::RequestTooLarge
                    | NotExecuted::UnknownMethod
            ),
            CallFailure::Unknown(why) => matches!(
                why,
                Unknown::Disconnected | Unknown::DeadlinePassed | Unknown::SessionEnded
            ),
        };
        let end = self.host.last_end().filter(|_| may_be_why);
        PluginFailure { call, plugin: self.host.name.clone(), end }
    }

    /// Kills it if it runs, and starts it again, also if that had been given up. Earlier ends do not count any more. Waits until
    /// it serves, or is given up again, and says whether it serves.
    pub async fn restart(&self) -> bool {
        let starts = self.host.restart();
        // The client has dropped the last run's connection by then.
        self.host.started(starts).await
            && or(self.client.connected(), self.host.started(u64::MAX)).await
    }

    /// Ends it in good order: waits for the calls that are pending, closes its stdin, and waits until it has ended by itself,
    /// but no longer than [`ClientOptions::close_timeout`] and then [`stop_grace`](PluginBuilder::stop_grace). Then its process
    /// group is killed. Returns how its last run ended, if there was one.
    pub async fn stop(self) -> Option<PluginEnd> {
        self.client.close().await;
        if let Some(run) = self.host.stop() {
            run.ended_within(self.host.stop_grace, EndReason::Stopped).await;
        }
        self.host.last_end()
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        if let Some(run) = self.host.stop() {
            run.kill(EndReason::Stopped);
        }
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, status) = (&self.host.name, self.status());
        f.debug_struct("Plugin").field("name", name).field("status", &status).finish()
    }
}

/// A plugin to be started.
#[must_use = "nothing is started before `start`"]
pub struct PluginBuilder {
    name: Arc<str>,
    command: Command,
    policy: RestartPolicy,
    stop_grace: Duration,
    keeps_sessions: bool,
    on_stderr: Arc<dyn Fn(StderrLine) + Send + Sync>,
    options: ClientOptions,
}

impl PluginBuilder {
    /// How often it is started again.
    pub fn restarts(mut self, policy: RestartPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Takes each line of its stderr; by default they are printed to ours, behind the plugin's name. May block, which delays
    /// only further lines: those that find no room are counted and lost.
    pub fn on_stderr(mut self, take: impl Fn(StderrLine) + Send + Sync + 'static) -> Self {
        self.on_stderr = Arc::new(take);
        self
    }

    /// How long it may live on once its stdin is closed (2 s by default).
    pub fn stop_grace(mut self, grace: Duration) -> Self {
        self.stop_grace = grace;
        self
    }

    /// Whether its server has a [`ledger`](crate::ledger), so that its next run may answer calls that were in flight when the
    /// last one ended. Without one they end as soon as that run has.
    pub fn keeps_sessions(mut self, keeps: bool) -> Self {
        self.keeps_sessions = keeps;
        self
    }

    /// Gives it up, and kills it, when it has said nothing for so long; if it serves already, only after the time that its
    /// server grants its clients, 10 s by default. Without this a plugin is never given up while its program lives.
    pub fn give_up_after(mut self, silence: Duration) -> Self {
        self.options.keepalive = silence;
        self.options.connect_timeout = silence;
        self
    }

    /// How its client behaves. Of the defaults, `keepalive` and `connect_timeout` are [`NEVER`], and its pauses between dials
    /// are short: the restart policy has pauses of its own.
    ///
    /// ```
    /// use std::{process::Command, time::Duration};
    /// use oncewire_pipe::plugin::Plugin;
    ///
    /// let builder = Plugin::builder("cat", Command::new("cat"))
    ///     .client_options(|options| options.with_timeout(Duration::from_secs(5)));
    /// # let _ = builder;
    /// ```
    pub fn client_options(mut self, change: impl FnOnce(ClientOptions) -> ClientOptions) -> Self {
        self.options = change(self.options);
        self
    }

    /// Starts it, in the background. That it cannot be started is an outcome of its calls, and a part of its
    /// [`status`](Plugin::status).
    pub fn start(self) -> Plugin {
        let PluginBuilder { name, command, policy, stop_grace, keeps_sessions, on_stderr, options } =
            self;
        let sink = Sink::new(name.clone(), on_stderr);
        let host = Host::new(name, command, policy, stop_grace, keeps_sessions, sink);
        let client = Client::new(PluginConnector(host.clone()), options);
        Plugin { host, client }
    }
}

impl fmt::Debug for PluginBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginBuilder")
            .field("name", &self.name)
            .field("command", &self.command)
            .field("restarts", &self.policy)
            .finish_non_exhaustive()
    }
}

/// What a plugin is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PluginStatus {
    /// Where it is in its life.
    pub state: PluginState,
    /// The process that runs, if one does.
    pub pid: Option<u32>,
    /// How often it was started.
    pub starts: u64,
    /// How its last run ended, or why it could not be started.
    pub last_end: Option<PluginEnd>,
}

/// Where a plugin is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PluginState {
    /// It has not been started yet.
    NotStarted,
    /// Its program runs, and has said nothing yet.
    Starting,
    /// Its program runs, and serves. That it answers in time is for its calls to find out.
    Running,
    /// A signal or a debugger holds it.
    Held,
    /// It has ended, and will be started again.
    Paused,
    /// It has ended, and will not be started again unless its host [asks for it](Plugin::restart).
    GaveUp,
    /// Its host stopped it.
    Stopped,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
