//! What happens to a call at its server: the one place that decides it.
//!
//! | question | function |
//! |---|---|
//! | is a request new, a duplicate, stale, to be run again, or a fault of its client? | [`classify_request`] |
//! | what is an `Ask` answered with? | [`classify_ask`] |
//! | is a new request admitted, and if not, why? | [`may_admit`] |
//! | is an admitted call allowed, if its owner has to say so? | [`may_reserve`] |
//! | may an admitted call be started, and if not, why? | [`may_start`] |
//! | what does a `Cancel` do? | [`classify_cancel`] |
//! | what does a bit of an `Ack` do? | [`classify_settled`] |
//! | what is kept of a call that has finished? | [`status_of_reply`], [`status_of_refusal`], [`status_of_no_reply`] |
//! | is a reply forgotten once it has left? | [`is_forgotten_once_sent`] |
//! | does a ledger's record replace what is on a slot? | [`may_restore`] |
//!
//! The functions are pure. The machine looks up what it knows of a call, asks, and obeys. Nothing outside this file may
//! decide that a call runs, runs again, is refused, is answered, or is dropped; the client's half is
//! `client/recovery.rs`. What is not here: whether `acked` covers a call that runs (`held.rs` keeps that answer ready,
//! since the question comes with every request), and who gets how much memory (`budget.rs`).

use super::config::MethodSpec;
use super::slot::{SlotState, SlotView};
use crate::error::ProtocolError;
use crate::outcome::{NoReply, NotExecuted, Status};

/// What the server knows of the session in which a request or an `Ask` comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionFacts {
    /// Everything up to here is acknowledged.
    pub(super) acked: u64,
    /// The highest xid read.
    pub(super) seen: u64,
    /// The client said `Goodbye` on this connection.
    pub(super) closing: bool,
    /// The link may lose messages, or deliver them twice (S27).
    pub(super) lossy: bool,
}

/// What the server knows of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestFacts {
    pub(super) xid: u64,
    /// What its client acknowledges with it.
    pub(super) acked: u64,
    pub(super) digest: u64,
    pub(super) idempotent: bool,
}

/// What a request is to the server that reads it (S10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The client has long settled it: dropped, not answered.
    Stale,
    /// The call is here already: answered from what is kept, or when it is done.
    Duplicate,
    /// The call is idempotent and done, and its reply was not kept: it runs again (S22).
    Rerun,
    /// A new call.
    New,
}

/// S7: `seen` in the `Welcome` to a client that resumes its session and says that it has acknowledged up to `acked`.
///
/// One that knows of less than the session does is an old copy of itself. Of what another run has settled, read or not, it is
/// to ask, so that it learns that: its requests would be dropped as stale without a word (C125).
pub(super) fn seen_by_resume(session: &SessionFacts, acked: u64) -> u64 {
    if acked < session.acked { session.seen.max(session.acked) } else { session.seen }
}

/// S10, for a request that falls on `slot`, as if everything up to its `acked` were acknowledged already.
///
/// # Errors
/// What shows that its client breaks the rules, or is another run of it (S7). Nothing may be changed then.
#[inline]
pub(super) fn classify_request(
    session: &SessionFacts,
    slot: &SlotView,
    request: &RequestFacts,
) -> Result<Arrival, ProtocolError> {
    let &RequestFacts { xid, acked, digest, .. } = request;
    if acked >= xid {
        return Err(ProtocolError::AckAhead { acked });
    }
    if session.closing && !session.lossy {
        return Err(ProtocolError::AfterGoodbye);
    }
    if xid <= session.acked || xid < slot.xid {
        return Ok(Arrival::Stale);
    }
    if xid > slot.xid {
        return check_new(session, slot, request).map(|()| Arrival::New);
    }
    match slot.state {
        SlotState::Discarded => Ok(Arrival::Stale),
        _ if digest != slot.digest => Err(ProtocolError::FalseRetry { xid }),
        // An owner, or a ledger's record, may say so of a call that must not run twice.
        SlotState::Kept(Status::NoReply(NoReply::NotKept)) if request.idempotent => {
            Ok(Arrival::Rerun)
        }
        SlotState::Admitted | SlotState::Running | SlotState::Kept(_) => Ok(Arrival::Duplicate),
    }
}

