//! Duplicates: C11–C26, C71, and the rules about numbers (S8) and one-way calls (S23).
#![allow(missing_docs)]

mod util;

use oncewire_core::wire::{Ack, Frame, Refuse};
use oncewire_core::*;
use util::*;

#[test]
fn c11_a_duplicate_while_the_original_runs_runs_once_and_is_answered_once() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Start;
    let (raw, _) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"a"));
    pair.send(raw, &request(1, 0, b"a"));
    assert_eq!(pair.ran(b"a"), 1);
    assert_eq!(pair.server.counters().duplicates, 1);
    pair.finish(b"a");
    assert_eq!(pair.got(raw), [OwnedFrame::Reply(Status::Done, 1, echo(b"a"))]);
}

#[test]
fn c12_a_duplicate_while_the_original_runs_on_a_new_connection_runs_once_and_answers_there() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Start;
    let (old, welcome) = pair.raw_session();
    pair.send(old, &request(1, 0, b"a"));
    let (new, resumed) = pair.raw_resume(welcome.session, 0);
    assert_eq!(resumed.seen, 1, "`seen` tells what was read");
    pair.send(new, &request(1, 0, b"a"));
    pair.finish(b"a");
    assert_eq!(pair.ran(b"a"), 1);
    assert_eq!(pair.got(new), [OwnedFrame::Reply(Status::Done, 1, echo(b"a"))]);
    assert_eq!(pair.got(old), [OwnedFrame::Refuse(Refuse::Superseded)], "no reply on the old one");
}

#[test]
fn c12_an_ask_while_the_original_runs_is_answered_when_it_is_done() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    pair.reconnect();
    assert_eq!(pair.client().counters().asks, 1, "asked for, without its body");
    assert_eq!(pair.client().counters().resends, 0);
    assert_eq!(pair.outcome(call), None);
    pair.finish(b"a");
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
    assert_eq!(pair.ran(b"a"), 1);
}

#[test]
fn c13_a_duplicate_after_completion_gets_the_same_bytes_without_a_run() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Start;
    let (raw, _) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"a"));
    pair.finish_with(b"a", b"first and only");
    for _ in 0..3 {
        assert_eq!(pair.got(raw), [OwnedFrame::Reply(Status::Done, 1, b"first and only".to_vec())]);
        pair.send(raw, &request(1, 0, b"a"));
    }
    assert_eq!(pair.ran(b"a"), 1);
}

#[test]
fn c14_an_application_error_is_kept_and_sent_again_like_any_reply() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"withdraw 10");
    pair.link().hold_down = true;
    pair.finish_with(b"withdraw 10", b"error: insufficient funds");
    pair.reconnect();
    assert_eq!(
        pair.outcome(call),
        Some(OwnedOutcome::Reply(b"error: insufficient funds".to_vec()))
    );
    assert_eq!(pair.ran(b"withdraw 10"), 1);
}

#[test]
fn c15_a_delayed_copy_of_an_acknowledged_request_is_dropped() {
    let mut pair = Pair::unconnected();
    let (raw, _) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"a"));
    pair.send(raw, &request(2, 1, b"b"));
    pair.got(raw);
    pair.send(raw, &request(1, 0, b"a"));
    assert_eq!(pair.got(raw), []);
    assert_eq!(pair.ran(b"a"), 1);
    assert_eq!(pair.server.counters().stale, 1);
}

#[test]
fn c15_a_copy_acknowledged_only_by_its_bit_or_by_its_slot_is_dropped_too() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Start;
    let (raw, _) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"slow"));
    pair.send(raw, &request(2, 0, b"b"));
    pair.send(raw, &request(3, 0, b"c"));
    pair.finish(b"b");
    pair.finish(b"c");
    pair.send(raw, &Frame::Ack(Ack { acked: 0, last: u64::MAX, base: 0, settled: 1 << 2 }));
    pair.send(raw, &request(7, 0, b"d"));
    pair.got(raw);
    pair.send(raw, &request(2, 0, b"b"));
    pair.send(raw, &request(3, 0, b"c"));
    assert_eq!(pair.got(raw), []);
    assert_eq!((pair.ran(b"b"), pair.ran(b"c")), (1, 1));
}

