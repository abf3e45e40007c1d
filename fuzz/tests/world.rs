//! The simulated world: a few hundred seeds, the broken machines, and that a seed replays.
#![allow(missing_docs)]

use oncewire_fuzz::world::{Broken, Report, Trace, Violation, run};

fn world(seed: u64, calls: u64, broken: Broken) -> Result<Report, Violation> {
    run(seed, calls, broken, &mut Trace::default())
}

#[test]
fn every_promise_is_kept_in_a_few_hundred_worlds() {
    let mut sum = Report::default();
    for seed in 0..300 {
        match world(seed, 400, Broken::No) {
            Ok(report) => sum.add(&report),
            Err(violation) => panic!("seed {seed} with 400 calls: {}", violation.0),
        }
    }
    assert!(sum.calls >= 300 * 400);
    let happened = sum.faults.iter().filter(|count| **count > 0).count();
    assert_eq!(happened, sum.faults.len(), "every kind of fault: {:?}", sum.faults);
    assert!(sum.outcomes.iter().all(|count| *count > 0), "{:?}", sum.outcomes);
    let faults = sum.faults.iter().sum::<u64>();
    assert!(faults * 50 >= sum.calls, "{faults} faults in {} calls", sum.calls);
}

/// The first seed that catches a broken machine, and what it says.
fn caught(broken: Broken) -> (u64, String) {
    (0..100)
        .find_map(|seed| Some((seed, world(seed, 1_000, broken).err()?.0.into())))
        .unwrap_or_else(|| panic!("{broken:?} was not caught"))
}

#[test]
fn a_server_that_knows_no_duplicates_is_caught() {
    assert!(caught(Broken::NoDedup).1.contains("ran"));
}

#[test]
fn a_server_that_forgets_kept_replies_is_caught() {
    assert!(caught(Broken::Forgetful).1.contains("ran"));
}

#[test]
fn a_client_that_uses_an_xid_twice_is_caught() {
    assert!(caught(Broken::Reuse).1.contains("FalseRetry"));
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [1, 7, 1 << 40] {
        let mut traces = [Trace::keeping(100), Trace::keeping(100)];
        let reports = [0, 1].map(|at| run(seed, 500, Broken::No, &mut traces[at]));
        assert_eq!(reports[0], reports[1]);
        assert_eq!(traces[0].lines, traces[1].lines);
        assert_eq!(traces[0].hash(), traces[1].hash());
    }
    assert_ne!(world(1, 500, Broken::No), world(2, 500, Broken::No));
}

#[test]
fn a_broken_machines_failure_replays_too() {
    let (seed, message) = caught(Broken::Forgetful);
    let again = world(seed, 1_000, Broken::Forgetful);
    assert_eq!(again, Err(Violation(message.into())));
}
