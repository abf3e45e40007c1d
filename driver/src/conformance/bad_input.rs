//! Cases of input that no right peer sends, and of calls that cannot be.

use oncewire_core::wire::{Frame, Hello, Instance, Refuse, Role, VERSION};
use oncewire_core::{Executed, MethodId, NoReply, NotBegun, NotExecuted, ProtocolError, Status};

use super::expect_reply;
use super::faulty_link::FaultyLink;
use super::raw_peer::{RawPeer, encode, hello, request, welcome};
use super::service::{
    ADD_ONE, ADD_ONE_OF_ANOTHER_VERSION, BLOB, ECHO, SMALL_BLOB, WAIT, arguments,
};
use super::world::{Host, World};
use crate::client::Outcome;

/// What a server says to a connection on which only this was sent; a neighbour notices nothing.
async fn first_words(world: &World, host: &Host, bytes: &[u8]) -> Refuse {
    let neighbour = world.connected(&FaultyLink::to(host.connector.clone())).await;
    let mut peer = world.raw_peer(&host.connector).await;
    peer.send_bytes(bytes).await;
    let refuse = peer.refused().await;
    expect_reply(world, neighbour.call(&ADD_ONE, &1), 2).await;
    assert_eq!(neighbour.status().reconnects, 0);
    refuse
}

pub async fn garbage_is_refused_as_another_protocol(world: World) {
    let host = world.host().await;
    let request = b"\x10\0\0\0\x01GET / HTTP/1.1\r\n";
    let refuse = first_words(&world, &host, request).await;
    assert_eq!(refuse, Refuse::Protocol(ProtocolError::BadMagic.code()));
    assert_eq!(world.service.runs(), 1);
}

pub async fn a_plain_http_request_is_refused(world: World) {
    let host = world.host().await;
    let refuse = first_words(&world, &host, b"GET / HTTP/1.1\r\nHost: example\r\n\r\n").await;
    assert!(matches!(refuse, Refuse::Protocol(_)), "{refuse:?}");
}

pub async fn an_unsupported_version_is_refused_with_the_supported_ones(world: World) {
    let host = world.host().await;
    let future = Hello { version_min: VERSION + 1, version_max: VERSION + 3, ..hello(None) };
    let refuse = first_words(&world, &host, &encode(&Frame::Hello(future))).await;
    assert_eq!(refuse, Refuse::VersionUnsupported { min: VERSION, max: VERSION });
}

pub async fn a_range_of_versions_that_includes_ours_is_welcome(world: World) {
    let host = world.host().await;
    let mut peer = world.raw_peer(&host.connector).await;
    let wide = Hello { version_min: 0, version_max: VERSION + 9, ..hello(None) };
    assert_eq!(peer.greet(wide).await.version, VERSION);
}

pub async fn a_server_of_another_version_ends_the_client_with_a_reason(world: World) {
    let (connector, acceptor) = world.listen().await;
    let client = world.client(&FaultyLink::to(connector));
    let call = client.call(&ADD_ONE, &1).start();
    let mut server = world.accept(&acceptor).await;
    server.hello().await;
    server
        .send(&Frame::Refuse(Refuse::VersionUnsupported { min: 7, max: 9 }, Instance::UNNAMED))
        .await;
    let outcome = world.within("the call's outcome", call).await;
    let refused = NotExecuted::SessionRefused;
    assert!(matches!(&outcome, Outcome::NotExecuted(why) if *why == refused), "{outcome:?}");
    let why = client.status().refused.expect("refused for good").to_string();
    assert!(why.contains("7 to 9"), "{why}");
}

