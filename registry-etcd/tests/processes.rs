//! Servers and leaders in processes of their own, which are killed and stopped.
#![cfg(unix)]
#![allow(missing_docs)]

mod util;

use std::time::Duration;

use oncewire_driver::{
    Client, ClientOptions, Context, Executed, Method, NotExecuted, Outcome, Refusal, Server,
};
use oncewire_etcd::{Compare, Etcd, Fence, FencingToken, Instances, Leadership, Op, Registry, Txn};
use oncewire_tcp::{TcpAcceptor, TcpConnector};
use rustix::process::Signal;
use smol::block_on;
use util::process::{Process, endpoint_of_task};
use util::*;

/// Says which process has answered.
const WHO: Method<(), u32> = Method::new("test/who");

fn registry(endpoints: &[String]) -> Registry {
    let timeout = Duration::from_millis(500);
    let etcd = Etcd::builder(endpoints).attempt_timeout(timeout).build().unwrap();
    Registry::new(etcd).with_lease(Duration::from_secs(2))
}

/// No test: what [`Process`] starts.
#[test]
fn a_server_of_its_own() {
    let Some(endpoint) = endpoint_of_task("a_server_of_its_own") else { return };
    block_on(async {
        let server = Server::builder("test")
            .method(&WHO, |_, ()| std::future::ready(std::process::id()))
            .configure(|config| config.keepalive = Duration::from_secs(1))
            .build()
            .unwrap();
        let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        let address = acceptor.local_addr().to_string();
        let registration = registry(&[endpoint]).register(&server, "test", &address).unwrap();
        registration.until_registered().await;
        println!("process {}", std::process::id());
        server.serve(acceptor).await.unwrap();
    });
}

/// The lease of a leader in this process: one that no pause of the machine outlasts.
const LONG: Duration = Duration::from_secs(60);

/// Waits until so many are registered.
async fn until_count(instances: &Instances, count: usize) {
    let mut version = 0;
    while instances.changed(&mut version).await.len() != count {}
}

