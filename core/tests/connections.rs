//! Connections that break, garble, fall silent or are slow: C31–C42.
//!
//! Not here, since only a driver over sockets can show it: C40 (two peers that both write before they read).
#![allow(missing_docs)]

mod util;

use oncewire_core::wire::{Frame, Refuse};
use oncewire_core::*;
use util::*;

fn fail_fast(body: &[u8]) -> Call<'_> {
    let mut call = Call::new(ECHO, body);
    call.fail_fast = true;
    call
}

#[test]
fn c31_a_call_of_which_no_byte_left_is_not_executed() {
    let mut pair = Pair::unconnected();
    let call = pair.call_with(0, fail_fast(b"a"));
    assert_eq!(pair.outcome(call), None, "a first connection may yet come");
    pair.connect(0);
    pair.hold(true);
    pair.cut();
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::Disconnected));
    let later = pair.call_with(0, fail_fast(b"b"));
    assert_eq!(pair.outcome(later), not_executed(NotExecuted::Disconnected), "at once");
    let patient = pair.call(b"c");
    pair.advance(secs(30));
    assert_eq!(pair.outcome(patient), not_executed(NotExecuted::DeadlinePassed));
    pair.reconnect();
    assert_eq!(pair.runs, []);
}

#[test]
fn c31_a_call_that_waits_for_a_slot_is_not_executed_when_the_connection_breaks() {
    let mut pair = Pair::slots(1);
    pair.mode = Mode::Start;
    pair.call(b"slow");
    let waiting = pair.call_with(0, fail_fast(b"waiting"));
    pair.cut();
    assert_eq!(pair.outcome(waiting), not_executed(NotExecuted::Disconnected));
    pair.reconnect();
    pair.finish(b"slow");
    assert_eq!(pair.ran(b"waiting"), 0);
}

#[test]
fn c32_half_a_request_is_discarded_and_after_the_resume_the_call_runs_once() {
    for half in 0..(32 + 5) {
        let mut pair = Pair::new();
        pair.link().hold_up = true;
        let call = pair.call(b"12345");
        let link = pair.link_number();
        pair.deliver_up(link, half);
        assert_eq!(pair.runs, [], "{half} bytes");
        pair.cut();
        assert_eq!(pair.outcome(call), None);
        pair.reconnect();
        assert_eq!(pair.outcome(call), reply(b"12345"), "{half} bytes");
        assert_eq!(pair.ran(b"12345"), 1, "{half} bytes");
        assert_eq!(pair.client().counters().resends, 1);
    }
}

#[test]
fn c32_half_a_request_with_fail_fast_is_unknown_and_its_ticket_says_not_executed() {
    let mut pair = Pair::new();
    pair.link().hold_up = true;
    let call = pair.call_with(0, fail_fast(b"12345"));
    let link = pair.link_number();
    pair.deliver_up(link, 20);
    pair.cut();
    assert_eq!(pair.outcome(call), ticket(Unknown::Disconnected));
    pair.reconnect();
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::Disconnected));
    assert_eq!(pair.runs, []);
    assert_eq!(pair.client().unsettled(), 0);
}

#[test]
fn c32_a_request_that_left_only_in_part_is_sent_whole_after_the_resume() {
    let mut pair = Pair::new();
    pair.out_len = wire::CONTROL_LEN_MAX;
    let body = vec![3; 10_000];
    let now = pair.now;
    let call = pair.client().call(now, Call::new(ECHO, &body)).unwrap();
    let mut out = [0; wire::CONTROL_LEN_MAX];
    assert!(pair.client().poll_transmit(now, &mut out).is_some(), "the first bytes");
    pair.reconnect();
    assert_eq!(pair.outcome(call), reply(&body));
    assert_eq!(pair.ran(&body), 1);
}

#[test]
fn c33_a_request_that_arrived_gets_its_reply_after_the_resume() {
    let mut pair = Pair::new();
    pair.link().hold_down = true;
    let call = pair.call(b"a");
    assert_eq!(pair.ran(b"a"), 1);
    pair.reconnect();
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
    assert_eq!(pair.ran(b"a"), 1);
    assert_eq!(pair.client().counters().resends, 0, "asked for, not sent again");
}

#[test]
fn c33_with_fail_fast_it_is_unknown_and_its_ticket_brings_the_reply() {
    let mut pair = Pair::new();
    pair.link().hold_down = true;
    let call = pair.call_with(0, fail_fast(b"a"));
    pair.cut();
    assert_eq!(pair.outcome(call), ticket(Unknown::Disconnected));
    pair.reconnect();
    assert_eq!(pair.outcome(call), reply(b"a"));
    assert_eq!(pair.ran(b"a"), 1);
}

