//! Counts calls, and measures what lies between two moments: a warm-up's end and a sample's.

use std::cell::{Cell, RefCell};

use crate::Result;
use crate::case::{Case, Figures, Workload};
use crate::clock::{Duration, Instant, now};
use crate::sys;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Warm,
    Sample,
    Over,
}

/// What was seen at one moment.
#[derive(Clone, Copy, Debug)]
struct Mark {
    calls: u64,
    at: Instant,
    client_cpu_ns: u64,
    server_cpu_ns: u64,
}

/// Latencies kept at most; a sample has fewer.
const LATENCIES_MAX: usize = 4 << 20;

/// The meter of one thread's calls.
pub(crate) struct Meter {
    server: u32,
    every: u64,
    calls: Cell<u64>,
    look_at: Cell<u64>,
    phase: Cell<Phase>,
    phase_until: Cell<Instant>,
    sample: Duration,
    marks: Cell<[Option<Mark>; 2]>,
    latencies: RefCell<Vec<u32>>,
}

impl Meter {
    /// The warm-up begins.
    pub(crate) fn start(case: &Case, server: u32) -> Meter {
        let every = case.workload.look_every();
        let latencies = if case.workload == Workload::W1 { LATENCIES_MAX } else { 0 };
        Meter {
            server,
            every,
            calls: Cell::new(0),
            look_at: Cell::new(every),
            phase: Cell::new(Phase::Warm),
            phase_until: Cell::new(now() + Duration::from_millis(case.warm_ms)),
            sample: Duration::from_millis(case.sample_ms),
            marks: Cell::new([None; 2]),
            latencies: RefCell::new(Vec::with_capacity(latencies)),
        }
    }

    /// `n` calls have ended; says whether to go on.
    pub(crate) fn count(&self, n: u64) -> bool {
        let calls = self.calls.get() + n;
        self.calls.set(calls);
        if calls >= self.look_at.get() {
            self.look_at.set(calls + self.every);
            self.look(now());
        }
        self.phase.get() != Phase::Over
    }

    /// A call that began at `begun` has ended; says whether to go on.
    pub(crate) fn time(&self, begun: Instant) -> bool {
        let at = now();
        self.calls.set(self.calls.get() + 1);
        let mut latencies = self.latencies.borrow_mut();
        if self.phase.get() == Phase::Sample && latencies.len() < LATENCIES_MAX {
            latencies.push(at.duration_since(begun).as_nanos() as u32);
        }
        self.look(at);
        self.phase.get() != Phase::Over
    }

    fn look(&self, at: Instant) {
        if at < self.phase_until.get() {
            return;
        }
        let [first, last] = self.marks.get();
        match self.phase.get() {
            Phase::Warm => {
                let mark = self.mark();
                self.marks.set([Some(mark), last]);
                self.phase_until.set(mark.at + self.sample);
                self.phase.set(Phase::Sample);
            }
            Phase::Sample => {
                self.marks.set([first, Some(self.mark())]);
                self.phase.set(Phase::Over);
            }
            Phase::Over => {}
        }
    }

    fn mark(&self) -> Mark {
        Mark {
            calls: self.calls.get(),
            client_cpu_ns: sys::cpu_ns(sys::own_pid()),
            server_cpu_ns: sys::cpu_ns(self.server),
            at: now(),
        }
    }

    /// What was measured.
    pub(crate) fn figures(&self) -> Result<Figures> {
        let [Some(from), Some(to)] = self.marks.get() else {
            return Err("the sample did not come to its end".into());
        };
        let mut latencies = self.latencies.take();
        latencies.sort_unstable();
        let quantile = |q: f64| {
            let at = (latencies.len() as f64 * q) as usize;
            latencies.get(at).copied().map_or(0, u64::from)
        };
        Ok(Figures {
            calls: to.calls - from.calls,
            wall_ns: to.at.duration_since(from.at).as_nanos() as u64,
            client_cpu_ns: to.client_cpu_ns.saturating_sub(from.client_cpu_ns),
            server_cpu_ns: to.server_cpu_ns.saturating_sub(from.server_cpu_ns),
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            p999_ns: quantile(0.999),
            connection_bytes: 0,
        })
    }
}
