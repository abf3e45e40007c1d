//! A connected socket.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use async_io::Async;
use oncewire_driver::Nonblocking;

/// A connected stream of a socket that does not block already.
pub(crate) fn connected(socket: UnixStream) -> io::Result<Nonblocking<UnixStream>> {
    let stream = Async::new_nonblocking(socket)?;
    let stream = Nonblocking::new(stream, |stream| stream.shutdown(Shutdown::Write));
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let stream = stream.with_send(send);
    Ok(stream)
}

/// Sends several buffers, and no SIGPIPE: where a single send can be asked for that.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn send(socket: &UnixStream, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
    let mut nothing = SendAncillaryBuffer::default();
    Ok(sendmsg(socket, bufs, &mut nothing, SendFlags::NOSIGNAL)?)
}
