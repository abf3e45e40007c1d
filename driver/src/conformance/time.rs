//! Cases of deadlines, cancels, slots and tickets.

use std::time::Duration;

use oncewire_core::wire::Frame;
use oncewire_core::{NoReply, NotExecuted, Status, Unknown};

use super::faulty_link::{Action, FaultyLink, Mark};
use super::raw_peer::request;
use super::service::{ADD_ONE, HANG, WAIT, arguments};
use super::world::World;
use super::{Direction, expect_reply, kind};
use crate::client::{Client, Outcome, Ticket};

/// What is left of a call whose deadline has passed at a server.
fn ticket_of(outcome: Outcome<u64>) -> Ticket<u64> {
    match outcome {
        Outcome::Unknown(Unknown::DeadlinePassed, Some(ticket)) => ticket,
        other => panic!("Unknown with a ticket was expected, this came: {other:?}"),
    }
}

/// What a caller gets whose call waits at its handler when its deadline passes.
pub(super) async fn outlive_deadline(world: &World, client: &Client) -> Outcome<u64> {
    let call = client.call(&WAIT, &7).timeout(Duration::from_secs(5)).start();
    world.waiting(1).await;
    world.advance(Duration::from_secs(6));
    world.within("the deadline", call).await
}

pub async fn c23_a_call_given_up_before_the_server_read_it_never_runs(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.client_with(&link, |options| options.slots = 1);
    world.within("the handshake", client.connected()).await;
    link.hold(Direction::Up);
    let call = client.call(&ADD_ONE, &1).timeout(Duration::from_secs(5)).start();
    world.until("the request to leave", || link.held(Direction::Up) > 0).await;
    world.advance(Duration::from_secs(6));
    let mut ticket = ticket_of(world.within("the deadline", call).await);
    link.cut();
    let outcome = world.within("the ticket's outcome", ticket.wait()).await;
    let passed = NotExecuted::DeadlinePassed;
    assert!(matches!(&outcome, Outcome::NotExecuted(why) if *why == passed), "{outcome:?}");
    expect_reply(&world, client.call(&ADD_ONE, &2), 3).await;
    assert_eq!(world.service.arguments(), [2]);
}

pub async fn c45_a_call_whose_deadline_has_passed_at_the_server_is_never_started(world: World) {
    let host = world.host().await;
    let mut peer = world.raw_peer(&host.connector).await;
    peer.open().await;
    let mut header = request(1, 0, ADD_ONE.id());
    header.remaining_ms = 0;
    peer.send(&Frame::Request(header, &arguments(&1u64))).await;
    let refused = (Status::Refused(NotExecuted::DeadlinePassed), Vec::new());
    assert_eq!(peer.answer(1).await, refused);
    assert_eq!(world.service.runs(), 0);
}

pub async fn c61_a_call_refused_at_its_start_has_one_answer_and_never_runs(world: World) {
    let host = world.host().await;
    let mut peer = world.raw_peer(&host.connector).await;
    peer.open().await;
    let body = arguments(&1u64);
    let mut header = request(1, 0, ADD_ONE.id());
    header.remaining_ms = 0;
    peer.send(&Frame::Request(header, &body)).await;
    peer.cancel(1).await;
    let refused = (Status::Refused(NotExecuted::DeadlinePassed), Vec::new());
    assert_eq!(peer.answer(1).await, refused);
    // With all the time in the world, it is still the same call.
    assert_eq!(peer.call(1, 0, ADD_ONE.id(), &body).await, refused);
    peer.ask(1).await;
    assert_eq!(peer.answer(1).await, refused);
    assert_eq!(world.service.runs(), 0);
}

pub async fn c46_the_ticket_of_a_call_that_runs_past_its_deadline_tells_the_reply(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let mut ticket = ticket_of(outlive_deadline(&world, &client).await);
    // Read after whatever the client may have had to say about the other one.
    expect_reply(&world, client.call(&ADD_ONE, &1), 2).await;
    assert_eq!(world.service.cancelled(), 0, "a deadline is no cancel");
    world.service.let_go(1);
    let outcome = world.within("the ticket's outcome", ticket.wait()).await;
    assert!(matches!(outcome, Outcome::Reply(7)), "{outcome:?}");
}

