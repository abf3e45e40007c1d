//! Connections over pipes of the operating system: two each, one a direction.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, PipeReader, PipeWriter, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_io::Async;
use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::{Accept, BoxFuture, BoxStream, Connect, Subject};

use crate::hall::{Door, Entrance, hall};

/// The two ends of a new connection.
///
/// ```
/// use smol::io::{AsyncReadExt, AsyncWriteExt};
///
/// # smol::block_on(async {
/// let (mut left, mut right) = oncewire_pipe::os::pair()?;
/// left.write_all(b"ping").await?;
/// drop(left);
/// let mut got = Vec::new();
/// right.read_to_end(&mut got).await?;
/// assert_eq!(got, b"ping");
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
pub fn pair() -> io::Result<(PipeStream, PipeStream)> {
    let (from_right, to_left) = io::pipe()?;
    let (from_left, to_right) = io::pipe()?;
    Ok((PipeStream::join(from_right, to_right)?, PipeStream::join(from_left, to_left)?))
}

/// A connector and the acceptor that it dials: each dial makes a [`pair`].
///
/// ```
/// use oncewire_pipe::{Accept, Connect, os};
///
/// # smol::block_on(async {
/// let (connector, acceptor) = os::listener();
/// let client = connector.connect().await?;
/// let (server, _) = acceptor.accept().await?;
/// # drop((client, server));
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
pub fn listener() -> (PipeConnector, PipeAcceptor) {
    let (entrance, door) = hall();
    (PipeConnector { entrance }, PipeAcceptor { door })
}

/// Dials the [`PipeAcceptor`] that it was made with. Refused when that is gone; waits while 128 dials wait before it.
#[derive(Clone, Debug)]
pub struct PipeConnector {
    entrance: Entrance<PipeStream>,
}

impl Connect for PipeConnector {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let (ours, theirs) = pair()?;
            self.entrance.enter(theirs).await?;
            Ok(Box::new(ours) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "pipe".to_owned()
    }
}

/// Accepts what its [`PipeConnector`]s dial; [`ErrorKind::BrokenPipe`] when the last of them is gone.
#[derive(Debug)]
pub struct PipeAcceptor {
    door: Door<PipeStream>,
}

impl Accept for PipeAcceptor {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async { Ok((Box::new(self.door.next().await?) as BoxStream, Subject::Nobody)) })
    }

    fn address(&self) -> String {
        "pipe".to_owned()
    }
}

/// Two pipes as one byte stream. Closing it ends the direction that it writes, and only that.
///
/// Every operation is tried first and waits only if it would block.
#[derive(Debug)]
pub struct PipeStream {
    reader: Async<PipeReader>,
    writer: Option<Async<PipeWriter>>,
}

impl PipeStream {
    /// Joins two ends of pipes made elsewhere, inherited, say. Both become non-blocking, for everyone who shares them.
    ///
    /// ```
    /// let (reader, writer) = std::io::pipe()?;
    /// let what_is_written_comes_back = oncewire_pipe::os::PipeStream::join(reader, writer)?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn join(reader: PipeReader, writer: PipeWriter) -> io::Result<PipeStream> {
        Ok(PipeStream { reader: Async::new(reader)?, writer: Some(Async::new(writer)?) })
    }

    fn poll_read_with(
        &self,
        cx: &mut Context<'_>,
        mut read: impl FnMut(&PipeReader) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match read(self.reader.get_ref()) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    ready!(self.reader.poll_readable(cx))?
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&PipeWriter) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let Some(writer) = &self.writer else {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        };
        loop {
            match write(writer.get_ref()) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => ready!(writer.poll_writable(cx))?,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncRead for PipeStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_read_with(cx, |mut io| io.read(buf))
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_read_with(cx, |mut io| io.read_vectored(bufs))
    }
}

impl AsyncWrite for PipeStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |mut io| io.write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |mut io| io.write_vectored(bufs))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer = None;
        Poll::Ready(Ok(()))
    }
}
