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
    assert!(faults.values().all(|count| *count > 10), "some fault never happens: {faults:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..12 {
        assert_eq!(run(seed).hash, run(seed).hash, "seed {seed}");
    }
}

/// A call on a session that was opened only to learn that the ledger has failed, and whose connection broke before: unknown,
/// and never run.
#[test]
fn a_session_opened_after_the_failure_does_not_survive() {
    run(70);
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
    run(584);
}

/// What is said of a broken promise, and not of a file that the store has noticed to be corrupt: that is the end of a
/// ledger that was believed after a failed sync, and not of others.
const PROMISES: [&str; 7] = [
    "a second time",
    "was durable, and is gone",
    "but it ran",
    "was reported, and it has",
    "without cause",
    " and then ",
    "is in two batches",
];

#[test]
fn every_broken_disk_is_found_out_by_what_callers_and_tables_show() {
    for &broken in Broken::value_variants() {
        let promised = |what: &str| PROMISES.iter().any(|promise| what.contains(promise));
        let failure = (0..400)
            .filter_map(|seed| storage_world::run(seed, 0, Some(broken)).err())
            .find(|failure| promised(&failure.what) || broken == Broken::Cached)
            .unwrap_or_else(|| panic!("{broken:?} went unnoticed"));
        let again = storage_world::run(failure.seed, 0, Some(broken)).err();
        assert_eq!(again.map(|again| again.what), Some(failure.what), "{broken:?} replays");
    }
}
