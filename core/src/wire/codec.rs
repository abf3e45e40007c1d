//! Decoding and encoding of frames; `control.rs` decodes the fields of control frames.

use serde::Serialize;

use super::control::Control;
use super::{
    CONTROL_LEN_MAX, FEATURE_TOKEN, FLAG_METADATA, FLAGS, Frame, LEN_FIELD_LEN, REPLY_HEADER_LEN,
    REQUEST_HEADER_LEN, ReplyHeader, RequestHeader, Role,
};
use crate::error::ProtocolError;
use crate::ids::{MethodId, Xid};
use crate::outcome::Status;

pub(super) const KIND_HELLO: u8 = 0x01;
pub(crate) const KIND_REQUEST: u8 = 0x02;
pub(super) const KIND_ASK: u8 = 0x03;
pub(super) const KIND_ACK: u8 = 0x04;
pub(super) const KIND_CANCEL: u8 = 0x05;
pub(super) const KIND_PING: u8 = 0x06;
pub(super) const KIND_PONG: u8 = 0x07;
pub(super) const KIND_GOODBYE: u8 = 0x08;
pub(super) const KIND_WELCOME: u8 = 0x41;
const KIND_REPLY: u8 = 0x42;
pub(super) const KIND_REFUSE: u8 = 0x43;
/// The status of a reply that has come whole: that of [`Status::Done`].
const DONE: u8 = 0x00;
/// Bit of a kind that only a server sends.
pub(super) const FROM_SERVER: u8 = 0x40;

impl Role {
    const fn bit(self) -> u8 {
        match self {
            Role::Client => 0,
            Role::Server => FROM_SERVER,
        }
    }
}

/// What is at the front of received bytes, without reading more than the length and the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameInfo {
    /// Bytes of the whole frame, the length field included.
    pub len: usize,
    /// Who sent it: on a link with both roles, which machine is to have it (S26).
    pub from: Role,
}

/// Looks at the front of `data`: `None` until the length and the kind are there.
///
/// ```
/// use oncewire_core::wire::{self, Frame, Role};
///
/// let mut out = [0; wire::CONTROL_LEN_MAX];
/// let len = wire::encode(&Frame::Ping(Role::Client), &mut out).unwrap();
/// let front = wire::peek(&out[..len]).unwrap();
/// assert_eq!((front.len, front.from), (5, Role::Client));
/// ```
pub fn peek(data: &[u8]) -> Option<FrameInfo> {
    let (&[a, b, c, d, kind], _) = data.split_first_chunk()?;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    let from = if kind & FROM_SERVER == 0 { Role::Client } else { Role::Server };
    Some(FrameInfo { len: len.saturating_add(LEN_FIELD_LEN), from })
}

/// Whether what is at the front of `data` is a Pong, as far as the bytes that are there tell.
#[inline]
pub(crate) fn may_be_pong(data: &[u8]) -> bool {
    data.get(LEN_FIELD_LEN).is_none_or(|kind| kind & !FROM_SERVER == KIND_PONG)
}

/// A decoded frame and its length, or how many bytes are needed before it can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "taken apart at once, and there may be no memory to box it in"
)]
pub enum Decoded<'d> {
    /// A whole frame.
    Frame(Frame<'d>, usize),
    /// The frame at the front needs this many bytes in all.
    Incomplete(usize),
}

/// Decodes the frame at the front of `data`, which `from` sent and whose body may have `body_len_max` bytes.
///
/// # Errors
/// What is wrong with the frame. A length is judged as soon as it is there, so that a receiver does not wait for, or make
/// room for, a frame that will be refused.
pub fn decode(data: &[u8], from: Role, body_len_max: u32) -> Result<Decoded<'_>, ProtocolError> {
    Ok(match from {
        Role::Client => match parse_client(data, body_len_max)? {
            Parsed::Incomplete(wanted) => Decoded::Incomplete(wanted),
            Parsed::OfCall(header, body, len) => Decoded::Frame(Frame::Request(header, body), len),
            Parsed::Control(control, len) => Decoded::Frame(control.decode_client()?.into(), len),
        },
        Role::Server => match parse_server(data, body_len_max)? {
            Parsed::Incomplete(wanted) => Decoded::Incomplete(wanted),
            Parsed::OfCall(header, body, len) => Decoded::Frame(Frame::Reply(header, body), len),
            Parsed::Control(control, len) => Decoded::Frame(control.decode_server()?.into(), len),
        },
    })
}

