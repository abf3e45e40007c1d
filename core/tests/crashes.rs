//! Crashes: C52–C57, C60, C72 and C76.
//!
//! The ledger is the test's: records are written in the order that S28 and S29 demand, and come back through
//! `restore_session` and `restore_call`. Not here: C58 beyond what `fail_ledger` shows (a full disk is the ledger's),
//! and C56's shared durable commit, whose neighbours are the ledger's too.
#![allow(missing_docs)]

mod util;

use oncewire_core::wire::{Frame, Refuse};
use oncewire_core::*;
use util::*;

#[test]
fn c52_after_a_restart_without_a_ledger_calls_in_doubt_are_unknown_at_once_and_new_ones_go_on() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let in_doubt = pair.call(b"in doubt");
    let old = *pair.client().session().unwrap();
    pair.restart_server();
    let waiting = pair.call(b"waiting");
    pair.mode = Mode::Echo;
    pair.reconnect();
    let new = *pair.client().session().unwrap();
    assert_ne!((old.server, old.id), (new.server, new.id));
    assert_eq!(pair.outcomes(in_doubt), [OwnedOutcome::Unknown(Unknown::SessionEnded, false)]);
    assert_eq!(pair.outcome(waiting), reply(b"waiting"));
    assert_eq!(pair.ran(b"in doubt"), 1);
    let later = pair.call(b"later");
    assert_eq!(pair.outcome(later), reply(b"later"));
}

/// A call that is admitted, and whose session a ledger knows; nothing of the call is recorded.
fn admitted() -> (Pair, CallId, CallKey) {
    let mut pair = Pair::new();
    pair.record_session();
    pair.mode = Mode::Hold;
    let call = pair.call(b"a");
    let key = pair.admitted[0].admission.key();
    (pair, call, key)
}

fn crash(pair: &mut Pair) {
    pair.restart_server_with_ledger();
    pair.mode = Mode::Echo;
    pair.reconnect();
}

#[test]
fn c53_after_a_crash_before_anything_was_recorded_the_call_runs_after_the_resume() {
    let (mut pair, call, _) = admitted();
    crash(&mut pair);
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
    assert_eq!(pair.ran(b"a"), 1);
    assert_eq!(pair.client().counters().resumes, 1);
    assert_eq!(pair.sessions_lost(), []);
}

#[test]
fn c53_also_when_a_later_xid_moved_h_above_it() {
    let (mut pair, call, _) = admitted();
    pair.call(b"b");
    let later = pair.admitted[1].admission.key();
    assert_eq!(pair.start(b"b"), Ok(()));
    pair.record(later, Some(&echo(b"b")));
    crash(&mut pair);
    assert_eq!(pair.outcome(call), reply(b"a"), "NotSeen, sent again");
    assert_eq!((pair.ran(b"a"), pair.ran(b"b")), (1, 1));
}

#[test]
fn c54_a_recorded_call_that_was_started_and_not_completed_is_unknown_and_never_runs_again() {
    let (mut pair, call, key) = admitted();
    pair.record(key, None);
    assert_eq!(pair.start(b"a"), Ok(()));
    crash(&mut pair);
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Unknown(Unknown::Interrupted, false)]);
    assert_eq!(pair.ran(b"a"), 1);
    assert_eq!(pair.client().unsettled(), 0, "no ticket holds a slot");
    pair.reconnect();
    assert_eq!(pair.ran(b"a"), 1);
}

#[test]
fn c54_also_if_it_crashed_between_the_record_and_the_start() {
    let (mut pair, call, key) = admitted();
    pair.record(key, None);
    crash(&mut pair);
    assert_eq!(pair.outcome(call), unknown(Unknown::Interrupted));
    assert_eq!(pair.ran(b"a"), 0);
}

#[test]
fn c54_a_request_sent_again_under_an_interrupted_xid_is_answered_interrupted() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Hold;
    let (raw, welcome) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"a"));
    let key = pair.admitted[0].admission.key();
    pair.record(key, None);
    pair.restart_server_with_ledger();
    pair.mode = Mode::Echo;
    let (raw, resumed) = pair.raw_resume(welcome.session, 0);
    assert_eq!(resumed.seen, 1, "the lower bound of `seen` survives");
    pair.send(raw, &request(1, 0, b"a"));
    assert_eq!(pair.got(raw), [OwnedFrame::Reply(Status::Interrupted, 1, vec![])]);
    assert_eq!(pair.runs, []);
}