/// S13: what is demanded of a new xid.
#[inline]
fn check_new(
    session: &SessionFacts,
    slot: &SlotView,
    request: &RequestFacts,
) -> Result<(), ProtocolError> {
    let xid = request.xid;
    if session.closing {
        // S27: what is not new may be the second copy of a request from before.
        return Err(ProtocolError::AfterGoodbye);
    }
    if slot.state.is_running() {
        return Err(ProtocolError::SlotBusy { xid, running: slot.xid });
    }
    let may_be_below_seen = request.idempotent || slot.not_seen == xid || session.lossy;
    if xid <= session.seen && !may_be_below_seen {
        return Err(ProtocolError::OutOfOrder { xid, seen: session.seen });
    }
    Ok(())
}

/// What an `Ask` is answered with (S21).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AskAnswer {
    /// Nothing: it is the second copy of a question from before (S27).
    Dropped,
    /// The reply, when the call is done.
    WhenDone,
    /// The reply that is kept.
    Kept,
    /// NotSeen: the server has read no request with this xid. What is kept on the slot is of an earlier call, and is
    /// discarded (S9).
    NotSeen,
}

/// S21, for an `Ask` about `xid`, which falls on `slot`.
///
/// # Errors
/// If the client has settled the xid and would not ask, unless it continues from an old copy of its journal (S7); or if an
/// earlier call runs on the slot.
pub(super) fn classify_ask(
    session: &SessionFacts,
    slot: &SlotView,
    xid: u64,
) -> Result<AskAnswer, ProtocolError> {
    let here = xid == slot.xid && slot.state != SlotState::Discarded;
    if xid <= session.acked || (xid <= slot.xid && !here) {
        // On a stream there are no second copies.
        return if session.lossy {
            Ok(AskAnswer::Dropped)
        } else {
            Err(ProtocolError::AlreadySettled { xid })
        };
    }
    match slot.state {
        SlotState::Kept(_) if here => Ok(AskAnswer::Kept),
        SlotState::Admitted | SlotState::Running if here => Ok(AskAnswer::WhenDone),
        SlotState::Admitted | SlotState::Running => {
            Err(ProtocolError::SlotBusy { xid, running: slot.xid })
        }
        SlotState::Kept(_) | SlotState::Discarded => Ok(AskAnswer::NotSeen),
    }
}

/// What the server knows of a new request when it admits it.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdmissionFacts {
    /// What is wrong with what follows its header, whatever its method is.
    pub(super) content: Result<(), NotExecuted>,
    /// Its method, if the server offers it.
    pub(super) method: Option<MethodSpec>,
    /// Whether the request says that it may run more than once.
    pub(super) idempotent: bool,
    pub(super) draining: bool,
    pub(super) ledger_failed: bool,
    /// Whether there is memory for the request and its longest reply.
    pub(super) fits: bool,
}

/// W44: the refusals of a new request, in this order.
///
/// # Errors
/// Why it will never run.
#[inline]
pub(super) fn may_admit(facts: &AdmissionFacts) -> Result<(), NotExecuted> {
    facts.content?;
    let Some(method) = facts.method else { return Err(NotExecuted::UnknownMethod) };
    if facts.draining {
        Err(NotExecuted::ShuttingDown)
    } else if facts.ledger_failed {
        Err(NotExecuted::LedgerFailed)
    } else if facts.idempotent && !method.idempotent {
        Err(NotExecuted::NotIdempotent)
    } else if !facts.fits {
        Err(NotExecuted::Overloaded)
    } else {
        Ok(())
    }
}

/// W44: the refusals of a call that was admitted, and for which nothing is set aside before its owner has said whether its
/// caller may make it.
///
/// # Errors
/// Why it will never run.
pub(super) fn may_reserve(allowed: bool, fits: bool) -> Result<(), NotExecuted> {
    if !allowed {
        Err(NotExecuted::PermissionDenied)
    } else if !fits {
        Err(NotExecuted::Overloaded)
    } else {
        Ok(())
    }
}

/// What the server knows of an admitted call when its handler is to start.
#[derive(Clone, Copy, Debug)]
pub(super) struct StartFacts {
    pub(super) cancelled: bool,
    /// Its session was ended for cause.
    pub(super) aborting: bool,
    pub(super) past_deadline: bool,
    pub(super) draining: bool,
    pub(super) ledger_failed: bool,
}

