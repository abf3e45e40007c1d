//! Opening, resuming, restoring and ending sessions.

use super::conn::Phase;
use super::event::Notice;
use super::session::{Reach, Session, SessionState, Slots};
use super::{Conn, Server, dedup};
use crate::error::{CloseReason, ProtocolError};
use crate::ids::{ConnId, Principal, SessionId, SessionKey, SessionTag};
use crate::keepalive;
use crate::storage::list::NIL;
use crate::storage::{Array, Body, Index, Places, ServerStorage, Table};
use crate::wire::{self, Grants, Hello, Refuse, Resume, Welcome};

/// What a ledger knows of a session (S30).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub struct SessionRecord {
    /// Its id, or the hash of it where sessions are known by that
    /// ([`ServerConfig::session_hash`](crate::ServerConfig::session_hash)).
    pub id: SessionId,
    /// Whose it is.
    pub principal: Principal,
    /// What it was granted.
    pub grants: Grants,
    /// The highest xid read in it, or less.
    pub seen: u64,
    /// What its client has acknowledged, or less.
    pub acked: u64,
}

/// W29: why a client is refused whose token its owner does not know.
fn not_identified(hello: &Hello) -> CloseReason {
    CloseReason::Refused(match hello.token {
        Some(_) => Refuse::TokenUnknown,
        None => Refuse::TokenMissing,
    })
}

/// Second copies of `Hello`s that are dropped on one connection of a lossy link.
const LATE_HELLOS_MAX: u8 = 8;

/// Which table has no room for another session.
#[derive(Clone, Copy, Debug)]
enum Full {
    Sessions,
    Principal,
}

impl<T: ServerStorage> Server<T> {
    /// Puts back a session that a ledger has kept; its lease is a full one from now (S6). Its calls are put back with
    /// [`restore_call`](Server::restore_call).
    ///
    /// `None`, and nothing done, if it cannot be honoured: the id is taken, the table is full, or the storage has
    /// fewer slots or shorter bodies than were granted. Its client gets `SessionUnknown` (C67).
    pub fn restore_session(
        &mut self,
        now: crate::time::Instant,
        record: SessionRecord,
    ) -> Option<SessionKey> {
        self.advance_clock(now);
        let slots = u64::from(record.grants.slots);
        let fits = slots >= 1
            && slots <= (Slots::<T>::CAPACITY as u64).min(65_536)
            && record.grants.reply_len_max as usize <= T::Body::LEN_MAX;
        if !fits {
            return None;
        }
        let index = self.insert_session(record.id, record.principal, record.grants).ok()?;
        let lease = core::time::Duration::from_millis(u64::from(record.grants.lease_ms));
        self.lease = self.lease.max(lease);
        let keepalive = keepalive::from_millis(record.grants.keepalive_ms);
        self.check_period = self.check_period.min(keepalive::check_period(keepalive));
        let now = self.now;
        let session = self.sessions.live_mut(index)?;
        session.seen = record.seen;
        session.acked = record.acked;
        session.reach = Reach::Used;
        session.disconnected_at = now;
        self.leases.push_back(&mut self.sessions, index);
        self.sessions.key_at(index).map(SessionKey)
    }

    /// What a ledger should know of a session. `None` if it has ended: the share that it had may be another principal's.
    pub fn session_record(&self, key: SessionKey) -> Option<SessionRecord> {
        let session = self.sessions.live(self.live_session(key)?)?;
        Some(SessionRecord {
            id: session.id,
            principal: self.quotas.live(session.quota)?.principal,
            grants: session.grants(),
            seen: session.seen,
            acked: session.acked,
        })
    }

    /// The name for logs of the session that this connection is bound to: the same as at its client, also where the server knows
    /// sessions by a hash.
    pub fn session_tag(&self, conn: ConnId) -> Option<SessionTag> {
        let conn = self.conns.get(conn.0).filter(|conn| conn.session.is_some())?;
        Some(conn.secret.tag())
    }

    /// What sessions are known by here: their id, or a hash of it.
    pub(super) fn known_by(&self, id: SessionId) -> SessionId {
        self.config.session_hash.map_or(id, |hash| hash(id))
    }

    /// The record of the session that was opened on this connection is stable: its `Welcome` may leave. Nothing happens
    /// if the connection is gone: its client never learned the session's id.
    pub fn confirm_session(&mut self, conn: ConnId) {
        let Some(live) = self.conns.get_mut(conn.0) else { return };
        if !matches!(live.phase, Phase::AwaitingRecord { .. }) {
            return;
        }
        live.phase = Phase::WelcomeDue { opened: true };
        if let Some(session) = live.session {
            self.note_recorded(session);
        }
        self.wake(conn.0.index);
    }

