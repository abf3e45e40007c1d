//! The seam between a server and a durable store of completion records (S28 to S32).
//!
//! Without a ledger, what a server keeps is gone when it ends. With one, a call that was answered before a crash is
//! answered alike after it, and one that may have been interrupted never runs again.
//!
//! ```text
//!  server                                              ledger
//!    │  entries collect while a commit is in flight      │
//!    ├── Ledger::commit(batch) ──────────────────────────► one durable commit
//!    │                                  Batch::finish ◄──┤
//!    │  welcomes and replies leave, calls are started    │
//! ```
//!
//! At most one batch is under way. Nothing that an entry of it stands for leaves before its [`Batch::finish`], and after
//! an error nothing does any more: the server refuses new calls and [`Server::serve`](crate::Server::serve) ends with the
//! error (S31).
//!
//! # Two kinds of handlers
//!
//! - **Recorded**: every handler of [`ServerBuilder::method`](crate::ServerBuilder::method), unless the call is
//!   idempotent. A started record is stable before it runs, a completion record before its reply leaves: two commits.
//! - **Transactional**: [`ServerBuilder::transactional`](crate::ServerBuilder::transactional). The handler writes in the
//!   ledger's own transaction, and its completion record is written in the same one: one commit, and exactly once across
//!   crashes.
//!
//! What a client keeps, to survive its own crash, is another thing: see [`journal`](crate::journal).
//!
//! [`writing`] says how to write one.

#[doc = include_str!("../LEDGERS.md")]
pub mod writing {}
mod thread;

use std::fmt;
use std::sync::Arc;

use oncewire_core::wire::Grants;
use oncewire_core::{CallRecord, NoReply, RecordState, ServerId, SessionId, Status, Xid};
use serde::{Deserialize, Serialize};

pub use crate::server::{Batch, Restore, Transactional};
use crate::transport::Subject;
pub use thread::{LedgerThread, Store};

/// A durable store of completion records.
///
/// One ledger belongs to one server at a time: an implementation must refuse to be opened twice.
pub trait Ledger: Send + Sync + 'static {
    /// In which transactional handlers write.
    type Transaction: 'static;

    /// Whose records these are, and how far they have come.
    fn identity(&self) -> Identity;

    /// Gives back all that is kept: each session, and then its calls. Called once, before the first commit.
    ///
    /// # Errors
    /// What cannot be read, and what to do about it. The server is not built then.
    fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError>;

    /// Makes a batch durable, in order and as a whole, and then calls [`Batch::finish`]. Does not block; the next batch
    /// comes after the finish of this one.
    fn commit(&self, batch: Batch<Self::Transaction>);
}

/// Whose records a ledger holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The server id: random, made with the ledger, and new for a copy (S32).
    pub server: ServerId,
    /// The number of the last durable commit: grows with each.
    pub commit: u64,
}

/// Why a ledger cannot be opened, read or written, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerError(Arc<str>);

impl LedgerError {
    /// Says what is wrong and what to do, in a sentence for a person.
    pub fn new(text: impl Into<String>) -> LedgerError {
        LedgerError(text.into().into())
    }
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LedgerError {}

/// What a batch asks a ledger to write; see [the module](self) for what each means.
#[derive(Debug)]
pub enum Entry<'a, X> {
    /// A session was opened: it is to survive, even if no call of it is ever recorded.
    SessionOpened(&'a SessionEntry),
    /// A session is over: it and all its calls may be forgotten.
    SessionEnded(SessionId),
    /// What is known of a call. Never replaces a record of a later xid on its slot (C76).
    Call(CallEntry<'a>),
    /// A call whose started record was written, and that was refused after all: its record goes, if it still stands
    /// there.
    Withdrawn(CallName),
    /// The client has seen the answers to all calls of a session but these: other records of it may go. Its h was
    /// `seen`, which is only worth writing beside.
    Settled {
        /// Which session.
        session: SessionId,
        /// h, when this was noted.
        seen: u64,
        /// Calls whose records stay, in order.
        held: &'a [Xid],
    },
    /// A transactional call to execute.
    Transaction(Transactional<'a, X>),
}

/// Which call, in a ledger's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallName {
    /// Its session.
    pub session: SessionId,
    /// Its slot there: together, the key of its record.
    pub slot: u16,
    /// Its number.
    pub xid: Xid,
}

/// A call and what is recorded of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallEntry<'a> {
    /// Its session.
    pub session: SessionId,
    /// Its slot there.
    pub slot: u16,
    /// Number, digest, and how far it had come.
    pub record: CallRecord<'a>,
}

/// Bytes of a call's record before its body: xid, digest, status.
const RECORD_HEADER_LEN: usize = 17;

impl<'a> CallEntry<'a> {
    /// Appends the record's bytes in a form that every ledger can use: xid and digest, eight bytes each in
    /// little-endian order, the status byte of the wire (interrupted for started), the reply.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (status, body) = match self.record.state {
            RecordState::Started => (Status::Interrupted, &[][..]),
            RecordState::Done(body) => (Status::Done, body),
            RecordState::NoReply(why) => (Status::NoReply(why), &[][..]),
        };
        // `Undecodable` is a client's own and has no byte; nothing records it.
        let aborted = Status::NoReply(NoReply::Aborted).to_byte().unwrap_or_default();
        out.extend_from_slice(&self.record.xid.get().to_le_bytes());
        out.extend_from_slice(&self.record.digest.to_le_bytes());
        out.push(status.to_byte().unwrap_or(aborted));
        out.extend_from_slice(body);
    }

    /// What [`encode`](CallEntry::encode) wrote; `None` if it did not write this.
    pub fn decode(session: SessionId, slot: u16, bytes: &'a [u8]) -> Option<CallEntry<'a>> {
        let (header, body) = bytes.split_at_checked(RECORD_HEADER_LEN)?;
        let xid = Xid::new(u64::from_le_bytes(header[..8].try_into().ok()?))?;
        let digest = u64::from_le_bytes(header[8..16].try_into().ok()?);
        let state = match Status::from_byte(header[16])? {
            Status::Done => RecordState::Done(body),
            Status::NoReply(why) if body.is_empty() => RecordState::NoReply(why),
            Status::Interrupted if body.is_empty() => RecordState::Started,
            _ => return None,
        };
        Some(CallEntry { session, slot, record: CallRecord { xid, digest, state } })
    }

    /// The xid at the front of a record's bytes: all that it takes to judge whether another may replace it.
    pub fn xid_of(bytes: &[u8]) -> Option<u64> {
        Some(u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?))
    }
}

