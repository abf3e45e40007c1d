//! A thread for stores whose commits block.

use std::fmt;

use oncewire_core::SessionId;

use super::{Batch, Claim, Identity, Ledger, LedgerError, Restore};
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

    /// See [`Ledger::shared`].
    fn shared(&self) -> bool {
        false
    }

    /// See [`Ledger::claim`]; batches wait for it.
    fn claim(&mut self, claim: Claim) {
        claim.unavailable(LedgerError::new("this ledger is not shared"));
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
    shared: bool,
    thread: CommitThread<S, Job<S::Transaction>>,
}

/// What the thread does.
enum Job<X> {
    Batch(Batch<X>),
    Claim(Claim),
}

impl<S: Store> fmt::Debug for LedgerThread<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerThread").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl<S: Store> LedgerThread<S> {
    /// Of this store.
    pub fn new(store: S) -> LedgerThread<S> {
        let (identity, session_hash, shared) =
            (store.identity(), store.session_hash(), store.shared());
        LedgerThread { identity, session_hash, shared, thread: CommitThread::new("ledger", store) }
    }
}

impl<S: Store> LedgerThread<S> {
    fn give(&self, job: Job<S::Transaction>) {
        match self.thread.commit(job, work) {
            Ok(()) => {}
            Err((Job::Batch(batch), why)) => batch.finish(Err(LedgerError::new(why))),
            Err((Job::Claim(claim), why)) => claim.unavailable(LedgerError::new(why)),
        }
    }
}

fn work<S: Store>(store: &mut S, job: Job<S::Transaction>) {
    match job {
        Job::Batch(mut batch) => {
            let result = store.commit(&mut batch);
            batch.finish(result);
        }
        Job::Claim(claim) => store.claim(claim),
    }
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
        self.give(Job::Batch(batch));
    }

    fn shared(&self) -> bool {
        self.shared
    }

    fn claim(&self, claim: Claim) {
        self.give(Job::Claim(claim));
    }
}
