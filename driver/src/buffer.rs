//! Bytes between a stream and a machine.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use futures_io::{AsyncRead, AsyncWrite};
use oncewire_core::wire;
use serde::Serialize;

use crate::pool;
use crate::transport::BoxStream;

/// Bytes asked of a stream at once.
const READ_LEN: usize = 64 << 10;
/// Memory for a whole frame is made ready when one byte in so many of it has come, and at least [`LARGE_PART_MIN`].
const EAGER: usize = 32;
/// See [`EAGER`].
const LARGE_PART_MIN: usize = READ_LEN / 2;
/// A buffer larger than this is given back when it is empty.
const RETAIN_LEN_MAX: usize = 256 << 10;
/// Bytes of a long frame that are written in one poll.
const WRITE_TURN_MAX: usize = 1 << 20;
/// The front of a frame that is no longer than this waits for the rest in memory of just its length, and each read
/// copies it.
const PARKED_LEN_MAX: usize = LARGE_PART_MIN;
/// See [`window`].
const WINDOW_LEN: usize = 4 << 10;
/// Bytes that a machine writes at once.
const WRITE_LEN: usize = 64 << 10;

/// Received bytes that the machine has not taken yet.
///
/// What waits costs about what has arrived of it: a peer that sends one byte of a frame and then nothing gets no buffer
/// of 64 KiB to itself.
#[derive(Debug, Default)]
pub(crate) struct ReadBuffer {
    /// Without room behind the last byte it is parked: the next read borrows a longer one.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Where the frame at its front ends, if it has the buffer for itself; 0 if not.
    large: usize,
}

/// Whether a frame of `wanted` bytes, of which `len` are here, gets a buffer for itself.
fn is_large(len: usize, wanted: usize) -> bool {
    len >= LARGE_PART_MIN && wanted > len && wanted / EAGER <= len
}

impl ReadBuffer {
    /// What was not taken.
    #[inline]
    pub(crate) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Keeps a copy of bytes that the machine did not take, the front of a frame of `wanted` bytes, and makes room for
    /// the rest of it. The buffer must be empty.
    pub(crate) fn keep(&mut self, rest: &[u8], wanted: usize) {
        if is_large(rest.len(), wanted) {
            self.take_in_large(rest, wanted);
            return;
        }
        self.park(rest);
        self.make_room(wanted);
    }

    /// Keeps a copy of `rest` and not a byte more.
    fn park(&mut self, rest: &[u8]) {
        let parked = rest.to_vec();
        pool::put(std::mem::replace(&mut self.bytes, parked));
        (self.start, self.end) = (0, rest.len());
    }

    /// Keeps a copy of bytes that the machine has no time for yet. The buffer must be empty.
    pub(crate) fn keep_frames(&mut self, rest: &[u8]) {
        self.bytes = rest.to_vec();
        (self.start, self.end) = (0, rest.len());
    }

    fn take_in_large(&mut self, front: &[u8], wanted: usize) {
        let mut large = pool::take(wanted);
        large[..front.len()].copy_from_slice(front);
        pool::put(std::mem::replace(&mut self.bytes, large));
        (self.start, self.end, self.large) = (0, front.len(), wanted);
    }

    #[inline]
    pub(crate) fn consume(&mut self, len: usize) {
        self.start += len;
    }

    /// A frame that fills the buffer to its last byte, taken out to be shared; `None` for what is not large.
    #[inline]
    pub(crate) fn take_large(&mut self) -> Option<Bytes> {
        if self.large == 0 || self.end < self.large {
            return None;
        }
        let bytes = std::mem::take(&mut self.bytes);
        let len = std::mem::take(&mut self.large);
        (self.start, self.end) = (0, 0);
        Some(pool::share(bytes, len))
    }

