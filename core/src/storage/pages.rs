//! A sparse array on the heap, in pages that are allocated on first use.
//!
//! A peer chooses which slots it uses. What a call on the last of 65,536 slots costs must be a page, not a table:
//! such tables were used to take 157 KB a session.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::list::INDEX_MAX;
use super::{Array, Places};

/// Entries that lie together at the front: a client takes the lowest free slot, so most calls use these. They are found
/// in a third of the instructions that an entry in a page takes, and a call looks for its slot more than ten times.
const FRONT_LEN: usize = 64;
/// The front begins with this many entries, and doubles.
const FRONT_LEN_MIN: usize = 4;
/// Entries in a page.
const PAGE_LEN: usize = 8;
/// Pages in a directory.
const DIRECTORY_LEN: usize = 32;
/// Entries that a directory covers.
const REACH: usize = PAGE_LEN * DIRECTORY_LEN;

type Page<T> = Box<[T; PAGE_LEN]>;
type Directory<T> = Box<[Option<Page<T>>; DIRECTORY_LEN]>;

#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct Pages<T> {
    front: Vec<T>,
    directories: Vec<Option<Directory<T>>>,
}

/// Where an entry behind the front lies: its directory, its page there, its place in the page.
fn place_of(index: usize) -> (usize, usize, usize) {
    (index / REACH, index % REACH / PAGE_LEN, index % PAGE_LEN)
}

/// Entries at the front once `index` is among them.
fn front_len(index: usize) -> usize {
    (index + 1).next_power_of_two().max(FRONT_LEN_MIN)
}

impl<T> Pages<T> {
    fn page(&self, index: usize) -> Option<&Page<T>> {
        let (directory, page, _) = place_of(index);
        self.directories.get(directory)?.as_ref()?[page].as_ref()
    }

    fn page_mut(&mut self, index: usize) -> Option<&mut Page<T>> {
        let (directory, page, _) = place_of(index);
        self.directories.get_mut(directory)?.as_mut()?[page].as_mut()
    }
}

impl<T: Default> Pages<T> {
    #[cold]
    fn grow(&mut self, index: usize) {
        if index < FRONT_LEN {
            let len = front_len(index);
            self.front.reserve_exact(len - self.front.len());
            self.front.resize_with(len, T::default);
            return;
        }
        let (directory, page, _) = place_of(index);
        if self.directories.len() <= directory {
            self.directories.reserve_exact(directory + 1 - self.directories.len());
            self.directories.resize_with(directory + 1, || None);
        }
        let directory = self.directories[directory].get_or_insert_with(filled);
        directory[page].get_or_insert_with(filled);
    }
}

/// A boxed array of defaults, made in its place: one made on the stack and moved could be too large for it.
pub(super) fn filled<T: Default, const N: usize>() -> Box<[T; N]> {
    let mut values = Vec::with_capacity(N);
    values.resize_with(N, T::default);
    match values.into_boxed_slice().try_into() {
        Ok(array) => array,
        Err(_) => Box::new(core::array::from_fn(|_| T::default())),
    }
}

impl<T> Places<T> for Pages<T> {
    #[inline(always)]
    fn at(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        match self.front.get(index) {
            Some(entry) => Some(entry),
            None => Some(&self.page(index)?[index % PAGE_LEN]),
        }
    }

    #[inline(always)]
    fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        let index = index as usize;
        if index < self.front.len() {
            return self.front.get_mut(index);
        }
        Some(&mut self.page_mut(index)?[index % PAGE_LEN])
    }
}

impl<T: Default> Array<T> for Pages<T> {
    const CAPACITY: usize = INDEX_MAX;

    #[inline]
    fn at_or_grow(&mut self, index: u32) -> Option<&mut T> {
        if self.at(index).is_none() {
            self.grow(index as usize);
        }
        self.at_mut(index)
    }

    #[inline]
    fn growth(&self, index: u32) -> u32 {
        let at = index as usize;
        if self.at(index).is_some() {
            return 0;
        }
        let bytes = if at < FRONT_LEN {
            (front_len(at) - self.front.len()) * size_of::<T>()
        } else {
            let (directory, _, _) = place_of(at);
            let known = self.directories.len();
            let pointers =
                (directory + 1).saturating_sub(known) * size_of::<Option<Directory<T>>>();
            let missing = self.directories.get(directory).is_none_or(Option::is_none);
            let directory = if missing { size_of::<[Option<Page<T>>; DIRECTORY_LEN]>() } else { 0 };
            pointers + directory + size_of::<[T; PAGE_LEN]>()
        };
        bytes as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_costs_its_page_and_each_is_found_where_it_was_put() {
        let mut pages = Pages::<u64>::default();
        assert!(pages.at(0).is_none());
        let mut total = 0;
        for index in [65_535, 0, 3, 4, 15, 16, 1023, 255, 256, 65_534] {
            total += pages.growth(index);
            *pages.at_or_grow(index).unwrap() = u64::from(index);
            assert_eq!(pages.growth(index), 0);
        }
        for index in [65_535, 0, 3, 4, 15, 16, 1023, 255, 256, 65_534] {
            assert_eq!(pages.at(index).copied(), Some(u64::from(index)));
        }
        assert!(pages.at(64).is_none(), "nothing between them was made");
        assert!(pages.at(32).is_none(), "nor was more of the front");
        assert!(total < 5_000, "{total}");
    }
}
