//! The server machine: executes calls of many sessions over many connections, each call once.
//!
//! | file | what it does |
//! |---|---|
//! | `server.rs` | the type, connections, events, drain |
//! | `server/config.rs` | configuration and methods |
//! | `server/event.rs` | events and counters |
//! | `server/conn.rs` | a connection |
//! | `server/session.rs` | a session |
//! | `server/slot.rs` | a slot |
//! | `server/timers.rs` | what happens when time passes |
//! | `server/dedup.rs` | what happens to a call: every decision, as pure functions |
//! | `server/handshake.rs` | opening, resuming, restoring and ending sessions |
//! | `server/sharing.rs` | sessions that move between servers with the same records |
//! | `server/receive.rs` | frames that come |
//! | `server/admit.rs` | requests that are known, admitted or refused |
//! | `server/incoming.rs` | what they bring for the owner |
//! | `server/notice.rs` | what was decided about the frame that is handled, for logs |
//! | `server/metadata.rs` | requests with metadata |
//! | `server/long.rs` | long requests while they come |
//! | `server/execute.rs` | from admission to reply |
//! | `server/finish.rs` | how a call ends, and replies that leave at once |
//! | `server/held.rs` | held calls in the order of their xids |
//! | `server/replies.rs` | memory for calls and replies, and their discard |
//! | `server/quota.rs` | each principal's share of connections and sessions |
//! | `server/inspect.rs` | what it has, for people to look at |
//! | `server/transmit.rs` | what it asks of its owner: events, and frames to send |

mod admit;
mod config;
mod conn;
mod dedup;
mod event;
mod execute;
mod finish;
mod handshake;
mod held;
mod incoming;
mod inspect;
mod long;
mod metadata;
mod notice;
mod quota;
mod receive;
mod replies;
mod session;
mod sharing;
mod slot;
mod timers;
mod transmit;

use core::time::Duration;

pub use config::{MethodSpec, ServerConfig, ServerError};
use conn::Conn;
pub use event::{Notice, ServerCounters, ServerEvent, SessionEnd, Verdict};
pub use execute::{
    Admission, CallKey, CallRecord, CallRefused, RecordState, ReplyTooLarge, Running,
};
pub use handshake::SessionRecord;
pub use incoming::{Incoming, Request};
pub use inspect::SessionSummary;
use quota::PrincipalQuota;
use session::{Calls, Session};
pub use sharing::Claimed;
use slot::Slot;

use crate::error::CloseReason;
use crate::ids::{ConnId, Principal, SessionId, SessionKey};
use crate::keepalive;
use crate::storage::list::{List, NIL};
use crate::storage::{Array, Index, Places, ServerStorage, Table};
use crate::time::Instant;
use crate::wire::Refuse;
use conn::{KEEPALIVE, Phase, TIMER, Woken};
use session::LEASE;
use transmit::has_to_send;

#[derive(Debug)]
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
struct Drain {
    began: Instant,
    until: Instant,
    /// The grace is over: what still runs is not waited for.
    over: bool,
    /// [`ServerEvent::Drained`] was polled.
    reported: bool,
}

