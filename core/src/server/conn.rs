//! A connection at a server: its phase, what waits to be sent on it, and the reply that is leaving.

use super::long::Coming;
use super::slot::Derived;
use crate::error::CloseReason;
use crate::ids::{Principal, SessionId};
use crate::keepalive::Keepalive;
use crate::storage::Places;
use crate::storage::list::{Links, List, NIL, linked};
use crate::time::Instant;
use crate::wire::REPLY_HEADER_LEN;

/// One connection.
#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(crate) struct Conn<B> {
    pub(super) principal: Principal,
    /// Its owner knows the principal by a token, and not from the transport.
    pub(super) identified: bool,
    /// What its `Hello` offered that this version knows.
    pub(super) features: u32,
    /// The share in which it is counted, by index; `NIL` if in none.
    pub(super) quota: u32,
    /// The id of its session; before there is one, random bits for that which it may open.
    pub(super) secret: SessionId,
    /// The session that it is bound to, by index.
    pub(super) session: Option<u32>,
    /// The number of its `Hello` among those that resume sessions, where they are claimed; else 0. The session has none of
    /// it: what is restored after a claim would not know it, and an older connection took the place of a newer one.
    pub(super) hello: u64,
    /// The longest request that this session was granted, so that what comes is cut out without a look at it.
    pub(super) request_len_max: Derived<u32>,
    /// How far it has come.
    pub(super) phase: Phase,
    /// When it was made.
    pub(super) since: Instant,
    /// The frame at its front, while it is incomplete; before the handshake its time is that of the `Hello`.
    pub(super) incoming: Option<IncomingFrame>,
    /// The same frame, if it is a long request.
    pub(super) coming: Coming,
    pub(super) keepalive: Keepalive,
    pub(super) keepalive_at: Instant,
    pub(super) send: PendingControl,
    /// `Hello`s that came behind requests, and were dropped (S27).
    pub(super) late_hellos: u8,
    /// The reply that is leaving.
    pub(super) partial: Option<PartialFrame<B>>,
    /// On the list by `keepalive_at`.
    keepalive_links: Links,
    /// On the list of those that have not said `Hello`, or of those with an incomplete frame.
    timer_links: Links,
    /// Among those with an event, behind the first.
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
pub(super) struct PendingControl {
    /// It was sent before, but may be lost (S27).
    pub(super) welcome_again: bool,
    /// The reason for which it closes.
    pub(super) refuse: bool,
    pub(super) pong: bool,
    pub(super) ping: bool,
    pub(super) goodbye: bool,
}

impl PendingControl {
    pub(super) fn is_empty(&self) -> bool {
        !(self.welcome_again | self.refuse | self.pong | self.ping | self.goodbye)
    }
}

/// A reply of which a byte was sent.
#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(super) struct PartialFrame<B> {
    pub(super) header: [u8; REPLY_HEADER_LEN],
    /// Bytes of header and body that have left.
    pub(super) at: usize,
    pub(super) body: PartialBody<B>,
}

/// Where the body of a reply that is leaving is stored.
#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(super) enum PartialBody<B> {
    /// Kept on this slot.
    Slot(u32),
    /// Its slot has moved on. The frame is finished all the same, and its bytes stay counted until it has left.
    Detached { body: B, bytes: u32 },
    /// The rest of the reply on this slot was taken by the driver, which is writing it.
    #[cfg_attr(not(feature = "alloc"), expect(dead_code, reason = "only shared memory is taken"))]
    Taken(u32),
    /// The same, and the slot has moved on.
    TakenDetached { bytes: u32 },
}

impl<B: Default> PartialFrame<B> {
    /// What is kept on a slot is discarded: if it is this reply, it is finished all the same, and true is returned.
    pub(super) fn outlive(&mut self, slot_number: u32, kept: &mut B, bytes: u32) -> bool {
        self.body = match self.body {
            PartialBody::Slot(number) if number == slot_number => {
                PartialBody::Detached { body: core::mem::take(kept), bytes }
            }
            PartialBody::Taken(number) if number == slot_number => {
                PartialBody::TakenDetached { bytes }
            }
            _ => return false,
        };
        true
    }
}

impl<B> PartialFrame<B> {
    /// Whether the machine still has bytes of it to write.
    pub(super) fn is_here(&self) -> bool {
        matches!(self.body, PartialBody::Slot(_) | PartialBody::Detached { .. })
    }
}

impl<B> Conn<B> {
    pub(super) fn new(principal: Principal, secret: SessionId, now: Instant) -> Conn<B> {
        Conn {
            principal,
            identified: false,
            features: 0,
            quota: NIL,
            secret,
            session: None,
            hello: 0,
            request_len_max: Derived::default(),
            phase: Phase::AwaitingHello,
            since: now,
            incoming: None,
            coming: Coming::default(),
            keepalive: Keepalive::default(),
            keepalive_at: Instant::FAR_FUTURE,
            send: PendingControl::default(),
            late_hellos: 0,
            partial: None,
            keepalive_links: Links::default(),
            timer_links: Links::default(),
            event_links: Links::default(),
        }
    }

