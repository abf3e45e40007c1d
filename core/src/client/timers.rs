//! What a client does when time passes: handshakes, keepalives, and the timers of all calls.

use core::time::Duration;

use super::call::{self, CallEntry, CallState};
use super::{Client, Phase, recovery};
use crate::error::CloseReason;
use crate::keepalive::{self, Keepalive, NEVER, Verdict};
use crate::outcome::{NotExecuted, Outcome, Unknown};
use crate::storage::{Array, ClientStorage, Flat, Places, Table};
use crate::time::Instant;

impl<S: ClientStorage> Client<S> {
    /// Time has passed; harmless when called early. Call it when [`poll_timeout`](Client::poll_timeout)'s moment has come, after everything that
    /// has arrived was given to [`handle_data`](Client::handle_data); poll events and transmit afterwards.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.handle_deadlines(now);
        match self.phase {
            Phase::Down => {}
            Phase::Greeting if self.greeting_until <= self.now => {
                self.drop_connection(CloseReason::TooSlow);
            }
            Phase::Greeting => {
                if self.output.hello_again_at <= self.now {
                    self.output.greet();
                }
            }
            Phase::Up if self.keepalive_at <= self.now => {
                self.schedule_check();
                match self.keepalive.check(self.silence_max(), self.check_period()) {
                    Verdict::Alive => {}
                    Verdict::Reassure => self.output.pong = true,
                    Verdict::Probe => self.send_keepalive(),
                    Verdict::Dead => self.drop_connection(CloseReason::PeerSilent),
                }
            }
            Phase::Up => {}
        }
    }

    /// The part of [`handle_timeout`](Client::handle_timeout) that is about calls: ends those whose deadline has passed.
    /// The peer is not judged by its silence, so that not all of what has arrived need be read before.
    pub fn handle_deadlines(&mut self, now: Instant) {
        self.advance_clock(now);
        while let Some(index) = self.table.next_due(self.now) {
            self.handle_due(index);
        }
    }

    /// When [`handle_timeout`](Client::handle_timeout) is next to be called; changes only after a `&mut self` call.
    /// May be earlier than the first thing to do, never later.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let connection = match self.phase {
            Phase::Down => Instant::FAR_FUTURE,
            Phase::Greeting => self.greeting_until.min(self.output.hello_again_at),
            Phase::Up => self.keepalive_at.min(self.output.ack_at),
        };
        let at = connection.min(self.calls_timeout());
        (at != Instant::FAR_FUTURE).then_some(at)
    }

    /// When [`handle_deadlines`](Client::handle_deadlines) is next to be called; changes only after a `&mut self` call. May
    /// be earlier than the first deadline, never later.
    #[inline]
    pub fn poll_deadline(&self) -> Option<Instant> {
        let at = self.calls_timeout();
        (at != Instant::FAR_FUTURE).then_some(at)
    }

    #[inline]
    fn calls_timeout(&self) -> Instant {
        if self.table.is_idle() { Instant::FAR_FUTURE } else { self.table.earliest_timer() }
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
        self.keepalive_at = Keepalive::next_check(self.now, self.check_period());
    }

    /// A call's timer has come: its deadline, or the time to send it again.
    fn handle_due(&mut self, index: u32) {
        let Some(entry) = self.table.calls.at_mut(index) else { return };
        if entry.deadline > self.now {
            // S27: unanswered on a link that loses messages.
            entry.retransmits = (entry.retransmits + 1).min(6);
            let asked = matches!(entry.last_sent, call::LastSent::Asked { .. });
            let cancelled = entry.cancelled;
            self.arm_resend(index);
            self.table.note_todo(index, |todo| {
                todo.ask |= asked;
                todo.send |= !asked;
                todo.cancel |= cancelled;
            });
            return;
        }
        entry.deadline = Instant::FAR_FUTURE;
        entry.abandoned.get_or_insert(NotExecuted::DeadlinePassed);
        match entry.state {
            CallState::Settled => {}
            CallState::Waiting => {
                let outcome =
                    recovery::not_executed(entry.sent_call(), NotExecuted::DeadlinePassed);
                self.table.end(index, outcome);
            }
            CallState::Unsettled if entry.never_sent() => {
                let outcome = Outcome::NotExecuted(NotExecuted::DeadlinePassed);
                self.table.settle_with(index, outcome);
            }
            CallState::Unsettled => self.table.report_unknown(index, Unknown::DeadlinePassed),
        }
    }

    /// S20; and S27: what nobody answers may be lost, so it is said again whenever the link is silent.
    fn send_keepalive(&mut self) {
        self.output.ping(self.config.resend_after.is_some());
    }
}

/// The timers of all calls, by blocks: setting one is constant work, and looking for one that is due visits only the
/// blocks that may hold one. A block's moment is a lower bound: it is taken anew when it has come.
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(super) struct Timers<S: ClientStorage> {
    blocks: S::Blocks,
    earliest: Instant,
}

impl<S: ClientStorage> Default for Timers<S> {
    fn default() -> Self {
        Timers { blocks: S::Blocks::default(), earliest: Instant::FAR_FUTURE }
    }
}

impl<S: ClientStorage> Timers<S> {
    /// No timer comes before this.
    pub(super) fn earliest(&self) -> Instant {
        self.earliest
    }

    pub(super) fn set(&mut self, index: u32, at: Instant) {
        // A block that was just made says "long ago", which costs one look and is true enough for a lower bound.
        if let Some(block) = self.blocks.at_or_grow(index / S::DEADLINE_BLOCK) {
            *block = (*block).min(at);
        }
        self.earliest = self.earliest.min(at);
    }

    /// Some call whose timer has come. The caller moves that timer before it asks again.
    pub(super) fn next_due(&mut self, now: Instant, calls: &S::Calls) -> Option<u32> {
        if self.earliest > now {
            return None;
        }
        let mut earliest = Instant::FAR_FUTURE;
        for (number, block) in self.blocks.as_mut_slice().iter_mut().enumerate() {
            if *block <= now {
                let first = (number as u32).saturating_mul(S::DEADLINE_BLOCK);
                let end = first.saturating_add(S::DEADLINE_BLOCK).min(calls.high_water());
                *block = Instant::FAR_FUTURE;
                for index in first..end {
                    let timer = calls.at(index).map_or(Instant::FAR_FUTURE, CallEntry::timer);
                    if timer <= now {
                        *block = Instant::ZERO;
                        return Some(index);
                    }
                    *block = (*block).min(timer);
                }
            }
            earliest = earliest.min(*block);
        }
        self.earliest = earliest;
        None
    }
}
