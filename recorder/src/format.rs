//! The recorder's format, version 1: what a recording holds, and how it is written and read.
//!
//! A recording is [`MAGIC`], and then records one behind the other:
//!
//! | bytes | content |
//! |---|---|
//! | 1 | kind |
//! | varint | bytes of the fields |
//! | | fields, by kind |
//!
//! A varint has seven bits a byte, the lowest first, and its highest bit says that another byte follows. A text is a
//! varint and so many bytes of UTF-8. Times are varints: nanoseconds since the recording began.
//!
//! | kind | record | fields |
//! |---:|---|---|
//! | 1 | [`About`]; the first | source `u8`, flags `u8` (1 bodies as they were, 2 a lossy link), unix time in ms varint, text |
//! | 2 | method | number (8 bytes, little-endian), text: its name |
//! | 3 | connected | time, connection varint, text: who it is |
//! | 4 | frame | time, connection, from `u8` (0 client, 1 server), delivery `u8` (0 arrived, 1 lost), nanoseconds under way varint, bytes of the head varint, head, bytes of the body varint, form `u8`, the body: itself (form 0), or the 16 bytes from which it follows (form 1) |
//! | 5 | garbage | time, connection, from, code of W28 `u8`, bytes varint |
//! | 6 | disconnected | time, connection, by `u8` (0 client, 1 server, 2 the network), bytes of an unfinished frame from the client varint, and from the server varint |
//! | 7 | note | time, text |
//! | 8 | finished | time, session (16 bytes), xid varint, status `u8` (W12) |
//! | 9 | restarted | time |
//! | 10 | drain began | time, instance (8 bytes, little-endian) |
//!
//! A head is a whole control frame, or a request up to the end of its metadata, or a reply up to its body; the length in
//! its first bytes counts the body. Readers skip kinds that they do not know, and bytes behind the fields that they do.

mod read;
mod write;

use oncewire_core::wire::{self, Decoded, Frame, Role};
use oncewire_core::{MethodId, SessionId, Status, Xid};

use crate::hide::expand;
use crate::siphash::siphash;

pub use read::Reader;
pub use write::Writer;

/// The first bytes of a recording; the last of them is the version.
pub const MAGIC: [u8; 8] = *b"1wirrec\x01";
/// Bytes of the longest record that is read.
pub const RECORD_LEN_MAX: u64 = 2 << 20;
/// Bytes of the longest body that is written as it was; a longer one is replaced also where bodies are asked for.
pub const PLAIN_BODY_LEN_MAX: usize = 1 << 20;
/// Bytes of the longest body that a frame may say it has.
pub(crate) const BODY_LEN_MAX: u32 = 1 << 30;
/// Bytes of the longest text.
const TEXT_LEN_MAX: usize = 4096;

/// Who has made a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A relay between clients and a server: it sees what passes, and not what either end does.
    Relay,
    /// A server: it also knows when calls finish.
    Server,
    /// A client.
    Client,
    /// A simulated world: it knows both ends, and what was lost between them.
    World,
}

/// What the recording says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Who has made it.
    pub source: Source,
    /// Whether bodies and metadata are what they were, or were replaced.
    pub plain_bodies: bool,
    /// Whether the link loses messages without breaking, or delivers them twice (S27).
    pub lossy: bool,
    /// When it began, in milliseconds of unix time; 0 where there is no such time.
    pub unix_ms: u64,
    /// What was recorded, for people.
    pub what: String,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It arrives.
    Arrived,
    /// It was sent, and never arrived.
    Lost,
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// The client closed it.
    Client,
    /// The server closed it.
    Server,
    /// Neither: it broke, or the recording ended.
    Network,
}

/// A body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// These bytes.
    Plain(Vec<u8>),
    /// So many bytes that follow from these sixteen.
    Derived {
        /// From what they follow.
        hash: [u8; 16],
        /// How many.
        len: u32,
    },
}

impl Body {
    /// Without bytes.
    pub const EMPTY: Body = Body::Plain(Vec::new());

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        match self {
            Body::Plain(bytes) => bytes.len(),
            Body::Derived { len, .. } => *len as usize,
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Body::Plain(bytes) => bytes.clone(),
            Body::Derived { hash, len } => expand(*hash, *len as usize),
        }
    }
}

