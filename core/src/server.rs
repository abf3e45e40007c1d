//! The server machine: executes calls of many sessions over many connections, each call once.
//!
//! | file | what it does |
//! |---|---|
//! | `server.rs` | the type, connections, timers, events, drain |
//! | `server/parts.rs` | what is kept: connections, sessions, slots, shares |
//! | `server/dedup.rs` | what happens to a call: every decision, as pure functions |
//! | `server/handshake.rs` | opening, resuming, restoring and ending sessions |
//! | `server/receive.rs` | frames that come |
//! | `server/long.rs` | long requests while they come |
//! | `server/execute.rs` | from admission to reply |
//! | `server/held.rs` | held calls in the order of their xids |
//! | `server/replies.rs` | room for calls and replies, and their discard |
//! | `server/quota.rs` | each principal's share of connections and sessions |
//! | `server/transmit.rs` | frames that go |

mod dedup;
mod execute;
mod handshake;
mod held;
mod long;
mod parts;
mod quota;
mod receive;
mod replies;
mod transmit;

use core::time::Duration;

pub use execute::{Admission, CallKey, CallRecord, RecordState, Refused, ReplyTooLarge, Running};
pub use handshake::SessionRecord;
pub use parts::MethodSpec;
pub(crate) use parts::{Calls, Conn, Session, Share, Slot};
pub use receive::{Incoming, Request};

use crate::error::CloseReason;
use crate::ids::{ConnId, Principal, ServerId, SessionId, SessionKey};
use crate::keepalive::{self, Alive, Look};
use crate::storage::list::{List, NIL};
use crate::storage::{Array, Flat, Index, Places, ServerStorage, Table};
use crate::time::Instant;
use crate::wire::{Refuse, ServiceName};
use parts::{CONN_EVENT, LEASE, LOOK, Phase, TIMER};

/// Who a server is, what it grants, and its limits.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub struct ServerConfig {
    /// Names its set of completion records: random at every start, unless a ledger kept them.
    pub server: ServerId,
    /// The service's name.
    pub service: ServiceName,
    /// Most slots granted to a session; at most 65,536.
    pub slots: u32,
    /// Bytes of the longest request body granted.
    pub request_len_max: u32,
    /// Bytes of the longest reply body granted.
    pub reply_len_max: u32,
    /// How long a session is kept without a connection (S6).
    pub lease: Duration,
    /// The same for a session that never carried a request, and that neither a ledger nor its client's journal knows (S1).
    pub lease_unused: Duration,
    /// Silence after which a peer is called dead (S20); [`NEVER`](crate::NEVER) for debugging a service.
    pub keepalive: Duration,
    /// The same, if it is longer, for a client that asks never to be called dead, since somebody debugs it. What it costs:
    /// a client that asks and then vanishes keeps its connection and its session for so long. The default is an hour.
    pub keepalive_max: Duration,
    /// How long a new connection may take to say `Hello` (C42).
    pub handshake_timeout: Duration,
    /// How long an incomplete frame may take to grow by 64 KiB or to be whole (C42).
    pub frame_timeout: Duration,
    /// Connections at once. A principal has at most three times as many as it leaves free; so with sessions.
    pub conns_max: usize,
    /// Sessions at once.
    pub sessions_max: usize,
    /// Sessions at once of one principal.
    pub sessions_per_principal_max: u32,
    /// Bytes of replies kept or reserved for one session.
    ///
    /// Of this and the five limits that follow, nobody gets so much that others are left without: a session holds at
    /// most as much as it leaves free, and a principal at most three times as much, but for sessions that hold little.
    pub kept_per_session_max: u64,
    /// Bytes of replies kept or reserved for one principal.
    pub kept_per_principal_max: u64,
    /// Bytes of replies kept or reserved in all.
    pub kept_max: u64,
    /// Bytes of requests that are admitted or run in one session, and of its tables of slots.
    pub requests_per_session_max: u64,
    /// The same for one principal.
    pub requests_per_principal_max: u64,
    /// The same in all.
    pub requests_max: u64,
    /// Whether links lose messages without breaking (S27).
    pub lossy: bool,
    /// How far the ledger has come (S32).
    pub commit: u64,
    /// Whether a ledger keeps sessions: the `Welcome` of a new one waits for
    /// [`confirm_session`](Server::confirm_session) (S30).
    pub records_sessions: bool,
}

