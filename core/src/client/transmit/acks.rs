//! What a client acknowledges, and when (S9, S16).

use super::Step;
use crate::client::Client;
use crate::ids::Xid;
use crate::storage::ClientStorage;
use crate::time::{Instant, Timer};
use crate::wire::writer::FrameWriter;
use crate::wire::{Ack, Frame};

impl<S: ClientStorage> Client<S> {
    /// What the request of a call acknowledges, which is about to leave.
    #[inline(always)]
    pub(super) fn acknowledge_with(&mut self, index: u32, xid: Xid) -> u64 {
        let acked = self.table.acked_with(index, xid);
        if !self.table.settled_above(acked) {
            self.output.ack_owed = None;
            self.timers.ack = Timer::OFF;
        }
        acked
    }

    /// A call was settled whose reply had `len` bytes: S16.
    #[inline]
    pub(in crate::client) fn note_settled(&mut self, len: usize) {
        debug_assert!(self.session.is_some(), "a call was unsettled in it");
        let owed = self.output.ack_owed.unwrap_or(0).saturating_add(len);
        self.output.ack_owed = Some(owed);
        let at_once = owed >= self.config.ack_bytes || self.has_said_goodbye();
        if at_once || self.timers.ack == Timer::OFF {
            self.schedule_ack(at_once);
        }
    }

    /// Sees to it that an `Ack` is sent, at once or in time, if one is owed or must be sent at once. Without a session on
    /// this connection, its `Welcome` sees to that.
    pub(in crate::client) fn schedule_ack(&mut self, at_once: bool) {
        if !self.is_connected() {
            return;
        }
        if at_once {
            self.output.ack_owed.get_or_insert(0);
            self.timers.ack = Timer::at(self.now);
        } else if self.output.ack_owed.is_some() && self.timers.ack == Timer::OFF {
            // While it is on, it is due by then. Never later than "never": a session cannot end while something in it is
            // unacknowledged.
            let later = (self.now + self.config.ack_delay).min(Instant::LAST);
            self.timers.ack = Timer::at(later);
        }
    }

    /// S27: on a link that loses messages, acknowledges and says `Goodbye` again, since the last one may be lost. Done at
    /// each Ping of either side: the side that looks at a silent link more often is the only one that sends any.
    pub(in crate::client) fn repeat_if_lossy(&mut self) {
        if self.config.resend_after.is_some() {
            self.output.goodbye_again = true;
            self.schedule_ack(true);
        }
    }

    pub(super) fn wants_ack(&self) -> bool {
        debug_assert_eq!(self.output.ack_owed.is_some(), self.timers.ack.get().is_some());
        self.output.ack_round.is_some()
            || self.timers.ack.is_due(self.now)
            || (self.output.ack_owed.is_some() && self.wants_goodbye())
    }

    /// S9: `acked`, and a bit for each slot of which everything is settled; 64 slots a frame.
    pub(super) fn send_ack(&mut self, out: &mut FrameWriter<'_>) -> Step {
        let acked = self.table.acked();
        let above = self.table.settled_above(acked);
        loop {
            let begun = self.output.ack_round;
            let base = begun.unwrap_or(0);
            let bits = if above { self.table.settled_bits(base) } else { None };
            if begun.is_none() || bits.is_some_and(|(_, settled)| settled != 0) {
                let (base, settled) = bits.unwrap_or((base, 0));
                let last = self.table.journaled_up_to;
                if !out.control(&Frame::Ack(Ack { acked, last, base, settled })) {
                    return Step::Stop;
                }
            }
            if begun.is_none() {
                // What is settled from here on may be on a slot that the round has passed: it is owed another one.
                self.output.ack_owed = None;
                self.timers.ack = Timer::OFF;
            }
            self.output.ack_round = bits.map(|(base, _)| base + 64);
            if self.output.ack_round.is_none() {
                return Step::More;
            }
        }
    }
}
