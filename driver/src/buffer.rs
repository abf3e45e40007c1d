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
use postcard::ser_flavors::Flavor;
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
    /// The bytes for a machine, which shares them if they are long: nothing is left here then.
    #[inline]
    pub(crate) fn take_payload(&mut self) -> Payload<'_> {
        match self {
            Encoded::Short { len, bytes } => Payload::Slice(&bytes[..usize::from(*len)]),
            Encoded::Shared(bytes) => Payload::Shared(std::mem::take(bytes)),
        }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Encoded::Short { len, bytes } => &bytes[..usize::from(*len)],
            Encoded::Shared(bytes) => bytes,
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
#[inline(always)]
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> postcard::Result<Encoded> {
    let mut encoder = Encoder { front: [0; ENCODED_LEN], len: 0, long: Vec::new() };
    // Not by `serialize_with_flavor`, which is not inlined.
    value.serialize(&mut postcard::Serializer { output: &mut encoder })?;
    Ok(encoder.take())
}

/// A value that fits into this is encoded on the stack, and then takes one allocation of its exact length, or none.
const ENCODED_LEN: usize = 128;

/// What postcard writes a value into.
struct Encoder {
    /// The bytes, as long as they fit.
    front: [u8; ENCODED_LEN],
    /// How many they are; more than fit once all of them are in `long`.
    len: usize,
    long: Vec<u8>,
}

impl Encoder {
    #[inline(always)]
    fn take(&mut self) -> Encoded {
        if self.len > SHORT_LEN_MAX {
            return self.take_long();
        }
        let mut bytes = [0; SHORT_LEN_MAX];
        bytes.copy_from_slice(&self.front[..SHORT_LEN_MAX]);
        Encoded::Short { len: self.len as u8, bytes }
    }

    fn take_long(&mut self) -> Encoded {
        if let Some(bytes) = self.front.get(..self.len) {
            return Encoded::Shared(Bytes::copy_from_slice(bytes));
        }
        let mut long = std::mem::take(&mut self.long);
        // A reply may be kept for long, and counts by its length.
        long.shrink_to_fit();
        Encoded::Shared(Bytes::from(long))
    }

    /// More than fits.
    #[cold]
    fn extend_long(&mut self, data: &[u8]) {
        if let Some(front) = self.front.get(..self.len) {
            // A long value is mostly one piece of text or bytes, which comes last.
            self.long.reserve_exact((front.len() + data.len()).max(2 * ENCODED_LEN));
            self.long.extend_from_slice(front);
            self.len = ENCODED_LEN + 1;
        }
        self.long.extend_from_slice(data);
    }
}

impl Flavor for &mut Encoder {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        match self.front.get_mut(self.len) {
            Some(place) => {
                *place = byte;
                self.len += 1;
            }
            None => self.extend_long(&[byte]),
        }
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        // As nearly all numbers are, and all lengths of what is short.
        if let [byte] = data {
            return self.try_push(*byte);
        }
        let end = self.len.saturating_add(data.len());
        match self.front.get_mut(self.len..end) {
            Some(place) => {
                place.copy_from_slice(data);
                self.len = end;
            }
            None => self.extend_long(data),
        }
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
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
