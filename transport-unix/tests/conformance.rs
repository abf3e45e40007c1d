//! The cases that every transport must show, over unix sockets in a directory of each case's own.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use oncewire_unix::conformance::{Endpoint, Fixture};
use oncewire_unix::{BoxFuture, UnixAcceptor, UnixConnector};

/// Removed at the case's end.
struct Directory {
    path: PathBuf,
    sockets: AtomicUsize,
}

impl Directory {
    fn new() -> Directory {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("oncewire-unix-cases-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a directory for the case's sockets");
        Directory { path, sockets: AtomicUsize::new(0) }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _removed = std::fs::remove_dir_all(&self.path);
    }
}

impl Fixture for Directory {
    fn bind(&self) -> BoxFuture<'_, io::Result<Endpoint>> {
        let socket = self.path.join(self.sockets.fetch_add(1, Ordering::Relaxed).to_string());
        Box::pin(async {
            let acceptor = UnixAcceptor::bind(&socket)?;
            Ok(Endpoint::new(UnixConnector::new(socket), acceptor))
        })
    }
}

oncewire_unix::conformance_tests!(Directory::new());
