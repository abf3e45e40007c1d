//! How sessions are opened and resumed, and what is refused: C01–C04, C08, C10, and what is granted (S7).

use oncewire_core::wire::{Ack, Frame, Refuse, Role};
use oncewire_core::*;

use crate::util::*;

const NO_SESSION: u8 = 6;

#[test]
fn c01_a_request_before_the_handshake_is_not_executed_and_allocates_no_session() {
    let acks = Frame::Ack(Ack { acked: 0, last: u64::MAX, base: 0, settled: 1 });
    for frame in [
        request(1, 0, b"a"),
        Frame::Ask(xid(1), 1),
        acks,
        Frame::Cancel(xid(1)),
        Frame::Ping(Role::Client),
        Frame::Goodbye(Role::Client),
    ] {
        let mut pair = Pair::unconnected();
        let raw = pair.raw(ALICE);
        pair.send(raw, &frame);
        assert!(
            matches!(pair.got(raw)[..], [OwnedFrame::Refuse(Refuse::Protocol(_))]),
            "{frame:?}"
        );
        assert!(!pair.links[raw].server_open);
        let counters = pair.server.counters();
        assert_eq!((counters.sessions, counters.conns, counters.admitted), (0, 0, 0));
        assert_eq!(pair.runs, []);
    }
}

#[test]
fn c01_an_ask_before_the_handshake_is_refused_with_its_reason() {
    let mut pair = Pair::unconnected();
    let raw = pair.raw(ALICE);
    pair.send(raw, &Frame::Ask(xid(1), 1));
    assert_eq!(pair.got(raw), [OwnedFrame::Refuse(Refuse::Protocol(NO_SESSION))]);
    assert_eq!(pair.server_errors, [ProtocolError::NoSession]);
}

#[test]
fn c01_a_resume_of_a_session_never_opened_is_unknown() {
    let mut pair = Pair::unconnected();
    let raw = pair.raw(ALICE);
    pair.send(raw, &hello(Some((SessionId::from_bytes([9; 16]), 0))));
    assert_eq!(pair.got(raw), [OwnedFrame::Refuse(Refuse::SessionUnknown)]);
    pair.send(raw, &request(1, 0, b"a"));
    assert_eq!((pair.runs.len(), pair.server.counters().sessions), (0, 0));
}

#[test]
fn c02_a_client_whose_welcome_is_lost_opens_another_session_and_the_empty_one_ends() {
    let mut pair = Pair::unconnected();
    let call = pair.call(b"a");
    let link = pair.connect(0);
    pair.links[link].hold_down = true;
    pair.drive();
    assert_eq!(pair.server.counters().sessions, 1);
    pair.reconnect();
    assert_eq!(pair.outcome(call), reply(b"a"));
    assert_eq!(pair.server.counters().sessions, 2, "ids of their own");
    assert_eq!(pair.server.counters().resumes, 0);
    pair.advance(secs(10));
    assert_eq!(pair.server.counters().sessions, 1, "the empty one is kept for a short lease only");
    let next = pair.call(b"b");
    assert_eq!(pair.outcome(next), reply(b"b"));
    assert_eq!(pair.runs[0].session, pair.runs[1].session);
}

#[test]
fn c02_a_delayed_hello_read_late_opens_an_empty_session_into_which_no_resume_can_land() {
    let mut pair = Pair::unconnected();
    // The first dial: what it says stays on the way.
    let old = pair.connect(0);
    pair.links[old].hold_up = true;
    let call = pair.call(b"a");
    assert_eq!(pair.cut_at_client(), old);
    pair.connect(0);
    pair.drive();
    assert_eq!(pair.outcome(call), reply(b"a"));
    let session = pair.session_id();
    assert!(pair.deliver_up(old, usize::MAX), "the delayed Hello");
    pair.drive();
    assert_eq!(pair.server.counters().sessions, 2);
    pair.reconnect();
    assert_eq!(pair.session_id(), session);
    pair.links[old].hold_up = false;
    pair.advance(secs(20));
    assert_eq!(pair.server.counters().sessions, 1);
    assert_eq!(pair.ran(b"a"), 1);
}

#[test]
fn c02_a_delayed_request_on_a_dead_connection_never_runs() {
    let mut pair = Pair::new();
    pair.link().hold_up = true;
    let call = pair.call(b"a");
    let old = pair.cut_at_client();
    pair.connect(0);
    pair.drive();
    assert_eq!(pair.outcome(call), reply(b"a"));
    pair.close();
    assert_eq!(pair.server.counters().sessions, 0);
    pair.deliver_up(old, usize::MAX);
    pair.drive();
    assert_eq!(pair.ran(b"a"), 1);
}

