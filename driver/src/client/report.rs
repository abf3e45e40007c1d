//! What is known of a call that brought no reply: where it was made, and what went wrong on the way.

use std::fmt;
use std::sync::Arc;

use oncewire_core::{
    ClientSession, Instance, MethodId, NotExecuted, ServerId, ServiceName, SessionTag, Unknown, Xid,
};

use super::lifecycle::Lifecycle;
use super::options::CloseReport;
use super::outcome::CallFailure;
use super::pending::Trace;
use crate::signatures::SignatureMismatch;

/// The session that a call was made in.
#[derive(Debug)]
pub(super) struct SessionInfo {
    pub(super) tag: SessionTag,
    pub(super) server: ServerId,
    instance: Option<Instance>,
    service: ServiceName,
}

impl SessionInfo {
    pub(super) fn new(session: &ClientSession, instance: Option<Instance>) -> SessionInfo {
        let ClientSession { id, server, service, .. } = *session;
        SessionInfo { tag: id.tag(), server, instance, service }
    }
}

/// What is known of a call that brought no reply, beside its outcome. No part of it is a secret.
///
/// `session` and `xid` name the call in its server's records: `oncewire-ledger call FILE SESSION XID` says what they know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallReport {
    /// The method's name; empty for a call of bytes, which has its number only.
    pub method_name: &'static str,
    /// The method's number.
    pub method: MethodId,
    /// What the client dials.
    pub address: String,
    /// What the server that the client had, or has, calls its service.
    pub service: Option<ServiceName>,
    /// Which set of records that server keeps.
    pub server: Option<ServerId>,
    /// Which process of it answered, or was the last to say anything on the connection of the call: several may keep the same
    /// records. For a call of which no byte was sent, the one that the client last heard from, a refusal included.
    pub instance: Option<Instance>,
    /// The session that the call was made in. For a call of which no byte was sent, the client's.
    pub session: Option<SessionTag>,
    /// The call's number in its session; `None` if no byte of it was sent.
    pub xid: Option<Xid>,
    /// Connections that the client has had.
    pub connections: u64,
    /// Attempts to connect that have failed since the last one that did not.
    pub failed_attempts: u32,
    /// Why the last connection ended or could not be made, if anything has gone wrong so far.
    pub last_error: Option<String>,
    /// What client and server mean by the method, if the call was not sent because they differ (S33).
    pub mismatch: Option<SignatureMismatch>,
    /// The attempts before this one, at other servers: a client of [`Servers`](crate::Servers) makes them. All else here is of the last.
    pub earlier: Vec<EarlierAttempt>,
}

/// An attempt of a call that was made again at another server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EarlierAttempt {
    /// What its client dials.
    pub address: String,
    /// Which process answered there, if one did.
    pub instance: Option<Instance>,
    /// What it came to.
    pub failure: CallFailure,
}

impl CallReport {
    pub(super) fn new(
        method: MethodId,
        method_name: &'static str,
        trace: Option<Trace>,
        client: &Lifecycle,
        last_heard: Option<Instance>,
    ) -> CallReport {
        let (xid, session) = match trace {
            Some(Trace { xid, session }) => (xid, session),
            None => (None, client.session.clone()),
        };
        let session: Option<Arc<SessionInfo>> = session;
        let session = session.as_deref();
        let of_session = session.and_then(|session| session.instance);
        CallReport {
            method_name,
            method,
            address: client.address.clone(),
            service: session.map(|session| session.service),
            server: session.map(|session| session.server),
            instance: if xid.is_some() { of_session } else { last_heard.or(of_session) },
            session: session.map(|session| session.tag),
            xid,
            connections: client.connections,
            failed_attempts: client.failed_attempts,
            last_error: client.last_error.clone(),
            mismatch: None,
            earlier: Vec::new(),
        }
    }

    /// Whether the last error explains this.
    fn is_explained(&self, failure: CallFailure) -> bool {
        let by_connection = matches!(
            failure,
            CallFailure::NotExecuted(
                NotExecuted::NeverConnected
                    | NotExecuted::Disconnected
                    | NotExecuted::SessionRefused
            ) | CallFailure::Unknown(Unknown::Disconnected | Unknown::SessionEnded)
        );
        by_connection || self.failed_attempts > 0
    }

    /// Whether its deadline passed before any server had answered, though no attempt to dial has failed: a server that listens but
    /// does not accept, say.
    fn is_unanswered(&self, failure: CallFailure) -> bool {
        let too_late = CallFailure::NotExecuted(NotExecuted::DeadlinePassed);
        failure == too_late && self.connections == 0 && self.last_error.is_none()
    }

    /// One line: which method of which server, the outcome, why, and what the call is known by.
    pub(super) fn write(&self, failure: CallFailure, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.method_name {
            "" => write!(f, "method {}", self.method)?,
            name => f.write_str(name)?,
        }
        if let Some(service) = self.service {
            write!(f, " of {service}")?;
        }
        if !self.address.is_empty() {
            write!(f, " at {}", self.address)?;
        }
        write!(f, ": {failure}")?;
        if let Some(mismatch) = &self.mismatch {
            write!(f, ": {mismatch}")?;
        }
        if let Some(error) = self.last_error.as_ref().filter(|_| self.is_explained(failure)) {
            write!(f, ": {error}")?;
            if self.failed_attempts > 1 {
                write!(f, ", {} attempts", self.failed_attempts)?;
            }
        } else if self.is_unanswered(failure) {
            write!(f, ": no server has answered there yet")?;
        }
        self.write_known_by(f)?;
        for EarlierAttempt { address, failure, .. } in &self.earlier {
            write!(f, "; before that at {address}: {failure}")?;
        }
        Ok(())
    }

    fn write_known_by(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(server), Some(session)) = (self.server, self.session) {
            write!(f, " (")?;
            write_known_by(f, server, self.instance, session)?;
            if let Some(xid) = self.xid {
                write!(f, ", xid {xid}")?;
            }
            write!(f, ")")?;
        }
        Ok(())
    }
}

/// What a server's log and records know a session by.
fn write_known_by(
    f: &mut fmt::Formatter<'_>,
    server: ServerId,
    instance: Option<Instance>,
    session: SessionTag,
) -> fmt::Result {
    write!(f, "server {server}")?;
    if let Some(instance) = instance {
        write!(f, ", instance {instance}")?;
    }
    write!(f, ", session {session}")
}

/// One line: how it went, what was not delivered, and what the session is known by.
impl fmt::Display for CloseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { in_good_order, unfinished, one_way_unconfirmed, left_in_journal, .. } = self;
        f.write_str(if *in_good_order {
            "closed in good order"
        } else {
            "not closed in good order"
        })?;
        write!(
            f,
            ": {unfinished} calls unfinished, {one_way_unconfirmed} one-way calls unconfirmed"
        )?;
        if *left_in_journal > 0 {
            write!(f, ", {left_in_journal} left in the journal")?;
        }
        if let (Some(server), Some(session)) = (self.server, self.session) {
            write!(f, " (")?;
            write_known_by(f, server, self.instance, session)?;
            write!(f, ")")?;
        }
        Ok(())
    }
}
