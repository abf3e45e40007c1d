//! No connection can be made: which calls wait for one, and which end (C160).
#![allow(missing_docs)]

mod util;

use oncewire_core::DialFailure::{Permanent, Transient};
use oncewire_core::wire::{Frame, Refuse};
use oncewire_core::*;
use util::*;

fn pair_that(on_dial_failure: OnDialFailure) -> Pair {
    let mut config = ClientConfig::default();
    config.on_dial_failure = on_dial_failure;
    Pair::with(default_server_config(), config)
}

fn dial_fails(pair: &mut Pair, failure: DialFailure) {
    let now = pair.now;
    pair.client().handle_dial_failed(now, failure);
    pair.drive();
}

#[test]
fn c160_a_dial_that_no_later_one_can_better_ends_the_calls_that_have_not_left() {
    let mut pair = pair_that(OnDialFailure::EndIfPermanent);
    let call = pair.call(b"a");
    dial_fails(&mut pair, Transient);
    assert_eq!(pair.outcome(call), None, "the next may succeed");
    dial_fails(&mut pair, Permanent);
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::NeverConnected));
    let later = pair.call(b"b");
    assert_eq!(pair.outcome(later), not_executed(NotExecuted::NeverConnected), "at once");
    pair.reconnect();
    let call = pair.call(b"c");
    assert_eq!(pair.outcome(call), reply(b"c"), "it was mended");
    assert_eq!((pair.ran(b"a"), pair.ran(b"b")), (0, 0));
}

#[test]
fn c160_calls_in_flight_wait_for_the_resume_and_one_way_calls_for_a_connection() {
    let mut pair = pair_that(OnDialFailure::End).connected();
    pair.mode = Mode::Start;
    let in_flight = pair.call(b"in flight");
    pair.cut();
    let waiting = pair.call(b"waiting");
    let mut one_way = Call::new(ECHO, b"one way");
    one_way.one_way = true;
    pair.call_with(0, one_way);
    for _ in 0..3 {
        dial_fails(&mut pair, Transient);
    }
    assert_eq!(pair.outcome(in_flight), None);
    assert_eq!(pair.outcome(waiting), not_executed(NotExecuted::NeverConnected));
    pair.reconnect();
    pair.finish(b"in flight");
    pair.finish(b"one way");
    assert_eq!(pair.outcome(in_flight), reply(b"in flight"));
    assert_eq!((pair.ran(b"waiting"), pair.ran(b"one way")), (0, 1));
}

#[test]
fn c160_what_answers_and_does_not_speak_the_protocol_is_no_server() {
    for (said, failure) in [(&b"HTTP/1.1 400 Bad Request\r\n"[..], Permanent), (b"", Transient)] {
        for policy in [OnDialFailure::Wait, OnDialFailure::EndIfPermanent, OnDialFailure::End] {
            let mut pair = pair_that(policy);
            let call = pair.call(b"a");
            let now = pair.now;
            pair.client().handle_connected(now);
            let spoken = pair.client().handle_data(now, said).is_ok();
            assert_eq!(spoken, failure == Transient);
            pair.client().handle_disconnected(now);
            pair.drive();
            let ends = match policy {
                OnDialFailure::Wait => false,
                OnDialFailure::EndIfPermanent => failure == Permanent,
                OnDialFailure::End => true,
            };
            let expected = not_executed(NotExecuted::NeverConnected).filter(|_| ends);
            assert_eq!(pair.outcome(call), expected, "{failure:?} {policy:?}");
        }
    }
}

#[test]
fn c160_a_server_that_has_no_room_is_one_that_cannot_be_reached() {
    let mut pair = pair_that(OnDialFailure::End);
    let call = pair.call(b"a");
    let now = pair.now;
    pair.client().handle_connected(now);
    let refusal = bytes_of(&Frame::Refuse(Refuse::SessionsFull, Instance::UNNAMED));
    pair.client().handle_data(now, &refusal).unwrap();
    pair.drive();
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::NeverConnected));
}

#[test]
fn c160_calls_that_wait_when_a_resume_is_refused_go_on_in_the_next_session() {
    let mut pair = pair_that(OnDialFailure::End).connected();
    pair.mode = Mode::Start;
    let in_doubt = pair.call(b"in doubt");
    pair.restart_server();
    let waiting = pair.call(b"waiting");
    pair.mode = Mode::Echo;
    pair.reconnect();
    pair.reconnect();
    assert_eq!(pair.outcome(in_doubt), unknown(Unknown::SessionEnded));
    assert_eq!(pair.outcome(waiting), reply(b"waiting"));
}