/// The frame at the front of received bytes, as far as it takes to find it. The frame of every call, with a header `H`, is
/// decoded and is a small value; a control frame, which may be a large one, is not yet.
#[derive(Debug)]
pub(crate) enum Parsed<'d, H> {
    Incomplete(usize),
    OfCall(H, &'d [u8], usize),
    Control(Control<'d>, usize),
}

/// [`decode`] of what a client sends, but for the fields of control frames.
#[inline]
pub(crate) fn parse_client(
    data: &[u8],
    body_len_max: u32,
) -> Result<Parsed<'_, RequestHeader>, ProtocolError> {
    parse(data, KIND_REQUEST, body_len_max, decode_request)
}

/// The same of what a server sends.
#[inline]
pub(crate) fn parse_server(
    data: &[u8],
    body_len_max: u32,
) -> Result<Parsed<'_, ReplyHeader>, ProtocolError> {
    parse(data, KIND_REPLY, body_len_max, decode_reply)
}

/// Finds the frame at the front of what one side sends, whose frames of one kind have a body.
#[inline(always)]
fn parse<'d, H>(
    data: &'d [u8],
    with_body: u8,
    body_len_max: u32,
    decode_of_call: impl FnOnce(&'d [u8], u32) -> Result<(H, &'d [u8]), ProtocolError>,
) -> Result<Parsed<'d, H>, ProtocolError> {
    let Some((&len_field, after)) = data.split_first_chunk::<LEN_FIELD_LEN>() else {
        return Ok(Parsed::Incomplete(LEN_FIELD_LEN));
    };
    let len = u32::from_le_bytes(len_field);
    let max = body_len_max
        .saturating_add((REQUEST_HEADER_LEN - LEN_FIELD_LEN) as u32)
        .max((CONTROL_LEN_MAX - LEN_FIELD_LEN) as u32);
    if len > max {
        return Err(ProtocolError::FrameTooLong { len, max });
    }
    // A control frame is short, whatever a request may be.
    let control_max = (CONTROL_LEN_MAX - LEN_FIELD_LEN) as u32;
    if len > control_max && after.first().is_some_and(|kind| *kind != with_body) {
        return Err(ProtocolError::FrameTooLong { len, max: control_max });
    }
    let whole = (len as usize).saturating_add(LEN_FIELD_LEN);
    let Some(payload) = after.get(..len as usize) else {
        return Ok(Parsed::Incomplete(whole));
    };
    let Some((&kind, fields)) = payload.split_first() else {
        return Err(ProtocolError::FrameTooShort { kind: 0, len });
    };
    if kind != with_body {
        return Ok(Parsed::Control(Control { kind, fields }, whole));
    }
    decode_of_call(fields, body_len_max).map(|(header, body)| Parsed::OfCall(header, body, whole))
}

/// The request at the front of `data`, if all of it is there, it has no metadata, and nothing is wrong with it: what [`parse_client`]
/// finds of it, in half the steps.
#[inline(always)]
pub(crate) fn plain_request(data: &[u8], body_len_max: u32) -> Option<(RequestHeader, &[u8])> {
    let (head, rest) = data.split_first_chunk::<REQUEST_HEADER_LEN>()?;
    let len = u32_at(head, 0).checked_sub((REQUEST_HEADER_LEN - LEN_FIELD_LEN) as u32)?;
    let of_call = u32::from_le_bytes([0, FLAGS & !FLAG_METADATA, 0, 0]);
    let plain = u32::from_le_bytes([KIND_REQUEST, 0, 0, 0]);
    if u32_at(head, LEN_FIELD_LEN) & !of_call != plain || len > body_len_max {
        return None;
    }
    let body = rest.get(..len as usize)?;
    let header = RequestHeader {
        flags: head[LEN_FIELD_LEN + 1],
        method: MethodId::from_number(u64_at(head, 8)),
        remaining_ms: u32_at(head, 32),
        xid: Xid::new(u64_at(head, 16))?,
        acked: u64_at(head, 24),
    };
    Some((header, body))
}

