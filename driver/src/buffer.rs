//! Bytes between a stream and a machine.
//!
//! | file | what it does |
//! |---|---|
//! | `buffer.rs` | windows of frames, encoded values, a thread's scratch buffers |
//! | `buffer/read.rs` | received bytes that the machine has not taken yet |
//! | `buffer/write.rs` | bytes that the stream has not taken yet |

mod read;
mod write;

use std::any::Any;
use std::cell::Cell;

use bytes::Bytes;
use oncewire_core::{Payload, wire};
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

/// A value that fits into this is encoded on the stack, and then takes one allocation of its exact length, or none.
const ENCODED_LEN: usize = 128;

/// Values up to this length need no memory of their own. A longer one would make [`Encoded`] larger than [`Bytes`] make it.
const SHORT_LEN_MAX: usize = 38;
const _: () = assert!(size_of::<Encoded>() == size_of::<Bytes>() + size_of::<usize>());

/// A value's bytes.
#[derive(Clone, Debug)]
pub(crate) enum Encoded {
    Short { len: u8, bytes: [u8; SHORT_LEN_MAX] },
    Shared(Bytes),
}

impl Encoded {
    #[inline]
    fn copy_of(bytes: &[u8]) -> Encoded {
        if bytes.len() > SHORT_LEN_MAX {
            return Encoded::Shared(Bytes::copy_from_slice(bytes));
        }
        let mut short = [0; SHORT_LEN_MAX];
        short[..bytes.len()].copy_from_slice(bytes);
        Encoded::Short { len: bytes.len() as u8, bytes: short }
    }

    /// The bytes for a machine, which shares them if they are long: nothing is left here then.
    #[inline]
    pub(crate) fn take_payload(&mut self) -> Payload<'_> {
        match self {
            Encoded::Short { len, bytes } => Payload::Slice(&bytes[..usize::from(*len)]),
            Encoded::Shared(bytes) => Payload::Shared(std::mem::take(bytes)),
        }
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Encoded::Short { len, bytes } => Bytes::copy_from_slice(&bytes[..usize::from(len)]),
            Encoded::Shared(bytes) => bytes,
        }
    }
}

/// Encodes a value.
///
/// # Errors
/// If it has parts that cannot be encoded.
#[inline]
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> postcard::Result<Encoded> {
    match postcard::to_slice(value, &mut [0; ENCODED_LEN]) {
        Ok(bytes) => Ok(Encoded::copy_of(bytes)),
        Err(postcard::Error::SerializeBufferFull) => {
            let mut bytes = postcard::to_allocvec(value)?;
            // A reply may be kept for long, and counts by its length.
            bytes.shrink_to_fit();
            Ok(Encoded::Shared(Bytes::from(bytes)))
        }
        Err(error) => Err(error),
    }
}

/// Buffers that a thread lends to the connection it works for, so that an idle connection needs none.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) read: Vec<u8>,
    pub(crate) write: Vec<u8>,
    pub(crate) spares: Spares,
}

/// Memory for what handlers do, by method: used again by the method's next call. What is in it, its handler knows.
#[derive(Debug, Default)]
pub(crate) struct Spares(Vec<Spare>);

pub(crate) type Spare = Option<Box<dyn Any>>;

impl Spares {
    #[inline]
    pub(crate) fn of_method(&mut self, index: usize) -> &mut Spare {
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        &mut self.0[index]
    }
}

impl Scratch {
    /// Takes this thread's buffers, or new ones if they are lent already.
    pub(crate) fn take() -> Box<Scratch> {
        let fresh = || Scratch {
            read: vec![0; READ_LEN],
            write: vec![0; WRITE_LEN],
            spares: Spares::default(),
        };
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
