//! Spinning: yield and read again, a few times, before sleeping.
//!
//! An answer often comes so soon that sleeping and being woken costs more than the answer does. Where client and server
//! share a core, one `sched_yield` is all it takes; where they do not, the answer is there within microseconds. Calls,
//! the client's task and the server's connections all spin by [`spin`]; a [`SpinPolicy`] each decides when that pays, from
//! what the last spins brought.

use std::cell::Cell;
use std::time::Duration;

use oncewire_core::Instant;

use crate::runtime::{PREEMPTED_AFTER, Runtime};
use crate::sync::Lock;

thread_local! {
    static FORCE_READ: Cell<bool> = const { Cell::new(false) };
}

/// Whether a read is part of a spin: then it asks the system, although no event says that there is something to read, and does not
/// wait for one.
pub(crate) fn force_read() -> bool {
    FORCE_READ.get()
}

/// Runs `f`, whose reads ask the system. What finds nothing is not woken: the caller polls it again afterwards. So `f` must run
/// nothing but reads that the caller knows: a handler's would be lost.
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

/// Reads: by force, or as ever.
pub(crate) fn read<T>(force: bool, read: impl FnOnce() -> T) -> T {
    if force { with_forced_reads(read) } else { read() }
}

/// Yields and calls `attempt`, which reads [by force](with_forced_reads), until that returns something: which it must as soon as
/// [`SpinPolicy::is_over`] says so. If what was waited for has not come by then, the caller polls for it again, to be woken.
///
/// `since` is about the present; `budget` is what [`Runtime::spin_budget`] said.
pub(crate) fn spin<T>(
    runtime: &dyn Runtime,
    since: Instant,
    budget: Duration,
    mut attempt: impl FnMut(Instant, &mut Spin) -> Option<T>,
) -> T {
    let mut spin = Spin::new(since, budget);
    loop {
        runtime.yield_now();
        let now = runtime.now();
        if let Some(result) = attempt(now, &mut spin) {
            return result;
        }
        debug_assert!(spin.yields < YIELDS_MAX, "a spin ends");
    }
}

/// One spin.
#[derive(Debug)]
pub(crate) struct Spin {
    since: Instant,
    until: Instant,
    /// When the last attempt began.
    last: Instant,
    yields: u32,
}

/// What a spin has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SpinResult {
    /// What it was for.
    Hit,
    /// Nothing, but it cost little.
    Miss,
    /// Another process had the core meanwhile: sleeping would have been faster.
    Preempted,
}

/// A spin yields at least twice. After one yield the scheduler may not have run the peer yet; if we slept then, the two
/// sides would never fall into step.
const YIELDS_MIN: u32 = 2;
/// And no more often than this, even if the clock does not move.
const YIELDS_MAX: u32 = 256;
/// If a yield takes longer, others had the core. That time does not count, since the spin did not cost it: on a core with a
/// process of four threads the peer is often not the first that runs.
const AWAY_MIN: Duration = Duration::from_micros(3);
/// But the spin lasts no longer than this in all, because other tasks wait for its thread.
const LASTS_MAX: Duration = Duration::from_micros(200);

impl Spin {
    fn new(since: Instant, budget: Duration) -> Spin {
        Spin { since, until: since + budget, last: since, yields: 0 }
    }

    /// Counts an attempt that began at `now`; `None` if another one should follow.
    fn judge(&mut self, now: Instant, hit: bool) -> Option<SpinResult> {
        self.yields += 1;
        let (lasts, away) = (now.since(self.since), now.since(self.last));
        self.last = now;
        if lasts >= PREEMPTED_AFTER {
            Some(SpinResult::Preempted)
        } else if hit {
            Some(SpinResult::Hit)
        } else {
            if away > AWAY_MIN {
                self.until = self.until + away;
            }
            let is_over = now >= self.until || lasts >= LASTS_MAX || self.yields >= YIELDS_MAX;
            (self.yields >= YIELDS_MIN && is_over).then_some(SpinResult::Miss)
        }
    }
}

/// When to spin: each miss about doubles the number of opportunities that are skipped before the next spin, each hit
/// halves it.
#[derive(Debug, Default)]
pub(crate) struct SpinPolicy {
    /// Opportunities to skip before the next spin.
    skip: u32,
    /// What `skip` was set to after the last spin.
    penalty: u32,
}

/// Opportunities skipped after misses, at most: one spin in 32 costs next to nothing, and notices when they pay again.
const MISS_SKIP_MAX: u32 = 31;
/// The same after preemptions, which cost more.
const PREEMPTED_SKIP_MAX: u32 = 1023;
/// Opportunities skipped where the thread had other tasks.
const CROWDED_SKIP: u32 = 7;

impl SpinPolicy {
    /// Counts an opportunity, and says whether to take it.
    pub(crate) fn should_spin(&mut self) -> bool {
        match self.skip.checked_sub(1) {
            Some(skip) => {
                self.skip = skip;
                false
            }
            None => true,
        }
    }

    /// There was no time for a spin that should be: the thread has other tasks, and will probably have some the next few times.
    pub(crate) fn skip_some(&mut self) {
        self.skip = self.skip.max(CROWDED_SKIP);
    }

    /// Counts an attempt of a spin that began at `now`; whether the spin is over.
    pub(crate) fn is_over(&mut self, spin: &mut Spin, now: Instant, hit: bool) -> bool {
        let Some(result) = spin.judge(now, hit) else { return false };
        self.record(result);
        true
    }