#[test]
fn c55_after_a_crash_between_the_completion_record_and_the_reply_an_ask_brings_the_kept_reply() {
    let (mut pair, call, key) = admitted();
    pair.record(key, None);
    assert_eq!(pair.start(b"a"), Ok(()));
    pair.record(key, Some(b"the one reply"));
    crash(&mut pair);
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(b"the one reply".to_vec())]);
    assert_eq!(pair.client().counters().asks, 1);
    assert_eq!(pair.ran(b"a"), 1);
    pair.advance(secs(1));
    assert_eq!(pair.kept(), 0, "and it is acknowledged like any other");
}

#[test]
fn c55_a_restored_reply_is_byte_for_byte_and_its_digest_still_judges() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Start;
    let (raw, welcome) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"a"));
    let key = pair.started[0].running.key();
    pair.record(key, Some(b"kept"));
    pair.restart_server_with_ledger();
    let (raw, _) = pair.raw_resume(welcome.session, 0);
    pair.send(raw, &request(1, 0, b"a"));
    assert_eq!(pair.got(raw), [OwnedFrame::Reply(Status::Done, 1, b"kept".to_vec())]);
    pair.send(raw, &request(1, 0, b"other"));
    assert_eq!(pair.server_errors, [ProtocolError::FalseRetry { xid: 1 }]);
}

#[test]
fn c56_a_transactional_call_without_a_completion_record_runs_again_and_with_one_never() {
    // No started record: the effect and the completion record are written together, or not at all.
    let (mut pair, call, _) = admitted();
    assert_eq!(pair.start(b"a"), Ok(()));
    pair.runs.clear(); // The crash takes the uncommitted effect with it.
    crash(&mut pair);
    assert_eq!(pair.outcome(call), reply(b"a"));
    assert_eq!(pair.ran(b"a"), 1);

    let (mut pair, call, key) = admitted();
    assert_eq!(pair.start(b"a"), Ok(()));
    pair.record(key, Some(b"committed"));
    crash(&mut pair);
    assert_eq!(pair.outcome(call), Some(OwnedOutcome::Reply(b"committed".to_vec())));
    assert_eq!(pair.ran(b"a"), 1);
}

#[test]
fn c56_a_neighbour_that_panics_is_rolled_back_alone() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let (good, bad) = (pair.call(b"good"), pair.call(b"bad"));
    let running = pair.running(b"bad");
    let now = pair.now;
    pair.server.roll_back(now, running, NotExecuted::Aborted);
    pair.finish(b"good");
    assert_eq!(pair.outcome(good), reply(b"good"));
    assert_eq!(pair.outcome(bad), not_executed(NotExecuted::Aborted));
}

#[test]
fn c57_a_second_crash_during_recovery_gives_the_same_result() {
    for recorded in [None, Some(None), Some(Some(&b"kept"[..]))] {
        let mut results = Vec::new();
        for crashes in 1..=3 {
            let (mut pair, call, key) = admitted();
            let _ = pair.start(b"a");
            if let Some(done) = recorded {
                pair.record(key, None);
                if done.is_some() {
                    pair.record(key, done);
                }
            }
            pair.runs.clear();
            pair.mode = Mode::Hold;
            for _ in 1..crashes {
                // The client has only begun to resume, or has resumed and not read its answers.
                pair.restart_server_with_ledger();
                pair.connect(0);
                pair.link().hold_down = true;
                pair.drive();
                let link = pair.link_number();
                pair.deliver_down(link, usize::MAX);
                pair.drive();
            }
            crash(&mut pair);
            results.push((pair.outcome(call), pair.runs.len()));
        }
        assert!(results[0].0.is_some());
        assert!(results.iter().all(|result| *result == results[0]), "{recorded:?}: {results:?}");
    }
}

#[test]
fn c57_the_lease_is_a_full_one_after_a_restart() {
    let (mut pair, _, _) = admitted();
    pair.cut();
    pair.advance(secs(299));
    pair.restart_server_with_ledger();
    pair.advance(secs(299));
    assert_eq!(pair.server.counters().sessions, 1);
    pair.advance(secs(1));
    assert_eq!(pair.server.counters().sessions, 0);
}

