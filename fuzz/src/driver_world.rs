//! The driver in a simulated world: its real clients and servers over streams, timers and an executor made from one seed.
//!
//! | module | what it does |
//! |---|---|
//! | [`executor`] | the clock, timers, chance, and an executor whose choices the seed makes |
//! | [`clocks`] | the clocks of processes, and what happens to them |
//! | [`net`] | byte streams that are bounded, slow, delivered in pieces, and cut anywhere |
//! | [`place`] | the one address: dials, the servers behind it, and faults |
//! | [`handlers`] | the service: its methods and handlers |
//! | [`flood`] | peers that send to servers without end |
//! | [`flooded`] | servers that send to their clients without end |
//! | [`actor`] | tasks that make calls |
//! | [`streams`] | tasks that read streams and send uploads |
//! | [`awaited`] | what must end, and by when |
//! | [`model`] | what is true of every operation, and which outcomes it allows |
//! | [`profile`] | the kind of world that a seed selects |
//!
//! Every call that is awaited must end by its deadline. This finds lost wake-ups, since time passes only when no task is ready.
//! In the end nothing may be left: no kept byte, no session, no task.

pub mod actor;
pub mod clocks;
pub mod flood;
pub mod flooded;
pub mod handlers;
pub mod model;
pub mod place;
pub mod profile;
mod report;
pub mod streams;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire_driver::{Client, Runtime};
pub use oncewire_sim::parts::{awaited, executor, net, trace};

use crate::filmed::{Camera, SharedFilm};
use crate::mutant::{self, Mutant, OF_DRIVER_WORLD};
use crate::rng::Rng;
use actor::Actor;
use awaited::Awaited;
use clocks::Clock;
use executor::{Sim, lock};
use model::Model;
use place::{CLIENTS, MUTANTS, Place, SimConnector, USERS};
use profile::{MS, Profile, SECOND};
pub use report::Report;
use trace::Trace;

/// How late an end may be: slow processors need some of it.
pub const SLACK: u64 = 100 * MS;
/// How long a call may take in a brisk world, apart from its handler.
pub const BRISK: u64 = 30 * MS;
/// The same where futures are held and not polled.
pub const BRISK_HELD: u64 = 400 * MS;
/// Virtual time after which a world must have come to its end.
const END_MAX: u64 = 4 * 3_600 * SECOND;

/// One world.
#[derive(Debug)]
pub struct World {
    /// Its clock and tasks.
    pub sim: Arc<Sim>,
    /// What kind it is.
    pub profile: Profile,
    /// What is true.
    pub model: Mutex<Model>,
    /// The address.
    pub place: Mutex<Place>,
    /// What is true of streams.
    pub streams: Mutex<streams::Streams>,
    /// What is broken on purpose.
    pub mutant: Option<Mutant>,
    /// The world holds a handle of each client beside its actors.
    pub keeps_handles: bool,
    /// Records what passes.
    pub camera: Option<Camera>,
}

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed of the world.
    pub seed: u64,
    /// Polls until then.
    pub step: u64,
    /// In words.
    pub what: String,
    /// What happened last, if the trace was on.
    pub lines: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        write!(f, "seed {} step {}: {}", self.seed, self.step, self.what)
    }
}

/// Runs the world of a seed; keeps the last `lines_max` lines of its trace for a failure.
///
/// # Errors
/// The first broken promise.
pub fn run(seed: u64, lines_max: usize) -> Result<Report, Failure> {
    run_mutant(seed, lines_max, None)
}

/// The same with something broken on purpose.
///
/// # Errors
/// The first broken promise.
pub fn run_mutant(seed: u64, lines_max: usize, mutant: Option<Mutant>) -> Result<Report, Failure> {
    run_filmed(seed, lines_max, mutant, None)
}

