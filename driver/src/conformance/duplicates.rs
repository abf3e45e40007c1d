//! Cases of requests that come twice, late or wrong, and of what is kept.

use std::time::Duration;

use oncewire_core::wire::{Frame, Hello, Refuse, Resume};
use oncewire_core::{Instance, NoReply, ProtocolError, Status, Unknown};

use super::expect_reply;
use super::faulty_link::FaultyLink;
use super::raw_peer::{hello, request};
use super::service::{ADD_ONE, FAIL, GET, PANIC, PANIC_AT_ONCE, PUT, WAIT, arguments, value};
use super::world::World;
use crate::client::Outcome;

pub async fn c11_a_duplicate_while_the_original_runs_is_answered_once(world: World) {
    let host = world.host().await;
    let mut peer = world.opened(&host).await;
    let body = arguments(&7u64);
    peer.request(1, 0, WAIT.id(), &body).await;
    world.waiting(1).await;
    peer.request(1, 0, WAIT.id(), &body).await;
    world.counted(&host, "the duplicate", |counters| counters.duplicates == 1).await;
    world.service.let_go(2);
    assert_eq!(peer.answer(1).await, (Status::Done, body));
    // The next frame is the next call's, not a second answer.
    peer.call(2, 0, GET.id(), &[]).await;
    assert_eq!(world.service.waiting(), 1);
}

pub async fn c12_a_duplicate_on_a_new_connection_is_answered_there(world: World) {
    let host = world.host().await;
    let mut old = world.raw_peer(&host.connector).await;
    let session = old.open().await.session;
    let body = arguments(&7u64);
    old.request(1, 0, WAIT.id(), &body).await;
    world.waiting(1).await;
    let mut new = world.raw_peer(&host.connector).await;
    assert_eq!(new.resume(session, 0).await.seen, 1);
    new.request(1, 0, WAIT.id(), &body).await;
    world.counted(&host, "the duplicate", |counters| counters.duplicates == 1).await;
    world.service.let_go(2);
    assert_eq!(new.answer(1).await, (Status::Done, body));
    assert_eq!(
        old.rest().await,
        [(Frame::Refuse(Refuse::Superseded, Instance::UNNAMED), Vec::new())]
    );
    assert_eq!(world.service.waiting(), 1);
}

pub async fn c13_a_duplicate_after_completion_gets_the_same_bytes_without_execution(world: World) {
    let host = world.host().await;
    let mut peer = world.opened(&host).await;
    let body = arguments(&41u64);
    let first = peer.call(1, 0, ADD_ONE.id(), &body).await;
    assert_eq!(first, (Status::Done, arguments(&42u64)));
    for _ in 0..3 {
        assert_eq!(peer.call(1, 0, ADD_ONE.id(), &body).await, first);
    }
    assert_eq!(world.service.runs(), 1);
}

pub async fn c14_an_application_error_is_kept_and_sent_again(world: World) {
    let host = world.host().await;
    let mut peer = world.opened(&host).await;
    let first = peer.call(1, 0, FAIL.id(), &[]).await;
    assert_eq!(first.0, Status::Done, "the handler did its work");
    let error = value::<Result<u64, String>>(&first.1);
    assert_eq!(error, Err("no such account".to_owned()));
    assert_eq!(peer.call(1, 0, FAIL.id(), &[]).await, first);
    assert_eq!(world.service.runs(), 1);
}

pub async fn c15_a_delayed_copy_of_an_acknowledged_request_is_dropped(world: World) {
    let host = world.host().await;
    let mut peer = world.opened(&host).await;
    peer.call(1, 0, ADD_ONE.id(), &arguments(&1u64)).await;
    peer.call(2, 1, ADD_ONE.id(), &arguments(&2u64)).await;
    peer.request(1, 0, ADD_ONE.id(), &arguments(&1u64)).await;
    peer.call(3, 2, ADD_ONE.id(), &arguments(&3u64)).await;
    assert_eq!(host.server.counters().stale, 1);
    assert_eq!(world.service.arguments(), [1, 2, 3]);
}

pub async fn c16_a_late_first_copy_of_a_put_does_not_undo_the_next_put(world: World) {
    let host = world.host().await;
    let mut peer = world.opened(&host).await;
    let (ten, twenty) = (arguments(&10u64), arguments(&20u64));
    // The first copy is delayed; this is the retry.
    peer.call(1, 0, PUT.id(), &ten).await;
    peer.call(2, 1, PUT.id(), &twenty).await;
    peer.request(1, 0, PUT.id(), &ten).await;
    assert_eq!(peer.call(3, 2, GET.id(), &[]).await, (Status::Done, twenty));
}