#[test]
fn c58_with_a_ledger_that_cannot_write_new_calls_are_refused() {
    let mut pair = Pair::new();
    pair.mode = Mode::Hold;
    let admitted = pair.call(b"admitted");
    pair.server.fail_ledger();
    let new = pair.call(b"new");
    assert_eq!(pair.outcome(new), not_executed(NotExecuted::LedgerFailed));
    assert_eq!(pair.start(b"admitted"), Err(CallRefused(NotExecuted::LedgerFailed)));
    assert_eq!(pair.outcome(admitted), not_executed(NotExecuted::LedgerFailed));
    assert_eq!(pair.runs, []);
}

#[test]
fn c60_a_commit_number_below_one_the_client_saw_loses_the_session() {
    let (mut pair, call, key) = admitted();
    pair.server.set_commit(10);
    pair.reconnect();
    assert_eq!(pair.client().session().unwrap().commit, 10);
    pair.record(key, Some(b"of the old copy"));
    pair.server_config.commit = 9;
    crash(&mut pair);
    assert_eq!(pair.sessions_lost(), [SessionLoss::RolledBack]);
    assert_eq!(pair.outcome(call), unknown(Unknown::SessionEnded));
    assert_eq!(pair.ran(b"a"), 0);
}

#[test]
fn c60_a_commit_number_as_high_as_seen_or_higher_resumes() {
    for commit in [10, 11] {
        let (mut pair, call, _) = admitted();
        pair.server.set_commit(10);
        pair.reconnect();
        pair.server_config.commit = commit;
        crash(&mut pair);
        assert_eq!(pair.sessions_lost(), []);
        assert_eq!(pair.outcome(call), reply(b"a"));
        assert_eq!(pair.client().session().unwrap().commit, commit);
    }
}

#[test]
fn c60_a_copy_restored_by_the_tool_has_a_new_server_id_and_ends_calls_as_unknown() {
    let (mut pair, call, key) = admitted();
    pair.record(key, Some(b"of the old copy"));
    pair.server_config.server = ServerId::from_bytes([0xaa; 16]);
    crash(&mut pair);
    assert_eq!(pair.outcome(call), unknown(Unknown::SessionEnded));
    assert_eq!(pair.sessions_lost(), [SessionLoss::SessionUnknown]);
    assert_eq!(pair.ran(b"a"), 0);
}

#[test]
fn c72_a_hole_left_by_a_crash_below_a_committed_xid_is_not_seen_and_runs_once() {
    let mut pair = Pair::new();
    pair.record_session();
    pair.mode = Mode::Start;
    let (four, five) = (pair.call(b"4"), pair.call(b"5"));
    assert_eq!((pair.runs[0].xid, pair.runs[1].xid), (4, 5));
    let committed = pair.started[1].running.key();
    pair.record(committed, Some(&echo(b"5")));
    pair.runs.clear(); // xid 4 was rolled back by the crash, xid 5 was not.
    crash(&mut pair);
    assert_eq!(pair.client().counters().asks, 2);
    assert_eq!((pair.outcome(four), pair.outcome(five)), (reply(b"4"), reply(b"5")));
    assert_eq!((pair.ran(b"4"), pair.ran(b"5")), (1, 0));
    assert_eq!(pair.server_errors, []);
}

#[test]
fn c76_a_late_started_record_of_an_expired_xid_does_not_replace_that_of_a_later_one() {
    let mut pair = Pair::slots(1);
    pair.mode = Mode::Hold;
    let mut call = Call::new(ECHO, b"1");
    call.timeout = secs(1);
    pair.call_with(0, call);
    let (_, digest) = pair.server.record_of(pair.admitted[0].admission.key()).unwrap();
    let late = CallRecord {
        xid: pair.admitted[0].admission.key().xid(),
        digest,
        state: RecordState::Started,
    };
    pair.advance(secs(1));
    assert!(pair.start(b"1").is_err());
    let second = pair.call(b"2");
    let key = pair.admitted[0].admission.key();
    pair.record(key, None);
    assert_eq!(pair.start(b"2"), Ok(()));
    pair.record(key, Some(&echo(b"2")));
    let session = pair.runs[0].session;
    // The late record is stable only now, beside that of xid 2, and both come back in either order.
    for late_last in [false, true] {
        let record = &pair.ledger.sessions[&session.to_bytes()];
        // `acked` need not survive.
        let (record, kept) = (SessionRecord { acked: 0, ..record.0 }, record.1[&0].clone());
        let done = kept.done.clone().unwrap();
        let done =
            CallRecord { xid: kept.xid, digest: kept.digest, state: RecordState::Done(&done) };
        let mut server: Server<Heap> = Server::new(pair.server_config, &methods()).unwrap();
        let key = server.restore_session(pair.now, record).unwrap();
        let restored = if late_last { [done, late] } else { [late, done] };
        let taken = restored.map(|record| server.restore_call(key, record));
        assert_eq!(taken, if late_last { [true, false] } else { [true, true] });
        let ledger = pair.ledger.clone();
        pair.restart_server_with_ledger();
        pair.ledger = ledger;
        pair.server = server;
        pair.mode = Mode::Echo;
        pair.reconnect();
        assert_eq!(pair.outcome(second), reply(b"2"));
        assert_eq!((pair.ran(b"1"), pair.ran(b"2")), (0, 1));
    }
}

