//! One measurement: a backup in a process of its own is in the middle of a call, and then it is killed or stopped.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use oncewire::{Client, ClientOptions, Outcome, Runtime, SmolRuntime, UnixConnector};

use crate::backup::BackupClient;

/// The primary's own deadline for a forward: how long one waits who does nothing else.
const DEADLINE: Duration = Duration::from_secs(2);
/// After so long without a byte a peer is dead. By default it is 10 s.
pub(crate) const KEEPALIVE: Duration = Duration::from_millis(500);

/// What happens to the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9`: its connections end.
    Killed,
    /// It is stopped: its connections stay, and nothing comes over them. So it is with a machine that lost its power or its network.
    Stopped,
}

/// What is measured.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) name: &'static str,
    fault: Fault,
    fail_fast: bool,
    /// What the primary learns.
    learns: &'static str,
}

pub(crate) const TRIALS: [Trial; 4] = [
    Trial {
        name: "killed, and the primary waits",
        fault: Fault::Killed,
        fail_fast: false,
        learns: "the deadline passed",
    },
    Trial {
        name: "killed, fail fast",
        fault: Fault::Killed,
        fail_fast: true,
        learns: "the connection broke",
    },
    Trial {
        name: "hangs, and the primary waits",
        fault: Fault::Stopped,
        fail_fast: false,
        learns: "the deadline passed",
    },
    Trial {
        name: "hangs, fail fast and a keepalive of 500 ms",
        fault: Fault::Stopped,
        fail_fast: true,
        learns: "the connection broke",
    },
];

impl Trial {
    /// Whether it ended as it should: by what is expected, and not by something else that came first.
    pub(crate) fn is_as_expected(&self, learned: &str) -> bool {
        learned.contains(self.learns)
    }
}

/// The backup's process, which dies with this.
struct Process {
    child: Child,
    stdout: BufReader<ChildStdout>,
    socket: PathBuf,
}

impl Process {
    fn start(round: u32) -> Result<Process, String> {
        let cannot = |error: std::io::Error| format!("cannot start a backup: {error}");
        let name = format!("oncewire-failover-{}-{round}", std::process::id());
        let socket = std::env::temp_dir().join(name);
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        command.arg("backup").arg(&socket).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(cannot)?;
        let stdout = child.stdout.take().ok_or("the backup has no stdout")?;
        let mut process = Process { child, stdout: BufReader::new(stdout), socket };
        process.line("listening")?;
        Ok(process)
    }

    fn line(&mut self, wanted: &str) -> Result<(), String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).map_err(|error| error.to_string())?;
        if line.trim() == wanted { Ok(()) } else { Err(format!("the backup says {line:?}")) }
    }

    fn suffer(&mut self, fault: Fault) -> Result<(), String> {
        let say = |error: std::io::Error| error.to_string();
        match fault {
            Fault::Killed => self.child.kill().map_err(say),
            Fault::Stopped => {
                let pid = self.child.id().to_string();
                let status = Command::new("kill").args(["-STOP", &pid]).status().map_err(say)?;
                if status.success() {
                    Ok(())
                } else {
                    Err("the backup cannot be stopped".to_owned())
                }
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// How long the primary waits from the fault on, and what it learns.
pub(crate) async fn measure(trial: &Trial, round: u32) -> Result<(Duration, String), String> {
    let mut process = Process::start(round)?;
    let options = ClientOptions::default().with_timeout(DEADLINE);
    let backup = BackupClient(Client::new(UnixConnector::new(&process.socket), options));
    let operation = "append x [a]".to_owned();
    let call = backup.forward(operation).fail_fast(trial.fail_fast).start();
    // Its own thread reads the backup's line, while the call is under way.
    let (mut process, fault) = smol::unblock(move || {
        let result = process.line("in call");
        (process, result)
    })
    .await;
    fault?;
    let runtime = SmolRuntime::global();
    let begun = runtime.now();
    process.suffer(trial.fault)?;
    let outcome = call.await;
    let wait = runtime.now().since(begun);
    let learned = match outcome {
        Outcome::Reply(()) => "a reply".to_owned(),
        Outcome::NoReply(why) => why.to_string(),
        Outcome::NotExecuted(why) => why.to_string(),
        Outcome::Unknown(why, _ticket) => why.to_string(),
    };
    Ok((wait, learned))
}