pub async fn c46_a_ticket_outlives_the_connection_and_the_future_that_waits_for_it(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let mut ticket = ticket_of(outlive_deadline(&world, &client).await);
    for _ in 0..3 {
        // A future that waits is polled, and dropped.
        assert!(futures_lite::future::poll_once(ticket.wait()).await.is_none());
    }
    link.cut();
    world.until("the resume", || client.status().counters.resumes == 1).await;
    world.service.let_go(1);
    let outcome = world.within("the ticket's outcome", ticket.wait()).await;
    assert!(matches!(outcome, Outcome::Reply(7)), "{outcome:?}");
    assert_eq!(world.service.waiting(), 1);
}

pub async fn c47_deadlines_are_right_though_the_clocks_differ_by_an_hour(world: World) {
    let hour = Duration::from_secs(3600);
    for (at_server, at_client) in [(hour, Duration::ZERO), (Duration::ZERO, hour)] {
        let builder = world.service.offer("suite").runtime(world.runtime_ahead(at_server));
        let (connector, acceptor) = world.listen().await;
        let host = world.host_at(builder.build().expect("a server"), connector, acceptor);
        let runtime = world.runtime_ahead(at_client);
        let link = FaultyLink::to(host.connector.clone());
        let client = crate::Client::with_runtime(link, crate::ClientOptions::default(), runtime);
        expect_reply(&world, client.call(&ADD_ONE, &1).timeout(Duration::from_secs(60)), 2).await;
        let before = world.service.waiting();
        let call = client.call(&WAIT, &7).timeout(Duration::from_secs(60)).start();
        world.waiting(before + 1).await;
        world.advance(Duration::from_secs(61));
        let mut ticket = ticket_of(world.within("the deadline", call).await);
        world.service.let_go(1);
        let outcome = world.within("the ticket's outcome", ticket.wait()).await;
        assert!(matches!(outcome, Outcome::Reply(7)), "{outcome:?}");
    }
}

pub async fn c48_a_call_cancelled_before_it_left_never_leaves(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    link.refuse_dials(true);
    let client = world.client(&link);
    let call = client.call(&ADD_ONE, &1).start();
    world.until("a refused dial", || link.dials() > 0).await;
    drop(call);
    link.refuse_dials(false);
    expect_reply(&world, client.call(&ADD_ONE, &2), 3).await;
    assert_eq!(client.status().counters.sent, 1);
    assert_eq!(world.service.arguments(), [2]);
}

pub async fn c48_a_cancel_overtaken_by_completion_changes_nothing(world: World) {
    let host = world.host().await;
    let mut peer = world.raw_peer(&host.connector).await;
    peer.open().await;
    let body = arguments(&1u64);
    let reply = peer.call(1, 0, ADD_ONE.id(), &body).await;
    peer.cancel(1).await;
    assert_eq!(peer.call(1, 0, ADD_ONE.id(), &body).await, reply);
    assert_eq!(world.service.runs(), 1);
}

pub async fn c50_a_call_without_a_slot_waits_until_its_deadline_and_was_not_executed(world: World) {
    let host = world.host_with(|config| config.slots = 1).await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let first = client.call(&WAIT, &1).start();
    world.waiting(1).await;
    let hasty = client.call(&ADD_ONE, &10).timeout(Duration::from_secs(5)).start();
    let patient = client.call(&ADD_ONE, &20).start();
    world.advance(Duration::from_secs(6));
    let outcome = world.within("the deadline", hasty).await;
    let passed = NotExecuted::DeadlinePassed;
    assert!(matches!(&outcome, Outcome::NotExecuted(why) if *why == passed), "{outcome:?}");
    world.service.let_go(1);
    expect_reply(&world, patient, 21).await;
    expect_reply(&world, first, 1).await;
    assert_eq!(world.service.arguments(), [20]);
    assert_eq!(client.status().counters.sent, 2);
}

