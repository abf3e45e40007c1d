//! The connections of one server, and what they have in common: an error of one ends them all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use oncewire_driver::ledger::{ChangeSource, LedgerError};

use crate::error::explain;
use crate::options::PostgresOptions;
use crate::schema::{Opened, wait_for_locks};
use crate::shared::{hold_owner, table_of};
use crate::sql::Sql;

/// The owner of the lanes of a server that has the ledger for itself: owners that share one have other numbers.
const ALONE: i64 = 0;

/// Ends what is left of the lanes of a server that does not have the ledger any more. They commit nothing under the next epoch, but
/// as long as they commit under theirs, it may find no moment to begin.
pub(crate) fn end_lanes(sql: &mut Sql, table: i64) -> Result<(), postgres::Error> {
    let end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory' AND granted \
               AND classid::int8 = $1 AND objid::int8 = $2 AND objsubid = 2 AND pid <> pg_backend_pid() \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    sql.query(end, &[&table, &ALONE]).map(drop)
}

/// One more connection of the server that has opened the ledger. `owner` is its number, if it shares the ledger.
pub(crate) fn open_lane(
    options: &PostgresOptions,
    opened: &Opened,
    owner: Option<i64>,
) -> Result<Sql, LedgerError> {
    let doing = |error| explain("open a lane", &error);
    let mut sql = options.connect_or_explain("oncewire ledger")?;
    // Another server of the connection string's may have answered: it must be that of this ledger, and take writes.
    let schema = &opened.schema;
    let of = format!("SELECT 1 FROM {schema}.oncewire_server WHERE epoch = $1 FOR SHARE");
    if sql.query(&of, &[&opened.epoch]).map_err(doing)?.is_empty() {
        return Err(LedgerError::new(
            "the ledger in PostgreSQL cannot open a lane: another server has taken over meanwhile, or the connection string has \
             led to another database",
        ));
    }
    let table = table_of(&mut sql, schema).map_err(doing)?;
    hold_owner(&mut sql, table, owner.unwrap_or(ALONE)).map_err(doing)?;
    wait_for_locks(&mut sql, options).map_err(doing)?;
    Ok(sql)
}

/// What the lanes of a ledger have in common.
#[derive(Debug)]
pub(crate) struct Lanes {
    /// By lane, its connection while that is not used. None is left after an error, so that another server may have its turn.
    idle: Vec<Mutex<Option<Sql>>>,
    failed: Mutex<Option<LedgerError>>,
    /// The last commit when the ledger was opened, and one for each of this server's since: not above the number of the last commit.
    position: AtomicU64,
    pub(crate) changes: ChangeSource,
}

impl Lanes {
    pub(crate) fn new(connections: Vec<Sql>, commit: u64) -> Lanes {
        Lanes {
            idle: connections.into_iter().map(|sql| Mutex::new(Some(sql))).collect(),
            failed: Mutex::default(),
            position: AtomicU64::new(commit),
            changes: ChangeSource::new(commit),
        }
    }

    /// The connection of a lane that has nothing under way.
    ///
    /// # Errors
    /// It is closed, and why.
    pub(crate) fn take(&self, lane: usize) -> Result<Sql, LedgerError> {
        let sql = self.idle.get(lane).and_then(|idle| lock(idle).take());
        sql.ok_or_else(|| {
            let error = lock(&self.failed).clone();
            error.unwrap_or_else(|| {
                LedgerError::new("the ledger's connection is closed: open it again")
            })
        })
    }

    pub(crate) fn give_back(&self, lane: usize, sql: Option<Sql>) {
        if let Some(idle) = self.idle.get(lane) {
            *lock(idle) = sql;
        }
        // A lane that has failed meanwhile could not close this one.
        if lock(&self.failed).is_some() {
            self.close();
        }
    }

    /// Nothing more is committed. Those that have something under way close when it has ended.
    pub(crate) fn fail(&self, error: &LedgerError) {
        lock(&self.failed).get_or_insert_with(|| error.clone());
        self.changes.fail(error.clone());
        self.close();
    }

    fn close(&self) {
        for idle in &self.idle {
            let sql = lock(idle).take();
            drop(sql);
        }
    }

    /// A commit is durable, and reads that begin from now on see its effects, if it has any. Counted then, and not in its transaction,
    /// so that a change with a higher number is not seen before it.
    pub(crate) fn committed(&self, effects: bool) {
        let position = self.position.fetch_add(1, Ordering::SeqCst) + 1;
        if effects {
            self.changes.committed(position);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
