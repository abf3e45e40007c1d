//! In which a transactional handler reads and writes.

use std::fmt;

use postgres::Row;

use crate::error::{SqlError, Verdict, explain, is_stale_plan, verdict};
use crate::sql::{Params, Sql};

/// In which a transactional handler reads and writes its own tables, by SQL: what it writes is committed with the record of its
/// call, or not at all.
///
/// Each statement is prepared once and kept; give it the same text each time, with `$1` where its parameters go. A statement that
/// fails does nothing, and the error says what is wrong: give it back with `?`, and the call is rolled back; or go on without it.
pub struct Transaction {
    /// While a batch is written.
    sql: Option<Sql>,
    /// How the call that runs is kept apart from its neighbours.
    pub(crate) pass: Pass,
    /// What has gone wrong in it.
    pub(crate) trouble: Option<Trouble>,
    /// A statement of a handler has succeeded: it may have written.
    pub(crate) ran: bool,
}

/// How much of a batch is kept apart by savepoints: as little as will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pass {
    /// Nothing: the first attempt, in the hope that no call of the batch is rolled back.
    Plain,
    /// Each call.
    Calls,
    /// Each statement of each call: a handler has gone on after one that failed.
    Statements,
}

/// Why what a call has done cannot stay as it is.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// A statement has failed, and with it all that the transaction did.
    Failed,
    /// The batch must be begun again.
    Again,
    /// The database cannot be written.
    Ledger(oncewire_driver::ledger::LedgerError),
    /// The call broke a constraint that is checked at its end, when it ran before: it is run once more without doing anything.
    Broke(String),
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("pass", &self.pass).finish_non_exhaustive()
    }
}

impl Transaction {
    pub(crate) fn new() -> Transaction {
        Transaction { sql: None, pass: Pass::Plain, trouble: None, ran: false }
    }

    /// Runs a statement, and returns how many rows it has changed.
    ///
    /// # Errors
    /// What the database says, or why the statement is none for a handler.
    pub fn execute(&mut self, sql: &str, params: Params<'_>) -> Result<u64, SqlError> {
        self.run(sql, |connection| connection.execute(sql, params))
    }

