//! From one connection, or one run of a server, to the next: C43 and C44, with C62, C74, C75 and C77, and the rules about
//! the newest connection (S4), the resume (S21) and the goodbye (S6, S25).
//!
//! C43 is shown as far as the core goes: all resume at once; the backoff that spreads them is the driver's.
#![allow(missing_docs)]

mod util;

use std::time::Duration;

use oncewire_core::wire::{Ack, Frame, Refuse, Role};
use oncewire_core::*;
use util::*;

#[test]
fn c43_ten_thousand_clients_resume_at_once_after_a_restart() {
    const MANY: u64 = 10_000;
    let now = Instant::ZERO;
    let session = |n: u64| SessionId::from_bytes(u128::from(n + 1).to_le_bytes());
    let grants = wire::Grants {
        slots: 4,
        request_len_max: 1 << 20,
        reply_len_max: 1 << 20,
        lease_ms: 300_000,
        keepalive_ms: 10_000,
    };
    let mut server: Server<Heap> = Server::new(default_server_config(), &methods()).unwrap();
    for n in 0..MANY {
        let id = session(n);
        let record = SessionRecord { id, principal: ALICE, grants, seen: 0, acked: 0 };
        let key = server.restore_session(now, record).unwrap();
        let call = CallRecord { xid: xid(1), digest: 5, state: RecordState::Done(b"kept") };
        assert!(server.restore_call(key, call));
    }
    let mut out = [0; 512];
    for n in 0..MANY {
        let secret = SessionId::from_bytes([0xee; 16]);
        let conn = server.handle_connected(now, ALICE, secret).unwrap();
        let said = bytes_of(&hello(Some((session(n), 0))));
        assert!(server.handle_data(now, conn, &said).unwrap().item.is_none());
        server.poll_transmit(now, conn, &mut out).unwrap();
        let ask = bytes_of(&Frame::Ask(xid(1), 1));
        assert!(server.handle_data(now, conn, &ask).unwrap().item.is_none());
        let len = server.poll_transmit(now, conn, &mut out).unwrap().get();
        let header = wire::ReplyHeader { status: Status::Done, xid: xid(1) };
        assert_eq!(out[..len], bytes_of(&Frame::Reply(header, b"kept")));
    }
    assert_eq!(server.counters().resumes, MANY);
    assert_eq!(server.counters().sessions, MANY as usize);
}

#[test]
fn c44_calls_on_their_way_to_a_draining_server_are_not_executed_and_running_ones_answered() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let running = pair.call(b"running");
    pair.mode = Mode::Hold;
    let admitted = pair.call(b"admitted");
    pair.link().hold_up = true;
    let on_its_way = pair.call(b"on its way");
    let now = pair.now;
    pair.server.drain(now, secs(60));
    pair.drive();
    let after = pair.call(b"after");
    pair.link().hold_up = false;
    pair.drive();
    assert_eq!(pair.outcome(on_its_way), not_executed(NotExecuted::ShuttingDown));
    assert_eq!(pair.start(b"admitted"), Err(CallRefused(NotExecuted::ShuttingDown)));
    assert_eq!(pair.outcome(admitted), not_executed(NotExecuted::ShuttingDown));
    assert_eq!(pair.outcome(after), None, "it was never sent, and may go elsewhere");
    assert!(!pair.server.is_drained(), "a call runs");
    pair.finish(b"running");
    assert_eq!(pair.outcome(running), reply(b"running"));
    pair.advance(secs(1));
    assert!(pair.server.is_drained());
    let drained = pair.server_events.iter().filter(|e| matches!(e, ServerEvent::Drained)).count();
    assert_eq!(drained, 1);
    assert_eq!(pair.runs.len(), 1);
    assert!(pair.now.since(now) < secs(60), "it did not wait for the end of the grace");
    pair.restart_server();
    pair.mode = Mode::Echo;
    pair.reconnect();
    assert_eq!(pair.outcome(after), reply(b"after"));
}

