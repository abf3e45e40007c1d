//! A session at a server: what an idle one keeps, its calls while it has some, and how far it has ended.

use super::event::SessionEnd;
use super::held::Held;
use super::slot::{OUT, Slot};
use crate::ids::{SessionId, slot_of};
use crate::storage::ServerStorage;
use crate::storage::list::{Links, List, NIL, linked};
use crate::time::Instant;
use crate::wire::Grants;

/// One session. What an idle one does not need is in `calls`, which comes and goes.
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(crate) struct Session<T: ServerStorage> {
    /// Its id, or the hash of it: see [`ServerConfig::session_hash`](super::ServerConfig::session_hash).
    pub(super) id: SessionId,
    pub(super) calls: Option<T::Boxed<Calls<T>>>,
    /// Everything up to here is acknowledged (S9).
    pub(super) acked: u64,
    /// The highest xid read.
    pub(super) seen: u64,
    /// When it lost its connection.
    pub(super) disconnected_at: Instant,
    limits: Limits,
    /// Its principal's share.
    pub(super) quota: u32,
    /// Its connection, by index; `NIL` if it has none.
    pub(super) conn: u32,
    /// Number of its connection: a reply goes to the one on which its request or `Ask` last came (S4).
    pub(super) epoch: u32,
    lease_links: Links,
    /// 1 to 65,536 slots: with two bytes less than in [`Grants`] an idle session stays below 128 bytes.
    slots_less_one: u16,
    pub(super) reach: Reach,
    pub(super) state: SessionState,
}

/// Who may come back to a session that has lost its connection; it decides how long that is waited for (S6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) enum Reach {
    /// A client that has it in memory only, and has sent no request in it: nothing is lost with it but a handshake.
    Unused,
    /// No request came, but it is on a disk: a ledger's, or its client's, which may have recorded a call in it that is on
    /// its way. With a short lease such a call was lost, and its client could not learn whether it had been executed (C81, C82).
    Recorded,
    /// A request has come.
    Used,
}

impl Reach {
    pub(super) fn has_full_lease(self) -> bool {
        self != Reach::Unused
    }
}

/// What a session was granted, but for its slots.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "_explore", derive(Hash))]
struct Limits {
    request_len_max: u32,
    reply_len_max: u32,
    lease_ms: u32,
    keepalive_ms: u32,
}

/// How far a session has ended.
///
/// ```text
///           Goodbye              all answered and seen
///    Open ──────────► Closing ──────────────────────────┐
///    │  ▲ ◄────────────┘ resume                         ▼
///    │  └── resume ── Expired ────────────────────► Ended ─► (removed)
///    ├─ lease over ─────▲        last call finishes     ▲
///    └─ for cause, taken ► Aborting, Yielded ───────────┘
/// ```
///
/// A lease that is over, or a cause, ends a session in which nothing runs at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) enum SessionState {
    /// Opened, resumed, or restored from a ledger. It has a connection, or its lease runs.
    Open,
    /// The client said `Goodbye`: it ends once nothing runs, nothing is kept, and every answer has left. Without its
    /// connection the lease runs, and a resume makes it `Open`: the `Goodbye` is void then.
    Closing,
    /// Its lease is over, or its client ended it, and one of its calls runs (S6). It ends when the last one has finished;
    /// until then it can be resumed, and is `Open` again.
    Expired,
    /// It was ended for cause (S10), and one of its calls runs. It ends when the last one has finished, and cannot be
    /// resumed: its id is forgotten.
    Aborting,
    /// The same because another server has it (S34).
    Yielded,
    /// It is over, and holds nothing; its place is freed when its event was polled.
    Ended(SessionEnd),
}

impl SessionState {
    /// Whether its client may come back to it. From `Closing` too: it may have lost the connection on which it said
    /// `Goodbye` before everything had come.
    pub(super) fn may_resume(self) -> bool {
        match self {
            SessionState::Open | SessionState::Closing | SessionState::Expired => true,
            SessionState::Aborting | SessionState::Yielded | SessionState::Ended(_) => false,
        }
    }

    /// Whether its client may still ask for what is kept, and what runs in it is wanted.
    pub(super) fn is_open(self) -> bool {
        matches!(self, SessionState::Open | SessionState::Closing)
    }

    /// Whether it cannot be resumed, and waits for what runs.
    pub(super) fn is_aborting(self) -> bool {
        matches!(self, SessionState::Aborting | SessionState::Yielded)
    }

