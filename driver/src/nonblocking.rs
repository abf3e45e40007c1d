//! A descriptor of the system as a byte stream: what transports over sockets and pipes share.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_io::Async;
use futures_io::{AsyncRead, AsyncWrite};

use crate::patience;

/// A non-blocking descriptor, read and written when it is ready.
///
/// A read that did not fill its buffer has emptied the descriptor: the next one waits for more before it asks the system
/// again. That saves the system call that would only say so, one for each message. Clients and servers look for an answer
/// at once where that pays.
///
/// ```
/// # use std::{io, net::{Shutdown, TcpStream}};
/// use async_io::Async;
/// use oncewire_driver::{BoxStream, Nonblocking};
///
/// fn stream(socket: TcpStream) -> io::Result<BoxStream> {
///     Ok(Box::new(Nonblocking::new(Async::new(socket)?, |s| s.shutdown(Shutdown::Write))))
/// }
/// ```
pub struct Nonblocking<T> {
    io: Async<T>,
    /// Nothing was left when it was last read: there is no use in asking before the system says so.
    drained: bool,
    close: fn(&T) -> io::Result<()>,
}

impl<T> Nonblocking<T> {
    /// `close` ends the direction that is written.
    pub fn new(io: Async<T>, close: fn(&T) -> io::Result<()>) -> Nonblocking<T> {
        Nonblocking { io, drained: false, close }
    }

    /// The descriptor itself.
    pub fn get_ref(&self) -> &T {
        self.io.get_ref()
    }

    /// Has the next read ask the system at once, though the last one emptied the descriptor: for whoever learns by other
    /// means that there is something to read.
    pub fn ask_again(&mut self) {
        self.drained = false;
    }

    /// Reads with `read`, which has room for `room` bytes, as soon as there is something to read.
    ///
    /// # Errors
    /// What `read` says, but for "would block" and "interrupted".
    pub fn poll_read_with(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
        mut read: impl FnMut(&T) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.drained && !patience::is_looking() {
            ready!(self.io.poll_readable(cx))?;
        }
        loop {
            match read(self.io.get_ref()) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.drained = true;
                    ready!(self.io.poll_readable(cx))?;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                result => {
                    self.drained = matches!(result, Ok(len) if len > 0 && len < room);
                    return Poll::Ready(result);
                }
            }
        }
    }

    /// Writes with `write`, as soon as there is room for a byte.
    ///
    /// # Errors
    /// What `write` says, but for "would block" and "interrupted".
    pub fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&T) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match write(self.io.get_ref()) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => ready!(self.io.poll_writable(cx))?,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Nonblocking<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Nonblocking").field(self.io.get_ref()).finish()
    }
}

impl<T: Unpin> AsyncRead for Nonblocking<T>
where
    for<'a> &'a T: Read,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_read_with(cx, buf.len(), |mut io| io.read(buf))
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let room = bufs.iter().map(|buf| buf.len()).sum();
        self.poll_read_with(cx, room, |mut io| io.read_vectored(bufs))
    }
}

impl<T: Unpin> AsyncWrite for Nonblocking<T>
where
    for<'a> &'a T: Write,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |mut io| io.write(buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |mut io| io.write_vectored(bufs))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match (self.close)(self.io.get_ref()) {
            // The other side was faster.
            Err(e) if e.kind() == ErrorKind::NotConnected => Ok(()),
            result => result,
        })
    }
}
