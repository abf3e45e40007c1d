//! The real ledger on a simulated disk, under the driver's real clients and server: what a crash leaves, anywhere.
//!
//! | module | what it does |
//! |---|---|
//! | [`disk`] | tears what was not synced, fails, fills up, is slow, and lies, if a mutant asks for it |
//! | [`ledger`] | the real store on that disk; its commits end where the seed says; what is found on the disk |
//! | [`host`] | the lives of the server, the connections to it, and faults |
//! | [`shared`] | several servers on one ledger: sessions move, claims race, batches are late |
//! | [`program`] | durable clients: they die anywhere, and go on from their journals |
//! | [`journal`] | the real journal on a disk of its own |
//! | [`stranger`] | peers that send calls before they are welcome |
//! | [`service`] | a transactional method, a recorded one, and one that reads what is durable |
//! | [`caller`] | tasks that make calls |
//! | [`model`] | what is true of every operation, and which outcomes it allows |
//! | [`profile`] | the kind of world that a seed selects |
//!
//! The clock, the tasks and the links are those of [`driver_world`](crate::driver_world). Each time a server opens its
//! ledger, and in the end, the file is compared with all that was promised: every outcome that a caller got, every payment in the
//! tables, and every record.

pub mod caller;
pub mod host;
pub mod journal;
pub mod ledger;
pub mod model;
pub mod profile;
pub mod program;
pub mod service;
pub mod shared;
pub mod stranger;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use oncewire_driver::Client;
use oncewire_driver::faults::ServerFault;
pub use oncewire_sim::parts::disk;

use crate::driver_world::executor::{Group, Sim, lock};
use crate::driver_world::profile::{MS, SECOND};
use crate::driver_world::trace::Trace;
use crate::driver_world::{Failure, Report};
use crate::filmed::{Camera, SharedFilm};
use caller::Caller;
use disk::{Death, Disk};
use host::{Host, SimConnector};
use model::Model;
use profile::Profile;
use program::Program;
use shared::Database;

/// The group of the callers' tasks.
const USERS: Group = 0;
/// The group of the clients' own tasks.
const CLIENTS: Group = 1;
/// The group of what goes wrong.
const CHAOS: Group = 2;
/// Servers' groups come after this one, which is that of a database.
const GROUPS: Group = 3;
/// Groups of programs come after this one.
const PROGRAMS: Group = 1 << 20;
/// Virtual time after which a world must have come to its end.
const END_MAX: u64 = 3_600 * SECOND;

/// What is broken on purpose, for the model to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Broken {
    /// The disk says that it has synced, and has not.
    Lying,
    /// The disk's errors do not reach the server.
    Deaf,
    /// A process that opens the file after a failed sync believes what the cache holds.
    Cached,
    /// What a power cut leaves is taken for no ledger, and a new one is made.
    Fresh,
    /// The store writes the records of calls that run apart after all their effects, in another transaction.
    Apart,
    /// The disks of durable clients say that they have synced, and have not.
    HastyJournal,
    /// Clients say `Goodbye` to a server that drains, whatever is unsettled.
    HastyGoodbye,
    /// Several lanes of the ledger may have one session.
    SharedLanes,
    /// A ledger that servers share takes late batches, whosever the session is.
    Unfenced,
    /// A claim is answered with what was recorded before the last batch of the server that had the session.
    EarlyClaim,
    /// A server takes the session that it has for the latest, though its client was at another one.
    Trusting,
    /// A server claims a session while something of it is on its way to the ledger.
    Overtaking,
}

impl Broken {
    /// Whether only servers that share a ledger show it.
    pub fn is_shared(self) -> bool {
        use Broken::{EarlyClaim, Overtaking, Trusting, Unfenced};
        matches!(self, Unfenced | EarlyClaim | Trusting | Overtaking)
    }

