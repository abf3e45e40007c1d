//! Errors, one type a scope: a frame, a connection, a session.

use core::fmt;

use crate::ids::ServerId;
use crate::outcome::Executed;
use crate::text::ServiceName;
use crate::wire::Refuse;

/// What a peer did that ends its connection. The session survives, except after a false retry (S24).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub enum ProtocolError {
    /// A frame announces more bytes than the grants allow.
    FrameTooLong {
        /// Bytes announced, without the length field.
        len: u32,
        /// Bytes allowed.
        max: u32,
    },
    /// A frame is too short for its kind.
    FrameTooShort {
        /// The frame's kind.
        kind: u8,
        /// Its length, without the length field.
        len: u32,
    },
    /// No frame has this kind in this direction.
    UnknownKind(u8),
    /// The fields of a frame cannot be decoded or have values that the protocol does not know.
    Malformed {
        /// The frame's kind.
        kind: u8,
    },
    /// The peer does not speak this protocol: the magic of its `Hello` is wrong, or its first frame is of no kind that a
    /// client sends.
    BadMagic,
    /// A frame that needs a session came before the handshake (S2).
    NoSession,
    /// A second handshake on a connection that was already bound.
    SecondHello,
    /// A `Welcome` or `Refuse` that nothing asked for.
    UnexpectedWelcome,
    /// An xid is 0 or above the highest one allowed.
    XidOutOfRange,
    /// A new xid fell on a slot whose call still runs (S10).
    SlotBusy {
        /// The new xid.
        xid: u64,
        /// The one that runs.
        running: u64,
    },
    /// `acked` covers a running call, or the call that carries it (S10): this client continues from an old copy of its journal, and
    /// its session is over (S7).
    AckAhead {
        /// The `acked` received.
        acked: u64,
    },
    /// A new xid is below one that was already read, without permission (S13).
    OutOfOrder {
        /// The new xid.
        xid: u64,
        /// The highest xid read.
        seen: u64,
    },
    /// The same xid came with other arguments (S10); the session ends.
    FalseRetry {
        /// The xid.
        xid: u64,
    },
    /// A request came after the client's `Goodbye` (S25).
    AfterGoodbye,
    /// An answer came to an xid that was never sent, or of a kind that was not asked for.
    UnexpectedAnswer {
        /// The xid.
        xid: u64,
    },
    /// An `Ask` came for an xid whose answer the session's client has acknowledged: this client continues from an old copy of
    /// its journal. Nothing is left to answer it with, and its session is over (S7).
    AlreadySettled {
        /// The xid.
        xid: u64,
    },
}

impl ProtocolError {
    /// The number of this error in a `Refuse` frame (PROTOCOL.md, W28).
    pub const fn code(&self) -> u8 {
        match self {
            ProtocolError::FrameTooLong { .. } => 1,
            ProtocolError::FrameTooShort { .. } => 2,
            ProtocolError::UnknownKind(_) => 3,
            ProtocolError::Malformed { .. } => 4,
            ProtocolError::BadMagic => 5,
            ProtocolError::NoSession => 6,
            ProtocolError::SecondHello => 7,
            ProtocolError::UnexpectedWelcome => 8,
            ProtocolError::XidOutOfRange => 9,
            ProtocolError::SlotBusy { .. } => 10,
            ProtocolError::AckAhead { .. } => 11,
            ProtocolError::OutOfOrder { .. } => 12,
            ProtocolError::FalseRetry { .. } => 13,
            ProtocolError::AfterGoodbye => 14,
            ProtocolError::UnexpectedAnswer { .. } => 15,
            ProtocolError::AlreadySettled { .. } => 16,
        }
    }

    /// A broken connection leaves every call that it carried [`Executed::Unknown`] until the resume.
    pub fn executed(&self) -> Executed {
        Executed::Unknown
    }
}

/// What each number of [`ProtocolError::code`] says.
const PROTOCOL_TEXTS: [&str; 17] = [
    "a reason this version does not know",
    "a frame was longer than the grants allow",
    "a frame was too short for its kind",
    "a frame's kind is unknown",
    "a frame's fields cannot be decoded",
    "the peer does not speak this protocol",
    "a frame that needs a session came before the handshake",
    "a second Hello came on one connection",
    "a Welcome came that nothing asked for",
    "an xid was out of range",
    "a new xid fell on a slot whose call runs",
    "an acknowledgement covered a call that runs or the one that carried it",
    "a new xid was below one already read",
    "the same xid came with other arguments",
    "a request came after the client's Goodbye",
    "an answer came to an xid that was not asked for",
    "an answer that was acknowledged was asked for",
];

fn protocol_text(code: u8) -> &'static str {
    PROTOCOL_TEXTS.get(usize::from(code)).unwrap_or(&PROTOCOL_TEXTS[0])
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "protocol error: {}", protocol_text(self.code()))?;
        match self {
            ProtocolError::FrameTooLong { len, max } => {
                write!(f, " ({len} bytes announced, {max} allowed)")
            }
            ProtocolError::FrameTooShort { kind, len } => {
                write!(f, " (kind {kind:#04x}, {len} bytes)")
            }
            ProtocolError::UnknownKind(kind) | ProtocolError::Malformed { kind } => {
                write!(f, " (kind {kind:#04x})")
            }
            ProtocolError::SlotBusy { xid, running } => write!(f, " (xid {xid}, {running} runs)"),
            ProtocolError::AckAhead { acked } => write!(f, " (acked {acked})"),
            ProtocolError::OutOfOrder { xid, seen } => write!(f, " (xid {xid}, {seen} was read)"),
            ProtocolError::FalseRetry { xid }
            | ProtocolError::UnexpectedAnswer { xid }
            | ProtocolError::AlreadySettled { xid } => write!(f, " (xid {xid})"),
            ProtocolError::BadMagic
            | ProtocolError::NoSession
            | ProtocolError::SecondHello
            | ProtocolError::UnexpectedWelcome
            | ProtocolError::XidOutOfRange
            | ProtocolError::AfterGoodbye => Ok(()),
        }
    }
}

