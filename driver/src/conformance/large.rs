//! Cases of large bodies.

use oncewire_core::{NoReply, NotExecuted, Status};

use super::expect_reply;
use super::faulty_link::FaultyLink;
use super::service::{ADD_ONE, BLOB, ECHO, WAIT, arguments};
use super::world::World;
use crate::client::Outcome;

pub async fn c25_a_refused_request_is_refused_again_and_never_executed(world: World) {
    let unknown = oncewire_core::MethodId::of("conformance/no_such_method");
    // Room for one reply of `BLOB`, and a little more.
    let host = world.host_with(|config| config.kept_per_session_max = 5 << 20).await;
    let mut peer = world.opened(&host).await;
    for _ in 0..2 {
        let answer = peer.call(1, 0, unknown, b"x").await;
        assert_eq!(answer, (Status::Refused(NotExecuted::UnknownMethod), Vec::new()));
        let answer = peer.call(2, 0, ADD_ONE.id(), &[0xff; 3]).await;
        assert_eq!(answer, (Status::Refused(NotExecuted::BadArguments), Vec::new()));
    }
    let mib = arguments(&(1u32 << 20));
    peer.call(3, 0, BLOB.id(), &mib).await;
    peer.call(4, 3 - 1, BLOB.id(), &mib).await;
    // Only statuses are compared: a failure would show a mebibyte.
    let overloaded = Status::Refused(NotExecuted::Overloaded);
    let runs = world.service.runs();
    assert_eq!(peer.call(5, 2, BLOB.id(), &mib).await.0, overloaded);
    peer.ack(4, 0).await;
    world.counted(&host, "room", |counters| counters.kept_bytes == 0).await;
    assert_eq!(peer.call(5, 4, BLOB.id(), &mib).await.0, overloaded, "though there is room now");
    assert_eq!(world.service.runs(), runs);
}

pub async fn c27_at_the_memory_limit_new_calls_are_refused_and_nothing_kept_is_lost(world: World) {
    // Room for the replies of two calls of `BLOB` of four, which reserve 4 MiB each.
    let host = world.host_with(|config| config.kept_per_session_max = 8 << 20).await;
    let mut peer = world.opened(&host).await;
    let body = arguments(&(3u32 << 20));
    let first = peer.call(1, 0, BLOB.id(), &body).await;
    assert_eq!(first.0, Status::Done);
    let second = peer.call(2, 0, BLOB.id(), &body).await;
    assert_eq!(second.0, Status::Done);
    let third = peer.call(3, 0, BLOB.id(), &body).await.0;
    assert_eq!(third, Status::Refused(NotExecuted::Overloaded));
    assert!(peer.call(1, 0, BLOB.id(), &body).await == first, "still there, byte for byte");
    assert!(peer.call(2, 0, BLOB.id(), &body).await == second, "still there, byte for byte");
    peer.ack(3, 0).await;
    assert_eq!(peer.call(4, 3, BLOB.id(), &body).await.0, Status::Done);
    assert_eq!(world.service.runs(), 3);
}

pub async fn c39_a_huge_last_reply_is_forgotten_by_the_server_at_once(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.client(&link);
    let outcome = world.within("the reply", client.call(&BLOB, &(4 << 20))).await;
    // Its length goes before it, as postcard has it: the reply would be too large by that.
    assert!(matches!(outcome, Outcome::NoReply(NoReply::ReplyTooLarge)));
    let outcome = world.within("the reply", client.call(&BLOB, &(3 << 20))).await;
    assert!(matches!(&outcome, Outcome::Reply(reply) if reply.len() == 3 << 20));
    world.counted(&host, "the memory to be back", |counters| counters.kept_bytes == 0).await;
}

pub async fn c66_an_acknowledgement_by_bits_frees_what_others_left_beside_a_slow_call(
    world: World,
) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.client_with(&link, |options| options.slots = 8);
    let slow = client.call(&WAIT, &7).start();
    world.waiting(1).await;
    let others: Vec<_> = (0..7).map(|_| client.call(&BLOB, &(1 << 20)).start()).collect();
    for other in others {
        let outcome = world.within("a reply", other).await;
        assert!(matches!(&outcome, Outcome::Reply(reply) if reply.len() == 1 << 20));
    }
    // What the slow one has reserved is all that is left.
    world.counted(&host, "the memory to be back", |counters| counters.kept_bytes == 16).await;
    world.service.let_go(1);
    expect_reply(&world, slow, 7).await;
}

pub async fn c40_two_peers_that_write_64_mib_before_they_read_do_not_wait_for_each_other(
    world: World,
) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let body = crate::Bytes::from(vec![5; 1 << 20]);
    let calls: Vec<_> = (0..64).map(|_| client.call_raw(ECHO, body.clone()).start()).collect();
    for call in calls {
        let outcome = world.within("an echo", call).await;
        assert!(matches!(&outcome, Outcome::Reply(reply) if *reply == body));
    }
    assert_eq!(client.status().reconnects, 0);
}
