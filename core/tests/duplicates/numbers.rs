//! The numbers of calls: C18–C22, and S8.

use oncewire_core::wire::{Ack, Frame, Refuse};
use oncewire_core::*;

use crate::util::*;

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

/// A session by hand in which xid 1 has a kept reply and xid 2 runs.
fn one_kept_and_one_running() -> (Pair, usize, wire::Welcome) {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Start;
    let (raw, welcome) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"a"));
    pair.send(raw, &request(2, 0, b"b"));
    pair.finish(b"a");
    (pair, raw, welcome)
}

#[test]
fn c19_an_xid_on_a_slot_whose_call_runs_is_a_protocol_error_and_changes_nothing() {
    let (mut pair, raw, welcome) = one_kept_and_one_running();
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
        let (mut pair, raw, welcome) = one_kept_and_one_running();
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
