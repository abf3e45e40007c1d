//! One call at its client: its states, and what is kept with it.

use super::Comparison;
use crate::ids::{MethodId, Xid};
use crate::outcome::{NotExecuted, Outcome};
use crate::storage::ClientStorage;
use crate::storage::list::{Links, NIL, linked};
use crate::time::{Instant, Timer};
use crate::wire;

/// One call.
#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub(crate) struct CallEntry<B> {
    pub(super) body: B,
    pub(super) method: MethodId,
    /// Those of its request (W13).
    pub(super) flags: u8,
    pub(super) fail_fast: bool,
    /// Of this connection; `Pending` between two.
    pub(super) comparison: Comparison,
    pub(super) signature: u32,
    pub(super) caller: Caller,
    /// A connection that carried it has broken, or it was sent again: an earlier copy may have run. It stays so in the next
    /// session.
    pub(super) may_have_run: bool,
    pub(super) state: CallState,
    /// When the caller gives up; off once it has.
    pub(super) deadline: Timer,
    /// An outcome that no received data brought. It is on the list of calls with an event.
    pub(super) event: Option<Outcome<'static>>,
    /// Its xid when that outcome came, if it had one: it has none any more when it is over.
    pub(super) event_xid: Option<Xid>,
    /// On the queue of unsettled and waiting calls.
    queue: Links,
    /// On the list of calls with something to do on this connection.
    todo_links: Links,
    event_links: Links,
}

/// What is to be reported of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallEvent {
    pub(super) outcome: Outcome<'static>,
    /// The number that it had in its session, if it had one: what it was called by there, also when that is over.
    pub(super) xid: Option<Xid>,
}

/// The calls by index.
pub(super) type Calls<S> = <S as ClientStorage>::Calls<CallEntry<<S as ClientStorage>::Body>>;

/// How far a call has come.
///
/// ```text
///  call ─► Waiting ─► Numbered ─► InFlight ─► Answered ─► Leaving ─► Over       durable
///  call ─► Waiting ─────────────► InFlight ─────────────► Leaving ─► Over       others
///           ▲  ▼
///           Held
/// ```
///
/// Numbered, in flight and answered calls are unsettled. These and those that leave occupy the slot of their xid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(crate) enum CallState {
    /// It has no xid: no byte of it was sent in this session. So begins every call, and so begins one again that is
    /// repeated in a new session (S3). Next: a slot is free, and it is numbered if it is durable and sent if it is not; or
    /// it is given up, and over.
    Waiting,
    /// The same, and it is not sent before its method was compared with this server (S33); only while there is a connection.
    /// Next: its method means the same, or the connection is gone (`Waiting`); or it is given up or refused, and over.
    Held,
    /// It is durable and has its xid, and no byte of it was sent: its record is not stable, or was not when there was a
    /// connection (S8). Once its record is stable, it joins the list of calls with something to send. Next: it is sent, or
    /// asked for if the server says that it knows it (`InFlight`); or it is given up, and is `Answered` without having been
    /// sent, or `Over` if it was forgotten; or its session is lost (`Waiting`).
    Numbered { xid: Xid },
    /// A byte of it may have been sent, on this connection or an earlier one, by this client or by the one whose journal it
    /// was restored from. Next: only an answer, `seen` after a resume, or the loss of its session settles it (`Answered` if
    /// it is durable, `Leaving` if its request has not left, else `Over`); one that is idempotent and wanted is `Waiting`
    /// again when its session is lost.
    InFlight(InFlight),
    /// It is durable and its outcome is known. It keeps its slot, so that the server keeps the answer, and nothing more is
    /// sent of it. Next: its owner has journaled the outcome and settles it, or forgets it, or its session is lost.
    Answered { xid: Xid },
    /// It was settled while its request was leaving, which must leave whole. Next: it has, or the connection is gone, and
    /// it is over.
    Leaving { xid: Xid },
    /// Nothing more becomes of it, and its slot is free. It keeps its place until its event was polled.
    Over,
}

/// What is known of a call of which a byte may have been sent. In this order, so that the xid, which every frame is compared
/// with, is in the same place as in the other states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
#[repr(C)]
pub(crate) struct InFlight {
    pub(super) xid: Xid,
    /// When what was sent last is sent again on a link that loses messages (S27).
    pub(super) resend: Timer,
    /// The number of the last `Ask`. A `NotSeen` to one from before the request was last sent, or from before this
    /// connection, is older than what the server knows now (S27).
    ask_last: u16,
    /// The number of the first `Ask` on this connection since the request last was sent.
    ask_first: u16,
    /// How often it was sent again on this connection.
    pub(super) resends: u8,
    pub(super) last_sent: LastSent,
    /// What it sends next on this connection. With something to send, it is on the list of such calls, unless that waits for
    /// the comparison of its method.
    pub(super) next: Option<NextFrame>,
    pub(super) abandoned: Option<Abandoned>,
}

/// What of a call has been sent on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(crate) enum LastSent {
    /// Nothing; its bytes were sent on an earlier one. The resume decides what is sent next (S21).
    Earlier,
    /// Its request.
    Request,
    /// An `Ask`, after its request if that was sent as well.
    Ask,
}

