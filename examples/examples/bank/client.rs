//! A client that makes many calls, and then checks that the bank agrees with every one of their outcomes.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oncewire_driver::core::{NotExecuted, ServerId, ServiceName, Unknown};
use oncewire_driver::{Call, Client, ClientOptions, Method, Outcome};
use serde::{Deserialize, Serialize};

use crate::address::{Address, Dial};
use crate::book::Book;
use crate::chance::{Rng, within};
use crate::check::{Doubt, Findings, Kind, Records, Testimony, Verdict, check, unchecked};
use crate::journal::Journal;
use crate::naive;
use crate::service::{
    AUDIT, AUDIT_PAGE_LEN_MAX, AccountId, AuditPage, BALANCE, BankError, Change, DEDUCT, DEPOSIT,
    NOTE, Note, OPEN, Open, SERVICE,
};

/// How long a client tries to reach its server at first.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the bank is given to tell what it has in its books, each time it is asked.
pub(crate) const AUDIT_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for a bank that seems to be gone.
const LAST_AUDIT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a ticket is waited for.
const TICKET_WAIT: Duration = Duration::from_secs(30);
/// Attempts at reading the bank's books, before they count as out of reach.
const AUDIT_TRIES: u32 = 3;
/// What a client's first account holds: enough.
pub(crate) const RICH_OPENING: u64 = 10_000_000;
/// What its second account holds: so little that the bank declines now and then.
pub(crate) const POOR_OPENING: u64 = 500;
/// Operation numbers before the first call's.
const OPENINGS: u64 = 2;

/// What load to make.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) address: Address,
    /// Calls in all.
    pub(crate) calls: u64,
    /// Sessions that share them.
    pub(crate) clients: u64,
    /// Calls at once in each session.
    pub(crate) in_flight: u64,
    pub(crate) seed: u64,
    /// How long most calls wait for their outcome.
    pub(crate) call_timeout: Duration,
    /// Where each operation is written down before it begins.
    pub(crate) journal: Option<PathBuf>,
    /// Retries whatever has no reply as a new call.
    pub(crate) at_least_once: bool,
    /// The client goes on with its calls when it was killed.
    pub(crate) durable: bool,
}

/// What came of it; printed as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Calls made, one-way notes not among them: the sum of the next three. Fewer than were asked for if the server ended
    /// meanwhile.
    pub(crate) calls: u64,
    /// Calls that were executed and answered, now or by their ticket.
    pub(crate) replied: u64,
    pub(crate) not_executed: u64,
    /// Calls that ended as `Unknown` and were never resolved.
    pub(crate) unknown: u64,
    /// Calls that ended as `Unknown` and whose ticket told the outcome; of a durable client, calls of a run that was
    /// killed whose outcome a later run has learned.
    pub(crate) resolved: u64,
    /// Requests sent again.
    pub(crate) resends: u64,
    /// Questions about calls in doubt.
    pub(crate) asks: u64,
    pub(crate) reconnects: u64,
    /// What the accounts hold together if no unresolved call was executed.
    pub(crate) expected: u64,
    /// The interval that unresolved calls make of it.
    pub(crate) expected_min: u64,
    pub(crate) expected_max: u64,
    /// What they hold.
    pub(crate) actual: u64,
    /// The interval is one number and the actual balance is that number, for every account; every outcome agrees with
    /// the bank's log.
    pub(crate) exact: bool,
    /// Operations that the bank executed more than once.
    pub(crate) executed_twice: u64,
    /// Attempts, where calls are retried as new ones.
    pub(crate) attempts: u64,
    pub(crate) notes: u64,
    pub(crate) notes_executed: u64,
    pub(crate) seed: u64,
    /// What contradicts the outcomes, in words; at most ten.
    pub(crate) faults: Vec<String>,
}

