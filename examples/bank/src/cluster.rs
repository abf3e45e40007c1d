//! Three servers on one ledger in PostgreSQL, which has a synchronous stand-by: kills and pauses servers, kills clients, kills the
//! primary and promotes the stand-by while money moves, and holds every balance and every outcome against the bank's books.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oncewire::{Outcome, Runtime, SmolRuntime};
use oncewire_ledger_postgres::postgres::{Client, NoTls};
use rustix::process::Signal;

use crate::address::Address;
use crate::chance::{Rng, pause, unique, within};
use crate::cli::{CrashTestArgs, Mutant};
use crate::client::connect;
use crate::clients::{Clients, GIVE_UP_AFTER, Plan};
use crate::database::Cluster;
use crate::instance::Instance;
use crate::service::{AccountId, BankClient, Change, Open, Operation};

/// Servers, of which one has the ledger.
const SERVERS: usize = 3;
/// Longest time between two kills, in milliseconds.
const LIFE_MS: u64 = 300;
/// Longest time that a server is paused, in milliseconds.
const PAUSE_MS: u64 = 1500;
/// How often it is looked whether a condition holds.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    /// The server that has the ledger is killed.
    Kill,
    /// It is paused, another one takes over, and then it continues.
    Pause,
    /// One that waits for its turn is killed.
    KillWaiting,
    KillClient,
    /// The primary is killed, and started again.
    Restart,
    /// The primary is killed, its stand-by is promoted and gets a stand-by of its own.
    FailOver,
}

/// Why a test ends early.
enum Trouble {
    /// It could not be tried.
    Untried(String),
    /// There is a database, and no server serves: what they say.
    NoneServes(String),
}

impl From<String> for Trouble {
    fn from(why: String) -> Trouble {
        Trouble::Untried(why)
    }
}

impl Blow {
    fn draw(rng: &mut Rng) -> Blow {
        match rng.below(100) {
            0..45 => Blow::Kill,
            45..65 => Blow::Pause,
            65..75 => Blow::KillWaiting,
            75..88 => Blow::KillClient,
            88..94 => Blow::Restart,
            _ => Blow::FailOver,
        }
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Blow::Kill => "the serving server killed",
            Blow::Pause => "the serving server paused, another one takes over",
            Blow::KillWaiting => "a waiting server killed",
            Blow::KillClient => "a client killed",
            Blow::Restart => "the primary killed and started again",
            Blow::FailOver => "the primary killed, its stand-by promoted",
        })
    }
}

/// Runs the test; whether the books agree with every outcome that clients saw.
///
/// # Errors
/// Why it could not be tried.
pub(crate) async fn run(args: &CrashTestArgs, seed: u64) -> Result<bool, String> {
    let test = async { Test::start(args, seed).await?.run(args.kills).await };
    let limit = GIVE_UP_AFTER + Duration::from_secs(5) * args.kills as u32;
    let agree = within(limit, test).await.unwrap_or_else(|| Err("something hangs".to_owned()));
    agree.map_err(|why| format!("{why} (seed {seed})"))
}

struct Test {
    // In this order, since each needs the next until its end.
    clients: Clients,
    probe: Probe,
    servers: Vec<Instance>,
    databases: Databases,
    /// Of every server.
    arguments: Vec<String>,
    rng: Rng,
    blows: BTreeMap<Blow, u64>,
}

impl Test {
    async fn start(args: &CrashTestArgs, seed: u64) -> Result<Test, String> {
        let databases = Databases::start()?;
        let mut arguments =
            vec!["--ledger".to_owned(), format!("postgres:{}", databases.connection())];
        if args.mutant == Some(Mutant::NoFence) {
            arguments.push("--mutant=no-fence".to_owned());
        }
        let addresses = free_addresses()?;
        let mut servers = Vec::new();
        for address in &addresses {
            servers.push(Instance::start(&Address::Tcp(address.to_string()), &arguments)?);
        }
        until("no server serves", || servers.iter().any(Instance::serves)).await?;
        let address = Address::AnyOf(addresses);
        let probe = Probe::start(&address).await?;
        let plan = Plan { address, durable: args.durable, is_exact: true, seed };
        let clients = Clients::start(plan).await?;
        let (rng, blows) = (Rng::new(seed, 0), BTreeMap::new());
        Ok(Test { clients, probe, servers, databases, arguments, rng, blows })
    }

