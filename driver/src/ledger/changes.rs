//! Who waits for the next commit that wrote effects.
//!
//! Positions are the numbers of commits ([`Identity::commit`](super::Identity::commit)), so that they grow across restarts too.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::LedgerError;
use crate::caught::wake_all;
use crate::sync::Lock;
use crate::waiters::{Place, Waiters};

/// A store's end of a feed of changes: it says which commits wrote effects. Its readers are [`Changes`].
///
/// When it is dropped, those who wait learn that no commit follows.
///
/// ```
/// use oncewire_driver::ledger::{ChangeSource, LedgerError};
///
/// // The store has just been opened, and its last commit has number 7.
/// let source = ChangeSource::new(7);
/// let changes = source.changes();
/// smol::block_on(async {
///     let next = changes.after(changes.last());
///     source.committed(9); // 8 wrote records alone.
///     assert_eq!(next.await, Ok(9));
///
///     let never = changes.after(9);
///     drop(source);
///     assert!(never.await.is_err());
/// });
/// ```
#[derive(Debug)]
pub struct ChangeSource(Changes);

impl ChangeSource {
    /// Of a store whose last commit has this number. What that wrote is not known, so it counts as a change.
    pub fn new(commit: u64) -> ChangeSource {
        let state = State { last: commit, ended: None, waiting: Waiters::default() };
        ChangeSource(Changes(Arc::new(Lock::new(state))))
    }

    /// Where readers wait.
    pub fn changes(&self) -> Changes {
        self.0.clone()
    }

    /// This commit wrote effects, which every read from now on sees. Wakes all that wait.
    pub fn committed(&self, commit: u64) {
        self.0.update(|state| state.last = state.last.max(commit));
    }

    /// No commit follows. Wakes all that wait; the first reason counts.
    pub fn fail(&self, why: LedgerError) {
        self.0.update(|state| {
            state.ended.get_or_insert(why);
        });
    }
}

impl Drop for ChangeSource {
    fn drop(&mut self) {
        self.fail(LedgerError::new("the ledger was closed: no commit follows"));
    }
}

/// The commits of a ledger that wrote effects: what a handler waits for that answers when something has changed. Cheap to clone.
///
/// Effects are what transactional handlers write. The ledger's own records, of calls and sessions, are none.
#[derive(Clone)]
pub struct Changes(Arc<Lock<State>>);

struct State {
    /// The last commit that wrote effects.
    last: u64,
    ended: Option<LedgerError>,
    waiting: Waiters,
}

impl Changes {
    /// The number of the last commit that wrote effects; of a ledger that was opened and has written none yet, that of its last
    /// commit. Ask before you read: what you read then is no older.
    pub fn last(&self) -> u64 {
        self.0.lock().last
    }

    /// Waits for a commit that wrote effects and has a higher number than this. If there was one already it is ready at once, so
    /// none is missed between a read and the wait. Dropping the future leaves nothing behind.
    pub fn after(&self, commit: u64) -> Changed {
        Changed { changes: self.clone(), commit, place: None }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting.len()
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let woken = {
            let mut state = self.0.lock();
            change(&mut state);
            state.waiting.take()
        };
        wake_all(woken);
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("Changes")
            .field("last", &state.last)
            .field("waiting", &state.waiting.len())
            .field("ended", &state.ended)
            .finish()
    }
}

/// A wait for the next change: see [`Changes::after`]. Ready with the number of the last commit that wrote effects, or with the reason
/// why no commit follows.
#[derive(Debug)]
#[must_use = "it waits when it is awaited"]
pub struct Changed {
    changes: Changes,
    commit: u64,
    place: Place,
}

impl Future for Changed {
    type Output = Result<u64, LedgerError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = this.changes.0.lock();
        let poll = if state.last > this.commit {
            Poll::Ready(Ok(state.last))
        } else if let Some(why) = &state.ended {
            Poll::Ready(Err(why.clone()))
        } else {
            Poll::Pending
        };
        let dropped = match poll {
            Poll::Pending => state.waiting.wait(&mut this.place, cx),
            Poll::Ready(_) => state.waiting.leave(&mut this.place),
        };
        drop(state);
        drop(dropped);
        poll
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let dropped = self.changes.0.lock().waiting.leave(&mut self.place);
        drop(dropped);
    }
}
