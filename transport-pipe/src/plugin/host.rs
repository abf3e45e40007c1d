//! What a host knows of a plugin, and how it comes by a connection: the decisions of its life, all in one place.

use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire_driver::{BoxFuture, BoxStream, Connect, Instant, Runtime, SmolRuntime};
use smol::channel::{Receiver, Sender, bounded};
use smol::future::or;

use super::end::{EndReason, PluginEnd};
use super::policy::{Ends, RestartPolicy};
use super::process::Process;
use super::run::{Run, sleep};
use super::stderr::{Sink, Stderr};
use super::stream::{LastAnswer, PluginStream};
use super::{PluginState, PluginStatus, lock, thread};
use crate::os::PipeStream;

pub(super) struct Host {
    pub(super) name: Arc<str>,
    pub(super) program: String,
    pub(super) command: Mutex<Command>,
    pub(super) policy: RestartPolicy,
    pub(super) stop_grace: Duration,
    /// The next run may know the sessions of the last.
    pub(super) keeps_sessions: bool,
    pub(super) sink: Arc<Sink>,
    state: Mutex<State>,
}

struct State {
    life: Life,
    ends: Ends,
    starts: u64,
    last_end: Option<PluginEnd>,
    /// The last run, until its stream was dropped too.
    last_run: Option<Arc<Run>>,
    /// The last run had a session, and the client has not heard that this is gone.
    lost_session: bool,
    changed: Changed,
}

/// Where a plugin is in its life.
///
/// ```text
///  Due ─► Live ─► Due      it ended, and may be started again
///         Live ─► Over     it ended too often, or is no plugin; or its host stopped it
///  Over ─► Due             its host asked for a restart
/// ```
enum Life {
    /// Nothing runs. It may be started from then on.
    Due(Instant),
    /// Its program was started, and has not been waited for. Nothing else is started meanwhile.
    Live(Arc<Run>),
    /// Nothing more is started.
    Over {
        by_host: bool,
        /// The client has had the error, and dials again only when something has changed.
        reported: bool,
    },
}

/// Wakes those that wait for another state: it is replaced then, which closes its channel.
struct Changed {
    _open: Sender<()>,
    closed: Receiver<()>,
}

impl Changed {
    fn new() -> Changed {
        let (open, closed) = bounded(1);
        Changed { _open: open, closed }
    }
}

/// What a dial has to do.
enum Step {
    Connected(BoxStream),
    Failed(io::Error),
    /// Until then, or until something changes.
    Wait(Option<Duration>, Receiver<()>),
    /// The last run's connection is gone, and its program is not.
    End(Arc<Run>),
}