    /// Runs a statement, and returns its rows.
    ///
    /// # Errors
    /// As [`execute`](Transaction::execute).
    pub fn query(&mut self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, SqlError> {
        self.run(sql, |connection| connection.query(sql, params))
    }

    /// The one row of a query.
    ///
    /// # Errors
    /// As [`execute`](Transaction::execute); and [`SqlError::RowCount`].
    pub fn query_one(&mut self, sql: &str, params: Params<'_>) -> Result<Row, SqlError> {
        self.query_opt(sql, params)?.ok_or(SqlError::RowCount(0))
    }

    /// The one row of a query, if it has one.
    ///
    /// # Errors
    /// As [`query_one`](Transaction::query_one).
    pub fn query_opt(&mut self, sql: &str, params: Params<'_>) -> Result<Option<Row>, SqlError> {
        let mut rows = self.query(sql, params)?;
        match rows.len() {
            0 | 1 => Ok(rows.pop()),
            more => Err(SqlError::RowCount(more)),
        }
    }

    fn run<T>(
        &mut self,
        statement: &str,
        run: impl FnOnce(&mut Sql) -> Result<T, postgres::Error>,
    ) -> Result<T, SqlError> {
        check(statement)?;
        match &self.trouble {
            None => {}
            Some(Trouble::Broke(why)) => return Err(SqlError::Over(why.clone())),
            Some(_) => {
                return Err(SqlError::Over("an earlier statement of this call failed".into()));
            }
        }
        let Some(sql) = &mut self.sql else {
            return Err(SqlError::Over("the ledger's connection is closed".into()));
        };
        let result = match self.pass {
            Pass::Plain | Pass::Calls => run(sql).map_err(Failed::from),
            Pass::Statements => in_savepoint(sql, run),
        };
        let (error, is_undone) = match result {
            Ok(result) => {
                self.ran = true;
                return Ok(result);
            }
            Err(Failed { error, is_undone }) => (error, is_undone),
        };
        if let Some(why) = sql.take_not_begun() {
            self.trouble = Some(Trouble::Ledger(why));
            return Err(SqlError::Database(error));
        }
        match verdict(&error) {
            Verdict::OfTheCall if is_undone => {}
            Verdict::OfTheCall => self.trouble = Some(Trouble::Failed),
            Verdict::Again => {
                if is_stale_plan(&error) {
                    sql.forget_statements();
                }
                self.trouble = Some(Trouble::Again);
            }
            Verdict::OfTheLedger => {
                self.trouble = Some(Trouble::Ledger(explain("run a call", &error)));
            }
        }
        Err(SqlError::Database(error))
    }

    /// The connection, for the ledger itself.
    pub(crate) fn sql(&mut self) -> Option<&mut Sql> {
        self.sql.as_mut()
    }

    /// Uses this connection until it is taken back.
    pub(crate) fn set_sql(&mut self, sql: Sql) {
        self.sql = Some(sql);
    }

    pub(crate) fn take_sql(&mut self) -> Option<Sql> {
        self.sql.take()
    }
}

/// A statement that failed, and whether only that is undone.
struct Failed {
    error: postgres::Error,
    is_undone: bool,
}

impl From<postgres::Error> for Failed {
    fn from(error: postgres::Error) -> Failed {
        Failed { error, is_undone: false }
    }
}

fn in_savepoint<T>(
    sql: &mut Sql,
    run: impl FnOnce(&mut Sql) -> Result<T, postgres::Error>,
) -> Result<T, Failed> {
    sql.script("SAVEPOINT oncewire_statement")?;
    match run(sql) {
        Ok(result) => {
            sql.script("RELEASE oncewire_statement")?;
            Ok(result)
        }
        Err(error) => {
            let undo = "ROLLBACK TO oncewire_statement; RELEASE oncewire_statement";
            let is_undone = verdict(&error) == Verdict::OfTheCall && sql.script(undo).is_ok();
            Err(Failed { error, is_undone })
        }
    }
}

/// Statements that neither end the transaction nor change what the connection does.
const ALLOWED: [&str; 15] = [
    "SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "VALUES", "TABLE", "CALL", "LOCK",
    "TRUNCATE", "CREATE", "ALTER", "DROP", "COMMENT",
];

/// How the names of the ledger's own tables begin.
const OWN: &str = "oncewire_";

fn check(statement: &str) -> Result<(), SqlError> {
    let verb = first_word(statement);
    if !ALLOWED.iter().any(|allowed| allowed.eq_ignore_ascii_case(verb)) {
        return Err(SqlError::NotAllowed(format!(
            "a handler's statement begins with one of {}, not with {verb:?}: the ledger begins and ends its transaction",
            ALLOWED.join(", ")
        )));
    }
    let names_own = |window: &[u8]| window.eq_ignore_ascii_case(OWN.as_bytes());
    if statement.as_bytes().windows(OWN.len()).any(names_own) {
        return Err(SqlError::NotAllowed(
            "tables whose names begin with oncewire_ are the ledger's own".to_owned(),
        ));
    }
    Ok(())
}

/// The first word of a statement, behind blanks, comments and brackets.
fn first_word(statement: &str) -> &str {
    let mut rest = statement;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, rest)| rest);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = behind_comment(comment);
        } else {
            let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            return &rest[..end];
        }
    }
}

/// What follows a comment whose beginning was read. One may be inside another.
fn behind_comment(mut comment: &str) -> &str {
    let mut depth = 1;
    while depth > 0 {
        let next = match (comment.find("/*"), comment.find("*/")) {
            (Some(inner), Some(end)) if inner < end => (1, inner),
            (_, Some(end)) => (-1, end),
            _ => return "",
        };
        depth += next.0;
        comment = &comment[next.1 + 2..];
    }
    comment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_that_would_end_the_transaction_is_none_for_a_handler() {
        for fine in [
            "SELECT 1",
            "  -- why\n select 1",
            "/* why */ (VALUES (1))",
            "with a as (select 1) table a",
        ] {
            assert!(check(fine).is_ok(), "{fine}");
        }
        for not in [
            "COMMIT",
            "commit and chain",
            "\n/* SELECT */ END",
            "-- SELECT\nrollback",
            "/* /* */ SELECT */ COMMIT",
            "SAVEPOINT a",
            "RELEASE a",
            "PREPARE TRANSACTION 'a'",
            "SET synchronous_commit = off",
            "DEALLOCATE ALL",
            "",
            "SELECT * FROM OnceWire_Calls",
        ] {
            assert!(matches!(check(not), Err(SqlError::NotAllowed(_))), "{not}");
        }
    }
}
