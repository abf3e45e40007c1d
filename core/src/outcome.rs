//! What becomes of a call: its outcome, or the error of one that never began.

use core::fmt;

use crate::wire::MetadataError;

/// Whether a call was executed, as far as the holder of an outcome or an error can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Executed {
    /// It was not executed and never will be.
    No,
    /// It was executed, once.
    Yes,
    /// Not known yet; a ticket may tell later.
    Unknown,
}

/// The one truthful outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub enum Outcome<'d> {
    /// Executed; here is the reply.
    Reply(&'d [u8]),
    /// Executed, perhaps in part, but there is no reply to show.
    NoReply(NoReply),
    /// Not executed, and it never will be.
    NotExecuted(NotExecuted),
    /// Not known yet.
    Unknown {
        /// What took the knowledge away.
        why: Unknown,
        /// Whether the answer may still come: the call's id stays valid, and a later outcome replaces this one, or
        /// [`Client::forget`](crate::Client::forget) gives it up.
        ticket: bool,
    },
}

impl<'d> Outcome<'d> {
    /// The reply's bytes, if there is a reply.
    pub fn reply(&self) -> Option<&'d [u8]> {
        match self {
            Outcome::Reply(body) => Some(body),
            _ => None,
        }
    }

    /// Whether the call was executed.
    #[inline]
    pub fn executed(&self) -> Executed {
        match self {
            Outcome::Reply(_) | Outcome::NoReply(_) => Executed::Yes,
            Outcome::NotExecuted(_) => Executed::No,
            Outcome::Unknown { .. } => Executed::Unknown,
        }
    }
}

impl fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Reply(body) => write!(f, "executed: a reply of {} bytes", body.len()),
            Outcome::NoReply(why) => why.fmt(f),
            Outcome::NotExecuted(why) => why.fmt(f),
            Outcome::Unknown { why, ticket: false } => why.fmt(f),
            Outcome::Unknown { why, ticket: true } => write!(f, "{why}; the answer may still come"),
        }
    }
}

/// Why an executed call has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoReply {
    /// The handler panicked or passed its time limit: executed, perhaps in part (S14).
    Aborted,
    /// The reply was larger than the method declares or the session was granted (S15).
    ReplyTooLarge,
    /// An idempotent call that finished earlier, whose reply was not kept (S22).
    NotKept,
    /// The handler returned what cannot be encoded (S15): its types and the wire's format do not go together.
    Unencodable,
    /// A reply came, but its bytes are not what the caller expected: client and server disagree about the method.
    Undecodable,
    /// A ticket was asked again after it had given the reply, which it can give once.
    AlreadyGiven,
}

impl fmt::Display for NoReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoReply::Aborted => "executed, perhaps in part: the handler panicked or passed its time limit",
            NoReply::ReplyTooLarge => {
                "executed, but the reply was larger than the method declares or the session was granted; \
                 declare a larger reply_len_max"
            }
            NoReply::NotKept => "executed, but replies of idempotent calls are not kept",
            NoReply::Unencodable => "executed, but the server could not encode the reply",
            NoReply::Undecodable => {
                "executed, but the reply cannot be decoded: client and server disagree about the method's types"
            }
            NoReply::AlreadyGiven => "executed, and the ticket has already given the reply",
        })
    }
}

impl core::error::Error for NoReply {}

/// Why a call was not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotExecuted {
    /// The server had no room for the request or to keep the reply (S11), or too many calls at once.
    Overloaded,
    /// The server has no such method.
    UnknownMethod,
    /// The arguments could not be decoded.
    BadArguments,
    /// The deadline passed before the call was started (S17).
    DeadlinePassed,
    /// The caller cancelled before the call was started (S19).
    Cancelled,
    /// The server was draining (S25).
    ShuttingDown,
    /// The call says it is idempotent and the server's method does not (S22).
    NotIdempotent,
    /// The transaction was rolled back; nothing of it remains (S14).
    Aborted,
    /// The server's ledger cannot write (S31).
    LedgerFailed,
    /// The server does not let this caller call the method (S5).
    PermissionDenied,
    /// The server could not read the call's metadata.
    BadMetadata,
    /// The call has metadata, and the server does not take any.
    MetadataUnsupported,
    /// The request is larger than the session was granted.
    RequestTooLarge,
    /// There was no connection, and the call was to fail fast (S21).
    Disconnected,
    /// No connection to the server could be made, and calls that have not left were not to wait for one
    /// ([`OnDialFailure`](crate::OnDialFailure)).
    NeverConnected,
    /// The server refused the session, and no other attempt can do better (S7).
    SessionRefused,
    /// Client and server mean different things by the method: its signatures differ (S33). Nothing of the call was sent, or
    /// the server had not read it.
    SignatureMismatch,
    /// The signatures of the method may differ, and the server did not say in time which it has (S33).
    NotCompared,
    /// The client was closed before the call left.
    Closed,
    /// The client's journal cannot write, and nothing of the call is in it.
    JournalFailed,
    /// The client did not begin it; this says why.
    NotBegun(NotBegun),
}

