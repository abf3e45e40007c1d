//! Our own stdin and stdout, in a real child. This program has no test harness, since that prints to stdout: called with
//! the name of a role it is the child, otherwise it runs the tests.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use oncewire_driver::conformance::exchange;
use oncewire_pipe::{Accept, BoxStream, ChildConnector, Connect, StdioAcceptor, Subject};
use rustix::fs::{OFlags, fcntl_getfl};
use smol::future::poll_once;
use smol::io::{AsyncReadExt, AsyncWriteExt};

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("a_child_echoes_64_mib_while_it_is_sent_them", a_child_echoes_64_mib_while_it_is_sent_them),
    ("a_lone_byte_needs_no_flush", a_lone_byte_needs_no_flush),
    ("many_round_trips_with_a_flush_each", many_round_trips_with_a_flush_each),
    (
        "bytes_of_a_dropped_stream_leave_before_the_end",
        bytes_of_a_dropped_stream_leave_before_the_end,
    ),
    ("bytes_that_were_flushed_survive_an_exit", bytes_that_were_flushed_survive_an_exit),
    (
        "closing_ends_stdout_while_the_process_goes_on",
        closing_ends_stdout_while_the_process_goes_on,
    ),
    ("a_write_to_a_peer_that_is_gone_fails", a_write_to_a_peer_that_is_gone_fails),
    ("stray_prints_go_to_stderr", stray_prints_go_to_stderr),
    ("stdin_and_stdout_can_be_taken_once", stdin_and_stdout_can_be_taken_once),
    ("sockets_in_their_place_are_served_by_threads", sockets_in_their_place_are_served_by_threads),
    ("pipes_that_others_share_block_them_as_before", pipes_that_others_share_block_them_as_before),
];

const BURST_LEN: usize = 1 << 20;

fn main() {
    let mut args = std::env::args().skip(1);
    let first = args.next();
    if let Some(role) = first.as_deref().and_then(|arg| arg.strip_prefix("role=")) {
        return play(role);
    }
    let wanted =
        |name: &str| first.as_ref().is_none_or(|w| w.starts_with('-') || name.contains(w.as_str()));
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted(name)) {
        test();
        println!("test {name} ... ok");
    }
}

/// What the child does.
fn play(role: &str) {
    let acceptor = StdioAcceptor::new().unwrap();
    smol::block_on(async {
        let (stream, subject) = acceptor.accept().await.unwrap();
        assert_eq!(subject, Subject::Anonymous);
        // There is no second connection, but there might be while the first one lives.
        let mut second = acceptor.accept();
        assert!(poll_once(&mut second).await.is_none());
        match role {
            "echo" => echo(stream, false).await,
            "echo-and-flush" => echo(stream, true).await,
            "burst" => burst(stream, false).await,
            "burst-and-exit" => burst(stream, true).await,
            "close" => close(stream).await,
            "print" => print(stream).await,
            "twice" => twice(stream).await,
            "write-on" => write_on(stream).await,
            other => panic!("no role {other}"),
        }
        assert_eq!(second.await.err().unwrap().kind(), ErrorKind::BrokenPipe);
        let third = acceptor.accept().await;
        assert_eq!(third.err().unwrap().kind(), ErrorKind::BrokenPipe);
    });
}

async fn echo(mut stream: BoxStream, flush: bool) {
    let mut buf = vec![0; 64 * 1024];
    loop {
        let n = stream.read(&mut buf).await.unwrap();
        if n == 0 {
            return;
        }
        stream.write_all(&buf[..n]).await.unwrap();
        if flush {
            stream.flush().await.unwrap();
        }
    }
}

async fn burst(mut stream: BoxStream, exit: bool) {
    stream.write_all(&vec![7; BURST_LEN]).await.unwrap();
    if exit {
        stream.flush().await.unwrap();
        std::process::exit(0);
    }
}