impl Report {
    /// Several reports as one.
    pub(crate) fn sum(reports: Vec<Report>) -> Report {
        let mut sum = Report { exact: true, ..Report::default() };
        reports.into_iter().for_each(|report| sum.add(report));
        sum
    }

    fn add(&mut self, other: Report) {
        self.exact &= other.exact;
        for (sum, term) in [
            (&mut self.calls, other.calls),
            (&mut self.replied, other.replied),
            (&mut self.not_executed, other.not_executed),
            (&mut self.unknown, other.unknown),
            (&mut self.resolved, other.resolved),
            (&mut self.resends, other.resends),
            (&mut self.asks, other.asks),
            (&mut self.reconnects, other.reconnects),
            (&mut self.expected, other.expected),
            (&mut self.expected_min, other.expected_min),
            (&mut self.expected_max, other.expected_max),
            (&mut self.actual, other.actual),
            (&mut self.executed_twice, other.executed_twice),
            (&mut self.attempts, other.attempts),
            (&mut self.notes, other.notes),
            (&mut self.notes_executed, other.notes_executed),
        ] {
            *sum += term;
        }
        self.faults.extend(other.faults);
    }
}

/// Faults that a report tells of.
pub(crate) const FAULTS_MAX: usize = 10;

/// Makes the load and checks it.
///
/// # Errors
/// Why it could not begin.
pub(crate) async fn run(load: &Load) -> Result<Report, String> {
    let journal = match &load.journal {
        None => None,
        Some(path) => {
            let made = Journal::create(path).map_err(|e| format!("{}: {e}", path.display()))?;
            Some(Arc::new(made))
        }
    };
    let mut workers = Vec::new();
    for index in 0..load.clients {
        workers.push(Arc::new(Worker::connect(load, index, journal.clone()).await?));
    }
    let runs: Vec<_> =
        workers.iter().map(|worker| smol::spawn(worker.clone().run(load.in_flight))).collect();
    let mut findings = Findings::default();
    for run in runs {
        findings.add(run.await);
    }
    let mut report = Report { seed: load.seed, ..Report::default() };
    for worker in &workers {
        worker.tell(&mut report);
    }
    tell_findings(&mut report, findings);
    Ok(report)
}

pub(crate) fn tell_findings(report: &mut Report, mut findings: Findings) {
    report.exact = findings.exact();
    report.expected = findings.expected;
    report.expected_min = findings.expected_min;
    report.expected_max = findings.expected_max;
    report.actual = findings.actual;
    report.executed_twice = findings.executed_twice;
    report.notes = findings.notes;
    report.notes_executed = findings.notes_executed;
    findings.faults.truncate(FAULTS_MAX);
    report.faults = findings.faults;
}

/// How the calls of one session have ended.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    replied: u64,
    not_executed: u64,
    unknown: u64,
    resolved: u64,
    attempts: u64,
}

/// What became of a call in the end.
#[derive(Clone, Copy, Debug)]
enum Settled<R> {
    Reply(R),
    NotExecuted(NotExecuted),
    /// Its server crashed meanwhile, and lives again.
    Interrupted,
    Unknown,
}

impl<R> Settled<R> {
    /// Other calls would fare no better: the server ends, or has been out of reach for a whole call's timeout.
    fn tells_the_end(&self, manner: Manner) -> bool {
        use NotExecuted::{Closed, DeadlinePassed, SessionRefused, ShuttingDown};
        match self {
            Settled::Reply(_) | Settled::Interrupted => false,
            Settled::NotExecuted(Closed | SessionRefused | ShuttingDown) => true,
            Settled::NotExecuted(DeadlinePassed) => manner.patient,
            Settled::NotExecuted(_) => false,
            // Without a ticket, or even after its ticket was waited for.
            Settled::Unknown => true,
        }
    }
}

/// How a call is made. Drawn from the seed, so that the same calls can be made again.
#[derive(Clone, Copy, Debug)]
struct Manner {
    patient: bool,
    timeout: Duration,
    fail_fast: bool,
}

