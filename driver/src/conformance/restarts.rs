//! Cases of servers that are replaced by others, without a ledger; and of calls that may run more than once.

use oncewire_core::{NotExecuted, Status, Unknown};

use oncewire_core::wire::{FLAG_IDEMPOTENT, Frame};

use super::faulty_link::{Action, FaultyLink, Mark};
use super::service::{ADD_ONE, WAIT, WAIT_AGAIN, arguments};
use super::world::World;
use super::{Direction, expect_reply, kind};
use crate::client::Outcome;

pub async fn c52_after_a_restart_calls_in_doubt_are_unknown_and_new_ones_go_on(world: World) {
    let before = world.host().await;
    let link = FaultyLink::to(before.connector.clone());
    let client = world.connected(&link).await;
    let call = client.call(&WAIT, &1).start();
    world.waiting(1).await;
    let after = world.host().await;
    assert_ne!(before.server.id(), after.server.id());
    link.lead_to(after.connector.clone());
    link.cut();
    let queued = client.call(&ADD_ONE, &2).start();
    let outcome = world.within("the call's outcome", call).await;
    assert!(matches!(outcome, Outcome::Unknown(Unknown::SessionEnded, None)), "{outcome:?}");
    let queued = world.within("the next call", queued).await;
    assert!(matches!(queued, Outcome::Reply(3) | Outcome::Unknown(..)), "{queued:?}");
    expect_reply(&world, client.call(&ADD_ONE, &3), 4).await;
    assert_eq!(client.status().server, Some(after.server.id()));
    assert_eq!(client.status().counters.sessions, 2);
    assert_eq!(world.service.waiting(), 1);
}

pub async fn c59_an_idempotent_call_runs_again_at_the_server_that_replaces_its_own(world: World) {
    let before = world.host().await;
    let link = FaultyLink::to(before.connector.clone());
    let client = world.connected(&link).await;
    let call = client.call(&WAIT_AGAIN, &7).start();
    world.waiting(1).await;
    let after = world.host().await;
    link.lead_to(after.connector.clone());
    link.cut();
    world.waiting(2).await;
    world.service.let_go(2);
    expect_reply(&world, call, 7).await;
    assert_eq!(client.status().server, Some(after.server.id()));
}

pub async fn c69_a_server_refuses_as_idempotent_what_it_does_not_declare_so(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let outcome = world.within("the refusal", client.call(&ADD_ONE, &1).idempotent()).await;
    let refused = NotExecuted::NotIdempotent;
    assert!(matches!(&outcome, Outcome::NotExecuted(why) if *why == refused), "{outcome:?}");
    assert_eq!(world.service.runs(), 0);
}

pub async fn c69_an_idempotent_method_runs_at_most_once_for_a_request_that_asks_for_it(
    world: World,
) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    world.service.let_go(2);
    link.fault(Direction::Down, Mark::Kind(kind::REPLY), Action::Cut);
    expect_reply(&world, client.call(&WAIT_AGAIN, &7).at_most_once(), 7).await;
    assert_eq!(world.service.waiting(), 1);
    link.fault(Direction::Down, Mark::Kind(kind::REPLY), Action::Cut);
    world.service.let_go(2);
    expect_reply(&world, client.call(&WAIT_AGAIN, &8), 8).await;
    assert_eq!(world.service.waiting(), 3, "the method allows this one to be repeated");
}

pub async fn c73_a_refused_repetition_of_an_idempotent_call_that_may_have_run_is_unknown(
    world: World,
) {
    let before = world.host().await;
    let link = FaultyLink::to(before.connector.clone());
    let client = world.connected(&link).await;
    let call = client.call(&WAIT_AGAIN, &7).start();
    world.waiting(1).await;
    // The server that takes its place does not declare the method idempotent.
    let after = world.host_of(world.service.offer_but("suite", true)).await;
    link.lead_to(after.connector.clone());
    link.cut();
    let outcome = world.within("the call's outcome", call).await;
    assert!(matches!(outcome, Outcome::Unknown(Unknown::Repeated, None)), "{outcome:?}");
    assert_eq!(world.service.waiting(), 1);
}

pub async fn c73_an_overloaded_server_cannot_make_a_repeated_call_not_executed(world: World) {
    let (connector, acceptor) = world.listen().await;
    let link = FaultyLink::to(connector);
    let client = world.client(&link);
    let call = client.call(&WAIT_AGAIN, &7).start();
    let mut server = world.accept(&acceptor).await;
    server.take_in([1; 16], 0).await;
    let (first, _) = server.requested().await;
    assert_eq!(first.flags, FLAG_IDEMPOTENT);
    drop(server);
    let mut server = world.accept(&acceptor).await;
    let hello = server.take_in([1; 16], first.xid.get()).await;
    assert!(hello.resume.is_some());
    let (again, body) = server.requested().await;
    assert_eq!((again.xid, body), (first.xid, arguments(&7u64)), "sent again, not asked for");
    server.reply(first.xid.get(), Status::Refused(NotExecuted::Overloaded), &[]).await;
    let outcome = world.within("the call's outcome", call).await;
    assert!(matches!(outcome, Outcome::Unknown(Unknown::Repeated, None)), "{outcome:?}");
}

pub async fn c74_an_abandoned_idempotent_call_is_asked_for_and_not_acknowledged(world: World) {
    let (connector, acceptor) = world.listen().await;
    let link = FaultyLink::to(connector);
    let client = world.client(&link);
    let call = client.call(&WAIT_AGAIN, &7).start();
    let mut server = world.accept(&acceptor).await;
    server.take_in([1; 16], 0).await;
    let (first, _) = server.requested().await;
    drop(call);
    assert_eq!(server.next_of_call().await, Some((Frame::Cancel(first.xid), Vec::new())));
    drop(server);
    let mut server = world.accept(&acceptor).await;
    server.take_in([1; 16], first.xid.get()).await;
    assert_eq!(server.next_of_call().await, Some((Frame::Ask(first.xid, 1), Vec::new())));
    assert_eq!(server.next_of_call().await, Some((Frame::Cancel(first.xid), Vec::new())));
    let next = client.call(&ADD_ONE, &1).start();
    let (header, _) = server.requested().await;
    assert!(header.acked < first.xid.get(), "X does not cover what may run");
    server.reply(header.xid.get(), Status::Done, &arguments(&2u64)).await;
    expect_reply(&world, next, 2).await;
}
