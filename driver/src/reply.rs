//! Outcomes as they come from the machine: replies are bytes, and not yet values.

use bytes::Bytes;
use oncewire_core::{NoReply, NotExecuted, Outcome, Unknown};

/// An outcome whose reply was not decoded.
#[derive(Clone, Debug)]
pub(crate) enum RawOutcome {
    Reply(ReplyBody),
    NoReply(NoReply),
    NotExecuted(NotExecuted),
    /// It is not known yet whether it was executed; `true` if a later outcome will say.
    Unknown(Unknown, bool),
}

/// Replies up to this length are stored in place: no allocation between the read that brought them and their caller.
const SMALL_LEN_MAX: usize = 38;

/// A reply as it was received.
#[derive(Clone, Debug)]
pub(crate) enum ReplyBody {
    Small { len: u8, bytes: [u8; SMALL_LEN_MAX] },
    Shared(Bytes),
}

impl ReplyBody {
    /// `large`: the buffer that the reply is a part of, if it can be shared instead of copied.
    #[inline]
    pub(crate) fn new(body: &[u8], large: Option<&Bytes>) -> ReplyBody {
        if body.len() > SMALL_LEN_MAX {
            return ReplyBody::Shared(crate::buffer::share(body, large));
        }
        let mut bytes = [0; SMALL_LEN_MAX];
        bytes[..body.len()].copy_from_slice(body);
        ReplyBody::Small { len: body.len() as u8, bytes }
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            ReplyBody::Small { len, bytes } => &bytes[..usize::from(*len)],
            ReplyBody::Shared(bytes) => bytes,
        }
    }

    /// The memory that it shares, if it does.
    #[inline]
    pub(crate) fn shared(&self) -> Option<&Bytes> {
        match self {
            ReplyBody::Small { .. } => None,
            ReplyBody::Shared(bytes) => Some(bytes),
        }
    }

    #[inline]
    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            ReplyBody::Small { .. } => Bytes::copy_from_slice(self.as_slice()),
            ReplyBody::Shared(bytes) => bytes,
        }
    }
}

const _: () = assert!(size_of::<ReplyBody>() == size_of::<Bytes>() + size_of::<usize>());

impl RawOutcome {
    /// `large`: the buffer that the reply is a part of, if it can be shared instead of copied.
    #[inline]
    pub(crate) fn new(outcome: Outcome<'_>, large: Option<&Bytes>) -> RawOutcome {
        match outcome {
            Outcome::Reply(body) => RawOutcome::Reply(ReplyBody::new(body, large)),
            Outcome::NoReply(why) => RawOutcome::NoReply(why),
            Outcome::NotExecuted(why) => RawOutcome::NotExecuted(why),
            Outcome::Unknown { why, ticket } => RawOutcome::Unknown(why, ticket),
        }
    }
}
