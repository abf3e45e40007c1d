//! What discards a kept reply and what does not, frame by frame; and other turns of the server that a mutation of its code
//! once took unnoticed.
#![allow(missing_docs)]

mod util;

use oncewire_core::wire::{Ack, Frame, Refuse};
use oncewire_core::*;
use util::*;

fn done(number: u64, body: &[u8]) -> OwnedFrame {
    OwnedFrame::Reply(Status::Done, number, echo(body))
}

fn not_seen(number: u64) -> OwnedFrame {
    OwnedFrame::Reply(Status::NotSeen { ask: 1 }, number, Vec::new())
}

/// Bytes kept for one reply.
fn one() -> u64 {
    echo(b"a").len() as u64
}

#[test]
fn s09_an_x_between_two_kept_replies_discards_the_lower_one_alone() {
    let mut pair = Pair::unconnected();
    let (raw, _) = pair.raw_session();
    pair.send(raw, &request(4, 3, b"a"));
    pair.send(raw, &request(5, 3, b"b"));
    assert_eq!(pair.kept(), 2 * one());
    pair.send(raw, &Frame::Ack(Ack { acked: 4, last: u64::MAX, base: 0, settled: 0 }));
    assert_eq!(pair.kept(), one());
    pair.got(raw);
    pair.send(raw, &Frame::Ask(xid(5), 1));
    pair.send(raw, &Frame::Ask(xid(4), 1));
    assert_eq!(pair.got(raw), [done(5, b"b"), OwnedFrame::Refuse(Refuse::Protocol(16))], "C84");
}

#[test]
fn s09_the_same_holds_when_the_lower_one_came_later() {
    let mut pair = Pair::unconnected();
    let (raw, _) = pair.raw_session();
    pair.send(raw, &request(6, 3, b"a"));
    for number in [4, 5] {
        pair.got(raw);
        pair.send(raw, &Frame::Ask(xid(number), 1));
        assert_eq!(pair.got(raw), [not_seen(number)]);
        pair.send(raw, &request(number, 3, b"b"));
    }
    assert_eq!(pair.kept(), 3 * one());
    for (acked, left) in [(4, 2), (5, 1), (6, 0)] {
        pair.send(raw, &Frame::Ack(Ack { acked, last: u64::MAX, base: 0, settled: 0 }));
        assert_eq!(pair.kept(), left * one(), "acked {acked}");
    }
}

#[test]
fn s10_what_was_acknowledged_by_its_bit_above_x_never_runs_again() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Start;
    let (raw, _) = pair.raw_session();
    pair.send(raw, &request(4, 3, b"a"));
    pair.send(raw, &request(5, 3, b"b"));
    pair.finish(b"b");
    pair.send(raw, &Frame::Ack(Ack { acked: 3, last: u64::MAX, base: 0, settled: 0b10 }));
    pair.finish(b"a");
    pair.send(raw, &Frame::Ack(Ack { acked: 3, last: u64::MAX, base: 0, settled: 0b11 }));
    assert_eq!(pair.kept(), 0);
    pair.send(raw, &request(5, 3, b"b"));
    pair.send(raw, &request(4, 3, b"a"));
    assert_eq!((pair.ran(b"a"), pair.ran(b"b")), (1, 1));
    assert_eq!(pair.server.counters().stale, 2);
}

#[test]
fn an_ack_that_leaves_nothing_kept_does_not_swallow_a_not_seen_on_its_way() {
    let mut pair = Pair::unconnected();
    let (raw, _) = pair.raw_session();
    pair.send(raw, &request(4, 3, b"a"));
    pair.got(raw);
    let mut bytes = bytes_of(&Frame::Ask(xid(9), 1));
    bytes.extend(bytes_of(&Frame::Ack(Ack { acked: 4, last: u64::MAX, base: 0, settled: 0 })));
    pair.send_bytes(raw, &bytes);
    assert_eq!(pair.got(raw), [not_seen(9)]);
}

#[test]
fn the_name_of_a_call_says_nothing_once_its_session_has_ended() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Hold;
    let (raw, _) = pair.raw_session();
    pair.send(raw, &request(4, 3, b"a"));
    let call = pair.admitted(b"a");
    let key = call.admission.key();
    assert!(pair.server.record_of(key).is_some());
    assert!(!pair.server.is_cancelled(key), "it was not cancelled");
    pair.send(raw, &Frame::Cancel(xid(4)));
    assert!(pair.server.is_cancelled(key));
    assert!(pair.server.start(pair.now, call.admission).is_err());
    pair.drive();
    pair.send(raw, &Frame::Ack(Ack { acked: 4, last: u64::MAX, base: 0, settled: 0 }));
    // The session ends, and before its event is polled it is as good as gone.
    let goodbye = bytes_of(&Frame::Goodbye(wire::Role::Client));
    let conn = pair.conn(raw).expect("open");
    assert!(pair.server.session_record(key.session()).is_some());
    pair.server.handle_data(pair.now, conn, &goodbye).unwrap();
    assert_eq!((pair.server.record_of(key), pair.server.is_cancelled(key)), (None, false));
    assert_eq!(pair.server.session_record(key.session()), None, "its principal's share is gone");
    pair.drive();
    // Another one takes its place, with a call of the same number.
    let (raw, _) = pair.raw_session();
    pair.send(raw, &request(4, 3, b"b"));
    let other = pair.admitted(b"b");
    assert_ne!(other.admission.key().session(), key.session());
    pair.send(raw, &Frame::Cancel(xid(4)));
    assert_eq!((pair.server.record_of(key), pair.server.is_cancelled(key)), (None, false));
    pair.server.refuse(pair.now, other.admission, NotExecuted::Overloaded);
}