    fn record(&mut self, result: SpinResult) {
        let worse = 2 * self.penalty + 1;
        self.penalty = match result {
            SpinResult::Hit => self.penalty / 2,
            SpinResult::Miss => worse.min(self.penalty.max(MISS_SKIP_MAX)),
            SpinResult::Preempted => worse.min(PREEMPTED_SKIP_MAX),
        };
        self.skip = self.penalty;
    }
}

/// What the spins of a server's new connections have brought, of all of them together: each lasts perhaps for one call, and has no
/// experience of its own.
#[derive(Default)]
pub(crate) struct Newcomers(Lock<SpinPolicy>);

/// When a connection spins: as those before it should have, at first, and then by what its own spins have brought.
#[derive(Debug, Default)]
pub(crate) struct ConnSpinPolicy {
    own: SpinPolicy,
    /// Opportunities that it has had, until it is no newcomer any more.
    opportunities: u32,
}

/// Opportunities of a connection that is new. One that makes a single call has two or three.
const NEW_MAX: u32 = 4;

impl ConnSpinPolicy {
    /// As [`SpinPolicy::should_spin`].
    pub(crate) fn should_spin(&mut self, newcomers: &Newcomers) -> bool {
        self.opportunities = (self.opportunities + 1).min(NEW_MAX + 1);
        match self.is_new() {
            true => newcomers.0.lock().should_spin(),
            false => self.own.should_spin(),
        }
    }

    /// As [`SpinPolicy::is_over`].
    pub(crate) fn is_over(
        &mut self,
        newcomers: &Newcomers,
        spin: &mut Spin,
        now: Instant,
        hit: bool,
    ) -> bool {
        let Some(result) = spin.judge(now, hit) else { return false };
        self.own.record(result);
        if self.is_new() {
            newcomers.0.lock().record(result);
        }
        true
    }

    fn is_new(&self) -> bool {
        self.opportunities <= NEW_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c415_connections_of_one_call_learn_from_those_before_them() {
        let newcomers = Newcomers::default();
        let at = Instant::from_nanos;
        let spins = |hit| {
            let connection = |_| {
                let mut policy = ConnSpinPolicy::default();
                let mut spins = || {
                    let takes = policy.should_spin(&newcomers);
                    let mut spin = Spin::new(at(0), Duration::ZERO);
                    // It yields twice at least, unless it hits.
                    while takes && !policy.is_over(&newcomers, &mut spin, at(1), hit) {}
                    usize::from(takes)
                };
                spins() + spins()
            };
            (0..1_000).map(connection).sum::<usize>()
        };
        let (missed, after_missed) = (spins(false), spins(true));
        assert!((60..75).contains(&missed) && after_missed > 1_900, "{missed}, {after_missed}");
        // One that stays has its own experience, whatever comes of others.
        let mut stays = ConnSpinPolicy::default();
        spins(false);
        let taken = (0..100).filter(|_| stays.should_spin(&newcomers)).count();
        assert!(taken >= 96, "{taken}");
    }

    #[test]
    fn a_spin_yields_twice_at_least_and_no_longer_than_its_budget() {
        let at = Instant::from_nanos;
        let mut spin = Spin::new(at(0), Duration::ZERO);
        assert_eq!(
            [spin.judge(at(1), false), spin.judge(at(2), false)],
            [None, Some(SpinResult::Miss)]
        );
        let mut spin = Spin::new(at(0), Duration::from_nanos(20));
        let judged: Vec<_> = [5, 10, 15, 20].map(|now| spin.judge(at(now), false)).into();
        assert_eq!(judged, [None, None, None, Some(SpinResult::Miss)]);
        let mut spin = Spin::new(at(0), Duration::from_nanos(20));
        assert_eq!(spin.judge(at(1), true), Some(SpinResult::Hit));
        let mut spin = Spin::new(at(0), Duration::from_nanos(20));
        assert_eq!(spin.judge(at(500_000), true), Some(SpinResult::Preempted));
        // While others have the core it does not spin, but it ends.
        let mut spin = Spin::new(at(0), Duration::from_nanos(20));
        let judged: Vec<_> = [10_000, 10_010, 10_020].map(|now| spin.judge(at(now), false)).into();
        assert_eq!(judged, [None, None, Some(SpinResult::Miss)]);
        let mut spin = Spin::new(at(0), Duration::from_nanos(20));
        let judged = [100_000, 200_000].map(|now| spin.judge(at(now), false));
        assert_eq!(judged, [None, Some(SpinResult::Miss)]);
        let mut spin = Spin::new(at(0), Duration::from_nanos(20));
        let stopped_clock = (0..).find_map(|_| spin.judge(at(0), false));
        assert_eq!(stopped_clock, Some(SpinResult::Miss));
    }

    #[test]
    fn spins_that_miss_become_rare_and_those_that_hit_come_back() {
        let mut policy = SpinPolicy::default();
        let mut spins = |brings: SpinResult| {
            let mut spins = 0;
            for _ in 0..10_000 {
                if policy.should_spin() {
                    spins += 1;
                    policy.record(brings);
                }
            }
            spins
        };
        let (preempted, after_preempted) = (spins(SpinResult::Preempted), spins(SpinResult::Hit));
        assert!(preempted < 25 && after_preempted > 8_000, "{preempted}, {after_preempted}");
        let (missed, after_missed) = (spins(SpinResult::Miss), spins(SpinResult::Hit));
        assert!((300..350).contains(&missed) && after_missed > 9_900, "{missed}, {after_missed}");
    }
}
