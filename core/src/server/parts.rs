//! What a server keeps: connections, sessions, slots, and each principal's share of the room.

use super::dedup::SlotView;
use super::held::{Derived, Held};
use super::long::Coming;
use crate::error::CloseReason;
use crate::ids::{MethodId, Principal, SessionId, slot_of};
use crate::keepalive::Alive;
use crate::outcome::Status;
use crate::storage::list::{Linked, Links, List, NIL};
use crate::storage::{Lazy, ServerStorage};
use crate::time::Instant;
use crate::wire::{Grants, REPLY_HEADER_LEN, Refuse};

/// A procedure that a server offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub struct MethodSpec {
    /// Its number.
    pub id: MethodId,
    /// Whether it may run more than once (S22).
    pub idempotent: bool,
    /// Bytes of its longest reply: so much room is reserved before it runs (S11).
    pub reply_len_max: u32,
}

impl MethodSpec {
    /// A method that runs at most once and whose replies have at most 64 KiB.
    pub const fn new(id: MethodId) -> MethodSpec {
        MethodSpec { id, idempotent: false, reply_len_max: 64 << 10 }
    }
}

impl Default for MethodSpec {
    fn default() -> Self {
        MethodSpec::new(MethodId::from_number(0))
    }
}

/// One connection; opaque.
#[doc(hidden)]
#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct Conn<B> {
    pub(super) principal: Principal,
    /// What its `Hello` offered that this version knows.
    pub(super) features: u32,
    /// The share in which it is counted, by index; `NIL` if in none.
    pub(super) share: u32,
    /// Random bits for the session that it may open.
    pub(super) secret: SessionId,
    /// The session that it is bound to, by index.
    pub(super) session: Option<u32>,
    /// How far it has come.
    pub(super) phase: Phase,
    /// When it was made.
    pub(super) since: Instant,
    /// The frame at its front, while it is incomplete; before the handshake its time is that of the `Hello`.
    pub(super) incoming: Option<IncomingFrame>,
    /// The same frame, if it is a long request.
    pub(super) coming: Coming,
    pub(super) alive: Alive,
    pub(super) look_at: Instant,
    pub(super) send: ToSend,
    /// `Hello`s that came behind requests, and were dropped (S27).
    pub(super) late_hellos: u8,
    /// The reply that is leaving.
    pub(super) partial: Option<Partial<B>>,
    /// On the list by `look_at`.
    look_links: Links,
    /// On the list of those that have not said `Hello`, or of those with an incomplete frame.
    timer_links: Links,
    /// On the list of those with an event.
    event_links: Links,
}

/// A frame that has not come whole.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) struct IncomingFrame {
    /// When it last got on.
    pub(super) since: Instant,
    /// When it was put among those to be judged.
    pub(super) judged: Instant,
    /// The bytes of it that were there when it last got on.
    pub(super) len: usize,
}

/// Control frames to be sent on a connection, in the order of the fields.
#[derive(Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(super) struct ToSend {
    /// It was handed before, but may be lost (S27).
    pub(super) welcome_again: bool,
    pub(super) refuse: Option<Refuse>,
    pub(super) pong: bool,
    pub(super) ping: bool,
    pub(super) goodbye: bool,
}

impl ToSend {
    pub(super) fn is_empty(&self) -> bool {
        !self.welcome_again && self.refuse.is_none() && !self.pong && !self.ping && !self.goodbye
    }
}

/// A reply of which a byte was handed.
#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(super) struct Partial<B> {
    pub(super) header: [u8; REPLY_HEADER_LEN],
    /// Bytes of header and body that have left.
    pub(super) at: usize,
    pub(super) body: PartialBody<B>,
}

/// Where the body of a reply that is leaving stands.
#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(super) enum PartialBody<B> {
    /// Kept on this slot.
    Slot(u32),
    /// Its slot has moved on. The frame is finished all the same, and its bytes stay counted until it has left.
    Moved { body: B, bytes: u32 },
    /// The rest of the reply on this slot was taken by the driver, which is writing it.
    #[cfg_attr(not(feature = "alloc"), expect(dead_code, reason = "only shared memory is taken"))]
    Taken(u32),
    /// The same, and the slot has moved on.
    TakenMoved { bytes: u32 },
}

impl<B: Default> Partial<B> {
    /// What is kept on a slot is discarded: if it is this reply, it is finished all the same, and true is returned.
    pub(super) fn outlive(&mut self, slot_number: u32, kept: &mut B, bytes: u32) -> bool {
        self.body = match self.body {
            PartialBody::Slot(number) if number == slot_number => {
                PartialBody::Moved { body: core::mem::take(kept), bytes }
            }
            PartialBody::Taken(number) if number == slot_number => {
                PartialBody::TakenMoved { bytes }
            }
            _ => return false,
        };
        true
    }
}

