//! Sleeping and giving up, on the runtime's clock.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use oncewire_driver::{Instant, Runtime};

/// Waits for `pause`.
pub(crate) async fn sleep(runtime: &dyn Runtime, pause: Duration) {
    sleep_until(runtime, runtime.now() + pause).await;
}

/// Waits for this moment.
pub(crate) async fn sleep_until(runtime: &dyn Runtime, until: Instant) {
    let mut timer = runtime.timer();
    timer.set(until);
    std::future::poll_fn(|cx| timer.poll(cx)).await;
}

/// What the future returns, or `None` if it took longer.
pub(crate) async fn within<T>(
    runtime: &dyn Runtime,
    limit: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    let mut timer = runtime.timer();
    timer.set(runtime.now() + limit);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(result) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(result));
        }
        timer.poll(cx).map(|()| None)
    })
    .await
}

/// Pauses between attempts: each at most twice as long as the one before, and random, so that many clients do not come together.
#[derive(Debug)]
pub(crate) struct Pauses {
    next: Duration,
    max: Duration,
}

const PAUSE_MIN: Duration = Duration::from_millis(50);

impl Pauses {
    pub(crate) fn up_to(max: Duration) -> Pauses {
        Pauses { next: PAUSE_MIN, max }
    }

    /// The last attempt has succeeded.
    pub(crate) fn reset(&mut self) {
        self.next = PAUSE_MIN;
    }

    pub(crate) async fn pause(&mut self, runtime: &dyn Runtime) {
        let span = self.next.min(self.max);
        self.next = span.saturating_mul(2).min(self.max);
        sleep(runtime, span / 2 + span.mul_f64(random_fraction(runtime) / 2.0)).await;
    }
}

/// A random number below 1.
fn random_fraction(runtime: &dyn Runtime) -> f64 {
    f64::from(random(runtime) as u32) / (f64::from(u32::MAX) + 1.0)
}

/// A random number.
pub(crate) fn random(runtime: &dyn Runtime) -> u64 {
    let mut bytes = [0; 8];
    runtime.random(&mut bytes);
    u64::from_le_bytes(bytes)
}
