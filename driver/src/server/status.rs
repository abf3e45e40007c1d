//! What a server says of itself.

use oncewire_core::ServerCounters;

use super::state::{Shared, State};
use crate::status::{
    Health, MethodStatus, PLACES_MAX, SESSIONS_MAX, SessionStatus, Status, host_name, limits,
};

impl Shared {
    pub(crate) fn health(&self) -> Health {
        self.with_quietly(|state| state.health())
    }

    pub(crate) fn status(&self) -> Status {
        let config = &self.about.config;
        let uptime = self.runtime.now().since(self.about.started);
        let host = host_name();
        let specs = |state: &State| {
            let specs: Vec<_> = state.machine.methods().to_vec();
            (specs, state.health(), state.status_counters(), state.status_sessions())
        };
        let (specs, health, counters, sessions) = self.with_quietly(|state| specs(state));
        let methods = specs.iter().zip(&self.methods).map(|(spec, entry)| {
            let known = self.about.signatures.iter().find(|(name, _)| *name == entry.name);
            MethodStatus {
                name: match entry.name {
                    "" => spec.id.to_string(),
                    name => name.to_owned(),
                },
                signature: known.map(|(_, text)| text.clone()).unwrap_or_default(),
                idempotent: spec.idempotent,
            }
        });
        Status {
            service: config.service.as_str().to_owned(),
            server: config.server.to_string(),
            instance: config.instance.to_string(),
            host,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
            health,
            methods: methods.collect(),
            counters,
            sessions,
            limits: limits(config),
        }
    }
}

impl State {
    fn health(&self) -> Health {
        let failed = self.ledger_queue.as_ref().is_some_and(|queue| queue.error.is_some());
        match (failed, self.machine.is_draining()) {
            (true, _) => Health::LedgerFailed,
            (false, true) => Health::Draining,
            (false, false) => Health::Serving,
        }
    }

    fn status_counters(&self) -> Vec<(String, u64)> {
        let (handlers_running, waiting) = self.limits.counts();
        let ServerCounters { sessions, conns, .. } = self.machine.counters();
        let counters = self.machine.counters();
        let numbers = [
            ("sessions", sessions as u64),
            ("conns", conns as u64),
            ("running", counters.running),
            ("handlers_running", handlers_running as u64),
            ("waiting", waiting as u64),
            ("admitted", counters.admitted),
            ("refused", counters.refused),
            ("overloaded", self.overloaded),
            ("duplicates", counters.duplicates),
            ("stale", counters.stale),
            ("asks", counters.asks),
            ("replies", counters.replies),
            ("resumes", counters.resumes),
            ("resumes_unknown", counters.resumes_unknown),
            ("resumes_of_others", counters.resumes_of_others),
            ("hellos_mismatched", counters.hellos_mismatched),
            ("hellos_unidentified", counters.hellos_unidentified),
            ("hellos_without_room", counters.hellos_without_room),
            ("conns_refused", counters.conns_refused),
            ("protocol_errors", counters.protocol_errors),
            ("timeouts", counters.timeouts),
            ("closed_without_room", counters.closed_without_room),
            ("kept_bytes", counters.kept_bytes),
            ("half_sent_bytes", counters.half_sent_bytes),
            ("request_bytes", counters.request_bytes),
            ("coming_bytes", counters.coming_bytes),
            ("table_bytes", counters.table_bytes),
            ("panics", self.panics),
            ("replies_too_large", self.replies_too_large),
            ("unencodable", self.unencodable),
            ("rollbacks", self.rollbacks),
        ];
        numbers.into_iter().map(|(name, number)| (name.to_owned(), number)).collect()
    }

    fn status_sessions(&self) -> Vec<SessionStatus> {
        let sessions = self.machine.sessions(PLACES_MAX).take(SESSIONS_MAX);
        let status = sessions.map(|session| SessionStatus {
            session: self.tag_of(session.id).to_string(),
            caller: self.principals.subject(session.principal).to_string(),
            connected: session.connected,
            running: session.running,
            kept_bytes: session.kept_bytes,
        });
        status.collect()
    }
}
