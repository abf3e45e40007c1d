//! Real sockets, and real processes that hold them.

use std::fs;
use std::future::Future;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use oncewire_driver::conformance::exchange;
use oncewire_unix::{
    Accept, BindOptions, BoxStream, Connect, Runtime, SmolRuntime, Subject, UnixAcceptor,
    UnixConnector,
};
use smol::future::poll_once;
use smol::io::{AsyncReadExt, AsyncWriteExt};

mod callers;
mod ends;
mod files;
mod spins;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    smol::block_on(future)
}

/// A directory of the test's own, removed at its end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("oncewire-unix-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Dir(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("s")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// This program once more, as a server of `name` that lives until it is killed or its stdin ends.
struct Server(Child);

const ROLE: &str = "ONCEWIRE_TEST_SERVE";

impl Server {
    fn start(name: &Path) -> Server {
        Server::start_with(Command::new(std::env::current_exe().unwrap()), name).unwrap()
    }

    /// `None` if it ended before it listened.
    fn start_with(mut command: Command, name: &Path) -> Option<Server> {
        let mut child = command
            .args(["--exact", "serves_when_asked_to", "--nocapture"])
            .env(ROLE, name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let server = BufReader::new(child.stdout.take().unwrap());
        let listens = server.lines().map_while(Result::ok).any(|line| line.contains("listening"));
        let server = Server(child);
        listens.then_some(server)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// As `kill -9` does.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its stdin ends it, and whatever it was started through.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Not a test: what [`Server`] runs. It tells every caller who it is.
#[test]
fn serves_when_asked_to() {
    let Some(name) = std::env::var_os(ROLE) else { return };
    let acceptor = UnixAcceptor::bind(Path::new(&name)).unwrap();
    println!("\nlistening");
    std::thread::spawn(|| {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
        std::process::exit(0);
    });
    block_on(async {
        loop {
            let (mut stream, subject) = acceptor.accept().await.unwrap();
            // A caller that only looked whether we live is gone.
            let _ = stream.write_all(subject.to_string().as_bytes()).await;
        }
    });
}

async fn connected() -> (BoxStream, BoxStream) {
    let dir = Dir::new();
    let acceptor = UnixAcceptor::bind(dir.socket()).unwrap();
    let client = UnixConnector::new(dir.socket()).connect().await.unwrap();
    let (server, _) = acceptor.accept().await.unwrap();
    (client, server)
}

async fn meet(connector: &UnixConnector, acceptor: &UnixAcceptor) -> Subject {
    let _client = connector.connect().await.unwrap();
    acceptor.accept().await.unwrap().1
}

fn me() -> u32 {
    fs::metadata("/proc/self").unwrap().uid()
}

fn my_group() -> u32 {
    fs::metadata("/proc/self").unwrap().gid()
}

/// Waits, but not for ever.
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let runtime = SmolRuntime::global();
    let mut timer = runtime.timer();
    timer.set(runtime.now() + Duration::from_secs(20));
    let too_late = async {
        smol::future::poll_fn(|cx| timer.poll(cx)).await;
        panic!("waited 20 s for {what}");
    };
    smol::future::or(future, too_late).await
}

/// A user that is not us; `None` where we are not root.
fn another_user() -> Option<u32> {
    let is_root = me() == 0;
    if !is_root {
        eprintln!("skipped: only root can act as another user");
    }
    is_root.then_some(65534)
}
