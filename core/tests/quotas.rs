//! Room for what is kept, and for how long it is: C27 to C30, with C66 and C67.
#![allow(missing_docs)]

mod util;

use oncewire_core::wire::{Ack, Frame, Role};
use oncewire_core::*;
use util::*;

/// Room for one reserved `ECHO` reply and 100 bytes.
fn tight() -> u64 {
    (64 << 10) + 100
}

#[test]
fn c27_at_the_memory_limit_new_calls_are_refused_and_nothing_kept_is_lost() {
    let mut session = default_server_config();
    session.kept_per_session_max = tight();
    let mut principal = default_server_config();
    principal.kept_per_principal_max = tight();
    let mut server = default_server_config();
    server.kept_max = tight();
    for config in [session, principal, server] {
        let mut pair = Pair::with(config, ClientConfig::default());
        let (raw, welcome) = pair.raw_session();
        pair.send(raw, &request(1, 0, &[b'x'; 98]));
        assert_eq!(pair.kept(), 101, "what is kept, not what was reserved");
        pair.got(raw);
        pair.send(raw, &request(2, 0, b"no room"));
        let refused = OwnedFrame::Reply(Status::Refused(NotExecuted::Overloaded), 2, vec![]);
        assert_eq!(pair.got(raw), [refused]);
        assert_eq!(pair.ran(b"no room"), 0);
        let (raw, _) = pair.raw_resume(welcome.session, 0);
        pair.send(raw, &Frame::Ask(xid(1), 1));
        assert_eq!(pair.got(raw), [OwnedFrame::Reply(Status::Done, 1, echo(&[b'x'; 98]))]);
        pair.send(raw, &request(3, 2, b"room again"));
        assert_eq!(pair.ran(b"room again"), 1);
    }
}

#[test]
fn c27_one_principal_at_its_limit_does_not_keep_another_out() {
    let mut config = default_server_config();
    config.kept_per_principal_max = tight();
    let mut pair = Pair::with(config, ClientConfig::default()).connected();
    pair.mode = Mode::Start;
    pair.call(b"alice");
    let second = pair.add_client(ClientConfig::default(), BOB);
    pair.connect(second);
    pair.drive();
    pair.call_with(second, Call::new(ECHO, b"bob"));
    assert_eq!(pair.ran(b"bob"), 1);
    let third = pair.add_client(ClientConfig::default(), ALICE);
    pair.connect(third);
    pair.drive();
    let refused = pair.call_with(third, Call::new(ECHO, b"alice too"));
    assert_eq!(pair.outcome_at(third, refused), not_executed(NotExecuted::Overloaded));
}

#[test]
fn c27_what_was_reserved_is_given_back_when_calls_end_in_any_way() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    for body in [b"1", b"2", b"3"] {
        pair.call(body);
    }
    assert_eq!(pair.kept(), 3 * (64 << 10));
    pair.abort(b"1");
    let running = pair.running(b"2");
    let now = pair.now;
    pair.server.roll_back(now, running, NotExecuted::Aborted);
    let running = pair.running(b"3");
    let too_large = pair.server.reply(now, running, &[0; (64 << 10) + 1][..]);
    assert_eq!(too_large, Err(ReplyTooLarge { len: (64 << 10) + 1, max: 64 << 10 }));
    assert_eq!(pair.kept(), 0);
    pair.drive();
    pair.advance(secs(1));
    assert_eq!((pair.kept(), pair.server.counters().running), (0, 0));
}

#[test]
fn c27_a_reply_too_large_is_executed_without_a_body() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    pair.finish_with(b"a", &vec![7; (64 << 10) + 1]);
    assert_eq!(pair.outcome(call), Some(OwnedOutcome::NoReply(NoReply::ReplyTooLarge)));
}

#[test]
fn c28_a_kept_reply_outlives_every_time_limit_while_its_session_lives() {
    let mut pair = Pair::unconnected();
    let (raw, _) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"a"));
    for _ in 0..1_000 {
        pair.advance(secs(5));
        pair.send(raw, &Frame::Ping(Role::Client));
    }
    pair.got(raw);
    pair.send(raw, &request(1, 0, b"a"));
    assert_eq!(pair.got(raw), [OwnedFrame::Reply(Status::Done, 1, echo(b"a"))]);
    assert_eq!(pair.ran(b"a"), 1);
}

