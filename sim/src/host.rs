//! Processes: what each life of one has, how it dies, and what comes after.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::journal::JournalError;
use oncewire_driver::ledger::{LedgerError, NoLedger};
use oncewire_driver::protocol::ServerId;
use oncewire_driver::protocol::wire::{self, Decoded, Role};
use oncewire_driver::{Accept, BoxFuture, BoxStream, Runtime, Server, ServerBuilder, Subject};
use oncewire_ledger_redb::{RedbJournalStore, RedbStore};

use crate::AnyError;
use crate::checks::Disks;
use crate::ledger::{SimJournal, SimLedger};
use crate::parts::clocks::Clock;
use crate::parts::disk::{Death, Disk, Handle};
use crate::parts::executor::{Group, Sleep, lock};
use crate::parts::net::{CUTS, Cut, Link, SimStream};
use crate::parts::rng::Rng;
use crate::sim::{OPERATORS, Sim, World};

type Build = dyn Fn(&Host) -> Result<Server, AnyError> + Send + Sync;
type Program = dyn Fn(Host) -> BoxFuture<'static, Result<(), AnyError>> + Send + Sync;
type Effects = dyn Fn(&Disks<'_>) -> Result<Vec<String>, AnyError> + Send + Sync;
type Check = dyn Fn(&Disks<'_>) -> Result<(), AnyError> + Send + Sync;

/// What a process runs.
pub(crate) enum Job {
    Server(Box<Build>),
    Program(Box<Program>),
}

/// Whether a process lives, and what comes after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// It has been down since it died, and starts again after a while.
    Down,
    /// It stays down until [`ServerHandle::restart`].
    Stopped,
    Up(Group),
    /// A program that has come to its end.
    Ended,
}

struct State {
    life: Life,
    server: Option<Server>,
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
        let (group, server, links) = {
            let mut state = lock(&self.state);
            let Life::Up(group) = state.life else {
                if next == Life::Stopped && state.life == Life::Down {
                    state.life = next;
                }
                return;
            };
            state.dies_at = None;
            (group, state.server.take(), std::mem::take(&mut state.links))
        };
        self.world.exec.note(|| format!("{} dies ({why}): {death:?}", self.name));
        if next != Life::Ended {
            self.world.count("crashes");
        }
        self.world.exec.kill(group);
        drop(server);
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

    /// What its disks hold is compared with what callers were told, and with what is always true.
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
        let host = Host { process: self.clone(), group, runtime };
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
        }
        Ok(())
    }

    /// Waits for the end of a program.
    pub(crate) async fn ended(&self) {
        self.until(|life| life == Life::Ended).await;
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.life(), Life::Up(_))
    }

    /// One connection of a client.
    pub(crate) fn connect(self: &Arc<Self>, client: &str) -> io::Result<BoxStream> {
        let mut state = lock(&self.state);
        let Some(server) = state.server.clone() else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let world = &self.world;
        let (link, ours, theirs) = Link::new(&world.exec, world.faults().link(), world.seed);
        world.exec.note(|| format!("link {} from {client} to {}", link.id, self.name));
        let from = state.links.len().saturating_sub(15);
        state.links.drain(..from);
        state.links.push((client.to_owned(), link));
        drop(state);
        let counted = Counted { stream: theirs, process: self.clone(), read: Vec::new() };
        server.serve_stream(Box::new(counted), Subject::Name(client.into()));
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

    fn note_frame(&self) {
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

    /// Drops what it holds of the world.
    pub(crate) fn forget(&self) {
        let server = lock(&self.state).server.take();
        drop(server);
        lock(&self.effects).clear();
        lock(&self.checks).clear();
    }
}

/// One life of a process: what it runs on, and its disks, which outlive it.
#[derive(Clone)]
pub struct Host {
    process: Arc<Process>,
    group: Group,
    runtime: Arc<dyn Runtime>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("name", &self.process.name).finish_non_exhaustive()
    }
}

impl Host {
    /// A server's description, on the simulated clock and executor.
    pub fn builder(&self, service: &str) -> ServerBuilder<NoLedger> {
        Server::builder(service).runtime(self.runtime.clone()).instance(self.process.name.clone())
    }

    /// The clock, the executor and the random numbers of this process. Its tasks die with it.
    pub fn runtime(&self) -> Arc<dyn Runtime> {
        self.runtime.clone()
    }

