//! Cases of connections: cut, silent, slow, crossing.

use std::io;
use std::time::Duration;

use oncewire_core::wire::{Frame, Refuse};
use oncewire_core::{NotExecuted, ProtocolError, Status, Unknown};

use super::faulty_link::{Action, FaultyLink, Mark, Plan};
use super::raw_peer::{encode, request};
use super::service::{ADD_ONE, BLOB, WAIT, arguments};
use super::world::World;
use super::{Direction, expect_reply, kind};
use crate::client::Outcome;

pub async fn c31_a_call_of_which_no_byte_left_was_not_executed(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    link.refuse_dials(true);
    let client = world.client(&link);
    let waits = client.call(&ADD_ONE, &1).timeout(Duration::from_secs(5)).start();
    world
        .until("a refused dial", || link.dials() > 0 && client.status().last_error.is_some())
        .await;
    let outcome = world.within("an end at once", client.call(&ADD_ONE, &2).fail_fast(true)).await;
    let disconnected = Outcome::<u64>::NotExecuted(NotExecuted::Disconnected);
    assert_eq!(format!("{outcome:?}"), format!("{disconnected:?}"));
    world.advance(Duration::from_secs(6));
    let outcome = world.within("the deadline", waits).await;
    let passed = NotExecuted::DeadlinePassed;
    assert!(matches!(&outcome, Outcome::NotExecuted(why) if *why == passed), "{outcome:?}");
    link.refuse_dials(false);
    expect_reply(&world, client.call(&ADD_ONE, &3), 4).await;
    assert_eq!(world.service.arguments(), [3]);
}

pub async fn c32_a_request_cut_in_half_runs_once_after_the_resume(world: World) {
    for len in [1, 4, 5, 20, 36, 37] {
        let host = world.host().await;
        let link = FaultyLink::to(host.connector.clone());
        let client = world.connected(&link).await;
        link.fault(Direction::Up, Mark::Inside(kind::REQUEST, len), Action::Cut);
        let before = world.service.runs();
        // 37 bytes are the whole request: 36 of its header and one of its argument.
        expect_reply(&world, client.call(&ADD_ONE, &1), 2).await;
        assert_eq!(world.service.runs(), before + 1, "cut at byte {len}");
        assert_eq!(client.status().reconnects, 1);
        assert_eq!(client.status().counters.sessions, 1);
    }
}

pub async fn c32_a_fail_fast_request_cut_in_half_is_unknown_and_its_ticket_says_more(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    link.fault(Direction::Up, Mark::Inside(kind::REQUEST, 20), Action::Cut);
    let call = client.call(&ADD_ONE, &1).fail_fast(true);
    let outcome = world.within("an end at the break", call).await;
    let Outcome::Unknown(Unknown::Disconnected, Some(mut ticket)) = outcome else {
        panic!("Unknown with a ticket was expected, this came: {outcome:?}");
    };
    let outcome = world.within("the ticket's outcome", ticket.wait()).await;
    let never = NotExecuted::Disconnected;
    assert!(matches!(&outcome, Outcome::NotExecuted(why) if *why == never), "{outcome:?}");
    expect_reply(&world, client.call(&ADD_ONE, &2), 3).await;
    assert_eq!(world.service.arguments(), [2]);
}

pub async fn c33_a_reply_lost_with_its_connection_comes_after_the_resume(world: World) {
    for len in [0, 1, 7, 16] {
        let host = world.host().await;
        let link = FaultyLink::to(host.connector.clone());
        let client = world.connected(&link).await;
        link.fault(Direction::Down, Mark::Inside(kind::REPLY, len), Action::Cut);
        let before = world.service.runs();
        expect_reply(&world, client.call(&ADD_ONE, &1), 2).await;
        assert_eq!(world.service.runs(), before + 1, "cut at byte {len}");
        let counters = client.status().counters;
        assert_eq!((counters.asks, counters.resends), (1, 0), "asked for, not sent again");
    }
}

pub async fn c33_a_fail_fast_call_whose_reply_is_lost_is_unknown_until_its_ticket_tells(
    world: World,
) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    link.fault(Direction::Down, Mark::Kind(kind::REPLY), Action::Cut);
    let call = client.call(&ADD_ONE, &1).fail_fast(true);
    let outcome = world.within("an end at the break", call).await;
    let Outcome::Unknown(Unknown::Disconnected, Some(mut ticket)) = outcome else {
        panic!("Unknown with a ticket was expected, this came: {outcome:?}");
    };
    let outcome = world.within("the ticket's outcome", ticket.wait()).await;
    assert!(matches!(outcome, Outcome::Reply(2)), "{outcome:?}");
    assert_eq!(world.service.arguments(), [1]);
}

