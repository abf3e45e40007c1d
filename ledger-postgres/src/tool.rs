//! What the program `oncewire-ledger-postgres` does: looks at a ledger, and makes a restored one usable.

use std::fmt;

pub use oncewire_driver::ledger::CallFound;
use oncewire_driver::ledger::{LedgerError, SessionEntry};
use oncewire_driver::protocol::{RecordState, ServerId, SessionTag, Xid};

use crate::error::explain;
use crate::kept::{Kept, for_each};
use crate::options::PostgresOptions;
use crate::schema::{self, Looked};

/// What is in a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// Whose it is.
    pub server: ServerId,
    /// The number of its last commit.
    pub commit: u64,
    /// How many servers have had it.
    pub epoch: u64,
    /// Sessions.
    pub sessions: u64,
    /// Calls that were started and not completed: interrupted, if the next server takes over.
    pub started: u64,
    /// Calls with a kept reply.
    pub done: u64,
    /// Calls that ended without a reply to show.
    pub without_reply: u64,
    /// Bytes of the kept replies.
    pub reply_bytes: u64,
    /// Sessions and calls whose bytes cannot be decoded.
    pub broken: u64,
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "server        {}", self.server)?;
        writeln!(f, "commit        {}", self.commit)?;
        writeln!(f, "epoch         {}", self.epoch)?;
        writeln!(f, "sessions      {}", self.sessions)?;
        writeln!(f, "started       {}", self.started)?;
        writeln!(f, "done          {} ({} bytes of replies)", self.done, self.reply_bytes)?;
        writeln!(f, "without reply {}", self.without_reply)?;
        write!(f, "broken        {}", self.broken)
    }
}

/// Counts what is in a ledger, also while a server uses it; writes nothing.
///
/// # Errors
/// Why it cannot be read.
pub fn inspect(options: &PostgresOptions) -> Result<Inspection, LedgerError> {
    let mut ledger = schema::look(options)?;
    let mut found = Inspection {
        server: ledger.identity.server,
        commit: ledger.identity.commit,
        epoch: ledger.epoch as u64,
        sessions: 0,
        started: 0,
        done: 0,
        without_reply: 0,
        reply_bytes: 0,
        broken: 0,
    };
    each(&mut ledger, |kept| match kept {
        Kept::Session(_) => found.sessions += 1,
        Kept::Broken(_) => found.broken += 1,
        Kept::Call(call) => match call.record.state {
            RecordState::Started => found.started += 1,
            RecordState::NoReply(_) => found.without_reply += 1,
            RecordState::Done(body) => {
                found.done += 1;
                found.reply_bytes += body.len() as u64;
            }
        },
    })?;
    Ok(found)
}

/// Decodes every record of a ledger.
///
/// # Errors
/// How many are broken, and what to do about it; or why it cannot be read.
pub fn verify(options: &PostgresOptions) -> Result<Inspection, LedgerError> {
    let found = inspect(options)?;
    if found.broken > 0 {
        return Err(LedgerError::new(format!(
            "the ledger in PostgreSQL is corrupt: {} of its records cannot be decoded; restore a backup, and give it a new id with \
             `oncewire-ledger-postgres restore`",
            found.broken
        )));
    }
    Ok(found)
}

/// What the ledger knows of a call, by what a client's error says of it.
///
/// # Errors
/// Why the ledger cannot be read.
pub fn call(
    options: &PostgresOptions,
    session: SessionTag,
    xid: Xid,
) -> Result<CallFound, LedgerError> {
    let mut ledger = schema::look(options)?;
    let mut found: Option<SessionEntry> = None;
    let mut result = CallFound::NoSession;
    each(&mut ledger, |kept| match kept {
        Kept::Session(entry) if entry.tag == session => {
            found = Some(entry.clone());
            result = CallFound::NoRecord;
        }
        Kept::Call(call) => {
            let said = found.as_ref().and_then(|found| CallFound::in_record(xid, found, &call));
            result = said.unwrap_or(result);
        }
        _ => {}
    })?;
    Ok(result)
}

fn each(ledger: &mut Looked, each: impl FnMut(Kept<'_>)) -> Result<(), LedgerError> {
    let schema = ledger.schema.clone();
    for_each(&mut ledger.sql, &schema, None, each)
}

/// Makes a database that was restored from a backup or copied a ledger of its own: with a new server id, without sessions and their
/// calls, which belong to the old one (S32). The service's own tables stay. Returns the new id.
///
/// # Errors
/// Why it cannot be written, or that a server uses it.
pub fn restore(options: &PostgresOptions) -> Result<ServerId, LedgerError> {
    let mut ledger = schema::open(options, schema::Turn::Try)?;
    let id = schema::new_id()?;
    let schema = &ledger.schema;
    let forget = format!(
        "WITH calls AS (DELETE FROM {schema}.oncewire_calls), \
         sessions AS (DELETE FROM {schema}.oncewire_sessions) \
         UPDATE {schema}.oncewire_server SET id = $1"
    );
    let forgotten = ledger.sql.execute(&forget, &[&&id[..]]);
    forgotten.map_err(|error| explain("get a new id", &error))?;
    Ok(ServerId::from_bytes(id))
}
