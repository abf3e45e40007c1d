//! Deadlines are told in time, whatever the executor does.
//!
//! The client's task keeps time, but it needs a thread of the executor, and all of them may be blocked. So the first
//! deadline has a timer of its own, whose waker is no task's: it ends the calls that are overdue on whatever thread it is
//! called, the reactor's, and wakes those who wait for them.

use std::sync::{Arc, Weak};
use std::task::{Context, Wake, Waker};

use oncewire_core::Instant;

use super::{Leader, OVERDUE_LEN, Shared, State};
use crate::runtime::Timer;

pub(super) struct Alarm {
    timer: Box<dyn Timer>,
    /// When it fires; it may be before there is something to do.
    at: Instant,
    waker: Waker,
}

struct Bell(Weak<Shared>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let Some(shared) = self.0.upgrade() else { return };
        let is_durable = shared.with(|state, now| {
            state.poll_alarm(now);
            state.durable.is_some()
        });
        if is_durable {
            shared.submit();
        }
    }
}

impl Alarm {
    pub(super) fn new(shared: Weak<Shared>, timer: Box<dyn Timer>) -> Alarm {
        Alarm { timer, at: Instant::FAR_FUTURE, waker: Waker::from(Arc::new(Bell(shared))) }
    }
}

impl State {
    /// A call was polled, or read for all: ends what is overdue, and has the alarm fire for what comes before its time.
    #[inline]
    pub(super) fn keep_deadlines(&mut self, now: Instant) {
        if self.machine.poll_deadline().is_some_and(|at| at <= now || at < self.alarm.at) {
            self.end_overdue(now);
            self.set_alarm();
        }
    }

    /// Has the alarm fire for a deadline that comes before the one that it was set for.
    pub(in super::super) fn set_alarm(&mut self) {
        if let Some(at) = self.machine.poll_deadline().filter(|at| *at < self.alarm.at) {
            self.set_alarm_at(at);
        }
    }

    fn set_alarm_at(&mut self, at: Instant) {
        let alarm = &mut self.alarm;
        alarm.at = at;
        alarm.timer.set(at);
        if alarm.timer.poll(&mut Context::from_waker(&alarm.waker)).is_ready() {
            // Its time is past. Not now: the lock is held.
            alarm.timer.set(Instant::ZERO);
            self.to_wake.push(alarm.waker.clone());
        }
    }

    /// Ends the calls whose time is past, if the alarm says so; its waker may be called for nothing.
    fn poll_alarm(&mut self, now: Instant) {
        let alarm = &mut self.alarm;
        if alarm.timer.poll(&mut Context::from_waker(&alarm.waker)).is_pending() {
            return;
        }
        alarm.at = Instant::FAR_FUTURE;
        self.end_overdue(now);
        self.set_alarm();
    }

    /// Ends the calls whose time is past. What has arrived is read before, in the name of whoever reads for all.
    pub(super) fn end_overdue(&mut self, now: Instant) {
        if self.machine.poll_deadline().is_none_or(|at| at > now) {
            return;
        }
        let reader = match self.leader {
            Leader::Call(id) => self.pending.waker(id),
            Leader::Nobody | Leader::Task => None,
        };
        if let Some(waker) = reader.or(self.task.as_ref()).cloned() {
            self.run(now, &mut Context::from_waker(&waker), None, OVERDUE_LEN);
        }
        self.machine.handle_deadlines(now);
        self.deliver(now);
        // Whatever came of it is to leave.
        self.request_flush();
    }
}
