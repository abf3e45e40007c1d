//! An etcd of one's own, on loopback, in temporary folders: for tests, and for programs that kill its members.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};

/// Members of one cluster. They end with it, or with its process, however that ends.
#[derive(Debug)]
pub struct Members {
    folder: PathBuf,
    members: Vec<Member>,
    tls: Option<Tls>,
}

#[derive(Debug)]
struct Member {
    client: SocketAddr,
    peer: SocketAddr,
    keeper: Option<Keeper>,
}

/// A shell that started the member, and ends it when its stdin is closed.
#[derive(Debug)]
struct Keeper {
    shell: Child,
    pid: Pid,
}

/// A certificate and its key, for what clients see.
#[derive(Clone, Debug)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Why there is no etcd.
#[derive(Debug)]
pub enum StartError {
    /// This machine has none.
    Absent,
    /// What went wrong.
    Failed(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Absent => f.write_str(
                "etcd and etcdctl were not found (Debian: apt-get install etcd-server etcd-client)",
            ),
            StartError::Failed(why) => f.write_str(why),
        }
    }
}

impl From<String> for StartError {
    fn from(why: String) -> StartError {
        StartError::Failed(why)
    }
}

/// Starts the program, says its process id, and waits on stdin: for a line, after which its files stay, or for the end of our
/// process, after which nothing is left of it. Stopped processes can be killed too.
const KEEPER: &str = r#"
trap '' INT TERM HUP
folder=$1
shift
"$@" >>"$0" 2>&1 </dev/null &
echo $!
if read -r _; then files=stay; else files=go; fi
kill -KILL $! 2>/dev/null
wait
[ $files = stay ] || rm -rf "$folder"
"#;

/// Attempts to reach all members of a new cluster: each waits for at most 2 s.
const ATTEMPTS_MAX: u32 = 100;

/// Addresses that nothing listens on.
pub fn free_addresses(count: usize) -> io::Result<Vec<SocketAddr>> {
    // All before any is given back, so that they differ.
    let listeners: io::Result<Vec<_>> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    listeners?.iter().map(TcpListener::local_addr).collect()
}

impl Members {
    /// A new cluster of so many members, which takes writes.
    pub fn start(count: usize) -> Result<Members, StartError> {
        Members::start_with(count, None)
    }