impl fmt::Display for NotExecuted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not executed: ")?;
        f.write_str(match self {
            NotExecuted::NotBegun(error) => return error.fmt(f),
            NotExecuted::Overloaded => {
                "the server had no room for the call: for its bytes or its reply, or too many calls at once"
            }
            NotExecuted::UnknownMethod => "the server has no such method",
            NotExecuted::BadArguments => "the server could not decode the arguments",
            NotExecuted::DeadlinePassed => "the deadline passed before the call was started",
            NotExecuted::Cancelled => "the call was cancelled before it was started",
            NotExecuted::ShuttingDown => "the server is shutting down",
            NotExecuted::NotIdempotent => "the server does not declare the method idempotent",
            NotExecuted::Aborted => "the transaction was rolled back",
            NotExecuted::LedgerFailed => "the server's ledger cannot write",
            NotExecuted::PermissionDenied => "the server does not let this caller call the method",
            NotExecuted::BadMetadata => "the server could not read the call's metadata",
            NotExecuted::MetadataUnsupported => "the call has metadata, and the server takes none",
            NotExecuted::RequestTooLarge => "the request is larger than the session was granted",
            NotExecuted::Disconnected => "there was no connection, and the call was to fail fast",
            NotExecuted::NeverConnected => "no connection to the server could be made",
            NotExecuted::SessionRefused => "the server refused the session for good",
            NotExecuted::SignatureMismatch => {
                "client and server mean different things by the method: its signatures differ"
            }
            NotExecuted::NotCompared => {
                "the server did not say in time which signature it has of the method"
            }
            NotExecuted::Closed => "the client was closed before the call left",
            NotExecuted::JournalFailed => "the client's journal cannot write",
        })
    }
}

impl core::error::Error for NotExecuted {}

/// Why a call was not begun: the client refused it before anything of it was sent.
///
/// [`Client::call`](crate::Client::call) returns it, and so does a driver's `send`, which makes one-way calls. A driver's other calls
/// end with it as their outcome: [`NotExecuted::NotBegun`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotBegun {
    /// The client was closed.
    Closed,
    /// As many calls are pending as the client's storage or its `calls_max` holds.
    TooManyCalls {
        /// That many.
        max: usize,
    },
    /// The request is larger than the storage, the configuration or the session's grant allows.
    RequestTooLarge {
        /// Bytes in the request.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The requests that wait for their answers fill the client's budget.
    TooManyBytes {
        /// Bytes allowed.
        max: usize,
    },
    /// The arguments cannot be encoded.
    Unencodable,
    /// The metadata breaks one of its limits.
    BadMetadata(MetadataError),
    /// The process was forked since the client was made: the threads that drive it are the parent's. Drivers say so.
    Forked,
    /// A hook of the program's that sees calls before they begin has panicked. Drivers say so.
    HookPanicked,
    /// The call is one-way and the client is [durable](crate::ClientConfig::durable): a journal keeps a call until its
    /// outcome is written, and nothing is reported of this one.
    OneWay,
}

impl NotBegun {
    /// Always [`Executed::No`].
    pub fn executed(&self) -> Executed {
        Executed::No
    }
}

impl fmt::Display for NotBegun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotBegun::Closed => f.write_str("call not begun: the client is closed"),
            NotBegun::TooManyCalls { max } => {
                write!(f, "call not begun: {max} calls are pending, which is the limit")
            }
            NotBegun::RequestTooLarge { len, max } => {
                write!(f, "call not begun: the request has {len} bytes, {max} are allowed")
            }
            NotBegun::Forked => f.write_str(
                "call not begun: the process was forked since the client was made, whose threads are the parent's",
            ),
            NotBegun::Unencodable => {
                f.write_str("call not begun: its arguments cannot be encoded")
            }
            NotBegun::BadMetadata(why) => write!(f, "call not begun: {why}"),
            NotBegun::HookPanicked => {
                f.write_str("call not begun: a hook around the client's calls has panicked")
            }
            NotBegun::OneWay => {
                f.write_str("call not begun: a durable client makes no one-way calls")
            }
            NotBegun::TooManyBytes { max } => write!(
                f,
                "call not begun: pending requests fill the client's budget of {max} bytes"
            ),
        }
    }
}

impl core::error::Error for NotBegun {}

/// Why it is not known whether a call was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unknown {
    /// The connection broke after a byte of the request was sent, and the call was to fail fast (S21).
    Disconnected,
    /// The deadline passed after a byte of the request was sent (S17).
    DeadlinePassed,
    /// The session ended before the answer came (S3, S10).
    SessionEnded,
    /// The server crashed while the call ran (S28).
    Interrupted,
    /// An earlier copy of an idempotent call may have run; this one was not (S22).
    Repeated,
    /// The client was closed before the answer came.
    Closed,
    /// The client's journal cannot write: the call's outcome is learned when the client is started again.
    JournalFailed,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown whether executed: ")?;
        f.write_str(match self {
            Unknown::Disconnected => "the connection broke after the request began to leave",
            Unknown::DeadlinePassed => "the deadline passed after the request began to leave",
            Unknown::SessionEnded => "the session ended before the answer came",
            Unknown::Interrupted => "the server crashed while the call ran",
            Unknown::Repeated => "an earlier copy of the idempotent call may have run",
            Unknown::Closed => "the client was closed before the answer came",
            Unknown::JournalFailed => {
                "the client's journal cannot write; start the client again to learn it"
            }
        })
    }
}

