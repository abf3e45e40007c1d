//! A client that makes many calls, and then checks that the bank agrees with every one of their outcomes.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oncewire::{Client, ClientOptions, ServerId, ServiceName};

use crate::address::{Address, Dial};
use crate::audit::ask;
use crate::book::Book;
use crate::chance::{Rng, within};
use crate::check::{Doubt, Findings, Kind, Verdict, check, unchecked};
use crate::journal::Journal;
use crate::naive;
use crate::report::{Report, tell_findings};
use crate::service::{AccountId, BankClient, Change, Note, Open, SERVICE};
use crate::settle::{Manner, Settled, settle};

/// How long the bank is given to tell what it has in its books, each time it is asked.
pub(crate) const AUDIT_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for a bank that seems to be gone.
const LAST_AUDIT_TIMEOUT: Duration = Duration::from_secs(1);
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

/// How the calls of one session have ended.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    replied: u64,
    not_executed: u64,
    unknown: u64,
    resolved: u64,
    attempts: u64,
}

/// One session and its calls.
struct Worker {
    client: Client,
    book: Book,
    load: Load,
    index: u64,
    calls: u64,
    /// The server that has the accounts.
    server: Option<ServerId>,
    next: AtomicU64,
    /// The server is gone or going: no more calls are begun.
    gone: AtomicBool,
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
    if address.is_a_name() {
        return connect_again(address).await;
    }
    let connector = address.connector()?;
    match within(address.connect_timeout(), connector.dial_first()).await {
        Some(Ok(())) => {}
        Some(Err(error)) => return Err(format!("cannot connect: {error}")),
        None => return Err(format!("cannot connect: no bank answers at {address}")),
    }
    opened(connector, address).await
}

/// The same, of a server that was there before and may be down for a moment.
pub(crate) async fn connect_again(address: &Address) -> Result<Client, String> {
    opened(address.connector()?, address).await
}

async fn opened(connector: Dial, address: &Address) -> Result<Client, String> {
    let client = Client::new(connector, options());
    match within(address.connect_timeout(), client.connected()).await {
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
            load: load.clone(),
            index,
            calls: share,
            next: AtomicU64::new(0),
            gone: AtomicBool::new(false),
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

    fn bank(&self) -> BankClient {
        BankClient(self.client.clone())
    }

    async fn open_accounts(&self) -> Result<[AccountId; 2], String> {
        let rich = self.open_account(0, RICH_OPENING).await?;
        Ok([rich, self.open_account(1, POOR_OPENING).await?])
    }

    async fn open_account(&self, number: u64, opening: u64) -> Result<AccountId, String> {
        let operation = self.book.begin(number, Kind::Open, 0, opening);
        let outcome = self.bank().open(Open { operation, opening }).await;
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
        let mut rng = Rng::new(self.load.seed, (self.index << 40) | (call + 1));
        let number = OPENINGS + 2 * call;
        let account = accounts[usize::from(rng.percent(20))];
        let manner = Manner::draw(&mut rng, &self.load);
        let amount = 1 + rng.below(100);
        match rng.below(100) {
            0..55 => self.change(Kind::Deduct, (number, account, amount), manner).await,
            55..85 => self.change(Kind::Deposit, (number, account, amount), manner).await,
            _ => self.read_balance(account, manner).await,
        }
        if rng.percent(10) {
            let operation = self.book.begin(number + 1, Kind::Note, account, 0);
            let note = Note { operation, account, text: format!("call {call}") };
            if self.bank().note(note).is_err() {
                self.book.end(operation, Verdict::NotExecuted);
            }
        }
    }

    async fn change(
        &self,
        kind: Kind,
        (number, account, amount): (u64, AccountId, u64),
        manner: Manner,
    ) {
        let operation = self.book.begin(number, kind, account, amount);
        let (bank, change) = (self.bank(), Change { operation, account, amount });
        let make = || {
            manner.apply(if kind == Kind::Deduct {
                bank.deduct(change)
            } else {
                bank.deposit(change)
            })
        };
        let settled = if self.load.at_least_once {
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
        let bank = self.bank();
        let call = || bank.balance(account);
        let mut ending = settle(manner.apply(call())).await;
        let again = match ending.0 {
            Settled::Reply(_) => false,
            Settled::Interrupted | Settled::Unknown => true,
            Settled::NotExecuted(_) => !ending.0.tells_the_end(manner),
        };
        if again {
            ending = settle(call().timeout(self.load.call_timeout)).await;
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
