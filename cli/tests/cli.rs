//! The command line against a real bank, and against servers that mean harm: C260 to
//! C264, C300, C301, C315 and C316. With a token: C184. In TLS: `tls.rs`; durable calls: `durable.rs`; help: `shell.rs`.
#![allow(missing_docs)]
#![cfg(unix)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use oncewire::{Method, Server, TcpAcceptor};
use util::{Bank, ONCEWIRE, OPEN, Recorder, deduct, run};

mod util;

#[test]
fn c260_a_call_from_the_command_line_is_made_once_and_its_reply_is_json() {
    let bank = Bank::tcp();
    let account = bank.call("bank.open", OPEN).replied().as_u64().unwrap();
    let balance = bank.call("bank.deduct", &deduct(account, "100")).replied();
    assert_eq!(balance, serde_json::json!({"Ok": 400}));
    let insufficient = bank.call("bank/deduct", &deduct(account, "1000")).replied();
    assert_eq!(insufficient, serde_json::json!({"Err": {"Insufficient": {"balance": 400}}}));
    // By the order of its parameters, and as what may run twice.
    let balance = bank.run("call", &["bank.balance", &format!("[{account}]"), "--idempotent"]);
    assert_eq!(balance.replied(), serde_json::json!({"Ok": 400}));
}

#[test]
fn c261_what_is_wrong_with_a_call_is_one_line_and_a_status_of_its_own() {
    let bank = Bank::tcp();
    bank.call("bank.balance", "{account}").failed(10, "no JSON");
    bank.call("bank.balance", r#"{"account": "all"}"#).failed(11, "expected u64");
    bank.call("bank.balance", r#"{"acount": 1}"#).failed(11, "acount");
    bank.call("bank.blance", r#"{"account": 1}"#).failed(12, "it has bank/audit, bank/balance");
    let opened = bank.run("call", &["bank.open", OPEN, "--idempotent"]);
    opened.failed(20, "does not declare the method idempotent");
    assert_eq!(opened.out, "");
    let usage = run(&["call", "http://a", "bank.open"]);
    assert_eq!(usage.status, 2, "{usage:?}");
}

#[test]
fn c262_a_server_that_is_not_there_or_speaks_something_else_is_said_to() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    let web_server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\nyou speak no HTTP").unwrap();
        let _ = stream.read(&mut [0; 1024]);
    });
    run(&["ping", &address, "-n", "1"]).failed(14, "no server of this protocol");
    web_server.join().unwrap();
    run(&["list", &address]).failed(13, "refused");
    run(&["call", "unix:/nonexistent/socket", "a.b"]).failed(13, "/nonexistent/socket");
    run(&["call", "pipe:true", "a.b"]).failed(14, "");
    // For the shell: not only a program and its arguments.
    run(&["call", "pipe:NAME=value true && exit 3", "a.b"]).failed(14, "");
}

