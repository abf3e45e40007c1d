//! Processes of this program, or of another one that understands the same arguments.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;

use serde::Serialize;

use crate::Result;
use crate::clock::Duration;

/// How long a process may take to say that it is ready, or what it measured, its sample not counted.
pub(crate) const LINE_TIMEOUT: Duration = Duration::from_secs(20);

/// A role's process; ends with this value.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    _stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts a role of a program with its argument; smol's default executor gets so many threads there.
    pub(crate) fn start(
        program: &Path,
        role: &str,
        argument: &impl Serialize,
        smol_threads: usize,
    ) -> Result<Process> {
        let mut child = Command::new(program)
            .arg(role)
            .arg(serde_json::to_string(argument)?)
            .env("SMOL_THREADS", smol_threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stdin = child.stdin.take();
        Ok(Process { child, lines, _stdin: stdin })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// The next line that it prints.
    pub(crate) fn line(&self, limit: Duration) -> Result<String> {
        self.lines.recv_timeout(limit).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                format!("process {} said nothing for {limit:?}", self.pid()).into()
            }
            RecvTimeoutError::Disconnected => format!("process {} has ended", self.pid()).into(),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
