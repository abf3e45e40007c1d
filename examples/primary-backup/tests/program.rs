//! The program as a person runs it.
#![allow(missing_docs)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use oncewire::{Server, SmolRuntime, UnixAcceptor};
use primary_backup::processes::TempDir;
use viewservice::{ViewService, ViewsServer};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_primary-backup"))
}

fn run(args: &[&str]) -> Output {
    program().args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A process that dies with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_story_is_shown_with_the_errors_that_it_has() {
    let output = run(&["--naive"]);
    let text = text(&output.stdout);
    assert!(output.status.success(), "{text}");
    for error in ["Connection reset by peer", "unexpected EOF", "Broken pipe"] {
        assert!(text.contains(error), "{error}: {text}");
    }
    assert_eq!(text.matches("1 append asked for, 2 executed").count(), 3, "{text}");
}

#[test]
fn kills_of_backup_and_primary_leave_each_append_executed_once() {
    let output = run(&["4"]);
    let text = text(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.ends_with("Each was executed exactly once.\n"), "{text}");
}

#[test]
fn values_can_be_put_and_got_by_hand() {
    let folder = TempDir::new("oncewire-pb-hand").unwrap();
    let (views, dir) = (folder.path().join("views"), folder.path().to_str().unwrap());
    let service = ViewService::new(Duration::from_millis(100), SmolRuntime::global());
    let server = Server::builder("views").service(ViewsServer(service)).build().unwrap();
    let acceptor = UnixAcceptor::bind(&views).unwrap();
    let serving = smol::spawn(async move { server.serve(acceptor).await });
    let views = views.to_str().unwrap();
    let mut node = program();
    node.args(["node", views, dir, "one"]).stdout(Stdio::piped());
    let mut node = Running(node.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(node.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "one: view 1: primary one, backup none\n");
    for args in [["put", views, dir, "k", "a"], ["append", views, dir, "k", "b"]] {
        let output = run(&args);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert_eq!(text(&run(&["get", views, dir, "k"]).stdout), "ab\n");
    let again = run(&["node", views, dir, "one"]);
    assert_eq!(again.status.code(), Some(2), "the name is taken");
    assert_eq!(text(&again.stderr).lines().count(), 1);
    drop(serving);
}

#[test]
fn bad_input_gets_one_line_and_exit_status_2() {
    let bad: &[&[&str]] = &[
        &["nonsense"],
        &["0"],
        &["--nonsense", "x"],
        &["node", "nowhere", "/tmp", "one"],
        &["node", "/nowhere/views", "/tmp", "one"],
        &["node", "/nowhere/views", "/nowhere/at/all", "one"],
        &["get", "/nowhere/views", "/tmp", "key"],
        &["get", "no.such.host.invalid:1", "/tmp", "key"],
    ];
    for args in bad {
        let output = run(args);
        let text = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    let help = run(&["--help"]);
    assert!(help.status.success() && text(&help.stdout).contains("--naive"));
}
