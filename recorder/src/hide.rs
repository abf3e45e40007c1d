//! What stands in a recording for session ids and bodies.
//!
//! All of it follows from a random key that is never written. Equal stays equal and different stays different, so the
//! machines judge a recording as they judged the original, but nothing can be read from it. What remains visible is
//! which bodies are equal, and how long each is.

use oncewire_core::SessionId;
use oncewire_core::wire::{METADATA_LEN_MAX, Metadata, MetadataValue, MetadataWriter};

use crate::siphash::{SipHash, siphash};

/// The longest body that is replaced by a permutation of all bodies of its length, rather than by what follows from a
/// hash of it: two short bodies that differ must not become the same.
pub(crate) const PERMUTED_LEN_MAX: usize = 16;
/// Rounds of the permutation. Four are enough for long halves; the shortest have 4 bits.
const ROUNDS: u8 = 10;

/// The key of one recording.
#[derive(Clone)]
pub struct Key {
    sessions: [u8; 16],
    bodies: [u8; 16],
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// A random key, which ends with the process.
    ///
    /// # Errors
    /// If the operating system has no random bits to give.
    pub fn random() -> std::io::Result<Key> {
        let mut bits = [0; 16];
        getrandom::fill(&mut bits).map_err(std::io::Error::other)?;
        Ok(Key::from_bytes(bits))
    }

    /// A key from bits of your own: equal bits give equal recordings, as simulations want it.
    pub fn from_bytes(bits: [u8; 16]) -> Key {
        Key { sessions: siphash(bits, b"session ids"), bodies: siphash(bits, b"bodies") }
    }

    /// The session's pseudonym: the same wherever the session comes in the recording.
    pub fn session(&self, id: SessionId) -> SessionId {
        SessionId::from_bytes(siphash(self.sessions, &id.to_bytes()))
    }

    pub(crate) fn body_hash(&self) -> SipHash {
        SipHash::new(self.bodies)
    }

    /// What stands for a body of at most [`PERMUTED_LEN_MAX`] bytes: a Feistel network over its two halves.
    pub(crate) fn permute(&self, body: &mut [u8]) {
        let len = body.len().min(PERMUTED_LEN_MAX);
        if len == 0 {
            return;
        }
        let mut whole = [0; 16];
        whole[..len].copy_from_slice(&body[..len]);
        let whole = u128::from_le_bytes(whole);
        let half_bits = 4 * len as u32;
        let mask = u64::MAX >> (64 - half_bits);
        let (mut left, mut right) = ((whole >> half_bits) as u64 & mask, whole as u64 & mask);
        for round in 0..ROUNDS {
            let mut input = [round, len as u8, 0, 0, 0, 0, 0, 0, 0, 0];
            input[2..].copy_from_slice(&right.to_le_bytes());
            let [a, b, c, d, e, f, g, h, ..] = siphash(self.bodies, &input);
            let mixed = left ^ u64::from_le_bytes([a, b, c, d, e, f, g, h]);
            (left, right) = (right, mixed & mask);
        }
        let whole = (u128::from(left) << half_bits | u128::from(right)).to_le_bytes();
        body[..len].copy_from_slice(&whole[..len]);
    }

    /// What stands for these bytes, of the same length.
    pub(crate) fn hide(&self, bytes: &[u8]) -> Vec<u8> {
        if bytes.len() <= PERMUTED_LEN_MAX {
            let mut hidden = bytes.to_vec();
            self.permute(&mut hidden);
            return hidden;
        }
        let mut hash = self.body_hash();
        hash.write(bytes);
        expand(hash.finish(), bytes.len())
    }

    /// What stands for a block of metadata, of the same length: the same keys, with other values of the same kinds and
    /// lengths. A block that cannot be read becomes another one that cannot.
    pub(crate) fn hide_metadata(&self, block: &[u8]) -> Vec<u8> {
        let written = Metadata::split(block).ok().filter(|(_, rest)| rest.is_empty());
        if let Some((pairs, _)) = written
            && let Some(hidden) =
                self.hide_pairs(pairs).filter(|hidden| hidden.len() == block.len())
        {
            return hidden;
        }
        let mut hidden = self.hide(block);
        // No block is so long.
        hidden.iter_mut().take(2).for_each(|byte| *byte = u8::MAX);
        hidden
    }