/// A frame that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedFrame {
    /// The connection on which it came.
    pub conn: u64,
    /// Who sent it.
    pub from: Role,
    /// Whether it arrives.
    pub delivery: Delivery,
    /// Nanoseconds between its leaving and its arrival, or its loss; 0 where only one of them is known.
    pub under_way: u64,
    /// A whole control frame, or a request or reply up to its body.
    pub head: Vec<u8>,
    /// What is behind it.
    pub body: Body,
}

impl RecordedFrame {
    /// The frame's bytes as they are given to a machine. A body that is longer than `body_len_max` is represented by so
    /// many bytes that follow from it: equal ones stay equal, and others do not become so.
    pub(crate) fn bytes(&self, body_len_max: usize) -> Vec<u8> {
        let body = match &self.body {
            Body::Plain(bytes) if bytes.len() <= body_len_max => bytes.clone(),
            Body::Plain(bytes) => expand(siphash([0; 16], bytes), body_len_max),
            Body::Derived { hash, len } => expand(*hash, (*len as usize).min(body_len_max)),
        };
        let mut bytes = [&self.head[..], &body].concat();
        if let Ok(len) = u32::try_from(bytes.len().saturating_sub(wire::LEN_FIELD_LEN))
            && let Some(field) = bytes.first_chunk_mut()
        {
            *field = len.to_le_bytes();
        }
        bytes
    }

    /// Whether it is one whole frame.
    fn is_sound(&self) -> bool {
        let Some(field) = self.head.first_chunk() else { return false };
        let whole = self.head.len() - wire::LEN_FIELD_LEN + self.body.len();
        let has_body = matches!(self.head.get(wire::LEN_FIELD_LEN), Some(0x02 | 0x42));
        if u32::from_le_bytes(*field) as usize != whole || !has_body && !self.body.is_empty() {
            return false;
        }
        // A body's bytes say nothing about the frame's soundness; that a refusal has none, its head says.
        let bytes = self.bytes(1);
        match wire::decode(&bytes, self.from, BODY_LEN_MAX) {
            Ok(Decoded::Frame(Frame::Request(..), len)) => {
                len == bytes.len() && self.head.len() >= wire::REQUEST_HEADER_LEN
            }
            Ok(Decoded::Frame(Frame::Reply(..), len)) => {
                len == bytes.len() && self.head.len() == wire::REPLY_HEADER_LEN
            }
            Ok(Decoded::Frame(_, len)) => len == bytes.len(),
            _ => false,
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A method's name is known.
    Method(MethodId, String),
    /// A connection was made.
    Connected {
        /// Its number in the recording.
        conn: u64,
        /// Who it is, for people.
        peer: String,
    },
    /// A frame passed.
    Frame(RecordedFrame),
    /// Bytes passed that are no frames; what they are is not recorded.
    Garbage {
        /// On which connection.
        conn: u64,
        /// Who sent them.
        from: Role,
        /// What is wrong with the first of them: a code of W28.
        code: u8,
        /// How many.
        len: u64,
    },
    /// A connection is gone.
    Disconnected {
        /// Which one.
        conn: u64,
        /// Who ended it.
        by: EndedBy,
        /// Bytes of a frame from the client of which the rest never came.
        client_rest: u64,
        /// Bytes of a frame from the server of which the rest never came.
        server_rest: u64,
    },
    /// Something that people should know.
    Note(String),
    /// A call has finished at its server. From then on its answer is kept, whether or not it can be sent.
    Finished {
        /// The session's pseudonym.
        session: SessionId,
        /// The call.
        xid: Xid,
        /// How.
        status: Status,
    },
    /// The server was stopped, or killed, and what answers from here on is another process.
    Restarted,
    /// A server has begun to drain, as its observer saw it.
    DrainBegan {
        /// The bits of its [`Instance`](oncewire_core::Instance).
        instance: u64,
    },
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Nanoseconds since the recording began.
    pub at: u64,
    /// What happened then.
    pub what: What,
}
