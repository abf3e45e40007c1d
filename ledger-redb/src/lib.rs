//! A ledger in one file: what an Oncewire server has promised survives its crash.
//!
//! ```no_run
//! use oncewire_driver::{Method, Server};
//! use oncewire_ledger_redb::{RedbLedger, Transaction, redb::{ReadableTable, TableDefinition}};
//!
//! const ACCOUNTS: TableDefinition<'_, u32, i64> = TableDefinition::new("accounts");
//! const DEPOSIT: Method<(u32, i64), i64> = Method::new("bank/deposit");
//!
//! let ledger = RedbLedger::open("bank.ledger")?;
//! let server = Server::builder("bank")
//!     .ledger(ledger)
//!     // Executed exactly once: the deposit and the record of its reply become durable together, or not at all.
//!     .transactional(&DEPOSIT, |transaction: &mut Transaction, _context, (account, cents)| {
//!         transaction.with_table(ACCOUNTS, move |accounts| {
//!             let balance = accounts.get(account)?.map_or(0, |balance| balance.value()) + cents;
//!             accounts.insert(account, balance)?;
//!             Ok(balance)
//!         })
//!     })
//!     .build()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | `file.rs` | opens, creates and locks files; says what is wrong with them |
//! | `store.rs` | makes a batch one durable commit, and records bytes |
//! | `kept.rs` | keeps tables open from one call of a batch to the next |
//! | `snapshots.rs` | what is durable, to be read, and waited for |
//! | `journal.rs` | the other side: what a client has asked for survives its crash |
//! | `faults.rs` | what a simulator lets go wrong inside a commit |
//! | `tool.rs` | what the program `oncewire-ledger` does |
//!
//! # What the file holds
//!
//! A record for each slot of each session that was used, which a later call on the slot replaces: the file is bounded by
//! the slots granted, not by the calls made. Records that clients have acknowledged are removed once a second. Beside
//! them are the tables of transactional handlers, which are yours; names that begin with `oncewire.` are the ledger's.
//!
//! # Group commit
//!
//! Calls that are ready together run in one transaction of redb, and share its one fsync. If a handler among them rolls
//! back, the transaction is given up, and each call runs again in its own transaction, with its record, none of which is durable
//! before the last. So each succeeds or fails alone, and a handler may run twice; what it did the first time is gone.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(any(test, feature = "_faults"))]
#[doc(hidden)]
pub mod faults;
mod file;
mod journal;
mod kept;
mod snapshots;
mod store;
pub mod tool;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use redb;

use oncewire_driver::ledger::{Batch, Identity, Ledger, LedgerError, LedgerThread, Restore};
use redb::{Key, TableError, Value};
use redb::{MultimapTable, MultimapTableDefinition, Table, TableDefinition};

use kept::KeptTables;

pub use journal::{RedbJournal, RedbJournalStore};
pub use snapshots::{Snapshot, Snapshots};
pub use store::RedbStore;

/// A ledger in a file of redb, on its own thread.
#[derive(Debug)]
pub struct RedbLedger {
    thread: LedgerThread<RedbStore>,
    snapshots: Snapshots,
}

impl RedbLedger {
    /// Opens the ledger in this file, or makes one if there is no such file. `PATH.lock` is kept beside it while it is
    /// open, so that no two servers use one ledger. It holds the ids of sessions, which are secrets: it is made with mode
    /// 0600, and must be so when it is opened.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do about it. A file that is no ledger, a broken one, and one that is not
    /// this user's alone, is left as it is.
    pub fn open(path: impl AsRef<Path>) -> Result<RedbLedger, LedgerError> {
        Ok(RedbLedger::new(RedbStore::open(path.as_ref())?))
    }

    /// The ledger of a store.
    pub fn new(store: RedbStore) -> RedbLedger {
        let snapshots = store.snapshots();
        RedbLedger { thread: LedgerThread::new(store), snapshots }
    }

    /// Where idempotent methods read.
    pub fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }
}

impl Ledger for RedbLedger {
    type Transaction = Transaction;

    fn identity(&self) -> Identity {
        self.thread.identity()
    }

    fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError> {
        self.thread.recover(restore)
    }

    fn commit(&self, batch: Batch<Transaction>) {
        self.thread.commit(batch);
    }
}

