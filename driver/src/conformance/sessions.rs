//! Cases of sessions: opened, resumed, expired, refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oncewire_core::wire::{Frame, Instance, Refuse, Resume, ServiceName};
use oncewire_core::{
    CloseReason, NotExecuted, ProtocolError, ServerId, SessionId, Status, Unknown,
};

use super::faulty_link::{Action, FaultyLink, Mark, Plan};
use super::raw_peer::{encode, hello, request, welcome};
use super::service::{ADD_ONE, WAIT, arguments, value};
use super::world::{NamingAcceptor, World};
use super::{expect_reply, kind};
use crate::client::Outcome;

const LEASE_AND_MORE: Duration = Duration::from_secs(301);

pub async fn c01_a_request_before_the_handshake_is_not_executed_and_leaves_no_state(world: World) {
    let host = world.host().await;
    let mut peer = world.raw_peer(&host.connector).await;
    peer.request(1, 0, ADD_ONE.id(), &arguments(&1u64)).await;
    let code = ProtocolError::NoSession.code();
    assert_eq!(peer.refused().await, Refuse::Protocol(code));
    assert_eq!(host.server.counters().sessions, 0);
    assert_eq!(world.service.runs(), 0);
}

pub async fn c01_a_request_for_a_session_never_opened_is_not_executed(world: World) {
    let host = world.host().await;
    let mut peer = world.raw_peer(&host.connector).await;
    let session = SessionId::from_bytes([42; 16]);
    let mut bytes = encode(&Frame::Hello(hello(Some(Resume { session, acked: 0 }))));
    let header = request(1, 0, ADD_ONE.id());
    bytes.extend(encode(&Frame::Request(header, &arguments(&1u64))));
    peer.send_bytes(&bytes).await;
    assert_eq!(peer.refused().await, Refuse::SessionUnknown);
    assert_eq!(host.server.counters().sessions, 0);
    assert_eq!(world.service.runs(), 0);
}

pub async fn c02_a_lost_welcome_leaves_an_empty_session_that_ends(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    link.plan(Plan { down: Some((Mark::Kind(kind::WELCOME), Action::Cut)), ..Plan::default() });
    let client = world.client(&link);
    expect_reply(&world, client.call(&ADD_ONE, &1), 2).await;
    assert_eq!(link.connections(), 2);
    assert_eq!(world.service.runs(), 1);
    assert_eq!(host.server.counters().sessions, 2);
    world.advance(Duration::from_secs(11));
    world.counted(&host, "the empty session to end", |counters| counters.sessions == 1).await;
    expect_reply(&world, client.call(&ADD_ONE, &2), 3).await;
    assert_eq!(client.status().counters.sessions, 1);
}

pub async fn c02_no_resume_lands_in_the_empty_session_of_another_server(world: World) {
    let (first, second) = (world.host().await, world.host().await);
    // A delayed open of an earlier dial, read by the other server behind the same address.
    let mut late = world.raw_peer(&first.connector).await;
    late.open().await;
    let link = FaultyLink::to(second.connector.clone());
    let client = world.connected(&link).await;
    let call = client.call(&WAIT, &1).start();
    world.waiting(1).await;
    link.lead_to(first.connector.clone());
    link.cut();
    let outcome = world.within("the call's outcome", call).await;
    assert!(matches!(outcome, Outcome::Unknown(Unknown::SessionEnded, None)), "{outcome:?}");
    world.service.let_go(1);
    expect_reply(&world, client.call(&ADD_ONE, &1), 2).await;
    assert_eq!(world.service.waiting(), 1, "it ran once, at the second server");
    assert_eq!(first.server.counters().resumes, 0);
}

pub async fn c03_a_client_that_starts_again_has_a_new_session_and_the_old_one_ends(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let first = world.client(&link);
    expect_reply(&world, first.call(&ADD_ONE, &1), 2).await;
    // It is gone without a word.
    link.refuse_dials(true);
    link.cut();
    let link = FaultyLink::to(host.connector.clone());
    let second = world.client(&link);
    expect_reply(&world, second.call(&ADD_ONE, &2), 3).await;
    assert_eq!(host.server.counters().sessions, 2);
    world.advance(LEASE_AND_MORE);
    world.counted(&host, "the old session to end", |counters| counters.sessions == 1).await;
    expect_reply(&world, second.call(&ADD_ONE, &3), 4).await;
    assert_eq!(second.status().counters.sessions, 1);
}