/// What survives of a session (S30).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEntry {
    /// Its id: a secret.
    pub id: SessionId,
    /// Whose it is.
    pub subject: Subject,
    /// What it was granted.
    pub grants: Grants,
    /// h, or less.
    pub seen: u64,
}

/// A [`SessionEntry`] without its id, as it is written.
#[derive(Serialize, Deserialize)]
struct SessionBytes<'a> {
    uid: Option<u32>,
    name: Option<&'a str>,
    grants: Grants,
    seen: u64,
}

impl SessionEntry {
    /// All but the id, in a form that every ledger can use.
    pub fn encode(&self) -> Vec<u8> {
        let (uid, name) = match &self.subject {
            Subject::Anonymous => (None, None),
            Subject::Uid(uid) => (Some(*uid), None),
            Subject::Name(name) => (None, Some(&**name)),
        };
        let bytes = SessionBytes { uid, name, grants: self.grants, seen: self.seen };
        postcard::to_allocvec(&bytes).expect("numbers and text can be encoded")
    }

    /// What [`encode`](SessionEntry::encode) wrote; `None` if it did not write this.
    pub fn decode(id: SessionId, bytes: &[u8]) -> Option<SessionEntry> {
        let (bytes, rest): (SessionBytes<'_>, _) = postcard::take_from_bytes(bytes).ok()?;
        let subject = match (bytes.uid, bytes.name) {
            (None, None) => Subject::Anonymous,
            (Some(uid), None) => Subject::Uid(uid),
            (None, Some(name)) => Subject::Name(name.into()),
            (Some(_), Some(_)) => return None,
        };
        let entry = SessionEntry { id, subject, grants: bytes.grants, seen: bytes.seen };
        rest.is_empty().then_some(entry)
    }
}

/// A transactional handler's decision that nothing of the call is to remain: `NotExecuted(Aborted)` to the client.
///
/// Every error becomes one with `?`. An answer that the client is to read is no rollback but a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollback(String);

impl Rollback {
    /// Rolls back for this reason, which stays at the server.
    pub fn new(why: impl Into<String>) -> Rollback {
        Rollback(why.into())
    }

    /// The reason.
    pub fn why(&self) -> &str {
        &self.0
    }
}

impl<E: std::error::Error> From<E> for Rollback {
    fn from(error: E) -> Rollback {
        Rollback(error.to_string())
    }
}

/// No ledger: what is kept is kept in memory.
#[derive(Clone, Copy, Debug)]
pub struct NoLedger;

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SessionId = SessionId::from_bytes([7; 16]);

    #[test]
    fn records_of_calls_survive_their_bytes() {
        let states = [
            RecordState::Started,
            RecordState::Done(b""),
            RecordState::Done(b"reply"),
            RecordState::NoReply(NoReply::Aborted),
            RecordState::NoReply(NoReply::ReplyTooLarge),
            RecordState::NoReply(NoReply::Unencodable),
        ];
        for state in states {
            let xid = Xid::new(77).unwrap();
            let entry = CallEntry {
                session: ID,
                slot: 3,
                record: CallRecord { xid, digest: u64::MAX - 3, state },
            };
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            assert_eq!(CallEntry::xid_of(&bytes), Some(77));
            assert_eq!(CallEntry::decode(ID, 3, &bytes), Some(entry));
            assert_eq!(CallEntry::decode(ID, 3, &bytes[..16]), None);
        }
        assert_eq!(CallEntry::decode(ID, 3, &[0; 17]), None, "no xid is 0");
        assert_eq!(CallEntry::decode(ID, 3, &[1; 18]), None, "an abort has no body")
    }

    #[test]
    fn sessions_survive_their_bytes() {
        let grants =
            Grants { slots: 9, request_len_max: 1, reply_len_max: 2, lease_ms: 3, keepalive_ms: 4 };
        for subject in [Subject::Anonymous, Subject::Uid(1000), Subject::Name("alice".into())] {
            let entry = SessionEntry { id: ID, subject, grants, seen: 1 << 40 };
            let bytes = entry.encode();
            assert_eq!(SessionEntry::decode(ID, &bytes), Some(entry));
            assert_eq!(SessionEntry::decode(ID, &bytes[1..]), None);
        }
    }
}
