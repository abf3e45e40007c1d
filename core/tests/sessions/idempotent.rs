//! Idempotent calls, whose repetition may begin in another session: C59, C69, C73, and S22.

use oncewire_core::*;

use crate::util::*;

#[test]
fn c59_an_idempotent_call_in_doubt_runs_on_the_server_that_took_the_others_place() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let mut call = Call::new(IDEM, b"a");
    call.idempotent = true;
    let call = pair.call_with(0, call);
    pair.restart_server();
    pair.mode = Mode::Echo;
    pair.reconnect();
    assert_eq!(
        pair.outcomes(call),
        [OwnedOutcome::Reply(echo(b"a"))],
        "the caller notices nothing"
    );
    assert_eq!(pair.ran(b"a"), 2);
}

#[test]
fn c59_repeated_idempotent_calls_go_before_those_that_waited_and_in_their_order() {
    let mut pair = Pair::slots(2);
    pair.mode = Mode::Start;
    for body in [b"1", b"2"] {
        let mut call = Call::new(IDEM, body);
        call.idempotent = true;
        pair.call_with(0, call);
    }
    pair.call(b"3");
    pair.restart_server();
    pair.runs.clear();
    pair.mode = Mode::Echo;
    pair.reconnect();
    let order: Vec<&[u8]> = pair.runs.iter().map(|run| &run.body[..]).collect();
    assert_eq!(order, [b"1", b"2", b"3"]);
}

#[test]
fn c59_an_idempotent_call_no_longer_wanted_is_not_repeated_in_a_new_session() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let mut call = Call::new(IDEM, b"a");
    call.idempotent = true;
    let cancelled = pair.call_with(0, call);
    pair.cancel(cancelled);
    pair.restart_server();
    pair.mode = Mode::Echo;
    pair.reconnect();
    assert_eq!(pair.outcome(cancelled), unknown(Unknown::SessionEnded));
    assert_eq!(pair.ran(b"a"), 1);
}

fn idempotent(method: MethodId, body: &[u8]) -> Call<'_> {
    let mut call = Call::new(method, body);
    call.idempotent = true;
    call
}

#[test]
fn c69_an_idempotent_call_of_a_method_that_is_not_is_refused() {
    let mut pair = Pair::new();
    let call = pair.call_with(0, idempotent(ECHO, b"a"));
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::NotIdempotent));
    assert_eq!(pair.runs, []);
}

#[test]
fn c69_a_plain_call_of_an_idempotent_method_runs_at_most_once_as_it_asked() {
    let mut pair = Pair::new();
    pair.link().hold_down = true;
    let call = pair.call_with(0, Call::new(IDEM, b"a"));
    pair.reconnect();
    assert_eq!(pair.outcome(call), reply(b"a"));
    assert_eq!(pair.ran(b"a"), 1, "its reply was kept");
    pair.mode = Mode::Start;
    let call = pair.call_with(0, Call::new(IDEM, b"b"));
    pair.restart_server();
    pair.reconnect();
    assert_eq!(pair.outcome(call), unknown(Unknown::SessionEnded));
    assert_eq!(pair.ran(b"b"), 1);
}

#[test]
fn s22_no_body_is_kept_for_an_idempotent_call_and_it_runs_again_after_a_resume() {
    let mut pair = Pair::new();
    pair.link().hold_down = true;
    let call = pair.call_with(0, idempotent(IDEM, b"a"));
    assert_eq!(pair.kept(), 0, "its reply has left");
    pair.reconnect();
    assert_eq!(pair.outcome(call), reply(b"a"));
    assert_eq!(pair.ran(b"a"), 2);
    assert_eq!(pair.client().counters().asks, 0);
}

#[test]
fn s22_a_finished_idempotent_call_no_longer_wanted_answers_done_without_a_body() {
    let mut pair = Pair::new();
    pair.link().hold_down = true;
    let mut call = idempotent(IDEM, b"a");
    call.timeout = secs(1);
    let call = pair.call_with(0, call);
    pair.cut();
    pair.advance(secs(1));
    pair.reconnect();
    assert_eq!(pair.outcome(call), Some(OwnedOutcome::NoReply(NoReply::NotKept)));
    assert_eq!(pair.ran(b"a"), 1);
}

#[test]
fn c73_an_idempotent_call_whose_repetition_is_refused_is_unknown() {
    let mut pair = Pair::new();
    pair.link().hold_down = true;
    let call = pair.call_with(0, idempotent(IDEM, b"a"));
    assert_eq!(pair.ran(b"a"), 1);
    pair.mode = Mode::Hold;
    pair.reconnect();
    pair.refuse(b"a", NotExecuted::Overloaded);
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Unknown(Unknown::Repeated, false)]);
}

#[test]
fn c73_an_idempotent_call_whose_repetition_comes_too_late_is_unknown() {
    let mut pair = Pair::new();
    pair.link().hold_down = true;
    let mut call = idempotent(IDEM, b"a");
    call.timeout = secs(5);
    let call = pair.call_with(0, call);
    pair.mode = Mode::Hold;
    pair.reconnect();
    pair.advance(secs(5));
    assert_eq!(pair.start(b"a"), Err(CallRefused(NotExecuted::DeadlinePassed)));
    let outcomes = [
        OwnedOutcome::Unknown(Unknown::DeadlinePassed, true),
        OwnedOutcome::Unknown(Unknown::Repeated, false),
    ];
    assert_eq!(pair.outcomes(call), outcomes);
}

#[test]
fn c73_an_idempotent_call_above_h_after_a_crash_and_not_wanted_is_unknown() {
    let mut pair = Pair::new();
    pair.record_session();
    let mut call = idempotent(IDEM, b"a");
    call.timeout = secs(1);
    pair.link().hold_down = true;
    let call = pair.call_with(0, call);
    assert_eq!(pair.ran(b"a"), 1);
    pair.restart_server_with_ledger();
    pair.advance(secs(1));
    pair.reconnect();
    assert_eq!(pair.server.counters().resumes, 1, "with `seen` below the call");
    assert_eq!(pair.outcome(call), unknown(Unknown::Repeated));
}

#[test]
fn c73_an_idempotent_call_that_was_never_in_doubt_is_not_executed_when_refused() {
    let mut pair = Pair::new();
    pair.mode = Mode::Hold;
    let call = pair.call_with(0, idempotent(IDEM, b"a"));
    pair.refuse(b"a", NotExecuted::Overloaded);
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::Overloaded));
}