/// The same, and records what passes.
///
/// # Errors
/// The first broken promise.
pub fn run_filmed(
    seed: u64,
    lines_max: usize,
    mutant: Option<Mutant>,
    film: Option<&SharedFilm>,
) -> Result<Report, Failure> {
    let profile = Profile::of(seed);
    let sim = Sim::new(seed, profile.schedule, Trace::keeping(lines_max));
    sim.note(|| format!("{profile:#?}"));
    let world = Arc::new(World {
        keeps_handles: !seed.is_multiple_of(3),
        camera: film.map(|film| Camera::new(film.clone(), sim.clone())),
        sim: sim.clone(),
        mutant,
        profile,
        model: Mutex::default(),
        streams: Mutex::default(),
        place: Mutex::new(Place::new(seed)),
    });
    let ended = world.run();
    if ended.is_err() {
        sim.note(|| "the end".to_owned());
    }
    let report = world.report();
    lock(&world.place).hosts.clear();
    sim.end();
    ended.map(|()| report).map_err(|what| Failure {
        seed,
        step: sim.polls.load(Ordering::Relaxed),
        what,
        lines: lock(&sim.trace).lines.iter().cloned().collect(),
    })
}

type Check = Result<(), String>;

impl World {
    fn report(&self) -> Report {
        let model = lock(&self.model);
        Report {
            calls: model.ops(),
            runs: model.runs,
            outcomes: model.outcomes,
            faults: lock(&self.place).faults.clone(),
            virtual_time: self.sim.now(),
            polls: self.sim.polls.load(Ordering::Relaxed),
            syncs: 0,
            hash: lock(&self.sim.trace).hash(),
        }
    }

    fn run(self: &Arc<Self>) -> Check {
        for _ in 0..self.profile.servers {
            self.start_server();
        }
        lock(&self.model).servers_changed = self.profile.servers > 1;
        let mut clients: Vec<Client> = (0..self.profile.clients).map(|_| self.client()).collect();
        lock(&self.model).closing = vec![false; clients.len()];
        for number in 0..self.profile.clients * self.profile.actors {
            let at = number % clients.len();
            let actor = Actor::new(self, number as u64, at, clients[at].clone());
            self.sim.spawn(USERS, actor.run());
        }
        if streams::are_in(self.profile.seed) {
            for client in &clients {
                self.sim.spawn(USERS, streams::Streamer::new(self, client.clone()).run());
            }
        }
        self.sim.spawn(USERS, place::chaos(self.clone()));
        if self.profile.floods {
            self.sim.spawn(USERS, flood::run(self.clone()));
        }
        if self.profile.clocks {
            self.sim.spawn(USERS, clocks::disturb(self.clone()));
        }
        clients.truncate(if self.keeps_handles { clients.len() } else { 0 });
        self.run_until(END_MAX, || self.sim.living(USERS) == 0)?;
        self.pass(handlers::longest(self) + 3 * SECOND)?;
        self.check_live_clients(&clients)?;
        self.close_clients(clients)?;
        self.check_one_way()?;
        self.check_what_is_left()
    }

    fn client(self: &Arc<Self>) -> Client {
        let seed = self.profile.seed;
        let runtime: Arc<dyn Runtime> = self.sim.runtime(MUTANTS);
        let connector = mutant::dial(SimConnector::new(self.clone()), self.mutant, seed, &runtime);
        // Each process has a clock of its own.
        let clock = Clock::behind(Rng::apart(seed, 0x6c).below(self.sim.now()));
        lock(&self.place).client_clocks.push(clock.clone());
        let runtime = self.sim.runtime_with(CLIENTS, clock);
        Client::with_runtime(connector, self.profile.options.clone(), runtime)
    }

    /// Lets the world go on until `done`, or fails when it is `at`.
    fn run_until(&self, at: u64, done: impl Fn() -> bool) -> Check {
        self.sim.run_until(at, || self.check(), done)
    }

    /// Lets some time pass.
    fn pass(&self, nanos: u64) -> Check {
        self.sim.pass(nanos, || self.check())
    }

    /// What is true whenever no task is ready.
    fn check(&self) -> Check {
        let clocks_stood = lock(&self.model).clocks_stood;
        self.sim.check_awaited(clocks_stood)?;
        self.check_load()
    }

    /// Where no task is at work, each call that was admitted runs or waits for its turn, and no budget is exceeded.
    fn check_load(&self) -> Check {
        let servers: Vec<_> =
            lock(&self.place).hosts.iter().map(|host| host.server.clone()).collect();
        let mut queued = false;
        for server in servers {
            let (counters, load) = (server.counters(), server.load());
            if counters.running != (load.running + load.waiting) as u64 {
                return Err(format!("calls are lost or run no more: {load:?}, {counters:?}"));
            }
            queued |= load.waiting > 0;
            if let Some(over) = self.profile.over_budget(&counters) {
                return Err(format!("{over} is exceeded: {counters:?}"));
            }
        }
        if queued {
            self.count("queued");
        }
        Ok(())
    }

