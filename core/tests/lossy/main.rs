//! Links that lose messages without breaking: S27.
#![allow(missing_docs)]

#[path = "../util/mod.rs"]
mod util;

mod answers;

use oncewire_core::*;
use util::*;

/// A pair on a link that loses every frame for which `loses` says so.
fn lossy(loses: impl FnMut() -> bool + 'static) -> Pair {
    lossy_after(ms(200), loses)
}

/// The same, where what is not answered is sent again after this time.
fn lossy_after(
    resend_after: std::time::Duration,
    mut loses: impl FnMut() -> bool + 'static,
) -> Pair {
    let mut server = default_server_config();
    server.lossy = true;
    // Long enough that three pings in a row are rarely lost.
    server.keepalive = secs(60);
    let mut client = ClientConfig::default();
    client.resend_after = Some(resend_after);
    client.handshake_timeout = secs(60);
    let mut pair = Pair::with(server, client);
    pair.luck = Some(Box::new(move || if loses() { Luck::Lost } else { Luck::Once }));
    pair
}

/// A switch that a test turns: while it is on, everything is lost.
fn switched() -> (Pair, std::rc::Rc<std::cell::Cell<bool>>) {
    let lost = std::rc::Rc::new(std::cell::Cell::new(false));
    let mut pair = lossy({
        let lost = lost.clone();
        move || lost.get()
    })
    .connected();
    pair.call(b"first");
    (pair, lost)
}

#[test]
fn a_lost_request_is_sent_again_and_runs_once() {
    let (mut pair, lost) = switched();
    lost.set(true);
    let call = pair.call(b"a");
    lost.set(false);
    assert_eq!(pair.outcome(call), None);
    pair.advance(ms(200));
    assert_eq!((pair.outcome(call), pair.ran(b"a")), (reply(b"a"), 1));
    assert_eq!(pair.client().counters().resends, 1);
}

#[test]
fn a_lost_reply_is_sent_again_and_not_computed_again() {
    let (mut pair, lost) = switched();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    lost.set(true);
    pair.finish(b"a");
    lost.set(false);
    pair.advance(secs(1));
    assert_eq!((pair.outcome(call), pair.ran(b"a")), (reply(b"a"), 1));
}

#[test]
fn resends_back_off_while_nothing_comes() {
    let (mut pair, lost) = switched();
    lost.set(true);
    pair.call(b"a");
    let sent = pair.client().counters().sent;
    pair.advance(secs(10));
    let resends = pair.client().counters().sent - sent;
    assert!((4..=6).contains(&resends), "200 ms, 400, 800, 1600, …: {resends}");
}

/// An owner may say that no reply was kept. Only an idempotent call runs again for it.
#[test]
fn a_call_without_a_kept_reply_is_not_run_by_its_own_resends() {
    let (mut pair, lost) = switched();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    lost.set(true);
    let running = pair.running(b"a");
    pair.server.no_reply(pair.now, running, NoReply::NotKept);
    pair.drive();
    lost.set(false);
    pair.advance(secs(1));
    assert_eq!(pair.ran(b"a"), 1);
    assert_eq!(pair.outcomes(call), [OwnedOutcome::NoReply(NoReply::NotKept)]);
}

#[test]
fn a_slow_call_is_not_run_by_its_own_resends() {
    let (mut pair, _) = switched();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    pair.advance(secs(20));
    assert!(pair.server.counters().duplicates > 3);
    pair.finish(b"a");
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
    assert_eq!(pair.ran(b"a"), 1);
}

#[test]
fn a_lost_hello_and_a_lost_welcome_are_sent_again() {
    for loses in [[true, false, false], [false, true, false], [true, true, true]] {
        let mut script = loses.into_iter();
        let mut pair = lossy(move || script.next().unwrap_or(false));
        let call = pair.call(b"a");
        pair.connect(0);
        pair.drive();
        pair.advance(secs(5));
        assert_eq!(pair.outcome(call), reply(b"a"), "{loses:?}");
        assert_eq!(pair.server.counters().sessions, 1);
        assert_eq!((&pair.peers[0].errors, &pair.server_errors), (&vec![], &vec![]));
    }
}

#[test]
fn a_call_whose_deadline_passed_is_asked_for_and_not_sent_again() {
    let (mut pair, lost) = switched();
    lost.set(true);
    let mut call = Call::new(ECHO, b"a");
    call.timeout = secs(1);
    let call = pair.call_with(0, call);
    pair.advance(secs(1));
    assert_eq!(pair.outcome(call), ticket(Unknown::DeadlinePassed));
    lost.set(false);
    pair.advance(secs(20));
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::DeadlinePassed), "NotSeen");
    assert_eq!(pair.ran(b"a"), 0, "never late");
    assert_eq!(pair.client().unsettled(), 0);
}

#[test]
fn a_lost_cancel_is_sent_again() {
    let (mut pair, lost) = switched();
    pair.mode = Mode::Hold;
    let call = pair.call(b"a");
    lost.set(true);
    pair.cancel(call);
    lost.set(false);
    pair.advance(secs(1));
    assert_eq!(pair.start(b"a"), Err(CallRefused(NotExecuted::Cancelled)));
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::Cancelled));
}

