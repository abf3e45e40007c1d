//! Each state that a call can be in, each call that a client can know, and what is expected of all of them.

use super::*;

pub(super) const REPEATED: Outcome<'static> =
    Outcome::Unknown { why: Unknown::Repeated, ticket: false };

pub(super) fn unknown(why: Unknown) -> Outcome<'static> {
    Outcome::Unknown { why, ticket: false }
}

pub(super) const REASONS: [Option<Reason>; 6] = [
    None,
    Some(Reason::Cancelled),
    Some(Reason::Forgotten),
    Some(Reason::DeadlinePassed),
    Some(Reason::Disconnected),
    Some(Reason::Unreachable),
];

pub(super) const COMPARISONS: [Comparison; 5] = [
    Comparison::NotNeeded,
    Comparison::Same,
    Comparison::Pending,
    Comparison::Differs,
    Comparison::Failed,
];

/// Each state that a call can be in; in flight, with each thing that decides, the `Ask` with the number 1 the last one.
pub(super) fn each_state(mut check: impl FnMut(CallState)) {
    let xid = Xid::new(1).unwrap();
    for state in [Waits, Held, Numbered { xid }, Answered { xid }, Leaving { xid }, Over] {
        check(state);
    }
    for reason in REASONS {
        for cancel in [Cancel::No, Cancel::Due, Cancel::Sent] {
            for last_sent in [LastSent::Earlier, LastSent::Request, LastSent::Ask] {
                for next in [None, Some(NextFrame::Request), Some(NextFrame::Ask)] {
                    let mut sent = Sent::new(xid);
                    sent.note_sent(NextFrame::Request);
                    sent.note_sent(NextFrame::Ask);
                    sent.abandoned = reason.map(|reason| Abandoned { reason, cancel });
                    (sent.last_sent, sent.next) = (last_sent, next);
                    check(InFlight(sent));
                }
            }
        }
    }
}

/// Calls in each state that a client can know one to be in.
pub(super) fn each_call(mut check: impl FnMut(KnownCall)) {
    each_state(|state| {
        for bits in 0..16 {
            let [idempotent, fail_fast, one_way, may_have_run] =
                [1, 2, 4, 8].map(|bit| bits & bit != 0);
            for comparison in COMPARISONS {
                check(KnownCall {
                    state,
                    idempotent,
                    fail_fast,
                    one_way,
                    comparison,
                    may_have_run,
                });
            }
        }
    });
}

pub(super) fn expected_why(reason: Reason) -> NotExecuted {
    match reason {
        Reason::Cancelled | Reason::Forgotten => NotExecuted::Cancelled,
        Reason::DeadlinePassed => NotExecuted::DeadlinePassed,
        Reason::Disconnected => NotExecuted::Disconnected,
        Reason::Unreachable => NotExecuted::NeverConnected,
    }
}

/// Why a call is not wanted any more.
pub(super) fn abandoned(call: KnownCall) -> Option<NotExecuted> {
    match call.state {
        InFlight(Sent { abandoned: Some(Abandoned { reason, .. }), .. }) => {
            Some(expected_why(reason))
        }
        InFlight(Sent { abandoned: None, .. }) => None,
        Waits | Held | Numbered { .. } | Answered { .. } | Leaving { .. } | Over => None,
    }
}

/// Why no request of a call may leave; the first reason counts.
pub(super) fn unsendable(call: KnownCall) -> Option<NotExecuted> {
    match (abandoned(call), call.comparison) {
        (Some(why), _) => Some(why),
        (None, Comparison::Differs) => Some(NotExecuted::SignatureMismatch),
        (None, Comparison::Failed) => Some(NotExecuted::NotCompared),
        (None, Comparison::NotNeeded | Comparison::Same | Comparison::Pending) => None,
    }
}

pub(super) fn expected_not_executed(call: KnownCall, why: NotExecuted) -> Outcome<'static> {
    match (call.idempotent, call.may_have_run) {
        (true, true) => REPEATED,
        (true, false) | (false, true | false) => Outcome::NotExecuted(why),
    }
}