/// In which a transactional handler reads and writes its own tables.
pub struct Transaction {
    /// Before the transaction, which they borrow: they are closed first.
    kept: Mutex<KeptTables>,
    inner: Arc<redb::WriteTransaction>,
    /// A handler has opened a table: it may have written.
    opened: AtomicBool,
}

impl std::fmt::Debug for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Transaction")
    }
}

/// How the names of the ledger's own tables begin.
const OWN: &str = "oncewire.";

impl Transaction {
    fn new(inner: redb::WriteTransaction) -> Transaction {
        let kept = Mutex::default();
        Transaction { kept, inner: Arc::new(inner), opened: AtomicBool::new(false) }
    }

    /// To be committed or aborted.
    fn into_inner(self) -> Result<redb::WriteTransaction, redb::Error> {
        drop(self.kept);
        let in_use = || redb::Error::Io(std::io::Error::other("a table of the commit is in use"));
        Arc::into_inner(self.inner).ok_or_else(in_use)
    }

    /// Whether it may hold effects of handlers.
    fn has_effects(&self) -> bool {
        self.opened.load(Ordering::Relaxed)
    }

    /// Calls `work` with a table, which is made if there is none, and returns what that returns.
    ///
    /// The table stays open for the calls after this one in the same commit, of which each saves what
    /// [`open_table`](Transaction::open_table) costs: with many calls in flight that is more than a read and a write of a row. `work` must
    /// own what it uses (`move`).
    ///
    /// ```
    /// use oncewire_ledger_redb::redb::{self, ReadableTable, TableDefinition};
    /// use oncewire_ledger_redb::Transaction;
    ///
    /// const ACCOUNTS: TableDefinition<'_, u32, i64> = TableDefinition::new("accounts");
    ///
    /// fn deposit(transaction: &mut Transaction, account: u32, cents: i64) -> Result<i64, redb::Error> {
    ///     transaction.with_table(ACCOUNTS, move |accounts| {
    ///         let balance = accounts.get(account)?.map_or(0, |balance| balance.value()) + cents;
    ///         accounts.insert(account, balance)?;
    ///         Ok(balance)
    ///     })
    /// }
    /// ```
    ///
    /// # Errors
    /// What `work` returns; before it runs as [`open_table`](Transaction::open_table).
    pub fn with_table<K, V, R, E>(
        &mut self,
        table: TableDefinition<'_, K, V>,
        work: impl FnOnce(&mut Table<'_, K, V>) -> Result<R, E> + Send + 'static,
    ) -> Result<R, E>
    where
        K: Key + Send + 'static,
        V: Value + Send + 'static,
        R: Send + 'static,
        E: From<TableError> + Send + 'static,
    {
        not_our_own(redb::TableHandle::name(&table))?;
        *self.opened.get_mut() = true;
        let kept = self.kept.get_mut().unwrap_or_else(PoisonError::into_inner);
        kept.with(&self.inner, table, work)?
    }

    /// Closes a table that was kept open, which redb would not open twice.
    fn close_kept(&self, name: &str) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).close(name);
    }

    /// Opens a table, and makes it if there is none.
    ///
    /// # Errors
    /// As redb's, and [`TableError::TableDoesNotExist`] for the ledger's own tables.
    pub fn open_table<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
    ) -> Result<Table<'_, K, V>, TableError> {
        not_our_own(redb::TableHandle::name(&table))?;
        self.opened.store(true, Ordering::Relaxed);
        self.close_kept(redb::TableHandle::name(&table));
        self.inner.open_table(table)
    }

    /// The same of a table with several values a key.
    ///
    /// # Errors
    /// As [`open_table`](Transaction::open_table).
    pub fn open_multimap_table<K: Key + 'static, V: Key + 'static>(
        &self,
        table: MultimapTableDefinition<'_, K, V>,
    ) -> Result<MultimapTable<'_, K, V>, TableError> {
        not_our_own(redb::MultimapTableHandle::name(&table))?;
        self.opened.store(true, Ordering::Relaxed);
        self.close_kept(redb::MultimapTableHandle::name(&table));
        self.inner.open_multimap_table(table)
    }
}

fn not_our_own(name: &str) -> Result<(), TableError> {
    if name.starts_with(OWN) {
        return Err(TableError::TableDoesNotExist(name.to_owned()));
    }
    Ok(())
}

/// The code of the README is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
