//! What a client reports: replies, events and when they come, its session and its counters.

use super::call::CallEvent;
use super::{Client, Closing, Phase};
use crate::error::{CloseReason, SessionLoss};
use crate::ids::{CallId, ServerId, SessionId, Xid};
use crate::instance::{Instance, Schemas};
use crate::outcome::Outcome;
use crate::storage::ClientStorage;
use crate::text::ServiceName;
use crate::wire::Grants;

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

impl<T> Received<T> {
    /// What is taken where there are no bytes.
    pub(crate) const NOTHING: Received<T> = Received { consumed: 0, item: None, wanted: 0 };
}

/// The answer to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'d> {
    /// Which call. Its id is not valid any more, unless the client is durable.
    pub call: CallId,
    /// Its number in the session.
    pub xid: Xid,
    /// The outcome; its body borrows from the received bytes.
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
    /// The session is over; what was sent in it is `Unknown` for good, the rest continues in a new one.
    SessionLost(SessionLoss),
    /// A call has an outcome. Unless it is `Unknown` with a ticket, or the client is durable, the id is not valid any more.
    Ended {
        /// Which call.
        call: CallId,
        /// Its number in its session, if it had one: with the session's name, what a server's records know it by.
        xid: Option<Xid>,
        /// The outcome.
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
    /// The highest commit number seen (S32). It grows with a resume at most: a journal has the session written again then.
    pub commit: u64,
}

/// What a server says of itself with each connection, beside the session: see [`Client::server_info`](crate::Client::server_info).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub struct ServerInfo {
    /// Which process answered.
    pub instance: Instance,
    /// The schemas of its services; empty if it has refused the client.
    pub schemas: Schemas,
}

/// Numbers that tell how a client has fared since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientCounters {
    /// Requests sent, each resend counted.
    pub sent: u64,
    /// Requests sent again.
    pub resends: u64,
    /// Questions about calls in doubt.
    pub asks: u64,
    /// Answers that came too late to count.
    pub late_answers: u64,
    /// One-way calls that were begun.
    pub one_way: u64,
    /// Those of them that the server has executed, as it has said. The others wait, or were not executed, or it is not known.
    pub one_way_executed: u64,
    /// Sessions opened.
    pub sessions: u64,
    /// Sessions resumed.
    pub resumes: u64,
}

/// Events that are not about one call.
#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(super) struct PendingEvents {
    pub(super) connected: Option<bool>,
    pub(super) disconnect: Option<CloseReason>,
    pub(super) lost: Option<SessionLoss>,
}

impl PendingEvents {
    #[inline]
    fn is_empty(&self) -> bool {
        self.connected.is_none() && self.disconnect.is_none() && self.lost.is_none()
    }
}

impl<S: ClientStorage> Client<S> {
    /// The next event. Poll until `None` after every `handle_…` call, after a command, and after
    /// [`poll_transmit`](Client::poll_transmit) has returned `None`: what cannot be sent ends there.
    #[inline]
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        if self.closing != Closing::No || !self.pending_events.is_empty() {
            return self.poll_rare_event();
        }
        if self.table.events.is_empty() {
            // As nearly always: outcomes come with replies.
            return None;
        }
        self.poll_ended()
    }

    fn poll_ended(&mut self) -> Option<ClientEvent> {
        let (call, CallEvent { outcome, xid }) = self.table.poll_event()?;
        Some(ClientEvent::Ended { call, xid, outcome })
    }

    #[cold]
    fn poll_rare_event(&mut self) -> Option<ClientEvent> {
        let is_greeting = matches!(self.phase, Phase::Greeting { .. });
        if is_greeting && self.is_closing() && self.table.is_idle() {
            // Nothing waits for the answer.
            self.drop_connection(CloseReason::Goodbye);
        }
        if let Some(resumed) = self.pending_events.connected.take() {
            return Some(ClientEvent::Connected { resumed });
        }
        if let Some(reason) = self.pending_events.disconnect.take() {
            return Some(ClientEvent::Disconnect(reason));
        }
        if let Some(end) = self.pending_events.lost.take() {
            return Some(ClientEvent::SessionLost(end));
        }
        if let Some(ended) = self.poll_ended() {
            return Some(ended);
        }
        if self.closing == Closing::Asked && self.is_closed() {
            self.closing = Closing::Reported;
            return Some(ClientEvent::Closed);
        }
        None
    }
}