    /// Makes room for a frame of `wanted` bytes, of which some are here.
    ///
    /// Grows no faster than the bytes come: a peer that announces much and sends little costs little. A large frame of
    /// which enough is here gets the buffer for itself.
    pub(crate) fn prepare(&mut self, wanted: usize) {
        let len = self.end - self.start;
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, len);
        }
        if len == 0 && self.bytes.len() > RETAIN_LEN_MAX {
            self.bytes = Vec::new();
        }
        if self.large != 0 {
            return;
        }
        if is_large(len, wanted) {
            let front = std::mem::take(&mut self.bytes);
            self.take_in_large(&front[..len], wanted);
            pool::put(front);
            return;
        }
        if len > 0 && len <= PARKED_LEN_MAX && self.bytes.len() > len {
            let front = std::mem::take(&mut self.bytes);
            self.park(&front[..len]);
            pool::put(front);
        }
        self.make_room(wanted);
    }

    /// Room to read into, behind what is here, unless that is parked.
    fn make_room(&mut self, wanted: usize) {
        let len = self.end - self.start;
        if len == 0 {
            if self.bytes.is_empty() {
                self.bytes = pool::take(READ_LEN);
            }
        } else if len > PARKED_LEN_MAX {
            // Twice what is here, or what the frame needs.
            let room = wanted.saturating_sub(len).clamp(PARKED_LEN_MAX, len.max(PARKED_LEN_MAX));
            if self.bytes.len() < len + room {
                self.bytes.reserve_exact((len + room).saturating_sub(self.bytes.len()));
                self.bytes.resize(len + room, 0);
            }
        }
    }

    /// Gives an empty buffer's memory back.
    pub(crate) fn release_if_empty(&mut self) {
        if self.is_empty() {
            *self = ReadBuffer::default();
        }
    }

    /// Reads once; `Ready(Ok(0))` at the end of the stream.
    pub(crate) fn poll_fill(
        &mut self,
        stream: &mut BoxStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.large == 0 && self.end == self.bytes.len() {
            return self.poll_fill_parked(stream, cx);
        }
        let room = match self.large {
            0 => &mut self.bytes[self.end..],
            large => &mut self.bytes[self.end..large],
        };
        let result = Pin::new(stream).poll_read(cx, room);
        if let Poll::Ready(Ok(len)) = result {
            self.end += len;
        }
        result
    }

    /// The same into a longer buffer, which is kept only if something has come.
    fn poll_fill_parked(
        &mut self,
        stream: &mut BoxStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let here = self.end - self.start;
        let mut longer = pool::take(here.max(PARKED_LEN_MAX) + READ_LEN);
        let result = Pin::new(stream).poll_read(cx, &mut longer[here..]);
        match result {
            Poll::Ready(Ok(len @ 1..)) => {
                longer[..here].copy_from_slice(self.unread());
                (self.start, self.end) = (0, here + len);
                pool::put(std::mem::replace(&mut self.bytes, longer));
            }
            _ => pool::put(longer),
        }
        result
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        pool::put(std::mem::take(&mut self.bytes));
    }
}

/// Handed bytes that the stream has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// The rest of a frame, shared: it leaves after them.
    tail: Bytes,
    /// Something was written since the last flush.
    dirty: bool,
    /// The stream had no room when it was last written to.
    full: bool,
    /// It had none, and has taken some bytes since: its peer is alive (S20). What a stream takes that was not full says
    /// nothing, since a kernel takes as much for a dead peer.
    progress: bool,
}

impl WriteBuffer {
    /// Whether everything that was handed has left.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end && self.tail.is_empty() && !self.dirty
    }

    /// Whether there is a rest of a frame in it, in shared memory.
    pub(crate) fn holds_rest(&self) -> bool {
        !self.tail.is_empty()
    }

    /// Whether the stream, which was full, has taken some bytes since this was last asked.
    #[inline]
    pub(crate) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Lets `transmit` write into the buffer, which must have left; says whether it wrote anything.
    pub(crate) fn fill(&mut self, transmit: impl FnOnce(&mut [u8]) -> usize) -> bool {
        if self.bytes.is_empty() {
            self.bytes = pool::take(WRITE_LEN);
        }
        self.start = 0;
        self.end = transmit(&mut self.bytes);
        self.end > 0
    }

    /// The rest of a frame, behind what is here.
    pub(crate) fn append(&mut self, tail: Bytes) {
        self.tail = tail;
    }

    /// Keeps a copy of bytes that a stream did not take.
    pub(crate) fn keep(&mut self, rest: &[u8]) {
        self.bytes = rest.to_vec();
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
            let result = poll_some(stream, cx, &self.bytes[self.start..self.end]);
            self.start += ready!(self.note_taken(result))?;
        }
        while !self.tail.is_empty() {
            if left == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let result = poll_some(stream, cx, &self.tail[..self.tail.len().min(left)]);
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
            let result = poll_some(stream, cx, rest);
            match self.note_taken(result) {
                Poll::Ready(len) => rest = &rest[len?..],
                Poll::Pending => {
                    self.keep(rest);
                    self.dirty = true;
                    return Poll::Pending;
                }
            }
        }
        self.poll_write(stream, cx)
    }

    /// Gives the memory back; nothing may be in it.
    pub(crate) fn release(&mut self) {
        pool::put(std::mem::take(&mut self.bytes));
        (self.start, self.end) = (0, 0);
    }
}

