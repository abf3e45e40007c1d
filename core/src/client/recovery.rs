//! What happens to a call at its client: the one place that decides it.
//!
//! The functions here are pure. The machine looks up what it knows of a call, asks, and does what it is told.

use super::ClientSession;
use crate::error::SessionEnd;
use crate::outcome::{NotExecuted, Outcome, Status, Unknown};
use crate::wire::Welcome;

/// What a client knows of a call of which a byte was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentCall {
    pub(crate) idempotent: bool,
    /// A connection that carried it has broken, or it was sent again: an earlier copy may have run.
    pub(crate) may_have_run: bool,
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
/// A `seen` above every number that was sent says that another run of this client has used the session since: this one was
/// restored from an old copy of its journal, or cloned. The numbers that it would give are used already, and the server
/// would answer them with the other run's replies.
///
/// A `seen` below what was answered says nothing: refusals, and acknowledged calls, do not survive a crash of a server with a
/// ledger (S30). That the ledger is an old copy shows in its commit.
pub(crate) fn check_resumed(known: Resumable<'_>, welcome: &Welcome) -> Option<SessionEnd> {
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

/// S21 and S22: `above_seen` says that the server never read the call's xid.
pub(crate) fn resumed(call: SentCall, above_seen: bool) -> Resumed {
    if call.wanted && (above_seen || call.idempotent) {
        Resumed::SendAgain
    } else if above_seen {
        Resumed::Settle
    } else {
        Resumed::Ask
    }
}

/// The same where links lose and double frames (S27). The `Welcome` may be an old one, delivered again after a reconnect of
/// which the server knows nothing, and the call may have been read since. So its `seen` settles nothing: a call that is
/// not wanted is asked for, and the answer says which `Ask` it answers.
pub(crate) fn resumed_lossy(call: SentCall, above_seen: bool) -> Resumed {
    match resumed(call, above_seen) {
        Resumed::Settle => Resumed::Ask,
        other => other,
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
pub(crate) fn repeated(call: SentCall) -> Repeated {
    if call.wanted { Repeated::SendAgain } else { Repeated::Ask }
}

/// What a client makes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer<'d> {
    Settle(Outcome<'d>),
    /// The server has nothing: as if it were above `seen`.
    SendAgain,
}

/// S9, S14, S15, S21, S22, S28: `unwanted` is why the call is not wanted any more, if it is not.
///
/// What a draining server has not seen is not sent again, only to be refused (S25): the connection on which it was asked
/// for is the only one that could still carry it, and keeps the order, so no copy of the request is on its way.
pub(crate) fn answer(
    call: SentCall,
    abandoned: NotExecuted,
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
            Resumed::Ask | Resumed::Settle => Answer::Settle(not_executed(call, abandoned)),
        },
    }
}

/// `NotExecuted`, unless an earlier copy of an idempotent call may have run (S22, C73).
pub(crate) fn not_executed(call: SentCall, why: NotExecuted) -> Outcome<'static> {
    if call.idempotent && call.may_have_run {
        Outcome::Unknown { why: Unknown::Repeated, ticket: false }
    } else {
        Outcome::NotExecuted(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_resume_only_wanted_calls_are_sent_again() {
        for idempotent in [false, true] {
            let wanted = SentCall { idempotent, may_have_run: true, wanted: true };
            let abandoned = SentCall { wanted: false, ..wanted };
            assert_eq!(resumed(wanted, true), Resumed::SendAgain);
            let below = if idempotent { Resumed::SendAgain } else { Resumed::Ask };
            assert_eq!(resumed(wanted, false), below);
            assert_eq!(resumed(abandoned, true), Resumed::Settle);
            assert_eq!(
                resumed_lossy(abandoned, true),
                Resumed::Ask,
                "the Welcome may be old (C143)"
            );
            assert_eq!(resumed_lossy(wanted, true), Resumed::SendAgain);
            assert_eq!(resumed(abandoned, false), Resumed::Ask, "never settled alone (C74)");
        }
    }

    #[test]
    fn on_the_same_connection_only_wanted_calls_are_sent_again() {
        let wanted = SentCall { idempotent: false, may_have_run: false, wanted: true };
        assert_eq!(repeated(wanted), Repeated::SendAgain);
        assert_eq!(repeated(SentCall { wanted: false, ..wanted }), Repeated::Ask);
    }

    #[test]
    fn what_a_draining_server_has_not_seen_is_not_executed() {
        let call = SentCall { idempotent: false, may_have_run: true, wanted: true };
        let answer = |leaving| {
            answer(call, NotExecuted::Cancelled, leaving, Status::NotSeen { ask: 1 }, b"")
        };
        assert_eq!(answer(false), Answer::SendAgain);
        let refused = Outcome::NotExecuted(NotExecuted::ShuttingDown);
        assert_eq!(answer(true), Answer::Settle(refused));
    }

    #[test]
    fn an_idempotent_call_whose_connection_broke_never_ends_as_not_executed() {
        let call = SentCall { idempotent: true, may_have_run: true, wanted: false };
        let refused = Status::Refused(NotExecuted::Overloaded);
        let repeated = Outcome::Unknown { why: Unknown::Repeated, ticket: false };
        for status in [refused, Status::NotSeen { ask: 1 }] {
            let answer = answer(call, NotExecuted::Cancelled, false, status, b"");
            assert_eq!(answer, Answer::Settle(repeated));
        }
        let healthy = SentCall { may_have_run: false, ..call };
        let answer = answer(healthy, NotExecuted::Cancelled, false, refused, b"");
        assert_eq!(answer, Answer::Settle(Outcome::NotExecuted(NotExecuted::Overloaded)));
    }
}
