//! Storage that counts how often its tables are looked into: with it, tests show that the work of a step is bounded.

extern crate std;

use std::cell::Cell;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use super::heap::{HeapArray, HeapBody, HeapFreeSlots, HeapTable};
use super::pages::HeapPages;
use super::*;

std::thread_local! {
    static LOOKS: Cell<u64> = const { Cell::new(0) };
}

fn note(looks: usize) {
    LOOKS.set(LOOKS.get() + looks as u64);
}

/// How often `step` looks into a table.
pub(crate) fn looks_of<R>(step: impl FnOnce() -> R) -> (u64, R) {
    let before = LOOKS.get();
    let result = step();
    (LOOKS.get() - before, result)
}

/// Heap storage that counts.
#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(crate) struct Counting;

impl ClientStorage for Counting {
    type Body = HeapBody;
    type Calls<T: State> = Counted<HeapTable<T>>;
    type SlotMap<T: Default + State> = Counted<HeapArray<T>>;
    type FreeSlots = HeapFreeSlots;
    type Blocks<T: Default + State> = Counted<HeapArray<T>>;
    const DEADLINE_BLOCK: u32 = 64;
}

impl ServerStorage for Counting {
    type Body = HeapBody;
    type Slots<T: Default + State> = Counted<HeapPages<T>>;
    type Lazy<T: Default + State> = Option<Box<T>>;
    type Sessions<T: State> = Counted<HeapTable<T>>;
    type Conns<T: State> = Counted<HeapTable<T>>;
    type Quotas<T: State> = Counted<HeapTable<T>>;
    type Index = BTreeMap<u64, u32>;
    type Methods<T: Default + State> = HeapArray<T>;
}

/// A table that counts.
#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(crate) struct Counted<C>(C);

impl<T, C: Places<T>> Places<T> for Counted<C> {
    fn at(&self, index: u32) -> Option<&T> {
        note(1);
        self.0.at(index)
    }

    fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        note(1);
        self.0.at_mut(index)
    }
}

impl<T, C: Table<T>> Table<T> for Counted<C> {
    const CAPACITY: usize = C::CAPACITY;

    fn insert(&mut self, value: T) -> Option<Key> {
        note(1);
        self.0.insert(value)
    }

    fn remove(&mut self, index: u32) -> Option<T> {
        note(1);
        self.0.remove(index)
    }

    fn free(&mut self, index: u32) {
        note(1);
        self.0.free(index);
    }

    fn keyed_mut(&mut self, index: u32) -> Option<(Key, &mut T)> {
        note(1);
        self.0.keyed_mut(index)
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn key_at(&self, index: u32) -> Option<Key> {
        note(1);
        self.0.key_at(index)
    }

    fn high_water(&self) -> u32 {
        self.0.high_water()
    }

    fn get(&self, key: Key) -> Option<&T> {
        note(1);
        self.0.get(key)
    }

    fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        note(1);
        self.0.get_mut(key)
    }
}

impl<T, C: Array<T>> Array<T> for Counted<C> {
    const CAPACITY: usize = C::CAPACITY;

    fn at_or_grow(&mut self, index: u32) -> Option<&mut T> {
        note(1);
        self.0.at_or_grow(index)
    }

    fn growth(&self, index: u32) -> u32 {
        note(1);
        self.0.growth(index)
    }
}

impl<T, C: Flat<T>> Flat<T> for Counted<C> {
    fn len(&self) -> u32 {
        self.0.len()
    }

    fn as_slice(&self) -> &[T] {
        note(self.0.as_slice().len());
        self.0.as_slice()
    }

    fn as_mut_slice(&mut self) -> &mut [T] {
        note(self.0.as_slice().len());
        self.0.as_mut_slice()
    }
}
