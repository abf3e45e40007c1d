//! The real service in simulated worlds: what clients see is linearizable.
#![allow(missing_docs)]

use std::ops::Range;
use std::time::Duration;

use kv::history::{History, Outcomes};
use kv::{InMemory, KvClient, KvOnLedgerServer, KvServer, OnLedger};
use oncewire_sim::{AnyError, Failure, Faults, Host, Report, Sim};

const CLIENTS: u64 = 4;
const CALLS: u64 = 25;

fn on_ledger(host: &Host) -> Result<oncewire::Server, AnyError> {
    let ledger = host.ledger()?;
    let service = KvOnLedgerServer(OnLedger(ledger.snapshots()));
    Ok(host.builder("kv").ledger(ledger).service(service).build()?)
}

fn in_memory(host: &Host) -> Result<oncewire::Server, AnyError> {
    Ok(host.builder("kv").service(KvServer(InMemory::default())).build()?)
}

type Build = fn(&Host) -> Result<oncewire::Server, AnyError>;

async fn world(sim: Sim, build: Build) {
    let server = sim.server("kv", build);
    let history = History::default();
    let (ended, ends) = smol::channel::unbounded();
    for client in 0..CLIENTS {
        let kv = KvClient(sim.client(&format!("client-{client}"), &server));
        let (history, ended, pace) = (history.clone(), ended.clone(), sim.clone());
        let mut rng = sim.rng(client);
        sim.spawn(async move {
            for number in 0..CALLS {
                history.act(&kv, &mut rng, number * CLIENTS + client).await;
                pace.sleep(Duration::from_millis(rng.below(60))).await;
            }
            let _ = ended.send(()).await;
        });
    }
    for _ in 0..CLIENTS {
        ends.recv().await.expect("a client has panicked");
    }
    if let Err(why) = history.check() {
        sim.fail(why);
    }
    let Outcomes { replied, not_executed, unknown } = history.outcomes();
    assert_eq!(replied + not_executed + unknown, CLIENTS * CALLS);
}

fn run(seeds: Range<u64>, build: Build, faults: fn(u64) -> Faults) -> Result<Report, Failure> {
    oncewire_sim::try_run(seeds, move |sim| {
        sim.set_faults(faults(sim.seed()));
        world(sim, build)
    })
}

/// What a seed selects, without the deaths of processes.
fn without_deaths(seed: u64) -> Faults {
    let mut faults = Faults::of(seed);
    (faults.kills, faults.power_cuts, faults.dies_in_commit) = (false, false, 0);
    faults
}

/// The same, with kills in every world.
fn with_kills(seed: u64) -> Faults {
    let mut faults = Faults::of(seed);
    (faults.kills, faults.pause) = (true, Duration::from_millis(100));
    faults.until = Duration::from_secs(4);
    faults
}

#[test]
fn on_a_ledger_it_is_linearizable_whatever_is_cut_or_killed() {
    let report = run(0..40, on_ledger, Faults::of).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(report.faults["crashes"] > 20 && report.faults["cuts"] > 20, "{report:?}");
}

#[test]
fn in_memory_it_is_linearizable_whatever_is_cut() {
    let run = run(0..40, in_memory, without_deaths);
    let report = run.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(report.faults["cuts"] > 20, "{report:?}");
}

#[test]
fn in_memory_it_is_not_when_the_server_is_killed_and_the_check_finds_that() {
    let failure = run(0..40, in_memory, with_kills).expect_err("values are gone");
    assert!(failure.what.contains("is not linearizable"), "{failure}");
}
