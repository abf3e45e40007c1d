//! Memory of buffers, used again: fresh memory costs the system a page fault every 4 KiB, and the clearing of it.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Buffers shorter than this are not worth the search.
const LEN_MIN: usize = 32 << 10;
/// Bytes of idle buffers kept in all, in a process.
const IDLE_MAX: usize = 16 << 20;

/// Simulators repeat a run whatever ran before it in the process: how much is read at once must not depend on that.
const EXACT: bool = cfg!(feature = "_faults");

struct Pool {
    idle: Vec<Vec<u8>>,
    bytes: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { idle: Vec::new(), bytes: 0 });

fn with<T>(f: impl FnOnce(&mut Pool) -> T) -> T {
    f(&mut POOL.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A buffer of at least `len` bytes, whatever they are.
pub(crate) fn take(len: usize) -> Vec<u8> {
    let found = with(|pool| {
        // One that is much too large would lie idle for the most part.
        let longest = if EXACT { len } else { len.saturating_mul(4) };
        let fits = |buffer: &Vec<u8>| (len..=longest).contains(&buffer.len());
        let at = pool.idle.iter().rposition(fits)?;
        let buffer = pool.idle.swap_remove(at);
        pool.bytes -= buffer.len();
        Some(buffer)
    });
    found.unwrap_or_else(|| vec![0; len])
}

/// Keeps a buffer for its next user.
#[inline]
pub(crate) fn put(buffer: Vec<u8>) {
    if buffer.len() >= LEN_MIN {
        keep(buffer);
    }
}

fn keep(buffer: Vec<u8>) {
    with(|pool| {
        if pool.bytes + buffer.len() <= IDLE_MAX {
            pool.bytes += buffer.len();
            pool.idle.push(buffer);
        }
    });
}

/// The first `len` bytes of a buffer, shared; when the last handle is dropped, the buffer is used again.
pub(crate) fn share(buffer: Vec<u8>, len: usize) -> Bytes {
    Bytes::from_owner(Shared { buffer, len })
}

struct Shared {
    buffer: Vec<u8>,
    len: usize,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        put(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_when_nobody_holds_it_and_not_before() {
        // No other test uses this size, nor one up to four times as long.
        let len = 777_777;
        let mut buffer = take(len);
        assert_eq!(buffer.len(), len);
        buffer[0] = 1;
        let shared = share(buffer, len);
        let part = shared.slice(..10);
        drop(shared);
        assert_eq!(take(len)[0], 0, "the first one is still held");
        assert_eq!(part[0], 1);
        drop(part);
        assert_eq!(take(len)[0], 1);
    }

    #[test]
    fn idle_memory_is_bounded() {
        for _ in 0..3 {
            let buffers: Vec<_> = (0..8).map(|_| share(take(5 << 20), 5 << 20)).collect();
            drop(buffers);
            assert!(with(|pool| pool.bytes) <= IDLE_MAX);
        }
    }
}
