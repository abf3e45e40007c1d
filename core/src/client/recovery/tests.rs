//! Every decision, for every combination of its inputs, beside what is expected of it.
//!
//! The expectations are tables written from the rules in `docs/DESIGN.md`, without guards and without a default arm, so
//! that the compiler checks that each combination has one.

use super::*;
use crate::client::ClientSession;
use crate::client::call::{Abandoned, Cancel, InFlight as Sent};
use crate::error::{CloseReason, SessionLoss};
use crate::ids::{ServerId, SessionId, Xid};
use crate::instance::{Instance, Schemas};
use crate::text::ServiceName;
use crate::wire::{Grants, Refuse, Welcome};
use CallState::{Answered, Held, InFlight, Leaving, Numbered, Over, Waiting as Waits};

mod each;

use each::*;

#[test]
fn an_idempotent_call_that_may_have_run_never_ends_as_not_executed() {
    each_call(|call| {
        for why in [NotExecuted::Overloaded, NotExecuted::Cancelled, NotExecuted::SessionRefused] {
            let expected = expected_not_executed(call, why);
            assert_eq!(not_executed(call, why), expected, "{call:?}");
        }
    });
}

#[test]
fn a_call_that_waits_leaves_in_time_and_if_it_fits() {
    each_call(|call| {
        for (deadline_passed, fits, metadata_unsupported, why) in [
            (false, true, false, None),
            (false, true, true, Some(NotExecuted::MetadataUnsupported)),
            (false, false, false, Some(NotExecuted::RequestTooLarge)),
            (true, true, true, Some(NotExecuted::DeadlinePassed)),
            (true, false, false, Some(NotExecuted::DeadlinePassed)),
        ] {
            let expected = why.map(|why| expected_not_executed(call, why));
            let waiting = Waiting { deadline_passed, fits, metadata_unsupported };
            let decided = refuse_to_send(call, waiting);
            assert_eq!(decided, expected, "{call:?} {deadline_passed} {fits}");
        }
    });
}

#[test]
fn c230_no_request_leaves_before_its_method_was_compared() {
    for comparison in COMPARISONS {
        let expected = match comparison {
            Comparison::NotNeeded | Comparison::Same => Compared::Send,
            Comparison::Pending => Compared::Hold,
            Comparison::Differs => Compared::Refuse(NotExecuted::SignatureMismatch),
            Comparison::Failed => Compared::Refuse(NotExecuted::NotCompared),
        };
        assert_eq!(compared(comparison), expected);
    }
    each_call(|call| {
        use Comparison::{Differs, Failed, NotNeeded, Pending, Same};
        let mismatch = expected_not_executed(call, NotExecuted::SignatureMismatch);
        let failed = expected_not_executed(call, NotExecuted::NotCompared);
        let expected = match (call.state, call.comparison) {
            (_, Pending) => Judged::Nothing,
            (Held, NotNeeded | Same) => Judged::Release,
            (Waits | Held, Differs) => Judged::End(mismatch),
            (Waits | Held, Failed) => Judged::End(failed),
            // No byte of it was sent.
            (Numbered { .. }, Differs) => Judged::Settle(mismatch),
            (Numbered { .. }, Failed) => Judged::Settle(failed),
            // It may have been read: what was held is sent, or asked for.
            (Numbered { .. }, NotNeeded | Same)
            | (InFlight(_), NotNeeded | Same | Differs | Failed) => Judged::Resume,
            (Waits | Answered { .. } | Leaving { .. } | Over, NotNeeded | Same)
            | (Answered { .. } | Leaving { .. } | Over, Differs | Failed) => Judged::Nothing,
        };
        assert_eq!(judged(call), expected, "{call:?}");
    });
}

