//! One call at its client.

use super::recovery::{KnownCall, Progress};
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
    /// The caller holds the call or its ticket.
    pub(super) listened: bool,
    /// `Unknown` was reported for it, and the caller may hold a ticket.
    pub(super) reported: bool,
    /// Why it is not to be executed any more, if it is not.
    pub(super) abandoned: Option<NotExecuted>,
    /// A connection that carried it has broken, or it was sent again: an earlier copy may have run.
    pub(super) may_have_run: bool,
    /// The server is to be told that nobody wants it.
    pub(super) cancelled: bool,
    /// Its owner settles it.
    pub(super) durable: bool,
    /// It is durable and has its final outcome: nothing more is sent of it, and its slot stays taken.
    pub(super) answered: bool,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) enum CallState {
    /// No byte was sent; no xid.
    Waiting,
    /// Sent, or, if it is durable, about to be; occupies its slot.
    Unsettled,
    /// Over; waits for its event to be polled or its last bytes to leave.
    Settled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) enum LastSent {
    Never,
    Sent,
    Asked { epoch: u32 },
}

/// What is to be sent about a call on this connection.
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
            listened: !call.one_way,
            reported: false,
            abandoned: None,
            may_have_run: false,
            cancelled: false,
            durable,
            answered: false,
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
        KnownCall {
            progress: self.progress(),
            idempotent: self.idempotent,
            fail_fast: self.fail_fast,
            may_have_run: self.may_have_run,
            abandoned: self.abandoned,
        }
    }

    #[inline]
    fn progress(&self) -> Progress {
        match self.state {
            CallState::Waiting => Progress::Waiting,
            CallState::Settled => Progress::Settled,
            CallState::Unsettled if self.answered => Progress::Answered,
            CallState::Unsettled if self.last_sent == LastSent::Never && !self.may_have_run => {
                Progress::Numbered
            }
            CallState::Unsettled => Progress::InFlight,
        }
    }

    pub(super) fn timer(&self) -> Instant {
        match self.state {
            CallState::Waiting | CallState::Unsettled => self.deadline.min(self.retransmit_at),
            CallState::Settled => Instant::FAR_FUTURE,
        }
    }
}