pub async fn c34_every_way_in_which_a_connection_breaks_ends_in_a_typed_outcome(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let errors = [
        None,
        Some(io::ErrorKind::ConnectionReset),
        Some(io::ErrorKind::BrokenPipe),
        Some(io::ErrorKind::UnexpectedEof),
        Some(io::ErrorKind::TimedOut),
        Some(io::ErrorKind::Other),
    ];
    let mut waiting = 0;
    for error in errors {
        let patient = client.call(&WAIT, &1).start();
        let hasty = client.call(&WAIT, &2).fail_fast(true).start();
        waiting += 2;
        world.waiting(waiting).await;
        link.cut_with(error);
        let outcome = world.within("an end at the break", hasty).await;
        let unknown = matches!(outcome, Outcome::Unknown(Unknown::Disconnected, Some(_)));
        assert!(unknown, "{error:?}: {outcome:?}");
        world.service.let_go(2);
        expect_reply(&world, patient, 1).await;
    }
    assert_eq!(world.service.waiting(), waiting, "nothing ran twice");
}

pub async fn c35_the_reply_of_an_abandoned_call_never_reaches_another_call(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let dropped = client.call(&WAIT, &1000).start();
    world.waiting(1).await;
    let timed_out = client.call(&WAIT, &2000).timeout(Duration::from_secs(5)).start();
    world.waiting(2).await;
    drop(dropped);
    world.advance(Duration::from_secs(6));
    let outcome = world.within("the deadline", timed_out).await;
    drop(outcome);
    let others: Vec<_> = (0..4).map(|n| client.call(&WAIT, &n).start()).collect();
    world.waiting(6).await;
    world.service.let_go(6);
    for (n, other) in others.into_iter().enumerate() {
        expect_reply(&world, other, n as u64).await;
    }
    for n in 10..20 {
        expect_reply(&world, client.call(&ADD_ONE, &n), n + 1).await;
    }
    assert_eq!(client.status().reconnects, 0);
}

pub async fn c36_a_call_that_times_out_on_a_healthy_connection_disturbs_no_other(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let patient = client.call(&WAIT, &1).start();
    world.waiting(1).await;
    let hasty = client.call(&WAIT, &2).timeout(Duration::from_secs(1)).start();
    world.waiting(2).await;
    world.advance(Duration::from_secs(2));
    let outcome = world.within("the deadline", hasty).await;
    assert!(matches!(outcome, Outcome::Unknown(Unknown::DeadlinePassed, Some(_))), "{outcome:?}");
    expect_reply(&world, client.call(&ADD_ONE, &1), 2).await;
    world.service.let_go(2);
    expect_reply(&world, patient, 1).await;
    assert_eq!(client.status().reconnects, 0);
}

pub async fn c38_a_server_that_goes_silent_is_noticed_and_calls_go_on_after_the_resume(
    world: World,
) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    link.swallow(Direction::Down);
    let call = client.call(&ADD_ONE, &1).start();
    world.until("the call to run", || world.service.runs() == 1).await;
    let reconnected = || link.connections() == 2;
    let look = Duration::from_millis(2500);
    world.advance_until(look, "the silence to be noticed", reconnected).await;
    expect_reply(&world, call, 2).await;
    assert_eq!(world.service.arguments(), [1]);
}

pub async fn c38_a_client_that_goes_silent_is_noticed_and_its_session_waits(world: World) {
    let host = world.host().await;
    let mut peer = world.raw_peer(&host.connector).await;
    let session = peer.open().await.session;
    let answer = peer.call(1, 0, ADD_ONE.id(), &arguments(&1u64)).await;
    let look = Duration::from_millis(2500);
    let noticed = || host.server.counters().conns == 0;
    world.advance_until(look, "the silence to be noticed", noticed).await;
    let mut peer = world.raw_peer(&host.connector).await;
    peer.resume(session, 0).await;
    peer.ask(1).await;
    assert_eq!(peer.answer(1).await, answer);
}

