//! Where idempotent methods read: on connections of their own, beside the ledger's.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use postgres::Row;

use crate::error::{SqlError, is_lost, is_stale_plan};
use crate::options::PostgresOptions;
use crate::sql::{Params, Sql};

/// Reads what is durable, on connections of its own, which are made when they are needed and kept. Cheap to clone.
///
/// It blocks the thread: offer the method by [`ServerBuilder::blocking`](oncewire_driver::ServerBuilder::blocking). A read waits while
/// all connections are in use ([`PostgresOptions::with_readers_max`]). What another connection sees is durable, in the stand-by
/// too where commits wait for one, as long as none of those waits is cancelled.
#[derive(Clone)]
pub struct Reads(Arc<Pool>);

struct Pool {
    options: PostgresOptions,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Sql>,
    /// With those in use.
    open: usize,
}

impl fmt::Debug for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reads").field("open", &self.0.lock().open).finish_non_exhaustive()
    }
}

impl Reads {
    pub(crate) fn new(options: PostgresOptions) -> Reads {
        Reads(Arc::new(Pool { options, state: Mutex::default(), freed: Condvar::new() }))
    }

    /// The rows of a query, whose statement is prepared once and kept.
    ///
    /// # Errors
    /// What the database says: that it cannot be reached, or that the statement is wrong, or would write.
    pub fn query(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, SqlError> {
        let (mut reader, is_fresh) = self.0.reader()?;
        let result = reader.sql().query(sql, params);
        match result {
            // It was idle while the database restarted, or a table has changed: to read again changes nothing.
            Err(error) if is_lost(&error) && !is_fresh => {
                reader.replace()?;
            }
            Err(error) if is_stale_plan(&error) => reader.sql().forget_statements(),
            result => return Ok(result?),
        }
        Ok(reader.sql().query(sql, params)?)
    }

    /// The one row of a query.
    ///
    /// # Errors
    /// As [`query`](Reads::query); and [`SqlError::RowCount`].
    pub fn query_one(&self, sql: &str, params: Params<'_>) -> Result<Row, SqlError> {
        self.query_opt(sql, params)?.ok_or(SqlError::RowCount(0))
    }

    /// The one row of a query, if it has one.
    ///
    /// # Errors
    /// As [`query_one`](Reads::query_one).
    pub fn query_opt(&self, sql: &str, params: Params<'_>) -> Result<Option<Row>, SqlError> {
        let mut rows = self.query(sql, params)?;
        match rows.len() {
            0 | 1 => Ok(rows.pop()),
            more => Err(SqlError::RowCount(more)),
        }
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection, and whether it is a new one.
    fn reader(self: &Arc<Self>) -> Result<(Reader, bool), SqlError> {
        let mut state = self.lock();
        while state.idle.is_empty() && state.open >= self.options.readers_max {
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(sql) = state.idle.pop() {
            return Ok((Reader { pool: self.clone(), sql: Some(sql) }, false));
        }
        state.open += 1;
        drop(state);
        // From here on its drop gives the place back.
        let mut reader = Reader { pool: self.clone(), sql: None };
        reader.replace()?;
        Ok((reader, true))
    }

    fn connect(&self) -> Result<Sql, SqlError> {
        let sql = self.options.connect_or_explain("oncewire reads");
        let mut sql = sql.map_err(SqlError::Unreachable)?;
        sql.only_reads_by_default()?;
        Ok(sql)
    }
}

/// A connection that is in use.
struct Reader {
    pool: Arc<Pool>,
    sql: Option<Sql>,
}

impl Reader {
    fn sql(&mut self) -> &mut Sql {
        self.sql.as_mut().expect("a reader that was given out has a connection")
    }

    fn replace(&mut self) -> Result<(), SqlError> {
        self.sql = None;
        self.sql = Some(self.pool.connect()?);
        Ok(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let sql = self.sql.take().filter(|sql| !sql.is_closed());
        let mut state = self.pool.lock();
        match sql {
            Some(sql) => state.idle.push(sql),
            None => state.open -= 1,
        }
        drop(state);
        self.pool.freed.notify_one();
    }
}
