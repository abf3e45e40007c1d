//! Client processes that move money while a crash test kills them and their servers, and what they have learned.

use std::path::PathBuf;
use std::time::Duration;

use oncewire::Client;
use smol::process::Child;

use crate::address::Address;
use crate::audit::ask;
use crate::chance::{Rng, pause, within};
use crate::check::{Doubt, Findings, check};
use crate::client::{AUDIT_TIMEOUT, Load};
use crate::journal;
use crate::process::{TempDir, report, size, start_client};
use crate::report::{FAULTS_MAX, Report};
use crate::service::BankClient;

/// Client processes at once.
const CLIENTS: usize = 3;
/// Calls of each; then another takes its place.
const CALLS: u64 = 3000;
/// Bytes in a journal that show that its client moves money.
const UNDER_WAY_LEN: u64 = 300;
/// How long anything may take.
pub(crate) const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// What clients a test has.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The bank.
    pub(crate) address: Address,
    /// Those that were killed are started again, and learn what became of each of their calls.
    pub(crate) durable: bool,
    /// Calls of theirs that are in doubt for good are faults.
    pub(crate) is_exact: bool,
    pub(crate) seed: u64,
}

/// The client processes of a test.
pub(crate) struct Clients {
    plan: Plan,
    running: Vec<Running>,
    /// Of clients that were killed.
    journals: Vec<PathBuf>,
    findings: Findings,
    tally: Tally,
    /// Where they write things down.
    dir: TempDir,
}

/// A client process and what it writes down.
struct Running {
    child: Child,
    journal: PathBuf,
    number: u64,
}

#[derive(Debug, Default)]
struct Tally {
    killed: u64,
    started: u64,
    /// Of clients that came to their end.
    calls: u64,
    unknown: u64,
    resolved: u64,
    resends: u64,
    asks: u64,
}

impl Clients {
    /// Starts them.
    ///
    /// # Errors
    /// Why there are none.
    pub(crate) async fn start(plan: Plan) -> Result<Clients, String> {
        let (findings, tally) = (Findings::default(), Tally::default());
        let dir = TempDir::new()?;
        let mut clients =
            Clients { plan, running: Vec::new(), journals: Vec::new(), findings, tally, dir };
        for _ in 0..CLIENTS {
            clients.start_next().await?;
        }
        match clients.findings.faults.pop() {
            Some(why) => Err(why),
            None => Ok(clients),
        }
    }

    async fn start_next(&mut self) -> Result<(), String> {
        let number = self.tally.started;
        self.tally.started += 1;
        self.start_number(number).await
    }

    /// The client of this number, for the first time or again.
    async fn start_number(&mut self, number: u64) -> Result<(), String> {
        let journal = self.dir.file(&format!("client-{number}"));
        let load = Load {
            address: self.plan.address.rotated(number as usize),
            calls: CALLS,
            clients: 1,
            in_flight: 8,
            seed: self.plan.seed.wrapping_add(number),
            call_timeout: Duration::from_secs(30),
            journal: Some(journal.clone()),
            at_least_once: false,
            durable: self.plan.durable,
        };
        let mut child = start_client(&load)?;
        // Before its accounts are open there is nothing to be learned from a kill.
        let under_way = async {
            while size(&journal) < UNDER_WAY_LEN {
                pause(Duration::from_millis(1)).await;
            }
        };
        if within(GIVE_UP_AFTER, under_way).await.is_some() {
            self.running.push(Running { child, journal, number });
            return Ok(());
        }
        // Nothing that is done here keeps a client waiting for so long.
        let seed = load.seed;
        self.findings.faults.push(format!("the client of seed {seed} does not get under way"));
        child.kill().map_err(|error| format!("a client cannot be killed: {error}"))
    }

    /// Kills one, and starts it or another again.
    pub(crate) async fn kill_one(&mut self, rng: &mut Rng) -> Result<(), String> {
        if self.running.is_empty() {
            return self.start_next().await;
        }
        self.tally.killed += 1;
        let at = rng.below(self.running.len() as u64) as usize;
        let mut client = self.running.swap_remove(at);
        let why = |error: std::io::Error| format!("a client cannot be killed: {error}");
        client.child.kill().map_err(why)?;
        client.child.status().await.map_err(why)?;
        if self.plan.durable {
            return self.start_number(client.number).await;
        }
        self.journals.push(client.journal);
        self.start_next().await
    }

