//! The server of one run: a process of its own, which is killed where it shall crash. What it does it says on its stdout.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use oncewire::observe::{Event, SessionEnd, Source};
use oncewire::protocol::Refuse;
use oncewire::redb::RedbLedger;
use oncewire::{CloseReason, Server, SessionTag, TcpAcceptor};
use smol::channel::Receiver;
use smol::net::TcpListener;

use crate::account::{AccountMethods, AccountServer, Failure, Handlers, say};
use crate::naive::{self, Old};

// What a server remembers of calls.
/// Nothing.
pub(crate) const NAIVE: &str = "naive";
/// Their replies, in memory, until it shall forget.
pub(crate) const REMEMBERS: &str = "remembers";
/// What Oncewire does, in memory.
pub(crate) const IN_MEMORY: &str = "in-memory";
/// What Oncewire does, on a ledger.
pub(crate) const ON_LEDGER: &str = "on-ledger";

/// Serves in this process until stdin ends: `KIND LEDGER LEASE_MS slow|fast`.
///
/// # Errors
/// Why it could not begin.
pub(crate) async fn serve(args: &[&str]) -> Result<(), Failure> {
    let [kind, ledger, lease_ms, speed] = args else { return Err("no such server".into()) };
    let lease = Duration::from_millis(lease_ms.parse()?);
    let ((go, goes), old) = (mpsc::channel(), Old::default());
    let handlers = Handlers { slow: Arc::new(Mutex::new((*speed == "slow").then_some(goes))) };
    obey(go, old.clone());
    let first = OnceLock::new();
    let observer = move |_: &Source, event: &Event| observe(&first, event);
    let builder = Server::builder("account").observe(observer).configure(|config| {
        (config.lease, config.lease_unused) = (lease, lease);
    });
    let server = match *kind {
        IN_MEMORY => builder.service(AccountServer(handlers)).build()?,
        ON_LEDGER => {
            let also = handlers.clone();
            let builder = builder.ledger(RedbLedger::open(ledger)?);
            let builder = builder
                .transactional(&AccountMethods::DEDUCT, move |tx, _, (dollars,)| {
                    handlers.apply_in(tx, "deduct", dollars)
                });
            let builder = builder.transactional(&AccountMethods::PUT, move |tx, _, (dollars,)| {
                also.apply_in(tx, "put", dollars)
            });
            builder.build()?
        }
        _ => {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            say(format_args!("serving at {}", listener.local_addr()?));
            naive::serve(listener, handlers, (*kind == REMEMBERS).then_some(old)).await;
            return Ok(());
        }
    };
    let acceptor = TcpAcceptor::bind("127.0.0.1:0").await?;
    say(format_args!("serving at {}", acceptor.local_addr()));
    Ok(server.serve(acceptor).await?)
}

/// Does what the parent says, and ends with it.
fn obey(go: mpsc::Sender<()>, old: Old) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            match line.as_str() {
                "go" => drop(go.send(())),
                _ => old.lock().unwrap_or_else(PoisonError::into_inner).clear(),
            }
            say(line);
        }
        std::process::exit(0);
    });
}

/// Says what Oncewire decides. `first`: the client's session, as distinct from one that a copy of its first bytes opens.
fn observe(first: &OnceLock<SessionTag>, event: &Event) {
    match event {
        Event::SessionOpened { session, .. } => drop(first.set(*session)),
        Event::SessionResumed { .. } => say("resumed"),
        Event::SessionRefused { why: CloseReason::Refused(Refuse::SessionUnknown), .. } => {
            say("session unknown");
        }
        Event::SessionEnded { session, why: SessionEnd::Lease, .. }
            if first.get() == Some(session) =>
        {
            say("lease over");
        }
        Event::Duplicate { method: Some(_), verdict, .. } => {
            say(format_args!("request {verdict}"));
        }
        Event::Duplicate { verdict, .. } => say(format_args!("question {verdict}")),
        _ => {}
    }
}

/// A server's process, from its parent's side. It dies with this.
pub(crate) struct ServerProcess {
    pub(crate) address: SocketAddr,
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    /// What it has said so far.
    pub(crate) said: Vec<String>,
}

impl ServerProcess {
    /// Starts it with the arguments of [`serve`]; it serves.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) async fn start(
        kind: &str,
        ledger: &Path,
        lease: Duration,
        is_slow: bool,
    ) -> Result<ServerProcess, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", kind]).arg(ledger).arg(lease.as_millis().to_string());
        command.arg(if is_slow { "slow" } else { "fast" });
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take().ok_or("a server has no stdin")?;
        let stdout = BufReader::new(child.stdout.take().ok_or("a server has no stdout")?);
        let (sender, lines) = smol::channel::unbounded();
        std::thread::spawn(move || {
            let mut lines = stdout.lines().map_while(Result::ok);
            while lines.next().is_some_and(|line| sender.send_blocking(line).is_ok()) {}
        });
        let address = ([0, 0, 0, 0], 0).into();
        let mut server = ServerProcess { address, child, stdin, lines, said: Vec::new() };
        let line = server.line().await?;
        server.address = line.strip_prefix("serving at ").unwrap_or(&line).parse()?;
        Ok(server)
    }

    async fn line(&mut self) -> Result<String, String> {
        let line = self.lines.recv().await.map_err(|_| "a server has ended".to_owned())?;
        self.said.push(line.clone());
        Ok(line)
    }

    /// Waits until it has said that so many times.
    pub(crate) async fn wait(&mut self, wanted: &str, times: usize) -> Result<(), String> {
        while self.said.iter().filter(|line| *line == wanted).count() < times {
            self.line().await?;
        }
        Ok(())
    }

    /// Makes it do something.
    pub(crate) async fn order(&mut self, what: &str) -> Result<(), Failure> {
        writeln!(self.stdin, "{what}")?;
        Ok(self.wait(what, 1).await?)
    }

    /// `kill -9`. What it has said is complete then.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.said.extend(std::iter::from_fn(|| self.lines.recv_blocking().ok()));
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