pub async fn a_truncated_frame_at_the_end_of_a_connection_is_dropped(world: World) {
    let host = world.host().await;
    let mut peer = world.raw_peer(&host.connector).await;
    let session = peer.open().await.session;
    let whole = encode(&Frame::Request(request(1, 0, ADD_ONE.id()), &arguments(&1u64)));
    for len in [1, 4, 5, 35, 36] {
        peer.send_bytes(&whole[..len]).await;
        drop(peer);
        world.counted(&host, "the loss", |counters| counters.conns == 0).await;
        peer = world.raw_peer(&host.connector).await;
        assert_eq!(peer.resume(session, 0).await.seen, 0);
    }
    assert_eq!(world.service.runs(), 0);
    peer.send_bytes(&whole).await;
    assert_eq!(peer.answer(1).await.0, Status::Done);
}

pub async fn a_second_hello_closes_the_connection(world: World) {
    let host = world.host().await;
    let mut peer = world.raw_peer(&host.connector).await;
    peer.open().await;
    peer.send(&Frame::Hello(hello(None))).await;
    assert_eq!(peer.refused().await, Refuse::Protocol(ProtocolError::SecondHello.code()));
    assert_eq!(host.server.counters().sessions, 1);
}

pub async fn a_request_after_goodbye_closes_the_connection(world: World) {
    let host = world.host().await;
    let mut peer = world.raw_peer(&host.connector).await;
    peer.open().await;
    peer.request(1, 0, WAIT.id(), &arguments(&1u64)).await;
    world.waiting(1).await;
    let mut bytes = encode(&Frame::Goodbye(Role::Client));
    bytes.extend(encode(&Frame::Request(request(2, 0, ADD_ONE.id()), &arguments(&2u64))));
    peer.send_bytes(&bytes).await;
    assert_eq!(peer.refused().await, Refuse::Protocol(ProtocolError::AfterGoodbye.code()));
    assert_eq!(world.service.arguments(), [0; 0]);
}

pub async fn a_frame_longer_than_was_granted_closes_the_connection(world: World) {
    let host = world.host_with(|config| config.request_len_max = 1000).await;
    let mut peer = world.raw_peer(&host.connector).await;
    let session = peer.open().await.session;
    assert_eq!(peer.call(1, 0, ECHO, &[1; 1000]).await.0, Status::Done);
    peer.request(2, 1, ECHO, &[1; 1001]).await;
    let error = ProtocolError::FrameTooLong { len: 0, max: 0 };
    assert_eq!(peer.refused().await, Refuse::Protocol(error.code()));
    let mut peer = world.raw_peer(&host.connector).await;
    assert_eq!(peer.resume(session, 0).await.seen, 1);
}

pub async fn an_unknown_method_is_a_typed_refusal_on_a_healthy_connection(world: World) {
    let host = world.host().await;
    let client = world.connected(&FaultyLink::to(host.connector.clone())).await;
    let unknown = MethodId::of("conformance/no_such_method");
    let outcome = world.within("the refusal", client.call_raw(unknown, vec![1])).await;
    let refused = NotExecuted::UnknownMethod;
    assert!(matches!(&outcome, Outcome::NotExecuted(why) if *why == refused), "{outcome:?}");
    assert_eq!(refused.to_string(), "not executed: the server has no such method");
    expect_reply(&world, client.call(&ADD_ONE, &1), 2).await;
    assert_eq!(client.status().reconnects, 0);
}

pub async fn arguments_that_cannot_be_decoded_are_a_typed_refusal(world: World) {
    let host = world.host().await;
    let client = world.connected(&FaultyLink::to(host.connector.clone())).await;
    let outcome = world.within("the refusal", client.call_raw(ADD_ONE.id(), vec![0xff; 3])).await;
    let refused = NotExecuted::BadArguments;
    assert!(matches!(&outcome, Outcome::NotExecuted(why) if *why == refused), "{outcome:?}");
    assert_eq!(outcome.executed(), Executed::No);
    assert_eq!(world.service.runs(), 0);
    expect_reply(&world, client.call(&ADD_ONE, &1), 2).await;
    assert_eq!(client.status().reconnects, 0);
}

