//! Input bytes read as a script, and frames written to be damaged.

use oncewire_core::wire::{self, Frame};

/// Input bytes, taken from the front; zeros once they are used up.
#[derive(Debug)]
pub(super) struct Script<'d> {
    rest: &'d [u8],
}

impl<'d> Script<'d> {
    pub(super) fn new(rest: &'d [u8]) -> Script<'d> {
        Script { rest }
    }

    pub(super) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn bytes(&mut self, len: usize) -> &'d [u8] {
        let (front, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        front
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    pub(super) fn short(&mut self) -> u64 {
        u64::from(self.byte()) << 8 | u64::from(self.byte())
    }

    /// Mostly a small number, at times any.
    pub(super) fn number(&mut self) -> u64 {
        match self.byte() {
            255 => {
                let mut field = [0; 8];
                let bytes = self.bytes(8);
                field[..bytes.len()].copy_from_slice(bytes);
                u64::from_le_bytes(field)
            }
            254 => u64::MAX - u64::from(self.byte()),
            small => u64::from(small),
        }
    }
}

/// The bytes of a frame.
pub(super) fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
    let body = match frame {
        Frame::Request(_, body) | Frame::Reply(_, body) => body.len(),
        _ => 0,
    };
    let mut out = vec![0; wire::CONTROL_LEN_MAX + body];
    let len = wire::encode(frame, &mut out).unwrap_or(0);
    out.truncate(len);
    out
}
