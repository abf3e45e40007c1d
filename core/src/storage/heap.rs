//! Storage on the heap: tables that grow, and give memory back where it counts.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use bytes::Bytes;

use super::copy::copy;
use super::list::INDEX_MAX;
use super::pages::{Pages, filled};
use super::*;
use crate::wire::{Varint, len_with_len};

/// Storage on the heap, for clients and servers; the machines' configurations set the limits.
#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct Heap;

impl ClientStorage for Heap {
    type Body = HeapBody;
    type Calls<T: State> = Slab<Chunks<Place<T>>>;
    type SlotMap<T: Default + State> = Vec<T>;
    type FreeSlots = HeapFreeSlots;
    type Blocks<T: Default + State> = Vec<T>;
    const DEADLINE_BLOCK: u32 = 64;
}

impl ServerStorage for Heap {
    type Body = HeapBody;
    type Slots<T: Default + State> = Pages<T>;
    type Boxed<T: Default + State> = Box<T>;
    type Sessions<T: State> = Slab<Chunks<Place<T>>>;
    type Conns<T: State> = Slab<Chunks<Place<T>>>;
    type Quotas<T: State> = Slab<Chunks<Place<T>>>;
    type Index = BTreeMap<u64, u32>;
    type Methods<T: Default + State> = Vec<T>;
}

/// Payloads at least this long are shared rather than copied.
const SHARE_LEN_MIN: usize = 1024;
/// At most this much memory of a body is kept for the next one.
const RETAIN_LEN_MAX: usize = 256;
/// Payloads up to this long need no allocation: with them, a body has 64 bytes.
const SMALL_LEN_MAX: usize = 62;

#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub enum HeapBody {
    Small {
        len: u8,
        bytes: [u8; SMALL_LEN_MAX],
    },
    Own(Vec<u8>),
    Shared {
        /// Behind their length.
        with_len: bool,
        bytes: Bytes,
    },
}

impl Default for HeapBody {
    #[inline]
    fn default() -> Self {
        HeapBody::Small { len: 0, bytes: [0; SMALL_LEN_MAX] }
    }
}

impl Body for HeapBody {
    const LEN_MAX: usize = u32::MAX as usize / 2;

    #[inline(always)]
    fn store(&mut self, payload: Payload<'_>) -> bool {
        if let HeapBody::Small { len, bytes } = self
            && let slice = payload.as_slice()
            && let Some(place) = bytes.get_mut(..slice.len())
        {
            // As for most calls.
            *len = slice.len() as u8;
            copy(slice, place);
            return true;
        }
        self.store_long(payload)
    }

    #[cold]
    #[inline(never)]
    fn store_with_len(&mut self, payload: Payload<'_>) -> bool {
        *self = match payload {
            Payload::Shared(bytes) if bytes.len() >= SHARE_LEN_MIN => {
                HeapBody::Shared { with_len: true, bytes }
            }
            ref other => {
                let bytes = other.as_slice();
                HeapBody::Own([Varint::of(bytes.len()).as_slice(), bytes].concat())
            }
        };
        self.len() <= Self::LEN_MAX
    }

    #[inline(always)]
    fn last_piece(&self) -> &[u8] {
        match self {
            HeapBody::Small { len, bytes } => &bytes[..usize::from(*len)],
            HeapBody::Own(vec) => vec,
            HeapBody::Shared { bytes, .. } => bytes,
        }
    }

    fn has_len(&self) -> bool {
        matches!(self, HeapBody::Shared { with_len: true, .. })
    }

    #[inline(always)]
    fn own(&self) -> Option<&[u8]> {
        match self {
            HeapBody::Small { len, bytes } => Some(&bytes[..usize::from(*len)]),
            HeapBody::Own(vec) => Some(vec),
            HeapBody::Shared { .. } => None,
        }
    }

    #[cold]
    #[inline(never)]
    fn shared_len(&self) -> usize {
        match self {
            HeapBody::Shared { with_len: true, bytes } => len_with_len(bytes.len()),
            HeapBody::Shared { with_len: false, bytes } => bytes.len(),
            HeapBody::Small { .. } | HeapBody::Own(_) => 0,
        }
    }

    fn join(&mut self) {
        if let HeapBody::Shared { with_len: true, bytes } = self {
            *self = HeapBody::Own([Varint::of(bytes.len()).as_slice(), bytes].concat());
        }
    }

