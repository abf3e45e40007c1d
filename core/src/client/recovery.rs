//! What happens to a call at its client: the one place that decides it.
//!
//! | function | decides |
//! |---|---|
//! | [`refuse_to_send`] | whether a call that waits may leave at all |
//! | [`compared`] | whether what is known of its method's signature lets it leave |
//! | [`answer`] | what an answer means: settled, sent again, stale, or a fault of the server |
//! | [`resumed`], [`repeated`], [`unanswered`] | what is sent again and what is asked for |
//! | [`give_up`] | what a cancel, a passed deadline, a broken connection or a dropped caller does to a call |
//! | [`ends_unsent`] | whether calls that have not left end when no connection can be made |
//! | [`check_resumed`], [`after_refuse`], [`check_server`] | whether the session, or the client, is over |
//! | [`session_lost`] | what of a lost session is repeated in the next one |
//! | [`may_say_goodbye`] | whether the session may be ended |
//!
//! Pure functions: the machine looks up what it knows, asks, and obeys. The tests go through every combination of inputs.

use super::call::{CallState, KnownCall, LastSent, NextFrame, Reason};
use super::{ClientConfig, Comparison, DialFailure, OnDialFailure};
use crate::outcome::{NotExecuted, Outcome, Status, Unknown};

mod session;
#[cfg(test)]
mod tests;

pub(crate) use session::{
    AfterRefuse, KnownSession, Resumable, after_refuse, check_resumed, check_server,
    may_say_goodbye,
};

impl KnownCall {
    /// Why it must not be sent any more: it was abandoned, or the server means something else by its method. `None` while it
    /// may be, or may be later.
    #[inline]
    fn unsendable(self) -> Option<NotExecuted> {
        self.abandoned().or(match compared(self.comparison) {
            Compared::Refuse(why) => Some(why),
            Compared::Send | Compared::Hold => None,
        })
    }
}

/// What a comparison means for the requests of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    /// They may leave.
    Send,
    /// They wait for the comparison.
    Hold,
    /// They never leave: if the server has not read one, the call ends so.
    Refuse(NotExecuted),
}

/// S33: no request of a method leaves to a server that may mean something else by it. A server that had renamed nothing, and
/// had swapped two arguments of one type, executed calls with each in the other's place.
#[inline]
pub(crate) fn compared(comparison: Comparison) -> Compared {
    match comparison {
        Comparison::NotNeeded | Comparison::Same => Compared::Send,
        Comparison::Pending => Compared::Hold,
        Comparison::Differs => Compared::Refuse(NotExecuted::SignatureMismatch),
        Comparison::Failed => Compared::Refuse(NotExecuted::NotCompared),
    }
}

impl Reason {
    /// Why the call was not executed, if it was not.
    pub(super) fn not_executed(self) -> NotExecuted {
        match self {
            Reason::Cancelled | Reason::Forgotten => NotExecuted::Cancelled,
            Reason::DeadlinePassed => NotExecuted::DeadlinePassed,
            Reason::Disconnected => NotExecuted::Disconnected,
            Reason::Unreachable => NotExecuted::NeverConnected,
        }
    }
}

/// What is known of a call that waits, beside the call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) deadline_passed: bool,
    /// Its body is no longer than the session's grant.
    pub(crate) fits: bool,
    /// It has metadata, which the server does not take.
    pub(crate) metadata_unsupported: bool,
}

/// Why a call that waits is not sent: its outcome. `None` if it may leave (S17).
#[inline]
pub(crate) fn refuse_to_send(call: KnownCall, waiting: Waiting) -> Option<Outcome<'static>> {
    if waiting.deadline_passed {
        Some(not_executed(call, NotExecuted::DeadlinePassed))
    } else if !waiting.fits {
        Some(not_executed(call, NotExecuted::RequestTooLarge))
    } else if waiting.metadata_unsupported {
        Some(not_executed(call, NotExecuted::MetadataUnsupported))
    } else {
        None
    }
}

