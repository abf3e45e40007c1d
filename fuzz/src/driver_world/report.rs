//! What happened in a world of the driver or of the ledger, and the sum of many.

use std::collections::BTreeMap;
use std::fmt::Write;

/// What happened in a world, or in all worlds of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Operations.
    pub calls: u64,
    /// Runs of handlers.
    pub runs: u64,
    /// Replies, ends without reply, not executed, unknown.
    pub outcomes: [u64; 4],
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Virtual nanoseconds.
    pub virtual_time: u64,
    /// Polls of tasks.
    pub polls: u64,
    /// Syncs of the ledger's disk, where there is one.
    pub syncs: u64,
    /// The same for the same run of one world; a sum has none.
    pub hash: u64,
}

impl Report {
    /// Adds another world.
    pub fn add(&mut self, other: &Report) {
        self.calls += other.calls;
        self.runs += other.runs;
        self.virtual_time += other.virtual_time;
        self.polls += other.polls;
        self.syncs += other.syncs;
        for (sum, of) in self.outcomes.iter_mut().zip(other.outcomes) {
            *sum += of;
        }
        for (name, count) in &other.faults {
            *self.faults.entry(name).or_default() += count;
        }
    }

    /// The report as people read it, with what was done in each of the real `seconds`.
    pub fn lines(&self, seconds: f64) -> String {
        let [replies, without, not_executed, unknown] = self.outcomes;
        let mut out = String::new();
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            let _infallible = writeln!(out, "{name:13} {value}");
        };
        line(
            "calls",
            &format_args!("{} ({:.0} a second)", self.calls, self.calls as f64 / seconds),
        );
        line("executions", &self.runs);
        line(
            "outcomes",
            &format_args!(
                "{replies} replies, {without} without reply, {not_executed} not executed, {unknown} unknown"
            ),
        );
        line("faults", &format_args!("{:?}", self.faults));
        line("polls", &self.polls);
        if self.syncs > 0 {
            line("syncs", &self.syncs);
        }
        let virtual_seconds = self.virtual_time as f64 / 1e9;
        line("virtual time", &format_args!("{virtual_seconds:.0} s in {seconds:.1} s"));
        out
    }
}
