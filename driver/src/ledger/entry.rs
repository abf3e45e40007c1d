//! What a ledger writes, and the bytes of it.

use std::fmt;
use std::sync::Arc;

use oncewire_core::wire::Grants;
use oncewire_core::{CallRecord, NoReply, RecordState, SessionId, SessionTag, Status, Xid};
use serde::{Deserialize, Serialize};

use crate::transport::Subject;

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
    /// Its id: a secret. Or the hash of it, which is none, in a ledger that says so:
    /// [`Ledger::session_hash`](super::Ledger::session_hash).
    pub id: SessionId,
    /// The name for logs of its id, which is no secret. [`encode`](SessionEntry::encode) leaves it out: a ledger that holds hashes
    /// keeps it beside.
    pub tag: SessionTag,
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

    /// What [`encode`](SessionEntry::encode) wrote; `None` if it did not write this. The tag is that of `id`.
    pub fn decode(id: SessionId, bytes: &[u8]) -> Option<SessionEntry> {
        let (bytes, rest): (SessionBytes<'_>, _) = postcard::take_from_bytes(bytes).ok()?;
        let subject = match (bytes.uid, bytes.name) {
            (None, None) => Subject::Anonymous,
            (Some(uid), None) => Subject::Uid(uid),
            (None, Some(name)) => Subject::Name(name.into()),
            (Some(_), Some(_)) => return None,
        };
        let SessionBytes { grants, seen, .. } = bytes;
        let entry = SessionEntry { id, tag: id.tag(), subject, grants, seen };
        rest.is_empty().then_some(entry)
    }
}

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
            let entry = SessionEntry { id: ID, tag: ID.tag(), subject, grants, seen: 1 << 40 };
            let bytes = entry.encode();
            assert_eq!(SessionEntry::decode(ID, &bytes), Some(entry));
            assert_eq!(SessionEntry::decode(ID, &bytes[1..]), None);
        }
    }
}