impl core::error::Error for Unknown {}

/// What a reply frame says of its call: the server's side of an [`Outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Executed; the body is the reply.
    Done,
    /// Executed, without a body to show.
    NoReply(NoReply),
    /// Refused before it was started.
    Refused(NotExecuted),
    /// The server has nothing for this xid (S21).
    NotSeen {
        /// The number of the `Ask` that this answers (S27).
        ask: u16,
    },
    /// Started, and interrupted by a crash (S28).
    Interrupted,
}

impl Status {
    /// The byte on the wire (PROTOCOL.md, W12). Reasons that only a client can give have none.
    pub const fn to_byte(self) -> Option<u8> {
        Some(match self {
            Status::Done => 0x00,
            Status::NoReply(NoReply::Aborted) => 0x01,
            Status::NoReply(NoReply::ReplyTooLarge) => 0x02,
            Status::NoReply(NoReply::NotKept) => 0x03,
            Status::NoReply(NoReply::Unencodable) => 0x04,
            Status::NoReply(NoReply::Undecodable | NoReply::AlreadyGiven) => return None,
            Status::Refused(why) => match why {
                NotExecuted::Overloaded => 0x10,
                NotExecuted::UnknownMethod => 0x11,
                NotExecuted::BadArguments => 0x12,
                NotExecuted::DeadlinePassed => 0x13,
                NotExecuted::Cancelled => 0x14,
                NotExecuted::ShuttingDown => 0x15,
                NotExecuted::NotIdempotent => 0x16,
                NotExecuted::Aborted => 0x17,
                NotExecuted::LedgerFailed => 0x18,
                NotExecuted::PermissionDenied => 0x19,
                NotExecuted::BadMetadata => 0x1a,
                NotExecuted::RequestTooLarge
                | NotExecuted::MetadataUnsupported
                | NotExecuted::Disconnected
                | NotExecuted::NeverConnected
                | NotExecuted::SessionRefused
                | NotExecuted::SignatureMismatch
                | NotExecuted::NotCompared
                | NotExecuted::Closed
                | NotExecuted::JournalFailed
                | NotExecuted::NotBegun(_) => return None,
            },
            Status::NotSeen { .. } => 0x20,
            Status::Interrupted => 0x21,
        })
    }

    /// The number in a reply's header: which `Ask` it answers; 0 where none was needed.
    pub const fn ask(self) -> u16 {
        match self {
            Status::NotSeen { ask } => ask,
            _ => 0,
        }
    }

    /// The status with this byte.
    pub const fn from_byte(byte: u8) -> Option<Status> {
        Status::from_wire(byte, 0)
    }

    /// The status with this byte, in an answer to the `Ask` with this number. Only NotSeen has one.
    pub const fn from_wire(byte: u8, ask: u16) -> Option<Status> {
        if ask != 0 && byte != 0x20 {
            return None;
        }
        Some(match byte {
            0x00 => Status::Done,
            0x01 => Status::NoReply(NoReply::Aborted),
            0x02 => Status::NoReply(NoReply::ReplyTooLarge),
            0x03 => Status::NoReply(NoReply::NotKept),
            0x04 => Status::NoReply(NoReply::Unencodable),
            0x10 => Status::Refused(NotExecuted::Overloaded),
            0x11 => Status::Refused(NotExecuted::UnknownMethod),
            0x12 => Status::Refused(NotExecuted::BadArguments),
            0x13 => Status::Refused(NotExecuted::DeadlinePassed),
            0x14 => Status::Refused(NotExecuted::Cancelled),
            0x15 => Status::Refused(NotExecuted::ShuttingDown),
            0x16 => Status::Refused(NotExecuted::NotIdempotent),
            0x17 => Status::Refused(NotExecuted::Aborted),
            0x18 => Status::Refused(NotExecuted::LedgerFailed),
            0x19 => Status::Refused(NotExecuted::PermissionDenied),
            0x1a => Status::Refused(NotExecuted::BadMetadata),
            0x20 => Status::NotSeen { ask },
            0x21 => Status::Interrupted,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_survives_the_wire() {
        let mut known = 0;
        for byte in 0..=u8::MAX {
            if let Some(status) = Status::from_wire(byte, 0) {
                assert_eq!((status.to_byte(), status.ask()), (Some(byte), 0));
                known += 1;
                let numbered = Status::from_wire(byte, 7);
                assert_eq!(numbered.map(Status::ask), (byte == 0x20).then_some(7));
            }
        }
        assert_eq!(known, 18);
    }
}