#[test]
fn c263_two_servers_behind_one_name_are_seen() {
    let (one, other) = (Bank::tcp(), Bank::tcp());
    // Behind one name: connections go to the one and to the other in turn.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    let servers = [one.address.clone(), other.address.clone()];
    let relay = std::thread::spawn(move || {
        for at in 0..4 {
            let (client, _) = listener.accept().unwrap();
            let server = servers[at % 2].strip_prefix("tcp:").unwrap();
            let server = std::net::TcpStream::connect(server).unwrap();
            let ways =
                [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
            for (mut from, mut to) in ways {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    let pinged = run(&["ping", &address, "-n", "4", "--interval", "1ms"]);
    assert_eq!((pinged.status, &*pinged.err), (0, ""), "{pinged:?}");
    relay.join().unwrap();
    let lines: Vec<_> = pinged.out.lines().collect();
    assert_eq!(lines.len(), 5, "{pinged:?}");
    assert!(lines[0].starts_with("bank at tcp:"), "{pinged:?}");
    assert!(lines[4].starts_with("2 instances answer: ") && lines[4].ends_with("2x"), "{pinged:?}");
}

#[test]
fn c264_methods_are_listed_and_a_server_is_watched() {
    let dir = std::env::temp_dir().join(format!("oncewire-cli-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let bank = Bank::start(&format!("unix:{}", dir.join("bank").display()));
    let listed = bank.run("list", &[]);
    assert_eq!(listed.status, 0, "{listed:?}");
    let line = |name: &str| listed.out.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(line("bank/balance").starts_with("bank/balance(account: u64) -> Result<u64, "));
    assert!(line("bank/deduct").contains("Insufficient"), "{listed:?}");
    bank.call("bank.open", OPEN).replied();
    let watched = bank.run("top", &["-n", "2", "--interval", "10ms"]);
    assert_eq!((watched.status, &*watched.err), (0, ""), "{watched:?}");
    assert!(watched.out.starts_with("bank: serving, instance "), "{watched:?}");
    let pid = format!("pid {}", bank.child.id());
    assert!(
        watched.out.contains(&pid) && watched.out.contains("connected, 1 running"),
        "{watched:?}"
    );
    drop(bank);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn c300_what_cannot_be_shown_is_no_success_and_a_reader_that_goes_ends_the_watching() {
    let bank = Bank::tcp();
    let full = || Stdio::from(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let to = |out: Stdio, arguments: &[&str]| {
        let mut command = Command::new("timeout");
        command.arg("600").arg(ONCEWIRE).args(arguments).stdin(Stdio::null()).stdout(out);
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let ended = |child: Child| {
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, why) = ended(to(full(), &["call", &bank.address, "bank.open", OPEN]));
    assert!(status == Some(22) && why.contains("executed, but its reply was not shown"), "{why}");
    let (status, why) = ended(to(full(), &["list", &bank.address]));
    assert!(status == Some(23) && why.contains("stdout cannot be written"), "{why}");
    let (status, why) = ended(to(full(), &["--help"]));
    assert!(status == Some(23) && why.contains("stdout cannot be written"), "{why}");
    // As `head -1` does.
    for arguments in [&["list"][..], &["top", "--interval", "1ms"], &["ping", "--interval", "1ms"]]
    {
        let mut child =
            to(Stdio::piped(), &[&arguments[..1], &[&*bank.address], &arguments[1..]].concat());
        let mut first = [0; 1];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        assert_eq!(ended(child), (Some(0), String::new()), "{arguments:?}");
    }
    // A stderr that takes nothing changes no status.
    let mut command = Command::new(ONCEWIRE);
    let status = command.args(["list", "unix:/nonexistent"]).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(13));
}

#[test]
fn c301_what_a_server_says_does_not_reach_the_terminal_as_it_is() {
    const SAY: Method<(), String> =
        Method::new("say/it\u{1b}[2J\n").reply_len_max(1 << 10).parameters(&[]);
    let (sender, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        smol::block_on(async {
            let server = Server::builder("bank\u{1b}[31m\r")
                .method(&SAY, |_, ()| async { "\u{9b}31m\u{7f}\n\u{e9}".to_owned() })
                .signatures()
                .status()
                .build()
                .unwrap();
            let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
            sender.send(format!("tcp:{}", acceptor.local_addr())).unwrap();
            server.serve(acceptor).await.ok();
        });
    });
    let address = address.recv().unwrap();
    let name = SAY.name();
    for arguments in [
        &["ping", &address, "-n", "1"][..],
        &["list", &address],
        &["top", &address, "-n", "1"],
        &["call", &address, name],
        &["call", &address, "say/nothing"],
    ] {
        let ended = run(arguments);
        let is_control =
            |text: &str| text.contains(|letter: char| letter.is_control() && letter != '\n');
        assert!(!is_control(&ended.out) && !is_control(&ended.err), "{ended:?}");
        let lines = ended.out.lines().count() + ended.err.lines().count();
        assert!(lines == 1 || arguments[0] == "top", "{ended:?}");
        if arguments[2..] == [name] {
            assert_eq!(ended.replied(), "\u{9b}31m\u{7f}\n\u{e9}");
        }
    }
}

#[test]
fn c315_what_passes_a_relay_is_recorded_and_told_again_with_a_page() {
    let dir = std::env::temp_dir().join(format!("oncewire-record-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("recording");
    let bank = Bank::tcp();
    let mut relay = Recorder::start(&file, "tcp:127.0.0.1:0", &bank.address, &["-n", "2"]);
    let opened = run(&["call", &relay.address, "bank.open", OPEN]).replied();
    let arguments = deduct(opened.as_u64().unwrap(), "100");
    run(&["call", &relay.address, "bank.deduct", &arguments]).replied();
    // Two connections have ended, and so does the relay.
    assert!(relay.child.wait().unwrap().success());
    let name = file.to_str().unwrap();
    let replayed = run(&["replay", name]);
    assert_eq!((replayed.status, &*replayed.err), (0, ""), "{replayed:?}");
    for expected in [
        "#1   ----  connected: anonymous",
        "--->  Request 2048: bank/open, ",
        "<---  Reply 2048: executed, ",
        "   |  call 2048: starts",
        "+     call 2048: its caller learns: executed: a reply of ",
        "#2   --->  Request 2048: bank/deduct, ",
    ] {
        assert!(replayed.out.contains(expected), "{expected:?} is not in\n{}", replayed.out);
    }
    assert!(!replayed.out.contains("!!"), "the machines do not agree\n{}", replayed.out);
    let page = std::fs::read_to_string(dir.join("recording.html")).unwrap();
    assert!(page.contains("bank/deduct") && page.trim_end().ends_with("</html>"));
    // A recording is not written over.
    let again = ["record", name, "--listen", "tcp:127.0.0.1:0", "--to", &bank.address];
    run(&again).failed(16, "File exists");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn c316_what_is_no_recording_or_cannot_be_recorded_is_one_line() {
    let dir = std::env::temp_dir().join(format!("oncewire-records-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("none");
    let name = file.to_str().unwrap();
    run(&["replay", name]).failed(16, "No such file");
    std::fs::write(&file, "a text").unwrap();
    run(&["replay", name]).failed(16, "no recording");
    std::fs::write(&file, b"1wirrec\x09 of a later version").unwrap();
    run(&["replay", name]).failed(16, "version 9");
    let new = dir.join("new");
    let new = new.to_str().unwrap();
    let to = ["--to", "tcp:127.0.0.1:1"];
    run(&[&["record", new, "--listen", "pipe:cat"][..], &to].concat()).failed(13, "listen on tcp:");
    run(&[&["record", new, "--listen", "tcp:0.0.0.0:0"][..], &to].concat()).failed(13, "TLS");
    std::fs::remove_dir_all(&dir).unwrap();
}

/// A server in this process, which knows alice by her token.
fn serve_alice(directory: &std::path::Path) -> (String, String) {
    const TOKEN: &str = "alices-token-0123456789";
    let table = oncewire::tokens::Tokens::parse(&format!("alice {TOKEN}")).unwrap();
    let server = oncewire::Server::builder("vault").signatures().status().tokens(&table);
    let server = server.build().unwrap();
    let socket = directory.join("vault");
    let local = oncewire::UnixAcceptor::bind(&socket).unwrap();
    let tcp = smol::block_on(oncewire::TcpAcceptor::bind("127.0.0.1:0")).unwrap();
    let addresses = (format!("unix:{}", socket.display()), format!("tcp:{}", tcp.local_addr()));
    let too = server.clone();
    smol::spawn(async move { server.serve(local).await }).detach();
    smol::spawn(async move { too.serve(tcp).await }).detach();
    for (name, token, mode) in
        [("alice", TOKEN, 0o600), ("open", TOKEN, 0o604), ("short", "token", 0o600)]
    {
        let path = directory.join(name);
        std::fs::write(&path, format!("{token}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&path, mode).unwrap();
    }
    addresses
}

#[test]
fn c184_the_command_line_shows_the_token_that_is_in_a_file() {
    let directory = std::env::temp_dir().join(format!("oncewire-cli-token-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = |name: &str| directory.join(name).display().to_string();
    let (local, tcp) = serve_alice(&directory);
    for command in ["ping", "list", "top"] {
        let count: &[&str] = if command == "list" { &[] } else { &["-n", "1"] };
        let with = |more: &[&str]| run(&[&[command, &local][..], count, more].concat());
        let done = with(&["--token-file", &file("alice")]);
        assert_eq!((done.status, &*done.err), (0, ""), "{done:?}");
        with(&[]).failed(14, "the server demands a token, and none was sent");
        with(&["--token-file", &file("open")]).failed(2, "its mode 0604 lets every user read");
        with(&["--token-file", &file("short")]).failed(2, "a token has 16 to 128 bytes");
        with(&["--token-file", &file("absent")]).failed(2, "absent");
    }
    let call = |address: &str, more: &[&str]| {
        run(&[&["call", address, "vault.open", "--token-file", &file("alice")], more].concat())
    };
    call(&local, &[]).failed(12, "no method vault/open");
    call(&tcp, &[]).failed(2, "the token is sent there with --insecure only");
    call(&tcp, &["--insecure"]).failed(12, "no method vault/open");
    std::fs::remove_dir_all(&directory).unwrap();
}
