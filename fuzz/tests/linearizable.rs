//! All outcomes agree with one order of all calls, whatever happens to connections and servers; and planted bugs are
//! found.

use oncewire_fuzz::history::check::Verdict;
use oncewire_fuzz::history::run::{Histories, Plan, run};
use oncewire_fuzz::mutant::{ALL, Mutant};

const STEPS_MAX: usize = 3_000_000;

/// How many histories may hold so many calls of unknown outcome, one in so many, that the search for an order is given up:
/// it is exponential in them, and how many there are is up to the machine's load.
const UNDECIDED_ONE_IN: u64 = 4;

fn run_good(plan: Plan) -> Histories {
    let (histories, verdict) = run_and_judge(plan);
    assert_eq!(verdict, Verdict::Linearizable, "{plan:?}: {:?}", histories.tally);
    histories
}

fn run_and_judge(plan: Plan) -> (Histories, Verdict) {
    let histories = run(plan);
    let verdict = histories.verdict(STEPS_MAX);
    let bad = matches!(verdict, Verdict::NotLinearizable { .. });
    assert!(!bad, "{plan:?}: {:?}", histories.tally);
    (histories, verdict)
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
    let (mut cut, mut undecided) = (0, 0);
    for seed in 1..=60 {
        let plan = Plan::new(seed);
        let (histories, verdict) = run_and_judge(plan);
        let tally = histories.tally;
        assert!(tally.replies > 0, "{plan:?}: {tally:?}");
        cut += tally.connections - plan.clients;
        undecided += u64::from(verdict == Verdict::Undecided);
    }
    assert!(undecided <= 60 / UNDECIDED_ONE_IN, "{undecided} histories were not decided");
    assert!(cut > 60, "only {cut} connections broke");
}

#[test]
fn histories_are_linearizable_when_connections_carry_only_a_few_frames() {
    let mut undecided = 0;
    for seed in 1..=20 {
        let plan = Plan { bytes_max: 600, ..Plan::new(1000 + seed) };
        undecided += u64::from(run_and_judge(plan).1 == Verdict::Undecided);
    }
    assert!(undecided <= 20 / UNDECIDED_ONE_IN, "{undecided} histories were not decided");
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
        assert!(seeds > 0, "{mutant:?} went unnoticed");
    }
}
