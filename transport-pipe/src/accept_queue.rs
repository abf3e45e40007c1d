//! The queue of dials within this process that have not been accepted yet.

use std::io::{self, ErrorKind};

use smol::channel::{Receiver, Sender, bounded};

/// A dial waits while this many before it have not been accepted.
const WAITING_MAX: usize = 128;

pub(crate) fn accept_queue<S>() -> (DialSender<S>, DialReceiver<S>) {
    let (sender, receiver) = bounded(WAITING_MAX);
    (DialSender(sender), DialReceiver(receiver))
}

/// Where dials are put.
#[derive(Debug)]
pub(crate) struct DialSender<S>(Sender<S>);

impl<S> Clone for DialSender<S> {
    fn clone(&self) -> DialSender<S> {
        DialSender(self.0.clone())
    }
}

impl<S> DialSender<S> {
    /// Brings the server's end of a connection. Refused when the receiver is gone.
    pub(crate) async fn push(&self, stream: S) -> io::Result<()> {
        self.0.send(stream).await.map_err(|_| ErrorKind::ConnectionRefused.into())
    }
}

/// Where they are accepted.
#[derive(Debug)]
pub(crate) struct DialReceiver<S>(Receiver<S>);

impl<S> DialReceiver<S> {
    /// The next one; `BrokenPipe` when every sender is gone.
    pub(crate) async fn next(&self) -> io::Result<S> {
        self.0.recv().await.map_err(|_| ErrorKind::BrokenPipe.into())
    }
}

impl<S> Drop for DialReceiver<S> {
    fn drop(&mut self) {
        // The channel would keep those who wait alive as long as there is a sender.
        self.0.close();
        while self.0.try_recv().is_ok() {}
    }
}
