//! The temporary directory, the processes, and what they report.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::control::{DIE, DONE, PROGRESS, QUIT, READY, SOCKET};
use super::netns::{End, Netns};
use super::{Failure, Options, ROLE, Transport};
use crate::mutant::Mutant;
use crate::rng::mix;

/// The unix socket of the server that all clients share.
pub(super) const SERVER_SOCKET: &str = "server";
/// The place of a client that dials through a relay.
pub(super) const RELAY: &str = "relay";
/// The place of a client that dials a server of its own.
pub(super) const CHILD: &str = "child";

/// Who reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// A life of the shared server.
    Server(u32),
    /// A client and its life.
    Client(u32, u32),
    /// A relay, or a client's own server, by a number of ours.
    Relay(u64),
}

/// What is reported.
#[derive(Debug)]
pub(super) enum What {
    /// It lives; this is the line to it.
    Joined(UnixStream),
    /// A server can be called.
    Ready,
    /// A client had a reply.
    Progress,
    /// A client has written everything down.
    Done,
    /// The line has ended, and the process with it.
    Left,
}

/// A process of ours. Ends with this value.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    stopped: bool,
    /// Which life it is.
    pub(super) life: u32,
    pub(super) line: Option<UnixStream>,
}

/// What a run needs of the machine; all of it ends with this value.
#[derive(Debug)]
pub(super) struct Stage {
    options: Options,
    pub(super) dir: PathBuf,
    events: Receiver<(Who, What)>,
    place: String,
    pub(super) netns: Option<Netns>,
}

impl Process {
    /// `SIGKILL`. The process id is ours until we have waited for it.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        self.signal(Signal::KILL)?;
        self.child.wait().map(drop)
    }

    /// `SIGSTOP`; false if it is stopped already.
    pub(super) fn stop(&mut self) -> io::Result<bool> {
        if self.stopped {
            return Ok(false);
        }
        self.stopped = true;
        self.signal(Signal::STOP).map(|()| true)
    }

    /// `SIGCONT`.
    pub(super) fn resume(&mut self) -> io::Result<()> {
        self.stopped = false;
        self.signal(Signal::CONT)
    }

    /// Asks a client to make no more calls.
    pub(super) fn quit(&mut self) -> io::Result<()> {
        match &mut self.line {
            Some(line) => line.write_all(format!("{QUIT}\n").as_bytes()),
            None => Err(io::Error::other("a client did not report")),
        }
    }

    /// Waits for a process that is about to end.
    pub(super) fn wait(&mut self) -> io::Result<bool> {
        Ok(self.child.wait()?.success())
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Stage {
    pub(super) fn new(options: &Options) -> Result<Stage, Failure> {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let dir = std::env::temp_dir().join(format!("oncewire-killer-{pid}-{run}"));
        fs::create_dir(&dir)?;
        let listener = UnixListener::bind(dir.join(SOCKET))?;
        let (sender, events) = channel();
        std::thread::spawn(move || listen(&listener, &sender));
        let netns = match options.netns {
            true => Some(Netns::new(run).map_err(Failure::NotAllowed)?),
            false => None,
        };
        let place = match (options.transport, &netns) {
            (Transport::Tcp, Some(netns)) => format!("tcp:{}", netns.address()),
            // An address of the run's own, so that no one else takes its port while the server is dead.
            (Transport::Tcp, None) => {
                let [a, b, c, ..] = mix((u64::from(pid) << 8) + run).to_le_bytes();
                format!("tcp:127.{}.{}.{}:7411", 1 + a % 254, b, 1 + c % 254)
            }
            _ => dir.join(SERVER_SOCKET).to_string_lossy().into_owned(),
        };
        Ok(Stage { options: options.clone(), dir, events, place, netns })
    }

    /// Starts a life of the shared server.
    pub(super) fn start_server(&self, life: u32) -> io::Result<Process> {
        self.start(life, End::Server, "server", &[&life.to_string(), &self.place])
    }

    /// Starts a life of a client.
    pub(super) fn start_client(&self, client: u32, life: u32) -> io::Result<Process> {
        let place = match (self.options.transport, client) {
            (Transport::Pipe, 0) => CHILD,
            (Transport::Pipe, _) => RELAY,
            _ => &self.place,
        };
        let seed = mix(self.options.seed ^ (u64::from(client) << 32) ^ u64::from(life));
        let mutant = self.options.mutant.map_or("none".to_owned(), Mutant::name);
        let (client, generation) = (client.to_string(), life.to_string());
        self.start(
            life,
            End::Client,
            "client",
            &[&client, &generation, place, &seed.to_string(), &mutant],
        )
    }

    fn start(&self, life: u32, end: End, role: &str, args: &[&str]) -> io::Result<Process> {
        let program = std::env::current_exe()?;
        let mut command = match &self.netns {
            Some(netns) => netns.command(end, &program),
            None => Command::new(program),
        };
        command.arg(ROLE).arg(role).arg(&self.dir).args(args);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        Ok(Process { child, stopped: false, life, line: None })
    }

    /// The next report; `None` if there is none for so long.
    pub(super) fn next(&self, limit: Duration) -> Option<(Who, What)> {
        // It never disconnects: the listener has a sender.
        self.events.recv_timeout(limit).ok()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.options.keep {
            output::note!("the journals are in {}", self.dir.display());
        } else if let Err(error) = fs::remove_dir_all(&self.dir) {
            output::note!("{} stays: {error}", self.dir.display());
        }
    }
}

/// Tells a relay to kill itself.
pub(super) fn tell_to_die(mut line: &UnixStream) -> io::Result<()> {
    line.write_all(format!("{DIE}\n").as_bytes())
}

/// Takes the processes' lines. Ends with the program: it may be waiting for a line then.
fn listen(listener: &UnixListener, events: &Sender<(Who, What)>) {
    for (number, line) in (0..).zip(listener.incoming()) {
        let Ok(line) = line else { return };
        let events = events.clone();
        std::thread::spawn(move || hear(number, line, &events));
    }
}

/// Passes on what a process says.
fn hear(number: u64, line: UnixStream, events: &Sender<(Who, What)>) {
    let Ok(reader) = line.try_clone() else { return };
    let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
    let Some(name) = lines.next() else { return };
    let Some(who) = who(&name, number) else { return };
    // When the run is over, no process listens.
    let _ = events.send((who, What::Joined(line)));
    for said in lines {
        let what = match said.as_str() {
            READY => What::Ready,
            PROGRESS => What::Progress,
            DONE => What::Done,
            _ => continue,
        };
        let _ = events.send((who, what));
    }
    let _ = events.send((who, What::Left));
}

fn who(name: &str, number: u64) -> Option<Who> {
    let words: Vec<&str> = name.split(' ').collect();
    let [role, client, life] = words.as_slice() else { return None };
    let (client, life) = (client.parse().ok()?, life.parse().ok()?);
    match *role {
        "server" => Some(Who::Server(life)),
        "client" => Some(Who::Client(client, life)),
        "relay" => Some(Who::Relay(number)),
        _ => None,
    }
}