/// One session and its calls.
struct Worker {
    client: Client,
    book: Book,
    seed: u64,
    call_timeout: Duration,
    index: u64,
    calls: u64,
    /// The server that has the accounts.
    server: Option<ServerId>,
    next: AtomicU64,
    /// The server is gone or going: no more calls are begun.
    gone: AtomicBool,
    at_least_once: bool,
    tally: Mutex<Tally>,
}

/// Options of every client of the bank.
pub(crate) fn options() -> ClientOptions {
    let mut options = ClientOptions::default();
    options.service = ServiceName::new(SERVICE);
    options.backoff_max = Duration::from_millis(200);
    options.connect_timeout = Duration::from_secs(2);
    options
}

/// A client whose session is open.
pub(crate) async fn connect(address: &Address) -> Result<Client, String> {
    let connector = address.connector();
    match within(CONNECT_TIMEOUT, connector.dial_first()).await {
        Some(Ok(())) => {}
        Some(Err(error)) => return Err(format!("cannot connect: {error}")),
        None => return Err(format!("cannot connect: nobody answers at {address}")),
    }
    opened(connector, address).await
}

/// The same, of a server that was there before and may be down for a moment.
pub(crate) async fn connect_again(address: &Address) -> Result<Client, String> {
    opened(address.connector(), address).await
}

async fn opened(connector: Dial, address: &Address) -> Result<Client, String> {
    let client = Client::new(connector, options());
    match within(CONNECT_TIMEOUT, client.connected()).await {
        Some(true) => Ok(client),
        Some(false) | None => {
            let status = client.status();
            let refused = status.refused.map(|reason| reason.to_string());
            let why = refused.or(status.last_error).unwrap_or_else(|| "no answer".to_owned());
            Err(format!("no bank at {address}: {why}"))
        }
    }
}

impl Worker {
    async fn connect(
        load: &Load,
        index: u64,
        journal: Option<Arc<Journal>>,
    ) -> Result<Worker, String> {
        let share = load.calls / load.clients + u64::from(index < load.calls % load.clients);
        let client = connect(&load.address).await?;
        Ok(Worker {
            server: client.status().server,
            client,
            book: Book::new(journal),
            seed: load.seed,
            call_timeout: load.call_timeout,
            index,
            calls: share,
            next: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            at_least_once: load.at_least_once,
            tally: Mutex::default(),
        })
    }

    /// Opens accounts, makes the calls, checks them, and ends the session.
    async fn run(self: Arc<Worker>, in_flight: u64) -> Findings {
        let findings = match self.open_accounts().await {
            Err(why) => unchecked(&self.book.records(), why),
            Ok(accounts) => {
                let lanes: Vec<_> = (0..in_flight.min(self.calls))
                    .map(|_| smol::spawn(self.clone().run_lane(accounts)))
                    .collect();
                for lane in lanes {
                    lane.await;
                }
                self.check().await
            }
        };
        self.client.close().await;
        findings
    }

    async fn open_accounts(&self) -> Result<[AccountId; 2], String> {
        let rich = self.open_account(0, RICH_OPENING).await?;
        Ok([rich, self.open_account(1, POOR_OPENING).await?])
    }

    async fn open_account(&self, number: u64, opening: u64) -> Result<AccountId, String> {
        let operation = self.book.begin(number, Kind::Open, 0, opening);
        let outcome = self.client.call(&OPEN, &Open { operation, opening }).await;
        match outcome.ok() {
            Ok(account) => {
                self.book.end_open(operation, account);
                Ok(account)
            }
            Err(why) => Err(format!("no account was opened: {why}")),
        }
    }

    /// One call after another.
    async fn run_lane(self: Arc<Worker>, accounts: [AccountId; 2]) {
        loop {
            let call = self.next.fetch_add(1, Ordering::Relaxed);
            if call >= self.calls || self.gone.load(Ordering::Relaxed) {
                return;
            }
            self.run_call(call, accounts).await;
        }
    }

