//! Calls of methods that client and server may mean different things by: none is sent before they were compared (S33), C230 to
//! C234 and C239.
#![allow(missing_docs)]

mod util;

use oncewire_core::*;
use util::durable::*;
use util::*;

/// Of this method the client means this.
const SIGNATURES: [(MethodId, u32); 2] = [(ECHO, 1), (IDEM, 2)];

/// A call of a method with a signature.
fn typed(method: MethodId, body: &[u8]) -> Call<'_> {
    let mut call = Call::new(method, body);
    call.comparison = Comparison::Pending;
    call.signature = SIGNATURES.into_iter().find(|(own, _)| *own == method).unwrap().1;
    call
}

fn call(pair: &mut Pair, body: &[u8]) -> CallId {
    pair.call_with(0, typed(ECHO, body))
}

/// Says the same of every method that was not compared.
fn compare(pair: &mut Pair, comparison: Comparison) {
    let now = pair.now;
    pair.client().compare(now, |_| comparison);
    pair.drive();
}

const MISMATCH: NotExecuted = NotExecuted::SignatureMismatch;

#[test]
fn c230_calls_begun_before_the_first_connection_or_after_it_wait_for_the_comparison() {
    let mut pair = Pair::unconnected();
    let before = call(&mut pair, b"before");
    let mut pair = pair.connected();
    let after = call(&mut pair, b"after");
    let other = pair.call_with(0, typed(IDEM, b"other"));
    let raw = pair.call(b"raw");
    assert_eq!(pair.outcome(raw), reply(b"raw"), "it is of no type, and passes the others");
    let now = pair.now;
    pair.client().compare(now, |signature| match signature {
        1 => Comparison::Differs,
        _ => Comparison::Pending,
    });
    pair.drive();
    assert_eq!(pair.outcome(before), not_executed(MISMATCH));
    assert_eq!(pair.outcome(after), not_executed(MISMATCH));
    assert_eq!((pair.outcome(other), pair.runs.len()), (None, 1));
    compare(&mut pair, Comparison::Same);
    assert_eq!(pair.outcome(other), reply(b"other"));
}

#[test]
fn c230_calls_that_were_held_are_sent_in_the_order_in_which_they_began() {
    let mut pair = Pair::new();
    for body in [b"1", b"2", b"3"] {
        let mut call = typed(ECHO, body);
        call.one_way = true;
        pair.call_with(0, call);
    }
    assert_eq!(pair.runs, []);
    compare(&mut pair, Comparison::Same);
    let ran: Vec<&[u8]> = pair.runs.iter().map(|run| &run.body[..]).collect();
    assert_eq!(ran, [b"1", b"2", b"3"]);
}

#[test]
fn c230_what_was_compared_on_this_connection_is_sent_or_ends_at_once() {
    let mut pair = Pair::new();
    for (comparison, expected) in [
        (Comparison::Same, reply(b"a")),
        (Comparison::Differs, not_executed(MISMATCH)),
        (Comparison::Failed, not_executed(NotExecuted::NotCompared)),
    ] {
        let id = pair.call_with(0, Call { comparison, ..typed(ECHO, b"a") });
        assert_eq!(pair.outcome(id), expected, "{comparison:?}");
    }
    // What was the same at the last server need not be at the next.
    pair.cut();
    let id = pair.call_with(0, Call { comparison: Comparison::Same, ..typed(ECHO, b"b") });
    pair.reconnect();
    assert_eq!((pair.outcome(id), pair.ran(b"b")), (None, 0));
    compare(&mut pair, Comparison::Differs);
    assert_eq!((pair.outcome(id), pair.ran(b"b")), (not_executed(MISMATCH), 0));
}

#[test]
fn c231_calls_that_wait_for_a_slot_are_compared_with_each_next_server() {
    let mut pair = Pair::slots(1);
    pair.mode = Mode::Start;
    let running = pair.call(b"running");
    let waiting = call(&mut pair, b"waiting");
    compare(&mut pair, Comparison::Same);
    pair.restart_server();
    pair.mode = Mode::Echo;
    pair.reconnect();
    assert_eq!(pair.outcome(running), unknown(Unknown::SessionEnded));
    assert_eq!((pair.outcome(waiting), pair.ran(b"waiting")), (None, 0));
    compare(&mut pair, Comparison::Differs);
    assert_eq!((pair.outcome(waiting), pair.ran(b"waiting")), (not_executed(MISMATCH), 0));
}

/// A call whose request the server has not read when its connection broke, resumed at a server that has the session.
fn unread_then_resumed(idempotent: bool) -> (Pair, CallId) {
    let mut pair = Pair::new();
    pair.call(b"first");
    pair.record_session();
    pair.link().hold_up = true;
    let method = if idempotent { IDEM } else { ECHO };
    let mut call = typed(method, b"a");
    (call.idempotent, call.comparison) = (idempotent, Comparison::Same);
    let id = pair.call_with(0, call);
    assert_eq!(pair.client().unsettled(), 1, "it was sent");
    pair.restart_server_with_ledger();
    pair.reconnect();
    assert_eq!(pair.client().counters().resumes, 1);
    assert_eq!((pair.outcome(id), pair.ran(b"a")), (None, 0));
    (pair, id)
}

