//! From a peer's bytes to a value, within bounds.
//!
//! postcard decodes; this wraps its deserializer and counts what a value costs before it costs it. Three things were seen
//! that a few bytes of a peer did without: 20,000 bytes of nesting overflowed the stack and ended the process, ten bytes
//! that announced 2⁶³ elements of no size kept a thread busy for ever, and 2 MB of rows became 271 MB. Bytes behind the
//! value are an error too: they may be arguments that the receiver does not know, and the call ran without them.
//!
//! What a value costs can be read from the types that serde passes along: the elements of a sequence have a size, and so
//! has the place into which a value is put, which is smaller than the value where the value is boxed.

mod access;

use std::any::Any;
use std::fmt;

use bytes::Bytes;
use serde::de::{
    Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess,
    SeqAccess, Visitor,
};

use access::{BoundedAccess, Paid};

/// How far a peer's bytes may unfold when they are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ValueLimits {
    pub(crate) depth_max: u32,
    /// `None`: in proportion to the bytes.
    pub(crate) memory_max: Option<usize>,
}

/// See [`Method::depth_max`](crate::Method::depth_max).
const DEPTH_MAX: u32 = 128;
/// A value of this many bytes counts as one more level: while it is decoded, it is on the stack several times.
const LEVEL_LEN: usize = 512;
/// See [`Method::memory_max`](crate::Method::memory_max). An empty string takes 24 bytes of memory for one on the wire.
const MEMORY_BASE: usize = 64 << 10;
const MEMORY_FACTOR: usize = 32;
/// What an allocation costs beside its bytes.
const ALLOCATION_LEN: usize = 16;
/// The longest length of which postcard makes one byte.
const LEN_BYTE_MAX: u8 = 0x7f;
/// Maps have room for more entries than they hold.
const MAP_FACTOR: usize = 2;

impl ValueLimits {
    pub(crate) const DEFAULT: ValueLimits = ValueLimits { depth_max: DEPTH_MAX, memory_max: None };

    #[inline]
    fn memory(self, len: usize) -> usize {
        match self.memory_max {
            Some(memory) => memory,
            None => len.saturating_mul(MEMORY_FACTOR).saturating_add(MEMORY_BASE),
        }
    }
}

/// The value that `bytes` are; `None` if they are none, or more than one, or one beyond its limits.
#[inline(always)]
pub(crate) fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8], limits: ValueLimits) -> Option<T> {
    let mut postcard = postcard::Deserializer::from_bytes(bytes);
    let mut memory = limits.memory(bytes.len());
    // The value itself belongs to the caller.
    let left = Left { memory: &mut memory, depth: limits.depth_max, place: usize::MAX };
    let value = T::deserialize(Bounded { inner: &mut postcard, left }).ok()?;
    postcard.finalize().ok()?.is_empty().then_some(value)
}

/// The same of bytes that are a part of `large`, if that is there: a value that is [`Bytes`] and nothing else, as
/// arguments also in a tuple of its own, shares it instead of being copied; and is copied at once if it is not.
#[inline(always)]
pub(crate) fn decode_shared<T: DeserializeOwned + 'static>(
    bytes: &[u8],
    large: Option<&Bytes>,
    limits: ValueLimits,
) -> Option<T> {
    let mut value: Option<T> = None;
    let place: &mut dyn Any = &mut value;
    if let Some(place) = place.downcast_mut::<Option<Bytes>>() {
        *place = Some(crate::buffer::share(decode_bytes(bytes, limits)?, large));
        return value;
    }
    // A tuple is a level.
    if limits.depth_max > 0
        && let Some(place) = place.downcast_mut::<Option<(Bytes,)>>()
    {
        *place = Some((crate::buffer::share(decode_bytes(bytes, limits)?, large),));
        return value;
    }
    decode(bytes, limits)
}

/// The same of a value that is bytes. Nearly all of them are few: their length is one byte.
#[inline(always)]
fn decode_bytes(bytes: &[u8], limits: ValueLimits) -> Option<&[u8]> {
    match bytes {
        // By default a value of no parts may have as much memory.
        [len @ ..=LEN_BYTE_MAX, value @ ..]
            if value.len() == usize::from(*len) && limits.memory_max.is_none() =>
        {
            Some(value)
        }
        _ => decode(bytes, limits),
    }
}

/// What a value may still cost.
struct Left<'m> {
    /// Bytes of memory, for everything that is still to be decoded.
    memory: &'m mut usize,
    /// Levels of nesting.
    depth: u32,
    /// Bytes of the place into which the value is put.
    place: usize,
}

