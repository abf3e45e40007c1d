//! Each principal's share of connections and sessions.

use super::{Conn, Server};
use crate::budget;
use crate::ids::{Key, Principal, SessionId};
use crate::storage::list::NIL;
use crate::storage::{Index, Places, ServerStorage, Table};

/// A smaller table of shares may be full: inline storage has one for each session, and so few connections that they are
/// not counted.
const SHARES_MIN: usize = 1 << 30;

/// One principal's share of the room; opaque.
#[doc(hidden)]
#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct Share {
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
        if T::Shares::CAPACITY >= SHARES_MIN {
            conn.share = self.share_of(principal)?;
            let share = self.shares.at_mut(conn.share)?;
            if !budget::may_have_another(share.conns, free) {
                return None;
            }
            share.conns += 1;
        }
        let share = conn.share;
        let key = self.conns.insert(conn);
        if key.is_none() {
            self.leave_share(share);
        }
        key
    }

    /// A connection that was counted in a share is gone.
    pub(super) fn leave_share(&mut self, index: u32) {
        if index == NIL {
            return;
        }
        if let Some(share) = self.shares.at_mut(index) {
            share.conns -= 1;
        }
        self.drop_share_if_unused(index);
    }

    /// Whether a principal leaves enough of the sessions to others to have another one.
    pub(super) fn may_open(&self, principal: Principal) -> bool {
        let free = self.config.sessions_max.saturating_sub(self.sessions.len());
        let share = self.share_index.find(principal.0).and_then(|index| self.shares.at(index));
        // Without any free one, the table is full, and not the principal's part of it.
        free == 0 || share.is_none_or(|share| budget::may_have_another(share.sessions, free))
    }
}
