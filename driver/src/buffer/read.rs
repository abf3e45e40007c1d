//! Received bytes that the machine has not taken yet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_io::AsyncRead;

use super::READ_LEN;
use crate::pool::Buffer;
use crate::transport::BoxStream;

/// Memory for a whole frame is allocated when one byte in this many of it has come, and at least [`LARGE_PART_MIN`].
const EAGER: usize = 32;
/// See [`EAGER`].
const LARGE_PART_MIN: usize = READ_LEN / 2;
/// The front of a frame that is no longer than this waits for the rest in memory of its exact length, and each read
/// copies it.
const PARKED_LEN_MAX: usize = LARGE_PART_MIN;

/// Received bytes that the machine has not taken yet.
///
/// What waits costs about what has arrived of it: a peer that sends one byte of a frame and then nothing gets no buffer
/// of 64 KiB to itself.
#[derive(Debug, Default)]
pub(crate) struct ReadBuffer {
    /// Without room behind the last byte it is parked: the next read borrows a longer one.
    bytes: Buffer,
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
        self.bytes = Buffer::copy_of(rest);
        (self.start, self.end) = (0, rest.len());
    }

    /// Keeps a copy of bytes that the machine has no time for yet. The buffer must be empty.
    pub(crate) fn keep_frames(&mut self, rest: &[u8]) {
        self.bytes = Buffer::copy_of(rest);
        (self.start, self.end) = (0, rest.len());
    }

    fn take_in_large(&mut self, front: &[u8], wanted: usize) {
        let mut large = Buffer::take(wanted);
        large[..front.len()].copy_from_slice(front);
        self.bytes = large;
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
        Some(bytes.share(len))
    }

    /// Makes room for a frame of `wanted` bytes, of which some are here. Where nothing is here, the memory is given back: the next read
    /// borrows some.
    ///
    /// Grows no faster than the bytes come: a peer that announces much and sends little costs little. A large frame of
    /// which enough is here gets the buffer for itself.
    pub(crate) fn prepare(&mut self, wanted: usize) {
        let len = self.end - self.start;
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, len);
        }
        if self.large != 0 {
            return;
        }
        if len == 0 {
            return self.release_if_empty();
        }
        if is_large(len, wanted) {
            let front = std::mem::take(&mut self.bytes);
            self.take_in_large(&front[..len], wanted);
            return;
        }
        if len <= PARKED_LEN_MAX && self.bytes.len() > len {
            let front = std::mem::take(&mut self.bytes);
            self.park(&front[..len]);
        }
        self.make_room(wanted);
    }

    /// Room to read into, behind what is here, unless that is parked.
    fn make_room(&mut self, wanted: usize) {
        let len = self.end - self.start;
        if len > PARKED_LEN_MAX {
            // Twice what is here, or what the frame needs.
            let room = wanted.saturating_sub(len).clamp(PARKED_LEN_MAX, len.max(PARKED_LEN_MAX));
            if self.bytes.len() < len + room {
                self.bytes.lengthen(len + room);
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
        let front = if here == 0 { 0 } else { here.max(PARKED_LEN_MAX) };
        let mut longer = Buffer::take(front + READ_LEN);
        let result = Pin::new(stream).poll_read(cx, &mut longer[here..]);
        if let Poll::Ready(Ok(len @ 1..)) = result {
            longer[..here].copy_from_slice(self.unread());
            (self.start, self.end) = (0, here + len);
            self.bytes = longer;
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_of_a_frame_costs_about_what_has_arrived() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for (wanted, at_once) in [(100, 1), (4_000, 7), (30_000, 100), (300_000, 1_000)] {
            let frame: Vec<u8> = (0..wanted).map(|at| (at * 7) as u8).collect();
            let mut rest = &frame[1..];
            let mut read = ReadBuffer::default();
            read.keep(&frame[..1], wanted);
            loop {
                let here = read.unread().len();
                let memory = read.bytes.memory_len();
                let large = here >= LARGE_PART_MIN;
                let most = if large { (EAGER * here).min(wanted.max(3 * here)) } else { here };
                assert!(memory <= most, "{memory} bytes for {here} of {wanted}");
                let arrives = rest[..at_once.min(rest.len())].to_vec();
                let mut stream: BoxStream = Box::new(smol::io::Cursor::new(arrives));
                let Poll::Ready(Ok(len @ 1..)) = read.poll_fill(&mut stream, &mut cx) else {
                    panic!("nothing was read of {} bytes", rest.len());
                };
                rest = &rest[len..];
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
