//! The rows of a journal, and their bytes.

use std::sync::Arc;

use bytes::Bytes;
use oncewire_core::wire::{Grants, ServiceName};
use oncewire_core::{
    ClientSession, MethodId, NotExecuted, ServerId, SessionId, Status, Unknown, Xid,
};
use serde::{Deserialize, Serialize};

use crate::client::comparisons::Compared;
use crate::reply::{RawOutcome, ReplyBody};

/// The session, and the highest xid that was journaled in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionRow {
    pub(super) session: ClientSession,
    pub(super) xid_last: u64,
}

#[derive(Serialize, Deserialize)]
struct SessionBytes {
    id: SessionId,
    server: ServerId,
    service: ServiceName,
    grants: Grants,
    commit: u64,
    xid_last: u64,
}

impl SessionRow {
    pub(super) fn encode(&self) -> Bytes {
        let SessionRow { session, xid_last } = *self;
        let ClientSession { id, server, service, grants, commit } = session;
        encode(&SessionBytes { id, server, service, grants, commit, xid_last })
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<SessionRow> {
        let SessionBytes { id, server, service, grants, commit, xid_last } = decode(bytes)?;
        let session = ClientSession { id, server, service, grants, commit };
        Some(SessionRow { session, xid_last })
    }
}

/// A call that may have been sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CallRow {
    pub(super) session: SessionId,
    pub(super) xid: Xid,
    pub(super) method: MethodId,
    /// The body begins with a block of metadata.
    pub(super) metadata: bool,
    pub(super) tag: Bytes,
    pub(super) body: Bytes,
    /// What it is compared by, if its method has a signature.
    pub(super) compared: Option<Arc<Compared>>,
}

/// What is said behind a row in a byte, unless that is 0: rows of builds that knew nothing of it end before it. The body begins with
/// a block of metadata.
const HAS_METADATA: u8 = 1;
/// What it is compared by comes behind that byte.
const IS_COMPARED: u8 = 2;

#[derive(Serialize, Deserialize)]
struct CallBytes<'a> {
    session: SessionId,
    xid: u64,
    method: u64,
    tag: &'a [u8],
    body: &'a [u8],
}

#[derive(Serialize, Deserialize)]
struct ComparedBytes<'a> {
    hash: u64,
    name: &'a str,
    text: &'a str,
}

