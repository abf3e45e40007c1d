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

#[test]
fn both_ends_send_64_mib_at_once_and_then_end() {
    block_on(async {
        let (client, server) = connected().await;
        let server = smol::spawn(exchange(server, 64 << 20));
        exchange(client, 64 << 20).await;
        server.await;
    });
}

#[test]
fn the_kernel_says_which_user_calls() {
    let dir = Dir::new();
    let acceptor = UnixAcceptor::bind(dir.socket()).unwrap();
    let subject = block_on(meet(&UnixConnector::new(dir.socket()), &acceptor));
    assert_eq!(subject, Subject::Uid(me()));
}

#[test]
fn a_caller_from_another_pid_namespace_is_known_too() {
    let dir = Dir::new();
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork"]).arg(std::env::current_exe().unwrap());
    let Some(_server) = Server::start_with(unshare, &dir.socket()) else {
        eprintln!("skipped: no right to make a pid namespace");
        return;
    };
    let told = block_on(async {
        let mut stream = UnixConnector::new(dir.socket()).connect().await.unwrap();
        let mut told = String::new();
        stream.read_to_string(&mut told).await.unwrap();
        told
    });
    assert_eq!(told, format!("uid {}", me()));
}

#[test]
fn only_the_owner_may_connect_by_default() {
    let dir = Dir::new();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let acceptor = UnixAcceptor::bind(dir.socket()).unwrap();
    assert_eq!(mode(&dir.socket()), 0o600);
    drop(acceptor);
    for bits in [0o666, 0o660, 0o622] {
        let _acceptor = BindOptions::new().mode(bits).bind(dir.socket()).unwrap();
        assert_eq!(mode(&dir.socket()), bits);
    }
    assert_eq!(mode(&dir.0.join("s.lock")), 0o600);
}

#[test]
fn nobody_connects_where_nobody_listens() {
    let dir = Dir::new();
    let connector = UnixConnector::new(dir.socket());
    let error = block_on(connector.connect()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(dir.socket().to_str().unwrap()), "{error}");
    drop(UnixListener::bind(dir.socket()).unwrap());
    let error = block_on(connector.connect()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_full_queue_is_an_error_that_says_so() {
    let dir = Dir::new();
    let acceptor = BindOptions::new().backlog(1).bind(dir.socket()).unwrap();
    let connector = UnixConnector::new(dir.socket());
    block_on(async {
        let mut waiting = Vec::new();
        let error = loop {
            match connector.connect().await {
                Ok(stream) => waiting.push(stream),
                Err(e) => break e,
            }
        };
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        for _ in 0..waiting.len() {
            acceptor.accept().await.unwrap();
        }
        connector.connect().await.unwrap();
    });
}

#[test]
fn a_second_server_learns_the_pid_of_the_first() {
    let dir = Dir::new();
    let server = Server::start(&dir.socket());
    let error = UnixAcceptor::bind(dir.socket()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&format!("process {}", server.pid())), "{error}");
    // And the first one goes on.
    block_on(UnixConnector::new(dir.socket()).connect()).unwrap();
}

#[test]
fn a_server_in_this_process_keeps_a_second_one_out() {
    let dir = Dir::new();
    let _first = UnixAcceptor::bind(dir.socket()).unwrap();
    let error = UnixAcceptor::bind(dir.socket()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
}

#[test]
fn what_a_killed_server_left_is_replaced() {
    let dir = Dir::new();
    for _ in 0..3 {
        Server::start(&dir.socket()).kill();
        assert!(dir.socket().exists());
        let acceptor = UnixAcceptor::bind(dir.socket()).unwrap();
        block_on(meet(&UnixConnector::new(dir.socket()), &acceptor));
        drop(acceptor);
        assert!(!dir.socket().exists());
    }
}

#[test]
fn of_many_servers_that_start_at_once_over_a_dead_one_exactly_one_wins() {
    let dir = Dir::new();
    for _ in 0..20 {
        drop(UnixListener::bind(dir.socket()).unwrap());
        // A stale file, once it is closed everywhere: a process that another test starts has a copy of it until it runs
        // its own program.
        while UnixStream::connect(dir.socket()).is_ok() {
            std::thread::yield_now();
        }
        let path = dir.socket();
        let starts: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || UnixAcceptor::bind(path))
            })
            .collect();
        let ends: Vec<_> = starts.into_iter().map(|t| t.join().unwrap()).collect();
        let mut winners: Vec<_> = ends.into_iter().flat_map(Result::ok).collect();
        assert_eq!(winners.len(), 1);
        block_on(meet(&UnixConnector::new(&path), &winners[0]));
        winners.clear();
        assert!(!path.exists());
    }
}

