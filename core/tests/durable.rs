//! What a client that keeps a journal may count on when it comes back: its lease (S6), and that an old copy of the journal
//! is found out (S7). C81 to C84, C129.
#![allow(missing_docs)]

mod util;

use oncewire_core::wire::{FEATURE_DURABLE, FEATURE_PATIENT, Frame, Hello};
use oncewire_core::*;
use util::durable::*;
use util::*;

/// A call is recorded, and the bytes of its request go nowhere: the connection is half open.
fn recorded_and_lost(pair: &mut Pair) -> Disk {
    let mut disk = Disk::default();
    pair.call(b"a");
    pair.link().silent = true;
    record(pair, &mut disk);
    pair.cut();
    assert_eq!(pair.ran(b"a"), 0);
    disk
}

#[test]
fn c82_a_session_that_a_clients_journal_has_keeps_its_full_lease_though_no_request_came() {
    let mut pair = durable();
    let disk = recorded_and_lost(&mut pair);
    pair.jump(secs(299));
    let calls = restart(&mut pair, &disk);
    pair.reconnect();
    assert_eq!((pair.outcome(only(&calls)), pair.ran(b"a")), (reply(b"a"), 1));
}

#[test]
fn c82_so_does_one_that_a_restored_client_has_resumed_and_lost_again() {
    // The journal of another implementation, say, which had not asked for it. A byte of its call may have been sent.
    let mut pair = Pair::new();
    let kept = Kept { body: b"a".to_vec(), outcome: None };
    let session = pair.client().session().copied();
    let disk = Disk { session, xid_last: 1, calls: [(1, kept)].into() };
    pair.cut();
    pair.jump(secs(9));
    restart(&mut pair, &disk);
    let link = pair.connect(0);
    pair.links[link].hold_down = true;
    pair.drive();
    pair.cut();
    pair.jump(secs(299));
    let calls = restart(&mut pair, &disk);
    pair.reconnect();
    assert_eq!((pair.outcome(only(&calls)), pair.ran(b"a")), (reply(b"a"), 1));
}

#[test]
fn c82_the_session_that_follows_a_lost_one_is_asked_for_in_the_same_way() {
    let mut pair = durable();
    let disk = recorded_and_lost(&mut pair);
    pair.jump(secs(301));
    pair.client_config.durable = false;
    let calls = restart(&mut pair, &disk);
    pair.reconnect();
    assert_eq!(pair.outcome(only(&calls)), unknown(Unknown::SessionEnded), "its lease is over");
    let disk = recorded_and_lost(&mut pair);
    pair.jump(secs(299));
    let calls = restart(&mut pair, &disk);
    pair.reconnect();
    assert_eq!(pair.outcome(only(&calls)), reply(b"a"));
}

#[test]
fn c82_only_a_client_that_asks_for_it_has_the_full_lease_before_its_first_request() {
    let known = FEATURE_DURABLE | FEATURE_PATIENT | wire::FEATURE_METADATA;
    for (features, sessions) in [(0, 0), (FEATURE_DURABLE, 1), (16, 0), (!wire::FEATURE_TOKEN, 1)] {
        let mut pair = Pair::unconnected();
        let raw = pair.raw(ALICE);
        let Frame::Hello(plain) = hello(None) else { panic!("a hello") };
        pair.send(raw, &Frame::Hello(Hello { features, ..plain }));
        let got = pair.got(raw);
        let [OwnedFrame::Welcome(welcome)] = got.as_slice() else { panic!("no welcome: {got:?}") };
        assert_eq!(welcome.features, features & known, "W32");
        pair.hang_up(raw);
        pair.jump(secs(11));
        assert_eq!(pair.server.counters().sessions, sessions, "{features:#x}");
        pair.jump(secs(300));
        assert_eq!(pair.server.counters().sessions, 0);
    }
}

#[test]
fn c82_a_server_that_uses_a_feature_which_was_not_offered_is_wrong() {
    for durable in [false, true] {
        let mut config = ClientConfig::default();
        config.durable = durable;
        let mut pair = Pair::with(default_server_config(), config);
        let (_, mut welcome) = pair.raw_session();
        welcome.features = FEATURE_DURABLE;
        let link = pair.connect_by_hand(0);
        pair.drive();
        pair.send_down(link, &Frame::Welcome(welcome));
        assert_eq!(pair.client().is_connected(), durable);
    }
}