type Methods<T> = <T as ServerStorage>::Methods<MethodSpec>;
type Conns<T> = <T as ServerStorage>::Conns<Conn<<T as ServerStorage>::Body>>;
type Sessions<T> = <T as ServerStorage>::Sessions<Session<T>>;
type Quotas<T> = <T as ServerStorage>::Quotas<PrincipalQuota>;

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
/// let methods = [MethodSpec::new(MethodId::of("toy/add_one"))];
/// let server = ServerId::from_bytes([7; 16]);
/// let config = ServerConfig::new(server, ServiceName::new("toy").unwrap());
/// let mut server: Server<Heap> = Server::new(config, &methods).unwrap();
/// // In earnest, the secret is 128 random bits.
/// let secret = SessionId::from_bytes([1; 16]);
/// let conn = server.handle_connected(Instant::ZERO, Principal::ANONYMOUS, secret).unwrap();
/// assert!(server.handle_data(Instant::ZERO, conn, b"GET / HTTP/1.1\r\n").is_err());
/// ```
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct Server<T: ServerStorage> {
    config: ServerConfig,
    now: Instant,
    methods: Methods<T>,
    conns: Conns<T>,
    sessions: Sessions<T>,
    /// Sessions by the first half of their ids.
    session_index: T::Index,
    quotas: Quotas<T>,
    /// Shares by principal.
    quota_index: T::Index,
    /// How often peers are looked at: as the least patient session has it.
    check_period: Duration,
    /// Connections by their next look.
    keepalives: List<KEEPALIVE>,
    /// Connections that have not said `Hello`, by when they were made.
    greeting: List<TIMER>,
    /// Connections with an incomplete frame, by when it last got on.
    receiving: List<TIMER>,
    /// Connections with an event to poll.
    woken: Woken,
    /// Sessions without a connection, by the end of their lease.
    leases: List<LEASE>,
    /// The same for those that never carried a request.
    leases_unused: List<LEASE>,
    /// Sessions in which something runs that is not wanted any more, and whose event was not polled.
    abandoned: List<LEASE>,
    /// Sessions that have ended and whose event was not polled.
    ended: List<LEASE>,
    /// The longest lease ever granted to a session that lives: leases end in the order in which they began.
    lease: Duration,
    drain: Option<Drain>,
    /// `Hello`s that wanted a session to be claimed (S34).
    hellos: u64,
    /// Slots held in all sessions.
    held: u64,
    ledger_failed: bool,
    /// What was decided about the frame that is handled.
    notice: Option<Notice>,
    counters: ServerCounters,
}

impl<T: ServerStorage> Server<T> {
    /// A server that offers `methods`.
    ///
    /// # Errors
    /// If two methods have the same number, or there are too many for the storage.
    pub fn new(config: ServerConfig, methods: &[MethodSpec]) -> Result<Server<T>, ServerError> {
        let mut table = Methods::<T>::default();
        for (at, method) in methods.iter().enumerate() {
            *table.at_or_grow(at as u32).ok_or(ServerError::TooManyMethods)? = *method;
        }
        table.sort_unstable_by_key(|method| method.id);
        let mut pairs = table.windows(2);
        if let Some(twice) = pairs.find(|pair| pair[0].id == pair[1].id) {
            return Err(ServerError::DuplicateMethod(twice[0].id));
        }
        Ok(Server {
            config: config.with_floors(),
            now: Instant::ZERO,
            methods: table,
            conns: Conns::<T>::default(),
            sessions: Sessions::<T>::default(),
            session_index: T::Index::default(),
            quotas: Quotas::<T>::default(),
            quota_index: T::Index::default(),
            check_period: keepalive::check_period(config.keepalive),
            keepalives: List::default(),
            greeting: List::default(),
            receiving: List::default(),
            woken: Woken::default(),
            leases: List::default(),
            leases_unused: List::default(),
            abandoned: List::default(),
            ended: List::default(),
            lease: config.lease,
            drain: None,
            hellos: 0,
            held: 0,
            ledger_failed: false,
            notice: None,
            counters: ServerCounters::default(),
        })
    }

    /// The methods, sorted by number: [`Request::method_index`] counts in this order.
    pub fn methods(&self) -> &[MethodSpec] {
        &self.methods
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
        self.advance_clock(now);
        if self.drain.as_ref().is_some_and(|drain| drain.over) {
            // A drain waits for all connections, and nothing would end it.
            return None;
        }
        let key = self.insert_conn(principal, secret);
        match key {
            Some(key) => {
                self.greeting.push_back(&mut self.conns, key.index);
                self.schedule_check(key.index);
            }
            None => self.counters.conns_refused += 1,
        }
        key.map(ConnId)
    }

