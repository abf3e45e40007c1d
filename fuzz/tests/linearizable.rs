//! What callers are told agrees with one order of all calls, whatever happens to connections and servers; and a server or
//! a caller that is broken on purpose is found out.

use oncewire_fuzz::history::check::Verdict;
use oncewire_fuzz::history::run::{Histories, Plan, run};
use oncewire_fuzz::mutant::{ALL, Mutant};

const STEPS_MAX: usize = 3_000_000;

fn run_good(plan: Plan) -> Histories {
    let histories = run(plan);
    let verdict = histories.verdict(STEPS_MAX);
    assert_eq!(verdict, Verdict::Linearizable, "{plan:?}: {:?}", histories.tally);
    histories
}

#[test]
fn without_faults_every_call_is_answered_and_the_history_is_linearizable() {
    let mut plan = Plan::new(1);
    (plan.bytes_max, plan.restarts) = (0, 0);
    let tally = run_good(plan).tally;
    assert!(tally.replies > tally.unknown + tally.not_executed, "{tally:?}");
    assert_eq!(tally.connections, plan.clients);
}

#[test]
fn histories_are_linearizable_while_connections_break_and_servers_are_replaced() {
    let mut cut = 0;
    for seed in 1..=60 {
        let plan = Plan::new(seed);
        let tally = run_good(plan).tally;
        assert!(tally.replies > 0, "{plan:?}: {tally:?}");
        cut += tally.connections - plan.clients;
    }
    assert!(cut > 60, "only {cut} connections broke");
}

#[test]
fn histories_are_linearizable_when_connections_carry_only_a_few_frames() {
    for seed in 1..=20 {
        let plan = Plan { bytes_max: 600, ..Plan::new(1000 + seed) };
        run_good(plan);
    }
}

/// Every mutant must be caught within a few seeds; returns how many seeds did.
fn caught(mutant: Mutant) -> u64 {
    let is_bad = |seed: &u64| {
        let plan = Plan { mutant: Some(mutant), ..Plan::new(2000 + seed) };
        matches!(run(plan).verdict(STEPS_MAX), Verdict::NotLinearizable { .. })
    };
    (0..8).filter(is_bad).count() as u64
}

#[test]
fn every_mutant_is_caught() {
    for mutant in ALL {
        let seeds = caught(mutant);
        println!("{}: caught by {seeds} seeds of 8", mutant.name());
        assert!(seeds > 0, "nobody noticed {mutant:?}");
    }
}
