//! What a client is told, and what it tells.

use core::time::Duration;

use crate::error::{CloseReason, SessionEnd};
use crate::ids::{CallId, MethodId, ServerId, SessionId};
use crate::outcome::Outcome;
use crate::storage::Payload;
use crate::wire::{Grants, ServiceName};

/// What a client wants, and its limits.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub struct ClientConfig {
    /// The service that must answer; any if `None`.
    pub service: Option<ServiceName>,
    /// The server that must answer; any if `None`.
    pub server: Option<ServerId>,
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
    /// service: such a client never gives a silent server up, and asks for as much patience as the server allows.
    pub keepalive: Duration,
    /// How long the handshake may take.
    pub handshake_timeout: Duration,
    /// Whether the link loses messages without breaking, and after how long to send again (S27).
    pub resend_after: Option<Duration>,
    /// Whether the client's owner keeps a journal. Every call is held then: no byte of it is handed before
    /// [`Client::recorded`](crate::Client::recorded), and it is not settled before
    /// [`Client::settle`](crate::Client::settle); one-way calls are refused. It is so for all calls or for none, because
    /// a client that is restored would give the number of a call that its journal does not know to another one, which
    /// would get the first one's reply.
    ///
    /// Its owner may come back to a session that never carried a request: the server keeps each session for the full
    /// lease from the start (S6). [`Client::restore`](crate::Client::restore) sets it.
    pub durable: bool,
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
            slots: 1024,
            request_len_max: 64 << 20,
            reply_len_max: 64 << 20,
            calls_max: 65_536,
            pending_bytes_max: 256 << 20,
            keepalive: Duration::ZERO,
            handshake_timeout: Duration::from_secs(10),
            resend_after: None,
            durable: false,
            ack_delay: Duration::from_millis(100),
            ack_bytes: 64 << 10,
            xid_before_first: 0,
        }
    }
}

/// One call to be made.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// Which procedure.
    pub method: MethodId,
    /// Its arguments.
    pub body: Payload<'a>,
    /// Time until the caller gives up (S17).
    pub timeout: Duration,
    /// The call may run more than once (S22).
    pub idempotent: bool,
    /// Nothing is reported of it (S23). A durable client refuses it.
    pub one_way: bool,
    /// It ends when the connection breaks (S21).
    pub fail_fast: bool,
}

impl<'a> Call<'a> {
    /// A call with the default timeout of 30 seconds and no flags.
    pub fn new(method: MethodId, body: impl Into<Payload<'a>>) -> Call<'a> {
        Call {
            method,
            body: body.into(),
            timeout: Duration::from_secs(30),
            idempotent: false,
            one_way: false,
            fail_fast: false,
        }
    }
}

/// What [`Client::handle_data`](crate::Client::handle_data) or [`Server::handle_data`](crate::Server::handle_data) took from the bytes it was given.
#[derive(Debug)]
pub struct Received<T> {
    /// Bytes taken; give the others again, with more behind them.
    pub consumed: usize,
    /// What came, if anything did. If something did, there may be more in the bytes not taken: call again.
    pub item: Option<T>,
    /// Bytes that the frame at the front of those not taken needs in all; 0 if nothing is left.
    pub wanted: usize,
}

/// The answer to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'d> {
    /// Which call. Its id is not valid any more, unless the client is durable.
    pub call: CallId,
    /// What became of it; its body borrows from the received bytes.
    pub outcome: Outcome<'d>,
}

/// What happened at a client that no received data says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientEvent {
    /// The session is open on this connection.
    Connected {
        /// Whether it is the same session as before.
        resumed: bool,
    },
    /// The machine has let go of the connection: close it. A later `handle_disconnected` for it is not needed.
    Disconnect(CloseReason),
    /// The session is over; what was handed in it is `Unknown` for good, the rest goes on in a new one.
    SessionLost(SessionEnd),
    /// A call has an outcome. Unless it is `Unknown` with a ticket, or the client is durable, the id is not valid any more.
    Ended {
        /// Which call.
        call: CallId,
        /// What became of it.
        outcome: Outcome<'static>,
    },
    /// [`Client::close`](crate::Client::close) is complete: every call is settled and the session is over.
    Closed,
}

/// The session that a client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub struct ClientSession {
    /// Its id: a secret.
    pub id: SessionId,
    /// The server that opened it.
    pub server: ServerId,
    /// What that server calls its service.
    pub service: ServiceName,
    /// What the session may use.
    pub grants: Grants,
    /// The highest commit number seen (S32).
    pub commit: u64,
}

/// Numbers that tell how a client has fared since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientCounters {
    /// Requests handed, each resend counted.
    pub sent: u64,
    /// Requests handed again.
    pub resends: u64,
    /// Questions about calls in doubt.
    pub asks: u64,
    /// Answers that came too late to count.
    pub late_answers: u64,
    /// Sessions opened.
    pub sessions: u64,
    /// Sessions resumed.
    pub resumes: u64,
}
