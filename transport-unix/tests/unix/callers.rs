//! Who may connect, to what name, and who each end takes the other for.

use oncewire_unix::SessionId;
use oncewire_unix::protocol::wire::{self, Decoded, Frame};

use super::*;

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
fn a_dial_without_a_listener_fails() {
    let dir = Dir::new();
    let connector = UnixConnector::new(dir.socket());
    let error = block_on(connector.connect()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(dir.socket().to_str().unwrap()), "{error}");
    drop(UnixListener::bind(dir.socket()).unwrap());
    // A process that another test is starting holds the listener until it runs its program.
    let error = loop {
        if let Err(error) = block_on(connector.connect()) {
            break error;
        }
        std::thread::yield_now();
    };
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

/// Whether a connection passes the acceptor. If not, it is closed, and the acceptor waits for the next one.
async fn is_let_in(acceptor: &UnixAcceptor, path: &Path) -> bool {
    let mut stream = UnixConnector::new(path).connect().await.unwrap();
    let closed = async {
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        false
    };
    let accepted = async {
        acceptor.accept().await.unwrap();
        true
    };
    smol::future::or(accepted, closed).await
}

#[test]
fn c193_only_users_and_groups_on_the_lists_are_accepted() {
    type Change = fn(UnixAcceptor) -> UnixAcceptor;
    let cases: [(Change, bool); 6] = [
        (|acceptor| acceptor, true),
        (|acceptor| acceptor.allow_uids([me() + 1, me()]), true),
        (|acceptor| acceptor.allow_uids([me() + 1]), false),
        (|acceptor| acceptor.allow_gids([my_group()]), true),
        (|acceptor| acceptor.allow_gids([my_group() + 1]), false),
        (|acceptor| acceptor.allow_uids([me() + 1]).allow_gids([my_group()]), true),
    ];
    block_on(async {
        for (number, (change, is_in)) in cases.into_iter().enumerate() {
            let dir = Dir::new();
            let acceptor = change(UnixAcceptor::bind(dir.socket()).unwrap());
            assert_eq!(is_let_in(&acceptor, &dir.socket()).await, is_in, "case {number}");
            assert_eq!(acceptor.refused(), u64::from(!is_in), "case {number}");
        }
        let nobody = UnixAcceptor::bind_abstract(format!("oncewire-none-{}", std::process::id()));
        let nobody = nobody.unwrap().allow_uids([]);
        let name = nobody.address().replace("unix:", "");
        assert!(!is_let_in(&nobody, Path::new(&name)).await, "an empty list lets no one in");
    });
}

/// What a thief is given: the socket, and the id of a session of someone else's, in hexadecimal digits.
const THEFT: &str = "ONCEWIRE_TEST_THEFT";

/// A `Hello` that opens a session, or resumes one.
fn hello(session: Option<SessionId>) -> Vec<u8> {
    let hello = wire::Hello {
        magic: wire::MAGIC,
        version_min: wire::VERSION,
        version_max: wire::VERSION,
        features: 0,
        resume: session.map(|session| wire::Resume { session, acked: 0 }),
        slots: 1,
        request_len_max: 64,
        reply_len_max: 64,
        service: None,
        server: None,
        token: None,
    };
    let mut out = vec![0; wire::CONTROL_LEN_MAX];
    let len = wire::encode(&Frame::Hello(hello), &mut out).unwrap();
    out.truncate(len);
    out
}

/// Says `Hello` on a new connection; the connection and the session, or why there is none.
async fn greet(
    socket: &Path,
    session: Option<SessionId>,
) -> (BoxStream, Result<SessionId, String>) {
    let mut stream = UnixConnector::new(socket).connect().await.unwrap();
    stream.write_all(&hello(session)).await.unwrap();
    let (mut answer, mut len) = ([0; wire::CONTROL_LEN_MAX], 0);
    loop {
        match wire::decode(&answer[..len], wire::Role::Server, 0).unwrap() {
            Decoded::Frame(Frame::Welcome(welcome), _) => return (stream, Ok(welcome.session)),
            Decoded::Frame(Frame::Refuse(refuse, _), _) => {
                return (stream, Err(format!("{refuse:?}")));
            }
            Decoded::Frame(frame, _) => panic!("{frame:?}"),
            Decoded::Incomplete(_) => len += stream.read(&mut answer[len..]).await.unwrap(),
        }
    }
}

/// Not a test: what another user's process runs.
#[test]
fn steals_when_asked_to() {
    let Ok(theft) = std::env::var(THEFT) else { return };
    let (id, socket) = theft.split_once(' ').unwrap();
    let id = u128::from_str_radix(id, 16).unwrap().to_be_bytes();
    let stolen = block_on(greet(Path::new(socket), Some(SessionId::from_bytes(id)))).1;
    println!("\nstolen: {stolen:?}");
}

#[test]
fn c04_a_process_of_another_user_that_knows_the_id_does_not_get_the_session() {
    let Some(other) = another_user() else { return };
    let dir = Dir::new();
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o777)).unwrap();
    // All users may connect.
    let acceptor = BindOptions::new().mode(0o666).bind(dir.socket()).unwrap();
    let server = oncewire_unix::Server::builder("vault").build().unwrap();
    let serving = server.clone();
    smol::spawn(async move { serving.serve(acceptor).await }).detach();
    let (_stream, session) = block_on(greet(&dir.socket(), None));
    let session = session.unwrap();
    let id = u128::from_be_bytes(session.to_bytes());
    let mut thief = Command::new(std::env::current_exe().unwrap());
    thief.args(["--exact", "callers::steals_when_asked_to", "--nocapture"]).uid(other).gid(other);
    thief.env(THEFT, format!("{id:032x} {}", dir.socket().display()));
    let Ok(output) = thief.output() else {
        eprintln!("skipped: another user cannot run this program");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(r#"stolen: Err("WrongPrincipal")"#), "{said}");
    assert_eq!(server.counters().resumes_of_others, 1);
    assert_eq!((server.counters().sessions, server.counters().resumes), (1, 0), "it is unharmed");
    // Its owner may.
    assert_eq!(block_on(greet(&dir.socket(), Some(session))).1, Ok(session));
}
