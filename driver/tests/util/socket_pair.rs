//! Connections between clients and a server in one process, over pairs of unix sockets. Included by path.

use std::io;

use oncewire_driver::{Accept, BoxFuture, BoxStream, Connect, Subject};
use smol::channel::{Receiver, Sender, unbounded};
use smol::net::unix::UnixStream;

#[derive(Clone)]
pub(crate) struct Dialler(Sender<UnixStream>);
pub(crate) struct Listener(Receiver<UnixStream>);

pub(crate) fn link() -> (Dialler, Listener) {
    let (sender, receiver) = unbounded();
    (Dialler(sender), Listener(receiver))
}

impl Dialler {
    pub(crate) async fn dial(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        self.0.send(theirs).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(ours)
    }
}

impl Connect for Dialler {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async { Ok(Box::new(self.dial().await?) as BoxStream) })
    }
    fn address(&self) -> String {
        "a socket pair".to_owned()
    }
    fn may_carry_token(&self) -> bool {
        true
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