/// A server with a ledger, and a connection on which a session was opened and, if `stable`, recorded.
fn recorded_session(stable: bool) -> (Server<Heap>, ConnId, Instant) {
    let mut config = default_server_config();
    config.records_sessions = true;
    let mut server: Server<Heap> = Server::new(config, &methods()).unwrap();
    let now = Instant::ZERO;
    let conn = server.handle_connected(now, ALICE, SessionId::from_bytes([9; 16])).unwrap();
    let Frame::Hello(plain) = hello(None) else { panic!("a hello") };
    // Its own journal makes no difference until it knows the session's id.
    let said = Frame::Hello(Hello { features: FEATURE_DURABLE, ..plain });
    server.handle_data(now, conn, &bytes_of(&said)).unwrap();
    assert_eq!(server.poll_event(), Some(ServerEvent::SessionOpened(conn)));
    if stable {
        server.confirm_session(conn);
        assert_eq!(server.poll_event(), Some(ServerEvent::Transmit(conn)));
        assert!(server.poll_transmit(now, conn, &mut [0; 512]).is_some());
    }
    (server, conn, now)
}

#[test]
fn c81_a_session_that_a_ledger_has_keeps_its_full_lease_though_no_request_came() {
    for (stable, sessions) in [(false, 0), (true, 1)] {
        let (mut server, conn, now) = recorded_session(stable);
        server.handle_disconnected(now, conn);
        server.handle_timeout(now + secs(299));
        while server.poll_event().is_some() {}
        assert_eq!(server.counters().sessions, sessions, "stable: {stable}");
        server.handle_timeout(now + secs(300));
        while server.poll_event().is_some() {}
        assert_eq!(server.counters().sessions, 0);
    }
}

#[test]
fn c81_the_lease_after_a_servers_restart_is_a_full_one() {
    let mut pair = durable();
    pair.record_session();
    let disk = recorded_and_lost(&mut pair);
    pair.jump(secs(200));
    pair.restart_server_with_ledger();
    pair.jump(secs(299));
    let calls = restart(&mut pair, &disk);
    pair.reconnect();
    assert_eq!((pair.outcome(only(&calls)), pair.ran(b"a")), (reply(b"a"), 1));
}

/// Makes a call whose outcome its owner writes down.
fn pay(pair: &mut Pair, disk: &mut Disk, body: &[u8]) {
    let call = pair.call(body);
    record(pair, disk);
    let number = disk.xid_last;
    assert_eq!(pair.outcome(call), reply(body));
    disk.calls.get_mut(&number).unwrap().outcome = pair.outcome(call);
    settle(pair, call);
    pair.advance(secs(1));
}

#[test]
fn c83_a_client_that_goes_on_from_an_old_copy_of_its_journal_ends_the_session_and_sends_nothing() {
    for in_doubt in [false, true] {
        let mut pair = durable();
        let mut disk = Disk::default();
        pay(&mut pair, &mut disk, b"1");
        if in_doubt {
            pair.call(b"2");
            write_down(&mut pair, &mut disk);
        }
        let old = disk.clone();
        say_recorded(&mut pair, &disk);
        // The calls that the old copy knows nothing of: one is answered, and of the other the answer is kept.
        pay(&mut pair, &mut disk, b"3");
        pair.call(b"4");
        record(&mut pair, &mut disk);
        let runs = pair.runs.len();
        let calls = restart(&mut pair, &old);
        let new = pair.call(b"new");
        pair.reconnect();
        assert_eq!(pair.sessions_lost(), [SessionLoss::RolledBack]);
        if in_doubt {
            assert_eq!(
                pair.outcomes(only(&calls)),
                [OwnedOutcome::Unknown(Unknown::SessionEnded, false)]
            );
        }
        assert_eq!((pair.runs.len(), pair.outcomes(new)), (runs, vec![]), "nothing is sent");
        let mut disk = Disk::default();
        pair.reconnect();
        record(&mut pair, &mut disk);
        assert_eq!(
            pair.outcomes(new),
            [OwnedOutcome::Reply(echo(b"new"))],
            "not the reply of an old one"
        );
        assert_eq!(pair.ran(b"new"), 1);
    }
}

#[test]
fn c83_a_clone_of_a_plain_client_is_found_out_like_that_too() {
    let mut pair = Pair::new();
    pair.call(b"1");
    let session = *pair.client().session().unwrap();
    let mut copy: Client<Heap> = Client::restore(pair.client_config, session, 0).unwrap();
    std::mem::swap(&mut pair.peers[0].client, &mut copy);
    pair.peers[0].link = None;
    pair.reconnect();
    assert_eq!(pair.sessions_lost(), [SessionLoss::RolledBack]);
}