    /// The ledger on this process's disk, made at the first start.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn ledger(&self) -> Result<SimLedger, LedgerError> {
        let store = self.process.open_ledger()?;
        Ok(SimLedger::new(&self.process, self.group, store))
    }

    /// The journal on this process's disk, for a [`DurableClient`](oncewire_driver::DurableClient).
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn journal(&self) -> Result<SimJournal, JournalError> {
        let store = RedbJournalStore::with_backend(self.process.disk("journal").handle())?;
        Ok(SimJournal::new(&self.process, self.group, store))
    }

    /// One more disk, for what a service keeps by itself: a storage of redb. The disk `ledger` holds the ledger, and
    /// `journal` the journal.
    pub fn disk(&self, name: &str) -> Handle {
        self.process.disk(name).handle()
    }

    /// Dials a server in the name of this process.
    pub fn connector(&self, server: &ServerHandle) -> impl oncewire_driver::Connect + use<> {
        crate::sim::Dialler { client: self.process.name.clone(), server: server.0.clone() }
    }

    /// The world.
    pub fn sim(&self) -> Sim {
        Sim(self.process.world.clone())
    }
}

/// A server of the world, through all its lives.
#[derive(Clone, Debug)]
pub struct ServerHandle(pub(crate) Arc<Process>);

impl ServerHandle {
    /// Says what took effect, by what is on the disks: the key of an operation once for each time. It is asked after each
    /// death and in the end, and compared with what callers were told of the operations that they
    /// [recorded](Sim::record) under these keys.
    pub fn effects<K: ToString>(
        &self,
        of: impl Fn(&Disks<'_>) -> Result<Vec<K>, AnyError> + Send + Sync + 'static,
    ) {
        let keys = move |disks: &Disks<'_>| {
            Ok(of(disks)?.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        lock(&self.0.effects).push(Box::new(keys));
    }

    /// Says what is always true of the disks: asked after each death and in the end.
    pub fn check(
        &self,
        name: &str,
        check: impl Fn(&Disks<'_>) -> Result<(), AnyError> + Send + Sync + 'static,
    ) {
        lock(&self.0.checks).push((name.to_owned(), Box::new(check)));
    }

    /// It dies now, and starts again after a while.
    pub fn crash(&self, death: Death) {
        self.0.die(death, "as the test says");
    }

    /// It dies when it has read so many frames more. Then it starts again after a while.
    pub fn crash_at_frame(&self, frames: u64, death: Death) {
        let mut state = lock(&self.0.state);
        state.dies_at = Some((state.frames + frames.max(1), death));
    }

    /// It dies now, and stays down until [`restart`](ServerHandle::restart).
    pub fn stop(&self, death: Death) {
        self.0.end(death, "as the test says", Life::Stopped);
    }

    /// Starts it again after [`stop`](ServerHandle::stop).
    pub fn restart(&self) {
        if self.0.life() == Life::Stopped {
            self.0.set_life(Life::Down);
        }
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.0.is_up()
    }

    /// Waits until it is up.
    pub async fn up(&self) {
        self.0.until(|life| matches!(life, Life::Up(_))).await;
    }
}

/// Connections come by another way; a server that serves hears of its ledger's errors.
struct Nowhere;

impl Accept for Nowhere {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(std::future::pending())
    }

    fn address(&self) -> String {
        "nowhere".to_owned()
    }
}

/// A server's end of a connection, that counts the frames which it reads.
struct Counted {
    stream: SimStream,
    process: Arc<Process>,
    /// What was read of a frame that is not whole.
    read: Vec<u8>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let len = std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.read.extend_from_slice(&buf[..len]);
        while let Ok(Decoded::Frame(_, len)) = wire::decode(&self.read, Role::Client, u32::MAX / 2)
        {
            self.read.drain(..len);
            self.process.note_frame();
        }
        Poll::Ready(Ok(len))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// Starts a process's operator.
pub(crate) fn begin(process: &Arc<Process>) {
    process.world.exec.spawn(OPERATORS, process.clone().operate());
}

/// How long a pause takes, at random.
pub(crate) fn pause(rng: &mut Rng, average: Duration) -> u64 {
    rng.below(2 * average.as_nanos() as u64 + 1)
}
