//! One client for several servers: where calls go, and what becomes of them when a server is lost.
#![allow(missing_docs)]

mod lost;
#[cfg(feature = "stream")]
mod parts;
mod site;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use oncewire_driver::observe::{CallEnd, Event, Source};
use oncewire_driver::{
    CallFailure, Client, ClientOptions, Executed, NEVER, NoServers, NotExecuted, OnDialFailure,
    Outcome, Servers, Unknown,
};
use site::*;

/// More than any machine needs.
const LONG: Duration = Duration::from_secs(60);

fn options() -> ClientOptions {
    let pause = Duration::from_millis(1);
    ClientOptions::default().with_backoff_min(pause).with_backoff_max(pause)
}

fn sites<const N: usize>() -> [Site; N] {
    std::array::from_fn(|number| Site::new(number as u32))
}

fn client(sites: &[Site]) -> Client {
    Servers::new(sites.iter().cloned()).client(options()).unwrap()
}

async fn until_healthy(client: &Client, count: usize) {
    until(|| client.servers().iter().filter(|server| server.healthy).count() == count).await;
}

/// The number of the server that has the session.
fn home(client: &Client) -> Option<usize> {
    client.servers().iter().position(|server| server.has_session)
}

#[test]
fn c326_idempotent_calls_are_spread_and_all_others_stay_where_the_session_is() {
    let sites = sites::<3>();
    smol::block_on(async {
        let client = client(&sites);
        until_healthy(&client, 3).await;
        assert_eq!(home(&client), None);
        let mut answers = BTreeMap::<u32, u32>::new();
        for _ in 0..10 {
            let calls: Vec<_> = (0..60).map(|_| client.call(&WHO, &()).start()).collect();
            for call in calls {
                *answers.entry(call.await.ok().unwrap()).or_default() += 1;
            }
        }
        assert!(answers.len() == 3 && answers.values().all(|count| *count > 100), "{answers:?}");

        let first = client.call(&COUNT, &()).await.ok().unwrap();
        for _ in 0..30 {
            assert_eq!(client.call(&COUNT, &()).await.ok(), Ok(first));
            // One that says so for once.
            assert_eq!(client.call(&WHO, &()).at_most_once().await.ok(), Ok(first));
            client.send(&NOTE, &()).unwrap();
        }
        assert_eq!(home(&client), Some(first as usize));
        assert_eq!(sites.iter().map(Site::runs).sum::<u32>(), 31);

        // A connection that breaks and comes back moves nothing.
        sites[first as usize].cut();
        assert_eq!(client.call(&COUNT, &()).await.ok(), Ok(first));
        let report = client.close().await;
        assert!(report.in_good_order && report.one_way_unconfirmed == 0, "{report}");
        assert_eq!(report.server, Some(sites[first as usize].0.server.lock().unwrap().id()));
        let closed = client.call(&WHO, &()).await;
        assert!(matches!(closed, Outcome::NotExecuted(NotExecuted::NotBegun(_))), "{closed:?}");
    });
}

#[test]
fn c327_a_call_at_a_server_that_is_lost_is_made_elsewhere_if_it_is_idempotent_and_only_then() {
    let sites = sites::<2>();
    smol::block_on(async {
        let client = client(&sites);
        until_healthy(&client, 2).await;
        let first = client.call(&COUNT, &()).await.ok().unwrap() as usize;
        let (lost, other) = (&sites[first], &sites[1 - first]);
        // As many as make sure that each server has some.
        let mut holds: Vec<_> = (0..20).map(|_| client.call(&HOLD, &()).start()).collect();
        let mut in_doubt = client.call(&SLOW, &()).timeout(Duration::from_millis(400));
        // Sent by this, however late the client's task comes.
        assert!(smol::future::poll_once(&mut in_doubt).await.is_none());
        until(|| lost.waiting() > 1 && other.waiting() > 0 && lost.runs() == 2).await;
        lost.lose();
        other.open_gate();
        for hold in holds.drain(..) {
            assert_eq!(hold.await.ok(), Ok(other.0.number));
        }
        // New calls have another server; what is in doubt stays, and its ticket waits for its server.
        assert_eq!(client.call(&COUNT, &()).await.ok(), Ok(other.0.number));
        assert_eq!(home(&client), Some(1 - first));
        let ticket = match (&mut in_doubt).await {
            Outcome::Unknown(Unknown::DeadlinePassed, Some(ticket)) => ticket,
            outcome => panic!("{outcome:?}"),
        };
        assert_eq!((lost.runs(), other.runs()), (2, 1));
        lost.open_gate();
        lost.set(Mode::Serves);
        assert_eq!(ticket.resolve(NEVER).await.ok(), Ok(lost.0.number), "it was executed there");
        assert_eq!((lost.runs(), other.runs()), (2, 1));
        assert_eq!(
            client.call(&COUNT, &()).await.ok(),
            Ok(other.0.number),
            "the session has moved"
        );
        assert!(client.close().await.in_good_order);
    });
}

