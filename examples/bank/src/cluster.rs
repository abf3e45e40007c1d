//! Three servers on one ledger in PostgreSQL, which has a synchronous stand-by, one of them at a time or all at once: kills and
//! pauses servers, kills clients, kills the primary and promotes the stand-by while money moves, and holds every balance and every
//! outcome against the bank's books.

mod databases;
mod probe;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;

use crate::address::Address;
use crate::chance::{Rng, pause, within};
use crate::cli::{CrashTestArgs, Mutant};
use crate::client::connect;
use crate::clients::{Clients, GIVE_UP_AFTER, Plan};
use crate::instance::Instance;
use databases::Databases;
use probe::Probe;

/// Servers.
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
    /// A server that serves is killed.
    Kill,
    /// One that serves is paused, and continues when another one has taken over.
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
    fn draw(rng: &mut Rng, shared: bool) -> Blow {
        match rng.below(100) {
            0..45 => Blow::Kill,
            45..65 => Blow::Pause,
            // Where all serve, none waits.
            65..75 if shared => Blow::Kill,
            65..75 => Blow::KillWaiting,
            75..88 => Blow::KillClient,
            88..94 => Blow::Restart,
            _ => Blow::FailOver,
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Blow::Kill => "a serving server killed",
            Blow::Pause => "a serving server paused",
            Blow::KillWaiting => "a waiting server killed",
            Blow::KillClient => "a client killed",
            Blow::Restart => "the primary killed and started again",
            Blow::FailOver => "the primary killed, its stand-by promoted",
        }
    }
}

/// Runs the test; whether the books agree with every outcome that clients saw.
///
/// # Errors
/// Why it could not be tried.
pub(crate) async fn run(args: &CrashTestArgs, seed: u64) -> Result<bool, String> {
    let test = async { Test::start(args, seed).await?.run(args.kills).await };
    let limit = GIVE_UP_AFTER + Duration::from_secs(5) * args.kills as u32;
    let agree = within(limit, test).await.unwrap_or_else(|| {
        output::show!("WRONG: something hangs (seed {seed})");
        Ok(false)
    });
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
    /// All serve at once.
    shared: bool,
    rng: Rng,
    blows: BTreeMap<Blow, u64>,
}

impl Test {
    async fn start(args: &CrashTestArgs, seed: u64) -> Result<Test, String> {
        let databases = Databases::start()?;
        let mut arguments =
            vec!["--ledger".to_owned(), format!("postgres:{}", databases.connection())];
        arguments.extend(args.shared.then(|| "--shared".to_owned()));
        if args.mutant == Some(Mutant::NoFence) {
            arguments.push("--mutant=no-fence".to_owned());
        }
        let addresses = free_addresses()?;
        let mut servers = Vec::new();
        for address in &addresses {
            servers.push(Instance::start(&Address::Tcp(address.to_string()), &arguments)?);
        }
        let all = |of: &[Instance]| of.iter().all(Instance::serves);
        let enough = |of: &[Instance]| of.iter().any(Instance::serves) && (!args.shared || all(of));
        until("no server serves", || enough(&servers)).await?;
        let address = Address::AnyOf(addresses);
        let probe = Probe::start(&address).await?;
        let plan = Plan { address, durable: args.durable, is_exact: true, seed };
        let clients = Clients::start(plan).await?;
        let (rng, blows) = (Rng::new(seed, 0), BTreeMap::new());
        let shared = args.shared;
        Ok(Test { clients, probe, servers, databases, arguments, shared, rng, blows })
    }

    async fn run(mut self, kills: u64) -> Result<bool, String> {
        for _ in 0..kills {
            pause(Duration::from_millis(self.rng.below(LIFE_MS))).await;
            keep_running(&mut self.servers, &self.arguments)?;
            let blow = Blow::draw(&mut self.rng, self.shared);
            *self.blows.entry(blow).or_default() += 1;
            self.probe.note(blow);
            match self.strike(blow).await {
                Ok(()) => {}
                Err(Trouble::Untried(why)) => return Err(format!("{}: {why}", blow.describe())),
                Err(Trouble::NoneServes(why)) => {
                    output::show!(
                        "{}: then none served for {} s: {why}",
                        blow.describe(),
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
            output::show!(
                "  {:>6.3} s  {} ({count} times)",
                longest.as_secs_f64(),
                blow.describe()
            );
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

    /// A server hangs. One that waits takes over, as an operator would have it; where all serve, they see to that by
    /// themselves. Then the first continues where it was, and must not get through with anything.
    async fn pause(&mut self) -> Result<(), Trouble> {
        let serving = self.serving().await?;
        let waiting = if self.shared { None } else { Some(self.waiting().await?) };
        self.servers[serving].signal(Signal::STOP)?;
        if let Some(waiting) = waiting {
            self.servers[serving].serves_no_more();
            self.servers[waiting].kill().await?;
            let mut arguments = self.arguments.clone();
            arguments.push("--take-over".to_owned());
            self.servers[waiting].start_again(&arguments)?;
        }
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

    /// A server that serves.
    async fn serving(&mut self) -> Result<usize, Trouble> {
        self.until_served().await?;
        let serving: Vec<_> = (0..SERVERS).filter(|at| self.servers[*at].serves()).collect();
        match serving.len() as u64 {
            0 => Err(Trouble::Untried("a server has lost its turn by itself".to_owned())),
            count => Ok(serving[self.rng.below(count) as usize]),
        }
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
