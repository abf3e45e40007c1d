//! What the program `oncewire-ledger` does.

mod call;

use std::fmt;
use std::path::Path;

use oncewire_driver::files;
use oncewire_driver::ledger::{CallEntry, LedgerError, SessionEntry};
use oncewire_driver::protocol::{RecordState, ServerId, SessionId};
use redb::{CompactionError, Database, ReadableDatabase, ReadableTable};

use crate::file::{self, CALLS, OpenFile, SESSIONS};
use crate::store::call_name;
pub use call::call;
pub use oncewire_driver::ledger::CallFound;

/// What a ledger holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// Whose it is.
    pub server: ServerId,
    /// The number of its last commit.
    pub commit: u64,
    /// Sessions.
    pub sessions: u64,
    /// Calls that were started and not completed: interrupted, if the server starts again.
    pub started: u64,
    /// Calls with a kept reply.
    pub done: u64,
    /// Calls that ended without a reply to show.
    pub without_reply: u64,
    /// Bytes of the kept replies.
    pub reply_bytes: u64,
    /// Sessions and calls whose bytes cannot be decoded, and calls without a session.
    pub broken: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "server        {}", self.server)?;
        writeln!(f, "commit        {}", self.commit)?;
        writeln!(f, "sessions      {}", self.sessions)?;
        writeln!(f, "started       {}", self.started)?;
        writeln!(f, "done          {} ({} bytes of replies)", self.done, self.reply_bytes)?;
        writeln!(f, "without reply {}", self.without_reply)?;
        writeln!(f, "broken        {}", self.broken)?;
        write!(f, "file          {} bytes", self.file_bytes)
    }
}

/// Counts what is in a ledger that no server uses.
///
/// # Errors
/// Why it cannot be opened or read.
pub fn inspect(path: &Path) -> Result<Inspection, LedgerError> {
    let open = file::open(path)?;
    look(path, &open)
}

fn look(path: &Path, open: &OpenFile) -> Result<Inspection, LedgerError> {
    let file_bytes = std::fs::metadata(path).map_err(|error| file::unusable(path, &error))?.len();
    let mut found = Inspection {
        server: open.identity.server,
        commit: open.identity.commit,
        sessions: 0,
        started: 0,
        done: 0,
        without_reply: 0,
        reply_bytes: 0,
        broken: 0,
        file_bytes,
    };
    count(&open.database, &mut found).map_err(|error| file::unusable(path, &error))?;
    Ok(found)
}

fn count(database: &Database, found: &mut Inspection) -> Result<(), redb::Error> {
    let transaction = database.begin_read()?;
    let sessions = transaction.open_table(SESSIONS)?;
    for session in sessions.iter()? {
        let (id, bytes) = session?;
        let id = SessionId::from_bytes(*id.value());
        match SessionEntry::decode(id, bytes.value()) {
            Some(_) => found.sessions += 1,
            None => found.broken += 1,
        }
    }
    for call in transaction.open_table(CALLS)?.iter()? {
        let (key, bytes) = call?;
        let (session, slot) = call_name(key.value());
        let known = sessions.get(&session.to_bytes())?.is_some();
        match CallEntry::decode(session, slot, bytes.value()).filter(|_| known) {
            None => found.broken += 1,
            Some(entry) => match entry.record.state {
                RecordState::Started => found.started += 1,
                RecordState::NoReply(_) => found.without_reply += 1,
                RecordState::Done(body) => {
                    found.done += 1;
                    found.reply_bytes += body.len() as u64;
                }
            },
        }
    }
    Ok(())
}

/// Checks every page and every record of a ledger.
///
/// # Errors
/// What is broken, and what to do about it.
pub fn verify(path: &Path) -> Result<Inspection, LedgerError> {
    // Opening checks the pages.
    let found = look(path, &file::open(path)?)?;
    if found.broken > 0 {
        let why = format!("{} of its records are broken: restore a copy", found.broken);
        return Err(file::wrong(path, &why));
    }
    Ok(found)
}

/// Gives back to the disk what the file does not need. Returns its length before and after, in bytes.
///
/// # Errors
/// Why it cannot be opened or written.
pub fn compact(path: &Path) -> Result<(u64, u64), LedgerError> {
    let len =
        || std::fs::metadata(path).map(|m| m.len()).map_err(|error| file::unusable(path, &error));
    let mut open = file::open(path)?;
    let before = len()?;
    // Each pass makes room for the next one.
    while open.database.compact().map_err(|error: CompactionError| file::unusable(path, &error))? {}
    drop(open);
    Ok((before, len()?))
}

/// Copies a ledger that no server uses, as one of another server: with a new server id, with the tables of transactional
/// handlers, and without sessions and calls, which belong to the old one (S32). Returns the new server id.
///
/// # Errors
/// Why one of them cannot be used. Nothing is at `to` then.
pub fn restore(from: &Path, to: &Path) -> Result<ServerId, LedgerError> {
    if files::exists(to).map_err(|error| file::unusable(to, &error))? {
        return Err(file::wrong(to, "it exists: remove it first, or choose another path"));
    }
    // Repaired if need be, checked, and closed.
    drop(file::open(from)?);
    let _from_lock = file::lock(from)?;
    let _to_lock = file::lock(to)?;
    let (new, mut copy) = file::create_beside(to)?;
    let copied = std::fs::File::open(from).and_then(|mut from| std::io::copy(&mut from, &mut copy));
    copied.map_err(|error| file::unusable(&new, &error))?;
    drop(copy);
    let server = file::random_id()?;
    let result = file::open(&new).and_then(|open| {
        forget_sessions(&open, server).map_err(|error| file::unusable(&new, &error))
    });
    // The copy's own lock has no further use.
    let _absent = std::fs::remove_file(file::beside(&new, "lock"));
    if let Err(error) = result {
        let _absent = std::fs::remove_file(&new);
        return Err(error);
    }
    file::put_in_place(&new, to)?;
    Ok(server)
}

fn forget_sessions(open: &OpenFile, server: ServerId) -> Result<(), redb::Error> {
    let transaction = open.database.begin_write()?;
    transaction.delete_table(SESSIONS)?;
    transaction.delete_table(CALLS)?;
    transaction.commit()?;
    file::write_identity(&open.database, server, open.identity.commit)
}