pub async fn c41_bytes_that_come_one_by_one_change_nothing(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    link.one_byte_at_a_time();
    let client = world.connected(&link).await;
    let calls: Vec<_> = (0..20).map(|n| client.call(&ADD_ONE, &(n << 40)).start()).collect();
    for (n, call) in calls.into_iter().enumerate() {
        expect_reply(&world, call, ((n as u64) << 40) + 1).await;
    }
    let outcome = world.within("a reply", client.call(&BLOB, &5000)).await;
    assert!(matches!(&outcome, Outcome::Reply(reply) if *reply == [7; 5000]));
    assert_eq!(world.service.runs(), 21);
    assert_eq!(client.status().reconnects, 0);
}

pub async fn c41_frames_that_come_all_in_one_read_change_nothing(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    link.hold(Direction::Down);
    let calls: Vec<_> = (0..50).map(|n| client.call(&ADD_ONE, &n).start()).collect();
    world.until("all to run", || world.service.runs() == 50).await;
    // 16 bytes of header and one of body each.
    world.until("all replies", || link.held(Direction::Down) >= 50 * 17).await;
    link.release(Direction::Down);
    for (n, call) in calls.into_iter().enumerate() {
        expect_reply(&world, call, n as u64 + 1).await;
    }
    let mut peer = world.raw_peer(&host.connector).await;
    peer.open().await;
    let mut bytes = Vec::new();
    for xid in 1..=4 {
        let header = request(xid, 0, ADD_ONE.id());
        bytes.extend(encode(&Frame::Request(header, &arguments(&xid))));
    }
    peer.send_bytes(&bytes).await;
    for xid in 1..=4u64 {
        assert_eq!(peer.answer(xid).await, (Status::Done, arguments(&(xid + 1))));
    }
}

pub async fn c42_a_peer_that_never_says_hello_is_closed(world: World) {
    for beginning in [&b""[..], b"\x20\0\0"] {
        let host = world.host().await;
        let mut peer = world.raw_peer(&host.connector).await;
        peer.send_bytes(beginning).await;
        world.counted(&host, "the connection", |counters| counters.conns == 1).await;
        let closed = || host.server.counters().conns == 0;
        let step = Duration::from_millis(2500);
        world.advance_until(step, "the handshake's time to be over", closed).await;
        assert_eq!(peer.refused().await, Refuse::TooSlow);
    }
}

pub async fn c42_a_peer_that_never_ends_its_frame_is_closed_and_its_session_waits(world: World) {
    let host = world.host_with(|config| config.frame_timeout = Duration::from_secs(5)).await;
    let mut peer = world.raw_peer(&host.connector).await;
    let session = peer.open().await.session;
    peer.call(1, 0, ADD_ONE.id(), &arguments(&1u64)).await;
    let header = request(2, 1, ADD_ONE.id());
    peer.send_bytes(&encode(&Frame::Request(header, &arguments(&2u64)))[..30]).await;
    let closed = || host.server.counters().conns == 0;
    let step = Duration::from_millis(2500);
    world.advance_until(step, "the frame's time to be over", closed).await;
    peer.rest().await;
    let mut peer = world.raw_peer(&host.connector).await;
    assert_eq!(peer.resume(session, 1).await.seen, 1);
    assert_eq!(world.service.arguments(), [1]);
}

pub async fn c44_a_server_that_closes_answers_what_runs_and_refuses_what_is_on_its_way(
    world: World,
) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let running = client.call(&WAIT, &1).start();
    world.waiting(1).await;
    link.hold(Direction::Up);
    let on_its_way = client.call(&ADD_ONE, &2).start();
    world.until("the request to leave", || link.held(Direction::Up) > 0).await;
    let server = host.server.clone();
    let drain = world.spawn(async move { server.drain(Duration::from_secs(1000)).await });
    let said = || link.frames(Direction::Down, kind::GOODBYE_OF_SERVER) == 1;
    world.until("the server's goodbye", said).await;
    link.release(Direction::Up);
    let outcome = world.within("the refusal", on_its_way).await;
    let refused = NotExecuted::ShuttingDown;
    assert!(matches!(&outcome, Outcome::NotExecuted(why) if *why == refused), "{outcome:?}");
    world.service.let_go(1);
    expect_reply(&world, running, 1).await;
    world.within("the drain", drain).await;
    assert_eq!(world.service.runs(), 1);
    let late = client.call(&ADD_ONE, &3).fail_fast(true);
    let outcome = world.within("an end at once", late).await;
    assert_eq!(outcome.executed(), oncewire_core::Executed::No, "{outcome:?}");
}

