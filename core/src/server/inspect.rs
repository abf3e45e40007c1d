//! What a server has, for people to look at.

use super::Server;
use crate::ids::{Principal, SessionId};
use crate::storage::{Places, ServerStorage, Table};

/// A session, as [`Server::sessions`] shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionSummary {
    /// Its id: a secret, whose [`tag`](SessionId::tag) is none.
    pub id: SessionId,
    /// Whose it is.
    pub principal: Principal,
    /// Whether it has a connection.
    pub connected: bool,
    /// Its calls that are admitted or run.
    pub running: u32,
    /// Bytes of replies kept or reserved for it.
    pub kept_bytes: u64,
    /// The highest xid read in it.
    pub seen: u64,
}

impl<T: ServerStorage> Server<T> {
    /// The sessions in the first `places` places of the table: so much is looked at, whatever is there. More sessions than that
    /// are not all shown.
    pub fn sessions(&self, places: u32) -> impl Iterator<Item = SessionSummary> {
        let places = 0..self.sessions.high_water().min(places);
        places.filter_map(|index| {
            let session = self.sessions.at(index).filter(|session| !session.state.is_ended())?;
            Some(SessionSummary {
                id: session.id,
                principal: self.quotas.at(session.quota)?.principal,
                connected: self.conns.at(session.conn).is_some(),
                running: session.running(),
                kept_bytes: session.calls.as_deref().map_or(0, |calls| calls.kept_bytes),
                seen: session.seen,
            })
        })
    }

    /// Whether a [drain](Server::drain) was begun.
    pub fn is_draining(&self) -> bool {
        self.drain.is_some()
    }
}
