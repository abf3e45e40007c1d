//! What the database says, as a sentence for a person; and what follows from it for a batch.

use std::fmt;

use oncewire_driver::ledger::LedgerError;
use postgres::error::SqlState;

/// Why a statement of a handler failed. With `?` it becomes a rollback of the call.
#[derive(Debug)]
#[non_exhaustive]
pub enum SqlError {
    /// The database said so.
    Database(postgres::Error),
    /// Another number of rows came than was asked for.
    RowCount(usize),
    /// The statement is none that a transactional handler may use: it would end or change the transaction that the call's record
    /// belongs to, or it names the ledger's own tables.
    NotAllowed(String),
    /// The call is over: an earlier statement has failed, or a constraint that is checked at the end.
    Over(String),
    /// There is no connection to read on.
    Unreachable(LedgerError),
}

impl SqlError {
    /// What the database calls it: [`SqlState::UNIQUE_VIOLATION`], say.
    pub fn code(&self) -> Option<&SqlState> {
        match self {
            SqlError::Database(error) => error.code(),
            _ => None,
        }
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SqlError::Database(error) => f.write_str(&text_of(error)),
            SqlError::RowCount(rows) => write!(f, "the query returned {rows} rows"),
            SqlError::NotAllowed(why) | SqlError::Over(why) => f.write_str(why),
            SqlError::Unreachable(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SqlError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SqlError::Database(error) => Some(error),
            SqlError::Unreachable(error) => Some(error),
            _ => None,
        }
    }
}

impl From<postgres::Error> for SqlError {
    fn from(error: postgres::Error) -> SqlError {
        SqlError::Database(error)
    }
}

/// The message and its causes, in one line.
pub(crate) fn text_of(error: &postgres::Error) -> String {
    use std::error::Error;
    if let Some(said) = error.as_db_error() {
        let detail = said.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        return format!("{}{detail} [{}]", said.message(), said.code().code());
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text.replace('\n', " ")
}

/// What an error of a statement means for the batch that it is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the call's own: its neighbours do not notice.
    OfTheCall,
    /// The transaction was aborted because another one was first: the batch is begun again.
    Again,
    /// The database cannot be written: it is the ledger's error.
    OfTheLedger,
}

pub(crate) fn verdict(error: &postgres::Error) -> Verdict {
    let Some(said) = error.as_db_error() else {
        // What the client itself finds out, such as a parameter of a wrong type, leaves the connection open.
        return if is_lost(error) { Verdict::OfTheLedger } else { Verdict::OfTheCall };
    };
    let code = said.code();
    if *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED {
        return Verdict::Again;
    }
    if is_stale_plan(error) {
        return Verdict::Again;
    }
    let ledger = [
        SqlState::DISK_FULL,
        SqlState::READ_ONLY_SQL_TRANSACTION,
        SqlState::DATA_CORRUPTED,
        SqlState::INDEX_CORRUPTED,
        SqlState::IO_ERROR,
        SqlState::UNDEFINED_FILE,
    ];
    if ledger.contains(code) || is_lost(error) {
        return Verdict::OfTheLedger;
    }
    Verdict::OfTheCall
}

/// A table has changed since a statement on it was prepared. Its message depends on the language, this does not.
pub(crate) fn is_stale_plan(error: &postgres::Error) -> bool {
    error.as_db_error().is_some_and(|said| said.routine() == Some("RevalidateCachedQuery"))
}

/// Whether the connection is gone, or will be.
pub(crate) fn is_lost(error: &postgres::Error) -> bool {
    use std::error::Error;
    match error.code() {
        Some(code) => {
            let code = code.code();
            code.starts_with("08") || code.starts_with("57P")
        }
        None => {
            let is_io = |cause: &(dyn Error + 'static)| cause.is::<std::io::Error>();
            error.is_closed() || error.source().is_some_and(is_io)
        }
    }
}

/// What is wrong and what to do, by what the database says. `doing` is what could not be done.
pub(crate) fn explain(doing: &str, error: &postgres::Error) -> LedgerError {
    let text = text_of(error);
    let code = error.code().map(SqlState::code).unwrap_or_default();
    let remedy = match code {
        "28P01" => "check the user and the password, and the server's pg_hba.conf",
        "28000" => {
            "check the user, and the server's pg_hba.conf: where it takes connections with TLS only, say sslmode=require"
        }
        "3D000" => "create the database, or name another one",
        "42501" => {
            "the user needs the right to create tables in its schema, and to use those that are there"
        }
        "25006" => {
            "it takes no writes: connect to the primary, and see default_transaction_read_only"
        }
        "53100" => "its disk is full: make room there, then start the server again",
        "53300" => "it has no connection left: raise max_connections, or end others",
        "57P03" => "it starts or stops: try again soon",
        _ if text.starts_with(TLS_FAILED) => of_tls(&text),
        _ if is_lost(error) => {
            "the connection was lost, or there is no database there: what became of the last batch, the next server finds out"
        }
        _ => "see the database's own log",
    };
    LedgerError::new(format!("the ledger in PostgreSQL cannot {doing}: {text}; {remedy}"))
}

/// How the crate `postgres` begins the text of an error of TLS, which it has no other name for.
const TLS_FAILED: &str = "error performing TLS handshake";

/// What to do about an error of TLS.
fn of_tls(text: &str) -> &'static str {
    if text.contains("no TLS implementation") {
        return "the connection string asks for TLS: turn on the feature `tls` of oncewire-ledger-postgres, or give with_tls a connector";
    }
    if text.contains("does not support TLS") {
        return "set ssl = on there, with a certificate; or say sslmode=disable, if no one else can read what passes on the way";
    }
    if text.contains("UnknownIssuer") || text.contains("BadSignature") {
        return "name the file of the authority that has signed the database's certificate: sslrootcert=FILE";
    }
    if text.contains("not valid for name") || text.contains("NotValidForName") {
        return "name the host as its certificate does";
    }
    "see the database's certificate, and its log"
}
