//! Every combination of inputs of each function, against the rows of `PROTOCOL.md`'s tables: of the rows that a table
//! lists, exactly one must apply to each combination, and the function must say what it says.

extern crate std;

use std::vec::Vec;

use super::*;

const STATES: [SlotState; 7] = [
    SlotState::Discarded,
    SlotState::Admitted,
    SlotState::Running,
    SlotState::Kept(Status::Done),
    SlotState::Kept(Status::NoReply(NoReply::NotKept)),
    SlotState::Kept(Status::NoReply(NoReply::Aborted)),
    SlotState::Kept(Status::Refused(NotExecuted::Overloaded)),
];
const BOTH: [bool; 2] = [false, true];
/// Numbers up to here are enough for every order of three of them.
const XIDS: core::ops::Range<u64> = 0..5;

/// What the only row says that applies.
fn only<R: Copy + core::fmt::Debug>(rows: &[(bool, R)], case: &dyn core::fmt::Debug) -> R {
    let rows: Vec<R> = rows.iter().filter(|(applies, _)| *applies).map(|(_, says)| *says).collect();
    assert_eq!(rows.len(), 1, "{case:?}: {rows:?}");
    rows[0]
}

fn sessions() -> impl Iterator<Item = SessionFacts> {
    XIDS.flat_map(|acked| XIDS.map(move |seen| (acked, seen))).flat_map(|(acked, seen)| {
        let flags = BOTH.into_iter().flat_map(|closing| BOTH.map(|lossy| (closing, lossy)));
        flags.map(move |(closing, lossy)| SessionFacts { acked, seen, closing, lossy })
    })
}

fn slots() -> impl Iterator<Item = SlotView> {
    XIDS.flat_map(|xid| XIDS.map(move |not_seen| (xid, not_seen))).flat_map(|(xid, not_seen)| {
        STATES.into_iter().map(move |state| SlotView { xid, digest: 7, not_seen, state })
    })
}

/// W42 and W41, row by row. A number is that of the error.
fn expected_of_request(
    session: &SessionFacts,
    slot: &SlotView,
    request: &RequestFacts,
) -> Result<Arrival, u8> {
    let RequestFacts { xid, acked, digest, idempotent } = *request;
    let taken = acked < xid && (session.lossy || !session.closing);
    let judged = taken && xid > session.acked && xid >= slot.xid;
    let is_new = judged && xid > slot.xid;
    let same = judged && xid == slot.xid;
    let gone = slot.state == SlotState::Discarded;
    let runs = matches!(slot.state, SlotState::Admitted | SlotState::Running);
    let not_kept = slot.state == SlotState::Kept(Status::NoReply(NoReply::NotKept));
    let again = not_kept && idempotent;
    let permitted = xid > session.seen || idempotent || session.lossy || slot.not_seen == xid;
    let rows = [
        (acked >= xid, Err(11)),
        (acked < xid && session.closing && !session.lossy, Err(14)),
        (taken && xid <= session.acked, Ok(Arrival::Stale)),
        (taken && xid > session.acked && xid < slot.xid, Ok(Arrival::Stale)),
        (same && gone, Ok(Arrival::Stale)),
        (same && !gone && digest != slot.digest, Err(13)),
        (same && runs && digest == slot.digest, Ok(Arrival::Duplicate)),
        (same && again && digest == slot.digest, Ok(Arrival::Rerun)),
        (same && !gone && !runs && !again && digest == slot.digest, Ok(Arrival::Duplicate)),
        (is_new && session.closing, Err(14)),
        (is_new && !session.closing && runs, Err(10)),
        (is_new && !session.closing && !runs && !permitted, Err(12)),
        (is_new && !session.closing && !runs && permitted, Ok(Arrival::New)),
    ];
    only(&rows, &(session, slot, request))
}