impl Host {
    pub(super) fn new(
        name: Arc<str>,
        mut command: Command,
        policy: RestartPolicy,
        stop_grace: Duration,
        keeps_sessions: bool,
        sink: Arc<Sink>,
    ) -> Arc<Host> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        let program = command.get_program().to_string_lossy().into_owned();
        let state = State {
            life: Life::Due(Instant::ZERO),
            ends: Ends::default(),
            starts: 0,
            last_end: None,
            last_run: None,
            lost_session: false,
            changed: Changed::new(),
        };
        let (command, state) = (Mutex::new(command), Mutex::new(state));
        Arc::new(Host { name, program, command, policy, stop_grace, keeps_sessions, sink, state })
    }

    fn next_step(self: &Arc<Host>) -> Step {
        let state = &mut *lock(&self.state);
        let now = SmolRuntime::global().now();
        if let Some(end) = state.last_run.take().and_then(|run| run.late_garbage()) {
            // It ended faster than what it had written was read.
            match state.life {
                Life::Due(_) => state.note_end(&self.policy, end, now, true),
                Life::Over { .. } => state.last_end = Some(end),
                Life::Live(_) => debug_assert!(false, "a run is looked at before the next begins"),
            }
        }
        let keeps_sessions = self.keeps_sessions && matches!(state.life, Life::Due(_));
        match &mut state.life {
            // Before any pause: calls in flight learn it now.
            Life::Due(_) | Life::Over { .. } if state.lost_session && !keeps_sessions => {
                state.lost_session = false;
                Step::Connected(Box::new(LastAnswer::new()))
            }
            Life::Due(at) if *at > now => {
                Step::Wait(Some(at.since(now)), state.changed.closed.clone())
            }
            Life::Due(_) => match self.start() {
                Ok((run, pipes)) => {
                    state.life = Life::Live(run.clone());
                    state.starts += 1;
                    state.changed = Changed::new();
                    // The new run says what it knows of it.
                    state.lost_session = false;
                    Step::Connected(Box::new(PluginStream::new(pipes, run)))
                }
                Err(error) => {
                    let text = format!("cannot start {}: {error}", self.program);
                    let why = EndReason::NotStarted(text);
                    let end = PluginEnd { why, status: None, stderr: Vec::new() };
                    state.note_end(&self.policy, end, now, !is_transient(&error));
                    Step::Failed(state.error())
                }
            },
            Life::Live(run) => Step::End(run.clone()),
            Life::Over { reported: true, .. } => Step::Wait(None, state.changed.closed.clone()),
            Life::Over { .. } => Step::Failed(state.error()),
        }
    }

    fn start(self: &Arc<Host>) -> io::Result<(Arc<Run>, PipeStream)> {
        thread::start()?;
        let (process, pipes) = Process::start(&mut lock(&self.command))?;
        let stderr = Stderr::new(pipes.stderr, self.sink.clone());
        let host = self.clone();
        let run = Run::follow(process, stderr, move |run, end| host.handle_ended(run, end));
        Ok((run, pipes.stdin_and_stdout))
    }

    fn handle_ended(&self, run: &Run, end: PluginEnd) {
        let state = &mut *lock(&self.state);
        state.lost_session |= run.has_spoken();
        match &state.life {
            Life::Live(live) => {
                debug_assert!(std::ptr::eq(&**live, run), "one run at a time");
                state.last_run = Some(live.clone());
                let now = SmolRuntime::global().now();
                let is_no_plugin = matches!(end.why, EndReason::Garbage(_));
                state.note_end(&self.policy, end, now, is_no_plugin);
            }
            Life::Due(_) | Life::Over { .. } => state.last_end = Some(end),
        }
    }

    /// Ends it at once, or gives what runs to be waited for.
    pub(super) fn stop(&self) -> Option<Arc<Run>> {
        let state = &mut *lock(&self.state);
        let life =
            std::mem::replace(&mut state.life, Life::Over { by_host: true, reported: false });
        state.changed = Changed::new();
        match life {
            Life::Live(run) => Some(run),
            Life::Due(_) | Life::Over { .. } => None,
        }
    }

    /// Starts it again: at once, and as if it had never ended. Returns how often it had been started.
    pub(super) fn restart(&self) -> u64 {
        let state = &mut *lock(&self.state);
        state.ends.forget();
        match &state.life {
            Life::Live(run) => run.kill(EndReason::Stopped),
            Life::Due(_) | Life::Over { .. } => {
                state.life = Life::Due(Instant::ZERO);
                state.changed = Changed::new();
            }
        }
        state.starts
    }

    /// Waits until it has been started more than so many times, or until nothing more is started, and says which.
    pub(super) async fn started(&self, more_than: u64) -> bool {
        loop {
            let changed = {
                let state = lock(&self.state);
                if matches!(state.life, Life::Over { .. }) {
                    return false;
                }
                if state.starts > more_than {
                    return true;
                }
                state.changed.closed.clone()
            };
            let _ = changed.recv().await;
        }
    }

    pub(super) fn status(&self) -> PluginStatus {
        let state = lock(&self.state);
        let (plugin_state, pid) = match &state.life {
            Life::Due(_) if state.starts == 0 => (PluginState::NotStarted, None),
            Life::Due(_) => (PluginState::Paused, None),
            Life::Over { by_host: true, .. } => (PluginState::Stopped, None),
            Life::Over { by_host: false, .. } => (PluginState::GaveUp, None),
            Life::Live(run) => {
                let of_run = if run.process.is_held() {
                    PluginState::Held
                } else if run.has_spoken() {
                    PluginState::Running
                } else {
                    PluginState::Starting
                };
                (of_run, Some(run.process.id()))
            }
        };
        let last_end = state.last_end.clone();
        PluginStatus { state: plugin_state, pid, starts: state.starts, last_end }
    }

    pub(super) fn last_end(&self) -> Option<PluginEnd> {
        lock(&self.state).last_end.clone()
    }
}

impl State {
    /// A run has ended, or could not begin: decides whether there is another.
    fn note_end(&mut self, policy: &RestartPolicy, end: PluginEnd, now: Instant, for_good: bool) {
        let due = match end.why {
            EndReason::Stopped => Some(now),
            _ if for_good => None,
            _ => self.ends.note(policy, now),
        };
        self.last_end = Some(end);
        self.life = match due {
            Some(at) => Life::Due(at),
            None => Life::Over { by_host: false, reported: false },
        };
        self.changed = Changed::new();
    }

