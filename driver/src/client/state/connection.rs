//! A connection begins and ends, or cannot be made.

use std::io;

use oncewire_core::{DialFailure, Instant};

use super::State;
use crate::observe::{ConnectionEnd, Event};
use crate::transport::BoxStream;

impl State {
    /// There is a connection. The task leads until the handshake is complete and the calls that waited for it have left.
    pub(in super::super) fn gain_connection(&mut self, now: Instant, stream: BoxStream) {
        self.link.connect(stream);
        self.lifecycle.connected();
        self.note_connection();
        self.reader.lead_as_task(&mut self.pending);
        if let Some(token) = self.lifecycle.next_token.take() {
            self.machine.set_token(token);
        }
        self.machine.handle_connected(now);
        self.deliver(now);
    }

    /// No connection could be made.
    pub(in super::super) fn fail_dial(
        &mut self,
        now: Instant,
        why: &io::Error,
        failure: DialFailure,
    ) {
        self.lifecycle.dial_failed(why, failure, &mut self.to_wake);
        self.note(|state| Event::DialFailed {
            address: state.lifecycle.address.clone(),
            why: why.to_string(),
            attempts: state.lifecycle.failed_attempts,
            permanent: failure == DialFailure::Permanent,
        });
        self.machine.handle_dial_failed(now, failure);
        self.deliver(now);
    }

    /// The stream cannot be read. Before there was a session on it, that may be the server's verdict on this client's
    /// certificate, which in TLS 1.3 comes after the handshake: then it is as if the dial had failed.
    pub(super) fn fail_stream(&mut self, now: Instant, error: &io::Error) {
        use io::ErrorKind::{PermissionDenied, Unsupported};
        let is_verdict = matches!(error.kind(), PermissionDenied | Unsupported);
        if self.lifecycle.connection.since.is_some() || !is_verdict {
            return self.lose_connection(now, error.to_string());
        }
        self.note_close(|| ConnectionEnd::Lost(error.to_string()));
        self.lifecycle.dial_failed(error, DialFailure::Permanent, &mut self.to_wake);
        self.machine.handle_dial_failed(now, DialFailure::Permanent);
        self.drop_stream(now);
        self.deliver(now);
    }

    /// The connection is gone.
    pub(in super::super) fn lose_connection(&mut self, now: Instant, why: String) {
        self.note_close(|| ConnectionEnd::Lost(why.clone()));
        self.lifecycle.disconnected(why, &mut self.to_wake);
        self.machine.handle_disconnected(now);
        self.drop_stream(now);
        self.deliver(now);
    }

    /// An error, and which process answered on its connection.
    pub(super) fn with_instance(&self, error: &dyn std::fmt::Display) -> String {
        match self.machine.server_info() {
            Some(info) => format!("{error}; instance {}", info.instance),
            None => error.to_string(),
        }
    }

    /// Closes the stream, which the machine knows of. The task makes another one.
    pub(super) fn drop_stream(&mut self, now: Instant) {
        self.link.disconnect();
        self.comparisons.disconnected(&mut self.machine, now);
        self.reader.stop(&mut self.pending);
        self.wake_task();
    }
}
