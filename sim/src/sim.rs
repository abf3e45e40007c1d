//! The world of one seed, as a test sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire_driver::{BoxFuture, BoxStream, Client, ClientOptions, Connect, Runtime, Server};

use crate::AnyError;
use crate::checks::Book;
use crate::faults::Faults;
use crate::host::{Host, ServerHandle};
use crate::parts::executor::{Group, Sim as Executor, Sleep, lock};
use crate::parts::rng::Rng;
use crate::ports::PortDialler;
use crate::process::{Job, Process, begin};
use crate::recordable::Recordable;

/// The group of the test and its tasks.
pub(crate) const USERS: Group = 0;
/// The group of the clients' own tasks.
const CLIENTS: Group = 1;
/// The group of what goes wrong.
pub(crate) const CHAOS: Group = 2;
/// The group of what starts processes.
pub(crate) const OPERATORS: Group = 3;
/// Processes have groups from here.
const GROUPS: u32 = 4;

type Check = dyn Fn() -> Result<(), AnyError> + Send + Sync;

/// The world of one seed.
pub(crate) struct World {
    pub(crate) exec: Arc<Executor>,
    pub(crate) seed: u64,
    faults: Mutex<Faults>,
    pub(crate) book: Mutex<Book>,
    pub(crate) processes: Mutex<Vec<Arc<Process>>>,
    partitions: Mutex<BTreeSet<(String, String)>>,
    clients: Mutex<Vec<String>>,
    checks: Mutex<Vec<(String, Box<Check>)>>,
    groups: AtomicU32,
    pub(crate) counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl World {
    pub(crate) fn new(seed: u64, exec: Arc<Executor>) -> Arc<World> {
        Arc::new(World {
            exec,
            seed,
            faults: Mutex::new(Faults::of(seed)),
            book: Mutex::default(),
            processes: Mutex::default(),
            partitions: Mutex::default(),
            clients: Mutex::default(),
            checks: Mutex::default(),
            groups: AtomicU32::new(GROUPS),
            counts: Mutex::default(),
        })
    }

    pub(crate) fn faults(&self) -> Faults {
        *lock(&self.faults)
    }

    pub(crate) fn new_group(&self) -> Group {
        self.groups.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn count(&self, kind: &'static str) {
        *lock(&self.counts).entry(kind).or_default() += 1;
    }

    pub(crate) fn is_only_one_with_effects(&self, process: &Process) -> bool {
        let processes = lock(&self.processes);
        let with = processes.iter().filter(|of| !std::ptr::eq(&***of, process));
        with.filter(|of| of.has_effects()).count() == 0
    }

    /// What is true whenever time passes.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (name, check) in lock(&self.checks).iter() {
            check().map_err(|error| format!("{name}: {error}"))?;
        }
        Ok(())
    }

    /// Nothing goes wrong from now on.
    pub(crate) fn end_faults(&self) {
        lock(&self.partitions).clear();
        let processes = lock(&self.processes).clone();
        processes.iter().for_each(|process| process.mend_disks());
        self.exec.calm_down();
    }

    /// Clients, programs and daemons: all that dial.
    pub(crate) fn clients(&self) -> Vec<String> {
        lock(&self.clients).clone()
    }

    pub(crate) fn forget(&self) {
        let processes = std::mem::take(&mut *lock(&self.processes));
        processes.iter().for_each(|process| process.forget());
        lock(&self.checks).clear();
    }

    pub(crate) async fn dial(
        &self,
        client: &str,
        server: &Arc<Process>,
        port: Option<&str>,
    ) -> io::Result<BoxStream> {
        Sleep::new(&self.exec, self.faults().delay.as_nanos() as u64).await;
        if lock(&self.partitions).contains(&(client.to_owned(), server.name.clone())) {
            std::future::pending::<()>().await;
        }
        server.connect(client, port)
    }
}

