//! What the machine decided by itself, for an owner that watches it.

use super::Server;
use super::dedup::Arrival;
use super::event::{Notice, Verdict};
use super::slot::{SlotState, SlotView};
use crate::storage::ServerStorage;

impl<T: ServerStorage> Server<T> {
    /// Notes what was decided, for an owner that wants to know.
    #[cold]
    pub(super) fn note(&mut self, notice: Notice) {
        if self.config.notices {
            debug_assert!(self.notice.is_none(), "a frame has one notice at most");
            self.notice = Some(notice);
        }
    }

    /// What was decided, once, when [`Incoming::Notice`](super::Incoming::Notice) has come.
    pub fn take_notice(&mut self) -> Option<Notice> {
        self.notice.take()
    }
}

/// What a request that is not to run is answered with.
pub(super) fn arrival_verdict(arrival: Arrival, slot: &SlotView) -> Verdict {
    match (arrival, slot.state) {
        (Arrival::Stale, _) => Verdict::Dropped,
        (_, SlotState::Kept(_)) => Verdict::Kept,
        _ => Verdict::WhenDone,
    }
}
