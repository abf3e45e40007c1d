//! Bytes between a stream and a machine.
//!
//! | file | what it does |
//! |---|---|
//! | `buffer.rs` | windows of frames, encoded values, a thread's scratch buffers |
//! | `buffer/read.rs` | received bytes that the machine has not taken yet |
//! | `buffer/write.rs` | bytes that the stream has not taken yet |

mod read;
mod write;

use std::cell::Cell;

use bytes::Bytes;
use oncewire_core::wire;
use serde::Serialize;

pub(crate) use read::ReadBuffer;
pub(crate) use write::WriteBuffer;

/// Bytes asked of a stream at once.
const READ_LEN: usize = 64 << 10;
/// See [`window`].
const WINDOW_LEN: usize = 4 << 10;
/// Bytes that a machine writes at once.
const WRITE_LEN: usize = 64 << 10;

/// Where the first few frames of `data` end: about [`WINDOW_LEN`] bytes, to the end of a frame; or all of `data`, if it is
/// no more or they are not whole.
///
/// A machine is given no more at once: it handles all frames that are of no interest to us before it returns, and a lock
/// is held meanwhile.
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

/// A value that fits into this is encoded on the stack, and then takes one allocation of its exact length.
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

/// Buffers that a thread lends to the connection it works for, so that an idle connection needs none.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) read: Vec<u8>,
    pub(crate) write: Vec<u8>,
}

impl Scratch {
    /// Takes this thread's buffers, or new ones if they are lent already.
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
