//! Filling the caller's output slice with frames.

use crate::storage::copy::copy;
use crate::wire::{self, CONTROL_LEN_MAX, Frame};

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

    /// Writes what fits of the frame made of `header` and `body`, from its byte `at` on; returns the byte to go on
    /// from.
    #[inline]
    pub(crate) fn write_partial<const N: usize>(
        &mut self,
        header: &[u8; N],
        body: &[u8],
        at: usize,
    ) -> usize {
        let whole = N + body.len();
        if at == 0
            && let Some(out) = self.out.get_mut(self.at..self.at + whole)
            && let Some((head, rest)) = out.split_first_chunk_mut::<N>()
        {
            // As nearly always.
            *head = *header;
            copy(body, rest);
            self.at += whole;
            return whole;
        }
        self.write_what_fits(header, body, at)
    }

    /// Writes the header of a frame whose body leaves from where it lies, as far as it fits; returns the byte to go on from.
    #[cold]
    pub(crate) fn write_header(&mut self, header: &[u8]) -> usize {
        self.copy(header)
    }

    #[cold]
    fn write_what_fits(&mut self, header: &[u8], body: &[u8], at: usize) -> usize {
        let mut at = at;
        if let Some(rest) = header.get(at..) {
            at += self.copy(rest);
        }
        if let Some(rest) = at.checked_sub(header.len()).and_then(|from| body.get(from..)) {
            at += self.copy(rest);
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