/// S17, S25, S31: the refusals of an admitted call, in this order.
///
/// # Errors
/// Why it will never run.
#[inline]
pub(super) fn may_start(facts: &StartFacts) -> Result<(), NotExecuted> {
    if facts.cancelled || facts.aborting {
        Err(NotExecuted::Cancelled)
    } else if facts.past_deadline {
        Err(NotExecuted::DeadlinePassed)
    } else if facts.draining {
        Err(NotExecuted::ShuttingDown)
    } else if facts.ledger_failed {
        Err(NotExecuted::LedgerFailed)
    } else {
        Ok(())
    }
}

/// What a `Cancel` does (S19).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CancelEffect {
    /// Nothing: the call is not here, has finished, or was cancelled before.
    Nothing,
    /// The call has not started, and never will.
    Withdraw,
    /// The call runs: its handler may stop, or not.
    Interrupt,
}

/// S19, for a `Cancel` of `xid`, which falls on `slot`.
pub(super) fn classify_cancel(slot: &SlotView, cancelled: bool, xid: u64) -> CancelEffect {
    match slot.state {
        _ if slot.xid != xid || cancelled => CancelEffect::Nothing,
        SlotState::Admitted => CancelEffect::Withdraw,
        SlotState::Running => CancelEffect::Interrupt,
        SlotState::Kept(_) | SlotState::Discarded => CancelEffect::Nothing,
    }
}

/// What a set bit of an `Ack` does to its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AckEffect {
    /// Nothing is kept there, or what is came later than the `Ack` was sent (S27).
    Nothing,
    /// What is kept is discarded (S9).
    Discard,
    /// The call runs: its client has settled what another run of it has asked for (S7).
    Ahead,
}

/// S9, S10, for a slot whose bit is set in an `Ack` that speaks of xids up to `last`.
pub(super) fn classify_settled(slot: &SlotView, last: u64) -> AckEffect {
    match slot.state {
        _ if slot.xid > last => AckEffect::Nothing,
        SlotState::Admitted | SlotState::Running => AckEffect::Ahead,
        SlotState::Kept(_) => AckEffect::Discard,
        SlotState::Discarded => AckEffect::Nothing,
    }
}

/// S15, S23: what is kept of a call whose handler gave a reply of `len` bytes, of which `max` are allowed. The body is
/// kept only of a call that is done and not one-way.
#[inline]
pub(super) fn status_of_reply(one_way: bool, len: usize, max: usize) -> Status {
    if one_way || len <= max { Status::Done } else { Status::NoReply(NoReply::ReplyTooLarge) }
}

/// What is kept of a call that was not executed. A reason that only a client can have becomes `BadArguments`.
pub(super) fn status_of_refusal(why: NotExecuted) -> Status {
    let status = Status::Refused(why);
    if status.to_byte().is_some() { status } else { Status::Refused(NotExecuted::BadArguments) }
}

/// What is kept of a call that was executed without a reply to show. A reason that only a client can have becomes
/// `Aborted`.
pub(super) fn status_of_no_reply(why: NoReply) -> Status {
    let status = Status::NoReply(why);
    if status.to_byte().is_some() { status } else { Status::NoReply(NoReply::Aborted) }
}

/// S22: of an idempotent call no reply is kept once it has left, only that the call is done.
///
/// On a lossy link it is kept (S27): there the repetition comes while the first reply may be under way, and if it ran,
/// the client's `acked` could cover it.
#[inline]
pub(super) fn is_forgotten_once_sent(idempotent: bool, lossy: bool, state: SlotState) -> bool {
    idempotent && !lossy && state == SlotState::Kept(Status::Done)
}

/// S28: whether a ledger's record of the call `xid` replaces what is on its slot; `started` says that the record is of
/// no more than the call's start.
pub(super) fn may_restore(acked: u64, slot: &SlotView, xid: u64, started: bool) -> bool {
    let is_known = slot.xid == xid && started;
    xid > acked && slot.xid <= xid && !is_known && !slot.state.is_running()
}

#[cfg(test)]
#[path = "dedup/tests.rs"]
mod tests;
