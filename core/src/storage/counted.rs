//! Storage that counts how often its tables are looked into: with it, tests show that the work of a step is bounded.

extern crate std;

use std::cell::Cell;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use core::ops::Deref;

use super::heap::{Chunks, HeapBody, HeapFreeSlots};
use super::pages::Pages;
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
    type Calls<T: State> = Slab<Counted<Chunks<Place<T>>>>;
    type SlotMap<T: Default + State> = CountedVec<T>;
    type FreeSlots = HeapFreeSlots;
    type Blocks<T: Default + State> = CountedVec<T>;
    const DEADLINE_BLOCK: u32 = 64;
}

impl ServerStorage for Counting {
    type Body = HeapBody;
    type Slots<T: Default + State> = Counted<Pages<T>>;
    type Boxed<T: Default + State> = Box<T>;
    type Sessions<T: State> = Slab<Counted<Chunks<Place<T>>>>;
    type Conns<T: State> = Slab<Counted<Chunks<Place<T>>>>;
    type Quotas<T: State> = Slab<Counted<Chunks<Place<T>>>>;
    type Index = BTreeMap<u64, u32>;
    type Methods<T: Default + State> = Vec<T>;
}

/// An array that counts.
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

/// The same, as one slice.
#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(crate) struct CountedVec<T>(Vec<T>);

impl<T> Deref for CountedVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        note(1);
        &self.0
    }
}

impl<T> DerefMut for CountedVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        note(1);
        &mut self.0
    }
}

impl<T: Default> Array<T> for CountedVec<T> {
    const CAPACITY: usize = Vec::<T>::CAPACITY;

    fn at_or_grow(&mut self, index: u32) -> Option<&mut T> {
        note(1);
        self.0.at_or_grow(index)
    }
}
