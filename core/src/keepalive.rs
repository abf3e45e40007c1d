//! Is the peer still there, and does it know that we are? (S20)

use core::time::Duration;

use crate::time::Instant;
use crate::wire::may_be_pong;

/// A keepalive that never ends: for whoever debugs a service. A process that stands at a breakpoint says nothing, and
/// loses no connection by it.
///
/// Either side alone may set it: [`ServerConfig::keepalive`](crate::ServerConfig::keepalive) for all clients of a server,
/// [`ClientConfig::keepalive`](crate::ClientConfig::keepalive) for one client, which asks the server for as much patience
/// as [`ServerConfig::keepalive_max`](crate::ServerConfig::keepalive_max) allows it. Pings are still sent, so that a
/// process that has died is noticed where the system says so. A machine that vanishes without a word is not, and its
/// session and its connection stay: that is why it is no setting for a service in use.
///
/// Other clocks go on while a process is stopped: callers' deadlines, time limits of methods, and the handshakes of
/// connections made meanwhile.
pub const NEVER: Duration = Duration::MAX;

/// What stands on the wire for [`NEVER`].
const NEVER_MS: u32 = u32::MAX;

/// Where nobody is called dead, the peer is looked at as often as if this were the keepalive.
const LOOKED_AFTER: Duration = Duration::from_secs(10);

/// What a keepalive of so many milliseconds is.
pub(crate) fn granted(keepalive_ms: u32) -> Duration {
    if keepalive_ms == NEVER_MS {
        NEVER
    } else {
        Duration::from_millis(u64::from(keepalive_ms.max(1)))
    }
}

/// The same the other way round.
pub(crate) fn millis(keepalive: Duration) -> u32 {
    u32::try_from(keepalive.as_millis()).unwrap_or(NEVER_MS).max(1)
}

/// How often a peer is looked at, as a keepalive of which each look is a quarter.
pub(crate) fn looked_after(keepalive: Duration) -> Duration {
    if keepalive == NEVER { LOOKED_AFTER } else { keepalive.max(Duration::from_millis(1)) }
}

/// Looks four times in the keepalive's time. A look that finds a sign of life begins anew; the first two that find none
/// ask the peer, the third calls it dead, so that a peer is dead after three quarters to the whole of that time. Where a
/// peer may be silent for longer than others, it is looked at as often, and asked each time.
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
    silent_looks: u32,
}

/// Where every schedule is tried out no keepalive passes, and what only a look would find makes no other state.
#[cfg(feature = "_explore")]
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
    pub(crate) fn next_look(now: Instant, looked_after: Duration) -> Instant {
        now + (looked_after / 4).max(Duration::from_millis(1))
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

    /// Looks at a peer that may be silent for `keepalive`, and is looked at four times in `looked_after`.
    pub(crate) fn look(&mut self, keepalive: Duration, looked_after: Duration) -> Look {
        if core::mem::take(&mut self.heard) {
            self.silent_looks = 0;
            return if self.owes { Look::Say } else { Look::Fine };
        }
        self.silent_looks = self.silent_looks.saturating_add(1);
        let times = keepalive.as_nanos().div_ceil(looked_after.as_nanos().max(1));
        let is_dead = keepalive != NEVER && u128::from(self.silent_looks) >= 3 * times.max(1);
        if is_dead { Look::Dead } else { Look::Ask }
    }
}
