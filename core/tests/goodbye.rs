//! The clean end of a session: nothing that can be known is given up by a goodbye (S6, S25). C78 to C81, C438.
#![allow(missing_docs)]

mod util;

use oncewire_core::wire::{Ack, Frame, Refuse, Role};
use oncewire_core::*;
use util::bare::{Bare, NOW};
use util::durable::*;
use util::*;

fn drain(pair: &mut Pair) {
    let now = pair.now;
    pair.server.drain(now, secs(60));
    pair.drive();
}

const SHUTTING_DOWN: OwnedOutcome = OwnedOutcome::NotExecuted(NotExecuted::ShuttingDown);

#[test]
fn c78_a_call_that_was_numbered_before_the_servers_goodbye_is_sent_once_recorded_and_refused() {
    let mut pair = durable();
    let mut disk = Disk::default();
    let call = pair.call(b"a");
    write_down(&mut pair, &mut disk);
    drain(&mut pair);
    assert!(pair.client().is_connected(), "the server waits for the client's goodbye");
    let later = pair.call(b"later");
    let now = pair.now;
    assert!(pair.client().poll_unjournaled(now).is_none(), "S25: nothing new begins");
    say_recorded(&mut pair, &disk);
    assert_eq!(pair.outcomes(call), [SHUTTING_DOWN]);
    assert!(!pair.server.is_drained(), "the outcome is not on the client's disk");
    settle(&mut pair, call);
    pair.advance(secs(1));
    assert!(pair.server.is_drained());
    assert_eq!((pair.outcomes(later), pair.runs.len()), (vec![], 0));
    assert_eq!(pair.server_errors, []);
}

#[test]
fn c78_one_that_is_given_up_before_it_is_recorded_holds_no_drain_up() {
    let mut pair = durable();
    let mut disk = Disk::default();
    let call = pair.call(b"a");
    write_down(&mut pair, &mut disk);
    drain(&mut pair);
    pair.cancel(call);
    assert_eq!(pair.outcomes(call), [OwnedOutcome::NotExecuted(NotExecuted::Cancelled)]);
    settle(&mut pair, call);
    assert!(pair.server.is_drained());
}

#[test]
fn c78_an_answer_that_is_being_written_down_is_kept_by_a_draining_server() {
    let mut pair = durable();
    let mut disk = Disk::default();
    let call = pair.call(b"a");
    record(&mut pair, &mut disk);
    drain(&mut pair);
    let calls = restart(&mut pair, &disk);
    pair.reconnect();
    assert_eq!(pair.outcome(only(&calls)), reply(b"a"), "a restored client learns it again");
    assert_eq!(pair.ran(b"a"), 1);
    settle(&mut pair, only(&calls));
    pair.advance(secs(1));
    assert!(pair.server.is_drained());
    let _ = call;
}

/// A server with a ledger that crashed after it had read a call and before it had recorded it; its client has not resumed.
fn crashed_with_a_hole(lossy: bool) -> (Pair, CallId) {
    let mut server = default_server_config();
    server.lossy = lossy;
    let mut client = ClientConfig::default();
    client.resend_after = lossy.then_some(ms(200));
    let mut pair = Pair::with(server, client).connected();
    pair.mode = Mode::Hold;
    let hole = pair.call(b"hole");
    pair.record_session();
    pair.restart_server_with_ledger();
    (pair, hole)
}

#[test]
fn c79_the_answer_to_an_ask_is_awaited_before_the_goodbye() {
    for lossy in [false, true] {
        let (mut pair, hole) = crashed_with_a_hole(lossy);
        let link = pair.connect(0);
        pair.links[link].hold_down = true;
        pair.drive();
        drain(&mut pair);
        pair.links[link].hold_down = false;
        pair.drive();
        assert_eq!(pair.client().counters().asks, 1);
        assert_eq!(pair.outcomes(hole), [SHUTTING_DOWN], "it never ran");
        pair.advance(secs(1));
        assert!(pair.server.is_drained());
        assert_eq!((pair.ran(b"hole"), &pair.server_errors), (0, &vec![]));
    }
}

#[test]
fn c79_an_ask_is_answered_though_a_goodbye_came_right_behind_it() {
    // Other clients may say it as early as that: W62 lets them ask even after it.
    let (mut pair, _) = crashed_with_a_hole(false);
    let session = pair.session_id();
    let (raw, _) = pair.raw_resume(session, 0);
    let mut said = bytes_of(&Frame::Ask(xid(4), 1));
    said.extend(bytes_of(&Frame::Goodbye(Role::Client)));
    pair.send_bytes(raw, &said);
    assert_eq!(pair.got(raw), [OwnedFrame::Reply(Status::NotSeen { ask: 1 }, 4, vec![])]);
    assert_eq!(pair.server.counters().sessions, 0, "nothing else is owed");
}

