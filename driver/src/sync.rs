//! The lock around what tasks share. Under `--cfg shuttle` it is the model checker's mutex, at which its scheduler decides
//! which thread runs next (`tests/interleavings`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, TryLockError};

#[cfg(not(shuttle))]
use std::sync::Mutex;
#[cfg(not(shuttle))]
pub(crate) use std::sync::MutexGuard;

#[cfg(shuttle)]
use shuttle::sync::Mutex;
#[cfg(shuttle)]
pub(crate) use shuttle::sync::MutexGuard;

/// A mutex that survives panics, and whose holder can yield it to others.
///
/// The system's mutex is not fair: the thread that has just released it gets it again before one that must be woken. A
/// thread that worked under the lock again and again, because a peer sent without end, kept all others waiting (C106).
#[derive(Debug, Default)]
pub(crate) struct Lock<T> {
    mutex: Mutex<T>,
    /// Threads that found it locked and have not got it yet.
    waiting: AtomicUsize,
}

/// Yields at most.
const YIELDS_MAX: u32 = 100;

impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Lock<T> {
        Lock { mutex: Mutex::new(value), waiting: AtomicUsize::new(0) }
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        match self.mutex.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => self.wait(),
        }
    }

    #[cold]
    fn wait(&self) -> MutexGuard<'_, T> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let guard = self.mutex.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        guard
    }

    /// Whether it is free now, or soon. It never is where this thread holds it.
    pub(crate) fn is_free_soon(&self) -> bool {
        // The model's threads do not wait by looking again.
        if cfg!(shuttle) {
            return true;
        }
        for _ in 0..YIELDS_MAX {
            match self.mutex.try_lock() {
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
                Ok(_) | Err(TryLockError::Poisoned(_)) => return true,
            }
        }
        false
    }

    /// Yields to threads that wait for the lock. Called between two turns of the same task.
    pub(crate) fn let_others(&self) {
        for _ in 0..YIELDS_MAX {
            if self.waiting.load(Ordering::Relaxed) == 0 {
                return;
            }
            std::thread::yield_now();
        }
    }
}
