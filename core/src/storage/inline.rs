//! Storage inside the machine: arrays of fixed capacity, no allocator.

use core::ops::Deref;

use super::*;
use crate::wire::Varint;

/// Storage of a client without an allocator: at most `CALLS` calls pending, `SLOTS` of them unsettled, each with a
/// request of at most `BODY` bytes.
#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct InlineClient<const CALLS: usize, const SLOTS: usize, const BODY: usize>;

impl<const CALLS: usize, const SLOTS: usize, const BODY: usize> ClientStorage
    for InlineClient<CALLS, SLOTS, BODY>
{
    type Body = heapless::Vec<u8, BODY>;
    type Calls<T: State> = InlineTable<T, CALLS>;
    type SlotMap<T: Default + State> = heapless::Vec<T, SLOTS>;
    type FreeSlots = InlineFreeSlots;
    type Blocks<T: Default + State> = heapless::Vec<T, 1>;
    const DEADLINE_BLOCK: u32 = u32::MAX;
}

/// Storage of a server without an allocator: at most `SESSIONS` sessions of `SLOTS` slots, each with a kept reply of
/// at most `BODY` bytes; `CONNS` connections (one more than sessions lets a client resume while its old connection
/// is not yet known to be dead); `METHODS` methods.
#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct InlineServer<
    const SESSIONS: usize,
    const CONNS: usize,
    const SLOTS: usize,
    const METHODS: usize,
    const BODY: usize,
>;

impl<
    const SESSIONS: usize,
    const CONNS: usize,
    const SLOTS: usize,
    const METHODS: usize,
    const BODY: usize,
> ServerStorage for InlineServer<SESSIONS, CONNS, SLOTS, METHODS, BODY>
{
    type Body = heapless::Vec<u8, BODY>;
    type Slots<T: Default + State> = heapless::Vec<T, SLOTS>;
    type Boxed<T: Default + State> = InPlace<T>;
    type Sessions<T: State> = InlineTable<T, SESSIONS>;
    type Conns<T: State> = InlineTable<T, CONNS>;
    type Quotas<T: State> = InlineTable<T, SESSIONS>;
    type Index = heapless::Vec<(u64, u32), SESSIONS>;
    type Methods<T: Default + State> = heapless::Vec<T, METHODS>;
}

type InlineTable<T, const N: usize> = Slab<heapless::Vec<Place<T>, N>>;

impl<const N: usize> Body for heapless::Vec<u8, N> {
    const LEN_MAX: usize = N;

    fn store(&mut self, payload: Payload<'_>) -> bool {
        self.clear();
        self.extend_from_slice(payload.as_slice()).is_ok()
    }

    fn store_with_len(&mut self, payload: Payload<'_>) -> bool {
        let bytes = payload.as_slice();
        self.clear();
        self.extend_from_slice(Varint::of(bytes.len()).as_slice()).is_ok()
            && self.extend_from_slice(bytes).is_ok()
    }

    fn last_piece(&self) -> &[u8] {
        self
    }

    fn release(&mut self) {
        self.clear();
    }
}

impl<T: Default, const N: usize> Array<T> for heapless::Vec<T, N> {
    const CAPACITY: usize = N;

    fn at_or_grow(&mut self, index: u32) -> Option<&mut T> {
        while self.len() <= index as usize {
            self.push(T::default()).ok()?;
        }
        self.at_mut(index)
    }
}

/// Looks at one slot after another: there are as many as the storage has.
#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct InlineFreeSlots;

impl FreeSlots for InlineFreeSlots {
    fn first_from<T>(&self, from: u32, slots: &[T], is_free: impl Fn(&T) -> bool) -> u32 {
        let free = slots.iter().skip(from as usize).position(is_free);
        free.map_or((slots.len() as u32).max(from), |at| from + at as u32)
    }

    fn note_taken(&mut self, _: u32) {}

    fn note_freed(&mut self, _: u32) {}
}

impl<const N: usize> Index for heapless::Vec<(u64, u32), N> {
    fn find(&self, key: u64) -> Option<u32> {
        self.iter().find(|entry| entry.0 == key).map(|entry| entry.1)
    }

    fn insert(&mut self, key: u64, index: u32) -> bool {
        self.find(key).is_none() && self.push((key, index)).is_ok()
    }

    fn remove(&mut self, key: u64) {
        self.retain(|entry| entry.0 != key);
    }
}

/// What stands for a box.
#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct InPlace<T>(T);

impl<T> Deref for InPlace<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for InPlace<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