#[test]
fn c79_a_reply_that_is_half_sent_is_finished_before_the_session_ends() {
    let mut pair = Pair::unconnected();
    let (raw, _) = pair.raw_session();
    let conn = pair.conn(raw).unwrap();
    let now = pair.now;
    let mut call = header(4, 3);
    call.method = BIG;
    let request = bytes_of(&Frame::Request(call, b"a"));
    let incoming = pair.server.handle_data(now, conn, &request);
    let Some(Incoming::Request(request)) = incoming.unwrap().item else { panic!("a request") };
    let running = pair.server.start(now, request.admission).unwrap();
    let body = vec![7; 5_000];
    pair.server.reply(now, running, &body).unwrap();
    let mut out = [0; 600];
    let mut got = Vec::new();
    let len = pair.server.poll_transmit(now, conn, &mut out).unwrap().get();
    got.extend_from_slice(&out[..len]);
    // Half of it has left, and the client says that it has seen all of it.
    let mut said = bytes_of(&Frame::Ack(Ack { acked: 4, last: u64::MAX, base: 0, settled: 0 }));
    said.extend(bytes_of(&Frame::Goodbye(Role::Client)));
    pair.server.handle_data(now, conn, &said).unwrap();
    while let Some(len) = pair.server.poll_transmit(now, conn, &mut out) {
        got.extend_from_slice(&out[..len.get()]);
    }
    assert_eq!(got.len(), 16 + body.len());
    pair.drive();
    assert_eq!(pair.server.counters().sessions, 0);
    assert_eq!(pair.conn(raw), None, "and then the connection is closed");
}

/// A client and a server on a link that loses what leaves while the switch is on.
fn lossy() -> (Pair, std::rc::Rc<std::cell::Cell<bool>>) {
    let lost = std::rc::Rc::new(std::cell::Cell::new(false));
    let mut server = default_server_config();
    server.lossy = true;
    server.keepalive = secs(60);
    let mut client = ClientConfig::default();
    client.resend_after = Some(ms(200));
    let mut pair = Pair::with(server, client);
    let switch = lost.clone();
    pair.luck = Some(Box::new(move || if switch.get() { Luck::Lost } else { Luck::Once }));
    (pair.connected(), lost)
}

#[test]
fn c80_a_request_that_was_lost_before_the_servers_goodbye_is_sent_again_and_refused() {
    for cancelled in [false, true] {
        let (mut pair, lost) = lossy();
        lost.set(true);
        let call = pair.call(b"a");
        if cancelled {
            pair.cancel(call);
        }
        lost.set(false);
        drain(&mut pair);
        assert_eq!(pair.outcomes(call), [], "it is not known yet");
        pair.advance(secs(5));
        let why = if cancelled { NotExecuted::Cancelled } else { NotExecuted::ShuttingDown };
        assert_eq!(pair.outcomes(call), [OwnedOutcome::NotExecuted(why)]);
        assert!(pair.server.is_drained());
        assert_eq!((pair.runs.len(), &pair.server_errors), (0, &vec![]));
    }
}

#[test]
fn c80_a_reply_that_was_lost_is_brought_again_before_the_goodbye() {
    let (mut pair, lost) = lossy();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    drain(&mut pair);
    lost.set(true);
    pair.finish(b"a");
    lost.set(false);
    pair.advance(secs(20));
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
    assert!(pair.server.is_drained() && pair.now.since(Instant::ZERO) < secs(60));
}

#[test]
fn c80_a_call_that_outlasts_a_drains_grace_holds_it_up_no_longer() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let slow = pair.call(b"slow");
    let now = pair.now;
    pair.server.drain(now, secs(5));
    pair.drive();
    let waits = pair.call(b"waits");
    assert!(!pair.server.is_drained());
    pair.advance(secs(5));
    assert!(pair.server.is_drained(), "the grace is over");
    assert_eq!(
        (pair.outcomes(slow), pair.outcomes(waits)),
        (vec![], vec![]),
        "both go on elsewhere"
    );
}

#[test]
fn c85_a_drain_waits_for_a_client_that_has_just_lost_its_connection() {
    let mut pair = Pair::new();
    pair.link().hold_up = true;
    let call = pair.call(b"a");
    pair.cut();
    pair.advance(secs(5));
    drain(&mut pair);
    assert!(!pair.server.is_drained(), "only this server knows that it never read the call");
    pair.reconnect();
    assert_eq!(pair.outcomes(call), [SHUTTING_DOWN]);
    pair.advance(secs(1));
    assert!(pair.server.is_drained());
    assert!(pair.server_events.contains(&ServerEvent::Drained));
}

#[test]
fn c85_but_no_longer_than_a_keepalive_or_the_grace() {
    for (grace, waits) in [(secs(60), secs(10)), (secs(5), secs(5))] {
        let mut pair = Pair::new();
        pair.call(b"a");
        // Its reply is acknowledged.
        pair.advance(secs(1));
        pair.cut();
        let now = pair.now;
        pair.server.drain(now, grace);
        pair.drive();
        pair.advance(waits - ms(1));
        assert!(!pair.server.is_drained());
        pair.advance(ms(1));
        assert!(pair.server.is_drained());
        assert!(pair.server_events.contains(&ServerEvent::Drained), "its timer said so");
    }
}

