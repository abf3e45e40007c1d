//! The lab's tests of the primary/backup service, in virtual time: the real servers and clients, simulated clocks and connections.
//! One seed decides everything, and `cargo test --release -p primary-backup --test labs -- --ignored fifty_times` runs each test with
//! fifty.
#![allow(missing_docs, unreachable_pub)]

mod lab;

use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use lab::{INTERVAL, Lab, dead_time};
use oncewire::{Executed, Outcome};
use oncewire_sim::Sim;

/// Single primary, a backup, few calls to the view service, fail-over, and a server with nothing in memory.
async fn basic_fail(sim: Sim) {
    let lab = Lab::new(&sim);
    let ck = lab.clerk("ck");
    lab.start(1);
    lab.until_view("s1", None).await;
    ck.put("111", "v1").await;
    ck.check("111", "v1").await;
    ck.put("2", "v2").await;
    ck.check("2", "v2").await;
    ck.put("1", "v1a").await;
    ck.check("1", "v1a").await;
    ck.append("ak", "hello").await;
    ck.check("ak", "hello").await;
    ck.put("ak", "xx").await;
    ck.append("ak", "yy").await;
    ck.check("ak", "xxyy").await;

    lab.start(2);
    lab.until_view("s1", Some("s2")).await;
    ck.put("3", "33").await;
    ck.check("3", "33").await;
    // Give the new backup time to get the state.
    lab.until_acknowledged().await;
    ck.put("4", "44").await;
    ck.check("4", "44").await;

    let before = lab.gets().await;
    for _ in 0..100 {
        ck.put("xk", "0").await;
    }
    assert_eq!(lab.gets().await, before, "the client asks the view service without need");

    lab.kill(1);
    lab.until_view("s2", None).await;
    for (key, value) in [("1", "v1a"), ("3", "33"), ("4", "44"), ("111", "v1")] {
        ck.check(key, value).await;
    }

    lab.kill(2);
    lab.start(3);
    sim.sleep(dead_time() * 2).await;
    let reader = lab.clerk("reader");
    let got = reader.get_within("1", dead_time() * 4).await;
    assert_eq!(got.executed(), Executed::No, "a server with nothing in memory answered: {got:?}");
}

async fn at_most_once(sim: Sim) {
    let lab = Lab::new(&sim);
    lab.unreliable();
    lab.start(1);
    lab.until_view("s1", None).await;
    let ck = lab.clerk("ck");
    let mut value = String::new();
    for number in 0..100 {
        ck.append("counter", &number.to_string()).await;
        value.push_str(&number.to_string());
    }
    ck.check("counter", &value).await;
}

async fn fail_put(sim: Sim) {
    let lab = Lab::new(&sim);
    lab.start_pair().await;
    lab.start(3);
    let ck = lab.clerk("ck");
    for (key, value) in [("a", "aa"), ("b", "bb"), ("c", "cc")] {
        ck.put(key, value).await;
        ck.check(key, value).await;
    }
    // The backup dies, and a put comes at once.
    lab.kill(2);
    ck.put("a", "aaa").await;
    ck.check("a", "aaa").await;
    lab.until_view("s1", Some("s3")).await;
    lab.until_acknowledged().await;
    ck.check("a", "aaa").await;
    // The primary dies, and a put comes at once.
    lab.kill(1);
    ck.put("b", "bbb").await;
    ck.check("b", "bbb").await;
    for (key, value) in [("a", "aaa"), ("b", "bbb"), ("c", "cc")] {
        ck.check(key, value).await;
    }
}

