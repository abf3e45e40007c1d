//! Servers, clients and faults over every transport, and what became of the balances.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_signal::{Signal, Signals};
use indicatif::{ProgressBar, ProgressStyle};
use oncewire::{Accept, Client};
use smol::stream::StreamExt;

use crate::address::Address;
use crate::audit::ask;
use crate::chance::{Rng, pause, within};
use crate::check::{Doubt, Findings, Kind, Verdict, check};
use crate::client::{self, AUDIT_TIMEOUT, Load};
use crate::fault::{Counts, FRAMES_MAX, Injector};
use crate::journal;
use crate::process::{ServerProcess, TempDir, program, report, size, start_client};
use crate::report::{FAULTS_MAX, Report};
use crate::service::{BankClient, Stats};
use crate::table::tabulate;

/// Client processes that live to the end of their calls.
const SURVIVORS: u64 = 3;
/// Sessions in each client process, and calls at once in each.
const CLIENTS: u64 = 2;
const IN_FLIGHT: u64 = 8;
/// How long most calls wait for their outcome.
const GIVE_UP_AFTER: Duration = Duration::from_secs(20);
/// When a client that is there to be killed is killed.
const VICTIM_LIFE_MS: std::ops::Range<u64> = 20..400;
/// Calls that a victim never comes to the end of.
const VICTIM_CALLS: u64 = 1_000_000;
/// How long one half of a transport's part may take, and so many calls of it more. Something hangs if it takes longer.
const PART_LIMIT: Duration = Duration::from_secs(60);
const PART_LIMIT_A_CALL: Duration = Duration::from_millis(1);
/// How long the server may take to notice that clients are gone.
const QUIET_LIMIT: Duration = Duration::from_secs(15);
/// About the bytes that a call takes in a journal, for the progress bar.
const JOURNAL_BYTES: u64 = 74;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Unix,
    Pipe,
}

impl Transport {
    const ALL: [Transport; 3] = [Transport::Tcp, Transport::Unix, Transport::Pipe];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Unix => "unix",
            Transport::Pipe => "pipe",
        }
    }
}

/// What the demo is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demo {
    pub(crate) seed: u64,
    /// Calls over each transport, those of victims not counted.
    pub(crate) calls: u64,
}

/// Runs the demo and prints its table; says whether every balance is exact.
///
/// # Errors
/// Why it could not be run to its end.
pub(crate) async fn run(demo: Demo) -> Result<bool, String> {
    let mut signals = Signals::new([Signal::Term, Signal::Int])
        .map_err(|error| format!("cannot wait for signals: {error}"))?;
    let stopped = async {
        signals.next().await;
        Err("stopped by a signal".to_owned())
    };
    // Whichever way it ends, the processes and files of the other future go with it.
    let columns = smol::future::or(run_all(demo), stopped).await?;
    output::print(format_args!("{}", tabulate(&columns)));
    for Column { transport, faults, .. } in &columns {
        faults
            .iter()
            .take(FAULTS_MAX)
            .for_each(|fault| output::show!("{}: {fault}", transport.name()));
        if let Some(more) = faults.len().checked_sub(FAULTS_MAX).filter(|more| *more > 0) {
            output::show!("{}: and {more} more", transport.name());
        }
    }
    let exact = columns.iter().all(|column| column.exact);
    let verdict = if exact { "Every balance is exact" } else { "NOT every balance is exact" };
    output::show!("{verdict} (seed {}).", demo.seed);
    Ok(exact)
}

async fn run_all(demo: Demo) -> Result<Vec<Column>, String> {
    let halves = 2 * Transport::ALL.len() as u64;
    let bar = ProgressBar::new(halves * demo.calls);
    let style = ProgressStyle::with_template("{elapsed_precise} {bar:40} {percent:>3} % {msg}");
    bar.set_style(style.map_err(|error| error.to_string())?);
    let mut columns = Vec::new();
    for transport in Transport::ALL {
        let bar_from = Cell::new(bar.position());
        let part = Part { transport, demo, bar: &bar, dir: TempDir::new()?, bar_from };
        columns.push(part.run().await?);
    }
    bar.finish_and_clear();
    Ok(columns)
}

/// What happened over one transport.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) transport: Transport,
    /// Together, what the surviving clients report.
    pub(crate) report: Report,
    pub(crate) killed: Killed,
    pub(crate) injector: Arc<Counts>,
    pub(crate) server: Stats,
    /// What all accounts of the bank must hold together, those of killed clients among them.
    pub(crate) expected: u64,
    pub(crate) exact: bool,
    pub(crate) faults: Vec<String>,
    /// The same calls with plain retries.
    pub(crate) naive: Report,
}

/// What is known of clients that were killed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Killed {
    pub(crate) clients: u64,
    /// Operations that they had begun.
    pub(crate) operations: u64,
    /// Those of them whose outcome they had not learned.
    pub(crate) in_doubt: u64,
}

/// The demo over one transport.
struct Part<'d> {
    transport: Transport,
    demo: Demo,
    bar: &'d ProgressBar,
    dir: TempDir,
    /// Where the bar stood at the beginning of this half.
    bar_from: Cell<u64>,
}