#[test]
fn an_idempotent_call_that_was_sent_again_never_ends_as_not_executed() {
    let (mut pair, lost) = switched();
    let mut call = Call::new(IDEM, b"a");
    call.idempotent = true;
    lost.set(true);
    let call = pair.call_with(0, call);
    pair.mode = Mode::Hold;
    lost.set(false);
    pair.advance(ms(200));
    pair.refuse(b"a", NotExecuted::Overloaded);
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Unknown(Unknown::Repeated, false)]);
}

#[test]
fn a_resend_that_crosses_the_reply_of_an_idempotent_call_does_not_run_under_the_clients_x() {
    let (mut pair, _) = switched();
    pair.mode = Mode::Start;
    let mut call = Call::new(IDEM, b"a");
    call.idempotent = true;
    let call = pair.call_with(0, call);
    pair.link().hold_down = true;
    pair.finish(b"a");
    pair.advance(ms(200));
    pair.link().hold_down = false;
    pair.drive();
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
    pair.mode = Mode::Echo;
    let next = pair.call(b"next");
    assert_eq!(pair.server_errors, [], "an honest client is not accused");
    assert_eq!(pair.outcome(next), reply(b"next"));
}

#[test]
fn an_answer_that_comes_while_its_resend_is_half_written_does_not_break_the_stream() {
    let (mut pair, _) = switched();
    pair.mode = Mode::Start;
    let body = vec![5; 10_000];
    let call = pair.call(&body);
    let (now, running) = (pair.now + ms(200), pair.running(&body));
    pair.now = now;
    pair.client().handle_timeout(now);
    let mut out = [0; 1_000];
    let len = pair.client().poll_transmit(now, &mut out).unwrap().get();
    pair.link().up.extend(&out[..len]);
    let number = pair.link_number();
    let conn = pair.conn(number).unwrap();
    pair.server.reply(now, running, b"ok").unwrap();
    let len = pair.server.poll_transmit(now, conn, &mut out).unwrap().get();
    let received = pair.client().handle_data(now, &out[..len]).unwrap();
    let item = received.item.unwrap();
    assert_eq!((item.call, item.outcome), (call, Outcome::Reply(b"ok")));
    // The rest of the request leaves whole, in the place of its first part's end.
    let mut rest = vec![0; 1 << 16];
    let len = pair.client().poll_transmit(now, &mut rest).unwrap().get();
    pair.link().up.extend(&rest[..len]);
    pair.mode = Mode::Echo;
    let next = pair.call(b"next");
    assert_eq!(pair.server_errors, []);
    assert_eq!(pair.outcome(next), reply(b"next"));
    assert_eq!(pair.ran(&body), 1);
}

#[test]
fn a_call_unanswered_when_the_client_said_goodbye_is_asked_for() {
    let (mut pair, lost) = switched();
    lost.set(true);
    let call = pair.call(b"a");
    lost.set(false);
    let now = pair.now;
    pair.server.drain(now, secs(300));
    pair.drive();
    pair.advance(secs(5));
    assert_eq!(pair.server_errors, [], "no request after Goodbye");
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::ShuttingDown));
    assert_eq!(pair.ran(b"a"), 0);
    assert!(pair.server.is_drained());
}

#[test]
fn no_request_is_sent_again_because_goodbye_is_said_again() {
    let mut pair = lossy_after(secs(30), || false).connected();
    pair.mode = Mode::Start;
    let mut slow = Call::new(ECHO, b"a");
    slow.timeout = secs(600);
    let call = pair.call_with(0, slow);
    let now = pair.now;
    pair.server.drain(now, secs(600));
    pair.drive();
    // A look that has heard something, then one that has not: at the same time a resend is due.
    pair.jump(secs(20));
    pair.jump(secs(20));
    assert_eq!(pair.server_errors, [], "no request after Goodbye");
    pair.finish(b"a");
    assert_eq!((pair.outcomes(call), pair.ran(b"a")), (vec![OwnedOutcome::Reply(echo(b"a"))], 1));
}

#[test]
fn lost_goodbyes_are_said_again() {
    let (mut pair, lost) = switched();
    pair.advance(secs(1));
    lost.set(true);
    pair.close();
    lost.set(false);
    assert!(!pair.client().is_closed());
    pair.advance(secs(100));
    assert!(pair.client().is_closed());
    assert_eq!(pair.server.counters().sessions, 0);

    let (mut pair, lost) = switched();
    pair.advance(secs(1));
    lost.set(true);
    let now = pair.now;
    pair.server.drain(now, secs(1000));
    pair.drive();
    lost.set(false);
    pair.advance(secs(100));
    assert!(pair.server.is_drained());
}

#[test]
fn a_lost_ack_is_sent_again() {
    let (mut pair, lost) = switched();
    pair.advance(secs(1));
    pair.call(b"a");
    lost.set(true);
    pair.advance(ms(500));
    lost.set(false);
    assert!(pair.kept() > 0);
    pair.advance(secs(60));
    assert_eq!(pair.kept(), 0);
}