    /// What is broken in servers.
    fn of_server(self) -> Option<ServerFault> {
        match self {
            Broken::SharedLanes => Some(ServerFault::SharedLanes),
            Broken::Trusting => Some(ServerFault::TrustedSessions),
            Broken::Overtaking => Some(ServerFault::OvertakingClaims),
            _ => None,
        }
    }
}

/// One world.
#[derive(Debug)]
pub struct World {
    /// Its clock and tasks.
    pub sim: Arc<Sim>,
    /// What kind it is.
    pub profile: Profile,
    /// What is true.
    pub model: Mutex<Model>,
    /// Its disk.
    pub disk: Disk,
    /// Its servers.
    pub host: Mutex<Host>,
    /// The ledger that they share, if they do.
    pub database: Option<Database>,
    /// Records what passes.
    pub camera: Option<Camera>,
    /// What is broken on purpose.
    pub broken: Option<Broken>,
}

type Check = Result<(), String>;

/// Runs the world of a seed; keeps the last `lines_max` lines of its trace for a failure.
///
/// # Errors
/// The first broken promise.
pub fn run(seed: u64, lines_max: usize, broken: Option<Broken>) -> Result<Report, Failure> {
    run_filmed(seed, lines_max, broken, None)
}

/// The same, and records what passes.
///
/// # Errors
/// The first broken promise.
pub fn run_filmed(
    seed: u64,
    lines_max: usize,
    broken: Option<Broken>,
    film: Option<&SharedFilm>,
) -> Result<Report, Failure> {
    let profile = Profile::of(seed);
    let sim = Sim::new(seed, profile.schedule, Trace::keeping(lines_max));
    sim.note(|| format!("{profile:#?}"));
    let world = Arc::new(World {
        sim: sim.clone(),
        model: Mutex::default(),
        disk: Disk::new(seed, profile.slowness),
        host: Mutex::new(Host::new(profile.sharing.as_ref().map_or(1, |all| all.servers))),
        database: profile.sharing.as_ref().map(|sharing| Database::new(seed, sharing)),
        camera: film.map(|film| Camera::new(film.clone(), sim.clone())),
        profile,
        broken,
    });
    let ended = world.run();
    let report = world.report();
    let seats = std::mem::take(&mut lock(&world.host).seats);
    drop(seats);
    sim.end();
    if let Some(database) = &world.database {
        database.set_store(None);
    }
    ended.map(|()| report).map_err(|what| Failure {
        seed,
        step: sim.polls.load(Ordering::Relaxed),
        what,
        lines: lock(&sim.trace).lines.iter().cloned().collect(),
    })
}

impl World {
    fn report(&self) -> Report {
        let (model, host, disk) = (lock(&self.model), lock(&self.host), self.disk.counters());
        let faults = [
            ("lives", host.lives),
            ("deaths in commits and openings", disk.fuses),
            ("in openings", host.deaths_in_openings),
            ("torn writes", disk.torn),
            ("failed syncs", disk.syncs_failed),
            ("failed reads and writes", disk.errors),
            ("disk full", disk.full),
            ("commits stopped between two transactions", host.stops),
            ("drains", host.drains),
            ("lives of programs", host.program_lives),
            ("journals put back", host.put_back),
            ("failed openings", host.failed_openings),
        ];
        let shared = self.database.as_ref().map(Database::counters).unwrap_or_default();
        let shared = [
            ("sessions that moved", model.moves),
            ("batches of a server that had lost the session", shared.late),
            ("batches of a dead server that were written", shared.posthumous),
            ("claims answered when the session had moved again", shared.raced),
            ("claims that were not answered", shared.unanswered),
            ("batches whose answer was lost", shared.lost),
            ("databases out of reach", shared.away),
        ];
        let strangers = self.profile.strangers.then_some(("strangers", host.strangers));
        Report {
            calls: model.ops(),
            runs: model.runs,
            outcomes: model.outcomes,
            faults: faults.into_iter().chain(shared).chain(strangers).collect(),
            polls: self.sim.polls.load(Ordering::Relaxed),
            syncs: disk.syncs,
            virtual_time: self.sim.now(),
            hash: lock(&self.sim.trace).hash(),
        }
    }

