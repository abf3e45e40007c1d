//! A connected socket.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use async_io::Async;
use oncewire_driver::Nonblocking;

/// A connected stream of a socket that does not block already.
pub(crate) fn connected(socket: UnixStream) -> io::Result<Nonblocking<UnixStream>> {
    let stream = Async::new_nonblocking(socket)?;
    Ok(Nonblocking::new(stream, |stream| stream.shutdown(Shutdown::Write)))
}
