//! What happens to a call: the one place that decides it, for clients and servers alike.
//!
//! The functions here are pure. The machines look up what they know of a call, ask, and do as they are told. Nothing
//! outside this file may decide that a call runs, runs again, is answered, is dropped, or is settled.

use crate::client::ClientSession;
use crate::error::SessionEnd;
use crate::outcome::{NotExecuted, Outcome, Status, Unknown};
use crate::wire::Welcome;

/// What a request is to the server that reads it (S10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The client has long settled it: dropped.
    Stale,
    /// It is here already: answered from what is kept, or when it is done.
    Duplicate,
    /// The same xid with other arguments: the session ends.
    FalseRetry,
    /// A new call.
    New,
}

/// What the server knows of a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotView {
    /// The last xid let in or refused on it; 0 if none.
    pub(crate) xid: u64,
    /// That call's digest.
    pub(crate) digest: u64,
    /// Whether nothing of that call is here any more.
    pub(crate) discarded: bool,
}

impl SlotView {
    /// A slot on which nothing ever came.
    pub(crate) const UNUSED: SlotView = SlotView { xid: 0, digest: 0, discarded: true };
}

/// S10, for a request with `xid` and `digest` after X was brought up to `acked`.
pub(crate) fn arrival(acked: u64, slot: SlotView, xid: u64, digest: u64) -> Arrival {
    if xid <= acked || xid < slot.xid {
        Arrival::Stale
    } else if xid > slot.xid {
        Arrival::New
    } else if slot.discarded {
        Arrival::Stale
    } else if digest != slot.digest {
        Arrival::FalseRetry
    } else {
        Arrival::Duplicate
    }
}

/// What an `Ask` is to the server that reads it (S21).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The client has long settled it: it would not ask, unless it goes on from an old copy of its journal (S7).
    Settled,
    /// Answered from what is kept, or when it is done.
    Here,
    /// The server has nothing for it.
    NotSeen,
}

/// S21, for an `Ask` about `xid`.
pub(crate) fn asked(acked: u64, slot: SlotView, xid: u64) -> Asked {
    if xid <= acked || xid < slot.xid || (xid == slot.xid && slot.discarded) {
        Asked::Settled
    } else if xid == slot.xid {
        Asked::Here
    } else {
        Asked::NotSeen
    }
}

/// What a client knows of a call of which a byte was handed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handed {
    pub(crate) idempotent: bool,
    /// A connection that carried it has broken, or it was sent again: an earlier copy may have run.
    pub(crate) broken: bool,
    /// Whether it is still to be executed: not timed out, cancelled, failed fast or forgotten.
    pub(crate) wanted: bool,
}

/// What a client knows of the session that it resumes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resumable<'a> {
    pub(crate) session: &'a ClientSession,
    /// The highest xid of which a byte may have been sent.
    pub(crate) sent: u64,
}

/// Why a session is over though its server accepts the resume; `None` if it goes on (S3, S7, S32).
///
/// An h above every number that was sent says that another run of this client has used the session since: this one was
/// restored from an old copy of its journal, or cloned. The numbers that it would give are used already, and the server
/// would answer them with the other run's replies.
///
/// An h below what was answered says nothing: refusals, and acknowledged calls, do not survive a crash of a server with a
/// ledger (S30). That the ledger is an old copy shows in its commit.
pub(crate) fn judge_resumed(known: Resumable<'_>, welcome: &Welcome) -> Option<SessionEnd> {
    let Resumable { session, sent } = known;
    if welcome.session != session.id || welcome.server != session.server {
        Some(SessionEnd::SessionUnknown)
    } else if welcome.grants != session.grants {
        Some(SessionEnd::GrantsChanged)
    } else if welcome.commit < session.commit || welcome.seen > sent {
        Some(SessionEnd::RolledBack)
    } else {
        None
    }
}

/// What a client does with an unsettled call after its session was resumed (S21, S22).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resumed {
    SendAgain,
    Ask,
    /// Never read, and not wanted any more.
    Settle,
}

/// S21 and S22: `above_h` says that the server never read the call's xid.
pub(crate) fn resumed(call: Handed, above_h: bool) -> Resumed {
    if call.wanted && (above_h || call.idempotent) {
        Resumed::SendAgain
    } else if above_h {
        Resumed::Settle
    } else {
        Resumed::Ask
    }
}

/// What a client does with an unsettled call whose turn to be sent again has come on the same connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeated {
    SendAgain,
    Ask,
}

/// S21 after `NotSeen`, S27 without an answer. By then the call may have been given up: what is asked for does not run
/// late (S17), and its answer still frees the slot.
pub(crate) fn repeated(call: Handed) -> Repeated {
    if call.wanted { Repeated::SendAgain } else { Repeated::Ask }
}

/// What a client makes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer<'d> {
    Settle(Outcome<'d>),
    /// The server has nothing: as if above h.
    SendAgain,
}

