//! A thread for stores whose commits block.

use std::fmt;

use oncewire_core::SessionId;

use super::{Batch, Identity, Ledger, LedgerError, Restore};
use crate::commit_thread::CommitThread;

/// A store whose commits block, as those of files do: [`LedgerThread`] makes a [`Ledger`] of it.
pub trait Store: Send + 'static {
    /// In which transactional handlers write.
    type Transaction: 'static;

    /// See [`Ledger::identity`].
    fn identity(&self) -> Identity;

    /// See [`Ledger::session_hash`].
    fn session_hash(&self) -> Option<fn(SessionId) -> SessionId> {
        None
    }

    /// See [`Ledger::recover`].
    ///
    /// # Errors
    /// What cannot be read, and what to do about it.
    fn recover(&mut self, restore: &mut Restore<'_>) -> Result<(), LedgerError>;

    /// Makes a batch durable and returns the number of its commit; see [`Ledger::commit`].
    ///
    /// # Errors
    /// The batch may or may not be durable. No other one will come.
    fn commit(&mut self, batch: &mut Batch<Self::Transaction>) -> Result<u64, LedgerError>;
}

/// A [`Ledger`] of a [`Store`]: batches are committed on its own thread, which ends with it.
pub struct LedgerThread<S: Store> {
    identity: Identity,
    session_hash: Option<fn(SessionId) -> SessionId>,
    thread: CommitThread<S, Batch<S::Transaction>>,
}

impl<S: Store> fmt::Debug for LedgerThread<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerThread").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl<S: Store> LedgerThread<S> {
    /// Of this store.
    pub fn new(store: S) -> LedgerThread<S> {
        let (identity, session_hash) = (store.identity(), store.session_hash());
        LedgerThread { identity, session_hash, thread: CommitThread::new("ledger", store) }
    }
}

fn commit<S: Store>(store: &mut S, mut batch: Batch<S::Transaction>) {
    let result = store.commit(&mut batch);
    batch.finish(result);
}

impl<S: Store> Ledger for LedgerThread<S> {
    type Transaction = S::Transaction;

    fn identity(&self) -> Identity {
        self.identity
    }

    fn session_hash(&self) -> Option<fn(SessionId) -> SessionId> {
        self.session_hash
    }

    fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError> {
        let used = || LedgerError::new("the ledger is in use: one ledger serves one server");
        self.thread.read(|store| store.recover(restore)).unwrap_or_else(|| Err(used()))
    }

    fn commit(&self, batch: Batch<S::Transaction>) {
        if let Err((batch, why)) = self.thread.commit(batch, commit) {
            batch.finish(Err(LedgerError::new(why)));
        }
    }
}