#[test]
fn after_a_resume_only_wanted_calls_are_sent_again() {
    each_call(|call| {
        for bits in 0..8 {
            let [above_seen, journaled, lossy] = [1, 2, 4].map(|bit| bits & bit != 0);
            let wanted = unsendable(call).is_none();
            let pending = call.comparison == Comparison::Pending;
            let state = (call.state, journaled, wanted, above_seen, call.idempotent, lossy);
            let expected = match state {
                (Waits | Held | Answered { .. } | Leaving { .. } | Over, ..) => Resumed::Skip,
                (Numbered { .. } | InFlight(_), false, ..) => Resumed::Stop,
                // Not read; on a lossy link, not read when the Welcome was first sent (C143).
                (Numbered { .. } | InFlight(_), true, true, true, idempotent, _) => {
                    match (pending, idempotent) {
                        (false, _) => Resumed::Send(NextFrame::Request),
                        (true, false) => Resumed::Send(NextFrame::Ask),
                        (true, true) => Resumed::Hold,
                    }
                }
                (Numbered { .. } | InFlight(_), true, false, true, _, true) => {
                    Resumed::Send(NextFrame::Ask)
                }
                (Numbered { .. } | InFlight(_), true, false, true, _, false) => {
                    let why = unsendable(call).unwrap();
                    Resumed::Settle(expected_not_executed(call, why))
                }
                // Read: only what may run twice is sent again, and nothing is settled without asking (C74).
                (Numbered { .. } | InFlight(_), true, true, false, true, _) => {
                    if pending {
                        Resumed::Hold
                    } else {
                        Resumed::Send(NextFrame::Request)
                    }
                }
                (Numbered { .. } | InFlight(_), true, true, false, false, _)
                | (Numbered { .. } | InFlight(_), true, false, false, ..) => {
                    Resumed::Send(NextFrame::Ask)
                }
            };
            let decided = resumed(call, Resume { above_seen, journaled, lossy });
            assert_eq!(decided, expected, "{call:?} {above_seen} {journaled} {lossy}");
        }
    });
}

#[test]
fn on_the_same_connection_only_wanted_calls_are_sent_again() {
    each_call(|call| {
        for next in [NextFrame::Request, NextFrame::Ask] {
            let expected = match (unsendable(call), next, call.comparison) {
                // Others pass it: a server takes the request behind them if it has said that it has not seen it (C231).
                (None, NextFrame::Request, Comparison::Pending) => {
                    if call.idempotent {
                        None
                    } else {
                        Some(NextFrame::Ask)
                    }
                }
                (None, NextFrame::Request, _) => Some(NextFrame::Request),
                (None, NextFrame::Ask, _) | (Some(_), _, _) => Some(NextFrame::Ask),
            };
            assert_eq!(repeated(call, next), expected, "{call:?}");
        }
    });
    assert_eq!(unanswered(LastSent::Ask), NextFrame::Ask);
    assert_eq!(unanswered(LastSent::Request), NextFrame::Request);
}

#[test]
fn every_answer_means_one_thing() {
    let statuses = (0..=u8::MAX).filter_map(Status::from_byte);
    let mut statuses: heapless::Vec<Status, 19> = statuses.collect();
    assert_eq!(statuses.len(), 18);
    statuses.push(Status::NotSeen { ask: 1 }).unwrap();
    each_call(|call| {
        for status in &statuses {
            for bits in 0..4 {
                let [lossy, server_leaving] = [1, 2].map(|bit| bits & bit != 0);
                let heard = Heard { lossy, server_leaving };
                let decided = answer(call, heard, *status, b"body");
                let expected = expected_answer(call, heard, *status);
                assert_eq!(decided, expected, "{call:?} {heard:?} {status:?}");
            }
        }
    });
}

