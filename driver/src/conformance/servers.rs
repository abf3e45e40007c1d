//! Cases of a client that has several servers.

use std::time::Duration;

use super::expect_reply;
use super::faulty_link::FaultyLink;
use super::service::{ADD_ONE, WAIT, WAIT_AGAIN};
use super::world::World;
use crate::client::{Client, ClientOptions, Servers};

/// A client of the servers behind these links, when all of them are healthy.
async fn client_of(world: &World, links: &[FaultyLink; 2]) -> Client {
    let options = ClientOptions::default()
        .with_timeout(Duration::from_secs(100_000))
        .with_backoff_min(Duration::from_millis(1))
        .with_backoff_max(Duration::from_millis(5));
    let client = Servers::new(links.clone()).client_with_runtime(options, world.runtime());
    let client = client.expect("there are two");
    let are_healthy = || client.servers().iter().all(|server| server.healthy);
    world.until("all servers to be healthy", are_healthy).await;
    client
}

pub async fn c327_calls_of_a_lost_server_are_made_at_another_but_for_those_in_doubt(world: World) {
    let hosts = [world.host().await, world.host().await];
    let links = hosts.each_ref().map(|host| FaultyLink::to(host.connector.clone()));
    let client = client_of(&world, &links).await;
    expect_reply(&world, client.call(&ADD_ONE, &1), 2).await;
    let home = client.servers().iter().position(|server| server.has_session).unwrap_or(2);
    let in_doubt = client.call(&WAIT, &1).start();
    let calls: Vec<_> = (10..18).map(|n| (n, client.call(&WAIT_AGAIN, &n).start())).collect();
    world.waiting(9).await;
    let lost = client.servers()[home].pending as u64 - 1;
    assert!((1..8).contains(&lost), "each server has some of them: {lost}");
    links[home].refuse_dials(true);
    links[home].cut();
    world.service.let_go(100);
    for (n, call) in calls {
        expect_reply(&world, call, n).await;
    }
    expect_reply(&world, client.call(&ADD_ONE, &2), 3).await;
    assert!(client.servers()[1 - home].has_session, "new calls have another server");
    links[home].refuse_dials(false);
    expect_reply(&world, in_doubt, 1).await;
    assert_eq!(world.service.waiting(), 9 + lost);
    let report = world.within("the close", client.close()).await;
    assert!(report.in_good_order && report.unfinished == 0, "{report}");
}
