//! Time that a test advances by hand: real time, plus what was added.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use oncewire_core::Instant;

use crate::runtime::{Runtime, SmolRuntime, Timer};
use crate::transport::BoxFuture;

/// How far a test's time is ahead of real time, and who waits for it.
#[derive(Default)]
pub(crate) struct Clock {
    ahead_nanos: AtomicU64,
    /// No timer fires.
    frozen: AtomicBool,
    next_id: AtomicU64,
    wakers: Mutex<Vec<(u64, Waker)>>,
}

impl Clock {
    /// Moves time forward, at once, for everybody.
    pub(crate) fn advance(&self, by: Duration) {
        self.ahead_nanos.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
        let wakers = std::mem::take(&mut *self.lock());
        wakers.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// From now on no timer fires, however long it takes.
    pub(crate) fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
    }

    /// Timers fire again.
    pub(crate) fn thaw(&self) {
        self.frozen.store(false, Ordering::SeqCst);
        self.advance(Duration::ZERO);
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
    /// What has to be taken off a moment to make it real.
    fn ahead(&self) -> Duration {
        self.skew + Duration::from_nanos(self.clock.ahead_nanos.load(Ordering::SeqCst))
    }
}

impl Runtime for TestRuntime {
    fn now(&self) -> Instant {
        self.real.now() + self.ahead()
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
        if self.at == Instant::FAR_FUTURE || self.runtime.clock.frozen.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        loop {
            let ahead = self.runtime.ahead();
            if self.at <= self.runtime.real.now() + ahead {
                self.at = Instant::FAR_FUTURE;
                return Poll::Ready(());
            }
            self.inner.set(Instant::ZERO + self.at.since(Instant::ZERO + ahead));
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
