//! Signatures: which calls wait until their owner has compared their methods with the server's (S33).
//!
//! Two programs may mean different things by one method. The machine does not know what a method means; it keeps calls whose
//! [`Comparison`] is pending from being sent, and forgets with each connection what was said of the last one:
//!
//! ```text
//!  handle_data ─► Connected ─► [owner compares, and may ask the server: call_ahead] ─► compare ─► sent, or ended
//! ```

use super::call::{CallState, InFlight};
use super::calls::CallTable;
use super::recovery::{self, Judged};
use super::{Call, Client, Comparison};
use crate::ids::CallId;
use crate::storage::{ClientStorage, Places};
use crate::time::Instant;

impl<S: ClientStorage> Client<S> {
    /// Says what is known by now of the calls whose comparison is pending: `verdict` is asked for each by its
    /// [`signature`](Call::signature). What is still pending stays so, and [`NotNeeded`](Comparison::NotNeeded) counts as the same. Poll transmit and events afterwards.
    ///
    /// It counts for this connection. Without one nothing happens. Visits all calls.
    pub fn compare(&mut self, now: Instant, mut verdict: impl FnMut(u32) -> Comparison) {
        self.advance_clock(now);
        if !self.is_connected() {
            return;
        }
        let mut next = self.table.call_after(None);
        while let Some(index) = next {
            next = self.table.call_after(Some(index));
            self.compare_call(index, &mut verdict);
        }
        let mut next = self.table.held.front();
        while let Some(index) = next {
            next = self.table.held.next(&self.table.calls, index);
            self.compare_call(index, &mut verdict);
        }
    }

    fn compare_call(&mut self, index: u32, verdict: &mut impl FnMut(u32) -> Comparison) {
        let Some(entry) = self.table.calls.live_mut(index) else { return };
        if entry.comparison != Comparison::Pending {
            return;
        }
        entry.comparison = match verdict(entry.signature) {
            Comparison::NotNeeded => Comparison::Same,
            said => said,
        };
        self.judge(index);
    }

    /// A call's comparison has changed.
    fn judge(&mut self, index: u32) {
        let Some(entry) = self.table.calls.live(index) else { return };
        match recovery::judged(entry.known()) {
            Judged::Nothing => {}
            Judged::Release => self.table.release_held(index),
            Judged::End(outcome) => self.table.end(index, outcome),
            Judged::Settle(outcome) => self.settle_with(index, outcome),
            Judged::Resume => self.table.resume_held(index),
        }
    }

    /// A call of a method with a signature has begun.
    #[cold]
    #[inline(never)]
    pub(super) fn begin_compared(&mut self, id: CallId) {
        // Without a connection it waits; the next `Welcome` holds it.
        if self.is_connected() {
            self.table.hold(id.0.index);
            self.judge(id.0.index);
        }
    }

    /// Queues a call of the owner's own before all that wait, for it to compare signatures by. No limit of the
    /// [configuration](super::ClientConfig) keeps it from being made, and it may be made while the client closes. In a durable
    /// client it must be journaled like every call.
    ///
    /// `None` without a connection, if its metadata are behind a length (`with_len`), and if the storage has no room.
    pub fn call_ahead(&mut self, now: Instant, call: Call<'_>) -> Option<CallId> {
        self.advance_clock(now);
        if !self.is_connected() {
            return None;
        }
        let deadline = self.now + call.timeout;
        let first = self.table.first_waiting;
        let id = self.table.admit_any(call, deadline)?;
        self.table.move_ahead(id.0.index, first);
        Some(id)
    }
}

impl<S: ClientStorage> CallTable<S> {
    /// There is a connection, to which nothing was compared yet.
    pub(super) fn forget_comparisons(&mut self) {
        debug_assert!(self.held.is_empty(), "without a connection they wait");
        let mut next = self.call_after(None);
        while let Some(index) = next {
            next = self.call_after(Some(index));
            let Some(entry) = self.calls.live_mut(index) else { return };
            if entry.comparison != Comparison::NotNeeded {
                entry.comparison = Comparison::Pending;
                self.hold(index);
            }
        }
    }

    /// Takes a call off those that wait for a slot, if it is one.
    fn hold(&mut self, index: u32) {
        let Some(entry) = self.calls.live_mut(index) else { return };
        if entry.state != CallState::Waiting {
            return;
        }
        entry.state = CallState::Held;
        self.leave_queue(index);
        self.held.push_back(&mut self.calls, index);
    }

    /// A call waits for a slot again, behind the others.
    fn release_held(&mut self, index: u32) {
        let Some(entry) = self.calls.live_mut(index) else { return };
        debug_assert_eq!(entry.state, CallState::Held);
        entry.state = CallState::Waiting;
        self.held.unlink(&mut self.calls, index);
        self.queue.push_back(&mut self.calls, index);
        self.first_waiting.get_or_insert(index);
    }

    /// The connection is gone: the next one decides about the calls that are held.
    pub(super) fn release_all_held(&mut self) {
        while let Some(index) = self.held.front() {
            self.release_held(index);
        }
    }

    /// An unsettled call was compared: it sends what it could not send before, if there is something.
    fn resume_held(&mut self, index: u32) {
        let Some(entry) = self.calls.live(index) else { return };
        let was_held = match entry.state {
            CallState::InFlight(InFlight { next, .. }) => next.is_some(),
            // Another one is sent when it is journaled.
            CallState::Numbered { xid } => xid.get() <= self.journaled_up_to,
            _ => false,
        };
        if was_held {
            self.note_todo(index);
        }
    }

    /// A call that waits at the end of the queue goes before those from `first` on.
    fn move_ahead(&mut self, index: u32, first: Option<u32>) {
        let Some(first) = first else { return };
        self.queue.unlink(&mut self.calls, index);
        self.queue.insert_before(&mut self.calls, index, first);
        self.first_waiting = Some(index);
    }
}
