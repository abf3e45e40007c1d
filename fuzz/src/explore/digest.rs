//! Digests of states, and parts of states that are shared until they change.

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// A part of a state. It is copied, and hashed again, only when it changes: most steps change one machine.
#[derive(Clone)]
pub(super) struct Shared<T> {
    value: Rc<T>,
    /// 0 if it is not known.
    digest: Cell<u128>,
}

impl<T> Shared<T> {
    pub(super) fn new(value: T) -> Shared<T> {
        Shared { value: Rc::new(value), digest: Cell::new(0) }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.digest.set(0);
        Rc::make_mut(&mut self.value)
    }
}

impl<T: Hash> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        if self.digest.get() == 0 {
            self.digest.set(digest(&*self.value));
        }
        state.write_u128(self.digest.get());
    }
}

/// 128 bits that stand for a value.
pub(super) fn digest(value: &impl Hash) -> u128 {
    let mut lanes = Lanes { a: 0x243f_6a88_85a3_08d3, b: 0x1319_8a2e_0370_7344 };
    value.hash(&mut lanes);
    u128::from(lanes.a) << 64 | u128::from(lanes.b)
}

/// Two independent hashes at once, each by folded multiplication.
struct Lanes {
    a: u64,
    b: u64,
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl Hasher for Lanes {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
        self.write_u64(bytes.len() as u64);
    }

    fn write_u64(&mut self, word: u64) {
        self.a = fold(self.a ^ word, 0x9e37_79b9_7f4a_7c15).wrapping_add(0x0345_2821_e638_d013);
        self.b = fold(self.b.rotate_left(23) ^ word, 0xd6e8_feb8_6659_fd93) ^ 0xa409_3822_299f_31d0;
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u128(&mut self, word: u128) {
        self.write_u64(word as u64);
        self.write_u64((word >> 64) as u64);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.a
    }
}

/// For digests: their low bits are as good a hash as any.
#[derive(Default)]
pub(super) struct Low(u64);

impl Hasher for Low {
    fn write(&mut self, bytes: &[u8]) {
        let mut word = [0; 8];
        let len = bytes.len().min(8);
        word[..len].copy_from_slice(&bytes[..len]);
        self.0 = u64::from_le_bytes(word);
    }

    fn write_u128(&mut self, word: u128) {
        self.0 = word as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
