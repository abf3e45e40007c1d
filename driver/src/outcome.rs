//! What becomes of a call, with its reply decoded.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use oncewire_core::{self as core, Executed, NoReply, NotExecuted, Unknown};
use serde::de::DeserializeOwned;

use crate::client::Ticket;
use crate::decode::{ValueLimits, decode};

/// The one truthful outcome of a call.
#[derive(Debug)]
#[must_use = "a call that was not executed, or whose fate is unknown, is not an error that passes unseen"]
pub enum Outcome<R> {
    /// Executed; here is the reply.
    Reply(R),
    /// Executed, perhaps in part, but there is no reply to show.
    NoReply(NoReply),
    /// Not executed, and it never will be.
    NotExecuted(NotExecuted),
    /// Nobody can know yet; the ticket, if there is one, may tell later.
    Unknown(Unknown, Option<Ticket<R>>),
}

impl<R> Outcome<R> {
    /// Whether the call was executed.
    pub fn executed(&self) -> Executed {
        match self {
            Outcome::Reply(_) | Outcome::NoReply(_) => Executed::Yes,
            Outcome::NotExecuted(_) => Executed::No,
            Outcome::Unknown(..) => Executed::Unknown,
        }
    }

    /// The reply, or why there is none; lets go of the ticket.
    ///
    /// # Errors
    /// Everything but a reply.
    pub fn ok(self) -> Result<R, CallFailure> {
        match self {
            Outcome::Reply(reply) => Ok(reply),
            Outcome::NoReply(why) => Err(CallFailure::NoReply(why)),
            Outcome::NotExecuted(why) => Err(CallFailure::NotExecuted(why)),
            Outcome::Unknown(why, _) => Err(CallFailure::Unknown(why)),
        }
    }
}

/// Why a call has no reply, as an error to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallFailure {
    /// Executed, perhaps in part.
    NoReply(NoReply),
    /// Not executed, and it never will be.
    NotExecuted(NotExecuted),
    /// Nobody can know.
    Unknown(Unknown),
}

impl CallFailure {
    /// Whether the call was executed.
    pub fn executed(&self) -> Executed {
        match self {
            CallFailure::NoReply(_) => Executed::Yes,
            CallFailure::NotExecuted(_) => Executed::No,
            CallFailure::Unknown(_) => Executed::Unknown,
        }
    }
}

impl fmt::Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallFailure::NoReply(why) => why.fmt(f),
            CallFailure::NotExecuted(why) => why.fmt(f),
            CallFailure::Unknown(why) => why.fmt(f),
        }
    }
}

impl std::error::Error for CallFailure {}

/// An outcome whose reply was not decoded.
#[derive(Clone, Debug)]
pub(crate) enum RawOutcome {
    Reply(ReplyBody),
    NoReply(NoReply),
    NotExecuted(NotExecuted),
    /// Nobody can know yet; whether a ticket is left.
    Unknown(Unknown, bool),
}

/// Replies up to this long need no memory of their own between the read that brought them and their caller. So long a
/// body is no larger than without.
const SMALL_LEN_MAX: usize = 22;

/// A reply as it was received.
#[derive(Clone, Debug)]
pub(crate) enum ReplyBody {
    Small { len: u8, bytes: [u8; SMALL_LEN_MAX] },
    Shared(Bytes),
}

impl ReplyBody {
    /// `large` is what the reply is part of, if that is to be shared.
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

    #[inline]
    fn into_bytes(self) -> Bytes {
        match self {
            ReplyBody::Small { .. } => Bytes::copy_from_slice(self.as_slice()),
            ReplyBody::Shared(bytes) => bytes,
        }
    }
}

const _: () = assert!(size_of::<ReplyBody>() == size_of::<Bytes>());

impl RawOutcome {
    /// `large` is what the reply is part of, if that is to be shared.
    #[inline]
    pub(crate) fn new(outcome: core::Outcome<'_>, large: Option<&Bytes>) -> RawOutcome {
        match outcome {
            core::Outcome::Reply(body) => RawOutcome::Reply(ReplyBody::new(body, large)),
            core::Outcome::NoReply(why) => RawOutcome::NoReply(why),
            core::Outcome::NotExecuted(why) => RawOutcome::NotExecuted(why),
            core::Outcome::Unknown { why, ticket } => RawOutcome::Unknown(why, ticket),
        }
    }
}

/// How the bytes of a reply become a value.
///
/// A function pointer, so that calls need no bound on their reply's type.
pub(crate) struct Decode<R> {
    decode: fn(ReplyBody, ValueLimits) -> Option<R>,
    limits: ValueLimits,
    types: PhantomData<fn() -> R>,
}

impl<R> Clone for Decode<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Decode<R> {}

impl<R: DeserializeOwned> Decode<R> {
    pub(crate) fn postcard(limits: ValueLimits) -> Decode<R> {
        let decode = |body: ReplyBody, limits| decode(body.as_slice(), limits);
        Decode { decode, limits, types: PhantomData }
    }
}

impl Decode<Bytes> {
    pub(crate) fn raw() -> Decode<Bytes> {
        let decode = |body: ReplyBody, _| Some(body.into_bytes());
        Decode { decode, limits: ValueLimits::DEFAULT, types: PhantomData }
    }
}

impl<R> Decode<R> {
    #[inline]
    pub(crate) fn outcome(self, raw: RawOutcome, ticket: Option<Ticket<R>>) -> Outcome<R> {
        match raw {
            RawOutcome::Reply(body) => match (self.decode)(body, self.limits) {
                Some(reply) => Outcome::Reply(reply),
                None => Outcome::NoReply(NoReply::Undecodable),
            },
            RawOutcome::NoReply(why) => Outcome::NoReply(why),
            RawOutcome::NotExecuted(why) => Outcome::NotExecuted(why),
            RawOutcome::Unknown(why, _) => Outcome::Unknown(why, ticket),
        }
    }
}