impl ServerConfig {
    /// The defaults, for this server and service.
    pub const fn new(server: ServerId, service: ServiceName) -> ServerConfig {
        ServerConfig {
            server,
            service,
            slots: 1024,
            request_len_max: 16 << 20,
            reply_len_max: 16 << 20,
            lease: Duration::from_secs(300),
            lease_unused: Duration::from_secs(10),
            keepalive: Duration::from_secs(10),
            keepalive_max: Duration::from_secs(3600),
            handshake_timeout: Duration::from_secs(10),
            frame_timeout: Duration::from_secs(60),
            conns_max: 1 << 20,
            sessions_max: 1 << 20,
            sessions_per_principal_max: 1 << 20,
            kept_per_session_max: 256 << 20,
            kept_per_principal_max: 1 << 30,
            kept_max: 1 << 30,
            requests_per_session_max: 128 << 20,
            requests_per_principal_max: 512 << 20,
            requests_max: 512 << 20,
            lossy: false,
            commit: 0,
            records_sessions: false,
        }
    }
}

/// What happened at a server that no received data says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerEvent {
    /// There is something to send on this connection.
    Transmit(ConnId),
    /// The machine has let go of this connection: close it. Its id is not valid any more.
    Close(ConnId, CloseReason),
    /// A session was opened on this connection: record it, then call
    /// [`confirm_session`](Server::confirm_session). Only with [`ServerConfig::records_sessions`].
    SessionOpened(ConnId),
    /// The lease of a session is over, or it was ended for cause, and calls of it run: nobody waits for them
    /// ([`is_wanted`](Server::is_wanted)). Their handlers may stop, or not: only when they have finished is the session
    /// gone (S6), and until then its client may be back, unless it was ended for cause.
    Abandoned(SessionKey),
    /// A session is over: a ledger may forget it.
    SessionEnded(SessionId),
    /// The drain is complete: nothing runs, nothing is kept, no connection is left.
    Drained,
}

/// Numbers that tell what a server holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerCounters {
    /// Sessions now.
    pub sessions: usize,
    /// Connections now.
    pub conns: usize,
    /// Bytes of replies kept or reserved now.
    pub kept_bytes: u64,
    /// Of these, bytes of replies that are acknowledged, but have not left yet.
    pub half_sent_bytes: u64,
    /// Bytes of the requests of calls that are let in or running now.
    pub request_bytes: u64,
    /// Bytes set aside for long requests that are on their way now.
    pub coming_bytes: u64,
    /// Bytes of tables of slots now.
    pub table_bytes: u64,
    /// Calls let in or running now.
    pub running: u64,
    /// Calls admitted since the start.
    pub admitted: u64,
    /// Calls refused since the start.
    pub refused: u64,
    /// Requests recognised as duplicates and not run again.
    pub duplicates: u64,
    /// Requests dropped as stale.
    pub stale: u64,
    /// Questions answered.
    pub asks: u64,
    /// Replies handed, each resend counted.
    pub replies: u64,
    /// Sessions resumed.
    pub resumes: u64,
    /// Resumes refused because there is no such session (S3): after a restart without a ledger many; otherwise they may
    /// be guesses at session ids.
    pub resumes_unknown: u64,
    /// Resumes refused because the session is another principal's (S5).
    pub resumes_of_others: u64,
    /// Handshakes refused because the client demanded another service, server or protocol version (S7).
    pub hellos_mismatched: u64,
    /// Handshakes refused because the table of sessions, or the principal's part of it, was full (S6).
    pub hellos_without_room: u64,
    /// Connections refused because there were too many, in all or of their principal.
    pub conns_refused: u64,
    /// Connections closed because the client broke the protocol.
    pub protocol_errors: u64,
    /// Connections closed because a handshake or a frame took too long, or the client was silent (S20, C42).
    pub timeouts: u64,
    /// Connections closed because there was no memory even for a refusal (S11).
    pub closed_without_room: u64,
}

