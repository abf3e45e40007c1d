//! Time: C45–C51, C61, C63–C65 and C09.
//!
//! Not here, since only a driver can show it: C49 (the future that reads the socket for others is dropped).
#![allow(missing_docs)]

mod util;

use oncewire_core::wire::Frame;
use oncewire_core::*;
use util::*;

fn within(body: &[u8], timeout: std::time::Duration) -> Call<'_> {
    let mut call = Call::new(ECHO, body);
    call.timeout = timeout;
    call
}

#[test]
fn c45_a_call_whose_deadline_passes_in_the_servers_queue_is_never_started() {
    let mut pair = Pair::new();
    pair.mode = Mode::Hold;
    let call = pair.call_with(0, within(b"a", secs(1)));
    assert_eq!(pair.admitted[0].deadline, pair.now + secs(1));
    pair.advance(secs(1));
    assert_eq!(pair.start(b"a"), Err(CallRefused(NotExecuted::DeadlinePassed)));
    let outcomes = [
        OwnedOutcome::Unknown(Unknown::DeadlinePassed, true),
        OwnedOutcome::NotExecuted(NotExecuted::DeadlinePassed),
    ];
    assert_eq!(pair.outcomes(call), outcomes);
    assert_eq!(pair.runs, []);
    assert_eq!((pair.client().unsettled(), pair.kept()), (0, 0));
}

#[test]
fn c45_a_call_is_started_a_moment_before_its_deadline() {
    let mut pair = Pair::new();
    pair.mode = Mode::Hold;
    let call = pair.call_with(0, within(b"a", secs(1)));
    pair.advance(ms(999));
    assert_eq!(pair.start(b"a"), Ok(()));
    pair.finish(b"a");
    assert_eq!(pair.outcome(call), reply(b"a"));
}

#[test]
fn c46_a_call_whose_deadline_passes_while_it_runs_is_unknown_and_its_ticket_tells_the_truth() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call_with(0, within(b"a", secs(1)));
    pair.advance(ms(999));
    assert_eq!(pair.outcome(call), None);
    pair.advance(ms(1));
    assert_eq!(pair.outcome(call), ticket(Unknown::DeadlinePassed));
    pair.advance(secs(100));
    pair.finish(b"a");
    let outcomes =
        [OwnedOutcome::Unknown(Unknown::DeadlinePassed, true), OwnedOutcome::Reply(echo(b"a"))];
    assert_eq!(pair.outcomes(call), outcomes);
    let counters = pair.client().counters();
    assert_eq!((counters.sent, counters.asks), (1, 0), "a ticket resends nothing");
}

#[test]
fn c46_the_ticket_also_tells_what_happened_after_a_resume() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call_with(0, within(b"a", secs(1)));
    pair.advance(secs(1));
    pair.cut();
    pair.finish(b"a");
    pair.reconnect();
    assert_eq!(pair.outcome(call), reply(b"a"));
    assert_eq!(pair.ran(b"a"), 1);
}

#[test]
fn c46_a_reply_that_comes_before_the_event_was_polled_replaces_it() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call_with(0, within(b"a", secs(1)));
    pair.link().hold_down = true;
    pair.finish(b"a");
    let bytes: Vec<u8> = pair.link().down.drain(..).collect();
    let now = pair.now + secs(1);
    pair.client().handle_timeout(now);
    let received = pair.client().handle_data(now, &bytes).unwrap();
    let item = received.item.unwrap();
    assert_eq!((item.call, item.outcome), (call, Outcome::Reply(&echo(b"a")[..])));
    assert_eq!(pair.client().poll_event(), None, "it is known by now");
    assert_eq!(pair.client().pending(), 0);
}

#[test]
fn c47_clocks_that_differ_by_an_hour_do_not_matter() {
    let hour = secs(3600);
    let start = Instant::ZERO + hour + hour;
    for server_start in [start, Instant::ZERO + hour, start + hour] {
        let mut client: Client<Heap> = Client::new(ClientConfig::default());
        let mut server: Server<Heap> = Server::new(default_server_config(), &methods()).unwrap();
        client.handle_connected(start);
        let secret = SessionId::from_bytes([1; 16]);
        let conn = server.handle_connected(server_start, ALICE, secret).unwrap();
        let call = client.call(start, within(b"a", secs(5))).unwrap();
        let mut bytes = [0; 1024];
        let len = client.poll_transmit(start, &mut bytes).unwrap().get();
        server.handle_data(server_start, conn, &bytes[..len]).unwrap();
        let len = server.poll_transmit(server_start, conn, &mut bytes).unwrap().get();
        client.handle_data(start, &bytes[..len]).unwrap();
        let len = client.poll_transmit(start, &mut bytes).unwrap().get();
        let received = server.handle_data(server_start, conn, &bytes[..len]).unwrap();
        let Some(Incoming::Request(request)) = received.item else { panic!("no request") };
        assert_eq!(request.deadline, server_start + secs(5));
        assert!(server.start(server_start + ms(4_999), request.admission).is_ok());
        client.handle_timeout(start + ms(4_999));
        while let Some(event) = client.poll_event() {
            assert!(matches!(event, ClientEvent::Connected { .. }), "{event:?}");
        }
        client.handle_timeout(start + secs(5));
        assert!(
            matches!(client.poll_event(), Some(ClientEvent::Ended { call: id, .. }) if id == call)
        );
    }
}

