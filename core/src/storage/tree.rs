//! A search tree through the entries of a table: no allocation, and a bound on every operation.

use super::Places;
use crate::storage::list::{Linked, Links, NIL};

/// An entry that can be in a tree of kind `L`, or on a list of that kind, but not in both at once.
pub(crate) trait Ordered<const L: u8>: Linked<L> {
    /// What the tree is ordered by; no two entries of a tree have the same, and none changes while it is in the tree.
    fn key(&self) -> u64;
}

/// A digital search tree of kind `L`: at each level, one more bit of the key, from the highest, says into which half it
/// goes. So no operation visits more than 64 entries, whatever keys a peer chooses and in whatever order; no balance
/// has to be kept. An entry may lie anywhere on the way that its key describes: all keys in the lower half of a place are
/// below all those in its upper half, and the entry at the place itself is somewhere among them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree<const L: u8> {
    root: u32,
}

impl<const L: u8> Default for Tree<L> {
    fn default() -> Self {
        Tree { root: NIL }
    }
}

/// Where an entry hangs: the one above it and the half that it is in; at the root, no one and any half.
#[derive(Clone, Copy)]
struct Place {
    above: u32,
    upper: bool,
}

const ROOT: Place = Place { above: NIL, upper: false };

fn half(links: &Links, upper: bool) -> u32 {
    if upper { links.next } else { links.prev }
}

impl<const L: u8> Tree<L> {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.root == NIL
    }

    /// Inserts an entry that is in no tree and on no list.
    pub(crate) fn insert<T: Ordered<L>>(&mut self, places: &mut impl Places<T>, index: u32) {
        let Some(entry) = places.live_mut(index) else { return };
        debug_assert!(!entry.links().is_linked(), "it is linked already");
        *entry.links_mut() = Links { prev: NIL, next: NIL };
        let key = entry.key();
        let (place, found) = self.find(places, key, NIL);
        debug_assert!(found == NIL, "two entries with one key");
        self.hang(places, place, index);
    }

    /// Removes an entry of this tree. Any entry below it may take its place: here it is one without halves.
    pub(crate) fn remove<T: Ordered<L>>(&mut self, places: &mut impl Places<T>, index: u32) {
        let Some(entry) = places.live_mut(index) else { return };
        let (key, links) = (entry.key(), core::mem::take(entry.links_mut()));
        debug_assert!(links.is_linked(), "it is in no tree");
        let (place, _) = self.find(places, key, index);
        let (mut leaf, mut at) = (NIL, place);
        let mut below = links;
        loop {
            let upper = below.prev == NIL;
            let next = half(&below, upper);
            let Some(entry) = places.at(next) else { break };
            at = Place { above: if leaf == NIL { index } else { leaf }, upper };
            (leaf, below) = (next, *entry.links());
        }
        if leaf != NIL {
            let mut links = links;
            if at.above == index {
                *(if at.upper { &mut links.next } else { &mut links.prev }) = NIL;
            } else {
                self.hang(places, at, NIL);
            }
            if let Some(entry) = places.live_mut(leaf) {
                *entry.links_mut() = links;
            }
        }
        self.hang(places, place, leaf);
    }

    /// Where the entry `index`, which has `key`, hangs; or the free place for `key`, and `NIL`.
    fn find<T: Ordered<L>>(&self, places: &impl Places<T>, key: u64, index: u32) -> (Place, u32) {
        let (mut place, mut at, mut bits) = (ROOT, self.root, key);
        while at != index
            && let Some(entry) = places.at(at)
        {
            debug_assert!(entry.key() != key, "two entries with one key");
            place = Place { above: at, upper: bits >> 63 == 1 };
            at = half(entry.links(), place.upper);
            bits <<= 1;
        }
        (place, at)
    }

    /// Hangs an entry, or nothing, into a place.
    fn hang<T: Ordered<L>>(&mut self, places: &mut impl Places<T>, place: Place, index: u32) {
        match places.at_mut(place.above).map(T::links_mut) {
            Some(links) if place.upper => links.next = index,
            Some(links) => links.prev = index,
            None => self.root = index,
        }
    }

    /// The entry with the smallest key.
    #[inline]
    pub(crate) fn first<T: Ordered<L>>(&self, places: &impl Places<T>) -> Option<u32> {
        if self.is_empty() { None } else { first_of(places, self.root, None) }
    }

    /// The entry with the smallest key above `key`.
    pub(crate) fn first_above<T: Ordered<L>>(
        &self,
        places: &impl Places<T>,
        key: u64,
    ) -> Option<u32> {
        let (mut at, mut bits) = (self.root, key);
        let (mut first, mut beside) = (None, NIL);
        while let Some(entry) = places.at(at) {
            first = lesser(first, (entry.key() > key).then_some((entry.key(), at)));
            let upper = bits >> 63 == 1;
            if !upper && entry.links().next != NIL {
                // All of it is above `key`, and below all that was passed so before.
                beside = entry.links().next;
            }
            at = half(entry.links(), upper);
            bits <<= 1;
        }
        first_of(places, beside, first)
    }
}

