//! What a ledger knows of one call: for an outcome that its client could not learn.

use std::fmt;
use std::path::Path;

use oncewire_driver::ledger::{CallEntry, LedgerError, SessionEntry};
use oncewire_driver::protocol::{NoReply, RecordState, SessionId, SessionTag, Xid};
use redb::{Database, ReadableDatabase, ReadableTable};

use crate::file::{self, CALLS, SESSIONS};
use crate::store::call_name;

/// What a ledger knows of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallFound {
    /// It was executed, and its reply is kept.
    Done {
        /// Bytes of the reply.
        reply_len: usize,
    },
    /// It was executed, perhaps in part, and there is no reply to keep.
    NoReply(NoReply),
    /// It was started, and the server ended before it did: it may have been executed, wholly or in part. Only the data that it
    /// works on can tell.
    Started,
    /// There is no record of it, and no later call has taken its slot: it was not executed, if it is recorded or
    /// transactional and this is the ledger of the server that it was sent to; or its client has acknowledged its outcome, or it
    /// was refused, or it is idempotent.
    NoRecord,
    /// A later call has its slot: the client has learned its outcome.
    Settled {
        /// The later call.
        by: Xid,
    },
    /// The ledger has no such session: it has ended, by its client or by its lease, or was in another ledger.
    NoSession,
}

impl fmt::Display for CallFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallFound::Done { reply_len } => {
                write!(f, "executed; a reply of {reply_len} bytes is kept")
            }
            CallFound::NoReply(why) => why.fmt(f),
            CallFound::Started => f.write_str(
                "started, and interrupted: it may have been executed, wholly or in part; look at the data that it works on",
            ),
            CallFound::NoRecord => f.write_str(
                "no record: not executed, unless it is idempotent or its outcome was acknowledged",
            ),
            CallFound::Settled { by } => {
                write!(f, "settled: its client has learned its outcome, and call {by} has its place")
            }
            CallFound::NoSession => f.write_str(
                "no such session: it has ended, or was of another ledger; nothing is known of its calls",
            ),
        }
    }
}

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
        if id != session.id {
            continue;
        }
        let Some(found) = CallEntry::decode(id, slot, bytes.value()) else { continue };
        let slots = u64::from(session.grants.slots.max(1));
        if found.record.xid == xid {
            return Ok(match found.record.state {
                RecordState::Started => CallFound::Started,
                RecordState::NoReply(why) => CallFound::NoReply(why),
                RecordState::Done(body) => CallFound::Done { reply_len: body.len() },
            });
        }
        if found.record.xid > xid && found.record.xid.get() % slots == xid.get() % slots {
            return Ok(CallFound::Settled { by: found.record.xid });
        }
    }
    Ok(CallFound::NoRecord)
}