/// A server behind an injector.
struct Arena {
    server: ServerProcess,
    injector: Injector,
    /// Where clients find the injector.
    address: Address,
    /// Not through the injector.
    auditor: Client,
}

impl Arena {
    /// The end: the server drains, and must end cleanly.
    async fn close(self) -> Result<(), String> {
        self.injector.stop().await;
        self.auditor.close().await;
        self.server.stop().await
    }

    /// What the server has done, once nothing of the clients can arrive any more.
    async fn stats_when_quiet(&self) -> Result<Stats, String> {
        let bank = BankClient(self.auditor.clone());
        let quiet = async {
            loop {
                let stats = bank.stats().await;
                let stats = stats.ok().map_err(|why| format!("the server has no stats: {why}"))?;
                // The auditor's own connection and call.
                if stats.conns <= 1 && stats.running <= 1 {
                    return Ok(stats);
                }
                pause(Duration::from_millis(10)).await;
            }
        };
        let late = || "the server keeps connections of clients that are gone".to_owned();
        within(QUIET_LIMIT, quiet).await.ok_or_else(late)?
    }
}

impl Part<'_> {
    async fn run(&self) -> Result<Column, String> {
        let mut column = self.limit(self.run_exactly_once()).await?;
        column.naive = self.limit(self.run_at_least_once()).await?;
        Ok(column)
    }

    async fn limit<T>(&self, half: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        let late = || Err("something hangs".to_owned());
        let limit = PART_LIMIT + PART_LIMIT_A_CALL * self.demo.calls as u32;
        let result = within(limit, half).await.unwrap_or_else(late);
        self.bar_from.set(self.bar_from.get() + self.demo.calls);
        self.bar.set_position(self.bar_from.get());
        let (name, seed) = (self.transport.name(), self.demo.seed);
        result.map_err(|why| format!("{name}: {why} (seed {seed})"))
    }

    /// `half` keeps the sockets of the two halves apart.
    async fn open_arena(&self, half: &str) -> Result<Arena, String> {
        let socket = |name: &str| Address::Unix(self.dir.file(&format!("{half}-{name}.sock")));
        let any_port = || Address::Tcp("127.0.0.1:0".to_owned());
        let (server, entrance) = match self.transport {
            Transport::Tcp => (any_port(), any_port()),
            Transport::Unix | Transport::Pipe => (socket("server"), socket("faults")),
        };
        let server = ServerProcess::start(&server).await?;
        let acceptor = entrance.bind().await.map_err(|error| format!("no injector: {error}"))?;
        let entrance = acceptor.address();
        let address = match self.transport {
            Transport::Tcp | Transport::Unix => entrance.parse()?,
            // The server must outlive its connections, so the command only relays to it.
            Transport::Pipe => {
                Address::Pipe(format!("'{}' relay '{entrance}'", program()?.display()))
            }
        };
        let injector = Injector::start(acceptor, &server.address, self.demo.seed, FRAMES_MAX)?;
        let auditor = client::connect(&server.address).await?;
        Ok(Arena { server, injector, address, auditor })
    }

    /// The load of the client process with this number.
    fn load(&self, arena: &Arena, index: u64, journal: PathBuf) -> Load {
        let Demo { seed, calls } = self.demo;
        Load {
            address: arena.address.clone(),
            calls: calls / SURVIVORS + u64::from(index < calls % SURVIVORS),
            clients: CLIENTS,
            in_flight: IN_FLIGHT,
            seed: seed.wrapping_add(index),
            call_timeout: GIVE_UP_AFTER,
            journal: Some(journal),
            at_least_once: false,
            durable: false,
        }
    }

    /// Clients that live, and beside them clients that are killed.
    async fn run_exactly_once(&self) -> Result<Column, String> {
        self.bar.set_message(format!("{}: each call once", self.transport.name()));
        let arena = self.open_arena("once").await?;
        let loads = self.loads(&arena, "once");
        let victims = RefCell::new(Vec::new());
        let killing = smol::future::or(
            self.kill_clients(&arena, 0, &victims),
            self.kill_clients(&arena, 1, &victims),
        );
        let report = smol::future::or(self.run_clients(&loads), killing).await?;
        let column = self.judge(&arena, report, &loads, &victims.into_inner()).await?;
        arena.close().await?;
        Ok(column)
    }

    /// The same calls and faults for clients that retry as others do.
    async fn run_at_least_once(&self) -> Result<Report, String> {
        self.bar.set_message(format!("{}: plain retries", self.transport.name()));
        let arena = self.open_arena("retry").await?;
        let mut loads = self.loads(&arena, "retry");
        loads.iter_mut().for_each(|load| load.at_least_once = true);
        let report = self.run_clients(&loads).await?;
        arena.stats_when_quiet().await?;
        arena.close().await?;
        Ok(report)
    }

    fn loads(&self, arena: &Arena, half: &str) -> Vec<Load> {
        let journal = |index| self.dir.file(&format!("{half}-{index}"));
        (0..SURVIVORS).map(|index| self.load(arena, index, journal(index))).collect()
    }

    /// Runs client processes to their end, and adds up what they report.
    async fn run_clients(&self, loads: &[Load]) -> Result<Report, String> {
        let children: Vec<_> = loads.iter().map(start_client).collect::<Result<_, _>>()?;
        let reports = async {
            let mut reports = Vec::new();
            for child in children {
                reports.push(report(child).await?);
            }
            Ok(Report::sum(reports))
        };
        let progress = async {
            loop {
                let written = loads.iter().filter_map(|load| load.journal.as_deref()).map(size);
                let calls = written.sum::<u64>() / JOURNAL_BYTES;
                self.bar.set_position(self.bar_from.get() + calls.min(self.demo.calls));
                pause(Duration::from_millis(100)).await;
            }
        };
        smol::future::or(reports, progress).await
    }

    /// Starts one client after another and kills each after a while; ends only if that fails.
    async fn kill_clients(
        &self,
        arena: &Arena,
        lane: u64,
        victims: &RefCell<Vec<PathBuf>>,
    ) -> Result<Report, String> {
        let mut rng = Rng::new(self.demo.seed, u64::MAX - lane);
        for index in 0_u64.. {
            let journal = self.dir.file(&format!("victim-{lane}-{index}"));
            victims.borrow_mut().push(journal.clone());
            let load = self.load(arena, SURVIVORS + 2 * index + lane, journal);
            let mut child = start_client(&Load { calls: VICTIM_CALLS, ..load })?;
            let life = VICTIM_LIFE_MS.start + rng.below(VICTIM_LIFE_MS.end - VICTIM_LIFE_MS.start);
            pause(Duration::from_millis(life)).await;
            child.kill().map_err(|error| format!("a client cannot be killed: {error}"))?;
            child.status().await.map_err(|error| format!("a client is lost: {error}"))?;
        }
        Err("there are no more numbers for clients".to_owned())
    }

    /// Holds every journal against the server's log and books.
    async fn judge(
        &self,
        arena: &Arena,
        report: Report,
        survivors: &[Load],
        victims: &[PathBuf],
    ) -> Result<Column, String> {
        let server = arena.stats_when_quiet().await?;
        let mut judge = Judge::default();
        for load in survivors {
            let journal = load.journal.as_deref().unwrap_or(Path::new(""));
            judge.hear(arena, journal, Doubt::Widens).await?;
        }
        let mut killed = Killed { clients: victims.len() as u64, ..Killed::default() };
        let before = judge.findings.in_doubt;
        // One that was killed very early had no journal yet.
        for journal in victims.iter().filter(|journal| journal.exists()) {
            killed.operations += judge.hear(arena, journal, Doubt::AskTheLog).await?;
        }
        killed.in_doubt = judge.findings.in_doubt - before;
        let expected = judge.findings.expected + judge.ownerless;
        let mut faults = report.faults.clone();
        faults.extend(judge.find_faults(&server));
        if report.calls != self.demo.calls {
            faults.push(format!("only {} calls were made", report.calls));
        }
        let exact = report.exact && judge.findings.exact() && faults.is_empty();
        let injector = arena.injector.counts.clone();
        let (transport, naive) = (self.transport, Report::default());
        Ok(Column { transport, report, killed, injector, server, expected, exact, faults, naive })
    }
}

