//! One call at its client.

use super::recovery::KnownCall;
use crate::ids::{MethodId, Xid};
use crate::outcome::{NotExecuted, Outcome};
use crate::storage::list::{Links, linked};
use crate::time::Instant;

/// One call.
#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(crate) struct CallEntry<B> {
    pub(super) body: B,
    pub(super) method: MethodId,
    pub(super) xid: Option<Xid>,
    pub(super) state: CallState,
    /// When the caller gives up; `FAR_FUTURE` once it has.
    pub(super) deadline: Instant,
    /// When to send it again on a link that loses messages (S27).
    pub(super) retransmit_at: Instant,
    pub(super) retransmits: u8,
    pub(super) idempotent: bool,
    pub(super) one_way: bool,
    pub(super) fail_fast: bool,
    pub(super) caller: Caller,
    /// Why it is not to be executed any more, if it is not.
    pub(super) abandoned: Option<NotExecuted>,
    /// A connection that carried it has broken, or it was sent again: an earlier copy may have run.
    pub(super) may_have_run: bool,
    /// It is not wanted any more: the server gets a `Cancel`.
    pub(super) cancelled: bool,
    /// Its owner settles it.
    pub(super) durable: bool,
    /// Whether it was last sent or asked for, and on which connection.
    pub(super) last_sent: LastSent,
    /// The `Ask`s for it.
    pub(super) asks: Asks,
    pub(super) todo: Todo,
    /// An outcome that no received data brought.
    pub(super) event: Option<Outcome<'static>>,
    /// On the list of waiting or of unsettled calls.
    queue: Links,
    /// On the list of calls with something to do on this connection.
    todo_links: Links,
    /// On the list of calls with an event.
    event_links: Links,
}

/// Which `Ask`s a `NotSeen` may answer: to an earlier one, it is older than the request that was sent since (S27).
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) struct Asks {
    /// The number of the last one.
    last: u16,
    /// The number of the first one since the request was last sent.
    first: u16,
}

impl Default for Asks {
    fn default() -> Self {
        Asks { last: 0, first: 1 }
    }
}

impl Asks {
    pub(super) fn next(self) -> u16 {
        self.last.wrapping_add(1)
    }

    pub(super) fn note_asked(&mut self) {
        self.last = self.next();
    }

    pub(super) fn note_sent(&mut self) {
        self.first = self.next();
    }

    /// Whether `number` is that of one since the request was last sent; at least one was.
    pub(super) fn are_answered_by(self, number: u16) -> bool {
        number.wrapping_sub(self.first) <= self.last.wrapping_sub(self.first)
    }
}

/// How far a call has come.
///
/// ```text
///  call ─► Waiting ─► Numbered ─► InFlight ─► Answered ─► Settled       durable
///  call ─► Waiting ─────────────► InFlight ─────────────► Settled       others
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(crate) enum CallState {
    /// It has no xid: no byte of it was sent in this session. So begins every call, and so begins one again that is
    /// repeated in a new session (S3). Next: a slot is free, and it is numbered if it is durable and sent if it is not;
    /// or it is given up, and settled.
    Waiting,
    /// It is durable and has its xid, and no byte of it was sent: its record is not stable, or was not when there was a
    /// connection (S8). It occupies its slot. Next: it is sent once its record is stable; or it is given up, and has its
    /// outcome without having been sent; or its session is lost, and it waits again.
    Numbered,
    /// A byte of it may have been sent, on this connection or an earlier one, by this client or by the one whose journal
    /// it was restored from. It occupies its slot. Next: only an answer, or the loss of its session, settles it; one that
    /// is idempotent and wanted waits again when its session is lost.
    InFlight,
    /// It is durable and its outcome is known. It keeps its slot, so that the server keeps the answer, and nothing more is
    /// sent of it. Next: its owner has journaled the outcome and settles it, or forgets it, or its session is lost.
    Answered,
    /// It is over. It keeps its slot while its request is leaving, and its place until its event was polled.
    Settled,
}