#[test]
fn c47_a_now_that_goes_backwards_counts_as_the_newest_seen() {
    let mut pair = Pair::new();
    pair.mode = Mode::Hold;
    let call = pair.call_with(0, within(b"a", secs(1)));
    pair.advance(secs(1));
    pair.now = Instant::ZERO;
    assert_eq!(pair.start(b"a"), Err(CallRefused(NotExecuted::DeadlinePassed)));
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::DeadlinePassed));
}

#[test]
fn c48_a_cancel_before_the_request_left_is_not_executed() {
    let mut pair = Pair::unconnected();
    let call = pair.call(b"a");
    pair.cancel(call);
    assert_eq!(pair.outcomes(call), [OwnedOutcome::NotExecuted(NotExecuted::Cancelled)]);
    pair.reconnect();
    assert_eq!(pair.runs, []);
}

#[test]
fn c48_a_cancel_overtaken_by_completion_gets_the_reply() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    pair.link().hold_up = true;
    pair.cancel(call);
    pair.finish(b"a");
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
    pair.link().hold_up = false;
    pair.drive();
    assert_eq!(pair.cancels, []);
    assert_eq!(pair.outcomes(call).len(), 1);
}

#[test]
fn c48_a_cancel_of_a_running_call_tells_its_handler_once_and_it_decides() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    pair.cancel(call);
    pair.cancel(call);
    assert_eq!(pair.cancels.len(), 1);
    let key = pair.cancels[0];
    assert!(pair.server.is_cancelled(key));
    assert_eq!(pair.outcome(call), None, "not before the truth is known");
    pair.finish(b"a");
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
}

#[test]
fn c48_a_cancel_while_disconnected_reaches_the_server_after_the_resume() {
    let mut pair = Pair::new();
    pair.mode = Mode::Hold;
    let call = pair.call(b"a");
    pair.cut();
    pair.cancel(call);
    pair.reconnect();
    assert_eq!(pair.start(b"a"), Err(CallRefused(NotExecuted::Cancelled)));
    assert_eq!(pair.outcomes(call), [OwnedOutcome::NotExecuted(NotExecuted::Cancelled)]);
}

#[test]
fn c48_a_cancel_of_a_call_in_doubt_above_h_is_not_executed_without_a_word() {
    let mut pair = Pair::new();
    pair.link().hold_up = true;
    let call = pair.call(b"a");
    pair.cut();
    pair.cancel(call);
    assert_eq!(pair.outcome(call), None);
    pair.reconnect();
    assert_eq!(pair.outcomes(call), [OwnedOutcome::NotExecuted(NotExecuted::Cancelled)]);
    assert_eq!(pair.runs, []);
}

#[test]
fn c48_a_cancel_does_not_reach_another_call() {
    let mut pair = Pair::slots(1);
    pair.mode = Mode::Start;
    let first = pair.call(b"first");
    pair.finish(b"first");
    pair.call(b"second");
    pair.cancel(first);
    assert_eq!(pair.cancels, []);
    // Nor does a late one, for the xid that had the slot before.
    let late = bytes_of(&Frame::Cancel(xid(pair.runs[0].xid)));
    pair.link().up.extend(late);
    pair.drive();
    assert_eq!(pair.cancels, []);
}

#[test]
fn c50_with_all_slots_busy_the_next_call_waits_for_a_slot() {
    let mut pair = Pair::slots(2);
    pair.mode = Mode::Start;
    pair.call(b"1");
    pair.call(b"2");
    let third = pair.call(b"3");
    let fourth = pair.call_with(0, within(b"4", secs(1)));
    assert_eq!(pair.runs.len(), 2);
    pair.advance(secs(1));
    assert_eq!(pair.outcome(fourth), not_executed(NotExecuted::DeadlinePassed));
    pair.finish(b"2");
    assert_eq!(pair.ran(b"3"), 1);
    pair.finish(b"3");
    assert_eq!(pair.outcome(third), reply(b"3"));
    pair.finish(b"1");
    assert_eq!(pair.ran(b"4"), 0);
}

