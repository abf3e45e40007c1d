//! Time as a number that the caller passes in.

use core::time::Duration;

/// A moment on the caller's monotonic clock, in nanoseconds since an origin of the caller's choice.
///
/// The machines never read a clock. Every method that needs the time takes it as its `now`; a `now` that goes
/// backwards counts as the newest one seen. The two ends of a connection never compare their clocks.
///
/// ```
/// use oncewire_core::Instant;
/// use core::time::Duration;
///
/// let start = Instant::ZERO;
/// let later = start + Duration::from_millis(5);
/// assert_eq!(later.as_nanos(), 5_000_000);
/// assert_eq!(later.since(start), Duration::from_millis(5));
/// assert_eq!(start.since(later), Duration::ZERO);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The origin.
    pub const ZERO: Instant = Instant(0);
    /// Later than every other moment: "never".
    pub const FAR_FUTURE: Instant = Instant(u64::MAX);

    /// The latest moment that a machine takes for the present: what is set to "never" does not come.
    pub(crate) const LAST: Instant = Instant(u64::MAX - 1);

    /// The moment `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    /// The moment `millis` milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Instant {
        Instant(millis.saturating_mul(1_000_000))
    }

    /// The moment `millis` milliseconds after this one: a call's deadline, without the 128 bits of a [`Duration`].
    #[inline]
    pub(crate) const fn after_millis(self, millis: u32) -> Instant {
        Instant(self.0.saturating_add(millis as u64 * 1_000_000))
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not after.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl core::ops::Add<Duration> for Instant {
    type Output = Instant;

    /// Saturates at [`Instant::FAR_FUTURE`].
    fn add(self, duration: Duration) -> Instant {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
    }
}

/// When something is due; off at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(crate) struct Timer(Instant);

impl Default for Timer {
    #[inline]
    fn default() -> Self {
        Timer::OFF
    }
}

impl Timer {
    /// It is never due.
    pub(crate) const OFF: Timer = Timer(Instant::FAR_FUTURE);
    /// Due at this moment; [`Instant::FAR_FUTURE`] is off.
    #[inline]
    pub(crate) const fn at(moment: Instant) -> Timer {
        Timer(moment)
    }

    /// When it is due; `None` while it is off.
    #[inline]
    pub(crate) fn get(self) -> Option<Instant> {
        (self != Timer::OFF).then_some(self.0)
    }

    /// Whether its moment has come. No machine's present is [`Instant::FAR_FUTURE`].
    #[inline]
    pub(crate) fn is_due(self, now: Instant) -> bool {
        self.0 <= now
    }

    /// The one of two that is due first.
    #[inline]
    pub(crate) fn earlier(self, other: Timer) -> Timer {
        Timer(self.0.min(other.0))
    }

    /// Milliseconds until it is due, rounded up; as many as there are if it is off.
    #[inline]
    pub(crate) fn millis_left(self, now: Instant) -> u32 {
        let nanos = self.0.as_nanos().saturating_sub(now.as_nanos());
        // Not `div_ceil`, which looks at the remainder. What saturates is more than is returned.
        u32::try_from(nanos.saturating_add(999_999) / 1_000_000).unwrap_or(u32::MAX)
    }
}