#[test]
fn a_living_server_without_a_lock_is_left_alone() {
    let dir = Dir::new();
    let listener = UnixListener::bind(dir.socket()).unwrap();
    let error = UnixAcceptor::bind(dir.socket()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    UnixStream::connect(dir.socket()).unwrap();
    drop(listener);

    let other = dir.0.join("datagrams");
    let _socket = UnixDatagram::bind(&other).unwrap();
    assert_eq!(UnixAcceptor::bind(&other).unwrap_err().kind(), ErrorKind::AddrInUse);
    assert!(other.exists());
}

#[test]
fn what_is_not_a_socket_is_left_alone_and_named() {
    let dir = Dir::new();
    let path = dir.socket();
    let refused = |what: &str| {
        let error = UnixAcceptor::bind(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(error.to_string().contains(what), "{error}");
    };
    fs::write(&path, "precious").unwrap();
    refused("a regular file");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    fs::remove_file(&path).unwrap();

    fs::create_dir(&path).unwrap();
    refused("a directory");
    fs::remove_dir(&path).unwrap();

    symlink(dir.0.join("elsewhere"), &path).unwrap();
    refused("a symbolic link");
    assert!(path.is_symlink());
}

#[test]
fn a_lock_file_that_is_none_is_left_alone() {
    let dir = Dir::new();
    let lock = dir.0.join("s.lock");
    fs::write(dir.0.join("target"), "precious").unwrap();
    symlink(dir.0.join("target"), &lock).unwrap();
    let error = UnixAcceptor::bind(dir.socket()).unwrap_err();
    assert!(error.to_string().contains("s.lock"), "{error}");
    assert_eq!(fs::read(dir.0.join("target")).unwrap(), b"precious");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    assert!(UnixAcceptor::bind(dir.socket()).is_err());
    assert!(!dir.socket().exists());
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

#[test]
fn c121_what_is_in_the_place_of_the_lock_is_left_alone_and_named() {
    let dir = Dir::new();
    let lock = dir.0.join("s.lock");
    let refused = |what: &str| {
        let before = fs::read(&lock).ok();
        let error = UnixAcceptor::bind(dir.socket()).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains(lock.to_str().unwrap()), "{error}");
        assert_eq!(fs::read(&lock).ok(), before);
        assert!(!dir.socket().exists());
    };
    fs::write(&lock, "precious").unwrap();
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o600)).unwrap();
    refused("something else");
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o644)).unwrap();
    refused("0644");
    fs::remove_file(&lock).unwrap();

    fs::write(dir.0.join("target"), "1\n").unwrap();
    fs::set_permissions(dir.0.join("target"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(dir.0.join("target"), &lock).unwrap();
    refused("2 names");
    fs::remove_file(&lock).unwrap();

    let Some(other) = another_user() else { return };
    fs::write(&lock, "").unwrap();
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(&lock, Some(other), None).unwrap();
    refused("belongs to uid 65534");
}

#[test]
fn c121_a_dead_socket_of_another_user_is_left_alone_and_named() {
    let Some(other) = another_user() else { return };
    let dir = Dir::new();
    drop(UnixListener::bind(dir.socket()).unwrap());
    std::os::unix::fs::chown(dir.socket(), Some(other), None).unwrap();
    while UnixStream::connect(dir.socket()).is_ok() {
        std::thread::yield_now();
    }
    let error = UnixAcceptor::bind(dir.socket()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("belongs to uid 65534"), "{error}");
    assert!(dir.socket().exists());
}

#[test]
fn c122_a_client_leaves_a_server_of_another_user_before_it_sends_a_byte() {
    let dir = Dir::new();
    let acceptor = UnixAcceptor::bind(dir.socket()).unwrap();
    let connector = UnixConnector::new(dir.socket());
    block_on(async {
        meet(&connector.clone().server_uid(me()), &acceptor).await;
        let error = connector.server_uid(me() + 1).connect().await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let text = error.to_string();
        let both = text.contains(&format!("uid {},", me()))
            && text.contains(&format!("uid {}", me() + 1))
            && text.contains(dir.socket().to_str().unwrap());
        assert!(both, "{text}");
        let (mut stream, _) = acceptor.accept().await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    });
}

#[test]
fn c122_a_server_that_runs_as_another_user_is_known_as_such() {
    let Some(other) = another_user() else { return };
    let dir = Dir::new();
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.uid(other).gid(other);
    let Some(_server) = Server::start_with(command, &dir.socket()) else {
        eprintln!("skipped: another user cannot run this program");
        return;
    };
    block_on(async {
        let ours = UnixConnector::new(dir.socket()).server_uid(me()).connect().await;
        assert_eq!(ours.err().unwrap().kind(), ErrorKind::PermissionDenied);
        UnixConnector::new(dir.socket()).server_uid(other).connect().await.unwrap();
    });
}

#[test]
fn c123_a_listener_whose_socket_was_removed_lets_in_who_has_connected_and_then_says_so() {
    let dir = Dir::new();
    let removals: [fn(&Path); 2] = [
        |socket| fs::remove_file(socket).unwrap(),
        // Another one in its place.
        |socket| {
            fs::remove_file(socket).unwrap();
            UnixListener::bind(socket).unwrap();
        },
    ];
    for remove in removals {
        let acceptor = UnixAcceptor::bind(dir.socket()).unwrap();
        block_on(async {
            let _client = UnixConnector::new(dir.socket()).connect().await.unwrap();
            remove(&dir.socket());
            within("the connection", acceptor.accept()).await.unwrap();
            for _ in 0..2 {
                let error = within("the removal", acceptor.accept()).await.err().unwrap();
                assert_eq!(error.kind(), ErrorKind::NotFound);
                let text = error.to_string();
                assert!(text.contains("removed") && text.contains(dir.0.to_str().unwrap()));
            }
        });
        drop(acceptor);
        let _ = fs::remove_file(dir.socket());
    }
}

#[test]
fn c123_a_server_whose_socket_was_removed_ends_with_an_error_that_names_it() {
    let dir = Dir::new();
    let acceptor = UnixAcceptor::bind(dir.socket()).unwrap();
    let server = oncewire_unix::Server::builder("toy").build().unwrap();
    fs::remove_file(dir.socket()).unwrap();
    let error = block_on(within("the end of serving", server.serve(acceptor))).unwrap_err();
    assert!(error.to_string().contains(dir.socket().to_str().unwrap()), "{error}");
}

#[test]
fn c123_a_socket_that_was_removed_is_made_again_on_demand() {
    let dir = Dir::new();
    let (sender, events) = smol::channel::unbounded();
    let acceptor = BindOptions::new()
        .mode(0o660)
        .rebind(true)
        .on_event(move |event| sender.try_send(format!("{event:?}")).unwrap())
        .bind(dir.socket())
        .unwrap();
    let connector = UnixConnector::new(dir.socket());
    let accepts = async {
        loop {
            acceptor.accept().await.unwrap();
        }
    };
    let told = |what: &'static str| {
        let events = &events;
        async move {
            let event = within(what, events.recv()).await.unwrap();
            assert!(event.contains(what), "{event}");
        }
    };
    let case = async {
        connector.connect().await.unwrap();
        // With its lock, as a cleaner does it, and alone.
        for with_lock in [true, false] {
            if with_lock {
                fs::remove_file(dir.0.join("s.lock")).unwrap();
            }
            fs::remove_file(dir.socket()).unwrap();
            told("Removed").await;
            told("Rebound").await;
            connector.connect().await.unwrap();
            let mode = fs::metadata(dir.socket()).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o660);
            let error = UnixAcceptor::bind(dir.socket()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "it is locked again");
        }
        // What is in its place is left alone, for as long as it is there.
        fs::remove_file(dir.socket()).unwrap();
        fs::write(dir.socket(), "precious").unwrap();
        told("Removed").await;
        told("RebindFailed").await;
        assert_eq!(fs::read(dir.socket()).unwrap(), b"precious");
        fs::remove_file(dir.socket()).unwrap();
        while within("the new socket", events.recv()).await.unwrap().contains("RebindFailed") {}
        connector.connect().await.unwrap();
    };
    block_on(smol::future::or(case, accepts));
    drop(acceptor);
    assert!(!dir.socket().exists());
}

