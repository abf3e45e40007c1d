//! Runs a recording through the real machines, and tells what happened.
//!
//! | file | what it does |
//! |---|---|
//! | `replay/facts.rs` | what the recording says when it is read from end to end |
//! | `replay/server.rs` | a server's machine, and what it decides |
//! | `replay/client.rs` | a client's machine, and what its calls end as |
//! | `replay/answer.rs` | what a server says that the recording can be compared with |
//! | `replay/step.rs` | the steps that come of it |

mod answer;
mod client;
mod facts;
mod server;
mod step;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::io::Read;

use oncewire_core::wire::{self, Decoded, Frame, Role};
use oncewire_core::{Instant, MethodId, SessionId};

use crate::error::ReadError;
use crate::format::{About, BODY_LEN_MAX as FRAME_BODY_LEN_MAX, Body, Delivery};
use crate::format::{Reader, Record, RecordedFrame, What};
use answer::describe;
use client::ClientReplay;
use facts::{Facts, Moment, ServerFacts, head, reaches_server};
use server::{At, ServerReplay};

pub use step::{Decision, FrameKind, FrameStep, Step, StepKind};

/// Bytes of a body that the machines are given; a longer one is represented by so many. A recording of a megabyte may speak
/// of gigabytes of bodies.
pub(crate) const BODY_LEN_MAX: usize = 4096;
/// Records of a recording, and bytes of them, that are held at once.
const RECORDS_MAX: usize = 4 << 20;
const BYTES_MAX: usize = 1 << 30;
/// How often a machine's timers are served before one record; what is left then is served at once.
const TIMEOUTS_MAX: usize = 64;
/// The time before the first record: machines have timers that they set to nothing at their beginning.
const ORIGIN: u64 = 1_000_000_000;

/// A recording, run again.
#[derive(Debug)]
pub struct Story {
    /// What the recording says of itself.
    pub about: About,
    /// Whether it ends in the middle of a record.
    pub is_cut: bool,
    /// What happened, in order.
    pub steps: Vec<Step>,
    /// A name for each client: its session's tag, or what else is known.
    pub clients: Vec<String>,
    /// Names of methods.
    pub names: BTreeMap<MethodId, String>,
}

impl Story {
    /// Reads a recording and runs it. `names` are methods by their full names, such as `bank/deduct`: a request has a
    /// number only.
    ///
    /// # Errors
    /// What is wrong with the recording.
    pub fn read(input: impl Read, names: &[String]) -> Result<Story, ReadError> {
        let mut reader = Reader::new(input)?;
        let mut records = Vec::new();
        let mut bytes = 0;
        while let Some(record) = reader.next()? {
            bytes += match &record.what {
                What::Frame(RecordedFrame { head, body: Body::Plain(body), .. }) => {
                    head.len() + body.len()
                }
                What::Frame(frame) => frame.head.len(),
                _ => 0,
            };
            records.push(record);
            if records.len() > RECORDS_MAX || bytes > BYTES_MAX {
                return Err(ReadError::TooMuch("records"));
            }
        }
        let mut story = Story::of(reader.about().clone(), &records, names)?;
        story.is_cut = reader.is_cut();
        Ok(story)
    }

    /// Runs records.
    ///
    /// # Errors
    /// There is too much of something.
    pub fn of(about: About, records: &[Record], names: &[String]) -> Result<Story, ReadError> {
        let mut facts = Facts::of(records, about.lossy)?;
        facts.names.extend(names.iter().map(|name| (MethodId::of(name), name.clone())));
        let mut replay = Replay::new(&about, records, &facts);
        for moment in 0..facts.moments.len() {
            replay.take_moment(moment);
        }
        let mut steps = replay.steps;
        // Timers fire at their own times, and are noted with the record behind them.
        steps.sort_by_key(|step| step.at);
        let clients = facts.clients.iter().enumerate().map(|(index, session)| match session {
            Some(session) => format!("session {}", SessionId::from_bytes(*session).tag()),
            None => format!("client {index}, without a session"),
        });
        let clients = clients.collect();
        Ok(Story { about, is_cut: false, steps, clients, names: facts.names })
    }
}