    pub(super) fn is_ended(self) -> bool {
        matches!(self, SessionState::Ended(_))
    }

    /// Why a session that ends in this state has ended.
    pub(super) fn end(self) -> SessionEnd {
        match self {
            SessionState::Open | SessionState::Expired => SessionEnd::Lease,
            SessionState::Closing => SessionEnd::Goodbye,
            SessionState::Aborting => SessionEnd::FalseRetry,
            SessionState::Yielded => SessionEnd::Taken,
            SessionState::Ended(end) => end,
        }
    }

    /// Whether it is over now; `owes` says that something is kept, or is still to be sent.
    pub(super) fn is_over(self, running: u32, owes: bool) -> bool {
        match self {
            SessionState::Open | SessionState::Ended(_) => false,
            SessionState::Closing => running == 0 && !owes,
            SessionState::Expired | SessionState::Aborting | SessionState::Yielded => running == 0,
        }
    }
}

impl<T: ServerStorage> Session<T> {
    pub(super) fn new(id: SessionId, quota: u32, grants: Grants) -> Session<T> {
        Session {
            id,
            calls: None,
            acked: 0,
            seen: 0,
            disconnected_at: Instant::ZERO,
            limits: Limits {
                request_len_max: grants.request_len_max,
                reply_len_max: grants.reply_len_max,
                lease_ms: grants.lease_ms,
                keepalive_ms: grants.keepalive_ms,
            },
            slots_less_one: (grants.slots.clamp(1, 65_536) - 1) as u16,
            quota,
            conn: NIL,
            epoch: 0,
            lease_links: Links::default(),
            reach: Reach::Unused,
            state: SessionState::Open,
        }
    }

    pub(super) fn slot_of(&self, xid: u64) -> u32 {
        slot_of(xid, u32::from(self.slots_less_one) + 1)
    }

    pub(super) fn grants(&self) -> Grants {
        Grants {
            slots: u32::from(self.slots_less_one) + 1,
            request_len_max: self.limits.request_len_max,
            reply_len_max: self.limits.reply_len_max,
            lease_ms: self.limits.lease_ms,
            keepalive_ms: self.limits.keepalive_ms,
        }
    }

    pub(super) fn table_bytes(&self) -> u32 {
        self.calls.as_deref().map_or(0, |calls| calls.table_bytes)
    }

    pub(super) fn running(&self) -> u32 {
        self.calls.as_deref().map_or(0, |calls| calls.running)
    }

    /// Whether no call is admitted, runs or is kept, and no answer waits to be sent.
    pub(super) fn holds_nothing(&self) -> bool {
        self.calls.as_deref().is_none_or(|calls| calls.held.is_empty() && calls.out.is_empty())
    }
}

/// The slots of a session.
pub(super) type Slots<T> = <T as ServerStorage>::Slots<Slot<<T as ServerStorage>::Body>>;

/// The calls of a session that is not idle.
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(crate) struct Calls<T: ServerStorage> {
    pub(super) slots: Slots<T>,
    /// Slots with a call that is admitted, runs, or is kept.
    pub(super) held: Held,
    /// Slots with something to send.
    pub(super) out: List<OUT>,
    /// Calls admitted or running.
    pub(super) running: u32,
    /// Bytes of `slots` on the heap.
    pub(super) table_bytes: u32,
    /// Bytes kept or reserved.
    pub(super) kept_bytes: u64,
    /// Bytes of the requests of calls that are admitted or run.
    pub(super) request_bytes: u64,
}

impl<T: ServerStorage> Calls<T> {
    /// Whether nothing is held, nothing waits to be sent, and nothing that was kept is still leaving.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.out.is_empty() && self.kept_bytes == 0
    }

    pub(super) fn request_and_table_bytes(&self) -> u64 {
        self.request_bytes + u64::from(self.table_bytes)
    }
}

impl<T: ServerStorage> Default for Calls<T> {
    fn default() -> Self {
        Calls {
            slots: Slots::<T>::default(),
            held: Held::default(),
            out: List::default(),
            running: 0,
            table_bytes: 0,
            kept_bytes: 0,
            request_bytes: 0,
        }
    }
}

pub(super) const LEASE: u8 = 12;

linked!(Session<T: ServerStorage>, LEASE, lease_links);
