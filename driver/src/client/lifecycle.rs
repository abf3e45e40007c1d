//! Connected, closing, closed: what a client's owner can learn of it, and who waits for that.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;

use oncewire_core::{ClientSession, CloseReason, DialFailure, Instance, Instant, Token};

use super::report::SessionInfo;
use crate::waiters::Waiters;

/// Invariants: `ended` and `task_gone` never become false again. After either, no more is sent or received, and no one is
/// left in the wakers.
#[derive(Default)]
pub(super) struct Lifecycle {
    /// When `close` was called.
    pub(super) closing_since: Option<Instant>,
    /// The session ended cleanly.
    pub(super) ended: bool,
    /// Calls that had no outcome when the client's task ended.
    pub(super) unfinished: u64,
    /// The client's task has ended, or was dropped.
    pub(super) task_gone: bool,
    pub(super) close_wakers: Vec<Waker>,
    pub(super) connect_waiters: Waiters,
    /// Why the last connection ended or could not be made.
    pub(super) last_error: Option<String>,
    /// Attempts to connect that failed since the last handshake that went through.
    pub(super) failed_attempts: u32,
    /// The last of them will fail again until a person changes something.
    pub(super) dial_is_hopeless: bool,
    /// Woken when calls may begin, and when an attempt to connect has failed; kept.
    pub(super) watcher: Option<Waker>,
    /// What was dialled last.
    pub(super) address: String,
    /// Handshakes that went through.
    pub(super) connections: u64,
    /// The token of the connections to come, if it is another one.
    pub(super) next_token: Option<Token>,
    /// The session, or the last one.
    pub(super) session: Option<Arc<SessionInfo>>,
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

    /// An attempt to connect failed.
    pub(super) fn dial_failed(
        &mut self,
        why: impl fmt::Display,
        failure: DialFailure,
        wake: &mut Vec<Waker>,
    ) {
        self.dial_is_hopeless = failure == DialFailure::Permanent;
        wake.extend(self.watcher.clone());
        self.failed_attempts = self.failed_attempts.saturating_add(1);
        let why = why.to_string();
        let why = without_address(&why, &self.address);
        self.last_error = Some(format!("cannot connect to {}: {why}", self.address));
    }

    /// The connection is gone.
    pub(super) fn disconnected(&mut self, why: impl fmt::Display, wake: &mut Vec<Waker>) {
        match self.connection.since {
            None => self.dial_failed(why, DialFailure::Transient, wake),
            Some(_) => self.last_error = Some(why.to_string()),
        }
    }

    /// Its handshake went through.
    pub(super) fn opened(
        &mut self,
        now: Instant,
        session: Option<&ClientSession>,
        instance: Option<Instance>,
        wake: &mut Vec<Waker>,
    ) {
        self.connections += 1;
        self.session = session.map(|session| Arc::new(SessionInfo::new(session, instance)));
        self.failed_attempts = 0;
        self.connection.since = Some(now);
        wake.extend(self.connect_waiters.take());
        wake.extend(self.watcher.clone());
    }

    /// Wakes all that wait for the client to be connected or closed.
    pub(super) fn wake_all(&mut self, wake: &mut Vec<Waker>) {
        wake.append(&mut self.close_wakers);
        wake.extend(self.connect_waiters.take());
        wake.extend(self.watcher.clone());
    }
}

/// A dial's error without the address at its front: transports name it, with or without its scheme, and so does the client.
fn without_address<'a>(mut why: &'a str, address: &str) -> &'a str {
    let bare = address.split_once(':').map_or(address, |(_scheme, bare)| bare);
    while let Some(rest) = why.strip_prefix(address).or_else(|| why.strip_prefix(bare))
        && let Some(rest) = rest.strip_prefix(": ")
    {
        why = rest;
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_said_once() {
        for (why, address, said) in [
            ("tcp:1.2.3.4:5: 1.2.3.4:5: refused", "tcp:1.2.3.4:5", "refused"),
            (
                "tcp:a:5: 1.2.3.4:5: refused; 1.2.3.5:5: refused",
                "tcp:a:5",
                "1.2.3.4:5: refused; 1.2.3.5:5: refused",
            ),
            ("/run/app: not there", "unix:/run/app", "not there"),
            ("refused", "memory", "refused"),
            ("memory", "memory", "memory"),
            ("", "", ""),
        ] {
            assert_eq!(without_address(why, address), said, "{why}");
        }
    }
}