struct Replay<'r> {
    about: &'r About,
    records: &'r [Record],
    facts: &'r Facts,
    servers: BTreeMap<usize, ServerReplay>,
    clients: BTreeMap<usize, ClientReplay>,
    /// Which connection a client has.
    bound: BTreeMap<usize, u64>,
    /// Connections that the server has left and whose last bytes are on their way to the client.
    closing: BTreeSet<u64>,
    /// When machines want to be called: servers by even numbers, clients by odd ones.
    timeouts: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Requests that were sent, by client.
    sent: BTreeSet<(usize, u64)>,
    steps: Vec<Step>,
}

impl<'r> Replay<'r> {
    fn new(about: &'r About, records: &'r [Record], facts: &'r Facts) -> Replay<'r> {
        let indexes = 0..facts.servers.len();
        let servers = indexes
            .filter_map(|index| Some((index, ServerReplay::new(index, &facts.servers[index])?)));
        Replay {
            about,
            records,
            facts,
            servers: servers.collect(),
            clients: BTreeMap::new(),
            bound: BTreeMap::new(),
            closing: BTreeSet::new(),
            timeouts: BinaryHeap::new(),
            sent: BTreeSet::new(),
            steps: Vec::new(),
        }
    }

    fn take_moment(&mut self, moment: usize) {
        let (at, what) = self.facts.moments[moment];
        let now = Instant::from_nanos(at.saturating_add(ORIGIN));
        self.pass_time(now);
        let records = self.records;
        let Some(record) = records.get(what.record()) else { return };
        match (what, &record.what) {
            (Moment::Sent(_), What::Frame(frame)) => self.frame_sent(now, moment, record.at, frame),
            (Moment::Happened(_), What::Frame(frame)) => self.frame_arrived(now, moment, frame),
            (Moment::Happened(_), what) => self.happened(now, moment, what),
            (Moment::Sent(_), _) => {}
        }
    }

    /// Serves timers that are due before `now`.
    fn pass_time(&mut self, now: Instant) {
        let mut served: BTreeMap<usize, usize> = BTreeMap::new();
        let mut later = Vec::new();
        while let Some(Reverse((due, who))) = self.timeouts.peek().copied()
            && due <= now
        {
            self.timeouts.pop();
            let times = served.entry(who).or_default();
            *times += 1;
            if *times > 2 * TIMEOUTS_MAX {
                // What is still due is served with the next record.
                later.push(Reverse((due, who)));
                continue;
            }
            // One that has slept for a year of Pings is woken at its end.
            let at = if *times > TIMEOUTS_MAX { now } else { due };
            let index = who / 2;
            if who % 2 == 0 {
                if let Some(server) = self.servers.get_mut(&index) {
                    server.handle_timeout(at);
                }
                self.collect_server(at, index);
            } else {
                if let Some(client) = self.clients.get_mut(&index) {
                    client.handle_timeout(at);
                }
                self.collect_client(at, index);
            }
        }
        self.timeouts.extend(later);
    }

    fn at(&self, moment: usize, now: Instant) -> At<'r> {
        At { facts: self.facts, records: self.records, moment, now }
    }

    fn tell(&mut self, now: Instant, conn: Option<u64>, xid: Option<u64>, kind: StepKind) {
        let client = conn.and_then(|conn| Some(self.facts.conns.get(&conn)?.client));
        let at = now.as_nanos().saturating_sub(ORIGIN);
        self.steps.push(Step { at, conn, client, xid, kind });
    }

    fn collect_server(&mut self, now: Instant, index: usize) {
        let Some(server) = self.servers.get_mut(&index) else { return };
        let done = server.take_done();
        if let Some(due) = server.poll_timeout() {
            self.timeouts.push(Reverse((due, index * 2)));
        }
        for (conn, xid, kind) in done {
            self.tell(now, conn, xid, kind);
        }
    }

    fn collect_client(&mut self, now: Instant, index: usize) {
        let Some(client) = self.clients.get_mut(&index) else { return };
        let done = client.take_done();
        if let Some(due) = client.poll_timeout() {
            self.timeouts.push(Reverse((due, index * 2 + 1)));
        }
        let conn = self.bound.get(&index).copied();
        for (xid, kind) in done {
            self.tell(now, conn, xid, kind);
            if let Some(step) = self.steps.last_mut() {
                step.client = Some(index);
            }
        }
    }