pub async fn c17_other_arguments_under_an_old_xid_end_the_session(world: World) {
    let host = world.host().await;
    let mut peer = world.raw_peer(&host.connector).await;
    let session = peer.open().await.session;
    peer.call(1, 0, ADD_ONE.id(), &arguments(&1u64)).await;
    peer.request(1, 0, ADD_ONE.id(), &arguments(&2u64)).await;
    let code = ProtocolError::FalseRetry { xid: 1 }.code();
    let refused = (Frame::Refuse(Refuse::Protocol(code), Instance::UNNAMED), Vec::new());
    assert_eq!(peer.rest().await, [refused], "the old reply is not disclosed");
    assert_eq!(world.service.arguments(), [1]);
    assert_eq!(host.server.counters().sessions, 0);
    let mut peer = world.raw_peer(&host.connector).await;
    peer.send(&Frame::Hello(hello(Some(Resume { session, acked: 0 })))).await;
    assert_eq!(peer.refused().await, Refuse::SessionUnknown);
}

pub async fn c17_a_client_that_learns_of_a_false_retry_ends_its_calls_as_unknown(world: World) {
    let (connector, acceptor) = world.listen().await;
    let client = world.client(&FaultyLink::to(connector));
    let calls = [client.call(&ADD_ONE, &1).start(), client.call(&ADD_ONE, &2).start()];
    let mut server = world.accept(&acceptor).await;
    server.take_in([1; 16], 0).await;
    server.requested().await;
    server.requested().await;
    let code = ProtocolError::FalseRetry { xid: 1 }.code();
    server.send(&Frame::Refuse(Refuse::Protocol(code), Instance::UNNAMED)).await;
    for call in calls {
        let outcome = world.within("the call's outcome", call).await;
        assert!(matches!(outcome, Outcome::Unknown(Unknown::SessionEnded, None)), "{outcome:?}");
    }
    let mut server = world.accept(&acceptor).await;
    assert_eq!(server.hello().await.resume, None, "it opens another session");
}

pub async fn c18_a_retry_with_another_x_and_deadline_is_the_same_request(world: World) {
    let host = world.host().await;
    let mut peer = world.opened(&host).await;
    let body = arguments(&2u64);
    peer.call(1, 0, ADD_ONE.id(), &arguments(&1u64)).await;
    let first = peer.call(2, 0, ADD_ONE.id(), &body).await;
    let mut again = request(2, 1, ADD_ONE.id());
    again.remaining_ms = 17;
    peer.send(&Frame::Request(again, &body)).await;
    assert_eq!(peer.answer(2).await, first);
    assert_eq!(world.service.runs(), 2);
}

pub async fn c19_a_new_xid_on_a_slot_whose_call_runs_changes_nothing(world: World) {
    wrong_request(world, 3, 0, ProtocolError::SlotBusy { xid: 3, running: 1 }).await;
}

pub async fn c19_an_x_at_a_running_xid_changes_nothing(world: World) {
    wrong_request(world, 2, 1, ProtocolError::AckAhead { acked: 1 }).await;
}

pub async fn c19_an_x_at_the_xid_that_carries_it_changes_nothing(world: World) {
    wrong_request(world, 2, 2, ProtocolError::AckAhead { acked: 2 }).await;
}

/// A request of a wrong client, on two slots, while xid 1 runs.
async fn wrong_request(world: World, xid: u64, acked: u64, error: ProtocolError) {
    let host = world.host().await;
    let mut peer = world.raw_peer(&host.connector).await;
    let session = peer.greet(Hello { slots: 2, ..hello(None) }).await.session;
    peer.request(1, 0, WAIT.id(), &arguments(&7u64)).await;
    world.waiting(1).await;
    peer.request(xid, acked, ADD_ONE.id(), &arguments(&1u64)).await;
    assert_eq!(peer.refused().await, Refuse::Protocol(error.code()));
    assert_eq!(world.service.runs(), 1);
    let mut peer = world.raw_peer(&host.connector).await;
    assert_eq!(peer.resume(session, 0).await.seen, 1);
    peer.ask(1).await;
    world.service.let_go(1);
    assert_eq!(peer.answer(1).await, (Status::Done, arguments(&7u64)));
}

pub async fn c21_an_x_lower_than_before_is_ignored(world: World) {
    let host = world.host().await;
    let mut peer = world.opened(&host).await;
    peer.call(1, 0, ADD_ONE.id(), &arguments(&1u64)).await;
    peer.call(2, 1, ADD_ONE.id(), &arguments(&2u64)).await;
    peer.call(3, 0, ADD_ONE.id(), &arguments(&3u64)).await;
    peer.ack(0, 0).await;
    peer.request(1, 0, ADD_ONE.id(), &arguments(&1u64)).await;
    peer.call(4, 0, ADD_ONE.id(), &arguments(&4u64)).await;
    assert_eq!(world.service.arguments(), [1, 2, 3, 4], "what was settled stays settled");
}

