//! What a recording says when it is read from end to end, before it is run: who is who, and how each call was answered.

use std::collections::BTreeMap;

use oncewire_core::wire::{
    self, Decoded, FLAG_IDEMPOTENT, Frame, Hello, LEN_FIELD_LEN, Role, Welcome,
};
use oncewire_core::{Instance, MethodId, NotExecuted, Status};

use crate::error::ReadError;
use crate::format::{BODY_LEN_MAX, Delivery, Record, RecordedFrame, What};

/// Servers in a recording.
const SERVERS_MAX: usize = 1024;
/// Clients in a recording.
const CLIENTS_MAX: usize = 10_000;

/// A session's pseudonym.
pub(super) type SessionBits = [u8; 16];

/// One thing to be run, at its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// The frame of the record leaves.
    Sent(usize),
    /// It arrives, or everything else that the record is.
    Happened(usize),
}

/// A connection.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnFacts {
    pub(super) server: usize,
    pub(super) client: usize,
    pub(super) hello: Option<Hello>,
    pub(super) welcome: Option<Welcome>,
    /// Who said `Refuse`, if it was said.
    refused_by: Option<Instance>,
    /// How often the server had been started again.
    era: usize,
    /// When its client got something for the last time, as a place among the moments.
    pub(super) last_down: Option<usize>,
}

/// One process that answers.
#[derive(Clone, Debug)]
pub(super) struct ServerFacts {
    era: usize,
    pub(super) instance: u64,
    /// The first `Welcome` that it said, with the largest grants of all.
    pub(super) welcome: Option<Welcome>,
    pub(super) methods: BTreeMap<MethodId, MethodFacts>,
    pub(super) lossy: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MethodFacts {
    pub(super) idempotent: bool,
    /// It was called, and not refused as unknown.
    pub(super) known: bool,
    answered: bool,
    asked_idempotent: bool,
    pub(super) reply_len_max: u32,
}

/// An answer that was recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// When, as a place among the moments.
    pub(super) moment: usize,
    pub(super) status: Status,
    /// The frame's record, if it is one.
    pub(super) record: Option<usize>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) moments: Vec<(u64, Moment)>,
    pub(super) conns: BTreeMap<u64, ConnFacts>,
    pub(super) servers: Vec<ServerFacts>,
    /// The session of each client, if it had one.
    pub(super) clients: Vec<Option<SessionBits>>,
    pub(super) names: BTreeMap<MethodId, String>,
    /// By server, session and xid, in the order in which they came.
    answers: BTreeMap<(usize, SessionBits, u64), Vec<Answer>>,
}

/// The frame of a record, without its body.
pub(super) fn head(frame: &RecordedFrame) -> Option<Frame<'static>> {
    let mut bytes = frame.head.clone();
    let len = u32::try_from(bytes.len().saturating_sub(LEN_FIELD_LEN)).ok()?;
    *bytes.first_chunk_mut()? = len.to_le_bytes();
    Some(match wire::decode(&bytes, frame.from, BODY_LEN_MAX) {
        Ok(Decoded::Frame(Frame::Request(header, _), _)) => Frame::Request(header, &[]),
        Ok(Decoded::Frame(Frame::Reply(header, _), _)) => Frame::Reply(header, &[]),
        Ok(Decoded::Frame(Frame::Hello(hello), _)) => Frame::Hello(hello),
        Ok(Decoded::Frame(Frame::Welcome(welcome), _)) => Frame::Welcome(welcome),
        Ok(Decoded::Frame(Frame::Refuse(why, instance), _)) => Frame::Refuse(why, instance),
        Ok(Decoded::Frame(Frame::Ask(xid, number), _)) => Frame::Ask(xid, number),
        Ok(Decoded::Frame(Frame::Ack(ack), _)) => Frame::Ack(ack),
        Ok(Decoded::Frame(Frame::Cancel(xid), _)) => Frame::Cancel(xid),
        Ok(Decoded::Frame(Frame::Ping(role), _)) => Frame::Ping(role),
        Ok(Decoded::Frame(Frame::Pong(role), _)) => Frame::Pong(role),
        Ok(Decoded::Frame(Frame::Goodbye(role), _)) => Frame::Goodbye(role),
        _ => return None,
    })
}

impl Facts {
    pub(super) fn of(records: &[Record], lossy: bool) -> Result<Facts, ReadError> {
        let mut facts = Facts::default();
        facts.put_in_order(records);
        facts.learn_conns(records);
        facts.tell_servers_apart(lossy)?;
        facts.tell_clients_apart()?;
        facts.learn_calls(records);
        Ok(facts)
    }