/// A call that runs, at a server that has begun to drain.
fn draining(body: &[u8], grace: Duration) -> (Pair, CallId) {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(body);
    let now = pair.now;
    pair.server.drain(now, grace);
    pair.drive();
    (pair, call)
}

#[test]
fn c44_a_drain_waits_no_longer_than_its_grace() {
    let (mut pair, call) = draining(b"slow", secs(5));
    pair.advance(secs(4));
    assert!(!pair.server.is_drained() && pair.client().is_connected());
    pair.advance(secs(1));
    assert!(pair.server.is_drained());
    assert!(!pair.client().is_connected());
    assert_eq!(pair.outcome(call), None, "in doubt until a resume or its deadline");
}

#[test]
fn c44_a_draining_server_opens_no_sessions_and_resumes_old_ones() {
    let (mut pair, call) = draining(b"a", secs(60));
    let raw = pair.raw(ALICE);
    pair.send(raw, &hello(None));
    assert_eq!(pair.got(raw), [OwnedFrame::Refuse(Refuse::ShuttingDown)]);
    pair.reconnect();
    assert!(pair.client().is_connected());
    pair.finish(b"a");
    assert_eq!(pair.outcome(call), reply(b"a"));
    pair.advance(secs(1));
    assert!(pair.server.is_drained());
}

#[test]
fn c62_a_refusal_left_unread_on_the_old_connection_does_not_lie_about_the_new_run() {
    let mut pair = Pair::new();
    pair.mode = Mode::Hold;
    let call = pair.call(b"a");
    pair.record_session();
    let old = pair.link_number();
    pair.link().hold_down = true;
    pair.refuse(b"a", NotExecuted::Overloaded);
    let unread: Vec<u8> = pair.links[old].down.iter().copied().collect();
    assert!(!unread.is_empty());
    pair.mode = Mode::Echo;
    pair.restart_server_with_ledger();
    pair.connect(0);
    // The client has let go of the old connection: its bytes have no way in.
    pair.links[old].down.extend(&unread);
    pair.links[old].hold_down = false;
    pair.drive();
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
    assert_eq!(pair.ran(b"a"), 1);
}

#[test]
fn c62_data_given_to_a_client_without_a_connection_is_taken_and_dropped() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    pair.cut();
    let xid = xid(pair.runs[0].xid);
    let header = wire::ReplyHeader { status: Status::Refused(NotExecuted::Overloaded), xid };
    let bytes = bytes_of(&Frame::Reply(header, b""));
    let now = pair.now;
    let received = pair.client().handle_data(now, &bytes).unwrap();
    assert_eq!((received.consumed, received.item), (bytes.len(), None));
    assert_eq!(pair.outcome(call), None);
}

#[test]
fn s4_the_newest_handshake_wins_and_unread_bytes_of_the_older_connection_are_dropped() {
    let mut pair = Pair::unconnected();
    let (old, welcome) = pair.raw_session();
    pair.links[old].hold_up = true;
    pair.send(old, &request(1, 0, b"a"));
    let (new, _) = pair.raw_resume(welcome.session, 0);
    assert_eq!(pair.got(old), [OwnedFrame::Refuse(Refuse::Superseded)]);
    pair.links[old].hold_up = false;
    pair.drive();
    assert_eq!(pair.runs, [], "what was unread is dropped");
    pair.send(new, &request(2, 0, b"b"));
    assert_eq!(pair.got(new), [OwnedFrame::Reply(Status::Done, 2, echo(b"b"))]);
}

#[test]
fn s4_a_reply_is_kept_until_it_is_asked_for_on_the_new_connection() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Start;
    let (_, welcome) = pair.raw_session();
    let old = pair.links.len() - 1;
    pair.send(old, &request(1, 0, b"a"));
    let (new, _) = pair.raw_resume(welcome.session, 0);
    pair.finish(b"a");
    assert_eq!(pair.got(new), [], "no call was asked about on this connection");
    pair.send(new, &Frame::Ask(xid(1), 1));
    assert_eq!(pair.got(new), [OwnedFrame::Reply(Status::Done, 1, echo(b"a"))]);
}

