//! Time that a test advances by hand: real time, plus what was added, and less the time for which it was stopped.
//!
//! On a busy machine a process may get no processor for seconds. That is no time for the case: between two looks at the
//! clock never more than [`LEAP_MAX`] passes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use oncewire_core::Instant;

use crate::runtime::{Runtime, SmolRuntime, Timer};
use crate::transport::BoxFuture;

/// The most that passes between two looks at the clock. Timers look that often while they wait.
const LEAP_MAX: Duration = Duration::from_millis(100);

/// Real time that was looked at, and how much of it did not pass.
#[derive(Default)]
struct Passed {
    seen: Option<Instant>,
    left_out: Duration,
    /// Nothing passes but what is added, and no timer fires.
    frozen: bool,
}

/// How far a test's time is ahead of real time, and who waits for it.
#[derive(Default)]
pub(crate) struct Clock {
    ahead_nanos: AtomicU64,
    passed: Mutex<Passed>,
    next_id: AtomicU64,
    wakers: Mutex<Vec<(u64, Waker)>>,
}

impl Clock {
    /// Moves time forward, at once, for all tasks.
    pub(crate) fn advance(&self, by: Duration) {
        self.ahead_nanos.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
        let wakers = std::mem::take(&mut *self.lock());
        wakers.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// From now on no timer fires, however long it takes, and no time passes by itself.
    pub(crate) fn freeze(&self) {
        self.passed().frozen = true;
    }

    /// Timers fire again.
    pub(crate) fn thaw(&self) {
        self.passed().frozen = false;
        self.advance(Duration::ZERO);
    }

    fn passed(&self) -> std::sync::MutexGuard<'_, Passed> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_frozen(&self) -> bool {
        self.passed().frozen
    }

    /// The real time of this look, less what did not pass.
    fn look(&self, real: Instant) -> Instant {
        let mut passed = self.passed();
        let seen = passed.seen.unwrap_or(real).max(real);
        let gap = seen.since(passed.seen.unwrap_or(real));
        passed.seen = Some(seen);
        let counts = if passed.frozen { Duration::ZERO } else { gap.min(LEAP_MAX) };
        passed.left_out += gap - counts;
        Instant::ZERO + seen.since(Instant::ZERO + passed.left_out)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Waker)>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, id: u64, cx: &Context<'_>) {
        let mut wakers = self.lock();
        match wakers.iter_mut().find(|(other, _)| *other == id) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => wakers.push((id, cx.waker().clone())),
        }
    }

    fn forget(&self, id: u64) {
        self.lock().retain(|(other, _)| *other != id);
    }
}

/// A runtime on a [`Clock`].
pub(crate) struct TestRuntime {
    pub(crate) clock: Arc<Clock>,
    pub(crate) real: Arc<SmolRuntime>,
    /// How far this runtime's clock is ahead of the others' (C47).
    pub(crate) skew: Duration,
}

impl TestRuntime {
    /// What a moment of this clock is ahead of the time that passed.
    fn ahead(&self) -> Duration {
        self.skew + Duration::from_nanos(self.clock.ahead_nanos.load(Ordering::SeqCst))
    }
}

impl Runtime for TestRuntime {
    fn now(&self) -> Instant {
        self.clock.look(self.real.now()) + self.ahead()
    }

    fn timer(&self) -> Box<dyn Timer> {
        let runtime =
            TestRuntime { clock: self.clock.clone(), real: self.real.clone(), skew: self.skew };
        let id = self.clock.next_id.fetch_add(1, Ordering::SeqCst);
        Box::new(TestTimer { at: Instant::FAR_FUTURE, inner: self.real.timer(), runtime, id })
    }

    fn random(&self, bytes: &mut [u8]) {
        self.real.random(bytes);
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.real.spawn(task);
    }
}

struct TestTimer {
    at: Instant,
    inner: Box<dyn Timer>,
    runtime: TestRuntime,
    id: u64,
}

impl Timer for TestTimer {
    fn set(&mut self, at: Instant) {
        self.at = at;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Registered before the look at the clock, so that no advance is missed.
        self.runtime.clock.register(self.id, cx);
        if self.at == Instant::FAR_FUTURE || self.runtime.clock.is_frozen() {
            return Poll::Pending;
        }
        loop {
            let now = self.runtime.now();
            if self.at <= now {
                self.at = Instant::FAR_FUTURE;
                return Poll::Ready(());
            }
            self.inner.set(self.runtime.real.now() + self.at.since(now).min(LEAP_MAX));
            if self.inner.poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for TestTimer {
    fn drop(&mut self) {
        self.runtime.clock.forget(self.id);
    }
}
