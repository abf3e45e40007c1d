//! Filling the caller's output slice with frames.

use crate::storage::Body;
use crate::storage::copy::copy;
use crate::wire::{self, CONTROL_LEN_MAX, Frame, Varint};

/// Shared bodies at least this long are not copied behind their headers: they leave from where they lie.
pub(crate) const APART_LEN_MIN: usize = 64 << 10;

/// The caller's output slice, and how much of it is written.
#[derive(Debug)]
pub(crate) struct FrameWriter<'o> {
    out: &'o mut [u8],
    at: usize,
}

impl<'o> FrameWriter<'o> {
    pub(crate) fn new(out: &'o mut [u8]) -> FrameWriter<'o> {
        FrameWriter { out, at: 0 }
    }

    /// One that continues behind the first `at` bytes.
    pub(crate) fn behind(out: &'o mut [u8], at: usize) -> FrameWriter<'o> {
        FrameWriter { out, at }
    }

    pub(crate) fn written(&self) -> usize {
        self.at
    }

    fn room(&self) -> usize {
        self.out.len() - self.at
    }

    /// Whether a frame of `len` bytes may begin here: it fits, or it fits no slice of this size and at least its
    /// first `head` bytes fit. A frame that would fit the next slice waits for it.
    #[inline]
    pub(crate) fn has_room_for(&self, len: usize, head: usize) -> bool {
        len <= self.room() || (len > self.out.len() && head <= self.room())
    }

    /// Writes a control frame whole; false if there is no room.
    pub(crate) fn control(&mut self, frame: &Frame<'_>) -> bool {
        let end = self.out.len().min(self.at + CONTROL_LEN_MAX);
        match wire::encode(frame, &mut self.out[self.at..end]) {
            Some(len) => {
                self.at += len;
                true
            }
            None => false,
        }
    }

    /// Writes what fits of the frame made of `header` and a body in one piece; returns the byte to continue from.
    #[inline]
    pub(crate) fn write<const N: usize>(&mut self, header: &[u8; N], body: &[u8]) -> usize {
        let whole = N + body.len();
        if let Some(out) = self.out.get_mut(self.at..self.at + whole)
            && let Some((head, rest)) = out.split_first_chunk_mut::<N>()
        {
            // As nearly always.
            *head = *header;
            copy(body, rest);
            self.at += whole;
            return whole;
        }
        self.write_pieces([header, &[], body], 0)
    }

    /// The same of a body that is shared. If it is long and may leave `apart`, what is shared of it is not copied.
    #[cold]
    pub(crate) fn write_shared(&mut self, header: &[u8], body: &impl Body, apart: bool) -> usize {
        let is_apart = apart && body.len() >= APART_LEN_MIN;
        self.write_body(header, body, if is_apart { &[] } else { body.last_piece() }, 0)
    }

    /// Writes what fits of a frame, from its byte `at` on; returns the byte to continue from.
    #[cold]
    pub(crate) fn write_rest(&mut self, header: &[u8], body: &impl Body, at: usize) -> usize {
        self.write_body(header, body, body.last_piece(), at)
    }

    fn write_body(&mut self, header: &[u8], of: &impl Body, bytes: &[u8], at: usize) -> usize {
        let len = if of.has_len() { Varint::of(of.last_piece().len()) } else { Varint::default() };
        self.write_pieces([header, len.as_slice(), bytes], at)
    }

    #[cold]
    fn write_pieces(&mut self, pieces: [&[u8]; 3], mut at: usize) -> usize {
        let mut begin = 0;
        for piece in pieces {
            if let Some(rest) = at.checked_sub(begin).and_then(|from| piece.get(from..)) {
                at += self.copy(rest);
            }
            begin += piece.len();
        }
        at
    }

    #[inline]
    fn copy(&mut self, bytes: &[u8]) -> usize {
        let len = bytes.len().min(self.room());
        self.out[self.at..self.at + len].copy_from_slice(&bytes[..len]);
        self.at += len;
        len
    }
}