#[test]
fn c03_a_client_that_restarts_has_a_new_session_and_the_old_one_ends_by_its_lease() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    pair.call(b"old");
    let old_session = pair.session_id();
    let old_xid = pair.runs[0].xid;
    pair.cut();
    // The process dies, and another one takes its place.
    pair.peers[0].client = Client::new(pair.client_config);
    pair.peers[0].outcomes.clear();
    pair.reconnect();
    assert_ne!(pair.session_id(), old_session);
    let new = pair.call(b"new");
    assert_eq!(pair.runs[1].xid, old_xid, "the same number in another session");
    pair.finish(b"old");
    assert_eq!(pair.outcome(new), None, "an old reply can never match");
    pair.finish(b"new");
    assert_eq!(pair.outcome(new), reply(b"new"));
    pair.advance(secs(299));
    assert_eq!(pair.server.counters().sessions, 2);
    pair.advance(secs(2));
    assert_eq!(pair.server.counters().sessions, 1);
    assert_eq!(pair.kept(), 0);
    assert!(
        pair.server_events.contains(&ServerEvent::SessionEnded(old_session, SessionEnd::Lease))
    );
}

#[test]
fn c04_another_principal_that_resumes_a_known_id_learns_nothing_and_harms_nothing() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Start;
    let (raw, welcome) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"secret"));
    pair.finish(b"secret");
    pair.got(raw);
    let kept = pair.kept();
    let thief = pair.raw(BOB);
    pair.links[thief].up.extend(bytes_of(&hello(Some((welcome.session, 1)))));
    pair.send(thief, &Frame::Ask(xid(1), 1));
    assert_eq!(pair.got(thief), [OwnedFrame::Refuse(Refuse::WrongPrincipal)]);
    assert!(!pair.links[thief].server_open);
    assert_eq!(pair.kept(), kept, "its `acked` counts for nothing");
    assert!(pair.links[raw].server_open, "the owner keeps its connection");
    pair.send(raw, &request(1, 0, b"secret"));
    assert_eq!(pair.got(raw), [OwnedFrame::Reply(Status::Done, 1, echo(b"secret"))]);
}

#[test]
fn c04_session_unknown_ends_the_calls_in_doubt_as_unknown() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    pair.cut();
    pair.connect_as(0, BOB);
    pair.drive();
    assert_eq!(pair.outcome(call), unknown(Unknown::SessionEnded));
    assert_eq!(pair.disconnects(), [CloseReason::Refused(Refuse::WrongPrincipal)]);
    assert_eq!(pair.sessions_lost(), [SessionLoss::Refused]);
}

#[test]
fn c08_a_full_session_table_refuses_the_newcomer_and_evicts_no_session() {
    let mut config = default_server_config();
    config.sessions_max = 2;
    let mut pair = Pair::with(config, ClientConfig::default()).connected();
    let first = pair.session_id();
    let second = pair.add_client(ClientConfig::default(), BOB);
    pair.connect(second);
    pair.drive();
    let third = pair.add_client(ClientConfig::default(), BOB);
    let call = pair.call_with(third, Call::new(ECHO, b"a"));
    pair.connect(third);
    pair.drive();
    let full = ClientEvent::Disconnect(CloseReason::Refused(Refuse::SessionsFull));
    assert_eq!(pair.peers[third].events, [full]);
    assert_eq!(pair.outcome_at(third, call), None, "it may try again");
    pair.reconnect();
    assert_eq!(pair.session_id(), first);
    assert_eq!(pair.sessions_lost(), []);
    pair.close();
    pair.reconnect_client(third);
    assert_eq!(pair.outcome_at(third, call), reply(b"a"), "when there is room");
}

#[test]
fn c08_a_principals_full_share_refuses_only_that_principal() {
    let mut config = default_server_config();
    config.sessions_per_principal_max = 1;
    let mut pair = Pair::with(config, ClientConfig::default()).connected();
    let second = pair.raw(ALICE);
    pair.send(second, &hello(None));
    assert_eq!(pair.got(second), [OwnedFrame::Refuse(Refuse::PrincipalFull)]);
    let other = pair.raw(BOB);
    pair.send(other, &hello(None));
    assert!(matches!(pair.got(other)[..], [OwnedFrame::Welcome(_)]));
    assert!(pair.client().is_connected());
}

#[test]
fn c08_connections_are_bounded_too() {
    let mut config = default_server_config();
    config.conns_max = 1;
    let mut pair = Pair::with(config, ClientConfig::default()).connected();
    let now = pair.now;
    let secret = SessionId::from_bytes([3; 16]);
    assert!(pair.server.handle_connected(now, ALICE, secret).is_none());
}

