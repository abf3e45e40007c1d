//! The lives of the servers, the connections to them, and faults.
//!
//! A world has one server with the ledger on the disk, or several that share one: then see [`shared`](super::shared).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use oncewire_driver::protocol::ServerId;
use oncewire_driver::protocol::wire::{self, Frame, Role};
use oncewire_driver::{Accept, BoxFuture, BoxStream, BuildError, Connect, Server, Subject};
use oncewire_ledger_redb::RedbStore;

use super::disk::{Death, Faults};
use super::ledger::{SimLedger, audit};
use super::{Broken, GROUPS, World, service};
use crate::driver_world::executor::{Group, Sleep, lock};
use crate::driver_world::net::{CUTS, Link};
use crate::driver_world::profile::MS;
use crate::filmed;
use crate::rng::Rng;

/// A server's place: one process of it after another.
#[derive(Default)]
pub struct Seat {
    /// It runs.
    pub server: Option<Server>,
    group: Group,
    /// Its ledger has failed: end it.
    failed: bool,
    /// It drains.
    draining: bool,
    operator: Option<Waker>,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat").field("group", &self.group).finish_non_exhaustive()
    }
}

/// The servers' processes.
#[derive(Default)]
pub struct Host {
    /// One for each server.
    pub seats: Vec<Seat>,
    /// Which of several servers each client dials.
    pub homes: BTreeMap<usize, usize>,
    links: Vec<Link>,
    /// The last link of each client.
    pub last_links: BTreeMap<usize, Link>,
    /// Lives of programs with durable clients.
    pub program_lives: u64,
    /// Old copies of journals that were put back.
    pub put_back: u64,
    /// Drains that came to their end.
    pub drains: u64,
    /// Connections of strangers.
    pub strangers: u64,
    /// Lives so far.
    pub lives: u64,
    /// Openings that failed because the disk did.
    pub failed_openings: u64,
    /// Deaths in an opening.
    pub deaths_in_openings: u64,
    /// Commits that failed between two of their transactions.
    pub stops: u64,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("lives", &self.lives).finish_non_exhaustive()
    }
}

/// What comes after a life.
enum Next {
    /// It is over.
    Died,
    /// Its ledger has failed.
    Failed,
}

impl Host {
    /// So many servers.
    pub fn new(servers: usize) -> Host {
        let seats = (0..servers).map(|_| Seat::default()).collect();
        Host { seats, ..Host::default() }
    }
}

impl World {
    /// Whose ledger it is.
    pub fn server_id(&self) -> ServerId {
        ServerId::from_bytes([9; 16])
    }

    /// A server's process dies.
    pub fn end_life(&self, at: usize, death: Death) {
        let (group, server) = {
            let seat = &mut lock(&self.host).seats[at];
            (seat.group, seat.server.take())
        };
        self.sim.note(|| format!("the server dies: {death:?}"));
        lock(&self.model).deaths += 1;
        self.disk_survives(group, death);
        self.sim.kill(group);
        drop(server);
        lock(&self.host).seats[at].operator.take().into_iter().for_each(Waker::wake);
    }

    fn disk_survives(&self, group: Group, death: Death) {
        if let Some(database) = &self.database {
            // It is another process.
            return database.end_of(group);
        }
        // A process that opens a file drops what the cache holds of it: see `file.rs` of the ledger.
        self.disk.end_life(death, self.broken != Some(Broken::Cached));
        if self.broken == Some(Broken::Fresh) && death == Death::PowerCut {
            self.disk.wipe();
        }
    }

    /// What the server hears of a commit: what the store said, unless the world is broken.
    pub fn answer_of_disk<E>(&self, result: Result<u64, E>) -> Result<u64, E> {
        match result {
            Err(_) if self.broken == Some(Broken::Deaf) => Ok(lock(&self.model).commit + 1),
            result => result,
        }
    }

    /// Opens what is on the disk. `Ok(None)`: it could not be, and there is a reason.
    fn open(&self) -> Result<Option<RedbStore>, String> {
        let before = self.disk.failures();
        let store = RedbStore::with_backend(self.disk.handle(), self.server_id());
        self.disk.put_fuse_out();
        if let Some(death) = self.disk.blown() {
            drop(store);
            lock(&self.host).deaths_in_openings += 1;
            self.sim.note(|| format!("the server dies in its recovery: {death:?}"));
            self.disk_survives(0, death);
            return Ok(None);
        }
        let after = self.disk.failures();
        let failed = after > before;
        let store = match store {
            Ok(store) => store,
            Err(error) if failed => {
                self.sim.note(|| format!("the ledger cannot be opened: {error}"));
                lock(&self.host).failed_openings += 1;
                lock(&self.model).deaths += 1;
                self.disk_survives(0, Death::Kill);
                return Ok(None);
            }
            Err(error) => return Err(format!("a sound disk, and {error}")),
        };
        let found = audit(self, &store);
        // Read errors may hit the audit as well.
        if found.is_err() && self.disk.failures() > after {
            return Ok(None);
        }
        found?;
        self.sim.note(|| format!("the ledger is open: {store:?}"));
        Ok(Some(store))
    }