fn expected_answer(call: KnownCall, heard: Heard, status: Status) -> Answer<'static> {
    let last_sent = match call.state {
        // Nothing was sent that could be answered.
        Waits | Held | Numbered { .. } => return Answer::Unexpected,
        Answered { .. } | Leaving { .. } | Over => return Answer::Late,
        InFlight(sent) => sent.last_sent,
    };
    let to_an_ask = match (last_sent, status) {
        (LastSent::Ask, Status::NotSeen { ask: 1 }) => true,
        (LastSent::Earlier | LastSent::Request, _) | (LastSent::Ask, _) => false,
    };
    let (wanted, leaving) = (unsendable(call).is_none(), heard.server_leaving);
    let pending = call.comparison == Comparison::Pending;
    match (status, to_an_ask, heard.lossy, wanted, leaving) {
        (Status::Done, ..) => Answer::Settle(Outcome::Reply(b"body")),
        (Status::NoReply(why), ..) => Answer::Settle(Outcome::NoReply(why)),
        (Status::Refused(why), ..) => Answer::Settle(expected_not_executed(call, why)),
        (Status::Interrupted, ..) => Answer::Settle(unknown(Unknown::Interrupted)),
        (Status::NotSeen { .. }, false, false, ..) => Answer::Unexpected,
        (Status::NotSeen { .. }, false, true, ..) => Answer::Stale,
        (Status::NotSeen { .. }, true, _, true, false) => {
            if pending {
                Answer::Hold
            } else {
                Answer::SendAgain
            }
        }
        (Status::NotSeen { .. }, true, _, true, true) => {
            Answer::Settle(expected_not_executed(call, NotExecuted::ShuttingDown))
        }
        (Status::NotSeen { .. }, true, _, false, _) => {
            Answer::Settle(expected_not_executed(call, unsendable(call).unwrap()))
        }
    }
}

#[test]
fn only_a_call_that_was_not_sent_ends_when_it_is_given_up() {
    use Reason::{Cancelled, DeadlinePassed, Disconnected, Forgotten, Unreachable};
    each_call(|call| {
        for reason in REASONS.into_iter().flatten() {
            let why = expected_why(reason);
            let outcome = expected_not_executed(call, why);
            let wanted = abandoned(call).is_none();
            let expected = match (call.state, reason, call.fail_fast, wanted) {
                (Waits | Held, Unreachable, ..) => match (call.one_way, call.may_have_run) {
                    (false, false) => GiveUp::End(outcome),
                    (true, _) | (false, true) => GiveUp::Nothing,
                },
                (_, Unreachable, ..) => GiveUp::Nothing,
                (_, Disconnected, false, _) | (_, Disconnected, true, false) => GiveUp::Nothing,
                (Waits | Held, Cancelled | Forgotten | DeadlinePassed, ..)
                | (Waits | Held, Disconnected, true, true) => GiveUp::End(outcome),
                (Numbered { .. }, Cancelled | Forgotten | DeadlinePassed, ..)
                | (Numbered { .. }, Disconnected, true, true) => GiveUp::Settle(outcome),
                (InFlight(_), Cancelled, ..) => GiveUp::Cancel,
                (InFlight(_), Forgotten, ..) => GiveUp::Drop,
                (InFlight(_), DeadlinePassed, ..) => GiveUp::ReportUnknown(Unknown::DeadlinePassed),
                (InFlight(_), Disconnected, true, true) => {
                    GiveUp::ReportUnknown(Unknown::Disconnected)
                }
                (Answered { .. }, Forgotten, ..) => GiveUp::Settle(outcome),
                (Leaving { .. } | Over, Forgotten, ..) => GiveUp::Drop,
                (Answered { .. } | Leaving { .. } | Over, Cancelled | DeadlinePassed, ..)
                | (Answered { .. } | Leaving { .. } | Over, Disconnected, true, true) => {
                    GiveUp::Nothing
                }
            };
            assert_eq!(give_up(call, reason), expected, "{call:?} {reason:?}");
            assert_eq!(reason.not_executed(), why);
        }
    });
}

