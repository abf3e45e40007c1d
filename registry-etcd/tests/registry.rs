//! Servers that register themselves, and clients that find them.
#![cfg(unix)]
#![allow(missing_docs)]

mod util;

use std::collections::BTreeMap;
use std::time::Duration;

use oncewire_driver::{
    Client, ClientOptions, Health, Method, NotExecuted, Outcome, Server, ServiceName, Unknown,
};
use oncewire_etcd::{Etcd, EtcdErrorKind, InstanceState, Registry};
use oncewire_tcp::TcpAcceptor;
use smol::block_on;
use smol::channel::Receiver;
use util::relay::Relay;
use util::*;

/// Says which instance has answered.
const WHO: Method<(), u64> = Method::new("test/who");
/// Answers when it is cancelled, or the gate opens.
const HANG: Method<(), ()> = Method::new("test/hang");

/// A server in this process, and where it listens.
async fn serve() -> (Server, String) {
    serve_gated(None).await
}

/// The same, whose hanging calls end when this channel is closed.
async fn serve_gated(gate: Option<Receiver<()>>) -> (Server, String) {
    let server = Server::builder("test");
    let id = std::sync::Arc::new(std::sync::OnceLock::new());
    let own = id.clone();
    let server = server
        .method(&WHO, move |_, ()| std::future::ready(own.get().copied().unwrap_or(0)))
        .method(&HANG, move |context, ()| {
            let gate = gate.clone();
            async move {
                let open = async {
                    match gate {
                        Some(gate) => drop(gate.recv().await),
                        None => std::future::pending().await,
                    }
                };
                smol::future::or(open, context.cancelled()).await;
            }
        })
        .build()
        .unwrap();
    id.set(server.instance().id()).unwrap();
    let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
    let address = acceptor.local_addr().to_string();
    let serving = server.clone();
    smol::spawn(async move { serving.serve(acceptor).await }).detach();
    (server, address)
}

fn options() -> ClientOptions {
    ClientOptions::default()
        .with_service(ServiceName::new("test").unwrap())
        .with_backoff_max(Duration::from_millis(100))
}

async fn who(client: &Client) -> u64 {
    client.call(&WHO, &()).await.ok().unwrap()
}

/// Waits until so many are registered.
async fn until_count(registry: &Registry, count: usize) {
    let instances = registry.instances("test").unwrap();
    let mut version = 0;
    while instances.changed(&mut version).await.len() != count {}
}

#[test]
fn names_and_addresses_that_are_none_are_refused() {
    let etcd = Etcd::builder(["127.0.0.1:1"]).build().unwrap();
    let registry = Registry::new(etcd);
    let server = Server::builder("test").build().unwrap();
    for name in ["", "a/b", "a\n", &"a".repeat(65)] {
        assert!(registry.register(&server, name, "10.0.0.1:1").is_err(), "{name:?}");
        assert!(registry.connector(name).is_err() && registry.election(name).is_err());
    }
    for address in ["", "a\n", &"a".repeat(513), "0.0.0.0:7000", "[::]:7000"] {
        assert!(registry.register(&server, "test", address).is_err(), "{address:?}");
    }
    // Without etcd a call says why it has ended.
    let client = Client::new(registry.connector("test").unwrap(), options());
    block_on(async {
        let outcome = client.call(&WHO, &()).timeout(Duration::from_millis(300)).await;
        assert!(
            matches!(outcome, Outcome::NotExecuted(NotExecuted::DeadlinePassed)),
            "{outcome:?}"
        );
        let error = loop {
            // The dial may be later than the deadline.
            match client.status().last_error {
                Some(error) => break error,
                None => smol::future::yield_now().await,
            }
        };
        assert!(error.contains("127.0.0.1:1") && error.contains("refused"), "{error}");
    });
}

#[test]
fn clients_are_spread_over_the_instances_of_their_service() {
    let Some(cluster) = Cluster::start(1) else { return };
    let registry = Registry::new(cluster.etcd());
    block_on(async {
        let mut registrations = Vec::new();
        for _ in 0..3 {
            let (server, address) = serve().await;
            registrations.push(registry.register(&server, "test", &address).unwrap());
        }
        let (other, address) = serve().await;
        registrations.push(registry.register(&other, "test2", &address).unwrap());
        for registration in &registrations {
            registration.until_registered().await;
        }
        let connector = registry.connector("test").unwrap();
        let mut counts = BTreeMap::<u64, u32>::new();
        for _ in 0..60 {
            let client = Client::new(connector.clone(), options());
            *counts.entry(who(&client).await).or_default() += 1;
        }
        assert_eq!(counts.len(), 3, "{counts:?}");
        assert!(counts.values().all(|count| *count >= 5), "{counts:?}");
        assert!(!counts.contains_key(&other.instance().id()));
        let value = cluster.ctl(&["get", "--prefix", "oncewire/services/test2/"]).unwrap();
        assert!(value.contains(&format!("\"address\":\"{address}\"")), "{value}");
        // What others write there is no instance.
        cluster.ctl(&["put", "oncewire/services/test2/x", &value]).unwrap();
        cluster.ctl(&["put", "oncewire/services/test2/y", "10.0.0.1:1"]).unwrap();
        assert_eq!(registry.instances("test2").unwrap().first_list().await.unwrap().len(), 1);
        // One that is removed stays for those that have a session there, and is found by others no more.
        let client = Client::new(connector.clone(), options());
        let at = who(&client).await;
        let registration = registrations.remove(0);
        registration.remove().await.unwrap();
        until_count(&registry, 2).await;
        assert_eq!(who(&client).await, at);
    });
}