/// What `k` holds after all executions.
fn k(pair: &Pair) -> Option<&[u8]> {
    pair.runs.last().map(|run| &run.body[..])
}

#[test]
fn c16_a_first_copy_that_arrives_after_a_later_put_does_not_undo_it() {
    let mut pair = Pair::new();
    pair.link().hold_up = true;
    let put_10 = pair.call(b"put 10");
    let old = pair.cut_at_client();
    pair.connect(0);
    pair.drive();
    assert_eq!(pair.outcome(put_10), reply(b"put 10"), "the retry");
    let put_20 = pair.call(b"put 20");
    assert_eq!(pair.outcome(put_20), reply(b"put 20"));
    assert!(pair.deliver_up(old, usize::MAX), "the first copy");
    pair.drive();
    assert_eq!(k(&pair), Some(&b"put 20"[..]));
    assert_eq!(pair.ran(b"put 10"), 1);
}

#[test]
fn c16_nor_does_a_copy_on_the_same_connection() {
    let mut pair = Pair::unconnected();
    let (raw, _) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"put 10"));
    pair.send(raw, &request(2, 1, b"put 20"));
    pair.send(raw, &request(1, 0, b"put 10"));
    assert_eq!(k(&pair), Some(&b"put 20"[..]));
}

const FALSE_RETRY: u8 = 13;

#[test]
fn c17_other_arguments_under_the_same_xid_end_the_session_and_disclose_nothing() {
    let mut pair = Pair::unconnected();
    let (raw, welcome) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"a"));
    pair.got(raw);
    pair.send(raw, &request(1, 0, b"b"));
    assert_eq!(pair.got(raw), [OwnedFrame::Refuse(Refuse::Protocol(FALSE_RETRY))]);
    assert_eq!(pair.server_errors, [ProtocolError::FalseRetry { xid: 1 }]);
    assert_eq!(pair.ran(b"b"), 0);
    assert_eq!(pair.server.counters().sessions, 0);
    let again = pair.raw(ALICE);
    pair.send(again, &hello(Some((welcome.session, 0))));
    assert_eq!(pair.got(again), [OwnedFrame::Refuse(Refuse::SessionUnknown)]);
}

#[test]
fn c17_another_method_or_flag_is_a_false_retry_as_well() {
    let other_method = wire::RequestHeader { method: BIG, ..header(1, 0) };
    let other_flags = wire::RequestHeader { flags: wire::FLAG_ONE_WAY, ..header(1, 0) };
    for other in [other_method, other_flags] {
        let mut pair = Pair::unconnected();
        let (raw, _) = pair.raw_session();
        pair.send(raw, &request(1, 0, b"a"));
        pair.send(raw, &Frame::Request(other, b"a"));
        assert_eq!(pair.server_errors, [ProtocolError::FalseRetry { xid: 1 }]);
        assert_eq!(pair.runs.len(), 1);
    }
}

#[test]
fn c17_a_false_retry_while_the_original_runs_lets_it_finish_and_then_ends_the_session() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Start;
    let (raw, welcome) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"a"));
    pair.send(raw, &request(1, 0, b"b"));
    assert_eq!(pair.ran(b"b"), 0);
    assert_eq!(pair.server.counters().sessions, 1, "not while a call runs");
    let again = pair.raw(ALICE);
    pair.send(again, &hello(Some((welcome.session, 0))));
    assert_eq!(pair.got(again), [OwnedFrame::Refuse(Refuse::SessionUnknown)], "but it is over");
    pair.finish(b"a");
    assert_eq!(pair.server.counters().sessions, 0);
    assert_eq!((pair.kept(), pair.server.counters().running), (0, 0));
}

