//! The events, and what they are made of.

use std::fmt;
use std::time::Duration;

use oncewire_core::{
    CloseReason, Executed, Instance, MethodId, NoReply, NotExecuted, ServerId, SessionTag, Unknown,
    Xid,
};
pub use oncewire_core::{SessionEnd, SessionLoss, Verdict};

use crate::client::{CallFailure, CallReport};
use crate::transport::Subject;

/// What has happened. Its `Display` is a line for a log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// There is a connection: a server has accepted it, or a client has dialled. No session is open on it yet.
    #[non_exhaustive]
    ConnectionOpened {
        /// A number that no other connection of this server or client has.
        connection: u64,
        /// Who has connected, at a server.
        caller: Option<Subject>,
    },
    /// A server has too many connections, in all or of this caller, and closes a new one.
    #[non_exhaustive]
    ConnectionRefused {
        /// Who has connected.
        caller: Subject,
    },
    /// A server could not accept a connection that waits: the process has too many open files, say. It tries again in a moment.
    #[non_exhaustive]
    AcceptFailed {
        /// Where it listens.
        address: String,
        /// Why.
        why: String,
        /// Attempts that failed since the last connection that was accepted there, with this one.
        attempts: u32,
    },
    /// A caller has shown a token that the server knows: it is this one, whatever the transport said of it.
    #[non_exhaustive]
    CallerIdentified {
        /// On which connection.
        connection: u64,
        /// Who calls.
        caller: Subject,
    },
    /// A connection is over.
    #[non_exhaustive]
    ConnectionClosed {
        /// Its number.
        connection: u64,
        /// The session that was open on it.
        session: Option<SessionTag>,
        /// Why.
        why: ConnectionEnd,
    },
    /// A client could not connect.
    #[non_exhaustive]
    DialFailed {
        /// What it dialled.
        address: String,
        /// Why.
        why: String,
        /// Attempts that failed since the last one that led to a session, with this one.
        attempts: u32,
        /// No other attempt would end otherwise, as its connector says.
        permanent: bool,
    },
    /// A session was opened. With a ledger its record is still to be written.
    #[non_exhaustive]
    SessionOpened {
        /// On which connection.
        connection: u64,
        /// Its name.
        session: SessionTag,
        /// The server that has opened it.
        server: ServerId,
        /// Which process of that.
        instance: Instance,
    },
    /// A session was resumed on a new connection.
    #[non_exhaustive]
    SessionResumed {
        /// On which connection.
        connection: u64,
        /// Its name.
        session: SessionTag,
        /// The server that has it.
        server: ServerId,
        /// Which process of that.
        instance: Instance,
    },
    /// A server has refused to open or to resume a session.
    #[non_exhaustive]
    SessionRefused {
        /// On which connection.
        connection: u64,
        /// Why.
        why: CloseReason,
    },
    /// A session is over at a server.
    #[non_exhaustive]
    SessionEnded {
        /// Its name.
        session: SessionTag,
        /// Why.
        why: SessionEnd,
    },
    /// A client's session is over, and not because the client has ended it: calls of it that were sent end as unknown.
    #[non_exhaustive]
    SessionLost {
        /// Its name.
        session: SessionTag,
        /// Why.
        why: SessionLoss,
    },
    /// A client is closed in good order: all calls are settled, and the session is over.
    #[non_exhaustive]
    ClientClosed {
        /// The session's name, if there was one.
        session: Option<SessionTag>,
    },
    /// A call begins: at a client before anything of it leaves, at a server before its handler runs.
    #[non_exhaustive]
    CallStarted {
        /// Which.
        call: CallInfo,
    },
    /// A call has its outcome: at a client when its caller takes it, at a server when it is given to the machine, with a
    /// ledger once its record is durable.
    #[non_exhaustive]
    CallEnded {
        /// Which. At a client it now has its session and its xid, if a byte of it was sent.
        call: CallInfo,
        /// How.
        end: CallEnd,
        /// The time since [`CallStarted`](Event::CallStarted).
        elapsed: Duration,
        /// Connections that a client made while the call was on its way: on each it was sent again or asked for.
        reconnects: u64,
        /// What a client knows of a call that brought no reply.
        report: Option<Box<CallReport>>,
    },
    /// A client has learned by a ticket what became of a call that had ended as unknown.
    #[non_exhaustive]
    LateOutcome {
        /// Which.
        call: CallInfo,
        /// How it has ended after all.
        end: CallEnd,
        /// The time since [`CallStarted`](Event::CallStarted).
        elapsed: Duration,
    },
    /// A client has begun a call that reports nothing.
    #[non_exhaustive]
    OneWayStarted {
        /// What is called.
        method: MethodName,
    },
    /// A server has refused a call: its handler never runs.
    #[non_exhaustive]
    CallRefused {
        /// Which.
        call: CallInfo,
        /// Why.
        why: NotExecuted,
    },
    /// A request came again at a server, or its client asked for the answer. The call is not run again.
    #[non_exhaustive]
    Duplicate {
        /// The call's session.
        session: Option<SessionTag>,
        /// Its number there.
        xid: Xid,
        /// What is called, if it was a request that came.
        method: Option<MethodName>,
        /// What it is answered with.
        verdict: Verdict,
    },
    /// A handler has panicked. Its [`CallEnded`](Event::CallEnded) follows.
    #[non_exhaustive]
    HandlerPanicked {
        /// Whose.
        call: CallInfo,
    },
    /// A transactional handler was rolled back. Its [`CallEnded`](Event::CallEnded) follows.
    #[non_exhaustive]
    RolledBack {
        /// Whose.
        call: CallInfo,
        /// Why, as the handler says.
        why: String,
        /// It has panicked.
        panicked: bool,
    },
    /// A server begins to shut down.
    DrainBegan,
    /// A server has shut down: nothing runs, and no connection is left.
    Drained,
    /// A server's ledger cannot write: new calls are refused, and none is answered without its record (S31).
    #[non_exhaustive]
    LedgerFailed {
        /// What it says.
        why: String,
    },
    /// So many events were dropped, because observers are slower than what they observe.
    #[non_exhaustive]
    EventsLost {
        /// How many.
        events: u64,
    },
}