#[test]
fn c374_an_instance_that_drains_is_withdrawn_first_and_no_outcome_is_unknown() {
    let Some(cluster) = Cluster::start(1) else { return };
    let registry = Registry::new(cluster.etcd());
    block_on(async {
        let (first, address) = serve().await;
        let first_registration = registry.register(&first, "test", &address).unwrap();
        first_registration.until_registered().await;
        let clients: Vec<Client> =
            (0..8).map(|_| Client::new(registry.connector("test").unwrap(), options())).collect();
        for client in &clients {
            assert_eq!(who(client).await, first.instance().id());
        }
        let (second, address) = serve().await;
        let second_registration = registry.register(&second, "test", &address).unwrap();
        second_registration.until_registered().await;
        until_count(&registry, 2).await;
        let instances = registry.instances("test").unwrap();
        let draining = first_registration.drain(Duration::from_secs(20));
        let withdrawn = async {
            let mut version = 0;
            let drains =
                |of: &oncewire_etcd::RegisteredInstance| of.state == InstanceState::Draining;
            while !instances.changed(&mut version).await.iter().any(drains) {}
            // It is there still, for those that have a session.
            assert_eq!(instances.list().len(), 2);
        };
        let calls = async {
            let mut moved = 0;
            while moved < clients.len() {
                moved = 0;
                for client in &clients {
                    // A call that was on its way is refused by the drain, and made again elsewhere.
                    match client.call(&WHO, &()).await {
                        Outcome::Reply(at) => moved += usize::from(at == second.instance().id()),
                        Outcome::NotExecuted(NotExecuted::ShuttingDown) => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
        };
        let others = smol::future::zip(withdrawn, calls);
        let (drained, _) = smol::future::zip(draining, others).await;
        drained.unwrap();
        until_count(&registry, 1).await;
    });
}

#[test]
fn c375_etcd_is_gone_for_longer_than_the_lease_and_instances_come_back_by_themselves() {
    let Some(mut cluster) = Cluster::start(1) else { return };
    let registry = Registry::new(cluster.etcd()).with_lease(Duration::from_secs(1));
    block_on(async {
        let (server, address) = serve().await;
        let registration = registry.register(&server, "test", &address).unwrap();
        registration.until_registered().await;
        let connector = registry.connector("test").unwrap();
        let client = Client::new(connector.clone(), options());
        assert_eq!(who(&client).await, server.instance().id());
        let before = registration.status().registrations;
        cluster.kill(0);
        while registration.status().registered {
            // Clients continue with what they know, new ones too.
            let beside = Client::new(connector.clone(), options());
            assert_eq!(who(&beside).await, server.instance().id());
        }
        assert!(registration.status().last_error.is_some());
        assert_eq!(who(&client).await, server.instance().id());
        // It has lost all: another one, so to say.
        cluster.forget(0);
        cluster.resume(0);
        registration.until_registered().await;
        assert!(registration.status().registrations > before);
        until_count(&registry, 1).await;
        // By hand, while the lease lives.
        cluster.ctl(&["del", "--prefix", "oncewire/services/"]).unwrap();
        until_count(&registry, 1).await;
    });
}

#[test]
fn a_drain_does_not_wait_for_an_etcd_that_hangs() {
    let hangs = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // To ask each of them once takes most of an hour.
    let endpoints = vec![hangs.local_addr().unwrap().to_string(); 10_000];
    let etcd = Etcd::builder(endpoints).build().unwrap();
    let registry = Registry::new(etcd).with_lease(Duration::from_secs(1));
    block_on(async {
        let (server, address) = serve().await;
        let registration = registry.register(&server, "test", &address).unwrap();
        let error = registration.drain(Duration::ZERO).await.unwrap_err();
        assert_eq!(error.kind(), EtcdErrorKind::Unavailable, "{error}");
        assert_eq!(server.health(), Health::Draining);
    });
}

#[test]
fn c376_a_session_stays_with_its_instance_and_what_is_in_doubt_is_answered_there() {
    let Some(cluster) = Cluster::start(1) else { return };
    let registry = Registry::new(cluster.etcd());
    block_on(async {
        let (first, address_of_first) = serve().await;
        let line = Relay::start(address_of_first.clone());
        let first_registration = registry.register(&first, "test", &line.address()).unwrap();
        first_registration.until_registered().await;
        let client = Client::new(registry.connector("test").unwrap(), options());
        assert_eq!(who(&client).await, first.instance().id());
        let (second, address) = serve().await;
        let second_registration = registry.register(&second, "test", &address).unwrap();
        second_registration.until_registered().await;
        until_count(&registry, 2).await;
        let hanging = client.call(&HANG, &()).start();
        for _ in 0..5 {
            assert_eq!(who(&client).await, first.instance().id());
            line.cut();
        }
        assert_eq!(who(&client).await, first.instance().id());
        assert!(client.status().reconnects >= 5);
        // Its line is down for a while: no other one is dialled, though it would answer.
        line.close();
        while client.status().failed_attempts < 3 {
            smol::future::yield_now().await;
        }
        let line = Relay::start_at(line.socket(), address_of_first);
        assert_eq!(who(&client).await, first.instance().id());
        // It leaves, and its line is cut: the other one does not know the session.
        let left = first_registration.remove().await;
        left.unwrap();
        line.close();
        let outcome = hanging.await;
        assert!(matches!(outcome, Outcome::Unknown(Unknown::SessionEnded, None)), "{outcome:?}");
        assert_eq!(who(&client).await, second.instance().id());
    });
}

/// A client of a cluster with one member, that reaches it by a line and, if `beside`, by another way as well. It began by the line.
async fn by_line(cluster: &Cluster, beside: bool) -> (Relay, Etcd) {
    loop {
        let direct = cluster.endpoint(0).replace("http://", "");
        let line = Relay::start(direct.clone());
        let endpoints = std::iter::once(line.address()).chain(beside.then_some(direct));
        let timeout = Duration::from_millis(500);
        let etcd = Etcd::builder(endpoints).attempt_timeout(timeout).build().unwrap();
        let answers = etcd.get("a").await.is_ok();
        if answers && line.connections() > 0 {
            return (line, etcd);
        }
    }
}

#[test]
fn a_watch_at_a_member_that_hangs_is_followed_by_one_elsewhere() {
    let Some(cluster) = Cluster::start(1) else { return };
    block_on(async {
        let (line, etcd) = by_line(&cluster, true).await;
        let instances = Registry::new(etcd).instances("test").unwrap();
        let mut version = 0;
        assert!(instances.changed(&mut version).await.is_empty());
        while line.connections() < 2 {
            smol::future::yield_now().await;
        }
        line.freeze();
        let (server, address) = serve().await;
        let registry = Registry::new(cluster.etcd());
        let registration = registry.register(&server, "test", &address).unwrap();
        assert_eq!(instances.changed(&mut version).await[0].address, address);
        // From now on it hears of changes as they happen.
        registration.remove().await.unwrap();
        assert!(instances.changed(&mut version).await.is_empty());
        assert!(instances.last_error().is_none());
    });
}

#[test]
fn a_leader_that_is_cut_off_from_etcd_ends_before_etcd_ends_its_lease() {
    let Some(cluster) = Cluster::start(1) else { return };
    block_on(async {
        for lease in [5, 20, 80].map(Duration::from_secs) {
            let (line, etcd) = by_line(&cluster, false).await;
            let election = |etcd| Registry::new(etcd).with_lease(lease).election("test").unwrap();
            let leadership = election(etcd).campaign("first").await.unwrap();
            line.freeze();
            leadership.ended().await;
            assert!(!leadership.is_held() && leadership.check().is_err());
            let seen = election(cluster.etcd());
            // A fifth of the lease is left. A busy machine may need longer to look.
            let Some(leader) = seen.leader().await.unwrap() else { continue };
            assert_eq!(leader.token, leadership.token());
            let next = seen.campaign("second").await.unwrap();
            assert!(next.token() > leadership.token());
            return;
        }
        panic!("etcd ended each lease before its leader did");
    });
}

#[test]
fn an_answer_in_doubt_is_fetched_from_an_instance_that_drains() {
    let Some(cluster) = Cluster::start(1) else { return };
    let registry = Registry::new(cluster.etcd());
    block_on(async {
        let (gate, opened) = smol::channel::bounded(1);
        let (first, address) = serve_gated(Some(opened)).await;
        let line = Relay::start(address);
        let draining = registry.register(&first, "test", &line.address()).unwrap();
        draining.until_registered().await;
        let client = Client::new(registry.connector("test").unwrap(), options());
        assert_eq!(who(&client).await, first.instance().id());
        let (second, address) = serve().await;
        let registration = registry.register(&second, "test", &address).unwrap();
        registration.until_registered().await;
        until_count(&registry, 2).await;
        let hanging = client.call(&HANG, &()).start();
        while first.load().running == 0 {
            smol::future::yield_now().await;
        }
        let instances = registry.instances("test").unwrap();
        let cut = async {
            let mut version = 0;
            let drains =
                |of: &oncewire_etcd::RegisteredInstance| of.state == InstanceState::Draining;
            while !instances.changed(&mut version).await.iter().any(drains) {}
            line.cut();
        };
        let drained = draining.drain(Duration::from_secs(60));
        let answered = async {
            cut.await;
            while client.status().reconnects == 0 {
                smol::future::yield_now().await;
            }
            drop(gate);
            assert!(matches!(hanging.await, Outcome::Reply(())));
        };
        let ((), drained) = smol::future::zip(answered, drained).await;
        drained.unwrap();
        assert_eq!(who(&client).await, second.instance().id());
    });
}
