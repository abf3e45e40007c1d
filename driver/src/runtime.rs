//! Time, chance and tasks: everything that the driver takes from outside, in one trait.
//!
//! This is the one file of the driver, with its part `runtime/alarms.rs`, that may read a clock. A simulation passes its
//! own runtime, and every run of it can be repeated.

mod alarms;

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use oncewire_core::Instant;

use crate::transport::BoxFuture;
use alarms::Alarm;

/// A clock, timers, random bits, and an executor.
pub trait Runtime: Send + Sync + 'static {
    /// The time, on a clock that never goes backwards.
    fn now(&self) -> Instant;
    /// A recent timestamp and its greatest staleness. May be cheaper than [`now`](Runtime::now).
    fn coarse_now(&self) -> (Instant, Duration) {
        (self.now(), Duration::ZERO)
    }
    /// A timer that was never set.
    fn timer(&self) -> Box<dyn Timer>;
    /// Fills `bytes` with unpredictable bits: session ids are made of them.
    fn random(&self, bytes: &mut [u8]);
    /// Runs a task to its end, beside the caller. It is called on any thread: the executor's, a ledger's, one that runs a `blocking`
    /// handler, the program's own, or one on which a timer fires or a stream wakes. It must not panic, nor poll the task before it
    /// returns: locks may be held.
    fn spawn(&self, task: BoxFuture<'static, ()>);
    /// Yields the CPU once (`sched_yield`). Called after a write, when a reply is expected within microseconds. A no-op is
    /// allowed.
    fn yield_now(&self) {}
    /// Whether the task of a client that is made now may be parked: its first call then polls it on its own thread, and makes the
    /// connection there. It is spawned when something else wakes it, or after a few milliseconds. If not, it is spawned at once.
    fn parks_client(&self) -> bool {
        false
    }
    /// How long a task may spin for an answer, [yielding](Runtime::yield_now) between reads, before it sleeps. It reads at
    /// least twice, whatever the time. `None`: sleep at once.
    ///
    /// `task` is any number that tells the tasks of a thread apart: where several share one, spinning keeps the others
    /// from running, and sleeping lets their answers arrive together.
    fn spin_budget(&self, _task: usize) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}

/// A timer that can be set again and again.
pub trait Timer: Send + 'static {
    /// When it must fire; replaces an earlier time.
    fn set(&mut self, at: Instant);
    /// Ready when the moment has come; wakes `cx` then.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// The default runtime: smol's global executor, async-io's timers, the system's random numbers.
///
/// [`SmolRuntime::with_spawner`] takes another executor: the rest needs only async-io's reactor, which starts by itself.
pub struct SmolRuntime {
    spawner: Box<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>,
    /// Until this moment, in nanoseconds, `yield_now` does nothing: the last yield took too long.
    stays_until: AtomicU64,
}

/// If a yield takes longer than this, another process owns the core, and sleeping would have been faster: the scheduler
/// serves those that wake up before those that yield. A peer that works for us takes less: 300 µs for 1,024 calls. A program that
/// computes gets a millisecond at least, before the scheduler looks again.
pub(crate) const PREEMPTED_AFTER: Duration = Duration::from_micros(500);

/// A yield longer than [`PREEMPTED_AFTER`] means that another program computes on this core. We then
/// do not yield for this many times as long, so that it takes no more than a few percent of our time.
const STAY_FACTOR: u32 = 32;

impl std::fmt::Debug for SmolRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SmolRuntime")
    }
}

impl SmolRuntime {
    /// On smol's global executor, whose number of threads `SMOL_THREADS` sets (1 if it does not).
    pub fn global() -> Arc<SmolRuntime> {
        static GLOBAL: OnceLock<Arc<SmolRuntime>> = OnceLock::new();
        let make = || SmolRuntime::with_spawner(|task| smol::spawn(task).detach());
        GLOBAL.get_or_init(make).clone()
    }

