//! A plain struct of counters.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use oncewire_driver::CallFailure;
use oncewire_driver::observe::{CallEnd, Event, Observer, Source};

use crate::labels;

/// Counts what happens. Share it in an `Arc`.
#[derive(Debug, Default)]
pub struct Counting(Mutex<Counters>);

/// What was counted so far.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Counters {
    /// At servers.
    pub server: SideCounters,
    /// At clients.
    pub client: SideCounters,
    /// Events that were dropped because observers were slow.
    pub events_lost: u64,
}

/// One side's.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SideCounters {
    /// Calls, by their methods' names; `_OTHER` for those that have none.
    pub calls: BTreeMap<&'static str, CallCounters>,
    /// Connections that were accepted, or made.
    pub connections_opened: u64,
    /// Connections that are over.
    pub connections_closed: u64,
    /// Connections that a server had no room for.
    pub connections_refused: u64,
    /// Connections that a server could not accept, counted at each attempt: the process had too many open files, say.
    pub accepts_failed: u64,
    /// Dials that failed.
    pub dials_failed: u64,
    /// Sessions opened.
    pub sessions_opened: u64,
    /// Sessions that went on with a new connection.
    pub sessions_resumed: u64,
    /// Sessions that a server refused.
    pub sessions_refused: u64,
    /// Sessions that ended at a server.
    pub sessions_ended: u64,
    /// Sessions that a client has lost.
    pub sessions_lost: u64,
    /// Requests that came again and questions about calls, by what they were answered with.
    pub duplicates: BTreeMap<&'static str, u64>,
    /// Connections that clients made while calls were on their way, counted for each call.
    pub reconnects: u64,
    /// Calls that had ended as unknown, and became known by a ticket.
    pub late_outcomes: u64,
    /// One-way calls begun.
    pub one_way: u64,
    /// Handlers that panicked.
    pub panics: u64,
    /// Transactional handlers that were rolled back.
    pub rollbacks: u64,
    /// Ledgers that could not write.
    pub ledger_failures: u64,
}

/// The calls of one method.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct CallCounters {
    /// Started.
    pub started: u64,
    /// Ended, by [`CallEnd::status`], and how long they took.
    pub ended: BTreeMap<&'static str, Durations>,
    /// Refused by a server before their handlers ran, by why.
    pub refused: BTreeMap<&'static str, u64>,
}

impl CallCounters {
    /// Calls that are on their way, and those whose ends were among the [lost events](Counters::events_lost).
    pub fn in_flight(&self) -> u64 {
        let ended: u64 = self.ended.values().map(|durations| durations.count()).sum();
        self.started.saturating_sub(ended)
    }
}

/// The upper bounds of the buckets of [`Durations`], in seconds: those of OpenTelemetry's conventions for RPC, and some below.
pub const DURATION_BOUNDS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0,
    2.5, 5.0, 7.5, 10.0,
];

/// How long calls took.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Durations {
    /// How many were at most as long as each of [`DURATION_BOUNDS`] and longer than the one before.
    pub buckets: [u64; DURATION_BOUNDS.len()],
    /// How many took longer than the last of them.
    pub longer: u64,
    /// Seconds in all.
    pub seconds: f64,
}

impl Durations {
    fn add(&mut self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        match DURATION_BOUNDS.iter().position(|bound| seconds <= *bound) {
            Some(at) => self.buckets[at] += 1,
            None => self.longer += 1,
        }
        self.seconds += seconds;
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum::<u64>() + self.longer
    }
}

impl Counting {
    /// With nothing counted.
    pub fn new() -> Counting {
        Counting::default()
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same as Prometheus text, in format 0.0.4.
    pub fn prometheus(&self) -> String {
        crate::prometheus::text(&self.counters())
    }
}

impl Observer for Counting {
    fn observe(&self, source: &Source, event: &Event) {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let side = match source.is_server() {
            true => &mut counters.server,
            false => &mut counters.client,
        };
        let counter = match event {
            Event::CallStarted { call, .. } => {
                &mut side.calls.entry(labels::method(call.method)).or_default().started
            }
            Event::CallEnded { call, end, elapsed, reconnects, .. } => {
                let calls = side.calls.entry(labels::method(call.method)).or_default();
                calls.ended.entry(end.status()).or_default().add(*elapsed);
                side.reconnects += reconnects;
                return;
            }
            Event::CallRefused { call, why, .. } => {
                let calls = side.calls.entry(labels::method(call.method)).or_default();
                let end = CallEnd::Failed(CallFailure::NotExecuted(*why));
                calls.refused.entry(end.status()).or_default()
            }
            Event::Duplicate { verdict, .. } => {
                side.duplicates.entry(labels::verdict(*verdict)).or_default()
            }
            Event::ConnectionOpened { .. } => &mut side.connections_opened,
            Event::ConnectionClosed { .. } => &mut side.connections_closed,
            Event::ConnectionRefused { .. } => &mut side.connections_refused,
            Event::AcceptFailed { .. } => &mut side.accepts_failed,
            Event::DialFailed { .. } => &mut side.dials_failed,
            Event::SessionOpened { .. } => &mut side.sessions_opened,
            Event::SessionResumed { .. } => &mut side.sessions_resumed,
            Event::SessionRefused { .. } => &mut side.sessions_refused,
            Event::SessionEnded { .. } => &mut side.sessions_ended,
            Event::SessionLost { .. } => &mut side.sessions_lost,
            Event::LateOutcome { .. } => &mut side.late_outcomes,
            Event::OneWayStarted { .. } => &mut side.one_way,
            Event::HandlerPanicked { .. } => &mut side.panics,
            Event::RolledBack { .. } => &mut side.rollbacks,
            Event::LedgerFailed { .. } => &mut side.ledger_failures,
            Event::EventsLost { events, .. } => {
                counters.events_lost += events;
                return;
            }
            _ => return,
        };
        *counter += 1;
    }
}