#[test]
fn c34_an_end_inside_a_frame_is_an_outcome_and_never_a_decode_error() {
    // Of the Welcome and of the reply, at every byte.
    let mut cut_at = 0;
    loop {
        let mut pair = Pair::unconnected();
        let call = pair.call(b"a");
        pair.connect(0);
        let link = pair.link_number();
        pair.links[link].hold_down = true;
        let mut left = cut_at;
        while left > 0 {
            pair.drive();
            if !pair.deliver_down(link, 1) {
                break;
            }
            left -= 1;
        }
        if left > 0 {
            assert_eq!(pair.outcome(call), reply(b"a"), "delivered whole");
            assert!(cut_at > 80, "a Welcome and a reply");
            return;
        }
        pair.cut();
        pair.reconnect();
        assert_eq!(
            pair.outcomes(call),
            [OwnedOutcome::Reply(echo(b"a"))],
            "cut after {cut_at} bytes"
        );
        assert_eq!(pair.ran(b"a"), 1, "cut after {cut_at} bytes");
        assert_eq!((&pair.peers[0].errors, &pair.server_errors), (&vec![], &vec![]));
        cut_at += 1;
    }
}

#[test]
fn c35_the_late_reply_of_a_call_given_up_is_never_matched_to_another() {
    let mut pair = Pair::slots(1);
    pair.mode = Mode::Start;
    let mut short = Call::new(ECHO, b"old");
    short.timeout = secs(1);
    let old = pair.call_with(0, short);
    pair.advance(secs(1));
    assert_eq!(pair.outcome(old), ticket(Unknown::DeadlinePassed));
    pair.forget(old);
    let new = pair.call(b"new");
    pair.finish(b"old");
    assert_eq!(pair.outcome(new), None, "not the old one's reply");
    pair.finish(b"new");
    assert_eq!(pair.outcomes(new), [OwnedOutcome::Reply(echo(b"new"))]);
    assert_eq!(pair.outcomes(old).len(), 1, "no ticket for it is held");
}

#[test]
fn c35_a_reply_to_an_xid_that_was_never_sent_ends_the_connection_and_no_call() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    let header = wire::ReplyHeader { status: Status::Done, xid: xid(999) };
    pair.link().down.extend(bytes_of(&Frame::Reply(header, b"for whom?")));
    pair.drive();
    assert_eq!(pair.peers[0].errors, [ProtocolError::UnexpectedAnswer { xid: 999 }]);
    assert_eq!(pair.outcome(call), None);
    pair.reconnect();
    pair.finish(b"a");
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
}

#[test]
fn c36_one_call_times_out_and_the_others_do_not_notice() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let mut short = Call::new(ECHO, b"short");
    short.timeout = secs(1);
    let short = pair.call_with(0, short);
    let other = pair.call(b"other");
    pair.advance(secs(2));
    assert_eq!(pair.outcome(short), ticket(Unknown::DeadlinePassed));
    assert!(pair.client().is_connected());
    pair.finish(b"other");
    assert_eq!(pair.outcomes(other), [OwnedOutcome::Reply(echo(b"other"))]);
    assert_eq!(pair.disconnects(), []);
    assert_eq!(
        pair.peers[0].events.iter().filter(|e| matches!(e, ClientEvent::Connected { .. })).count(),
        1
    );
}

#[test]
fn c37_garbage_closes_its_connection_with_a_reason_and_the_session_survives() {
    let reply_kind =
        bytes_of(&Frame::Reply(wire::ReplyHeader { status: Status::Done, xid: xid(1) }, b""));
    let mut bad_flags = bytes_of(&request(2, 0, b""));
    bad_flags[5] = 0x80;
    let mut trailing = bytes_of(&Frame::Ask(xid(1), 1));
    trailing[0] += 1;
    trailing.push(0);
    let cases: [(&[u8], ProtocolError); 8] = [
        (&[0xff; 4], ProtocolError::FrameTooLong { len: u32::MAX, max: 1_048_608 }),
        (&[0, 0, 0, 0], ProtocolError::FrameTooShort { kind: 0, len: 0 }),
        (&[1, 0, 0, 0, 0x3f], ProtocolError::UnknownKind(0x3f)),
        (&[2, 0, 0, 0, 0x06, 0], ProtocolError::Malformed { kind: 0x06 }),
        (&[2, 0, 0, 0, 0x02, 0], ProtocolError::FrameTooShort { kind: 0x02, len: 2 }),
        (&reply_kind, ProtocolError::UnknownKind(0x42)),
        (&bad_flags, ProtocolError::Malformed { kind: 0x02 }),
        (&trailing, ProtocolError::Malformed { kind: 0x03 }),
    ];
    for (bytes, error) in cases {
        let mut pair = Pair::unconnected();
        pair.mode = Mode::Start;
        let (raw, welcome) = pair.raw_session();
        pair.send(raw, &request(1, 0, b"a"));
        pair.send_bytes(raw, bytes);
        assert_eq!(pair.server_errors, [error]);
        assert_eq!(pair.got(raw), [OwnedFrame::Refuse(Refuse::Protocol(error.code()))]);
        assert!(!pair.links[raw].server_open, "closed");
        let (raw, resumed) = pair.raw_resume(welcome.session, 0);
        assert_eq!(resumed.seen, 1);
        pair.send(raw, &Frame::Ask(xid(1), 1));
        pair.finish(b"a");
        assert_eq!(pair.got(raw), [OwnedFrame::Reply(Status::Done, 1, echo(b"a"))]);
    }
}

