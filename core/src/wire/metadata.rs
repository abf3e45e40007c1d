//! Metadata of a call: pairs of a key and a value between a request's header and its body (W17).
//!
//! Middleware reads and writes them without knowing the method's types: a request id, a tenant, a trace's context. They
//! are covered by the request's digest, as the body is, so a request that is sent again carries the same ones (S10).
//!
//! Reading borrows and writing goes into a slice: neither allocates.

use core::fmt;

/// Bytes of the longest block, its length field included.
pub const METADATA_LEN_MAX: usize = 1024;
/// The most pairs of a block.
pub const METADATA_PAIRS_MAX: usize = 32;
/// Bytes of the longest key.
pub const METADATA_KEY_LEN_MAX: usize = 64;

/// Bytes of the field in front of the pairs, which says how many bytes they have.
const LEN_LEN: usize = 2;
const KIND_BYTES: u8 = 0;
const KIND_TEXT: u8 = 1;
const KIND_NUMBER: u8 = 2;

/// A value of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MetadataValue<'d> {
    /// Bytes that mean something to those who agree on the key.
    Bytes(&'d [u8]),
    /// UTF-8.
    Text(&'d str),
    /// A number.
    Number(u64),
}

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MetadataError {
    /// It would be longer than [`METADATA_LEN_MAX`], or than the slice that it is written to.
    TooLong,
    /// It has more than [`METADATA_PAIRS_MAX`] pairs.
    TooManyPairs,
    /// A key is empty, longer than [`METADATA_KEY_LEN_MAX`], or not UTF-8.
    BadKey,
    /// A key is not greater than the one before it: keys come once each, in the order of their bytes.
    OutOfOrder,
    /// A value is of an unknown kind, a text that is not UTF-8, or a number that does not have 8 bytes.
    BadValue,
    /// It ends within a pair, or the request ends within it.
    Truncated,
}

impl fmt::Display for MetadataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MetadataError::TooLong => "the metadata has more than 1,024 bytes",
            MetadataError::TooManyPairs => "the metadata has more than 32 pairs",
            MetadataError::BadKey => "a key of the metadata is empty, too long or not UTF-8",
            MetadataError::OutOfOrder => "a key of the metadata comes twice or out of order",
            MetadataError::BadValue => "a value of the metadata is not what its kind says",
            MetadataError::Truncated => "the metadata ends too early",
        })
    }
}

impl core::error::Error for MetadataError {}

/// The pairs of one call, borrowed from its request. They are known to be well-formed.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Metadata<'d> {
    pairs: &'d [u8],
}

impl<'d> Metadata<'d> {
    /// No pairs.
    pub const EMPTY: Metadata<'static> = Metadata { pairs: &[] };

    /// Splits what follows the header of a request with [`FLAG_METADATA`](super::FLAG_METADATA) into its metadata and its
    /// body.
    ///
    /// ```
    /// use oncewire_core::wire::{Metadata, MetadataValue, MetadataWriter};
    ///
    /// let mut out = [0; 64];
    /// let mut writer = MetadataWriter::new(&mut out);
    /// writer.push("request", MetadataValue::Number(7)).unwrap();
    /// writer.push("tenant", MetadataValue::Text("acme")).unwrap();
    /// let len = writer.finish();
    /// out[len] = 100;
    ///
    /// let (metadata, body) = Metadata::split(&out[..len + 1]).unwrap();
    /// assert_eq!(metadata.get("tenant"), Some(MetadataValue::Text("acme")));
    /// assert_eq!(body, [100]);
    /// ```
    ///
    /// # Errors
    /// What is wrong with the block.
    pub fn split(data: &'d [u8]) -> Result<(Metadata<'d>, &'d [u8]), MetadataError> {
        let (&len, rest) = data.split_first_chunk().ok_or(MetadataError::Truncated)?;
        let len = usize::from(u16::from_le_bytes(len));
        if len > METADATA_LEN_MAX - LEN_LEN {
            return Err(MetadataError::TooLong);
        }
        let (pairs, body) = rest.split_at_checked(len).ok_or(MetadataError::Truncated)?;
        let (mut rest, mut last, mut count) = (pairs, "", 0);
        while !rest.is_empty() {
            count += 1;
            if count > METADATA_PAIRS_MAX {
                return Err(MetadataError::TooManyPairs);
            }
            let (key, _, behind) = pair(rest)?;
            if key <= last {
                return Err(MetadataError::OutOfOrder);
            }
            (rest, last) = (behind, key);
        }
        Ok((Metadata { pairs }, body))
    }

