//! What a client does when time passes: handshakes, keepalives, and the timers of all calls.

use core::time::Duration;

use super::Client;
use super::call::{CallEntry, CallState, Calls, LastSent, Reason};
use super::recovery;
use crate::error::CloseReason;
use crate::keepalive::{self, Keepalive, Liveness, NEVER};
use crate::storage::{Array, ClientStorage, Places, Table};
use crate::time::{Instant, Timer};

/// Calls whose deadline is judged, and blocks of calls that are looked through for one, by one `handle_timeout`.
const DUE_MAX: u32 = 1024;

impl<S: ClientStorage> Client<S> {
    /// Time has passed; harmless when called early. Each call does bounded work: if more calls are due, `poll_timeout` still
    /// names the present. Call it when [`poll_timeout`](Client::poll_timeout)'s moment has come, after everything that
    /// has arrived was given to [`handle_data`](Client::handle_data); poll events and transmit afterwards.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.handle_deadlines(now);
        if self.timers.handshake.is_due(self.now) {
            self.drop_connection(CloseReason::TooSlow);
        } else if self.timers.hello_again.is_due(self.now) {
            self.timers.hello_again = Timer::OFF;
            self.output.greet();
        } else if self.timers.keepalive.is_due(self.now) {
            self.schedule_check();
            match self.keepalive.check(self.silence_max(), self.check_period()) {
                Liveness::Alive => {}
                Liveness::Reassure => self.output.pong = true,
                Liveness::Probe => {
                    self.output.ping = true;
                    self.repeat_if_lossy();
                }
                Liveness::Dead => self.drop_connection(CloseReason::PeerSilent),
            }
        }
    }

    /// The part of [`handle_timeout`](Client::handle_timeout) that is about calls: ends those whose deadline has passed.
    /// The peer is not judged by its silence, so that not all of what has arrived need be read before. Ends a thousand
    /// calls at most: if more are due, [`poll_deadline`](Client::poll_deadline) still names the present.
    pub fn handle_deadlines(&mut self, now: Instant) {
        self.advance_clock(now);
        let mut steps = DUE_MAX;
        while let NextDue::Call(index) = self.table.next_due(self.now, &mut steps) {
            self.handle_due(index);
        }
    }

    /// When [`handle_timeout`](Client::handle_timeout) is next to be called; changes only after a `&mut self` call.
    /// May be earlier than the first thing to do, never later.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.earliest().earlier(self.table.earliest_timer()).get()
    }

    /// When [`handle_deadlines`](Client::handle_deadlines) is next to be called; changes only after a `&mut self` call. May
    /// be earlier than the first deadline, never later.
    #[inline]
    pub fn poll_deadline(&self) -> Option<Instant> {
        self.table.earliest_timer().get()
    }

    /// How long the server may be silent.
    fn silence_max(&self) -> Duration {
        self.granted_keepalive().max(self.config.keepalive)
    }

    fn granted_keepalive(&self) -> Duration {
        self.session
            .map_or(Duration::ZERO, |session| keepalive::from_millis(session.grants.keepalive_ms))
    }

    /// How often the server is looked at, and hears from us: it judges us by what it granted.
    fn check_period(&self) -> Duration {
        let granted = keepalive::check_period(self.granted_keepalive());
        if self.config.keepalive == NEVER {
            granted.min(keepalive::check_period(NEVER))
        } else {
            granted
        }
    }

    pub(super) fn schedule_check(&mut self) {
        let at = Keepalive::next_check(self.now, self.check_period());
        self.timers.keepalive = Timer::at(at);
    }

    /// A call's timer has come: its deadline, or the time to send it again.
    fn handle_due(&mut self, index: u32) {
        let Some(entry) = self.table.calls.live_mut(index) else { return };
        debug_assert!(entry.timer().is_due(self.now));
        if entry.deadline.is_due(self.now) {
            entry.deadline = Timer::OFF;
            self.give_up(index, Reason::DeadlinePassed);
        } else if let CallState::InFlight(sent) = &mut entry.state {
            // S27: unanswered on a link that loses messages.
            debug_assert!(sent.last_sent != LastSent::Earlier, "it was sent on this connection");
            sent.resends = (sent.resends + 1).min(6);
            sent.next.get_or_insert(recovery::unanswered(sent.last_sent));
            sent.repeat_cancel();
            self.arm_resend(index);
            self.table.note_todo(index);
        }
    }
}

