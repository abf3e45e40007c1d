//! Bytes that the stream has not taken yet.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_io::AsyncWrite;

use super::WRITE_LEN;
use crate::pool::Buffer;
use crate::transport::BoxStream;

/// Bytes of a long frame that are written in one poll.
const WRITE_TURN_MAX: usize = 1 << 20;

/// Bytes that the machine has given out and the stream has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    bytes: Buffer,
    start: usize,
    end: usize,
    /// The rest of a frame, shared: it leaves after them.
    tail: Bytes,
    /// Something was written since the last flush.
    dirty: bool,
    /// The stream had no room when it was last written to.
    full: bool,
    /// It had none, and has taken some bytes since: its peer is alive (S20). A stream that was not full proves nothing by
    /// taking bytes, since a kernel takes as much for a dead peer.
    progress: bool,
}

impl WriteBuffer {
    /// Whether everything has left.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end && self.tail.is_empty() && !self.dirty
    }

    /// Whether it holds the rest of a frame, in shared memory.
    pub(crate) fn holds_rest(&self) -> bool {
        !self.tail.is_empty()
    }

    /// Whether the stream, which was full, has taken some bytes since this was last asked.
    #[inline]
    pub(crate) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Has `transmit` write into the buffer, which must be empty; whether it wrote anything. If not, the memory is given back.
    pub(crate) fn fill(&mut self, transmit: impl FnOnce(&mut [u8]) -> usize) -> bool {
        debug_assert!(self.is_empty(), "what it holds would be lost");
        if self.bytes.is_empty() {
            self.bytes = Buffer::take(WRITE_LEN);
        }
        self.start = 0;
        self.end = transmit(&mut self.bytes);
        let filled = self.end > 0;
        if !filled {
            self.release();
        }
        filled
    }

    /// The rest of a frame, behind what is here.
    pub(crate) fn append(&mut self, tail: Bytes) {
        debug_assert!(self.tail.is_empty(), "a frame has one rest");
        self.tail = tail;
    }

    /// Keeps a copy of bytes that a stream did not take.
    pub(crate) fn keep(&mut self, rest: &[u8]) {
        self.bytes = Buffer::copy_of(rest);
        (self.start, self.end) = (0, rest.len());
    }

    /// Writes what is there, and flushes it. A long frame takes several polls, even if the stream takes all of it.
    pub(crate) fn poll_write(
        &mut self,
        stream: &mut BoxStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut left = WRITE_TURN_MAX;
        while self.start < self.end {
            let head = &self.bytes[self.start..self.end];
            let result = poll_both(stream, cx, head, self.front_of_tail(left));
            let taken = Taken::new(ready!(self.note_taken(result))?, self.end - self.start);
            self.start += taken.of_head;
            self.tail.advance(taken.of_tail);
            left -= taken.of_tail;
        }
        while !self.tail.is_empty() {
            if left == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let result = poll_some(stream, cx, self.front_of_tail(left));
            let len = ready!(self.note_taken(result))?;
            self.tail.advance(len);
            left -= len;
        }
        self.tail = Bytes::new();
        if self.dirty {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    /// As much of the tail as may leave now.
    fn front_of_tail(&self, max: usize) -> &[u8] {
        &self.tail[..self.tail.len().min(max)]
    }

    /// Notes what a stream has done with what it was offered.
    fn note_taken(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(_)) => {
                self.dirty = true;
                self.progress |= std::mem::take(&mut self.full);
            }
            Poll::Pending => self.full = true,
            Poll::Ready(Err(_)) => {}
        }
        result
    }

    /// Writes all of `bytes` and then what was appended, and flushes; or keeps what the stream does not take. There must
    /// be nothing else in the buffer.
    pub(crate) fn poll_write_through(
        &mut self,
        stream: &mut BoxStream,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<()>> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let result = poll_both(stream, cx, rest, self.front_of_tail(WRITE_TURN_MAX));
            match self.note_taken(result) {
                Poll::Ready(len) => {
                    let taken = Taken::new(len?, rest.len());
                    rest = &rest[taken.of_head..];
                    self.tail.advance(taken.of_tail);
                }
                Poll::Pending => {
                    self.keep(rest);
                    self.dirty = true;
                    return Poll::Pending;
                }
            }
        }
        self.poll_write(stream, cx)
    }

    /// Frees the memory; the buffer must be empty.
    pub(crate) fn release(&mut self) {
        self.bytes = Buffer::default();
        (self.start, self.end) = (0, 0);
    }
}

/// Bytes that a stream took of two buffers.
struct Taken {
    of_head: usize,
    of_tail: usize,
}

impl Taken {
    fn new(len: usize, head_len: usize) -> Taken {
        let of_head = len.min(head_len);
        Taken { of_head, of_tail: len - of_head }
    }
}

/// Writes at least one byte of `head`, and of `tail` if all of `head` was taken.
#[inline]
fn poll_both(
    stream: &mut BoxStream,
    cx: &mut Context<'_>,
    head: &[u8],
    tail: &[u8],
) -> Poll<io::Result<usize>> {
    if tail.is_empty() {
        return poll_some(stream, cx, head);
    }
    let both = [IoSlice::new(head), IoSlice::new(tail)];
    match ready!(Pin::new(stream).poll_write_vectored(cx, &both)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        result => Poll::Ready(result),
    }
}

/// Writes at least one byte.
fn poll_some(
    stream: &mut BoxStream,
    cx: &mut Context<'_>,
    bytes: &[u8],
) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(stream).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        result => Poll::Ready(result),
    }
}