    /// Whether to ask for the record of its session now: once.
    pub(super) fn takes_record(&mut self) -> bool {
        let wanted = self.phase == Phase::AwaitingRecord { asked: false };
        if wanted {
            self.phase = Phase::AwaitingRecord { asked: true };
        }
        wanted
    }

    /// Whether nothing comes before the replies that wait.
    #[inline]
    pub(super) fn sends_replies(&self) -> bool {
        self.phase == Phase::Up && self.partial.is_none() && self.send.is_empty()
    }

    /// Whether what comes on it is read.
    #[inline]
    pub(super) fn is_read(&self) -> bool {
        !matches!(self.phase, Phase::Finishing(_) | Phase::Closing(_))
    }

    /// Why it has to be closed, if it has.
    #[inline]
    pub(super) fn closing(&self) -> Option<CloseReason> {
        match self.phase {
            Phase::Closing(reason) => Some(reason),
            _ => None,
        }
    }
}

/// How far a connection has come.
///
/// ```text
///                  opens, with a ledger
///  AwaitingHello ───────────────────────► AwaitingRecord
///        │    │ resumes, with shared records    │ the record is stable
///        │    └─────► AwaitingSession           │
///        │ otherwise         │ it is found      │
///        ▼                   ▼                  ▼
///   WelcomeDue ◄─────────────────────────────────
///        │ the Welcome has left
///        ▼
///       Up ──► Finishing ──► Closing ──► (removed)
/// ```
///
/// Every phase may become `Closing`. Nothing but `Hello` is taken before it is `Up`: a request that was admitted together
/// with the `Hello` was executed in a session of which no record was stable, and the same bytes on another connection
/// executed it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) enum Phase {
    /// It was made. Its `Hello` opens a session (`AwaitingRecord`, `WelcomeDue`), resumes one (`AwaitingSession`,
    /// `WelcomeDue`), or is refused.
    AwaitingHello,
    /// It has opened a session whose record must be stable before the `Welcome` leaves (S30): then `WelcomeDue`. If it
    /// closes before, the session ends with it.
    AwaitingRecord {
        /// Whether the event that asks for the record was polled. Before, not even a ledger has heard of the session.
        asked: bool,
    },
    /// It resumes a session that may be at another server, and its owner finds out (S34): then `WelcomeDue`, or it is refused. Its
    /// `secret` is the session's id.
    AwaitingSession {
        /// Whether the event that asks for the session was polled.
        asked: bool,
        /// What the client has acknowledged.
        acked: u64,
    },
    /// The `Welcome` waits to be sent: then `Up`.
    WelcomeDue {
        /// Whether the session was opened here. Before its `Welcome` has left, no other place knows its id.
        opened: bool,
    },
    /// The `Welcome` has left: requests are taken.
    Up,
    /// Nothing more is read; it is `Closing` for this reason once all answers that wait have left.
    Finishing(CloseReason),
    /// It has no session any more, and a `Refuse` may wait to be sent. Its event is polled after that, and then it is
    /// removed.
    Closing(CloseReason),
}

impl Phase {
    /// Whether the session was opened on this connection and its `Welcome` has not left: no client can know its id yet.
    pub(super) fn owes_first_welcome(self) -> bool {
        matches!(self, Phase::AwaitingRecord { .. } | Phase::WelcomeDue { opened: true })
    }
}

/// The connections with an event to poll, in the order in which they got it. The first one is held apart: nearly always it is the
/// only one, and then no connection is looked at.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) struct Woken {
    /// `NIL` if there is none.
    first: u32,
    behind: List<CONN_EVENT>,
}

impl Default for Woken {
    fn default() -> Self {
        Woken { first: NIL, behind: List::default() }
    }
}

impl Woken {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.first == NIL
    }

    /// Puts a connection behind the others, unless it is among them.
    #[inline(always)]
    pub(super) fn push<B>(&mut self, conns: &mut impl Places<Conn<B>>, index: u32) {
        if self.first == NIL {
            self.first = index;
        } else if self.first != index && self.behind.back() != Some(index) {
            self.behind.push_back(conns, index);
        }
    }

    #[inline]
    pub(super) fn pop<B>(&mut self, conns: &mut impl Places<Conn<B>>) -> Option<u32> {
        let first = self.first;
        self.first = self.behind.pop_front(conns).unwrap_or(NIL);
        (first != NIL).then_some(first)
    }

    pub(super) fn remove<B>(&mut self, conns: &mut impl Places<Conn<B>>, index: u32) {
        if self.first == index {
            self.pop(conns);
        } else {
            self.behind.unlink(conns, index);
        }
    }
}

pub(super) const KEEPALIVE: u8 = 10;
const CONN_EVENT: u8 = 11;
pub(super) const TIMER: u8 = 15;

linked!(Conn<B>, KEEPALIVE, keepalive_links);
linked!(Conn<B>, CONN_EVENT, event_links);
linked!(Conn<B>, TIMER, timer_links);
