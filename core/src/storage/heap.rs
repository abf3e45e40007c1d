//! Storage on the heap: tables that grow, and give memory back where it counts.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use bytes::Bytes;

use super::pages::HeapPages;
use super::*;

/// Storage on the heap, for clients and servers; the machines' configurations set the limits.
#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct Heap;

impl ClientStorage for Heap {
    type Body = HeapBody;
    type Calls<T: State> = HeapTable<T>;
    type SlotMap<T: Default + State> = HeapArray<T>;
    type FreeSlots = HeapFreeSlots;
    type Blocks<T: Default + State> = HeapArray<T>;
    const DEADLINE_BLOCK: u32 = 64;
}

impl ServerStorage for Heap {
    type Body = HeapBody;
    type Slots<T: Default + State> = HeapPages<T>;
    type Lazy<T: Default + State> = Option<Box<T>>;
    type Sessions<T: State> = HeapTable<T>;
    type Conns<T: State> = HeapTable<T>;
    type Quotas<T: State> = HeapTable<T>;
    type Index = BTreeMap<u64, u32>;
    type Methods<T: Default + State> = HeapArray<T>;
}

/// Payloads at least this long are shared rather than copied.
const SHARE_LEN_MIN: usize = 1024;
/// A cleared body keeps at most this much memory for the next payload.
const RETAIN_LEN_MAX: usize = 256;
/// Payloads up to this long need no memory of their own: with them, a body has 64 bytes.
const SMALL_LEN_MAX: usize = 62;

#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub enum HeapBody {
    Small { len: u8, bytes: [u8; SMALL_LEN_MAX] },
    Own(Vec<u8>),
    Shared(Bytes),
}

impl Default for HeapBody {
    #[inline]
    fn default() -> Self {
        HeapBody::Small { len: 0, bytes: [0; SMALL_LEN_MAX] }
    }
}

impl Body for HeapBody {
    const LEN_MAX: usize = u32::MAX as usize / 2;

    #[inline]
    fn store(&mut self, payload: Payload<'_>) -> bool {
        let slice = match payload {
            Payload::Shared(bytes) if bytes.len() >= SHARE_LEN_MIN => {
                *self = HeapBody::Shared(bytes);
                return self.as_slice().len() <= Self::LEN_MAX;
            }
            ref other => other.as_slice(),
        };
        match self {
            HeapBody::Small { len, bytes } if slice.len() <= SMALL_LEN_MAX => {
                *len = slice.len() as u8;
                bytes[..slice.len()].copy_from_slice(slice);
            }
            HeapBody::Own(vec) => {
                vec.clear();
                vec.extend_from_slice(slice);
            }
            HeapBody::Small { .. } | HeapBody::Shared(_) => *self = HeapBody::Own(slice.to_vec()),
        }
        slice.len() <= Self::LEN_MAX
    }

    #[inline]
    fn as_slice(&self) -> &[u8] {
        match self {
            HeapBody::Small { len, bytes } => &bytes[..usize::from(*len)],
            HeapBody::Own(vec) => vec,
            HeapBody::Shared(bytes) => bytes,
        }
    }

    fn shared(&self) -> Option<&Bytes> {
        match self {
            HeapBody::Shared(bytes) => Some(bytes),
            HeapBody::Small { .. } | HeapBody::Own(_) => None,
        }
    }

    #[inline]
    fn clear(&mut self) {
        match self {
            HeapBody::Small { len, .. } => *len = 0,
            HeapBody::Own(vec) if vec.capacity() <= RETAIN_LEN_MAX => vec.clear(),
            HeapBody::Own(_) | HeapBody::Shared(_) => *self = HeapBody::default(),
        }
    }

    #[inline]
    fn release(&mut self) {
        match self {
            HeapBody::Small { len, .. } => *len = 0,
            HeapBody::Own(_) | HeapBody::Shared(_) => *self = HeapBody::default(),
        }
    }

    #[inline]
    fn store_in(&mut self, payload: Payload<'_>, spare: &mut Self) -> bool {
        if payload.as_slice().len() > SMALL_LEN_MAX {
            core::mem::swap(self, spare);
        }
        self.store(payload)
    }

    #[inline]
    fn leave_in(&mut self, spare: &mut Self) {
        if let HeapBody::Own(_) = self {
            self.clear();
            core::mem::swap(self, spare);
        }
    }
}

/// Places in chunks, so that growing neither moves entries nor holds twice the memory.
const CHUNK_LEN: usize = 64;

#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct HeapTable<T> {
    chunks: Vec<Box<[Place<T>; CHUNK_LEN]>>,
    free: Vec<u32>,
    used: u32,
}

impl<T> Default for HeapTable<T> {
    fn default() -> Self {
        HeapTable { chunks: Vec::new(), free: Vec::new(), used: 0 }
    }
}

impl<T> HeapTable<T> {
    #[inline]
    fn place(&self, index: u32) -> Option<&Place<T>> {
        let index = index as usize;
        Some(&self.chunks.get(index / CHUNK_LEN)?[index % CHUNK_LEN])
    }