#[test]
fn c17_a_client_told_of_a_false_retry_ends_its_calls_as_unknown() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let one = pair.call(b"1");
    let two = pair.call(b"2");
    pair.link().down.extend(bytes_of(&Frame::Refuse(Refuse::Protocol(FALSE_RETRY))));
    pair.drive();
    assert_eq!(pair.outcome(one), unknown(Unknown::SessionEnded));
    assert_eq!(pair.outcome(two), unknown(Unknown::SessionEnded));
    assert_eq!(pair.sessions_lost(), [SessionEnd::FalseRetry]);
    assert_eq!(pair.client().unsettled(), 0);
}

#[test]
fn c18_a_retry_with_another_x_and_another_deadline_is_the_same_request() {
    let mut pair = Pair::unconnected();
    let (raw, _) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"a"));
    pair.send(raw, &request(2, 0, b"b"));
    pair.got(raw);
    let retry = wire::RequestHeader { remaining_ms: 17, ..header(2, 1) };
    pair.send(raw, &Frame::Request(retry, b"b"));
    assert_eq!(pair.got(raw), [OwnedFrame::Reply(Status::Done, 2, echo(b"b"))]);
    assert_eq!(pair.ran(b"b"), 1);
    assert_eq!(pair.server_errors, []);
}

#[test]
fn c19_an_xid_on_a_slot_whose_call_runs_is_a_protocol_error_and_changes_nothing() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Start;
    let (raw, welcome) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"a"));
    pair.send(raw, &request(2, 0, b"b"));
    pair.finish(b"a");
    let kept = pair.kept();
    // Its `acked` would discard the reply of xid 1, if it counted.
    pair.send(raw, &request(6, 1, b"c"));
    assert_eq!(pair.server_errors, [ProtocolError::SlotBusy { xid: 6, running: 2 }]);
    assert_eq!(pair.ran(b"c"), 0);
    assert_eq!(pair.kept(), kept, "nothing was discarded");
    let (raw, resumed) = pair.raw_resume(welcome.session, 0);
    assert_eq!(resumed.seen, 2, "`seen` has not moved");
    pair.send(raw, &Frame::Ask(xid(1), 1));
    pair.send(raw, &Frame::Ask(xid(2), 1));
    pair.finish(b"b");
    let replies = [
        OwnedFrame::Reply(Status::Done, 1, echo(b"a")),
        OwnedFrame::Reply(Status::Done, 2, echo(b"b")),
    ];
    assert_eq!(pair.got(raw), replies);
}

#[test]
fn c19_an_x_at_or_above_a_running_xid_is_a_protocol_error_and_changes_nothing() {
    let ack = |acked| Frame::Ack(Ack { acked, last: u64::MAX, base: 0, settled: 0 });
    let bit = Frame::Ack(Ack { acked: 0, last: u64::MAX, base: 0, settled: 1 << 2 });
    for wrong in [request(3, 2, b"c"), ack(2), ack(9), bit] {
        let mut pair = Pair::unconnected();
        pair.mode = Mode::Start;
        let (raw, welcome) = pair.raw_session();
        pair.send(raw, &request(1, 0, b"a"));
        pair.send(raw, &request(2, 0, b"b"));
        pair.finish(b"a");
        let kept = pair.kept();
        pair.send(raw, &wrong);
        assert!(matches!(pair.server_errors[..], [ProtocolError::AckAhead { .. }]), "{wrong:?}");
        assert_eq!(pair.ran(b"c"), 0);
        assert_eq!(pair.kept(), kept, "{wrong:?}");
        let (raw, _) = pair.raw_resume(welcome.session, 0);
        pair.send(raw, &Frame::Ask(xid(1), 1));
        assert_eq!(pair.got(raw), [OwnedFrame::Reply(Status::Done, 1, echo(b"a"))], "{wrong:?}");
    }
}

#[test]
fn c19_an_x_at_or_above_the_xid_that_carries_it_is_a_protocol_error() {
    for acked in [3, 4, u64::MAX] {
        let mut pair = Pair::unconnected();
        let (raw, welcome) = pair.raw_session();
        pair.send(raw, &request(1, 0, b"a"));
        let kept = pair.kept();
        pair.send(raw, &request(3, acked, b"c"));
        assert_eq!(pair.server_errors, [ProtocolError::AckAhead { acked }]);
        assert_eq!((pair.ran(b"c"), pair.kept()), (0, kept));
        assert_eq!(pair.raw_resume(welcome.session, 0).1.seen, 1);
    }
}

