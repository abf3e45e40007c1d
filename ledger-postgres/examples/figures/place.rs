//! A server in this process, with a socket pair for each connection.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use oncewire_driver::{BoxFuture, BoxStream, Connect, Server, Subject};
use smol::net::unix::UnixStream;

#[derive(Clone)]
pub struct Place(Arc<Mutex<Option<Server>>>);

impl Place {
    pub fn of(server: &Server) -> Place {
        Place(Arc::new(Mutex::new(Some(server.clone()))))
    }

    /// From now on connections are refused.
    pub fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Connect for Place {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let server = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let server = server.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (ours, theirs) = UnixStream::pair()?;
            server.serve_stream(Box::new(theirs), Subject::Anonymous);
            Ok(Box::new(ours) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "a socket pair".to_owned()
    }
}