/// The same for a reply to a call that is done, of which the body comes with it.
#[inline(always)]
pub(crate) fn plain_reply(data: &[u8], body_len_max: u32) -> Option<(Xid, &[u8])> {
    let (head, rest) = data.split_first_chunk::<REPLY_HEADER_LEN>()?;
    let len = u32_at(head, 0).checked_sub((REPLY_HEADER_LEN - LEN_FIELD_LEN) as u32)?;
    let done = u32::from_le_bytes([KIND_REPLY, DONE, 0, 0]);
    if u32_at(head, LEN_FIELD_LEN) != done || len > body_len_max {
        return None;
    }
    let body = rest.get(..len as usize)?;
    Some((Xid::new(u64_at(head, 8))?, body))
}

/// What is wrong with a first frame that does not decode: a peer of another protocol learns that, and so does a client
/// that does not begin with `Hello`, rather than that its frame is too long.
pub(crate) fn first_frame_error(data: &[u8], error: ProtocolError) -> ProtocolError {
    match data.get(LEN_FIELD_LEN) {
        Some(&KIND_HELLO) | None => error,
        Some(&(KIND_REQUEST..=KIND_GOODBYE)) => ProtocolError::NoSession,
        Some(_) => ProtocolError::BadMagic,
    }
}

/// Whether the frame at the front is of a kind that only a client with a session sends; false while its kind is not here.
pub(crate) fn is_not_hello(data: &[u8]) -> bool {
    matches!(data.get(LEN_FIELD_LEN), Some(&(KIND_REQUEST..=KIND_GOODBYE)))
}

/// The header of a request of which not all has come; `None` if it is another frame, or the header is not all there.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn peek_request(data: &[u8]) -> Result<Option<RequestHeader>, ProtocolError> {
    if data.get(LEN_FIELD_LEN) != Some(&KIND_REQUEST) {
        return Ok(None);
    }
    let Some(fields) = data.get(LEN_FIELD_LEN + 1..REQUEST_HEADER_LEN) else { return Ok(None) };
    decode_request(fields, 0).map(|(header, _)| Some(header))
}

#[inline(always)]
fn decode_request(
    fields: &[u8],
    body_len_max: u32,
) -> Result<(RequestHeader, &[u8]), ProtocolError> {
    let kind = KIND_REQUEST;
    let Some((header, body)) = fields.split_first_chunk::<{ REQUEST_HEADER_LEN - 5 }>() else {
        return Err(ProtocolError::FrameTooShort { kind, len: fields.len() as u32 + 1 });
    };
    if body.len() > body_len_max as usize {
        return Err(ProtocolError::FrameTooLong { len: body.len() as u32, max: body_len_max });
    }
    let flags = header[0];
    if flags & !FLAGS != 0 || header[1] != 0 || header[2] != 0 {
        return Err(ProtocolError::Malformed { kind });
    }
    let xid = Xid::new(u64_at(header, 11)).ok_or(ProtocolError::XidOutOfRange)?;
    let request = RequestHeader {
        flags,
        method: MethodId::from_number(u64_at(header, 3)),
        remaining_ms: u32_at(header, 27),
        xid,
        acked: u64_at(header, 19),
    };
    Ok((request, body))
}

