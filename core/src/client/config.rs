//! What a client is configured with, and what it is asked to call.

use core::time::Duration;

use crate::error::{CloseReason, ProtocolError};
use crate::ids::{MethodId, ServerId};
use crate::storage::Payload;
use crate::text::ServiceName;
use crate::token::Token;
use crate::wire::{self, Refuse};

/// What a client wants, and its limits.
///
/// Every number and time may be anything: none makes a client panic or spin. `slots` counts as 1 to 65,536;
/// `handshake_timeout` and `resend_after` as a millisecond at least. With `calls_max` 0 no call is taken, with
/// `pending_bytes_max` or `request_len_max` 0 only empty ones, and with `reply_len_max` 0 the server sends no body (S15).
/// `ack_delay` or `ack_bytes` 0 acknowledges every reply at once; with both at their maximum, replies are acknowledged by
/// later requests and before a `Goodbye` only.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub struct ClientConfig {
    /// The service that must answer; any if `None`.
    pub service: Option<ServiceName>,
    /// The server that must answer; any if `None`.
    pub server: Option<ServerId>,
    /// Who the client is, for servers that demand a token. Its owner connects only where others cannot read it (W29).
    pub token: Option<Token>,
    /// Slots to ask for: calls unsettled at once. At most 65,536.
    pub slots: u32,
    /// Bytes of the longest request body to ask for.
    pub request_len_max: u32,
    /// Bytes of the longest reply body to take.
    pub reply_len_max: u32,
    /// Calls pending at once, unsettled or waiting.
    pub calls_max: usize,
    /// Bytes of request bodies pending at once.
    pub pending_bytes_max: usize,
    /// How long the server may be silent, if that is longer than it grants (S20). [`NEVER`](crate::NEVER) is for debugging a
    /// service: such a client never gives a silent server up, and asks for the longest keepalive that the server allows.
    pub keepalive: Duration,
    /// How long the handshake may take.
    pub handshake_timeout: Duration,
    /// Whether the link loses messages without breaking, and after how long to send again (S27). Set
    /// [`ServerConfig::lossy`](crate::ServerConfig::lossy) as well: without it an idempotent call that is sent again may
    /// still run when its first answer comes, and the server calls the client faulty.
    pub resend_after: Option<Duration>,
    /// Whether the client's owner keeps a journal. Every call is durable then: no byte of it is sent before
    /// [`Client::journaled`](crate::Client::journaled), and it is not settled before
    /// [`Client::settle`](crate::Client::settle); one-way calls are refused. It is so for all calls or for none, because
    /// a client that is restored would give the number of a call that its journal does not know to another one, which
    /// would get the first one's reply.
    ///
    /// Its owner may come back to a session that never carried a request: the server keeps each session for the full
    /// lease from the start (S6). [`Client::restore`](crate::Client::restore) sets it.
    pub durable: bool,
    /// What a failed attempt to connect does to calls that have not left. A durable client's calls wait, whatever it says.
    pub on_dial_failure: OnDialFailure,
    /// How long an acknowledgement that no request carries may wait.
    pub ack_delay: Duration,
    /// Kept bytes at the server above which it does not wait.
    pub ack_bytes: usize,
    /// The number before a session's first xid; only tests have a reason to change it from 0.
    #[doc(hidden)]
    pub xid_before_first: u64,
}

impl Default for ClientConfig {
    fn default() -> Self {
        ClientConfig {
            service: None,
            server: None,
            token: None,
            slots: 1024,
            request_len_max: 16 << 20,
            reply_len_max: 16 << 20,
            calls_max: 65_536,
            pending_bytes_max: 256 << 20,
            keepalive: Duration::ZERO,
            handshake_timeout: Duration::from_secs(10),
            resend_after: None,
            durable: false,
            on_dial_failure: OnDialFailure::default(),
            ack_delay: Duration::from_millis(100),
            ack_bytes: 64 << 10,
            xid_before_first: 0,
        }
    }
}

/// What a failed attempt to connect does to calls of which no byte was sent in any session: whether they wait for the next
/// one, or end as [`NeverConnected`](crate::NotExecuted::NeverConnected). Calls in flight wait for the resume (S21), and one-way
/// calls, of which nothing is reported, for a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnDialFailure {
    /// They wait for a connection until their deadlines.
    Wait,
    /// They end if the failure is [permanent](DialFailure::Permanent). New calls do so, too, until the next attempt.
    #[default]
    EndIfPermanent,
    /// They end, whatever the failure is. New calls do so, too, until the next attempt.
    End,
}