pub async fn a_reply_of_another_type_was_executed_and_says_so(world: World) {
    let host = world.host().await;
    let client = world.connected(&FaultyLink::to(host.connector.clone())).await;
    let call = client.call(&ADD_ONE_OF_ANOTHER_VERSION, &(1 << 40));
    let outcome = world.within("the outcome", call).await;
    assert!(matches!(outcome, Outcome::NoReply(NoReply::Undecodable)), "{outcome:?}");
    assert_eq!(outcome.executed(), Executed::Yes);
    assert_eq!(world.service.runs(), 1);
}

pub async fn arguments_larger_than_was_granted_are_not_begun_and_the_error_names_both(
    world: World,
) {
    let host = world.host_with(|config| config.request_len_max = 1000).await;
    let client = world.connected(&FaultyLink::to(host.connector.clone())).await;
    let outcome = world.within("the refusal", client.call_raw(ECHO, vec![1; 1001])).await;
    let too_large = NotExecuted::NotBegun(NotBegun::RequestTooLarge { len: 1001, max: 1000 });
    assert!(matches!(&outcome, Outcome::NotExecuted(why) if *why == too_large), "{outcome:?}");
    let message = too_large.to_string();
    assert!(message.contains("1001") && message.contains("1000"), "{message}");
    let outcome = world.within("the reply", client.call_raw(ECHO, vec![1; 1000])).await;
    assert!(matches!(&outcome, Outcome::Reply(reply) if reply.len() == 1000));
}

pub async fn arguments_larger_than_a_grant_that_came_later_are_not_executed(world: World) {
    let host = world.host_with(|config| config.request_len_max = 1000).await;
    let link = FaultyLink::to(host.connector.clone());
    link.refuse_dials(true);
    let client = world.client(&link);
    let call = client.call_raw(ECHO, vec![1; 1001]).start();
    link.refuse_dials(false);
    let outcome = world.within("the refusal", call).await;
    let refused = NotExecuted::RequestTooLarge;
    assert!(matches!(&outcome, Outcome::NotExecuted(why) if *why == refused), "{outcome:?}");
    assert_eq!(client.status().counters.sent, 0);
}

pub async fn a_reply_larger_than_declared_was_executed_without_a_reply(world: World) {
    let host = world.host().await;
    let client = world.connected(&FaultyLink::to(host.connector.clone())).await;
    // Two bytes of length go before the others.
    let outcome = world.within("the reply", client.call(&SMALL_BLOB, &998)).await;
    assert!(matches!(&outcome, Outcome::Reply(reply) if reply.len() == 998), "{outcome:?}");
    let outcome = world.within("the outcome", client.call(&SMALL_BLOB, &999)).await;
    assert!(matches!(outcome, Outcome::NoReply(NoReply::ReplyTooLarge)), "{outcome:?}");
    assert_eq!(host.server.handler_faults().replies_too_large, 1);
    assert_eq!(world.service.runs(), 2);
    assert_eq!(client.status().reconnects, 0);
}

pub async fn a_reply_larger_than_the_client_takes_was_executed_without_a_reply(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.client_with(&link, |options| options.reply_len_max = 500);
    let outcome = world.within("the outcome", client.call(&BLOB, &499)).await;
    assert!(matches!(outcome, Outcome::NoReply(NoReply::ReplyTooLarge)), "{outcome:?}");
    expect_reply(&world, client.call(&ADD_ONE, &1), 2).await;
    assert_eq!(client.status().reconnects, 0);
}

/// A server that takes a client in, reads its request and then says this. The client is to leave it, and to be answered
/// by the next connection.
async fn misbehaves(world: World, what: &str, bytes: impl FnOnce(u64) -> Vec<u8>) {
    let (connector, acceptor) = world.listen().await;
    let client = world.client(&FaultyLink::to(connector));
    let call = client.call(&ADD_ONE, &1).start();
    let mut server = world.accept(&acceptor).await;
    server.take_in([1; 16], 0).await;
    let (header, _) = server.requested().await;
    let xid = header.xid.get();
    server.send_bytes(&bytes(xid)).await;
    server.rest().await;
    let mut server = world.accept(&acceptor).await;
    let hello = server.take_in([1; 16], xid).await;
    assert!(hello.resume.is_some(), "{what}: the session survives");
    let why = client.status().last_error.expect("a reason");
    assert!(why.contains(what), "{why}");
    answers(&mut server, xid, 2).await;
    expect_reply(&world, call, 2).await;
}