#[test]
fn s4_a_call_that_was_once_not_seen_is_answered_where_it_was_last_asked_for_too() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Start;
    let (raw, welcome) = pair.raw_session();
    pair.send(raw, &Frame::Ask(xid(1), 1));
    pair.send(raw, &request(1, 0, b"a"));
    assert_eq!(pair.got(raw), [OwnedFrame::Reply(Status::NotSeen { ask: 1 }, 1, vec![])]);
    let (new, _) = pair.raw_resume(welcome.session, 0);
    pair.finish(b"a");
    assert_eq!(pair.got(new), [], "no call was asked about on this connection");
}

#[test]
fn s4_a_reply_that_waited_to_be_written_when_its_connection_broke_waits_to_be_asked_for() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Start;
    let (raw, welcome) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"a"));
    let (now, running) = (pair.now, pair.running(b"a"));
    let conn = pair.conn(raw).unwrap();
    pair.server.reply(now, running, b"kept").unwrap();
    pair.server.handle_disconnected(now, conn);
    let (new, _) = pair.raw_resume(welcome.session, 0);
    assert_eq!(pair.got(new), []);
    pair.send(new, &Frame::Ask(xid(1), 1));
    assert_eq!(pair.got(new), [OwnedFrame::Reply(Status::Done, 1, b"kept".to_vec())]);
}

#[test]
fn c75_a_reply_kept_when_a_draining_connection_breaks_after_goodbye_is_brought_by_the_resume() {
    let (mut pair, call) = draining(b"a", secs(60));
    pair.link().hold_down = true;
    pair.finish(b"a");
    pair.cut();
    assert!(!pair.server.is_drained(), "the reply is not acknowledged");
    assert_eq!(pair.server.counters().sessions, 1);
    pair.reconnect();
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
    pair.advance(secs(1));
    assert!(pair.server.is_drained());
}

#[test]
fn c75_a_refusal_likewise() {
    let mut pair = Pair::new();
    pair.link().hold_up = true;
    let call = pair.call(b"a");
    let now = pair.now;
    pair.server.drain(now, secs(60));
    pair.drive();
    pair.link().hold_down = true;
    pair.link().hold_up = false;
    pair.drive();
    pair.cut();
    assert_eq!(pair.outcome(call), None);
    pair.reconnect();
    assert_eq!(pair.outcomes(call), [OwnedOutcome::NotExecuted(NotExecuted::ShuttingDown)]);
    assert_eq!(pair.runs, []);
}

#[test]
fn c77_a_session_whose_connection_was_lost_before_its_welcome_was_read_is_there_for_the_resume() {
    let mut pair = Pair::unconnected();
    let call = pair.call(b"a");
    let link = pair.connect(0);
    pair.links[link].hold_down = true;
    pair.drive();
    // The server loses the connection; its Welcome is read after that, and the request goes nowhere.
    pair.hang_up(link);
    pair.links[link].silent = true;
    pair.links[link].hold_down = false;
    pair.links[link].client_open = true;
    pair.drive();
    assert_eq!(pair.server.counters().conns, 0);
    assert!(pair.client().is_connected());
    assert_eq!(pair.outcome(call), None);
    pair.advance(secs(9));
    pair.reconnect();
    assert_eq!(pair.outcome(call), reply(b"a"));
    assert_eq!(pair.ran(b"a"), 1);
    assert_eq!(pair.server.counters().resumes, 1);
    assert_eq!(pair.sessions_lost(), []);
}

#[test]
fn c74_an_idempotent_call_no_longer_wanted_is_asked_for_and_x_does_not_cover_it() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let mut call = Call::new(IDEM, b"a");
    call.idempotent = true;
    call.timeout = secs(1);
    let call = pair.call_with(0, call);
    pair.cut();
    pair.advance(secs(1));
    assert_eq!(pair.outcome(call), ticket(Unknown::DeadlinePassed));
    pair.mode = Mode::Echo;
    pair.reconnect();
    assert_eq!((pair.client().counters().asks, pair.client().counters().resends), (1, 0));
    let other = pair.call(b"other");
    assert_eq!(pair.outcome(other), reply(b"other"));
    assert_eq!(pair.server_errors, [], "no `acked` above the running call");
    pair.finish(b"a");
    assert_eq!(pair.outcome(call), reply(b"a"));
    assert_eq!(pair.ran(b"a"), 1);
}