    async fn run(mut self, kills: u64) -> Result<bool, String> {
        for _ in 0..kills {
            pause(Duration::from_millis(self.rng.below(LIFE_MS))).await;
            keep_running(&mut self.servers, &self.arguments)?;
            let blow = Blow::draw(&mut self.rng);
            *self.blows.entry(blow).or_default() += 1;
            self.probe.note(blow);
            match self.strike(blow).await {
                Ok(()) => {}
                Err(Trouble::Untried(why)) => return Err(format!("{blow}: {why}")),
                Err(Trouble::NoneServes(why)) => {
                    output::show!(
                        "{blow}: then none served for {} s: {why}",
                        GIVE_UP_AFTER.as_secs()
                    );
                    output::show!("WRONG");
                    return Ok(false);
                }
            }
            self.clients.replace_finished().await?;
        }
        let longest = self.probe.finish(&mut self.clients).await;
        let auditor = connect(self.clients.address()).await?;
        self.clients.finish(&auditor).await?;
        auditor.close().await;
        keep_running(&mut self.servers, &self.arguments)?;
        for server in self.servers.drain(..) {
            server.stop().await?;
        }
        output::show!("without an answer, at the longest, after");
        for (blow, count) in &self.blows {
            let longest = longest.get(blow).copied().unwrap_or_default();
            output::show!("  {:>6.3} s  {blow} ({count} times)", longest.as_secs_f64());
        }
        let count = |of: &[Blow]| of.iter().filter_map(|blow| self.blows.get(blow)).sum::<u64>();
        let killed = count(&[Blow::Kill, Blow::KillWaiting]);
        let (paused, primaries) = (count(&[Blow::Pause]), count(&[Blow::Restart, Blow::FailOver]));
        let servers = format!(
            "killed servers {killed} times, paused them {paused} times, killed the primary {primaries} times,"
        );
        Ok(self.clients.tell(&servers))
    }

    async fn strike(&mut self, blow: Blow) -> Result<(), Trouble> {
        match blow {
            Blow::KillClient => Ok(self.clients.kill_one(&mut self.rng).await?),
            Blow::Kill => {
                let serving = self.serving().await?;
                self.servers[serving].kill().await?;
                self.until_served().await?;
                Ok(self.servers[serving].start_again(&self.arguments)?)
            }
            Blow::KillWaiting => {
                let waiting = self.waiting().await?;
                self.servers[waiting].kill().await?;
                Ok(self.servers[waiting].start_again(&self.arguments)?)
            }
            Blow::Pause => self.pause().await,
            Blow::Restart => {
                self.none_serves();
                self.databases.restart()?;
                self.until_served().await
            }
            Blow::FailOver => {
                self.none_serves();
                self.databases.fail_over()?;
                self.until_served().await?;
                Ok(self.databases.renew_stand_by()?)
            }
        }
    }

    /// The one that has the ledger hangs; one that waits takes over, as whoever watches them would have it. Then the first goes
    /// on where it was, and must not get through with anything.
    async fn pause(&mut self) -> Result<(), Trouble> {
        let (serving, waiting) = (self.serving().await?, self.waiting().await?);
        self.servers[serving].signal(Signal::STOP)?;
        self.servers[serving].serves_no_more();
        self.servers[waiting].kill().await?;
        let mut arguments = self.arguments.clone();
        arguments.push("--take-over".to_owned());
        self.servers[waiting].start_again(&arguments)?;
        let served = self.until_served().await;
        pause(Duration::from_millis(self.rng.below(PAUSE_MS))).await;
        self.servers[serving].signal(Signal::CONT)?;
        served
    }

    async fn until_served(&self) -> Result<(), Trouble> {
        let served = until("", || self.servers.iter().any(Instance::serves)).await;
        served.map_err(|_| {
            let errors: Vec<_> = self.servers.iter().map(Instance::error).collect();
            Trouble::NoneServes(errors.join("; "))
        })
    }

    /// A server that has the ledger.
    async fn serving(&self) -> Result<usize, Trouble> {
        self.until_served().await?;
        let serving = self.servers.iter().position(Instance::serves);
        serving.ok_or_else(|| Trouble::Untried("a server has lost its turn by itself".to_owned()))
    }

    /// A server that waits; with the bug, any other than the first that serves.
    async fn waiting(&mut self) -> Result<usize, Trouble> {
        let serving = self.serving().await?;
        let others: Vec<_> = (0..SERVERS).filter(|at| *at != serving).collect();
        Ok(others[self.rng.below(others.len() as u64) as usize])
    }

    /// What they say of their turn from now on counts.
    fn none_serves(&self) {
        self.servers.iter().for_each(Instance::serves_no_more);
    }
}

fn keep_running(servers: &mut [Instance], arguments: &[String]) -> Result<(), String> {
    servers.iter_mut().try_for_each(|server| server.keep_running(arguments))
}

/// Addresses that nothing listens on.
fn free_addresses() -> Result<Vec<SocketAddr>, String> {
    let explain = |error: std::io::Error| format!("there is no port: {error}");
    // All before any is given back, so that they differ.
    let listeners: Result<Vec<_>, _> =
        (0..SERVERS).map(|_| std::net::TcpListener::bind("127.0.0.1:0")).collect();
    let addresses = listeners.map_err(explain)?;
    addresses.iter().map(|listener| listener.local_addr().map_err(explain)).collect()
}

