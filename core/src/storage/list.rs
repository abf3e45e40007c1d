//! Doubly linked lists through the entries of a table: constant-time operations, no allocation.

use crate::storage::Places;

/// No index.
pub(crate) const NIL: u32 = u32::MAX;
/// `prev` of an entry that is on no list.
const UNLINKED: u32 = u32::MAX - 1;
/// So the highest index is two below the highest number.
#[cfg(feature = "alloc")]
pub(super) const INDEX_MAX: usize = (u32::MAX - 2) as usize;

/// An entry's neighbours on one list.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(crate) struct Links {
    /// The entry before it; the lower half, in a tree.
    pub(crate) prev: u32,
    /// The entry behind it; the upper half, in a tree.
    pub(crate) next: u32,
}

impl Links {
    pub(crate) fn is_linked(&self) -> bool {
        self.prev != UNLINKED
    }
}

impl Default for Links {
    fn default() -> Self {
        Links { prev: UNLINKED, next: NIL }
    }
}

/// An entry that can stand on lists of kind `L`, on one of them at a time.
pub(crate) trait Linked<const L: u8> {
    fn links(&self) -> &Links;
    fn links_mut(&mut self) -> &mut Links;
}

/// Lets the entries of a type be on lists of one kind, by the links in one of its fields.
macro_rules! linked {
    ($type:ident<$param:ident $(: $bound:ident)?>, $list:expr, $field:ident) => {
        impl<$param $(: $bound)?> $crate::storage::list::Linked<{ $list }> for $type<$param> {
            fn links(&self) -> &$crate::storage::list::Links {
                &self.$field
            }
            fn links_mut(&mut self) -> &mut $crate::storage::list::Links {
                &mut self.$field
            }
        }
    };
}
pub(crate) use linked;

/// A list of kind `L`. Every method is a no-op for an index that is not there.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(crate) struct List<const L: u8> {
    head: u32,
    tail: u32,
}

impl<const L: u8> Default for List<L> {
    fn default() -> Self {
        List { head: NIL, tail: NIL }
    }
}

impl<const L: u8> List<L> {
    #[inline]
    pub(crate) fn front(&self) -> Option<u32> {
        (self.head != NIL).then_some(self.head)
    }

    pub(crate) fn back(&self) -> Option<u32> {
        (self.tail != NIL).then_some(self.tail)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head == NIL
    }

    #[inline(always)]
    pub(crate) fn next<T: Linked<L>>(&self, places: &impl Places<T>, index: u32) -> Option<u32> {
        let next = places.at(index)?.links().next;
        (next != NIL).then_some(next)
    }

    #[inline(always)]
    pub(crate) fn push_back<T: Linked<L>>(&mut self, places: &mut impl Places<T>, index: u32) {
        if link(places, index, self.links_at_end()) {
            self.append(places, index, |_| true);
        }
    }

    /// The links of an entry that is put at the end.
    #[inline(always)]
    pub(crate) fn links_at_end(&self) -> Links {
        Links { prev: self.tail, next: NIL }
    }

    /// Puts an entry at the end that has, or gets, [these links](List::links_at_end), where `may_follow` says that it may be behind
    /// the last one. Returns whether it may.
    #[inline(always)]
    pub(crate) fn append<T: Linked<L>>(
        &mut self,
        places: &mut impl Places<T>,
        index: u32,
        may_follow: impl FnOnce(&T) -> bool,
    ) -> bool {
        if self.tail == NIL {
            self.head = index;
        } else if let Some(last) = places.live_mut(self.tail) {
            if !may_follow(last) {
                return false;
            }
            last.links_mut().next = index;
        }
        self.tail = index;
        true
    }

    /// Puts an entry in front of another one that is on the list.
    pub(crate) fn insert_before<T: Linked<L>>(
        &mut self,
        places: &mut impl Places<T>,
        index: u32,
        before: u32,
    ) {
        let Some(prev) = places.at(before).map(|entry| entry.links().prev) else { return };
        if prev != UNLINKED && link(places, index, Links { prev, next: before }) {
            self.join(places, prev, index);
            self.join(places, index, before);
        }
    }

