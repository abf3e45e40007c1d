//! The program as a person runs it.
#![allow(missing_docs)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use kv::demo::TempDir;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_kv"))
}

fn run(args: &[&str]) -> Output {
    program().args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A server that dies with the test.
struct Running(Child, String);

impl Running {
    fn start(args: &[&str]) -> Running {
        let mut child = program().args(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("serving at ").expect(&line).to_owned();
        Running(child, address)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_that_is_killed_stays_linearizable() {
    let output = run(&["5"]);
    let text = text(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("the server was killed 5 times"), "{text}");
    assert!(text.ends_with("clients saw is linearizable\n"), "{text}");
}

#[test]
fn values_survive_a_server_with_a_ledger() {
    let dir = TempDir::new().unwrap();
    let file = dir.file("kv.ledger");
    let path = file.to_str().unwrap();
    let server = Running::start(&["serve", "127.0.0.1:0", "--ledger", path]);
    let at = &server.1;
    for args in [["put", at, "k", "a"], ["append", at, "k", "b"]] {
        assert_eq!(run(&args).status.code(), Some(0), "{args:?}");
    }
    assert_eq!(text(&run(&["get", at, "k"]).stdout), "ab\n");
    assert_eq!(run(&["cas", at, "k", "ab", "c"]).status.code(), Some(0));
    let wrong = run(&["cas", at, "k", "ab", "d"]);
    assert_eq!((wrong.status.code(), &*text(&wrong.stdout)), (Some(1), "c\n"));
    assert_eq!(run(&["cas", at, "new", "-", "e"]).status.code(), Some(0));
    assert_eq!(run(&["get", at, "nothing"]).status.code(), Some(1));
    drop(server);
    let server = Running::start(&["serve", "127.0.0.1:0", "--ledger", path]);
    assert_eq!(text(&run(&["get", &server.1, "k"]).stdout), "c\n");
    let second = run(&["serve", "127.0.0.1:0", "--ledger", path]);
    assert_eq!(second.status.code(), Some(2), "one server uses a ledger");
}

#[test]
fn bad_input_gets_one_line_and_exit_status_2() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let bad: &[&[&str]] = &[
        &["nonsense"],
        &["0"],
        &["serve"],
        &["serve", "nowhere"],
        &["serve", &taken],
        &["serve", "127.0.0.1:0", "--ledger", "/nowhere/at/all"],
        &["get", "127.0.0.1:1", "key"],
        &["get", "no.such.host.invalid:1", "key"],
    ];
    for args in bad {
        let output = run(args);
        let text = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    assert!(run(&["--help"]).status.success());
}