impl ServerCounters {
    /// A connection is closed from this side.
    fn note_close(&mut self, reason: &CloseReason) {
        let counter = match reason {
            CloseReason::SessionUnknown => &mut self.resumes_unknown,
            CloseReason::WrongPrincipal => &mut self.resumes_of_others,
            CloseReason::WrongService { .. }
            | CloseReason::WrongServer { .. }
            | CloseReason::VersionUnsupported { .. } => &mut self.hellos_mismatched,
            CloseReason::SessionsFull | CloseReason::PrincipalFull => &mut self.hellos_without_room,
            CloseReason::Protocol(_) => &mut self.protocol_errors,
            CloseReason::TooSlow | CloseReason::PeerSilent => &mut self.timeouts,
            CloseReason::NoRoom => &mut self.closed_without_room,
            _ => return,
        };
        *counter += 1;
    }
}

#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
struct Drain {
    until: Instant,
    /// The grace is over: nobody is waited for any more.
    over: bool,
    told: bool,
}

/// The server machine.
///
/// # One server, many tasks
///
/// Its owner may be a lock that many tasks or threads take in turn. Any turn may then bring events about other tasks'
/// connections: poll them to the end before the lock is let go, note them by [`ConnId`], and wake the task concerned.
/// Let each connection's bytes leave in the order in which `poll_transmit` wrote them: only one task may be between that
/// and the end of its write. Transmit until `None` before acting on [`ServerEvent::Close`].
///
/// ```
/// use oncewire_core::{
///     Heap, Instant, MethodId, MethodSpec, Principal, Server, ServerConfig, ServerId, ServiceName, SessionId,
/// };
///
/// let methods = [MethodSpec::new(MethodId::of("toy.add_one"))];
/// let server = ServerId::from_bytes([7; 16]);
/// let config = ServerConfig::new(server, ServiceName::new("toy").unwrap());
/// let mut server: Server<Heap> = Server::new(config, &methods).unwrap();
/// // In earnest, the secret is 128 random bits.
/// let secret = SessionId::from_bytes([1; 16]);
/// let conn = server.handle_connected(Instant::ZERO, Principal::NOBODY, secret).unwrap();
/// assert!(server.handle_data(Instant::ZERO, conn, b"GET / HTTP/1.1\r\n").is_err());
/// ```
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct Server<T: ServerStorage> {
    config: ServerConfig,
    now: Instant,
    methods: T::Methods,
    conns: T::Conns,
    sessions: T::Sessions,
    /// Sessions by the first half of their ids.
    session_index: T::Index,
    shares: T::Shares,
    /// Shares by principal.
    share_index: T::Index,
    /// How often peers are looked at: as the least patient session has it.
    looked_after: Duration,
    /// Connections by their next look.
    looks: List<LOOK>,
    /// Connections that have not said `Hello`, by when they were made.
    greeting: List<TIMER>,
    /// Connections with an incomplete frame, by when it last got on.
    receiving: List<TIMER>,
    /// Connections with an event to poll.
    conn_events: List<CONN_EVENT>,
    /// Sessions without a connection, by the end of their lease.
    leases: List<LEASE>,
    /// The same for those that never carried a request.
    leases_unused: List<LEASE>,
    /// Sessions in which something runs that nobody waits for any more, and whose event was not polled.
    abandoned: List<LEASE>,
    /// Sessions that have ended and whose event was not polled.
    ended: List<LEASE>,
    /// The longest lease ever granted to a session that lives: leases end in the order in which they began.
    lease: Duration,
    drain: Option<Drain>,
    /// Slots held in all sessions.
    held: u64,
    ledger_failed: bool,
    counters: ServerCounters,
}

/// Why a [`Server`] could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerError {
    /// Two methods have the same number: their names' hashes collide, or one was given twice.
    MethodTwice(crate::ids::MethodId),
    /// More methods than the storage holds.
    TooManyMethods,
}

impl core::fmt::Display for ServerError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            ServerError::MethodTwice(id) => write!(f, "two methods have the number {id}"),
            ServerError::TooManyMethods => f.write_str("more methods than the storage holds"),
        }
    }
}

impl core::error::Error for ServerError {}

/// With none, a frame of a session that was granted a moment would be judged again and again in that moment.
const FRAME_TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// Sessions and connections that one `handle_timeout` looks at, at most.
const WORK_MAX: usize = 256;