async fn until(otherwise: &str, condition: impl Fn() -> bool) -> Result<(), String> {
    let holds = async {
        while !condition() {
            pause(LOOK_EVERY).await;
        }
    };
    within(GIVE_UP_AFTER, holds).await.ok_or_else(|| otherwise.to_owned())
}

/// A primary and its synchronous stand-by.
struct Databases {
    primary: Cluster,
    stand_by: Option<Cluster>,
    /// Which of the two folders the primary has.
    at: usize,
    folders: [String; 2],
}

const NAMES: [&str; 2] = ["bank-a", "bank-b"];

impl Databases {
    fn start() -> Result<Databases, String> {
        let primary = Cluster::start(NAMES[0], "").map_err(|error| error.to_string())?;
        let stand_by = primary.stand_by(NAMES[1])?;
        let folders = [primary.host(), stand_by.host()];
        let mut databases = Databases { primary, stand_by: Some(stand_by), at: 0, folders };
        databases.replicate()?;
        Ok(databases)
    }

    /// Finds whichever of the two takes writes.
    fn connection(&self) -> String {
        let [a, b] = &self.folders;
        format!("host={a},{b} user=postgres dbname=postgres target_session_attrs=read-write")
    }

    /// From now on no commit succeeds that is not in the stand-by as well.
    fn replicate(&mut self) -> Result<(), String> {
        let explain = |error: oncewire_ledger_postgres::postgres::Error| error.to_string();
        let connection = self.primary.connection("postgres");
        let mut admin = Client::connect(&connection, NoTls).map_err(explain)?;
        admin
            .batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            .and_then(|()| admin.batch_execute("SELECT pg_reload_conf()"))
            .map_err(explain)?;
        let is_sync = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'";
        while admin.query_opt(is_sync, &[]).map_err(explain)?.is_none() {
            std::thread::yield_now();
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<(), String> {
        self.primary.end("KILL")?;
        self.primary.resume()
    }

    /// The stand-by is the primary, and commits alone until it has a stand-by: what was answered before is in it.
    fn fail_over(&mut self) -> Result<(), String> {
        self.primary.end("KILL")?;
        let stand_by = self.stand_by.take().ok_or("there is no stand-by")?;
        stand_by.promote()?;
        // Its drop removes the files of the one that was killed.
        self.primary = stand_by;
        self.at = 1 - self.at;
        Ok(())
    }

    fn renew_stand_by(&mut self) -> Result<(), String> {
        self.stand_by = Some(self.primary.stand_by(NAMES[1 - self.at])?);
        self.replicate()
    }
}

/// A client of the test's own that pays in one cent after another, and notes how long it had no answer.
struct Probe {
    shared: Arc<Shared>,
    task: smol::Task<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What was done first since the last answer.
    blow: Option<Blow>,
    longest: BTreeMap<Blow, Duration>,
    faults: Vec<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Probe {
    async fn start(address: &Address) -> Result<Probe, String> {
        let (client, shared) = (connect(address).await?, Arc::<Shared>::default());
        let operation = Operation { client: unique(), number: 0 };
        let opened = BankClient(client.clone()).open(Open { operation, opening: 0 }).await.ok();
        let account = opened.map_err(|why| format!("no account was opened: {why}"))?;
        let bank = BankClient(client);
        let task = smol::spawn(pay_in(bank, account, operation, shared.clone()));
        Ok(Probe { shared, task })
    }

    fn note(&self, blow: Blow) {
        self.shared.state().blow.get_or_insert(blow);
    }

    /// Ends it; the longest times without an answer.
    async fn finish(self, clients: &mut Clients) -> BTreeMap<Blow, Duration> {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.task.await;
        let mut state = self.shared.state();
        state.faults.drain(..).for_each(|why| clients.add_fault(why));
        std::mem::take(&mut state.longest)
    }
}

async fn pay_in(bank: BankClient, account: AccountId, first: Operation, shared: Arc<Shared>) {
    let (runtime, mut operation, mut balance) = (SmolRuntime::global(), first, 0);
    let mut answered = runtime.now();
    while !shared.stop.load(Ordering::SeqCst) {
        operation.number += 1;
        let change = Change { operation, account, amount: 1 };
        match bank.deposit(change).timeout(GIVE_UP_AFTER).await {
            Outcome::Reply(Ok(after)) => {
                balance += 1;
                if after != balance {
                    let why = format!("a balance is {after}, and must be {balance}");
                    shared.state().faults.push(why);
                    balance = after;
                }
                let now = runtime.now();
                let mut state = shared.state();
                if let Some(blow) = state.blow.take() {
                    let longest = state.longest.entry(blow).or_default();
                    *longest = now.since(answered).max(*longest);
                }
                answered = now;
            }
            // By a server that was losing its ledger.
            Outcome::NotExecuted(_) => {}
            other => {
                shared.state().faults.push(format!("a payment ended as {other:?}"));
                break;
            }
        }
    }
    bank.0.close().await;
}