/// The simulated world of one seed: its servers, clients and programs, its clock, and what is checked.
///
/// Cheap to clone.
#[derive(Clone)]
pub struct Sim(pub(crate) Arc<World>);

impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sim").field("seed", &self.0.seed).finish_non_exhaustive()
    }
}

impl Sim {
    /// A server of this name. `build` describes it each time that it starts, from what is on its disks: memory of a service
    /// that is made outside `build` would survive crashes.
    pub fn server(
        &self,
        name: &str,
        build: impl Fn(&Host) -> Result<Server, AnyError> + Send + Sync + 'static,
    ) -> ServerHandle {
        ServerHandle(self.add(name, Job::Server(Box::new(build))))
    }

    /// A process of this name that runs `program` to its end; when it dies, from the beginning. A durable client belongs in one.
    /// The world does not end before it has.
    pub fn program<F>(&self, name: &str, program: impl Fn(Host) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), AnyError>> + Send + 'static,
    {
        let job = Job::Program(Box::new(move |host| Box::pin(program(host))));
        lock(&self.0.clients).push(name.to_owned());
        let process = self.add(name, job);
        self.spawn(async move { process.ended().await });
    }

    /// A process of this name that runs `program`, and again whenever it ends or dies. It listens where
    /// [`Host::listen`] says, with as many servers as it wants, and makes calls by [`Host::dial`]: one of several that
    /// replicate a service, say. The world does not wait for it.
    pub fn daemon<F>(
        &self,
        name: &str,
        program: impl Fn(Host) -> F + Send + Sync + 'static,
    ) -> ServerHandle
    where
        F: Future<Output = Result<(), AnyError>> + Send + 'static,
    {
        lock(&self.0.clients).push(name.to_owned());
        ServerHandle(self.add(name, Job::Daemon(Box::new(move |host| Box::pin(program(host))))))
    }

    /// Dials a port of the process `server` in the name of `client`. The process is found by its name at each dial.
    pub fn dial(&self, client: &str, server: &str, port: &str) -> impl Connect + use<> {
        let mut clients = lock(&self.0.clients);
        if clients.iter().all(|name| name != client) {
            clients.push(client.to_owned());
        }
        drop(clients);
        PortDialler {
            world: self.0.clone(),
            client: client.to_owned(),
            server: server.to_owned(),
            port: port.to_owned(),
        }
    }

    fn add(&self, name: &str, job: Job) -> Arc<Process> {
        let process = Process::new(&self.0, name.to_owned(), job);
        lock(&self.0.processes).push(process.clone());
        begin(&process);
        process
    }

    /// A client of a server, with the default options. Its process never dies.
    pub fn client(&self, name: &str, server: &ServerHandle) -> Client {
        self.client_with(name, server, ClientOptions::default())
    }

    /// A client with options of your own.
    pub fn client_with(&self, name: &str, server: &ServerHandle, options: ClientOptions) -> Client {
        lock(&self.0.clients).push(name.to_owned());
        let dialler = Dialler { client: name.to_owned(), server: server.0.clone() };
        Client::with_runtime(dialler, options, self.0.exec.runtime(CLIENTS))
    }

    /// Makes a call that is part of operation `key`, and notes its outcome.
    ///
    /// An operation is what a caller wants once, in however many calls: if any of them is answered it took effect once, if all
    /// of them were not executed never, and otherwise at most once. What took effect is said by
    /// [`effects`](ServerHandle::effects) and [`effect`](Sim::effect).
    ///
    /// What is recorded is a call, a future that makes one and returns its outcome, or an upload's commit: see [`Recordable`].
    pub async fn record<O: Recordable>(
        &self,
        key: impl ToString,
        call: impl Future<Output = O>,
    ) -> O {
        let mut recording = Recording { sim: self.clone(), key: key.to_string(), ended: false };
        lock(&self.0.book).begin(&recording.key);
        self.0.exec.note(|| format!("operation {} is called", recording.key));
        let outcome = call.await;
        self.0.exec.note(|| format!("operation {}: {}", recording.key, outcome.text()));
        lock(&self.0.book).end(&recording.key, Some(outcome.end()));
        recording.ended = true;
        outcome
    }

