//! Storage inside the machine: arrays of fixed capacity, no allocator.

use super::*;

/// Storage of a client without an allocator: at most `CALLS` calls pending, `SLOTS` of them unsettled, each with a
/// request of at most `BODY` bytes.
#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct InlineClient<const CALLS: usize, const SLOTS: usize, const BODY: usize>;

impl<const CALLS: usize, const SLOTS: usize, const BODY: usize> ClientStorage
    for InlineClient<CALLS, SLOTS, BODY>
{
    type Body = InlineBody<BODY>;
    type Calls<T: State> = InlineTable<T, CALLS>;
    type SlotMap<T: Default + State> = InlineArray<T, SLOTS>;
    type FreeSlots = InlineFreeSlots;
    type Blocks<T: Default + State> = InlineArray<T, 1>;
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
    type Body = InlineBody<BODY>;
    type Slots<T: Default + State> = InlineArray<T, SLOTS>;
    type Lazy<T: Default + State> = InPlace<T>;
    type Sessions<T: State> = InlineTable<T, SESSIONS>;
    type Conns<T: State> = InlineTable<T, CONNS>;
    type Quotas<T: State> = InlineTable<T, SESSIONS>;
    type Index = InlineIndex<SESSIONS>;
    type Methods<T: Default + State> = InlineArray<T, METHODS>;
}

#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct InlineBody<const N: usize>(heapless::Vec<u8, N>);

impl<const N: usize> Body for InlineBody<N> {
    const LEN_MAX: usize = N;

    fn store(&mut self, payload: Payload<'_>) -> bool {
        self.0.clear();
        self.0.extend_from_slice(payload.as_slice()).is_ok()
    }

    fn as_slice(&self) -> &[u8] {
        &self.0
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct InlineTable<T, const N: usize> {
    places: [Place<T>; N],
    len: usize,
}

impl<T, const N: usize> Default for InlineTable<T, N> {
    fn default() -> Self {
        InlineTable { places: [const { Place::EMPTY }; N], len: 0 }
    }
}

impl<T, const N: usize> Places<T> for InlineTable<T, N> {
    fn at(&self, index: u32) -> Option<&T> {
        self.places.get(index as usize)?.value.as_ref()
    }

    fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.places.get_mut(index as usize)?.value.as_mut()
    }
}

impl<T, const N: usize> Table<T> for InlineTable<T, N> {
    const CAPACITY: usize = N;

    fn insert(&mut self, value: T) -> Option<Key> {
        let index = self.places.iter().position(|place| place.value.is_none())?;
        self.places[index].value = Some(value);
        self.len += 1;
        self.key_at(index as u32)
    }

    fn remove(&mut self, index: u32) -> Option<T> {
        let value = self.places.get_mut(index as usize)?.take()?;
        self.len -= 1;
        Some(value)
    }

    fn free(&mut self, index: u32) {
        let place = self.places.get_mut(index as usize);
        self.len -= usize::from(place.is_some_and(Place::free));
    }

    fn keyed_mut(&mut self, index: u32) -> Option<(Key, &mut T)> {
        let key = self.key_at(index)?;
        Some((key, self.at_mut(index)?))
    }

    fn len(&self) -> usize {
        self.len
    }

    fn key_at(&self, index: u32) -> Option<Key> {
        self.places.get(index as usize)?.key(index)
    }

    fn high_water(&self) -> u32 {
        N as u32
    }

    fn get(&self, key: Key) -> Option<&T> {
        self.places.get(key.index as usize)?.of(key)
    }

    fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.places.get_mut(key.index as usize)?.of_mut(key)
    }
}

#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct InlineArray<T, const N: usize>(heapless::Vec<T, N>);

impl<T, const N: usize> Default for InlineArray<T, N> {
    fn default() -> Self {
        InlineArray(heapless::Vec::new())
    }
}

impl<T, const N: usize> Places<T> for InlineArray<T, N> {
    fn at(&self, index: u32) -> Option<&T> {
        self.0.get(index as usize)
    }

    fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.0.get_mut(index as usize)
    }
}

impl<T: Default, const N: usize> Array<T> for InlineArray<T, N> {
    const CAPACITY: usize = N;

    fn at_or_grow(&mut self, index: u32) -> Option<&mut T> {
        while self.0.len() <= index as usize {
            self.0.push(T::default()).ok()?;
        }
        self.0.get_mut(index as usize)
    }
}

impl<T: Default, const N: usize> Flat<T> for InlineArray<T, N> {
    fn len(&self) -> u32 {
        self.0.len() as u32
    }

    fn as_slice(&self) -> &[T] {
        &self.0
    }

    fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.0
    }
}

/// Looks at one slot after another: there are as many as the storage has.
#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct InlineFreeSlots;

impl FreeSlots for InlineFreeSlots {
    fn first_from<T>(&self, from: u32, slots: &impl Flat<T>, is_free: impl Fn(&T) -> bool) -> u32 {
        let slots = slots.as_slice();
        let free = slots.iter().skip(from as usize).position(is_free);
        free.map_or((slots.len() as u32).max(from), |at| from + at as u32)
    }

    fn note_taken(&mut self, _: u32) {}

    fn note_freed(&mut self, _: u32) {}
}

#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct InlineIndex<const N: usize>(heapless::Vec<(u64, u32), N>);

impl<const N: usize> Index for InlineIndex<N> {
    fn find(&self, key: u64) -> Option<u32> {
        self.0.iter().find(|entry| entry.0 == key).map(|entry| entry.1)
    }

    fn insert(&mut self, key: u64, index: u32) -> bool {
        self.find(key).is_none() && self.0.push((key, index)).is_ok()
    }

    fn remove(&mut self, key: u64) {
        self.0.retain(|entry| entry.0 != key);
    }
}

#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct InPlace<T>(T);

impl<T: Default> Lazy<T> for InPlace<T> {
    fn get(&self) -> Option<&T> {
        Some(&self.0)
    }

    fn get_mut(&mut self) -> Option<&mut T> {
        Some(&mut self.0)
    }

    fn get_or_make(&mut self) -> &mut T {
        &mut self.0
    }

    fn release(&mut self) {
        self.0 = T::default();
    }
}
