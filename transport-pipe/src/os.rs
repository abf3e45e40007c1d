//! Connections over pipes of the operating system: two each, one a direction.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, PipeReader, PipeWriter};
use std::pin::Pin;
use std::task::{Context, Poll};

use async_io::Async;
use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::{Accept, BoxFuture, BoxStream, Connect, Nonblocking, Subject};
use smol::channel::Sender;

use crate::accept_queue::{DialReceiver, DialSender, accept_queue};

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
    let (sender, receiver) = accept_queue();
    (PipeConnector { dials: sender }, PipeAcceptor { dials: receiver })
}

/// Dials the [`PipeAcceptor`] that it was made with. Refused when that is gone; waits while 128 dials wait before it.
#[derive(Clone, Debug)]
pub struct PipeConnector {
    dials: DialSender<PipeStream>,
}

impl Connect for PipeConnector {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let (ours, theirs) = pair()?;
            self.dials.push(theirs).await?;
            Ok(Box::new(ours) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "pipe".to_owned()
    }

    fn may_carry_token(&self) -> bool {
        true
    }
}

/// Accepts what its [`PipeConnector`]s dial; [`ErrorKind::BrokenPipe`] when the last of them is gone.
#[derive(Debug)]
pub struct PipeAcceptor {
    dials: DialReceiver<PipeStream>,
}

impl Accept for PipeAcceptor {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async {
            Ok((Box::new(self.dials.next().await?) as BoxStream, Subject::Anonymous))
        })
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
    reader: Nonblocking<PipeReader>,
    writer: Option<Nonblocking<PipeWriter>>,
    /// Dropped with it, and last.
    _held: Option<Sender<()>>,
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
        let reader = Nonblocking::new(Async::new(reader)?, |_| Ok(()));
        let writer = Nonblocking::new(Async::new(writer)?, |_| Ok(()));
        Ok(PipeStream { reader, writer: Some(writer), _held: None })
    }

    /// Keeps a channel open for as long as it lives.
    pub(crate) fn holding(self, channel: Sender<()>) -> PipeStream {
        PipeStream { _held: Some(channel), ..self }
    }

    /// Has the next read ask the system at once: see [`Nonblocking::assume_readable`].
    pub(crate) fn assume_readable(&mut self) {
        self.reader.assume_readable();
    }
}

impl AsyncRead for PipeStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.reader).poll_read_vectored(cx, bufs)
    }
}

impl AsyncWrite for PipeStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match &mut this.writer {
            Some(writer) => Pin::new(writer).poll_write(cx, buf),
            None => Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match &mut this.writer {
            Some(writer) => Pin::new(writer).poll_write_vectored(cx, bufs),
            None => Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer = None;
        Poll::Ready(Ok(()))
    }
}
