//! Where the machines keep calls, sessions and bodies.
//!
//! A machine is generic over one of two families: [`Heap`] (feature `alloc`), whose tables grow up to the configured
//! limits, and [`InlineClient`] / [`InlineServer`], whose tables are arrays inside the machine. Both can live in one
//! program. The traits below are the machines' own business: use them as bounds, do not implement them. They know
//! nothing of what a machine puts into a table.

pub(crate) mod copy;
#[cfg(all(test, feature = "alloc"))]
pub(crate) mod counted;
#[cfg(feature = "alloc")]
mod heap;
mod inline;
pub(crate) mod list;
#[cfg(feature = "alloc")]
mod pages;
mod slab;
pub(crate) mod tree;

#[cfg(feature = "alloc")]
pub use heap::Heap;
pub use inline::{InlineClient, InlineServer};

use core::ops::DerefMut;

use crate::ids::Key;
use slab::{Occupied, Place, Slab};

/// A payload on its way into a machine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Payload<'a> {
    /// Borrowed: the machine copies it.
    Slice(&'a [u8]),
    /// Shared: heap storage keeps a reference to large ones instead of copying.
    #[cfg(feature = "alloc")]
    Shared(bytes::Bytes),
}

impl Payload<'_> {
    pub(crate) const EMPTY: Payload<'static> = Payload::Slice(&[]);

    /// Whether it is shared.
    #[inline(always)]
    pub(crate) fn is_shared(&self) -> bool {
        !matches!(self, Payload::Slice(_))
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Payload::Slice(slice) => slice,
            #[cfg(feature = "alloc")]
            Payload::Shared(bytes) => bytes,
        }
    }
}

impl<'a> From<&'a [u8]> for Payload<'a> {
    fn from(slice: &'a [u8]) -> Self {
        Payload::Slice(slice)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Payload<'a> {
    fn from(slice: &'a [u8; N]) -> Self {
        Payload::Slice(slice)
    }
}

#[cfg(feature = "alloc")]
impl From<bytes::Bytes> for Payload<'_> {
    fn from(bytes: bytes::Bytes) -> Self {
        Payload::Shared(bytes)
    }
}

#[cfg(feature = "alloc")]
impl<'a> From<&'a alloc::vec::Vec<u8>> for Payload<'a> {
    fn from(vec: &'a alloc::vec::Vec<u8>) -> Self {
        Payload::Slice(vec)
    }
}

