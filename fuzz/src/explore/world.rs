//! One state of a small world, with everything that decides what may happen next.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use oncewire_core::wire;
use oncewire_core::{
    Admission, CallId, CallKey, Client, ClientConfig, ConnId, InlineClient, InlineServer, Instance,
    Instant, Principal, Running, Server, ServerConfig, ServerEvent, ServiceName, SessionEnd,
};

use super::digest::Shared;
use super::journal::Journal;
use super::scene::{Broken, Budget, End, Kind, Scene};
use crate::world::body::{REPLY_HEAD, REQUEST_HEAD};
use crate::world::host::Step;
use crate::world::model::{Model, Session, Stage};
use crate::world::profile::{server_id, session_id, session_number};
use crate::world::trace::{Check, ensure};

/// A client: at most 4 calls, 2 slots.
pub(super) type Caller = Client<InlineClient<4, 2, REQUEST_HEAD>>;
/// A server: at most 6 sessions and connections, 2 slots, 3 methods.
pub(super) type Machine = Server<InlineServer<6, 6, 2, 3, REPLY_HEAD>>;
/// A frame on its way.
pub(super) type Wire = Rc<[u8]>;

/// Longer than any time that passes in a world: keepalives and handshakes never come to their end.
pub(super) const FOREVER: Duration = Duration::from_secs(3_000_000);
/// How long a server keeps a session without a connection.
pub(super) const LEASE: Duration = Duration::from_secs(3_600);
/// The kind of a reply's frame.
pub(super) const REPLY: u8 = 0x42;
/// How long a draining server waits: less than a lease.
pub(super) const GRACE: Duration = Duration::from_secs(900);
/// The deadline of a call that will be late.
pub(super) const SHORT: Duration = Duration::from_secs(1);
/// A step of a clock: longer than `SHORT`, and than what a client waits before it acknowledges or sends again.
pub(super) const TICK: Duration = Duration::from_secs(2);

/// A client and what the world knows of it.
#[derive(Clone, Hash)]
pub(super) struct Peer {
    pub(super) client: Caller,
    /// The number of its connection.
    pub(super) link: Option<u32>,
    /// Its calls by their place in the scene, until their last outcome has come.
    pub(super) calls: [Option<CallId>; 4],
    /// Calls made.
    pub(super) made: usize,
    /// Connections made, with those that copies of its opens have made.
    pub(super) dials: u32,
    /// Nanoseconds on its clock.
    pub(super) clock: u64,
    pub(super) closed: bool,
    /// It has compared signatures with the server of this connection.
    pub(super) compared: bool,
    /// What its older connection still had for it, if it is broken so that it reads that later.
    pub(super) unread: Vec<Wire>,
    /// Empty unless it is durable.
    pub(super) journal: Journal,
}

/// A call at its server. Its right is copied with the world, so there is one right in each state.
pub(super) struct Handling {
    pub(super) step: Step,
    pub(super) admission: Option<Admission>,
    pub(super) running: Option<Running>,
    pub(super) key: CallKey,
    pub(super) session: u32,
    pub(super) op: u32,
    pub(super) run: u32,
    pub(super) kind: Kind,
    /// What `record_of` said when it was admitted, for a ledger that writes late.
    pub(super) digest: u64,
    /// At which server it is.
    pub(super) host: usize,
}

impl Clone for Handling {
    fn clone(&self) -> Self {
        Handling {
            admission: self.admission.as_ref().map(Admission::copy_for_explorer),
            running: self.running.as_ref().map(Running::copy_for_explorer),
            ..*self
        }
    }
}

impl Hash for Handling {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.step as u8, self.key, self.run, self.kind.end as u8).hash(state);
    }
}

/// A server and what the world knows of it.
#[derive(Clone, Hash)]
pub(super) struct Host {
    pub(super) server: Machine,
    /// Nanoseconds on its clock.
    pub(super) clock: u64,
    /// By session and xid.
    pub(super) calls: Vec<Handling>,
    pub(super) life: u32,
    pub(super) commit: u64,
    pub(super) draining: bool,
    pub(super) drained: bool,
    /// Its ledger cannot write (S31).
    pub(super) disk_full: bool,
    /// Connections whose new sessions are being recorded.
    pub(super) opened: Vec<ConnId>,
    /// Connections that wait for the sessions which they resume (S34).
    pub(super) wanted: Vec<ConnId>,
    /// Sessions that it has, and that no other server has claimed since.
    pub(super) owned: BTreeSet<u32>,
}