    #[inline]
    fn place_mut(&mut self, index: u32) -> Option<&mut Place<T>> {
        let index = index as usize;
        Some(&mut self.chunks.get_mut(index / CHUNK_LEN)?[index % CHUNK_LEN])
    }
}

impl<T> Places<T> for HeapTable<T> {
    #[inline]
    fn at(&self, index: u32) -> Option<&T> {
        self.place(index)?.value.as_ref()
    }

    #[inline]
    fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.place_mut(index)?.value.as_mut()
    }
}

impl<T> Table<T> for HeapTable<T> {
    const CAPACITY: usize = (u32::MAX - 2) as usize;

    #[inline]
    fn insert(&mut self, value: T) -> Option<Key> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if (self.used as usize) < Self::CAPACITY => {
                if self.chunks.len() == self.used as usize / CHUNK_LEN {
                    self.chunks.push(chunk()?);
                }
                self.used += 1;
                self.used - 1
            }
            None => return None,
        };
        let place = self.place_mut(index)?;
        let generation = place.generation;
        place.value = Some(value);
        Some(Key { index, generation })
    }

    #[inline]
    fn remove(&mut self, index: u32) -> Option<T> {
        let value = self.place_mut(index)?.take()?;
        self.free.push(index);
        Some(value)
    }

    #[inline]
    fn free(&mut self, index: u32) {
        if self.place_mut(index).is_some_and(Place::free) {
            self.free.push(index);
        }
    }

    #[inline]
    fn keyed_mut(&mut self, index: u32) -> Option<(Key, &mut T)> {
        let place = self.place_mut(index)?;
        let generation = place.generation;
        Some((Key { index, generation }, place.value.as_mut()?))
    }

    #[inline]
    fn len(&self) -> usize {
        self.used as usize - self.free.len()
    }

    fn key_at(&self, index: u32) -> Option<Key> {
        self.place(index)?.key(index)
    }

    fn high_water(&self) -> u32 {
        self.used
    }

    #[inline]
    fn get(&self, key: Key) -> Option<&T> {
        self.place(key.index)?.of(key)
    }

    #[inline]
    fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.place_mut(key.index)?.of_mut(key)
    }
}

fn chunk<T>() -> Option<Box<[Place<T>; CHUNK_LEN]>> {
    let mut places = Vec::with_capacity(CHUNK_LEN);
    places.resize_with(CHUNK_LEN, || Place::EMPTY);
    places.into_boxed_slice().try_into().ok()
}

#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct HeapArray<T>(Vec<T>);

impl<T> Default for HeapArray<T> {
    fn default() -> Self {
        HeapArray(Vec::new())
    }
}

impl<T> Places<T> for HeapArray<T> {
    #[inline]
    fn at(&self, index: u32) -> Option<&T> {
        self.0.get(index as usize)
    }

    #[inline]
    fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.0.get_mut(index as usize)
    }
}

impl<T: Default> Array<T> for HeapArray<T> {
    const CAPACITY: usize = (u32::MAX - 2) as usize;

    #[inline]
    fn at_or_grow(&mut self, index: u32) -> Option<&mut T> {
        let needed = index as usize + 1;
        if self.0.len() < needed {
            self.0.resize_with(needed, T::default);
        }
        self.0.get_mut(index as usize)
    }
}

impl<T: Default> Flat<T> for HeapArray<T> {
    #[inline]
    fn len(&self) -> u32 {
        self.0.len() as u32
    }

    #[inline]
    fn as_slice(&self) -> &[T] {
        &self.0
    }

    fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.0
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
    fn first_from<T>(&self, from: u32, _: &impl Flat<T>, _: impl Fn(&T) -> bool) -> u32 {
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
        match self.entry(key) {
            alloc::collections::btree_map::Entry::Vacant(place) => {
                place.insert(index);
                true
            }
            alloc::collections::btree_map::Entry::Occupied(_) => false,
        }
    }

    #[inline]
    fn remove(&mut self, key: u64) {
        BTreeMap::remove(self, &key);
    }
}

impl<T: Default> Lazy<T> for Option<Box<T>> {
    fn get(&self) -> Option<&T> {
        self.as_deref()
    }

    fn get_mut(&mut self) -> Option<&mut T> {
        self.as_deref_mut()
    }

    #[inline]
    fn get_or_make(&mut self) -> &mut T {
        self.get_or_insert_with(Box::default)
    }

    fn release(&mut self) {
        *self = None;
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
        let slots = HeapArray::<u32>::default();
        let check = |free: &HeapFreeSlots, model: &BTreeSet<u32>, from: u32| {
            let expected = (from..).find(|slot| !model.contains(slot)).unwrap();
            assert_eq!(free.first_from(from, &slots, |_| true), expected, "from {from}");
        };
        for slot in 0..SLOTS {
            assert_eq!(free.first_from(0, &slots, |_| true), slot);
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
                let lowest = free.first_from(0, &slots, |_| true);
                model.insert(lowest);
                free.note_taken(lowest);
            }
            check(&free, &model, 0);
            check(&free, &model, (seed >> 20) as u32 % (SLOTS + 200));
        }
    }
}