    /// The call of this number: what it is depends on the seed and on nothing else.
    async fn run_call(&self, call: u64, accounts: [AccountId; 2]) {
        let mut rng = Rng::new(self.seed, (self.index << 40) | (call + 1));
        let number = OPENINGS + 2 * call;
        let account = accounts[usize::from(rng.percent(20))];
        let manner = Manner::draw(&mut rng, self.call_timeout);
        let amount = 1 + rng.below(100);
        match rng.below(100) {
            0..55 => self.change(&DEDUCT, Kind::Deduct, (number, account, amount), manner).await,
            55..85 => self.change(&DEPOSIT, Kind::Deposit, (number, account, amount), manner).await,
            _ => self.read_balance(account, manner).await,
        }
        if rng.percent(10) {
            let operation = self.book.begin(number + 1, Kind::Note, account, 0);
            let note = Note { operation, account, text: format!("call {call}") };
            if self.client.send(&NOTE, &note).is_err() {
                self.book.end(operation, Verdict::NotExecuted);
            }
        }
    }

    async fn change(
        &self,
        method: &Method<Change, Result<u64, BankError>>,
        kind: Kind,
        (number, account, amount): (u64, AccountId, u64),
        manner: Manner,
    ) {
        let operation = self.book.begin(number, kind, account, amount);
        let arguments = Change { operation, account, amount };
        let make = || manner.apply(self.client.call(method, &arguments));
        let settled = if self.at_least_once {
            let (reply, attempts) = naive::retry(make).await;
            self.count(|tally| tally.attempts += attempts);
            self.count(|tally| tally.replied += 1);
            Settled::Reply(reply)
        } else {
            let ending = settle(make()).await;
            self.tally(&ending, manner);
            ending.0
        };
        match settled {
            Settled::Reply(Ok(_)) => self.book.end(operation, Verdict::Applied),
            Settled::Reply(Err(_)) => self.book.end(operation, Verdict::Declined),
            Settled::NotExecuted(_) => self.book.end(operation, Verdict::NotExecuted),
            Settled::Interrupted | Settled::Unknown => {}
        }
    }

    /// It moves nothing and may be repeated, so a caller without a reply asks again, with more time.
    async fn read_balance(&self, account: AccountId, manner: Manner) {
        let call = || self.client.call(&BALANCE, &account).idempotent();
        let mut ending = settle(manner.apply(call())).await;
        let again = match ending.0 {
            Settled::Reply(_) => false,
            Settled::Interrupted | Settled::Unknown => true,
            Settled::NotExecuted(_) => !ending.0.tells_the_end(manner),
        };
        if again {
            ending = settle(call().timeout(self.call_timeout)).await;
        }
        self.tally(&ending, manner);
    }

    fn tally<R>(&self, (settled, waited): &(Settled<R>, bool), manner: Manner) {
        if settled.tells_the_end(manner) {
            self.gone.store(true, Ordering::Relaxed);
        }
        self.count(|tally| {
            match settled {
                Settled::Reply(_) => tally.replied += 1,
                Settled::NotExecuted(_) => tally.not_executed += 1,
                Settled::Interrupted | Settled::Unknown => tally.unknown += 1,
            }
            let known = !matches!(settled, Settled::Interrupted | Settled::Unknown);
            tally.resolved += u64::from(*waited && known);
        });
    }