    /// On any executor. `spawner` is called on any thread, also on one that is not the executor's: for tokio it is the `spawn` of a
    /// `Handle`, because `tokio::spawn` panics elsewhere.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use oncewire_driver::SmolRuntime;
    ///
    /// let executor = Arc::new(smol::Executor::new());
    /// let spawner = executor.clone();
    /// let runtime = SmolRuntime::with_spawner(move |task| spawner.spawn(task).detach());
    /// # let _ = (executor, runtime);
    /// ```
    pub fn with_spawner(
        spawner: impl Fn(BoxFuture<'static, ()>) + Send + Sync + 'static,
    ) -> Arc<SmolRuntime> {
        Arc::new(SmolRuntime { spawner: Box::new(spawner), stays_until: AtomicU64::new(0) })
    }
}

/// The system's clock. All runtimes of a process share its origin.
#[cfg(target_os = "linux")]
mod clock {
    use std::time::Duration;

    use oncewire_core::Instant;
    use rustix::time::{ClockId, clock_gettime};

    fn read(clock: ClockId) -> Instant {
        let time = clock_gettime(clock);
        Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    pub(super) fn now() -> Instant {
        read(ClockId::Monotonic)
    }

    /// The kernel's last tick, of which no kernel has less than a hundred a second: an eighth of what the present costs.
    pub(super) fn coarse_now() -> (Instant, Duration) {
        (read(ClockId::MonotonicCoarse), Duration::from_millis(10))
    }
}

#[cfg(not(target_os = "linux"))]
mod clock {
    use std::sync::OnceLock;
    use std::time::{Duration, Instant as Clock};

    use oncewire_core::Instant;

    #[allow(clippy::disallowed_methods)]
    pub(super) fn now() -> Instant {
        static ORIGIN: OnceLock<Clock> = OnceLock::new();
        Instant::ZERO + ORIGIN.get_or_init(Clock::now).elapsed()
    }

    pub(super) fn coarse_now() -> (Instant, Duration) {
        (now(), Duration::ZERO)
    }
}

impl Runtime for SmolRuntime {
    fn now(&self) -> Instant {
        clock::now()
    }

    fn coarse_now(&self) -> (Instant, Duration) {
        clock::coarse_now()
    }

    fn timer(&self) -> Box<dyn Timer> {
        Box::new(Alarm::new())
    }

    fn random(&self, bytes: &mut [u8]) {
        // Without random numbers no session is safe, and no error would be better than this one.
        getrandom::fill(bytes).expect("the system has no random numbers");
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        (self.spawner)(task);
    }

    fn yield_now(&self) {
        let left = self.now();
        if left.as_nanos() < self.stays_until.load(Ordering::Relaxed) {
            return;
        }
        std::thread::yield_now();
        let back = self.now();
        let away = back.since(left);
        if away > PREEMPTED_AFTER {
            let until = back + away.saturating_mul(STAY_FACTOR);
            self.stays_until.store(until.as_nanos(), Ordering::Relaxed);
        }
    }

    fn parks_client(&self) -> bool {
        thread_local! {
            static CLIENTS: Cell<u32> = const { Cell::new(0) };
        }
        let clients = CLIENTS.get() + 1;
        CLIENTS.set(clients % CLIENTS_IN_ROW);
        clients < CLIENTS_IN_ROW
    }

    fn spin_budget(&self, task: usize) -> Option<Duration> {
        thread_local! {
            static LAST: Cell<usize> = const { Cell::new(0) };
        }
        (LAST.replace(task) == task).then_some(SPIN_MAX)
    }
}

/// Of so many clients that a thread makes, one has its task spawned at once: each that is not may be made, called and dropped in the
/// same poll, and other tasks must get their turn.
const CLIENTS_IN_ROW: u32 = 32;

/// An answer over loopback from another core takes less; to fall asleep and be woken takes more.
const SPIN_MAX: Duration = Duration::from_micros(20);
