//! Processes: how one starts, how it dies, and what comes after.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use oncewire_driver::ledger::LedgerError;
use oncewire_driver::protocol::ServerId;
use oncewire_driver::protocol::wire::Role;
use oncewire_driver::{BoxFuture, BoxStream, Server, Subject};
use oncewire_ledger_redb::RedbStore;

use crate::AnyError;
use crate::checks::Disks;
use crate::counted::{Counted, Nowhere};
use crate::host::Host;
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

    pub(crate) fn disk(&self, name: &str) -> Disk {
        let mut disks = lock(&self.disks);
        let number = disks.len() as u64;
        let seed = Rng::apart(self.world.seed, self.number << 16 | number << 8 | 3).next_u64();
        let slowness = self.world.faults().slowness.as_nanos() as u64;
        disks.entry(name.to_owned()).or_insert_with(|| Disk::new(seed, slowness)).clone()
    }

    pub(crate) fn open_ledger(&self) -> Result<RedbStore, LedgerError> {
        let id = Rng::apart(self.world.seed, self.number << 8 | 4).next_u64();
        let mut bytes = [9; 16];
        bytes[..8].copy_from_slice(&id.to_le_bytes());
        RedbStore::with_backend(self.disk("ledger").handle(), ServerId::from_bytes(bytes))
    }

    pub(crate) fn has_effects(&self) -> bool {
        !lock(&self.effects).is_empty()
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

    /// The world is over: it ends as by a power cut, so that only what was durable is left.
    pub(crate) fn end_for_good(&self) -> Result<(), String> {
        self.end(Death::PowerCut, "the world ends", Life::Ended);
        self.audit(true)
    }

    /// Compares what its disks hold with the outcomes that callers have, and checks what is always true.
    fn audit(&self, ends: bool) -> Result<(), String> {
        let disks = Disks::new(self);
        let failed = |what: &dyn std::fmt::Display| format!("{}: {what}", self.name);
        let result = (|| {
            let effects = lock(&self.effects);
            if !effects.is_empty() {
                let mut keys = Vec::new();
                for of in effects.iter() {
                    keys.extend(of(&disks).map_err(|error| failed(&error))?);
                }
                self.world
                    .exec
                    .note(|| format!("{}: {} effects on its disks", self.name, keys.len()));
                let mut book = lock(&self.world.book);
                book.audit(&self.name, keys).map_err(|error| failed(&error))?;
                if ends || self.world.is_only_one_with_effects(self) {
                    book.check_replied().map_err(|error| failed(&error))?;
                }
            }
            for (name, check) in lock(&self.checks).iter() {
                check(&disks).map_err(|error| failed(&format!("{name}: {error}")))?;
            }
            Ok(())
        })();
        drop(disks);
        // Handles of the audit are dead now.
        lock(&self.disks).values().for_each(|disk| disk.end_life(Death::Kill, true));
        result
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
            if let Err(error) = self.start(&mut rng) {
                return exec.fail(format!("{} does not start: {error}", self.name));
            }
            self.until(|life| !matches!(life, Life::Up(_))).await;
            Sleep::new(exec, rng.delay(self.world.faults().downtime.as_nanos() as u64)).await;
        }
    }

    fn start(self: &Arc<Self>, rng: &mut Rng) -> Result<(), AnyError> {
        let world = &self.world;
        let group = world.new_group();
        let clock = Clock::behind(rng.below(world.exec.now()));
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
