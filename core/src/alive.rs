//! Is the peer still there, and does it know that we are? (S20)

use core::time::Duration;

use crate::time::Instant;
use crate::wire::may_be_pong;

/// Looks four times in the keepalive's time. A look that finds a sign of life begins anew; the first two that find none
/// ask the peer, the third calls it dead, so that a peer is dead after three quarters to the whole of that time.
///
/// A sign of life is a byte that came, or room that the peer made for our bytes where there was none.
///
/// Whoever is busy receiving says so at its looks, with a Pong that was not asked for. Its peer may be in the middle of
/// a frame that takes minutes, or have minutes' worth of small ones in a kernel's buffer: its Ping waits behind them,
/// and to be unanswered proves nothing. Without that, a body that took longer than the keepalive never arrived: its
/// sender heard nothing, gave the connection up, and sent it again from the start. A Pong alone is no reason to say
/// anything, or two idle peers would never be quiet.
///
/// A machine that was itself suspended for an hour finds one silent look, not an hour of silence: whatever arrived
/// meanwhile is read before the peer is judged (C09).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Alive {
    /// A sign of life came since the last look.
    heard: bool,
    /// Something came since we last sent anything.
    owes: bool,
    silent_looks: u8,
}

/// Where every schedule is tried out no keepalive passes, and what only a look would find makes no other state.
#[cfg(feature = "explore")]
impl core::hash::Hash for Alive {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.heard.hash(state);
    }
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Fine,
    /// The peer is to hear from us.
    Say,
    /// Ask the peer for a byte.
    Ask,
    Dead,
}

impl Alive {
    /// When to look again after a look at `now`.
    pub(crate) fn next_look(now: Instant, keepalive: Duration) -> Instant {
        now + (keepalive / 4).max(Duration::from_millis(1))
    }

    /// Bytes came: these are at the front of those that were not taken.
    #[inline]
    pub(crate) fn hear(&mut self, data: &[u8]) {
        self.heard = true;
        self.owes |= !may_be_pong(data);
    }

    /// Bytes moved of which no more is known.
    pub(crate) fn progress(&mut self) {
        self.heard = true;
        self.owes = true;
    }

    /// We sent something.
    #[inline]
    pub(crate) fn speak(&mut self) {
        self.owes = false;
    }

    pub(crate) fn look(&mut self) -> Look {
        if core::mem::take(&mut self.heard) {
            self.silent_looks = 0;
            return if self.owes { Look::Say } else { Look::Fine };
        }
        self.silent_looks += 1;
        if self.silent_looks < 3 { Look::Ask } else { Look::Dead }
    }
}
