//! The driver in simulated worlds. To see what happened: `driver_world --seed S --trace`.

use oncewire_fuzz::driver_world;
use oncewire_fuzz::mutant::{ALL, Mutant};

/// Worlds in a debug build.
const SEEDS: u64 = 320;

fn run(seed: u64) -> driver_world::Report {
    match driver_world::run(seed, 60) {
        Ok(report) => report,
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn every_world_keeps_its_promises() {
    let reports = (0..SEEDS).map(run);
    let calls: u64 = reports.map(|report| report.calls).sum();
    assert!(calls > 100 * SEEDS, "worlds have become empty: {calls} calls");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..12 {
        assert_eq!(run(seed).hash, run(seed).hash, "seed {seed}");
    }
}

/// Calls of one task that waited together woke each other without end: each told the leader to write, and the leader
/// was of the same task.
#[test]
fn calls_joined_in_one_task_do_not_spin() {
    run(0);
}

/// Fails when a call that is dropped while it reads for all does not pass the lead on.
#[test]
fn a_leader_that_is_dropped_passes_the_lead_on() {
    run(33);
}

/// A wait for a ticket that was given up while it read for all kept the lead, and the replies of other calls lay unread
/// until the client's task looked.
#[test]
fn a_wait_for_a_ticket_that_is_dropped_passes_the_lead_on() {
    run(3978);
}

/// A server's connection to a peer that vanished with a full buffer never ended: there was always more to send first.
#[test]
fn a_connection_that_takes_nothing_ends() {
    run(2931);
}

/// A drain waited for ever for a peer that had vanished with a full buffer: the machine says that a connection is
/// closed when its last words were taken, and nobody took them.
#[test]
fn a_drain_ends_though_a_peer_takes_nothing() {
    run(3806);
}

/// What is said of a broken promise, and not of a world that merely did not come to its end.
const PROMISES: [&str; 3] = ["runs a second time", "but it ran", "it is the reply of operation"];

#[test]
fn every_mutant_is_caught() {
    // Callers of this world never repeat a call themselves.
    for mutant in ALL.into_iter().filter(|mutant| *mutant != Mutant::Again) {
        let failure = (0..100)
            .find_map(|seed| driver_world::run_mutant(seed, 0, Some(mutant)).err())
            .unwrap_or_else(|| panic!("nobody noticed {mutant:?}"));
        let promise = PROMISES.iter().any(|promise| failure.what.contains(promise));
        assert!(promise, "{mutant:?}: {failure}");
        let again = driver_world::run_mutant(failure.seed, 0, Some(mutant)).err();
        assert_eq!(again.map(|again| again.what), Some(failure.what), "{mutant:?} replays");
    }
}

#[test]
fn c128_a_server_that_reads_one_connection_without_end_is_found_out() {
    let failure =
        (0..40).find_map(|seed| driver_world::run_mutant(seed, 0, Some(Mutant::Greedy)).err());
    let failure = failure.expect("somebody notices");
    assert!(failure.what.contains("times in one turn"), "{failure}");
}