impl<B> Partial<B> {
    /// Whether the machine still has bytes of it to write.
    pub(super) fn is_here(&self) -> bool {
        matches!(self.body, PartialBody::Slot(_) | PartialBody::Moved { .. })
    }
}

impl<B> Conn<B> {
    pub(super) fn new(principal: Principal, secret: SessionId, now: Instant) -> Conn<B> {
        Conn {
            principal,
            features: 0,
            share: NIL,
            secret,
            session: None,
            phase: Phase::AwaitingHello,
            since: now,
            incoming: None,
            coming: Coming::default(),
            alive: Alive::default(),
            look_at: Instant::FAR_FUTURE,
            send: ToSend::default(),
            late_hellos: 0,
            partial: None,
            look_links: Links::default(),
            timer_links: Links::default(),
            event_links: Links::default(),
        }
    }

    /// Whether the record of its session is to be asked for, now.
    pub(super) fn takes_record(&mut self) -> bool {
        let wanted = self.phase == Phase::AwaitingRecord { asked: false };
        if wanted {
            self.phase = Phase::AwaitingRecord { asked: true };
        }
        wanted
    }

    /// Whether what comes on it is read.
    #[inline]
    pub(super) fn is_read(&self) -> bool {
        !matches!(self.phase, Phase::Finishing(_) | Phase::Closing(_))
    }

    /// Why it is to be closed, if it is.
    #[inline]
    pub(super) fn closing(&self) -> Option<CloseReason> {
        match self.phase {
            Phase::Closing(reason) => Some(reason),
            _ => None,
        }
    }
}

/// How far a connection has come. Nothing but `Hello` is taken before it is up: a request that was let in together with
/// the `Hello` was executed in a session of which no record was stable, and the same bytes on another connection
/// executed it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) enum Phase {
    AwaitingHello,
    /// It has opened a session, whose record has to be stable before the `Welcome` leaves (S30).
    AwaitingRecord {
        /// Whether the driver knows.
        asked: bool,
    },
    /// The `Welcome` is to leave.
    WelcomeDue {
        /// Whether the session was opened here. Before its `Welcome` has left, no other place knows its id.
        opened: bool,
    },
    /// The `Welcome` has left.
    Up,
    /// Nothing more is read, and it is closed for this reason once all answers that wait have left.
    Finishing(CloseReason),
    /// To be closed for this reason once everything was sent. It has no session.
    Closing(CloseReason),
}

pub(super) const LOOK: u8 = 10;
pub(super) const CONN_EVENT: u8 = 11;
pub(super) const LEASE: u8 = 12;
pub(super) const HELD: u8 = 13;
pub(super) const OUT: u8 = 14;
pub(super) const TIMER: u8 = 15;

macro_rules! linked {
    ($type:ident<$param:ident $(: $bound:ident)?>, $list:expr, $field:ident) => {
        impl<$param $(: $bound)?> Linked<{ $list }> for $type<$param> {
            fn links(&self) -> &Links {
                &self.$field
            }
            fn links_mut(&mut self) -> &mut Links {
                &mut self.$field
            }
        }
    };
}

linked!(Conn<B>, LOOK, look_links);
linked!(Conn<B>, CONN_EVENT, event_links);
linked!(Conn<B>, TIMER, timer_links);
linked!(Session<T: ServerStorage>, LEASE, lease_links);
linked!(Slot<B>, OUT, out_links);

/// One session; opaque. What an idle one does not need is in `calls`, which comes and goes.
#[doc(hidden)]
#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct Session<T: ServerStorage> {
    pub(super) id: SessionId,
    pub(super) calls: T::LazyCalls,
    /// X.
    pub(super) acked: u64,
    /// h.
    pub(super) seen: u64,
    /// When it lost its connection.
    pub(super) alone_since: Instant,
    limits: Limits,
    /// Its principal's share.
    pub(super) share: u32,
    /// Its connection, by index; `NIL` if it has none.
    pub(super) conn: u32,
    /// Number of its connection: a reply goes to the one on which its request or `Ask` last came (S4).
    pub(super) epoch: u32,
    lease_links: Links,
    /// 1 to 65,536 slots: with two bytes less than in [`Grants`] an idle session stays below 128 bytes.
    slots_less_one: u16,
    pub(super) reach: Reach,
    pub(super) end: End,
}

/// Who may come back to a session that has lost its connection; it decides how long that is waited for (S6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) enum Reach {
    /// A client that has it in memory only, and has sent no request in it: nothing is lost with it but a handshake.
    Unused,
    /// No request came, but it is on a disk: a ledger's, or its client's, which may have recorded a call in it that is on
    /// its way. With a short lease such a call was lost, and nobody could know whether it had been executed (C81, C82).
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) enum End {
    No,
    /// The client said `Goodbye` on this connection: it ends once nothing runs, nothing is kept, and every answer has
    /// left.
    Leaving,
    /// Its lease is over, but one of its calls runs (S6); until then it can be resumed.
    WhenNothingRuns,
    /// It was ended for cause, but one of its calls runs; it cannot be resumed.
    Doomed,
    /// It has ended; its place is freed when the event was polled.
    Ended,
}