    fn run(self: &Arc<Self>) -> Check {
        // A real ledger is made under another name, and takes its own when it is whole: nothing goes wrong here.
        drop(self.look()?);
        self.disk.end_life(Death::Kill, true);
        lock(&self.model).looks_away = self.broken.is_some();
        self.disk.set_lies(self.broken == Some(Broken::Lying));
        let clients: Vec<Client> = (0..self.profile.clients).map(|at| self.client(at)).collect();
        for number in 0..self.profile.clients * self.profile.actors {
            let client = clients[number % clients.len()].clone();
            self.sim.spawn(USERS, Caller::new(self, number as u64, client).run());
        }
        for at in 0..self.profile.programs {
            let (sim, program) = (self.sim.clone(), Program::new(self, clients.len() + at));
            self.sim.spawn(USERS, async move {
                if let Err(what) = program.run().await {
                    sim.fail(what);
                }
            });
        }
        if self.profile.strangers {
            self.sim.spawn(USERS, stranger::run(self.clone()));
        }
        self.begin_service()?;
        self.run_until(END_MAX, || self.sim.living(USERS) == 0)?;
        for client in clients {
            self.sim.spawn(USERS, async move {
                let _ = client.close().await;
            });
        }
        self.run_until(END_MAX, || self.sim.living(USERS) == 0)?;
        if self.database.is_some() {
            self.pass(10 * SECOND)?;
            self.sim.kill(CHAOS);
            self.leave_one()?;
        }
        // A connection whose client has vanished without a word is noticed after 25 s (S20), and the lease begins then.
        self.pass(35 * SECOND + profile::LEASE.as_nanos() as u64)?;
        self.check_end()
    }

    /// Servers run from now on, and things go wrong.
    fn begin_service(self: &Arc<Self>) -> Check {
        let Some(database) = &self.database else {
            self.sim.spawn(CHAOS, host::operate(self.clone()));
            self.sim.spawn(USERS, host::chaos(self.clone()));
            return Ok(());
        };
        database.set_store(Some(self.look()?));
        for at in 0..lock(&self.host).seats.len() {
            self.sim.spawn(CHAOS, shared::operate(self.clone(), at));
        }
        self.sim.spawn(USERS, shared::chaos(self.clone()));
        Ok(())
    }

    fn client(self: &Arc<Self>, client: usize) -> Client {
        let connector = SimConnector { world: self.clone(), client };
        Client::with_runtime(connector, self.profile.options.clone(), self.sim.runtime(CLIENTS))
    }

    /// All clients are gone and all leases are over: the power fails once more, and the file is looked at.
    fn check_end(&self) -> Check {
        let server = lock(&self.host).seats[0].server.clone();
        if let Some(error) = server.and_then(|server| server.ledger_error()) {
            return Err(format!("in peace, the ledger has failed: {error}"));
        }
        self.sim.kill(CHAOS);
        self.end_life(0, Death::PowerCut);
        if let Some(database) = &self.database {
            database.set_store(None);
            self.disk.end_life(Death::PowerCut, true);
        }
        let left = ledger::leftovers(&self.look()?)?;
        match left {
            (0, 0) => Ok(()),
            (sessions, calls) => {
                Err(format!("all is over, and the ledger holds {sessions} sessions, {calls} calls"))
            }
        }
    }

    /// Lets the world go on until `done`, or fails when it is `at`.
    fn run_until(&self, at: u64, done: impl Fn() -> bool) -> Check {
        self.sim.run_until(at, || self.sim.check_awaited(0), done)
    }

    /// Lets some time pass.
    fn pass(&self, nanos: u64) -> Check {
        self.sim.pass(nanos.max(MS), || self.sim.check_awaited(0))
    }
}