    /// Bytes of a block with these pairs; 0 if there are none.
    pub fn block_len(&self) -> usize {
        if self.is_empty() { 0 } else { LEN_LEN + self.pairs.len() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<MetadataValue<'d>> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// The pairs, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&'d str, MetadataValue<'d>)> + use<'d> {
        let mut rest = self.pairs;
        core::iter::from_fn(move || {
            let (key, value, behind) = pair(rest).ok()?;
            rest = behind;
            Some((key, value))
        })
    }
}

impl fmt::Debug for Metadata<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The pair at the front, and what is behind it.
fn pair(data: &[u8]) -> Result<(&str, MetadataValue<'_>, &[u8]), MetadataError> {
    let (&key_len, rest) = data.split_first().ok_or(MetadataError::Truncated)?;
    let key_len = usize::from(key_len);
    if !(1..=METADATA_KEY_LEN_MAX).contains(&key_len) {
        return Err(MetadataError::BadKey);
    }
    let (key, rest) = rest.split_at_checked(key_len).ok_or(MetadataError::Truncated)?;
    let key = core::str::from_utf8(key).map_err(|_| MetadataError::BadKey)?;
    let (&[kind, low, high], rest) = rest.split_first_chunk().ok_or(MetadataError::Truncated)?;
    let len = usize::from(u16::from_le_bytes([low, high]));
    let (value, rest) = rest.split_at_checked(len).ok_or(MetadataError::Truncated)?;
    let value = match kind {
        KIND_BYTES => Some(MetadataValue::Bytes(value)),
        KIND_TEXT => core::str::from_utf8(value).ok().map(MetadataValue::Text),
        KIND_NUMBER => value.try_into().ok().map(u64::from_le_bytes).map(MetadataValue::Number),
        _ => None,
    };
    Ok((key, value.ok_or(MetadataError::BadValue)?, rest))
}

/// Writes a block.
#[derive(Debug)]
pub struct MetadataWriter<'o> {
    out: &'o mut [u8],
    len: usize,
    pairs: usize,
    /// Where the last key is.
    last_key: core::ops::Range<usize>,
}

impl<'o> MetadataWriter<'o> {
    /// One that writes to the front of `out`, which must have two bytes at least and needs no more than
    /// [`METADATA_LEN_MAX`].
    ///
    /// # Panics
    /// If `out` has fewer than two bytes.
    pub fn new(out: &'o mut [u8]) -> MetadataWriter<'o> {
        let writable = out.len().min(METADATA_LEN_MAX);
        let out = &mut out[..writable];
        out[..LEN_LEN].fill(0);
        MetadataWriter { out, len: LEN_LEN, pairs: 0, last_key: 0..0 }
    }

    /// Appends a pair, whose key is greater than the one before it.
    ///
    /// # Errors
    /// What would be wrong with the block. It is as it was before.
    pub fn push(&mut self, key: &str, value: MetadataValue<'_>) -> Result<(), MetadataError> {
        if !(1..=METADATA_KEY_LEN_MAX).contains(&key.len()) {
            return Err(MetadataError::BadKey);
        }
        if key.as_bytes() <= &self.out[self.last_key.clone()] {
            return Err(MetadataError::OutOfOrder);
        }
        if self.pairs == METADATA_PAIRS_MAX {
            return Err(MetadataError::TooManyPairs);
        }
        let number;
        let (kind, value) = match value {
            MetadataValue::Bytes(bytes) => (KIND_BYTES, bytes),
            MetadataValue::Text(text) => (KIND_TEXT, text.as_bytes()),
            MetadataValue::Number(value) => {
                number = value.to_le_bytes();
                (KIND_NUMBER, &number[..])
            }
        };
        let value_len = u16::try_from(value.len()).map_err(|_| MetadataError::TooLong)?;
        let key_at = self.len + 1;
        let kind_at = key_at + key.len();
        let value_at = kind_at + 3;
        let end = value_at + value.len();
        let Some(pair) = self.out.get_mut(..end) else { return Err(MetadataError::TooLong) };
        pair[self.len] = key.len() as u8;
        pair[key_at..kind_at].copy_from_slice(key.as_bytes());
        pair[kind_at] = kind;
        pair[kind_at + 1..value_at].copy_from_slice(&value_len.to_le_bytes());
        pair[value_at..].copy_from_slice(value);
        (self.len, self.last_key) = (end, key_at..kind_at);
        self.pairs += 1;
        self.out[..LEN_LEN].copy_from_slice(&((end - LEN_LEN) as u16).to_le_bytes());
        Ok(())
    }

    /// The bytes of the block, to be followed by the body.
    pub fn finish(self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of these bytes of pairs.
    fn block(pairs: &[u8]) -> ([u8; 2048], usize) {
        let mut out = [0; 2048];
        out[..2].copy_from_slice(&(pairs.len() as u16).to_le_bytes());
        out[2..2 + pairs.len()].copy_from_slice(pairs);
        (out, 2 + pairs.len())
    }

    #[test]
    fn c210_a_hostile_block_is_refused_whatever_is_wrong_with_it() {
        let long_key = [&[65][..], &[b'k'; 65], &[0, 0, 0]].concat();
        let mut many = [0_u8; 33 * 5];
        for (i, pair) in many.chunks_exact_mut(5).enumerate() {
            pair.copy_from_slice(&[1, b'!' + i as u8, 0, 0, 0]);
        }
        for (pairs, error) in [
            (&[0, 0, 0, 0][..], MetadataError::BadKey),
            (&long_key, MetadataError::BadKey),
            (&[1, 0xff, 0, 0, 0], MetadataError::BadKey),
            (&[1, b'a', 0, 0, 0, 1, b'a', 0, 0, 0], MetadataError::OutOfOrder),
            (&[1, b'b', 0, 0, 0, 1, b'a', 0, 0, 0], MetadataError::OutOfOrder),
            (&[1, b'a', 3, 0, 0], MetadataError::BadValue),
            (&[1, b'a', 1, 1, 0, 0xff], MetadataError::BadValue),
            (&[1, b'a', 2, 1, 0, 7], MetadataError::BadValue),
            (&[1, b'a', 0, 1, 0], MetadataError::Truncated),
            (&[9, b'a'], MetadataError::Truncated),
            (&[1, b'a', 0], MetadataError::Truncated),
            (&many, MetadataError::TooManyPairs),
            (&[0; 1023], MetadataError::TooLong),
        ] {
            let (out, len) = block(pairs);
            assert_eq!(Metadata::split(&out[..len]), Err(error), "{pairs:?}");
        }
        assert_eq!(Metadata::split(&[]), Err(MetadataError::Truncated));
        assert_eq!(Metadata::split(&[1, 0]), Err(MetadataError::Truncated));
        assert_eq!(Metadata::split(&[0, 0, 9]), Ok((Metadata::EMPTY, &[9][..])));
    }

    #[test]
    fn a_writer_keeps_the_limits() {
        let mut out = [0; 2048];
        let mut writer = MetadataWriter::new(&mut out);
        let value = MetadataValue::Bytes(&[7; 1000]);
        assert_eq!(writer.push("", value), Err(MetadataError::BadKey));
        assert_eq!(writer.push(&"k".repeat(65), value), Err(MetadataError::BadKey));
        assert_eq!(writer.push("kkkkkkkkkkkkkkkkkkk", value), Err(MetadataError::TooLong));
        assert_eq!(writer.push("kkkkkkkkkkkkkkkkkk", value), Ok(()), "1,024 bytes in all");
        assert_eq!(writer.push("l", MetadataValue::Text("")), Err(MetadataError::TooLong));
        assert_eq!(writer.push("k", MetadataValue::Text("")), Err(MetadataError::OutOfOrder));
        let len = writer.finish();
        assert_eq!(len, METADATA_LEN_MAX);
        let (metadata, body) = Metadata::split(&out[..len]).unwrap();
        assert_eq!((metadata.iter().count(), body.len()), (1, 0));
    }
}
