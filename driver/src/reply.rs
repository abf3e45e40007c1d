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
        let mut small = ReplyBody::Small { len: body.len() as u8, bytes: [0; SMALL_LEN_MAX] };
        if let ReplyBody::Small { bytes, .. } = &mut small {
            bytes[..body.len()].copy_from_slice(body);
        }
        small
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

    /// The bytes; what is shared is taken out.
    #[inline]
    pub(crate) fn take_bytes(&mut self) -> Bytes {
        match self {
            ReplyBody::Small { len, bytes } => crate::buffer::copied(&bytes[..usize::from(*len)]),
            ReplyBody::Shared(bytes) => std::mem::take(bytes),
        }
    }
}

const _: () = assert!(size_of::<ReplyBody>() == size_of::<Bytes>() + size_of::<usize>());

/// An outcome as the machine gives it, to keep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub(crate) outcome: Outcome<'a>,
    /// The buffer that the reply is a part of, if it can be shared instead of copied.
    pub(crate) large: Option<&'a Bytes>,
}

impl Received<'_> {
    #[inline]
    pub(crate) fn is_reply(&self) -> bool {
        matches!(self.outcome, Outcome::Reply(_))
    }

    /// Whether a later outcome will follow.
    #[inline]
    pub(crate) fn leaves_ticket(&self) -> bool {
        matches!(self.outcome, Outcome::Unknown { ticket: true, .. })
    }

    /// The same, kept in this place: a small reply is not moved there.
    #[inline(always)]
    pub(crate) fn keep_in(self, place: &mut Option<RawOutcome>) {
        if let Outcome::Reply(body) = self.outcome
            && body.len() <= SMALL_LEN_MAX
        {
            let small = ReplyBody::Small { len: body.len() as u8, bytes: [0; SMALL_LEN_MAX] };
            if let RawOutcome::Reply(ReplyBody::Small { bytes, .. }) =
                place.insert(RawOutcome::Reply(small))
            {
                bytes[..body.len()].copy_from_slice(body);
            }
            return;
        }
        *place = Some(self.keep());
    }

    /// The same, kept.
    #[inline]
    pub(crate) fn keep(self) -> RawOutcome {
        match self.outcome {
            Outcome::Reply(body) => RawOutcome::Reply(ReplyBody::new(body, self.large)),
            Outcome::NoReply(why) => RawOutcome::NoReply(why),
            Outcome::NotExecuted(why) => RawOutcome::NotExecuted(why),
            Outcome::Unknown { why, ticket } => RawOutcome::Unknown(why, ticket),
        }
    }
}
