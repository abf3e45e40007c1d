//! Frames: what `PROTOCOL.md` specifies, and nothing else.
//!
//! A frame is a little-endian `u32` length (of what follows it), a kind, a header by kind, and for requests and
//! replies a body that is left untouched. [`decode`] borrows from its input, [`encode`] writes to its output; neither
//! keeps anything. The rule numbers (W1 …) are those of `PROTOCOL.md`.

mod codec;
mod control;
mod metadata;
mod varint;
pub(crate) mod writer;

use serde::{Deserialize, Serialize};

pub use codec::{Decoded, FrameInfo, decode, encode, peek};
pub(crate) use codec::{
    KIND_REQUEST, Parsed, done_header, first_frame_error, is_not_hello, may_be_pong, parse_client,
    parse_server, peek_request, plain_reply, plain_request, reply_header, request_header,
};
pub(crate) use control::{ClientControl, Control, ServerControl};
pub use metadata::{
    METADATA_KEY_LEN_MAX, METADATA_LEN_MAX, METADATA_PAIRS_MAX, Metadata, MetadataError,
    MetadataValue, MetadataWriter,
};
pub(crate) use varint::{Varint, len_with_len};

pub use crate::instance::{INSTANCE_NAME_LEN_MAX, Instance, SCHEMAS_MAX, Schemas};
pub use crate::text::{SERVICE_NAME_LEN_MAX, ServiceName};

use crate::ids::{MethodId, ServerId, SessionId, Xid};
use crate::outcome::Status;
use crate::token::Token;

/// The one protocol version that this crate speaks.
pub const VERSION: u8 = 1;
/// The first bytes of a `Hello`'s payload.
pub const MAGIC: [u8; 4] = *b"1wir";
/// Bytes of the length field.
pub const LEN_FIELD_LEN: usize = 4;
/// Bytes of a request before its body, the length field included.
pub const REQUEST_HEADER_LEN: usize = 36;
/// Bytes of a reply before its body, the length field included.
pub const REPLY_HEADER_LEN: usize = 16;
/// The longest control frame, the length field included. An output slice must hold one.
pub const CONTROL_LEN_MAX: usize = 384;

/// Flag of a request: the call may run more than once (S22).
pub const FLAG_IDEMPOTENT: u8 = 0x01;
/// Flag of a request: its caller does not wait for the reply's body (S23).
pub const FLAG_ONE_WAY: u8 = 0x02;
/// Flag of a request: its body begins with a block of [`Metadata`]. Only where [`FEATURE_METADATA`] is in force.
pub const FLAG_METADATA: u8 = 0x04;
/// All flags of this version.
pub(crate) const FLAGS: u8 = FLAG_IDEMPOTENT | FLAG_ONE_WAY | FLAG_METADATA;

/// Feature: the client keeps the session in a journal, and comes back to it though it never sent a request: its lease is
/// the full one from the start (S6).
pub const FEATURE_DURABLE: u32 = 0x01;
/// Feature: the client is being debugged, and asks not to be called dead while it is stopped: it is granted the longest
/// keepalive that the server allows (S20).
pub const FEATURE_PATIENT: u32 = 0x02;
/// Feature: requests may carry [`Metadata`].
pub const FEATURE_METADATA: u32 = 0x04;
/// Feature: the `Hello` ends with a [`Token`], and the server takes its principal from that.
pub const FEATURE_TOKEN: u32 = 0x08;
/// All features of this version.
pub(crate) const FEATURES: u32 =
    FEATURE_DURABLE | FEATURE_PATIENT | FEATURE_METADATA | FEATURE_TOKEN;

/// Which of the two machines sent a frame (S26).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The machine that makes calls.
    Client,
    /// The machine that executes them.
    Server,
}

/// The first frame of a connection: opens a session or resumes one (W20).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// Lowest protocol version that the client speaks.
    pub version_min: u8,
    /// Highest protocol version that the client speaks.
    pub version_max: u8,
    /// Optional features that the client knows and wants: [`FEATURE_DURABLE`] and the like.
    pub features: u32,
    /// The session to resume; `None` opens a new one.
    pub resume: Option<Resume>,
    /// The most slots the client can use.
    pub slots: u32,
    /// The longest request that the client wants to send, in bytes.
    pub request_len_max: u32,
    /// The longest reply that the client can take, in bytes.
    pub reply_len_max: u32,
    /// The service that the client demands.
    pub service: Option<ServiceName>,
    /// The server that the client demands.
    pub server: Option<ServerId>,
    /// Who the client is: there if `features` has [`FEATURE_TOKEN`], and only then.
    #[serde(skip)]
    pub token: Option<Token>,
}