pub async fn c04_another_principal_gets_nothing_of_a_session_whose_id_it_knows(world: World) {
    let server = world.service.offer("suite").runtime(world.runtime()).build().expect("a server");
    let (connector, acceptor) = world.listen().await;
    let acceptor = NamingAcceptor::new(acceptor, &["alice", "bob", "alice"]);
    let host = world.host_at(server, connector, acceptor);
    let mut alice = world.raw_peer(&host.connector).await;
    let session = alice.open().await.session;
    let (status, reply) = alice.call(1, 0, ADD_ONE.id(), &arguments(&1u64)).await;
    assert_eq!(status, Status::Done);
    let mut bob = world.raw_peer(&host.connector).await;
    bob.send(&Frame::Hello(hello(Some(Resume { session, acked: 0 })))).await;
    bob.ask(1).await;
    assert_eq!(
        bob.rest().await,
        [(Frame::Refuse(Refuse::WrongPrincipal, Instance::UNNAMED), Vec::new())]
    );
    let (status, _) = alice.call(2, 0, ADD_ONE.id(), &arguments(&2u64)).await;
    assert_eq!(status, Status::Done, "the session is unharmed");
    drop(alice);
    let mut alice = world.raw_peer(&host.connector).await;
    assert_eq!(alice.resume(session, 0).await.seen, 2);
    alice.ask(1).await;
    assert_eq!(alice.answer(1).await, (Status::Done, reply));
}

pub async fn c05_calls_in_doubt_are_never_sent_again_after_their_session_expired(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let call = client.call(&WAIT, &1).start();
    world.waiting(1).await;
    link.refuse_dials(true);
    link.cut();
    world.counted(&host, "the loss", |counters| counters.conns == 0).await;
    world.service.let_go(1);
    world.counted(&host, "the call to finish", |counters| counters.running == 0).await;
    world.advance(LEASE_AND_MORE);
    world.counted(&host, "the session to end", |counters| counters.sessions == 0).await;
    link.refuse_dials(false);
    let outcome = world.within("the call's outcome", call).await;
    assert!(matches!(outcome, Outcome::Unknown(Unknown::SessionEnded, None)), "{outcome:?}");
    expect_reply(&world, client.call(&ADD_ONE, &1), 2).await;
    assert_eq!(world.service.waiting(), 1);
    assert_eq!(client.status().counters.sent, 2, "each call was sent once");
}

pub async fn c06_calls_that_never_left_run_in_the_new_session(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    expect_reply(&world, client.call(&ADD_ONE, &1), 2).await;
    link.refuse_dials(true);
    link.cut();
    world.until("the loss", || !client.status().connected).await;
    let queued = client.call(&ADD_ONE, &2).start();
    world.counted(&host, "the loss", |counters| counters.conns == 0).await;
    world.advance(LEASE_AND_MORE);
    world.counted(&host, "the session to end", |counters| counters.sessions == 0).await;
    link.refuse_dials(false);
    expect_reply(&world, queued, 3).await;
    assert_eq!(client.status().counters.sessions, 2);
    assert_eq!(world.service.arguments(), [1, 2]);
}

pub async fn c07_a_session_is_not_dropped_while_one_of_its_calls_runs(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let call = client.call(&WAIT, &5).start();
    world.waiting(1).await;
    link.refuse_dials(true);
    link.cut();
    world.counted(&host, "the loss", |counters| counters.conns == 0).await;
    // A second session, whose end shows that the leases were looked at.
    world.raw_peer(&host.connector).await.open().await;
    world.counted(&host, "both sessions alone", |c| c.sessions == 2 && c.conns == 0).await;
    world.advance(LEASE_AND_MORE);
    world.counted(&host, "the other session to end", |counters| counters.sessions == 1).await;
    link.refuse_dials(false);
    world.counted(&host, "the resume", |counters| counters.resumes == 1).await;
    world.service.let_go(1);
    expect_reply(&world, call, 5).await;
    assert_eq!(client.status().counters.sessions, 1);
}