/// A frame that a call sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(crate) enum NextFrame {
    Request,
    Ask,
}

/// A call in flight that is not to be executed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(crate) struct Abandoned {
    /// Why it was abandoned first.
    pub(super) reason: Reason,
    pub(super) cancel: Cancel,
}

/// Why a call is not to be executed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(crate) enum Reason {
    /// S19: the caller asked for it, and waits for the true outcome.
    Cancelled,
    /// S18: the caller has dropped the call and its ticket.
    Forgotten,
    /// S17: the time of the caller is over.
    DeadlinePassed,
    /// S21: there is no connection; it concerns calls that fail fast.
    Disconnected,
    /// An attempt to connect failed, and calls that have not left are not to wait for another. Only those end by it.
    Unreachable,
}

/// Whether the server is asked not to start a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(crate) enum Cancel {
    /// No: it learns the deadline with the request.
    No,
    /// A `Cancel` is due: on this connection if the call is on the list of calls with something to send, else on the next one
    /// behind what the resume sends of the call.
    Due,
    /// It was sent on this connection.
    Sent,
}

/// Who is to learn the outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) enum Caller {
    /// Its caller waits: the next report is its outcome, or `Unknown`.
    Waiting,
    /// Its caller has got `Unknown` with a ticket, and may wait for the answer (S18). Not reported a second time.
    HoldsTicket,
    /// The call is one-way, was forgotten, or has its final outcome: nothing more is reported, and no owner settles it
    /// unless it is [answered](CallState::Answered).
    Gone,
}

/// What a client knows of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownCall {
    pub(crate) state: CallState,
    pub(crate) idempotent: bool,
    pub(crate) fail_fast: bool,
    pub(crate) one_way: bool,
    pub(crate) comparison: Comparison,
    /// A connection that carried it has broken, or it was sent again: an earlier copy may have run.
    pub(crate) may_have_run: bool,
}

impl KnownCall {
    /// Why it must not be executed any more: timed out, cancelled, failed fast or forgotten. `None` while it is wanted.
    #[inline]
    pub(super) fn abandoned(self) -> Option<NotExecuted> {
        let CallState::InFlight(sent) = self.state else { return None };
        sent.abandoned.map(|abandoned| abandoned.reason.not_executed())
    }
}

pub(super) const QUEUE: u8 = 0;
pub(super) const TODO: u8 = 1;
pub(super) const EVENT: u8 = 2;

linked!(CallEntry<B>, QUEUE, queue);
linked!(CallEntry<B>, TODO, todo_links);
linked!(CallEntry<B>, EVENT, event_links);

impl<B> CallEntry<B> {
    pub(super) fn new(call: &super::Call<'_>, body: B, deadline: Instant) -> CallEntry<B> {
        CallEntry {
            body,
            method: call.method,
            flags: call.flags(),
            fail_fast: call.fail_fast,
            comparison: call.comparison,
            signature: call.signature,
            caller: if call.one_way { Caller::Gone } else { Caller::Waiting },
            may_have_run: false,
            state: CallState::Waiting,
            deadline: Timer::at(deadline),
            event: None,
            event_xid: None,
            queue: Links::default(),
            todo_links: Links::default(),
            event_links: Links::default(),
        }
    }

    /// Whether its request has this flag.
    #[inline]
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// What decides about it.
    #[inline]
    pub(super) fn known(&self) -> KnownCall {
        debug_assert!(self.is_consistent(), "{:?} {:?}", self.state, self.caller);
        KnownCall {
            state: self.state,
            idempotent: self.has(wire::FLAG_IDEMPOTENT),
            fail_fast: self.fail_fast,
            one_way: self.has(wire::FLAG_ONE_WAY),
            comparison: self.comparison,
            may_have_run: self.may_have_run,
        }
    }

    /// Whether what is kept beside the state goes together with it.
    fn is_consistent(&self) -> bool {
        let has_ticket = self.caller == Caller::HoldsTicket;
        let of_state = match self.state {
            CallState::Held => !has_ticket && self.comparison != Comparison::NotNeeded,
            CallState::Waiting | CallState::Numbered { .. } => !has_ticket,
            CallState::InFlight(sent) => {
                (sent.last_sent != LastSent::Earlier || self.may_have_run)
                    && (!has_ticket || sent.abandoned.is_some())
            }
            CallState::Answered { .. } | CallState::Leaving { .. } | CallState::Over => {
                self.caller == Caller::Gone
            }
        };
        of_state && self.event.is_some() == self.event_links.is_linked()
    }

    /// Nothing more is reported of it; false if nothing would have been.
    #[inline]
    pub(super) fn take_caller(&mut self) -> bool {
        core::mem::replace(&mut self.caller, Caller::Gone) != Caller::Gone
    }

    /// The calls before and behind it in the queue.
    #[inline]
    pub(super) fn neighbours(&self) -> Links {
        self.queue
    }

