//! How calls end while their duplicates are on the way: C23–C26, C71, and one-way calls (S23).

use oncewire_core::wire::Frame;
use oncewire_core::*;

use crate::util::*;

#[test]
fn c23_a_call_given_up_before_the_server_read_it_is_not_executed_also_for_its_ticket() {
    let mut pair = Pair::new();
    pair.call(b"first");
    pair.link().hold_up = true;
    let calls: Vec<CallId> = (0..4u8).map(|n| pair.call(&[n])).collect();
    pair.advance(secs(5));
    pair.cut();
    pair.advance(secs(26));
    for call in &calls {
        assert_eq!(pair.outcomes(*call), [OwnedOutcome::Unknown(Unknown::DeadlinePassed, true)]);
    }
    pair.reconnect();
    for call in &calls {
        assert_eq!(pair.outcome(*call), not_executed(NotExecuted::DeadlinePassed));
    }
    assert_eq!(pair.client().unsettled(), 0, "all slots are free");
    assert_eq!(pair.client().counters().resends, 0);
    assert_eq!(pair.runs.len(), 1, "only the first one");
    let next = pair.call(b"next");
    assert_eq!(pair.outcome(next), reply(b"next"));
}

#[test]
fn c24_the_reply_of_a_call_given_up_while_it_runs_frees_its_slot_exactly_once() {
    let mut pair = Pair::slots(2);
    pair.mode = Mode::Start;
    let gone = pair.call(b"gone");
    let other = pair.call(b"other");
    pair.forget(gone);
    assert_eq!(pair.client().unsettled(), 2, "the slot is held until the answer");
    let waiting = pair.call(b"waiting");
    let late = pair.call(b"late");
    assert_eq!(pair.ran(b"waiting"), 0);
    pair.finish(b"gone");
    assert_eq!((pair.ran(b"waiting"), pair.ran(b"late")), (1, 0), "one slot, once");
    // The same answer once more.
    let bytes = bytes_of(&Frame::Reply(
        wire::ReplyHeader { status: Status::Done, xid: xid(pair.runs[0].xid) },
        &echo(b"gone"),
    ));
    pair.link().down.extend(bytes);
    pair.drive();
    assert_eq!(pair.client().unsettled(), 2);
    assert_eq!(pair.client().counters().late_answers, 1);
    for body in [&b"other"[..], b"waiting", b"late"] {
        pair.finish(body);
    }
    assert_eq!(pair.outcomes(gone), [], "its caller is gone");
    assert_eq!(pair.outcomes(other), [OwnedOutcome::Reply(echo(b"other"))]);
    assert_eq!(pair.outcomes(waiting), [OwnedOutcome::Reply(echo(b"waiting"))]);
    assert_eq!(pair.outcomes(late), [OwnedOutcome::Reply(echo(b"late"))]);
}

#[test]
fn c25_a_request_that_was_refused_is_refused_again_and_never_executed() {
    let absent = wire::RequestHeader { method: ABSENT, ..header(1, 0) };
    let plain = header(1, 0);
    for (header, why) in [
        (absent, NotExecuted::UnknownMethod),
        (plain, NotExecuted::BadArguments),
        (plain, NotExecuted::Overloaded),
    ] {
        let mut pair = Pair::unconnected();
        pair.mode = Mode::Hold;
        let (raw, welcome) = pair.raw_session();
        pair.send(raw, &Frame::Request(header, b"a"));
        if why != NotExecuted::UnknownMethod {
            pair.refuse(b"a", why);
        }
        let refused = [OwnedFrame::Reply(Status::Refused(why), 1, vec![])];
        assert_eq!(pair.got(raw), refused);
        pair.mode = Mode::Echo;
        pair.send(raw, &Frame::Request(header, b"a"));
        assert_eq!(pair.got(raw), refused, "on the same connection");
        let (raw, _) = pair.raw_resume(welcome.session, 0);
        pair.send(raw, &Frame::Request(header, b"a"));
        assert_eq!(pair.got(raw), refused, "on a new one");
        assert_eq!(pair.runs, []);
    }
}

#[test]
fn c26_a_panic_is_kept_as_aborted_and_a_retry_gets_it() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"panics");
    pair.link().hold_down = true;
    pair.abort(b"panics");
    pair.reconnect();
    assert_eq!(pair.outcomes(call), [OwnedOutcome::NoReply(NoReply::Aborted)]);
    assert_eq!(pair.ran(b"panics"), 1);
    assert_eq!(NoReply::Aborted.to_string().split(',').next(), Some("executed"));
    pair.mode = Mode::Echo;
    let next = pair.call(b"next");
    assert_eq!(pair.outcome(next), reply(b"next"), "the server lives on");
}

#[test]
fn c26_a_transaction_rolled_back_is_not_executed() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"t");
    let running = pair.running(b"t");
    let now = pair.now;
    pair.server.roll_back(now, running, NotExecuted::Aborted);
    pair.drive();
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::Aborted));
}

#[test]
fn c71_a_reply_that_crosses_a_cancel_settles_and_the_second_answer_is_dropped() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    pair.link().hold_down = true;
    pair.finish(b"a");
    pair.cancel(call);
    assert!(pair.cancels.is_empty(), "it was done when the cancel came");
    pair.link().hold_down = false;
    pair.drive();
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
}

#[test]
fn c71_a_reply_that_crosses_an_ask_settles_and_the_second_one_is_dropped() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    pair.cut();
    pair.connect(0);
    let link = pair.link_number();
    pair.drive();
    pair.finish(b"a");
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
    // Another push of the same, as a server that answered both would send it.
    let header = wire::ReplyHeader { status: Status::Done, xid: xid(pair.runs[0].xid) };
    pair.send_down(link, &Frame::Reply(header, &echo(b"a")));
    assert_eq!(pair.outcomes(call).len(), 1);
    assert_eq!(pair.client().counters().late_answers, 1);
    assert!(pair.client().is_connected());
}

#[test]
fn s23_a_one_way_call_reports_nothing_but_is_resumed_and_runs_once() {
    let mut pair = Pair::new();
    pair.link().hold_up = true;
    let mut call = Call::new(ECHO, b"a");
    call.one_way = true;
    let id = pair.call_with(0, call);
    pair.reconnect();
    assert_eq!(pair.ran(b"a"), 1);
    assert_eq!(pair.outcomes(id), []);
    assert_eq!((pair.client().unsettled(), pair.client().pending()), (0, 0));
    pair.reconnect();
    assert_eq!(pair.ran(b"a"), 1);
}