impl<T: ServerStorage> Session<T> {
    pub(super) fn new(id: SessionId, share: u32, grants: Grants) -> Session<T> {
        Session {
            id,
            calls: T::LazyCalls::default(),
            acked: 0,
            seen: 0,
            alone_since: Instant::ZERO,
            limits: Limits {
                request_len_max: grants.request_len_max,
                reply_len_max: grants.reply_len_max,
                lease_ms: grants.lease_ms,
                keepalive_ms: grants.keepalive_ms,
            },
            slots_less_one: (grants.slots.clamp(1, 65_536) - 1) as u16,
            share,
            conn: NIL,
            epoch: 0,
            lease_links: Links::default(),
            reach: Reach::Unused,
            end: End::No,
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

    /// Whether its client may still ask for what is kept.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.end, End::No | End::Leaving)
    }

    pub(super) fn running(&self) -> u32 {
        self.calls.get().map_or(0, |calls| calls.running)
    }

    /// Whether no call is let in, runs or is kept, and no answer waits to be sent.
    pub(super) fn holds_nothing(&self) -> bool {
        self.calls.get().is_none_or(|calls| calls.held.is_empty() && calls.out.is_empty())
    }
}

/// The calls of a session that is not idle; opaque.
#[doc(hidden)]
#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct Calls<T: ServerStorage> {
    pub(super) slots: T::Slots,
    /// Slots with a call that is let in, runs, or is kept.
    pub(super) held: Held,
    /// Slots with something to send.
    pub(super) out: List<OUT>,
    /// Calls let in or running.
    pub(super) running: u32,
    /// Bytes of `slots` on the heap.
    pub(super) table_bytes: u32,
    /// Bytes kept or reserved.
    pub(super) kept_bytes: u64,
    /// Bytes of the requests of calls that are let in or run.
    pub(super) request_bytes: u64,
}

impl<T: ServerStorage> Calls<T> {
    /// Whether nothing is held, nothing is to be sent, and nothing that was kept is still leaving.
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
            slots: T::Slots::default(),
            held: Held::default(),
            out: List::default(),
            running: 0,
            table_bytes: 0,
            kept_bytes: 0,
            request_bytes: 0,
        }
    }
}

/// One slot; opaque.
#[doc(hidden)]
#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct Slot<B> {
    /// The last xid let in or refused; 0 if none.
    pub(super) xid: u64,
    pub(super) digest: u64,
    /// When the call may no longer be started.
    pub(super) deadline: Instant,
    /// The xid that was asked for and not seen; 0 if none.
    pub(super) not_seen: u64,
    /// The number of the latest `Ask` for it.
    pub(super) ask: u16,
    pub(super) body: B,
    /// Its neighbours among the held calls; in a tree if its height is not 0.
    pub(super) held_links: Derived<Links>,
    pub(super) held_height: Derived<u8>,
    out_links: Links,
    /// The session's connection on which its request or `Ask` last came.
    pub(super) epoch: u32,
    /// Bytes counted for it: reserved while it runs, the body's length when it is kept.
    pub(super) bytes: u32,
    /// Bytes of its request, while it is let in or runs.
    pub(super) request_bytes: u32,
    pub(super) state: SlotState,
    pub(super) idempotent: bool,
    pub(super) one_way: bool,
    pub(super) cancelled: bool,
}

/// What a slot's call is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) enum SlotState {
    /// Nothing, and nothing of it is left.
    Discarded,
    /// Admitted, not started.
    LetIn,
    Running,
    Kept(Status),
}

impl SlotState {
    pub(super) fn is_running(self) -> bool {
        matches!(self, SlotState::LetIn | SlotState::Running)
    }
}

impl<B: Default> Default for Slot<B> {
    fn default() -> Self {
        Slot {
            xid: 0,
            digest: 0,
            deadline: Instant::ZERO,
            not_seen: 0,
            ask: 0,
            body: B::default(),
            held_links: Derived::default(),
            held_height: Derived::default(),
            out_links: Links::default(),
            epoch: 0,
            bytes: 0,
            request_bytes: 0,
            state: SlotState::Discarded,
            idempotent: false,
            one_way: false,
            cancelled: false,
        }
    }
}

impl<B> Slot<B> {
    pub(super) fn view(&self) -> SlotView {
        SlotView {
            xid: self.xid,
            digest: self.digest,
            discarded: self.state == SlotState::Discarded,
        }
    }
}

/// One principal's share of the room; opaque.
#[doc(hidden)]
#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct Share {
    pub(super) principal: Principal,
    pub(super) conns: u32,
    pub(super) sessions: u32,
    pub(super) kept_bytes: u64,
    /// Bytes of requests and of tables.
    pub(super) request_bytes: u64,
}