#[test]
fn c327_a_server_that_forgot_leaves_an_unknown_outcome_and_no_second_execution() {
    let sites = sites::<2>();
    smol::block_on(async {
        let client = client(&sites);
        until_healthy(&client, 2).await;
        let first = client.call(&COUNT, &()).await.ok().unwrap() as usize;
        let in_doubt = client.call(&SLOW, &()).result();
        let in_doubt = smol::spawn(in_doubt);
        until(|| sites[first].waiting() == 1).await;
        sites[first].lose();
        sites[first].restart();
        let failed = in_doubt.await.unwrap_err();
        assert_eq!(failed.failure(), CallFailure::Unknown(Unknown::SessionEnded));
        let report = failed.report().unwrap();
        assert_eq!((&*report.address, report.earlier.len()), (&*format!("test:{first}"), 0));
        assert_eq!(sites[0].runs() + sites[1].runs(), 2);
        client.close().await;
    });
}

#[test]
fn c328_servers_that_hang_or_refuse_or_are_twice_in_the_list_stop_no_call() {
    assert_eq!(Servers::new(Vec::<Site>::new()).client(options()).err(), Some(NoServers));
    let sites = sites::<4>();
    sites[0].set(Mode::IsSilent);
    sites[1].set(Mode::Refuses);
    smol::block_on(async {
        let twice = [0, 1, 2, 3, 2].map(|site| sites[site].clone());
        let client = client(&twice);
        // Before any connection was made.
        let first = [client.call(&WHO, &()), client.call(&COUNT, &())];
        for call in first {
            assert!([2, 3].contains(&call.await.ok().unwrap()));
        }
        until_healthy(&client, 3).await;
        for _ in 0..100 {
            assert!([2, 3].contains(&client.call(&WHO, &()).await.ok().unwrap()));
        }
        client.close().await;
        // One that hangs while it runs the call is not waited for. The other one may take a while to answer, on a busy machine.
        let hangs = [2, 3].map(|site| sites[site].clone());
        let servers = Servers::new(hangs.clone()).try_next_after(Duration::from_secs(5));
        let client = servers.avoid_for(NEVER).client(options()).unwrap();
        until_healthy(&client, 2).await;
        sites[3].open_gate();
        for _ in 0..20 {
            assert_eq!(client.call(&HOLD, &()).await.ok(), Ok(3));
        }
        assert!(sites[2].waiting() <= 2, "it is avoided once it has failed a call");
        client.close().await;
        // And if all do, the deadline holds, and the truth is that it may have run.
        sites[3].0.counts.gate.store(false, Ordering::SeqCst);
        let servers = Servers::new(hangs).try_next_after(Duration::from_millis(50));
        let client = servers.client(options()).unwrap();
        until_healthy(&client, 2).await;
        let mut timeout = Duration::from_secs(1);
        let failed = loop {
            let hold = client.call(&HOLD, &()).timeout(timeout).result().await;
            let failed = hold.unwrap_err();
            // A busy machine may need more time to try all of them.
            if failed.report().unwrap().earlier.len() == 2 || timeout > LONG {
                break failed;
            }
            timeout *= 3;
        };
        assert_eq!(failed.failure(), CallFailure::Unknown(Unknown::DeadlinePassed));
        let earlier = &failed.report().unwrap().earlier;
        assert_eq!(earlier.len(), 2, "{failed}");
        assert!(failed.to_string().contains("; before that at test:"), "{failed}");
        sites.iter().for_each(Site::open_gate);
        client.close().await;
    });
}

#[test]
fn c328_while_all_servers_are_down_calls_wait_or_end_as_they_are_meant_to() {
    let sites = sites::<2>();
    sites.iter().for_each(|site| site.set(Mode::Refuses));
    let outcome = |client: &Client, method| {
        client.call(method, &()).timeout(Duration::from_millis(100)).block().ok().unwrap_err()
    };
    let not = CallFailure::NotExecuted;
    let client = client(&sites);
    for method in [&WHO, &COUNT] {
        assert_eq!(outcome(&client, method), not(NotExecuted::DeadlinePassed));
        let at_once = client.call(method, &()).timeout(NEVER).fail_fast(true).block().ok();
        assert_eq!(at_once, Err(not(NotExecuted::Disconnected)));
        let end = options().with_on_dial_failure(OnDialFailure::End).with_timeout(NEVER);
        let ends = Servers::new(sites.clone()).client(end).unwrap();
        let end = ends.call(method, &()).block().ok();
        assert_eq!(end, Err(not(NotExecuted::NeverConnected)));
        assert!(ends.close_blocking().in_good_order);
    }
    // What waits is made when one of them comes.
    let calls = [&WHO, &COUNT].map(|method| smol::spawn(client.call(method, &()).timeout(NEVER)));
    sites[1].set(Mode::Serves);
    for call in calls {
        assert_eq!(smol::block_on(call).ok(), Ok(1));
    }
    // And what still waits at the close learns that it was not executed.
    sites[1].lose();
    smol::block_on(async {
        until_healthy(&client, 0).await;
        let mut waits = client.call(&WHO, &()).timeout(NEVER).start();
        assert!(smol::future::poll_once(&mut waits).await.is_none());
        let report = client.close().await;
        assert_eq!(report.unfinished, 1, "{report}");
        assert_eq!(waits.await.executed(), Executed::No);
    });
}

