//! A log of what happened, to be read, and a hash of it, to compare runs.

use std::collections::VecDeque;

use super::rng::mix;

/// The last lines of what happened, and a hash of everything.
#[derive(Debug, Default)]
pub struct Trace {
    lines_max: usize,
    /// The lines kept, oldest first.
    pub lines: VecDeque<String>,
    hash: u64,
    notes: u64,
}

impl Trace {
    /// Keeps the last `lines_max` lines, none if it is 0.
    pub fn keeping(lines_max: usize) -> Trace {
        Trace { lines_max, ..Trace::default() }
    }

    /// Whether lines are kept.
    pub fn is_on(&self) -> bool {
        self.lines_max > 0
    }

    /// Notes a line, if lines are kept.
    pub fn note(&mut self, now: u64, line: impl FnOnce() -> String) {
        self.notes += 1;
        self.count(self.notes);
        if !self.is_on() {
            return;
        }
        if self.lines.len() >= self.lines_max {
            self.lines.pop_front();
        }
        let millis = now as f64 / 1e6;
        self.lines.push_back(format!("{millis:>14.6} ms  {}", line()));
    }

    /// Notes a number in the hash.
    pub fn count(&mut self, number: u64) {
        self.hash = mix(self.hash ^ mix(number));
    }

    /// A hash of everything that was counted: the same for the same run.
    pub fn hash(&self) -> u64 {
        mix(self.hash)
    }
}
