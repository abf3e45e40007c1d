//! The real ledger on simulated disks. To see what happened: `storage_world --seed S --trace`.

use clap::ValueEnum;
use oncewire_fuzz::driver_world::Report;
use oncewire_fuzz::storage_world::profile::Profile;
use oncewire_fuzz::storage_world::{self, Broken};

/// Worlds in a debug build.
const SEEDS: u64 = 60;

fn run(seed: u64) -> Report {
    match storage_world::run(seed, 60, None) {
        Ok(report) => report,
        Err(failure) => panic!("{failure}"),
    }
}

/// A world whose server has the ledger for itself, as it had when its seed was found.
fn run_alone(seed: u64) {
    assert!(Profile::of(seed).sharing.is_none(), "seed {seed}");
    run(seed);
}

#[test]
fn every_world_keeps_its_promises_whatever_its_disk_does() {
    let mut calls = 0;
    let mut faults = std::collections::BTreeMap::new();
    for report in (0..SEEDS).map(run) {
        calls += report.calls;
        for (name, count) in report.faults {
            *faults.entry(name).or_insert(0) += count;
        }
    }
    assert!(calls > 60 * SEEDS, "worlds have become empty: {calls} calls");
    // Few claims are made, and of those that come too late C420 has worlds enough.
    let is_rare = |name: &str, count: u64| match name {
        MOVED_AGAIN => false,
        _ => count <= if name.starts_with("claims") { 0 } else { 10 },
    };
    let rare = faults.iter().find(|(name, count)| is_rare(name, **count));
    assert!(rare.is_none(), "some fault hardly happens: {faults:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..12 {
        assert_eq!(run(seed).hash, run(seed).hash, "seed {seed}");
    }
}

/// A session was opened only to learn that the ledger had failed, and its connection broke before that: its call was unknown, and had never
/// run. Now such a session is refused.
#[test]
fn a_call_at_a_server_whose_ledger_has_failed_is_not_unknown() {
    run_alone(70);
}

/// A client that went on from an old copy of its journal used numbers again, and a payment was executed twice.
#[test]
fn c127_a_client_on_an_old_journal_is_found_out_and_nothing_runs_twice() {
    for seed in (0..40).filter(|seed| Profile::of(*seed).old_journals) {
        run(seed);
    }
}

/// A call that was refused was sent again from an old copy of its journal, to a server that had been started again since.
#[test]
fn a_refusal_that_neither_side_remembers_does_not_bind() {
    run_alone(584);
}

/// What is said of a broken promise, and not of a file that the store has noticed to be corrupt: that is the end of a
/// ledger that was believed after a failed sync, and not of others.
const PROMISES: [&str; 9] = [
    "a second time",
    "is executed after its caller saw",
    "was durable, and is gone",
    "but it ran",
    ", and its caller saw",
    "was reported, and it has",
    "without cause",
    " and then ",
    "is in two batches",
];

/// A fault that needs two claims of a session at once.
const MOVED_AGAIN: &str = "claims answered when the session had moved again";

/// Seeds of worlds whose servers share a ledger.
fn shared(seeds: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
    seeds.filter(|seed| Profile::of(*seed).sharing.is_some())
}

#[test]
fn c420_servers_that_share_a_ledger_keep_every_promise_while_sessions_move() {
    let mut faults = std::collections::BTreeMap::new();
    for seed in shared(SEEDS..3 * SEEDS) {
        run(seed).faults.into_iter().for_each(|(name, count)| {
            *faults.entry(name).or_insert(0) += count;
        });
    }
    for name in ["sessions that moved", "batches of a server that had lost the session"] {
        assert!(faults[name] > 50, "{name}: {faults:?}");
    }
    assert!(faults[MOVED_AGAIN] > 0, "{MOVED_AGAIN}: {faults:?}");
}

/// The first seed that shows each, from 0.
const SHARED: [(Broken, u64); 4] = [
    (Broken::Unfenced, 3),
    (Broken::EarlyClaim, 189),
    (Broken::Trusting, 21),
    (Broken::Overtaking, 189),
];

#[test]
fn c421_a_shared_ledger_and_a_server_that_are_broken_are_found_out() {
    let all = Broken::value_variants().iter().filter(|broken| broken.is_shared());
    assert_eq!(all.count(), SHARED.len());
    let promised = |what: &str| PROMISES.iter().any(|promise| what.contains(promise));
    for (broken, first) in SHARED {
        let failure = shared(first..first + 4_000)
            .filter_map(|seed| storage_world::run(seed, 0, Some(broken)).err())
            .find(|failure| promised(&failure.what))
            .unwrap_or_else(|| panic!("{broken:?} went unnoticed"));
        let again = storage_world::run(failure.seed, 0, Some(broken)).err();
        assert_eq!(again.map(|again| again.what), Some(failure.what), "{broken:?} replays");
    }
}

#[test]
fn every_broken_disk_is_found_out_by_what_callers_and_tables_show() {
    for &broken in Broken::value_variants().iter().filter(|broken| !broken.is_shared()) {
        let promised = |what: &str| PROMISES.iter().any(|promise| what.contains(promise));
        let failure = (0..400)
            .filter_map(|seed| storage_world::run(seed, 0, Some(broken)).err())
            .find(|failure| promised(&failure.what) || broken == Broken::Cached)
            .unwrap_or_else(|| panic!("{broken:?} went unnoticed"));
        let again = storage_world::run(failure.seed, 0, Some(broken)).err();
        assert_eq!(again.map(|again| again.what), Some(failure.what), "{broken:?} replays");
    }
}