/// Adds up what journals say, and what the server says to it.
#[derive(Debug, Default)]
struct Judge {
    findings: Findings,
    /// In accounts that were opened for clients that were killed before they learned it.
    ownerless: u64,
    accounts: u64,
}

impl Judge {
    /// Checks one journal; returns how many operations are in it.
    async fn hear(&mut self, arena: &Arena, journal: &Path, doubt: Doubt) -> Result<u64, String> {
        let mut operations = 0;
        for (number, records) in journal::read(journal).map_err(|error| error.to_string())? {
            let testimony = ask(&arena.auditor, number, &records, AUDIT_TIMEOUT).await?;
            operations += records.len() as u64;
            for (&number, record) in records.iter().filter(|(_, r)| r.kind == Kind::Open) {
                let applied = testimony.log.get(number as usize).map_or(0, |log| log.applied);
                self.accounts += u64::from(applied);
                if record.verdict == Verdict::InDoubt {
                    self.ownerless += record.amount * u64::from(applied);
                }
            }
            self.findings.add(check(&records, &testimony, doubt));
        }
        Ok(operations)
    }

    fn find_faults(&self, server: &Stats) -> Vec<String> {
        let mut faults = self.findings.faults.clone();
        let actual = self.findings.actual + self.ownerless;
        if server.balances != actual || server.accounts != self.accounts {
            faults.push(format!(
                "the bank has {} in {} accounts, but its clients know of {actual} in {}",
                server.balances, server.accounts, self.accounts
            ));
        }
        if server.executed_again != 0 {
            faults.push(format!("{} operations were executed again", server.executed_again));
        }
        faults
    }
}