    /// It is put at the end of the queue, which has these links for it.
    #[inline]
    pub(super) fn put_behind(&mut self, links: Links) {
        debug_assert!(!self.queue.is_linked());
        self.queue = links;
    }

    /// The call behind it in the queue.
    #[inline]
    pub(super) fn behind(&self) -> Option<u32> {
        let next = self.queue.next;
        (next != NIL).then_some(next)
    }

    /// Whether it is on the list of calls with something to do on this connection.
    pub(super) fn is_on_todo(&self) -> bool {
        self.todo_links.is_linked()
    }

    /// A frame of it is leaving, under the xid that it has or gets: it is in flight from now on.
    #[inline]
    pub(super) fn note_sent(&mut self, xid: Xid, frame: NextFrame) {
        debug_assert!(self.state.xid().is_none_or(|own| own == xid), "{:?}", self.state);
        if let CallState::InFlight(sent) = &mut self.state {
            self.may_have_run |= frame == NextFrame::Request;
            sent.note_sent(frame);
        } else {
            let mut sent = InFlight::new(xid);
            sent.note_sent(frame);
            self.state = CallState::InFlight(sent);
        }
    }

    pub(super) fn timer(&self) -> Timer {
        match self.state {
            CallState::Waiting | CallState::Held | CallState::Numbered { .. } => self.deadline,
            CallState::InFlight(sent) => self.deadline.earlier(sent.resend),
            CallState::Answered { .. } | CallState::Leaving { .. } | CallState::Over => Timer::OFF,
        }
    }
}

impl CallState {
    /// The xid whose slot it occupies.
    #[inline]
    pub(super) fn xid(&self) -> Option<Xid> {
        match *self {
            CallState::Waiting | CallState::Held | CallState::Over => None,
            CallState::InFlight(InFlight { xid, .. })
            | CallState::Numbered { xid }
            | CallState::Answered { xid }
            | CallState::Leaving { xid } => Some(xid),
        }
    }

    /// Whether frames of it may leave.
    pub(super) fn may_be_sent(&self) -> bool {
        matches!(self, CallState::Numbered { .. } | CallState::InFlight(_))
    }

    /// Whether it has something to send on this connection; a numbered call is on the list only if it has.
    pub(super) fn has_todo(&self) -> bool {
        match self {
            CallState::Numbered { .. } => true,
            CallState::InFlight(sent) => sent.next.is_some() || sent.cancel() == Cancel::Due,
            CallState::Waiting
            | CallState::Held
            | CallState::Answered { .. }
            | CallState::Leaving { .. }
            | CallState::Over => false,
        }
    }
}

impl InFlight {
    /// A call of which nothing was sent on this connection.
    pub(super) fn new(xid: Xid) -> InFlight {
        InFlight {
            xid,
            last_sent: LastSent::Earlier,
            next: None,
            abandoned: None,
            resend: Timer::OFF,
            resends: 0,
            ask_last: 0,
            ask_first: 1,
        }
    }

    pub(super) fn note_sent(&mut self, frame: NextFrame) {
        self.next = None;
        match frame {
            NextFrame::Request => {
                self.last_sent = LastSent::Request;
                self.ask_first = self.next_ask();
            }
            NextFrame::Ask => {
                self.last_sent = LastSent::Ask;
                self.ask_last = self.next_ask();
            }
        }
    }

    /// Its request is due, and waits until its method was compared: it is not on the list of calls with something to send.
    pub(super) fn hold(&mut self) {
        self.next = Some(NextFrame::Request);
        self.resend = Timer::OFF;
    }

    /// The connection is gone, and what it carried of the call is in doubt.
    pub(super) fn note_disconnected(&mut self) {
        self.last_sent = LastSent::Earlier;
        self.next = None;
        self.ask_first = self.next_ask();
        self.repeat_cancel();
        self.resend = Timer::OFF;
        self.resends = 0;
    }

    /// It is not to be executed any more, and with `cancel` the server is asked not to start it.
    pub(super) fn abandon(&mut self, reason: Reason, cancel: bool) {
        let abandoned = self.abandoned.get_or_insert(Abandoned { reason, cancel: Cancel::No });
        if cancel {
            abandoned.cancel = Cancel::Due;
        }
    }

    pub(super) fn cancel(&self) -> Cancel {
        self.abandoned.map_or(Cancel::No, |abandoned| abandoned.cancel)
    }

    /// A `Cancel` that was sent may be lost: it is due again.
    pub(super) fn repeat_cancel(&mut self) {
        if let Some(Abandoned { cancel: cancel @ Cancel::Sent, .. }) = &mut self.abandoned {
            *cancel = Cancel::Due;
        }
    }

    /// The number of the next `Ask`.
    pub(super) fn next_ask(&self) -> u16 {
        self.ask_last.wrapping_add(1)
    }

    /// Whether `number` is that of an `Ask` that was sent on this connection, and since the request last was.
    pub(super) fn was_asked(&self, number: u16) -> bool {
        let asked = self.ask_last.wrapping_sub(self.ask_first);
        self.last_sent == LastSent::Ask && number.wrapping_sub(self.ask_first) <= asked
    }
}
