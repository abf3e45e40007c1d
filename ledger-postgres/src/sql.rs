//! A connection, and the statements that are prepared on it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use postgres::error::{DbError, Severity};
use postgres::types::ToSql;
use postgres::{Client, Row, Statement};

/// A statement's parameters.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Statements that are kept prepared on one connection. A program that writes values into its SQL, in place of `$1`, would
/// otherwise fill the database's memory.
const STATEMENTS_MAX: usize = 512;

/// A connection with its prepared statements.
pub(crate) struct Sql {
    client: Client,
    statements: HashMap<Box<str>, Statement>,
    warnings: Warnings,
}

impl fmt::Debug for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sql").field("statements", &self.statements.len()).finish_non_exhaustive()
    }
}

impl Sql {
    pub(crate) fn new(client: Client, warnings: Warnings) -> Sql {
        Sql { client, statements: HashMap::new(), warnings }
    }

    /// Statements without parameters and rows, as a script.
    pub(crate) fn script(&mut self, sql: &str) -> Result<(), postgres::Error> {
        self.client.batch_execute(sql)
    }

    pub(crate) fn execute(
        &mut self,
        sql: &str,
        params: Params<'_>,
    ) -> Result<u64, postgres::Error> {
        let statement = self.prepared(sql)?;
        self.client.execute(&statement, params)
    }

    pub(crate) fn query(
        &mut self,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, postgres::Error> {
        let statement = self.prepared(sql)?;
        self.client.query(&statement, params)
    }

    /// Exactly one row.
    pub(crate) fn row(&mut self, sql: &str, params: Params<'_>) -> Result<Row, postgres::Error> {
        let statement = self.prepared(sql)?;
        self.client.query_one(&statement, params)
    }

    /// Rows one by one, of which there may be many.
    pub(crate) fn rows(&mut self, sql: &str) -> Result<postgres::RowIter<'_>, postgres::Error> {
        let none: [&(dyn ToSql + Sync); 0] = [];
        self.client.query_raw(sql, none)
    }

    /// Forgets what was prepared: tables may have changed.
    pub(crate) fn forget_statements(&mut self) {
        self.statements.clear();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    pub(crate) fn warnings(&self) -> &Warnings {
        &self.warnings
    }

    fn prepared(&mut self, sql: &str) -> Result<Statement, postgres::Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql)?;
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
        }
        self.statements.insert(sql.into(), statement.clone());
        Ok(statement)
    }
}

/// The last warning that came on a connection.
///
/// A synchronous commit whose wait for the stand-by was cancelled ends with success and a warning: it is in this database, and
/// may be in no other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Warnings(Arc<Mutex<Option<String>>>);

impl Warnings {
    /// As the client calls it with what the database says beside its answers.
    pub(crate) fn note(&self, said: &DbError) {
        if matches!(said.parsed_severity(), Some(Severity::Warning)) {
            let text = format!("{} [{}]", said.message(), said.code().code());
            *self.lock() = Some(text);
        }
    }

    pub(crate) fn take(&self) -> Option<String> {
        self.lock().take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
