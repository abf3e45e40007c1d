//! What is known of a call that brought no reply: where it was made, and what went wrong on the way.

use std::fmt;
use std::sync::Arc;

use oncewire_core::{
    ClientSession, Instance, MethodId, NotExecuted, ServerId, ServiceName, SessionTag, Unknown, Xid,
};

use super::lifecycle::Lifecycle;
use super::outcome::CallFailure;
use super::pending::Trace;

/// The session that a call was made in.
#[derive(Debug)]
pub(super) struct SessionInfo {
    tag: SessionTag,
    server: ServerId,
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
    /// Which process it was on the connection that the call was made on: several may keep the same records.
    pub instance: Option<Instance>,
    /// The session that the call was made in.
    pub session: Option<SessionTag>,
    /// The call's number in its session; `None` if no byte of it was sent.
    pub xid: Option<Xid>,
    /// Connections that the client has had.
    pub connections: u64,
    /// Attempts to connect that have failed since the last one that did not.
    pub failed_attempts: u32,
    /// Why the last connection ended or could not be made, if anything has gone wrong so far.
    pub last_error: Option<String>,
}

impl CallReport {
    pub(super) fn new(
        method: MethodId,
        method_name: &'static str,
        trace: Option<Trace>,
        client: &Lifecycle,
    ) -> CallReport {
        let (xid, session) = match trace {
            Some(Trace { xid, session }) => (xid, session),
            None => (None, client.session.clone()),
        };
        let session: Option<Arc<SessionInfo>> = session;
        let session = session.as_deref();
        CallReport {
            method_name,
            method,
            address: client.address.clone(),
            service: session.map(|session| session.service),
            server: session.map(|session| session.server),
            instance: session.and_then(|session| session.instance),
            session: session.map(|session| session.tag),
            xid,
            connections: client.connections,
            failed_attempts: client.failed_attempts,
            last_error: client.last_error.clone(),
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
        if let Some(error) = self.last_error.as_ref().filter(|_| self.is_explained(failure)) {
            write!(f, ": {error}")?;
            if self.failed_attempts > 1 {
                write!(f, ", {} attempts", self.failed_attempts)?;
            }
        }
        if let (Some(server), Some(session), Some(xid)) = (self.server, self.session, self.xid) {
            write!(f, " (server {server}")?;
            if let Some(instance) = self.instance {
                write!(f, ", instance {instance}")?;
            }
            write!(f, ", session {session}, xid {xid})")?;
        }
        Ok(())
    }
}
