//! What is durable: where idempotent methods read, and what they wait for.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use oncewire_driver::ledger::{ChangeSource, Changes, LedgerError};
use redb::ReadTransaction;

/// What is durable, to be read while commits go on. Cheap to clone.
///
/// redb's own read transactions would show commits that are not durable yet, and a reply made of them could contradict
/// what is there after a crash (S29).
#[derive(Clone, Debug)]
pub struct Snapshots(Arc<Latest>);

#[derive(Debug)]
struct Latest(Mutex<Arc<Snapshot>>);

/// One durable state. The file cannot reuse what it holds while it is kept: drop it soon.
pub struct Snapshot {
    transaction: ReadTransaction,
    change: u64,
    changes: Changes,
    latest: Weak<Latest>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("change", &self.change).finish_non_exhaustive()
    }
}

impl Deref for Snapshot {
    type Target = ReadTransaction;

    fn deref(&self) -> &ReadTransaction {
        &self.transaction
    }
}

impl Snapshot {
    /// The number of the last commit in it that wrote effects. It grows with each such commit, and not with others, also across
    /// restarts of the server; of a ledger that was opened and has written none yet, it is that of the last commit.
    pub fn change(&self) -> u64 {
        self.change
    }

    /// Waits for the first commit behind this one that writes effects, and returns what is durable then: for handlers that answer
    /// when something has changed. Ready at once if there was such a commit already, so that none is missed.
    ///
    /// Records alone wake no one: of calls, also of calls that were rolled back, of sessions, of acknowledgements. A transactional
    /// handler that has opened a table counts as one that wrote. The snapshot is given back at the begin of the wait, unless
    /// a clone of it is kept, and dropping the future frees all of it.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    /// use oncewire_driver::ledger::LedgerError;
    /// use oncewire_ledger_redb::{Snapshot, Snapshots};
    ///
    /// /// Waits until `find` finds something.
    /// async fn watch<T>(
    ///     snapshots: &Snapshots,
    ///     find: impl Fn(&Snapshot) -> Option<T>,
    /// ) -> Result<T, LedgerError> {
    ///     let mut snapshot = snapshots.latest();
    ///     loop {
    ///         if let Some(found) = find(&snapshot) {
    ///             return Ok(found);
    ///         }
    ///         snapshot = snapshot.changed().await?;
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// The ledger has failed, or was closed: no commit follows.
    pub fn changed(
        self: Arc<Self>,
    ) -> impl Future<Output = Result<Arc<Snapshot>, LedgerError>> + Send + 'static {
        let (changed, latest) = (self.changes.after(self.change), self.latest.clone());
        drop(self);
        async move {
            changed.await?;
            let latest = latest.upgrade().ok_or_else(|| LedgerError::new("the ledger was closed"));
            Ok(latest?.get())
        }
    }
}

impl Latest {
    fn get(&self) -> Arc<Snapshot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Snapshots {
    /// The last durable state.
    pub fn latest(&self) -> Arc<Snapshot> {
        self.0.get()
    }

    /// The commits that wrote effects: those that [`Snapshot::changed`] waits for.
    pub fn changes(&self) -> Changes {
        self.latest().changes.clone()
    }

    pub(crate) fn first(transaction: ReadTransaction, source: &ChangeSource) -> Snapshots {
        let changes = source.changes();
        let change = changes.last();
        Snapshots(Arc::new_cyclic(|latest| {
            let latest = latest.clone();
            Latest(Mutex::new(Arc::new(Snapshot { transaction, change, changes, latest })))
        }))
    }

    /// What is durable now, with the number of the commit if that wrote effects.
    pub(crate) fn set(&self, transaction: ReadTransaction, changed: Option<u64>) {
        let mut latest = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Snapshot {
            transaction,
            change: changed.unwrap_or(latest.change),
            changes: latest.changes.clone(),
            latest: latest.latest.clone(),
        };
        let last = std::mem::replace(&mut *latest, Arc::new(next));
        drop(latest);
        drop(last);
    }
}