impl<T: ServerStorage> Server<T> {
    /// A server that offers `methods`.
    ///
    /// # Errors
    /// If two methods have the same number, or there are too many for the storage.
    pub fn new(config: ServerConfig, methods: &[MethodSpec]) -> Result<Server<T>, ServerError> {
        let mut table = T::Methods::default();
        for (at, method) in methods.iter().enumerate() {
            if methods[..at].iter().any(|other| other.id == method.id) {
                return Err(ServerError::MethodTwice(method.id));
            }
            *table.at_or_grow(at as u32).ok_or(ServerError::TooManyMethods)? = *method;
        }
        table.as_mut_slice().sort_unstable_by_key(|method| method.id);
        Ok(Server {
            config,
            now: Instant::ZERO,
            methods: table,
            conns: T::Conns::default(),
            sessions: T::Sessions::default(),
            session_index: T::Index::default(),
            shares: T::Shares::default(),
            share_index: T::Index::default(),
            looked_after: keepalive::looked_after(config.keepalive),
            looks: List::default(),
            greeting: List::default(),
            receiving: List::default(),
            conn_events: List::default(),
            leases: List::default(),
            leases_unused: List::default(),
            abandoned: List::default(),
            ended: List::default(),
            lease: config.lease,
            drain: None,
            held: 0,
            ledger_failed: false,
            counters: ServerCounters::default(),
        })
    }

    /// The methods, sorted by number: [`Request::method_index`] counts in this order.
    pub fn methods(&self) -> &[MethodSpec] {
        self.methods.as_slice()
    }

    /// A client has connected, and `principal` is who the transport says it is. `secret` must be 128 fresh random
    /// bits: they become the id of the session that the connection may open (S1).
    ///
    /// `None` if there are as many connections as the configuration or the storage allows, in all or for one principal,
    /// or if the grace of a drain is over; close it then.
    pub fn handle_connected(
        &mut self,
        now: Instant,
        principal: Principal,
        secret: SessionId,
    ) -> Option<ConnId> {
        self.tick(now);
        if self.drain.as_ref().is_some_and(|drain| drain.over) {
            // A drain waits for all connections, and nothing would end it.
            return None;
        }
        let key = self.insert_conn(principal, secret);
        match key {
            Some(key) => {
                self.greeting.push_back(&mut self.conns, key.index);
                self.look_later(key.index);
            }
            None => self.counters.conns_refused += 1,
        }
        key.map(ConnId)
    }

    /// The connection is gone. What it left half-sent is dropped; its session waits for a resume.
    pub fn handle_disconnected(&mut self, now: Instant, conn: ConnId) {
        self.tick(now);
        if self.conns.contains(conn.0) {
            self.unbind(conn.0.index);
            self.remove_conn(conn.0.index);
        }
    }

    /// The link of a connection has moved bytes that neither [`handle_data`](Server::handle_data) nor
    /// [`poll_transmit`](Server::poll_transmit) sees: it had no room for all that was handed, and has taken more of it; or
    /// it gives out whole frames only, and has received a part of one. The client is alive, though it may say nothing
    /// (S20).
    pub fn handle_progress(&mut self, now: Instant, conn: ConnId) {
        self.tick(now);
        if let Some(conn) = self.conns.get_mut(conn.0) {
            conn.alive.progress();
        }
    }

