//! Values that are bytes and nothing else: long ones leave from where they lie, behind their length.
//!
//! serde shows what a value consists of, and not who owns that, so it is the value's type that says whether it can be shared.
//! Within a larger value, bytes are copied once.

use std::any::Any;
use std::ops::Range;

use bytes::Bytes;
use serde::Serialize;

use super::{Encoded, SHORT_LEN_MAX, encode_into};

/// Shorter ones are copied: that costs less than a piece of its own. The core's writer copies shorter ones all the same.
const LONG_LEN_MIN: usize = 64 << 10;

/// The bytes of a value that is these and nothing else, as arguments also in a tuple of its own.
#[inline(always)]
fn only_bytes<T: 'static>(value: &T) -> Option<&Bytes> {
    let value: &dyn Any = value;
    let in_tuple = || value.downcast_ref().map(|(bytes,): &(Bytes,)| bytes);
    value.downcast_ref().or_else(in_tuple)
}

/// Encodes a call's arguments into `place`, in place of what is there. They are shared if they are long [`Bytes`].
///
/// # Errors
/// If they have parts that cannot be encoded; `place` is empty then.
#[inline(always)]
pub(crate) fn encode_arguments<A: Serialize + 'static>(
    arguments: &A,
    place: &mut Encoded,
) -> postcard::Result<()> {
    encode_with(arguments, place, || 0..0)
}

/// The same of a reply. One that is a small part of the request's memory, which lies where `request` says, is copied: a reply may be kept
/// for long and counts by its length, and would hold all of that.
///
/// # Errors
/// Likewise.
#[inline(always)]
pub(crate) fn encode_reply<R: Serialize + 'static>(
    reply: &R,
    place: &mut Encoded,
    request: impl FnOnce() -> Range<usize>,
) -> postcard::Result<()> {
    encode_with(reply, place, request)
}

#[inline(always)]
fn encode_with<T: Serialize + 'static>(
    value: &T,
    place: &mut Encoded,
    request: impl FnOnce() -> Range<usize>,
) -> postcard::Result<()> {
    match only_bytes(value) {
        Some(bytes) if bytes.len() < SHORT_LEN_MAX => place.put_short_behind_len(bytes),
        Some(bytes) if bytes.len() >= LONG_LEN_MIN => *place = shared(bytes, request),
        _ => return encode_into(value, place),
    }
    Ok(())
}

/// Whether these bytes are less than half of the request's memory.
#[inline]
pub(crate) fn is_small_part(bytes: &Bytes, request: &Range<usize>) -> bool {
    request.contains(&bytes.as_ptr().addr()) && bytes.len() < request.len() / 2
}

#[cold]
#[inline(never)]
fn shared(bytes: &Bytes, request: impl FnOnce() -> Range<usize>) -> Encoded {
    match is_small_part(bytes, &request()) {
        true => Encoded::from(behind_len(bytes)),
        false => Encoded::Shared { with_len: true, bytes: bytes.clone() },
    }
}

/// What postcard writes of bytes.
#[cold]
pub(super) fn behind_len(bytes: &[u8]) -> Bytes {
    let mut memory = [0; 10];
    // A length has at most ten bytes.
    let len = postcard::to_slice(&bytes.len(), &mut memory).unwrap_or_default();
    [len, bytes].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: usize = LONG_LEN_MIN;

    fn bytes(len: usize) -> Bytes {
        (0..len).map(|at| (at % 251) as u8).collect()
    }

    fn replied(reply: &Bytes, request: &Range<usize>) -> Encoded {
        let mut place = Encoded::EMPTY;
        encode_reply(reply, &mut place, || request.clone()).unwrap();
        place
    }

    /// Where the bytes lie that are not copied.
    fn shared_at(encoded: &Encoded) -> Option<*const u8> {
        match encoded {
            Encoded::Shared { with_len: true, bytes } => Some(bytes.as_ptr()),
            _ => None,
        }
    }

    #[test]
    fn long_bytes_are_shared_and_are_what_postcard_writes() {
        for (len, is_shared) in
            [(0, false), (40, false), (LONG - 1, false), (LONG, true), (3 << 20, true)]
        {
            let bytes = bytes(len);
            let (mut alone, mut in_tuple) = (Encoded::EMPTY, Encoded::EMPTY);
            encode_arguments(&bytes, &mut alone).unwrap();
            encode_arguments(&(bytes.clone(),), &mut in_tuple).unwrap();
            for encoded in [alone, in_tuple, replied(&bytes, &(0..0))] {
                assert_eq!(shared_at(&encoded), is_shared.then_some(bytes.as_ptr()), "{len}");
                assert!(encoded.into_bytes() == postcard::to_allocvec(&bytes).unwrap(), "{len}");
            }
        }
    }

    #[test]
    fn a_small_part_of_a_large_request_is_copied_and_a_large_one_is_not() {
        let request = bytes(4 * LONG);
        let start = request.as_ptr().addr();
        let memory = start..start + request.len();
        for (len, is_shared) in [(LONG, false), (3 * LONG, true)] {
            let part = request.slice(10..10 + len);
            let reply = replied(&part, &memory);
            assert_eq!(shared_at(&reply), is_shared.then_some(part.as_ptr()));
            assert!(reply.into_bytes() == postcard::to_allocvec(&part).unwrap());
        }
    }
}
