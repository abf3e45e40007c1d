//! An etcd of the tests' own, on loopback, in temporary folders.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use oncewire_etcd::Etcd;
use rustix::process::{Pid, Signal, kill_process};

/// Members that end with it, or with the test's process, however that ends.
pub struct Cluster {
    folder: PathBuf,
    members: Vec<Member>,
    tls: Option<Tls>,
}

struct Member {
    client: SocketAddr,
    peer: SocketAddr,
    keeper: Option<Keeper>,
}

/// A shell that started the member, and ends it when its stdin is closed.
struct Keeper {
    shell: Child,
    pid: Pid,
}

/// A certificate and its key, for what clients see.
#[derive(Clone)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Starts the program, says its process id, and waits on stdin: for a line, after which its files stay, or for the end of the test's
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

/// An address that nothing listens on.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Cluster {
    /// A new one; `None`, and said so, where there is no etcd.
    pub fn start(count: usize) -> Option<Cluster> {
        Cluster::start_with(count, None)
    }

    /// The same, with TLS for clients.
    pub fn start_with(count: usize, tls: Option<Tls>) -> Option<Cluster> {
        let found = Command::new("etcd").arg("--version").stdout(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            eprintln!("skipped: etcd was not found (Debian: apt-get install etcd-server)");
            return None;
        }
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = place().join(format!("oncewire-etcd-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let member = |_| Member { client: free_address(), peer: free_address(), keeper: None };
        let members: Vec<Member> = (0..count).map(member).collect();
        let mut cluster = Cluster { folder, members, tls };
        for at in 0..count {
            cluster.resume(at);
        }
        cluster.until_it_answers();
        Some(cluster)
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Where a member answers.
    pub fn endpoint(&self, at: usize) -> String {
        format!("{}://{}", self.scheme(), self.members[at].client)
    }

    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|at| self.endpoint(at)).collect()
    }

    pub fn etcd(&self) -> Etcd {
        Etcd::builder(self.endpoints()).build().unwrap()
    }

    /// Starts a member, or starts it again.
    pub fn resume(&mut self, at: usize) {
        let names = (0..self.members.len())
            .map(|at| format!("m{at}=http://{}", self.members[at].peer))
            .collect::<Vec<_>>()
            .join(",");
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
        command.args(["--initial-cluster", &names, "--initial-cluster-state", "new"]);
        command.args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
        command.args(["--logger", "zap", "--log-level", "warn"]);
        if let Some(tls) = &self.tls {
            command.arg("--cert-file").arg(&tls.certificate).arg("--key-file").arg(&tls.key);
        }
        let mut shell =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell starts");
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
        self.members[at].keeper = Some(Keeper { shell, pid });
    }

    /// Kills a member, and leaves its files.
    pub fn kill(&mut self, at: usize) {
        drop(self.members[at].keeper.take().expect("it runs"));
    }

    /// Removes the files of a member that was killed.
    pub fn forget(&self, at: usize) {
        std::fs::remove_dir_all(self.folder.join(at.to_string())).unwrap();
    }

    pub fn signal(&self, at: usize, signal: Signal) {
        let keeper = self.members[at].keeper.as_ref().expect("it runs");
        kill_process(keeper.pid, signal).unwrap();
    }

    /// Runs etcdctl, and returns what it says.
    pub fn ctl(&self, args: &[&str]) -> Option<String> {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(self.endpoints().join(","));
        if let Some(tls) = &self.tls {
            command.arg("--insecure-skip-tls-verify").arg("--cacert").arg(&tls.certificate);
        }
        let output = command.args(args).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// Waits until each member takes writes.
    fn until_it_answers(&self) {
        let mut tries = 0;
        while self.ctl(&["endpoint", "health", "--command-timeout=2s"]).is_none() {
            tries += 1;
            assert!(tries < 100, "etcd does not start: see {}", self.folder.display());
            std::io::stderr().flush().unwrap();
            std::thread::yield_now();
        }
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

impl Drop for Cluster {
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
