//! One server of a recording: the real machine, given what the recorded one was given.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use oncewire_core::wire::{self, Decoded, Frame, Role, Welcome};
use oncewire_core::{
    Admission, CallRecord, ConnId, Heap, Incoming, Instant, MethodSpec, NEVER, NoReply,
    NotExecuted, Notice, Principal, RecordState, Running, Server, ServerConfig, ServerEvent,
    ServerId, ServiceName, SessionId, SessionRecord, Status, Verdict, Xid, digest,
};

use super::answer::{Answer, describe};
use super::facts::{Facts, ServerFacts, SessionBits};
use super::step::{Decision, StepKind};
use crate::format::{BODY_LEN_MAX, Record};

/// Bytes of kept replies, and of requests, that a replayed server may hold.
const MEMORY_MAX: u64 = 256 << 20;

/// Something that a server does, with the call and the connection that it is about.
pub(super) type Done = (Option<u64>, Option<u64>, StepKind);

/// A call that the server has and that is not finished.
#[derive(Debug)]
enum Open {
    /// The recording says that it will be refused.
    Admitted(Admission),
    Running(Running),
}

#[derive(Debug)]
struct Conn {
    id: Option<ConnId>,
    session: Option<SessionBits>,
    unread: Vec<u8>,
    answers: VecDeque<Answer>,
    /// The machine has said that it closes it.
    closed: bool,
}

/// A server that is run again.
pub(super) struct ServerReplay {
    index: usize,
    server: Server<Heap>,
    conns: BTreeMap<u64, Conn>,
    open: BTreeMap<(SessionBits, u64), Open>,
    /// Sessions that it has.
    sessions: BTreeSet<SessionBits>,
    /// The last connection of each session.
    homes: BTreeMap<SessionBits, u64>,
    /// Requests that came, by what they were: for the digests of calls that are restored.
    digests: BTreeMap<(SessionBits, u64), u64>,
    is_draining: bool,
    done: Vec<Done>,
}

/// Where in the recording the replay is.
pub(super) struct At<'r> {
    pub(super) facts: &'r Facts,
    pub(super) records: &'r [Record],
    pub(super) moment: usize,
    pub(super) now: Instant,
}

fn config_of(facts: &ServerFacts) -> Option<ServerConfig> {
    let mut config = match &facts.welcome {
        Some(welcome) => ServerConfig::new(welcome.server, welcome.service),
        None => ServerConfig::new(ServerId::from_bytes([0; 16]), ServiceName::new("unknown")?),
    };
    if let Some(welcome) = &facts.welcome {
        (config.instance, config.schemas) = (welcome.instance, welcome.schemas);
        config.slots = welcome.grants.slots;
        config.request_len_max = welcome.grants.request_len_max;
        config.reply_len_max = welcome.grants.reply_len_max;
        config.lease = std::time::Duration::from_millis(u64::from(welcome.grants.lease_ms));
    }
    // What the recorded server gave up or had no room for, the recording says.
    (config.keepalive, config.keepalive_max) = (NEVER, NEVER);
    (config.handshake_timeout, config.frame_timeout) = (NEVER, NEVER);
    for budget in [
        &mut config.kept_per_session_max,
        &mut config.kept_per_principal_max,
        &mut config.kept_max,
        &mut config.requests_per_session_max,
        &mut config.requests_per_principal_max,
        &mut config.requests_max,
    ] {
        *budget = MEMORY_MAX;
    }
    config.lossy = facts.lossy;
    config.notices = true;
    Some(config)
}

impl ServerReplay {
    pub(super) fn new(index: usize, facts: &ServerFacts) -> Option<ServerReplay> {
        let methods: Vec<MethodSpec> = facts
            .methods
            .iter()
            .filter(|(_, method)| method.known)
            .map(|(id, facts)| {
                let mut method = MethodSpec::new(*id);
                method.idempotent = facts.idempotent;
                method.reply_len_max = facts.reply_len_max.min(crate::replay::BODY_LEN_MAX as u32);
                method
            })
            .collect();
        Some(ServerReplay {
            index,
            server: Server::new(config_of(facts)?, &methods).ok()?,
            conns: BTreeMap::new(),
            open: BTreeMap::new(),
            sessions: BTreeSet::new(),
            homes: BTreeMap::new(),
            digests: BTreeMap::new(),
            is_draining: false,
            done: Vec::new(),
        })
    }