    /// A session that has a connection is on a disk, a ledger's or its client's: its lease will be the full one.
    fn note_recorded(&mut self, index: u32) {
        if let Some(session) = self.sessions.live_mut(index)
            && session.reach == Reach::Unused
        {
            session.reach = Reach::Recorded;
        }
    }

    pub(super) fn handle_hello(&mut self, index: u32, hello: &Hello) -> Result<(), ProtocolError> {
        let Some(conn) = self.conns.live(index) else { return Ok(()) };
        if let Some(session) = conn.session {
            return self.handle_hello_again(index, session, hello);
        }
        if let Phase::AwaitingSession { .. } = conn.phase {
            return self.want_again(index, hello);
        }
        debug_assert!(
            conn.phase == Phase::AwaitingHello,
            "it has neither session nor reason to close"
        );
        if !(hello.version_min..=hello.version_max).contains(&wire::VERSION) {
            let (min, max) = (wire::VERSION, wire::VERSION);
            self.close_conn(index, CloseReason::Refused(Refuse::VersionUnsupported { min, max }));
            return Ok(());
        }
        // W29: a stranger learns nothing of the rest.
        let unidentified = self.config.demands_tokens && !conn.identified;
        if let Some(reason) = unidentified.then(|| not_identified(hello)) {
            self.close_conn(index, reason);
            return Ok(());
        }
        if let Some(reason) = self.mismatch(hello) {
            self.close_conn(index, reason);
            return Ok(());
        }
        if let Some(conn) = self.conns.live_mut(index) {
            let token = if conn.identified { wire::FEATURE_TOKEN } else { 0 };
            conn.features = hello.features & (wire::FEATURES & !wire::FEATURE_TOKEN | token);
        }
        match hello.resume {
            Some(resume) if self.config.shares_records => self.want_session(index, &resume),
            Some(resume) => {
                self.resume(index, &resume)?;
                self.note_resumed(index);
            }
            None => {
                self.open(index, hello);
                self.note_bound(index, Notice::Opened);
            }
        }
        Ok(())
    }

    pub(super) fn note_resumed(&mut self, index: u32) {
        self.note_bound(index, Notice::Resumed);
    }

    fn note_bound(&mut self, index: u32, notice: Notice) {
        if self.conns.live(index).is_some_and(|conn| conn.session.is_some()) {
            self.note(notice);
        }
    }

    /// S27: on a lossy link the answer to a `Hello` may be lost, and the `Hello` come again; or it is delivered twice. A
    /// second copy may come behind requests: a few such are dropped. A client that says it again and again is another one,
    /// which took the place of the first without a word, and has to connect (error 7).
    fn handle_hello_again(
        &mut self,
        index: u32,
        session: u32,
        hello: &Hello,
    ) -> Result<(), ProtocolError> {
        let session = self.sessions.live(session).ok_or(ProtocolError::SecondHello)?;
        let Some(conn) = self.conns.live_mut(index).filter(|_| self.config.lossy) else {
            return Err(ProtocolError::SecondHello);
        };
        match hello.resume {
            Some(resume) if resume.session != conn.secret => {
                return Err(ProtocolError::SecondHello);
            }
            None if session.reach == Reach::Used => {
                if conn.late_hellos == LATE_HELLOS_MAX {
                    return Err(ProtocolError::SecondHello);
                }
                conn.late_hellos += 1;
            }
            _ => {
                // One that has not left yet is enough.
                conn.send.welcome_again = conn.phase == Phase::Up;
                self.wake(index);
            }
        }
        Ok(())
    }

    /// S7: whether we are the one that the client demands.
    fn mismatch(&self, hello: &Hello) -> Option<CloseReason> {
        if let Some(wanted) = hello.service.filter(|wanted| *wanted != self.config.service) {
            return Some(CloseReason::WrongService { wanted, found: self.config.service });
        }
        let wanted = hello.server.filter(|wanted| *wanted != self.config.server)?;
        Some(CloseReason::WrongServer { wanted, found: self.config.server })
    }

    fn open(&mut self, index: u32, hello: &Hello) {
        // Without its record the next server would not know the session (S31).
        let unrecorded = self.ledger_failed && self.config.records_sessions;
        if self.drain.is_some() || unrecorded {
            self.close_conn(index, CloseReason::Refused(Refuse::ShuttingDown));
            return;
        }
        let Some(conn) = self.conns.live(index) else { return };
        let grants = self.grant(hello);
        if !self.may_open(conn.principal) {
            self.close_conn(index, CloseReason::Refused(Refuse::PrincipalFull));
            return;
        }
        match self.insert_session(self.known_by(conn.secret), conn.principal, grants) {
            Ok(session) if self.config.records_sessions => {
                self.bind(index, session, Phase::AwaitingRecord { asked: false });
            }
            Ok(session) => self.bind(index, session, Phase::WelcomeDue { opened: true }),
            Err(Full::Sessions) => {
                self.close_conn(index, CloseReason::Refused(Refuse::SessionsFull));
            }
            Err(Full::Principal) => {
                self.close_conn(index, CloseReason::Refused(Refuse::PrincipalFull));
            }
        }
    }