    /// Those that came to their end make room for others.
    pub(crate) async fn replace_finished(&mut self) -> Result<(), String> {
        let mut at = 0;
        while at < self.running.len() {
            let ended = self.running[at].child.try_status();
            match ended.map_err(|error| format!("a client is lost: {error}"))? {
                Some(_) => {
                    let client = self.running.swap_remove(at);
                    self.hear(client).await?;
                    self.start_next().await?;
                }
                None => at += 1,
            }
        }
        Ok(())
    }

    /// What a client says that was not killed: it has held its own outcomes against the books.
    async fn hear(&mut self, client: Running) -> Result<(), String> {
        let report = report(client.child).await?;
        self.findings.faults.extend(report.faults);
        self.findings.executed_twice += report.executed_twice;
        self.findings.expected_min += report.expected_min;
        self.findings.expected_max += report.expected_max;
        self.findings.actual += report.actual;
        self.tally.calls += report.calls;
        self.tally.unknown += report.unknown;
        self.tally.resolved += report.resolved;
        self.tally.resends += report.resends;
        self.tally.asks += report.asks;
        if self.plan.durable && self.plan.is_exact && report.unknown > 0 {
            let Report { unknown, seed, .. } = report;
            let why = format!("the client of seed {seed} has {unknown} calls in doubt");
            self.findings.faults.push(why);
        }
        Ok(())
    }

    /// Waits until all have come to their end, and holds the journals of those that were killed against the books.
    pub(crate) async fn finish(&mut self, auditor: &Client) -> Result<(), String> {
        for client in std::mem::take(&mut self.running) {
            self.hear(client).await?;
        }
        when_quiet(auditor).await?;
        for journal in &self.journals {
            for (number, records) in journal::read(journal).map_err(|error| error.to_string())? {
                match ask(auditor, number, &records, AUDIT_TIMEOUT).await {
                    Ok(testimony) => {
                        self.findings.add(check(&records, &testimony, Doubt::AskTheLog));
                    }
                    Err(why) => self.findings.faults.push(why),
                }
            }
        }
        Ok(())
    }

    /// The bank.
    #[cfg(any(feature = "postgres", feature = "etcd"))]
    pub(crate) fn address(&self) -> &Address {
        &self.plan.address
    }

    /// A fault that no client has seen.
    #[cfg(any(feature = "postgres", feature = "etcd"))]
    pub(crate) fn add_fault(&mut self, why: String) {
        self.findings.faults.push(why);
    }

    /// Says what came of it, after what was done to the servers; whether everything agrees.
    pub(crate) fn tell(&self, servers: &str) -> bool {
        let Tally { killed, started, calls, unknown, resolved, resends, asks } = &self.tally;
        let seed = self.plan.seed;
        if self.plan.durable {
            output::show!(
                "{servers} and clients {killed} times (seed {seed})\n\
                 {started} clients made {calls} calls: {unknown} unknown for good, {resolved} learned after their \
                 client's death"
            );
        } else {
            output::show!(
                "{servers} and {killed} of {started} clients (seed {seed})\n\
                 the others made {calls} calls: {unknown} unknown for good, {resolved} for a while; {resends} requests \
                 sent again, {asks} asked about"
            );
        }
        let Findings { expected_min, expected_max, actual, executed_twice, faults, .. } =
            &self.findings;
        output::show!("balances: expected {expected_min} to {expected_max}, actual {actual}");
        output::show!("executed more than once: {executed_twice}");
        for fault in faults.iter().take(FAULTS_MAX) {
            output::show!("  {fault}");
        }
        let agree = self.findings.agree();
        output::show!("{}", if agree { "everything agrees" } else { "WRONG" });
        agree
    }
}

/// Waits until nothing of the clients that are gone can arrive any more.
async fn when_quiet(auditor: &Client) -> Result<(), String> {
    let bank = BankClient(auditor.clone());
    let quiet = async {
        loop {
            let stats = bank.stats().await.ok();
            let stats = stats.map_err(|why| format!("the server has no stats: {why}"))?;
            if stats.conns <= 1 && stats.running <= 1 {
                return Ok(());
            }
            pause(Duration::from_millis(10)).await;
        }
    };
    let late = || Err("the server keeps connections of clients that are gone".to_owned());
    within(GIVE_UP_AFTER, quiet).await.unwrap_or_else(late)
}
