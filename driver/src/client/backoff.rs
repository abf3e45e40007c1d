//! When a client may dial again (S21).

use std::time::Duration;

use oncewire_core::{CloseReason, Refuse};

/// A connection that lasted this long worked, whether or not a call was answered on it.
const LASTING: Duration = Duration::from_secs(1);
/// Connections that answer calls but break at once grow the pause no further than this many failures do.
const SHORT_FAILURES_MAX: u32 = 4;

/// How an attempt to connect ended, or the connection that it made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// There was no connection, or no handshake on it.
    Unconnected(Option<CloseReason>),
    /// The handshake was completed.
    Connected {
        /// Time since the handshake.
        lasted: Duration,
        /// A call was answered.
        answered: bool,
        /// Why the server, or we, ended it, if that was said.
        reason: Option<CloseReason>,
    },
}

/// The pause before each attempt. Every way in which a client can be made to dial again goes through here, so that no
/// server and no second owner of a session can make it dial in a tight loop.
#[derive(Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    /// Attempts that failed since the last connection that worked.
    failures: u32,
    /// The next refusal to resume may be followed by a new session at once: there was a session since the last time. A
    /// server that refused each `Hello` was dialled 4,000 times a second before there was this limit.
    may_reopen: bool,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration) -> Backoff {
        // A session that was restored from a journal has worked, as far as is known here.
        Backoff { min, max, failures: 0, may_reopen: true }
    }

    /// Time until the next attempt. Exponential, and random over the whole span, so that clients that lost one server
    /// together come back apart (C43). `random` is spread over all of `u64`.
    pub(super) fn pause(&mut self, ended: Ended, random: u64) -> Duration {
        match ended {
            Ended::Unconnected(Some(CloseReason::Refused(
                Refuse::SessionUnknown | Refuse::WrongPrincipal,
            ))) if std::mem::take(&mut self.may_reopen) => {
                return Duration::ZERO;
            }
            Ended::Unconnected(_) => {}
            Ended::Connected { lasted, answered, reason } => {
                self.may_reopen = true;
                self.forgive(lasted, answered, reason);
            }
        }
        let span = self.min.saturating_mul(1 << self.failures.min(16)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        random_part(span, random)
    }

    fn forgive(&mut self, lasted: Duration, answered: bool, reason: Option<CloseReason>) {
        match reason {
            // Another client has our session: each ends the other's connections, however well they work.
            Some(CloseReason::Refused(Refuse::Superseded)) => {}
            _ if lasted >= LASTING => self.failures = 0,
            _ if answered => self.failures = self.failures.min(SHORT_FAILURES_MAX),
            _ => {}
        }
    }
}

/// A part of `span`: all of it is hit alike by a `random` that is spread over all of `u64`. Of spans beyond 584 years, of those.
pub(super) fn random_part(span: Duration, random: u64) -> Duration {
    let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    let part = (u128::from(random) * u128::from(nanos)) >> 64;
    Duration::from_nanos(part as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(20);
    const MAX: Duration = Duration::from_secs(5);

    /// What `n` attempts that end alike cost in pauses of average length.
    fn total(n: u32, ended: impl Fn(u32) -> Ended) -> Duration {
        let mut backoff = Backoff::new(MIN, MAX);
        (0..n).map(|i| backoff.pause(ended(i), u64::MAX / 2)).sum()
    }

    fn connected(lasted_ms: u64, answered: bool, reason: Option<CloseReason>) -> Ended {
        Ended::Connected { lasted: Duration::from_millis(lasted_ms), answered, reason }
    }

    #[test]
    fn whatever_ends_every_connection_attempts_come_less_often() {
        let ends = [
            Ended::Unconnected(None),
            Ended::Unconnected(Some(CloseReason::Refused(Refuse::SessionUnknown))),
            Ended::Unconnected(Some(CloseReason::Refused(Refuse::WrongPrincipal))),
            Ended::Unconnected(Some(CloseReason::Refused(Refuse::SessionsFull))),
            connected(0, false, None),
            connected(0, false, Some(CloseReason::Refused(Refuse::SessionUnknown))),
            connected(0, true, Some(CloseReason::Refused(Refuse::Superseded))),
        ];
        for ended in ends {
            // 30 attempts that worked would take less than a third of a second.
            assert!(total(30, |_| ended) > Duration::from_secs(45), "{ended:?}");
        }
        // A session that opens and is refused when it resumes: one attempt in two does not wait.
        let alternating = |i| match i % 2 {
            0 => connected(0, false, None),
            _ => Ended::Unconnected(Some(CloseReason::Refused(Refuse::SessionUnknown))),
        };
        assert!(total(60, alternating) > Duration::from_secs(45));
    }

    #[test]
    fn a_server_that_answers_and_breaks_at_once_is_dialled_a_few_times_a_second_at_most() {
        let pauses = total(100, |_| connected(5, true, None));
        assert!((Duration::from_secs(10)..Duration::from_secs(20)).contains(&pauses), "{pauses:?}");
    }

    #[test]
    fn pauses_of_any_length_are_no_overflow() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX);
        for _ in 0..3 {
            assert!(backoff.pause(Ended::Unconnected(None), u64::MAX) > MAX);
        }
        assert_eq!(random_part(Duration::from_secs(4), 1 << 63), Duration::from_secs(2));
    }

    #[test]
    fn a_connection_that_lasted_is_followed_by_the_shortest_pause() {
        let mut backoff = Backoff::new(MIN, MAX);
        for _ in 0..20 {
            backoff.pause(Ended::Unconnected(None), u64::MAX);
        }
        assert!(backoff.pause(connected(1000, false, None), u64::MAX) < MIN);
    }

    #[test]
    fn a_lost_session_is_replaced_at_once_however_long_its_server_was_away() {
        let mut backoff = Backoff::new(MIN, MAX);
        backoff.pause(connected(0, true, None), u64::MAX);
        for _ in 0..20 {
            backoff.pause(Ended::Unconnected(None), u64::MAX);
        }
        let unknown = Ended::Unconnected(Some(CloseReason::Refused(Refuse::SessionUnknown)));
        assert_eq!(backoff.pause(unknown, u64::MAX), Duration::ZERO);
        assert!(backoff.pause(unknown, u64::MAX) > MAX / 2);
    }
}
