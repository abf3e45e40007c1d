//! Memory of buffers, used again: fresh memory costs the system a page fault every 4 KiB, and the clearing of it.
//!
//! A [`Buffer`] has exactly the length that was asked for, however long its memory is. Otherwise the length of a read
//! would depend on what else had run in the process, and a simulator could not repeat a run from its seed.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Memory shorter than this is not worth the search.
const LEN_MIN: usize = 32 << 10;
/// Bytes of idle memory kept in all, in a process, beside one piece a thread ([`NEAR_LEN`]).
const IDLE_MAX: usize = 16 << 20;
/// Memory up to this many times as long as what is wanted is taken; more of it would lie unused.
const LONGER_MAX: usize = 2;

/// Memory for this length, which buffers of sockets have, is kept by the thread that used it last, one piece of it. So a thread that has a
/// thousand connections reads and writes all of them in the same few lines of its cache, and takes no lock.
pub(crate) const NEAR_LEN: usize = 64 << 10;

thread_local! {
    static NEAR: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Bytes in memory that goes back to the pool when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    memory: Vec<u8>,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` bytes, whatever they are.
    #[inline]
    pub(crate) fn take(len: usize) -> Buffer {
        if len == NEAR_LEN {
            // While the thread ends there is none.
            let memory = NEAR.try_with(Cell::take).unwrap_or_default();
            if memory.len() >= len {
                return Buffer { memory, len };
            }
        }
        Buffer::take_pooled(len)
    }

    fn take_pooled(len: usize) -> Buffer {
        let memory = with(|pool| pool.take(len)).unwrap_or_else(|| vec![0; len]);
        debug_assert!(memory.len() >= len);
        Buffer { memory, len }
    }

    /// A copy of `bytes`, in memory of their length.
    pub(crate) fn copy_of(bytes: &[u8]) -> Buffer {
        Buffer { memory: bytes.to_vec(), len: bytes.len() }
    }

    /// Lengthens it to `len` bytes. What is in it stays; what is behind that is anything.
    pub(crate) fn lengthen(&mut self, len: usize) {
        debug_assert!(len >= self.len);
        if self.memory.len() < len {
            self.memory.reserve_exact(len - self.memory.len());
            self.memory.resize(len, 0);
        }
        self.len = len;
    }

    /// Bytes of memory that it occupies.
    #[cfg(test)]
    pub(crate) fn memory_len(&self) -> usize {
        self.memory.capacity()
    }

    /// The first `len` bytes, shared; when the last handle is dropped, the memory is used again.
    pub(crate) fn share(mut self, len: usize) -> Bytes {
        debug_assert!(len <= self.len);
        self.len = len;
        Bytes::from_owner(self)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        if self.memory.len() >= LEN_MIN {
            keep(std::mem::take(&mut self.memory));
        }
    }
}

fn keep(mut memory: Vec<u8>) {
    if (NEAR_LEN..=LONGER_MAX * NEAR_LEN).contains(&memory.len()) {
        memory = NEAR.try_with(|near| near.replace(memory)).unwrap_or_default();
        if memory.is_empty() {
            return;
        }
    }
    drop(with(|pool| pool.keep(memory)));
}

struct Pool {
    /// The memory that was kept last is the last.
    idle: Vec<Vec<u8>>,
    /// Bytes of all of it.
    bytes: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { idle: Vec::new(), bytes: 0 });

fn with<T>(f: impl FnOnce(&mut Pool) -> T) -> T {
    f(&mut POOL.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Pool {
    /// Memory for `len` bytes. The most recent that fits: it is the most likely to be in a cache.
    fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        let longest = len.saturating_mul(LONGER_MAX);
        let fits = |memory: &Vec<u8>| (len..=longest).contains(&memory.len());
        let at = self.idle.iter().rposition(fits)?;
        let memory = self.idle.swap_remove(at);
        self.bytes -= memory.len();
        Some(memory)
    }

    /// Keeps memory for its next user, or returns it if there is enough of it.
    fn keep(&mut self, memory: Vec<u8>) -> Option<Vec<u8>> {
        if self.bytes + memory.len() > IDLE_MAX {
            return Some(memory);
        }
        self.bytes += memory.len();
        self.idle.push(memory);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_when_its_last_handle_is_dropped_and_not_before() {
        // The other test's lengths are more than twice as long.
        let len = 777_777;
        let mut buffer = Buffer::take(len);
        assert_eq!(buffer.len(), len);
        buffer[0] = 1;
        let shared = buffer.share(len);
        let part = shared.slice(..10);
        drop(shared);
        assert_eq!(Buffer::take(len)[0], 0, "a part of the first one is still there");
        assert_eq!(part[0], 1);
        drop(part);
        assert_eq!(Buffer::take(len)[0], 1);
    }

    #[test]
    fn a_buffer_has_the_length_that_was_asked_for_whatever_memory_it_gets() {
        let mut long = Buffer::take(3_333_333);
        long[0] = 7;
        drop(long);
        let mut short = Buffer::take(1_700_000);
        assert_eq!((short.len(), short[0]), (1_700_000, 7), "the same memory, not all of it");
        short.lengthen(1_700_001);
        assert_eq!((short.len(), short[0]), (1_700_001, 7));
        assert_eq!(short.memory_len(), 3_333_333);
    }

    #[test]
    fn a_thread_keeps_the_memory_of_a_sockets_buffer_that_it_used_last() {
        let [mut first, mut second] = [NEAR_LEN; 2].map(Buffer::take);
        (first[0], second[0]) = (1, 2);
        let places = [first.as_ptr(), second.as_ptr()];
        drop(second);
        drop(first);
        let [first, second] = [NEAR_LEN; 2].map(Buffer::take);
        assert_eq!((first.as_ptr(), first[0]), (places[0], 1));
        assert_eq!((second.len(), first.len()), (NEAR_LEN, NEAR_LEN));
    }

    #[test]
    fn idle_memory_is_bounded() {
        let mut pool = Pool { idle: Vec::new(), bytes: 0 };
        let kept = (0..8).filter(|_| pool.keep(vec![0; 5 << 20]).is_none()).count();
        assert_eq!((kept, pool.bytes), (3, 15 << 20));
        assert!(pool.take(5 << 20).is_some());
        assert!(pool.keep(vec![0; 6 << 20]).is_none(), "there is room again");
    }
}
