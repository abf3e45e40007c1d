//! The digest by which a server knows a repeated request from another one under the same xid (S10).
//!
//! It guards a client against its own mistakes, not the server against an attacker: a peer that can choose the xid
//! and the body owns the session anyway. What matters is that it is the same on every machine, since ledgers keep
//! it, and cheap: two multiplications for 16 bytes, two chains of them for a short body and four for a long one.
//! PROTOCOL.md ("Request digest") gives the definition.

use crate::ids::MethodId;

const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xd6e8_feb8_6659_fd93;
const K2: u64 = 0xa076_1d64_78bd_642f;

/// Bodies at least this long are digested in four chains: with two, a large body waits for its multiplications.
const LONG_LEN_MIN: usize = 256;

/// Digest of what makes a request the same request: method, flags and body; not `acked`, not the deadline (C18).
#[inline]
pub fn digest(method: MethodId, flags: u8, body: &[u8]) -> u64 {
    let (a, b) = begin(method, flags, body.len());
    if body.len() >= LONG_LEN_MIN { digest_long(a, b, body) } else { end(a, b, body) }
}

/// That of a long body, apart, so that a short one has the registers.
#[inline(never)]
fn digest_long(a: u64, b: u64, body: &[u8]) -> u64 {
    let mut long = Long::new(a, b);
    let (blocks, rest) = body.as_chunks::<64>();
    long.take(blocks);
    long.end(rest)
}

/// The two chains before the first byte of the body.
#[inline]
fn begin(method: MethodId, flags: u8, len: usize) -> (u64, u64) {
    // A body is shorter than 2^32 bytes: its length and the flags share a word.
    let tail = (u64::from(flags) << 32) | len as u64;
    let a = fold(method.number() ^ K0, tail ^ K1);
    (a, a ^ K2)
}

/// The end of the chains, with the last bytes of a body. Apart, so that what reads a request has the registers.
#[inline(never)]
fn end(mut a: u64, mut b: u64, body: &[u8]) -> u64 {
    for block in body.as_chunks::<32>().0 {
        a = fold(word(block, 0) ^ K0, word(block, 8) ^ a);
        b = fold(word(block, 16) ^ K1, word(block, 24) ^ b);
    }
    if body.len().is_multiple_of(32) { fold(a ^ K2, b ^ K0) } else { end_tail(a, b, body) }
}

/// The end of a body whose last bytes are fewer than 32: as if zeros followed to the end of the block. Apart, so that the others need
/// fewer registers.
///
/// Not by a copy: to read words of what was just written otherwise takes longer than all the rest.
#[inline(never)]
fn end_tail(mut a: u64, mut b: u64, body: &[u8]) -> u64 {
    let (words, last) = body.as_chunks::<32>().1.as_chunks::<8>();
    let last = if last.is_empty() { 0 } else { last_word(body, last.len()) };
    let at = |index: usize| match words.get(index) {
        Some(word) => u64::from_le_bytes(*word),
        None if index == words.len() => last,
        None => 0,
    };
    a = fold(at(0) ^ K0, at(1) ^ a);
    b = fold(at(2) ^ K1, at(3) ^ b);
    fold(a ^ K2, b ^ K0)
}

/// The last `len` bytes of a body, of which it has as many, and which are fewer than eight.
#[inline]
fn last_word(body: &[u8], len: usize) -> u64 {
    match body.last_chunk::<8>() {
        Some(last) => u64::from_le_bytes(*last) >> (64 - 8 * len),
        None => body.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// The digest of a long body, of which the bytes may come one block after another.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(crate) struct Long {
    a: u64,
    b: u64,
    c: u64,
    d: u64,
}

impl Long {
    #[inline]
    fn new(a: u64, b: u64) -> Long {
        Long { a, b, c: b ^ K0, d: b ^ K1 }
    }

    /// Begins with what precedes a body of `len` bytes; `None` if that is not long.
    pub(crate) fn begin(method: MethodId, flags: u8, len: usize) -> Option<Long> {
        let (a, b) = begin(method, flags, len);
        (len >= LONG_LEN_MIN).then(|| Long::new(a, b))
    }

    #[inline]
    pub(crate) fn take(&mut self, blocks: &[[u8; 64]]) {
        let Long { mut a, mut b, mut c, mut d } = *self;
        for block in blocks {
            a = mix(word(block, 0) ^ K0, word(block, 8) ^ a);
            b = mix(word(block, 16) ^ K1, word(block, 24) ^ b);
            c = mix(word(block, 32) ^ K0, word(block, 40) ^ c);
            d = mix(word(block, 48) ^ K1, word(block, 56) ^ d);
        }
        *self = Long { a, b, c, d };
    }

    /// Ends with the bytes behind the last block, fewer than 64.
    #[inline]
    pub(crate) fn end(self, rest: &[u8]) -> u64 {
        end(fold(self.a, self.c), fold(self.b, self.d), rest)
    }
}

#[inline]
fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0u8; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Both halves of the 128-bit product, folded into one.
#[inline]
fn mix(x: u64, y: u64) -> u64 {
    let product = u128::from(x) * u128::from(y);
    (product as u64) ^ ((product >> 64) as u64)
}

/// The same, and the factors, so that a zero factor loses nothing.
#[inline]
pub(crate) fn fold(x: u64, y: u64) -> u64 {
    mix(x, y) ^ x.wrapping_add(y.rotate_left(32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_every_input_counts() {
        every_bit_counts(&mut [0u8; 100]);
        every_bit_counts(&mut [0u8; 400]);
    }

    /// The last bytes, by the definition: in a block that zeros fill up.
    #[test]
    fn a_body_of_any_length_ends_as_if_zeros_followed() {
        let body: [u8; 200] = core::array::from_fn(|at| (at * 37 + 11) as u8);
        for len in 0..body.len() {
            let (a, b) = begin(MethodId::of("a/b"), 0, len);
            let body = &body[..len];
            let mut padded = [0; 224];
            padded[..len].copy_from_slice(body);
            let whole = end(a, b, &padded[..len.next_multiple_of(32)]);
            assert_eq!(digest(MethodId::of("a/b"), 0, body), whole, "length {len}");
        }
    }

    fn every_bit_counts(body: &mut [u8]) {
        let method = MethodId::of("a/b");
        let plain = digest(method, 0, body);
        assert_ne!(plain, digest(method, 1, body));
        assert_ne!(plain, digest(MethodId::of("a/c"), 0, body));
        for len in 0..body.len() {
            assert_ne!(plain, digest(method, 0, &body[..len]), "length {len}");
        }
        for bit in 0..body.len() * 8 {
            body[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(plain, digest(method, 0, body), "bit {bit}");
            body[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