    fn happened(&mut self, now: Instant, moment: usize, what: &What) {
        match what {
            What::Method(..) | What::Frame(_) => {}
            What::Connected { conn, peer } => {
                self.tell(now, Some(*conn), None, StepKind::Connected { peer: peer.clone() });
                let at = self.at(moment, now);
                self.with_server(now, *conn, |server| server.connected(&at, *conn));
            }
            What::Garbage { conn, from, code, len } => {
                let why = format!("no frames (error {code} of W28)");
                let kind = StepKind::Garbage { from: *from, len: *len, why };
                self.tell(now, Some(*conn), None, kind);
            }
            What::Disconnected { conn, by, client_rest, server_rest } => {
                let rests = (*client_rest, *server_rest);
                self.tell(now, Some(*conn), None, StepKind::Disconnected { by: *by, rests });
                self.with_server(now, *conn, |server| server.disconnected(now, *conn));
                if self.facts.conns.get(conn).and_then(|conn| conn.last_down) > Some(moment) {
                    self.closing.insert(*conn);
                } else {
                    self.with_client(now, *conn, |client| client.disconnected(now));
                }
            }
            What::Note(text) => self.tell(now, None, None, StepKind::Note(text.clone())),
            What::Restarted => self.tell(now, None, None, StepKind::Restarted),
            What::DrainBegan { instance } => {
                let is_it = |server: &ServerFacts| server.instance == *instance;
                let Some(index) = self.facts.servers.iter().position(is_it) else { return };
                if let Some(server) = self.servers.get_mut(&index) {
                    server.drain(now);
                }
                self.collect_server(now, index);
            }
            What::Finished { session, xid, status } => {
                let session = session.to_bytes();
                let indexes: Vec<usize> = self.servers.keys().copied().collect();
                let at = self.at(moment, now);
                for index in indexes {
                    if let Some(server) = self.servers.get_mut(&index) {
                        server.finished(&at, session, xid.get(), *status);
                    }
                    self.collect_server(now, index);
                }
            }
        }
    }

    fn with_server(&mut self, now: Instant, conn: u64, act: impl FnOnce(&mut ServerReplay)) {
        let Some(index) = self.facts.conns.get(&conn).map(|conn| conn.server) else { return };
        if let Some(server) = self.servers.get_mut(&index) {
            act(server);
        }
        self.collect_server(now, index);
    }

    /// The client whose newest connection this is.
    fn with_client(&mut self, now: Instant, conn: u64, act: impl FnOnce(&mut ClientReplay)) {
        let Some(index) = self.facts.conns.get(&conn).map(|conn| conn.client) else { return };
        if self.bound.get(&index) != Some(&conn) {
            return;
        }
        if let Some(client) = self.clients.get_mut(&index) {
            act(client);
        }
        self.collect_client(now, index);
    }

    fn frame_sent(&mut self, now: Instant, moment: usize, arrives_at: u64, frame: &RecordedFrame) {
        let bytes = frame.bytes(BODY_LEN_MAX);
        let Ok(Decoded::Frame(decoded, _)) = wire::decode(&bytes, frame.from, FRAME_BODY_LEN_MAX)
        else {
            return;
        };
        let conn = frame.conn;
        match frame.from {
            Role::Server => {
                // That the call has finished comes before its reply.
                let at = self.at(moment, now);
                self.with_server(now, conn, |server| server.sent(&at, conn, &decoded));
                self.tell_frame(now, arrives_at, frame, &decoded);
            }
            Role::Client => {
                self.tell_frame(now, arrives_at, frame, &decoded);
                if let Frame::Hello(hello) = &decoded {
                    let Some(client) = self.facts.conns.get(&conn).map(|conn| conn.client) else {
                        return;
                    };
                    self.bound.insert(client, conn);
                    if hello.resume.is_none() {
                        let machine = ClientReplay::new(hello, self.about.lossy);
                        self.clients.entry(client).or_insert(machine);
                    }
                }
                self.with_client(now, conn, |client| client.sent(now, &decoded));
            }
        }
    }

    fn frame_arrived(&mut self, now: Instant, moment: usize, frame: &RecordedFrame) {
        self.take_arrived(now, moment, frame);
        let is_last =
            self.facts.conns.get(&frame.conn).is_some_and(|c| c.last_down == Some(moment));
        if is_last && self.closing.remove(&frame.conn) {
            self.with_client(now, frame.conn, |client| client.disconnected(now));
        }
    }