#[test]
fn s21_calls_above_h_are_sent_again_in_xid_order_and_those_below_asked_for() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    pair.call(b"1");
    pair.call(b"2");
    pair.link().hold_up = true;
    pair.call(b"3");
    pair.call(b"4");
    pair.cut();
    let link = pair.connect(0);
    pair.links[link].hold_up = true;
    pair.drive();
    pair.deliver_up(link, usize::MAX);
    pair.drive();
    let got = pair.got_up(link);
    let kinds: Vec<(bool, u64)> = got
        .iter()
        .map(|frame| match frame {
            OwnedFrame::Ask(xid) => (false, *xid),
            OwnedFrame::Request(header, _) => (true, header.xid.get()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, [(false, 4), (false, 5), (true, 6), (true, 7)]);
}

#[test]
fn s6_a_goodbye_ends_the_session_only_when_nothing_is_kept() {
    let mut pair = Pair::unconnected();
    let (raw, _) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"a"));
    pair.send(raw, &Frame::Goodbye(Role::Client));
    assert_eq!(pair.server.counters().sessions, 1, "a reply is kept");
    pair.send(raw, &Frame::Ack(Ack { acked: 1, last: u64::MAX, base: 0, settled: 0 }));
    assert_eq!(pair.server.counters().sessions, 0);
    assert!(!pair.links[raw].server_open);
}

#[test]
fn s25_a_request_after_the_clients_goodbye_is_a_protocol_error() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Start;
    let (raw, _) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"a"));
    pair.send(raw, &Frame::Goodbye(Role::Client));
    pair.send(raw, &request(2, 0, b"b"));
    assert_eq!(pair.server_errors, [ProtocolError::AfterGoodbye]);
    assert_eq!(pair.ran(b"b"), 0);
}

#[test]
fn c280_a_server_that_knows_sessions_by_a_hash_is_resumed_by_their_ids_only() {
    fn hash(id: SessionId) -> SessionId {
        SessionId::from_bytes(id.to_bytes().map(|byte| byte.wrapping_mul(5) ^ 0x33))
    }
    let (now, id) = (Instant::ZERO, SessionId::from_bytes([9; 16]));
    let mut config = default_server_config();
    config.session_hash = Some(hash);
    config.records_sessions = true;
    let mut server: Server<Heap> = Server::new(config, &methods()).unwrap();
    let welcomed = |server: &mut Server<Heap>, resume| {
        let conn = server.handle_connected(now, ALICE, id).unwrap();
        let said = bytes_of(&hello(resume));
        assert!(server.handle_data(now, conn, &said).unwrap().item.is_none());
        server.confirm_session(conn);
        let mut out = [0; 512];
        let len = server.poll_transmit(now, conn, &mut out).map_or(0, |len| len.get());
        match wire::decode(&out[..len], Role::Server, 4096) {
            Ok(wire::Decoded::Frame(Frame::Welcome(welcome), _)) => Some((conn, welcome.session)),
            _ => None,
        }
    };
    let (conn, opened) = welcomed(&mut server, None).unwrap();
    assert_eq!(opened, id);
    let key = server.session_of(conn).unwrap();
    let record = server.session_record(key).unwrap();
    assert_eq!((record.id, server.session_tag(conn)), (hash(id), Some(id.tag())));
    // Another run of the server, which has only the record.
    let mut server: Server<Heap> = Server::new(config, &methods()).unwrap();
    let key = server.restore_session(now, record).unwrap();
    assert_eq!(welcomed(&mut server, Some((hash(id), 0))), None, "a hash resumes nothing");
    let (conn, resumed) = welcomed(&mut server, Some((id, 0))).unwrap();
    assert_eq!((resumed, server.session_of(conn)), (id, Some(key)));
    assert_eq!(server.session_tag(conn), Some(id.tag()));
}
