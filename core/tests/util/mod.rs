//! Two machines, the bytes between them, and the time: everything a test needs to hold a dialogue.
//!
//! A [`Pair`] is one server and any number of clients. Each connection is a [`Link`] of two byte queues that a test
//! can hold back, cut at any byte, or deliver byte by byte; an old link's bytes stay readable. Time stands still until
//! [`Pair::advance`]. Either end of a link can be played by the test itself, frame by frame.

#![allow(dead_code, unreachable_pub)]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use oncewire_core::wire::{self, Decoded, Frame, Hello, RequestHeader, Role, Welcome};
use oncewire_core::*;

/// Answers with its arguments.
pub const ECHO: MethodId = MethodId::of("test.echo");
/// The same, declared idempotent.
pub const IDEM: MethodId = MethodId::of("test.idem");
/// Replies of up to 1 MiB.
pub const BIG: MethodId = MethodId::of("test.big");
/// Not offered.
pub const ABSENT: MethodId = MethodId::of("test.absent");

pub const ALICE: Principal = Principal(1);
pub const BOB: Principal = Principal(2);

pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub fn xid(number: u64) -> Xid {
    Xid::new(number).unwrap()
}

pub fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

/// What the echo methods answer.
pub fn echo(body: &[u8]) -> Vec<u8> {
    [b"re:", body].concat()
}

/// An outcome that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Reply(Vec<u8>),
    NoReply(NoReply),
    NotExecuted(NotExecuted),
    /// Why, and whether there is a ticket.
    Unknown(Unknown, bool),
}

impl From<Outcome<'_>> for Fate {
    fn from(outcome: Outcome<'_>) -> Fate {
        match outcome {
            Outcome::Reply(body) => Fate::Reply(body.to_vec()),
            Outcome::NoReply(why) => Fate::NoReply(why),
            Outcome::NotExecuted(why) => Fate::NotExecuted(why),
            Outcome::Unknown { why, ticket } => Fate::Unknown(why, ticket),
        }
    }
}

/// The echo of `body`.
pub fn reply(body: &[u8]) -> Option<Fate> {
    Some(Fate::Reply(echo(body)))
}

pub fn not_executed(why: NotExecuted) -> Option<Fate> {
    Some(Fate::NotExecuted(why))
}

/// Unknown, with a ticket.
pub fn ticket(why: Unknown) -> Option<Fate> {
    Some(Fate::Unknown(why, true))
}

/// Unknown, for good.
pub fn unknown(why: Unknown) -> Option<Fate> {
    Some(Fate::Unknown(why, false))
}

/// A frame that owns its bytes, as the test reads it when it plays one end of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    Hello(Hello),
    Welcome(Welcome),
    Refuse(wire::Refuse),
    Request(RequestHeader, Vec<u8>),
    Reply(Status, u64, Vec<u8>),
    Ask(u64),
    Ack(wire::Ack),
    Cancel(u64),
    Ping,
    Pong,
    Goodbye,
}

impl From<Frame<'_>> for Got {
    fn from(frame: Frame<'_>) -> Got {
        match frame {
            Frame::Hello(hello) => Got::Hello(hello),
            Frame::Welcome(welcome) => Got::Welcome(welcome),
            Frame::Refuse(refuse) => Got::Refuse(refuse),
            Frame::Request(header, body) => Got::Request(header, body.to_vec()),
            Frame::Reply(header, body) => {
                Got::Reply(header.status, header.xid.get(), body.to_vec())
            }
            Frame::Ask(xid) => Got::Ask(xid.get()),
            Frame::Ack(ack) => Got::Ack(ack),
            Frame::Cancel(xid) => Got::Cancel(xid.get()),
            Frame::Ping(_) => Got::Ping,
            Frame::Pong(_) => Got::Pong,
            Frame::Goodbye(_) => Got::Goodbye,
        }
    }
}

/// The bytes of a frame.
pub fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
    let body = match frame {
        Frame::Request(_, body) | Frame::Reply(_, body) => body.len(),
        _ => 0,
    };
    let mut out = vec![0; wire::CONTROL_LEN_MAX + body];
    let len = wire::encode(frame, &mut out).unwrap();
    out.truncate(len);
    out
}