#[test]
fn c51_tickets_whose_replies_have_come_hold_no_slots_and_still_answer() {
    let mut pair = Pair::slots(2);
    pair.mode = Mode::Start;
    let tickets =
        [pair.call_with(0, within(b"1", secs(1))), pair.call_with(0, within(b"2", secs(1)))];
    pair.advance(secs(1));
    assert_eq!(pair.client().unsettled(), 2);
    pair.finish(b"1");
    pair.finish(b"2");
    assert_eq!(pair.client().unsettled(), 0);
    pair.mode = Mode::Echo;
    let next = [pair.call(b"3"), pair.call(b"4")];
    assert_eq!((pair.outcome(next[0]), pair.outcome(next[1])), (reply(b"3"), reply(b"4")));
    assert_eq!((pair.outcome(tickets[0]), pair.outcome(tickets[1])), (reply(b"1"), reply(b"2")));
}

#[test]
fn c51_a_ticket_settled_without_a_reply_holds_no_slot_even_before_its_event_is_polled() {
    let mut pair = Pair::slots(1);
    pair.call(b"first");
    pair.link().hold_up = true;
    let call = pair.call_with(0, within(b"a", secs(1)));
    pair.advance(secs(1));
    assert_eq!(pair.outcome(call), ticket(Unknown::DeadlinePassed));
    pair.reconnect();
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::DeadlinePassed));
    let next = pair.call(b"next");
    assert_eq!(pair.outcome(next), reply(b"next"));
}

#[test]
fn c61_a_deadline_between_admission_and_start_is_refused_with_one_answer() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Hold;
    let (raw, _) = pair.raw_session();
    let short = wire::RequestHeader { remaining_ms: 100, ..header(1, 0) };
    pair.send(raw, &Frame::Request(short, b"a"));
    pair.advance(ms(100));
    assert_eq!(pair.start(b"a"), Err(CallRefused(NotExecuted::DeadlinePassed)));
    let refused = OwnedFrame::Reply(Status::Refused(NotExecuted::DeadlinePassed), 1, vec![]);
    assert_eq!(pair.got(raw), std::slice::from_ref(&refused));
    pair.send(raw, &Frame::Request(header(1, 0), b"a"));
    assert_eq!(pair.got(raw), [refused], "a retry with more time gets the same");
    assert_eq!(pair.runs, []);
}

#[test]
fn c61_a_cancel_between_admission_and_start_is_refused_with_one_answer() {
    let mut pair = Pair::new();
    pair.mode = Mode::Hold;
    let call = pair.call(b"a");
    pair.cancel(call);
    assert_eq!(pair.cancels, [], "there is no handler to tell");
    assert_eq!(pair.withdrawn.len(), 1, "the holder of its admission may refuse it at once");
    assert_eq!(pair.start(b"a"), Err(CallRefused(NotExecuted::Cancelled)));
    assert_eq!(pair.outcomes(call), [OwnedOutcome::NotExecuted(NotExecuted::Cancelled)]);
    assert_eq!(pair.runs, []);
}

#[test]
fn s17_the_deadline_counts_from_the_first_admission() {
    let mut pair = Pair::unconnected();
    pair.mode = Mode::Hold;
    let (raw, _) = pair.raw_session();
    let short = wire::RequestHeader { remaining_ms: 1_000, ..header(1, 0) };
    pair.send(raw, &Frame::Request(short, b"a"));
    pair.advance(ms(900));
    pair.send(raw, &Frame::Request(short, b"a"));
    pair.advance(ms(100));
    assert_eq!(pair.start(b"a"), Err(CallRefused(NotExecuted::DeadlinePassed)));
}

#[test]
fn c63_a_call_of_which_only_the_first_byte_was_sent_is_unknown_at_its_deadline() {
    let mut pair = Pair::new();
    let now = pair.now;
    let body = vec![1; 10_000];
    let call = pair.client().call(now, within(&body, secs(1))).unwrap();
    let mut out = [0; wire::REQUEST_HEADER_LEN];
    assert!(pair.client().poll_transmit(now, &mut out).is_some());
    let later = now + secs(1);
    pair.client().handle_timeout(later);
    let why = Outcome::Unknown { why: Unknown::DeadlinePassed, ticket: true };
    let xid = pair.client().xid(call);
    assert!(xid.is_some());
    let ended = ClientEvent::Ended { call, xid, outcome: why };
    assert_eq!(pair.client().poll_event(), Some(ended));
}

#[test]
fn c63_a_call_of_which_no_byte_was_sent_is_not_executed_at_its_deadline() {
    let mut pair = Pair::new();
    let now = pair.now;
    let call = pair.client().call(now, within(b"a", secs(1))).unwrap();
    pair.client().handle_timeout(now + secs(1));
    let outcome = Outcome::NotExecuted(NotExecuted::DeadlinePassed);
    assert_eq!(pair.client().poll_event(), Some(ClientEvent::Ended { call, xid: None, outcome }));
    pair.advance(secs(2));
    assert_eq!(pair.runs, []);
}