impl core::error::Error for ProtocolError {}

/// Why a connection has to be closed, or was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub enum CloseReason {
    /// The peer broke the protocol.
    Protocol(ProtocolError),
    /// The server refuses the client: it says so, or has said so to us.
    Refused(Refuse),
    /// No byte came for the keepalive's time (S20).
    PeerSilent,
    /// The handshake, or one frame, took the peer too long (C42).
    TooSlow,
    /// The session ended cleanly.
    Goodbye,
    /// There was no memory for one more call of the session, not even to refuse it (S11). It was not read: after a
    /// resume it is sent again.
    NoRoom,
    /// The client demanded another service (S7).
    WrongService {
        /// What the client demanded.
        wanted: ServiceName,
        /// What answered.
        found: ServiceName,
    },
    /// The client demanded another server (S7).
    WrongServer {
        /// What the client demanded.
        wanted: ServerId,
        /// What answered.
        found: ServerId,
    },
}

impl CloseReason {
    /// Whether one end broke the protocol, as we or the peer found.
    pub fn is_protocol_error(&self) -> bool {
        matches!(self, CloseReason::Protocol(_) | CloseReason::Refused(Refuse::Protocol(_)))
    }

    /// Whether another attempt with the same configuration can end otherwise.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            CloseReason::Refused(Refuse::VersionUnsupported { .. } | Refuse::WrongServer { .. })
                | CloseReason::WrongService { .. }
                | CloseReason::WrongServer { .. }
        )
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Protocol(error) => error.fmt(f),
            CloseReason::Refused(refuse) => refuse.fmt(f),
            CloseReason::PeerSilent => {
                f.write_str("the peer sent no byte for the keepalive's time")
            }
            CloseReason::TooSlow => f.write_str("the handshake or a frame took the peer too long"),
            CloseReason::Goodbye => f.write_str("the session was ended in good order"),
            CloseReason::NoRoom => {
                f.write_str("the server has no memory for another call of the session now")
            }
            CloseReason::WrongService { wanted, found } => {
                write!(f, "service {wanted} was demanded, but {found} answered")
            }
            CloseReason::WrongServer { wanted, found } => {
                write!(f, "server {wanted} was demanded, but {found} answered")
            }
        }
    }
}

impl fmt::Display for Refuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refuse::Protocol(code) => {
                write!(f, "the peer reports a protocol error: {}", protocol_text(*code))
            }
            Refuse::VersionUnsupported { min, max } => {
                write!(f, "the server speaks protocol versions {min} to {max} only")
            }
            Refuse::SessionUnknown => f.write_str("the server does not have the session"),
            Refuse::WrongPrincipal => f.write_str("the session belongs to another principal"),
            Refuse::SessionsFull => f.write_str("the server's session table is full"),
            Refuse::PrincipalFull => {
                f.write_str("the principal's share of the server's session table is full")
            }
            Refuse::WrongServer { service, server } => {
                write!(f, "another server was demanded than {server} of service {service}")
            }
            Refuse::ShuttingDown => f.write_str(
                "the server takes no new sessions: it is shutting down, or its ledger has failed",
            ),
            Refuse::Superseded => f.write_str("a newer connection resumed the session"),
            Refuse::TooSlow => {
                f.write_str("the server found that the handshake or a frame took too long")
            }
            Refuse::TokenMissing => f.write_str("the server demands a token, and none was sent"),
            Refuse::TokenUnknown => f.write_str("the server does not know the token that was sent"),
        }
    }
}

impl core::error::Error for CloseReason {}

/// Why a client has lost its session, which it had not ended itself. Calls of the session that were sent are `Unknown` for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SessionLoss {
    /// The server no longer has it, or never had (S3).
    SessionUnknown,
    /// One end continues from an old copy: the server's ledger is older than what the client has seen (S32), or the client's
    /// journal than what the server has (S7). Its other calls and numbers are not known there.
    RolledBack,
    /// The server came back with other grants (S7).
    GrantsChanged,
    /// The server found other arguments under a repeated xid (S10).
    FalseRetry,
    /// The server refuses the client for good (S5, S7).
    Refused,
}

impl SessionLoss {
    /// What it means for calls of the session that were sent.
    pub fn executed(&self) -> Executed {
        Executed::Unknown
    }
}

impl fmt::Display for SessionLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SessionLoss::SessionUnknown => return Refuse::SessionUnknown.fmt(f),
            SessionLoss::RolledBack => "the server's ledger or the client's journal is an old copy",
            SessionLoss::GrantsChanged => "the server came back with other grants",
            SessionLoss::FalseRetry => "the server found other arguments under a repeated xid",
            SessionLoss::Refused => "the server refuses the client",
        })
    }
}

impl core::error::Error for SessionLoss {}
