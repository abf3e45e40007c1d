//! A connected socket.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use async_io::Async;
use oncewire_driver::Nonblocking;

pub(crate) fn connected(stream: Async<UnixStream>) -> Nonblocking<UnixStream> {
    Nonblocking::new(stream, |stream| stream.shutdown(Shutdown::Write))
}