/// How far the server's end of a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Accepted {
    /// Nothing of it has come to any server.
    NotYet,
    Open(ConnId),
    /// The server has let go, or has learned that it is gone, or has died.
    Gone,
}

/// A connection: frames on their way.
#[derive(Clone, Debug, Hash)]
pub(super) struct Link {
    pub(super) peer: usize,
    pub(super) host: usize,
    /// Its number, and that of the session which it may open.
    pub(super) number: u32,
    pub(super) accepted: Accepted,
    /// The session that it is bound to.
    pub(super) session: Option<u32>,
    pub(super) up: Vec<Wire>,
    pub(super) down: Vec<Wire>,
    /// The client has not let go of it.
    pub(super) client_open: bool,
    /// It broke: the end may come before what was on the way.
    pub(super) broken: bool,
    /// All that went up, where copies of it may arrive.
    pub(super) sent: Vec<Wire>,
    /// Its `Hello`, while the session that it resumes is waited for.
    pub(super) hello: Option<Wire>,
    /// What an unread older connection still had for the client, where the client is broken so.
    pub(super) stale: Vec<Wire>,
}

/// One state.
#[derive(Clone)]
pub(super) struct World {
    pub(super) scene: &'static Scene,
    pub(super) peers: Vec<Shared<Peer>>,
    pub(super) hosts: Vec<Shared<Host>>,
    /// Those that may still carry something, by number.
    pub(super) links: Vec<Link>,
    pub(super) model: Model,
    /// What may still go wrong.
    pub(super) left: Budget,
    /// Something has happened after which it cannot be known what became of calls in doubt.
    pub(super) excused: bool,
    /// A sentence for each thing that happens, if it is read.
    pub(super) story: Option<Vec<String>>,
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.peers, &self.hosts, &self.links, &self.model, self.left, self.excused).hash(state);
    }
}

impl World {
    pub(super) fn new(scene: &'static Scene) -> World {
        let mut model = Model { lossy: scene.lossy, ..Model::default() };
        for (p, calls) in scene.calls.iter().enumerate() {
            for kind in *calls {
                model.begin(p, kind.idempotent, kind.one_way);
            }
        }
        let peer = |_| {
            Shared::new(Peer {
                client: Client::new(World::client_config(scene)),
                link: None,
                calls: [None; 4],
                made: 0,
                dials: 0,
                clock: 0,
                closed: false,
                compared: false,
                unread: Vec::new(),
                journal: Journal::default(),
            })
        };
        let host = |h| {
            Shared::new(Host {
                server: World::machine(scene, h, 0, 0),
                clock: 0,
                calls: Vec::new(),
                life: 0,
                commit: 0,
                draining: false,
                drained: false,
                disk_full: false,
                opened: Vec::new(),
                wanted: Vec::new(),
                owned: BTreeSet::new(),
            })
        };
        World {
            scene,
            peers: (0..scene.calls.len()).map(peer).collect(),
            hosts: (0..scene.hosts).map(host).collect(),
            links: Vec::new(),
            model,
            left: scene.budget,
            excused: false,
            story: None,
        }
    }

    pub(super) fn client_config(scene: &Scene) -> ClientConfig {
        let mut config = ClientConfig::default();
        config.slots = scene.slots;
        config.reply_len_max = REPLY_HEAD as u32;
        config.handshake_timeout = FOREVER;
        config.ack_delay = if scene.ack_at_once { Duration::ZERO } else { SHORT };
        config.resend_after = scene.lossy.then_some(SHORT);
        config.durable = scene.durable;
        config
    }

    pub(super) fn machine(scene: &Scene, h: usize, life: u32, commit: u64) -> Machine {
        let instance = meaning_instance(h, life);
        let same = scene.ledger || scene.broken == Broken::ResumeOpens;
        let life = if same { 0 } else { life };
        let service = ServiceName::new("small").expect("short");
        let place = if scene.shared { 0 } else { h };
        let mut config = ServerConfig::new(server_id(place, life), service);
        config.slots = scene.slots;
        config.request_len_max = REQUEST_HEAD as u32;
        config.reply_len_max = REPLY_HEAD as u32;
        config.lease = LEASE;
        config.lease_unused = LEASE / 2;
        config.keepalive = FOREVER;
        config.handshake_timeout = FOREVER;
        config.frame_timeout = FOREVER;
        config.kept_max = scene.kept_max;
        config.lossy = scene.lossy;
        config.records_sessions = scene.ledger;
        config.shares_records = scene.shared;
        config.commit = commit;
        if scene.is_typed() {
            config.instance = instance;
        }
        Server::new(config, &super::scene::methods()).expect("methods differ")
    }

