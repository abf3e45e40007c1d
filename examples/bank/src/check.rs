//! Compares what a client's outcomes imply with what the server says.
//!
//! The expected balance comes from outcomes alone: a reply that says so moved money, a declined or `NotExecuted` call
//! did not, and an `Unknown` that was never resolved may or may not have. Beyond that the server's log must agree with
//! every single outcome.

use std::collections::BTreeMap;

use crate::service::{AccountId, Executions};

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Open,
    Deduct,
    Deposit,
    Note,
}

/// What its client knows of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Begun; its client has not, or not yet, learned more.
    InDoubt,
    /// Executed, and did what it should.
    Applied,
    /// Executed, and declined by the bank.
    Declined,
    NotExecuted,
    /// It has no outcome: a one-way call.
    Untold,
}

/// One operation of one client, as its client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    pub(crate) account: AccountId,
    pub(crate) amount: u64,
    pub(crate) verdict: Verdict,
}

/// The operations of one client by their numbers, which begin with 0.
pub(crate) type Records = BTreeMap<u64, Record>;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// What all accounts hold together if no operation in doubt was executed.
    pub(crate) expected: u64,
    /// The least and the most that they can hold, given those in doubt.
    pub(crate) expected_min: u64,
    pub(crate) expected_max: u64,
    /// What they hold.
    pub(crate) actual: u64,
    /// Operations that were executed more than once.
    pub(crate) executed_twice: u64,
    /// Operations whose verdict only the log has.
    pub(crate) in_doubt: u64,
    pub(crate) notes: u64,
    pub(crate) notes_executed: u64,
    /// What is wrong, in words.
    pub(crate) faults: Vec<String>,
}

impl Findings {
    /// Nothing contradicts the outcomes.
    pub(crate) fn agree(&self) -> bool {
        self.faults.is_empty()
    }

    /// Nothing contradicts them, and they leave no room for doubt.
    pub(crate) fn exact(&self) -> bool {
        self.agree() && self.expected_min == self.expected_max && self.expected_min == self.actual
    }

    pub(crate) fn add(&mut self, other: Findings) {
        self.expected += other.expected;
        self.expected_min += other.expected_min;
        self.expected_max += other.expected_max;
        self.actual += other.actual;
        self.executed_twice += other.executed_twice;
        self.in_doubt += other.in_doubt;
        self.notes += other.notes;
        self.notes_executed += other.notes_executed;
        self.faults.extend(other.faults);
    }
}

/// Who decides about operations whose client does not know their verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// None: they widen the interval.
    Widens,
    /// The server's log, which was read when nothing of the client could arrive any more: for clients that were killed.
    AskTheLog,
}

/// What an account can hold.
#[derive(Clone, Copy, Debug, Default)]
struct Range {
    /// With nothing in doubt executed.
    certain: i128,
    min: i128,
    max: i128,
}

/// What the server says, when all is over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Testimony {
    /// Executions by the operations' numbers.
    pub(crate) log: Vec<Executions>,
    pub(crate) balances: BTreeMap<AccountId, u64>,
}

/// Holds the records of one client against what the server says.
pub(crate) fn check(records: &Records, testimony: &Testimony, doubt: Doubt) -> Findings {
    let mut findings = Findings::default();
    let mut ranges: BTreeMap<AccountId, Range> = BTreeMap::new();
    for (&number, record) in records {
        let executions = testimony.log.get(number as usize).copied().unwrap_or_default();
        check_one(number, record, executions, &mut findings);
        let log = (doubt == Doubt::AskTheLog).then_some(executions);
        add_to_range(record, log, &mut ranges);
    }
    for (account, range) in ranges {
        tell_expected(range, &mut findings);
        check_account(account, range, testimony.balances.get(&account), &mut findings);
    }
    findings
}

/// What the outcomes imply, where the server could not be asked: `why` says so.
pub(crate) fn unchecked(records: &Records, why: String) -> Findings {
    let mut findings = Findings { faults: vec![why], ..Findings::default() };
    let mut ranges = BTreeMap::new();
    for record in records.values() {
        findings.in_doubt += u64::from(record.verdict == Verdict::InDoubt);
        add_to_range(record, None, &mut ranges);
    }
    ranges.into_values().for_each(|range| tell_expected(range, &mut findings));
    findings
}

/// What an operation means for its account; `log` decides if its client cannot.
fn add_to_range(record: &Record, log: Option<Executions>, ranges: &mut BTreeMap<AccountId, Range>) {
    // An account whose opening no client knows of belongs to none.
    if record.kind == Kind::Open && record.verdict != Verdict::Applied {
        return;
    }
    let applied = match record.verdict {
        Verdict::Applied => Some(true),
        Verdict::InDoubt => log.map(|log| log.applied > 0),
        _ => Some(false),
    };
    let amount = match record.kind {
        Kind::Open | Kind::Deposit => i128::from(record.amount),
        Kind::Deduct => -i128::from(record.amount),
        Kind::Note => 0,
    };
    let range = ranges.entry(record.account).or_default();
    match applied {
        Some(false) => {}
        Some(true) => {
            range.certain += amount;
            range.min += amount;
            range.max += amount;
        }
        None => {
            range.min += amount.min(0);
            range.max += amount.max(0);
        }
    }
}

fn tell_expected(range: Range, findings: &mut Findings) {
    let balance = |sum: i128| u64::try_from(sum).unwrap_or_default();
    findings.expected += balance(range.certain);
    findings.expected_min += balance(range.min);
    findings.expected_max += balance(range.max);
}

/// The log against one outcome.
fn check_one(number: u64, record: &Record, executions: Executions, findings: &mut Findings) {
    let Executions { executed, applied } = executions;
    findings.executed_twice += u64::from(executed > 1);
    let possible = match record.verdict {
        Verdict::Applied => executed == 1 && applied == 1,
        Verdict::Declined => executed == 1 && applied == 0,
        Verdict::NotExecuted => executed == 0,
        Verdict::InDoubt | Verdict::Untold => executed <= 1,
    };
    findings.in_doubt += u64::from(record.verdict == Verdict::InDoubt);
    if record.kind == Kind::Note {
        findings.notes += 1;
        findings.notes_executed += u64::from(executed > 0);
    }
    if !possible {
        findings.faults.push(format!(
            "operation {number} ({:?} of {} at account {}) ended as {:?}, but was executed {executed} times and \
             applied {applied} times",
            record.kind, record.amount, record.account, record.verdict,
        ));
    }
}

/// A balance against what it can be.
fn check_account(account: AccountId, range: Range, actual: Option<&u64>, findings: &mut Findings) {
    let Some(&actual) = actual else {
        return findings.faults.push(format!("account {account} is not there"));
    };
    findings.actual += actual;
    let Range { min, max, .. } = range;
    if i128::from(actual) < min || i128::from(actual) > max {
        findings.faults.push(if min == max {
            format!("account {account} holds {actual}, but must hold {min}")
        } else {
            format!("account {account} holds {actual}, but must hold {min} to {max}")
        });
    }
}