/// A call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallInfo {
    /// A number that no other call of this server or client has.
    pub number: u64,
    /// What is called.
    pub method: MethodName,
    /// The session that it belongs to.
    pub session: Option<SessionTag>,
    /// Its number there.
    pub xid: Option<Xid>,
}

impl CallInfo {
    pub(crate) fn new(
        number: u64,
        method: MethodName,
        session: Option<SessionTag>,
        xid: Option<Xid>,
    ) -> CallInfo {
        CallInfo { number, method, session, xid }
    }
}

/// A method, by its name where that is known. Its `Display` is that, or the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MethodName {
    /// Its number.
    pub id: MethodId,
    /// Its full name; empty for one that has a number only, or that a server does not offer.
    pub name: &'static str,
}

impl MethodName {
    pub(crate) const fn new(id: MethodId, name: &'static str) -> MethodName {
        MethodName { id, name }
    }
}

impl fmt::Display for MethodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            "" => self.id.fmt(f),
            name => f.write_str(name),
        }
    }
}

/// How a call has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallEnd {
    /// Executed, with a reply.
    Replied,
    /// Without one.
    Failed(CallFailure),
    /// A client's caller has dropped it before it had an outcome.
    Dropped,
}

impl CallEnd {
    /// Whether the call was executed.
    pub fn executed(&self) -> Executed {
        match self {
            CallEnd::Replied => Executed::Yes,
            CallEnd::Failed(failure) => failure.executed(),
            CallEnd::Dropped => Executed::Unknown,
        }
    }

    /// One word for it that does not change, for metrics and traces: `OK`, `DROPPED`, or the name of the outcome, such as
    /// `OVERLOADED`. Not every word is a failure of its server: see [`executed`](CallEnd::executed).
    pub fn status(&self) -> &'static str {
        match self {
            CallEnd::Replied => "OK",
            CallEnd::Dropped => "DROPPED",
            CallEnd::Failed(CallFailure::NoReply(why)) => match why {
                NoReply::Aborted => "ABORTED",
                NoReply::ReplyTooLarge => "REPLY_TOO_LARGE",
                NoReply::NotKept => "NOT_KEPT",
                NoReply::Unencodable => "UNENCODABLE",
                NoReply::Undecodable => "UNDECODABLE",
                NoReply::AlreadyGiven => "ALREADY_GIVEN",
                _ => "NO_REPLY",
            },
            CallEnd::Failed(CallFailure::NotExecuted(why)) => match why {
                NotExecuted::Overloaded => "OVERLOADED",
                NotExecuted::UnknownMethod => "UNKNOWN_METHOD",
                NotExecuted::BadArguments => "BAD_ARGUMENTS",
                NotExecuted::DeadlinePassed => "DEADLINE_PASSED",
                NotExecuted::Cancelled => "CANCELLED",
                NotExecuted::ShuttingDown => "SHUTTING_DOWN",
                NotExecuted::NotIdempotent => "NOT_IDEMPOTENT",
                NotExecuted::Aborted => "ROLLED_BACK",
                NotExecuted::LedgerFailed => "LEDGER_FAILED",
                NotExecuted::PermissionDenied => "PERMISSION_DENIED",
                NotExecuted::SignatureMismatch => "SIGNATURE_MISMATCH",
                NotExecuted::NotCompared => "NOT_COMPARED",
                NotExecuted::BadMetadata => "BAD_METADATA",
                NotExecuted::MetadataUnsupported => "METADATA_UNSUPPORTED",
                NotExecuted::RequestTooLarge => "REQUEST_TOO_LARGE",
                NotExecuted::Disconnected => "DISCONNECTED",
                NotExecuted::NeverConnected => "NEVER_CONNECTED",
                NotExecuted::SessionRefused => "SESSION_REFUSED",
                NotExecuted::Closed => "CLOSED",
                NotExecuted::JournalFailed => "JOURNAL_FAILED",
                NotExecuted::NotBegun(_) => "NOT_BEGUN",
                _ => "NOT_EXECUTED",
            },
            CallEnd::Failed(CallFailure::Unknown(why)) => match why {
                Unknown::Disconnected => "UNKNOWN_DISCONNECTED",
                Unknown::DeadlinePassed => "UNKNOWN_DEADLINE_PASSED",
                Unknown::SessionEnded => "UNKNOWN_SESSION_ENDED",
                Unknown::Interrupted => "UNKNOWN_INTERRUPTED",
                Unknown::Repeated => "UNKNOWN_REPEATED",
                Unknown::Closed => "UNKNOWN_CLOSED",
                Unknown::JournalFailed => "UNKNOWN_JOURNAL_FAILED",
                _ => "UNKNOWN",
            },
        }
    }
}

