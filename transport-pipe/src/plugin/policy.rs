//! How often a plugin is started again, and after which pause.

use std::collections::VecDeque;
use std::time::Duration;

use oncewire_driver::Instant;

/// How often a plugin that has ended is started again. By default five times a minute, at once at first, then after pauses
/// that double from 50 ms to 5 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestartPolicy {
    /// Restarts within [`within`](RestartPolicy::within). When it ends once more, it stays so, and calls are not executed.
    pub restarts_max: u32,
    /// How long a restart counts.
    pub within: Duration,
    /// The pause before the second restart in a row; doubles with each.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        RestartPolicy {
            restarts_max: 5,
            within: Duration::from_secs(60),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
        }
    }
}

impl RestartPolicy {
    /// A plugin that ends stays so.
    pub const NEVER: RestartPolicy = RestartPolicy {
        restarts_max: 0,
        within: Duration::ZERO,
        backoff_min: Duration::ZERO,
        backoff_max: Duration::ZERO,
    };

    /// At most so many restarts within that time.
    pub fn at_most(restarts_max: u32, within: Duration) -> RestartPolicy {
        RestartPolicy { restarts_max, within, ..RestartPolicy::default() }
    }

    /// Pauses that double from the one to the other.
    pub fn backoff(self, min: Duration, max: Duration) -> RestartPolicy {
        RestartPolicy { backoff_min: min, backoff_max: max, ..self }
    }
}

/// The ends that still count.
#[derive(Debug, Default)]
pub(super) struct Ends {
    at: VecDeque<Instant>,
}

impl Ends {
    /// It has ended without being asked to: when it may be started again, or `None` if it has ended too often.
    pub(super) fn note(&mut self, policy: &RestartPolicy, now: Instant) -> Option<Instant> {
        self.at.retain(|at| now.since(*at) < policy.within);
        let ends = self.at.len() as u32;
        if ends >= policy.restarts_max {
            return None;
        }
        self.at.push_back(now);
        let pause = match ends {
            0 => Duration::ZERO,
            ends => policy.backoff_min.saturating_mul(1 << (ends - 1).min(16)),
        };
        Some(now + pause.min(policy.backoff_max))
    }

    pub(super) fn forget(&mut self) {
        self.at.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_paused_and_bounded_and_count_for_a_while() {
        let ms = Duration::from_millis;
        let policy = RestartPolicy::at_most(4, ms(1000)).backoff(ms(10), ms(25));
        let mut ends = Ends::default();
        let start = Instant::ZERO + ms(5000);
        let pauses: Vec<_> = (0..6)
            .map(|_| ends.note(&policy, start).map(|at| at.since(start).as_millis()))
            .collect();
        assert_eq!(pauses, [Some(0), Some(10), Some(20), Some(25), None, None]);
        assert_eq!(ends.note(&policy, start + ms(999)), None);
        assert_eq!(ends.note(&policy, start + ms(1000)), Some(start + ms(1000)));
    }

    #[test]
    fn a_plugin_that_is_never_started_again_has_no_second_start() {
        assert_eq!(Ends::default().note(&RestartPolicy::NEVER, Instant::ZERO), None);
    }
}