#[test]
fn c19_a_resume_with_an_x_above_a_running_xid_is_refused_and_the_session_lives() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Start;
    let (raw, welcome) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"a"));
    let wrong = pair.raw(ALICE);
    pair.send(wrong, &hello(Some((welcome.session, 1))));
    assert!(matches!(pair.got(wrong)[..], [OwnedFrame::Refuse(Refuse::Protocol(_))]));
    pair.finish(b"a");
    assert_eq!(pair.got(raw), [OwnedFrame::Reply(Status::Done, 1, echo(b"a"))]);
}

#[test]
fn c19_a_new_xid_below_one_already_read_is_a_protocol_error_unless_it_was_not_seen() {
    let mut pair = Pair::unconnected();
    let (raw, welcome) = pair.raw_session();
    pair.send(raw, &request(3, 0, b"c"));
    pair.send(raw, &request(2, 0, b"b"));
    assert_eq!(pair.server_errors, [ProtocolError::OutOfOrder { xid: 2, seen: 3 }]);
    let (raw, _) = pair.raw_resume(welcome.session, 0);
    pair.send(raw, &Frame::Ask(xid(2), 1));
    assert_eq!(pair.got(raw), [OwnedFrame::Reply(Status::NotSeen { ask: 1 }, 2, vec![])]);
    pair.send(raw, &request(2, 0, b"b"));
    assert_eq!(pair.got(raw), [OwnedFrame::Reply(Status::Done, 2, echo(b"b"))]);
}

#[test]
fn c20_the_session_ends_cleanly_before_its_numbers_run_out() {
    let mut config = ClientConfig::default();
    config.xid_before_first = Xid::MAX - 3;
    let mut pair = Pair::with(default_server_config(), config).connected();
    let first = pair.session_id();
    for number in 0..10u8 {
        let call = pair.call(&[number]);
        if pair.outcome(call).is_none() {
            pair.advance(ms(200));
            assert!(!pair.client().is_connected(), "the session has ended with its connection");
            pair.connect(0);
            pair.drive();
        }
        assert_eq!(pair.outcome(call), reply(&[number]));
        assert_eq!(pair.ran(&[number]), 1);
    }
    assert_eq!(pair.runs[0].xid, Xid::MAX - 2);
    assert!(pair.runs.iter().all(|run| run.xid > Xid::MAX - 3));
    assert_ne!(pair.session_id(), first);
    assert_eq!(pair.server.counters().sessions, 1, "the old ones were ended by Goodbye");
    assert_eq!(pair.server_errors, []);
}

#[test]
fn c20_a_server_refuses_xids_out_of_range() {
    for number in [0, u64::MAX] {
        let mut pair = Pair::unconnected();
        let (raw, _) = pair.raw_session();
        let mut bytes = bytes_of(&request(1, 0, b"a"));
        bytes[16..24].copy_from_slice(&number.to_le_bytes());
        pair.send_bytes(raw, &bytes);
        assert_eq!(pair.server_errors, [ProtocolError::XidOutOfRange]);
        assert_eq!(pair.runs, []);
    }
}

#[test]
fn c21_an_x_lower_than_before_is_ignored() {
    let mut pair = Pair::unconnected();
    let (raw, _) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"a"));
    pair.send(raw, &request(2, 1, b"b"));
    pair.send(raw, &request(3, 0, b"c"));
    pair.send(raw, &Frame::Ack(Ack { acked: 0, last: u64::MAX, base: 0, settled: 0 }));
    pair.got(raw);
    pair.send(raw, &request(1, 0, b"a"));
    assert_eq!(pair.got(raw), [], "xid 1 stays acknowledged");
    assert_eq!((pair.ran(b"a"), pair.ran(b"c")), (1, 1));
    assert_eq!(pair.server_errors, []);
}