/// The entry with the smallest key in the tree below `at`, or `first` if that is smaller.
fn first_of<const L: u8, T: Ordered<L>>(
    places: &impl Places<T>,
    mut at: u32,
    mut first: Option<(u64, u32)>,
) -> Option<u32> {
    while let Some(entry) = places.at(at) {
        first = lesser(first, Some((entry.key(), at)));
        at = half(entry.links(), entry.links().prev == NIL);
    }
    first.map(|(_, index)| index)
}

fn lesser(one: Option<(u64, u32)>, other: Option<(u64, u32)>) -> Option<(u64, u32)> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeSet;
    use std::vec::Vec;

    use super::*;

    #[derive(Default)]
    struct Item {
        key: u64,
        links: Links,
    }

    impl Linked<0> for Item {
        fn links(&self) -> &Links {
            &self.links
        }
        fn links_mut(&mut self) -> &mut Links {
            &mut self.links
        }
    }

    impl Ordered<0> for Item {
        fn key(&self) -> u64 {
            self.key
        }
    }

    struct Items(Vec<Item>);

    impl Places<Item> for Items {
        fn at(&self, index: u32) -> Option<&Item> {
            self.0.get(index as usize)
        }
        fn at_mut(&mut self, index: u32) -> Option<&mut Item> {
            self.0.get_mut(index as usize)
        }
    }

    /// Checks that every entry below `root` is on the way that its key describes; returns how many levels there are.
    fn check(items: &Items, root: u32, level: u32, way: u64) -> u32 {
        let Some(entry) = items.at(root) else { return level };
        assert!(level == 0 || entry.key >> (64 - level) == way, "{} at level {level}", entry.key);
        let low = check(items, entry.links.prev, level + 1, way << 1);
        low.max(check(items, entry.links.next, level + 1, way << 1 | 1))
    }

    #[test]
    fn entries_come_out_in_order_whatever_the_order_in_which_they_came_and_left() {
        const LEN: u64 = 512;
        let mut seed = 1_u64;
        let mut items =
            Items((0..LEN).map(|key| Item { key: key * 7, ..Item::default() }).collect());
        let mut tree = Tree::<0>::default();
        let mut model = BTreeSet::new();
        for step in 0..6_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Up, down, and at random.
            let index = match step / 1_000 {
                0 => step % LEN,
                1 => LEN - 1 - step % LEN,
                _ => (seed >> 33) % LEN,
            } as u32;
            if model.insert(u64::from(index) * 7) {
                tree.insert(&mut items, index);
            } else {
                model.remove(&(u64::from(index) * 7));
                tree.remove(&mut items, index);
                assert!(!items.0[index as usize].links.is_linked());
            }
            assert!(check(&items, tree.root, 0, 0) <= 64);
            let key = (seed >> 20) % (LEN * 7);
            let key_at = |index: u32| u64::from(index) * 7;
            assert_eq!(tree.first(&items).map(key_at), model.first().copied());
            let above = model.range(key + 1..).next().copied();
            assert_eq!(tree.first_above(&items, key).map(key_at), above);
        }
    }
}
