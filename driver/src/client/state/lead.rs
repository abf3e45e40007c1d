//! Leader and followers: of the calls that wait, one reads the socket for all.
//!
//! A call that finds nobody reading leads. When its outcome has come, or it is dropped, it passes the lead on to one that
//! waits; where nobody waits, or a leader is not polled any more, the client's task reads.

use std::task::Context;
use std::time::Duration;

use oncewire_core::Instant;

use super::super::pending::PendingId;
use super::{LEAD_AFTER, OVERDUE_LEN, State, TURN_LEN};
use crate::outcome::RawOutcome;

/// With fewer calls pending than this, a caller writes its own request at once; with more, the leader writes them
/// together.
const WRITE_ALONE_MAX: usize = 4;
/// Calls in a row that are answered without a sleep: then other tasks get their turn.
const LOOKS_MAX: u32 = 64;

/// A call that reads for others, too, may have been polled once and left alone: so often the task looks whether any call
/// has read since it last looked, and reads itself if not.
const LEAD_WATCH: Duration = Duration::from_micros(400);

/// The task looks after the calls that wait for what another one reads.
#[derive(Debug)]
pub(super) struct Watch {
    until: Instant,
    /// How often leading calls had been polled when it began.
    leads: u64,
}

/// How a poll of a call goes on.
pub(super) enum Step {
    Done(RawOutcome),
    /// Requests were written, and the reply may be there in a moment.
    Look,
    Sleep,
}

/// Who reads the socket for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Leader {
    Nobody,
    Task,
    Call(PendingId),
}

impl State {
    #[inline]
    pub(super) fn poll_outcome(
        &mut self,
        id: PendingId,
        now: Instant,
        cx: &mut Context<'_>,
        may_look: bool,
    ) -> Step {
        match self.take_outcome(id, now) {
            Some(outcome) => Step::Done(outcome),
            None => self.poll_waiting(id, now, cx, may_look),
        }
    }

    /// The same for a call whose outcome was not there a moment ago.
    #[inline]
    pub(super) fn poll_waiting(
        &mut self,
        id: PendingId,
        now: Instant,
        cx: &mut Context<'_>,
        may_look: bool,
    ) -> Step {
        self.pending.wait(id, cx, &mut self.dropped);
        self.polled = Some(id);
        let mut look = false;
        let leader = self.leader;
        match leader {
            Leader::Call(leader) if leader != id && !self.leader_is_stalled(id) => {
                self.follow(id, now, cx);
            }
            // It took the lead because calls take long, and keeps it until a new one comes.
            Leader::Task if self.pending.follows(id) => {}
            _ if self.stream.is_some() => look = self.lead(id, now, cx, may_look),
            // Without a connection nobody leads; when there is one again, somebody must.
            _ => self.add_follower(id),
        }
        // The stream may never have nothing more, and whoever keeps time may not be polled.
        self.keep_deadlines(now);
        self.polled = None;
        self.wake_task_if_due_earlier();
        match self.take_outcome(id, now) {
            Some(outcome) => Step::Done(outcome),
            None if look => Step::Look,
            None => Step::Sleep,
        }
    }

    #[inline]
    pub(super) fn take_outcome_as_follower(&mut self, id: PendingId) -> Option<RawOutcome> {
        if self.leader == Leader::Call(id) { None } else { self.pending.take_outcome(id) }
    }

    #[inline]
    fn take_outcome(&mut self, id: PendingId, now: Instant) -> Option<RawOutcome> {
        let outcome = self.pending.take_outcome(id)?;
        if self.leader == Leader::Call(id) {
            self.pass_lead(now);
        }
        Some(outcome)
    }

    /// Whether the call that leads was not polled since this one last was: it may be alive and forgotten, or belong to
    /// the very task that was woken for it and polled us instead.
    #[inline]
    fn leader_is_stalled(&mut self, id: PendingId) -> bool {
        !self.pending.note_look(id, self.leads)
    }

    /// Whether it is time for the task to read, because whoever should does not.
    pub(in super::super) fn task_should_lead(&mut self, now: Instant) -> bool {
        match self.leader {
            Leader::Task => false,
            Leader::Nobody | Leader::Call(_) if self.followers.is_empty() => {
                self.led_at + LEAD_AFTER <= now
            }
            Leader::Nobody | Leader::Call(_) => {
                let watch = self.watch.take_if(|watch| watch.until <= now);
                watch.is_some_and(|watch| watch.leads == self.leads)
            }
        }
    }

    /// When the task is to see whether the lead is left alone.
    pub(in super::super) fn watch_lead(&mut self, now: Instant) -> Instant {
        let until = match self.leader {
            Leader::Task => Instant::FAR_FUTURE,
            Leader::Nobody | Leader::Call(_) if self.followers.is_empty() => {
                (self.led_at + LEAD_AFTER).max(now + Duration::from_millis(1))
            }
            Leader::Nobody | Leader::Call(_) => {
                let watch = Watch { until: now + LEAD_WATCH, leads: self.leads };
                return self.watch.get_or_insert(watch).until;
            }
        };
        self.watch = None;
        until
    }