pub async fn c07_a_session_whose_lease_is_over_ends_when_its_last_call_has_finished(world: World) {
    let host = world.host().await;
    let mut peer = world.raw_peer(&host.connector).await;
    let session = peer.open().await.session;
    peer.request(1, 0, WAIT.id(), &arguments(&5u64)).await;
    world.waiting(1).await;
    drop(peer);
    world.counted(&host, "the loss", |counters| counters.conns == 0).await;
    world.raw_peer(&host.connector).await.open().await;
    world.counted(&host, "both sessions alone", |c| c.sessions == 2 && c.conns == 0).await;
    world.advance(LEASE_AND_MORE);
    world.counted(&host, "the other session to end", |counters| counters.sessions == 1).await;
    world.service.let_go(1);
    world.counted(&host, "the session to end", |counters| counters.sessions == 0).await;
    assert_eq!(host.server.counters().kept_bytes, 0);
    let mut peer = world.raw_peer(&host.connector).await;
    peer.send(&Frame::Hello(hello(Some(Resume { session, acked: 0 })))).await;
    assert_eq!(peer.refused().await, Refuse::SessionUnknown);
}

pub async fn c08_a_full_session_table_refuses_newcomers_and_evicts_no_session(world: World) {
    let host = world.host_with(|config| config.sessions_max = 1).await;
    let link = FaultyLink::to(host.connector.clone());
    let first = world.connected(&link).await;
    let mut newcomer = world.raw_peer(&host.connector).await;
    newcomer.send(&Frame::Hello(hello(None))).await;
    assert_eq!(newcomer.refused().await, Refuse::SessionsFull);
    let second = world.client(&FaultyLink::to(host.connector.clone()));
    let full = CloseReason::Refused(Refuse::SessionsFull).to_string();
    let said = || second.status().last_error.is_some_and(|why| why.contains(&full));
    world.until("the second client to learn why", said).await;
    let waits = second.call(&ADD_ONE, &2).start();
    expect_reply(&world, first.call(&ADD_ONE, &1), 2).await;
    world.within("the first client's goodbye", first.close()).await;
    expect_reply(&world, waits, 3).await;
}

pub async fn c08_a_full_share_of_a_principal_refuses_only_that_principal(world: World) {
    let builder = world.service.offer("suite").configure(|c| c.sessions_per_principal_max = 1);
    let server = builder.runtime(world.runtime()).build().expect("a server");
    let (connector, acceptor) = world.listen().await;
    let acceptor = NamingAcceptor::new(acceptor, &["alice", "alice", "bob"]);
    let host = world.host_at(server, connector, acceptor);
    let mut alice = world.raw_peer(&host.connector).await;
    alice.open().await;
    let mut again = world.raw_peer(&host.connector).await;
    again.send(&Frame::Hello(hello(None))).await;
    assert_eq!(again.refused().await, Refuse::PrincipalFull);
    let mut bob = world.raw_peer(&host.connector).await;
    bob.open().await;
    for peer in [&mut alice, &mut bob] {
        let (_, reply) = peer.call(1, 0, ADD_ONE.id(), &arguments(&1u64)).await;
        assert_eq!(value::<u64>(&reply), 2);
    }
}

pub async fn c09_a_clock_that_jumps_forward_ends_no_session_whose_connection_lives(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    expect_reply(&world, client.call(&ADD_ONE, &1), 2).await;
    world.advance(Duration::from_secs(3600));
    expect_reply(&world, client.call(&ADD_ONE, &2), 3).await;
    assert_eq!(client.status().counters.sessions, 1);
    assert_eq!(client.status().reconnects, 0);
}

pub async fn c10_another_service_than_demanded_ends_before_anything_runs(world: World) {
    let builder = world.service.offer("mail");
    let host = world.host_of(builder).await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.client_with(&link, |options| options.service = ServiceName::new("jobs"));
    let outcome = world.within("the refusal", client.call(&ADD_ONE, &1)).await;
    let refused = NotExecuted::SessionRefused;
    assert!(matches!(&outcome, Outcome::NotExecuted(why) if *why == refused), "{outcome:?}");
    let why = client.status().refused.expect("the server refuses this client for good");
    let message = why.to_string();
    assert!(message.contains("\"jobs\"") && message.contains("\"mail\""), "{message}");
    let instance = host.server.instance();
    assert_eq!(client.status().instance, Some(instance));
    let message = client.status().last_error.expect("it names the instance");
    assert!(message.contains(&instance.to_string()), "{message}");
    assert!(!world.within("the refusal", client.connected()).await);
    // One that comes after the refusal fares no differently.
    let outcome = world.within("the refusal", client.call(&ADD_ONE, &1)).await;
    assert!(matches!(&outcome, Outcome::NotExecuted(why) if *why == refused), "{outcome:?}");
    assert_eq!(world.service.runs(), 0);
    assert_eq!(host.server.counters().sessions, 0);
}