/// What a client does with an unsettled call after its session was resumed (S21, S22).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resumed {
    Send(NextFrame),
    /// The server never read it, and it is not wanted any more.
    Settle(Outcome<'static>),
    /// It may run twice, and its request waits until its method was compared with this server (S33).
    Hold,
    /// Nothing is left to be learned of it.
    Skip,
    /// Its record is not stable: no byte of it, nor of any call after it, was or may be sent (S8).
    Stop,
}

/// What a client knows of a call's xid when its session was resumed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resume {
    /// The server never read it.
    pub(crate) above_seen: bool,
    /// It may be sent to the server.
    pub(crate) journaled: bool,
    /// The link loses and doubles messages (S27).
    pub(crate) lossy: bool,
}

/// S21 and S22, for one unsettled call after the other, in the order of xids.
///
/// On a lossy link, the `Welcome` may be an old one, delivered again after a reconnect of which the server knows nothing,
/// and the call may have been read since. So its `seen` settles nothing there: a call that is not wanted is asked for, and
/// the answer says which `Ask` it answers (C143).
///
/// A resumed session may be at another instance of its server, which means something else by a method (S33). What that one never
/// read is not sent to it.
pub(crate) fn resumed(call: KnownCall, xid: Resume) -> Resumed {
    match call.state {
        CallState::Numbered { .. } | CallState::InFlight(_) if !xid.journaled => Resumed::Stop,
        CallState::Numbered { .. } | CallState::InFlight(_) => match call.unsendable() {
            None if xid.above_seen || call.idempotent => {
                sendable(call).map_or(Resumed::Hold, Resumed::Send)
            }
            Some(why) if xid.above_seen && !xid.lossy => Resumed::Settle(not_executed(call, why)),
            None | Some(_) => Resumed::Send(NextFrame::Ask),
        },
        CallState::Waiting
        | CallState::Held
        | CallState::Answered { .. }
        | CallState::Leaving { .. }
        | CallState::Over => Resumed::Skip,
    }
}

/// What is sent of an unsettled call whose turn has come, and that was to be sent or repeated by `next`; `None` if that waits
/// for a comparison (S33). By then the call may have been given up: what is asked for does not run late (S17), and its
/// answer still frees the slot.
pub(crate) fn repeated(call: KnownCall, next: NextFrame) -> Option<NextFrame> {
    match (call.unsendable(), next) {
        (Some(_), _) | (None, NextFrame::Ask) => Some(NextFrame::Ask),
        (None, NextFrame::Request) => sendable(call),
    }
}

/// What is sent of a call that is wanted, and whose request is due. While that waits for a comparison, the call is asked for: a
/// server that has said `NotSeen` takes the request later, when those behind it have passed (S13). An idempotent one may come
/// late anyway, and nothing is sent of it.
fn sendable(call: KnownCall) -> Option<NextFrame> {
    match compared(call.comparison) {
        Compared::Send | Compared::Refuse(_) => Some(NextFrame::Request),
        Compared::Hold => (!call.idempotent).then_some(NextFrame::Ask),
    }
}

/// S27: what was sent last got no answer in time on a link that loses messages. A question is asked again: the request
/// was lost only if the server says so.
pub(crate) fn unanswered(last_sent: LastSent) -> NextFrame {
    match last_sent {
        LastSent::Earlier | LastSent::Request => NextFrame::Request,
        LastSent::Ask => NextFrame::Ask,
    }
}

/// What an answer is judged by, beside the call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    /// The link loses and doubles messages (S27).
    pub(crate) lossy: bool,
    /// The server has said `Goodbye` on this connection.
    pub(crate) server_leaving: bool,
}

/// What a client makes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer<'d> {
    Settle(Outcome<'d>),
    /// The server has nothing: as if it were above `seen`.
    SendAgain,
    /// The same, and its request waits until its method was compared with this server (S33).
    Hold,
    /// The call was settled by an earlier answer (S9).
    Late,
    /// It is older than what was sent since (S27).
    Stale,
    /// No server that keeps to the protocol says so: close the connection.
    Unexpected,
}

