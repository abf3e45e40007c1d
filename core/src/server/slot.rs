//! A slot of a session: the last call on it and how far that has come.

use crate::outcome::Status;
use crate::storage::list::{Links, linked};
use crate::time::Instant;
use crate::wire::{FLAG_IDEMPOTENT, FLAG_ONE_WAY, RequestHeader};

/// What follows from other values: two machines that differ in it only behave alike, and the explorer's digest leaves it
/// out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Derived<T>(pub(super) T);

#[cfg(feature = "_explore")]
impl<T> core::hash::Hash for Derived<T> {
    fn hash<H: core::hash::Hasher>(&self, _: &mut H) {}
}

/// One slot.
#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(crate) struct Slot<B> {
    /// The last xid admitted or refused; 0 if none.
    pub(super) xid: u64,
    pub(super) digest: u64,
    /// When the call may no longer be started.
    pub(super) deadline: Instant,
    /// The xid that was asked for and not seen; 0 if none.
    pub(super) not_seen: u64,
    /// The number of the latest `Ask` for it.
    pub(super) ask: u16,
    pub(super) body: B,
    /// Its neighbours among the held calls: in a tree if it came late, else on a list.
    pub(super) held_links: Derived<Links>,
    /// Whether its call came later than one with a higher xid.
    pub(super) is_late: Derived<bool>,
    /// Its neighbours among those with something to send.
    pub(super) out_links: Links,
    /// The session's connection on which its request or `Ask` last came.
    pub(super) epoch: u32,
    /// Bytes counted for it: reserved while it runs, the body's length when it is kept.
    pub(super) bytes: u32,
    /// Bytes of its request, while it is admitted or runs.
    pub(super) request_bytes: u32,
    pub(super) state: SlotState,
    pub(super) idempotent: bool,
    pub(super) one_way: bool,
    pub(super) cancelled: bool,
}

/// What a slot's call is doing.
///
/// ```text
///  Discarded ─► Admitted ─► Running ─► Kept ─► Discarded
///                   └─ refused ─────────▲
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) enum SlotState {
    /// There was no call yet, or its client has seen its answer: nothing but its xid and digest is here. The next call on
    /// the slot is admitted, or a ledger's record restored as `Kept`.
    #[default]
    Discarded,
    /// The request was taken in, and its handler has not started: it will be `Running`, or `Kept` as refused.
    Admitted,
    /// Its handler runs, and will answer: `Kept`. It stays until then, whatever becomes of its session.
    Running,
    /// It has ended with this status and waits for its client to see the answer: `Discarded` by an acknowledgement or by a
    /// later xid on the slot; or `Admitted` again, if it is idempotent and its reply was not kept.
    Kept(Status),
}

impl SlotState {
    /// Whether the call is still to be answered.
    pub(super) fn is_running(self) -> bool {
        matches!(self, SlotState::Admitted | SlotState::Running)
    }
}

/// What the decisions in `dedup.rs` look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotView {
    /// The last xid admitted or refused on it; 0 if none.
    pub(super) xid: u64,
    /// That call's digest.
    pub(super) digest: u64,
    /// The xid that was asked for and not seen; 0 if none.
    pub(super) not_seen: u64,
    /// How far the call has come.
    pub(super) state: SlotState,
}

impl SlotView {
    /// A slot on which nothing ever came.
    pub(super) const UNUSED: SlotView =
        SlotView { xid: 0, digest: 0, not_seen: 0, state: SlotState::Discarded };
}

impl<B> Slot<B> {
    /// Whether what it has to send goes to the connection with this number (S4).
    #[inline]
    pub(super) fn is_due(&self, epoch: u32) -> bool {
        self.not_seen != 0 || self.epoch == epoch
    }

    /// What a new request says; its xid, its state and its bytes are set with the rest of what its session counts.
    #[inline]
    pub(super) fn fill(
        &mut self,
        header: &RequestHeader,
        digest: u64,
        deadline: Instant,
        epoch: u32,
    ) {
        self.digest = digest;
        self.deadline = deadline;
        self.not_seen = 0;
        self.epoch = epoch;
        self.idempotent = header.flags & FLAG_IDEMPOTENT != 0;
        self.one_way = header.flags & FLAG_ONE_WAY != 0;
        self.cancelled = false;
    }

    pub(super) fn view(&self) -> SlotView {
        SlotView { xid: self.xid, digest: self.digest, not_seen: self.not_seen, state: self.state }
    }
}

pub(super) const HELD: u8 = 13;
pub(super) const OUT: u8 = 14;

linked!(Slot<B>, OUT, out_links);
