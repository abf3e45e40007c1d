//! Connected, closing, closed: what a client's owner can learn of it, and who waits for that.

use std::task::Waker;

use oncewire_core::{CloseReason, Instant};

/// Invariants: `ended` and `task_gone` never become false again. After either, no more is sent or received, and no one is
/// left in the wakers.
#[derive(Default)]
pub(super) struct Lifecycle {
    /// When `close` was called.
    pub(super) closing_since: Option<Instant>,
    /// The session ended cleanly.
    pub(super) ended: bool,
    /// The client's task has ended, or was dropped.
    pub(super) task_gone: bool,
    pub(super) close_wakers: Vec<Waker>,
    pub(super) connect_wakers: Vec<Waker>,
    pub(super) last_error: Option<String>,
    /// Handshakes that went through.
    pub(super) connections: u64,
    /// The current connection, or the last one.
    pub(super) connection: Connection,
}

/// What is known of a connection: decides how long to wait before the next one.
#[derive(Default)]
pub(super) struct Connection {
    /// When its handshake went through.
    pub(super) since: Option<Instant>,
    /// A call was answered on it.
    pub(super) answered: bool,
    /// Why it ended, if either side said so.
    pub(super) reason: Option<CloseReason>,
    /// The task has led since it was made, to complete the handshake and the calls that waited for it.
    pub(super) is_fresh: bool,
}

impl Lifecycle {
    /// Whether the client is closed, one way or the other.
    pub(super) fn is_closed(&self) -> bool {
        self.ended || self.task_gone
    }

    /// A connection was made.
    pub(super) fn connected(&mut self) {
        self.connection = Connection { is_fresh: true, ..Connection::default() };
    }

    /// Its handshake went through.
    pub(super) fn opened(&mut self, now: Instant, wake: &mut Vec<Waker>) {
        self.connections += 1;
        self.connection.since = Some(now);
        wake.append(&mut self.connect_wakers);
    }

    /// Wakes all that wait for the client to be connected or closed.
    pub(super) fn wake_all(&mut self, wake: &mut Vec<Waker>) {
        wake.append(&mut self.close_wakers);
        wake.append(&mut self.connect_wakers);
    }
}
