//! How sessions end, and their calls with them: C05–C07, C68, C116.

use oncewire_core::*;

use crate::util::*;

#[test]
fn c05_calls_in_doubt_of_an_expired_session_are_unknown_and_never_sent_again() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let mut call = Call::new(ECHO, b"a");
    call.timeout = secs(3600);
    let ran = pair.call_with(0, call.clone());
    pair.finish(b"a");
    assert_eq!(pair.outcome(ran), reply(b"a"));
    pair.link().hold_up = true;
    call.body = b"in doubt".as_slice().into();
    let in_doubt = pair.call_with(0, call);
    pair.cut();
    pair.advance(secs(301));
    assert_eq!(pair.server.counters().sessions, 0);
    pair.mode = Mode::Echo;
    pair.reconnect();
    assert_eq!(pair.outcomes(in_doubt), [OwnedOutcome::Unknown(Unknown::SessionEnded, false)]);
    assert_eq!(pair.sessions_lost(), [SessionLoss::SessionUnknown]);
    assert_eq!(pair.ran(b"in doubt"), 0);
    pair.reconnect();
    assert_eq!(pair.ran(b"in doubt"), 0);
    assert_eq!((pair.client().unsettled(), pair.client().pending()), (0, 0));
}

#[test]
fn c05_a_ticket_of_a_lost_session_ends_without_a_ticket() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let mut call = Call::new(ECHO, b"a");
    call.timeout = secs(1);
    let call = pair.call_with(0, call);
    pair.advance(secs(1));
    pair.restart_server();
    pair.reconnect();
    let outcomes = [
        OwnedOutcome::Unknown(Unknown::DeadlinePassed, true),
        OwnedOutcome::Unknown(Unknown::SessionEnded, false),
    ];
    assert_eq!(pair.outcomes(call), outcomes);
}

#[test]
fn c06_calls_queued_but_never_sent_run_in_the_new_session() {
    let mut pair = Pair::slots(1);
    pair.mode = Mode::Start;
    let sent = pair.call(b"sent");
    let queued = [pair.call(b"q1"), pair.call(b"q2")];
    pair.restart_server();
    let offline = pair.call(b"offline");
    pair.mode = Mode::Echo;
    pair.reconnect();
    assert_eq!(pair.outcome(sent), unknown(Unknown::SessionEnded));
    assert_eq!(pair.outcome(queued[0]), reply(b"q1"));
    assert_eq!(pair.outcome(queued[1]), reply(b"q2"));
    assert_eq!(pair.outcome(offline), reply(b"offline"));
    let order: Vec<&[u8]> = pair.runs.iter().map(|run| &run.body[..]).collect();
    assert_eq!(order, [&b"sent"[..], b"q1", b"q2", b"offline"]);
}

#[test]
fn c07_a_lease_that_ends_while_a_call_runs_waits_for_it_and_a_resume_gets_the_reply() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let mut call = Call::new(ECHO, b"a");
    call.timeout = secs(3600);
    let call = pair.call_with(0, call);
    pair.cut();
    pair.advance(secs(1000));
    assert_eq!(pair.server.counters().sessions, 1);
    pair.reconnect();
    assert_eq!(pair.server.counters().resumes, 1);
    pair.finish(b"a");
    assert_eq!(pair.outcome(call), reply(b"a"));
    pair.advance(secs(10));
    assert_eq!(pair.server.counters().sessions, 1, "resumed: it lives on");
}

#[test]
fn c07_the_same_while_a_call_is_only_admitted() {
    let mut pair = Pair::new();
    pair.mode = Mode::Hold;
    let mut call = Call::new(ECHO, b"a");
    call.timeout = secs(3600);
    pair.call_with(0, call);
    pair.cut();
    pair.advance(secs(301));
    assert_eq!(pair.server.counters().sessions, 1);
    assert_eq!(pair.start(b"a"), Ok(()));
    pair.finish(b"a");
    assert_eq!(pair.server.counters().sessions, 0);
}

#[test]
fn c116_a_lease_that_ends_while_a_call_runs_abandons_the_call() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let mut call = Call::new(ECHO, b"a");
    call.timeout = secs(3600);
    let call = pair.call_with(0, call);
    let key = pair.started[0].running.key();
    let abandoned = |pair: &Pair| {
        let event = ServerEvent::Abandoned(key.session());
        pair.server_events.iter().filter(|known| **known == event).count()
    };
    pair.cut();
    pair.advance(secs(299));
    assert_eq!((abandoned(&pair), pair.server.is_wanted(key)), (0, true));
    pair.advance(secs(2));
    assert_eq!((abandoned(&pair), pair.server.is_wanted(key)), (1, false));
    pair.reconnect();
    assert!(pair.server.is_wanted(key), "its client is back");
    pair.cut();
    pair.advance(secs(301));
    assert_eq!((abandoned(&pair), pair.server.is_wanted(key)), (2, false));
    pair.finish(b"a");
    assert_eq!((pair.server.counters().sessions, pair.server.is_wanted(key)), (0, false));
    assert_eq!(pair.outcome(call), None);
}

#[test]
fn c68_clients_that_come_and_go_leave_nothing_behind() {
    let mut pair = Pair::unconnected();
    pair.out_len = 512;
    for n in 0..1_000u32 {
        pair.peers[0].client = Client::new(pair.client_config);
        pair.connect(0);
        let call = pair.call(&n.to_le_bytes());
        assert_eq!(pair.outcome(call), reply(&n.to_le_bytes()));
        pair.close();
        assert!(pair.client().is_closed());
        assert_eq!(pair.events().last(), Some(&ClientEvent::Closed));
        pair.links.clear();
        pair.peers[0].link = None;
        pair.peers[0].outcomes.clear();
    }
    let counters = pair.server.counters();
    assert_eq!((counters.sessions, counters.conns, counters.kept_bytes), (0, 0, 0));
}

#[test]
fn c68_close_waits_for_pending_calls_and_takes_no_more() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    pair.close();
    assert!(!pair.client().is_closed());
    let now = pair.now;
    assert_eq!(pair.client().call(now, Call::new(ECHO, b"b")), Err(NotBegun::Closed));
    pair.finish(b"a");
    assert_eq!(pair.outcome(call), reply(b"a"));
    assert!(pair.client().is_closed());
    assert_eq!(pair.server.counters().sessions, 0);
}