/// What a client says of the session it resumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// Its id, from the `Welcome` that opened it.
    pub session: SessionId,
    /// The client has seen all replies up to here.
    pub acked: u64,
}

/// A server's answer to a `Hello` that it accepts (W21).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that both will speak.
    pub version: u8,
    /// The optional features that both will use: those that both know.
    pub features: u32,
    /// Who answered.
    pub server: ServerId,
    /// What it calls its service.
    pub service: ServiceName,
    /// The session's id: a secret.
    pub session: SessionId,
    /// The highest xid that the server has read in this session; 0 if none.
    pub seen: u64,
    /// How far the server's ledger has come; never falls unless an old copy was put back (S32).
    pub commit: u64,
    /// What the session may use, fixed for its life.
    pub grants: Grants,
    /// Which process answered.
    pub instance: Instance,
    /// The schemas of its services.
    pub schemas: Schemas,
}

/// What a session may use, fixed for its life (S7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub struct Grants {
    /// Calls unsettled at once; at least 1.
    pub slots: u32,
    /// Bytes of the longest request body.
    pub request_len_max: u32,
    /// Bytes of the longest reply body.
    pub reply_len_max: u32,
    /// Milliseconds that the server keeps the session without a connection.
    pub lease_ms: u32,
    /// Milliseconds of silence after which either side calls the other one dead.
    pub keepalive_ms: u32,
}

/// Why a server refuses a connection or ends it: what the frame `Refuse` says (W22). A call is refused by a
/// [`NotExecuted`](crate::NotExecuted) in its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub enum Refuse {
    /// The client broke the protocol: a [`ProtocolError::code`](crate::ProtocolError::code).
    Protocol(u8),
    /// No version in common.
    VersionUnsupported {
        /// Lowest version that the server speaks.
        min: u8,
        /// Highest version that the server speaks.
        max: u8,
    },
    /// No such session.
    SessionUnknown,
    /// The session is another principal's.
    WrongPrincipal,
    /// No room for another session.
    SessionsFull,
    /// No room for another session of this principal.
    PrincipalFull,
    /// The client demanded another service or server; this is who answers.
    WrongServer {
        /// The service's name.
        service: ServiceName,
        /// The server's id.
        server: ServerId,
    },
    /// The server is draining, or its ledger has failed and no session can begin.
    ShuttingDown,
    /// A newer connection resumed the session.
    Superseded,
    /// The handshake, or one frame, took too long.
    TooSlow,
    /// The server demands a token, and none was sent.
    TokenMissing,
    /// The server does not know the token that was sent.
    TokenUnknown,
}

/// A settled-slots report (W25): `acked`, and one bit for each of 64 slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The client has seen all replies up to here.
    pub acked: u64,
    /// The highest xid that the client has sent in this session: the bits say nothing of later ones.
    pub last: u64,
    /// The slot of the lowest bit.
    pub base: u32,
    /// Bit `i`: everything up to `last` that the client sent on slot `base + i` is settled.
    pub settled: u64,
}

/// A call's header (W10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub struct RequestHeader {
    /// [`FLAG_IDEMPOTENT`], [`FLAG_ONE_WAY`], [`FLAG_METADATA`].
    pub flags: u8,
    /// Which procedure.
    pub method: MethodId,
    /// Remaining time in milliseconds, rounded up.
    pub remaining_ms: u32,
    /// The call's number.
    pub xid: Xid,
    /// The client has seen all replies up to here.
    pub acked: u64,
}

/// A reply's header (W11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHeader {
    /// What became of the call.
    pub status: Status,
    /// The call's number.
    pub xid: Xid,
}

/// One frame. Bodies are borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'d> {
    /// Opens or resumes a session.
    Hello(Hello),
    /// Accepts a `Hello`.
    Welcome(Welcome),
    /// Says why the server closes, and which process does.
    Refuse(Refuse, Instance),
    /// A call.
    Request(RequestHeader, &'d [u8]),
    /// The answer to a call.
    Reply(ReplyHeader, &'d [u8]),
    /// "What became of this xid?" The number tells this question from others about the same xid (S27).
    Ask(Xid, u16),
    /// "These are settled."
    Ack(Ack),
    /// "This xid is not wanted any more."
    Cancel(Xid),
    /// "Are you there?"
    Ping(Role),
    /// "I am."
    Pong(Role),
    /// From a client: no more requests, the session may end. From a server: please finish.
    Goodbye(Role),
}
