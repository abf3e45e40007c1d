//! Counters and histograms of the `metrics` facade.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use metrics::{Counter, Histogram, counter, histogram};
use oncewire_driver::CallFailure;
use oncewire_driver::observe::{CallEnd, Event, Observer, Source};

use crate::labels;

/// Records what happens with the program's recorder of the `metrics` facade. Make it after that was installed: handles are kept.
#[derive(Default)]
pub struct Metrics {
    durations: Mutex<HashMap<Key, Histogram>>,
    counters: Mutex<HashMap<(&'static str, &'static str, &'static str), Counter>>,
}

/// Whether it is a server's, the method, how the call ended.
type Key = (bool, &'static str, &'static str);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// For the recorder that is installed.
    pub fn new() -> Metrics {
        Metrics::default()
    }

    fn duration(&self, key: Key) -> Histogram {
        let mut durations = self.durations.lock().unwrap_or_else(PoisonError::into_inner);
        let (server, method, status) = key;
        let name = if server { "rpc.server.call.duration" } else { "rpc.client.call.duration" };
        let make = || {
            histogram!(
                name,
                "rpc.system.name" => "oncewire",
                "rpc.method" => method,
                "rpc.response.status_code" => status
            )
        };
        durations.entry(key).or_insert_with(make).clone()
    }

    fn count(&self, name: &'static str, by: u64) {
        self.counter(name, "", "", |_, _| counter!(name)).increment(by);
    }

    fn counter(
        &self,
        name: &'static str,
        one: &'static str,
        other: &'static str,
        make: impl FnOnce(&'static str, &'static str) -> Counter,
    ) -> Counter {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.entry((name, one, other)).or_insert_with(|| make(one, other)).clone()
    }
}

/// A name for a server and one for a client.
macro_rules! by_side {
    ($source:expr, $name:literal) => {
        match $source.is_server() {
            true => concat!("oncewire.server.", $name),
            false => concat!("oncewire.client.", $name),
        }
    };
}

impl Observer for Metrics {
    fn observe(&self, source: &Source, event: &Event) {
        let name = match event {
            Event::CallEnded { call, end, elapsed, reconnects, .. } => {
                let key = (source.is_server(), labels::method(call.method), end.status());
                self.duration(key).record(elapsed.as_secs_f64());
                if *reconnects > 0 {
                    self.count("oncewire.client.reconnects", *reconnects);
                }
                return;
            }
            Event::CallRefused { call, why, .. } => {
                let end = CallEnd::Failed(CallFailure::NotExecuted(*why));
                let name = "oncewire.server.calls.refused";
                let make = |method, status| counter!(name, "rpc.method" => method, "rpc.response.status_code" => status);
                let counter = self.counter(name, labels::method(call.method), end.status(), make);
                return counter.increment(1);
            }
            Event::Duplicate { verdict, .. } => {
                let name = "oncewire.server.duplicates";
                let make = |verdict, _| counter!(name, "oncewire.verdict" => verdict);
                return self.counter(name, labels::verdict(*verdict), "", make).increment(1);
            }
            Event::EventsLost { events, .. } => return self.count("oncewire.events.lost", *events),
            Event::ConnectionOpened { .. } => by_side!(source, "connections.opened"),
            Event::ConnectionClosed { .. } => by_side!(source, "connections.closed"),
            Event::ConnectionRefused { .. } => by_side!(source, "connections.refused"),
            Event::AcceptFailed { .. } => by_side!(source, "accepts.failed"),
            Event::DialFailed { .. } => by_side!(source, "dials.failed"),
            Event::SessionOpened { .. } => by_side!(source, "sessions.opened"),
            Event::SessionResumed { .. } => by_side!(source, "sessions.resumed"),
            Event::SessionRefused { .. } => by_side!(source, "sessions.refused"),
            Event::SessionEnded { .. } => by_side!(source, "sessions.ended"),
            Event::SessionLost { .. } => by_side!(source, "sessions.lost"),
            Event::LateOutcome { .. } => by_side!(source, "calls.late"),
            Event::OneWayStarted { .. } => by_side!(source, "one_way"),
            Event::HandlerPanicked { .. } => by_side!(source, "panics"),
            Event::RolledBack { .. } => by_side!(source, "rollbacks"),
            Event::LedgerFailed { .. } => by_side!(source, "ledger_failures"),
            _ => return,
        };
        self.count(name, 1);
    }
}