pub async fn c22_one_slow_call_lets_thousands_pass_by_and_memory_does_not_grow(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.client_with(&link, |options| options.slots = 8);
    let slow = client.call(&WAIT, &7).start();
    world.waiting(1).await;
    for n in 0..3000 {
        expect_reply(&world, client.call(&ADD_ONE, &n), n + 1).await;
        // What the others leave is acknowledged by their slots' next calls: at most 10 bytes a slot.
        assert!(host.server.counters().kept_bytes <= 16 + 8 * 10);
    }
    world.service.let_go(1);
    expect_reply(&world, slow, 7).await;
}

pub async fn c24_a_call_whose_caller_gave_up_frees_its_slot_once(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.client_with(&link, |options| options.slots = 1);
    let given_up = client.call(&WAIT, &1).timeout(Duration::from_secs(5)).start();
    world.waiting(1).await;
    world.advance(Duration::from_secs(6));
    let outcome = world.within("the deadline", given_up).await;
    assert!(matches!(outcome, Outcome::Unknown(Unknown::DeadlinePassed, Some(_))), "{outcome:?}");
    drop(outcome);
    let next = client.call(&WAIT, &2).start();
    let after = client.call(&ADD_ONE, &3).start();
    world.until("the handler to notice", || world.service.cancelled() == 1).await;
    world.service.let_go(1);
    world.waiting(2).await;
    assert_eq!(host.server.counters().running, 1, "the slot was freed once");
    world.service.let_go(1);
    expect_reply(&world, next, 2).await;
    expect_reply(&world, after, 4).await;
}

pub async fn c26_a_panic_ends_as_aborted_and_the_server_lives_on(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.client(&link);
    for method in [PANIC_AT_ONCE, PANIC] {
        let outcome = world.within("the panic's outcome", client.call(&method, &())).await;
        assert!(matches!(outcome, Outcome::NoReply(NoReply::Aborted)), "{outcome:?}");
    }
    let mut peer = world.opened(&host).await;
    for _ in 0..2 {
        let answer = peer.call(1, 0, PANIC.id(), &[]).await;
        assert_eq!(answer, (Status::NoReply(NoReply::Aborted), Vec::new()));
    }
    assert_eq!(host.server.handler_faults().panics, 3, "the retry did not run");
    expect_reply(&world, client.call(&ADD_ONE, &1), 2).await;
    assert_eq!(client.status().reconnects, 0);
}

pub async fn c28_a_kept_reply_has_no_time_limit_while_its_session_lives(world: World) {
    let host = world.host_with(|config| config.lease = Duration::from_secs(100_000)).await;
    let mut peer = world.raw_peer(&host.connector).await;
    let session = peer.open().await.session;
    let reply = peer.call(1, 0, ADD_ONE.id(), &arguments(&1u64)).await;
    drop(peer);
    world.counted(&host, "the loss", |counters| counters.conns == 0).await;
    world.advance(Duration::from_secs(90_000));
    let mut peer = world.raw_peer(&host.connector).await;
    peer.resume(session, 0).await;
    peer.ask(1).await;
    assert_eq!(peer.answer(1).await, reply);
    assert_eq!(peer.call(1, 0, ADD_ONE.id(), &arguments(&1u64)).await, reply);
    assert_eq!(world.service.runs(), 1);
}

pub async fn c29_control_frames_are_never_kept_and_use_no_xid(world: World) {
    let host = world.host().await;
    let mut peer = world.raw_peer(&host.connector).await;
    let session = peer.open().await.session;
    for _ in 0..3 {
        peer.send(&Frame::Ping(oncewire_core::wire::Role::Client)).await;
        let pong = Frame::Pong(oncewire_core::wire::Role::Server);
        assert_eq!(peer.next().await, Some((pong, Vec::new())));
        peer.ack(0, 0).await;
        peer.cancel(1).await;
        peer.ask(1).await;
        assert_eq!(peer.answer(1).await, (Status::NotSeen { ask: 1 }, Vec::new()));
    }
    let counters = host.server.counters();
    assert_eq!((counters.kept_bytes, counters.admitted, counters.refused), (0, 0, 0));
    drop(peer);
    let mut peer = world.raw_peer(&host.connector).await;
    assert_eq!(peer.resume(session, 0).await.seen, 0);
    assert_eq!(peer.call(1, 0, ADD_ONE.id(), &arguments(&1u64)).await.0, Status::Done);
}

pub async fn c30_a_handler_that_finishes_after_its_session_leaves_nothing_behind(world: World) {
    let host = world.host().await;
    let mut peer = world.opened(&host).await;
    peer.call(1, 0, ADD_ONE.id(), &arguments(&1u64)).await;
    peer.request(2, 0, WAIT.id(), &arguments(&2u64)).await;
    world.waiting(1).await;
    peer.request(1, 0, ADD_ONE.id(), &arguments(&9u64)).await;
    peer.refused().await;
    world.service.let_go(1);
    let nothing = |counters: &oncewire_core::ServerCounters| {
        counters.sessions == 0 && counters.running == 0 && counters.kept_bytes == 0
    };
    world.counted(&host, "nothing to be left", nothing).await;
}