#[test]
fn c83_an_h_up_to_what_was_recorded_is_no_sign_of_an_old_copy() {
    let mut pair = durable();
    let mut disk = Disk::default();
    pay(&mut pair, &mut disk, b"1");
    // Written before the next number was sent: as old as a copy may be.
    let call = pair.call(b"2");
    write_down(&mut pair, &mut disk);
    let copy = disk.clone();
    say_recorded(&mut pair, &disk);
    assert_eq!(pair.outcome(call), reply(b"2"));
    let calls = restart(&mut pair, &copy);
    pair.reconnect();
    assert_eq!((pair.outcome(only(&calls)), pair.ran(b"2")), (reply(b"2"), 1));
    assert_eq!(pair.sessions_lost(), []);
}

#[test]
fn c83_a_new_session_in_which_something_was_read_already_is_a_wrong_servers() {
    let mut pair = Pair::unconnected();
    let (_, mut welcome) = pair.raw_session();
    welcome.seen = 1;
    let link = pair.connect_by_hand(0);
    pair.drive();
    pair.send_down(link, &Frame::Welcome(welcome));
    assert_eq!(pair.peers[0].errors, [ProtocolError::UnexpectedWelcome]);
}

/// A copy of the journal from before an outcome was written, put back after it was settled.
#[test]
fn c84_a_client_that_asks_for_what_another_run_of_it_has_settled_ends_the_session() {
    for by_bit in [false, true] {
        let mut pair = durable();
        let mut disk = Disk::default();
        pair.mode = Mode::Start;
        if by_bit {
            // `acked` stays below it, and a bit says that the second one is settled.
            pair.call(b"1");
            record(&mut pair, &mut disk);
        }
        let second = pair.call(b"2");
        record(&mut pair, &mut disk);
        let old = disk.clone();
        pair.finish(b"2");
        settle(&mut pair, second);
        pair.advance(secs(1));
        let calls = restart(&mut pair, &old);
        pair.reconnect();
        assert_eq!(pair.sessions_lost(), [SessionLoss::RolledBack]);
        for call in calls.values() {
            assert_eq!(pair.outcomes(*call), [OwnedOutcome::Unknown(Unknown::SessionEnded, false)]);
        }
        assert_eq!(pair.server.counters().sessions, 2, "a new one, and that of the other run");
        let new = pair.call(b"new");
        pair.mode = Mode::Echo;
        pair.reconnect();
        record(&mut pair, &mut Disk::default());
        assert_eq!(pair.outcome(new), reply(b"new"));
    }
}

/// The old copy gave the number to another call, which it settled unsent: its `acked` covers what the other run has running. It
/// was refused each time that it dialled, for as long as that call ran.
#[test]
fn c129_a_client_on_an_old_copy_whose_x_covers_what_another_run_has_running_ends_the_session() {
    let mut pair = durable();
    let mut disk = Disk::default();
    pay(&mut pair, &mut disk, b"1");
    let mut old = disk.clone();
    pair.mode = Mode::Start;
    pair.call(b"2");
    record(&mut pair, &mut disk);
    assert_eq!(pair.runs.len(), 2);
    old.xid_last = disk.xid_last;
    restart(&mut pair, &old);
    let new = pair.call(b"new");
    pair.reconnect();
    assert_eq!(pair.disconnects(), [CloseReason::Refused(Refuse::Protocol(11))]);
    assert_eq!(pair.sessions_lost(), [SessionLoss::RolledBack]);
    assert_eq!(pair.outcomes(new), [], "it waits for another session");
    pair.mode = Mode::Echo;
    pair.reconnect();
    record(&mut pair, &mut Disk::default());
    assert_eq!((pair.outcome(new), pair.ran(b"new")), (reply(b"new"), 1));
    // The other run has lost nothing.
    let calls = restart(&mut pair, &disk);
    pair.reconnect();
    pair.finish(b"2");
    assert_eq!((pair.outcome(only(&calls)), pair.ran(b"2")), (reply(b"2"), 1));
}

