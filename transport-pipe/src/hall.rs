//! Where dials of this process wait to be accepted.

use std::io::{self, ErrorKind};

use smol::channel::{Receiver, Sender, bounded};

/// A dial waits when so many before it have not been accepted yet.
const WAITING_MAX: usize = 128;

pub(crate) fn hall<S>() -> (Entrance<S>, Door<S>) {
    let (sender, receiver) = bounded(WAITING_MAX);
    (Entrance(sender), Door(receiver))
}

/// Where dials come in.
#[derive(Debug)]
pub(crate) struct Entrance<S>(Sender<S>);

impl<S> Clone for Entrance<S> {
    fn clone(&self) -> Entrance<S> {
        Entrance(self.0.clone())
    }
}

impl<S> Entrance<S> {
    /// Brings the server's end of a connection. Refused when the door is gone.
    pub(crate) async fn enter(&self, stream: S) -> io::Result<()> {
        self.0.send(stream).await.map_err(|_| ErrorKind::ConnectionRefused.into())
    }
}

/// Where they are accepted.
#[derive(Debug)]
pub(crate) struct Door<S>(Receiver<S>);

impl<S> Door<S> {
    /// The next one; `BrokenPipe` when every entrance is gone.
    pub(crate) async fn next(&self) -> io::Result<S> {
        self.0.recv().await.map_err(|_| ErrorKind::BrokenPipe.into())
    }
}

impl<S> Drop for Door<S> {
    fn drop(&mut self) {
        // The channel would keep those who wait alive as long as there is an entrance.
        self.0.close();
        while self.0.try_recv().is_ok() {}
    }
}