/// Calls until another process than this one answers; the outcomes of calls in between must be truthful.
async fn until_moved(client: &Client, from: u32) -> u32 {
    loop {
        match client.call(&WHO, &()).await {
            Outcome::Reply(who) if who == from => {}
            Outcome::Reply(who) => return who,
            Outcome::Unknown(why, ticket) => {
                assert!(ticket.is_none(), "{why}: its session is lost");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn c377_servers_are_killed_and_stopped_and_their_clients_move_on() {
    let Some(cluster) = Cluster::start(1) else { return };
    let endpoints = cluster.endpoints();
    let start = || Process::start("a_server_of_its_own", &endpoints[0]);
    let mut processes = [start(), start(), start()];
    let ids = processes
        .each_mut()
        .map(|process| process.until_it_says("process").parse::<u32>().unwrap());
    block_on(async {
        let connector = registry(&endpoints).connector("test").unwrap();
        until_count(connector.instances(), 3).await;
        let options = ClientOptions::default().with_backoff_max(Duration::from_millis(100));
        let client = Client::new(connector.clone(), options);
        let first = client.call(&WHO, &()).await.ok().unwrap();
        let at = |id: u32| ids.iter().position(|of| *of == id).unwrap();
        processes[at(first)].kill();
        let second = until_moved(&client, first).await;
        until_count(connector.instances(), 2).await;
        // A listener takes connections for a process that is stopped.
        processes[at(second)].signal(Signal::STOP);
        let third = until_moved(&client, second).await;
        assert!(third != first && third != second);
        until_count(connector.instances(), 1).await;
        processes[at(second)].signal(Signal::CONT);
        until_count(connector.instances(), 2).await;
        assert_eq!(client.call(&WHO, &()).await.ok(), Ok(third));
    });
}

/// No test: what [`Process`] starts. It leads once, and acts when it is asked to, whatever its leadership is then.
#[test]
fn a_leader_of_its_own() {
    let Some(endpoint) = endpoint_of_task("a_leader_of_its_own") else { return };
    block_on(async {
        let registry = registry(std::slice::from_ref(&endpoint));
        let etcd = Etcd::builder([endpoint]).build().unwrap();
        let leadership = registry.election("test").unwrap().campaign("leader").await.unwrap();
        let mut acts = 0;
        loop {
            // The check, a pause of any length, the effect.
            let held = leadership.is_held();
            println!("leads {} {held}", leadership.token());
            let name = format!("effects/{acts}/{}", leadership.token());
            let effect = Txn::new().when(leadership.fence()).then(Op::put(name, "", None));
            let succeeded = etcd.transact(&effect).await.is_ok_and(|done| done.succeeded);
            println!("effect {held} {succeeded}");
            acts += 1;
            if !held {
                return leadership.ended().await;
            }
        }
    });
}

#[test]
fn c378_a_leader_is_stopped_another_one_leads_and_the_first_has_no_effect_any_more() {
    let Some(cluster) = Cluster::start(1) else { return };
    let endpoints = cluster.endpoints();
    let election = registry(&endpoints).with_lease(LONG).election("test").unwrap();
    let mut stopped = Process::start("a_leader_of_its_own", &endpoints[0]);
    let leads = stopped.until_it_says("leads");
    let first = leads.split(' ').next().unwrap().parse().unwrap();
    let first = FencingToken::new(first).unwrap();
    // One effect before it is stopped, at the least.
    while stopped.until_it_says("effect") != "true true" {}
    block_on(async {
        stopped.signal(Signal::STOP);
        let second = election.campaign("another").await.unwrap();
        assert!(second.token() > first);
        assert_eq!(election.leader().await.unwrap().unwrap().token, second.token());
        stopped.signal(Signal::CONT);
        // It was between its check and its effect, or before its check: no effect follows that of the second.
        while stopped.until_it_says("effect") != "false false" {}
        let etcd = Etcd::builder(&endpoints).build().unwrap();
        let effects = etcd.get_prefix("effects/", 0).await.unwrap().entries;
        let later = effects.iter().filter(|effect| effect.create_revision > second.token().get());
        assert_eq!((effects.is_empty(), later.count()), (false, 0));
        let mut fence = Fence::default();
        fence.admit(second.token()).unwrap();
        assert!(fence.admit(first).is_err());
        // It ends by itself before etcd ends it.
        assert!(second.is_held() && second.remaining() <= LONG * 4 / 5);
        second.resign().await.unwrap();
        assert_eq!(election.leader().await.unwrap(), None);
    });
}

/// What only the leader does: writes under this name, once `go` is in etcd.
const PLAN: Method<String, bool> = Method::new("test/plan");

/// The next one leads when this has passed.
const LEASE_OF_SERVER: Duration = Duration::from_secs(6);

/// No test: what [`Process`] starts. Its handler has what it is to check before a pause, and its effect after it.
#[test]
fn a_guarded_server_of_its_own() {
    let Some(endpoint) = endpoint_of_task("a_guarded_server_of_its_own") else { return };
    block_on(async {
        // It leads from its election to its handler's first line, also on a busy machine.
        let registry = registry(std::slice::from_ref(&endpoint)).with_lease(LEASE_OF_SERVER);
        let candidate = registry.election("test").unwrap().stand("server");
        let etcd = Etcd::builder([endpoint]).build().unwrap();
        let plan = move |context: Context, name: String| {
            let etcd = etcd.clone();
            async move {
                let leadership = context.provided::<Leadership>().unwrap();
                assert!(leadership.is_held());
                println!("begins {}", leadership.token());
                // One that was under way when the process was stopped may be too late.
                while !etcd.get("go").await.is_ok_and(|go| go.is_some()) {}
                let effect = Txn::new().when(leadership.fence()).then(Op::put(name, "", None));
                etcd.transact(&effect).await.unwrap().succeeded
            }
        };
        let server = Server::builder("test")
            .method(&PLAN, plan)
            .around(candidate.guard(Refusal::Overloaded))
            .build()
            .unwrap();
        candidate.elected().await;
        let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        println!("serves {}", acceptor.local_addr());
        server.serve(acceptor).await.unwrap();
    });
}

#[test]
fn c413_a_handler_of_a_leader_that_was_stopped_has_its_token_and_no_effect_with_it() {
    let Some(cluster) = Cluster::start(1) else { return };
    let endpoints = cluster.endpoints();
    let etcd = Etcd::builder(&endpoints).build().unwrap();
    let election = registry(&endpoints).with_lease(LONG).election("test").unwrap();
    let mut leader = Process::start("a_guarded_server_of_its_own", &endpoints[0]);
    let address = leader.until_it_says("serves");
    block_on(async {
        let connector = TcpConnector::new(address);
        let client = Client::new(connector, ClientOptions::default());
        let late = client.call(&PLAN, &"effects/late".to_owned()).start();
        let token = leader.until_it_says("begins");
        leader.signal(Signal::STOP);
        let second = election.campaign("another").await.unwrap();
        let higher = second.token();
        assert!(higher.get() > token.parse::<u64>().unwrap());
        etcd.put("go", "", None).await.unwrap();
        leader.signal(Signal::CONT);
        assert_eq!(late.await.ok(), Ok(false), "its token is refused where the effect happens");
        // It has learned that it does not lead.
        let refused = client.call(&PLAN, &"effects/after".to_owned()).await;
        assert!(matches!(refused, Outcome::NotExecuted(NotExecuted::Overloaded)), "{refused:?}");
        second.resign().await.unwrap();
        // It leads again, with a token of its own, and the next call has that.
        let again = loop {
            match client.call(&PLAN, &"effects/again".to_owned()).await {
                Outcome::NotExecuted(NotExecuted::Overloaded) => {}
                other => break other,
            }
        };
        assert_eq!(again.ok(), Ok(true));
        assert!(leader.until_it_says("begins").parse::<u64>().unwrap() > higher.get());
        let effects = etcd.get_prefix("effects/", 0).await.unwrap().entries;
        let names: Vec<&[u8]> = effects.iter().map(|effect| &effect.key[..]).collect();
        assert_eq!(names, [b"effects/again"]);
    });
}

#[test]
fn c379_leaders_follow_each_other_while_members_of_etcd_are_killed_and_no_token_comes_twice() {
    let Some(mut cluster) = Cluster::start(3) else { return };
    let endpoints = cluster.endpoints();
    let etcd =
        Etcd::builder(&endpoints).attempt_timeout(Duration::from_millis(500)).build().unwrap();
    let registry = Registry::new(etcd.clone()).with_lease(Duration::from_secs(2));
    let election = registry.election("test").unwrap();
    let candidates = ["a", "b", "c"].map(|name| election.stand(name));
    let mut highest: Option<FencingToken> = None;
    let mut effects = 0;
    block_on(async {
        for round in 0..9 {
            let elected = candidates.each_ref().map(|candidate| candidate.elected());
            let [a, b, c] = elected;
            let leadership = smol::future::or(a, smol::future::or(b, c)).await;
            let held: Vec<_> = candidates.iter().filter_map(|of| of.leadership()).collect();
            // Once more, since one may have ended before the next one was looked at.
            let held = held.iter().filter(|leadership| leadership.is_held());
            assert!(held.count() <= 1, "two lead by their own clocks");
            // The same one may lead still.
            assert!(highest.is_none_or(|highest| leadership.token() >= highest));
            highest = Some(leadership.token());
            let before = etcd.get("count").await;
            let count = before.map_or(0, |found| found.map_or(0, |found| found.mod_revision));
            let effect = Txn::new()
                .when(leadership.fence())
                .when(Compare::mod_revision("count", count))
                .then(Op::put("count", round.to_string(), None));
            match etcd.transact(&effect).await {
                Ok(done) => effects += u32::from(done.succeeded),
                Err(error) => assert_ne!(error.executed(), Executed::Yes, "{error}"),
            }
            match round % 3 {
                0 => {
                    cluster.kill(round / 3);
                }
                1 => {
                    cluster.resume(round / 3);
                    drop(leadership);
                }
                _ => leadership.resign().await.unwrap_or_else(|error| println!("{error}")),
            }
        }
    });
    assert!(effects > 0);
}