#[test]
fn c329_a_server_that_drains_or_is_full_loses_no_call_to_another() {
    let sites = sites::<2>();
    smol::block_on(async {
        let client = client(&sites);
        until_healthy(&client, 2).await;
        let first = client.call(&COUNT, &()).await.ok().unwrap() as usize;
        let (drained, other) = (&sites[first], &sites[1 - first]);
        // One of each is full: all further calls of this method are refused there.
        let full = [(); 2].map(|()| client.call(&NARROW, &()).start());
        until(|| drained.waiting() == 1 && other.waiting() == 1).await;
        let refused = client.call(&NARROW, &()).result().await.unwrap_err();
        assert_eq!(refused.failure(), CallFailure::NotExecuted(NotExecuted::Overloaded));
        assert_eq!(refused.report().unwrap().earlier.len(), 1, "both were asked: {refused}");

        // Calls go on while one server is drained.
        let server = drained.0.server.lock().unwrap().clone();
        let draining = smol::spawn(async move { server.drain(NEVER).await });
        let mut moved = false;
        while !moved {
            let count = client.call(&COUNT, &()).await.ok().unwrap();
            moved = count == other.0.number;
            client.call(&WHO, &()).await.ok().unwrap();
        }
        drained.set(Mode::Refuses);
        sites.iter().for_each(Site::open_gate);
        for call in full {
            call.await.ok().unwrap();
        }
        draining.await;
        for _ in 0..20 {
            let answers = (client.call(&COUNT, &()).await.ok(), client.call(&WHO, &()).await.ok());
            assert_eq!(answers, (Ok(other.0.number), Ok(other.0.number)));
        }
        let report = client.close().await;
        assert_eq!(report.unfinished, 0, "{report}");
    });
}

#[test]
fn what_is_made_at_no_server_is_seen_too_and_its_report_names_all_of_them() {
    let sites = sites::<2>();
    sites.iter().for_each(|site| site.set(Mode::Refuses));
    let ends: Arc<Mutex<Vec<CallEnd>>> = Arc::default();
    let seen = ends.clone();
    let observer = move |_: &Source, event: &Event| {
        if let Event::CallEnded { end, .. } = event {
            seen.lock().unwrap().push(*end);
        }
    };
    let options = options().with_on_dial_failure(OnDialFailure::End).with_observer(observer);
    let client = Servers::new(sites.clone()).client(options).unwrap();
    let failed = client.call(&WHO, &()).result().block().unwrap_err();
    let failure = CallFailure::NotExecuted(NotExecuted::NeverConnected);
    assert_eq!(failed.failure(), failure);
    let text = failed.to_string();
    for part in ["test/who at test:0,test:1: ", "connect to test:0: ", "connect to test:1: "] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(*ends.lock().unwrap(), [CallEnd::Failed(failure)]);
}

#[test]
fn a_server_of_another_service_is_left_out_and_calls_outlive_their_client() {
    let [stranger, ours] = sites::<2>();
    let other = oncewire_driver::Server::builder("another").build().unwrap();
    *stranger.0.server.lock().unwrap() = other;
    let list = [stranger, ours.clone()];
    let service = |name| options().with_service(oncewire_driver::ServiceName::new(name).unwrap());
    let client = Servers::new(list.clone()).client(service("test")).unwrap();
    smol::block_on(async {
        for _ in 0..20 {
            assert_eq!(client.call(&WHO, &()).await.ok(), Ok(1));
            assert_eq!(client.call(&COUNT, &()).await.ok(), Ok(1));
        }
        let [hold, slow] =
            [client.call(&HOLD, &()), client.call(&SLOW, &())].map(|call| call.start());
        until(|| ours.waiting() == 2).await;
        drop(client);
        ours.open_gate();
        assert_eq!((hold.await.ok(), slow.await.ok()), (Ok(1), Ok(1)));

        let client = Servers::new(list).client(service("a third")).unwrap();
        assert!(!client.connected().await);
        let refused = client.call(&WHO, &()).await;
        assert!(
            matches!(refused, Outcome::NotExecuted(NotExecuted::SessionRefused)),
            "{refused:?}"
        );
    });
}

#[test]
fn a_one_way_call_that_no_server_can_take_yet_leaves_later() {
    let sites = sites::<2>();
    sites.iter().for_each(|site| site.set(Mode::Refuses));
    let client = client(&sites);
    smol::block_on(async {
        client.send(&NOTE, &()).unwrap();
        until(|| client.servers()[0].client.failed_attempts > 0).await;
        sites.iter().for_each(|site| site.set(Mode::Serves));
        until_healthy(&client, 2).await;
        let report = client.close().await;
        assert!(report.in_good_order && report.one_way_unconfirmed == 0, "{report}");
    });
}