impl CallRow {
    pub(super) fn encode(&self) -> Bytes {
        let CallRow { session, xid, method, metadata, tag, body, compared } = self;
        let (xid, method) = (xid.get(), method.number());
        let call = CallBytes { session: *session, xid, method, tag, body };
        let flags = if *metadata { HAS_METADATA } else { 0 };
        match compared.as_deref() {
            Some(Compared { hash, name, text }) => {
                let compared = ComparedBytes { hash: *hash, name, text };
                encode(&(call, flags | IS_COMPARED, compared))
            }
            None if flags != 0 => encode(&(call, flags)),
            None => encode(&call),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<CallRow> {
        let (call, rest) = postcard::take_from_bytes::<CallBytes<'_>>(bytes).ok()?;
        let (flags, rest) = match rest {
            [] => (0, rest),
            [0, ..] => return None,
            [flags, rest @ ..] => (*flags, rest),
        };
        if flags & !(HAS_METADATA | IS_COMPARED) != 0 {
            return None;
        }
        let compared = match flags & IS_COMPARED != 0 {
            true => {
                let ComparedBytes { hash, name, text } = decode(rest)?;
                Some(Arc::new(Compared { hash, name: name.to_owned(), text: text.to_owned() }))
            }
            false if rest.is_empty() => None,
            false => return None,
        };
        let CallBytes { session, xid, method, tag, body } = call;
        Some(CallRow {
            session,
            xid: Xid::new(xid)?,
            method: MethodId::from_number(method),
            metadata: flags & HAS_METADATA != 0,
            tag: Bytes::copy_from_slice(tag),
            body: Bytes::copy_from_slice(body),
            compared,
        })
    }
}

fn encode(value: &impl Serialize) -> Bytes {
    postcard::to_allocvec(value).expect("numbers, text and bytes can be encoded").into()
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    let (value, rest) = postcard::take_from_bytes(bytes).ok()?;
    rest.is_empty().then_some(value)
}

/// What only a client says, in bytes that no status of the wire has.
const NOT_EXECUTED: [(u8, NotExecuted); 7] = [
    (0x40, NotExecuted::RequestTooLarge),
    (0x41, NotExecuted::Disconnected),
    (0x42, NotExecuted::SessionRefused),
    (0x43, NotExecuted::Closed),
    (0x44, NotExecuted::SignatureMismatch),
    (0x45, NotExecuted::NotCompared),
    (0x46, NotExecuted::MetadataUnsupported),
];
const UNKNOWN: [(u8, Unknown); 5] = [
    (0x50, Unknown::SessionEnded),
    (0x51, Unknown::Disconnected),
    (0x52, Unknown::DeadlinePassed),
    (0x53, Unknown::Repeated),
    (0x54, Unknown::Closed),
];

/// A byte that says which outcome, and the reply behind it. `None` for what is no final outcome of a journaled call.
pub(super) fn encode_outcome(outcome: &RawOutcome) -> Option<Bytes> {
    let byte = match outcome {
        RawOutcome::Reply(body) => {
            let body = body.as_slice();
            let mut bytes = Vec::with_capacity(1 + body.len());
            bytes.push(Status::Done.to_byte()?);
            bytes.extend_from_slice(body);
            return Some(bytes.into());
        }
        RawOutcome::NoReply(why) => Status::NoReply(*why).to_byte()?,
        RawOutcome::NotExecuted(why) => match Status::Refused(*why).to_byte() {
            Some(byte) => byte,
            None => NOT_EXECUTED.iter().find(|(_, own)| own == why)?.0,
        },
        RawOutcome::Unknown(_, true) => return None,
        RawOutcome::Unknown(Unknown::Interrupted, false) => Status::Interrupted.to_byte()?,
        RawOutcome::Unknown(why, false) => UNKNOWN.iter().find(|(_, own)| own == why)?.0,
    };
    Some(Bytes::copy_from_slice(&[byte]))
}

/// What [`encode_outcome`] wrote; `None` if it did not write this.
pub(super) fn decode_outcome(bytes: &[u8]) -> Option<RawOutcome> {
    let (&byte, body) = bytes.split_first()?;
    let outcome = match Status::from_byte(byte) {
        Some(Status::Done) => return Some(RawOutcome::Reply(ReplyBody::new(body, None))),
        Some(Status::NoReply(why)) => RawOutcome::NoReply(why),
        Some(Status::Refused(why)) => RawOutcome::NotExecuted(why),
        Some(Status::Interrupted) => RawOutcome::Unknown(Unknown::Interrupted, false),
        Some(Status::NotSeen { .. }) => return None,
        None => match NOT_EXECUTED.iter().find(|(own, _)| *own == byte) {
            Some((_, why)) => RawOutcome::NotExecuted(*why),
            None => {
                let (_, why) = UNKNOWN.iter().find(|(own, _)| *own == byte)?;
                RawOutcome::Unknown(*why, false)
            }
        },
    };
    body.is_empty().then_some(outcome)
}

/// What is written where [`encode_outcome`] has no byte: it claims nothing.
pub(super) const NO_CLAIM: RawOutcome = RawOutcome::Unknown(Unknown::SessionEnded, false);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_and_calls_survive_their_bytes() {
        let grants =
            Grants { slots: 9, request_len_max: 1, reply_len_max: 2, lease_ms: 3, keepalive_ms: 4 };
        let session = ClientSession {
            id: SessionId::from_bytes([7; 16]),
            server: ServerId::from_bytes([8; 16]),
            service: ServiceName::new("bank").unwrap(),
            grants,
            commit: 1 << 50,
        };
        let row = SessionRow { session, xid_last: 77 };
        let bytes = row.encode();
        assert_eq!(SessionRow::decode(&bytes), Some(row));
        assert_eq!(SessionRow::decode(&bytes[1..]), None);
        let row = CallRow {
            session: session.id,
            xid: Xid::new(77).unwrap(),
            method: MethodId::of("bank/deposit"),
            metadata: true,
            tag: Bytes::from_static(b"order 5"),
            body: Bytes::new(),
            compared: None,
        };
        let bytes = row.encode();
        let (without, last) = bytes.split_at(bytes.len() - 1);
        assert_eq!(CallRow::decode(&bytes), Some(row.clone()));
        let plain = CallRow { metadata: false, ..row };
        assert_eq!(plain.encode(), without);
        assert_eq!(CallRow::decode(without), Some(plain));
        assert_eq!(CallRow::decode(&without[..without.len() - 1]), None);
        assert_eq!(CallRow::decode(&[without, &[9]].concat()), None, "{last:?} is the only one");
        let (name, text) = ("bank/deposit".to_owned(), "(cents: u64) -> u64".to_owned());
        let compared = Some(Arc::new(Compared { hash: u64::MAX, name, text }));
        for metadata in [false, true] {
            let row = CallRow { metadata, compared: compared.clone(), ..row_of(without) };
            let bytes = row.encode();
            assert_eq!(CallRow::decode(&bytes), Some(row));
            for len in without.len() + 1..bytes.len() {
                assert_eq!(CallRow::decode(&bytes[..len]), None, "{len} bytes of it");
            }
            assert_eq!(CallRow::decode(&[&bytes[..], &[0]].concat()), None);
        }
    }

    fn row_of(bytes: &[u8]) -> CallRow {
        CallRow::decode(bytes).unwrap()
    }

    #[test]
    fn final_outcomes_survive_their_bytes_and_others_have_none() {
        let mut known = 0;
        for byte in 0..=u8::MAX {
            let Some(outcome) = decode_outcome(&[byte]) else { continue };
            assert_eq!(encode_outcome(&outcome).as_deref(), Some(&[byte][..]), "{outcome:?}");
            known += 1;
        }
        assert_eq!(known, 17 + 12);
        let reply = RawOutcome::Reply(ReplyBody::new(b"reply", None));
        let bytes = encode_outcome(&reply).unwrap();
        assert!(
            matches!(decode_outcome(&bytes), Some(RawOutcome::Reply(body)) if body.as_slice() == b"reply")
        );
        assert!(encode_outcome(&RawOutcome::Unknown(Unknown::DeadlinePassed, true)).is_none());
        assert!(decode_outcome(b"").is_none());
        assert!(decode_outcome(&[0x01, 0]).is_none(), "an abort has no body");
    }
}
