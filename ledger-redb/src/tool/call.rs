//! What a ledger knows of one call: for an outcome that its client could not learn.

use std::path::Path;

use oncewire_driver::ledger::{CallEntry, CallFound, LedgerError, SessionEntry};
use oncewire_driver::protocol::{SessionId, SessionTag, Xid};
use redb::{Database, ReadableDatabase, ReadableTable};

use crate::file::{self, CALLS, SESSIONS};
use crate::store::call_name;

/// What the ledger of a server that does not run knows of a call, by what a client's error says of it.
///
/// # Errors
/// Why the ledger cannot be opened or read.
pub fn call(path: &Path, session: SessionTag, xid: Xid) -> Result<CallFound, LedgerError> {
    let open = file::open(path)?;
    find(&open.database, session, xid).map_err(|error| file::unusable(path, &error))
}

fn find(database: &Database, tag: SessionTag, xid: Xid) -> Result<CallFound, redb::Error> {
    let transaction = database.begin_read()?;
    let mut session = None;
    for entry in transaction.open_table(SESSIONS)?.iter()? {
        let (id, bytes) = entry?;
        let id = SessionId::from_bytes(*id.value());
        if id.tag() == tag {
            session = SessionEntry::decode(id, bytes.value());
        }
    }
    let Some(session) = session else { return Ok(CallFound::NoSession) };
    for entry in transaction.open_table(CALLS)?.iter()? {
        let (key, bytes) = entry?;
        let (id, slot) = call_name(key.value());
        let entry = CallEntry::decode(id, slot, bytes.value());
        if let Some(found) = entry.and_then(|entry| CallFound::in_record(xid, &session, &entry)) {
            return Ok(found);
        }
    }
    Ok(CallFound::NoRecord)
}