    fn take_arrived(&mut self, now: Instant, moment: usize, frame: &RecordedFrame) {
        if frame.delivery == Delivery::Lost {
            return;
        }
        let bytes = frame.bytes(BODY_LEN_MAX);
        let Ok(Decoded::Frame(decoded, _)) = wire::decode(&bytes, frame.from, FRAME_BODY_LEN_MAX)
        else {
            return;
        };
        let conn = frame.conn;
        if reaches_server(frame) {
            let at = self.at(moment, now);
            self.with_server(now, conn, |server| server.received(&at, conn, &decoded, &bytes));
        } else {
            self.with_client(now, conn, |client| client.received(now, &decoded, &bytes));
        }
    }

    fn tell_frame(
        &mut self,
        now: Instant,
        arrives_at: u64,
        recorded: &RecordedFrame,
        frame: &Frame<'_>,
    ) {
        let (kind, xid, text) = self.describe_frame(frame, recorded.body.len());
        let client = self.facts.conns.get(&recorded.conn).map_or(0, |conn| conn.client);
        let is_request = kind == FrameKind::Request;
        let again = is_request && xid.is_some_and(|xid| !self.sent.insert((client, xid)));
        let remaining_ms = match head(recorded) {
            Some(Frame::Request(header, _)) => Some(header.remaining_ms),
            _ => None,
        };
        let body = match &recorded.body {
            Body::Plain(bytes) if self.about.plain_bodies && !bytes.is_empty() => {
                Some(bytes.clone())
            }
            _ => None,
        };
        let step = FrameStep {
            from: recorded.from,
            arrives_at,
            delivery: recorded.delivery,
            kind,
            text,
            len: recorded.head.len() + recorded.body.len(),
            remaining_ms,
            again,
            body,
        };
        self.tell(now, Some(recorded.conn), xid, StepKind::Frame(step));
    }

    fn describe_frame(
        &self,
        frame: &Frame<'_>,
        body_len: usize,
    ) -> (FrameKind, Option<u64>, String) {
        use FrameKind as K;
        match frame {
            Frame::Hello(hello) => {
                let text = match &hello.resume {
                    None => "Hello: opens a session".to_owned(),
                    Some(resume) => format!(
                        "Hello: resumes session {}, has seen replies up to {}",
                        resume.session.tag(),
                        resume.acked
                    ),
                };
                (K::Hello, None, text)
            }
            Frame::Welcome(welcome) => {
                let text = format!(
                    "Welcome: session {} at {} ({}), has read requests up to {}",
                    welcome.session.tag(),
                    welcome.service.as_str().escape_debug(),
                    welcome.instance,
                    welcome.seen
                );
                (K::Welcome, None, text)
            }
            Frame::Refuse(why, _) => (K::Refuse, None, format!("Refuse: {why}")),
            Frame::Request(header, _) => {
                let flags = [
                    (wire::FLAG_IDEMPOTENT, ", idempotent"),
                    (wire::FLAG_ONE_WAY, ", one-way"),
                    (wire::FLAG_METADATA, ", with metadata"),
                ];
                let flags = flags.iter().filter(|(flag, _)| header.flags & flag != 0);
                let flags: String = flags.map(|(_, text)| *text).collect();
                let name = match self.facts.names.get(&header.method) {
                    Some(name) => name.escape_debug().to_string(),
                    None => format!("method {}", header.method),
                };
                let text = format!("Request {}: {name}, {body_len} bytes{flags}", header.xid);
                (K::Request, Some(header.xid.get()), text)
            }
            Frame::Reply(header, _) => {
                let status = describe(header.status);
                let text = match body_len {
                    0 => format!("Reply {}: {status}", header.xid),
                    len => format!("Reply {}: {status}, {len} bytes", header.xid),
                };
                (K::Reply, Some(header.xid.get()), text)
            }
            Frame::Ask(xid, number) => {
                let text = format!("Ask {xid}: what became of it? (question {number})");
                (K::Ask, Some(xid.get()), text)
            }
            Frame::Ack(ack) => {
                (K::Ack, None, format!("Ack: everything up to {} is settled", ack.acked))
            }
            Frame::Cancel(xid) => {
                (K::Cancel, Some(xid.get()), format!("Cancel {xid}: it is not wanted any more"))
            }
            Frame::Ping(_) => (K::Ping, None, "Ping".to_owned()),
            Frame::Pong(_) => (K::Pong, None, "Pong".to_owned()),
            Frame::Goodbye(Role::Client) => {
                (K::Goodbye, None, "Goodbye: no more requests follow".to_owned())
            }
            Frame::Goodbye(Role::Server) => (K::Goodbye, None, "Goodbye: please finish".to_owned()),
        }
    }
}
