//! A balanced search tree through the entries of a table: no memory of its own, and a bound on every operation.

use super::Places;
use crate::storage::list::{Linked, Links, NIL};

/// An entry that can be in a tree of kind `L`, or on a list of that kind, but not in both at once.
pub(crate) trait Ordered<const L: u8>: Linked<L> {
    /// What the tree is ordered by; no two entries of a tree have the same, and none changes while it is in the tree.
    fn key(&self) -> u64;
    /// Levels of the tree below and with this entry; 0 while it is in no tree.
    fn height(&self) -> u8;
    fn height_mut(&mut self) -> &mut u8;
}

/// An AVL tree of kind `L`. Every operation visits at most a few entries on each of its 1.44 · log2(n) levels, so
/// recursion is at most 24 deep for 65,536 entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree<const L: u8> {
    root: u32,
}

impl<const L: u8> Default for Tree<L> {
    fn default() -> Self {
        Tree { root: NIL }
    }
}

impl<const L: u8> Tree<L> {
    /// Inserts an entry that is in no tree and on no list.
    pub(crate) fn insert<T: Ordered<L>>(&mut self, places: &mut impl Places<T>, index: u32) {
        let Some(entry) = places.at_mut(index) else { return };
        debug_assert!(!entry.links().is_linked() && entry.height() == 0, "it is linked already");
        *entry.links_mut() = Links { prev: NIL, next: NIL };
        *entry.height_mut() = 1;
        let key = entry.key();
        self.root = insert(places, self.root, index, key);
    }

    /// Removes an entry of this tree.
    pub(crate) fn remove<T: Ordered<L>>(&mut self, places: &mut impl Places<T>, index: u32) {
        let Some(entry) = places.at(index) else { return };
        debug_assert!(entry.height() > 0, "it is in no tree");
        let key = entry.key();
        self.root = remove(places, self.root, index, key);
        if let Some(entry) = places.at_mut(index) {
            *entry.links_mut() = Links::default();
            *entry.height_mut() = 0;
        }
    }

    /// The entry with the smallest key.
    #[inline]
    pub(crate) fn first<T: Ordered<L>>(&self, places: &impl Places<T>) -> Option<u32> {
        if self.root == NIL { None } else { self.leftmost(places) }
    }

    #[cold]
    fn leftmost<T: Ordered<L>>(&self, places: &impl Places<T>) -> Option<u32> {
        let mut at = self.root;
        let mut first = None;
        while let Some(entry) = places.at(at) {
            first = Some(at);
            at = left(entry);
        }
        first
    }

    /// The entry with the smallest key above `key`.
    pub(crate) fn first_above<T: Ordered<L>>(
        &self,
        places: &impl Places<T>,
        key: u64,
    ) -> Option<u32> {
        let mut at = self.root;
        let mut first = None;
        while let Some(entry) = places.at(at) {
            if entry.key() > key {
                first = Some(at);
                at = left(entry);
            } else {
                at = right(entry);
            }
        }
        first
    }
}

fn left<const L: u8>(entry: &impl Linked<L>) -> u32 {
    entry.links().prev
}

fn right<const L: u8>(entry: &impl Linked<L>) -> u32 {
    entry.links().next
}

fn height<const L: u8, T: Ordered<L>>(places: &impl Places<T>, index: u32) -> u8 {
    places.at(index).map_or(0, T::height)
}

/// Inserts the entry at `index`, which has `key`, below `root`; returns the new root.
fn insert<const L: u8, T: Ordered<L>>(
    places: &mut impl Places<T>,
    root: u32,
    index: u32,
    key: u64,
) -> u32 {
    let Some(entry) = places.at(root) else { return index };
    let (lower, upper) = (left(entry), right(entry));
    debug_assert!(entry.key() != key, "two entries with one key");
    let children = if key < entry.key() {
        Links { prev: insert(places, lower, index, key), next: upper }
    } else {
        Links { prev: lower, next: insert(places, upper, index, key) }
    };
    balanced(places, root, children)
}

/// Takes the entry at `index`, which has `key`, out of the tree below `root`; returns the new root.
fn remove<const L: u8, T: Ordered<L>>(
    places: &mut impl Places<T>,
    root: u32,
    index: u32,
    key: u64,
) -> u32 {
    let Some(entry) = places.at(root) else {
        debug_assert!(false, "the entry is not in this tree");
        return NIL;
    };
    let (lower, upper) = (left(entry), right(entry));
    if root == index {
        return joined(places, lower, upper);
    }
    let children = if key < entry.key() {
        Links { prev: remove(places, lower, index, key), next: upper }
    } else {
        Links { prev: lower, next: remove(places, upper, index, key) }
    };
    balanced(places, root, children)
}