/// How an attempt to connect failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DialFailure {
    /// A later attempt may succeed by itself: nothing listens yet, or the server has no room.
    Transient,
    /// No later attempt will succeed before something is changed: there is no such host or program, or what answers
    /// does not speak the protocol.
    Permanent,
}

impl DialFailure {
    /// What a protocol error that ended a connection before there was a session says of the next attempt. What says no frame of
    /// a server is not one; what says one, at the wrong time or with senseless fields, is a server that may recover.
    pub(crate) fn of_greeting(error: &ProtocolError) -> DialFailure {
        match error {
            ProtocolError::FrameTooLong { .. }
            | ProtocolError::FrameTooShort { .. }
            | ProtocolError::UnknownKind(_)
            | ProtocolError::Malformed { .. } => DialFailure::Permanent,
            _ => DialFailure::Transient,
        }
    }

    /// The same of a server's reason to refuse a session. One that does not know the client's token will not learn it by
    /// itself; that others are refused now says nothing of later.
    pub(crate) fn of_refusal(reason: &CloseReason) -> DialFailure {
        match reason {
            CloseReason::Refused(Refuse::TokenMissing | Refuse::TokenUnknown) => {
                DialFailure::Permanent
            }
            _ => DialFailure::Transient,
        }
    }
}

/// One call to be made.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// Which procedure.
    pub method: MethodId,
    /// Its arguments, behind its metadata if it has any.
    pub body: Payload<'a>,
    /// The body is sent behind its length, a varint, which is a part of it for the server: what most encodings write of bytes. So
    /// these need not be copied to be encoded. Not with `metadata`, which is first in a body.
    pub with_len: bool,
    /// Time until the caller gives up (S17).
    pub timeout: Duration,
    /// The call may run more than once (S22).
    pub idempotent: bool,
    /// Nothing is reported of it (S23). A durable client refuses it.
    pub one_way: bool,
    /// It ends when the connection breaks (S21).
    pub fail_fast: bool,
    /// Whether client and server must mean the same by its method before it is sent (S33).
    pub comparison: Comparison,
    /// Which signature of the method the client means: a number of its owner's own, that
    /// [`Client::compare`](crate::Client::compare) gives back.
    pub signature: u32,
    /// The body begins with a block of [`Metadata`](crate::wire::Metadata). A server that takes none never executes it.
    pub metadata: bool,
}

/// What is known of a call's method: whether the server on this connection means the same by it as the client (S33).
///
/// The machine does not compare. Its owner does, after [`ClientEvent::Connected`](crate::ClientEvent::Connected) and before the next
/// transmit, and reports it with [`Client::compare`](crate::Client::compare).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// It is not compared: nothing is known of the types that its calls mean.
    #[default]
    NotNeeded,
    /// It was compared with this server, which means the same. With the next connection it is `Pending` again.
    Same,
    /// It was not compared with this server yet. Its calls are not sent.
    Pending,
    /// The server means something else: its calls end as
    /// [`SignatureMismatch`](crate::NotExecuted::SignatureMismatch).
    Differs,
    /// The server does not say what it means: its calls end as [`NotCompared`](crate::NotExecuted::NotCompared).
    Failed,
}

impl<'a> Call<'a> {
    /// A call with the default timeout of 30 seconds and no flags.
    pub fn new(method: MethodId, body: impl Into<Payload<'a>>) -> Call<'a> {
        Call {
            method,
            body: body.into(),
            with_len: false,
            timeout: Duration::from_secs(30),
            idempotent: false,
            one_way: false,
            fail_fast: false,
            comparison: Comparison::NotNeeded,
            signature: 0,
            metadata: false,
        }
    }

    /// Bytes of its request's body. `WITH_LEN` says what `with_len` does, so that most calls need not ask again.
    #[inline(always)]
    pub(super) fn len<const WITH_LEN: bool>(&self) -> usize {
        debug_assert_eq!(WITH_LEN, self.with_len);
        let len = self.body.as_slice().len();
        if WITH_LEN { wire::len_with_len(len) } else { len }
    }

    /// Those of its request (W13).
    #[inline]
    pub(super) fn flags(&self) -> u8 {
        let flag = |flag, is_set| if is_set { flag } else { 0 };
        flag(wire::FLAG_IDEMPOTENT, self.idempotent)
            | flag(wire::FLAG_ONE_WAY, self.one_way)
            | flag(wire::FLAG_METADATA, self.metadata)
    }
}
