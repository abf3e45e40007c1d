//! The driver's own run of the cases that every transport must show, over pairs of sockets.
#![allow(missing_docs)]

use std::io;

use oncewire_driver::conformance::{Endpoint, Fixture};
use oncewire_driver::{Accept, BoxFuture, BoxStream, Connect, Subject};
use smol::channel::{Receiver, Sender, unbounded};
use smol::net::unix::UnixStream;

struct Dialler(Sender<UnixStream>);
struct Listener(Receiver<UnixStream>);

impl Connect for Dialler {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let (ours, theirs) = UnixStream::pair()?;
            self.0.send(theirs).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
            Ok(Box::new(ours) as BoxStream)
        })
    }
    fn address(&self) -> String {
        "a socket pair".to_owned()
    }
}

impl Accept for Listener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async {
            let stream = self.0.recv().await.map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok((Box::new(stream) as BoxStream, Subject::Anonymous))
        })
    }
    fn address(&self) -> String {
        "a socket pair".to_owned()
    }
}

struct SocketPair;

impl Fixture for SocketPair {
    fn bind(&self) -> BoxFuture<'_, io::Result<Endpoint>> {
        let (sender, receiver) = unbounded();
        Box::pin(async { Ok(Endpoint::new(Dialler(sender), Listener(receiver))) })
    }
}

oncewire_driver::conformance_tests!(SocketPair);

#[test]
fn every_case_of_the_suite_is_listed_in_its_macro() {
    let source = |path: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let list = source("conformance.rs");
    for module in [
        "bad_input",
        "connections",
        "duplicates",
        "futures",
        "large",
        "restarts",
        "sessions",
        "time",
    ] {
        for line in source(&format!("conformance/{module}.rs")).lines() {
            let Some(rest) = line.strip_prefix("pub async fn ") else { continue };
            let case = rest.split('(').next().unwrap();
            assert!(list.contains(&format!("                {case},\n")), "{module}::{case}");
        }
    }
}