#[test]
fn s28_a_started_record_does_not_replace_the_completion_of_the_same_xid() {
    let (mut pair, call, key) = admitted();
    assert_eq!(pair.start(b"a"), Ok(()));
    let (_, digest) = pair.server.record_of(key).unwrap();
    pair.record(key, Some(b"kept"));
    pair.restart_server_with_ledger();
    let conn =
        pair.server.handle_connected(pair.now, ALICE, SessionId::from_bytes([8; 16])).unwrap();
    let record = pair.ledger.sessions.values().next().unwrap().0;
    let resume = bytes_of(&hello(Some((record.id, 0))));
    pair.server.handle_data(pair.now, conn, &resume).unwrap();
    let session = pair.server.session_of(conn).unwrap();
    let started = CallRecord { xid: key.xid(), digest, state: RecordState::Started };
    assert!(!pair.server.restore_call(session, started));
    pair.server.handle_disconnected(pair.now, conn);
    pair.reconnect();
    assert_eq!(pair.outcome(call), Some(OwnedOutcome::Reply(b"kept".to_vec())));
}

#[test]
fn s30_what_the_client_has_seen_is_not_kept_again() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    pair.call(b"a");
    let key = pair.started[0].running.key();
    pair.record(key, Some(&echo(b"a")));
    let mut session = pair.ledger.sessions.values().next().unwrap().0;
    session.acked = key.xid().get();
    let mut server: Server<Heap> = Server::new(pair.server_config, &methods()).unwrap();
    let restored = server.restore_session(pair.now, session).unwrap();
    let record = CallRecord { xid: key.xid(), digest: 0, state: RecordState::Done(b"re:a") };
    assert!(!server.restore_call(restored, record));
    assert_eq!(server.counters().kept_bytes, 0);
}

#[test]
fn s30_h_is_at_least_the_highest_xid_recorded() {
    let mut pair = Pair::unconnected();
    let (raw, welcome) = pair.raw_session();
    pair.mode = Mode::Start;
    pair.send(raw, &request(3, 0, b"a"));
    let key = pair.started[0].running.key();
    pair.record(key, None);
    // The session's own record was written when it opened.
    for (session, _) in pair.ledger.sessions.values_mut() {
        session.seen = 0;
    }
    pair.restart_server_with_ledger();
    assert_eq!(pair.raw_resume(welcome.session, 0).1.seen, 3);
}

#[test]
fn s30_a_restored_session_is_still_its_principals() {
    let (mut pair, _, _) = admitted();
    let session = pair.session_id();
    pair.restart_server_with_ledger();
    let thief = pair.raw(BOB);
    pair.send(thief, &hello(Some((session, 0))));
    assert_eq!(pair.got(thief), [OwnedFrame::Refuse(Refuse::WrongPrincipal)]);
}

#[test]
fn s28_nothing_leaves_before_reply_is_called() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Start;
    let (raw, _) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"a"));
    pair.send(raw, &Frame::Ask(xid(1), 1));
    pair.send(raw, &request(1, 0, b"a"));
    pair.advance(ms(500));
    assert_eq!(pair.got(raw), []);
}

