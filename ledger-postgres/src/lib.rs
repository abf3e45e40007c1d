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
//! | `connection.rs` | what a connection string says of TLS |
//! | `tls.rs` | connects so, with the feature `tls` |
//! | `schema.rs` | makes the tables, waits for our turn, takes the next epoch |
//! | `kept.rs` | what the tables hold, read whole |
//! | `lanes.rs` | the connections of one server, and what they have in common |
//! | `shared.rs` | several servers at once: whose each session is |
//! | `store.rs` | makes a batch one transaction |
//! | `staged.rs` | what a batch makes of the tables, in few statements |
//! | `transaction.rs` | what handlers are given: SQL that cannot commit |
//! | `reads.rs` | connections of idempotent methods |
//! | `sql.rs` | a connection with its prepared statements, and what it is warned of |
//! | `link.rs` | waits for the database, and for two answers at once |
//! | `tool.rs` | what the program `oncewire-ledger-postgres` does |
//! | `error.rs` | what an error means for a call, a batch, a person |
//!
//! # One server at a time
//!
//! A server that opens the ledger waits for an advisory lock, which dies with the connection of the one before. That is only for waiting;
//! what guarantees that two never commit is a number, the epoch: each server takes the next one before it reads anything, and a commit
//! with an older one writes nothing.
//!
//! Opened [together with others](PostgresOptions::open_shared), each session has an owner and an epoch of its own: a claim raises it, and a
//! batch writes nothing of sessions whose epoch is not the one that it knows.
//!
//! # Group commit
//!
//! Calls that are ready together run in one transaction, and share its commit. If one of them is rolled back, the transaction is given
//! up, and all run again in savepoints. So each succeeds or fails alone, and a handler may run twice; what it did the first time is gone.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(all(test, unix))]
#[allow(dead_code, unreachable_pub)]
#[path = "../tests/util/cluster.rs"]
mod cluster;
mod connection;
mod error;
mod kept;
mod lanes;
mod link;
mod options;
mod reads;
mod schema;
mod shared;
mod sql;
mod staged;
mod store;
#[cfg(feature = "tls")]
mod tls;
pub mod tool;
mod transaction;

pub use postgres;

use oncewire_driver::ledger::{
    Batch, Changes, Claim, Identity, Ledger, LedgerError, LedgerThread, Restore,
};
use oncewire_driver::protocol::SessionId;

pub use error::SqlError;
pub use options::PostgresOptions;
pub use reads::Reads;
pub use store::PostgresStore;
pub use transaction::Transaction;

/// A ledger in PostgreSQL, with a thread for each of its [lanes](PostgresOptions::with_lanes).
#[derive(Debug)]
pub struct PostgresLedger {
    /// One at least.
    threads: Vec<LedgerThread<PostgresStore>>,
    batch_calls_max: usize,
    reads: Reads,
    changes: Changes,
}

impl PostgresLedger {
    /// The ledger of a store.
    pub fn new(mut store: PostgresStore) -> PostgresLedger {
        let (reads, changes) = (store.reads(), store.changes());
        let batch_calls_max = store.batch_calls_max();
        let others = store.take_others();
        let threads = std::iter::once(store).chain(others).map(LedgerThread::new).collect();
        PostgresLedger { threads, batch_calls_max, reads, changes }
    }

    /// Where idempotent methods read.
    pub fn reads(&self) -> Reads {
        self.reads.clone()
    }

    /// The commits of this server that wrote effects: what an idempotent method waits for that answers when something has changed.
    ///
    /// Where one server at a time has the ledger, these are the effects of all calls as long as this one has it; where several
    /// share it, those of this one's. What others write into the same tables is not seen, nor are the commits of a server that has taken over: this one learns of that when it
    /// commits next, and then the wait ends with the error. So give such a method a time limit. A transactional handler that has run a statement
    /// counts as one that wrote.
    ///
    /// ```no_run
    /// use oncewire_driver::ledger::{Changes, LedgerError};
    /// use oncewire_ledger_postgres::Reads;
    ///
    /// /// Waits until the account holds as much.
    /// async fn until_paid(reads: &Reads, changes: &Changes, account: i32, cents: i64) -> Result<(), LedgerError> {
    ///     loop {
    ///         // Before the read: what commits after it is seen by the wait.
    ///         let seen = changes.last();
    ///         let reads = reads.clone();
    ///         let sql = "SELECT 1 FROM accounts WHERE id = $1 AND cents >= $2";
    ///         // It blocks, so it has a thread of its own; the wait has none.
    ///         let row = smol::unblock(move || reads.query_opt(sql, &[&account, &cents])).await;
    ///         if row.map_err(|error| LedgerError::new(error.to_string()))?.is_some() {
    ///             return Ok(());
    ///         }
    ///         changes.after(seen).await?;
    ///     }
    /// }
    /// ```
    pub fn changes(&self) -> Changes {
        self.changes.clone()
    }
}

impl Ledger for PostgresLedger {
    type Transaction = Transaction;

    fn identity(&self) -> Identity {
        self.threads[0].identity()
    }

    fn session_hash(&self) -> Option<fn(SessionId) -> SessionId> {
        self.threads[0].session_hash()
    }

    fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError> {
        self.threads[0].recover(restore)
    }

    fn shared(&self) -> bool {
        self.threads[0].shared()
    }

    fn claim(&self, claim: Claim) {
        // By turns, as ids are random. Its batches wait behind it, those of the other lanes do not.
        let lane = usize::from(claim.session().to_bytes()[0]);
        self.threads[lane % self.threads.len()].claim(claim);
    }

    fn lanes(&self) -> usize {
        self.threads.len()
    }

    fn batch_calls_max(&self) -> usize {
        self.batch_calls_max
    }

    fn commit(&self, batch: Batch<Transaction>) {
        self.threads[batch.lane() % self.threads.len()].commit(batch);
    }
}

/// The code of the README is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