#[test]
fn c22_a_hundred_thousand_calls_pass_one_that_takes_an_hour_and_memory_does_not_grow() {
    let mut pair = Pair::new();
    pair.out_len = 4096;
    pair.mode = Mode::Start;
    let mut slow = Call::new(ECHO, b"slow");
    slow.timeout = secs(7200);
    let slow = pair.call_with(0, slow);
    let reserved = pair.kept();
    pair.mode = Mode::Echo;
    for number in 0..100_000u32 {
        let call = pair.call(&number.to_le_bytes());
        assert!(
            matches!(pair.peers[0].outcomes.last(), Some((id, OwnedOutcome::Reply(_))) if *id == call)
        );
        assert!(pair.kept() <= reserved + 3 * 7, "at most one small reply a slot");
        pair.peers[0].outcomes.clear();
        pair.runs.truncate(1);
    }
    pair.advance(secs(3600));
    assert_eq!(pair.client().pending(), 1);
    pair.finish(b"slow");
    assert_eq!(pair.outcome(slow), reply(b"slow"));
    pair.advance(secs(1));
    assert_eq!(pair.kept(), 0);
}

#[test]
fn c23_a_call_given_up_before_the_server_read_it_is_not_executed_also_for_its_ticket() {
    let mut pair = Pair::new();
    pair.call(b"first");
    pair.link().hold_up = true;
    let calls: Vec<CallId> = (0..4u8).map(|n| pair.call(&[n])).collect();
    pair.advance(secs(5));
    pair.cut();
    pair.advance(secs(26));
    for call in &calls {
        assert_eq!(pair.outcomes(*call), [OwnedOutcome::Unknown(Unknown::DeadlinePassed, true)]);
    }
    pair.reconnect();
    for call in &calls {
        assert_eq!(pair.outcome(*call), not_executed(NotExecuted::DeadlinePassed));
    }
    assert_eq!(pair.client().unsettled(), 0, "all slots are free");
    assert_eq!(pair.client().counters().resends, 0);
    assert_eq!(pair.runs.len(), 1, "only the first one");
    let next = pair.call(b"next");
    assert_eq!(pair.outcome(next), reply(b"next"));
}

#[test]
fn c24_the_reply_of_a_call_given_up_while_it_runs_frees_its_slot_exactly_once() {
    let mut pair = Pair::slots(2);
    pair.mode = Mode::Start;
    let gone = pair.call(b"gone");
    let other = pair.call(b"other");
    pair.forget(gone);
    assert_eq!(pair.client().unsettled(), 2, "the slot is held until the answer");
    let waiting = pair.call(b"waiting");
    let late = pair.call(b"late");
    assert_eq!(pair.ran(b"waiting"), 0);
    pair.finish(b"gone");
    assert_eq!((pair.ran(b"waiting"), pair.ran(b"late")), (1, 0), "one slot, once");
    // The same answer once more.
    let bytes = bytes_of(&Frame::Reply(
        wire::ReplyHeader { status: Status::Done, xid: xid(pair.runs[0].xid) },
        &echo(b"gone"),
    ));
    pair.link().down.extend(bytes);
    pair.drive();
    assert_eq!(pair.client().unsettled(), 2);
    assert_eq!(pair.client().counters().late_answers, 1);
    for body in [&b"other"[..], b"waiting", b"late"] {
        pair.finish(body);
    }
    assert_eq!(pair.outcomes(gone), [], "nobody is told");
    assert_eq!(pair.outcomes(other), [OwnedOutcome::Reply(echo(b"other"))]);
    assert_eq!(pair.outcomes(waiting), [OwnedOutcome::Reply(echo(b"waiting"))]);
    assert_eq!(pair.outcomes(late), [OwnedOutcome::Reply(echo(b"late"))]);
}