#[test]
fn s30_with_a_ledger_a_welcome_waits_until_its_session_is_recorded() {
    let mut pair = Pair::unconnected();
    pair.server_config.records_sessions = true;
    let mut server: Server<Heap> = Server::new(pair.server_config, &methods()).unwrap();
    let (now, secret) = (pair.now, SessionId::from_bytes([9; 16]));
    let conn = server.handle_connected(now, ALICE, secret).unwrap();
    server.handle_data(now, conn, &bytes_of(&hello(None))).unwrap();
    server.drain(now, secs(60));
    assert_eq!(server.poll_event(), Some(ServerEvent::SessionOpened(conn)));
    assert_eq!(server.poll_event(), None);
    let mut out = [0; 1024];
    assert_eq!(server.poll_transmit(now, conn, &mut out), None, "not the drain's goodbye either");
    server.confirm_session(conn);
    assert_eq!(server.poll_event(), Some(ServerEvent::Transmit(conn)));
    let len = server.poll_transmit(now, conn, &mut out).unwrap().get();
    let Ok(wire::Decoded::Frame(Frame::Welcome(welcome), _)) =
        wire::decode(&out[..len], wire::Role::Server, 0)
    else {
        panic!("the first frame is no Welcome");
    };
    assert_eq!(welcome.session, secret);
}

#[test]
fn s30_a_session_whose_connection_breaks_before_it_is_recorded_ends_at_once() {
    let mut pair = Pair::unconnected();
    pair.server_config.records_sessions = true;
    let mut server: Server<Heap> = Server::new(pair.server_config, &methods()).unwrap();
    let conn = server.handle_connected(pair.now, ALICE, SessionId::from_bytes([9; 16])).unwrap();
    server.handle_data(pair.now, conn, &bytes_of(&hello(None))).unwrap();
    assert_eq!(server.poll_event(), Some(ServerEvent::SessionOpened(conn)));
    server.handle_disconnected(pair.now, conn);
    let ended = ServerEvent::SessionEnded(SessionId::from_bytes([9; 16]), SessionEnd::Lease);
    assert_eq!(server.poll_event(), Some(ended), "its client never learned its id");
    server.confirm_session(conn);
    assert_eq!(server.poll_event(), None);
    assert_eq!(server.counters().sessions, 0);
}

#[test]
fn s28_the_calls_that_a_ledger_must_keep_are_those_that_run_or_are_not_acknowledged() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Start;
    let (raw, _) = pair.raw_session();
    for number in [1, 2, 3] {
        pair.send(raw, &request(number, 0, b"a"));
    }
    let key = pair.started[0].running.key();
    let held = |pair: &Pair| pair.server.held_calls(key.session()).collect::<Vec<_>>();
    assert_eq!(held(&pair), [xid(1), xid(2), xid(3)]);
    let started = pair.started.remove(0);
    pair.server.reply(pair.now, started.running, b"done").unwrap();
    pair.drive();
    assert_eq!(held(&pair), [xid(1), xid(2), xid(3)]);
    pair.send(raw, &request(4, 1, b"a"));
    assert_eq!(held(&pair), [xid(2), xid(3), xid(4)]);
}

#[test]
fn s28_what_is_acknowledged_after_a_restart_may_be_forgotten_without_another_call() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    pair.call(b"a");
    let key = pair.started[0].running.key();
    pair.record(key, Some(b"done"));
    pair.finish_with(b"a", b"done");
    // The client has its reply, and has acknowledged nothing yet.
    pair.restart_server_with_ledger();
    pair.reconnect();
    let session = pair.server.session_of(pair.conn(pair.link_number()).unwrap()).unwrap();
    pair.advance(secs(1));
    assert_eq!(pair.server.held_calls(session).count(), 0, "its resume says so");
    assert_eq!(pair.server.counters().kept_bytes, 0);
}

#[test]
fn c156_a_restored_reply_that_only_a_client_can_have_is_sent_as_aborted() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    let key = pair.started[0].running.key();
    let (_, digest) = pair.server.record_of(key).unwrap();
    let record = pair.server.session_record(key.session()).unwrap();
    pair.ledger.sessions.insert(record.id.to_bytes(), (record, Default::default()));
    pair.restart_server_with_ledger();
    let mut server: Server<Heap> = Server::new(pair.server_config, &methods()).unwrap();
    let session = server.restore_session(pair.now, record).unwrap();
    let state = RecordState::NoReply(NoReply::Undecodable);
    assert!(server.restore_call(session, CallRecord { xid: key.xid(), digest, state }));
    pair.server = server;
    pair.reconnect();
    assert_eq!(pair.outcome(call), Some(OwnedOutcome::NoReply(NoReply::Aborted)));
}
