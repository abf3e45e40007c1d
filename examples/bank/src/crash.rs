//! Kills the server and its clients with `SIGKILL` while money moves, starts them again, and holds every balance and
//! every outcome against the bank's books.

use std::path::PathBuf;
use std::time::Duration;

use oncewire::Client;
use smol::process::Child;

use crate::address::Address;
use crate::audit::ask;
use crate::chance::{Rng, pause, within};
use crate::check::{Doubt, Findings, check};
use crate::cli::{CrashTestArgs, Mutant};
use crate::client::{AUDIT_TIMEOUT, Load, connect};
use crate::journal;
use crate::process::{ServerProcess, TempDir, report, size, start_client};
use crate::report::{FAULTS_MAX, Report};
use crate::service::BankClient;

/// Client processes at once.
const CLIENTS: usize = 3;
/// Calls of each; then another takes its place.
const CALLS: u64 = 3000;
/// Of a hundred kills, those that hit the server.
const SERVER_PERCENT: u64 = 70;
/// Longest time between two kills, in milliseconds.
const LIFE_MS: u64 = 60;
/// Bytes in a journal that show that its client moves money.
const UNDER_WAY_LEN: u64 = 300;
/// How long anything may take.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// Runs the test; whether the books agree with every outcome that clients saw.
///
/// # Errors
/// Why it could not be tried.
pub(crate) async fn run(args: &CrashTestArgs, seed: u64) -> Result<bool, String> {
    let dir = TempDir::new()?;
    let address = Address::Unix(dir.file("bank.sock"));
    let mut arguments = vec!["--ledger".to_owned(), dir.file("bank.ledger").display().to_string()];
    arguments.extend(args.transactional.then(|| "--transactional".to_owned()));
    if args.mutant == Some(Mutant::HastyLedger) {
        arguments.push("--mutant=hasty-ledger".to_owned());
    }
    let server = ServerProcess::start_with(&address, &arguments).await?;
    let rng = Rng::new(seed, 0);
    let mut test = CrashTest {
        dir,
        address,
        arguments,
        server: Some(server),
        clients: Vec::new(),
        journals: Vec::new(),
        durable: args.durable,
        transactional: args.transactional,
        rng,
        seed,
        findings: Findings::default(),
        tally: Tally::default(),
    };
    let agree =
        within(GIVE_UP_AFTER + GIVE_UP_AFTER * args.kills as u32 / 50, test.run(args.kills)).await;
    let agree = agree.unwrap_or_else(|| Err("something hangs".to_owned()));
    agree.map_err(|why| format!("{why} (seed {seed})"))
}

struct CrashTest {
    dir: TempDir,
    address: Address,
    arguments: Vec<String>,
    server: Option<ServerProcess>,
    clients: Vec<Running>,
    /// Of clients that were killed.
    journals: Vec<PathBuf>,
    durable: bool,
    transactional: bool,
    rng: Rng,
    seed: u64,
    findings: Findings,
    tally: Tally,
}

/// A client process and what it writes down.
struct Running {
    child: Child,
    journal: PathBuf,
    number: u64,
}

#[derive(Debug, Default)]
struct Tally {
    servers: u64,
    clients: u64,
    started: u64,
    /// Of clients that came to their end.
    calls: u64,
    unknown: u64,
    resolved: u64,
    resends: u64,
    asks: u64,
}

impl CrashTest {
    async fn run(&mut self, kills: u64) -> Result<bool, String> {
        for _ in 0..CLIENTS {
            self.start_client().await?;
        }
        for _ in 0..kills {
            pause(Duration::from_millis(self.rng.below(LIFE_MS))).await;
            if self.rng.percent(SERVER_PERCENT) {
                self.kill_server().await?;
            } else {
                self.kill_client().await?;
            }
            self.replace_finished().await?;
        }
        for client in std::mem::take(&mut self.clients) {
            self.hear(client).await?;
        }
        let auditor = connect(&self.address).await?;
        when_quiet(&auditor).await?;
        self.judge(&auditor).await?;
        auditor.close().await;
        if let Some(server) = self.server.take() {
            server.stop().await?;
        }
        Ok(self.tell())
    }

