//! A call is polled: it takes its outcome, or reads for all, or waits for what another one reads.

use std::task::Context;

use oncewire_core::Instant;

use super::super::link::TURN_LEN;
use super::super::pending::{PendingId, Polled};
use super::super::reader::{Flush, LEAD_AFTER, Leader};
use super::State;
use crate::reply::RawOutcome;

/// With fewer calls pending than this, a caller writes its own request at once; with more, the leader writes them
/// together.
const WRITE_ALONE_MAX: usize = 4;

/// What follows in a poll of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Step {
    /// Its outcome was taken.
    Done,
    /// A request was written, and the reply may come within microseconds.
    Spin,
    /// There is no connection, and the caller may poll the task, which makes one.
    Dial,
    Sleep,
}

impl State {
    /// `may_spin`: whether the caller can spin, if that is worth while. The outcome is put into `outcome`.
    #[inline(never)]
    pub(in super::super) fn poll_outcome(
        &mut self,
        id: PendingId,
        now: Instant,
        cx: &mut Context<'_>,
        may_spin: bool,
        outcome: &mut Option<RawOutcome>,
    ) -> Step {
        match self.take_outcome(id, now, outcome) {
            true => Step::Done,
            false => self.poll_waiting(id, now, cx, may_spin, outcome),
        }
    }

    /// The same for a call that had no outcome when the lock was taken.
    #[inline(always)]
    pub(in super::super) fn poll_waiting(
        &mut self,
        id: PendingId,
        now: Instant,
        cx: &mut Context<'_>,
        may_spin: bool,
        outcome: &mut Option<RawOutcome>,
    ) -> Step {
        let leads = self.reader.leads_of_another(id);
        let polled = self.pending.note_poll(id, cx, leads, &mut self.dropped);
        let mut next = Step::Sleep;
        match polled {
            Polled::Behind(is_new) => {
                if !self.follow(id, is_new, now, cx) && !self.keep_deadlines(id, now) {
                    // No bytes have moved, and no call has ended: no timer but its own can have come closer.
                    self.wake_task_if_due_before(self.machine.poll_deadline());
                    return Step::Sleep;
                }
            }
            // It took the lead because calls take long, and keeps it until a new call comes.
            Polled::First(true) if self.reader.leader == Leader::Task => {
                // In a fork there is no task.
                self.is_forked();
            }
            Polled::Ended => {}
            _ if self.link.is_up() => {
                if self.lead(id, now, cx, may_spin) {
                    next = Step::Spin;
                }
            }
            // When there is a connection again, one of the followers must lead.
            _ => {
                self.reader.add_follower(id, &mut self.pending);
                if !self.is_forked() && self.parked.is_some() {
                    next = Step::Dial;
                }
            }
        }
        // The stream may have more without end, and the task that keeps time may not be polled meanwhile.
        self.keep_deadlines(id, now);
        self.pending.polled = None;
        self.wake_task_if_due_earlier();
        if self.pending.has_outcome(id) && self.take_outcome(id, now, outcome) {
            return Step::Done;
        }
        next
    }

    /// Takes the outcome that another call has read, if it has. Needs no time, since the lead stays where it is.
    #[inline]
    pub(in super::super) fn take_outcome_as_follower(
        &mut self,
        id: PendingId,
        outcome: &mut Option<RawOutcome>,
    ) -> bool {
        match self.reader.leader {
            Leader::Call(leader) if leader == id => false,
            _ => self.pending.take_outcome(id, outcome),
        }
    }

    #[inline]
    fn take_outcome(
        &mut self,
        id: PendingId,
        now: Instant,
        outcome: &mut Option<RawOutcome>,
    ) -> bool {
        let is_taken = self.pending.take_outcome(id, outcome);
        if is_taken && self.reader.leader == Leader::Call(id) {
            self.pass_lead(now);
        }
        is_taken
    }

    /// A call reads for all. Whether it should spin for the reply to what it wrote.
    fn lead(&mut self, id: PendingId, now: Instant, cx: &mut Context<'_>, may_spin: bool) -> bool {
        if self.reader.leader == Leader::Task && self.armed > now + LEAD_AFTER {
            // It has to keep time for us, and to watch the connection when we are gone.
            self.wake_task();
        }
        self.pending.polled = Some(id);
        self.reader.lead_as(id, now, &mut self.pending);
        if self.reader.should_yield_before_write(id, &self.pending) {
            cx.waker().wake_by_ref();
            return false;
        }
        if self.flush(now, cx) && may_spin && self.link.is_flushed() && self.spin.should_spin() {
            return true;
        }
        self.read_on(now, cx, Some(id), TURN_LEN);
        false
    }

    /// Another call reads: this one waits, and its request leaves at once or with others'. Whether it wrote what there was.
    #[inline(always)]
    fn follow(&mut self, id: PendingId, is_new: bool, now: Instant, cx: &mut Context<'_>) -> bool {
        if is_new {
            self.reader.enqueue(id, &self.pending);
        }
        // Calls whose outcomes are ready may be followed by others: then all of them leave together.
        let is_alone = self.machine.pending() < WRITE_ALONE_MAX
            && !self.pending.has_ready()
            && self.reader.flush == Flush::None;
        if is_alone || !self.link.is_flushed() {
            self.pending.polled = Some(id);
            self.flush(now, cx);
            return true;
        }
        if is_new {
            // Only once: the leader may be of the same task, and would wake us in turn.
            self.request_flush();
        }
        false
    }

    #[inline]
    pub(super) fn wake_task_if_due_earlier(&mut self) {
        self.wake_task_if_due_before(self.machine.poll_timeout());
    }

    /// The same where this is the first timer that may have come closer.
    #[inline]
    fn wake_task_if_due_before(&mut self, timeout: Option<Instant>) {
        if timeout.is_some_and(|at| at < self.armed) {
            self.wake_task();
        }
    }
}