#[test]
fn c64_the_end_of_a_call_never_sent_does_not_move_x_above_what_runs() {
    let mut pair = Pair::slots(2);
    pair.mode = Mode::Start;
    pair.call(b"1");
    pair.call(b"2");
    let never = pair.call_with(0, within(b"never", secs(1)));
    pair.advance(secs(1));
    assert_eq!(pair.outcome(never), not_executed(NotExecuted::DeadlinePassed));
    pair.finish(b"2");
    let next = pair.call(b"3");
    assert_eq!(pair.server_errors, []);
    assert_eq!(pair.ran(b"3"), 1);
    pair.finish(b"3");
    pair.finish(b"1");
    assert_eq!(pair.outcome(next), reply(b"3"));
}

#[test]
fn c64_x_never_covers_a_call_that_was_given_up_while_it_runs() {
    let mut pair = Pair::slots(2);
    pair.mode = Mode::Start;
    let gone = pair.call_with(0, within(b"gone", secs(1)));
    pair.advance(secs(1));
    pair.forget(gone);
    for n in 0..10u8 {
        pair.call(&[n]);
        pair.finish(&[n]);
        pair.advance(secs(1));
    }
    assert_eq!(pair.server_errors, []);
    pair.reconnect();
    assert!(pair.client().is_connected());
    pair.finish(b"gone");
    assert_eq!(pair.client().unsettled(), 0);
}

#[test]
fn c65_calls_that_expire_while_disconnected_free_their_slots_after_the_resume() {
    let mut pair = Pair::slots(4);
    pair.mode = Mode::Start;
    let calls: Vec<CallId> = (0..4u8).map(|n| pair.call_with(0, within(&[n], secs(5)))).collect();
    pair.cut();
    pair.finish(&[0]);
    pair.finish(&[1]);
    pair.advance(secs(5));
    assert_eq!(pair.client().unsettled(), 4);
    pair.reconnect();
    pair.finish(&[2]);
    pair.finish(&[3]);
    assert_eq!(pair.client().unsettled(), 0);
    for (call, n) in calls.iter().zip(0u8..) {
        assert_eq!(pair.outcome(*call), reply(&[n]), "and the tickets tell");
        assert_eq!(pair.ran(&[n]), 1);
    }
    pair.mode = Mode::Echo;
    let next: Vec<CallId> = (10..14u8).map(|n| pair.call(&[n])).collect();
    assert!(next.iter().zip(10u8..).all(|(call, n)| pair.outcome(*call) == reply(&[n])));
}

#[test]
fn c09_a_clock_that_jumps_forward_ends_no_session_whose_connection_lives() {
    let mut pair = Pair::new();
    pair.call(b"a");
    let session = pair.session_id();
    pair.jump(secs(24 * 3600));
    pair.advance(secs(30));
    assert!(pair.client().is_connected());
    assert_eq!(pair.session_id(), session);
    assert_eq!(pair.server.counters().sessions, 1);
    let call = pair.call(b"b");
    assert_eq!(pair.outcome(call), reply(b"b"));
}

#[test]
fn s18_a_call_not_wanted_any_more_is_not_sent_when_the_server_says_it_has_not_seen_it() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call_with(0, within(b"a", secs(5)));
    let number = xid(pair.runs[0].xid);
    pair.cut();
    // A server that resumes the session, has read the xid, and has lost the call in a crash.
    let link = pair.connect_by_hand(0);
    pair.drive();
    let welcome = pair.resuming_welcome(number.get());
    pair.got_up(link);
    pair.send_down(link, &Frame::Welcome(welcome));
    assert_eq!(pair.got_up(link), [OwnedFrame::Ask(number.get())]);
    // Its answer and the deadline come in one turn, before anything can be written.
    let not_seen = bytes_of(&Frame::Reply(
        wire::ReplyHeader { status: Status::NotSeen { ask: 1 }, xid: number },
        b"",
    ));
    let now = pair.now;
    pair.client().handle_data(now, &not_seen).unwrap();
    pair.jump(secs(5));
    assert_eq!(pair.outcome(call), ticket(Unknown::DeadlinePassed));
    let sent = pair.got_up(link);
    assert!(!sent.iter().any(|frame| matches!(frame, OwnedFrame::Request(..))), "{sent:?}");
    pair.send_down(
        link,
        &Frame::Reply(wire::ReplyHeader { status: Status::NotSeen { ask: 2 }, xid: number }, b""),
    );
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::DeadlinePassed));
    assert_eq!(pair.client().unsettled(), 0);
}

#[test]
fn at_the_end_of_time_nothing_spins() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    let end = Instant::FAR_FUTURE;
    pair.client().handle_timeout(end);
    pair.server.handle_timeout(end);
    pair.drive();
    assert_eq!(pair.outcome(call), ticket(Unknown::DeadlinePassed));
}