#[test]
fn c25_a_request_that_was_refused_is_refused_again_and_never_executed() {
    let absent = wire::RequestHeader { method: ABSENT, ..header(1, 0) };
    let plain = header(1, 0);
    for (header, why) in [
        (absent, NotExecuted::UnknownMethod),
        (plain, NotExecuted::BadArguments),
        (plain, NotExecuted::Overloaded),
    ] {
        let mut pair = Pair::unconnected();
        pair.mode = Mode::Hold;
        let (raw, welcome) = pair.raw_session();
        pair.send(raw, &Frame::Request(header, b"a"));
        if why != NotExecuted::UnknownMethod {
            pair.refuse(b"a", why);
        }
        let refused = [OwnedFrame::Reply(Status::Refused(why), 1, vec![])];
        assert_eq!(pair.got(raw), refused);
        pair.mode = Mode::Echo;
        pair.send(raw, &Frame::Request(header, b"a"));
        assert_eq!(pair.got(raw), refused, "on the same connection");
        let (raw, _) = pair.raw_resume(welcome.session, 0);
        pair.send(raw, &Frame::Request(header, b"a"));
        assert_eq!(pair.got(raw), refused, "on a new one");
        assert_eq!(pair.runs, []);
    }
}

#[test]
fn c26_a_panic_is_kept_as_aborted_and_a_retry_gets_it() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"panics");
    pair.link().hold_down = true;
    pair.abort(b"panics");
    pair.reconnect();
    assert_eq!(pair.outcomes(call), [OwnedOutcome::NoReply(NoReply::Aborted)]);
    assert_eq!(pair.ran(b"panics"), 1);
    assert_eq!(NoReply::Aborted.to_string().split(',').next(), Some("executed"));
    pair.mode = Mode::Echo;
    let next = pair.call(b"next");
    assert_eq!(pair.outcome(next), reply(b"next"), "the server lives on");
}

#[test]
fn c26_a_transaction_rolled_back_is_not_executed() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"t");
    let running = pair.running(b"t");
    let now = pair.now;
    pair.server.roll_back(now, running, NotExecuted::Aborted);
    pair.drive();
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::Aborted));
}

#[test]
fn c71_a_reply_that_crosses_a_cancel_settles_and_the_second_answer_is_dropped() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    pair.link().hold_down = true;
    pair.finish(b"a");
    pair.cancel(call);
    assert!(pair.cancels.is_empty(), "it was done when the cancel came");
    pair.link().hold_down = false;
    pair.drive();
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
}

#[test]
fn c71_a_reply_that_crosses_an_ask_settles_and_the_second_one_is_dropped() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    pair.cut();
    pair.connect(0);
    let link = pair.link_number();
    pair.drive();
    pair.finish(b"a");
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
    // Another push of the same, as a server that answered both would send it.
    let header = wire::ReplyHeader { status: Status::Done, xid: xid(pair.runs[0].xid) };
    pair.send_down(link, &Frame::Reply(header, &echo(b"a")));
    assert_eq!(pair.outcomes(call).len(), 1);
    assert_eq!(pair.client().counters().late_answers, 1);
    assert!(pair.client().is_connected());
}

#[test]
fn s8_numbers_whose_slot_is_busy_are_skipped_and_never_used() {
    let mut pair = Pair::slots(2);
    pair.mode = Mode::Start;
    pair.call(b"slow");
    pair.mode = Mode::Echo;
    for n in 0..5u8 {
        pair.call(&[n]);
    }
    let first = pair.runs[0].xid;
    let xids: Vec<u64> = pair.runs[1..].iter().map(|run| run.xid).collect();
    assert!(xids.windows(2).all(|two| two[0] + 2 == two[1]), "{xids:?}");
    assert!(xids.iter().all(|xid| xid % 2 != first % 2), "{xids:?}");
}

#[test]
fn s23_a_one_way_call_reports_nothing_but_is_resumed_and_runs_once() {
    let mut pair = Pair::new();
    pair.link().hold_up = true;
    let mut call = Call::new(ECHO, b"a");
    call.one_way = true;
    let id = pair.call_with(0, call);
    pair.reconnect();
    assert_eq!(pair.ran(b"a"), 1);
    assert_eq!(pair.outcomes(id), []);
    assert_eq!((pair.client().unsettled(), pair.client().pending()), (0, 0));
    pair.reconnect();
    assert_eq!(pair.ran(b"a"), 1);
}
