//! One measurement: a backup in a process of its own is in the middle of a call, and then it is killed or stopped.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use oncewire::{Client, ClientOptions, Outcome, Runtime, SmolRuntime, UnixConnector};

use crate::backup::BackupClient;

/// The primary's own deadline for a forward: how long one waits who does nothing else.
const DEADLINE: Duration = Duration::from_secs(2);
/// That of one that fails fast, which the end of the connection must come before on a busy machine too.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
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

/// The backup's process, which dies with this, and the folder of its socket, which goes with it.
struct Process {
    child: Child,
    dir: PathBuf,
}

impl Process {
    /// Starts it; it listens. Returns what it says from then on, too.
    fn start() -> Result<(Process, Lines), String> {
        let cannot = |error: std::io::Error| format!("cannot start a backup: {error}");
        let mut random = [0; 8];
        SmolRuntime::global().random(&mut random);
        let name = format!("oncewire-failover-{:016x}", u64::from_le_bytes(random));
        let dir = std::env::temp_dir().join(name);
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        command.arg("backup").arg(socket(&dir)).stdin(Stdio::piped()).stdout(Stdio::piped());
        std::fs::create_dir(&dir).map_err(cannot)?;
        let mut process = Process { child: command.spawn().map_err(cannot)?, dir };
        let stdout = process.child.stdout.take().ok_or("the backup has no stdout")?;
        let mut lines = BufReader::new(stdout);
        expect(&mut lines, "listening")?;
        Ok((process, lines))
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
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("backup.sock")
}

/// What a backup says.
type Lines = BufReader<ChildStdout>;

/// Reads a line.
fn expect(lines: &mut Lines, wanted: &str) -> Result<(), String> {
    let mut line = String::new();
    lines.read_line(&mut line).map_err(|error| error.to_string())?;
    if line.trim() == wanted { Ok(()) } else { Err(format!("the backup says {line:?}")) }
}

/// How long the primary waits from the fault on, and what it learns.
pub(crate) async fn measure(trial: &Trial) -> Result<(Duration, String), String> {
    let (mut process, mut lines) = Process::start()?;
    let deadline = if trial.fail_fast { GIVE_UP_AFTER } else { DEADLINE };
    let options = ClientOptions::default().with_timeout(deadline);
    let connector = UnixConnector::new(socket(&process.dir));
    let backup = BackupClient(Client::new(connector, options));
    let operation = "append x [a]".to_owned();
    let mut call = backup.forward(operation).fail_fast(trial.fail_fast).start();
    // Its own thread reads the backup's line, while the call is under way.
    let in_call = smol::unblock(move || expect(&mut lines, "in call"));
    let ended = async {
        let outcome = (&mut call).await;
        Err(format!("the call ended before the backup had it: {}", learned(outcome)))
    };
    smol::future::or(in_call, ended).await?;
    let runtime = SmolRuntime::global();
    let begun = runtime.now();
    process.suffer(trial.fault)?;
    let outcome = call.await;
    Ok((runtime.now().since(begun), learned(outcome)))
}

fn learned(outcome: Outcome<()>) -> String {
    match outcome {
        Outcome::Reply(()) => "a reply".to_owned(),
        Outcome::NoReply(why) => why.to_string(),
        Outcome::NotExecuted(why) => why.to_string(),
        Outcome::Unknown(why, _ticket) => why.to_string(),
    }
}