#[test]
fn counters_count() {
    let mut pair = Pair::unconnected();
    let (raw, _) = pair.raw_session();
    for (number, body) in [(4, b"a"), (5, b"b")] {
        pair.send(raw, &request(number, 3, body));
        pair.send(raw, &request(number, 3, body));
        pair.send(raw, &Frame::Ask(xid(number), 1));
    }
    pair.send(raw, &Frame::Ack(Ack { acked: 5, last: u64::MAX, base: 0, settled: 0 }));
    pair.send(raw, &request(4, 3, b"a"));
    pair.send(raw, &request(5, 3, b"b"));
    let counters = pair.server.counters();
    assert_eq!((counters.admitted, counters.duplicates, counters.stale), (2, 2, 2));
    assert_eq!((counters.asks, counters.replies, counters.refused), (2, 6, 0));
}

#[test]
fn s20_to_read_nothing_is_no_sign_of_life() {
    let mut pair = Pair::unconnected();
    let (raw, _) = pair.raw_session();
    let conn = pair.conn(raw).expect("open");
    let keepalive = default_server_config().keepalive;
    for _ in 0..8 {
        pair.server.handle_data(pair.now, conn, &[]).unwrap();
        pair.advance(keepalive / 4);
    }
    assert_eq!(pair.conn(raw), None, "the peer is silent");
}

/// Lets 40 seconds pass, two thirds of what a frame may take to grow, while the peer shows that it is there.
fn slowly(pair: &mut Pair, conn: ConnId, bytes: &[u8]) {
    for _ in 0..20 {
        assert!(pair.server.handle_data(pair.now, conn, bytes).unwrap().item.is_none());
        pair.advance(default_server_config().frame_timeout / 30);
    }
}

#[test]
fn c42_a_long_frame_that_grows_by_64_kib_in_time_is_not_too_slow() {
    let mut pair = Pair::unconnected();
    let (raw, _) = pair.raw_session();
    let conn = pair.conn(raw).expect("open");
    let frame = bytes_of_body(&vec![7; 200 << 10]);
    for steps in 0..4 {
        slowly(&mut pair, conn, &frame[..100 + (steps << 16)]);
        assert_eq!(pair.conn(raw), Some(conn), "after {steps} times 64 KiB");
    }
}

#[test]
fn c42_a_long_frame_that_grows_by_less_is_too_slow() {
    let mut pair = Pair::unconnected();
    let (raw, _) = pair.raw_session();
    let conn = pair.conn(raw).expect("open");
    let frame = bytes_of_body(&vec![7; 200 << 10]);
    pair.got(raw);
    for steps in 0..3 {
        slowly(&mut pair, conn, &frame[..100 + steps * 30_000]);
    }
    // Until then it was heard.
    assert_eq!(pair.got(raw).pop(), Some(OwnedFrame::Refuse(wire::Refuse::TooSlow)));
}

fn bytes_of_body(body: &[u8]) -> Vec<u8> {
    bytes_of(&request(4, 3, body))
}

#[test]
fn what_is_wrong_with_the_first_frame_is_said_of_the_first_frame() {
    let mut pair = Pair::unconnected();
    let raw = pair.raw(ALICE);
    // A request's frame that is too long for a connection without a session.
    let mut bytes = bytes_of(&request(4, 3, &[1; 600]));
    bytes.truncate(32);
    pair.send_bytes(raw, &bytes);
    assert_eq!(pair.server_errors, [ProtocolError::NoSession]);
}

#[test]
fn c150_what_is_settled_while_acks_are_leaving_is_acknowledged_too() {
    // So many slots that one output has no room for all `Ack`s of a round.
    const SLOTS: u32 = 1024;
    let mut pair = Pair::slots(SLOTS);
    pair.mode = Mode::Hold;
    let bodies: Vec<_> = (0..SLOTS).map(|number| number.to_le_bytes()).collect();
    let mut one_runs = 0;
    for body in &bodies {
        pair.call(body);
        pair.start(body).unwrap();
        one_runs = if one_runs == 0 { pair.kept() } else { one_runs };
    }
    for body in &bodies[2..] {
        pair.finish(body);
    }
    let link = pair.link_number();
    pair.links[link].hold_down = true;
    pair.finish(&bodies[1]);
    // The first `Ack`s of the round have left when the reply comes to a call on a slot that they have passed.
    pair.now = pair.now + ms(100);
    let (now, mut out) = (pair.now, [0; wire::CONTROL_LEN_MAX]);
    let len = pair.client().poll_transmit(now, &mut out).unwrap().get();
    pair.links[link].up.extend(&out[..len]);
    pair.links[link].hold_down = false;
    assert!(pair.deliver_down(link, usize::MAX));
    pair.drive();
    pair.advance(ms(100));
    assert_eq!(pair.client().unsettled(), 1);
    assert_eq!(pair.kept(), one_runs, "S16: what an idle client has settled is not kept for it");
}