#[test]
fn an_acceptor_removes_its_own_file_and_no_other() {
    let dir = Dir::new();
    let acceptor = UnixAcceptor::bind(dir.socket()).unwrap();
    drop(acceptor);
    assert!(!dir.socket().exists());

    let acceptor = UnixAcceptor::bind(dir.socket()).unwrap();
    fs::remove_file(dir.socket()).unwrap();
    let _other = UnixListener::bind(dir.socket()).unwrap();
    drop(acceptor);
    UnixStream::connect(dir.socket()).unwrap();
}

#[test]
fn a_path_can_be_served_again_and_again() {
    let dir = Dir::new();
    for _ in 0..10 {
        let acceptor = UnixAcceptor::bind(dir.socket()).unwrap();
        block_on(meet(&UnixConnector::new(dir.socket()), &acceptor));
    }
    assert_eq!(fs::read(dir.0.join("s.lock")).unwrap(), b"");
}

#[test]
fn a_path_that_is_too_long_says_how_long_it_may_be() {
    let dir = Dir::new();
    let path = dir.0.join("x".repeat(120));
    let len = path.as_os_str().len();
    let errors = [
        UnixAcceptor::bind(&path).unwrap_err(),
        block_on(UnixConnector::new(&path).connect()).err().unwrap(),
        UnixAcceptor::bind_abstract("x".repeat(len)).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let text = error.to_string();
        assert!(text.contains("107 bytes") && text.contains(&len.to_string()), "{text}");
    }
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);

    let longest = dir.0.join("x".repeat(107 - dir.0.as_os_str().len() - 1));
    let acceptor = UnixAcceptor::bind(&longest).unwrap();
    block_on(meet(&UnixConnector::new(&longest), &acceptor));
}