impl Left<'_> {
    /// The same, for a part of it that is put into a place of this size.
    #[inline]
    fn part(&mut self, place: usize) -> Left<'_> {
        Left { memory: &mut *self.memory, depth: self.depth, place }
    }

    #[inline]
    fn allocate<E: Error>(&mut self, len: usize) -> Result<(), E> {
        match self.memory.checked_sub(len) {
            Some(memory) => *self.memory = memory,
            None => return Err(E::custom("larger in memory than the method allows")),
        }
        Ok(())
    }

    /// Enters a value of several parts.
    #[inline]
    fn enter<T, E: Error>(&mut self) -> Result<(), E> {
        let levels = 1 + (size_of::<T>() / LEVEL_LEN) as u32;
        match self.depth.checked_sub(levels) {
            Some(depth) => self.depth = depth,
            None => return Err(E::custom("nested deeper than the method allows")),
        }
        Ok(())
    }

    /// The same for a value whose parts lie in it: in its place, or boxed.
    #[inline]
    fn enter_inline<T, E: Error>(&mut self) -> Result<(), E> {
        if size_of::<T>() > self.place {
            self.allocate(size_of::<T>() + ALLOCATION_LEN)?;
        }
        self.enter::<T, E>()
    }

    /// Text or bytes.
    #[inline]
    fn copy<E: Error>(&mut self, len: usize) -> Result<(), E> {
        if len == 0 { Ok(()) } else { self.allocate(len + ALLOCATION_LEN) }
    }
}

/// Whatever serde decodes with, and what it may cost: a deserializer, a seed, a variant.
struct Bounded<'m, T> {
    inner: T,
    left: Left<'m>,
}

/// Where the parts of a value lie.
#[derive(Clone, Copy)]
enum Parts {
    Inline,
    /// In their own memory.
    Apart,
}

struct BoundedVisitor<'m, V> {
    inner: V,
    left: Left<'m>,
    parts: Parts,
}

impl<'m, T> Bounded<'m, T> {
    #[inline]
    fn visitor<V>(self, inner: V, parts: Parts) -> (T, BoundedVisitor<'m, V>) {
        (self.inner, BoundedVisitor { inner, left: self.left, parts })
    }
}

/// What has no parts costs nothing but its place.
macro_rules! leaves {
    ($($name:ident),*) => {$(
        #[inline]
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$name(visitor)
        }
    )*};
}