#[inline]
fn decode_reply(fields: &[u8], body_len_max: u32) -> Result<(ReplyHeader, &[u8]), ProtocolError> {
    let kind = KIND_REPLY;
    let Some((header, body)) = fields.split_first_chunk::<{ REPLY_HEADER_LEN - 5 }>() else {
        return Err(ProtocolError::FrameTooShort { kind, len: fields.len() as u32 + 1 });
    };
    if body.len() > body_len_max as usize {
        return Err(ProtocolError::FrameTooLong { len: body.len() as u32, max: body_len_max });
    }
    let malformed = ProtocolError::Malformed { kind };
    // W11: only NotSeen says which `Ask` it answers, and only a finished call has a body.
    let ask = u16::from_le_bytes([header[1], header[2]]);
    let status = Status::from_wire(header[0], ask).ok_or(malformed)?;
    if status != Status::Done && !body.is_empty() {
        return Err(malformed);
    }
    let xid = Xid::new(u64_at(header, 3)).ok_or(ProtocolError::XidOutOfRange)?;
    Ok((ReplyHeader { status, xid }, body))
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

#[inline]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

/// Encodes `frame` at the front of `out` and returns its length; `None` if it does not fit, or if its status is one
/// that only a client gives.
pub fn encode(frame: &Frame<'_>, out: &mut [u8]) -> Option<usize> {
    match frame {
        Frame::Request(header, body) => {
            let len = REQUEST_HEADER_LEN.checked_add(body.len())?;
            let (head, rest) = out.get_mut(..len)?.split_at_mut(REQUEST_HEADER_LEN);
            head.copy_from_slice(&request_header(header, body.len())?);
            rest.copy_from_slice(body);
            Some(len)
        }
        Frame::Reply(header, body) => {
            let len = REPLY_HEADER_LEN.checked_add(body.len())?;
            let (head, rest) = out.get_mut(..len)?.split_at_mut(REPLY_HEADER_LEN);
            head.copy_from_slice(&reply_header(header, body.len())?);
            rest.copy_from_slice(body);
            Some(len)
        }
        Frame::Hello(hello) => match hello.token {
            Some(token) if hello.features & FEATURE_TOKEN != 0 => {
                control(KIND_HELLO, &(hello, token), out)
            }
            _ => control(KIND_HELLO, hello, out),
        },
        Frame::Welcome(welcome) => control(KIND_WELCOME, welcome, out),
        Frame::Refuse(refuse, instance) => control(KIND_REFUSE, &(refuse, instance), out),
        Frame::Ask(xid, number) => control(KIND_ASK, &(xid.get(), number), out),
        Frame::Ack(ack) => control(KIND_ACK, ack, out),
        Frame::Cancel(xid) => control(KIND_CANCEL, &xid.get(), out),
        Frame::Ping(role) => control(KIND_PING | role.bit(), &(), out),
        Frame::Pong(role) => control(KIND_PONG | role.bit(), &(), out),
        Frame::Goodbye(role) => control(KIND_GOODBYE | role.bit(), &(), out),
    }
}

fn control<T: Serialize>(kind: u8, fields: &T, out: &mut [u8]) -> Option<usize> {
    let head = LEN_FIELD_LEN + 1;
    let used = postcard::to_slice(fields, out.get_mut(head..)?).ok()?.len();
    out[..LEN_FIELD_LEN].copy_from_slice(&(used as u32 + 1).to_le_bytes());
    out[LEN_FIELD_LEN] = kind;
    Some(head + used)
}

/// The bytes of a request before its body; `None` if the frame would be too long for its length field.
#[inline]
pub(crate) fn request_header(
    header: &RequestHeader,
    body_len: usize,
) -> Option<[u8; REQUEST_HEADER_LEN]> {
    let mut out = [0; REQUEST_HEADER_LEN];
    let len = u32::try_from(body_len + REQUEST_HEADER_LEN - LEN_FIELD_LEN).ok()?;
    out[0..4].copy_from_slice(&len.to_le_bytes());
    out[4] = KIND_REQUEST;
    out[5] = header.flags;
    out[8..16].copy_from_slice(&header.method.number().to_le_bytes());
    out[16..24].copy_from_slice(&header.xid.get().to_le_bytes());
    out[24..32].copy_from_slice(&header.acked.to_le_bytes());
    out[32..36].copy_from_slice(&header.remaining_ms.to_le_bytes());
    Some(out)
}

/// The header of a reply of a call that is done. Its body is no longer than a frame can be.
#[inline(always)]
pub(crate) fn done_header(xid: u64, body_len: usize) -> [u8; REPLY_HEADER_LEN] {
    let len = (body_len + REPLY_HEADER_LEN - LEN_FIELD_LEN) as u32;
    let first = u64::from(len) | u64::from(KIND_REPLY) << 32 | u64::from(DONE) << 40;
    let mut out = [0; REPLY_HEADER_LEN];
    out[..8].copy_from_slice(&first.to_le_bytes());
    out[8..].copy_from_slice(&xid.to_le_bytes());
    out
}

/// The bytes of a reply before its body; `None` for a status that has no byte, or a body too long.
#[inline]
pub(crate) fn reply_header(
    header: &ReplyHeader,
    body_len: usize,
) -> Option<[u8; REPLY_HEADER_LEN]> {
    let mut out = [0; REPLY_HEADER_LEN];
    let len = u32::try_from(body_len + REPLY_HEADER_LEN - LEN_FIELD_LEN).ok()?;
    out[0..4].copy_from_slice(&len.to_le_bytes());
    out[4] = KIND_REPLY;
    if header.status == Status::Done {
        out[5] = DONE;
    } else {
        out[5] = header.status.to_byte()?;
        out[6..8].copy_from_slice(&header.status.ask().to_le_bytes());
    }
    out[8..16].copy_from_slice(&header.xid.get().to_le_bytes());
    Some(out)
}