    /// Time has passed. Call it when [`poll_timeout`](Server::poll_timeout)'s moment has come, after everything that
    /// has arrived was given to [`handle_data`](Server::handle_data); poll events afterwards. Each call does bounded
    /// work: if much is due, `poll_timeout` still names the present.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.tick(now);
        for _ in 0..WORK_MAX {
            let Some(index) = self.looks.front() else { break };
            if self.conns.at(index).is_none_or(|conn| conn.look_at > self.now) {
                break;
            }
            self.look(index);
        }
        for _ in 0..WORK_MAX {
            match self.first_too_slow() {
                Some((index, at)) if at <= self.now => self.judge_slow(index),
                _ => break,
            }
        }
        for _ in 0..WORK_MAX {
            match self.first_lease_over() {
                Some(index) => self.end_session(index),
                None => break,
            }
        }
        if self.drain.as_ref().is_some_and(|drain| drain.until <= self.now && !drain.over) {
            self.end_drain();
        }
    }

    /// The next event. Poll until `None` after every other `&mut self` call.
    #[inline]
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        while let Some(index) = self.conn_events.pop_front(&mut self.conns) {
            let key = self.conns.key_at(index)?;
            if self.conns.at_mut(index).is_some_and(Conn::takes_record) {
                self.wake(index);
                return Some(ServerEvent::SessionOpened(ConnId(key)));
            }
            if self.has_to_send(index) {
                return Some(ServerEvent::Transmit(ConnId(key)));
            }
            if let Some(reason) = self.conns.at(index).and_then(Conn::closing) {
                self.remove_conn(index);
                return Some(ServerEvent::Close(ConnId(key), reason));
            }
        }
        if let Some(index) = self.abandoned.pop_front(&mut self.sessions) {
            return self.sessions.key_at(index).map(|key| ServerEvent::Abandoned(SessionKey(key)));
        }
        if let Some(index) = self.ended.pop_front(&mut self.sessions) {
            let session = self.sessions.remove(index)?;
            return Some(ServerEvent::SessionEnded(session.id));
        }
        if self.is_drained()
            && let Some(drain) = &mut self.drain
            && !core::mem::replace(&mut drain.told, true)
        {
            return Some(ServerEvent::Drained);
        }
        None
    }

    /// When [`handle_timeout`](Server::handle_timeout) is next to be called; changes only after a `&mut self` call.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let look = self.looks.front().and_then(|index| self.conns.at(index)).map(|c| c.look_at);
        let slow = self.first_too_slow().map(|(_, at)| at);
        let drain = self.drain.as_ref().filter(|drain| !drain.over).map(|drain| {
            let returns = self.returns_until().filter(|until| *until > self.now);
            returns.map_or(drain.until, |until| until.min(drain.until))
        });
        let lease = self.lease_end(&self.leases, self.lease);
        let lease_unused = self.lease_end(&self.leases_unused, self.config.lease_unused);
        [look, slow, drain, lease, lease_unused].into_iter().flatten().min()
    }

    /// Says `Goodbye` to every client, refuses what is not started, and waits for clients to acknowledge what is
    /// kept for them, but no longer than `grace` (S25). Clients that lost their connection less than a keepalive's time ago
    /// are waited for as well, unless a ledger keeps their sessions. [`ServerEvent::Drained`] tells when it is over.
    pub fn drain(&mut self, now: Instant, grace: Duration) {
        self.tick(now);
        if self.drain.is_some() {
            return;
        }
        self.drain = Some(Drain { until: self.now + grace, over: false, told: false });
        for index in 0..self.conns.high_water() {
            let Some(conn) = self.conns.at_mut(index) else { continue };
            if conn.session.is_some() {
                conn.send.goodbye = true;
                self.wake(index);
            } else {
                self.close_conn(index, Some(Refuse::ShuttingDown), CloseReason::ShuttingDown);
            }
        }
    }

    /// Whether a drain was begun and nothing is left to do.
    pub fn is_drained(&self) -> bool {
        let awaited = || self.returns_until().is_some_and(|until| until > self.now);
        let done = |drain: &Drain| drain.over || self.held == 0 && !awaited();
        self.conns.len() == 0 && self.drain.as_ref().is_some_and(done)
    }

    /// Until when a drain waits for a client that has lost its connection, if for any (S25). It may have calls in doubt,
    /// of which nothing is here: without a ledger only this server can still say that they were never read (C84). After
    /// a keepalive's time it is taken for gone.
    fn returns_until(&self) -> Option<Instant> {
        if self.config.records_sessions {
            return None;
        }
        let last = [&self.leases, &self.leases_unused].into_iter().filter_map(|list| list.back());
        let lost = last.filter_map(|index| Some(self.sessions.at(index)?.alone_since));
        Some(lost.max()? + self.config.keepalive)
    }

    /// S31: the ledger cannot write. From now on new calls are refused; the driver leaves the others unanswered.
    pub fn fail_ledger(&mut self) {
        self.ledger_failed = true;
    }

    /// How far the ledger has come, for the `Welcome`s to come (S32).
    pub fn set_commit(&mut self, commit: u64) {
        self.config.commit = self.config.commit.max(commit);
    }

    /// The session to which a connection is bound.
    pub fn session_of(&self, conn: ConnId) -> Option<SessionKey> {
        let index = self.conns.at(conn.0.index).filter(|_| self.conns.contains(conn.0))?.session?;
        self.sessions.key_at(index).map(SessionKey)
    }

    /// The principal of a connection.
    pub fn principal_of(&self, conn: ConnId) -> Option<Principal> {
        let conn = self.conns.at(conn.0.index).filter(|_| self.conns.contains(conn.0))?;
        Some(conn.principal)
    }

    /// Whether there are connections or sessions of a principal.
    pub fn knows(&self, principal: Principal) -> bool {
        self.share_index.find(principal.0).is_some()
    }

    /// Whether calls are let in or running.
    pub fn is_busy(&self) -> bool {
        self.counters.running > 0
    }

    /// What the server holds and has done.
    pub fn counters(&self) -> ServerCounters {
        ServerCounters { sessions: self.sessions.len(), conns: self.conns.len(), ..self.counters }
    }

    #[inline]
    fn tick(&mut self, now: Instant) {
        self.now = self.now.max(now.min(Instant::LAST));
    }

    fn lease_end(&self, list: &List<LEASE>, lease: Duration) -> Option<Instant> {
        let session = self.sessions.at(list.front()?)?;
        Some(session.alone_since + lease)
    }

    fn first_lease_over(&self) -> Option<u32> {
        let over = |list: &List<LEASE>, lease| {
            let end = self.lease_end(list, lease)?;
            if end <= self.now { list.front() } else { None }
        };
        over(&self.leases_unused, self.config.lease_unused)
            .or_else(|| over(&self.leases, self.lease))
    }

    /// C42: the connection whose `Hello`, or whose frame, is the first to be judged, and when. The times are the same for
    /// all connections, so that the oldest is the first.
    fn first_too_slow(&self) -> Option<(u32, Instant)> {
        let hello = self.greeting.front().and_then(|index| {
            let since = self.conns.at(index)?.since;
            Some((index, since + self.config.handshake_timeout))
        });
        let frame = self.receiving.front().and_then(|index| {
            let judged = self.conns.at(index)?.incoming?.judged;
            Some((index, judged + self.frame_timeout(None)))
        });
        [hello, frame].into_iter().flatten().min_by_key(|(_, at)| *at)
    }

    /// The time of a `Hello` or of a frame has come.
    fn judge_slow(&mut self, index: u32) {
        let Some(conn) = self.conns.at(index) else { return };
        let timeout = self.frame_timeout(conn.session);
        let now = self.now;
        match self.conns.at_mut(index).and_then(|conn| conn.incoming.as_mut()) {
            // A session that asked for patience is judged again when others are; only others are judged to the moment.
            Some(frame) if self.receiving.front() == Some(index) && frame.since + timeout > now => {
                frame.judged = now;
                self.receiving.unlink(&mut self.conns, index);
                self.receiving.push_back(&mut self.conns, index);
            }
            _ => self.close_conn(index, Some(Refuse::TooSlow), CloseReason::TooSlow),
        }
    }

    /// How long the peer of a session may be silent.
    fn patience(&self, session: Option<u32>) -> Duration {
        let granted = session
            .and_then(|session| self.sessions.at(session))
            .map(|session| keepalive::granted(session.grants().keepalive_ms));
        granted.unwrap_or_default().max(self.config.keepalive)
    }

    /// How long an incomplete frame may take to get on: a peer that may stand still may do so in the middle of one.
    fn frame_timeout(&self, session: Option<u32>) -> Duration {
        self.patience(session).max(self.config.frame_timeout).max(FRAME_TIMEOUT_MIN)
    }

    /// Takes a connection off the list that its phase has put it on.
    fn stop_timer(&mut self, index: u32) {
        let greets = |conn: &Conn<T::Body>| conn.phase == Phase::AwaitingHello;
        let list = match self.conns.at(index).is_some_and(greets) {
            true => &mut self.greeting,
            false => &mut self.receiving,
        };
        list.unlink(&mut self.conns, index);
    }

    /// S20: is the peer there?
    fn look(&mut self, index: u32) {
        let Some(conn) = self.conns.at(index) else { return };
        let keepalive = self.patience(conn.session);
        let Some(conn) = self.conns.at_mut(index) else { return };
        let look = match conn.phase {
            // There is nothing to ask, and the handshake's own time judges; or it waits for us.
            Phase::AwaitingHello | Phase::AwaitingRecord { .. } => Look::Fine,
            Phase::WelcomeDue { .. } | Phase::Up | Phase::Finishing(_) | Phase::Closing(_) => {
                conn.alive.look(keepalive, self.looked_after)
            }
        };
        if look == Look::Dead {
            self.close_conn(index, None, CloseReason::PeerSilent);
        } else {
            match look {
                Look::Fine | Look::Dead => {}
                Look::Say => {
                    conn.send.pong = true;
                    self.wake(index);
                }
                Look::Ask => {
                    conn.send.ping = true;
                    // S27: the first one may be lost.
                    conn.send.goodbye |= self.config.lossy && self.drain.is_some();
                    self.wake(index);
                }
            }
            self.look_later(index);
        }
    }

    fn look_later(&mut self, index: u32) {
        self.looks.unlink(&mut self.conns, index);
        let Some(conn) = self.conns.at_mut(index) else { return };
        conn.look_at = Alive::next_look(self.now, self.looked_after);
        self.looks.push_back(&mut self.conns, index);
    }

    /// Puts a connection on the list of those with an event.
    fn wake(&mut self, index: u32) {
        self.conn_events.push_back(&mut self.conns, index);
    }

    /// Ends a connection from our side: `refuse` is still sent, nothing else is, and nothing more is read.
    fn close_conn(&mut self, index: u32, refuse: Option<Refuse>, reason: CloseReason) {
        // Into the middle of a reply nothing else can be put.
        let refuse = refuse.filter(|_| self.conns.at(index).is_some_and(|c| c.partial.is_none()));
        self.unbind(index);
        self.looks.unlink(&mut self.conns, index);
        self.stop_timer(index);
        let Some(conn) = self.conns.at_mut(index) else { return };
        if conn.closing().is_some() {
            return;
        }
        conn.phase = Phase::Closing(reason);
        self.counters.note_close(&reason);
        conn.send = parts::ToSend { refuse, ..parts::ToSend::default() };
        self.wake(index);
    }

    /// The same once every answer that waits has left. They are kept, but a client that comes back for them sends what
    /// had it closed along with its questions: closed at once it never learned what became of its other calls.
    fn close_when_sent(&mut self, index: u32, reason: CloseReason) {
        let half_sent = self.conns.at(index).is_some_and(|conn| conn.partial.is_some());
        if !half_sent && !self.has_to_send(index) {
            self.close_conn(index, None, reason);
        } else if let Some(conn) = self.conns.at_mut(index) {
            conn.phase = Phase::Finishing(reason);
            self.wake(index);
        }
    }

    fn remove_conn(&mut self, index: u32) {
        self.looks.unlink(&mut self.conns, index);
        self.stop_timer(index);
        self.conn_events.unlink(&mut self.conns, index);
        if let Some(conn) = self.conns.remove(index) {
            self.leave_share(conn.share);
        }
    }

    /// Parts a session from its connection: its lease begins; or it ends, if nobody knows of it.
    fn unbind(&mut self, conn_index: u32) {
        self.end_coming(conn_index);
        let Some(conn) = self.conns.at_mut(conn_index) else { return };
        let partial = conn.partial.take();
        let phase = conn.phase;
        let Some(session_index) = conn.session.take() else { return };
        if let Some(mut room) = self.room(session_index) {
            if let Some(partial) = &partial {
                room.let_go(partial);
            }
            room.drop_routes();
            room.release_if_idle();
        }
        let now = self.now;
        let Some(session) = self.sessions.at_mut(session_index) else { return };
        session.conn = NIL;
        session.alone_since = now;
        if session.is_open() {
            let full = session.reach.has_full_lease();
            let list = if full { &mut self.leases } else { &mut self.leases_unused };
            list.push_back(&mut self.sessions, session_index);
        }
        match phase {
            Phase::AwaitingRecord { asked: false } => {
                // Not even a ledger has heard of it.
                self.end_session(session_index);
                self.ended.unlink(&mut self.sessions, session_index);
                self.sessions.remove(session_index);
            }
            Phase::AwaitingRecord { asked: true } | Phase::WelcomeDue { opened: true } => {
                self.end_session(session_index);
            }
            _ => {}
        }
    }

    /// The grace of a drain is over.
    fn end_drain(&mut self) {
        for index in 0..self.conns.high_water() {
            if self.conns.at(index).is_some() {
                self.close_conn(index, Some(Refuse::ShuttingDown), CloseReason::ShuttingDown);
            }
        }
        if let Some(drain) = &mut self.drain {
            drain.over = true;
        }
    }
}

impl<T: ServerStorage> core::fmt::Debug for Server<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Server")
            .field("server", &self.config.server)
            .field("service", &self.config.service)
            .field("counters", &self.counters())
            .field("draining", &self.drain.is_some())
            .finish_non_exhaustive()
    }
}
