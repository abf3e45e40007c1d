//! Who gets which job, and which result counts.
#![allow(missing_docs)]

use std::time::Duration;

use mapreduce::{Assignment, JobId, Phase, State, Table};
use oncewire::Instant;

const SLOW_AFTER: Duration = Duration::from_secs(1);
const START: Instant = Instant::from_millis(1);

fn table(maps: usize, naive: bool) -> Table {
    let mut table = Table::new(maps, 1, SLOW_AFTER, naive);
    for name in ["a", "b"] {
        table.join(name);
    }
    table
}

fn next(table: &mut Table, now: Instant) -> Assignment {
    table.next(now).expect("there is a job")
}

#[test]
fn a_job_of_a_silent_worker_goes_to_another_and_the_first_result_counts() {
    for naive in [false, true] {
        let mut table = table(1, naive);
        let first = next(&mut table, START);
        assert_eq!(table.next(START), None, "it is under way");
        table.is_silent(first.attempt, "its connection broke");
        let second = next(&mut table, START);
        assert_eq!(second.job, first.job);
        assert_eq!(second.note.unwrap(), "map-0 goes to b as well: a does not answer");
        // The first one was only slow.
        let mut line = |attempt| table.answered(attempt, Ok(5)).unwrap().unwrap();
        assert_eq!(line(first.attempt), "map-0: a's result is the first, and counts");
        let further = if naive { "is counted AGAIN" } else { "comes second, is dropped" };
        assert_eq!(line(second.attempt), format!("map-0: b's result {further}"));
        let both = [(0, first.attempt), (0, second.attempt)];
        assert_eq!(table.counted(Phase::Map), if naive { &both[..] } else { &both[..1] });
        let words = if naive { "; 10 words" } else { "; 5 words" };
        assert!(table.summary().ends_with(words), "{}", table.summary());
    }
}

#[test]
fn a_slow_job_goes_to_an_idle_worker_too_when_it_is_due() {
    let mut table = table(1, false);
    let first = next(&mut table, START);
    let due = table.due().expect("a worker is idle");
    assert_eq!(due, START + SLOW_AFTER);
    assert_eq!(table.next(Instant::from_millis(1000)), None);
    let second = next(&mut table, due);
    assert_eq!(second.job, first.job);
    assert_eq!(second.note.unwrap(), "map-0 goes to b as well: a takes long");
    assert_eq!(table.due(), None, "no worker is idle");
}

#[test]
fn reduces_begin_when_each_map_has_a_result() {
    let mut table = table(2, false);
    let (one, two) = (next(&mut table, START), next(&mut table, START));
    table.answered(one.attempt, Ok(1)).unwrap();
    assert_eq!(table.next(START), None);
    table.answered(two.attempt, Ok(1)).unwrap();
    let reduce = next(&mut table, START);
    assert_eq!(reduce.job, JobId { phase: Phase::Reduce, number: 0 });
    table.answered(reduce.attempt, Ok(1)).unwrap();
    assert_eq!(table.phase(), None);
}

#[test]
fn without_input_there_are_reduces_only() {
    let mut table = table(0, false);
    assert_eq!(next(&mut table, START).job.phase, Phase::Reduce);
}

#[test]
fn a_job_that_fails_everywhere_ends_the_run() {
    let mut table = table(1, false);
    for goes_on in [true, true, false] {
        let attempt = next(&mut table, START).attempt;
        assert_eq!(table.answered(attempt, Err("no".to_owned())).is_ok(), goes_on);
    }
}

#[test]
fn a_silent_worker_gets_nothing_until_it_is_back() {
    let mut table = table(3, false);
    let first = next(&mut table, START);
    table.is_silent(first.attempt, "its connection broke");
    assert_ne!(next(&mut table, START).worker, first.worker);
    assert_eq!(table.next(START), None);
    table.set_state(first.worker, State::Idle);
    assert_eq!(next(&mut table, START).worker, first.worker);
    table.set_state(first.worker, State::Gone);
    assert!(table.present().all(|worker| worker != first.worker));
}
