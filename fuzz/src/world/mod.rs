//! A simulated world: clients, servers behind one address, connections, clocks and crashes, all from one seed.
//!
//! All randomness comes from [`Rng`], so a seed replays exactly. After every turn the reference [`model`] checks that every
//! promise was kept:
//!
//! - an operation, and an xid of a session, is executed at most once, idempotent ones excepted; never if its client
//!   learned that it was not executed, neither before nor after;
//! - a reply is the one that this operation's execution gave, byte for byte, whenever and however often it is sent;
//! - a call has one outcome, or `Unknown` with a ticket and then one; a forgotten or one-way call has none;
//! - calls of a session are admitted by xid (S13), sessions end when they may (S6);
//! - the bytes that a server keeps, and its calls that run, are what the model says, and within its budgets;
//! - a call ends as `Unknown` for good only after something that makes its outcome unknowable;
//! - deadlines, handshakes and leases end at their time, on the clock of the machine that judges them;
//! - no machine accuses an undamaged peer of breaking the protocol, nor calls it dead while its bytes get through, however
//!   slowly;
//! - once faults stop, every call ends, and everything is released.
//!
//! In a world with damage (`Profile::corrupt`), the first client's bytes may be changed on their way. The wire has no
//! checksum, so of that client nothing is checked but that no machine panics, that no budget is exceeded and that all is
//! released in the end; and of servers that it reached, kept bytes are not compared with the model's any more. Every
//! check of the other clients holds.

pub mod body;
mod broken;
mod client_flow;
pub mod doubled;
mod faults;
mod filmed;
mod flow;
pub mod host;
pub mod journal;
mod kinds;
pub mod link;
pub mod memory;
pub mod model;
pub mod peer;
pub mod profile;
mod records;
mod server_flow;
mod settle;
mod sharing;
mod stranger;
pub mod trace;

use oncewire_core::{Call, Principal, Server};

pub use faults::Fault;
pub use kinds::Kind;
pub use profile::Broken;
pub use trace::{Check, Trace, Violation};

use crate::rng::{Rng, mix};
use host::Host;
use link::Link;
use model::{Model, Stage};
use peer::{Clock, Peer};
use profile::{MS, Profile};
use std::time::Duration;

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Calls made.
    pub calls: u64,
    /// Executions.
    pub runs: u64,
    /// Frames that servers have read.
    pub frames: u64,
    /// Turns taken.
    pub turns: u64,
    /// Simulated nanoseconds.
    pub simulated: u64,
    /// Faults by kind.
    pub faults: [u64; Fault::KINDS],
    /// What was met on the way, by kind.
    pub kinds: [u64; Kind::COUNT],
    /// Outcomes: reply, no reply, not executed, unknown with a ticket, unknown for good.
    pub outcomes: [u64; 5],
    /// The run's hash.
    pub hash: u64,
}

impl Report {
    /// Adds another run.
    pub fn add(&mut self, other: &Report) {
        self.calls += other.calls;
        self.runs += other.runs;
        self.frames += other.frames;
        self.turns += other.turns;
        self.simulated += other.simulated;
        for (sum, more) in self.faults.iter_mut().zip(other.faults) {
            *sum += more;
        }
        for (sum, more) in self.kinds.iter_mut().zip(other.kinds) {
            *sum += more;
        }
        for (sum, more) in self.outcomes.iter_mut().zip(other.outcomes) {
            *sum += more;
        }
        self.hash = mix(self.hash ^ other.hash);
    }
}

/// Everything.
#[derive(Debug)]
pub struct World {
    seed: u64,
    profile: Profile,
    rng: Rng,
    now: u64,
    turns: u64,
    calls: u64,
    peers: Vec<Peer>,
    hosts: Vec<Host>,
    ids: [oncewire_core::ServerId; 2],
    links: Vec<Link>,
    model: Model,
    faults: [u64; Fault::KINDS],
    kinds: [u64; Kind::COUNT],
    scratch: Vec<u8>,
    /// What happened.
    pub trace: Trace,
    /// Faults have stopped.
    calm: bool,
}

/// Runs the world of a seed for so many calls.
///
/// # Errors
/// The first promise that was broken.
pub fn run(seed: u64, calls: u64, broken: Broken, trace: &mut Trace) -> Result<Report, Violation> {
    run_with(seed, &[], calls, broken, trace)
}