    /// Takes an entry off the list; nothing happens if it is on none. Returns the one behind it, or [`NIL`].
    #[inline]
    pub(crate) fn unlink<T: Linked<L>>(&mut self, places: &mut impl Places<T>, index: u32) -> u32 {
        let Some(entry) = places.at_mut(index) else { return NIL };
        let links = core::mem::take(entry.links_mut());
        if links.is_linked() {
            self.join(places, links.prev, links.next);
        }
        links.next
    }

    /// Makes two entries neighbours, as when what was between them is gone; beside [`NIL`] one becomes an end.
    #[inline]
    pub(crate) fn join<T: Linked<L>>(&mut self, places: &mut impl Places<T>, prev: u32, next: u32) {
        if prev == NIL {
            self.head = next;
        } else if let Some(entry) = places.live_mut(prev) {
            entry.links_mut().next = next;
        }
        if next == NIL {
            self.tail = prev;
        } else if let Some(entry) = places.live_mut(next) {
            entry.links_mut().prev = prev;
        }
    }

    #[inline]
    pub(crate) fn pop_front<T: Linked<L>>(&mut self, places: &mut impl Places<T>) -> Option<u32> {
        let index = self.front()?;
        self.unlink(places, index);
        Some(index)
    }
}

/// Gives an entry these links, unless it has some.
#[inline(always)]
fn link<const L: u8, T: Linked<L>>(places: &mut impl Places<T>, index: u32, links: Links) -> bool {
    let entry = places.live_mut(index).filter(|entry| !entry.links().is_linked());
    entry.map(|entry| *entry.links_mut() = links).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Array, ClientStorage, InlineClient};

    #[derive(Default)]
    struct Item(Links);

    impl Linked<0> for Item {
        fn links(&self) -> &Links {
            &self.0
        }
        fn links_mut(&mut self) -> &mut Links {
            &mut self.0
        }
    }

    struct Items([Item; 8]);

    impl Places<Item> for Items {
        fn at(&self, index: u32) -> Option<&Item> {
            self.0.get(index as usize)
        }
        fn at_mut(&mut self, index: u32) -> Option<&mut Item> {
            self.0.get_mut(index as usize)
        }
    }

    fn order(list: &List<0>, items: &Items) -> heapless::Vec<u32, 8> {
        let mut out = heapless::Vec::new();
        let mut at = list.front();
        while let Some(index) = at {
            out.push(index).unwrap();
            at = list.next(items, index);
        }
        out
    }

    #[test]
    fn entries_leave_from_anywhere_and_come_back_in_order() {
        let mut items = Items(core::array::from_fn(|_| Item::default()));
        let mut list = List::<0>::default();
        for index in [1, 3, 5] {
            list.push_back(&mut items, index);
        }
        list.push_back(&mut items, 3);
        assert_eq!(order(&list, &items), [1, 3, 5], "a second push is a no-op");
        list.push_back(&mut items, 7);
        assert_eq!(order(&list, &items), [1, 3, 5, 7]);
        list.unlink(&mut items, 3);
        list.unlink(&mut items, 3);
        list.unlink(&mut items, 7);
        assert_eq!(list.pop_front(&mut items), Some(1));
        list.push_back(&mut items, 6);
        assert_eq!((order(&list, &items), list.back()), ([5, 6].into_iter().collect(), Some(6)));
        list.insert_before(&mut items, 0, 5);
        list.insert_before(&mut items, 2, 6);
        list.insert_before(&mut items, 4, 7);
        list.insert_before(&mut items, 2, 0);
        assert_eq!(order(&list, &items), [0, 5, 2, 6], "before one that is on the list, once");
        assert_eq!((items.0[6].0.prev, list.front(), list.back()), (2, Some(0), Some(6)));
        for index in [6, 0, 2, 5] {
            list.unlink(&mut items, index);
        }
        assert!(list.is_empty());
    }

    #[test]
    fn an_array_grows_to_its_capacity_and_no_further() {
        let mut map = <InlineClient<1, 4, 1> as ClientStorage>::SlotMap::<u32>::default();
        assert!(map.at_or_grow(3).is_some());
        assert!(map.at_or_grow(4).is_none());
        assert_eq!(map.len(), 4);
    }
}