    fn put_in_order(&mut self, records: &[Record]) {
        for (index, record) in records.iter().enumerate() {
            if let What::Frame(frame) = &record.what {
                let sent = record.at.saturating_sub(frame.under_way);
                self.moments.push((sent, Moment::Sent(index)));
            }
            if let What::Method(id, name) = &record.what {
                self.names.insert(*id, name.clone());
            }
            self.moments.push((record.at, Moment::Happened(index)));
        }
        // Stable: what happens at the same time happens as it was recorded.
        self.moments.sort_by_key(|(at, _)| *at);
    }

    fn learn_conns(&mut self, records: &[Record]) {
        let mut era = 0;
        for record in records {
            match &record.what {
                What::Connected { conn, .. } => {
                    self.conns.entry(*conn).or_default().era = era;
                }
                What::Restarted => era += 1,
                What::Frame(frame) => {
                    let conn = self
                        .conns
                        .entry(frame.conn)
                        .or_insert_with(|| ConnFacts { era, ..ConnFacts::default() });
                    match head(frame) {
                        Some(Frame::Hello(hello)) if conn.hello.is_none() => {
                            conn.hello = Some(hello);
                        }
                        Some(Frame::Welcome(welcome)) if conn.welcome.is_none() => {
                            conn.welcome = Some(welcome);
                        }
                        Some(Frame::Refuse(_, instance)) => conn.refused_by = Some(instance),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
    }

    fn tell_servers_apart(&mut self, lossy: bool) -> Result<(), ReadError> {
        let mut servers: Vec<ServerFacts> = Vec::new();
        for conn in self.conns.values_mut() {
            let instance = match (&conn.welcome, conn.refused_by) {
                (Some(welcome), _) => Some(welcome.instance.id()),
                (None, refused_by) => refused_by.map(|instance| instance.id()),
            };
            let is_it = |server: &ServerFacts| {
                let same_id = match (&server.welcome, &conn.welcome) {
                    (Some(one), Some(other)) => one.server == other.server,
                    _ => true,
                };
                match instance {
                    // One that says which process it is needs no other sign.
                    Some(id) if id != 0 => id == server.instance && same_id,
                    _ => server.era == conn.era && same_id,
                }
            };
            // Without a word of who it is, the last one that said it.
            let found = servers.iter().rposition(is_it);
            let index = found.unwrap_or(servers.len());
            if found.is_none() {
                let instance = instance.unwrap_or(0);
                let methods = BTreeMap::new();
                servers.push(ServerFacts {
                    era: conn.era,
                    instance,
                    welcome: None,
                    methods,
                    lossy,
                });
            }
            conn.server = index;
            if let (Some(welcome), Some(server)) = (conn.welcome, servers.get_mut(index)) {
                server.learn_welcome(welcome);
            }
            if servers.len() > SERVERS_MAX {
                return Err(ReadError::TooMuch("servers"));
            }
        }
        self.servers = servers;
        self.place_silent();
        Ok(())
    }

    /// A connection that was never answered goes to where its session was before.
    fn place_silent(&mut self) {
        let mut homes = BTreeMap::new();
        for conn in self.conns.values_mut() {
            let resumed = conn.hello.and_then(|hello| hello.resume).map(|resume| resume.session);
            let session = conn.welcome.map(|welcome| welcome.session).or(resumed);
            let Some(session) = session.map(|session| session.to_bytes()) else { continue };
            if conn.welcome.is_some() {
                homes.insert(session, conn.server);
            } else if let (None, Some(home)) = (conn.refused_by, homes.get(&session)) {
                conn.server = *home;
            }
        }
    }

    fn tell_clients_apart(&mut self) -> Result<(), ReadError> {
        let mut known: BTreeMap<SessionBits, usize> = BTreeMap::new();
        for conn in self.conns.values_mut() {
            let resumed = conn.hello.and_then(|hello| hello.resume).map(|resume| resume.session);
            let opened = conn.welcome.map(|welcome| welcome.session);
            let session = opened.or(resumed).map(|session| session.to_bytes());
            let found = session.and_then(|session| known.get(&session).copied());
            conn.client = found.unwrap_or(self.clients.len());
            if found.is_none() {
                self.clients.push(session);
                if let Some(session) = session {
                    known.insert(session, conn.client);
                }
            }
            if self.clients.len() > CLIENTS_MAX {
                return Err(ReadError::TooMuch("clients"));
            }
        }
        Ok(())
    }

    fn learn_calls(&mut self, records: &[Record]) {
        let mut asked: BTreeMap<(usize, SessionBits, u64), (MethodId, u8)> = BTreeMap::new();
        let mut last_server: BTreeMap<SessionBits, usize> = BTreeMap::new();
        for (moment, (_, what)) in self.moments.iter().enumerate() {
            let Some(record) = records.get(what.record()) else { continue };
            match (&record.what, what) {
                (What::Frame(frame), Moment::Happened(_)) if frame.from == Role::Server => {
                    if let Some(conn) = self.conns.get_mut(&frame.conn) {
                        conn.last_down = Some(moment);
                    }
                }
                (What::Frame(frame), Moment::Sent(index)) => {
                    let Some(conn) = self.conns.get(&frame.conn) else { continue };
                    let Some(session) = self.clients.get(conn.client).copied().flatten() else {
                        continue;
                    };
                    last_server.insert(session, conn.server);
                    let Some(server) = self.servers.get_mut(conn.server) else { continue };
                    match head(frame) {
                        Some(Frame::Request(request, _)) => {
                            let key = (conn.server, session, request.xid.get());
                            asked.insert(key, (request.method, request.flags));
                            let method = server.methods.entry(request.method).or_default();
                            method.asked_idempotent |= request.flags & FLAG_IDEMPOTENT != 0;
                        }
                        Some(Frame::Reply(reply, _)) => {
                            let key = (conn.server, session, reply.xid.get());
                            server.learn_reply(asked.get(&key), reply.status, frame.body.len());
                            let (status, record) = (reply.status, Some(*index));
                            let answer = Answer { moment, status, record };
                            self.answers.entry(key).or_default().push(answer);
                        }
                        _ => {}
                    }
                }
                (What::Finished { session, xid, status }, Moment::Happened(_)) => {
                    let session = session.to_bytes();
                    let Some(server) = last_server.get(&session) else { continue };
                    let answer = Answer { moment, status: *status, record: None };
                    let key = (*server, session, xid.get());
                    self.answers.entry(key).or_default().push(answer);
                }
                _ => {}
            }
        }
        for method in self.servers.iter_mut().flat_map(|server| server.methods.values_mut()) {
            // What no answer says is taken for what the client means.
            if !method.answered {
                (method.known, method.idempotent) = (true, method.asked_idempotent);
            }
        }
    }

    /// Whether the next answer to a question about a call says that it is known.
    pub(super) fn is_known(
        &self,
        server: usize,
        session: SessionBits,
        xid: u64,
        moment: usize,
    ) -> bool {
        let answers = self.answers.get(&(server, session, xid));
        let next = answers.into_iter().flatten().find(|answer| answer.moment >= moment);
        next.is_some_and(|answer| !matches!(answer.status, Status::NotSeen { .. }))
    }

    /// The next answer to a call at or after a moment: what the server was going to say.
    pub(super) fn next_answer(
        &self,
        server: usize,
        session: SessionBits,
        xid: u64,
        moment: usize,
    ) -> Option<Answer> {
        let answers = self.answers.get(&(server, session, xid))?;
        let is_final = |answer: &&Answer| {
            answer.moment >= moment && !matches!(answer.status, Status::NotSeen { .. })
        };
        answers.iter().find(is_final).copied()
    }

    /// The body that a call was answered with at or after a moment.
    pub(super) fn next_body<'r>(
        &self,
        records: &'r [Record],
        (server, session, xid): (usize, SessionBits, u64),
        moment: usize,
    ) -> Option<&'r RecordedFrame> {
        let answers = self.answers.get(&(server, session, xid))?;
        let records = answers
            .iter()
            .filter(|answer| answer.moment >= moment && answer.status == Status::Done)
            .filter_map(|answer| records.get(answer.record?));
        records
            .filter_map(|record| match &record.what {
                What::Frame(frame) => Some(frame),
                _ => None,
            })
            .next()
    }
}

impl Moment {
    pub(super) fn record(self) -> usize {
        match self {
            Moment::Sent(index) | Moment::Happened(index) => index,
        }
    }
}

impl ServerFacts {
    fn learn_welcome(&mut self, welcome: Welcome) {
        let Some(known) = &mut self.welcome else {
            self.welcome = Some(welcome);
            return;
        };
        let (known, new) = (&mut known.grants, welcome.grants);
        known.slots = known.slots.max(new.slots);
        known.request_len_max = known.request_len_max.max(new.request_len_max);
        known.reply_len_max = known.reply_len_max.max(new.reply_len_max);
        known.lease_ms = known.lease_ms.max(new.lease_ms);
    }

    fn learn_reply(&mut self, asked: Option<&(MethodId, u8)>, status: Status, len: usize) {
        let Some((method, flags)) = asked else { return };
        let Some(method) = self.methods.get_mut(method) else { return };
        method.answered = true;
        match status {
            Status::Refused(NotExecuted::UnknownMethod | NotExecuted::NotIdempotent) => {
                method.known |= status == Status::Refused(NotExecuted::NotIdempotent);
            }
            _ => {
                method.known = true;
                method.idempotent |= flags & FLAG_IDEMPOTENT != 0;
            }
        }
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        method.reply_len_max = method.reply_len_max.max(len);
    }
}

/// Whether the server got it.
pub(super) fn reaches_server(frame: &RecordedFrame) -> bool {
    frame.from == Role::Client && frame.delivery == Delivery::Arrived
}
