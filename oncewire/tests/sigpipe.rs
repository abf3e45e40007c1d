//! A write to a peer that is gone fails, and does not end the process, where SIGPIPE is fatal as it is in a program in C.
#![allow(missing_docs)]
#![cfg(unix)]

use std::io::{ErrorKind, IoSlice};
use std::process::Command;

use nix::sys::signal::{SigHandler, Signal, signal};
use oncewire::{Accept, Connect, TcpAcceptor, TcpConnector, UnixAcceptor, UnixConnector};
use smol::io::AsyncWriteExt;

/// Says that this process is the one in which SIGPIPE is fatal, and where it may listen.
const ROLE: &str = "ONCEWIRE_TEST_SIGPIPE";

#[test]
fn a_write_to_a_peer_that_is_gone_ends_no_process_in_which_sigpipe_is_fatal() {
    let path = std::env::temp_dir().join(format!("oncewire-sigpipe-{}", std::process::id()));
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writes_where_sigpipe_is_fatal", "--nocapture"])
        .env(ROLE, &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("still here"), "{}: {said}", output.status);
}

/// The role; no test of its own.
#[test]
fn writes_where_sigpipe_is_fatal() {
    let Some(path) = std::env::var_os(ROLE) else { return };
    // Rust's runtime ignores it, and other runtimes do not.
    #[expect(unsafe_code, reason = "the standard library has nothing for signals")]
    // SAFETY: no handler of ours is installed.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.unwrap();
    smol::block_on(async {
        let tcp = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        write_to_no_one(&TcpConnector::new(tcp.local_addr()), &tcp).await;
        let unix = UnixAcceptor::bind(&path).unwrap();
        write_to_no_one(&UnixConnector::new(&path), &unix).await;
    });
    println!("still here");
}

async fn write_to_no_one(connector: &dyn Connect, acceptor: &dyn Accept) {
    let (ours, theirs) = smol::future::zip(connector.connect(), acceptor.accept()).await;
    let mut stream = ours.unwrap();
    drop(theirs.unwrap());
    let both = [IoSlice::new(b"a header"), IoSlice::new(b"and a body")];
    // The first error may be a reset. It is the write after that which raises the signal.
    while stream.write_vectored(&both).await.map_err(|e| e.kind()) != Err(ErrorKind::BrokenPipe) {}
    let alone = stream.write(b"a header").await;
    assert_eq!(alone.map_err(|e| e.kind()), Err(ErrorKind::BrokenPipe));
}
