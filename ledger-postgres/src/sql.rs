//! A connection, and the statements that are prepared on it.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use futures_core::Stream;
use oncewire_driver::ledger::LedgerError;
use postgres::error::{DbError, Severity};
use postgres::types::ToSql;
use postgres::{Row, Statement};
use tokio_postgres::{Client, RowStream};

use crate::error::explain;
use crate::link::{Link, both};

/// A statement's parameters.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Statements that are kept prepared on one connection. A program that writes values into its SQL, in place of `$1`, would
/// otherwise fill the database's memory.
const STATEMENTS_MAX: usize = 512;

/// A connection with its prepared statements.
pub(crate) struct Sql {
    link: Link,
    statements: HashMap<Box<str>, Statement>,
    /// Begins a transaction, and leaves with the next statement.
    begin: Option<String>,
    /// Why the last transaction was not begun, with which a statement had left.
    not_begun: Option<LedgerError>,
}

impl fmt::Debug for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sql").field("statements", &self.statements.len()).finish_non_exhaustive()
    }
}

impl Sql {
    pub(crate) fn new(link: Link) -> Sql {
        Sql { link, statements: HashMap::new(), begin: None, not_begun: None }
    }

    /// Begins a transaction together with the next statement, so that it costs no round trip.
    ///
    /// If that fails, the statement may run outside of any transaction. So the connection must be one on which nothing is
    /// written without `READ WRITE` ([`only_reads_by_default`](Sql::only_reads_by_default)), which `begin` says.
    pub(crate) fn begin_with_next(&mut self, begin: &str) {
        self.begin = Some(begin.to_owned());
        self.not_begun = None;
    }

    /// From now on, only transactions that say so write.
    pub(crate) fn only_reads_by_default(&mut self) -> Result<(), postgres::Error> {
        self.script("SET default_transaction_read_only = on")
    }

    /// Why the transaction was not begun, if it was not: an error of a statement may mean that.
    pub(crate) fn take_not_begun(&mut self) -> Option<LedgerError> {
        self.not_begun.take()
    }

    /// Ends the transaction, if it was begun.
    pub(crate) fn roll_back(&mut self) -> Result<(), postgres::Error> {
        if self.begin.take().is_some() {
            return Ok(());
        }
        self.script("ROLLBACK")
    }

    /// Statements without parameters and rows, as a script.
    pub(crate) fn script(&mut self, sql: &str) -> Result<(), postgres::Error> {
        self.send(async |client| client.batch_execute(sql).await)
    }

    pub(crate) fn execute(
        &mut self,
        sql: &str,
        params: Params<'_>,
    ) -> Result<u64, postgres::Error> {
        let statement = self.prepared(sql)?;
        self.send(async |client| client.execute(&statement, params).await)
    }

    pub(crate) fn query(
        &mut self,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, postgres::Error> {
        let statement = self.prepared(sql)?;
        self.send(async |client| client.query(&statement, params).await)
    }

    /// Exactly one row.
    pub(crate) fn row(&mut self, sql: &str, params: Params<'_>) -> Result<Row, postgres::Error> {
        let statement = self.prepared(sql)?;
        self.send(async |client| client.query_one(&statement, params).await)
    }

    /// Runs a statement of a transaction and commits, in one round trip. Where the statement fails, the database rolls the
    /// transaction back in place of the commit.
    pub(crate) fn row_and_commit(
        &mut self,
        sql: &str,
        params: Params<'_>,
    ) -> Result<RowAndCommit, postgres::Error> {
        let statement = self.prepared(sql)?;
        let _earlier = self.warnings().take();
        self.send(async |client| {
            let mut row = pin!(client.query_one(&statement, params));
            // What could not be sent says so when it is polled first, and no commit follows it: that would be one without the statement.
            let first = poll_fn(|cx| Poll::Ready(row.as_mut().poll(cx))).await;
            let commit = client.batch_execute("COMMIT");
            let (row, committed) = match first {
                Poll::Ready(row) => (Ok(row?), commit.await),
                Poll::Pending => both(row, commit).await,
            };
            Ok(RowAndCommit { row: row?, committed })
        })
    }

    /// Rows one by one, of which there may be many.
    pub(crate) fn rows(&mut self, sql: &str) -> Result<Rows<'_>, postgres::Error> {
        let none: [&(dyn ToSql + Sync); 0] = [];
        let stream = self.send(async |client| client.query_raw(sql, none).await)?;
        Ok(Rows { link: &mut self.link, stream: Box::pin(stream) })
    }

    /// Forgets what was prepared: tables may have changed.
    pub(crate) fn forget_statements(&mut self) {
        self.statements.clear();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.link.is_closed()
    }

