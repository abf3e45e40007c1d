//! What a client does when no connection can be made, or when one ends before there was a session on it.

use super::call::Reason;
use super::{Client, Phase, recovery};
use crate::client::config::DialFailure;
use crate::storage::ClientStorage;
use crate::time::Instant;
use crate::token::Token;

impl<S: ClientStorage> Client<S> {
    /// No connection could be made: like [`handle_disconnected`](Client::handle_disconnected), and says whether another
    /// attempt may do better. [`ClientConfig::on_dial_failure`](super::ClientConfig::on_dial_failure) decides what it does to
    /// calls that have not left.
    pub fn handle_dial_failed(&mut self, now: Instant, failure: DialFailure) {
        self.handle_disconnected(now);
        self.note_dial_failed(failure);
    }

    /// Changes the token by which `Hello`s say who the client is. A session stays its principal's (S5). Call it before
    /// [`handle_connected`](Client::handle_connected): a `Hello` that waits to be sent would have the new one.
    pub fn set_token(&mut self, token: Token) {
        self.config.token = Some(token);
    }

    /// Whether its `Hello`s have a token.
    pub fn has_token(&self) -> bool {
        self.config.token.is_some()
    }

    /// An attempt to connect failed. Visits the calls that wait when it is the first such failure since a connection was made.
    pub(super) fn note_dial_failed(&mut self, failure: DialFailure) {
        if self.phase != Phase::Down || !recovery::ends_unsent(&self.config, failure) {
            return;
        }
        self.phase = Phase::Unreachable;
        let mut next = self.table.first_waiting;
        while let Some(index) = next {
            next = self.table.call_after(Some(index));
            self.give_up(index, Reason::Unreachable);
        }
    }

    /// The connection is gone before there was a session on it.
    pub(super) fn fail_greeting(&mut self, failure: DialFailure) {
        debug_assert!(matches!(self.phase, Phase::Greeting { .. }));
        self.disconnect();
        self.note_dial_failed(failure);
    }
}