/// Text and bytes are judged when their length is known.
macro_rules! copies {
    ($($name:ident),*) => {$(
        #[inline]
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            let (inner, visitor) = self.visitor(visitor, Parts::Apart);
            inner.$name(visitor)
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Bounded<'_, D> {
    type Error = D::Error;

    leaves!(
        deserialize_any,
        deserialize_bool,
        deserialize_i8,
        deserialize_i16,
        deserialize_i32,
        deserialize_i64,
        deserialize_i128,
        deserialize_u8,
        deserialize_u16,
        deserialize_u32,
        deserialize_u64,
        deserialize_u128,
        deserialize_f32,
        deserialize_f64,
        deserialize_char,
        deserialize_unit,
        deserialize_identifier,
        deserialize_ignored_any
    );

    copies!(deserialize_str, deserialize_string, deserialize_bytes, deserialize_byte_buf);

    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_unit_struct(name, visitor)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, D::Error> {
        self.left.enter::<V::Value, _>()?;
        let (inner, visitor) = self.visitor(visitor, Parts::Inline);
        inner.deserialize_option(visitor)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.left.enter_inline::<V::Value, _>()?;
        let (inner, visitor) = self.visitor(visitor, Parts::Inline);
        inner.deserialize_newtype_struct(name, visitor)
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, D::Error> {
        self.left.enter::<V::Value, _>()?;
        let (inner, visitor) = self.visitor(visitor, Parts::Apart);
        inner.deserialize_seq(visitor)
    }

    #[inline]
    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, D::Error> {
        self.left.enter::<V::Value, _>()?;
        let (inner, visitor) = self.visitor(visitor, Parts::Apart);
        inner.deserialize_map(visitor)
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(
        mut self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.left.enter_inline::<V::Value, _>()?;
        let (inner, visitor) = self.visitor(visitor, Parts::Inline);
        inner.deserialize_tuple(len, visitor)
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.left.enter_inline::<V::Value, _>()?;
        let (inner, visitor) = self.visitor(visitor, Parts::Inline);
        inner.deserialize_tuple_struct(name, len, visitor)
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.left.enter_inline::<V::Value, _>()?;
        let (inner, visitor) = self.visitor(visitor, Parts::Inline);
        inner.deserialize_struct(name, fields, visitor)
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.left.enter_inline::<V::Value, _>()?;
        let (inner, visitor) = self.visitor(visitor, Parts::Inline);
        inner.deserialize_enum(name, variants, visitor)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! copied {
    ($($name:ident($kind:ty)),*) => {$(
        #[inline]
        fn $name<E: Error>(mut self, value: $kind) -> Result<V::Value, E> {
            self.left.copy(value.len())?;
            self.inner.$name(value)
        }
    )*};
}

/// What postcard calls of it.
impl<'de, V: Visitor<'de>> Visitor<'de> for BoundedVisitor<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    copied!(
        visit_str(&str),
        visit_borrowed_str(&'de str),
        visit_bytes(&[u8]),
        visit_borrowed_bytes(&'de [u8])
    );

    #[inline]
    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    #[inline]
    fn visit_some<D: Deserializer<'de>>(mut self, inner: D) -> Result<V::Value, D::Error> {
        let left = self.left.part(size_of::<V::Value>());
        self.inner.visit_some(Bounded { inner, left })
    }

    #[inline]
    fn visit_newtype_struct<D: Deserializer<'de>>(
        mut self,
        inner: D,
    ) -> Result<V::Value, D::Error> {
        let left = self.left.part(size_of::<V::Value>());
        self.inner.visit_newtype_struct(Bounded { inner, left })
    }

    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let (key, value) = (Paid::new(self.parts), Paid::new(self.parts));
        self.inner.visit_seq(BoundedAccess { inner, left: self.left, key, value })
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let (key, value) = (Paid::new(self.parts), Paid::new(self.parts));
        self.inner.visit_map(BoundedAccess { inner, left: self.left, key, value })
    }

    #[inline]
    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(Bounded { inner, left: self.left })
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Bounded<'_, S> {
    type Value = S::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Bounded { inner, left: self.left })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_bytes_shares_the_buffer_it_came_in() {
        const LEN: usize = 100_000;
        let mut frame = vec![0; 32];
        frame.extend(postcard::to_allocvec(&Bytes::from(vec![7; LEN])).unwrap());
        let frame = Bytes::from(frame);
        let (body, bytes) = (&frame[32..], &frame[35..]);
        let limits = ValueLimits::DEFAULT;
        let value: Bytes = decode_shared(body, Some(&frame), limits).unwrap();
        let (argument,): (Bytes,) = decode_shared(body, Some(&frame), limits).unwrap();
        for shared in [&value, &argument] {
            assert_eq!((shared.as_ptr(), shared.len()), (bytes.as_ptr(), LEN));
        }
        let copied: Bytes = decode_shared(body, None, limits).unwrap();
        assert_eq!(copied, value);
        assert_ne!(copied.as_ptr(), bytes.as_ptr());
        // Shared or not, the bounds are the same.
        let small = ValueLimits { memory_max: Some(LEN), ..limits };
        for large in [None, Some(&frame)] {
            assert_eq!(decode_shared::<Bytes>(body, large, small), None);
            assert_eq!(decode_shared::<(Bytes,)>(&body[..LEN], large, limits), None);
            assert_eq!(decode_shared::<Vec<u8>>(body, large, limits), Some(vec![7; LEN]));
        }
    }

    #[test]
    fn few_bytes_have_the_bounds_of_many() {
        let limits = ValueLimits::DEFAULT;
        for len in [0, 1, 127, 128, 300] {
            let bytes = Bytes::from(vec![7; len]);
            let mut encoded = postcard::to_allocvec(&bytes).unwrap();
            assert_eq!(decode_shared(&encoded, None, limits), Some(bytes.clone()));
            assert_eq!(decode_shared(&encoded, None, limits), Some((bytes.clone(),)));
            let small = ValueLimits { memory_max: Some(len), ..limits };
            let within = (len == 0).then_some(bytes);
            assert_eq!(decode_shared::<Bytes>(&encoded, None, small), within);
            let flat = ValueLimits { depth_max: 0, ..limits };
            assert_eq!(decode_shared::<(Bytes,)>(&encoded, None, flat), None);
            let cut = &encoded[..encoded.len() - 1];
            assert_eq!(decode_shared::<Bytes>(cut, None, limits), None);
            encoded.push(7);
            assert_eq!(decode_shared::<Bytes>(&encoded, None, limits), None);
        }
    }
}
