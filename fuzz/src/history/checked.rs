//! The checker, on histories of registers and logs.

use super::check::*;
use super::model::{Log, LogCall, LogReturn, Register, RegisterCall, digest};
use super::*;

type Registers = Vec<Operation<RegisterCall, u64>>;
type Logs = Vec<Operation<LogCall, LogReturn>>;
const STEPS_MAX: usize = 100_000;

fn write(invoked: u64, returned: u64, value: u64) -> Operation<RegisterCall, u64> {
    let call = RegisterCall::Write(value);
    Operation { call, invoked, returned: Some((returned, value)) }
}

fn read(invoked: u64, returned: u64, value: u64) -> Operation<RegisterCall, u64> {
    Operation { call: RegisterCall::Read, invoked, returned: Some((returned, value)) }
}

fn lost_write(invoked: u64, value: u64) -> Operation<RegisterCall, u64> {
    Operation { call: RegisterCall::Write(value), invoked, returned: None }
}

fn append(invoked: u64, returned: u64, element: u64, log: &[u64]) -> Logs {
    let observed = LogReturn { len: log.len() as u64, digest: digest(log) };
    let call = LogCall::Append(element);
    vec![Operation { call, invoked, returned: Some((returned, observed)) }]
}

fn is_good(history: &Registers) -> bool {
    check::<Register>(history, STEPS_MAX) == Verdict::Linearizable
}

#[test]
fn an_empty_history_is_good() {
    assert!(is_good(&vec![]));
}

#[test]
fn a_read_sees_the_write_before_it() {
    assert!(is_good(&vec![write(1, 2, 7), read(3, 4, 7)]));
    assert!(!is_good(&vec![write(1, 2, 7), read(3, 4, 0)]));
    assert!(!is_good(&vec![write(1, 2, 7), read(3, 4, 8)]));
}

#[test]
fn a_read_beside_a_write_may_see_it_or_not() {
    assert!(is_good(&vec![write(1, 4, 7), read(2, 3, 7)]));
    assert!(is_good(&vec![write(1, 4, 7), read(2, 3, 0)]));
}

#[test]
fn what_one_read_saw_a_later_one_does_not_unsee() {
    assert!(!is_good(&vec![write(1, 10, 7), read(2, 3, 7), read(4, 5, 0)]));
}

#[test]
fn an_unknown_write_may_take_effect_late_or_never() {
    assert!(is_good(&vec![lost_write(1, 7), read(2, 3, 0), read(4, 5, 7)]));
    assert!(is_good(&vec![lost_write(1, 7), read(2, 3, 0), read(4, 5, 0)]));
}

#[test]
fn an_unknown_write_takes_effect_once() {
    let history = vec![lost_write(1, 7), read(2, 3, 7), write(4, 5, 8), read(6, 7, 7)];
    assert!(!is_good(&history));
}

#[test]
fn no_write_takes_effect_before_it_was_called() {
    assert!(!is_good(&vec![read(1, 2, 7), lost_write(3, 7)]));
}

#[test]
fn an_element_that_was_appended_twice_is_noticed() {
    let good = [append(1, 2, 5, &[5]), append(3, 4, 6, &[5, 6])].concat();
    assert_eq!(check::<Log>(&good, STEPS_MAX), Verdict::Linearizable);
    let bad = [append(1, 2, 5, &[5]), append(3, 4, 6, &[5, 5, 6])].concat();
    assert_eq!(check::<Log>(&bad, STEPS_MAX), Verdict::NotLinearizable { longest: 1 });
}

#[test]
fn an_effect_of_a_call_that_was_not_executed_is_noticed() {
    // The append of 5 ended as not executed, so it is not in the history.
    let bad = append(3, 4, 6, &[5, 6]);
    assert_eq!(check::<Log>(&bad, STEPS_MAX), Verdict::NotLinearizable { longest: 0 });
}

#[test]
fn memory_makes_many_unknown_writes_bearable() {
    let mut history: Registers = (1..=12).map(|n| lost_write(n, 100 + n)).collect();
    history.extend((0..200).map(|n| write(20 + 2 * n, 21 + 2 * n, n)));
    history.push(read(1000, 1001, 104));
    assert!(is_good(&history));
}

#[test]
fn a_search_that_is_too_long_is_given_up() {
    let history = vec![write(1, 2, 7), read(3, 4, 7)];
    assert_eq!(check::<Register>(&history, 1), Verdict::Undecided);
}
