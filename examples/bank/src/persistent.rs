//! A client whose calls outlive it: killed at any moment and started again, it learns what became of each.
//!
//! It keeps two files. The library's journal has the session and the calls; the bank's own has what the client intends and
//! what it has learned, as an application's own data would. An outcome is confirmed when it is in the second: after a crash
//! between the two it is reported again. What was intended, has no outcome, and is not in the library's journal was never
//! sent: it was not executed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oncewire::redb::RedbJournal;
use oncewire::{DurableCall, DurableClient, Outcome, RecoveredCall};
use serde::de::DeserializeOwned;

use crate::audit::ask;
use crate::book::Book;
use crate::chance::{Rng, within};
use crate::check::{Doubt, Findings, Kind, Verdict, check, unchecked};
use crate::client::{AUDIT_TIMEOUT, Load, POOR_OPENING, RICH_OPENING, connect_again, options};
use crate::journal::{self, Journal};
use crate::report::{FAULTS_MAX, Report, tell_findings};
use crate::service::{
    AccountId, BankError, BankMethods, Change, DurableBankClient, Open, Operation,
};

/// Of a hundred calls, those that their caller does not want any more as soon as they are made.
const CANCEL_PERCENT: u64 = 5;

/// Goes on where an earlier run of the same client was killed, makes the calls that are left to make, and checks all.
///
/// # Errors
/// Why it could not begin.
pub(crate) async fn run(load: &Load) -> Result<Report, String> {
    let path = load.journal.as_ref().ok_or("a durable client wants --journal FILE")?;
    let (client, left) = open(load, path)?;
    let connected = within(load.address.connect_timeout(), client.connected()).await;
    if connected != Some(true) {
        return Err(format!("no bank at {}: {:?}", load.address, client.status().last_error));
    }
    let worker = Arc::new(Worker::open(load, path, client)?);
    worker.go_on(left).await;
    let findings = match worker.open_accounts().await {
        Err(why) => unchecked(&worker.book.records(), why),
        Ok(accounts) => {
            let lanes: Vec<_> = (0..load.in_flight)
                .map(|_| smol::spawn(worker.clone().run_lane(accounts)))
                .collect();
            for lane in lanes {
                lane.await;
            }
            worker.check(load).await
        }
    };
    worker.client.close().await;
    let mut report = Report { seed: load.seed, ..Report::default() };
    worker.tell(&mut report);
    tell_findings(&mut report, findings);
    let faults = std::mem::take(&mut *worker.lock_faults());
    report.faults.extend(faults);
    report.faults.truncate(FAULTS_MAX);
    Ok(report)
}

fn open(load: &Load, path: &Path) -> Result<(DurableClient, Vec<RecoveredCall>), String> {
    let mut calls = path.as_os_str().to_owned();
    calls.push(".calls");
    let journal = RedbJournal::open(PathBuf::from(calls)).map_err(|error| error.to_string())?;
    let mut options = options();
    options.timeout = load.call_timeout;
    DurableClient::open(load.address.connector()?, options, journal)
        .map_err(|error| error.to_string())
}

struct Worker {
    client: DurableClient,
    book: Book,
    /// Operations whose outcomes the runs before this one have noted.
    ended: BTreeSet<u64>,
    seed: u64,
    calls: u64,
    next: AtomicU64,
    /// Outcomes that a run before this one did not live to note.
    learned: AtomicU64,
    faults: Mutex<Vec<String>>,
}

impl Worker {
    fn open(load: &Load, path: &Path, client: DurableClient) -> Result<Worker, String> {
        let explain = |error: std::io::Error| format!("{}: {error}", path.display());
        let past = journal::read_past(path).map_err(explain)?;
        let journal = Arc::new(Journal::append(path).map_err(explain)?);
        let next = past.records.keys().next_back().map_or(0, |last| last + 1);
        Ok(Worker {
            client,
            book: Book::resume(past.client, past.records, journal),
            ended: past.ended,
            seed: load.seed,
            calls: load.calls,
            next: AtomicU64::new(next),
            learned: AtomicU64::new(past.learned),
            faults: Mutex::default(),
        })
    }

    fn lock_faults(&self) -> MutexGuard<'_, Vec<String>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns what became of the calls of the run that was killed.
    async fn go_on(&self, left: Vec<RecoveredCall>) {
        let mut known = BTreeSet::new();
        for call in left {
            let number = std::str::from_utf8(call.tag()).ok().and_then(|tag| tag.parse().ok());
            let Some(number) = number else {
                self.lock_faults().push(format!("a call was left behind as {:?}", call.tag()));
                continue;
            };
            known.insert(number);
            if !self.ended.contains(&number) {
                self.learned.fetch_add(1, Ordering::Relaxed);
                self.book.learned_late(number);
            }
            match call.typed(&BankMethods::OPEN) {
                Ok(call) => self.end_open(number, call).await,
                Err(call) if call.method() == BankMethods::DEPOSIT.id() => {
                    self.end_left(number, call.typed(&BankMethods::DEPOSIT)).await;
                }
                Err(call) => self.end_left(number, call.typed(&BankMethods::DEDUCT)).await,
            }
        }
        for (number, _) in self.book.records() {
            if !known.contains(&number) && !self.ended.contains(&number) {
                // Intended, and not recorded: no byte of it was sent.
                self.book.end(self.name(number), Verdict::NotExecuted);
            }
        }
    }

