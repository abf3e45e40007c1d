//! The one address of the world, the servers behind it, and the faults of both.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use oncewire_driver::protocol::wire::{self, Frame, Instance, Refuse, Role};
use oncewire_driver::{Accept, BoxFuture, BoxStream, Connect, Server, Subject};
use smol::io::{AsyncReadExt, AsyncWriteExt};

use super::World;
use super::awaited::Awaited;
use super::clocks::Clock;
use super::executor::{Group, Sleep, lock};
use super::flooded::{FloodedStream, MuteStream};
use super::net::{CUTS, Link, SimStream};
use super::profile::MS;
use crate::filmed;
use crate::mutant::Mutant;
use crate::rng::Rng;

/// What happens to those who dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dials {
    /// They get through.
    Through,
    /// They are refused.
    Refused,
    /// They hang.
    Hang,
    /// They reach a server that knows no session and opens none.
    Turned,
    /// Any of these, by chance.
    Mixed,
}

/// Connections that were not accepted yet.
#[derive(Default)]
struct Queue {
    streams: VecDeque<BoxStream>,
    acceptor: Option<Waker>,
}

/// A server that listens.
pub struct Host {
    /// Its handle.
    pub server: Server,
    /// Its tasks.
    pub group: Group,
    /// It drains: it takes no new dials once it has a successor.
    pub draining: bool,
    /// Its process's.
    pub clock: Arc<Clock>,
    queue: Arc<Mutex<Queue>>,
}

/// The address.
pub struct Place {
    /// Who is behind it.
    pub hosts: Vec<Host>,
    /// What happens to those who dial.
    pub dials: Dials,
    /// The clients' clocks.
    pub client_clocks: Vec<Arc<Clock>>,
    links: Vec<Link>,
    rng: Rng,
    groups: Group,
    /// Faults so far, by name.
    pub faults: std::collections::BTreeMap<&'static str, u64>,
}

/// The group of the clients' and actors' tasks; those of servers come after it.
pub const USERS: Group = 0;
/// The group of the clients' own tasks.
pub const CLIENTS: Group = 1;
/// The group of what is broken on purpose.
pub const MUTANTS: Group = Group::MAX;

impl Place {
    /// None yet.
    pub fn new(seed: u64) -> Place {
        Place {
            hosts: Vec::new(),
            dials: Dials::Through,
            client_clocks: Vec::new(),
            links: Vec::new(),
            rng: Rng::apart(seed, 4),
            groups: CLIENTS,
            faults: Default::default(),
        }
    }

    fn judge_dial(&mut self) -> Dials {
        match self.dials {
            Dials::Mixed => {
                self.rng.pick(&[Dials::Through, Dials::Through, Dials::Refused, Dials::Hang])
            }
            other => other,
        }
    }

    /// Breaks some link in some way.
    pub fn cut_some(&mut self) {
        let from = self.links.len().saturating_sub(8);
        self.links.drain(..from);
        if self.links.is_empty() {
            return;
        }
        let link = self.links[self.rng.index(self.links.len())].clone();
        let how = self.rng.pick(&CUTS);
        let from = self.rng.pick(&[Role::Client, Role::Server]);
        *self.faults.entry("cut").or_default() += 1;
        link.cut(how, from);
    }
}

impl World {
    /// One more server behind the address.
    pub fn start_server(self: &Arc<Self>) {
        let group = {
            let mut place = lock(&self.place);
            place.groups += 1;
            place.groups
        };
        let mut behind = Rng::apart(self.profile.seed, u64::from(group) << 8 | 0x51);
        let clock = Clock::behind(behind.below(self.sim.now()));
        let server = super::handlers::server(self, group, &clock);
        let queue = Arc::<Mutex<Queue>>::default();
        let acceptor = SimAcceptor { world: self.clone(), queue: queue.clone() };
        let serving = server.clone();
        let world = self.clone();
        self.sim.note(|| format!("server {group} starts: {}", server.id()));
        self.sim.spawn(group, async move {
            let ended = serving.serve(acceptor).await;
            world.sim.note(|| format!("server {group} has served: {ended:?}"));
        });
        lock(&self.place).hosts.push(Host { server, group, draining: false, clock, queue });
    }

    /// A server's process dies.
    pub fn crash_server(self: &Arc<Self>, at: usize) {
        let host = {
            let mut place = lock(&self.place);
            if at >= place.hosts.len() {
                return;
            }
            *place.faults.entry("crash").or_default() += 1;
            place.hosts.remove(at)
        };
        lock(&self.model).servers_changed = true;
        self.sim.note(|| format!("server {} crashes", host.group));
        self.sim.kill(host.group);
    }