#[test]
fn calls_that_have_not_left_end_by_a_failed_dial_if_they_are_not_to_wait() {
    use DialFailure::{Permanent, Transient};
    for (policy, failure, ends) in [
        (OnDialFailure::Wait, Transient, false),
        (OnDialFailure::Wait, Permanent, false),
        (OnDialFailure::EndIfPermanent, Transient, false),
        (OnDialFailure::EndIfPermanent, Permanent, true),
        (OnDialFailure::End, Transient, true),
        (OnDialFailure::End, Permanent, true),
    ] {
        for durable in [false, true] {
            let config = ClientConfig { on_dial_failure: policy, durable, ..Default::default() };
            assert_eq!(ends_unsent(&config, failure), ends && !durable, "{policy:?} {failure:?}");
        }
    }
}

#[test]
fn in_a_new_session_only_what_was_not_sent_or_may_run_twice_is_repeated() {
    each_call(|call| {
        let lost = SessionLost::Settle(unknown(Unknown::SessionEnded));
        let expected = match (call.state, call.idempotent, abandoned(call)) {
            (Waits | Held | Numbered { .. }, ..) => SessionLost::Repeat,
            (InFlight(_), true, None) => SessionLost::Repeat,
            (InFlight(_), false, _) | (InFlight(_), true, Some(_)) => lost,
            (Answered { .. } | Leaving { .. } | Over, ..) => SessionLost::KeepOutcome,
        };
        assert_eq!(session_lost(call), expected, "{call:?}");
    });
}

#[test]
fn a_session_goes_on_only_if_it_is_the_same_one() {
    let grants =
        Grants { slots: 4, request_len_max: 10, reply_len_max: 10, lease_ms: 10, keepalive_ms: 10 };
    let session = ClientSession {
        id: SessionId::from_bytes([1; 16]),
        server: ServerId::from_bytes([2; 16]),
        service: ServiceName::EMPTY,
        grants,
        commit: 5,
    };
    let other_grants = Grants { slots: 3, ..grants };
    let known = |metadata_granted| Resumable { session: &session, sent: 7, metadata_granted };
    for (id, server) in [(1, 2), (1, 3), (3, 2), (3, 3)] {
        for granted in [grants, other_grants] {
            for commit in [4, 5, 6] {
                for seen in [0, 6, 7, 8] {
                    let welcome = Welcome {
                        version: 1,
                        features: 0,
                        server: ServerId::from_bytes([server; 16]),
                        service: ServiceName::EMPTY,
                        session: SessionId::from_bytes([id; 16]),
                        seen,
                        commit,
                        grants: granted,
                        instance: Instance::UNNAMED,
                        schemas: Schemas::EMPTY,
                    };
                    let expected = match (id, server, granted.slots, commit, seen) {
                        (1, 2, 4, 5 | 6, 0..=7) => None,
                        (1, 2, 4, _, _) => Some(SessionLoss::RolledBack),
                        (1, 2, _, _, _) => Some(SessionLoss::GrantsChanged),
                        (_, _, _, _, _) => Some(SessionLoss::SessionUnknown),
                    };
                    assert_eq!(check_resumed(known(false), &welcome), expected, "{welcome:?}");
                    let lacks = check_resumed(known(true), &welcome);
                    let same = (id, server) == (1, 2);
                    let granted_less =
                        if same { Some(SessionLoss::GrantsChanged) } else { expected };
                    assert_eq!(lacks, granted_less, "{welcome:?}");
                    let features = crate::wire::FEATURE_METADATA;
                    let welcome = Welcome { features, ..welcome };
                    assert_eq!(check_resumed(known(true), &welcome), expected, "{welcome:?}");
                }
            }
        }
    }
}

const NAMES: [Option<&str>; 3] = [None, Some("found"), Some("other")];