    fn hide_pairs(&self, pairs: Metadata<'_>) -> Option<Vec<u8>> {
        let mut out = [0; METADATA_LEN_MAX];
        let mut writer = MetadataWriter::new(&mut out);
        for (key, value) in pairs.iter() {
            let hidden;
            let text;
            let value = match value {
                MetadataValue::Bytes(bytes) => {
                    hidden = self.hide(bytes);
                    MetadataValue::Bytes(&hidden)
                }
                MetadataValue::Text(original) => {
                    text = letters(&self.hide(original.as_bytes()));
                    MetadataValue::Text(&text)
                }
                MetadataValue::Number(number) => {
                    let mut bytes = number.to_le_bytes();
                    self.permute(&mut bytes);
                    MetadataValue::Number(u64::from_le_bytes(bytes))
                }
                _ => return None,
            };
            writer.push(key, value).ok()?;
        }
        let len = writer.finish();
        Some(out[..len].to_vec())
    }
}

/// The bytes that follow from a hash.
pub(crate) fn expand(hash: [u8; 16], len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    let mut counter = 0_u64;
    while bytes.len() < len {
        let block = siphash(hash, &counter.to_le_bytes());
        let take = block.len().min(len - bytes.len());
        bytes.extend_from_slice(&block[..take]);
        counter += 1;
    }
    bytes
}

/// As many letters as there are bytes.
fn letters(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte & 63)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn short_bodies_that_differ_stay_different() {
        let key = Key::from_bytes([3; 16]);
        let one: BTreeSet<Vec<u8>> = (0..=255_u8).map(|byte| key.hide(&[byte])).collect();
        assert_eq!(one.len(), 256);
        let two: BTreeSet<Vec<u8>> =
            (0..=u16::MAX).map(|number| key.hide(&number.to_le_bytes())).collect();
        assert_eq!(two.len(), 65_536);
        assert_eq!(key.hide(&[7; 16]), key.hide(&[7; 16]));
        assert_ne!(key.hide(&[7; 16]), key.hide(&[7; 15]));
    }

    #[test]
    fn lengths_are_kept_and_another_key_gives_other_bytes() {
        let (key, other) = (Key::from_bytes([3; 16]), Key::from_bytes([4; 16]));
        for len in [0, 1, 15, 16, 17, 100, 5000] {
            let body = vec![7; len];
            assert_eq!(key.hide(&body).len(), len);
            assert!(len == 0 || key.hide(&body) != other.hide(&body));
        }
    }

    #[test]
    fn metadata_stays_readable_and_says_nothing() {
        let key = Key::from_bytes([3; 16]);
        let mut out = [0; 256];
        let mut writer = MetadataWriter::new(&mut out);
        writer.push("a", MetadataValue::Number(7)).unwrap();
        writer.push("b", MetadataValue::Text("hunter2-hunter2")).unwrap();
        writer.push("c", MetadataValue::Bytes(b"hunter2")).unwrap();
        let len = writer.finish();
        let hidden = key.hide_metadata(&out[..len]);
        assert_eq!(hidden.len(), len);
        let (pairs, _) = Metadata::split(&hidden).unwrap();
        assert_eq!(pairs.iter().map(|(key, _)| key).collect::<String>(), "abc");
        assert!(!hidden.windows(7).any(|bytes| bytes == b"hunter2"));
        // What cannot be read stays so.
        for broken in [&out[..len - 1], &[0xff; 20], &[9, 0, 1]] {
            let hidden = key.hide_metadata(broken);
            assert_eq!(hidden.len(), broken.len());
            assert!(Metadata::split(&hidden).is_err());
        }
    }
}