/// One tree of two whose heights differ by one at most, all keys of `lower` being below all of `upper`.
fn joined<const L: u8, T: Ordered<L>>(places: &mut impl Places<T>, lower: u32, upper: u32) -> u32 {
    if lower == NIL {
        return upper;
    }
    if upper == NIL {
        return lower;
    }
    let (first, rest) = without_first(places, upper);
    balanced(places, first, Links { prev: lower, next: rest })
}

/// The first entry below `root`, and the tree without it.
fn without_first<const L: u8, T: Ordered<L>>(places: &mut impl Places<T>, root: u32) -> (u32, u32) {
    let (lower, upper) = places.at(root).map_or((NIL, NIL), |entry| (left(entry), right(entry)));
    if lower == NIL {
        return (root, upper);
    }
    let (first, rest) = without_first(places, lower);
    (first, balanced(places, root, Links { prev: rest, next: upper }))
}

/// Gives `root` these children, whose heights differ by two at most, and rotates if they do; returns the new root.
fn balanced<const L: u8, T: Ordered<L>>(
    places: &mut impl Places<T>,
    root: u32,
    children: Links,
) -> u32 {
    let Links { prev: lower, next: upper } = children;
    let (low, high) = (height(places, lower), height(places, upper));
    if low > high + 1 {
        let (outer, inner) = places.at(lower).map_or((NIL, NIL), |e| (left(e), right(e)));
        if height(places, outer) >= height(places, inner) {
            join(places, root, Links { prev: inner, next: upper });
            return join(places, lower, Links { prev: outer, next: root });
        }
        let halves = places.at(inner).map_or((NIL, NIL), |e| (left(e), right(e)));
        join(places, lower, Links { prev: outer, next: halves.0 });
        join(places, root, Links { prev: halves.1, next: upper });
        return join(places, inner, Links { prev: lower, next: root });
    }
    if high > low + 1 {
        let (inner, outer) = places.at(upper).map_or((NIL, NIL), |e| (left(e), right(e)));
        if height(places, outer) >= height(places, inner) {
            join(places, root, Links { prev: lower, next: inner });
            return join(places, upper, Links { prev: root, next: outer });
        }
        let halves = places.at(inner).map_or((NIL, NIL), |e| (left(e), right(e)));
        join(places, root, Links { prev: lower, next: halves.0 });
        join(places, upper, Links { prev: halves.1, next: outer });
        return join(places, inner, Links { prev: root, next: upper });
    }
    set(places, root, children, low.max(high) + 1);
    root
}

fn set<const L: u8, T: Ordered<L>>(
    places: &mut impl Places<T>,
    root: u32,
    children: Links,
    height: u8,
) {
    if let Some(entry) = places.at_mut(root) {
        *entry.links_mut() = children;
        *entry.height_mut() = height;
    }
}

/// Gives `root` these children, whose heights differ by one at most; returns it.
fn join<const L: u8, T: Ordered<L>>(
    places: &mut impl Places<T>,
    root: u32,
    children: Links,
) -> u32 {
    let height = height(places, children.prev).max(height(places, children.next)) + 1;
    set(places, root, children, height);
    root
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
        height: u8,
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
        fn height(&self) -> u8 {
            self.height
        }
        fn height_mut(&mut self) -> &mut u8 {
            &mut self.height
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

    /// Checks heights and order below `root`; returns its height.
    fn check(items: &Items, root: u32, above: Option<u64>, below: Option<u64>) -> u8 {
        let Some(entry) = items.at(root) else { return 0 };
        assert!(above.is_none_or(|key| entry.key > key) && below.is_none_or(|key| entry.key < key));
        let low = check(items, entry.links.prev, above, Some(entry.key));
        let high = check(items, entry.links.next, Some(entry.key), below);
        assert!(low.abs_diff(high) <= 1, "{low} and {high}");
        assert_eq!(entry.height, low.max(high) + 1);
        entry.height
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
            check(&items, tree.root, None, None);
            let key = (seed >> 20) % (LEN * 7);
            let key_at = |index: u32| u64::from(index) * 7;
            assert_eq!(tree.first(&items).map(key_at), model.first().copied());
            let above = model.range(key + 1..).next().copied();
            assert_eq!(tree.first_above(&items, key).map(key_at), above);
        }
        assert!(height(&items, tree.root) <= 13);
    }
}