    /// Counts that something of this kind happened.
    fn count(&self, kind: &'static str) {
        *lock(&self.place).faults.entry(kind).or_default() += 1;
    }

    /// Faults are over and every call has ended: clients are connected, and nothing is kept for them (S16).
    fn check_live_clients(&self, clients: &[Client]) -> Check {
        self.pass(3 * self.profile.keepalive.as_nanos() as u64 + 40 * SECOND)?;
        let mut at = BTreeMap::new();
        for (number, client) in clients.iter().enumerate() {
            let status = client.status();
            if lock(&self.model).closing[number] {
                continue;
            }
            if !status.connected {
                return Err(format!("client {number} is not connected: {status:?}"));
            }
            // S20: what takes long on its way is no silence.
            let is_proxy = self.mutant.is_some_and(|of| !OF_DRIVER_WORLD.contains(&of));
            if self.profile.slow && !is_proxy && status.reconnects > 0 {
                return Err(format!("client {number} lost a sound connection: {status:?}"));
            }
            *at.entry(status.server.map(|id| id.to_bytes())).or_insert(0) += 1;
        }
        for host in &lock(&self.place).hosts {
            let counters = host.server.counters();
            let live = at.get(&Some(host.server.id().to_bytes())).copied().unwrap_or(0);
            let left = counters.kept_bytes > 0 || counters.running > 0;
            if counters.sessions == live && left {
                return Err(format!("{live} clients are idle, and a server has {counters:?}"));
            }
        }
        Ok(())
    }

    fn close_clients(self: &Arc<Self>, clients: Vec<Client>) -> Check {
        for (number, client) in clients.into_iter().enumerate() {
            let due = self.sim.now() + 3 * SECOND;
            let awaited = Awaited::new(&self.sim, due, format!("the last close of {number}"));
            self.sim.spawn(USERS, async move {
                client.close().await;
                drop((client, awaited));
            });
        }
        let limit = self.profile.options.close_timeout.as_nanos() as u64 + SECOND;
        self.run_until(self.sim.now() + limit, || self.sim.living(USERS) == 0)?;
        self.pass(limit)?;
        match self.sim.living(CLIENTS) {
            0 => Ok(()),
            left => Err(format!("all clients are gone, and {left} of their tasks are left")),
        }
    }

    /// S23: where nothing went wrong, every one-way call was executed.
    fn check_one_way(&self) -> Check {
        match lock(&self.model).one_way_lost() {
            Some(op) if self.profile.brisk => {
                Err(format!("the one-way operation {op} was never executed"))
            }
            _ => Ok(()),
        }
    }

    /// Nothing is left: no session, no kept byte, no task.
    fn check_what_is_left(&self) -> Check {
        let lease = self.profile.lease + Duration::from_secs(20);
        self.pass(lease.as_nanos() as u64)?;
        let hosts = std::mem::take(&mut lock(&self.place).hosts);
        for host in &hosts {
            let (counters, faults) = (host.server.counters(), host.server.handler_faults());
            let empty = counters.sessions == 0
                && counters.conns == 0
                && counters.kept_bytes == 0
                && counters.running == 0;
            if !empty {
                return Err(format!("all clients are gone, and a server has {counters:?}"));
            }
            let alive = lock(&self.streams).alive_at(host.group);
            if alive > 0 {
                return Err(format!("all clients are gone, and {alive} streams are left"));
            }
            let panics = lock(&self.model).panics.get(&host.group).copied().unwrap_or(0);
            if faults.panics != panics {
                return Err(format!("{panics} handlers panicked, and {faults:?} was reported"));
            }
        }
        let groups: Vec<_> = hosts.iter().map(|host| host.group).collect();
        for host in hosts {
            self.sim.spawn(USERS, async move { host.server.drain(Duration::ZERO).await });
        }
        self.run_until(self.sim.now() + SECOND, || self.sim.living(USERS) == 0)?;
        self.pass(3 * SECOND)?;
        match groups.iter().map(|group| self.sim.living(*group)).sum() {
            0 => Ok(()),
            left @ 1.. => Err(format!("{left} tasks are left of drained servers")),
        }
    }
}
