//! What a server reports: events and counters.

use crate::error::CloseReason;
use crate::ids::{ConnId, MethodId, SessionId, SessionKey};
use crate::outcome::NotExecuted;
use crate::wire::Refuse;

use super::execute::CallKey;

/// What happened at a server that no received data says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerEvent {
    /// There is something to send on this connection.
    Transmit(ConnId),
    /// The machine has let go of this connection: close it. Its id is not valid any more.
    Close(ConnId, CloseReason),
    /// A session was opened on this connection: record it, then call
    /// [`confirm_session`](crate::Server::confirm_session). Only with [`ServerConfig::records_sessions`](crate::ServerConfig::records_sessions).
    SessionOpened(ConnId),
    /// The client of this connection resumes a session, which may be at another server: find out, claim
    /// [it](crate::Server::wanted_session), and call [`answer_wanted`](crate::Server::answer_wanted). Only with
    /// [`ServerConfig::shares_records`](crate::ServerConfig::shares_records).
    SessionWanted(ConnId),
    /// The lease of a session is over, or it was ended for cause, and calls of it run that are not wanted any more
    /// ([`is_wanted`](crate::Server::is_wanted)). Their handlers may stop, or not: only when they have finished is the session
    /// gone (S6), and until then its client may be back, unless it was ended for cause.
    Abandoned(SessionKey),
    /// A session is over: a ledger may forget it, unless it was [taken](SessionEnd::Taken).
    SessionEnded(SessionId, SessionEnd),
    /// The drain is complete: nothing runs, nothing is kept, no connection is left.
    Drained,
}

/// Why a session has ended at its server. A client that did not end it learns of that by a [`SessionLoss`](crate::SessionLoss).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SessionEnd {
    /// Its client has ended it.
    Goodbye,
    /// It was without a connection for the length of its lease, or lost the one on which its client would have learned of it
    /// (S6).
    Lease,
    /// Its client repeated an xid with other arguments (S10).
    FalseRetry,
    /// Another server with the same records has claimed it, and continues it (S34).
    Taken,
}

impl core::fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            SessionEnd::Goodbye => "its client ended it",
            SessionEnd::Lease => "its client did not come back within the lease",
            SessionEnd::FalseRetry => "its client repeated an xid with other arguments",
            SessionEnd::Taken => "another server with the same records continues it",
        })
    }
}

/// What the machine has decided by itself, with [`ServerConfig::notices`](crate::ServerConfig::notices). Nothing is to be done
/// about it. Not in [`Incoming`](crate::Incoming), which each call passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub enum Notice {
    /// A session was opened on the connection.
    Opened,
    /// The connection has resumed a session.
    Resumed,
    /// A request came again, or its client asked for the call's answer.
    Duplicate {
        /// Which call.
        call: CallKey,
        /// Its method, if it was a request that came.
        method: Option<MethodId>,
        /// What it is answered with.
        verdict: Verdict,
    },
    /// A new request was refused.
    Refused {
        /// Which call.
        call: CallKey,
        /// Its method.
        method: MethodId,
        /// Why.
        why: NotExecuted,
    },
}

/// What a request that came again, or an `Ask`, is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// Nothing: its client has long had the answer.
    Dropped,
    /// The answer, when the call is done.
    WhenDone,
    /// The answer that is kept.
    Kept,
    /// That no request with this xid was read: the call may be sent again.
    NotSeen,
}

impl core::fmt::Display for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Verdict::Dropped => "dropped: the answer was acknowledged",
            Verdict::WhenDone => "answered when the call is done",
            Verdict::Kept => "answered from what is kept",
            Verdict::NotSeen => "answered that the request was not seen",
        })
    }
}

/// Numbers that tell what a server holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerCounters {
    /// Sessions now.
    pub sessions: usize,
    /// Connections now.
    pub conns: usize,
    /// Bytes of replies kept or reserved now.
    pub kept_bytes: u64,
    /// Of these, bytes of replies that are acknowledged, but have not left yet.
    pub half_sent_bytes: u64,
    /// Bytes of the requests of calls that are admitted or running now.
    pub request_bytes: u64,
    /// Bytes set aside for long requests that are on their way now.
    pub coming_bytes: u64,
    /// Bytes of tables of slots now.
    pub table_bytes: u64,
    /// Calls admitted or running now.
    pub running: u64,
    /// Calls admitted since the start.
    pub admitted: u64,
    /// Calls refused since the start.
    pub refused: u64,
    /// Requests recognised as duplicates and not run again.
    pub duplicates: u64,
    /// Requests dropped as stale.
    pub stale: u64,
    /// Questions answered.
    pub asks: u64,
    /// Replies sent, each resend counted.
    pub replies: u64,
    /// Sessions resumed.
    pub resumes: u64,
    /// Resumes refused because there is no such session (S3): after a restart without a ledger many; otherwise they may
    /// be guesses at session ids.
    pub resumes_unknown: u64,
    /// Resumes refused because the session is another principal's (S5).
    pub resumes_of_others: u64,
    /// Handshakes refused because the client demanded another service, server or protocol version (S7).
    pub hellos_mismatched: u64,
    /// Handshakes refused because the client sent no token that the server knows.
    pub hellos_unidentified: u64,
    /// Handshakes refused because the table of sessions, or the principal's part of it, was full (S6).
    pub hellos_without_room: u64,
    /// Connections refused because there were too many, in all or of their principal.
    pub conns_refused: u64,
    /// Connections closed because the client broke the protocol.
    pub protocol_errors: u64,
    /// Connections closed because a handshake or a frame took too long, or the client was silent (S20, C42).
    pub timeouts: u64,
    /// Connections closed because there was no memory even for a refusal (S11).
    pub closed_without_room: u64,
}

impl ServerCounters {
    /// A connection is closed from this side.
    pub(super) fn note_close(&mut self, reason: &CloseReason) {
        let counter = match reason {
            CloseReason::Refused(Refuse::SessionUnknown) => &mut self.resumes_unknown,
            CloseReason::Refused(Refuse::WrongPrincipal) => &mut self.resumes_of_others,
            CloseReason::WrongService { .. }
            | CloseReason::WrongServer { .. }
            | CloseReason::Refused(Refuse::VersionUnsupported { .. }) => {
                &mut self.hellos_mismatched
            }
            CloseReason::Refused(Refuse::TokenMissing | Refuse::TokenUnknown) => {
                &mut self.hellos_unidentified
            }
            CloseReason::Refused(Refuse::SessionsFull | Refuse::PrincipalFull) => {
                &mut self.hellos_without_room
            }
            CloseReason::Protocol(_) => &mut self.protocol_errors,
            CloseReason::TooSlow | CloseReason::PeerSilent => &mut self.timeouts,
            CloseReason::NoRoom => &mut self.closed_without_room,
            _ => return,
        };
        *counter += 1;
    }
}
