//! Chance that can be repeated, and time from the driver's runtime.

use std::future::Future;
use std::time::Duration;

use oncewire::{Runtime, SmolRuntime};

/// Random numbers from a seed (SplitMix64): the same ones in every version, so that a seed stays worth noting.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The stream of `seed` that is numbered `stream`.
    pub(crate) fn new(seed: u64, stream: u64) -> Rng {
        let mut rng = Rng(seed ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03));
        rng.next();
        rng
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True `percent` times of a hundred.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A number that is used nowhere else.
pub(crate) fn unique() -> u64 {
    let mut bytes = [0; 8];
    SmolRuntime::global().random(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Waits.
pub(crate) async fn pause(duration: Duration) {
    let runtime = SmolRuntime::global();
    let mut timer = runtime.timer();
    timer.set(runtime.now() + duration);
    std::future::poll_fn(|cx| timer.poll(cx)).await;
}

/// What `future` brings, if it does so in time.
pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let late = async {
        pause(limit).await;
        None
    };
    smol::future::or(async { Some(future.await) }, late).await
}