impl fmt::Display for CallEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallEnd::Replied => f.write_str("executed"),
            CallEnd::Failed(failure) => failure.fmt(f),
            CallEnd::Dropped => f.write_str("dropped by its caller"),
        }
    }
}

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionEnd {
    /// The protocol has ended it, by this side or by the other, for this reason.
    Closed(CloseReason),
    /// Its stream has ended or broken: what was said of that.
    Lost(String),
}

impl fmt::Display for ConnectionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectionEnd::Closed(reason) => reason.fmt(f),
            ConnectionEnd::Lost(why) => f.write_str(why),
        }
    }
}

impl fmt::Display for CallInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.method)?;
        write_known_by(f, self.session, self.xid)
    }
}

fn write_known_by(
    f: &mut fmt::Formatter<'_>,
    session: Option<SessionTag>,
    xid: Option<Xid>,
) -> fmt::Result {
    match (session, xid) {
        (Some(session), Some(xid)) => write!(f, " (session {session}, xid {xid})"),
        (None, Some(xid)) => write!(f, " (xid {xid})"),
        _ => Ok(()),
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::ConnectionOpened { connection, caller: Some(caller) } => {
                write!(f, "connection {connection} from {caller}")
            }
            Event::ConnectionOpened { connection, caller: None } => {
                write!(f, "connection {connection} made")
            }
            Event::ConnectionRefused { caller } => {
                write!(f, "too many connections: one from {caller} closed")
            }
            Event::AcceptFailed { address, why, attempts } => {
                write!(f, "cannot accept at {address}: {why}, attempt {attempts}")
            }
            Event::CallerIdentified { connection, caller } => {
                write!(f, "connection {connection} is of {caller}, by its token")
            }
            Event::ConnectionClosed { connection, why, .. } => {
                write!(f, "connection {connection} closed: {why}")
            }
            Event::DialFailed { address, why, attempts, .. } => {
                write!(f, "cannot connect to {address}: {why}, attempt {attempts}")
            }
            Event::SessionOpened { connection, session, .. } => {
                write!(f, "session {session} opened on connection {connection}")
            }
            Event::SessionResumed { connection, session, .. } => {
                write!(f, "session {session} resumed on connection {connection}")
            }
            Event::SessionRefused { connection, why } => {
                write!(f, "session refused on connection {connection}: {why}")
            }
            Event::SessionEnded { session, why } => write!(f, "session {session} ended: {why}"),
            Event::SessionLost { session, why } => write!(f, "session {session} lost: {why}"),
            Event::ClientClosed { .. } => f.write_str("closed in good order"),
            Event::CallStarted { call } => write!(f, "call of {call} started"),
            Event::CallEnded { call, end, elapsed, .. } => {
                write!(f, "call of {call} ended after {elapsed:?}: {end}")
            }
            Event::LateOutcome { call, end, elapsed } => {
                write!(f, "call of {call} known after {elapsed:?}: {end}")
            }
            Event::OneWayStarted { method } => write!(f, "one-way call of {method} started"),
            Event::CallRefused { call, why } => write!(f, "call of {call} refused: {why}"),
            Event::Duplicate { session, xid, method, verdict } => {
                match method {
                    Some(method) => write!(f, "duplicate of {method}")?,
                    None => f.write_str("question about a call")?,
                }
                write_known_by(f, *session, Some(*xid))?;
                write!(f, " {verdict}")
            }
            Event::HandlerPanicked { call } => write!(f, "handler of {call} panicked"),
            Event::RolledBack { call, why, .. } => write!(f, "{call} rolled back: {why}"),
            Event::DrainBegan => f.write_str("drain began"),
            Event::Drained => f.write_str("drained"),
            Event::LedgerFailed { why } => write!(f, "ledger failed: {why}"),
            Event::EventsLost { events } => write!(f, "{events} events lost"),
        }
    }
}
