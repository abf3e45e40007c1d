//! Processes: how one starts, how it dies, and what comes after. `process/disks.rs` is about their disks.

mod disks;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use oncewire_driver::protocol::wire::Role;
use oncewire_driver::{BoxFuture, BoxStream, Server, Subject};

use crate::AnyError;
use crate::checks::Disks;
use crate::counted::{Counted, Nowhere};
use crate::host::Host;
use crate::parts::MS;
use crate::parts::clocks::Clock;
use crate::parts::disk::{Death, Disk};
use crate::parts::executor::{Group, Sleep, lock};
use crate::parts::net::{CUTS, Cut, Link};
use crate::parts::rng::Rng;
use crate::ports::Port;
use crate::sim::{OPERATORS, World};

type Build = dyn Fn(&Host) -> Result<Server, AnyError> + Send + Sync;
type Program = dyn Fn(Host) -> BoxFuture<'static, Result<(), AnyError>> + Send + Sync;
pub(crate) type Effects = dyn Fn(&Disks<'_>) -> Result<Vec<String>, AnyError> + Send + Sync;
pub(crate) type Check = dyn Fn(&Disks<'_>) -> Result<(), AnyError> + Send + Sync;

/// Between two attempts to start a process whose disk has errors.
const START_PAUSE: u64 = 100 * MS;

/// What a process runs.
pub(crate) enum Job {
    Server(Box<Build>),
    Program(Box<Program>),
    /// Starts again whenever it ends.
    Daemon(Box<Program>),
}

/// Whether a process lives, and what comes after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// It has been down since it died, and starts again after a while.
    Down,
    /// It stays down until [`restart`](Process::restart).
    Stopped,
    Up(Group),
    /// A program that has come to its end.
    Ended,
}

struct State {
    life: Life,
    server: Option<Server>,
    /// Of the life that is, or was last.
    clock: Arc<Clock>,
    /// Operations of its disks that had failed when this life began.
    failures: u64,
    /// Where it listens beside.
    ports: BTreeMap<String, Port>,
    /// Who waits for a change of `life`.
    wakers: Vec<Waker>,
    /// The last connections, and whose they are.
    links: Vec<(String, Link)>,
    /// Frames that its servers have read.
    frames: u64,
    /// At which frame it dies, and how.
    dies_at: Option<(u64, Death)>,
}

/// A process of the simulated world, with all its lives.
pub(crate) struct Process {
    pub(crate) world: Arc<World>,
    pub(crate) name: String,
    number: u64,
    job: Job,
    disks: Mutex<BTreeMap<String, Disk>>,
    state: Mutex<State>,
    effects: Mutex<Vec<Box<Effects>>>,
    checks: Mutex<Vec<(String, Box<Check>)>>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Process {
    pub(crate) fn new(world: &Arc<World>, name: String, job: Job) -> Arc<Process> {
        let state = State {
            life: Life::Down,
            server: None,
            clock: Arc::default(),
            failures: 0,
            ports: BTreeMap::new(),
            wakers: Vec::new(),
            links: Vec::new(),
            frames: 0,
            dies_at: None,
        };
        Arc::new(Process {
            world: world.clone(),
            name,
            number: world.exec.number(),
            job,
            disks: Mutex::default(),
            state: Mutex::new(state),
            effects: Mutex::default(),
            checks: Mutex::default(),
        })
    }

    fn set_life(&self, life: Life) {
        let wakers = {
            let mut state = lock(&self.state);
            state.life = life;
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn life(&self) -> Life {
        lock(&self.state).life
    }

    async fn until(&self, is: impl Fn(Life) -> bool) -> Life {
        std::future::poll_fn(|cx| {
            let mut state = lock(&self.state);
            if is(state.life) {
                return Poll::Ready(state.life);
            }
            state.wakers.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// It dies, if it lives, and starts again.
    pub(crate) fn die(&self, death: Death, why: &str) {
        self.end(death, why, Life::Down);
    }

    /// The same, if the life of this group is not over: what runs on of a dead one does not touch the next.
    pub(crate) fn die_in(&self, group: Group, death: Death, why: &str) {
        if self.life() == Life::Up(group) {
            self.die(death, why);
        }
    }

    fn end(&self, death: Death, why: &str, next: Life) {
        let (group, server, links, ports) = {
            let mut state = lock(&self.state);
            let Life::Up(group) = state.life else {
                if next == Life::Stopped && state.life == Life::Down {
                    state.life = next;
                }
                return;
            };
            state.dies_at = None;
            let (links, ports) =
                (std::mem::take(&mut state.links), std::mem::take(&mut state.ports));
            (group, state.server.take(), links, ports)
        };
        self.world.exec.note(|| format!("{} dies ({why}): {death:?}", self.name));
        if next != Life::Ended {
            self.world.count("crashes");
        }
        self.world.exec.kill(group);
        drop((server, ports));
        for (_, link) in links {
            link.cut(Cut::Reset, Role::Server);
        }
        lock(&self.disks).values().for_each(|disk| disk.end_life(death, true));
        self.set_life(next);
    }

    pub(crate) fn jump_clock(&self, by: Duration) {
        self.world.exec.note(|| format!("{}: its clock jumps by {by:?}", self.name));
        self.world.count("clock jumps");
        lock(&self.state).clock.jump(by.as_nanos() as u64);
        // Timers were armed for when the clock was to show something.
        self.world.exec.wake_all();
    }

    /// Starts it, and again after each of its deaths.
    pub(crate) async fn operate(self: Arc<Self>) {
        let exec = &self.world.exec;
        let mut rng = Rng::apart(self.world.seed, self.number << 8 | 5);
        for life in 0.. {
            if self.until(|life| life != Life::Stopped).await == Life::Ended {
                return;
            }
            if life > 0
                && let Err(what) = self.audit(false)
            {
                return exec.fail(what);
            }
            let failures = self.disk_failures();
            lock(&self.state).failures = failures;
            let group = self.world.new_group();
            if let Err(error) = self.start(group, &mut rng) {
                let what = format!("{} does not start: {error}", self.name);
                if self.disk_failures() == failures {
                    return exec.fail(what);
                }
                self.give_up_start(group, &what);
                Sleep::new(exec, START_PAUSE).await;
                continue;
            }
            self.until(|life| !matches!(life, Life::Up(_))).await;
            Sleep::new(exec, rng.delay(self.world.faults().downtime.as_nanos() as u64)).await;
        }
    }

    /// Its disk has errors: it is tried again.
    fn give_up_start(&self, group: Group, what: &str) {
        self.world.exec.note(|| format!("{what}: its disk has errors"));
        self.world.count("failed starts");
        self.world.exec.kill(group);
        lock(&self.disks).values().for_each(|disk| disk.end_life(Death::Kill, true));
    }

    fn start(self: &Arc<Self>, group: Group, rng: &mut Rng) -> Result<(), AnyError> {
        let world = &self.world;
        let clock = Clock::behind(rng.below(world.exec.now()));
        lock(&self.state).clock = clock.clone();
        let runtime = world.exec.runtime_with(group, clock);
        let host = Host::new(self.clone(), group, runtime);
        world.exec.note(|| format!("{} starts", self.name));
        match &self.job {
            Job::Server(build) => {
                let server = build(&host)?;
                lock(&self.state).server = Some(server.clone());
                let process = self.clone();
                self.set_life(Life::Up(group));
                world.exec.spawn(group, async move {
                    // It ends when its ledger fails.
                    let ended = server.serve(Nowhere).await;
                    drop(server);
                    process.die_in(group, Death::Kill, &format!("its server ended: {ended:?}"));
                });
            }
            Job::Program(program) => {
                let (future, process) = (program(host), self.clone());
                self.set_life(Life::Up(group));
                world.exec.spawn(group, async move {
                    match future.await {
                        Ok(()) => process.set_life(Life::Ended),
                        Err(error) if process.has_bad_disk() => {
                            let why = format!("it has ended: {error}, its disk has errors");
                            process.die_in(group, Death::Kill, &why);
                        }
                        Err(error) => process.world.exec.fail(format!("{}: {error}", process.name)),
                    }
                });
            }
            Job::Daemon(daemon) => {
                let (future, process) = (daemon(host), self.clone());
                self.set_life(Life::Up(group));
                world.exec.spawn(group, async move {
                    let why = match future.await {
                        Ok(()) => "it has ended".to_owned(),
                        Err(error) => format!("it has ended: {error}"),
                    };
                    process.die_in(group, Death::Kill, &why);
                });
            }
        }
        Ok(())
    }

    /// Begins to listen on a port; returns its number.
    pub(crate) fn open_port(&self, port: &str) -> io::Result<u64> {
        let mut state = lock(&self.state);
        if state.ports.contains_key(port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let number = self.world.exec.number();
        let opened = Port { number, waiting: VecDeque::new(), waker: None };
        state.ports.insert(port.to_owned(), opened);
        Ok(number)
    }

    /// What `f` says of a port; of `None` if it is not open any more.
    pub(crate) fn with_port<T>(
        &self,
        port: &str,
        number: u64,
        f: impl FnOnce(Option<&mut Port>) -> T,
    ) -> T {
        f(lock(&self.state).ports.get_mut(port).filter(|port| port.number == number))
    }

    pub(crate) fn close_port(&self, port: &str, number: u64) {
        let mut state = lock(&self.state);
        if state.ports.get(port).is_some_and(|open| open.number == number) {
            let closed = state.ports.remove(port);
            drop(state);
            drop(closed);
        }
    }

    /// Waits for the end of a program.
    pub(crate) async fn ended(&self) {
        self.until(|life| life == Life::Ended).await;
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.life(), Life::Up(_))
    }

    /// One connection of a client, to a port or to the server.
    pub(crate) fn connect(
        self: &Arc<Self>,
        client: &str,
        port: Option<&str>,
    ) -> io::Result<BoxStream> {
        let mut state = lock(&self.state);
        let is_open = match port {
            Some(port) => state.ports.contains_key(port),
            None => state.server.is_some(),
        };
        if !is_open {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let world = &self.world;
        let (link, ours, theirs) = Link::new(&world.exec, world.faults().link(), world.seed);
        world.exec.note(|| format!("link {} from {client} to {}", link.id, self.name));
        let from = state.links.len().saturating_sub(15);
        state.links.drain(..from);
        state.links.push((client.to_owned(), link));
        let theirs: BoxStream = Box::new(Counted::new(theirs, self.clone()));
        let subject = Subject::Name(client.into());
        let port = port.and_then(|port| state.ports.get_mut(port));
        if let Some(port) = port {
            port.waiting.push_back((theirs, subject));
            let waker = port.waker.take();
            drop(state);
            waker.into_iter().for_each(Waker::wake);
        } else if let Some(server) = state.server.clone() {
            drop(state);
            server.serve_stream(theirs, subject);
        }
        Ok(Box::new(ours))
    }

    pub(crate) fn cut_some(&self, rng: &mut Rng) {
        let state = lock(&self.state);
        if state.links.is_empty() {
            return;
        }
        let link = state.links[rng.index(state.links.len())].1.clone();
        drop(state);
        self.world.count("cuts");
        link.cut(rng.pick(&CUTS), rng.pick(&[Role::Client, Role::Server]));
    }

    /// What is under way between it and a client vanishes.
    pub(crate) fn cut_off(&self, client: &str) {
        let links: Vec<Link> = {
            let state = lock(&self.state);
            let of = state.links.iter().filter(|(of, _)| of == client);
            of.map(|(_, link)| link.clone()).collect()
        };
        links.iter().for_each(|link| link.cut(Cut::Holes, Role::Client));
    }

    /// One of its servers has read a frame.
    pub(crate) fn note_frame(&self) {
        let death = {
            let mut state = lock(&self.state);
            state.frames += 1;
            let frames = state.frames;
            state.dies_at.filter(|(at, _)| *at <= frames)
        };
        if let Some((at, death)) = death {
            self.die(death, &format!("at frame {at}"));
        }
    }

    pub(crate) fn add_effects(&self, of: Box<Effects>) {
        lock(&self.effects).push(of);
    }

    pub(crate) fn add_check(&self, name: &str, check: Box<Check>) {
        lock(&self.checks).push((name.to_owned(), check));
    }

    /// It dies when its servers have read so many frames more.
    pub(crate) fn set_death_at(&self, frames: u64, death: Death) {
        let mut state = lock(&self.state);
        state.dies_at = Some((state.frames + frames.max(1), death));
    }

    /// Stays down from now on.
    pub(crate) fn stop(&self, death: Death) {
        self.end(death, "as the test says", Life::Stopped);
    }

    pub(crate) fn restart(&self) {
        if self.life() == Life::Stopped {
            self.set_life(Life::Down);
        }
    }

    pub(crate) async fn up(&self) {
        self.until(|life| matches!(life, Life::Up(_))).await;
    }

    /// Drops what it holds of the world.
    pub(crate) fn forget(&self) {
        let mut state = lock(&self.state);
        let left = (state.server.take(), std::mem::take(&mut state.ports));
        drop(state);
        drop(left);
        lock(&self.effects).clear();
        lock(&self.checks).clear();
    }
}

/// Starts a process's operator.
pub(crate) fn begin(process: &Arc<Process>) {
    process.world.exec.spawn(OPERATORS, process.clone().operate());
}
