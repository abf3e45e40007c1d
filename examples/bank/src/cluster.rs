//! Three servers on one ledger, in PostgreSQL with a synchronous stand-by, or in etcd with three members: kills and pauses servers, kills
//! clients, and kills and pauses what the ledger is in while money moves; and holds every balance and every outcome against the
//! bank's books.
//!
//! | file | what it does |
//! |---|---|
//! | `cluster.rs` | the test, and what is done to servers |
//! | `cluster/blow.rs` | what can be done, and how often it is |
//! | `cluster/store.rs`, `databases.rs`, `quorum.rs` | what the ledger is in, and what is done to that |
//! | `cluster/probe.rs` | a client that finds out how long no server answers |

mod blow;
#[cfg(feature = "postgres")]
mod databases;
mod probe;
#[cfg(feature = "etcd")]
mod quorum;
mod store;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;

use crate::address::Address;
use crate::chance::{Rng, pause, within};
use crate::cli::{self, CrashTestArgs, Mutant};
use crate::client::connect;
use crate::clients::{Clients, GIVE_UP_AFTER, Plan};
use crate::instance::{Instance, comes_true};
use blow::Blow;
use probe::Probe;
use store::Store;

/// Servers.
const SERVERS: usize = 3;
/// Longest time between two kills, in milliseconds.
const LIFE_MS: u64 = 300;
/// Longest time that something is paused, or down when it need not be, in milliseconds.
const PAUSE_MS: u64 = 1500;
/// Of a hundred blows on etcd, those after which money has to move before the next one.
#[cfg(feature = "etcd")]
const ALONE_PERCENT: u64 = 70;
/// What a test takes for each kill, at most.
const KILL_TAKES: Duration = Duration::from_secs(10);

/// Why a test ends early.
enum Trouble {
    /// It could not be tried.
    Untried(String),
    /// There is what the ledger is in, and no server serves: what they say.
    NoneServes(String),
}

impl From<String> for Trouble {
    fn from(why: String) -> Trouble {
        Trouble::Untried(why)
    }
}

/// Runs the test; whether the books agree with every outcome that clients saw.
///
/// # Errors
/// Why it could not be tried.
pub(crate) async fn run(
    args: &CrashTestArgs,
    store: cli::Store,
    seed: u64,
) -> Result<bool, String> {
    let test = async { Test::start(args, store, seed).await?.run(args.kills).await };
    let limit = GIVE_UP_AFTER + KILL_TAKES * args.kills as u32;
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
    store: Store,
    /// Of every server.
    arguments: Vec<String>,
    /// All serve at once.
    shared: bool,
    /// Late effects are not kept out.
    is_unfenced: bool,
    rng: Rng,
    blows: BTreeMap<Blow, u64>,
}

impl Test {
    async fn start(args: &CrashTestArgs, store: cli::Store, seed: u64) -> Result<Test, String> {
        let store = Store::start(store)?;
        let mut arguments = store.arguments();
        arguments.extend(args.shared.then(|| "--shared".to_owned()));
        let is_unfenced = args.mutant == Some(Mutant::NoFence);
        arguments.extend(is_unfenced.then(|| "--mutant=no-fence".to_owned()));
        let addresses = free_addresses()?;
        let mut servers = Vec::new();
        for address in &addresses {
            servers.push(Instance::start(&Address::Tcp(address.to_string()), &arguments)?);
        }
        let all = |of: &[Instance]| of.iter().all(Instance::serves);
        let enough = |of: &[Instance]| of.iter().any(Instance::serves) && (!args.shared || all(of));
        until("no server serves", || enough(&servers)).await?;
        let address = store.address(addresses);
        let probe = Probe::start(&address).await?;
        let plan = Plan { address, durable: args.durable, is_exact: true, seed };
        let clients = Clients::start(plan).await?;
        let (rng, blows) = (Rng::new(seed, 0), BTreeMap::new());
        let shared = args.shared;
        Ok(Test { clients, probe, servers, store, arguments, shared, is_unfenced, rng, blows })
    }