    fn shared_from(&self, at: usize) -> Option<Bytes> {
        match self {
            HeapBody::Shared { bytes, .. } => {
                let at = at.checked_sub(self.len() - bytes.len())?;
                Some(bytes.slice(at..))
            }
            HeapBody::Small { .. } | HeapBody::Own(_) => None,
        }
    }

    #[inline]
    fn release(&mut self) {
        match self {
            HeapBody::Small { len, .. } => *len = 0,
            HeapBody::Own(_) | HeapBody::Shared { .. } => *self = HeapBody::default(),
        }
    }

    #[inline]
    fn store_in(&mut self, payload: Payload<'_>, spare: &mut Self) -> bool {
        if payload.as_slice().len() > SMALL_LEN_MAX {
            core::mem::swap(self, spare);
        }
        self.store(payload)
    }

    #[inline(always)]
    fn leave_in(&mut self, spare: &mut Self) {
        if let HeapBody::Own(vec) = self
            && vec.capacity() <= RETAIN_LEN_MAX
        {
            core::mem::swap(self, spare);
        }
    }
}

impl HeapBody {
    /// [`store`](Body::store) for what does not fit in place, or where there is memory for it.
    #[inline(never)]
    fn store_long(&mut self, payload: Payload<'_>) -> bool {
        let slice = match payload {
            Payload::Shared(bytes) if bytes.len() >= SHARE_LEN_MIN => {
                *self = HeapBody::Shared { with_len: false, bytes };
                return self.len() <= Self::LEN_MAX;
            }
            ref other => other.as_slice(),
        };
        match self {
            HeapBody::Own(vec) => {
                vec.clear();
                vec.extend_from_slice(slice);
            }
            HeapBody::Small { .. } | HeapBody::Shared { .. } => {
                *self = HeapBody::Own(slice.to_vec())
            }
        }
        slice.len() <= Self::LEN_MAX
    }
}

const CHUNK_LEN: usize = 64;

/// An array in chunks, so that growing neither moves entries nor holds twice the memory. The first chunk lies apart: a
/// call looks up its client's entries and its connection some twenty times, and there that takes half the instructions.
#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct Chunks<T> {
    /// Empty, or whole.
    front: Vec<T>,
    /// The chunks behind it.
    behind: Vec<Box<[T; CHUNK_LEN]>>,
}

/// The chunk behind the front in which an entry lies; for one of the front, a number that no chunk has.
#[inline]
fn chunk_behind(index: usize) -> usize {
    (index / CHUNK_LEN).wrapping_sub(1)
}

impl<T> Places<T> for Chunks<T> {
    #[inline]
    fn at(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        match self.front.get(index) {
            Some(entry) => Some(entry),
            None => Some(&self.behind.get(chunk_behind(index))?[index % CHUNK_LEN]),
        }
    }

    #[inline]
    fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        let index = index as usize;
        if index < self.front.len() {
            return self.front.get_mut(index);
        }
        Some(&mut self.behind.get_mut(chunk_behind(index))?[index % CHUNK_LEN])
    }
}

impl<T: Default> Chunks<T> {
    #[cold]
    fn grow(&mut self, index: usize) {
        if self.front.is_empty() {
            self.front.reserve_exact(CHUNK_LEN);
            self.front.resize_with(CHUNK_LEN, T::default);
        }
        while self.behind.len() < index / CHUNK_LEN {
            self.behind.push(filled());
        }
    }
}

impl<T: Default> Array<T> for Chunks<T> {
    const CAPACITY: usize = INDEX_MAX;

    #[inline]
    fn at_or_grow(&mut self, index: u32) -> Option<&mut T> {
        if self.at(index).is_none() {
            self.grow(index as usize);
        }
        self.at_mut(index)
    }
}

impl<T: Default> Array<T> for Vec<T> {
    const CAPACITY: usize = INDEX_MAX;

    #[inline]
    fn at_or_grow(&mut self, index: u32) -> Option<&mut T> {
        if self.len() <= index as usize {
            self.resize_with(index as usize + 1, T::default);
        }
        self.at_mut(index)
    }
}

/// A bit for each slot, and one for each 64 slots: 65,536 slots are searched in at most 19 words.
#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct HeapFreeSlots {
    /// Of the first slots, those that are taken: nearly every client needs no more.
    front: u64,
    /// The same of the slots behind them.
    taken: Vec<u64>,
    /// The words of `taken` that are full.
    full: Vec<u64>,
}

const WORD: u32 = u64::BITS;