/// Three clients put the same keys; then both servers must have the same values.
async fn concurrent_puts(sim: Sim, unreliable: bool) {
    let lab = Lab::new(&sim);
    if unreliable {
        lab.unreliable();
    }
    lab.start_pair().await;
    let mut done = Vec::new();
    for client in 0..3_u64 {
        let (ck, mut rng) = (lab.clerk(&format!("ck{client}")), sim.rng(client));
        done.push(lab::spawn(&sim, async move {
            for _ in 0..60 {
                let (key, value) = (rng.below(10), rng.next_u64());
                ck.put(&key.to_string(), &value.to_string()).await;
            }
        }));
    }
    lab::all(done).await;
    let ck = lab.clerk("reader");
    let mut values = Vec::new();
    for key in 0..10 {
        values.push(ck.get(&key.to_string()).await);
    }
    lab.kill(1);
    for (key, value) in values.iter().enumerate() {
        ck.check(&key.to_string(), value).await;
    }
}

async fn concurrent_same(sim: Sim) {
    concurrent_puts(sim, false).await;
}

async fn concurrent_same_unreliable(sim: Sim) {
    concurrent_puts(sim, true).await;
}

/// Three clients append to one key: each piece is there once, and those of a client are in order, at both servers.
async fn concurrent_same_append(sim: Sim) {
    let lab = Lab::new(&sim);
    lab.start_pair().await;
    let mut done = Vec::new();
    for client in 0..3 {
        let ck = lab.clerk(&format!("ck{client}"));
        done.push(lab::spawn(&sim, async move {
            for number in 0..50 {
                ck.append("k", &format!("x {client} {number} y")).await;
            }
        }));
    }
    lab::all(done).await;
    let ck = lab.clerk("reader");
    let value = ck.get("k").await;
    lab::check_appends(&value, 3, 50);
    lab.kill(1);
    ck.check("k", &value).await;
}

/// One of three servers is killed, ten times, while two clients work.
async fn crashes(sim: Sim, unreliable: bool) {
    let lab = Lab::new(&sim);
    if unreliable {
        lab.unreliable();
    }
    lab.start_pair().await;
    lab.start(3);
    let stop = lab::Flag::default();
    let mut done = Vec::new();
    for client in 0..2_u64 {
        let (ck, stop) = (lab.clerk(&format!("ck{client}")), stop.clone());
        let mut rng = sim.rng(client);
        let pace = sim.clone();
        done.push(lab::spawn(&sim, async move {
            let mut appended = 0;
            let mut values = vec![String::new(); 10];
            while !stop.is_set() {
                let key = rng.index(10);
                let name = format!("{client}-{key}");
                ck.check(&name, &values[key]).await;
                values[key] = rng.next_u64().to_string();
                ck.put(&name, &values[key]).await;
                ck.append("log", &format!("x {client} {appended} y")).await;
                appended += 1;
                pace.sleep(Duration::from_millis(10)).await;
            }
            for (key, value) in values.iter().enumerate() {
                ck.check(&format!("{client}-{key}"), value).await;
            }
            ck.append("counts", &format!("{client}={appended};")).await;
        }));
    }
    let mut rng = sim.rng(99);
    for _ in 0..10 {
        // So long that the views follow: the lab waits, too. If two died at once, what they hold would be gone.
        lab.until_in_sync().await;
        let victim = rng.range(1, 3);
        lab.kill(victim);
        sim.sleep(dead_time() * 2).await;
        lab.start(victim);
        sim.sleep(dead_time() * 2).await;
    }
    stop.set();
    lab::all(done).await;
    let ck = lab.clerk("reader");
    let (log, counts) = (ck.get("log").await, ck.get("counts").await);
    for client in 0..2 {
        let count = counts.split(';').find_map(|of| of.strip_prefix(&format!("{client}=")));
        lab::check_appends_of(&log, client, count.unwrap().parse().unwrap());
    }
    ck.put("aaa", "bbb").await;
    ck.check("aaa", "bbb").await;
}

async fn repeated_crash(sim: Sim) {
    crashes(sim, false).await;
}

async fn repeated_crash_unreliable(sim: Sim) {
    crashes(sim, true).await;
}