    fn grant(&self, hello: &Hello) -> Grants {
        let millis = |duration: core::time::Duration| {
            u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
        };
        let mut keepalive = self.config.keepalive;
        if hello.features & wire::FEATURE_PATIENT != 0 {
            keepalive = keepalive.max(self.config.keepalive_max);
        }
        let storage = u32::try_from(Slots::<T>::CAPACITY).unwrap_or(u32::MAX);
        let body = u32::try_from(T::Body::LEN_MAX).unwrap_or(u32::MAX);
        Grants {
            slots: self.config.slots.min(hello.slots).min(storage).clamp(1, 65_536),
            request_len_max: self.config.request_len_max.min(hello.request_len_max),
            reply_len_max: self.config.reply_len_max.min(hello.reply_len_max).min(body),
            lease_ms: millis(self.config.lease),
            keepalive_ms: keepalive::millis(keepalive),
        }
    }

    /// S6: makes room for a session, or says why there is none.
    fn insert_session(
        &mut self,
        id: SessionId,
        principal: Principal,
        grants: Grants,
    ) -> Result<u32, Full> {
        let full = Full::Sessions;
        if self.sessions.len() >= self.config.sessions_max {
            return Err(full);
        }
        let known = self.known_quota(principal).map_or(0, |quota| quota.sessions);
        if known >= self.config.sessions_per_principal_max {
            return Err(Full::Principal);
        }
        let quota = self.quota_of(principal).ok_or(full)?;
        let inserted = self.sessions.insert(Session::new(id, quota, grants));
        let indexed = inserted.filter(|key| self.session_index.insert(id.prefix(), key.index));
        if let (Some(key), None) = (inserted, indexed) {
            // Two ids with the same first half: as good as never, and the next attempt has another id.
            self.sessions.remove(key.index);
        }
        match indexed {
            Some(key) => {
                if let Some(quota) = self.quotas.live_mut(quota) {
                    quota.sessions += 1;
                }
                Ok(key.index)
            }
            None => {
                self.drop_quota_if_unused(quota);
                Err(full)
            }
        }
    }

    pub(super) fn resume(&mut self, index: u32, resume: &Resume) -> Result<(), ProtocolError> {
        let Some(conn) = self.conns.live(index) else { return Ok(()) };
        let principal = conn.principal;
        let id = self.known_by(resume.session);
        let found = self.session_index.find(id.prefix());
        let known = found.and_then(|at| self.sessions.live(at).map(|session| (at, session)));
        let Some((at, session)) = known.filter(|(_, session)| {
            session.id == id
                && session.state.may_resume()
                // It ends with its connection: to bind it to this one would bring an ended session back.
                && self.conns.at(session.conn).is_none_or(|conn| !conn.phase.owes_first_welcome())
        }) else {
            self.close_conn(index, CloseReason::Refused(Refuse::SessionUnknown));
            return Ok(());
        };
        if self.quotas.live(session.quota).is_none_or(|quota| quota.principal != principal) {
            self.close_conn(index, CloseReason::Refused(Refuse::WrongPrincipal));
            return Ok(());
        }
        if self.conns.at(session.conn).is_some_and(|bound| bound.hello > conn.hello) {
            // S4: while this one waited for the claim, a newer handshake was answered.
            self.close_conn(index, CloseReason::Refused(Refuse::Superseded));
            return Ok(());
        }
        if let Some(mut view) = self.view(at) {
            view.acknowledge(resume.acked)?;
            view.session.seen = dedup::seen_by_resume(&view.facts(), resume.acked);
            view.release_if_idle();
        }
        self.counters.resumes += 1;
        if let Some(conn) = self.conns.live_mut(index) {
            conn.secret = resume.session;
        }
        self.bind(index, at, Phase::WelcomeDue { opened: false });
        Ok(())
    }

    /// S4: the newest handshake wins.
    fn bind(&mut self, conn_index: u32, session_index: u32, phase: Phase) {
        let Some(session) = self.sessions.live(session_index) else { return };
        if session.conn != NIL {
            self.close_conn(session.conn, CloseReason::Refused(Refuse::Superseded));
        }
        debug_assert!(self.conns.live(conn_index).is_some_and(|conn| conn.session.is_none()));
        self.unlink_lease(session_index);
        let draining = self.drain.is_some();
        let Some(session) = self.sessions.live_mut(session_index) else { return };
        debug_assert!(
            session.conn == NIL && session.state.may_resume(),
            "one connection a session"
        );
        session.conn = conn_index;
        session.epoch = session.epoch.wrapping_add(1);
        session.state = SessionState::Open;
        let request_len_max = session.grants().request_len_max;
        self.stop_timer(conn_index);
        let Some(conn) = self.conns.live_mut(conn_index) else { return };
        conn.session = Some(session_index);
        conn.request_len_max.0 = request_len_max;
        conn.phase = phase;
        conn.send.goodbye = draining;
        let durable = conn.features & wire::FEATURE_DURABLE != 0;
        // Before its own record is stable its client does not know it.
        if durable && matches!(phase, Phase::WelcomeDue { .. }) {
            self.note_recorded(session_index);
        }
        self.wake(conn_index);
    }

