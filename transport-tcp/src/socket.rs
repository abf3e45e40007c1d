//! A connected socket.

use std::io;
use std::net::{Shutdown, TcpStream};

use async_io::Async;
use oncewire_driver::Nonblocking;

/// A connected stream, from now on without Nagle's delay.
pub(crate) fn connected(stream: Async<TcpStream>) -> io::Result<Nonblocking<TcpStream>> {
    stream.get_ref().set_nodelay(true)?;
    Ok(Nonblocking::new(stream, |stream| stream.shutdown(Shutdown::Write)))
}