    /// What it has done since the last time.
    pub(super) fn take_done(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.done)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.server.poll_timeout()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.server.handle_timeout(now);
        self.settle(now);
    }

    /// A connection is made.
    pub(super) fn connected(&mut self, at: &At<'_>, conn: u64) {
        let welcome = at.facts.conns.get(&conn).and_then(|conn| conn.welcome);
        let secret = welcome.map(|welcome| welcome.session).unwrap_or_else(|| {
            // No client will know it.
            let mut bits = [0xff; 16];
            bits[..8].copy_from_slice(&conn.to_le_bytes());
            SessionId::from_bytes(bits)
        });
        let id = self.server.handle_connected(at.now, Principal::ANONYMOUS, secret);
        let conn_state =
            Conn { id, session: None, unread: Vec::new(), answers: VecDeque::new(), closed: false };
        self.conns.insert(conn, conn_state);
        self.settle(at.now);
    }

    /// A connection is gone.
    pub(super) fn disconnected(&mut self, now: Instant, conn: u64) {
        if let Some(Conn { id: Some(id), .. }) = self.conns.remove(&conn) {
            self.server.handle_disconnected(now, id);
        }
        self.settle(now);
    }

    /// A frame of a client has arrived.
    pub(super) fn received(&mut self, at: &At<'_>, conn: u64, frame: &Frame<'_>, bytes: &[u8]) {
        let Some(Conn { id: Some(id), closed: false, .. }) = self.conns.get(&conn) else { return };
        let id = *id;
        self.prepare(at, conn, frame);
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.server.handle_data(at.now, id, rest) {
                Ok(received) => {
                    let took = received.consumed;
                    if let Some(item) = received.item {
                        self.take_item(at, conn, item);
                    } else if took == 0 {
                        break;
                    }
                    rest = &rest[took..];
                }
                Err(error) => {
                    let text = format!("the client has broken the protocol: {error}");
                    self.say(Some(conn), None, StepKind::Event(Role::Server, text));
                    break;
                }
            }
        }
        self.settle(at.now);
    }

    fn say(&mut self, conn: Option<u64>, xid: Option<u64>, kind: StepKind) {
        self.done.push((conn, xid, kind));
    }

    /// What the recording knows of a session or a call that the machine cannot know, because it was before the recording.
    fn prepare(&mut self, at: &At<'_>, conn: u64, frame: &Frame<'_>) {
        let session = self.conns.get(&conn).and_then(|conn| conn.session);
        match frame {
            Frame::Hello(hello) => {
                let Some(conn) = at.facts.conns.get(&conn) else { return };
                if let (Some(resume), Some(welcome)) = (hello.resume, &conn.welcome)
                    && !self.sessions.contains(&resume.session.to_bytes())
                {
                    self.restore(at, resume.acked, welcome);
                }
            }
            Frame::Request(header, body) => {
                let Some(session) = session else { return };
                let digest = digest(header.method, header.flags, body);
                self.digests.insert((session, header.xid.get()), digest);
            }
            Frame::Ask(xid, _) => {
                let Some(session) = session else { return };
                let is_new = !self.digests.contains_key(&(session, xid.get()));
                if is_new && at.facts.is_known(self.index, session, xid.get(), at.moment) {
                    self.restore_call(at, conn, session, *xid);
                }
            }
            _ => {}
        }
    }

    fn restore(&mut self, at: &At<'_>, acked: u64, welcome: &Welcome) {
        let record = SessionRecord {
            id: welcome.session,
            principal: Principal::ANONYMOUS,
            grants: welcome.grants,
            seen: welcome.seen,
            acked: acked.min(welcome.seen),
        };
        if self.server.restore_session(at.now, record).is_some() {
            let session = welcome.session.to_bytes();
            self.sessions.insert(session);
        }
    }

    fn restore_call(&mut self, at: &At<'_>, conn: u64, session: SessionBits, xid: Xid) {
        let key = (session, xid.get());
        let Some(Conn { id: Some(id), .. }) = self.conns.get(&conn) else { return };
        let Some(session_key) = self.server.session_of(*id) else { return };
        if self.open.contains_key(&key) {
            return;
        }
        let next = at.facts.next_answer(self.index, session, xid.get(), at.moment);
        let Some(status) = next.map(|answer| answer.status) else { return };
        let body = self.body_of(at, key).unwrap_or_default();
        let state = match status {
            Status::Done => RecordState::Done(&body),
            Status::NoReply(why) => RecordState::NoReply(why),
            Status::Interrupted => RecordState::Started,
            _ => return,
        };
        let digest = *self.digests.entry(key).or_insert(0);
        self.server.restore_call(session_key, CallRecord { xid, digest, state });
    }

    /// The body with which a call will be answered.
    fn body_of(&self, at: &At<'_>, (session, xid): (SessionBits, u64)) -> Option<Vec<u8>> {
        let frame = at.facts.next_body(at.records, (self.index, session, xid), at.moment)?;
        let bytes = frame.bytes(crate::replay::BODY_LEN_MAX);
        Some(bytes.get(frame.head.len()..)?.to_vec())
    }

    fn take_item(&mut self, at: &At<'_>, conn: u64, item: Incoming<'_>) {
        match item {
            Incoming::Request(request) => {
                let session = self.conns.get(&conn).and_then(|conn| conn.session);
                self.take_request(at, conn, session.unwrap_or_default(), request.admission);
            }
            Incoming::Cancel(call) => {
                let text = "the call runs, and its handler learns that it is cancelled".to_owned();
                let xid = Some(call.xid().get());
                self.say(Some(conn), xid, StepKind::Event(Role::Server, text));
            }
            Incoming::Withdrawn(call) => {
                let text = "the call was not started, and is cancelled".to_owned();
                let xid = Some(call.xid().get());
                self.say(Some(conn), xid, StepKind::Event(Role::Server, text));
            }
            _ => {
                if let Some(notice) = self.server.take_notice() {
                    self.take_notice(conn, notice);
                }
            }
        }
    }

    fn take_request(&mut self, at: &At<'_>, conn: u64, session: SessionBits, admission: Admission) {
        let xid = admission.key().xid().get();
        let next = at.facts.next_answer(self.index, session, xid, at.moment);
        let is_refused = next.is_some_and(
            |answer| matches!(answer.status, Status::Refused(why) if why != NotExecuted::Aborted),
        );
        if is_refused {
            self.open.insert((session, xid), Open::Admitted(admission));
            return;
        }
        match self.server.start(at.now, admission) {
            Ok(running) => {
                self.open.insert((session, xid), Open::Running(running));
                self.say(Some(conn), Some(xid), StepKind::Started);
            }
            Err(refused) => {
                self.say(Some(conn), Some(xid), StepKind::Refused(refused.to_string()));
            }
        }
    }

    fn take_notice(&mut self, conn: u64, notice: Notice) {
        let event = |text: &str| StepKind::Event(Role::Server, text.to_owned());
        match notice {
            Notice::Opened | Notice::Resumed => {
                let resumed = notice == Notice::Resumed;
                self.bind(conn);
                let text = if resumed { "a session is resumed" } else { "a session is opened" };
                self.say(Some(conn), None, event(text));
            }
            Notice::Duplicate { call, method, verdict } => {
                let kind = StepKind::Verdict {
                    asked: method.is_none(),
                    verdict: match verdict {
                        Verdict::Dropped => Decision::Dropped,
                        Verdict::WhenDone => Decision::WhenDone,
                        Verdict::NotSeen => Decision::NotSeen,
                        _ => Decision::Kept,
                    },
                    text: verdict.to_string(),
                };
                self.say(Some(conn), Some(call.xid().get()), kind);
            }
            Notice::Refused { call, why, .. } => {
                let xid = Some(call.xid().get());
                self.say(Some(conn), xid, StepKind::Refused(why.to_string()));
            }
            _ => {}
        }
    }

    /// Notes which session a connection has.
    fn bind(&mut self, conn: u64) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        let Some(key) = state.id.and_then(|id| self.server.session_of(id)) else { return };
        let session = self.server.session_record(key).map(|record| record.id.to_bytes());
        state.session = session;
        self.sessions.extend(session);
        self.homes.extend(session.map(|session| (session, conn)));
    }

    /// The recorded server finished a call, or answered it for the first time.
    pub(super) fn finished(&mut self, at: &At<'_>, session: SessionBits, xid: u64, status: Status) {
        let Some(open) = self.open.remove(&(session, xid)) else { return };
        let (now, conn) = (at.now, self.homes.get(&session).copied());
        match (open, status) {
            (open, Status::NotSeen { .. }) => {
                self.open.insert((session, xid), open);
                return;
            }
            (Open::Admitted(admission), Status::Refused(why)) => {
                self.server.refuse(now, admission, why);
            }
            (Open::Running(running), Status::Done) => {
                let body = self.body_of(at, (session, xid)).unwrap_or_default();
                if let Err(error) = self.server.reply(now, running, &body[..]) {
                    self.say(conn, Some(xid), StepKind::Differs(error.to_string()));
                }
            }
            (Open::Running(running), Status::NoReply(why)) => {
                self.server.no_reply(now, running, why);
            }
            (Open::Running(running), Status::Refused(why)) => {
                self.server.roll_back(now, running, why);
            }
            (Open::Running(running), Status::Interrupted) => {
                self.server.no_reply(now, running, NoReply::Aborted);
            }
            (Open::Admitted(admission), _) => {
                self.server.refuse(now, admission, NotExecuted::Cancelled);
            }
        }
        let text = describe(status);
        self.say(conn, Some(xid), StepKind::Finished(text));
        self.settle(now);
    }

    /// The recorded server drains. How long it waits for its clients, the recording says.
    pub(super) fn drain(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.is_draining, true) {
            let text = "the server drains".to_owned();
            self.say(None, None, StepKind::Event(Role::Server, text));
            self.server.drain(now, NEVER);
        }
        self.settle(now);
    }

    /// A frame of the recorded server has left.
    pub(super) fn sent(&mut self, at: &At<'_>, conn: u64, frame: &Frame<'_>) {
        let session = self.conns.get(&conn).and_then(|conn| conn.session);
        let expected = match frame {
            Frame::Reply(header, body) => {
                let Some(session) = session else { return };
                if !self.digests.contains_key(&(session, header.xid.get()))
                    && !matches!(header.status, Status::NotSeen { .. })
                {
                    // Its request was before the recording.
                    return;
                }
                self.finished(at, session, header.xid.get(), header.status);
                Answer::Reply(header.xid.get(), header.status, body.to_vec())
            }
            Frame::Welcome(welcome) => Answer::Welcome(welcome.seen),
            Frame::Refuse(why, _) => Answer::Refuse(*why),
            Frame::Goodbye(_) => return self.drain(at.now),
            _ => return,
        };
        let Some(state) = self.conns.get_mut(&conn).filter(|state| state.id.is_some()) else {
            return;
        };
        let found = state.answers.iter().position(|answer| *answer == expected);
        if let Some(place) = found {
            state.answers.remove(place);
            return;
        }
        let xid = match expected {
            Answer::Reply(xid, ..) => Some(xid),
            _ => None,
        };
        let text = match state.answers.pop_front() {
            Some(other) => format!("the machine says {} here", other.text()),
            None => "the machine does not say this here".to_owned(),
        };
        self.say(Some(conn), xid, StepKind::Differs(text));
    }

    /// Takes what the machine wants, until it wants no more.
    fn settle(&mut self, now: Instant) {
        while let Some(event) = self.server.poll_event() {
            match event {
                ServerEvent::Transmit(id) => self.transmit(now, id),
                ServerEvent::Close(id, reason) => {
                    let conn = self.conns.iter_mut().find(|(_, conn)| conn.id == Some(id));
                    let Some((number, conn)) = conn else { continue };
                    conn.closed = true;
                    let number = *number;
                    let text = format!("the server closes the connection: {reason}");
                    self.say(Some(number), None, StepKind::Event(Role::Server, text));
                }
                ServerEvent::SessionEnded(id, over) => {
                    self.sessions.remove(&id.to_bytes());
                    let conn = self.homes.remove(&id.to_bytes());
                    let text = format!("session {} is over: {over}", id.tag());
                    self.say(conn, None, StepKind::Event(Role::Server, text));
                }
                _ => {}
            }
        }
    }

    fn transmit(&mut self, now: Instant, id: ConnId) {
        let conn = self.conns.values_mut().find(|conn| conn.id == Some(id));
        let mut out = [0; 8192];
        let Some(conn) = conn else {
            while self.server.poll_transmit(now, id, &mut out).is_some() {}
            return;
        };
        while let Some(len) = self.server.poll_transmit(now, id, &mut out) {
            conn.unread.extend_from_slice(&out[..len.get()]);
        }
        let mut rest = &conn.unread[..];
        while let Ok(Decoded::Frame(frame, len)) = wire::decode(rest, Role::Server, BODY_LEN_MAX) {
            conn.answers.extend(Answer::of(&frame));
            rest = &rest[len..];
        }
        conn.unread = rest.to_vec();
    }
}