/// The same in a small world, and `choices` come before those of the seed.
///
/// # Errors
/// The first promise that was broken.
pub fn run_with(
    seed: u64,
    choices: &[u8],
    calls: u64,
    broken: Broken,
    trace: &mut Trace,
) -> Result<Report, Violation> {
    let mut world = World::new(seed, choices, broken);
    std::mem::swap(&mut world.trace, trace);
    let result = world.live(calls);
    if let Err(violation) = &result {
        let (turn, now) = (world.turns, world.now / 1000);
        world.trace.note(|| format!("turn {turn}, {now} µs: {}", violation.0));
    }
    std::mem::swap(&mut world.trace, trace);
    result
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64, choices: &[u8], broken: Broken) -> World {
        let mut profile = Profile::of(seed, broken);
        if !choices.is_empty() {
            profile.shrink();
        }
        let mut rng = Rng::choosing(seed, choices);
        let second = usize::from(!profile.shares);
        let ids = [profile::server_id(0, 0), profile::server_id(second, 0)];
        let clock = |rng: &mut Rng| Clock {
            ahead: rng.below(3_600_000 * MS) as i64,
            drift: if profile.drift { rng.below(5) as i64 - 2 } else { 0 },
            jitter: if profile.back { profile::BACK_MAX } else { 0 },
            ..Clock::default()
        };
        let hosts = (0..profile.hosts).map(|h| {
            let mut config = profile.server;
            config.server = ids[h];
            config.instance = profile::instance(h, 0);
            Host {
                server: Server::new(config, &profile::methods()).expect("methods differ"),
                clock: clock(&mut rng),
                links: Vec::new(),
                calls: Vec::new(),
                opened: Vec::new(),
                judged: 0,
                half_sent: 0,
                life: 0,
                commit: 0,
                draining: false,
                drained: false,
                sessions_most: 0,
                exact: !profile.corrupt,
                shared: Default::default(),
            }
        });
        let hosts = hosts.collect();
        let peers = (0..profile.clients).map(|p| {
            let principal = Principal(p as u64 / 2);
            let mut config = profile.client;
            config.durable = profile.is_durable(p);
            let mut peer = Peer::new(config, principal, clock(&mut rng));
            peer.tainted = profile.corrupt && p == 0;
            peer
        });
        let peers = peers.collect();
        World {
            seed,
            rng,
            now: 0,
            turns: 0,
            calls: 0,
            peers,
            hosts,
            ids,
            links: Vec::new(),
            model: Model { lossy: profile.lossy, ..Model::default() },
            faults: [0; Fault::KINDS],
            kinds: [0; Kind::COUNT],
            scratch: vec![0; 8192],
            trace: Trace::default(),
            calm: false,
            profile,
        }
    }

    fn live(&mut self, calls: u64) -> Result<Report, Violation> {
        let profile = &self.profile;
        self.trace.note(|| format!("{profile:?}"));
        while self.calls < calls {
            self.turn()?;
        }
        self.settle()?;
        let clocks = self.peers.iter().map(|peer| &peer.clock);
        let clocks = clocks.chain(self.hosts.iter().map(|host| &host.clock));
        self.kinds[Kind::Back as usize] += clocks.map(|clock| clock.went_back.get()).sum::<u64>();
        Ok(Report {
            kinds: self.kinds,
            calls: self.calls,
            runs: u64::from(self.model.runs),
            frames: self.model.frames,
            turns: self.turns,
            simulated: self.now,
            faults: self.faults,
            outcomes: self.model.outcomes,
            hash: self.trace.hash(),
        })
    }

    fn turn(&mut self) -> Check {
        self.turns += 1;
        self.now += self.rng.below(2 * MS);
        let p = self.rng.below(self.peers.len() as u64) as usize;
        if self.rng.one_in(self.profile.fault_in) {
            self.fault(p)?;
        }
        if self.turns.is_multiple_of(8) {
            self.fire_timers()?;
        }
        self.make_calls(p)?;
        if let Some(l) = self.peers[p].link {
            if std::mem::take(&mut self.links[l].has_hole) && self.rng.one_in(2) {
                self.cut_behind_hole(l)?;
            } else {
                self.exchange(l)?;
            }
        } else if self.peers[p].away_until <= self.now && !self.rng.one_in(4) {
            self.dial(p)?;
        }
        for h in 0..self.hosts.len() {
            if self.hosts[h].drained {
                let keep = self.profile.ledger;
                self.restart(h, keep)?;
            }
            let host = &self.hosts[h];
            let waits = !host.opened.is_empty() || !host.shared.wanted.is_empty();
            if waits || !host.calls.is_empty() {
                self.run_due_calls(h)?;
                self.pump_host(h)?;
            }
        }
        if self.turns.is_multiple_of(512) {
            for h in 0..self.hosts.len() {
                self.measure(h)?;
            }
        }
        self.check()
    }

    /// Moves bytes both ways, as far as chance lets them.
    fn exchange(&mut self, l: usize) -> Check {
        let odd = self.rng.one_in(self.profile.split_in);
        if odd && self.rng.one_in(4) {
            self.faults[Fault::Delay as usize] += 1;
            let p = self.links[l].peer;
            return self.flush_peer(p);
        }
        let (p, h) = (self.links[l].peer, self.links[l].host);
        self.flush_peer(p)?;
        let (rate, now) = (self.profile.rate, self.now);
        let up = self.links[l].up.on_the_way();
        let up = self.links[l].carry(0, rate, now, up);
        let up = self.part(odd, up);
        self.deliver_up(l, up)?;
        self.pump_host(h)?;
        self.flush_unsent(l)?;
        let down = self.links[l].down.on_the_way();
        let down = self.links[l].carry(1, rate, now, down);
        let down = self.part(odd, down);
        self.deliver_down(l, down)?;
        if self.rng.one_in(2) {
            self.flush_peer(p)?;
        }
        self.close_ends(l)
    }

    fn part(&mut self, odd: bool, len: usize) -> usize {
        if !odd || len == 0 {
            return len;
        }
        match self.rng.below(4) {
            0 => 0,
            1 => self.rng.below(16.min(len as u64)) as usize,
            2 => len,
            _ => self.rng.below(len as u64 + 1) as usize,
        }
    }

    /// What must be true at any time.
    fn check(&mut self) -> Check {
        for (h, host) in self.hosts.iter_mut().enumerate() {
            let (counters, kept_max) = (host.server.counters(), self.profile.server.kept_max);
            // What it holds of sessions that it has lost, the model does not know.
            let exact = host.exact && host.shared.stale.is_empty();
            self.model.check_held(h, &counters, kept_max, exact)?;
            if counters.half_sent_bytes > host.half_sent {
                self.kinds[Kind::HalfSent as usize] += 1;
            }
            host.half_sent = counters.half_sent_bytes;
        }
        Ok(())
    }

    // Calls.

    fn make_calls(&mut self, p: usize) -> Check {
        let slots = u64::from(self.profile.slots);
        let room = 32usize.saturating_sub(self.peers[p].client.pending()) as u64;
        let count = self.rng.range(0, 2 * slots).min(room);
        for _ in 0..count {
            let now = self.peer_now(p);
            self.make_call(p, now);
        }
        if self.rng.one_in(self.profile.odd_in) || self.has_old_answer(p) && self.rng.one_in(3) {
            self.drop_interest(p)?;
        }
        Ok(())
    }

    fn make_call(&mut self, p: usize, now: oncewire_core::Instant) {
        let chance = self.rng.next_u64();
        let odd = (chance >> 32).is_multiple_of(self.profile.odd_in);
        let mut method = profile::PLAIN;
        let (mut idempotent, mut one_way, mut fail_fast) = (false, false, false);
        let mut timeout = 30_000 * MS;
        let mut pad = (chance & 31) as usize;
        if odd {
            (method, idempotent) = match (chance >> 8) % 8 {
                0 | 1 => (profile::IDEM, true),
                2 => (profile::LONG, false),
                3 => (profile::TRANSACTION, false),
                4 => (profile::ABSENT, false),
                5 => (profile::IDEM, self.profile.ledger),
                _ => (method, (chance >> 9).is_multiple_of(32)),
            };
            one_way = (chance >> 16).is_multiple_of(8);
            fail_fast = (chance >> 20).is_multiple_of(4);
            timeout = match (chance >> 24) % 4 {
                0 => chance >> 40 & 0x3f_ffff,
                1 => (chance >> 40) % (2_000 * MS),
                _ => timeout,
            };
            if (chance >> 28).is_multiple_of(8) {
                pad = (chance >> 44) as usize % 2_000;
            }
            if self.profile.rate > 0 && (chance >> 31).is_multiple_of(2) {
                pad = (chance >> 44) as usize % 4_000;
            }
        }
        one_way &= !self.peers[p].durable;
        let op = self.model.begin(p, idempotent, one_way);
        let (len, metadata) = body::write_call(op, pad, &mut self.scratch);
        let mut call = Call::new(method, &self.scratch[..len]);
        (call.timeout, call.metadata) = (Duration::from_nanos(timeout), metadata);
        (call.idempotent, call.one_way, call.fail_fast) = (idempotent, one_way, fail_fast);
        self.calls += 1;
        let peer = &mut self.peers[p];
        match peer.client.call(now, call) {
            Ok(id) => {
                let due = peer.clock.latest.get().saturating_add(timeout);
                peer.made(id, op, one_way, due);
            }
            Err(_) => self.model.ops[op as usize].stage = Stage::Never,
        }
    }

    /// Cancels or forgets a call or a ticket.
    fn drop_interest(&mut self, p: usize) -> Check {
        let chance = self.rng.next_u64();
        let id = match self.has_old_answer(p) {
            true => self.peers[p].oldest(),
            false => self.peers[p].recent(chance),
        };
        let Some(id) = id else { return Ok(()) };
        let now = self.peer_now(p);
        let peer = &mut self.peers[p];
        if chance & 0x100 != 0 || peer.durable {
            self.faults[Fault::Cancel as usize] += 1;
            peer.client.cancel(now, id);
        } else {
            self.faults[Fault::Forget as usize] += 1;
            peer.client.forget(now, id);
            if let Some(op) = peer.op(id) {
                self.trace.note(|| format!("c{p} forgets op {op}"));
                self.model.ops[op as usize].stage = Stage::Unheard;
                peer.over(id);
            }
        }
        self.pump_peer(p)
    }
}
