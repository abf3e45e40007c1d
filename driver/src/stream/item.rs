//! Items as bytes, and back.
//!
//! A chunk of typed items has the length of each before it, in four bytes. A chunk of bytes is those bytes.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::decode::{ValueLimits, decode};

/// How items become bytes and bytes items.
///
/// Function pointers, so that streams need no bound on their items' type.
pub(super) struct Codec<T> {
    encode: fn(T) -> Option<Piece>,
    decode: fn(&mut Bytes) -> Option<Taken<T>>,
}

impl<T> Clone for Codec<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Codec<T> {}

/// An item, encoded.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    /// Goes into one chunk.
    Whole(Bytes),
    /// May be cut anywhere.
    Bytes(Bytes),
}

impl Piece {
    /// How far the position is behind it.
    pub(super) fn advance(&self) -> u64 {
        match self {
            Piece::Whole(_) => 1,
            Piece::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Whether it can go into chunks of this length.
    pub(super) fn fits(&self, chunk_len: usize) -> bool {
        match self {
            Piece::Whole(bytes) => LEN_LEN + bytes.len() <= chunk_len,
            Piece::Bytes(_) => true,
        }
    }
}

/// An item taken out of a chunk, and how far the position is behind it.
pub(super) struct Taken<T> {
    pub(super) item: T,
    pub(super) advance: u64,
}

const LEN_LEN: usize = 4;

impl<T: Serialize + DeserializeOwned> Codec<T> {
    pub(super) const fn postcard() -> Codec<T> {
        Codec {
            encode: |item| Some(Piece::Whole(postcard::to_allocvec(&item).ok()?.into())),
            decode: |chunk| {
                let (len, rest) = chunk.split_first_chunk::<LEN_LEN>()?;
                let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
                let item = decode(rest.get(..len)?, ValueLimits::DEFAULT)?;
                let _taken = chunk.split_to(LEN_LEN + len);
                Some(Taken { item, advance: 1 })
            },
        }
    }
}

impl Codec<Bytes> {
    pub(super) const fn bytes() -> Codec<Bytes> {
        Codec {
            encode: |bytes| Some(Piece::Bytes(bytes)),
            decode: |chunk| {
                let item = std::mem::take(chunk);
                let advance = item.len() as u64;
                Some(Taken { item, advance })
            },
        }
    }
}

impl<T> Codec<T> {
    /// `None`: it cannot be encoded.
    pub(super) fn encode(&self, item: T) -> Option<Piece> {
        (self.encode)(item)
    }

    /// The first item of a chunk that has one; `None` if it is none of this type.
    pub(super) fn take(&self, chunk: &mut Bytes) -> Option<Taken<T>> {
        (self.decode)(chunk)
    }
}

/// Puts as much of a piece into a chunk as fits, behind its header; `Err` if it can never fit. Says how far the position is behind
/// what was put, and leaves in `piece` what was not.
pub(super) fn put(
    piece: &mut Option<Piece>,
    chunk: &mut Vec<u8>,
    header_len: usize,
    chunk_len: usize,
) -> Result<u64, ItemTooLong> {
    let space = (header_len + chunk_len).saturating_sub(chunk.len());
    match piece {
        None => Ok(0),
        Some(Piece::Bytes(bytes)) => {
            let part = bytes.split_to(space.min(bytes.len()));
            if bytes.is_empty() {
                *piece = None;
            }
            chunk.extend_from_slice(&part);
            Ok(part.len() as u64)
        }
        Some(whole @ Piece::Whole(_)) if !whole.fits(chunk_len) => Err(ItemTooLong),
        Some(Piece::Whole(bytes)) if LEN_LEN + bytes.len() > space => Ok(0),
        Some(Piece::Whole(bytes)) => {
            // It is no longer than a chunk, whose length is 32 bits.
            chunk.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            chunk.extend_from_slice(bytes);
            *piece = None;
            Ok(1)
        }
    }
}

/// An item does not fit into a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ItemTooLong;