#[test]
fn a_request_is_what_the_table_of_the_protocol_says() {
    let requests: Vec<RequestFacts> = XIDS
        .skip(1)
        .flat_map(|xid| XIDS.map(move |acked| (xid, acked)))
        .flat_map(|(xid, acked)| {
            let flags = [7, 8].into_iter().flat_map(|digest| BOTH.map(|flag| (digest, flag)));
            flags.map(move |(digest, idempotent)| RequestFacts { xid, acked, digest, idempotent })
        })
        .collect();
    let slots: Vec<SlotView> = slots().collect();
    let mut seen = Vec::new();
    for session in sessions() {
        for slot in &slots {
            for request in &requests {
                let said = classify_request(&session, slot, request).map_err(|error| error.code());
                if said != expected_of_request(&session, slot, request) {
                    panic!("{session:?} {slot:?} {request:?}: {said:?}");
                }
                if !seen.contains(&said) {
                    seen.push(said);
                }
            }
        }
    }
    assert_eq!(seen.len(), 9, "four arrivals and errors 10 to 14: {seen:?}");
}

/// W48, row by row.
fn expected_of_ask(session: &SessionFacts, slot: &SlotView, xid: u64) -> Result<AskAnswer, u8> {
    let gone = slot.state == SlotState::Discarded;
    let runs = matches!(slot.state, SlotState::Admitted | SlotState::Running);
    let settled = xid <= session.acked || xid < slot.xid || xid == slot.xid && gone;
    let rows = [
        (settled && session.lossy, Ok(AskAnswer::Dropped)),
        (settled && !session.lossy, Err(16)),
        (!settled && xid == slot.xid && runs, Ok(AskAnswer::WhenDone)),
        (!settled && xid == slot.xid && !runs, Ok(AskAnswer::Kept)),
        (!settled && xid > slot.xid && runs, Err(10)),
        (!settled && xid > slot.xid && !runs, Ok(AskAnswer::NotSeen)),
    ];
    only(&rows, &(session, slot, xid))
}

#[test]
fn who_has_acknowledged_less_than_its_session_is_to_ask_for_all_of_it() {
    for session in sessions() {
        for acked in XIDS {
            let SessionFacts { acked: known, seen, .. } = session;
            let rows = [
                (acked >= known, seen),
                (acked < known && known > seen, known),
                (acked < known && known <= seen, seen),
            ];
            let case = (session, acked);
            assert_eq!(seen_by_resume(&session, acked), only(&rows, &case), "{case:?}");
        }
    }
}

#[test]
fn an_ask_is_answered_as_the_table_of_the_protocol_says() {
    for session in sessions() {
        for slot in slots() {
            for xid in XIDS.skip(1) {
                let said = classify_ask(&session, &slot, xid).map_err(|error| error.code());
                assert_eq!(
                    said,
                    expected_of_ask(&session, &slot, xid),
                    "{session:?} {slot:?} {xid}"
                );
            }
        }
    }
}

/// All values of `N` flags.
fn flags<const N: usize>() -> impl Iterator<Item = [bool; N]> {
    (0..1_u32 << N).map(|bits| core::array::from_fn(|at| bits & (1 << at) != 0))
}

/// The first reason of a list that applies.
fn first(reasons: &[(bool, NotExecuted)]) -> Result<(), NotExecuted> {
    reasons.iter().find(|(applies, _)| *applies).map_or(Ok(()), |(_, why)| Err(*why))
}

#[test]
fn a_new_request_is_refused_for_the_first_reason_in_the_order_of_the_protocol() {
    for [dropped, broken, known, repeatable, idempotent, draining, ledger_failed, fits] in flags() {
        let spec = MethodSpec::new(crate::ids::MethodId::from_number(1));
        let method = known.then_some(MethodSpec { idempotent: repeatable, ..spec });
        let content =
            first(&[(dropped, NotExecuted::Overloaded), (broken, NotExecuted::BadMetadata)]);
        let said = may_admit(&AdmissionFacts {
            content,
            method,
            idempotent,
            draining,
            ledger_failed,
            fits,
        });
        let expected = first(&[
            (dropped, NotExecuted::Overloaded),
            (broken, NotExecuted::BadMetadata),
            (!known, NotExecuted::UnknownMethod),
            (draining, NotExecuted::ShuttingDown),
            (ledger_failed, NotExecuted::LedgerFailed),
            (idempotent && !repeatable, NotExecuted::NotIdempotent),
            (!fits, NotExecuted::Overloaded),
        ]);
        assert_eq!(said, expected, "{method:?} {idempotent} {draining} {ledger_failed} {fits}");
    }
}

