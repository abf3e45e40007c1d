//! Is the peer still there? (S20)

use core::time::Duration;

use crate::time::Instant;

/// Looks four times in the keepalive's time. A look that finds bytes begins anew; the first two that find none ask
/// the peer, the third calls it dead, so that a peer is dead after three quarters to the whole of that time.
///
/// A machine that was itself suspended for an hour finds one silent look, not an hour of silence: whatever arrived
/// meanwhile is read before the peer is judged (C09).
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "explore", derive(Hash))]
pub(crate) struct Alive {
    heard: bool,
    silent_looks: u8,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Fine,
    /// Ask the peer for a byte.
    Ask,
    Dead,
}

impl Alive {
    /// When to look again after a look at `now`.
    pub(crate) fn next_look(now: Instant, keepalive: Duration) -> Instant {
        now + (keepalive / 4).max(Duration::from_millis(1))
    }

    /// Some byte came.
    pub(crate) fn hear(&mut self) {
        self.heard = true;
    }

    pub(crate) fn look(&mut self) -> Look {
        if core::mem::take(&mut self.heard) {
            self.silent_looks = 0;
            return Look::Fine;
        }
        self.silent_looks += 1;
        if self.silent_looks < 3 { Look::Ask } else { Look::Dead }
    }
}