#[test]
fn c08_an_id_that_is_taken_takes_no_place() {
    let mut pair = Pair::new();
    pair.record_session();
    let (record, _) = pair.ledger.sessions.values().next().unwrap();
    let (record, now) = (*record, pair.now);
    for _ in 0..10 {
        assert!(pair.server.restore_session(now, record).is_none());
    }
    assert_eq!(pair.server.counters().sessions, 1);
}

#[test]
fn c10_a_client_that_demands_another_service_learns_both_names_and_nothing_runs() {
    let mut config = default_server_config();
    config.service = service("mail");
    let mut demanding = ClientConfig::default();
    demanding.service = Some(service("jobs"));
    let mut pair = Pair::with(config, demanding);
    let call = pair.call(b"a");
    pair.connect(0);
    pair.drive();
    let reason = CloseReason::WrongService { wanted: service("jobs"), found: service("mail") };
    assert_eq!(pair.disconnects(), [reason]);
    assert_eq!(pair.client().refusal(), Some(reason));
    let text = reason.to_string();
    assert!(text.contains("jobs") && text.contains("mail"), "{text}");
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::SessionRefused));
    assert!(!pair.client().wants_connection());
    assert_eq!((pair.server.counters().sessions, pair.runs.len()), (0, 0));
    let now = pair.now;
    assert_eq!(pair.client().call(now, Call::new(ECHO, b"b")), Err(NotBegun::Closed));
}

#[test]
fn c10_a_client_that_demands_another_server_id_learns_both_ids() {
    let (wanted, found) = (ServerId::from_bytes([9; 16]), default_server_config().server);
    let mut demanding = ClientConfig::default();
    demanding.server = Some(wanted);
    let mut pair = Pair::with(default_server_config(), demanding);
    pair.connect(0);
    pair.drive();
    assert_eq!(pair.disconnects(), [CloseReason::WrongServer { wanted, found }]);
    let text = CloseReason::WrongServer { wanted, found }.to_string();
    assert!(text.contains(&wanted.to_string()) && text.contains(&found.to_string()), "{text}");
}

#[test]
fn c10_a_server_that_does_not_judge_is_judged_by_the_client_before_anything_leaves() {
    let mut demanding = ClientConfig::default();
    demanding.service = Some(service("jobs"));
    let mut pair = Pair::with(default_server_config(), demanding);
    let call = pair.call(b"a");
    let link = pair.connect_by_hand(0);
    pair.drive();
    let OwnedFrame::Hello(said) = pair.got_up(link)[0] else { panic!("no hello") };
    assert_eq!(said.service, Some(service("jobs")));
    let welcome = wire::Welcome { service: service("mail"), ..welcome() };
    pair.send_down(link, &Frame::Welcome(welcome));
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::SessionRefused));
    assert_eq!(pair.got_up(link), []);
}

#[test]
fn s7_grants_are_the_smaller_of_what_both_want_and_hold_for_the_sessions_life() {
    let mut config = default_server_config();
    config.request_len_max = 100;
    let mut small = ClientConfig::default();
    small.slots = 3;
    small.reply_len_max = 50;
    let mut pair = Pair::with(config, small).connected();
    let grants = pair.client().session().unwrap().grants;
    assert_eq!((grants.slots, grants.request_len_max, grants.reply_len_max), (3, 100, 50));
    let now = pair.now;
    let too_large = Call::new(ECHO, &[0; 101]);
    let error = NotBegun::RequestTooLarge { len: 101, max: 100 };
    assert_eq!(pair.client().call(now, too_large), Err(error));
    let call = pair.call(&[1; 48]);
    assert_eq!(pair.outcome(call), Some(OwnedOutcome::NoReply(NoReply::ReplyTooLarge)));
    pair.reconnect();
    assert_eq!(pair.client().session().unwrap().grants, grants);
}

#[test]
fn s7_a_request_taken_before_the_grants_were_known_and_too_large_for_them_is_not_executed() {
    let mut config = default_server_config();
    config.request_len_max = 100;
    let mut pair = Pair::with(config, ClientConfig::default());
    let call = pair.call(&[0; 101]);
    pair.reconnect();
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::RequestTooLarge));
    assert!(pair.client().is_connected());
}

#[test]
fn s7_a_server_that_comes_back_with_other_grants_has_lost_the_session() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    pair.cut();
    let link = pair.connect_by_hand(0);
    pair.drive();
    let mut welcome = pair.resuming_welcome(4);
    welcome.grants.slots = 2;
    pair.send_down(link, &Frame::Welcome(welcome));
    assert_eq!(pair.sessions_lost(), [SessionLoss::GrantsChanged]);
    assert_eq!(pair.outcome(call), unknown(Unknown::SessionEnded));
}
