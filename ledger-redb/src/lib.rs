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
//!         let mut accounts = transaction.open_table(ACCOUNTS)?;
//!         let balance = accounts.get(account)?.map_or(0, |balance| balance.value()) + cents;
//!         accounts.insert(account, balance)?;
//!         Ok(balance)
//!     })
//!     .build()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | `file.rs` | opens, creates and locks files; says what is wrong with them |
//! | `store.rs` | makes a batch one durable commit, and records bytes |
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
mod snapshots;
mod store;
pub mod tool;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

pub use redb;

use oncewire_driver::ledger::{Batch, Identity, Ledger, LedgerError, LedgerThread, Restore};
use redb::{Key, TableError, Value};
use redb::{MultimapTable, MultimapTableDefinition, Table, TableDefinition};

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
    inner: redb::WriteTransaction,
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
        Transaction { inner, opened: AtomicBool::new(false) }
    }

    /// Whether it may hold effects of handlers.
    fn has_effects(&self) -> bool {
        self.opened.load(Ordering::Relaxed)
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