/// S9, S14, S15, S21, S22, S28: `unwanted` is why the call is not wanted any more, if it is not.
///
/// What a draining server has not seen is not sent again, only to be refused (S25): the connection on which it was asked
/// for is the only one that could still carry it, and keeps the order, so no copy of the request is on its way.
pub(crate) fn answer(
    call: Handed,
    unwanted: NotExecuted,
    server_leaving: bool,
    status: Status,
    body: &[u8],
) -> Answer<'_> {
    match status {
        Status::Done => Answer::Settle(Outcome::Reply(body)),
        Status::NoReply(why) => Answer::Settle(Outcome::NoReply(why)),
        Status::Refused(why) => Answer::Settle(not_executed(call, why)),
        Status::Interrupted => {
            Answer::Settle(Outcome::Unknown { why: Unknown::Interrupted, ticket: false })
        }
        Status::NotSeen { .. } => match resumed(call, true) {
            Resumed::SendAgain if server_leaving => {
                Answer::Settle(not_executed(call, NotExecuted::ShuttingDown))
            }
            Resumed::SendAgain => Answer::SendAgain,
            Resumed::Ask | Resumed::Settle => Answer::Settle(not_executed(call, unwanted)),
        },
    }
}

/// `NotExecuted`, unless an earlier copy of an idempotent call may have run (S22, C73).
pub(crate) fn not_executed(call: Handed, why: NotExecuted) -> Outcome<'static> {
    if call.idempotent && call.broken {
        Outcome::Unknown { why: Unknown::Repeated, ticket: false }
    } else {
        Outcome::NotExecuted(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: SlotView = SlotView { xid: 9, digest: 77, discarded: false };
    const DISCARDED: SlotView = SlotView { discarded: true, ..KEPT };

    #[test]
    fn a_request_is_stale_a_duplicate_a_false_retry_or_new() {
        assert_eq!(arrival(9, KEPT, 9, 77), Arrival::Stale, "at X");
        assert_eq!(arrival(0, KEPT, 5, 77), Arrival::Stale, "below the slot's xid");
        assert_eq!(arrival(0, DISCARDED, 9, 77), Arrival::Stale, "acknowledged by its bit");
        assert_eq!(arrival(8, KEPT, 9, 77), Arrival::Duplicate);
        assert_eq!(arrival(8, KEPT, 9, 78), Arrival::FalseRetry);
        assert_eq!(arrival(8, KEPT, 13, 77), Arrival::New);
    }

    #[test]
    fn an_ask_is_for_what_is_settled_here_or_not_seen() {
        assert_eq!(asked(9, KEPT, 9), Asked::Settled);
        assert_eq!(asked(0, KEPT, 5), Asked::Settled);
        assert_eq!(asked(0, DISCARDED, 9), Asked::Settled);
        assert_eq!(asked(8, KEPT, 9), Asked::Here);
        assert_eq!(asked(8, KEPT, 13), Asked::NotSeen);
    }

    #[test]
    fn after_a_resume_only_wanted_calls_are_sent_again() {
        for idempotent in [false, true] {
            let wanted = Handed { idempotent, broken: true, wanted: true };
            let unwanted = Handed { wanted: false, ..wanted };
            assert_eq!(resumed(wanted, true), Resumed::SendAgain);
            let below = if idempotent { Resumed::SendAgain } else { Resumed::Ask };
            assert_eq!(resumed(wanted, false), below);
            assert_eq!(resumed(unwanted, true), Resumed::Settle);
            assert_eq!(resumed(unwanted, false), Resumed::Ask, "never settled alone (C74)");
        }
    }

    #[test]
    fn on_the_same_connection_only_wanted_calls_are_sent_again() {
        let wanted = Handed { idempotent: false, broken: false, wanted: true };
        assert_eq!(repeated(wanted), Repeated::SendAgain);
        assert_eq!(repeated(Handed { wanted: false, ..wanted }), Repeated::Ask);
    }

    #[test]
    fn what_a_draining_server_has_not_seen_is_not_executed() {
        let call = Handed { idempotent: false, broken: true, wanted: true };
        let answer = |leaving| {
            answer(call, NotExecuted::Cancelled, leaving, Status::NotSeen { ask: 1 }, b"")
        };
        assert_eq!(answer(false), Answer::SendAgain);
        let refused = Outcome::NotExecuted(NotExecuted::ShuttingDown);
        assert_eq!(answer(true), Answer::Settle(refused));
    }

    #[test]
    fn an_idempotent_call_whose_connection_broke_never_ends_as_not_executed() {
        let call = Handed { idempotent: true, broken: true, wanted: false };
        let refused = Status::Refused(NotExecuted::Overloaded);
        let repeated = Outcome::Unknown { why: Unknown::Repeated, ticket: false };
        for status in [refused, Status::NotSeen { ask: 1 }] {
            let answer = answer(call, NotExecuted::Cancelled, false, status, b"");
            assert_eq!(answer, Answer::Settle(repeated));
        }
        let healthy = Handed { broken: false, ..call };
        let answer = answer(healthy, NotExecuted::Cancelled, false, refused, b"");
        assert_eq!(answer, Answer::Settle(Outcome::NotExecuted(NotExecuted::Overloaded)));
    }
}
