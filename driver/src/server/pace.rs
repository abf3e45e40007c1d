//! How long a connection's turn lasts.
//!
//! Handlers that do not wait run within the turn, so a frame may cost anything from 20 ns for a Ping to
//! the time that a handler takes. So turns are bounded by the clock, which is read less often the faster the frames are.

use std::time::Duration;

use oncewire_core::Instant;

/// A turn lasts no longer than this and one frame. Beside 20 connections that send without end, another one waits for 20
/// turns.
const TURN: Duration = Duration::from_micros(100);
/// Time between two readings of the clock, about.
const CLOCK_INTERVAL: Duration = Duration::from_micros(10);
/// Frames between two readings of the clock, at most.
const FRAMES_MAX: u32 = 16;

/// The time as a turn knows it, and when the turn is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// When the clock was last read.
    pub(super) now: Instant,
    until: Instant,
    read_at: Instant,
    /// Frames between two readings.
    every: u32,
    /// Frames until the next reading.
    left: u32,
}

impl Default for Pace {
    fn default() -> Pace {
        let never = Instant::ZERO;
        Pace { now: never, until: never, read_at: never, every: 1, left: 1 }
    }
}

impl Pace {
    /// A turn begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.now = now;
        self.until = now + TURN;
        self.read_at = now;
        self.left = self.every;
    }

    /// This turn has no end.
    pub(super) fn go_on(&mut self) {
        self.until = Instant::FAR_FUTURE;
    }

    /// A frame was handled: whether to read the clock.
    #[inline]
    pub(super) fn is_due(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }

    /// What came before the next frame may have taken long: the clock is read after that frame.
    pub(super) fn hurry(&mut self) {
        self.left = 1;
    }

    /// The clock was read: whether the turn is over.
    pub(super) fn check(&mut self, now: Instant) -> bool {
        let took = now.since(self.read_at);
        self.every = match self.every {
            every if took < CLOCK_INTERVAL => (2 * every).min(FRAMES_MAX),
            every if took > 2 * CLOCK_INTERVAL => (every / 2).max(1),
            every => every,
        };
        self.left = self.every;
        (self.now, self.read_at) = (now, now);
        now >= self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames in one turn that take so long each, after a turn of such frames, and how often the clock was read for them.
    fn turn(frame: Duration) -> (u32, u32) {
        let mut pace = Pace::default();
        let (mut now, mut result) = (Instant::ZERO, (0, 0));
        for _ in 0..2 {
            pace.begin(now);
            result = (0, 0);
            loop {
                now = now + frame;
                result.0 += 1;
                if pace.is_due() {
                    result.1 += 1;
                    if pace.check(now) {
                        break;
                    }
                }
            }
        }
        result
    }

    #[test]
    fn a_turn_ends_on_time_whatever_its_frames_take() {
        assert_eq!(turn(Duration::from_millis(1)), (1, 1));
        let (slow, _) = turn(Duration::from_micros(10));
        assert!((10..=12).contains(&slow), "{slow}");
        let (fast, readings) = turn(Duration::from_nanos(300));
        assert!((333..=400).contains(&fast) && readings <= 25, "{fast}, {readings}");
    }

    #[test]
    fn frames_that_become_slow_are_noticed_within_a_few() {
        let mut pace = Pace::default();
        pace.begin(Instant::ZERO);
        for _ in 0..1000 {
            assert!(!pace.is_due() || !pace.check(Instant::ZERO));
        }
        let mut now = Instant::ZERO;
        let slow = (1..).find(|_| {
            now = now + Duration::from_millis(1);
            pace.is_due() && pace.check(now)
        });
        assert!(slow.is_some_and(|frames| frames <= FRAMES_MAX), "{slow:?}");
    }
}
