//! What machines say, in a form that a test compares, and what a test says to them.

use oncewire_core::wire::{self, Decoded, Frame, Hello, RequestHeader, Role, Welcome};
use oncewire_core::*;

use super::*;

/// An outcome that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnedOutcome {
    Reply(Vec<u8>),
    NoReply(NoReply),
    NotExecuted(NotExecuted),
    /// Why, and whether there is a ticket.
    Unknown(Unknown, bool),
}

impl From<Outcome<'_>> for OwnedOutcome {
    fn from(outcome: Outcome<'_>) -> OwnedOutcome {
        match outcome {
            Outcome::Reply(body) => OwnedOutcome::Reply(body.to_vec()),
            Outcome::NoReply(why) => OwnedOutcome::NoReply(why),
            Outcome::NotExecuted(why) => OwnedOutcome::NotExecuted(why),
            Outcome::Unknown { why, ticket } => OwnedOutcome::Unknown(why, ticket),
        }
    }
}

/// The echo of `body`.
pub fn reply(body: &[u8]) -> Option<OwnedOutcome> {
    Some(OwnedOutcome::Reply(echo(body)))
}

pub fn not_executed(why: NotExecuted) -> Option<OwnedOutcome> {
    Some(OwnedOutcome::NotExecuted(why))
}

/// Unknown, with a ticket.
pub fn ticket(why: Unknown) -> Option<OwnedOutcome> {
    Some(OwnedOutcome::Unknown(why, true))
}

/// Unknown, for good.
pub fn unknown(why: Unknown) -> Option<OwnedOutcome> {
    Some(OwnedOutcome::Unknown(why, false))
}

/// A frame that owns its bytes, as the test reads it when it plays one end of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnedFrame {
    Hello(Hello),
    Welcome(Welcome),
    Refuse(wire::Refuse),
    Request(RequestHeader, Vec<u8>),
    Reply(Status, u64, Vec<u8>),
    Ask(u64),
    Ack(wire::Ack),
    Cancel(u64),
    Ping,
    Pong,
    Goodbye,
}

impl From<Frame<'_>> for OwnedFrame {
    fn from(frame: Frame<'_>) -> OwnedFrame {
        match frame {
            Frame::Hello(hello) => OwnedFrame::Hello(hello),
            Frame::Welcome(welcome) => OwnedFrame::Welcome(welcome),
            Frame::Refuse(refuse, _) => OwnedFrame::Refuse(refuse),
            Frame::Request(header, body) => OwnedFrame::Request(header, body.to_vec()),
            Frame::Reply(header, body) => {
                OwnedFrame::Reply(header.status, header.xid.get(), body.to_vec())
            }
            Frame::Ask(xid, _) => OwnedFrame::Ask(xid.get()),
            Frame::Ack(ack) => OwnedFrame::Ack(ack),
            Frame::Cancel(xid) => OwnedFrame::Cancel(xid.get()),
            Frame::Ping(_) => OwnedFrame::Ping,
            Frame::Pong(_) => OwnedFrame::Pong,
            Frame::Goodbye(_) => OwnedFrame::Goodbye,
        }
    }
}

/// The bytes of a frame.
pub fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
    let body = match frame {
        Frame::Request(_, body) | Frame::Reply(_, body) => body.len(),
        _ => 0,
    };
    let mut out = vec![0; wire::CONTROL_LEN_MAX + body];
    let len = wire::encode(frame, &mut out).unwrap();
    out.truncate(len);
    out
}

/// A `Hello` that opens, or resumes a session with its `acked`.
pub fn hello(resume: Option<(SessionId, u64)>) -> Frame<'static> {
    Frame::Hello(Hello {
        magic: wire::MAGIC,
        version_min: wire::VERSION,
        version_max: wire::VERSION,
        features: 0,
        resume: resume.map(|(session, acked)| wire::Resume { session, acked }),
        slots: 4,
        request_len_max: 1 << 20,
        reply_len_max: 1 << 20,
        service: None,
        server: None,
        token: None,
    })
}

/// A request for `ECHO` with 30 seconds to go.
pub fn request(number: u64, acked: u64, body: &[u8]) -> Frame<'_> {
    Frame::Request(header(number, acked), body)
}

pub fn header(number: u64, acked: u64) -> RequestHeader {
    RequestHeader { flags: 0, method: ECHO, remaining_ms: 30_000, xid: xid(number), acked }
}

/// All frames of bytes that hold nothing else.
pub fn frames(bytes: Vec<u8>, from: Role) -> Vec<OwnedFrame> {
    let mut all = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        match wire::decode(rest, from, u32::MAX / 2).unwrap() {
            Decoded::Frame(frame, len) => {
                all.push(frame.into());
                rest = &rest[len..];
            }
            Decoded::Incomplete(wanted) => panic!("half a frame: {} of {wanted}", rest.len()),
        }
    }
    all
}

/// What a server says that opens a session without any feature.
pub fn welcome() -> wire::Welcome {
    wire::Welcome {
        version: wire::VERSION,
        features: 0,
        server: ServerId::from_bytes([1; 16]),
        service: super::service("test"),
        session: SessionId::from_bytes([1; 16]),
        seen: 0,
        commit: 0,
        grants: wire::Grants {
            slots: 4,
            request_len_max: 1_000,
            reply_len_max: 1_000,
            lease_ms: 300_000,
            keepalive_ms: 10_000,
        },
        instance: Instance::UNNAMED,
        schemas: Schemas::EMPTY,
    }
}
