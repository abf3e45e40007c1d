//! What came of a load, in numbers.

use serde::{Deserialize, Serialize};

use crate::check::Findings;

/// What came of it; printed as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Calls made, one-way notes not among them: the sum of the next three. Fewer than were asked for if the server ended
    /// meanwhile.
    pub(crate) calls: u64,
    /// Calls that were executed and answered, now or by their ticket.
    pub(crate) replied: u64,
    pub(crate) not_executed: u64,
    /// Calls that ended as `Unknown` and were never resolved.
    pub(crate) unknown: u64,
    /// Calls that ended as `Unknown` and whose ticket brought the outcome; of a durable client, calls of a run that was
    /// killed whose outcome a later run has learned.
    pub(crate) resolved: u64,
    /// Requests sent again.
    pub(crate) resends: u64,
    /// Questions about calls in doubt.
    pub(crate) asks: u64,
    pub(crate) reconnects: u64,
    /// What the accounts hold together if no unresolved call was executed.
    pub(crate) expected: u64,
    /// The interval that unresolved calls make of it.
    pub(crate) expected_min: u64,
    pub(crate) expected_max: u64,
    /// What they hold.
    pub(crate) actual: u64,
    /// The interval is one number and the actual balance is that number, for every account; every outcome agrees with
    /// the bank's log.
    pub(crate) exact: bool,
    /// Operations that the bank executed more than once.
    pub(crate) executed_twice: u64,
    /// Attempts, where calls are retried as new ones.
    pub(crate) attempts: u64,
    pub(crate) notes: u64,
    pub(crate) notes_executed: u64,
    pub(crate) seed: u64,
    /// What contradicts the outcomes, in words; at most ten.
    pub(crate) faults: Vec<String>,
}

impl Report {
    /// Several reports as one.
    pub(crate) fn sum(reports: Vec<Report>) -> Report {
        let mut sum = Report { exact: true, ..Report::default() };
        reports.into_iter().for_each(|report| sum.add(report));
        sum
    }

    fn add(&mut self, other: Report) {
        self.exact &= other.exact;
        for (sum, term) in [
            (&mut self.calls, other.calls),
            (&mut self.replied, other.replied),
            (&mut self.not_executed, other.not_executed),
            (&mut self.unknown, other.unknown),
            (&mut self.resolved, other.resolved),
            (&mut self.resends, other.resends),
            (&mut self.asks, other.asks),
            (&mut self.reconnects, other.reconnects),
            (&mut self.expected, other.expected),
            (&mut self.expected_min, other.expected_min),
            (&mut self.expected_max, other.expected_max),
            (&mut self.actual, other.actual),
            (&mut self.executed_twice, other.executed_twice),
            (&mut self.attempts, other.attempts),
            (&mut self.notes, other.notes),
            (&mut self.notes_executed, other.notes_executed),
        ] {
            *sum += term;
        }
        self.faults.extend(other.faults);
    }
}

/// Faults that a report lists, at most.
pub(crate) const FAULTS_MAX: usize = 10;

pub(crate) fn tell_findings(report: &mut Report, mut findings: Findings) {
    report.exact = findings.exact();
    report.expected = findings.expected;
    report.expected_min = findings.expected_min;
    report.expected_max = findings.expected_max;
    report.actual = findings.actual;
    report.executed_twice = findings.executed_twice;
    report.notes = findings.notes;
    report.notes_executed = findings.notes_executed;
    findings.faults.truncate(FAULTS_MAX);
    report.faults = findings.faults;
}