#[test]
fn c29_control_frames_are_never_kept_and_never_use_an_xid() {
    let mut pair = Pair::unconnected();
    let (raw, welcome) = pair.raw_session();
    for frame in [
        Frame::Ping(Role::Client),
        Frame::Pong(Role::Client),
        Frame::Ack(Ack { acked: 0, last: u64::MAX, base: 0, settled: 0 }),
        Frame::Cancel(xid(1)),
    ] {
        pair.send(raw, &frame);
    }
    assert_eq!(pair.got(raw), [OwnedFrame::Pong]);
    assert_eq!((pair.kept(), pair.server.counters().admitted), (0, 0));
    assert_eq!(pair.raw_resume(welcome.session, 0).1.seen, 0);
}

#[test]
fn c29_an_idle_client_pings_for_days_without_using_a_number() {
    let mut pair = Pair::new();
    pair.advance(secs(3600));
    pair.call(b"a");
    assert_eq!(pair.runs[0].xid % 4, 0, "the lowest slot is free");
    assert!(pair.runs[0].xid <= 4);
    assert_eq!(pair.disconnects(), []);
}

#[test]
fn c30_a_handler_that_finishes_after_its_session_was_dropped_leaks_nothing() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    pair.call(b"a");
    pair.cut();
    let running = pair.running(b"a");
    // The process that let it in is gone, and its place has a new tenant.
    pair.restart_server();
    pair.mode = Mode::Echo;
    pair.reconnect();
    let now = pair.now;
    pair.server.reply(now, running, b"from the grave").unwrap();
    pair.drive();
    assert_eq!((pair.kept(), pair.server.counters().running), (0, 0));
    let next = pair.call(b"next");
    assert_eq!(pair.outcome(next), reply(b"next"));
}

#[test]
fn c07_c30_a_session_whose_lease_ended_is_dropped_when_its_call_finishes_and_leaks_nothing() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let mut long = Call::new(ECHO, b"a");
    long.timeout = secs(3600);
    pair.call_with(0, long);
    pair.cut();
    pair.advance(secs(301));
    assert_eq!(pair.server.counters().sessions, 1);
    pair.finish(b"a");
    let counters = pair.server.counters();
    assert_eq!((counters.sessions, counters.kept_bytes, counters.running), (0, 0, 0));
}

#[test]
fn c66_the_bits_of_an_ack_free_what_a_call_of_an_hour_would_hold_up() {
    let mut config = default_server_config();
    config.slots = 100;
    let mut pair = Pair::with(config, ClientConfig::default()).connected();
    pair.mode = Mode::Start;
    let mut slow = Call::new(BIG, b"slow");
    slow.timeout = secs(7200);
    pair.call_with(0, slow);
    let reserved = pair.kept();
    let bodies: Vec<[u8; 1]> = (0..99).map(|n| [n]).collect();
    for body in &bodies {
        pair.call_with(0, Call::new(BIG, body));
    }
    for body in &bodies {
        pair.finish_with(body, &vec![1; 1 << 20]);
    }
    assert_eq!(pair.kept(), reserved, "freed at once: much was kept");
    assert_eq!(pair.client().unsettled(), 1);
}

#[test]
fn c66_what_bits_acknowledged_is_acknowledged_again_after_a_resume() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    pair.call(b"slow");
    pair.call(b"quick");
    pair.finish(b"quick");
    pair.link().hold_up = true;
    pair.advance(secs(1));
    assert_eq!(pair.kept(), (64 << 10) + 8, "the Ack is on its way");
    pair.reconnect();
    assert_eq!(pair.kept(), 64 << 10);
}

#[test]
fn c67_a_session_that_was_granted_more_than_the_server_now_grants_is_honoured() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let calls: Vec<CallId> = (0..4u8).map(|n| pair.call(&[n])).collect();
    for n in 0..4u8 {
        let key = pair.started.iter().find(|call| call.body == [n]).unwrap().running.key();
        pair.record(key, Some(&echo(&[n])));
    }
    pair.server_config.slots = 2;
    pair.restart_server_with_ledger();
    pair.reconnect();
    for (call, n) in calls.iter().zip(0u8..) {
        assert_eq!(pair.outcome(*call), reply(&[n]), "four slots, no collision");
    }
    assert_eq!(pair.client().session().unwrap().grants.slots, 4);
}

#[test]
fn c67_a_session_that_the_storage_cannot_honour_is_unknown() {
    let mut server: Server<InlineServer<2, 3, 2, 3, 64>> =
        Server::new(default_server_config(), &methods()).unwrap();
    let mut pair = Pair::new();
    pair.record_session();
    let (record, _) = pair.ledger.sessions.values().next().unwrap();
    assert!(server.restore_session(Instant::ZERO, *record).is_none(), "4 slots do not fit in 2");
}