/// Room for one payload.
pub trait Body: Default {
    /// The longest payload it can hold.
    const LEN_MAX: usize;
    /// Keeps `payload`; false, and nothing of use kept, if it is too long.
    fn store(&mut self, payload: Payload<'_>) -> bool;
    /// The same behind its length.
    fn store_with_len(&mut self, payload: Payload<'_>) -> bool;
    /// What is kept, but for a length in front of shared bytes: not all of it, and [`len`](Body::len) is not its length.
    fn last_piece(&self) -> &[u8];
    /// Whether that is there.
    fn has_len(&self) -> bool {
        false
    }
    /// What is kept, unless it is shared.
    #[inline(always)]
    fn own(&self) -> Option<&[u8]> {
        Some(self.last_piece())
    }
    /// Bytes of all that is shared, with its length.
    fn shared_len(&self) -> usize {
        0
    }
    /// Bytes of all that is kept.
    #[inline(always)]
    fn len(&self) -> usize {
        match self.own() {
            Some(own) => own.len(),
            None => self.shared_len(),
        }
    }
    /// Puts all that is kept in one piece.
    fn join(&mut self) {}
    /// What is kept, from this byte on, if all of that is shared.
    #[cfg(feature = "alloc")]
    fn shared_from(&self, _at: usize) -> Option<bytes::Bytes> {
        None
    }
    /// Keeps nothing, and no memory either.
    fn release(&mut self);
    /// [`store`](Body::store), in the memory of `spare` if there is use for it.
    fn store_in(&mut self, payload: Payload<'_>, _spare: &mut Self) -> bool {
        self.store(payload)
    }
    /// Leaves its memory, if it has a little, in `spare`; what is kept is of no use afterwards.
    fn leave_in(&mut self, _spare: &mut Self) {}
}

/// Places that are found by number.
pub trait Places<T> {
    fn at(&self, index: u32) -> Option<&T>;
    fn at_mut(&mut self, index: u32) -> Option<&mut T>;

    /// The entry at an index that the machine has kept, and so is there: `None` is a bug, which tests and simulators
    /// find here. An index of a stranger's, such as that of a key, is looked up by `at` or `get`.
    #[inline(always)]
    fn live(&self, index: u32) -> Option<&T> {
        let entry = self.at(index);
        debug_assert!(entry.is_some(), "a machine keeps no index of an entry that is gone");
        entry
    }

    /// The same, to change it.
    #[inline(always)]
    fn live_mut(&mut self, index: u32) -> Option<&mut T> {
        let entry = self.at_mut(index);
        debug_assert!(entry.is_some(), "a machine keeps no index of an entry that is gone");
        entry
    }
}

/// Whatever is one slice: a `Vec`, with or without an allocator.
impl<T, V: DerefMut<Target = [T]>> Places<T> for V {
    #[inline]
    fn at(&self, index: u32) -> Option<&T> {
        self.get(index as usize)
    }

    #[inline]
    fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.get_mut(index as usize)
    }
}

/// An array whose entries are made when they are first used.
pub trait Array<T>: Places<T> + Default {
    /// One more than the highest index it can ever hold.
    const CAPACITY: usize;
    /// The entry at `index`, made from defaults if it is not there; `None` beyond the capacity.
    fn at_or_grow(&mut self, index: u32) -> Option<&mut T>;
    /// Bytes of heap that [`at_or_grow`](Array::at_or_grow) would allocate for the entry at `index`.
    fn growth(&self, _index: u32) -> u32 {
        0
    }
}

/// A table whose places are given out and taken back.
pub trait Table<T>: Places<T> + Default {
    /// The most entries it can ever hold.
    const CAPACITY: usize;
    /// Takes a free place; `None` when full.
    #[inline]
    fn insert(&mut self, value: T) -> Option<Key> {
        self.insert_with(|| value).map(|(key, _)| key)
    }
    /// The same for an entry that is made in its place, which may be large.
    fn insert_with(&mut self, make: impl FnOnce() -> T) -> Option<(Key, &mut T)>;
    fn remove(&mut self, index: u32) -> Option<T>;
    /// The same, without returning the entry.
    #[inline]
    fn free(&mut self, index: u32) {
        if let Some(entry) = self.occupied(index) {
            entry.free();
        }
    }
    /// The entry at `index`, to be looked at and freed by one look-up.
    fn occupied(&mut self, index: u32) -> Option<Occupied<'_, T>>;
    fn len(&self) -> usize;
    /// One more than the highest index that was ever used.
    fn high_water(&self) -> u32;
    /// The entry at `index`, with its key.
    fn keyed_mut(&mut self, index: u32) -> Option<(Key, &mut T)>;
    /// The key of the entry at `index`, if there is one.
    fn key_at(&self, index: u32) -> Option<Key>;
    /// The entry that `key` names, unless its place has a later tenant.
    fn get(&self, key: Key) -> Option<&T>;
    fn get_mut(&mut self, key: Key) -> Option<&mut T>;
    fn contains(&self, key: Key) -> bool {
        self.get(key).is_some()
    }
}

/// Finds the lowest free slot of a client.
pub trait FreeSlots: Default {
    /// The lowest free slot that is not below `from`: one of `slots`, or one behind them.
    fn first_from<T>(&self, from: u32, slots: &[T], is_free: impl Fn(&T) -> bool) -> u32;
    fn note_taken(&mut self, slot: u32);
    fn note_freed(&mut self, slot: u32);
}

/// Finds indices by 64-bit keys: used at handshakes, never on the path of a call.
pub trait Index: Default {
    fn find(&self, key: u64) -> Option<u32>;
    /// False when the key is taken or the index is full.
    fn insert(&mut self, key: u64, index: u32) -> bool;
    fn remove(&mut self, key: u64);
}

/// What all that a machine keeps can do: nothing more, or be copied and hashed for the explorer.
#[cfg(not(feature = "_explore"))]
pub trait State {}
#[cfg(not(feature = "_explore"))]
impl<T> State for T {}
#[cfg(feature = "_explore")]
pub trait State: Clone + core::hash::Hash {}
#[cfg(feature = "_explore")]
impl<T: Clone + core::hash::Hash> State for T {}

/// The storage of a client: [`Heap`] or [`InlineClient`].
pub trait ClientStorage: Sized + State {
    /// A request.
    #[doc(hidden)]
    type Body: Body + State;
    #[doc(hidden)]
    type Calls<T: State>: Table<T> + State;
    #[doc(hidden)]
    type SlotMap<T: Default + State>: Array<T> + DerefMut<Target = [T]> + State;
    /// Which entries of `SlotMap` are free.
    #[doc(hidden)]
    type FreeSlots: FreeSlots + State;
    /// An entry for each block of `DEADLINE_BLOCK` calls, or blocks.
    #[doc(hidden)]
    type Blocks<T: Default + State>: Array<T> + DerefMut<Target = [T]> + State;
    #[doc(hidden)]
    const DEADLINE_BLOCK: u32;
}

/// The storage of a server: [`Heap`] or [`InlineServer`].
pub trait ServerStorage: Sized + State {
    /// A kept reply.
    #[doc(hidden)]
    type Body: Body + State;
    #[doc(hidden)]
    type Slots<T: Default + State>: Array<T> + State;
    /// Where a session has what it needs only while it is not idle.
    #[doc(hidden)]
    type Boxed<T: Default + State>: DerefMut<Target = T> + Default + State;
    #[doc(hidden)]
    type Sessions<T: State>: Table<T> + State;
    #[doc(hidden)]
    type Conns<T: State>: Table<T> + State;
    #[doc(hidden)]
    type Quotas<T: State>: Table<T> + State;
    #[doc(hidden)]
    type Index: Index + State;
    #[doc(hidden)]
    type Methods<T: Default + State>: Array<T> + DerefMut<Target = [T]> + State;
}