    /// The same, with TLS for clients.
    pub fn start_with(count: usize, tls: Option<Tls>) -> Result<Members, StartError> {
        let runs = |program: &str, argument: &str| {
            let mut command = Command::new(program);
            let status = command.arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        if !(runs("etcd", "--version") && runs("etcdctl", "version")) {
            return Err(StartError::Absent);
        }
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = place().join(format!("oncewire-etcd-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder).map_err(|error| failed(&folder, &error))?;
        // From here on its drop removes what there is.
        let mut cluster = Members { folder, members: Vec::new(), tls };
        let addresses = free_addresses(2 * count).map_err(|error| error.to_string())?;
        for pair in addresses.chunks_exact(2) {
            cluster.members.push(Member { client: pair[0], peer: pair[1], keeper: None });
        }
        (0..count).try_for_each(|at| cluster.resume(at))?;
        cluster.until_it_answers()?;
        Ok(cluster)
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Where a member answers clients.
    pub fn client(&self, at: usize) -> SocketAddr {
        self.members[at].client
    }

    /// The same as a URL.
    pub fn endpoint(&self, at: usize) -> String {
        format!("{}://{}", self.scheme(), self.client(at))
    }

    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|at| self.endpoint(at)).collect()
    }

    /// Starts a member, or starts it again.
    pub fn resume(&mut self, at: usize) -> Result<(), String> {
        let explain = |error: io::Error| format!("etcd cannot be started: {error}");
        let mut command = self.command(at);
        let mut shell =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(explain)?;
        let stdout = shell.stdout.take().ok_or("etcd's keeper has no stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).map_err(explain)?;
        let pid = line.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.ok_or("etcd's keeper does not say what it has started")?;
        self.members[at].keeper = Some(Keeper { shell, pid });
        Ok(())
    }

    fn command(&self, at: usize) -> Command {
        let names: Vec<_> = (0..self.members.len())
            .map(|at| format!("m{at}=http://{}", self.members[at].peer))
            .collect();
        let (client, peer) = (self.endpoint(at), format!("http://{}", self.members[at].peer));
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(KEEPER)
            .arg(self.folder.join(format!("log{at}")))
            .arg(&self.folder)
            .arg("etcd");
        command
            .args(["--name", &format!("m{at}"), "--data-dir"])
            .arg(self.folder.join(at.to_string()));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &names.join(","), "--initial-cluster-state", "new"]);
        command.args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
        command.args(["--logger", "zap", "--log-level", "warn"]);
        if let Some(tls) = &self.tls {
            command.arg("--cert-file").arg(&tls.certificate).arg("--key-file").arg(&tls.key);
        }
        command
    }

    /// Kills a member, and leaves its files.
    pub fn kill(&mut self, at: usize) -> Result<(), String> {
        self.members[at].keeper.take().map(drop).ok_or_else(|| not_running(at))
    }

    /// Whether a member was started and not killed since; it may be paused.
    pub fn runs(&self, at: usize) -> bool {
        self.members[at].keeper.is_some()
    }

    /// Removes the files of a member that was killed.
    pub fn forget(&self, at: usize) -> Result<(), String> {
        let folder = self.folder.join(at.to_string());
        std::fs::remove_dir_all(&folder).map_err(|error| failed(&folder, &error))
    }

    pub fn signal(&self, at: usize, signal: Signal) -> Result<(), String> {
        let keeper = self.members[at].keeper.as_ref().ok_or_else(|| not_running(at))?;
        kill_process(keeper.pid, signal)
            .map_err(|error| format!("a member of etcd gets no {signal:?}: {error}"))
    }

    /// The member that leads the others, as far as one of them knows.
    pub fn leader(&self) -> Option<usize> {
        let leads = |at: &usize| {
            let arguments = ["endpoint", "status", "--command-timeout=1s"];
            let status = self.ctl_at(&self.endpoint(*at), &arguments).unwrap_or_default();
            // Endpoint, id, version, size, whether it leads.
            status.split(", ").nth(4) == Some("true")
        };
        (0..self.members.len()).filter(|at| self.runs(*at)).find(leads)
    }

    /// Runs etcdctl, and returns what it says; `None` if it fails.
    pub fn ctl(&self, arguments: &[&str]) -> Option<String> {
        self.ctl_at(&self.endpoints().join(","), arguments)
    }

    fn ctl_at(&self, endpoints: &str, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(endpoints);
        if let Some(tls) = &self.tls {
            command.arg("--insecure-skip-tls-verify").arg("--cacert").arg(&tls.certificate);
        }
        let output = command.args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8(output.stdout).ok()).flatten()
    }

    /// Waits until each member takes writes.
    fn until_it_answers(&self) -> Result<(), String> {
        for _ in 0..ATTEMPTS_MAX {
            if self.ctl(&["endpoint", "health", "--command-timeout=2s"]).is_some() {
                return Ok(());
            }
            std::thread::yield_now();
        }
        let said = std::fs::read_to_string(self.folder.join("log0")).unwrap_or_default();
        Err(format!("etcd does not start: {}", said.lines().last().unwrap_or_default()))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(mut stdin) = self.shell.stdin.take() {
            let _gone = stdin.write_all(b"\n");
        }
        let _status = self.shell.wait();
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.members.clear();
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

/// Where its files lie: in memory where there is some, since it syncs each write.
fn place() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let is_writable = std::fs::metadata(memory).is_ok_and(|of| !of.permissions().readonly());
    if is_writable { memory.to_owned() } else { std::env::temp_dir() }
}

fn not_running(at: usize) -> String {
    format!("member {at} of etcd does not run")
}

fn failed(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}