/// A `Hello` that opens, or resumes a session with its X.
pub fn hello(resume: Option<(SessionId, u64)>) -> Frame<'static> {
    Frame::Hello(Hello {
        magic: wire::MAGIC,
        version_min: wire::VERSION,
        version_max: wire::VERSION,
        features: 0,
        resume: resume.map(|(session, acked)| wire::Resume { session, acked }),
        slots: 4,
        request_len_max: 1 << 20,
        reply_len_max: 1 << 20,
        service: None,
        server: None,
    })
}

/// A request for `ECHO` with 30 seconds to go.
pub fn request(number: u64, acked: u64, body: &[u8]) -> Frame<'_> {
    Frame::Request(header(number, acked), body)
}

pub fn header(number: u64, acked: u64) -> RequestHeader {
    RequestHeader { flags: 0, method: ECHO, remaining_ms: 30_000, xid: xid(number), acked }
}

/// What the server's end does with a call that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Starts and answers it at once.
    Echo,
    /// Starts it; the test answers.
    Start,
    /// Lets it in; the test starts it.
    Hold,
}

/// A call that was let in and waits for the test.
#[derive(Debug)]
pub struct LetIn {
    pub admission: Admission,
    pub body: Vec<u8>,
    pub method: MethodId,
    pub deadline: Instant,
    pub one_way: bool,
}

/// A call that runs and waits for the test.
#[derive(Debug)]
pub struct Started {
    pub running: Running,
    pub body: Vec<u8>,
}

/// One execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub session: SessionId,
    pub xid: u64,
    pub method: MethodId,
    pub body: Vec<u8>,
}

/// What a ledger knows of one call.
#[derive(Clone, Debug)]
pub struct Record {
    pub xid: Xid,
    pub digest: u64,
    /// The reply, once there is one.
    pub done: Option<Vec<u8>>,
}

/// A ledger as S28 has it: for each session, the last record of each slot.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub sessions: BTreeMap<[u8; 16], (SessionRecord, BTreeMap<u64, Record>)>,
}

/// One connection.
#[derive(Debug, Default)]
pub struct Link {
    /// Whose; `None` when the test plays the client.
    client: Option<usize>,
    /// The server's name for it; `None` when the test plays the server, or it has let go.
    conn: Option<ConnId>,
    /// Bytes on their way to the server, and to the client.
    pub up: VecDeque<u8>,
    pub down: VecDeque<u8>,
    /// Bytes that have arrived and were not taken yet.
    up_in: Vec<u8>,
    down_in: Vec<u8>,
    pub client_open: bool,
    pub server_open: bool,
    /// The test plays the server.
    by_hand: bool,
    /// Nothing is delivered of itself.
    pub hold_up: bool,
    pub hold_down: bool,
    /// What is written is lost, and nobody is told.
    pub silent: bool,
}

/// One client and what it has reported.
pub struct Peer {
    pub client: Client<Heap>,
    pub link: Option<usize>,
    pub principal: Principal,
    pub fates: Vec<(CallId, Fate)>,
    pub events: Vec<ClientEvent>,
    pub errors: Vec<ProtocolError>,
}

pub struct Pair {
    pub now: Instant,
    pub peers: Vec<Peer>,
    pub server: Server<Heap>,
    pub server_config: ServerConfig,
    pub client_config: ClientConfig,
    pub links: Vec<Link>,
    pub mode: Mode,
    pub let_in: Vec<LetIn>,
    pub started: Vec<Started>,
    /// Every execution, in order, by any server.
    pub runs: Vec<Run>,
    pub cancels: Vec<CallKey>,
    pub server_events: Vec<ServerEvent>,
    pub server_errors: Vec<ProtocolError>,
    pub ledger: Ledger,
    /// Bytes of the slices that the machines write to.
    pub out_len: usize,
    /// Most bytes delivered at once.
    pub chunk: usize,
    /// Says whether a frame that leaves one end is lost (S27).
    pub loses: Option<Box<dyn FnMut() -> bool>>,
    secrets: u128,
}

