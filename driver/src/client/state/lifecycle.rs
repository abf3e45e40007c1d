//! How the task begins and ends a connection, with as few sleeps and wake-ups as it can.

use std::task::{Context, Poll};
use std::time::Duration;

use oncewire_core::Instant;

use super::{Leader, State, TURN_LEN};
use crate::spin::{self, SpinAttempt};

impl State {
    /// The task reads for all, until there is nothing more. On a new connection, only until it has written what may be
    /// answered in a moment: then it is to give way, and take another turn with the look that it got.
    pub(in super::super) fn lead_or_look(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
        may_look: bool,
        mut looked: Option<SpinAttempt>,
    ) -> Option<SpinAttempt> {
        self.take_lead_as_task();
        let mut left = TURN_LEN;
        loop {
            let wrote = self.flush(now, cx);
            let answerable = wrote && self.stream.is_some() && self.write.is_empty();
            if may_look && self.fresh && answerable && self.spin.should_spin() {
                return Some(SpinAttempt::new(now, Duration::ZERO));
            }
            let read = match looked {
                Some(_) => spin::with_forced_reads(|| self.read_once(now, cx)),
                None => self.read_once(now, cx),
            };
            if let Some(mut look) = looked.take() {
                match look.judge(now, read.is_ready()) {
                    Some(brought) => self.spin.record(brought),
                    None if may_look => return Some(look),
                    None => {}
                }
            }
            match read {
                Poll::Pending => return None,
                Poll::Ready(len) => left = left.saturating_sub(len),
            }
            if self.fresh && self.machine.pending() == 0 && !self.awaits_control() {
                // Whoever calls next reads, or ends the connection; if nobody does, the task comes back soon.
                self.fresh = false;
                self.pass_lead(now);
                return None;
            }
            if left == 0 {
                self.overrun(cx);
                return None;
            }
        }
    }

    /// The last words of a client that has nothing else to say leave at once, and nobody need be woken before the server
    /// has ended the connection, or the task's timer fires; if nobody waits for the end, that is it. False if the task is
    /// to see to it all.
    pub(super) fn say_goodbye(
        &mut self,
        now: Instant,
        timeout: Duration,
        waited_for: bool,
    ) -> bool {
        let nothing_else = self.durable.is_none()
            && self.machine.is_connected()
            && self.machine.pending() == 0
            && self.write.is_empty()
            && !matches!(self.leader, Leader::Call(_));
        let is_awake_in_time = self.armed <= now + timeout;
        let task = self.task.clone().filter(|_| nothing_else && is_awake_in_time);
        let Some(task) = task else { return false };
        let mut cx = Context::from_waker(&task);
        self.flush(now, &mut cx);
        if !waited_for && self.write.is_empty() && self.machine.is_goodbye_sent() {
            // Whoever reads our goodbye ends the session, whether or not we are still there.
            self.lose_stream(now, "the client was dropped".to_owned());
        } else if self.leader == Leader::Nobody {
            self.lead_as_task(now, &mut cx);
        }
        true
    }
}