    /// The connection is gone. What it left half-sent is dropped; its session waits for a resume.
    pub fn handle_disconnected(&mut self, now: Instant, conn: ConnId) {
        self.advance_clock(now);
        if self.conns.contains(conn.0) {
            self.unbind(conn.0.index);
            self.remove_conn(conn.0.index);
        }
    }

    /// The link of a connection has moved bytes that neither [`handle_data`](Server::handle_data) nor
    /// [`poll_transmit`](Server::poll_transmit) sees: it had no room for all that was sent, and has taken more of it; or
    /// it gives out whole frames only, and has received a part of one. The client is alive, though it may say nothing
    /// (S20).
    pub fn handle_progress(&mut self, now: Instant, conn: ConnId) {
        self.advance_clock(now);
        if let Some(conn) = self.conns.get_mut(conn.0) {
            conn.keepalive.on_progress();
        }
    }

    /// Says `Goodbye` to every client, refuses what is not started, and waits for clients to acknowledge what is
    /// kept for them, but no longer than `grace` (S25). Clients that lost their connection less than a keepalive's time ago
    /// are waited for as well, unless a ledger keeps their sessions; and while there is a session, so is the `Hello` of a connection
    /// that has said nothing, for the time of a handshake. [`ServerEvent::Drained`] says when it is over.
    ///
    /// Visits all connections: once now, and once more if the grace ends.
    pub fn drain(&mut self, now: Instant, grace: Duration) {
        self.advance_clock(now);
        if self.drain.is_some() {
            return;
        }
        let (began, until) = (self.now, self.now + grace);
        self.drain = Some(Drain { began, until, over: false, reported: false });
        for index in 0..self.conns.high_water() {
            let Some(conn) = self.conns.at_mut(index) else { continue };
            if conn.session.is_some() {
                conn.send.goodbye = true;
                self.wake(index);
            } else if !self.may_still_resume(index) {
                self.close_conn(index, CloseReason::Refused(Refuse::ShuttingDown));
            }
        }
    }

    /// Whether a connection without a session may get one at a server that drains: its client may come back to one that is
    /// here (W36).
    fn may_still_resume(&self, index: u32) -> bool {
        self.conns.at(index).is_some_and(|conn| match conn.phase {
            Phase::AwaitingHello => true,
            Phase::AwaitingSession { .. } => {
                self.find_session(self.known_by(conn.secret)).is_some()
            }
            _ => false,
        })
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
        let lost = last.filter_map(|index| Some(self.sessions.live(index)?.disconnected_at));
        Some(lost.max()? + self.config.keepalive)
    }

    /// S31: the ledger cannot write. From now on new calls are refused; the driver leaves the others unanswered. New sessions, which no
    /// record would know, are refused too, as are those whose record was not [confirmed](Server::confirm_session): their clients go to
    /// another server, or wait for one. Visits every connection.
    pub fn fail_ledger(&mut self) {
        self.ledger_failed = true;
        for index in 0..self.conns.high_water() {
            let unrecorded = |conn: &Conn<_>| matches!(conn.phase, Phase::AwaitingRecord { .. });
            if self.conns.at(index).is_some_and(unrecorded) {
                self.close_conn(index, CloseReason::Refused(Refuse::ShuttingDown));
            }
        }
    }

    /// How far the ledger has come, for the `Welcome`s to come (S32).
    pub fn set_commit(&mut self, commit: u64) {
        self.config.commit = self.config.commit.max(commit);
    }

    /// The session to which a connection is bound.
    pub fn session_of(&self, conn: ConnId) -> Option<SessionKey> {
        let index = self.conns.get(conn.0)?.session?;
        self.sessions.key_at(index).map(SessionKey)
    }

    /// The principal of a connection.
    pub fn principal_of(&self, conn: ConnId) -> Option<Principal> {
        self.conns.get(conn.0).map(|conn| conn.principal)
    }

    /// Whether there are connections or sessions of a principal.
    pub fn knows(&self, principal: Principal) -> bool {
        self.quota_index.find(principal.0).is_some()
    }