pub async fn c10_another_server_than_demanded_ends_before_anything_runs(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let wanted = ServerId::from_bytes([5; 16]);
    let client = world.client_with(&link, |options| options.server = Some(wanted));
    let outcome = world.within("the refusal", client.call(&ADD_ONE, &1)).await;
    let refused = NotExecuted::SessionRefused;
    assert!(matches!(&outcome, Outcome::NotExecuted(why) if *why == refused), "{outcome:?}");
    let found = host.server.id();
    let why = client.status().refused.expect("the server refuses this client for good");
    assert_eq!(why, CloseReason::WrongServer { wanted, found });
    let message = why.to_string();
    assert!(message.contains(&wanted.to_string()) && message.contains(&found.to_string()));
    assert_eq!(world.service.runs(), 0);
}

pub async fn c68_short_lived_clients_leave_no_sessions_behind(world: World) {
    let host = world.host_with(|config| config.sessions_max = 8).await;
    for n in 0..200 {
        let client = world.client(&FaultyLink::to(host.connector.clone()));
        expect_reply(&world, client.call(&ADD_ONE, &n), n + 1).await;
        world.within("the goodbye", client.close()).await;
    }
    world.counted(&host, "the last session to end", |counters| counters.sessions == 0).await;
    world.counted(&host, "the last connection to end", |counters| counters.conns == 0).await;
    assert_eq!(world.service.runs(), 200);
}

pub async fn c77_a_session_whose_welcome_was_read_late_is_still_there_for_the_resume(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    link.plan(Plan { down: Some((Mark::Kind(kind::WELCOME), Action::Hold)), ..Plan::default() });
    let client = world.client(&link);
    let call = client.call(&ADD_ONE, &1).start();
    world.counted(&host, "the session", |counters| counters.sessions == 1).await;
    // All of it: on a stream that takes few bytes at a time, the rest would be lost with the connection.
    let held = || link.connections() == 1 && link.held_frames(super::Direction::Down) == 1;
    world.until("the Welcome", held).await;
    link.detach();
    world.counted(&host, "the server to notice", |counters| counters.conns == 0).await;
    link.release(super::Direction::Down);
    let gone = || link.frames(super::Direction::Up, kind::REQUEST) == 1;
    world.until("the request to go nowhere", gone).await;
    assert_eq!(world.service.runs(), 0);
    link.cut();
    expect_reply(&world, call, 2).await;
    assert_eq!(world.service.runs(), 1);
    assert_eq!(client.status().counters.sessions, 1);
    assert_eq!(client.status().counters.resumes, 1);
}

pub async fn c118_a_client_that_is_refused_each_time_waits_before_it_dials_again(world: World) {
    let refusals = [
        (false, Refuse::SessionUnknown),
        (false, Refuse::WrongPrincipal),
        (false, Refuse::SessionsFull),
        (false, Refuse::ShuttingDown),
        (true, Refuse::SessionUnknown),
        (true, Refuse::WrongPrincipal),
        (true, Refuse::Superseded),
    ];
    for (is_welcome, refusal) in refusals {
        let (connector, acceptor) = world.listen().await;
        let link = FaultyLink::to(connector);
        let client = world.client_with(&link, |options| {
            // A pause ends only when the case moves the time on.
            options.backoff_min = Duration::from_secs(1_000_000);
            options.backoff_max = options.backoff_min;
            options.connect_timeout = Duration::from_secs(1_000_000_000);
        });
        let welcomes = Arc::new(AtomicBool::new(false));
        let server = world.spawn({
            let (world, welcomes) = (world.clone(), welcomes.clone());
            async move {
                let mut held = Vec::new();
                loop {
                    let mut server = world.accept(&acceptor).await;
                    if welcomes.load(Ordering::SeqCst) {
                        server.take_in([1; 16], 0).await;
                        held.push(server);
                        continue;
                    }
                    let hello = server.hello().await;
                    if is_welcome {
                        server.send(&Frame::Welcome(welcome(&hello, [1; 16], 0))).await;
                    }
                    server.send(&Frame::Refuse(refusal, Instance::UNNAMED)).await;
                    server.rest().await;
                }
            }
        });
        world.until("a refusal", || client.status().last_error.is_some()).await;
        for _ in 0..50 {
            world.moment().await;
        }
        // Where a session may have been lost, the first attempt at a new one does not wait.
        assert!(link.dials() <= 2, "{refusal:?}: {} attempts, and no time passed", link.dials());
        welcomes.store(true, Ordering::SeqCst);
        let connected = || client.status().connected;
        world.advance_until(Duration::from_secs(100_000), "the session", connected).await;
        server.cancel().await;
    }
}
