//! Whether it pays to look once more before sleeping.
//!
//! An answer often comes so soon that falling asleep and being woken for it costs more than to wait for it: on a core
//! that both sides share, to let the other side run is all it takes. Where that does not pay it is soon given up, and
//! tried again ever more seldom.

use std::cell::Cell;
use std::time::Duration;

use oncewire_core::Instant;

thread_local! {
    static FORCE_READ: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` as a try of a look: what it reads is asked for, though nobody has said that it is there.
pub(crate) fn with_forced_reads<T>(f: impl FnOnce() -> T) -> T {
    struct Guard;
    impl Drop for Guard {
        fn drop(&mut self) {
            FORCE_READ.set(false);
        }
    }
    FORCE_READ.set(true);
    let _guard = Guard;
    f()
}

/// Whether this thread makes a try of a look.
pub(crate) fn force_read() -> bool {
    FORCE_READ.get()
}

/// Decides from what the last looks brought.
#[derive(Debug, Default)]
pub(crate) struct SpinPolicy {
    /// Occasions to let pass before the next look.
    skip: u32,
    /// The same after the next look in vain.
    penalty: u32,
}

/// What a look has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpinResult {
    /// What it was for.
    Hit,
    /// Nothing, which cost little.
    Miss,
    /// It took longer than sleeping would have.
    Preempted,
}

/// One look, tried more than once: whose turn it is, a kernel may see otherwise than two sides that give way to each
/// other, and if one of them then fell asleep they would never fall into step.
#[derive(Debug)]
pub(crate) struct SpinAttempt {
    since: Instant,
    until: Instant,
    made: u32,
}

/// A look is tried so often at least.
const YIELDS_MIN: u32 = 2;
/// And so often at most, whatever the clock says.
const YIELDS_MAX: u32 = 256;
/// A look that keeps its caller away for longer than this does not pay: whoever sleeps is served before whoever gave way.
pub(crate) const PREEMPTED_AFTER: Duration = Duration::from_micros(200);

impl SpinAttempt {
    /// The first try is about to be made; others may be for as long as `time`.
    pub(crate) fn new(now: Instant, time: Duration) -> SpinAttempt {
        SpinAttempt { since: now, until: now + time, made: 0 }
    }

    /// What a try has brought that ended at `now`; `None` if it brought nothing and another one is to be made.
    pub(crate) fn judge(&mut self, now: Instant, paid: bool) -> Option<SpinResult> {
        self.made += 1;
        if now.since(self.since) >= PREEMPTED_AFTER {
            Some(SpinResult::Preempted)
        } else if paid {
            Some(SpinResult::Hit)
        } else {
            let enough = now >= self.until || self.made >= YIELDS_MAX;
            (self.made >= YIELDS_MIN && enough).then_some(SpinResult::Miss)
        }
    }
}

/// Most occasions let pass after looks in vain: one in so many costs next to nothing, and finds out when they pay again.
const MISS_SKIP_MAX: u32 = 31;
/// The same after looks that took too long.
const PREEMPTED_SKIP_MAX: u32 = 1023;

impl SpinPolicy {
    /// An occasion to look: whether to.
    pub(crate) fn should_spin(&mut self) -> bool {
        match self.skip.checked_sub(1) {
            Some(skip) => {
                self.skip = skip;
                false
            }
            None => true,
        }
    }

    /// What the look has brought.
    pub(crate) fn record(&mut self, result: SpinResult) {
        let worse = 2 * self.penalty + 1;
        self.penalty = match result {
            SpinResult::Hit => self.penalty / 2,
            SpinResult::Miss => worse.min(self.penalty.max(MISS_SKIP_MAX)),
            SpinResult::Preempted => worse.min(PREEMPTED_SKIP_MAX),
        };
        self.skip = self.penalty;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_tried_twice_at_least_and_no_longer_than_it_may() {
        let at = Instant::from_nanos;
        let mut tries = SpinAttempt::new(at(0), Duration::ZERO);
        assert_eq!(
            [tries.judge(at(1), false), tries.judge(at(2), false)],
            [None, Some(SpinResult::Miss)]
        );
        let mut tries = SpinAttempt::new(at(0), Duration::from_nanos(20));
        let judged: Vec<_> = [5, 10, 15, 20].map(|now| tries.judge(at(now), false)).into();
        assert_eq!(judged, [None, None, None, Some(SpinResult::Miss)]);
        let mut tries = SpinAttempt::new(at(0), Duration::from_nanos(20));
        assert_eq!(tries.judge(at(1), true), Some(SpinResult::Hit));
        let mut tries = SpinAttempt::new(at(0), Duration::from_nanos(20));
        assert_eq!(tries.judge(at(200_000), true), Some(SpinResult::Preempted));
        let mut tries = SpinAttempt::new(at(0), Duration::from_nanos(20));
        let stopped_clock = (0..).find_map(|_| tries.judge(at(0), false));
        assert_eq!(stopped_clock, Some(SpinResult::Miss));
    }

    #[test]
    fn looks_that_do_not_pay_become_seldom_and_those_that_do_come_back() {
        let mut spin = SpinPolicy::default();
        let mut looks = |brings: SpinResult| {
            let mut looks = 0;
            for _ in 0..10_000 {
                if spin.should_spin() {
                    looks += 1;
                    spin.record(brings);
                }
            }
            looks
        };
        let (long, after_long) = (looks(SpinResult::Preempted), looks(SpinResult::Hit));
        assert!(long < 25 && after_long > 8_000, "{long}, {after_long}");
        let (vain, after_vain) = (looks(SpinResult::Miss), looks(SpinResult::Hit));
        assert!((300..350).contains(&vain) && after_vain > 9_900, "{vain}, {after_vain}");
    }
}
