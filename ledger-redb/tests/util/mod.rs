//! A folder of its own for each test, and a way to dial whatever server runs.
#![allow(dead_code, unreachable_pub)]

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use oncewire_driver::{BoxFuture, BoxStream, Connect, Server, Subject};
use smol::net::unix::UnixStream;

/// A folder that is removed with it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("oncewire-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Where clients dial: the server that runs now, if one does.
#[derive(Clone, Default)]
pub struct Place(Arc<Mutex<Option<Server>>>, Arc<Mutex<Option<UnixStream>>>);

impl Place {
    pub fn set(&self, server: Option<Server>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }

    /// Breaks the last connection: neither side has said goodbye.
    pub fn cut(&self) {
        let last = self.1.lock().unwrap_or_else(PoisonError::into_inner).take();
        last.expect("there is a connection").shutdown(std::net::Shutdown::Both).unwrap();
    }
}

impl Connect for Place {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let server = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let server = server.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (ours, theirs) = UnixStream::pair()?;
            *self.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(ours.clone());
            server.serve_stream(Box::new(theirs), Subject::Anonymous);
            Ok(Box::new(ours) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "a socket pair".to_owned()
    }
}