    /// Opens what is on the disk, looks at it, and forgets it.
    pub fn look(&self) -> Result<RedbStore, String> {
        self.open()?.ok_or_else(|| "the ledger cannot be opened in peace".to_owned())
    }

    async fn died(&self, at: usize) -> Next {
        std::future::poll_fn(|cx| {
            let seat = &mut lock(&self.host).seats[at];
            if seat.server.is_none() {
                return Poll::Ready(Next::Died);
            }
            if seat.failed {
                return Poll::Ready(Next::Failed);
            }
            seat.operator = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn start(self: &Arc<Self>, store: RedbStore) {
        let group = self.next_group();
        let snapshots = store.snapshots();
        let ledger = SimLedger::new(self, group, store);
        self.serve(0, group, service::server(self, group, ledger, snapshots));
    }

    /// The group of a server's next process.
    pub(super) fn next_group(&self) -> Group {
        let mut host = lock(&self.host);
        host.lives += 1;
        GROUPS + host.lives as Group
    }

    pub(super) fn serve(
        self: &Arc<Self>,
        at: usize,
        group: Group,
        server: Result<Server, BuildError>,
    ) {
        let server = match server {
            Ok(server) => server,
            // The disk may fail while it is read.
            Err(error) if lock(&self.model).ledger_failed => {
                self.sim.note(|| format!("no server: {error}"));
                return self.disk_survives(group, Death::Kill);
            }
            Err(error) => return self.sim.fail(format!("no server: {error}")),
        };
        let (serving, world) = (server.clone(), self.clone());
        let mut host = lock(&self.host);
        let seat = &mut host.seats[at];
        (seat.server, seat.group, seat.failed) = (Some(server), group, false);
        seat.draining = false;
        drop(host);
        self.sim.spawn(group, async move {
            let ended = serving.serve(Nobody).await;
            world.sim.note(|| format!("serving ended: {ended:?}"));
            let seat = &mut lock(&world.host).seats[at];
            seat.failed = !seat.draining;
            seat.operator.take().into_iter().for_each(Waker::wake);
        });
    }

    /// Whether a server runs.
    pub(super) fn runs(&self, at: usize) -> bool {
        lock(&self.host).seats[at].server.is_some()
    }

    /// The server drains, and its process ends cleanly, unless it dies before.
    pub(super) fn drain(self: &Arc<Self>, at: usize, grace: u64) {
        let mut host = lock(&self.host);
        let seat = &mut host.seats[at];
        let (group, server) = (seat.group, seat.server.clone());
        let Some(server) = server.filter(|_| !std::mem::replace(&mut seat.draining, true)) else {
            return;
        };
        drop(host);
        lock(&self.model).drained = true;
        self.sim.note(|| format!("the server drains for {} ms", grace / MS));
        if self.broken == Some(Broken::HastyGoodbye) {
            self.sim.spawn(group, self.clone().say_goodbye_in_haste());
        }
        let world = self.clone();
        self.sim.spawn(group, async move {
            server.drain(Duration::from_nanos(grace)).await;
            drop(server);
            lock(&world.host).drains += 1;
            world.sim.note(|| "the server is drained".to_owned());
            world.end_in_order(at);
        });
    }

    /// Every client says `Goodbye`, again and again while the server drains.
    async fn say_goodbye_in_haste(self: Arc<Self>) {
        let mut goodbye = [0; 16];
        let len = wire::encode(&Frame::Goodbye(Role::Client), &mut goodbye).unwrap_or(0);
        for _ in 0..40 {
            lock(&self.host).last_links.values().for_each(|link| link.slip_in(&goodbye[..len]));
            Sleep::new(&self.sim, 2 * MS).await;
        }
    }

    /// A drained server is dropped, and its ledger closed, before its process ends.
    fn end_in_order(&self, at: usize) {
        let (group, server) = {
            let seat = &mut lock(&self.host).seats[at];
            (seat.group, seat.server.take())
        };
        self.sim.kill(group);
        drop(server);
        self.disk_survives(group, Death::Kill);
        lock(&self.model).deaths += 1;
        lock(&self.host).seats[at].operator.take().into_iter().for_each(Waker::wake);
    }

    /// A connection of this client.
    pub async fn dial(&self, client: usize) -> io::Result<BoxStream> {
        Sleep::new(&self.sim, self.profile.link.delay_max).await;
        let at = self.seat_for(client);
        let mut host = lock(&self.host);
        let Some(server) = host.seats[at].server.clone() else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let (link, ours, theirs) = Link::new(&self.sim, self.profile.link, self.profile.seed);
        self.sim.note(|| match host.seats.len() {
            1 => format!("link {} of client {client}", link.id),
            _ => format!("link {} of client {client} to server {at}", link.id),
        });
        let number = link.id;
        host.links.push(link.clone());
        host.last_links.insert(client, link);
        drop(host);
        let peer = || format!("client {client}");
        let ends: [BoxStream; 2] = [Box::new(ours), Box::new(theirs)];
        let [ours, theirs] = filmed::ends(self.camera.as_ref(), number, peer, ends);
        server.serve_stream(theirs, Subject::Name(client.to_string().into()));
        Ok(ours)
    }

    pub(super) fn cut_some(&self, rng: &mut Rng) {
        let mut host = lock(&self.host);
        let from = host.links.len().saturating_sub(4);
        host.links.drain(..from);
        if host.links.is_empty() {
            return;
        }
        let link = host.links[rng.index(host.links.len())].clone();
        drop(host);
        link.cut(rng.pick(&CUTS), rng.pick(&[Role::Client, Role::Server]));
    }
}

/// Starts the server, and again after each of its deaths, until the world is calm and wants no more.
pub async fn operate(world: Arc<World>) {
    let mut rng = Rng::apart(world.profile.seed, 0x76);
    loop {
        if !world.sim.is_calm() && rng.one_in(world.profile.fuse_in) {
            // A recovery may end like anything else (C57).
            let operations = rng.below(3 * world.profile.fuse_max);
            world.disk.light_fuse(operations, rng.pick(&[Death::Kill, Death::PowerCut]));
        }
        match world.open() {
            Ok(Some(store)) => world.start(store),
            // A supervisor would not try without end either.
            Ok(None) => Sleep::new(&world.sim, rng.delay(400 * MS)).await,
            Err(what) => return world.sim.fail(what),
        }
        world.await_end(0, &mut rng).await;
    }
}

impl World {
    /// Waits until a server's process is over, and then as long as the server stays away.
    pub(super) async fn await_end(&self, at: usize, rng: &mut Rng) {
        if let Next::Failed = self.died(at).await {
            // Meanwhile it refuses.
            Sleep::new(&self.sim, rng.delay(self.profile.downtime)).await;
            if self.runs(at) {
                self.end_life(at, rng.pick(&[Death::Kill, Death::PowerCut]));
            }
        }
        Sleep::new(&self.sim, rng.delay(self.profile.downtime)).await;
    }
}

/// What goes wrong, for a time.
pub async fn chaos(world: Arc<World>) {
    let profile = &world.profile;
    let mut rng = Rng::apart(profile.seed, 0x77);
    let mut kinds = Rng::apart(profile.seed, 0x7f);
    while world.sim.now() < profile.faults_until {
        let pause = profile.fault_pause / 4 + rng.delay(profile.fault_pause);
        Sleep::new(&world.sim, pause).await;
        if profile.rolling && kinds.one_in(4) {
            world.drain(0, kinds.pick(&[0, 20, 500, 10_000]) * MS);
            continue;
        }
        match rng.below(10) {
            0 | 1 => world.cut_some(&mut rng),
            2 | 3 if world.runs(0) => world.end_life(0, Death::Kill),
            4 | 5 if world.runs(0) => world.end_life(0, Death::PowerCut),
            6..=8 if profile.disk_fails => break_disk(&world, &mut rng),
            _ => world.disk.set_faults(Faults::default()),
        }
    }
    world.disk.set_faults(Faults::default());
    end_faults(&world).await;
}

/// Nothing goes wrong any more.
pub(super) async fn end_faults(world: &World) {
    // A drain may outlast the faults, and all leases start again after it.
    while lock(&world.host).seats.iter().any(|seat| seat.draining) {
        Sleep::new(&world.sim, 50 * MS).await;
    }
    world.sim.calm_down();
    // A ledger that has failed under the last fault may not have noticed yet.
    Sleep::new(&world.sim, 10 * MS).await;
}

fn break_disk(world: &World, rng: &mut Rng) {
    let mut faults = Faults::default();
    match rng.below(5) {
        0 | 1 => faults.sync_in = rng.pick(&[1, 2, 6]),
        2 => faults.room = Some(rng.below(60_000)),
        3 => faults.write_in = rng.pick(&[4, 20, 60]),
        _ => faults.read_in = rng.pick(&[4, 30]),
    }
    lock(&world.model).ledger_failed = true;
    world.sim.note(|| format!("the disk: {faults:?}"));
    world.disk.set_faults(faults);
}

/// Connections come by another way; a server that serves hears of its ledger's errors.
struct Nobody;

impl Accept for Nobody {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(std::future::pending())
    }

    fn address(&self) -> String {
        "nowhere".to_owned()
    }
}

/// Dials the server that runs now.
#[derive(Debug)]
pub struct SimConnector {
    /// Where.
    pub world: Arc<World>,
    /// Who.
    pub client: usize,
}

impl Connect for SimConnector {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(self.world.dial(self.client))
    }

    fn address(&self) -> String {
        "the simulated server".to_owned()
    }

    fn dials_anywhere(&self) -> bool {
        Rng::apart(self.world.profile.seed, 0xd7).one_in(2)
    }
}