pub fn methods() -> [MethodSpec; 3] {
    let mut idem = MethodSpec::new(IDEM);
    idem.idempotent = true;
    let mut big = MethodSpec::new(BIG);
    big.reply_len_max = 1 << 20;
    [MethodSpec::new(ECHO), idem, big]
}

pub fn default_server_config() -> ServerConfig {
    let mut config = ServerConfig::new(ServerId::from_bytes([1; 16]), service("test"));
    config.slots = 4;
    config
}

impl Pair {
    /// A server, one client, no connection.
    pub fn unconnected() -> Pair {
        Pair::with(default_server_config(), ClientConfig::default())
    }

    /// A server, and one client connected to it.
    pub fn new() -> Pair {
        Pair::unconnected().connected()
    }

    pub fn with(server: ServerConfig, client: ClientConfig) -> Pair {
        let mut pair = Pair {
            now: Instant::from_millis(1_000),
            peers: Vec::new(),
            server: Server::new(server, &methods()).unwrap(),
            server_config: server,
            client_config: client,
            links: Vec::new(),
            mode: Mode::Echo,
            let_in: Vec::new(),
            started: Vec::new(),
            runs: Vec::new(),
            cancels: Vec::new(),
            server_events: Vec::new(),
            server_errors: Vec::new(),
            ledger: Ledger::default(),
            out_len: 1 << 16,
            chunk: usize::MAX,
            loses: None,
            secrets: 0,
        };
        pair.add_client(client, ALICE);
        pair
    }

    pub fn connected(mut self) -> Pair {
        self.connect(0);
        self.drive();
        assert!(self.peers[0].client.is_connected());
        self
    }

    pub fn slots(slots: u32) -> Pair {
        let mut config = default_server_config();
        config.slots = slots;
        Pair::with(config, ClientConfig::default()).connected()
    }

    pub fn add_client(&mut self, config: ClientConfig, principal: Principal) -> usize {
        self.peers.push(Peer {
            client: Client::new(config),
            link: None,
            principal,
            fates: Vec::new(),
            events: Vec::new(),
            errors: Vec::new(),
        });
        self.peers.len() - 1
    }

    pub fn client(&mut self) -> &mut Client<Heap> {
        &mut self.peers[0].client
    }

    // Connections.

    /// A new connection of a client; an older one is left behind as it is. Returns the link's number.
    pub fn connect(&mut self, at: usize) -> usize {
        self.connect_as(at, self.peers[at].principal)
    }

    pub fn connect_as(&mut self, at: usize, principal: Principal) -> usize {
        let conn = self.accept(principal);
        let link = Link { client: Some(at), conn, server_open: conn.is_some(), ..Link::default() };
        self.attach(at, link)
    }

    /// A new connection of a client to a server that the test plays.
    pub fn connect_by_hand(&mut self, at: usize) -> usize {
        let link = Link { client: Some(at), by_hand: true, server_open: true, ..Link::default() };
        self.attach(at, link)
    }

    fn attach(&mut self, at: usize, link: Link) -> usize {
        let number = self.links.len();
        if let Some(old) = self.peers[at].link.take() {
            self.links[old].client_open = false;
            self.links[old].down.clear();
            self.links[old].down_in.clear();
        }
        self.links.push(Link { client_open: true, ..link });
        self.peers[at].link = Some(number);
        self.peers[at].client.handle_connected(self.now);
        number
    }

    /// A connection whose client the test plays.
    pub fn raw(&mut self, principal: Principal) -> usize {
        let conn = self.accept(principal);
        self.links.push(Link {
            conn,
            client_open: true,
            server_open: conn.is_some(),
            ..Link::default()
        });
        self.links.len() - 1
    }

    /// The same, with its handshake done.
    pub fn raw_session(&mut self) -> (usize, Welcome) {
        let raw = self.raw(ALICE);
        let welcome = self.raw_hello(raw, None);
        (raw, welcome)
    }

