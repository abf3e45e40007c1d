//! Real children.

use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::pin::pin;
use std::process::{Command, ExitStatus};

use oncewire_driver::conformance::exchange;
use oncewire_pipe::{
    BoxStream, ChildConnector, Client, ClientOptions, Connect, Method, NEVER, NotExecuted, Outcome,
};
use smol::future::{poll_once, yield_now};
use smol::io::{AsyncReadExt, AsyncWriteExt};

fn shell(script: &str) -> ChildConnector {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    ChildConnector::new(command)
}

fn cat() -> ChildConnector {
    ChildConnector::new(Command::new("cat"))
}

async fn read_all(stream: &mut BoxStream) -> String {
    let mut got = String::new();
    stream.read_to_string(&mut got).await.unwrap();
    got
}

/// Waits until a process is no more, not even as a zombie, and says how its connector saw it end.
async fn gone(connector: &ChildConnector, pid: u32) -> ExitStatus {
    let is_there = || Path::new(&format!("/proc/{pid}")).exists();
    while is_there() || connector.pid() == Some(pid) || connector.last_exit().is_none() {
        yield_now().await;
    }
    connector.last_exit().unwrap()
}

#[test]
fn a_child_echoes_64_mib_while_it_is_sent_them() {
    smol::block_on(async {
        exchange(cat().connect().await.unwrap(), 64 << 20).await;
    });
}

#[test]
fn the_exit_of_the_child_ends_the_stream_and_a_new_dial_starts_it_again() {
    smol::block_on(async {
        let connector = shell("echo $$; read line; exit $line");
        let mut pids = Vec::new();
        for code in [3, 0, 4] {
            let mut stream = connector.connect().await.unwrap();
            let pid = connector.pid().unwrap();
            stream.write_all(format!("{code}\n").as_bytes()).await.unwrap();
            assert_eq!(read_all(&mut stream).await, format!("{pid}\n"));
            assert_eq!(gone(&connector, pid).await.code(), Some(code));
            assert_eq!(connector.clone().pid(), None);
            assert!(!pids.contains(&pid));
            pids.push(pid);
        }
    });
}

#[test]
fn a_reader_that_waits_sees_a_child_killed() {
    smol::block_on(async {
        let connector = cat();
        let mut stream = connector.connect().await.unwrap();
        let pid = connector.pid().unwrap();
        let mut buf = [0];
        {
            let mut read = pin!(stream.read(&mut buf));
            assert!(poll_once(read.as_mut()).await.is_none());
            kill(pid);
            assert_eq!(read.await.unwrap(), 0);
        }
        assert_eq!(gone(&connector, pid).await.signal(), Some(9));
        assert_eq!(stream.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

fn kill(pid: u32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn the_exit_of_the_child_ends_the_stream_though_a_grandchild_holds_its_stdout() {
    smol::block_on(async {
        let mut stream = shell("sleep 1000 & echo $!; exit 0").connect().await.unwrap();
        let grandchild = read_all(&mut stream).await;
        let grandchild = grandchild.trim().parse().unwrap();
        assert!(Path::new(&format!("/proc/{grandchild}")).exists());
        kill(grandchild);
    });
}

#[test]
fn what_a_child_wrote_before_its_end_is_read() {
    smol::block_on(async {
        for _ in 0..20 {
            let mut stream = shell("head -c 60000 /dev/zero").connect().await.unwrap();
            assert_eq!(read_all(&mut stream).await.len(), 60_000);
        }
    });
}

#[test]
fn a_dropped_stream_lets_the_child_end_and_leaves_no_zombie() {
    smol::block_on(async {
        let connector = cat();
        let mut pids = Vec::new();
        for _ in 0..10 {
            let _stream = connector.connect().await.unwrap();
            pids.push(connector.pid().unwrap());
        }
        for pid in pids {
            // By itself, with the status of its own choice.
            assert!(gone(&connector, pid).await.success());
        }
    });
}

#[test]
fn a_child_that_does_not_end_by_itself_is_killed_if_asked_for() {
    smol::block_on(async {
        let connector = ChildConnector::new(sleep()).kill_on_drop(true);
        let stream = connector.connect().await.unwrap();
        let pid = connector.pid().unwrap();
        drop(stream);
        assert_eq!(gone(&connector, pid).await.signal(), Some(9));
    });
}

#[test]
fn a_child_that_does_not_end_by_itself_goes_on_if_not() {
    smol::block_on(async {
        let connector = ChildConnector::new(sleep());
        drop(connector.connect().await.unwrap());
        let pid = connector.pid().unwrap();
        kill(pid);
        assert_eq!(gone(&connector, pid).await.signal(), Some(9));
    });
}

fn sleep() -> Command {
    let mut command = Command::new("sleep");
    command.arg("1000");
    command
}

#[test]
fn dropping_a_stream_with_a_full_pipe_does_not_wait() {
    smol::block_on(async {
        let connector = ChildConnector::new(sleep()).kill_on_drop(true);
        let mut stream = connector.connect().await.unwrap();
        let pid = connector.pid().unwrap();
        while poll_once(stream.write(&[0; 4096])).await.is_some() {}
        drop(stream);
        gone(&connector, pid).await;
    });
}

#[test]
fn closing_ends_the_childs_input_only() {
    smol::block_on(async {
        let mut stream = shell("cat >/dev/null; echo done").connect().await.unwrap();
        stream.write_all(b"some").await.unwrap();
        stream.close().await.unwrap();
        assert_eq!(read_all(&mut stream).await, "done\n");
    });
}

#[test]
fn a_redirected_stderr_stays_redirected() {
    smol::block_on(async {
        let mut command = smol::process::Command::new("sh");
        command.args(["-c", "readlink /proc/self/fd/2"]).stderr(std::process::Stdio::null());
        let mut stream = ChildConnector::new(command).connect().await.unwrap();
        assert_eq!(read_all(&mut stream).await, "/dev/null\n");
    });
}

#[test]
fn a_program_that_is_not_there_is_an_error_that_names_it() {
    smol::block_on(async {
        let connector = ChildConnector::new(Command::new("/nowhere/to/be/found"));
        let error = connector.connect().await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("/nowhere/to/be/found"), "{error}");
        assert_eq!(connector.address(), "child:/nowhere/to/be/found");
        assert_eq!((connector.pid(), connector.last_exit()), (None, None));
    });
}

#[test]
fn c160_a_call_of_a_plugin_that_is_missing_ends_at_once() {
    const CALL: Method<(), ()> = Method::new("plugin/call");
    for program in ["/nowhere/to/be/found", "/dev/null", "/dev"] {
        let connector = ChildConnector::new(Command::new(program));
        let client = Client::new(connector, ClientOptions::default());
        let outcome = client.call(&CALL, &()).timeout(NEVER).block();
        assert!(
            matches!(outcome, Outcome::NotExecuted(NotExecuted::NeverConnected)),
            "{outcome:?}"
        );
        let why = client.status().last_error.unwrap();
        assert!(why.contains(program), "{why}");
    }
}