#[test]
fn c231_what_the_last_server_has_not_read_is_not_sent_to_the_next_if_that_means_something_else() {
    for idempotent in [false, true] {
        let (mut pair, id) = unread_then_resumed(idempotent);
        compare(&mut pair, Comparison::Same);
        assert_eq!((pair.outcome(id), pair.ran(b"a")), (reply(b"a"), 1));

        let (mut pair, id) = unread_then_resumed(idempotent);
        compare(&mut pair, Comparison::Differs);
        // A copy of an idempotent call may have run at the last one, for all that the client can know.
        let expected = if idempotent { unknown(Unknown::Repeated) } else { not_executed(MISMATCH) };
        assert_eq!((pair.outcome(id), pair.ran(b"a")), (expected, 0));
        assert_eq!(pair.client().unsettled(), 0, "its slot is free");
    }
}

#[test]
fn c231_calls_that_pass_one_that_is_held_after_a_resume_keep_its_request_in_order() {
    for idempotent in [false, true] {
        let (mut pair, held) = unread_then_resumed(idempotent);
        let passing = pair.call(b"passing");
        assert_eq!(pair.outcome(passing), reply(b"passing"));
        compare(&mut pair, Comparison::Same);
        assert_eq!((pair.outcome(held), pair.ran(b"a")), (reply(b"a"), 1));
        assert_eq!(pair.server_errors, [], "search: the held request came out of order");
    }
}

#[test]
fn c231_what_was_read_is_asked_for_before_it_was_compared_and_not_sent_again_if_it_is_not_known() {
    for comparison in [Comparison::Same, Comparison::Differs] {
        let mut pair = Pair::new();
        pair.call(b"first");
        pair.record_session();
        pair.mode = Mode::Start;
        let running = [b"a", b"b"].map(|body| {
            let call = Call { comparison: Comparison::Same, ..typed(ECHO, body) };
            pair.call_with(0, call)
        });
        // The other one, which was read as well, leaves no record.
        let key = pair.started[0].running.key();
        pair.record(key, Some(&echo(b"a")));
        pair.restart_server_with_ledger();
        pair.mode = Mode::Echo;
        pair.reconnect();
        assert_eq!(pair.outcome(running[0]), reply(b"a"), "its reply was kept");
        assert_eq!(pair.outcome(running[1]), None, "the server has not seen it");
        let before = pair.ran(b"b");
        compare(&mut pair, comparison);
        let (expected, runs) = match comparison {
            Comparison::Same => (reply(b"b"), before + 1),
            _ => (not_executed(MISMATCH), before),
        };
        assert_eq!((pair.outcome(running[1]), pair.ran(b"b")), (expected, runs));
    }
}

#[test]
fn c231_an_idempotent_call_that_may_have_run_is_not_repeated_at_a_server_that_means_something_else()
{
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let mut call = typed(IDEM, b"a");
    (call.idempotent, call.comparison) = (true, Comparison::Same);
    let id = pair.call_with(0, call);
    assert_eq!(pair.ran(b"a"), 1);
    pair.restart_server();
    pair.mode = Mode::Echo;
    pair.reconnect();
    assert_eq!((pair.outcome(id), pair.ran(b"a")), (None, 1), "it waits in the new session");
    compare(&mut pair, Comparison::Differs);
    assert_eq!((pair.outcome(id), pair.ran(b"a")), (unknown(Unknown::Repeated), 1));
}

#[test]
fn c232_a_durable_call_is_not_journaled_before_it_was_compared() {
    let mut pair = durable();
    let mut disk = Disk::default();
    let id = call(&mut pair, b"a");
    record(&mut pair, &mut disk);
    assert_eq!(disk.calls.len(), 0);
    compare(&mut pair, Comparison::Differs);
    record(&mut pair, &mut disk);
    assert_eq!((pair.outcome(id), disk.calls.len()), (not_executed(MISMATCH), 0));
    let id = call(&mut pair, b"b");
    compare(&mut pair, Comparison::Same);
    record(&mut pair, &mut disk);
    assert_eq!((pair.outcome(id), disk.calls.len()), (reply(b"b"), 1));
}

