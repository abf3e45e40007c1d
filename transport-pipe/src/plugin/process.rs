//! A program in a process group of its own: started, waited for, killed.
//!
//! The number of a process may be given to another as soon as it has been waited for. So its group is killed before that,
//! under one lock: no stranger is ever hit.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, OnceLock};

use async_io::Async;
use async_signal::{Signal as Caught, Signals};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};

use super::lock;
use crate::os::PipeStream;

/// A program that was started.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    /// Readable once the program has ended, waited for or not.
    pidfd: Async<OwnedFd>,
    /// None once it has been waited for.
    child: Mutex<Option<Child>>,
}

/// What a program is talked to through.
pub(super) struct Pipes {
    pub(super) stdin_and_stdout: PipeStream,
    pub(super) stderr: Async<PipeReader>,
}

impl Process {
    /// Starts `command`, whose three standard streams must be pipes, and which must have a process group of its own.
    pub(super) fn start(command: &mut Command) -> io::Result<(Process, Pipes)> {
        survive_sigpipe()?;
        let mut child = command.spawn()?;
        let pid = Pid::from_child(&child);
        match wire_up(&mut child, pid) {
            Ok((pidfd, pipes)) => {
                Ok((Process { pid, pidfd, child: Mutex::new(Some(child)) }, pipes))
            }
            Err(error) => {
                // There are too few descriptors to talk to it: nothing of it stays.
                let _ = kill_process_group(pid, Signal::KILL);
                child.wait()?;
                Err(error)
            }
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Kills it and all of its group, unless it has been waited for.
    pub(super) fn kill_group(&self) {
        let child = lock(&self.child);
        if child.is_some() {
            // It fails only if nothing of the group lives.
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&self) {
        // Without its reactor's help nothing could be waited for; the wait for the process then blocks.
        let _ = self.pidfd.readable().await;
    }

    /// Whether it has ended, waited for or not.
    pub(super) fn has_ended(&self) -> bool {
        let child = lock(&self.child);
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        child.is_none() || matches!(waitid(WaitId::Pid(self.pid), look), Ok(Some(_)))
    }

    /// Waits for it, after [`ended`](Process::ended), and kills what is left of its group.
    pub(super) fn reap(&self) -> io::Result<ExitStatus> {
        let mut child = lock(&self.child);
        let Some(process) = &mut *child else { return Err(io::ErrorKind::NotFound.into()) };
        let _ = kill_process_group(self.pid, Signal::KILL);
        let status = process.wait();
        *child = None;
        status
    }

    /// Whether a signal or a debugger holds it.
    pub(super) fn is_held(&self) -> bool {
        let child = lock(&self.child);
        if child.is_none() {
            return false;
        }
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        // "pid (name) state …", and the name may have parentheses in it.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        matches!(state, Some('T' | 't'))
    }
}

fn wire_up(child: &mut Child, pid: Pid) -> io::Result<(Async<OwnedFd>, Pipes)> {
    let missing = || io::Error::other("the program has no pipes");
    let stdout = PipeReader::from(OwnedFd::from(child.stdout.take().ok_or_else(missing)?));
    let stdin = PipeWriter::from(OwnedFd::from(child.stdin.take().ok_or_else(missing)?));
    let stderr = PipeReader::from(OwnedFd::from(child.stderr.take().ok_or_else(missing)?));
    let pidfd = Async::new(pidfd_open(pid, PidfdFlags::empty())?)?;
    let stdin_and_stdout = PipeStream::join(stdout, stdin)?;
    Ok((pidfd, Pipes { stdin_and_stdout, stderr: Async::new(stderr)? }))
}

/// Has a write to a program that is gone fail, where the signal would end this process. Rust's programs ignore that signal;
/// a program in C that this library is a part of need not.
fn survive_sigpipe() -> io::Result<()> {
    static CAUGHT: OnceLock<Signals> = OnceLock::new();
    if CAUGHT.get().is_none() {
        let signals = Signals::new([Caught::Pipe])?;
        // If another thread was faster, its catch is as good.
        let _ = CAUGHT.set(signals);
    }
    Ok(())
}
