//! Whether it pays to look once more before sleeping.
//!
//! An answer often comes so soon that falling asleep and being woken for it costs more than to wait for it: on a core
//! that both sides share, to let the other side run is all it takes. Where that does not pay it is soon given up, and
//! tried again ever more seldom.

use std::cell::Cell;
use std::time::Duration;

use oncewire_core::Instant;

thread_local! {
    static LOOKING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` as a try of a look: what it reads is asked for, though nobody has said that it is there.
pub(crate) fn looking<T>(f: impl FnOnce() -> T) -> T {
    struct Guard;
    impl Drop for Guard {
        fn drop(&mut self) {
            LOOKING.set(false);
        }
    }
    LOOKING.set(true);
    let _guard = Guard;
    f()
}

/// Whether this thread makes a try of a look.
pub(crate) fn is_looking() -> bool {
    LOOKING.get()
}

/// Decides from what the last looks brought.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// Occasions to let pass before the next look.
    skip: u32,
    /// The same after the next look in vain.
    penalty: u32,
}

/// What a look has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// What it was for.
    Paid,
    /// Nothing, which cost little.
    Vain,
    /// It took longer than sleeping would have.
    Long,
}

/// One look, tried more than once: whose turn it is, a kernel may see otherwise than two sides that give way to each
/// other, and if one of them then fell asleep they would never fall into step.
#[derive(Debug)]
pub(crate) struct Tries {
    since: Instant,
    until: Instant,
    made: u32,
}

/// A look is tried so often at least.
const TRIES_MIN: u32 = 2;
/// And so often at most, whatever the clock says.
const TRIES_MAX: u32 = 256;
/// A look that keeps its caller away for longer than this does not pay: whoever sleeps is served before whoever gave way.
pub(crate) const LONG: Duration = Duration::from_micros(200);

impl Tries {
    /// The first try is about to be made; others may be for as long as `time`.
    pub(crate) fn new(now: Instant, time: Duration) -> Tries {
        Tries { since: now, until: now + time, made: 0 }
    }

    /// What a try has brought that ended at `now`; `None` if it brought nothing and another one is to be made.
    pub(crate) fn judge(&mut self, now: Instant, paid: bool) -> Option<Look> {
        self.made += 1;
        if now.since(self.since) >= LONG {
            Some(Look::Long)
        } else if paid {
            Some(Look::Paid)
        } else {
            let enough = now >= self.until || self.made >= TRIES_MAX;
            (self.made >= TRIES_MIN && enough).then_some(Look::Vain)
        }
    }
}

/// Most occasions let pass after looks in vain: one in so many costs next to nothing, and finds out when they pay again.
const VAIN_MAX: u32 = 31;
/// The same after looks that took too long.
const LONG_MAX: u32 = 1023;

impl Patience {
    /// An occasion to look: whether to.
    pub(crate) fn looks(&mut self) -> bool {
        match self.skip.checked_sub(1) {
            Some(skip) => {
                self.skip = skip;
                false
            }
            None => true,
        }
    }

    /// What the look has brought.
    pub(crate) fn note(&mut self, look: Look) {
        let worse = 2 * self.penalty + 1;
        self.penalty = match look {
            Look::Paid => self.penalty / 2,
            Look::Vain => worse.min(self.penalty.max(VAIN_MAX)),
            Look::Long => worse.min(LONG_MAX),
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
        let mut tries = Tries::new(at(0), Duration::ZERO);
        assert_eq!(
            [tries.judge(at(1), false), tries.judge(at(2), false)],
            [None, Some(Look::Vain)]
        );
        let mut tries = Tries::new(at(0), Duration::from_nanos(20));
        let judged: Vec<_> = [5, 10, 15, 20].map(|now| tries.judge(at(now), false)).into();
        assert_eq!(judged, [None, None, None, Some(Look::Vain)]);
        let mut tries = Tries::new(at(0), Duration::from_nanos(20));
        assert_eq!(tries.judge(at(1), true), Some(Look::Paid));
        let mut tries = Tries::new(at(0), Duration::from_nanos(20));
        assert_eq!(tries.judge(at(200_000), true), Some(Look::Long));
        let mut tries = Tries::new(at(0), Duration::from_nanos(20));
        let stopped_clock = (0..).find_map(|_| tries.judge(at(0), false));
        assert_eq!(stopped_clock, Some(Look::Vain));
    }

    #[test]
    fn looks_that_do_not_pay_become_seldom_and_those_that_do_come_back() {
        let mut patience = Patience::default();
        let mut looks = |brings: Look| {
            let mut looks = 0;
            for _ in 0..10_000 {
                if patience.looks() {
                    looks += 1;
                    patience.note(brings);
                }
            }
            looks
        };
        let (long, after_long) = (looks(Look::Long), looks(Look::Paid));
        assert!(long < 25 && after_long > 8_000, "{long}, {after_long}");
        let (vain, after_vain) = (looks(Look::Vain), looks(Look::Paid));
        assert!((300..350).contains(&vain) && after_vain > 9_900, "{vain}, {after_vain}");
    }
}
