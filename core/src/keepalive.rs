//! Is the peer still there, and does it know that we are? (S20)

use core::time::Duration;

use crate::time::Instant;
use crate::wire::may_be_pong;

/// A keepalive that never ends, for debugging a service: a process that is stopped at a breakpoint sends nothing, and
/// loses no connection by it.
///
/// Either side alone may set it: [`ServerConfig::keepalive`](crate::ServerConfig::keepalive) for all clients of a server,
/// [`ClientConfig::keepalive`](crate::ClientConfig::keepalive) for one client, which asks the server for the longest
/// keepalive that [`ServerConfig::keepalive_max`](crate::ServerConfig::keepalive_max) allows. Pings are still sent, so that a
/// process that has died is noticed where the system says so. A machine that vanishes without a word is not, and its
/// session and its connection stay: that is why it is no setting for a service in use.
///
/// Other clocks keep running while a process is stopped: callers' deadlines, time limits of methods, and the handshakes of
/// connections made meanwhile.
pub const NEVER: Duration = Duration::MAX;

/// [`NEVER`] on the wire.
const NEVER_MS: u32 = u32::MAX;

/// How long a check period is where the peer may be silent for ever.
const CHECK_PERIOD: Duration = Duration::from_secs(10);

/// The keepalive that a number of milliseconds on the wire means.
pub(crate) fn from_millis(keepalive_ms: u32) -> Duration {
    if keepalive_ms == NEVER_MS {
        NEVER
    } else {
        Duration::from_millis(u64::from(keepalive_ms.max(1)))
    }
}

/// The number of milliseconds by which a keepalive is sent.
pub(crate) fn millis(keepalive: Duration) -> u32 {
    u32::try_from(keepalive.as_millis()).unwrap_or(NEVER_MS).max(1)
}

/// The time in which a peer is checked four times.
pub(crate) fn check_period(keepalive: Duration) -> Duration {
    if keepalive == NEVER { CHECK_PERIOD } else { keepalive.max(Duration::from_millis(1)) }
}

/// Checks four times per keepalive interval. A check that saw a sign of life resets the count; the first two silent
/// checks send a Ping, the third declares the peer dead: after 3/4 to 1 interval of silence. A peer that may be silent
/// for longer than others is checked as often, and gets a Ping each time.
///
/// A sign of life is a byte received, or room that the peer made for our bytes where there was none.
///
/// A side that is busy receiving sends an unsolicited Pong at its checks. Its peer may be in the middle of a frame that
/// takes minutes, or have minutes' worth of small ones in a kernel's buffer: its Ping waits behind them, so that an
/// unanswered one proves nothing. Without that Pong, a body that took longer than the keepalive never arrived: its sender
/// heard nothing, gave up the connection, and sent the body again from the start. A received Pong alone is not answered
/// by one, or two idle peers would never be quiet.
///
/// A machine that was itself suspended for an hour sees one silent check, not an hour of silence: whatever arrived
/// meanwhile is read before the peer is judged (C09).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keepalive {
    /// A sign of life came since the last check.
    heard: bool,
    /// Something came since we last sent anything.
    owes: bool,
    /// Checks without a sign of life, since the last one.
    silent_checks: u32,
}

/// The explorer lets no keepalive pass: states that only a check could tell apart count as one.
#[cfg(feature = "_explore")]
impl core::hash::Hash for Keepalive {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.heard.hash(state);
    }
}

/// What a check found out about the peer, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// The peer is there, and knows that we are.
    Alive,
    /// The peer is there, and has not heard from us for a while: send a Pong.
    Reassure,
    /// The peer is silent: send a Ping.
    Probe,
    /// The peer has been silent for too long: close the connection.
    Dead,
}

impl Keepalive {
    /// When to check again after a check at `now`.
    pub(crate) fn next_check(now: Instant, check_period: Duration) -> Instant {
        now + (check_period / 4).max(Duration::from_millis(1))
    }

    /// Bytes were received; `data` begins with those not yet consumed.
    #[inline]
    pub(crate) fn on_bytes(&mut self, data: &[u8]) {
        self.heard = true;
        self.owes |= !may_be_pong(data);
    }

    /// The link moved bytes that the machine does not see.
    pub(crate) fn on_progress(&mut self) {
        self.heard = true;
        self.owes = true;
    }

    /// A frame was sent.
    #[inline]
    pub(crate) fn on_sent(&mut self) {
        self.owes = false;
    }

    /// Judges a peer that may be silent for `keepalive` and is checked four times per `check_period`.
    pub(crate) fn check(&mut self, keepalive: Duration, check_period: Duration) -> Liveness {
        if core::mem::take(&mut self.heard) {
            self.silent_checks = 0;
            return if self.owes { Liveness::Reassure } else { Liveness::Alive };
        }
        self.silent_checks = self.silent_checks.saturating_add(1);
        let times = keepalive.as_nanos().div_ceil(check_period.as_nanos().max(1));
        let is_dead = keepalive != NEVER && u128::from(self.silent_checks) >= 3 * times.max(1);
        if is_dead { Liveness::Dead } else { Liveness::Probe }
    }
}