#[test]
fn c85_nor_where_a_ledger_keeps_the_session_for_the_next_server() {
    let mut config = default_server_config();
    config.records_sessions = true;
    let mut server: Server<Heap> = Server::new(config, &methods()).unwrap();
    let now = Instant::ZERO;
    let conn = server.handle_connected(now, ALICE, SessionId::from_bytes([9; 16])).unwrap();
    server.handle_data(now, conn, &bytes_of(&hello(None))).unwrap();
    server.confirm_session(conn);
    server.handle_disconnected(now, conn);
    server.drain(now, secs(60));
    assert!(server.is_drained());
}

/// Each of them had as long as a handshake takes, and the drain waited for the last.
#[test]
fn c80_when_the_grace_of_a_drain_is_over_no_connection_is_taken() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    pair.call(b"slow");
    let now = pair.now;
    pair.server.drain(now, secs(5));
    pair.drive();
    pair.server.handle_timeout(now + secs(5));
    let stranger = SessionId::from_bytes([9; 16]);
    assert_eq!(pair.server.handle_connected(now + secs(5), BOB, stranger), None);
    pair.drive();
    assert!(pair.server_events.contains(&ServerEvent::Drained));
}

/// A server with a session whose connection is gone, and that begins to drain while a connection is there which has
/// said nothing yet.
fn drained_before_the_hello() -> (Bare, SessionId, ConnId) {
    let mut bare = Bare::with(|_| {});
    let first = bare.open(ALICE, 4);
    let key = bare.server.session_of(first).unwrap();
    let session = bare.server.session_record(key).unwrap().id;
    bare.server.handle_disconnected(NOW, first);
    let conn = bare.server.handle_connected(NOW, ALICE, SessionId::from_bytes([9; 16])).unwrap();
    bare.server.drain(NOW, secs(60));
    while bare.server.poll_event().is_some() {}
    (bare, session, conn)
}

fn sent(bare: &mut Bare, conn: ConnId) -> Vec<OwnedFrame> {
    let (mut out, mut bytes) = ([0; 4096], Vec::new());
    while let Some(len) = bare.server.poll_transmit(NOW, conn, &mut out) {
        bytes.extend_from_slice(&out[..len.get()]);
    }
    while bare.server.poll_event().is_some() {}
    frames(bytes, Role::Server)
}

#[test]
fn c438_a_client_whose_hello_is_on_its_way_when_a_drain_begins_resumes() {
    let (mut bare, session, conn) = drained_before_the_hello();
    assert_eq!(sent(&mut bare, conn), []);
    bare.say(conn, &hello(Some((session, 0))));
    let frames = sent(&mut bare, conn);
    assert!(matches!(frames[..], [OwnedFrame::Welcome(_), OwnedFrame::Goodbye]), "{frames:?}");
    bare.say(conn, &Frame::Goodbye(Role::Client));
    assert!(bare.server.is_drained());
}

#[test]
fn c438_one_that_would_open_a_session_is_refused() {
    let (mut bare, _, conn) = drained_before_the_hello();
    bare.say(conn, &hello(None));
    assert_eq!(sent(&mut bare, conn), [OwnedFrame::Refuse(Refuse::ShuttingDown)]);
}

#[test]
fn c438_a_silent_connection_holds_a_drain_up_for_a_handshake_and_only_while_there_is_a_session() {
    let timeout = default_server_config().handshake_timeout;
    let (mut bare, _, conn) = drained_before_the_hello();
    bare.server.handle_timeout(NOW + (timeout - ms(1)));
    assert!(bare.server.principal_of(conn).is_some() && !bare.server.is_drained());
    bare.server.handle_timeout(NOW + timeout);
    while bare.server.poll_event().is_some() {}
    assert_eq!(sent(&mut bare, conn), [OwnedFrame::Refuse(Refuse::TooSlow)]);
    assert!(bare.server.is_drained());

    let mut bare = Bare::with(|_| {});
    let first = bare.open(ALICE, 4);
    let silent = [1, 2].map(|id| {
        bare.server.handle_connected(NOW, ALICE, SessionId::from_bytes([id; 16])).unwrap()
    });
    bare.server.drain(NOW + ms(1), secs(60));
    sent(&mut bare, first);
    assert_eq!(sent(&mut bare, silent[0]), []);
    // The last session ends.
    bare.say(first, &Frame::Goodbye(Role::Client));
    for conn in silent {
        assert_eq!(sent(&mut bare, conn), [OwnedFrame::Refuse(Refuse::ShuttingDown)]);
    }
    assert!(bare.server.is_drained());
}
