//! Copies of a request, wherever they arrive, and what only looks like one: C11–C17.

use oncewire_core::wire::{Ack, Frame, Refuse};
use oncewire_core::*;

use crate::util::*;

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
fn c17_a_client_refused_for_a_false_retry_ends_its_calls_as_unknown() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let one = pair.call(b"1");
    let two = pair.call(b"2");
    pair.link()
        .down
        .extend(bytes_of(&Frame::Refuse(Refuse::Protocol(FALSE_RETRY), Instance::UNNAMED)));
    pair.drive();
    assert_eq!(pair.outcome(one), unknown(Unknown::SessionEnded));
    assert_eq!(pair.outcome(two), unknown(Unknown::SessionEnded));
    assert_eq!(pair.sessions_lost(), [SessionLoss::FalseRetry]);
    assert_eq!(pair.client().unsettled(), 0);
}
