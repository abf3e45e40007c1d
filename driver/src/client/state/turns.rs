//! The task's part: it begins and ends a connection, with as few sleeps and wake-ups as it can, and reads when no call
//! does.

use std::task::{Context, Poll};
use std::time::Duration;

use oncewire_core::Instant;

use super::super::link::TURN_LEN;
#[cfg(feature = "stream")]
use super::super::reader::Flush;
use super::super::reader::Leader;
use super::{OVERDUE_LEN, State};
use crate::spin::{Spin, with_forced_reads};

impl State {
    /// The task reads for all, as much as sockets hold.
    pub(in super::super) fn lead_as_task(&mut self, now: Instant, cx: &mut Context<'_>) {
        self.reader.lead_as_task(&mut self.pending);
        self.run(now, cx, None, OVERDUE_LEN);
    }

    /// The task reads for all, until there is nothing more. On a new connection it may first [spin](State::spin_as_task)
    /// for the answer to what it wrote: then true, and the next turn continues.
    pub(in super::super) fn lead_or_spin(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
        may_spin: bool,
    ) -> bool {
        self.reader.lead_as_task(&mut self.pending);
        let mut left = TURN_LEN;
        loop {
            let wrote = self.flush(now, cx);
            let is_answerable = wrote && self.link.is_up() && self.link.is_flushed();
            let is_fresh = self.lifecycle.connection.is_fresh;
            if may_spin && is_fresh && is_answerable && self.spin.should_spin() {
                return true;
            }
            match self.read_once(now, cx) {
                Poll::Pending => return false,
                Poll::Ready(len) => left = left.saturating_sub(len),
            }
            if self.pass_fresh_lead(now) {
                return false;
            }
            if left == 0 {
                self.end_turn(cx);
                return false;
            }
        }
    }

    /// One attempt of the task's spin, which began after a turn; `Some` when the spin is over.
    pub(in super::super) fn spin_as_task(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
        spin: &mut Spin,
    ) -> Option<()> {
        self.reader.lead_as_task(&mut self.pending);
        self.flush(now, cx);
        let read = with_forced_reads(|| self.read_once(now, cx));
        if read.is_ready() {
            self.pass_fresh_lead(now);
        }
        self.spin.is_over(spin, now, read.is_ready()).then_some(())
    }

    /// A connection is not new any more when nothing is pending on it: the next call reads, or ends it. If none comes, the
    /// task's timer fires soon. Whether that is so now.
    fn pass_fresh_lead(&mut self, now: Instant) -> bool {
        let is_idle = self.machine.pending() == 0 && !self.awaits_control();
        if !self.lifecycle.connection.is_fresh || !is_idle {
            return false;
        }
        self.lifecycle.connection.is_fresh = false;
        self.pass_lead(now);
        true
    }

    /// Writes what there is to write in the task's place, without waking it. It is left what the stream does not take.
    #[cfg(feature = "stream")]
    pub(in super::super) fn flush_for_task(&mut self, now: Instant) {
        let is_free =
            self.reader.flush == Flush::None && self.link.is_up() && self.link.is_flushed();
        let Some(task) = self.task.clone().filter(|_| is_free) else {
            return self.request_flush();
        };
        self.flush(now, &mut Context::from_waker(&task));
        if self.link.is_up() && !self.link.is_flushed() {
            // The stream wakes the task when it takes more.
            self.reader.flush = Flush::ByTask;
        }
        self.wake_task_if_due_earlier();
        self.dropped.push(task);
    }

    /// Sends Goodbye at once if nothing else is pending, without waking the task; it wakes when the server has ended the
    /// connection, or by its timer. If no one awaits `close`, the connection is dropped at once. False if the task must
    /// be woken for it.
    pub(in super::super) fn say_goodbye(
        &mut self,
        now: Instant,
        timeout: Duration,
        is_awaited: bool,
    ) -> bool {
        let nothing_else = self.journal.is_none()
            && self.machine.is_connected()
            && self.machine.pending() == 0
            && self.link.is_flushed()
            && !matches!(self.reader.leader, Leader::Call(_));
        let is_awake_in_time = self.armed <= now + timeout;
        let task = self.task.clone().filter(|_| nothing_else && is_awake_in_time);
        let Some(task) = task else { return false };
        let mut cx = Context::from_waker(&task);
        self.flush(now, &mut cx);
        if !is_awaited && self.link.is_flushed() && self.machine.is_goodbye_sent() {
            // The server ends the session when it reads the Goodbye, whether or not we are still there.
            self.lose_connection(now, "the client was dropped".to_owned());
        } else if self.reader.leader == Leader::None {
            self.lead_as_task(now, &mut cx);
        }
        true
    }
}