pub async fn c71_the_first_answer_settles_and_a_second_one_is_dropped(world: World) {
    let (connector, acceptor) = world.listen().await;
    let client = world.client(&FaultyLink::to(connector));
    let call = client.call(&ADD_ONE, &1).start();
    let mut server = world.accept(&acceptor).await;
    server.take_in([1; 16], 0).await;
    let (first, _) = server.requested().await;
    let xid = first.xid.get();
    server.reply(xid, Status::Done, &arguments(&2u64)).await;
    server.reply(xid, Status::Done, &arguments(&3u64)).await;
    server.reply(xid, Status::Refused(NotExecuted::Cancelled), &[]).await;
    expect_reply(&world, call, 2).await;
    let call = client.call(&ADD_ONE, &4).start();
    let (second, _) = server.requested().await;
    assert!(second.xid > first.xid);
    server.reply(second.xid.get(), Status::Done, &arguments(&5u64)).await;
    expect_reply(&world, call, 5).await;
    assert_eq!(client.status().counters.late_answers, 2);
    assert_eq!(client.status().reconnects, 0);
}

pub async fn c71_a_reply_that_crosses_a_cancel_is_dropped(world: World) {
    let (connector, acceptor) = world.listen().await;
    let client = world.client(&FaultyLink::to(connector));
    let call = client.call(&ADD_ONE, &1).start();
    let mut server = world.accept(&acceptor).await;
    server.take_in([1; 16], 0).await;
    let (first, _) = server.requested().await;
    drop(call);
    let cancel = server.next_of_call().await;
    assert_eq!(cancel, Some((Frame::Cancel(first.xid), Vec::new())));
    let call = client.call(&ADD_ONE, &4).start();
    let (second, _) = server.requested().await;
    assert_ne!(second.xid, first.xid);
    server.reply(first.xid.get(), Status::Done, &arguments(&2u64)).await;
    server.reply(second.xid.get(), Status::Done, &arguments(&5u64)).await;
    expect_reply(&world, call, 5).await;
    assert_eq!(client.status().counters.late_answers, 0, "it settled its call");
}

pub async fn c75_what_is_kept_when_a_draining_servers_connection_breaks_comes_after_the_resume(
    world: World,
) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let call = client.call(&WAIT, &1).start();
    world.waiting(1).await;
    let server = host.server.clone();
    let drain = world.spawn(async move { server.drain(Duration::from_secs(1000)).await });
    let said = || link.frames(Direction::Down, kind::GOODBYE_OF_SERVER) == 1;
    world.until("the server's goodbye", said).await;
    link.fault(Direction::Down, Mark::Kind(kind::REPLY), Action::Cut);
    world.service.let_go(1);
    expect_reply(&world, call, 1).await;
    // The client still had an answer to come, so it had not said its own.
    assert_eq!(link.connections(), 2);
    world.within("the drain", drain).await;
    assert_eq!(world.service.waiting(), 1);
}

pub async fn a_fail_fast_call_ends_with_its_connection_though_no_timer_fires(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let calls: Vec<_> = (0..3).map(|n| client.call(&WAIT, &n).fail_fast(true).start()).collect();
    world.waiting(3).await;
    world.freeze_timers();
    link.cut();
    for call in calls {
        let outcome = world.within("an end at the break", call).await;
        let unknown = matches!(outcome, Outcome::Unknown(Unknown::Disconnected, Some(_)));
        assert!(unknown, "{outcome:?}");
    }
}

pub async fn c434_a_client_that_shuts_down_its_write_side_learns_what_it_missed_by_asking(
    world: World,
) {
    let host = world.host().await;
    let mut peer = world.raw_peer(&host.connector).await;
    let session = peer.open().await.session;
    peer.request(1, 0, WAIT.id(), &arguments(&1u64)).await;
    world.waiting(1).await;
    peer.request(2, 0, ADD_ONE.id(), &arguments(&2u64)).await;
    peer.shut_down().await;
    // The connection ends, though a call runs. What is ready leaves before, where the stream takes it at once.
    for (frame, body) in peer.rest().await {
        assert!(matches!(frame, Frame::Reply(header, _) if header.xid.get() == 2), "{frame:?}");
        assert_eq!(body, arguments(&3u64));
    }
    world.counted(&host, "the end", |counters| counters.conns == 0).await;
    world.service.let_go(1);
    let mut peer = world.raw_peer(&host.connector).await;
    assert_eq!(peer.resume(session, 0).await.seen, 2);
    for (xid, reply) in [(1, 1u64), (2, 3)] {
        peer.ask(xid).await;
        assert_eq!(peer.answer(xid).await, (Status::Done, arguments(&reply)));
    }
    assert_eq!(world.service.runs(), 2);
}

