//! How a call ends: what is kept of it, and whether its reply leaves at once (S4, S11).

use super::replies::SessionView;
use super::slot::SlotState;
use super::{Conn, ServerCounters, Slot};
use crate::ids::Key;
use crate::outcome::{NoReply, Status};
use crate::storage::copy::copy;
use crate::storage::list::NIL;
use crate::storage::{Body, Payload, Places, ServerStorage, Table};
use crate::wire::{self, REPLY_HEADER_LEN, len_with_len};

impl<T: ServerStorage> SessionView<'_, T> {
    /// Records the end of a call that was admitted or ran, and has its answer sent if its client listens. `end` says what is kept; it
    /// is `None` if the slot has another call by now, to which nothing happens. `with_len`: a shared body is kept behind its length.
    /// `out`: a connection, and the room for what it sends next; the reply is written there if it is the next frame of that connection.
    ///
    /// Returns whether the call has ended with nothing that waits to be sent, so that it may have to be
    /// [forgotten](SessionView::forget_idempotent); and how many bytes were written.
    #[inline(always)]
    #[must_use]
    pub(super) fn finish<'a>(
        &mut self,
        slot_number: u32,
        with_len: bool,
        end: impl FnOnce(&Slot<T::Body>) -> Option<(Status, Payload<'a>)>,
        out: Option<(Key, &mut [u8])>,
    ) -> (bool, usize) {
        let (conn, epoch) = (self.session.conn, self.session.epoch);
        let Some(calls) = self.session.calls.as_deref_mut() else { return (false, 0) };
        let Some(slot) = calls.slots.at_mut(slot_number) else { return (false, 0) };
        let Some((status, body)) = end(slot) else { return (false, 0) };
        debug_assert!(slot.state.is_running() && calls.running > 0, "a call ends once");
        let mut len = body.as_slice().len();
        let stored = if with_len && body.is_shared() {
            len = len_with_len(len);
            slot.body.store_with_len(body)
        } else {
            slot.body.store(body)
        };
        let (status, len) = match stored {
            true => (status, len as u32),
            false => (Status::NoReply(NoReply::ReplyTooLarge), 0),
        };
        debug_assert!(len <= slot.bytes, "room was set aside for all that is kept");
        slot.state = SlotState::Kept(status);
        let late = slot.is_late.0;
        let due = slot.is_due(epoch) && conn != NIL;
        let sent = match out {
            Some((to, out)) if due && calls.out.is_empty() && status == Status::Done => {
                match self.conns.keyed_mut(conn) {
                    Some((key, conn)) if key == to => send_at_once(conn, self.counters, slot, out),
                    _ => 0,
                }
            }
            _ => 0,
        };
        let idempotent = slot.idempotent;
        let waits = due && sent == 0;
        let joins = waits && !slot.out_links.is_linked();
        if joins {
            slot.out_links = calls.out.links_at_end();
        }
        let freed = slot.bytes.saturating_sub(len);
        slot.bytes -= freed;
        let request = u64::from(core::mem::take(&mut slot.request_bytes));
        if late {
            calls.held.finish_late(&mut calls.slots, slot_number);
        }
        calls.request_bytes -= request;
        calls.running -= 1;
        calls.kept_bytes -= u64::from(freed);
        self.quota.request_bytes -= request;
        self.quota.kept_bytes -= u64::from(freed);
        self.counters.request_bytes -= request;
        self.counters.kept_bytes -= u64::from(freed);
        self.counters.running -= 1;
        self.counters.refused += u64::from(matches!(status, Status::Refused(_)));
        if joins {
            calls.out.append(&mut calls.slots, slot_number, |_| true);
        }
        if waits {
            self.wake(conn);
        }
        (!due || sent > 0 && idempotent, sent)
    }
}

/// Writes the reply that is kept on a slot, if nothing comes before it on its connection and all of it fits and is in one piece.
/// Returns its length, or 0.
#[inline(always)]
fn send_at_once<B: Body>(
    conn: &mut Conn<B>,
    counters: &mut ServerCounters,
    slot: &Slot<B>,
    out: &mut [u8],
) -> usize {
    if conn.sends_replies()
        && let Some(body) = slot.body.own()
        && let len = REPLY_HEADER_LEN + body.len()
        && let Some(frame) = out.get_mut(..len)
        && let Some((head, rest)) = frame.split_first_chunk_mut()
    {
        *head = wire::done_header(slot.xid, body.len());
        copy(body, rest);
        conn.keepalive.on_sent();
        counters.replies += 1;
        return len;
    }
    0
}