/// Configurations that demand nothing, what answers, and something else; which service and server is wrong by them.
fn each_demand(mut check: impl FnMut(&ClientConfig, Option<CloseReason>)) {
    let name = |name| ServiceName::new(name).unwrap();
    for service in NAMES {
        for server in [None, Some(1), Some(2)] {
            let config = ClientConfig {
                service: service.map(name),
                server: server.map(|byte| ServerId::from_bytes([byte; 16])),
                ..ClientConfig::default()
            };
            let expected = match (service, server) {
                (Some("other"), _) => {
                    let (wanted, found) = (name("other"), name("found"));
                    Some(CloseReason::WrongService { wanted, found })
                }
                (_, Some(2)) => {
                    let [found, wanted] = [1, 2].map(|byte| ServerId::from_bytes([byte; 16]));
                    Some(CloseReason::WrongServer { wanted, found })
                }
                (_, _) => None,
            };
            check(&config, expected);
        }
    }
}

#[test]
fn a_refusal_ends_no_more_than_it_says() {
    let found = (ServiceName::new("found").unwrap(), ServerId::from_bytes([1; 16]));
    each_demand(|config, wrong| {
        assert_eq!(check_server(config, found.0, found.1), wrong);
        for code in 0..=u8::MAX {
            let reason = CloseReason::Refused(Refuse::Protocol(code));
            let expected = match code {
                10 | 11 | 16 => AfterRefuse::LoseSession(SessionLoss::RolledBack, reason),
                13 => AfterRefuse::LoseSession(SessionLoss::FalseRetry, reason),
                _ => AfterRefuse::Disconnect(reason),
            };
            assert_eq!(after_refuse(config, Refuse::Protocol(code)), expected);
        }
        let confused = AfterRefuse::Disconnect(CloseReason::Refused(Refuse::Protocol(0)));
        let (service, server) = found;
        let version = CloseReason::Refused(Refuse::VersionUnsupported { min: 2, max: 3 });
        for (refuse, expected) in [
            (Refuse::VersionUnsupported { min: 2, max: 3 }, AfterRefuse::GiveUp(version)),
            (
                Refuse::SessionUnknown,
                AfterRefuse::LoseSession(
                    SessionLoss::SessionUnknown,
                    CloseReason::Refused(Refuse::SessionUnknown),
                ),
            ),
            (
                Refuse::WrongPrincipal,
                AfterRefuse::LoseSession(
                    SessionLoss::Refused,
                    CloseReason::Refused(Refuse::WrongPrincipal),
                ),
            ),
            (Refuse::WrongServer { service, server }, wrong.map_or(confused, AfterRefuse::GiveUp)),
            (
                Refuse::SessionsFull,
                AfterRefuse::Disconnect(CloseReason::Refused(Refuse::SessionsFull)),
            ),
            (
                Refuse::PrincipalFull,
                AfterRefuse::Disconnect(CloseReason::Refused(Refuse::PrincipalFull)),
            ),
            (
                Refuse::ShuttingDown,
                AfterRefuse::Disconnect(CloseReason::Refused(Refuse::ShuttingDown)),
            ),
            (Refuse::Superseded, AfterRefuse::Disconnect(CloseReason::Refused(Refuse::Superseded))),
            (Refuse::TooSlow, AfterRefuse::Disconnect(CloseReason::Refused(Refuse::TooSlow))),
        ] {
            assert_eq!(after_refuse(config, refuse), expected, "{refuse:?}");
        }
    });
}

#[test]
fn goodbye_is_said_only_when_nothing_is_left_to_learn() {
    for bits in 0..32 {
        let [server_leaving, exhausted, closing, nothing_waits, nothing_unsettled] =
            [1, 2, 4, 8, 16].map(|bit| bits & bit != 0);
        let known =
            KnownSession { server_leaving, exhausted, closing, nothing_waits, nothing_unsettled };
        let expected = match bits {
            // Something is unsettled.
            0..16 => false,
            // No reason to leave; a reason to close, and something waits.
            16 | 24 | 20 => false,
            // The server leaves, numbers are used up, or both, or nothing waits at the close.
            17 | 18 | 19 | 21 | 22 | 23 | 25 | 26 | 27 | 28 | 29 | 30 | 31 => true,
            _ => unreachable!(),
        };
        assert_eq!(may_say_goodbye(known), expected, "{known:?}");
    }
}