/// S22: whether the server keeps the reply of a call until it is acknowledged. That of an idempotent call is forgotten once it has
/// left, but on a lossy link.
#[inline]
pub(crate) fn is_kept_until_acked(idempotent: bool, lossy: bool) -> bool {
    !idempotent || lossy
}

/// S9, S14, S15, S21, S22, S27, S28: what an answer to the call's xid means.
///
/// A `NotSeen` ends a call, or has it sent again, only if it answers an `Ask` that was sent on this connection, and since
/// the request last was: on a lossy link, one that was delivered twice ended a call as not executed that then ran. On a
/// stream nothing is answered twice.
///
/// What a draining server has not seen is not sent again, only to be refused (S25): the connection on which it was asked
/// for is the only one that could still carry it, and keeps the order, so no copy of the request is on its way.
#[inline(always)]
pub(crate) fn answer(call: KnownCall, heard: Heard, status: Status, body: &[u8]) -> Answer<'_> {
    let sent = match call.state {
        CallState::InFlight(sent) => sent,
        CallState::Waiting | CallState::Held | CallState::Numbered { .. } => {
            return Answer::Unexpected;
        }
        CallState::Answered { .. } | CallState::Leaving { .. } | CallState::Over => {
            return Answer::Late;
        }
    };
    match status {
        Status::Done => Answer::Settle(Outcome::Reply(body)),
        Status::NoReply(why) => Answer::Settle(Outcome::NoReply(why)),
        Status::Refused(why) => Answer::Settle(not_executed(call, why)),
        Status::Interrupted => {
            Answer::Settle(Outcome::Unknown { why: Unknown::Interrupted, ticket: false })
        }
        Status::NotSeen { ask } if !sent.was_asked(ask) && heard.lossy => Answer::Stale,
        Status::NotSeen { ask } if !sent.was_asked(ask) => Answer::Unexpected,
        Status::NotSeen { .. } => match call.unsendable() {
            Some(why) => Answer::Settle(not_executed(call, why)),
            None if heard.server_leaving => {
                Answer::Settle(not_executed(call, NotExecuted::ShuttingDown))
            }
            None => match compared(call.comparison) {
                Compared::Hold => Answer::Hold,
                Compared::Send | Compared::Refuse(_) => Answer::SendAgain,
            },
        },
    }
}

/// `NotExecuted`, unless an earlier copy of an idempotent call may have run (S22, C73).
#[inline]
pub(crate) fn not_executed(call: KnownCall, why: NotExecuted) -> Outcome<'static> {
    if call.idempotent && call.may_have_run {
        Outcome::Unknown { why: Unknown::Repeated, ticket: false }
    } else {
        Outcome::NotExecuted(why)
    }
}