#[test]
fn c37_a_frame_longer_than_the_grants_is_judged_by_its_length_alone() {
    let mut config = default_server_config();
    config.request_len_max = 1_000;
    let mut pair = Pair::with(config, ClientConfig::default());
    let (raw, welcome) = pair.raw_session();
    assert_eq!(welcome.grants.request_len_max, 1_000);
    pair.send(raw, &request(1, 0, &[1; 1_000]));
    assert_eq!(pair.runs.len(), 1, "as long as granted");
    // Only the length field, and not a byte of the frame.
    pair.send_bytes(raw, &1_033u32.to_le_bytes());
    assert_eq!(pair.server_errors, [ProtocolError::FrameTooLong { len: 1_033, max: 1_032 }]);
}

#[test]
fn c37_a_client_survives_garbage_from_a_server() {
    for garbage in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[1, 0, 0, 0, 0x7f], &[0; 4]] {
        let mut pair = Pair::new();
        pair.mode = Mode::Start;
        let call = pair.call(b"a");
        pair.link().down.extend(garbage);
        pair.drive();
        assert_eq!(pair.peers[0].errors.len(), 1);
        assert!(!pair.client().is_connected());
        pair.reconnect();
        pair.finish(b"a");
        assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
        assert_eq!(pair.ran(b"a"), 1);
    }
}

#[test]
fn c38_a_silent_peer_is_noticed_within_the_keepalive_and_calls_go_on_after_the_resume() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    pair.silence();
    let since = pair.now;
    while pair.client().is_connected() {
        pair.advance(ms(100));
        assert!(pair.now.since(since) <= secs(10), "the keepalive is ten seconds");
    }
    assert!(pair.now.since(since) >= secs(5), "not at the first moment of silence");
    assert_eq!(pair.disconnects(), [CloseReason::PeerSilent]);
    pair.advance(secs(5));
    let silent =
        |event: &&ServerEvent| matches!(event, ServerEvent::Close(_, CloseReason::PeerSilent));
    assert_eq!(pair.server_events.iter().filter(silent).count(), 1, "nor does the server wait");
    pair.reconnect();
    pair.finish(b"a");
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
    assert_eq!(pair.ran(b"a"), 1);
}

#[test]
fn c38_an_idle_connection_with_a_peer_at_each_end_stays_up() {
    let mut pair = Pair::new();
    pair.advance(secs(24 * 3600));
    assert!(pair.client().is_connected());
    assert_eq!(pair.server.counters().resumes, 0);
}

#[test]
fn c38_what_has_arrived_is_read_before_the_peer_is_judged() {
    let mut pair = Pair::new();
    pair.call(b"a");
    // The process sleeps for an hour with a connection that lives.
    pair.jump(secs(3600));
    pair.advance(secs(60));
    assert!(pair.client().is_connected());
    assert_eq!(pair.disconnects(), []);
}

#[test]
fn c39_a_huge_last_reply_of_an_idle_client_is_freed_within_a_second() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call_with(0, Call::new(BIG, b"a"));
    pair.finish_with(b"a", &vec![9; 1 << 20]);
    assert_eq!(pair.outcome(call), Some(OwnedOutcome::Reply(vec![9; 1 << 20])));
    assert_eq!(pair.kept(), 0, "much was kept: at once");
    let small = pair.call(b"b");
    pair.finish(b"b");
    assert_eq!(pair.outcome(small), reply(b"b"));
    assert!(pair.kept() > 0, "little was kept: soon");
    pair.advance(secs(1));
    assert_eq!(pair.kept(), 0);
}

