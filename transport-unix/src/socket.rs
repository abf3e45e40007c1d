//! A connected socket.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use async_io::Async;
use oncewire_driver::Nonblocking;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

/// A connected stream of a socket that does not block already.
pub(crate) fn connected(socket: UnixStream) -> io::Result<Nonblocking<UnixStream>> {
    let stream = Async::new_nonblocking(socket)?;
    Ok(Nonblocking::new(stream, |stream| stream.shutdown(Shutdown::Write)).with_send(send))
}

/// Sends several buffers, and no SIGPIPE.
fn send(socket: &UnixStream, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
    let mut nothing = SendAncillaryBuffer::default();
    Ok(sendmsg(socket, bufs, &mut nothing, SendFlags::NOSIGNAL)?)
}