    fn count(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Asks the bank, over the session that made the calls.
    async fn check(&self) -> Findings {
        let records = self.book.records();
        if self.client.status().server.is_some_and(|server| Some(server) != self.server) {
            let why = "another server answers now, which does not have the accounts";
            return unchecked(&records, why.to_owned());
        }
        let gone = self.gone.load(Ordering::Relaxed);
        let timeout = if gone { LAST_AUDIT_TIMEOUT } else { AUDIT_TIMEOUT };
        match ask(&self.client, self.book.client, &records, timeout).await {
            Ok(testimony) => check(&records, &testimony, Doubt::Widens),
            Err(why) => unchecked(&records, why),
        }
    }

    fn tell(&self, report: &mut Report) {
        let tally = *self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let status = self.client.status();
        report.calls += tally.replied + tally.not_executed + tally.unknown;
        report.replied += tally.replied;
        report.not_executed += tally.not_executed;
        report.unknown += tally.unknown;
        report.resolved += tally.resolved;
        report.attempts += tally.attempts;
        report.resends += status.counters.resends;
        report.asks += status.counters.asks;
        report.reconnects += status.reconnects;
    }
}

impl Manner {
    /// Most are patient; some give up at a break, some after a few milliseconds: these end as `Unknown` now and then.
    fn draw(rng: &mut Rng, call_timeout: Duration) -> Manner {
        let patient = Manner { patient: true, timeout: call_timeout, fail_fast: false };
        let short = Duration::from_millis(1 + rng.below(8));
        match rng.below(100) {
            0..70 => patient,
            70..85 => Manner { fail_fast: true, ..patient },
            _ => Manner { patient: false, timeout: short, ..patient },
        }
    }

    fn apply<R>(self, call: Call<R>) -> Call<R> {
        call.timeout(self.timeout).fail_fast(self.fail_fast)
    }
}

/// Waits for a call's outcome; if that is `Unknown`, for what its ticket tells. Says whether it had to.
async fn settle<R>(call: Call<R>) -> (Settled<R>, bool) {
    let mut outcome = call.await;
    let mut waited = false;
    if let Outcome::Unknown(_, Some(ticket)) = &mut outcome {
        waited = true;
        if let Some(told) = within(TICKET_WAIT, ticket.wait()).await {
            outcome = told;
        }
    }
    let settled = match outcome {
        Outcome::Reply(reply) => Settled::Reply(reply),
        Outcome::NotExecuted(why) => Settled::NotExecuted(why),
        Outcome::Unknown(Unknown::Interrupted, _) => Settled::Interrupted,
        // Executed, but who knows how far: no handler of the bank's ends so.
        Outcome::NoReply(_) | Outcome::Unknown(..) => Settled::Unknown,
    };
    (settled, waited)
}

/// What the bank says of the operations of a client, and of the accounts that it opened.
///
/// # Errors
/// Why it could not be asked.
pub(crate) async fn ask(
    client: &Client,
    number: u64,
    records: &Records,
    timeout: Duration,
) -> Result<Testimony, String> {
    let mut testimony = Testimony::default();
    let end = records.keys().next_back().map_or(0, |last| last + 1);
    for first in (0..end).step_by(AUDIT_PAGE_LEN_MAX as usize) {
        let count = (end - first).min(AUDIT_PAGE_LEN_MAX);
        let page = AuditPage { client: number, first, count };
        testimony.log.extend(insist(|| client.call(&AUDIT, &page).timeout(timeout)).await?);
    }
    let opened = records.values().filter(|r| r.kind == Kind::Open && r.verdict == Verdict::Applied);
    for account in opened.map(|record| record.account).collect::<BTreeSet<_>>() {
        let balance =
            insist(|| client.call(&BALANCE, &account).idempotent().timeout(timeout)).await?;
        if let Ok(balance) = balance {
            testimony.balances.insert(account, balance);
        }
    }
    Ok(testimony)
}

/// Repeats a call that only reads.
async fn insist<R>(call: impl Fn() -> Call<R>) -> Result<R, String> {
    let mut why = String::new();
    for _ in 0..AUDIT_TRIES {
        match call().await.ok() {
            Ok(reply) => return Ok(reply),
            Err(failure) => why = format!("the bank could not be asked: {failure}"),
        }
    }
    Err(why)
}
