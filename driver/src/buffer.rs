//! Bytes between a stream and a machine.
//!
//! | file | what it does |
//! |---|---|
//! | `buffer.rs` | windows of frames, encoded values, a thread's scratch buffers |
//! | `buffer/whole.rs` | the same of values that are long bytes and nothing else, which are not copied |
//! | `buffer/read.rs` | received bytes that the machine has not taken yet |
//! | `buffer/write.rs` | bytes that the stream has not taken yet |

mod read;
mod whole;
mod write;

use std::any::Any;
use std::cell::Cell;

use bytes::Bytes;
use oncewire_core::{Payload, wire};
use postcard::ser_flavors::Flavor;
use serde::Serialize;

use crate::pool::NEAR_LEN;
pub(crate) use read::ReadBuffer;
pub(crate) use whole::{encode_arguments, encode_reply, is_small_part};
pub(crate) use write::WriteBuffer;

use whole::behind_len;

/// Bytes asked of a stream at once.
const READ_LEN: usize = NEAR_LEN;
/// See [`window`].
const WINDOW_LEN: usize = 4 << 10;
/// Bytes that a machine writes at once.
const WRITE_LEN: usize = NEAR_LEN;

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
    large.map_or_else(|| copied(bytes), |large| large.slice_ref(bytes))
}

/// [`Bytes::copy_from_slice`], which is not inlined and goes by way of a `Vec`.
#[inline]
pub(crate) fn copied(bytes: &[u8]) -> Bytes {
    Bytes::from(Box::<[u8]>::from(bytes))
}

/// The same, to be kept where a few bytes need no memory of their own.
#[inline]
pub(crate) fn keep(bytes: &[u8], large: Option<&Bytes>) -> Encoded {
    match Encoded::short(bytes) {
        Some(short) => short,
        None => Encoded::from(share(bytes, large)),
    }
}

/// Values up to this length need no memory of their own. A longer one would make [`Encoded`] larger than [`Bytes`] make it.
const SHORT_LEN_MAX: usize = 38;
const _: () = assert!(size_of::<Encoded>() == size_of::<Bytes>() + size_of::<usize>());

/// A value's bytes.
#[derive(Clone, Debug)]
pub(crate) enum Encoded {
    Short {
        len: u8,
        bytes: [u8; SHORT_LEN_MAX],
    },
    Shared {
        /// Behind their length, which postcard writes before bytes: only of long ones on their way out, and never of what was kept.
        with_len: bool,
        bytes: Bytes,
    },
}

impl Encoded {
    pub(crate) const EMPTY: Encoded = Encoded::Short { len: 0, bytes: [0; SHORT_LEN_MAX] };

    /// A copy of these bytes, if they are few.
    #[inline]
    fn short(bytes: &[u8]) -> Option<Encoded> {
        let mut short = [0; SHORT_LEN_MAX];
        short.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Encoded::Short { len: bytes.len() as u8, bytes: short })
    }

    /// Bytes behind their length, as postcard writes them, in place of what is there. They are few enough, with the one byte that
    /// their length takes.
    #[inline(always)]
    fn put_short_behind_len(&mut self, value: &[u8]) {
        *self = Encoded::EMPTY;
        if let Encoded::Short { len, bytes: [first, rest @ ..] } = self
            && let Some(place) = rest.get_mut(..value.len())
        {
            place.copy_from_slice(value);
            (*first, *len) = (value.len() as u8, value.len() as u8 + 1);
        }
    }

    /// The bytes for a machine, which shares them if they are long: nothing is left here then. The flag says whether they are
    /// sent behind their length.
    #[inline]
    pub(crate) fn take_payload(&mut self) -> (Payload<'_>, bool) {
        match self {
            Encoded::Short { len, bytes } => (Payload::Slice(&bytes[..usize::from(*len)]), false),
            Encoded::Shared { with_len, bytes } => {
                let (shared, with_len) = (std::mem::take(bytes), *with_len);
                // Without bytes of its own there is nothing to drop.
                *self = Encoded::EMPTY;
                (Payload::Shared(shared), with_len)
            }
        }
    }

    /// The bytes, in one piece.
    pub(crate) fn as_slice(&mut self) -> &[u8] {
        if let Encoded::Shared { with_len: true, bytes } = self {
            *self = Encoded::from(behind_len(bytes));
        }
        self.as_kept()
    }

    /// The bytes of what was kept, which is in one piece.
    pub(crate) fn as_kept(&self) -> &[u8] {
        match self {
            Encoded::Short { len, bytes } => &bytes[..usize::from(*len)],
            Encoded::Shared { with_len, bytes } => {
                debug_assert!(!with_len, "its length is not there yet");
                bytes
            }
        }
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Encoded::Short { len, bytes } => copied(&bytes[..usize::from(len)]),
            Encoded::Shared { with_len: false, bytes } => bytes,
            Encoded::Shared { with_len: true, bytes } => behind_len(&bytes),
        }
    }
}

