//! What errors and outcomes say: each something, and each something else; and what `executed` makes of them.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::error::Error;

use oncewire_core::*;

fn name(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

/// Fails if one says nothing, or the same as another one.
#[track_caller]
fn all_differ(errors: &[&dyn Error]) {
    let said: BTreeSet<String> = errors.iter().map(|error| error.to_string()).collect();
    assert_eq!(said.len(), errors.len(), "{said:?}");
    for words in said {
        assert!(words.len() > 8 && !words.ends_with('.'), "{words:?}");
    }
}

#[test]
fn every_error_of_one_scope_says_something_of_its_own() {
    use ProtocolError as P;
    all_differ(&[
        &NotBegun::Closed,
        &NotBegun::TooManyCalls { max: 3 },
        &NotBegun::RequestTooLarge { len: 9, max: 8 },
        &NotBegun::TooManyBytes { max: 3 },
        &NotBegun::Unencodable,
    ]);
    all_differ(&[
        &P::FrameTooLong { len: 9, max: 8 },
        &P::FrameTooShort { kind: 2, len: 1 },
        &P::UnknownKind(99),
        &P::Malformed { kind: 2 },
        &P::BadMagic,
        &P::NoSession,
        &P::SecondHello,
        &P::UnexpectedWelcome,
        &P::XidOutOfRange,
        &P::SlotBusy { xid: 9, running: 5 },
        &P::AckAhead { acked: 9 },
        &P::OutOfOrder { xid: 5, seen: 9 },
        &P::FalseRetry { xid: 9 },
        &P::AfterGoodbye,
        &P::UnexpectedAnswer { xid: 9 },
        &P::AlreadySettled { xid: 9 },
    ]);
    let (wanted, found) = (ServerId::from_bytes([1; 16]), ServerId::from_bytes([2; 16]));
    all_differ(&[
        &CloseReason::Protocol(P::NoSession),
        &CloseReason::Refused(Refuse::Protocol(6)),
        &CloseReason::PeerSilent,
        &CloseReason::TooSlow,
        &CloseReason::Refused(Refuse::Superseded),
        &CloseReason::Goodbye,
        &CloseReason::Refused(Refuse::ShuttingDown),
        &CloseReason::Refused(Refuse::VersionUnsupported { min: 2, max: 3 }),
        &CloseReason::Refused(Refuse::TooSlow),
        &CloseReason::Refused(Refuse::WrongServer { service: name("mail"), server: found }),
        &CloseReason::Refused(Refuse::SessionUnknown),
        &CloseReason::Refused(Refuse::WrongPrincipal),
        &CloseReason::Refused(Refuse::SessionsFull),
        &CloseReason::Refused(Refuse::PrincipalFull),
        &CloseReason::Refused(Refuse::TokenMissing),
        &CloseReason::Refused(Refuse::TokenUnknown),
        &CloseReason::WrongService { wanted: name("jobs"), found: name("mail") },
        &CloseReason::WrongServer { wanted, found },
    ]);
    all_differ(&[
        &SessionLoss::SessionUnknown,
        &SessionLoss::RolledBack,
        &SessionLoss::GrantsChanged,
        &SessionLoss::FalseRetry,
        &SessionLoss::Refused,
    ]);
    all_differ(&[
        &ReplyTooLarge { len: 9, max: 8 },
        &CallRefused(NotExecuted::DeadlinePassed),
        &CallRefused(NotExecuted::Cancelled),
        &ServerError::TooManyMethods,
        &ServerError::DuplicateMethod(MethodId::of("a")),
    ]);
}

#[test]
fn every_outcome_says_something_of_its_own() {
    use NotExecuted as N;
    all_differ(&[
        &NoReply::Aborted,
        &NoReply::ReplyTooLarge,
        &NoReply::NotKept,
        &NoReply::Unencodable,
        &NoReply::Undecodable,
        &NoReply::AlreadyGiven,
        &N::Overloaded,
        &N::UnknownMethod,
        &N::BadArguments,
        &N::DeadlinePassed,
        &N::Cancelled,
        &N::ShuttingDown,
        &N::NotIdempotent,
        &N::Aborted,
        &N::LedgerFailed,
        &N::PermissionDenied,
        &N::RequestTooLarge,
        &N::Disconnected,
        &N::NeverConnected,
        &N::SessionRefused,
        &N::Closed,
        &N::JournalFailed,
        &Unknown::Disconnected,
        &Unknown::DeadlinePassed,
        &Unknown::SessionEnded,
        &Unknown::Interrupted,
        &Unknown::Repeated,
        &Unknown::Closed,
        &Unknown::JournalFailed,
    ]);
    let why = Unknown::DeadlinePassed;
    let outcomes = [
        Outcome::Reply(b"abc"),
        Outcome::NoReply(NoReply::Aborted),
        Outcome::NotExecuted(N::Closed),
        Outcome::Unknown { why, ticket: true },
        Outcome::Unknown { why, ticket: false },
    ];
    let said: BTreeSet<String> = outcomes.iter().map(Outcome::to_string).collect();
    assert_eq!(said.len(), outcomes.len());
    let executed = outcomes.map(|outcome| outcome.executed());
    let (yes, no, unknown) = (Executed::Yes, Executed::No, Executed::Unknown);
    assert_eq!(executed, [yes, yes, no, unknown, unknown]);
    assert_eq!(
        outcomes.map(|outcome| outcome.reply().map(<[u8]>::len)),
        [Some(3), None, None, None, None]
    );
}

#[test]
fn what_errors_know_of_an_execution() {
    assert_eq!(NotBegun::Closed.executed(), Executed::No);
    assert_eq!(SessionLoss::SessionUnknown.executed(), Executed::Unknown);
    assert!(CloseReason::Refused(Refuse::VersionUnsupported { min: 2, max: 2 }).is_final());
    assert!(
        !CloseReason::PeerSilent.is_final()
            && !CloseReason::Refused(Refuse::SessionsFull).is_final()
    );
}
