//! A thread for journals whose commits block.

use std::fmt;

use super::{Journal, JournalBatch, JournalError, JournalKey, JournalWrite};
use crate::commit_thread::CommitThread;

/// A store whose commits block, as those of files do: [`JournalThread`] makes a [`Journal`] of it.
pub trait JournalStore: Send + 'static {
    /// See [`Journal::recover`].
    ///
    /// # Errors
    /// What cannot be read, and what to do about it.
    fn recover(&mut self, keep: &mut dyn FnMut(JournalKey, &[u8])) -> Result<(), JournalError>;

    /// Makes writes durable, in order and as a whole.
    ///
    /// # Errors
    /// They may or may not be durable. No other ones will come.
    fn commit(&mut self, writes: &[JournalWrite]) -> Result<(), JournalError>;
}

/// A [`Journal`] of a [`JournalStore`]: batches are committed on its own thread, which ends with it.
pub struct JournalThread<S: JournalStore>(CommitThread<S, JournalBatch>);

impl<S: JournalStore> fmt::Debug for JournalThread<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalThread").finish_non_exhaustive()
    }
}

impl<S: JournalStore> JournalThread<S> {
    /// Of this store.
    pub fn new(store: S) -> JournalThread<S> {
        JournalThread(CommitThread::new("journal", store))
    }
}

fn commit<S: JournalStore>(store: &mut S, batch: JournalBatch) {
    let result = store.commit(batch.writes());
    batch.finish(result);
}

impl<S: JournalStore> Journal for JournalThread<S> {
    fn recover(&self, keep: &mut dyn FnMut(JournalKey, &[u8])) -> Result<(), JournalError> {
        let used = || JournalError::new("the journal is in use: one journal serves one client");
        self.0.read(|store| store.recover(keep)).unwrap_or_else(|| Err(used()))
    }

    fn commit(&self, batch: JournalBatch) {
        if let Err((batch, why)) = self.0.commit(batch, commit) {
            batch.finish(Err(JournalError::new(why)));
        }
    }
}
