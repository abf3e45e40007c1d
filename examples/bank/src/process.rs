//! The demo's processes and files. None of them outlives it, however it ends.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use smol::io::{AsyncBufReadExt, BufReader};
use smol::process::{Child, Command};

use crate::address::Address;
use crate::chance::{unique, within};
use crate::client::Load;
use crate::report::Report;

/// How long a server may take to be ready, and to end.
pub(crate) const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// What a server waits at its end for clients that were killed, in seconds.
pub(crate) const GRACE_SECS: &str = "1";

/// This program.
pub(crate) fn program() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))
}

pub(crate) fn command(
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<Command, String> {
    let mut command = Command::new(program()?);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

pub(crate) fn cannot_start(error: std::io::Error) -> String {
    format!("cannot start a process: {error}")
}

/// A directory that is removed in the end.
#[derive(Debug)]
pub(crate) struct TempDir {
    path: PathBuf,
}

impl TempDir {
    pub(crate) fn new() -> Result<TempDir, String> {
        let path = std::env::temp_dir().join(format!("oncewire-bank-{:016x}", unique()));
        std::fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(TempDir { path })
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What cannot be removed is left to the system.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A bank in a process of its own.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
    /// Where it really listens.
    pub(crate) address: Address,
}

impl ServerProcess {
    /// Starts one and waits until it is ready.
    pub(crate) async fn start(address: &Address) -> Result<ServerProcess, String> {
        ServerProcess::start_with(address, &[]).await
    }

    /// The same with more arguments.
    pub(crate) async fn start_with(
        address: &Address,
        arguments: &[String],
    ) -> Result<ServerProcess, String> {
        let mut command = command(["serve", &address.to_string(), "--grace", GRACE_SECS])?;
        command.args(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(cannot_start)?;
        let stdout = child.stdout.take().ok_or("a server without stdout")?;
        let mut line = String::new();
        let mut lines = BufReader::new(stdout);
        let ready = within(GIVE_UP_AFTER, lines.read_line(&mut line)).await;
        let listening = line.strip_prefix("listening on ").and_then(|rest| rest.split_once(", "));
        match (ready, listening) {
            (Some(Ok(_)), Some((address, _))) => {
                Ok(ServerProcess { child, address: address.parse()? })
            }
            _ => Err(format!("the server for {address} did not get ready")),
        }
    }

    /// Kills it, as a crash does.
    pub(crate) async fn kill(mut self) -> Result<(), String> {
        let why = |error: std::io::Error| format!("the server cannot be killed: {error}");
        self.child.kill().map_err(why)?;
        self.child.status().await.map_err(why)?;
        Ok(())
    }

    /// Asks it to drain, and waits until it has ended.
    pub(crate) async fn stop(mut self) -> Result<(), String> {
        terminate(&self.child);
        match within(GIVE_UP_AFTER, self.child.status()).await {
            Some(Ok(status)) if status.success() => Ok(()),
            Some(Ok(status)) => Err(format!("the server at {} ended with {status}", self.address)),
            _ => Err(format!("the server at {} did not end", self.address)),
        }
    }
}

pub(crate) fn terminate(child: &Child) {
    // It fails only if the process has ended by itself, which is noticed anyway.
    let _ = signal(child, Signal::TERM);
}

pub(crate) fn signal(child: &Child, signal: Signal) -> rustix::io::Result<()> {
    match i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        Some(pid) => kill_process(pid, signal),
        None => Err(rustix::io::Errno::SRCH),
    }
}

/// Starts a client process.
pub(crate) fn start_client(load: &Load) -> Result<Child, String> {
    let mut arguments = vec!["client".to_owned(), load.address.to_string()];
    for (name, value) in [
        ("--calls", load.calls),
        ("--clients", load.clients),
        ("--in-flight", load.in_flight),
        ("--seed", load.seed),
        ("--call-timeout", load.call_timeout.as_secs()),
    ] {
        arguments.extend([name.to_owned(), value.to_string()]);
    }
    arguments.push("--json".to_owned());
    if load.at_least_once {
        arguments.push("--at-least-once".to_owned());
    }
    if load.durable {
        arguments.push("--durable".to_owned());
    }
    let mut command = command(arguments)?;
    if let Some(journal) = &load.journal {
        command.arg("--journal").arg(journal);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(cannot_start)
}

/// What a client process reports at its end.
pub(crate) async fn report(child: Child) -> Result<Report, String> {
    let output = child.output().await.map_err(|error| format!("a client is lost: {error}"))?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let words = String::from_utf8_lossy(&output.stderr);
        format!("a client ended with {} and no report: {}", output.status, words.trim())
    })
}

/// The size of a file; 0 if it is not there yet.
pub(crate) fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |data| data.len())
}