    pub(super) fn welcome(&self, conn: &Conn<T::Body>) -> Option<Welcome> {
        let session = self.sessions.live(conn.session?)?;
        Some(Welcome {
            version: wire::VERSION,
            features: conn.features,
            server: self.config.server,
            service: self.config.service,
            session: conn.secret,
            seen: session.seen,
            commit: self.config.commit,
            grants: session.grants(),
            instance: self.config.instance,
            schemas: self.config.schemas,
        })
    }

    /// S6: the lease of a session is over, or its client has said `Goodbye` and nothing is left.
    pub(super) fn end_session(&mut self, index: u32) {
        self.unlink_lease(index);
        let Some(session) = self.sessions.live_mut(index) else { return };
        if session.running() > 0 {
            session.state = SessionState::Expired;
            self.abandoned.push_back(&mut self.sessions, index);
        } else {
            self.drop_session(index);
        }
    }

    /// S10, S34: ends a session that cannot be resumed here; what runs in it finishes first.
    pub(super) fn abort_session(&mut self, index: u32, state: SessionState) {
        self.unlink_lease(index);
        let Some(session) = self.sessions.live_mut(index) else { return };
        debug_assert!(session.state.may_resume(), "it is ended for cause once");
        self.session_index.remove(session.id.prefix());
        session.state = state;
        if session.running() > 0 {
            self.abandoned.push_back(&mut self.sessions, index);
        } else {
            self.drop_session(index);
        }
    }

    fn unlink_lease(&mut self, index: u32) {
        let Some(session) = self.sessions.live(index) else { return };
        let list = match session.state {
            SessionState::Ended(_) => return,
            SessionState::Expired | SessionState::Aborting | SessionState::Yielded => {
                &mut self.abandoned
            }
            SessionState::Open | SessionState::Closing if session.reach.has_full_lease() => {
                &mut self.leases
            }
            SessionState::Open | SessionState::Closing => &mut self.leases_unused,
        };
        list.unlink(&mut self.sessions, index);
    }

    /// A call of the session has finished, or something of it was acknowledged or has left: an end that waited for it may
    /// come.
    #[inline]
    pub(super) fn end_if_due(&mut self, index: u32) {
        if self.sessions.live(index).is_some_and(|session| session.state != SessionState::Open) {
            self.end_if_over(index);
        }
    }

    #[cold]
    fn end_if_over(&mut self, index: u32) {
        let Some(session) = self.sessions.live(index) else { return };
        // W62: something is kept, or an answer is still to be sent or half sent.
        let half_sent = self.conns.at(session.conn).is_some_and(|conn| conn.partial.is_some());
        let owes = half_sent || !session.holds_nothing();
        if session.state.is_over(session.running(), owes) {
            self.drop_session(index);
        }
    }

    fn drop_session(&mut self, index: u32) {
        let conn = self.sessions.live(index).map_or(NIL, |session| session.conn);
        if conn != NIL {
            self.close_conn(conn, CloseReason::Goodbye);
        }
        self.unlink_lease(index);
        let Some(session) = self.sessions.live_mut(index) else { return };
        if session.state.is_ended() {
            return;
        }
        if !session.state.is_aborting() {
            self.session_index.remove(session.id.prefix());
        }
        debug_assert!(session.conn == NIL && session.running() == 0, "nothing runs or is bound");
        session.state = SessionState::Ended(session.state.end());
        let (mut held, mut kept, mut requests, mut tables) = (0, 0, 0, 0);
        if let Some(calls) = session.calls.as_deref() {
            (kept, requests) = (calls.kept_bytes, calls.request_bytes);
            tables = u64::from(calls.table_bytes);
            held = u64::from(calls.held.len());
        }
        session.calls = None;
        let quota_index = session.quota;
        self.held -= held;
        self.counters.kept_bytes -= kept;
        self.counters.request_bytes -= requests;
        self.counters.table_bytes -= tables;
        if let Some(quota) = self.quotas.live_mut(quota_index) {
            quota.sessions -= 1;
            quota.kept_bytes -= kept;
            quota.request_bytes -= requests + tables;
        }
        self.drop_quota_if_unused(quota_index);
        self.ended.push_back(&mut self.sessions, index);
    }
}