pub async fn c51_tickets_whose_replies_have_come_hold_no_slots_and_still_tell(world: World) {
    let host = world.host_with(|config| config.slots = 2).await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let start = |n| client.call(&WAIT, &n).timeout(Duration::from_secs(5)).start();
    let calls = [start(1), start(2)];
    world.waiting(2).await;
    world.advance(Duration::from_secs(6));
    let mut tickets = Vec::new();
    for call in calls {
        tickets.push(ticket_of(world.within("the deadline", call).await));
    }
    world.service.let_go(2);
    // Both slots are free again: two calls run at once.
    let calls = [client.call(&WAIT, &3).start(), client.call(&WAIT, &4).start()];
    world.waiting(4).await;
    for (n, ticket) in tickets.iter_mut().enumerate() {
        let outcome = world.within("the ticket's outcome", ticket.wait()).await;
        assert!(matches!(outcome, Outcome::Reply(reply) if reply == n as u64 + 1), "{outcome:?}");
    }
    world.service.let_go(2);
    for (n, call) in calls.into_iter().enumerate() {
        expect_reply(&world, call, n as u64 + 3).await;
    }
}

pub async fn c63_a_call_of_which_one_byte_left_is_unknown_at_its_deadline(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    link.fault(Direction::Up, Mark::Inside(kind::REQUEST, 1), Action::Hold);
    let call = client.call(&ADD_ONE, &1).timeout(Duration::from_secs(5)).start();
    world.until("the request to leave", || link.held(Direction::Up) > 0).await;
    world.advance(Duration::from_secs(6));
    let mut ticket = ticket_of(world.within("the deadline", call).await);
    link.release(Direction::Up);
    let outcome = world.within("the ticket's outcome", ticket.wait()).await;
    assert!(matches!(outcome, Outcome::Reply(2)), "the server knew no better: {outcome:?}");
}

pub async fn c65_calls_that_expire_while_disconnected_leave_all_slots_free(world: World) {
    let host = world.host_with(|config| config.slots = 4).await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let start = |n| client.call(&WAIT, &n).timeout(Duration::from_secs(5)).start();
    // Two arrive, two are lost on their way.
    let mut calls = vec![start(1), start(2)];
    world.waiting(2).await;
    link.hold(Direction::Up);
    calls.extend([start(3), start(4)]);
    world.until("two requests to leave", || link.held(Direction::Up) > 40).await;
    link.refuse_dials(true);
    link.cut();
    world.until("the loss", || !client.status().connected).await;
    world.advance(Duration::from_secs(6));
    for call in calls {
        drop(ticket_of(world.within("the deadline", call).await));
    }
    world.service.let_go(2);
    link.refuse_dials(false);
    let calls: Vec<_> = (10..14).map(|n| client.call(&WAIT, &n).start()).collect();
    world.waiting(6).await;
    world.service.let_go(4);
    for (n, call) in calls.into_iter().enumerate() {
        expect_reply(&world, call, n as u64 + 10).await;
    }
    assert_eq!(world.service.waiting(), 6, "what was lost on its way never ran");
}

pub async fn c70_handlers_that_hang_end_as_aborted_and_other_sessions_never_notice(world: World) {
    let host = world.host_with(|config| config.slots = 4).await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let neighbour = world.connected(&FaultyLink::to(host.connector.clone())).await;
    let calls: Vec<_> = (0..4).map(|_| client.call(&HANG, &()).start()).collect();
    world.until("all to hang", || world.service.runs() == 4).await;
    expect_reply(&world, neighbour.call(&ADD_ONE, &1), 2).await;
    world.advance(Duration::from_secs(11));
    for call in calls {
        let outcome = world.within("the time limit", call).await;
        assert!(matches!(outcome, Outcome::NoReply(NoReply::Aborted)), "{outcome:?}");
    }
    expect_reply(&world, neighbour.call(&ADD_ONE, &2), 3).await;
    expect_reply(&world, client.call(&ADD_ONE, &3), 4).await;
    assert_eq!(neighbour.status().reconnects, 0);
}