    async fn dial(self: &Arc<Self>) -> io::Result<BoxStream> {
        let delay = lock(&self.place).rng.delay(self.profile.link.delay_max);
        Sleep::new(&self.sim, delay).await;
        let judged = lock(&self.place).judge_dial();
        match judged {
            Dials::Through | Dials::Mixed => {}
            Dials::Turned => {
                *lock(&self.place).faults.entry("refused hello").or_default() += 1;
                lock(&self.model).servers_changed = true;
                let (link, ours, theirs) =
                    Link::new(&self.sim, self.profile.link, self.profile.seed);
                let peer = || WITHOUT_SESSIONS.to_owned();
                let [ours, theirs] = self.filmed(link.id, peer, Box::new(ours), theirs);
                self.sim.spawn(MUTANTS, refuse(theirs));
                return Ok(ours);
            }
            Dials::Refused => {
                *lock(&self.place).faults.entry("refused dial").or_default() += 1;
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Dials::Hang => {
                *lock(&self.place).faults.entry("hanging dial").or_default() += 1;
                std::future::pending::<()>().await;
            }
        }
        let mut place = lock(&self.place);
        let open: Vec<usize> =
            (0..place.hosts.len()).filter(|at| !place.hosts[*at].draining).collect();
        if open.is_empty() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let at = open[place.rng.index(open.len())];
        let mut style = self.profile.link;
        if self.mutant == Some(Mutant::Starved) {
            style.forgets_in = 40;
        }
        let (link, ours, theirs) = Link::new(&self.sim, style, self.profile.seed);
        let mut rng = Rng::apart(self.profile.seed, (link.id << 8) | 0x76);
        self.sim.note(|| format!("link {} to server {}", link.id, place.hosts[at].group));
        let (number, group) = (link.id, place.hosts[at].group);
        place.links.push(link);
        let queue = place.hosts[at].queue.clone();
        drop(place);
        let ours: BoxStream = match self.mutant {
            Some(Mutant::Mute) => Box::new(MuteStream::new(ours)),
            _ if self.profile.flooded_clients && rng.one_in(2) => {
                Box::new(FloodedStream::new(self, ours, &mut rng))
            }
            _ => Box::new(ours),
        };
        let [ours, theirs] = self.filmed(number, || format!("server {group}"), ours, theirs);
        let mut queue = lock(&queue);
        queue.streams.push_back(theirs);
        queue.acceptor.take().into_iter().for_each(Waker::wake);
        drop(queue);
        Ok(ours)
    }

    fn filmed(
        &self,
        link: u64,
        peer: impl FnOnce() -> String,
        ours: BoxStream,
        theirs: SimStream,
    ) -> [BoxStream; 2] {
        filmed::ends(self.camera.as_ref(), link, peer, [ours, Box::new(theirs)])
    }
}

/// What the recording of a world calls a server that has no session, whatever it is asked for: no recording knows that of it.
pub const WITHOUT_SESSIONS: &str = "a server without sessions";

/// Such a server.
async fn refuse(mut client: BoxStream) {
    let mut bytes = [0; wire::CONTROL_LEN_MAX];
    let len = wire::encode(&Frame::Refuse(Refuse::SessionUnknown, Instance::UNNAMED), &mut bytes)
        .unwrap_or(0);
    // It leaves when the client does.
    if client.read(&mut [0; 256]).await.is_ok() && client.write_all(&bytes[..len]).await.is_ok() {
        while let Ok(1..) = client.read(&mut [0; 256]).await {}
    }
}

/// Attempts to connect of one client within a second at most. With the shortest pauses of a profile, of 50 ms on average,
/// and an attempt in two that need not wait, there are 40.
const DIALS_A_SECOND_MAX: usize = 100;

/// Dials the address, for one client.
#[derive(Debug)]
pub struct SimConnector {
    world: Arc<World>,
    /// When it dialled within the last second.
    dials: Mutex<VecDeque<u64>>,
}

impl SimConnector {
    /// It has not dialled yet.
    pub fn new(world: Arc<World>) -> SimConnector {
        SimConnector { world, dials: Mutex::default() }
    }

    /// S21: attempts that fail become rarer, whatever makes them fail.
    fn note_dial(&self) {
        let now = self.world.sim.now();
        let mut dials = lock(&self.dials);
        dials.push_back(now);
        while dials.front().is_some_and(|at| at + 1_000 * MS <= now) {
            dials.pop_front();
        }
        if dials.len() > DIALS_A_SECOND_MAX {
            self.world.sim.fail(format!("a client dials {} times a second", dials.len()));
        }
    }
}

impl Connect for SimConnector {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        self.note_dial();
        Box::pin(self.world.dial())
    }

    fn address(&self) -> String {
        "the simulated address".to_owned()
    }

    fn may_carry_token(&self) -> bool {
        true
    }

    fn dials_anywhere(&self) -> bool {
        Rng::apart(self.world.profile.seed, 0x7b).one_in(2)
    }
}