/// The server has read nothing, so the old copy sent its calls again instead of asking for them; they were dropped as stale, and
/// held all slots of the client for ever.
#[test]
fn c125_a_client_on_an_old_copy_whose_calls_another_run_has_settled_unread_ends_the_session() {
    let mut pair = durable();
    let mut disk = Disk::default();
    pair.link().hold_up = true;
    let mut call = Call::new(ECHO, b"a");
    call.timeout = secs(1);
    let call = pair.call_with(0, call);
    record(&mut pair, &mut disk);
    let old = disk.clone();
    pair.cut();
    pair.advance(secs(2));
    pair.reconnect();
    settle(&mut pair, call);
    pair.advance(secs(1));
    assert_eq!(pair.server_errors, []);

    let calls = restart(&mut pair, &old);
    pair.reconnect();
    record(&mut pair, &mut Disk::default());
    assert_eq!(
        pair.server_errors,
        [ProtocolError::AlreadySettled { xid: calls.keys().copied().next().unwrap() }]
    );
    assert_eq!(pair.sessions_lost(), [SessionLoss::RolledBack]);
    assert_eq!(pair.outcome(only(&calls)), unknown(Unknown::SessionEnded));
    assert_eq!(pair.ran(b"a"), 0);
}

/// It settled a call as unknown, for it had lost its session at another server, and died before its journal had a new
/// session. The next run resumed the old one, found its slot taken by that call, and was refused each time that it dialled.
#[test]
fn c145_a_session_in_which_a_settled_call_still_runs_is_over() {
    // The next run's new call leaves before its `Ack`, or behind it.
    for (early, error) in [
        (true, ProtocolError::SlotBusy { xid: 5, running: 3 }),
        (false, ProtocolError::AckAhead { acked: 1 }),
    ] {
        let mut pair = durable_slots(2);
        let mut disk = Disk::default();
        pair.mode = Mode::Start;
        pair.call(b"1");
        pair.call(b"2");
        record(&mut pair, &mut disk);
        disk.calls.get_mut(&3).unwrap().outcome = unknown(Unknown::SessionEnded);
        let calls = restart(&mut pair, &disk);
        let now = pair.now;
        let new = pair.client().call(now, Call::new(ECHO, b"new")).unwrap();
        pair.connect(0);
        if early {
            shake_hands(&mut pair);
        }
        record(&mut pair, &mut disk);
        assert_eq!(pair.server_errors, [error]);
        assert_eq!(pair.sessions_lost(), [SessionLoss::RolledBack]);
        let ended = unknown(Unknown::SessionEnded);
        assert_eq!(pair.outcome(only(&calls)), ended);
        pair.mode = Mode::Echo;
        pair.reconnect();
        record(&mut pair, &mut Disk::default());
        // Where it was sent in the old session, it is not sent in another one (S3).
        let expected = if early { (ended, 0) } else { (reply(b"new"), 1) };
        assert_eq!((pair.outcome(new), pair.ran(b"new")), expected);
    }
}

/// The `Hello` and its `Welcome` go to and fro, and nothing else.
fn shake_hands(pair: &mut Pair) {
    let (now, conn) = (pair.now, pair.conn(pair.link_number()).unwrap());
    let mut out = [0; 512];
    let len = pair.client().poll_transmit(now, &mut out).unwrap().get();
    pair.server.handle_data(now, conn, &out[..len]).unwrap();
    let len = pair.server.poll_transmit(now, conn, &mut out).unwrap().get();
    pair.client().handle_data(now, &out[..len]).unwrap();
}

/// It knew of the slots up to the highest of an unsettled call, and acknowledged what was settled on these.
#[test]
fn a_restored_client_acknowledges_what_is_settled_on_any_slot() {
    for xid_last in [13, 5] {
        let mut config = default_server_config();
        config.slots = 8;
        let mut client = ClientConfig::default();
        client.durable = true;
        client.xid_before_first = if xid_last == 13 { 7 } else { 0 };
        client.slots = if xid_last == 13 { 8 } else { 6 };
        let mut pair = Pair::with(config, client).connected();
        pair.mode = Mode::Start;
        let mut disk = Disk::default();
        let bodies: Vec<[u8; 1]> = (0..6).map(|n| [n]).collect();
        for body in &bodies {
            pair.call(body);
        }
        record(&mut pair, &mut disk);
        for body in &bodies[1..] {
            pair.finish(body);
        }
        // Their outcomes are on disk, and the process dies before it says so.
        for kept in disk.calls.values_mut().skip(1) {
            kept.outcome = Some(OwnedOutcome::Reply(Vec::new()));
        }
        let running = 64 << 10;
        assert!(pair.kept() > running);
        restart(&mut pair, &disk);
        pair.connect(0);
        pair.drive();
        assert_eq!(pair.kept(), running, "the first one runs");
        pair.finish(&bodies[0]);
        pair.drive();
        assert_eq!(pair.peers[0].errors, []);
    }
}