/// Who is to learn the outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) enum Caller {
    /// Its caller waits: the next report is its outcome, or `Unknown`.
    Waiting,
    /// Its caller has got `Unknown` with a ticket, and may wait for the answer (S18). Not reported a second time.
    HoldsTicket,
    /// The call is one-way, was forgotten, or has its final outcome: nothing more is reported.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) enum LastSent {
    Never,
    Sent,
    Asked { epoch: u32 },
}

/// What waits to be sent about a call on this connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) struct Todo {
    pub(super) send: bool,
    pub(super) ask: bool,
    pub(super) cancel: bool,
}

pub(super) const QUEUE: u8 = 0;
pub(super) const TODO: u8 = 1;
pub(super) const EVENT: u8 = 2;

linked!(CallEntry<B>, QUEUE, queue);
linked!(CallEntry<B>, TODO, todo_links);
linked!(CallEntry<B>, EVENT, event_links);

impl<B> CallEntry<B> {
    pub(super) fn new(
        call: &super::Call<'_>,
        durable: bool,
        body: B,
        deadline: Instant,
    ) -> CallEntry<B> {
        CallEntry {
            body,
            method: call.method,
            xid: None,
            state: CallState::Waiting,
            deadline,
            retransmit_at: Instant::FAR_FUTURE,
            retransmits: 0,
            idempotent: call.idempotent,
            one_way: call.one_way,
            fail_fast: call.fail_fast,
            caller: if call.one_way { Caller::Gone } else { Caller::Waiting },
            abandoned: None,
            may_have_run: false,
            cancelled: false,
            durable,
            last_sent: LastSent::Never,
            asks: Asks::default(),
            todo: Todo::default(),
            event: None,
            queue: Links::default(),
            todo_links: Links::default(),
            event_links: Links::default(),
        }
    }

    /// Whether it is on the list of calls with something to do on this connection.
    pub(super) fn is_on_todo(&self) -> bool {
        self.todo_links.is_linked()
    }

    /// Whether it is on the list of calls with an event.
    pub(super) fn is_on_events(&self) -> bool {
        self.event_links.is_linked()
    }

    /// What decides about it.
    #[inline]
    pub(super) fn known(&self) -> KnownCall {
        debug_assert!(self.is_consistent(), "{:?} {:?} {:?}", self.state, self.xid, self.todo);
        KnownCall {
            state: self.state,
            idempotent: self.idempotent,
            fail_fast: self.fail_fast,
            may_have_run: self.may_have_run,
            abandoned: self.abandoned,
        }
    }

    /// Whether the fields go together.
    fn is_consistent(&self) -> bool {
        let unsent = self.last_sent == LastSent::Never;
        let given_up = self.abandoned.is_some();
        let only_send = Todo { send: self.todo.send, ..Todo::default() };
        let has_ticket = self.caller == Caller::HoldsTicket;
        let of_state = match self.state {
            CallState::Waiting => {
                self.xid.is_none() && unsent && !given_up && self.todo == Todo::default()
            }
            CallState::Numbered => {
                self.xid.is_some() && unsent && !given_up && self.todo == only_send
            }
            CallState::InFlight => self.xid.is_some() && (!unsent || self.may_have_run),
            CallState::Answered => self.xid.is_some() && self.todo == Todo::default(),
            CallState::Settled => true,
        };
        of_state && (!has_ticket || given_up)
    }

    /// Whether it has its xid and is not over.
    #[inline]
    pub(super) fn is_unsettled(&self) -> bool {
        match self.state {
            CallState::Numbered | CallState::InFlight | CallState::Answered => true,
            CallState::Waiting | CallState::Settled => false,
        }
    }

    /// Nothing more is reported of it; false if nothing would have been.
    #[inline]
    pub(super) fn take_caller(&mut self) -> bool {
        core::mem::replace(&mut self.caller, Caller::Gone) != Caller::Gone
    }

    pub(super) fn timer(&self) -> Instant {
        match self.state {
            CallState::Waiting | CallState::Numbered | CallState::InFlight => {
                self.deadline.min(self.retransmit_at)
            }
            CallState::Answered | CallState::Settled => Instant::FAR_FUTURE,
        }
    }
}
