//! A connection that says in the end whether anything came from its other side.

use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::BoxStream;

/// A listener may take connections for a process that is stopped: that it was reached says little until it has answered.
pub(crate) struct WatchedStream<F: FnMut(bool)> {
    stream: BoxStream,
    answered: bool,
    /// Called with true at the first answer, or with false if it ends without one.
    report: F,
}

impl<F: FnMut(bool)> WatchedStream<F> {
    pub(crate) fn new(stream: BoxStream, report: F) -> WatchedStream<F> {
        WatchedStream { stream, answered: false, report }
    }

    fn note(&mut self, read: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if !self.answered && matches!(read, Poll::Ready(Ok(1..))) {
            self.answered = true;
            (self.report)(true);
        }
        read
    }
}

impl<F: FnMut(bool)> Drop for WatchedStream<F> {
    fn drop(&mut self) {
        if !self.answered {
            (self.report)(false);
        }
    }
}

impl<F: FnMut(bool) + Unpin> AsyncRead for WatchedStream<F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.note(read)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.stream).poll_read_vectored(cx, bufs);
        self.note(read)
    }
}

impl<F: FnMut(bool) + Unpin> AsyncWrite for WatchedStream<F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