#[test]
fn an_admitted_call_is_refused_for_the_first_reason_in_the_order_of_the_protocol() {
    for [cancelled, aborting, past_deadline, draining, ledger_failed] in flags() {
        let facts = StartFacts { cancelled, aborting, past_deadline, draining, ledger_failed };
        let expected = first(&[
            (cancelled, NotExecuted::Cancelled),
            (aborting, NotExecuted::Cancelled),
            (past_deadline, NotExecuted::DeadlinePassed),
            (draining, NotExecuted::ShuttingDown),
            (ledger_failed, NotExecuted::LedgerFailed),
        ]);
        assert_eq!(may_start(&facts), expected, "{facts:?}");
    }
}

#[test]
fn a_cancel_reaches_only_the_call_that_it_names_and_only_once() {
    for slot in slots() {
        for xid in XIDS.skip(1) {
            for cancelled in BOTH {
                let meant = slot.xid == xid && !cancelled;
                let admitted = slot.state == SlotState::Admitted;
                let runs = slot.state == SlotState::Running;
                let rows = [
                    (meant && admitted, CancelEffect::Withdraw),
                    (meant && runs, CancelEffect::Interrupt),
                    (!meant || !admitted && !runs, CancelEffect::Nothing),
                ];
                let expected = only(&rows, &(slot, xid, cancelled));
                assert_eq!(classify_cancel(&slot, cancelled, xid), expected);
            }
        }
    }
}

#[test]
fn a_bit_of_an_ack_discards_what_is_kept_and_must_not_cover_what_runs() {
    for slot in slots() {
        for last in XIDS {
            let runs = matches!(slot.state, SlotState::Admitted | SlotState::Running);
            let kept = matches!(slot.state, SlotState::Kept(_));
            let rows = [
                (slot.xid > last, AckEffect::Nothing),
                (slot.xid <= last && runs, AckEffect::Ahead),
                (slot.xid <= last && kept, AckEffect::Discard),
                (slot.xid <= last && !runs && !kept, AckEffect::Nothing),
            ];
            assert_eq!(classify_settled(&slot, last), only(&rows, &(slot, last)));
        }
    }
}

#[test]
fn a_finished_call_is_kept_with_a_status_that_the_wire_knows() {
    for one_way in BOTH {
        for (len, max) in [(0, 0), (1, 0), (0, 1), (2, 1), (1, 2)] {
            let too_large = !one_way && len > max;
            let status = status_of_reply(one_way, len, max);
            assert_eq!(status == Status::NoReply(NoReply::ReplyTooLarge), too_large);
            assert_eq!(status == Status::Done, !too_large);
        }
    }
    let own = [NotExecuted::Cancelled, NotExecuted::DeadlinePassed, NotExecuted::Overloaded];
    for why in own {
        assert_eq!(status_of_refusal(why), Status::Refused(why));
    }
    for why in [NotExecuted::Disconnected, NotExecuted::SessionRefused] {
        assert_eq!(status_of_refusal(why), Status::Refused(NotExecuted::BadArguments));
    }
    for why in [NoReply::Aborted, NoReply::ReplyTooLarge, NoReply::NotKept] {
        assert_eq!(status_of_no_reply(why), Status::NoReply(why));
    }
}

#[test]
fn only_the_reply_of_an_idempotent_call_is_forgotten_and_on_no_lossy_link() {
    for state in STATES {
        for [idempotent, lossy] in flags() {
            let expected = [idempotent, !lossy, state == SlotState::Kept(Status::Done)];
            let forgotten = is_forgotten_once_sent(idempotent, lossy, state);
            assert_eq!(forgotten, expected == [true; 3], "{state:?} {idempotent} {lossy}");
        }
    }
}

#[test]
fn a_record_replaces_an_earlier_call_or_the_start_of_its_own_unless_it_runs() {
    for slot in slots() {
        for acked in XIDS {
            for xid in XIDS.skip(1) {
                for started in BOTH {
                    let runs = matches!(slot.state, SlotState::Admitted | SlotState::Running);
                    let rows = [
                        (xid <= acked, false),
                        (xid > acked && runs, false),
                        (xid > acked && !runs && slot.xid > xid, false),
                        (xid > acked && !runs && slot.xid < xid, true),
                        (xid > acked && !runs && slot.xid == xid && started, false),
                        (xid > acked && !runs && slot.xid == xid && !started, true),
                    ];
                    let expected = only(&rows, &(slot, acked, xid, started));
                    assert_eq!(may_restore(acked, &slot, xid, started), expected);
                }
            }
        }
    }
}