    /// Operation `key` takes effect now, where no crash takes it back: a letter is sent, say. Call it where a service
    /// does such a thing.
    pub fn effect(&self, key: impl ToString) {
        let key = key.to_string();
        self.0.exec.note(|| format!("operation {key} takes effect"));
        let result = lock(&self.0.book).effect(&key);
        if let Err(what) = result {
            self.0.exec.fail(what);
        }
    }

    /// Says what is always true: asked whenever time passes.
    pub fn check(
        &self,
        name: &str,
        check: impl Fn() -> Result<(), AnyError> + Send + Sync + 'static,
    ) {
        lock(&self.0.checks).push((name.to_owned(), Box::new(check)));
    }

    /// The test has failed.
    pub fn fail(&self, what: impl Into<String>) {
        self.0.exec.fail(what);
    }

    /// Runs a task beside the caller. The world does not end before it has.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.exec.spawn(USERS, task);
    }

    /// Waits on the virtual clock.
    pub async fn sleep(&self, time: Duration) {
        Sleep::new(&self.0.exec, time.as_nanos() as u64).await;
    }

    /// The time since the world began.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.0.exec.elapsed())
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// Random numbers from the seed: another sequence for each `purpose`.
    pub fn rng(&self, purpose: u64) -> Rng {
        Rng::apart(self.0.seed, purpose << 8 | 0x75)
    }

    /// A runtime for what the test drives by itself.
    pub fn runtime(&self) -> Arc<dyn Runtime> {
        self.0.exec.runtime(CLIENTS)
    }

    /// Notes a line in the trace.
    pub fn note(&self, line: impl FnOnce() -> String) {
        self.0.exec.note(line);
    }

    /// What goes wrong, instead of what the seed selects. Call it before anything else. Faults that never come, because
    /// [`pause`](Faults::pause) or [`until`](Faults::until) is zero, fail the test.
    pub fn set_faults(&self, faults: Faults) {
        if faults.never_come() {
            self.fail("`set_faults`: these faults never come, since `pause` or `until` is zero");
        }
        *lock(&self.0.faults) = faults;
    }

    /// Nothing passes between a client and a server any more, and neither learns that.
    pub fn partition(&self, client: &str, server: &ServerHandle) {
        self.0.exec.note(|| format!("{client} and {} are partitioned", server.0.name));
        self.0.count("partitions");
        lock(&self.0.partitions).insert((client.to_owned(), server.0.name.clone()));
        server.0.cut_off(client);
    }

    /// New connections pass again.
    pub fn heal(&self, client: &str, server: &ServerHandle) {
        self.0.exec.note(|| format!("{client} can dial {} again", server.0.name));
        lock(&self.0.partitions).remove(&(client.to_owned(), server.0.name.clone()));
    }

    /// Faults are over: what follows in the test must go well. A process whose disk had errors is started again.
    pub fn calm(&self) {
        self.0.exec.kill(CHAOS);
        self.0.end_faults();
    }
}

/// A call that is recorded, and may be dropped.
struct Recording {
    sim: Sim,
    key: String,
    ended: bool,
}

impl Drop for Recording {
    fn drop(&mut self) {
        if !self.ended {
            lock(&self.sim.0.book).end(&self.key, None);
        }
    }
}

/// Dials a server, for one client.
pub(crate) struct Dialler {
    pub(crate) client: String,
    pub(crate) server: Arc<Process>,
}

impl Connect for Dialler {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(self.server.world.dial(&self.client, &self.server, None))
    }

    fn address(&self) -> String {
        self.server.name.clone()
    }

    fn may_carry_token(&self) -> bool {
        true
    }
}