    async fn run(mut self, kills: u64) -> Result<bool, String> {
        for _ in 0..kills {
            pause(Duration::from_millis(self.rng.below(LIFE_MS))).await;
            keep_running(&mut self.servers, &self.arguments)?;
            // On PostgreSQL only a server that continues while another one serves has late effects. On etcd each has a copy of its
            // own, which a client notices that has to move.
            let blow = match self.is_unfenced && self.store.take_over().is_some() {
                true => Blow::Pause,
                false => self.store.draw(&mut self.rng, self.shared),
            };
            *self.blows.entry(blow).or_default() += 1;
            match self.strike_and_look(blow).await {
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
        let paused = count(&[Blow::Pause, Blow::PauseShortly]);
        let what = self.store.describe(count);
        let servers = format!("killed servers {killed} times, paused them {paused} times, {what},");
        Ok(self.clients.tell(&servers))
    }

    /// On etcd most blows come alone, so that the time without an answer is theirs; the others fall while the one before is felt.
    async fn strike_and_look(&mut self, blow: Blow) -> Result<(), Trouble> {
        self.strike(blow).await?;
        #[cfg(feature = "etcd")]
        if matches!(self.store, Store::Etcd(_)) && self.rng.percent(ALONE_PERCENT) {
            self.until_answered().await?;
        }
        Ok(())
    }

    async fn strike(&mut self, blow: Blow) -> Result<(), Trouble> {
        match blow {
            Blow::KillClient => {
                self.probe.note(blow);
                Ok(self.clients.kill_one(&mut self.rng).await?)
            }
            Blow::Kill => {
                let serving = self.serving().await?;
                self.servers[serving].kill().await?;
                self.probe.note(blow);
                self.until_served().await?;
                Ok(self.servers[serving].start_again(&self.arguments)?)
            }
            Blow::KillWaiting => {
                let waiting = self.waiting().await?;
                self.servers[waiting].kill().await?;
                self.probe.note(blow);
                Ok(self.servers[waiting].start_again(&self.arguments)?)
            }
            Blow::Pause => self.pause().await,
            Blow::PauseShortly => {
                let serving = self.serving().await?;
                self.servers[serving].signal(Signal::STOP)?;
                self.probe.note(blow);
                pause(Duration::from_millis(self.rng.below(PAUSE_MS))).await;
                Ok(self.servers[serving].signal(Signal::CONT)?)
            }
            other => self.strike_store(other).await,
        }
    }

    /// What the ledger is in is struck. Each time the servers have to answer before it is whole again, where it can be used.
    async fn strike_store(&mut self, blow: Blow) -> Result<(), Trouble> {
        match &mut self.store {
            #[cfg(feature = "postgres")]
            Store::Postgres(databases) => {
                self.servers.iter().for_each(Instance::serves_no_more);
                self.probe.note(blow);
                databases.strike(blow)?;
                self.until_served().await?;
                Ok(self.store.mend().await?)
            }
            #[cfg(feature = "etcd")]
            Store::Etcd(quorum) => {
                let pause_for = Duration::from_millis(self.rng.below(PAUSE_MS));
                quorum.strike(blow, &mut self.rng).await?;
                self.probe.note(blow);
                if quorum.takes_writes() {
                    self.until_answered().await?;
                }
                pause(pause_for).await;
                self.store.mend().await?;
                self.until_answered().await
            }
        }
    }

    /// A server hangs. One that waits takes over, as an operator would have it, or when its lease has ended; where all serve, they see
    /// to that by themselves. Then the first continues where it was, and must not get through with anything.
    async fn pause(&mut self) -> Result<(), Trouble> {
        let serving = self.serving().await?;
        let waiting = if self.shared { None } else { Some(self.waiting().await?) };
        self.servers[serving].signal(Signal::STOP)?;
        self.probe.note(Blow::Pause);
        if let (Some(waiting), Some(take_over)) = (waiting, self.store.take_over()) {
            self.servers[serving].serves_no_more();
            self.servers[waiting].kill().await?;
            let mut arguments = self.arguments.clone();
            arguments.push(take_over.to_owned());
            self.servers[waiting].start_again(&arguments)?;
        }
        // The one that is paused says nothing; when it continues and has lost its turn it says so, and with the bug it never does.
        let others = || (0..SERVERS).filter(|at| *at != serving);
        let served = until("", || others().any(|at| self.servers[at].serves())).await;
        let served = served.map_err(|_| self.none_serves());
        pause(Duration::from_millis(self.rng.below(PAUSE_MS))).await;
        self.servers[serving].signal(Signal::CONT)?;
        served
    }

    /// Waits until money has moved since now.
    #[cfg(feature = "etcd")]
    async fn until_answered(&self) -> Result<(), Trouble> {
        let answers = self.probe.answers();
        // The first may have been on its way.
        let moved = || self.probe.answers() >= answers + 2 || self.probe.has_ended();
        let answered = until("", moved).await;
        answered.map_err(|_| self.none_serves())
    }

    /// What the servers say, none of which answers.
    fn none_serves(&self) -> Trouble {
        let errors: Vec<_> = self.servers.iter().map(Instance::error).collect();
        Trouble::NoneServes(errors.join("; "))
    }

    async fn until_served(&self) -> Result<(), Trouble> {
        let served = until("", || self.servers.iter().any(Instance::serves)).await;
        served.map_err(|_| self.none_serves())
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
    match comes_true(GIVE_UP_AFTER, condition).await {
        true => Ok(()),
        false => Err(otherwise.to_owned()),
    }
}