    async fn start_client(&mut self) -> Result<(), String> {
        let number = self.tally.started;
        self.tally.started += 1;
        self.start_number(number).await
    }

    /// The client of this number, for the first time or again.
    async fn start_number(&mut self, number: u64) -> Result<(), String> {
        let journal = self.dir.file(&format!("client-{number}"));
        let load = Load {
            address: self.address.clone(),
            calls: CALLS,
            clients: 1,
            in_flight: 8,
            seed: self.seed.wrapping_add(number),
            call_timeout: Duration::from_secs(30),
            journal: Some(journal.clone()),
            at_least_once: false,
            durable: self.durable,
        };
        let child = start_client(&load)?;
        // Before its accounts are open there is nothing to be learned from a kill.
        let under_way = async {
            while size(&journal) < UNDER_WAY_LEN {
                pause(Duration::from_millis(1)).await;
            }
        };
        let late = || "a client does not get under way".to_owned();
        within(GIVE_UP_AFTER, under_way).await.ok_or_else(late)?;
        self.clients.push(Running { child, journal, number });
        Ok(())
    }

    async fn kill_server(&mut self) -> Result<(), String> {
        self.tally.servers += 1;
        if let Some(server) = self.server.take() {
            server.kill().await?;
        }
        let server = ServerProcess::start_with(&self.address, &self.arguments).await?;
        self.server = Some(server);
        Ok(())
    }

    async fn kill_client(&mut self) -> Result<(), String> {
        self.tally.clients += 1;
        let at = self.rng.below(self.clients.len() as u64) as usize;
        let mut client = self.clients.swap_remove(at);
        let why = |error: std::io::Error| format!("a client cannot be killed: {error}");
        client.child.kill().map_err(why)?;
        client.child.status().await.map_err(why)?;
        if self.durable {
            return self.start_number(client.number).await;
        }
        self.journals.push(client.journal);
        self.start_client().await
    }

    /// Those that came to their end make room for others.
    async fn replace_finished(&mut self) -> Result<(), String> {
        let mut at = 0;
        while at < self.clients.len() {
            let ended = self.clients[at].child.try_status();
            match ended.map_err(|error| format!("a client is lost: {error}"))? {
                Some(_) => {
                    let client = self.clients.swap_remove(at);
                    self.hear(client).await?;
                    self.start_client().await?;
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
        if self.durable && self.transactional && report.unknown > 0 {
            let Report { unknown, seed, .. } = report;
            let why = format!("the client of seed {seed} has {unknown} calls in doubt");
            self.findings.faults.push(why);
        }
        Ok(())
    }

    /// Holds the journals of those that were killed against the books.
    async fn judge(&mut self, auditor: &Client) -> Result<(), String> {
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

    fn tell(&self) -> bool {
        let Tally { servers, clients, started, calls, unknown, resolved, resends, asks } =
            &self.tally;
        let seed = self.seed;
        if self.durable {
            println!(
                "killed the server {servers} times and clients {clients} times (seed {seed})\n\
                 {started} clients made {calls} calls: {unknown} unknown for good, {resolved} learned after their \
                 client's death"
            );
        } else {
            println!(
                "killed the server {servers} times and {clients} of {started} clients (seed {seed})\n\
                 the others made {calls} calls: {unknown} unknown for good, {resolved} for a while; {resends} requests \
                 sent again, {asks} asked about"
            );
        }
        let Findings { expected_min, expected_max, actual, executed_twice, faults, .. } =
            &self.findings;
        println!("balances: expected {expected_min} to {expected_max}, actual {actual}");
        println!("executed more than once: {executed_twice}");
        for fault in faults.iter().take(FAULTS_MAX) {
            println!("  {fault}");
        }
        let agree = self.findings.agree();
        println!("{}", if agree { "everything agrees" } else { "WRONG" });
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