/// The lowest bit that is not set and not below `from`.
#[inline]
fn clear_bit_from(word: u64, from: u32) -> Option<u32> {
    let free = !word & (u64::MAX << from);
    (free != 0).then_some(free.trailing_zeros())
}

impl HeapFreeSlots {
    /// The lowest free slot from `from`, both counted from the first one behind the front.
    #[cold]
    fn first_behind(&self, from: u32) -> u32 {
        let Some(word) = self.taken.get((from / WORD) as usize) else { return from };
        if let Some(bit) = clear_bit_from(*word, from % WORD) {
            return from / WORD * WORD + bit;
        }
        let mut at = from / WORD + 1;
        while let Some(full) = self.full.get((at / WORD) as usize) {
            if let Some(bit) = clear_bit_from(*full, at % WORD) {
                at = at / WORD * WORD + bit;
                break;
            }
            at = (at / WORD + 1) * WORD;
        }
        at * WORD + self.taken.get(at as usize).map_or(0, |word| word.trailing_ones())
    }

    /// Notes that a slot is taken, counted from the first one behind the front.
    #[cold]
    fn take_behind(&mut self, slot: u32) {
        let at = (slot / WORD) as usize;
        if self.taken.len() <= at {
            self.taken.resize(at + 1, 0);
            self.full.resize(at / WORD as usize + 1, 0);
        }
        let word = &mut self.taken[at];
        *word |= 1 << (slot % WORD);
        if *word == u64::MAX {
            self.full[at / WORD as usize] |= 1 << (at as u32 % WORD);
        }
    }

    /// Notes that a slot is free, counted from the first one behind the front.
    #[cold]
    fn free_behind(&mut self, slot: u32) {
        let at = (slot / WORD) as usize;
        let Some(word) = self.taken.get_mut(at) else { return };
        *word &= !(1 << (slot % WORD));
        self.full[at / WORD as usize] &= !(1 << (at as u32 % WORD));
    }
}

impl FreeSlots for HeapFreeSlots {
    #[inline]
    fn first_from<T>(&self, from: u32, _: &[T], _: impl Fn(&T) -> bool) -> u32 {
        if from < WORD
            && let Some(bit) = clear_bit_from(self.front, from)
        {
            return bit;
        }
        WORD + self.first_behind(from.saturating_sub(WORD))
    }

    #[inline]
    fn note_taken(&mut self, slot: u32) {
        match slot.checked_sub(WORD) {
            None => self.front |= 1 << slot,
            Some(behind) => self.take_behind(behind),
        }
    }

    #[inline]
    fn note_freed(&mut self, slot: u32) {
        match slot.checked_sub(WORD) {
            None => self.front &= !(1 << slot),
            Some(behind) => self.free_behind(behind),
        }
    }
}

impl Index for BTreeMap<u64, u32> {
    fn find(&self, key: u64) -> Option<u32> {
        self.get(&key).copied()
    }

    #[inline]
    fn insert(&mut self, key: u64, index: u32) -> bool {
        let is_free = !self.contains_key(&key);
        if is_free {
            BTreeMap::insert(self, key, index);
        }
        is_free
    }

    #[inline]
    fn remove(&mut self, key: u64) {
        BTreeMap::remove(self, &key);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_lowest_free_slot_is_found_wherever_it_is() {
        const SLOTS: u32 = 64 * 64 * 3 + 5;
        let mut free = HeapFreeSlots::default();
        let mut model = BTreeSet::new();
        let check = |free: &HeapFreeSlots, model: &BTreeSet<u32>, from: u32| {
            let expected = (from..).find(|slot| !model.contains(slot)).unwrap();
            assert_eq!(free.first_from(from, &[0], |_| true), expected, "from {from}");
        };
        for slot in 0..SLOTS {
            assert_eq!(free.first_from(0, &[0], |_| true), slot);
            free.note_taken(slot);
            model.insert(slot);
        }
        let mut seed = 1_u64;
        for _ in 0..2_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let slot = (seed >> 33) as u32 % SLOTS;
            if model.remove(&slot) {
                free.note_freed(slot);
            } else {
                model.insert(slot);
                free.note_taken(slot);
            }
            if seed >> 40 & 7 == 0 {
                let lowest = free.first_from(0, &[0], |_| true);
                model.insert(lowest);
                free.note_taken(lowest);
            }
            check(&free, &model, 0);
            check(&free, &model, (seed >> 20) as u32 % (SLOTS + 200));
        }
    }
}
