//! Calls end at their deadlines, whatever the executor does.
//!
//! The client's task keeps time, but it needs a thread of the executor, and all of them may be blocked: a client on a
//! blocked executor once learned of its timeouts when the executor was free again (C109). So the first deadline has
//! its own timer, whose waker belongs to no task: it ends the calls that are overdue on the thread that calls it, the
//! reactor's, and wakes those who wait for them.

use std::task::{Context, Waker};

use oncewire_core::Instant;

use super::super::pending::PendingId;
use super::super::reader::Leader;
use super::{OVERDUE_LEN, State};
use crate::runtime::Timer;

/// Invariant: `at` is no later than the machine's first deadline, when the lock is free.
pub(in super::super) struct DeadlineTimer {
    timer: Box<dyn Timer>,
    /// When it fires, which may be before there is something to do.
    at: Instant,
    waker: Waker,
}

impl DeadlineTimer {
    /// `waker` must call [`State::poll_deadline_timer`].
    pub(in super::super) fn new(timer: Box<dyn Timer>, waker: Waker) -> DeadlineTimer {
        DeadlineTimer { timer, at: Instant::FAR_FUTURE, waker }
    }
}

impl State {
    /// A call is polled, or has read for all: ends what is overdue, and sets the timer for an earlier deadline. Whether calls may
    /// have ended by that.
    #[inline]
    pub(super) fn keep_deadlines(&mut self, polled: PendingId, now: Instant) -> bool {
        let earlier = self.deadline_timer.at;
        let is_due = self.machine.poll_deadline().is_some_and(|at| at <= now || at < earlier);
        if is_due {
            self.pending.polled = Some(polled);
            self.end_overdue(now);
            self.set_deadline_timer();
        }
        is_due
    }

    /// Sets the timer for a deadline that comes before the one that it was set for.
    pub(in super::super) fn set_deadline_timer(&mut self) {
        if let Some(at) = self.machine.poll_deadline().filter(|at| *at < self.deadline_timer.at) {
            self.set_deadline_timer_at(at);
        }
    }

    fn set_deadline_timer_at(&mut self, at: Instant) {
        let timer = &mut self.deadline_timer;
        timer.at = at;
        timer.timer.set(at);
        if timer.timer.poll(&mut Context::from_waker(&timer.waker)).is_ready() {
            // The deadline is past. The waker takes the lock, so it is called when that is free.
            timer.timer.set(Instant::ZERO);
            self.to_wake.push(timer.waker.clone());
        }
    }

    /// The timer's waker was called, perhaps for nothing: ends what is overdue, or a part of it. True if it must be called
    /// again at once, with `goes_on`.
    pub(in super::super) fn poll_deadline_timer(&mut self, now: Instant, goes_on: bool) -> bool {
        let timer = &mut self.deadline_timer;
        if !goes_on && timer.timer.poll(&mut Context::from_waker(&timer.waker)).is_pending() {
            return false;
        }
        timer.at = Instant::FAR_FUTURE;
        self.end_overdue(now);
        if self.machine.poll_deadline().is_some_and(|at| at <= now) {
            // No one sets it meanwhile.
            self.deadline_timer.at = Instant::ZERO;
            return true;
        }
        self.set_deadline_timer();
        false
    }

    /// Ends the calls that are overdue, or a thousand of them. What has arrived is read first, since an answer that is there counts.
    pub(in super::super) fn end_overdue(&mut self, now: Instant) {
        if self.machine.poll_deadline().is_none_or(|at| at > now) {
            return;
        }
        let reader = match self.reader.leader {
            Leader::Call(id) => self.pending.waker(id),
            Leader::None | Leader::Task => None,
        };
        if let Some(waker) = reader.or(self.task.as_ref()).cloned() {
            self.run(now, &mut Context::from_waker(&waker), None, OVERDUE_LEN);
        }
        self.machine.handle_deadlines(now);
        self.deliver(now);
        // Cancels, and calls that waited for a slot.
        self.request_flush();
    }
}
