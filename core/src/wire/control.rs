//! Control frames, as each side takes them: what only the other one sends is no value here.

use serde::Deserialize;

use super::codec::{
    FROM_SERVER, KIND_ACK, KIND_ASK, KIND_CANCEL, KIND_GOODBYE, KIND_HELLO, KIND_PING, KIND_PONG,
    KIND_REFUSE, KIND_WELCOME,
};
use super::{Ack, FEATURE_TOKEN, Frame, Hello, Instance, MAGIC, Refuse, Role, Welcome};
use crate::error::ProtocolError;
use crate::ids::Xid;

/// A control frame that was not decoded.
#[derive(Debug)]
pub(crate) struct Control<'d> {
    pub(super) kind: u8,
    pub(super) fields: &'d [u8],
}

/// A control frame that a client sends.
#[expect(clippy::large_enum_variant, reason = "taken apart at once")]
pub(crate) enum ClientControl {
    Hello(Hello),
    Ask(Xid, u16),
    Ack(Ack),
    Cancel(Xid),
    Ping,
    Pong,
    Goodbye,
}

/// A control frame that a server sends.
pub(crate) enum ServerControl {
    Welcome(Welcome),
    Refuse(Refuse, Instance),
    Ping,
    Pong,
    Goodbye,
}

impl From<ClientControl> for Frame<'_> {
    fn from(control: ClientControl) -> Self {
        match control {
            ClientControl::Hello(hello) => Frame::Hello(hello),
            ClientControl::Ask(xid, number) => Frame::Ask(xid, number),
            ClientControl::Ack(ack) => Frame::Ack(ack),
            ClientControl::Cancel(xid) => Frame::Cancel(xid),
            ClientControl::Ping => Frame::Ping(Role::Client),
            ClientControl::Pong => Frame::Pong(Role::Client),
            ClientControl::Goodbye => Frame::Goodbye(Role::Client),
        }
    }
}

impl From<ServerControl> for Frame<'_> {
    fn from(control: ServerControl) -> Self {
        match control {
            ServerControl::Welcome(welcome) => Frame::Welcome(welcome),
            ServerControl::Refuse(refuse, instance) => Frame::Refuse(refuse, instance),
            ServerControl::Ping => Frame::Ping(Role::Server),
            ServerControl::Pong => Frame::Pong(Role::Server),
            ServerControl::Goodbye => Frame::Goodbye(Role::Server),
        }
    }
}

impl Control<'_> {
    /// Decodes what a client has sent.
    pub(crate) fn decode_client(self) -> Result<ClientControl, ProtocolError> {
        let Control { kind, fields } = self;
        let malformed = ProtocolError::Malformed { kind };
        match kind {
            KIND_HELLO => {
                // Checked first, so that a peer of another protocol learns just that.
                if !fields.starts_with(&MAGIC) {
                    return Err(ProtocolError::BadMagic);
                }
                // W20: at least one slot.
                let hello = hello_fields(fields).filter(|hello| hello.slots > 0);
                hello.map(ClientControl::Hello).ok_or(malformed)
            }
            KIND_ASK => ask_fields(fields, malformed),
            KIND_CANCEL => xid_field(fields, malformed).map(ClientControl::Cancel),
            KIND_ACK => closed_fields(fields).map(ClientControl::Ack).ok_or(malformed),
            KIND_PING => self.without_fields(ClientControl::Ping),
            KIND_PONG => self.without_fields(ClientControl::Pong),
            KIND_GOODBYE => self.without_fields(ClientControl::Goodbye),
            _ => Err(ProtocolError::UnknownKind(kind)),
        }
    }

    /// Decodes what a server has sent.
    pub(crate) fn decode_server(self) -> Result<ServerControl, ProtocolError> {
        const PING: u8 = KIND_PING | FROM_SERVER;
        const PONG: u8 = KIND_PONG | FROM_SERVER;
        const GOODBYE: u8 = KIND_GOODBYE | FROM_SERVER;
        let Control { kind, fields } = self;
        let malformed = ProtocolError::Malformed { kind };
        match kind {
            KIND_WELCOME => open_fields(fields).map(ServerControl::Welcome).ok_or(malformed),
            KIND_REFUSE => open_fields(fields)
                .map(|(refuse, instance)| ServerControl::Refuse(refuse, instance))
                .ok_or(malformed),
            PING => self.without_fields(ServerControl::Ping),
            PONG => self.without_fields(ServerControl::Pong),
            GOODBYE => self.without_fields(ServerControl::Goodbye),
            _ => Err(ProtocolError::UnknownKind(kind)),
        }
    }

    fn without_fields<F>(self, frame: F) -> Result<F, ProtocolError> {
        let Control { kind, fields } = self;
        if fields.is_empty() { Ok(frame) } else { Err(ProtocolError::Malformed { kind }) }
    }
}

/// W29: the token is there if its feature is.
fn hello_fields(fields: &[u8]) -> Option<Hello> {
    let (mut hello, rest) = postcard::take_from_bytes::<Hello>(fields).ok()?;
    if hello.features & FEATURE_TOKEN != 0 {
        hello.token = Some(open_fields(rest)?);
    }
    Some(hello)
}

/// Fields that a later version may append to (W4): what follows the known ones is ignored.
fn open_fields<'d, T: Deserialize<'d>>(fields: &'d [u8]) -> Option<T> {
    postcard::take_from_bytes(fields).ok().map(|(value, _)| value)
}

/// Fields that no version appends to (W4).
fn closed_fields<'d, T: Deserialize<'d>>(fields: &'d [u8]) -> Option<T> {
    match postcard::take_from_bytes(fields) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}

fn ask_fields(fields: &[u8], malformed: ProtocolError) -> Result<ClientControl, ProtocolError> {
    let (xid, number) = closed_fields(fields).ok_or(malformed)?;
    Xid::new(xid).map(|xid| ClientControl::Ask(xid, number)).ok_or(ProtocolError::XidOutOfRange)
}

fn xid_field(fields: &[u8], malformed: ProtocolError) -> Result<Xid, ProtocolError> {
    let number = closed_fields(fields).ok_or(malformed)?;
    Xid::new(number).ok_or(ProtocolError::XidOutOfRange)
}
