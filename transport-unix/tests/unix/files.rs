//! Socket files and locks: who owns them, what is replaced, and what is left alone.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll, Wake, Waker};

use oncewire_unix::BoxFuture;

use super::*;

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
fn a_folder_that_does_not_exist_is_named() {
    let dir = Dir::new();
    let folder = dir.0.join("none");
    let error = UnixAcceptor::bind(folder.join("s.sock")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let expected = format!("there is no folder {}", folder.display());
    assert!(error.to_string().ends_with(&expected), "{error}");
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
            let connector = UnixConnector::new(dir.socket());
            let connects = || async { connector.connect().await.unwrap() };
            // They come one by one, so that it is seldom asked for more than one, and then together.
            for _ in 0..6 {
                let accepts = within("one", acceptor.accept());
                let (_client, accepted) = smol::future::zip(connects(), accepts).await;
                accepted.unwrap();
            }
            let _clients = [connects().await, connects().await, connects().await];
            remove(&dir.socket());
            for _ in 0..3 {
                within("the connection", acceptor.accept()).await.unwrap();
            }
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

type Accepting<'a> = BoxFuture<'a, std::io::Result<(BoxStream, Subject)>>;

/// Says that it was woken.
struct Woken(Sender<()>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        // It may be once more than is looked for.
        let _gone = self.0.send(());
    }
}

#[test]
fn c452_of_several_that_wait_at_a_socket_that_is_removed_each_learns_it_though_one_has_left() {
    let dir = Dir::new();
    for leaves_last in [true, false] {
        let acceptor = UnixAcceptor::bind(dir.socket()).unwrap();
        let mut leaves = acceptor.accept();
        let waits = |accept: &mut Accepting<'_>, waker: &Waker| {
            assert!(accept.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        };
        if !leaves_last {
            waits(&mut leaves, Waker::noop());
        }
        let mut stay = [(); 2].map(|()| {
            let (woken, wakes) = channel();
            let waker = Waker::from(Arc::new(Woken(woken)));
            let mut accept = acceptor.accept();
            waits(&mut accept, &waker);
            (accept, waker, wakes)
        });
        if leaves_last {
            waits(&mut leaves, Waker::noop());
        }
        drop(leaves);
        fs::remove_file(dir.socket()).unwrap();
        for (accept, waker, wakes) in &mut stay {
            // Polled when it is woken, and only then.
            let ended = loop {
                wakes.recv_timeout(Duration::from_secs(20)).expect("it is woken");
                if let Poll::Ready(ended) = accept.as_mut().poll(&mut Context::from_waker(waker)) {
                    break ended;
                }
            };
            assert_eq!(ended.err().unwrap().kind(), ErrorKind::NotFound);
        }
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