    pub fn raw_resume(&mut self, session: SessionId, acked: u64) -> (usize, Welcome) {
        let raw = self.raw(ALICE);
        let welcome = self.raw_hello(raw, Some((session, acked)));
        (raw, welcome)
    }

    fn raw_hello(&mut self, raw: usize, resume: Option<(SessionId, u64)>) -> Welcome {
        self.send(raw, &hello(resume));
        match self.got(raw).as_slice() {
            [Got::Welcome(welcome)] => *welcome,
            other => panic!("no welcome: {other:?}"),
        }
    }

    fn accept(&mut self, principal: Principal) -> Option<ConnId> {
        self.secrets += 1;
        // The first half must differ: tables are indexed by it.
        let secret =
            SessionId::from_bytes(self.secrets.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        self.server.handle_connected(self.now, principal, secret)
    }

    pub fn link(&mut self) -> &mut Link {
        let number = self.peers[0].link.expect("connected");
        &mut self.links[number]
    }

    /// The server's name for a connection that it has.
    pub fn conn(&self, number: usize) -> Option<ConnId> {
        self.links[number].conn
    }

    /// Whether the execution that `key` names is of an idempotent call.
    pub fn is_idempotent(&self, key: CallKey) -> bool {
        let session = self.server.record_of(key).map(|(session, _)| session);
        let xid = key.xid().get();
        let run = self.runs.iter().find(|run| Some(run.session) == session && run.xid == xid);
        run.is_some_and(|run| run.method == IDEM)
    }

    pub fn link_number(&self) -> usize {
        self.peers[0].link.expect("connected")
    }

    /// Holds back what the client sends and what it is sent.
    pub fn hold(&mut self, hold: bool) {
        self.link().hold_up = hold;
        self.link().hold_down = hold;
    }

    /// The first client's connection breaks: bytes on their way are lost, both ends are told.
    pub fn cut(&mut self) {
        self.cut_client(0);
    }

    pub fn cut_client(&mut self, at: usize) {
        if let Some(number) = self.peers[at].link {
            self.cut_link(number);
        }
        self.drive();
    }

    fn cut_link(&mut self, number: usize) {
        let link = &mut self.links[number];
        link.up.clear();
        link.down.clear();
        link.up_in.clear();
        link.down_in.clear();
        link.client_open = false;
        link.server_open = false;
        if let Some(conn) = link.conn.take() {
            self.server.handle_disconnected(self.now, conn);
        }
        if let Some(at) = link.client
            && self.peers[at].link == Some(number)
        {
            self.peers[at].link = None;
            self.peers[at].client.handle_disconnected(self.now);
        }
    }

    /// The client is told that its connection is gone; the server is not, and what is on the way to it stays.
    pub fn cut_at_client(&mut self) -> usize {
        let number = self.peers[0].link.take().expect("connected");
        let link = &mut self.links[number];
        link.client_open = false;
        link.hold_up = true;
        link.down.clear();
        link.down_in.clear();
        self.peers[0].client.handle_disconnected(self.now);
        self.drive();
        number
    }

    /// Everything written from now on is lost, and nobody is told.
    pub fn silence(&mut self) {
        self.link().silent = true;
    }

    /// Cuts, if there is anything to cut, and connects until a session stands.
    pub fn reconnect(&mut self) {
        self.reconnect_client(0);
    }

    pub fn reconnect_client(&mut self, at: usize) {
        self.cut_client(at);
        for _ in 0..3 {
            if !self.peers[at].client.is_connected() && self.peers[at].client.wants_connection() {
                self.connect(at);
                self.drive();
            }
        }
    }

    /// The server's process dies and another one starts, with nothing of the old one.
    pub fn restart_server(&mut self) {
        let mut id = self.server_config.server.to_bytes();
        id[0] = id[0].wrapping_add(1);
        self.server_config.server = ServerId::from_bytes(id);
        self.ledger = Ledger::default();
        self.restart_server_with_ledger();
    }

    /// The server's process dies and another one starts with the same ledger.
    pub fn restart_server_with_ledger(&mut self) {
        for number in 0..self.links.len() {
            self.cut_link(number);
        }
        self.let_in.clear();
        self.started.clear();
        self.cancels.clear();
        self.server = Server::new(self.server_config, &methods()).unwrap();
        for (session, calls) in self.ledger.sessions.values() {
            let Some(key) = self.server.restore_session(self.now, *session) else { continue };
            for record in calls.values() {
                let state = match &record.done {
                    Some(body) => RecordState::Done(body),
                    None => RecordState::Started,
                };
                let record = CallRecord { xid: record.xid, digest: record.digest, state };
                self.server.restore_call(key, record);
            }
        }
        self.drive();
    }

    // The ledger.

    /// Writes what the server knows of a call's session, and of the call that it was started, or is done.
    pub fn record(&mut self, key: CallKey, done: Option<&[u8]>) {
        let Some(session) = self.server.session_record(key.session()) else { return };
        let Some((id, digest)) = self.server.record_of(key) else { return };
        let slot = key.xid().get() % u64::from(session.grants.slots);
        let record = Record { xid: key.xid(), digest, done: done.map(<[u8]>::to_vec) };
        let (kept, calls) =
            self.ledger.sessions.entry(id.to_bytes()).or_insert_with(|| (session, BTreeMap::new()));
        *kept = session;
        // S28: a record never replaces one of a later xid on its slot.
        if calls.get(&slot).is_none_or(|old| old.xid <= record.xid) {
            calls.insert(slot, record);
        }
    }

    /// Writes a session without any call.
    pub fn record_session(&mut self) {
        let conn = self.link().conn.unwrap();
        let key = self.server.session_of(conn).unwrap();
        let record = self.server.session_record(key).unwrap();
        self.ledger.sessions.entry(record.id.to_bytes()).or_insert((record, BTreeMap::new())).0 =
            record;
    }

    // Calls.

    /// Calls `ECHO` from the first client.
    pub fn call(&mut self, body: &[u8]) -> CallId {
        self.call_with(0, Call::new(ECHO, body))
    }

    pub fn call_with(&mut self, at: usize, call: Call<'_>) -> CallId {
        let id = self.peers[at].client.call(self.now, call).expect("the call is taken");
        self.drive();
        id
    }

    pub fn cancel(&mut self, id: CallId) {
        let now = self.now;
        self.client().cancel(now, id);
        self.drive();
    }

    pub fn forget(&mut self, id: CallId) {
        let now = self.now;
        self.client().forget(now, id);
        self.drive();
    }

    pub fn close(&mut self) {
        let now = self.now;
        self.client().close(now);
        self.drive();
    }

    /// The newest outcome of a call of the first client.
    pub fn fate(&self, id: CallId) -> Option<Fate> {
        self.fate_at(0, id)
    }

    pub fn fate_at(&self, at: usize, id: CallId) -> Option<Fate> {
        self.fates_at(at, id).pop()
    }

    /// All outcomes that a call has had.
    pub fn fates(&self, id: CallId) -> Vec<Fate> {
        self.fates_at(0, id)
    }

    pub fn fates_at(&self, at: usize, id: CallId) -> Vec<Fate> {
        let all = self.peers[at].fates.iter();
        all.filter(|(call, _)| *call == id).map(|(_, fate)| fate.clone()).collect()
    }

    pub fn events(&self) -> &[ClientEvent] {
        &self.peers[0].events
    }

    pub fn disconnects(&self) -> Vec<CloseReason> {
        let reason = |event: &ClientEvent| match event {
            ClientEvent::Disconnect(reason) => Some(*reason),
            _ => None,
        };
        self.events().iter().filter_map(reason).collect()
    }

    pub fn sessions_lost(&self) -> Vec<SessionEnd> {
        let end = |event: &ClientEvent| match event {
            ClientEvent::SessionLost(end) => Some(*end),
            _ => None,
        };
        self.events().iter().filter_map(end).collect()
    }

    /// How often calls with this body were started.
    pub fn ran(&self, body: &[u8]) -> usize {
        self.runs.iter().filter(|run| run.body == body).count()
    }

    /// How often the call with this number was started in this session.
    pub fn ran_xid(&self, session: SessionId, xid: u64) -> usize {
        self.runs.iter().filter(|run| run.session == session && run.xid == xid).count()
    }

    pub fn session_id(&self) -> SessionId {
        self.peers[0].client.session().expect("a session").id
    }

    // The server's handlers.

    pub fn let_in(&mut self, body: &[u8]) -> LetIn {
        let at = self.let_in.iter().position(|call| call.body == body).expect("let in");
        self.let_in.remove(at)
    }

    /// Starts a call that was let in; the test answers it.
    pub fn start(&mut self, body: &[u8]) -> Result<(), Refused> {
        let call = self.let_in(body);
        let key = call.admission.key();
        let session = self.server.record_of(key).map(|(session, _)| session);
        let result = self.server.start(self.now, call.admission).map(|running| {
            let session = session.expect("a call that starts has a session");
            let (xid, method) = (key.xid().get(), call.method);
            self.runs.push(Run { session, xid, method, body: call.body.clone() });
            self.started.push(Started { running, body: call.body });
        });
        self.drive();
        result
    }

    /// The right to answer a call that runs.
    pub fn running(&mut self, body: &[u8]) -> Running {
        let at = self.started.iter().position(|call| call.body == body).expect("started");
        self.started.remove(at).running
    }

    /// Answers a call that runs with its echo.
    pub fn finish(&mut self, body: &[u8]) {
        self.finish_with(body, &echo(body));
    }

    pub fn finish_with(&mut self, body: &[u8], reply: &[u8]) {
        let running = self.running(body);
        let _ = self.server.reply(self.now, running, reply);
        self.drive();
    }

    pub fn abort(&mut self, body: &[u8]) {
        let running = self.running(body);
        self.server.abort(self.now, running);
        self.drive();
    }

    pub fn refuse(&mut self, body: &[u8], why: NotExecuted) {
        let call = self.let_in(body);
        self.server.refuse(self.now, call.admission, why);
        self.drive();
    }

    pub fn kept(&self) -> u64 {
        self.server.counters().kept_bytes
    }

    // Frames by hand.

    /// Sends a frame as the client of a raw link, and lets everything happen.
    pub fn send(&mut self, raw: usize, frame: &Frame<'_>) {
        self.send_bytes(raw, &bytes_of(frame));
    }

    pub fn send_bytes(&mut self, raw: usize, bytes: &[u8]) {
        self.links[raw].up.extend(bytes);
        self.drive();
    }

    /// Sends a frame as the server of a link by hand.
    pub fn send_down(&mut self, link: usize, frame: &Frame<'_>) {
        self.links[link].down.extend(bytes_of(frame));
        self.drive();
    }

    /// Reads all frames that have come to the client of a raw link.
    pub fn got(&mut self, raw: usize) -> Vec<Got> {
        let bytes = std::mem::take(&mut self.links[raw].down).into();
        frames(bytes, Role::Server)
    }

    /// Reads all frames that have come to the server of a link by hand.
    pub fn got_up(&mut self, link: usize) -> Vec<Got> {
        let bytes = std::mem::take(&mut self.links[link].up).into();
        frames(bytes, Role::Client)
    }

    /// Closes a raw link.
    pub fn hang_up(&mut self, raw: usize) {
        self.links[raw].client_open = false;
        self.drive();
    }

    // Time and movement.

    /// Lets time pass, with every timer when it is due.
    pub fn advance(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut spins = 0;
        while let Some(at) = self.next_timeout().filter(|at| *at <= end) {
            spins = if at > self.now { 0 } else { spins + 1 };
            assert!(spins < 1_000, "a timer spins at {:?}", self.now);
            self.now = self.now.max(at);
            self.fire();
        }
        self.now = end;
        self.fire();
    }

    /// Time jumps without a timer in between, as it does for a machine that slept.
    pub fn jump(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.fire();
    }

    fn fire(&mut self) {
        self.server.handle_timeout(self.now);
        for peer in &mut self.peers {
            peer.client.handle_timeout(self.now);
        }
        self.drive();
    }

    pub fn next_timeout(&self) -> Option<Instant> {
        let clients = self.peers.iter().map(|peer| peer.client.poll_timeout());
        clients.chain([self.server.poll_timeout()]).flatten().min()
    }

    /// Moves bytes and events until nothing moves.
    pub fn drive(&mut self) {
        for _ in 0..1_000_000 {
            let mut moved = false;
            for at in 0..self.peers.len() {
                moved |= self.drive_client(at);
            }
            moved |= self.drive_server();
            for number in 0..self.links.len() {
                moved |= self.drive_link(number);
            }
            if !moved {
                return;
            }
        }
        panic!("the machines never come to rest");
    }

    fn drive_client(&mut self, at: usize) -> bool {
        let mut moved = false;
        let peer = &mut self.peers[at];
        while let Some(event) = peer.client.poll_event() {
            moved = true;
            peer.events.push(event);
            match event {
                ClientEvent::Ended { call, outcome } => peer.fates.push((call, outcome.into())),
                ClientEvent::Disconnect(_) => {
                    if let Some(link) = peer.link.take() {
                        self.links[link].client_open = false;
                    }
                }
                _ => {}
            }
        }
        let mut out = vec![0; self.out_len];
        while let Some(len) = peer.client.poll_transmit(self.now, &mut out) {
            moved = true;
            let link = peer.link.expect("a client without a connection sends nothing");
            write(&mut self.links[link], Role::Client, &out[..len.get()], &mut self.loses);
        }
        moved
    }

    fn drive_server(&mut self) -> bool {
        let mut moved = false;
        while let Some(event) = self.server.poll_event() {
            moved = true;
            self.server_events.push(event);
            match event {
                ServerEvent::Transmit(conn) => {
                    let mut out = vec![0; self.out_len];
                    while let Some(len) = self.server.poll_transmit(self.now, conn, &mut out) {
                        let link = self.links.iter_mut().find(|link| link.conn == Some(conn));
                        let link = link.expect("a connection that the server knows");
                        write(link, Role::Server, &out[..len.get()], &mut self.loses);
                    }
                }
                ServerEvent::Close(conn, _) => {
                    for link in self.links.iter_mut().filter(|link| link.conn == Some(conn)) {
                        link.conn = None;
                        link.server_open = false;
                    }
                }
                ServerEvent::SessionEnded(session) => {
                    self.ledger.sessions.remove(&session.to_bytes());
                }
                _ => {}
            }
        }
        moved
    }

    fn drive_link(&mut self, number: usize) -> bool {
        let mut moved = false;
        if !self.links[number].hold_up && !self.links[number].by_hand {
            moved |= self.deliver_up(number, self.chunk);
        }
        if !self.links[number].hold_down && self.links[number].client.is_some() {
            moved |= self.deliver_down(number, self.chunk);
        }
        moved | self.tell_server(number) | self.tell_client(number)
    }

    /// The server is told of the client's close when it has read everything.
    fn tell_server(&mut self, number: usize) -> bool {
        let link = &mut self.links[number];
        if link.client_open || link.hold_up || link.silent || !link.up.is_empty() {
            return false;
        }
        let Some(conn) = link.conn.take() else { return false };
        link.server_open = false;
        self.server.handle_disconnected(self.now, conn);
        true
    }

    /// And the client of the server's.
    fn tell_client(&mut self, number: usize) -> bool {
        let link = &mut self.links[number];
        if link.server_open || link.hold_down || link.silent || !link.down.is_empty() {
            return false;
        }
        let Some(at) = link.client.filter(|at| self.peers[*at].link == Some(number)) else {
            return false;
        };
        link.client_open = false;
        self.peers[at].link = None;
        self.peers[at].client.handle_disconnected(self.now);
        true
    }

    /// Delivers at most `len` bytes to the server, held back or not.
    pub fn deliver_up(&mut self, number: usize, len: usize) -> bool {
        let link = &mut self.links[number];
        let len = len.min(link.up.len());
        link.up_in.extend(link.up.drain(..len));
        let Some(conn) = link.conn else {
            link.up_in.clear();
            return len > 0;
        };
        if len > 0 {
            self.read_up(number, conn);
        }
        len > 0
    }

    fn read_up(&mut self, number: usize, conn: ConnId) {
        let data = std::mem::take(&mut self.links[number].up_in);
        let mut at = 0;
        loop {
            match self.server.handle_data(self.now, conn, &data[at..]) {
                Err(error) => {
                    self.server_errors.push(error);
                    return;
                }
                Ok(received) => {
                    at += received.consumed;
                    let Some(item) = received.item else { break };
                    match item {
                        Incoming::Cancel(key) => self.cancels.push(key),
                        Incoming::Request(request) => {
                            let call = LetIn {
                                admission: request.admission,
                                body: request.body.to_vec(),
                                method: request.method,
                                deadline: request.deadline,
                                one_way: request.one_way,
                            };
                            self.take_in(call);
                        }
                        other => panic!("unknown: {other:?}"),
                    }
                }
            }
        }
        self.links[number].up_in = data[at..].to_vec();
    }

    fn take_in(&mut self, call: LetIn) {
        let body = call.body.clone();
        self.let_in.push(call);
        if self.mode == Mode::Hold {
            return;
        }
        let call = self.let_in.pop().expect("just pushed");
        let key = call.admission.key();
        let session = self.server.record_of(key).expect("just let in").0;
        let Ok(running) = self.server.start(self.now, call.admission) else { return };
        let (xid, method) = (key.xid().get(), call.method);
        self.runs.push(Run { session, xid, method, body: body.clone() });
        if self.mode == Mode::Start {
            self.started.push(Started { running, body });
        } else {
            let _ = self.server.reply(self.now, running, &echo(&body));
        }
    }

    /// Delivers at most `len` bytes to the client, held back or not.
    pub fn deliver_down(&mut self, number: usize, len: usize) -> bool {
        let link = &mut self.links[number];
        let len = len.min(link.down.len());
        link.down_in.extend(link.down.drain(..len));
        let Some(at) = link.client.filter(|at| self.peers[*at].link == Some(number)) else {
            link.down_in.clear();
            return len > 0;
        };
        if len > 0 {
            self.read_down(number, at);
        }
        len > 0
    }

    fn read_down(&mut self, number: usize, at: usize) {
        let peer = &mut self.peers[at];
        let data = std::mem::take(&mut self.links[number].down_in);
        let mut taken = 0;
        loop {
            match peer.client.handle_data(self.now, &data[taken..]) {
                Err(error) => {
                    peer.errors.push(error);
                    peer.link = None;
                    self.links[number].client_open = false;
                    return;
                }
                Ok(received) => {
                    taken += received.consumed;
                    let Some(reply) = received.item else { break };
                    peer.fates.push((reply.call, reply.outcome.into()));
                }
            }
        }
        self.links[number].down_in = data[taken..].to_vec();
    }
}

fn write(link: &mut Link, from: Role, bytes: &[u8], loses: &mut Option<Box<dyn FnMut() -> bool>>) {
    let queue = match from {
        Role::Client => &mut link.up,
        Role::Server => &mut link.down,
    };
    if link.silent {
        return;
    }
    let Some(loses) = loses else {
        queue.extend(bytes);
        return;
    };
    let mut rest = bytes;
    while let Some(front) = wire::front(rest) {
        let (frame, after) = rest.split_at(front.len);
        if !loses() {
            queue.extend(frame);
        }
        rest = after;
    }
    assert!(rest.is_empty(), "a link that loses messages needs whole ones");
}

fn frames(bytes: Vec<u8>, from: Role) -> Vec<Got> {
    let mut all = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        match wire::decode(rest, from, u32::MAX / 2).unwrap() {
            Decoded::Frame(frame, len) => {
                all.push(frame.into());
                rest = &rest[len..];
            }
            Decoded::Incomplete(wanted) => panic!("half a frame: {} of {wanted}", rest.len()),
        }
    }
    all
}

/// A small generator whose whole state is its seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}
