//! Sleeping and giving up, on the runtime's clock.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use oncewire_driver::Runtime;

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

/// A random number.
pub(crate) fn random(runtime: &dyn Runtime) -> u64 {
    let mut bytes = [0; 8];
    runtime.random(&mut bytes);
    u64::from_le_bytes(bytes)
}
