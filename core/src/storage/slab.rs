//! The table: places that are given out and taken back, in an array of either kind of memory.

use super::{Array, Places, Table};
use crate::ids::Key;
use crate::storage::list::NIL;

/// One place of a table.
#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct Place<T> {
    /// Grows when the place is freed, so that keys of earlier tenants do not name later ones.
    generation: u32,
    /// The next free place, while this one is free and not the last one.
    next_free: u32,
    value: Option<T>,
}

impl<T> Default for Place<T> {
    fn default() -> Self {
        Place { generation: 0, next_free: NIL, value: None }
    }
}

impl<T> Place<T> {
    /// It is empty now: its next tenant has another key. It is the first of the free places, if those are listed.
    #[inline(always)]
    fn vacate(&mut self, index: u32, first_free: Option<&mut u32>) {
        self.generation = self.generation.wrapping_add(1);
        if let Some(first_free) = first_free {
            self.next_free = core::mem::replace(first_free, index);
        }
    }
}

/// A place that is taken, and what changes when it is freed.
#[derive(Debug)]
pub struct Occupied<'t, T> {
    index: u32,
    place: &'t mut Place<T>,
    first_free: Option<&'t mut u32>,
    len: &'t mut u32,
}

impl<T> Occupied<'_, T> {
    #[inline(always)]
    pub(crate) fn key(&self) -> Key {
        Key { index: self.index, generation: self.place.generation }
    }

    #[inline(always)]
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        self.place.value.as_mut()
    }

    /// Not by moving the entry, as [`remove`](Table::remove) does.
    #[inline(always)]
    pub(crate) fn free(self) {
        self.place.value = None;
        self.place.vacate(self.index, self.first_free);
        *self.len -= 1;
    }
}

/// Up to this many places are searched for the lowest free one. So machines with the same entries look the same, whatever
/// was freed in which order, and the explorer has fewer to visit.
const SEARCHED_MAX: usize = 64;

/// A table in the memory of `A`. Of a large one, the place that was freed last is given out first.
#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct Slab<A> {
    places: A,
    /// A free place, or `NIL` if all that were used are taken.
    first_free: u32,
    used: u32,
    len: u32,
}

impl<A: Default> Default for Slab<A> {
    fn default() -> Self {
        Slab { places: A::default(), first_free: NIL, used: 0, len: 0 }
    }
}

impl<T, A: Array<Place<T>>> Places<T> for Slab<A> {
    #[inline(always)]
    fn at(&self, index: u32) -> Option<&T> {
        self.places.at(index)?.value.as_ref()
    }

    #[inline(always)]
    fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.places.at_mut(index)?.value.as_mut()
    }
}

impl<T, A: Array<Place<T>>> Table<T> for Slab<A> {
    const CAPACITY: usize = A::CAPACITY;

    #[inline]
    fn insert_with(&mut self, make: impl FnOnce() -> T) -> Option<(Key, &mut T)> {
        let free = match self.first_free {
            NIL if A::CAPACITY <= SEARCHED_MAX => (0..self.used).find(|at| self.at(*at).is_none()),
            NIL => None,
            free => Some(free),
        };
        let index = free.unwrap_or(self.used);
        let place = self.places.at_or_grow(index)?;
        debug_assert!(place.value.is_none(), "a free place is empty");
        self.first_free = core::mem::replace(&mut place.next_free, NIL);
        self.used = self.used.max(index + 1);
        self.len += 1;
        let key = Key { index, generation: place.generation };
        Some((key, place.value.get_or_insert_with(make)))
    }

    #[inline]
    fn remove(&mut self, index: u32) -> Option<T> {
        let place = self.places.at_mut(index)?;
        let value = place.value.take()?;
        place.vacate(index, (A::CAPACITY > SEARCHED_MAX).then_some(&mut self.first_free));
        self.len -= 1;
        Some(value)
    }

    #[inline(always)]
    fn occupied(&mut self, index: u32) -> Option<Occupied<'_, T>> {
        let place = self.places.at_mut(index).filter(|place| place.value.is_some())?;
        let first_free = (A::CAPACITY > SEARCHED_MAX).then_some(&mut self.first_free);
        Some(Occupied { index, place, first_free, len: &mut self.len })
    }

    #[inline]
    fn len(&self) -> usize {
        self.len as usize
    }

    #[inline]
    fn high_water(&self) -> u32 {
        self.used
    }

    #[inline(always)]
    fn keyed_mut(&mut self, index: u32) -> Option<(Key, &mut T)> {
        let place = self.places.at_mut(index)?;
        let generation = place.generation;
        Some((Key { index, generation }, place.value.as_mut()?))
    }

    #[inline]
    fn key_at(&self, index: u32) -> Option<Key> {
        let place = self.places.at(index)?;
        place.value.as_ref().map(|_| Key { index, generation: place.generation })
    }

    #[inline]
    fn get(&self, key: Key) -> Option<&T> {
        let place = self.places.at(key.index)?;
        place.value.as_ref().filter(|_| place.generation == key.generation)
    }

    #[inline]
    fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let place = self.places.at_mut(key.index)?;
        place.value.as_mut().filter(|_| place.generation == key.generation)
    }
}