pub async fn c434_a_server_that_shuts_down_its_write_side_leaves_calls_in_doubt_and_is_asked(
    world: World,
) {
    let (connector, acceptor) = world.listen().await;
    let client = world.client(&FaultyLink::to(connector));
    let waits = client.call(&ADD_ONE, &1).start();
    let fails = client.call(&ADD_ONE, &2).fail_fast(true).start();
    let mut server = world.accept(&acceptor).await;
    server.take_in([1; 16], 0).await;
    let numbers = [server.requested().await.0.xid.get(), server.requested().await.0.xid.get()];
    server.shut_down().await;
    let outcome = world.within("an end at the break", fails).await;
    let Outcome::Unknown(Unknown::Disconnected, Some(mut ticket)) = outcome else {
        panic!("Unknown with a ticket was expected, this came: {outcome:?}")
    };
    let mut server = world.accept(&acceptor).await;
    server.take_in([1; 16], numbers[1]).await;
    for (xid, reply) in numbers.into_iter().zip([2u64, 3]) {
        let asked = server.next_of_call().await;
        assert!(matches!(asked, Some((Frame::Ask(of, _), _)) if of.get() == xid), "{asked:?}");
        server.reply(xid, Status::Done, &arguments(&reply)).await;
    }
    expect_reply(&world, waits, 2).await;
    assert_eq!(world.within("the ticket's outcome", ticket.wait()).await.ok(), Ok(3));
}

pub async fn a_one_way_call_runs_once_though_its_connection_breaks(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let cut = |way, mark| match way {
        Direction::Up => Plan { up: Some((mark, Action::Cut)), ..Plan::default() },
        Direction::Down => Plan { down: Some((mark, Action::Cut)), ..Plan::default() },
    };
    link.plan(cut(Direction::Up, Mark::Inside(kind::REQUEST, 10)));
    link.plan(cut(Direction::Down, Mark::Kind(kind::REPLY)));
    let client = world.client(&link);
    client.send(&ADD_ONE, &1).expect("it is begun");
    world.until("it to run", || world.service.runs() == 1).await;
    world.until("the resumes", || link.connections() == 3).await;
    expect_reply(&world, client.call(&ADD_ONE, &2), 3).await;
    client.send(&ADD_ONE, &3).expect("it is begun");
    world.within("the goodbye", client.close()).await;
    assert_eq!(world.service.arguments(), [1, 2, 3]);
    world.counted(&host, "the session to end", |counters| counters.sessions == 0).await;
}

pub async fn c37_a_broken_frame_closes_its_connection_and_the_session_survives(world: World) {
    let host = world.host().await;
    let neighbour = world.connected(&FaultyLink::to(host.connector.clone())).await;
    let max = 16u32 << 20;
    let broken: [(&[u8], ProtocolError); 6] = [
        (b"\xff\xff\xff\xff\x02", ProtocolError::FrameTooLong { len: u32::MAX, max }),
        (b"\x01\0\0\0\x33", ProtocolError::UnknownKind(0x33)),
        (b"\x01\0\0\0\x42", ProtocolError::UnknownKind(0x42)),
        (b"\0\0\0\0\0", ProtocolError::FrameTooShort { kind: 0, len: 0 }),
        (b"\x05\0\0\0\x02abcd", ProtocolError::FrameTooShort { kind: 2, len: 5 }),
        (b"\x02\0\0\0\x06x", ProtocolError::Malformed { kind: 6 }),
    ];
    let mut peer = world.raw_peer(&host.connector).await;
    let session = peer.open().await.session;
    let answer = peer.call(1, 0, ADD_ONE.id(), &arguments(&1u64)).await;
    for (n, (bytes, error)) in broken.into_iter().enumerate() {
        peer.send_bytes(bytes).await;
        assert_eq!(peer.refused().await, Refuse::Protocol(error.code()), "{error}");
        peer = world.raw_peer(&host.connector).await;
        assert_eq!(peer.resume(session, 0).await.seen, 1);
        peer.ask(1).await;
        assert_eq!(peer.answer(1).await, answer, "the session survives");
        expect_reply(&world, neighbour.call(&ADD_ONE, &(n as u64)), n as u64 + 1).await;
    }
    assert_eq!(neighbour.status().reconnects, 0, "other sessions are not affected");
}
