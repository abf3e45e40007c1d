//! What machines say, in a form that a test compares, and what a test says to them.

use oncewire_core::wire::{self, Decoded, Frame, Hello, RequestHeader, Role, Welcome};
use oncewire_core::*;

use super::*;

/// An outcome that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Reply(Vec<u8>),
    NoReply(NoReply),
    NotExecuted(NotExecuted),
    /// Why, and whether there is a ticket.
    Unknown(Unknown, bool),
}

impl From<Outcome<'_>> for Fate {
    fn from(outcome: Outcome<'_>) -> Fate {
        match outcome {
            Outcome::Reply(body) => Fate::Reply(body.to_vec()),
            Outcome::NoReply(why) => Fate::NoReply(why),
            Outcome::NotExecuted(why) => Fate::NotExecuted(why),
            Outcome::Unknown { why, ticket } => Fate::Unknown(why, ticket),
        }
    }
}

/// The echo of `body`.
pub fn reply(body: &[u8]) -> Option<Fate> {
    Some(Fate::Reply(echo(body)))
}

pub fn not_executed(why: NotExecuted) -> Option<Fate> {
    Some(Fate::NotExecuted(why))
}

/// Unknown, with a ticket.
pub fn ticket(why: Unknown) -> Option<Fate> {
    Some(Fate::Unknown(why, true))
}

/// Unknown, for good.
pub fn unknown(why: Unknown) -> Option<Fate> {
    Some(Fate::Unknown(why, false))
}

/// A frame that owns its bytes, as the test reads it when it plays one end of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
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

impl From<Frame<'_>> for Got {
    fn from(frame: Frame<'_>) -> Got {
        match frame {
            Frame::Hello(hello) => Got::Hello(hello),
            Frame::Welcome(welcome) => Got::Welcome(welcome),
            Frame::Refuse(refuse) => Got::Refuse(refuse),
            Frame::Request(header, body) => Got::Request(header, body.to_vec()),
            Frame::Reply(header, body) => {
                Got::Reply(header.status, header.xid.get(), body.to_vec())
            }
            Frame::Ask(xid, _) => Got::Ask(xid.get()),
            Frame::Ack(ack) => Got::Ack(ack),
            Frame::Cancel(xid) => Got::Cancel(xid.get()),
            Frame::Ping(_) => Got::Ping,
            Frame::Pong(_) => Got::Pong,
            Frame::Goodbye(_) => Got::Goodbye,
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

/// A `Hello` that opens, or resumes a session with its X.
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
pub(super) fn frames(bytes: Vec<u8>, from: Role) -> Vec<Got> {
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