    /// Calls wait for what another one reads, and nobody sees whether it does.
    #[inline]
    fn wants_watch(&self) -> bool {
        self.watch.is_none()
            && !self.followers.is_empty()
            && self.leader != Leader::Task
            && self.stream.is_some()
    }

    /// Whether others are about to take their outcomes, and perhaps to call again: what one call wrote now would leave
    /// alone, and a caller that is always answered at once would keep them from being polled. Only once a call: they
    /// may be held and not polled.
    #[inline]
    fn should_yield_to_ready_calls(&mut self, id: PendingId) -> bool {
        let too_soon = self.pending.has_untaken() || self.looks >= LOOKS_MAX;
        if !too_soon || self.waited == Some(id) {
            return false;
        }
        self.waited = Some(id);
        self.looks = 0;
        true
    }

    /// A call reads for all. Says whether the reply to what it wrote may be waited for without sleeping.
    fn lead(&mut self, id: PendingId, now: Instant, cx: &mut Context<'_>, may_look: bool) -> bool {
        match self.leader {
            // It has to keep time for us, and to look after the connection when we are gone.
            Leader::Task if self.armed > now + LEAD_AFTER => self.wake_task(),
            Leader::Call(other) if other != id => self.add_follower(other),
            Leader::Call(_) | Leader::Nobody | Leader::Task => {}
        }
        self.leader = Leader::Call(id);
        self.led_at = now;
        self.leads += 1;
        if self.should_yield_to_ready_calls(id) {
            cx.waker().wake_by_ref();
            return false;
        }
        if self.flush(now, cx) && may_look && self.write.is_empty() && self.spin.should_spin() {
            return true;
        }
        self.run(now, cx, Some(id), TURN_LEN);
        false
    }

    /// The task reads for all; whoever did so waits.
    pub(in super::super) fn lead_as_task(&mut self, now: Instant, cx: &mut Context<'_>) {
        self.take_lead_as_task();
        self.run(now, cx, None, OVERDUE_LEN);
    }

    pub(super) fn take_lead_as_task(&mut self) {
        if let Leader::Call(id) = self.leader {
            self.add_follower(id);
        }
        self.leader = Leader::Task;
    }

    /// Another call reads: ours waits, and its request leaves at once or with others'.
    #[inline]
    fn follow(&mut self, id: PendingId, now: Instant, cx: &mut Context<'_>) {
        let is_new = !self.pending.follows(id);
        self.add_follower(id);
        // Whoever is about to take its outcome may call again: then all of it leaves together.
        let alone = self.machine.pending() < WRITE_ALONE_MAX && !self.pending.has_untaken();
        if alone || !self.write.is_empty() {
            self.flush(now, cx);
        } else if is_new {
            // Only once: the leader may be of the same task, and would wake us in turn.
            self.request_flush();
        }
    }

    #[inline]
    pub(super) fn add_follower(&mut self, id: PendingId) {
        if !self.pending.set_follows(id, true) {
            return;
        }
        self.followers.push_back(id);
        if self.followers.len() > 2 * self.pending.len() + 64 {
            let pending = &self.pending;
            self.followers.retain(|id| pending.contains(*id));
        }
    }

    /// Somebody else who waits is woken, to lead.
    pub(super) fn pass_lead(&mut self, now: Instant) {
        self.leader = Leader::Nobody;
        self.led_at = now;
        self.leads += 1;
        while let Some(id) = self.followers.pop_front() {
            self.pending.set_follows(id, false);
            if let Some(waker) = self.pending.take_waker(id) {
                self.to_wake.push(waker);
                return;
            }
        }
        if self.flush_requested || self.awaits_control() {
            // Whoever was told to write is gone, or whoever would have read.
            self.wake_task();
        }
    }

    /// Whether something is to come that is for no call: the server's welcome or goodbye.
    pub(in super::super) fn awaits_control(&self) -> bool {
        self.machine.is_closing() || !self.machine.is_connected()
    }

    /// There is something to write: the leader does it, with whatever else there is by then.
    pub(in super::super) fn request_flush(&mut self) {
        if std::mem::replace(&mut self.flush_requested, true) {
            return;
        }
        match self.leader {
            Leader::Call(id) => match self.pending.waker(id) {
                Some(waker) => self.to_wake.push(waker.clone()),
                None => self.wake_task(),
            },
            Leader::Nobody | Leader::Task => self.wake_task(),
        }
    }

    pub(in super::super) fn wake_task(&mut self) {
        self.to_wake.extend(self.task.clone());
    }

    pub(in super::super) fn wants_flush(&self) -> bool {
        self.flush_requested
    }

    #[inline]
    fn wake_task_if_due_earlier(&mut self) {
        if self.wants_watch() || self.machine.poll_timeout().is_some_and(|at| at < self.armed) {
            self.wake_task();
        }
    }
}