/// A dialogue with all kinds of frames; returns everything that can be observed.
fn dialogue(chunk: usize, out_len: usize) -> (Vec<OwnedOutcome>, Vec<Run>, ServerCounters) {
    let mut pair = Pair::unconnected();
    pair.chunk = chunk;
    pair.out_len = out_len;
    let mut calls = Vec::new();
    for n in 0..10u8 {
        let now = pair.now;
        let body = vec![n; usize::from(n) * 100];
        let mut call = Call::new(if n % 3 == 0 { IDEM } else { ECHO }, &body);
        call.idempotent = n % 3 == 0;
        calls.push(pair.client().call(now, call).unwrap());
    }
    pair.connect(0);
    pair.drive();
    pair.mode = Mode::Start;
    calls.push(pair.call(b"cancelled"));
    pair.cancel(*calls.last().unwrap());
    assert_eq!(pair.cancels.len(), 1);
    pair.reconnect();
    pair.finish(b"cancelled");
    pair.advance(secs(60));
    pair.close();
    assert_eq!((&pair.peers[0].errors, &pair.server_errors), (&vec![], &vec![]));
    assert!(pair.client().is_closed());
    let mut runs = pair.runs.clone();
    runs.sort_by(|a, b| a.body.cmp(&b.body));
    let outcomes = calls.iter().map(|call| pair.outcome(*call).expect("an outcome")).collect();
    (outcomes, runs, pair.server.counters())
}

#[test]
fn c41_byte_at_a_time_and_all_at_once_behave_the_same() {
    let (outcomes, runs, counters) = dialogue(usize::MAX, 1 << 16);
    assert_eq!(outcomes.len(), 11);
    for (chunk, out_len) in
        [(1, 1 << 16), (1, wire::CONTROL_LEN_MAX), (7, 400), (usize::MAX, wire::CONTROL_LEN_MAX)]
    {
        let (other_fates, other_runs, other) = dialogue(chunk, out_len);
        assert_eq!(outcomes, other_fates, "chunk {chunk}, out {out_len}");
        let bodies = |runs: &[Run]| runs.iter().map(|run| run.body.clone()).collect::<Vec<_>>();
        assert_eq!(bodies(&runs), bodies(&other_runs));
        assert_eq!((counters.sessions, counters.kept_bytes), (other.sessions, other.kept_bytes));
    }
}

fn closed_for(pair: &Pair, reason: CloseReason) -> bool {
    pair.server_events.iter().any(|event| matches!(event, ServerEvent::Close(_, r) if *r == reason))
}

#[test]
fn c42_a_connection_that_never_says_hello_is_closed() {
    let mut pair = Pair::unconnected();
    let raw = pair.raw(ALICE);
    pair.advance(secs(10));
    assert!(!pair.links[raw].server_open);
    assert_eq!((pair.server.counters().conns, pair.server.counters().sessions), (0, 0));
}

#[test]
fn c42_one_that_dribbles_its_hello_is_closed_as_too_slow() {
    let mut pair = Pair::unconnected();
    let raw = pair.raw(ALICE);
    for byte in bytes_of(&hello(None)).iter().take(12) {
        pair.send_bytes(raw, &[*byte]);
        pair.advance(secs(1));
    }
    assert!(closed_for(&pair, CloseReason::TooSlow));
    assert_eq!(pair.got(raw), [OwnedFrame::Refuse(Refuse::TooSlow)]);
    assert_eq!(pair.server.counters().conns, 0);
}

#[test]
fn c42_half_a_frame_that_dribbles_is_closed_after_the_frame_timeout() {
    let mut pair = Pair::unconnected();
    let (raw, welcome) = pair.raw_session();
    let slow = bytes_of(&request(1, 0, &[1; 100]));
    let since = pair.now;
    for byte in &slow {
        pair.send_bytes(raw, &[*byte]);
        pair.advance(secs(1));
        if !pair.links[raw].server_open {
            break;
        }
    }
    assert!(closed_for(&pair, CloseReason::TooSlow));
    let took = pair.now.since(since);
    assert!(secs(60) <= took && took <= secs(64), "the frame timeout is a minute: {took:?}");
    assert_eq!(pair.runs, []);
    assert_eq!(pair.raw_resume(welcome.session, 0).1.seen, 0, "the session survives");
}

#[test]
fn c42_frames_that_are_each_in_time_are_not_one_slow_frame() {
    let mut pair = Pair::unconnected();
    let (raw, _) = pair.raw_session();
    let mut sent = Vec::new();
    for number in 1..=40 {
        sent.extend(bytes_of(&request(number, number - 1, &[1; 100])));
    }
    // Each delivery but the first ends one request of 132 bytes and begins the next one.
    let (first, rest) = sent.split_at(66);
    for part in [first].into_iter().chain(rest.chunks(132)) {
        pair.send_bytes(raw, part);
        pair.advance(secs(5));
    }
    assert_eq!(pair.runs.len(), 40);
    assert!(!closed_for(&pair, CloseReason::TooSlow));
}

#[test]
fn c42_a_client_gives_up_a_handshake_that_is_never_answered() {
    let mut pair = Pair::unconnected();
    let call = pair.call_with(0, fail_fast(b"a"));
    pair.connect_by_hand(0);
    pair.advance(secs(10));
    assert_eq!(pair.disconnects(), [CloseReason::TooSlow]);
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::Disconnected));
}