impl From<Bytes> for Encoded {
    #[inline]
    fn from(bytes: Bytes) -> Encoded {
        Encoded::Shared { with_len: false, bytes }
    }
}

/// Encodes a value.
///
/// # Errors
/// If it has parts that cannot be encoded.
#[inline(always)]
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> postcard::Result<Encoded> {
    let mut encoded = Encoded::EMPTY;
    encode_into(value, &mut encoded)?;
    Ok(encoded)
}

/// The same where the bytes are to lie, in place of what is there: a short value is not moved.
///
/// # Errors
/// Likewise; `place` is empty then.
#[inline(always)]
fn encode_into<T: Serialize + ?Sized>(value: &T, place: &mut Encoded) -> postcard::Result<()> {
    *place = Encoded::EMPTY;
    let Encoded::Short { len, bytes } = place else { return Ok(()) };
    let mut encoder = Encoder { short: bytes, len: 0, long: Long::None };
    // Not by `serialize_with_flavor`, which is not inlined.
    value.serialize(&mut postcard::Serializer { output: &mut encoder })?;
    if encoder.len <= SHORT_LEN_MAX {
        *len = encoder.len as u8;
    } else {
        *place = encoder.long.take();
    }
    Ok(())
}

/// A value that fits into this is encoded on the stack, and then takes one allocation of its exact length.
const FRONT_LEN: usize = 128;

/// What postcard writes a value into.
struct Encoder<'a> {
    /// The bytes, as long as they fit.
    short: &'a mut [u8; SHORT_LEN_MAX],
    /// How many they are; more than fit once all of them are in `long`.
    len: usize,
    long: Long,
}

/// The bytes of a value that is not short.
enum Long {
    None,
    Front(usize, [u8; FRONT_LEN]),
    Heap(Vec<u8>),
}

impl Encoder<'_> {
    /// More than fits.
    #[cold]
    fn extend_long(&mut self, data: &[u8]) {
        if let Some(short) = self.short.get(..self.len) {
            self.long = Long::new(short, data);
            self.len = SHORT_LEN_MAX + 1;
        } else {
            self.long.extend(data);
        }
    }
}

impl Long {
    fn new(short: &[u8], data: &[u8]) -> Long {
        let end = short.len() + data.len();
        if end > FRONT_LEN {
            return Long::heap(short, data);
        }
        let mut front = [0; FRONT_LEN];
        front[..short.len()].copy_from_slice(short);
        front[short.len()..end].copy_from_slice(data);
        Long::Front(end, front)
    }

    fn heap(front: &[u8], data: &[u8]) -> Long {
        // A long value is mostly one piece of text or bytes, which comes last.
        let mut heap = Vec::with_capacity((front.len() + data.len()).max(2 * FRONT_LEN));
        heap.extend_from_slice(front);
        heap.extend_from_slice(data);
        Long::Heap(heap)
    }

    fn extend(&mut self, data: &[u8]) {
        match self {
            Long::None => *self = Long::new(&[], data),
            Long::Front(len, front) => match front.get_mut(*len..*len + data.len()) {
                Some(place) => {
                    place.copy_from_slice(data);
                    *len += data.len();
                }
                None => *self = Long::heap(&front[..*len], data),
            },
            Long::Heap(heap) => heap.extend_from_slice(data),
        }
    }

    fn take(self) -> Encoded {
        Encoded::from(match self {
            Long::None => Bytes::new(),
            Long::Front(len, front) => copied(&front[..len]),
            Long::Heap(mut heap) => {
                // A reply may be kept for long, and counts by its length.
                heap.shrink_to_fit();
                Bytes::from(heap)
            }
        })
    }
}

impl Flavor for &mut Encoder<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        match self.short.get_mut(self.len) {
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
        match self.short.get_mut(self.len..end) {
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