/// What a client does with an unfinished call whose method was compared with the server (S33).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// It waits, and may leave.
    Release,
    /// It waits and has no xid: it ends so.
    End(Outcome<'static>),
    /// Its xid is not used: it is settled so.
    Settle(Outcome<'static>),
    /// It has an xid, and its turn to send has come, if it waited for this: [`repeated`] says what.
    Resume,
    /// It goes on waiting, or nothing is sent of it any more.
    Nothing,
}

/// S33: what the comparison of its method means for a call. What is in flight may have been read by this instance of its server or by
/// the one before: it is asked for instead of being sent, and ends only if the server has not seen it.
pub(crate) fn judged(call: KnownCall) -> Judged {
    match (call.state, compared(call.comparison)) {
        (_, Compared::Hold) => Judged::Nothing,
        (CallState::Waiting | CallState::Held, Compared::Refuse(why)) => {
            Judged::End(not_executed(call, why))
        }
        (CallState::Numbered { .. }, Compared::Refuse(why)) => {
            Judged::Settle(not_executed(call, why))
        }
        (CallState::Held, Compared::Send) => Judged::Release,
        (CallState::Numbered { .. }, Compared::Send) | (CallState::InFlight(_), _) => {
            Judged::Resume
        }
        (CallState::Waiting, Compared::Send) => Judged::Nothing,
        (CallState::Answered { .. } | CallState::Leaving { .. } | CallState::Over, _) => {
            Judged::Nothing
        }
    }
}

/// What a client does with a call that is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GiveUp {
    /// It waits and has no xid: it ends so.
    End(Outcome<'static>),
    /// Its xid is not used: it is settled so.
    Settle(Outcome<'static>),
    /// Its outcome is not known yet: abandon it, and report that. Its answer still settles it.
    ReportUnknown(Unknown),
    /// Abandon it, and ask the server not to start it. Its answer says whether it did.
    Cancel,
    /// Abandon it, and drop what would be reported of it. Its answer still settles it.
    Drop,
    Nothing,
}

/// S17, S18, S19, S21: only a call of which no byte was sent ends here. Of any other, the server may be running a copy, and
/// only its answer frees the xid.
pub(crate) fn give_up(call: KnownCall, reason: Reason) -> GiveUp {
    if reason == Reason::Disconnected && (!call.fail_fast || call.abandoned().is_some()) {
        return GiveUp::Nothing;
    }
    // Of one that a lost session has carried, an earlier copy may have run; and a one-way call has no one to tell.
    if reason == Reason::Unreachable && (call.may_have_run || call.one_way) {
        return GiveUp::Nothing;
    }
    let outcome = not_executed(call, reason.not_executed());
    match (call.state, reason) {
        (CallState::Waiting | CallState::Held, _) => GiveUp::End(outcome),
        // In a journal, or in doubt until the resume.
        (CallState::Numbered { .. } | CallState::InFlight(_), Reason::Unreachable) => {
            GiveUp::Nothing
        }
        (CallState::Numbered { .. }, _) => GiveUp::Settle(outcome),
        (CallState::InFlight(_), Reason::Cancelled) => GiveUp::Cancel,
        (CallState::InFlight(_), Reason::DeadlinePassed) => {
            GiveUp::ReportUnknown(Unknown::DeadlinePassed)
        }
        (CallState::InFlight(_), Reason::Disconnected) => {
            GiveUp::ReportUnknown(Unknown::Disconnected)
        }
        (CallState::InFlight(_), Reason::Forgotten) => GiveUp::Drop,
        // The owner that would settle it is gone.
        (CallState::Answered { .. }, Reason::Forgotten) => GiveUp::Settle(outcome),
        (CallState::Leaving { .. } | CallState::Over, Reason::Forgotten) => GiveUp::Drop,
        (CallState::Answered { .. } | CallState::Leaving { .. } | CallState::Over, _) => {
            GiveUp::Nothing
        }
    }
}

/// Whether calls that have not left end when an attempt to connect fails. A journal's calls are meant to outlive outages, so
/// they wait.
pub(crate) fn ends_unsent(config: &ClientConfig, failure: DialFailure) -> bool {
    match (config.on_dial_failure, failure) {
        _ if config.durable => false,
        (OnDialFailure::End, _) | (OnDialFailure::EndIfPermanent, DialFailure::Permanent) => true,
        (OnDialFailure::Wait, _) | (OnDialFailure::EndIfPermanent, DialFailure::Transient) => false,
    }
}

/// What becomes of a call when its session is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionLost {
    /// It gets a new xid in the next session.
    Repeat,
    /// It is settled so.
    Settle(Outcome<'static>),
    /// It keeps the outcome that it has, and is settled.
    KeepOutcome,
}

/// S3, the most dangerous rule: what was sent is never sent again in another session, where nothing would recognise it as
/// a duplicate, unless it is idempotent (S22) and still wanted. A session that was opened in place of a lost one ran again
/// what the lost one had run.
pub(crate) fn session_lost(call: KnownCall) -> SessionLost {
    match call.state {
        CallState::Waiting | CallState::Held | CallState::Numbered { .. } => SessionLost::Repeat,
        CallState::InFlight(_) if call.idempotent && call.abandoned().is_none() => {
            SessionLost::Repeat
        }
        CallState::InFlight(_) => {
            SessionLost::Settle(Outcome::Unknown { why: Unknown::SessionEnded, ticket: false })
        }
        CallState::Answered { .. } | CallState::Leaving { .. } | CallState::Over => {
            SessionLost::KeepOutcome
        }
    }
}