/// A server that answers when it is asked.
async fn answers(server: &mut RawPeer, xid: u64, reply: u64) {
    match server.next_of_call().await {
        Some((Frame::Ask(asked, _), _)) if asked.get() == xid => {}
        other => panic!("an Ask for xid {xid} was expected, this came: {other:?}"),
    }
    server.reply(xid, Status::Done, &arguments(&reply)).await;
}

pub async fn a_client_leaves_a_server_that_sends_garbage(world: World) {
    misbehaves(world, "longer than the grants allow", |_| b"garbage, garbage, garbage".to_vec())
        .await;
}

pub async fn a_client_leaves_a_server_that_answers_what_was_not_asked(world: World) {
    misbehaves(world, "was not asked for", |xid| {
        let header = oncewire_core::wire::ReplyHeader {
            status: Status::Done,
            xid: oncewire_core::Xid::new(xid + 100).expect("an xid"),
        };
        encode(&Frame::Reply(header, &[]))
    })
    .await;
}

pub async fn a_client_leaves_a_server_that_has_not_seen_what_it_was_not_asked_for(world: World) {
    misbehaves(world, "was not asked for", |xid| {
        let xid = oncewire_core::Xid::new(xid).expect("an xid");
        let header = oncewire_core::wire::ReplyHeader { status: Status::NotSeen { ask: 1 }, xid };
        encode(&Frame::Reply(header, &[]))
    })
    .await;
}

pub async fn a_client_leaves_a_server_that_welcomes_twice(world: World) {
    misbehaves(world, "Welcome", |_| encode(&Frame::Welcome(welcome(&hello(None), [1; 16], 0))))
        .await;
}

pub async fn a_client_leaves_a_server_that_announces_too_much(world: World) {
    misbehaves(world, "longer than the grants allow", |_| b"\xff\xff\xff\x7f\x42".to_vec()).await;
}

pub async fn a_client_does_not_believe_a_senseless_welcome(world: World) {
    let (connector, acceptor) = world.listen().await;
    let client = world.client(&FaultyLink::to(connector));
    let call = client.call(&ADD_ONE, &1).start();
    for nonsense in 0..5 {
        let mut server = world.accept(&acceptor).await;
        let hello = server.hello().await;
        let mut wrong = welcome(&hello, [1; 16], 0);
        match nonsense {
            0 => wrong.grants.slots = 0,
            1 => wrong.grants.slots = hello.slots + 1,
            2 => wrong.grants.keepalive_ms = 0,
            3 => wrong.version = VERSION + 1,
            _ => wrong.features = 1,
        }
        server.send(&Frame::Welcome(wrong)).await;
        assert_eq!(server.rest().await, [], "no request went to such a server");
    }
    let mut server = world.accept(&acceptor).await;
    server.take_in([1; 16], 0).await;
    let (header, _) = server.requested().await;
    server.reply(header.xid.get(), Status::Done, &arguments(&2u64)).await;
    expect_reply(&world, call, 2).await;
}

pub async fn a_resume_answered_with_another_session_is_a_lost_session(world: World) {
    let (connector, acceptor) = world.listen().await;
    let client = world.client(&FaultyLink::to(connector));
    let call = client.call(&ADD_ONE, &1).start();
    let mut server = world.accept(&acceptor).await;
    server.take_in([1; 16], 0).await;
    server.requested().await;
    drop(server);
    let mut server = world.accept(&acceptor).await;
    server.take_in([2; 16], 1).await;
    let outcome = world.within("the call's outcome", call).await;
    assert_eq!(outcome.executed(), Executed::Unknown, "{outcome:?}");
    let mut server = world.accept(&acceptor).await;
    assert_eq!(server.hello().await.resume, None, "it opens another session");
}