/// What a client waits for, apart from the deadlines of calls. All are off without a connection.
#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(super) struct ConnTimers {
    /// When to give up a handshake. On while greeting.
    pub(super) handshake: Timer,
    /// When to send an unanswered `Hello` again (S27). On while greeting, once it was sent, on a link that loses messages.
    pub(super) hello_again: Timer,
    /// When to check whether the server is alive (S20). On while up.
    pub(super) keepalive: Timer,
    /// When to acknowledge what is settled, if no request does (S16). On while up, if something is.
    pub(super) ack: Timer,
}

impl ConnTimers {
    fn earliest(&self) -> Timer {
        let ConnTimers { handshake, hello_again, keepalive, ack } = *self;
        handshake.earlier(hello_again).earlier(keepalive).earlier(ack)
    }
}

/// The timers of all calls, in blocks of calls, blocks of these, and blocks of those. Setting one is constant work, and
/// looking for one that is due visits only the blocks that may hold one. A block's moment is a lower bound, since timers
/// that are put off or settled stay in it: it is taken again when it has come.
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(super) struct Timers<S: ClientStorage> {
    levels: [S::Blocks<Timer>; LEVELS],
    earliest: Timer,
}

/// With blocks of 64, the highest level has one entry for each 262,144 calls.
const LEVELS: usize = 3;

impl<S: ClientStorage> Default for Timers<S> {
    fn default() -> Self {
        Timers { levels: Default::default(), earliest: Timer::OFF }
    }
}

/// Whether a timer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextDue {
    /// That of this call, by index.
    Call(u32),
    /// None.
    None,
    /// There was more to look at than a step may: one may have.
    Later,
}

impl<S: ClientStorage> Timers<S> {
    /// No timer comes before this.
    pub(super) fn earliest(&self) -> Timer {
        self.earliest
    }

    #[inline]
    pub(super) fn set(&mut self, index: u32, timer: Timer) {
        let mut number = index;
        for level in &mut self.levels {
            number /= S::DEADLINE_BLOCK;
            match level.at_or_grow(number) {
                Some(earliest) if *earliest > timer => *earliest = timer,
                _ => break,
            }
        }
        self.earliest = self.earliest.earlier(timer);
    }

    /// Some call whose timer has come. The caller moves that timer before it asks again. Takes one from `steps` for each
    /// block of calls that it looks through.
    pub(super) fn next_due(&mut self, now: Instant, calls: &Calls<S>, steps: &mut u32) -> NextDue {
        if !self.earliest.is_due(now) {
            return NextDue::None;
        }
        let mut earliest = Timer::OFF;
        for number in 0..self.levels[LEVELS - 1].len() as u32 {
            let next = self.next_below(LEVELS - 1, number, now, calls, steps);
            if next != NextDue::None {
                return next;
            }
            earliest = earliest.earlier(self.due(LEVELS - 1, number));
        }
        self.earliest = earliest;
        NextDue::None
    }

    fn due(&self, level: usize, number: u32) -> Timer {
        self.levels[level].at(number).copied().unwrap_or_default()
    }

    fn next_below(
        &mut self,
        level: usize,
        number: u32,
        now: Instant,
        calls: &Calls<S>,
        steps: &mut u32,
    ) -> NextDue {
        if !self.due(level, number).is_due(now) {
            return NextDue::None;
        }
        if level == 0 {
            if *steps == 0 {
                return NextDue::Later;
            }
            *steps -= 1;
        }
        let first = number.saturating_mul(S::DEADLINE_BLOCK);
        let len = if level == 0 { calls.high_water() } else { self.levels[level - 1].len() as u32 };
        let mut earliest = Timer::OFF;
        for below in first..first.saturating_add(S::DEADLINE_BLOCK).min(len) {
            let timer = if level == 0 {
                let timer = calls.at(below).map_or(Timer::OFF, CallEntry::timer);
                if timer.is_due(now) {
                    return NextDue::Call(below);
                }
                timer
            } else {
                let next = self.next_below(level - 1, below, now, calls, steps);
                if next != NextDue::None {
                    return next;
                }
                self.due(level - 1, below)
            };
            earliest = earliest.earlier(timer);
        }
        if let Some(block) = self.levels[level].live_mut(number) {
            *block = earliest;
        }
        NextDue::None
    }
}
