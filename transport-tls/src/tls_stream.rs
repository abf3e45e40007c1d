//! A byte stream in TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures_io::{AsyncRead, AsyncWrite};
use futures_rustls::TlsStream;
use oncewire_driver::BoxStream;

use crate::error::{Side, explain};

/// Bytes that rustls takes before the stream beneath has taken them. Its own limit, 64 KiB, would be memory that a peer can
/// have by not reading, on each of its connections, and that no budget counts.
const BUFFER_LEN_MAX: usize = 32 << 10;

/// A stream after its handshake. Dropping it says "close notify", as far as the stream beneath takes that at once.
pub(crate) struct Stream {
    tls: TlsStream<Paced>,
    side: Side,
}

impl Stream {
    pub(crate) fn new(mut tls: TlsStream<Paced>, side: Side) -> Stream {
        match &mut tls {
            TlsStream::Client(tls) => tls.get_mut().1.set_buffer_limit(Some(BUFFER_LEN_MAX)),
            TlsStream::Server(tls) => tls.get_mut().1.set_buffer_limit(Some(BUFFER_LEN_MAX)),
        }
        Stream { tls, side }
    }

    fn explained<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        result.map_err(|error| explain(self.side, false, error))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.tls.get_mut().0.reads_left = READS_MAX;
        let result = Pin::new(&mut self.tls).poll_read(cx, buf);
        self.explained(result)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.tls).poll_write(cx, buf);
        self.explained(result)
    }

    /// The default would write the first buffer alone: a record, and a system call, of its own for each head of a long body.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.tls).poll_write_vectored(cx, bufs);
        self.explained(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.tls).poll_flush(cx);
        self.explained(result)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_close(cx)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // If it cannot leave at once, the peer sees a connection that was cut.
        let _left = Pin::new(&mut self.tls).poll_close(&mut Context::from_waker(Waker::noop()));
    }
}

/// Reads of the stream beneath for one read of the plain text.
const READS_MAX: u32 = 16;

/// The stream beneath. rustls reads until it has plain text; a peer that sends records without any, such as updates of
/// keys, would keep its thread busy for as long as it sends.
pub(crate) struct Paced {
    io: BoxStream,
    reads_left: u32,
}

impl Paced {
    /// Without a bound during the handshake, whose length rustls limits.
    pub(crate) fn new(io: BoxStream) -> Paced {
        Paced { io, reads_left: u32::MAX }
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Some(left) = self.reads_left.checked_sub(1) else {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        self.reads_left = left;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}