#[test]
fn an_empty_name_is_an_error() {
    for name in ["", "@"] {
        assert_eq!(UnixAcceptor::bind(name).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(block_on(UnixConnector::new(name).connect()).is_err());
    }
}

#[test]
fn abstract_names_need_no_file() {
    let name = format!("oncewire-test-{}", std::process::id());
    let acceptor = UnixAcceptor::bind_abstract(&name).unwrap();
    assert_eq!(acceptor.address(), format!("unix:@{name}"));
    let subject = block_on(meet(&UnixConnector::abstract_name(&name), &acceptor));
    assert_eq!(subject, Subject::Uid(me()));
    block_on(meet(&UnixConnector::new(format!("@{name}")), &acceptor));

    let error = UnixAcceptor::bind(format!("@{name}")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    drop(acceptor);
    UnixAcceptor::bind_abstract(&name).unwrap();
}

#[test]
fn a_listener_made_elsewhere_keeps_its_file() {
    let dir = Dir::new();
    let listener = UnixListener::bind(dir.socket()).unwrap();
    let acceptor = UnixAcceptor::from_listener(listener).unwrap();
    assert_eq!(acceptor.address(), format!("unix:{}", dir.socket().display()));
    block_on(meet(&UnixConnector::new(dir.socket()), &acceptor));
    drop(acceptor);
    assert!(dir.socket().exists());
    assert!(!dir.0.join("s.lock").exists());
}

#[test]
fn the_end_of_the_peer_wakes_a_reader_that_waits() {
    block_on(async {
        let (mut client, server) = connected().await;
        let mut buf = [0; 1];
        let mut read = pin!(client.read(&mut buf));
        assert!(poll_once(read.as_mut()).await.is_none());
        drop(server);
        assert_eq!(read.await.unwrap(), 0);
    });
}

#[test]
fn the_death_of_the_peers_process_wakes_a_reader_that_waits() {
    let dir = Dir::new();
    let acceptor = UnixAcceptor::bind(dir.socket()).unwrap();
    // A caller that says nothing until it is killed.
    let script =
        "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\ns.recv(1)";
    let Ok(mut child) = Command::new("python3").args(["-c", script]).arg(dir.socket()).spawn()
    else {
        eprintln!("skipped: no python3");
        return;
    };
    block_on(async {
        let (mut stream, _) = acceptor.accept().await.unwrap();
        let mut buf = [0; 1];
        let mut read = pin!(stream.read(&mut buf));
        assert!(poll_once(read.as_mut()).await.is_none());
        child.kill().unwrap();
        assert_eq!(read.await.unwrap(), 0);
    });
    child.wait().unwrap();
}

#[test]
fn a_write_to_a_peer_that_is_gone_fails() {
    block_on(async {
        let (mut client, server) = connected().await;
        drop(server);
        assert_eq!(client.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        client.close().await.unwrap();
    });
}

#[test]
fn a_reset_is_an_error_of_the_reader() {
    block_on(async {
        let (mut client, server) = connected().await;
        client.write_all(b"never read").await.unwrap();
        // What is closed with unread bytes is reset.
        drop(server);
        let error = client.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn closing_ends_our_direction_only() {
    block_on(async {
        let (mut client, mut server) = connected().await;
        client.close().await.unwrap();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        let parts = [std::io::IoSlice::new(b"la"), std::io::IoSlice::new(b"te")];
        assert_eq!(server.write_vectored(&parts).await.unwrap(), 4);
        let mut got = [0; 4];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"late");
    });
}
