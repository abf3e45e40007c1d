//! The one place of this program that reads a clock: it measures, so it needs the real one.
#![allow(clippy::disallowed_methods)]

pub(crate) use std::time::{Duration, Instant};

/// The time.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Sleeps on smol's reactor: what the waiting handlers of W8 do.
pub(crate) async fn sleep(time: Duration) {
    smol::Timer::after(time).await;
}