    /// The error of a dial that gets no connection: one that a client takes for permanent, if nothing more is started.
    fn error(&mut self) -> io::Error {
        let end = self.last_end.as_ref().map(ToString::to_string).unwrap_or_default();
        match &mut self.life {
            Life::Over { by_host: true, reported } => {
                *reported = true;
                io::Error::new(ErrorKind::Unsupported, "its host stopped it")
            }
            Life::Over { by_host: false, reported } => {
                *reported = true;
                io::Error::new(ErrorKind::Unsupported, format!("not started again: {end}"))
            }
            Life::Due(_) | Life::Live(_) => io::Error::new(ErrorKind::NotConnected, end),
        }
    }
}

/// Whether a program that could not be started may be, later: the system was short of something.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::OutOfMemory | ErrorKind::ExecutableFileBusy
    ) || matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

const ENFILE: i32 = rustix::io::Errno::NFILE.raw_os_error();
const EMFILE: i32 = rustix::io::Errno::MFILE.raw_os_error();

/// Dials the plugin: starts its program if it does not run.
pub(super) struct PluginConnector(pub(super) Arc<Host>);

impl Connect for PluginConnector {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            loop {
                match self.0.next_step() {
                    Step::Connected(stream) => return Ok(stream),
                    Step::Failed(error) => return Err(error),
                    Step::Wait(None, changed) => {
                        let _ = changed.recv().await;
                    }
                    Step::Wait(Some(time), changed) => {
                        or(sleep(time), async {
                            let _ = changed.recv().await;
                        })
                        .await;
                    }
                    Step::End(run) => {
                        run.ended_within(self.0.stop_grace, EndReason::Disconnected).await;
                    }
                }
            }
        })
    }

    fn address(&self) -> String {
        format!("plugin {}", self.0.name)
    }

    fn may_carry_token(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use smol::io::AsyncReadExt;

    use super::super::stream::CLOSED_GRACE;
    use super::*;

    fn host(script: &str, policy: RestartPolicy) -> Arc<Host> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let sink = Sink::new("sh".into(), Arc::new(|_| {}));
        Host::new("sh".into(), command, policy, Duration::ZERO, false, sink)
    }

    /// Waits for the end of the run that was just begun.
    async fn first_end(host: &Host) -> PluginEnd {
        loop {
            let changed = {
                let state = lock(&host.state);
                if let Some(end) = &state.last_end {
                    return end.clone();
                }
                state.changed.closed.clone()
            };
            let _ = changed.recv().await;
        }
    }

    #[test]
    fn a_program_whose_end_is_seen_late_has_ended_by_itself() {
        thread::start().unwrap();
        // Ends are seen on one thread, which comes late.
        let (go_on, late) = std::sync::mpsc::channel::<()>();
        let (begun, begins) = std::sync::mpsc::channel();
        thread::spawn(async move {
            begun.send(()).unwrap();
            let _ = late.recv();
        });
        begins.recv().unwrap();
        smol::block_on(async {
            let host = host("exit 3", RestartPolicy::NEVER);
            let mut stream = PluginConnector(host.clone()).connect().await.unwrap();
            // For longer than a program that lives may have its stdout closed.
            let passed = async {
                sleep(2 * CLOSED_GRACE).await;
                Ok(0)
            };
            or(stream.read(&mut [0]), passed).await.unwrap();
            drop(go_on);
            let end = first_end(&host).await;
            assert_eq!((end.why, end.status.unwrap().code()), (EndReason::Ended, Some(3)));
        });
    }

    #[test]
    fn garbage_that_is_read_after_the_end_is_its_reason_and_nothing_is_started_again() {
        smol::block_on(async {
            for policy in [RestartPolicy::default(), RestartPolicy::NEVER] {
                let host = host("echo a banner; exit 2", policy);
                let dials = PluginConnector(host.clone());
                let mut stream = dials.connect().await.unwrap();
                assert_eq!(first_end(&host).await.why, EndReason::Ended);
                stream.read(&mut [0; 100]).await.unwrap_err();
                drop(stream);
                let error = dials.connect().await.map(drop).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.to_string().contains("a banner"), "{error}");
                let status = host.status();
                assert_eq!((status.state, status.starts), (PluginState::GaveUp, 1));
                let why = status.last_end.unwrap().why;
                assert_eq!(why, EndReason::Garbage(b"a banner\n".to_vec()));
            }
        });
    }
}