#[test]
fn c232_a_durable_call_that_was_journaled_and_not_sent_is_compared_with_the_next_server() {
    for (comparison, expected, runs) in
        [(Comparison::Same, reply(b"a"), 1), (Comparison::Differs, not_executed(MISMATCH), 0)]
    {
        for journaled_before in [false, true] {
            let mut pair = durable();
            pair.record_session();
            let mut disk = Disk::default();
            let id = call(&mut pair, b"a");
            compare(&mut pair, Comparison::Same);
            write_down(&mut pair, &mut disk);
            pair.cut();
            if journaled_before {
                say_recorded(&mut pair, &disk);
            }
            pair.reconnect();
            if !journaled_before {
                say_recorded(&mut pair, &disk);
            }
            assert_eq!((pair.outcome(id), pair.ran(b"a")), (None, 0), "not compared yet");
            compare(&mut pair, comparison);
            assert_eq!((pair.outcome(id), pair.ran(b"a")), (expected.clone(), runs));
        }
    }
}

#[test]
fn c233_a_call_that_is_held_ends_by_its_deadline_its_cancel_or_a_break_like_one_that_waits() {
    let mut pair = Pair::new();
    let [late, cancelled, forgotten] = [b"a", b"b", b"c"].map(|body| call(&mut pair, body));
    let fast = pair.call_with(0, Call { fail_fast: true, ..typed(ECHO, b"d") });
    pair.cancel(cancelled);
    pair.forget(forgotten);
    assert_eq!(pair.outcome(cancelled), not_executed(NotExecuted::Cancelled));
    pair.cut();
    assert_eq!(pair.outcome(fast), not_executed(NotExecuted::Disconnected));
    pair.reconnect();
    pair.advance(secs(31));
    assert_eq!(pair.outcome(late), not_executed(NotExecuted::DeadlinePassed));
    compare(&mut pair, Comparison::Same);
    assert_eq!((pair.runs.len(), pair.client().pending()), (0, 0));
}

#[test]
fn c233_a_call_in_flight_that_is_held_and_given_up_is_asked_for() {
    for comparison in [Comparison::Same, Comparison::Differs] {
        let (mut pair, cancelled) = unread_then_resumed(false);
        pair.cancel(cancelled);
        assert_eq!(pair.outcome(cancelled), not_executed(NotExecuted::Cancelled), "not seen");

        let (mut pair, late) = unread_then_resumed(false);
        pair.advance(secs(31));
        assert_eq!(pair.outcome(late), ticket(Unknown::DeadlinePassed));
        compare(&mut pair, comparison);
        let last = pair.outcomes(late).pop();
        assert_eq!(last, not_executed(NotExecuted::DeadlinePassed));
        assert_eq!((pair.ran(b"a"), pair.client().unsettled()), (0, 0));
    }
}

#[test]
fn c234_a_client_that_closes_waits_for_the_comparison_and_may_ask_for_it() {
    let mut pair = Pair::new();
    let held = call(&mut pair, b"held");
    pair.close();
    assert!(!pair.client().is_closed(), "it has a call");
    let now = pair.now;
    let question = pair.client().call_ahead(now, Call::new(ECHO, b"question")).unwrap();
    pair.drive();
    assert_eq!(pair.outcome(question), reply(b"question"));
    compare(&mut pair, Comparison::Same);
    assert_eq!(pair.outcome(held), reply(b"held"));
    pair.advance(secs(1));
    assert!(pair.client().is_closed());
}

#[test]
fn c239_the_owners_question_goes_before_what_waits_and_no_limit_keeps_it() {
    let mut config = ClientConfig::default();
    (config.calls_max, config.pending_bytes_max) = (3, 6);
    let mut server = default_server_config();
    server.slots = 1;
    let mut pair = Pair::with(server, config).connected();
    pair.mode = Mode::Start;
    let running = pair.call(b"1");
    let waiting = pair.call(b"2");
    let held = call(&mut pair, b"3");
    let now = pair.now;
    assert!(matches!(
        pair.client().call(now, Call::new(ECHO, b"4")),
        Err(NotBegun::TooManyCalls { .. })
    ));
    let question = pair.client().call_ahead(now, Call::new(ECHO, b"question")).unwrap();
    for (body, id) in [(&b"1"[..], running), (b"question", question), (b"2", waiting)] {
        pair.finish(body);
        assert_eq!(pair.outcome(id), reply(body), "one slot, in this order");
    }
    compare(&mut pair, Comparison::Same);
    pair.finish(b"3");
    assert_eq!(pair.outcome(held), reply(b"3"));
    pair.cut();
    assert_eq!(pair.client().call_ahead(now, Call::new(ECHO, b"question")), None);
}

#[test]
fn c239_a_comparison_without_a_connection_says_nothing_of_the_next_server() {
    let mut pair = Pair::unconnected();
    let id = call(&mut pair, b"a");
    compare(&mut pair, Comparison::Same);
    let mut pair = pair.connected();
    assert_eq!((pair.outcome(id), pair.ran(b"a")), (None, 0));
    compare(&mut pair, Comparison::NotNeeded);
    assert_eq!(pair.outcome(id), reply(b"a"), "nothing to compare is the same");
}