    /// The number of a client's call among all.
    pub(super) fn op(&self, p: usize, k: usize) -> u32 {
        (self.scene.calls[..p].iter().map(|calls| calls.len()).sum::<usize>() + k) as u32
    }

    /// The client and the place in its script of a call.
    pub(super) fn call_of(&self, op: u32) -> Option<(usize, Kind)> {
        let mut rest = op as usize;
        for (p, calls) in self.scene.calls.iter().enumerate() {
            match calls.get(rest) {
                Some(kind) => return Some((p, *kind)),
                None => rest -= calls.len(),
            }
        }
        None
    }

    pub(super) fn tell(&mut self, line: impl FnOnce(&World) -> String) {
        if self.story.is_some() {
            let line = line(self);
            self.story.get_or_insert_default().push(line);
        }
    }

    pub(super) fn peer_now(&self, p: usize) -> Instant {
        Instant::from_nanos(self.peers[p].clock)
    }

    pub(super) fn host_now(&self, h: usize) -> Instant {
        Instant::from_nanos(self.hosts[h].clock)
    }

    pub(super) fn link(&mut self, number: u32) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.number == number)
    }

    /// Whether a server means the same as the clients by the methods that they know.
    pub(super) fn host_means_the_same(&self, h: usize) -> bool {
        means_the_same(meaning_instance(h, self.hosts[h].life))
    }

    // Clients.

    /// A connection with the next number of this client; the server learns of it by its first frame.
    pub(super) fn new_link(&mut self, p: usize, h: usize) -> &mut Link {
        let peer = &mut self.peers[p];
        let number = peer.dials * self.scene.calls.len() as u32 + p as u32;
        peer.dials += 1;
        let sessions = &mut self.model.sessions;
        if sessions.len() <= number as usize {
            sessions.resize_with(number as usize + 1, Session::default);
        }
        let at = self.links.iter().position(|link| link.number > number);
        let at = at.unwrap_or(self.links.len());
        self.links.insert(
            at,
            Link {
                peer: p,
                host: h,
                number,
                accepted: Accepted::NotYet,
                session: None,
                up: Vec::new(),
                down: Vec::new(),
                client_open: false,
                broken: false,
                sent: Vec::new(),
                hello: None,
                stale: Vec::new(),
            },
        );
        &mut self.links[at]
    }

    pub(super) fn pump_host(&mut self, h: usize) -> Check {
        while let Some(event) = self.hosts[h].server.poll_event() {
            match event {
                ServerEvent::Transmit(conn) => self.flush_conn(h, conn)?,
                ServerEvent::Close(conn, reason) => {
                    self.tell(|_| format!("    s{h} closes a connection: {reason:?}"));
                    if let Some(at) = self.link_at(h, conn) {
                        self.unbind(at);
                    }
                }
                ServerEvent::SessionEnded(id, why) => {
                    let number = session_number(id);
                    self.tell(|_| format!("    s{h} ends session {number}"));
                    if why == SessionEnd::Taken || self.is_lost(h, number) {
                        self.ended_elsewhere(h, number);
                        continue;
                    }
                    self.hosts[h].owned.remove(&number);
                    self.excused |= self.scene.shared && why == SessionEnd::Lease;
                    let leases = (LEASE.as_nanos() as u64, LEASE.as_nanos() as u64 / 2);
                    self.model.session_ended(number, self.hosts[h].clock, leases)?;
                }
                ServerEvent::SessionOpened(conn) => self.hosts[h].opened.push(conn),
                ServerEvent::SessionWanted(conn) => self.hosts[h].wanted.push(conn),
                ServerEvent::Drained => self.hosts[h].drained = true,
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn link_at(&self, h: usize, conn: ConnId) -> Option<usize> {
        let open = Accepted::Open(conn);
        self.links.iter().position(|link| link.host == h && link.accepted == open)
    }

    fn flush_conn(&mut self, h: usize, conn: ConnId) -> Check {
        let now = self.host_now(h);
        let at = self.link_at(h, conn);
        ensure!(at.is_some(), "s{h} sends on a connection that it has let go of");
        let mut out = [0; 512];
        while let Some(len) = self.hosts[h].server.poll_transmit(now, conn, &mut out) {
            if let Some(number) = at.and_then(|at| self.links.get(at)?.session) {
                self.model.wrote(number, &out[..len.get()]);
            }
            if let Some(link) = at.and_then(|at| self.links.get_mut(at))
                && link.client_open
            {
                link.down.extend(frames(&out[..len.get()]).map(Wire::from));
            }
        }
        Ok(())
    }

    /// The server's end of a connection is gone.
    pub(super) fn unbind(&mut self, at: usize) {
        let link = &mut self.links[at];
        link.accepted = Accepted::Gone;
        if let Some(session) = link.session {
            let (number, clock) = (link.number as usize, self.hosts[link.host].clock);
            self.model.unbound(session, number, clock);
        }
    }

    pub(super) fn tell_server(&mut self, at: usize) -> Check {
        let (h, accepted) = (self.links[at].host, self.links[at].accepted);
        self.unbind(at);
        if let Accepted::Open(conn) = accepted {
            let now = self.host_now(h);
            self.hosts[h].server.handle_disconnected(now, conn);
            self.pump_host(h)?;
        }
        Ok(())
    }

    pub(super) fn accept(&mut self, at: usize) {
        let link = &self.links[at];
        let (h, principal) = (link.host, Principal(link.peer as u64));
        let secret = session_id(0, link.number);
        let now = self.host_now(h);
        let conn = self.hosts[h].server.handle_connected(now, principal, secret);
        self.links[at].accepted = conn.map_or(Accepted::Gone, Accepted::Open);
    }

    /// After every action: what can never matter again is forgotten, so that equal futures are equal states; and what
    /// must always be true is checked.
    pub(super) fn tidy(&mut self) -> Check {
        for link in &mut self.links {
            if !link.client_open {
                link.down.clear();
            }
            if link.accepted == Accepted::Gone {
                link.up.clear();
            }
        }
        let copies = self.left.copies > 0;
        self.links.retain(|link| {
            link.client_open || link.accepted != Accepted::Gone || (copies && !link.sent.is_empty())
        });
        if !copies {
            self.links.iter_mut().for_each(|link| link.sent.clear());
            // Nothing of these will ever be copied, and nothing of them is on the way.
            self.links.retain(|link| link.client_open || link.accepted != Accepted::Gone);
        }
        for host in &mut self.hosts {
            let place = |call: &Handling| (call.session, call.key.xid());
            if !host.calls.is_sorted_by_key(place) {
                host.calls.sort_by_key(place);
            }
        }
        for (h, host) in self.hosts.iter().enumerate() {
            // What a server has of sessions that it has lost, the model does not know.
            let (held, exact) = (host.server.counters(), !self.scene.shared);
            self.model.check_held(h, &held, self.scene.kept_max, exact)?;
        }
        Ok(())
    }

    /// Whether every call that was made has had its last outcome.
    pub(super) fn waits_for(&self) -> Option<u32> {
        let over = |stage| !matches!(stage, Stage::Pending | Stage::Ticket);
        let op = self.model.ops.iter().position(|op| !over(op.stage)).map(|op| op as u32);
        op.or_else(|| (0..self.peers.len()).find(|p| !self.knows_all(*p)).map(|p| self.op(p, 0)))
    }

    pub(super) fn finished(&mut self, call: &Handling, kept: u32) -> Check {
        if self.is_stale(call) {
            return Ok(());
        }
        self.model.finished(call.session, call.key.xid().get(), call.kind.idempotent, kept)
    }

    pub(super) fn reply_len(kind: Kind) -> usize {
        let replies = matches!(kind.end, End::Reply | End::RefuseFirst);
        if replies && !kind.one_way { REPLY_HEAD } else { 0 }
    }
}

/// By what a server's life is known: its place and how many came before it.
fn meaning_instance(h: usize, life: u32) -> Instance {
    Instance::new(u64::from(life) << 8 | h as u64, "")
}

/// Whether this life of a server means the same as the clients by the methods that they know.
pub(super) fn means_the_same(instance: Instance) -> bool {
    ((instance.id() >> 8) + (instance.id() & 0xff)).is_multiple_of(2)
}

/// The whole frames in what a machine has written.
pub(super) fn frames(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let len = wire::peek(bytes)?.len.min(bytes.len());
        let (frame, rest) = bytes.split_at(len);
        bytes = rest;
        Some(frame)
    })
}
