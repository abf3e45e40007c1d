//! Each principal's share of connections and sessions.

use super::conn::Phase;
use super::{Conn, Quotas, Server};
use crate::budget;
use crate::error::CloseReason;
use crate::ids::{ConnId, Key, Principal, SessionId};
use crate::storage::list::NIL;
use crate::storage::{Index, Places, ServerStorage, Table};
use crate::wire::Refuse;

/// A smaller table of shares may be full: inline storage has one for each session, and so few connections that they are
/// not counted.
const SHARES_MIN: usize = 1 << 30;

/// One principal's share of the room.
#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(crate) struct PrincipalQuota {
    pub(super) principal: Principal,
    pub(super) conns: u32,
    pub(super) sessions: u32,
    pub(super) kept_bytes: u64,
    /// Bytes of requests and of tables.
    pub(super) request_bytes: u64,
}

impl<T: ServerStorage> Server<T> {
    /// Makes room for a connection; `None` if there is none, in all or for this principal.
    pub(super) fn insert_conn(&mut self, principal: Principal, secret: SessionId) -> Option<Key> {
        let free = self.config.conns_max.saturating_sub(self.conns.len());
        if free == 0 {
            return None;
        }
        let mut conn = Conn::new(principal, secret, self.now);
        if Quotas::<T>::CAPACITY >= SHARES_MIN {
            conn.quota = self.join_quota(principal, free)?;
        }
        let quota = conn.quota;
        let key = self.conns.insert(conn);
        if key.is_none() {
            self.leave_quota(quota);
        }
        key
    }

    /// Counts a connection in a principal's share; `None` if it has none for another, where there is room for `free` in all.
    fn join_quota(&mut self, principal: Principal, free: usize) -> Option<u32> {
        let index = self.quota_of(principal)?;
        let quota = self.quotas.live_mut(index)?;
        if !budget::may_have_another(quota.conns, free) {
            return None;
        }
        quota.conns += 1;
        Some(index)
    }

    /// The owner knows by the token of its `Hello`, which the machine was not given yet, whose connection it is (W29). It
    /// counts in that principal's share from now on, and what the transport said is forgotten. Without a place in that
    /// share it is closed.
    ///
    /// A connection is identified once: later, and where a `Hello` has come, nothing happens.
    pub fn identify(&mut self, conn: ConnId, principal: Principal) {
        let index = conn.0.index;
        let Some(live) = self.conns.get(conn.0) else { return };
        if live.identified || live.phase != Phase::AwaitingHello {
            return;
        }
        let (before, mut quota) = (live.principal, live.quota);
        if quota != NIL && principal != before {
            // Its own place is free for it.
            let free = self.config.conns_max.saturating_sub(self.conns.len() - 1);
            let Some(joined) = self.join_quota(principal, free) else {
                return self.close_conn(index, CloseReason::Refused(Refuse::PrincipalFull));
            };
            self.leave_quota(quota);
            quota = joined;
        }
        if let Some(conn) = self.conns.live_mut(index) {
            (conn.principal, conn.quota, conn.identified) = (principal, quota, true);
        }
    }

    /// A connection that was counted in a share is gone.
    pub(super) fn leave_quota(&mut self, index: u32) {
        if index == NIL {
            return;
        }
        if let Some(quota) = self.quotas.live_mut(index) {
            debug_assert!(quota.conns > 0, "each connection is counted once");
            quota.conns -= 1;
        }
        self.drop_quota_if_unused(index);
    }

    /// A principal's share, if it has any connection or session.
    pub(super) fn known_quota(&self, principal: Principal) -> Option<&PrincipalQuota> {
        self.quota_index.find(principal.0).and_then(|index| self.quotas.live(index))
    }

    /// A principal's share, made if it has none.
    pub(super) fn quota_of(&mut self, principal: Principal) -> Option<u32> {
        if let Some(index) = self.quota_index.find(principal.0) {
            return Some(index);
        }
        let key = self.quotas.insert(PrincipalQuota {
            principal,
            conns: 0,
            sessions: 0,
            kept_bytes: 0,
            request_bytes: 0,
        })?;
        if !self.quota_index.insert(principal.0, key.index) {
            self.quotas.remove(key.index);
            return None;
        }
        Some(key.index)
    }

    /// A share of nothing is given up.
    pub(super) fn drop_quota_if_unused(&mut self, index: u32) {
        if self.quotas.live(index).is_some_and(|quota| quota.sessions == 0 && quota.conns == 0)
            && let Some(quota) = self.quotas.remove(index)
        {
            self.quota_index.remove(quota.principal.0);
        }
    }

    /// Whether a principal leaves enough of the sessions to others to have another one.
    pub(super) fn may_open(&self, principal: Principal) -> bool {
        let free = self.config.sessions_max.saturating_sub(self.sessions.len());
        let quota = self.known_quota(principal);
        // Without any free one, the table is full, and not the principal's part of it.
        free == 0 || quota.is_none_or(|quota| budget::may_have_another(quota.sessions, free))
    }
}