/// A primary that the view service does not hear any more, but that its clients and its backup do: it serves no old values.
async fn partition1(sim: Sim) {
    let lab = Lab::new(&sim);
    lab.start_pair().await;
    let ck = lab.clerk("ck");
    ck.put("a", "1").await;
    ck.check("a", "1").await;
    lab.cut("s1", "views");
    lab.until_view("s2", None).await;
    let other = lab.clerk("other");
    other.put("a", "111").await;
    // This one is still connected to the old primary, which ends when its backup says who is primary now.
    ck.check("a", "111").await;
    other.check("a", "111").await;
}

/// A primary that neither the view service nor its backup hears, but a client does: it does not answer.
async fn partition2(sim: Sim) {
    let lab = Lab::new(&sim);
    lab.start_pair().await;
    let ck = lab.clerk("ck");
    ck.put("a", "1").await;
    ck.check("a", "1").await;
    for other in ["views", "s2"] {
        lab.cut("s1", other);
    }
    let mut stale = std::pin::pin!(ck.get_within("a", Duration::from_secs(600)));
    lab.until_view("s2", None).await;
    let other = lab.clerk("other");
    other.put("a", "111").await;
    let early = lab::within(&sim, dead_time() * 10, stale.as_mut()).await;
    assert!(early.is_none(), "a primary without its backup answered: {early:?}");
    other.check("a", "111").await;
    // The cut is mended: the old primary learns what it is, and ends; the call of its client is answered by the new one.
    for other in ["views", "s2"] {
        lab.mend("s1", other);
    }
    let late = stale.await;
    assert!(matches!(&late, Outcome::Reply(value) if value == "111"), "{late:?}");
}

/// Tries to get two primaries that both answer: servers are cut off from each other, from the view service and from half of the
/// clients, in any combination, and what the clients see is linearizable.
async fn split_brain(sim: Sim) {
    let lab = Lab::new(&sim);
    lab.start_pair().await;
    lab.start(3);
    let history = lab::History::default();
    let mut done = Vec::new();
    for client in 0..4_u64 {
        let (ck, mut rng) = (lab.clerk(&format!("ck{client}")), sim.rng(client));
        let (history, pace) = (history.clone(), sim.clone());
        done.push(lab::spawn(&sim, async move {
            for number in 0..25 {
                let key = rng.below(2);
                ck.recorded(&history, key, client * 1000 + number, rng.one_in(2)).await;
                pace.sleep(Duration::from_millis(rng.range(1, 40))).await;
            }
        }));
    }
    let mut rng = sim.rng(98);
    let sides = ["s1", "s2", "s3"];
    for _ in 0..6 {
        let server = rng.pick(&sides);
        let others: Vec<&str> = ["views", "s1", "s2", "s3", "ck0", "ck1"]
            .into_iter()
            .filter(|of| *of != server)
            .collect();
        let cut: Vec<&str> = others.into_iter().filter(|_| rng.one_in(2)).collect();
        cut.iter().for_each(|other| lab.cut(server, other));
        sim.sleep(INTERVAL * rng.range(1, 20) as u32).await;
        cut.iter().for_each(|other| lab.mend(server, other));
        sim.sleep(INTERVAL * rng.range(1, 20) as u32).await;
    }
    lab::all(done).await;
    history.check();
}

fn run<F, Fut>(seeds: Range<u64>, test: F)
where
    F: Fn(Sim) -> Fut + Copy + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    oncewire_sim::run(seeds, test);
}

macro_rules! labs {
    ($($name:ident)+) => {
        $(mod $name {
            #[test]
            fn passes() {
                super::run(0..3, super::$name);
            }

            #[test]
            #[ignore = "a few seconds each in a release build, more otherwise"]
            fn fifty_times() {
                super::run(0..50, super::$name);
            }
        })+
    };
}

labs! {
    basic_fail at_most_once fail_put concurrent_same concurrent_same_append concurrent_same_unreliable repeated_crash
    repeated_crash_unreliable partition1 partition2 split_brain
}