async fn close(mut stream: BoxStream) {
    stream.write_all(b"last").await.unwrap();
    stream.close().await.unwrap();
    assert_eq!(stream.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    stream.close().await.unwrap();
    let mut got = String::new();
    stream.read_to_string(&mut got).await.unwrap();
    eprint!("{got}");
}

async fn print(mut stream: BoxStream) {
    println!("stray");
    assert_eq!(std::io::stdin().read(&mut [0]).unwrap(), 0);
    stream.write_all(b"wanted").await.unwrap();
}

async fn twice(mut stream: BoxStream) {
    let error = StdioAcceptor::new().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    stream.write_all(b"once").await.unwrap();
}

/// Writes until that fails.
async fn write_on(mut stream: BoxStream) {
    let error = loop {
        if let Err(e) = stream.write(&[0; 1000]).await {
            break e;
        }
    };
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    eprint!("broken");
}

fn program(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(format!("role={role}"));
    command
}

fn start(role: &str) -> Child {
    let mut command = program(role);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn a_child_echoes_64_mib_while_it_is_sent_them() {
    smol::block_on(async {
        let connector = ChildConnector::new(program("echo"));
        exchange(connector.connect().await.unwrap(), 64 << 20).await;
    });
}

fn a_lone_byte_needs_no_flush() {
    round_trips("echo", 100);
}

fn many_round_trips_with_a_flush_each() {
    round_trips("echo-and-flush", 2000);
}

fn round_trips(role: &str, count: usize) {
    smol::block_on(async {
        let mut stream = ChildConnector::new(program(role)).connect().await.unwrap();
        for i in 0..count {
            let mut got = [0];
            stream.write_all(&[i as u8]).await.unwrap();
            stream.read_exact(&mut got).await.unwrap();
            assert_eq!(got, [i as u8]);
        }
    });
}

/// Two sockets as the stdin and stdout of a child, which cannot be opened once more.
fn sockets_in_their_place_are_served_by_threads() {
    let start = |role: &str| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = program(role);
        let stdin = OwnedFd::from(theirs.try_clone().unwrap());
        command.stdin(stdin).stdout(OwnedFd::from(theirs)).stderr(Stdio::piped());
        (ours, command.spawn().unwrap())
    };
    let (mut ours, child) = start("echo-and-flush");
    for n in 0..200 {
        let mut got = [0];
        ours.write_all(&[n]).unwrap();
        ours.read_exact(&mut got).unwrap();
        assert_eq!(got, [n]);
    }
    ours.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    ended(child);
    for role in ["burst", "burst-and-exit"] {
        let (mut ours, child) = start(role);
        let mut got = Vec::new();
        ours.read_to_end(&mut got).unwrap();
        assert!(got == vec![7; BURST_LEN]);
        ended(child);
    }
    let (mut ours, child) = start("write-on");
    ours.read_exact(&mut [0; 5000]).unwrap();
    drop(ours);
    assert_eq!(ended(child), "broken");
}

/// Whatever else has the child's ends of its pipes, its parent here, finds them as they were.
fn pipes_that_others_share_block_them_as_before() {
    let (their_stdin, mut to_child) = std::io::pipe().unwrap();
    let (mut from_child, their_stdout) = std::io::pipe().unwrap();
    let mut command = program("echo-and-flush");
    command.stdin(their_stdin.try_clone().unwrap()).stdout(their_stdout.try_clone().unwrap());
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let mut got = [0];
    to_child.write_all(&[1]).unwrap();
    from_child.read_exact(&mut got).unwrap();
    assert_eq!(got, [1]);
    for shared in [their_stdin.as_fd(), their_stdout.as_fd()] {
        assert!(!fcntl_getfl(shared).unwrap().contains(OFlags::NONBLOCK));
    }
    drop((to_child, their_stdin, their_stdout));
    ended(child);
}

/// What a child said until its stdout ended, and that it ended well.
fn heard(mut child: Child) -> Vec<u8> {
    let mut got = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut got).unwrap();
    assert!(child.wait().unwrap().success());
    got
}

fn bytes_of_a_dropped_stream_leave_before_the_end() {
    assert!(heard(start("burst")) == vec![7; BURST_LEN]);
}

fn bytes_that_were_flushed_survive_an_exit() {
    assert!(heard(start("burst-and-exit")) == vec![7; BURST_LEN]);
}

fn closing_ends_stdout_while_the_process_goes_on() {
    let mut child = start("close");
    let mut got = String::new();
    child.stdout.take().unwrap().read_to_string(&mut got).unwrap();
    assert_eq!(got, "last");
    // Its stdin is open still.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"late").unwrap();
    drop(stdin);
    assert_eq!(ended(child), "late");
}

/// What a child wrote to its stderr, and that it ended well.
fn ended(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    text
}

fn a_write_to_a_peer_that_is_gone_fails() {
    let mut child = start("write-on");
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 5000]).unwrap();
    drop(stdout);
    assert_eq!(ended(child), "broken");
}

fn stray_prints_go_to_stderr() {
    let child = start("print");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"wanted");
    assert_eq!(output.stderr, b"stray\n");
    assert!(output.status.success());
}

fn stdin_and_stdout_can_be_taken_once() {
    assert_eq!(heard(start("twice")), b"once");
}