impl Drop for WriteBuffer {
    fn drop(&mut self) {
        self.release();
    }
}

/// Where the first few frames of `data` end: about [`WINDOW_LEN`] bytes, to the end of a frame; or all of `data`, if it is
/// no more or they are not whole.
///
/// So much is given to a machine at once: it deals with all frames that are of no interest to us before it returns, and a
/// lock is held meanwhile.
#[inline]
pub(crate) fn window(data: &[u8]) -> usize {
    if data.len() <= WINDOW_LEN { data.len() } else { first_frames(data) }
}

fn first_frames(data: &[u8]) -> usize {
    let mut end = 0;
    while end < WINDOW_LEN {
        match wire::peek(&data[end..]) {
            Some(front) if front.len <= data.len() - end => end += front.len,
            _ => return data.len(),
        }
    }
    end
}

/// Bytes that were received, to be kept: shared with `large` if they are part of it, and copied otherwise.
#[inline]
pub(crate) fn share(bytes: &[u8], large: Option<&Bytes>) -> Bytes {
    large.map_or_else(|| Bytes::copy_from_slice(bytes), |large| large.slice_ref(bytes))
}

/// Values that are encoded in so many bytes take one piece of memory of just their length.
const ENCODED_LEN: usize = 128;

/// A value's bytes.
///
/// # Errors
/// If it has parts that cannot be encoded.
#[inline]
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> postcard::Result<Bytes> {
    match postcard::to_slice(value, &mut [0; ENCODED_LEN]) {
        Ok(bytes) => Ok(Bytes::copy_from_slice(bytes)),
        Err(postcard::Error::SerializeBufferFull) => {
            let mut bytes = postcard::to_allocvec(value)?;
            // A reply may be kept for long, and counts by its length.
            bytes.shrink_to_fit();
            Ok(Bytes::from(bytes))
        }
        Err(error) => Err(error),
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

/// Adds whoever polls to those to be woken, once.
pub(crate) fn add_waker(wakers: &mut Vec<Waker>, cx: &mut Context<'_>) {
    if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
        wakers.push(cx.waker().clone());
    }
}

/// Buffers that a thread lends to whichever connection it works for, so that an idle connection needs none.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) read: Vec<u8>,
    pub(crate) write: Vec<u8>,
}

impl Scratch {
    /// Takes this thread's buffers, or makes new ones if they are lent already.
    pub(crate) fn take() -> Box<Scratch> {
        let fresh = || Scratch { read: vec![0; READ_LEN], write: vec![0; WRITE_LEN] };
        SCRATCH.take().unwrap_or_else(|| Box::new(fresh()))
    }

    /// Gives them back.
    pub(crate) fn put(self: Box<Self>) {
        SCRATCH.set(Some(self));
    }
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a frame, in reads of so many at a time.
    struct Trickle {
        rest: Vec<u8>,
        at_once: usize,
    }

    impl AsyncRead for Trickle {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            out: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let len = self.at_once.min(self.rest.len()).min(out.len());
            if len == 0 {
                return Poll::Pending;
            }
            out[..len].copy_from_slice(&self.rest[..len]);
            self.rest.drain(..len);
            Poll::Ready(Ok(len))
        }
    }

    impl AsyncWrite for Trickle {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_waits_of_a_frame_costs_about_what_has_arrived() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for (wanted, at_once) in [(100, 1), (4_000, 7), (30_000, 100), (300_000, 1_000)] {
            let frame: Vec<u8> = (0..wanted).map(|at| (at * 7) as u8).collect();
            let mut stream: BoxStream = Box::new(Trickle { rest: frame[1..].to_vec(), at_once });
            let mut read = ReadBuffer::default();
            read.keep(&frame[..1], wanted);
            loop {
                let here = read.unread().len();
                let memory = read.bytes.capacity();
                let large = here >= LARGE_PART_MIN;
                let most = if large { (EAGER * here).min(wanted.max(3 * here)) } else { here };
                assert!(memory <= most, "{memory} bytes for {here} of {wanted}");
                if read.poll_fill(&mut stream, &mut cx).is_pending() {
                    break;
                }
                if let Some(large) = read.take_large() {
                    assert_eq!(large, frame);
                    break;
                }
                assert_eq!(read.unread(), &frame[..read.unread().len()]);
                if read.unread().len() < wanted {
                    read.prepare(wanted);
                } else {
                    assert_eq!(read.unread(), frame);
                    break;
                }
            }
        }
    }
}