/// A client that is being debugged looks at the link every 2.5 s, whatever the server does, and repeated what was lost only at
/// Pings of its own. Whichever side looked more often was heard by the other one in time, which then sent no Ping.
#[test]
fn c124_what_was_lost_is_said_again_whichever_side_pings() {
    for server_keepalive in [secs(1), secs(600)] {
        let mut server = default_server_config();
        server.lossy = true;
        server.keepalive = server_keepalive;
        let mut client = ClientConfig::default();
        client.resend_after = Some(ms(200));
        client.keepalive = NEVER;
        let mut pair = Pair::with(server, client);
        let lost = std::rc::Rc::new(std::cell::Cell::new(false));
        let loses = lost.clone();
        pair.luck = Some(Box::new(move || if loses.get() { Luck::Lost } else { Luck::Once }));
        let mut pair = pair.connected();
        pair.call(b"a");
        // Less than a check's time in between, so that no Ping is lost.
        lost.set(true);
        pair.advance(ms(150));
        lost.set(false);
        assert!(pair.kept() > 0);
        pair.advance(secs(10));
        assert_eq!(pair.kept(), 0, "{server_keepalive:?}");

        lost.set(true);
        let now = pair.now;
        pair.server.drain(now, secs(1000));
        pair.drive();
        lost.set(false);
        pair.advance(secs(10));
        assert!(pair.server.is_drained(), "{server_keepalive:?}");
    }
}

#[test]
fn a_resend_time_of_nothing_does_not_spin() {
    let mut config = ClientConfig::default();
    config.resend_after = Some(std::time::Duration::ZERO);
    let mut pair = Pair::with(default_server_config(), config).connected();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    let now = pair.now;
    pair.client().handle_timeout(now);
    pair.finish(b"a");
    assert_eq!(pair.outcome(call), reply(b"a"));
}

#[test]
fn on_a_stream_nothing_is_sent_again_of_itself() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    pair.call(b"a");
    pair.advance(secs(29));
    let counters = pair.client().counters();
    assert_eq!((counters.sent, counters.asks), (1, 0));
}

#[test]
fn whatever_is_lost_every_call_ends_with_the_truth_and_runs_once() {
    for seed in 0..300 {
        live_through(seed, false);
    }
}

#[test]
fn c86_whatever_is_lost_or_doubled_every_call_ends_with_the_truth_and_runs_once() {
    for seed in 300..600 {
        live_through(seed, true);
    }
}

fn live_through(seed: u64, doubles: bool) {
    let mut rng = Rng(seed);
    let mut loss = Rng(seed ^ 0xbad);
    let percent = 5 + rng.below(40);
    let mut pair = lossy(|| false);
    pair.luck = Some(Box::new(move || match loss.below(100) {
        chance if chance < percent => Luck::Lost,
        chance if doubles && chance % 3 == 0 => {
            Luck::Twice(loss.below(12).saturating_sub(4) as usize)
        }
        _ => Luck::Once,
    }));
    pair.connect(0);
    pair.drive();
    let mut calls = Vec::new();
    for n in 0..25u8 {
        let body = [n, seed as u8];
        let mut call = Call::new(if n % 5 == 4 { IDEM } else { ECHO }, &body);
        call.idempotent = n % 5 == 4;
        call.timeout = if n % 7 == 3 { ms(300) } else { secs(600) };
        pair.mode = *rng.pick(&[Mode::Echo, Mode::Start]);
        let id = pair.call_with(0, call);
        calls.push((id, body, n % 5 == 4));
        if n % 11 == 10 {
            pair.cancel(id);
        }
        pair.advance(ms(rng.below(500)));
        if rng.one_in(2) {
            while let Some(call) = pair.started.first() {
                let body = call.body.clone();
                pair.finish(&body);
            }
        }
    }
    pair.mode = Mode::Echo;
    while let Some(call) = pair.started.first() {
        let body = call.body.clone();
        pair.finish(&body);
    }
    for _ in 0..20 {
        if !pair.client().is_connected() {
            pair.reconnect();
        }
        pair.advance(secs(60));
    }
    assert_eq!((&pair.peers[0].errors, &pair.server_errors), (&vec![], &vec![]), "seed {seed}");
    assert_eq!(pair.client().unsettled(), 0, "seed {seed}");
    for (id, body, idempotent) in calls {
        let outcome = pair.outcome(id);
        let ran = pair.ran(&body);
        assert!(idempotent || ran <= 1, "seed {seed}: {body:?} ran {ran} times");
        match &outcome {
            Some(OwnedOutcome::Reply(bytes)) => {
                assert_eq!(*bytes, echo(&body), "seed {seed}");
                assert!(ran >= 1, "seed {seed}");
            }
            Some(OwnedOutcome::NotExecuted(_)) => assert_eq!(ran, 0, "seed {seed}: {body:?}"),
            Some(OwnedOutcome::Unknown(Unknown::Repeated, false)) if idempotent => {}
            other => panic!("seed {seed}: {body:?} ended as {other:?}"),
        }
    }
    pair.luck = None;
    pair.advance(secs(120));
    assert_eq!(pair.kept(), 0, "seed {seed}");
}