    pub(crate) fn warnings(&self) -> &Warnings {
        self.link.warnings()
    }

    /// Waits for the answer to a request. A transaction that is to begin with it is begun in the same round trip.
    fn send<R>(
        &mut self,
        request: impl AsyncFnOnce(&Client) -> Result<R, postgres::Error>,
    ) -> Result<R, postgres::Error> {
        let Some(begin) = self.begin.take() else { return self.link.wait(request) };
        let (begun, result) = self
            .link
            .wait(async |client| Ok(both(client.batch_execute(&begin), request(client)).await))?;
        if let Err(error) = begun {
            self.not_begun = Some(explain("begin a transaction", &error));
            return Err(error);
        }
        result
    }

    fn prepared(&mut self, sql: &str) -> Result<Statement, postgres::Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.send(async |client| client.prepare(sql).await)?;
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
        }
        self.statements.insert(sql.into(), statement.clone());
        Ok(statement)
    }
}

/// What became of a statement and the commit behind it.
pub(crate) struct RowAndCommit {
    /// The statement's one row.
    pub(crate) row: Row,
    pub(crate) committed: Result<(), postgres::Error>,
}

/// Rows as they come.
pub(crate) struct Rows<'a> {
    link: &'a mut Link,
    stream: Pin<Box<RowStream>>,
}

impl Rows<'_> {
    pub(crate) fn next(&mut self) -> Result<Option<Row>, postgres::Error> {
        let stream = &mut self.stream;
        self.link.wait(async |_| poll_fn(|cx| stream.as_mut().poll_next(cx)).await.transpose())
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

#[cfg(all(test, unix))]
mod tests {
    use postgres::error::SqlState;

    use super::*;
    use crate::PostgresOptions;
    use crate::cluster::{Cluster, StartError};

    const BEGIN: &str = "BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE";
    const INSERT: &str = "INSERT INTO lines VALUES ($1)";

    fn lines(sql: &mut Sql) -> i64 {
        sql.row("SELECT count(*) FROM lines", &[]).unwrap().get(0)
    }

    #[test]
    fn c414_what_leaves_together_with_a_begin_or_a_commit_is_in_the_transaction_or_nowhere() {
        let cluster = match Cluster::start("sql", "") {
            Ok(cluster) => cluster,
            Err(StartError::Absent) => return output::note!("skipped: {}", StartError::Absent),
            Err(error) => panic!("{error}"),
        };
        let options = PostgresOptions::new(&cluster.connection("postgres")).unwrap();
        let mut sql = options.connect_or_explain("test").unwrap();
        sql.script("CREATE TABLE lines (line int)").unwrap();
        sql.only_reads_by_default().unwrap();
        sql.begin_with_next(BEGIN);
        sql.execute(INSERT, &[&1]).unwrap();
        assert_eq!(sql.row_and_commit("SELECT 7", &[]).unwrap().row.get::<_, i32>(0), 7);
        assert_eq!(lines(&mut sql), 1);

        // The transaction is not begun: a statement that was prepared long ago, and one that is not.
        for insert in [INSERT, "INSERT INTO lines SELECT $1"] {
            sql.begin_with_next("BEGIN ISOLATION LEVEL NONE");
            let error = sql.execute(insert, &[&2]).unwrap_err();
            assert!(error.code().is_some_and(|code| *code == SqlState::SYNTAX_ERROR), "{error}");
            let why = sql.take_not_begun().unwrap().to_string();
            assert!(why.contains("cannot begin a transaction"), "{why}");
            assert_eq!(lines(&mut sql), 1);
        }
        // And by one that commits, too.
        sql.begin_with_next("BEGIN ISOLATION LEVEL NONE");
        let insert = "INSERT INTO lines VALUES (3) RETURNING line";
        assert!(sql.row_and_commit(insert, &[]).is_err() && sql.take_not_begun().is_some());
        assert_eq!(lines(&mut sql), 1);

        // The last statement fails in the database, or cannot even be sent.
        let too_long = "x".repeat(100);
        let params: [Params<'_>; 2] = [&[&0], &[&too_long]];
        for params in params {
            sql.begin_with_next(BEGIN);
            sql.execute(INSERT, &[&4]).unwrap();
            assert!(sql.row_and_commit("SELECT 1 / $1::int", params).is_err());
            sql.roll_back().unwrap();
            assert_eq!(lines(&mut sql), 1);
        }
        // A transaction that nothing was sent in was not begun.
        sql.begin_with_next(BEGIN);
        sql.roll_back().unwrap();
        assert!(sql.execute(INSERT, &[&5]).is_err() && sql.take_not_begun().is_none());
    }
}