    /// Whether calls are admitted or running.
    pub fn is_busy(&self) -> bool {
        self.counters.running > 0
    }

    /// What the server holds and has done.
    pub fn counters(&self) -> ServerCounters {
        ServerCounters { sessions: self.sessions.len(), conns: self.conns.len(), ..self.counters }
    }

    #[inline]
    fn advance_clock(&mut self, now: Instant) {
        if now > self.now {
            self.now = now.min(Instant::LAST);
        }
    }

    /// Puts a connection on the list of those with an event.
    fn wake(&mut self, index: u32) {
        self.woken.push(&mut self.conns, index);
    }

    /// What a client reads of why its connection is closed.
    fn refuse_for(&self, reason: CloseReason) -> Option<Refuse> {
        match reason {
            CloseReason::Protocol(error) => Some(Refuse::Protocol(error.code())),
            CloseReason::Refused(refuse) => Some(refuse),
            CloseReason::TooSlow => Some(Refuse::TooSlow),
            CloseReason::WrongService { .. } | CloseReason::WrongServer { .. } => {
                let (service, server) = (self.config.service, self.config.server);
                Some(Refuse::WrongServer { service, server })
            }
            CloseReason::PeerSilent | CloseReason::Goodbye | CloseReason::NoRoom => None,
        }
    }

    /// Ends a connection from our side: the reason is still sent, nothing else is, and nothing more is read.
    fn close_conn(&mut self, index: u32, reason: CloseReason) {
        // Into the middle of a reply nothing else can be put.
        let half_sent = self.conns.live(index).is_some_and(|conn| conn.partial.is_some());
        let refuse = !half_sent && self.refuse_for(reason).is_some();
        self.unbind(index);
        self.keepalives.unlink(&mut self.conns, index);
        self.stop_timer(index);
        let Some(conn) = self.conns.live_mut(index) else { return };
        if conn.closing().is_some() {
            return;
        }
        conn.phase = Phase::Closing(reason);
        self.counters.note_close(&reason);
        conn.send = conn::PendingControl { refuse, ..conn::PendingControl::default() };
        self.wake(index);
    }

    /// The same once every answer that waits has left. They are kept, but a client that comes back for them sends what
    /// had it closed along with its questions: closed at once it never learned the outcomes of its other calls.
    fn close_when_sent(&mut self, index: u32, reason: CloseReason) {
        let Some(conn) = self.conns.live_mut(index) else { return };
        if conn.partial.is_some() || has_to_send::<T>(conn, &self.sessions) {
            conn.phase = Phase::Finishing(reason);
            self.wake(index);
        } else {
            self.close_conn(index, reason);
        }
    }

    fn remove_conn(&mut self, index: u32) {
        self.keepalives.unlink(&mut self.conns, index);
        self.stop_timer(index);
        self.woken.remove(&mut self.conns, index);
        if let Some(conn) = self.conns.remove(index) {
            self.leave_quota(conn.quota);
        }
    }

    /// Parts a session from its connection: its lease begins; or it ends, if its client never learned of it.
    fn unbind(&mut self, conn_index: u32) {
        self.end_coming(conn_index);
        let Some(conn) = self.conns.live_mut(conn_index) else { return };
        let partial = conn.partial.take();
        let phase = conn.phase;
        let Some(session_index) = conn.session.take() else { return };
        if let Some(mut view) = self.view(session_index) {
            debug_assert!(
                view.session.conn == conn_index,
                "a session and its connection know each other"
            );
            if let Some(partial) = &partial {
                view.release_partial(partial);
            }
            view.unqueue_replies();
            view.release_if_idle();
        }
        let now = self.now;
        let Some(session) = self.sessions.live_mut(session_index) else { return };
        session.conn = NIL;
        session.disconnected_at = now;
        if session.state.is_open() {
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
                self.close_conn(index, CloseReason::Refused(Refuse::ShuttingDown));
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
