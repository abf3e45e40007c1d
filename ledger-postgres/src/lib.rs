//! A ledger in PostgreSQL, beside a service's own tables: what an Oncewire server has promised survives its crash, and that of its
//! machine.
//!
//! ```no_run
//! use oncewire_driver::{Method, Server};
//! use oncewire_ledger_postgres::{PostgresOptions, Transaction};
//!
//! const DEPOSIT: Method<(i32, i64), i64> = Method::new("bank/deposit");
//!
//! let options = PostgresOptions::new("host=/run/postgresql dbname=bank user=bank")?
//!     .with_tables("CREATE TABLE IF NOT EXISTS accounts (id int PRIMARY KEY, cents bigint NOT NULL)");
//! let server = Server::builder("bank")
//!     // Waits, as a stand-by, while another server has it.
//!     .ledger(options.open()?)
//!     // Executed exactly once: the deposit and the record of its reply become durable together, or not at all.
//!     .transactional(&DEPOSIT, |transaction: &mut Transaction, _context, (account, cents)| {
//!         let row = transaction.query_one(
//!             "INSERT INTO accounts VALUES ($1, $2) \
//!              ON CONFLICT (id) DO UPDATE SET cents = accounts.cents + $2 RETURNING cents",
//!             &[&account, &cents],
//!         )?;
//!         Ok(row.get(0))
//!     })
//!     .build()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | `options.rs` | which database, and how it is used |
//! | `schema.rs` | makes the tables, waits for our turn, takes the next epoch |
//! | `store.rs` | makes a batch one transaction |
//! | `staged.rs` | what a batch makes of the tables, in few statements |
//! | `transaction.rs` | what handlers are given: SQL that cannot commit |
//! | `reads.rs` | connections of idempotent methods |
//! | `sql.rs` | a connection with its prepared statements, and what it is warned of |
//! | `tool.rs` | what the program `oncewire-ledger-postgres` does |
//! | `error.rs` | what an error means for a call, a batch, a person |
//!
//! # One server at a time
//!
//! A server that opens the ledger waits for an advisory lock, which dies with the connection of the one before. That is only for waiting;
//! what guarantees that two never commit is a number, the epoch: each server takes the next one before it reads anything, and a commit
//! with an older one writes nothing.
//!
//! # Group commit
//!
//! Calls that are ready together run in one transaction, and share its commit. If one of them is rolled back, the transaction is given
//! up, and all run again in savepoints. So each succeeds or fails alone, and a handler may run twice; what it did the first time is gone.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod error;
mod options;
mod reads;
mod schema;
mod sql;
mod staged;
mod store;
pub mod tool;
mod transaction;

pub use postgres;

use oncewire_driver::ledger::{Batch, Identity, Ledger, LedgerError, LedgerThread, Restore};
use oncewire_driver::protocol::SessionId;

pub use error::SqlError;
pub use options::PostgresOptions;
pub use reads::Reads;
pub use store::PostgresStore;
pub use transaction::Transaction;

/// A ledger in PostgreSQL, on its own thread.
#[derive(Debug)]
pub struct PostgresLedger {
    thread: LedgerThread<PostgresStore>,
    reads: Reads,
}

impl PostgresLedger {
    /// The ledger of a store.
    pub fn new(store: PostgresStore) -> PostgresLedger {
        let reads = store.reads();
        PostgresLedger { thread: LedgerThread::new(store), reads }
    }

    /// Where idempotent methods read.
    pub fn reads(&self) -> Reads {
        self.reads.clone()
    }
}

impl Ledger for PostgresLedger {
    type Transaction = Transaction;

    fn identity(&self) -> Identity {
        self.thread.identity()
    }

    fn session_hash(&self) -> Option<fn(SessionId) -> SessionId> {
        self.thread.session_hash()
    }

    fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError> {
        self.thread.recover(restore)
    }

    fn commit(&self, batch: Batch<Transaction>) {
        self.thread.commit(batch);
    }
}

/// The code of the README is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