struct SimAcceptor {
    world: Arc<World>,
    queue: Arc<Mutex<Queue>>,
}

impl Accept for SimAcceptor {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(std::future::poll_fn(|cx| {
            let mut queue = lock(&self.queue);
            let Some(stream) = queue.streams.pop_front() else {
                queue.acceptor = Some(cx.waker().clone());
                return Poll::Pending;
            };
            drop(queue);
            let error_in = self.world.profile.accept_error_in;
            if !self.world.sim.is_calm() && lock(&self.world.place).rng.one_in(error_in) {
                // As when file descriptors have run out: the connection is lost, or stays in the queue.
                if lock(&self.world.place).rng.one_in(2) {
                    lock(&self.queue).streams.push_front(stream);
                }
                return Poll::Ready(Err(io::ErrorKind::Other.into()));
            }
            Poll::Ready(Ok((stream, Subject::Anonymous)))
        }))
    }

    fn address(&self) -> String {
        "the simulated address".to_owned()
    }
}

/// What goes wrong, until [`Sim::calm_down`](super::executor::Sim::calm_down).
pub async fn chaos(world: Arc<World>) {
    let profile = &world.profile;
    let mut rng = Rng::apart(profile.seed, 5);
    while world.sim.now() < profile.faults_until && profile.fault_pause > 0 {
        Sleep::new(&world.sim, rng.delay(profile.fault_pause)).await;
        match rng.below(if profile.servers_change { 12 } else { 8 }) {
            0..=4 => lock(&world.place).cut_some(),
            5 | 6 => {
                let dials = if profile.servers_change && rng.one_in(4) {
                    Dials::Turned
                } else {
                    rng.pick(&[Dials::Refused, Dials::Hang, Dials::Mixed])
                };
                lock(&world.place).dials = dials;
            }
            7 => lock(&world.place).dials = Dials::Through,
            8 | 9 => restart(&world, &mut rng).await,
            10 => replace(&world, &mut rng).await,
            _ => {
                let few = lock(&world.place).hosts.len() < 3;
                if few {
                    lock(&world.model).servers_changed = true;
                    world.start_server();
                }
            }
        }
    }
    lock(&world.place).dials = Dials::Through;
    world.sim.calm_down();
}

/// A server crashes, and another one takes its place, at once or after a while.
async fn restart(world: &Arc<World>, rng: &mut Rng) {
    let at = rng.index(lock(&world.place).hosts.len());
    world.crash_server(at);
    if rng.one_in(2) {
        Sleep::new(&world.sim, rng.delay(3_000 * MS)).await;
    }
    world.start_server();
}

/// A server drains while its successor takes the new connections.
async fn replace(world: &Arc<World>, rng: &mut Rng) {
    let (server, group) = {
        let mut place = lock(&world.place);
        let at = rng.index(place.hosts.len());
        let host = &mut place.hosts[at];
        host.draining = true;
        (host.server.clone(), host.group)
    };
    {
        let mut model = lock(&world.model);
        model.drained = true;
        model.servers_changed = true;
    }
    *lock(&world.place).faults.entry("drain").or_default() += 1;
    if rng.one_in(2) {
        world.start_server();
    }
    let grace = rng.pick(&[0, 20, 500, 10_000]) * MS;
    world.sim.note(|| format!("server {group} drains for {} ms", grace / MS));
    // Last words may take five seconds to leave.
    let late = world.sim.now() + grace + 5_000 * MS + super::SLACK;
    let waiting = Awaited::new(&world.sim, late, format!("the drain of server {group}"));
    drain(&server, grace).await;
    drop(waiting);
    world.sim.note(|| format!("server {group} is drained"));
    lock(&world.place).hosts.retain(|host| host.group != group);
    drop(server);
    let none_open = lock(&world.place).hosts.iter().all(|host| host.draining);
    if none_open {
        world.start_server();
    }
    let watch = world.clone();
    world.sim.spawn(USERS, async move { watch.gone(group).await });
}

fn drain(server: &Server, grace: u64) -> impl Future<Output = ()> + Send + '_ {
    server.drain(std::time::Duration::from_nanos(grace))
}

impl World {
    /// A drained server whose handles are gone leaves nothing behind but what still runs.
    async fn gone(self: Arc<Self>, group: Group) {
        // Tasks that still write may do so for five seconds, and those that sweep streams and uploads look every five seconds
        // whether the server is gone (seed 414).
        let longest = super::handlers::longest(&self) + 11_000 * MS;
        Sleep::new(&self.sim, longest).await;
        let stood = lock(&self.model).clocks_stood;
        Sleep::new(&self.sim, stood).await;
        let left = self.sim.living(group);
        if left > 0 {
            self.sim.fail(format!("server {group} is drained and dropped, and has {left} tasks"));
        }
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("dials", &self.dials).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("group", &self.group).finish_non_exhaustive()
    }
}