    async fn end_left(
        &self,
        number: u64,
        call: Result<DurableCall<Result<u64, BankError>>, RecoveredCall>,
    ) {
        match call {
            Ok(call) => self.end_change(number, call).await,
            Err(call) => {
                let why = format!("operation {number} was left behind as {:?}", call.method());
                self.lock_faults().push(why);
            }
        }
    }

    fn bank(&self) -> DurableBankClient {
        DurableBankClient(self.client.clone())
    }

    fn name(&self, number: u64) -> Operation {
        Operation { client: self.book.client, number }
    }

    async fn open_accounts(&self) -> Result<[AccountId; 2], String> {
        loop {
            let records = self.book.records();
            let open =
                |r: &&crate::check::Record| r.kind == Kind::Open && r.verdict == Verdict::Applied;
            let accounts: Vec<_> = records.values().filter(open).map(|r| r.account).collect();
            let opening = match accounts[..] {
                [] => RICH_OPENING,
                [_] => POOR_OPENING,
                [rich, poor, ..] => return Ok([rich, poor]),
            };
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let operation = self.book.begin(number, Kind::Open, 0, opening);
            let call = self.bank().open(tag(number), Open { operation, opening });
            self.end_open(number, call).await;
            if self.client.journal_error().is_some() || self.client.status().refused.is_some() {
                return Err("no account was opened".to_owned());
            }
        }
    }

    /// One call after another.
    async fn run_lane(self: Arc<Worker>, accounts: [AccountId; 2]) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.calls || self.client.journal_error().is_some() {
                return;
            }
            let mut rng = Rng::new(self.seed, number);
            let account = accounts[usize::from(rng.percent(20))];
            let amount = 1 + rng.below(100);
            let deducts = rng.percent(60);
            let kind = if deducts { Kind::Deduct } else { Kind::Deposit };
            let operation = self.book.begin(number, kind, account, amount);
            let change = Change { operation, account, amount };
            let (bank, tag) = (self.bank(), tag(number));
            let call = if deducts { bank.deduct(tag, change) } else { bank.deposit(tag, change) };
            if rng.percent(CANCEL_PERCENT) {
                call.cancel();
            }
            self.end_change(number, call).await;
        }
    }

    async fn end_open(&self, number: u64, call: DurableCall<AccountId>) {
        let delivery = call.await;
        match &delivery.outcome {
            Outcome::Reply(account) => {
                if self.agrees(number, Verdict::Applied, Some(*account)) {
                    self.book.end_open(self.name(number), *account);
                }
            }
            other => self.end(number, verdict(other)),
        }
        delivery.receipt.confirm();
    }

    async fn end_change(&self, number: u64, call: DurableCall<Result<u64, BankError>>) {
        let delivery = call.await;
        self.end(
            number,
            match &delivery.outcome {
                Outcome::Reply(Ok(_)) => Verdict::Applied,
                Outcome::Reply(Err(_)) => Verdict::Declined,
                other => verdict(other),
            },
        );
        // Not before it is in our own file.
        delivery.receipt.confirm();
    }

    fn end(&self, number: u64, verdict: Verdict) {
        if self.agrees(number, verdict, None) {
            self.book.end(self.name(number), verdict);
        }
    }

    /// Whether the outcome must be noted; one that was noted before must be the same.
    fn agrees(&self, number: u64, verdict: Verdict, account: Option<AccountId>) -> bool {
        if !self.ended.contains(&number) {
            return true;
        }
        let before = self.book.records().get(&number).copied();
        let same = before.is_some_and(|before| {
            before.verdict == verdict && account.is_none_or(|account| account == before.account)
        });
        if !same {
            let why = format!("operation {number} is {verdict:?}, and was {before:?} before");
            self.lock_faults().push(why);
        }
        false
    }

    /// Asks the bank as another client.
    async fn check(&self, load: &Load) -> Findings {
        let records = self.book.records();
        let auditor = match connect_again(&load.address).await {
            Ok(auditor) => auditor,
            Err(why) => return unchecked(&records, why),
        };
        let findings = match ask(&auditor, self.book.client, &records, AUDIT_TIMEOUT).await {
            Ok(testimony) => check(&records, &testimony, Doubt::Widens),
            Err(why) => unchecked(&records, why),
        };
        auditor.close().await;
        findings
    }

    fn tell(&self, report: &mut Report) {
        for record in self.book.records().values() {
            report.calls += 1;
            match record.verdict {
                Verdict::Applied | Verdict::Declined => report.replied += 1,
                Verdict::NotExecuted => report.not_executed += 1,
                Verdict::InDoubt | Verdict::Untold => report.unknown += 1,
            }
        }
        let status = self.client.status();
        report.resolved = self.learned.load(Ordering::Relaxed);
        report.resends = status.counters.resends;
        report.asks = status.counters.asks;
        report.reconnects = status.reconnects;
    }
}

fn tag(number: u64) -> String {
    number.to_string()
}

fn verdict<R: DeserializeOwned>(outcome: &Outcome<R>) -> Verdict {
    match outcome {
        Outcome::Reply(_) => Verdict::Applied,
        Outcome::NotExecuted(_) => Verdict::NotExecuted,
        Outcome::NoReply(_) | Outcome::Unknown(..) => Verdict::InDoubt,
    }
}
