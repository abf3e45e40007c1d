//! A server, its clients, and the connections between them.

use std::collections::{BTreeMap, VecDeque};

use oncewire_core::wire::Welcome;
use oncewire_core::*;

use super::*;

/// What the server's end does with a call that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Starts and answers it at once.
    Echo,
    /// Starts it; the test answers.
    Start,
    /// Admits it; the test starts it.
    Hold,
}

/// A call that was admitted and waits for the test.
#[derive(Debug)]
pub struct AdmittedCall {
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
    pub(super) client: Option<usize>,
    /// The server's name for it; `None` when the test plays the server, or it has let go.
    pub(super) conn: Option<ConnId>,
    /// Bytes on their way to the server, and to the client.
    pub up: VecDeque<u8>,
    pub down: VecDeque<u8>,
    /// Bytes that have arrived and were not taken yet.
    pub(super) up_in: Vec<u8>,
    pub(super) down_in: Vec<u8>,
    pub client_open: bool,
    pub server_open: bool,
    /// The test plays the server.
    pub(super) by_hand: bool,
    /// Nothing is delivered of itself.
    pub hold_up: bool,
    pub hold_down: bool,
    /// What is written is lost, and neither end notices.
    pub silent: bool,
    /// Second copies, and behind how many more frames of their direction each of them comes.
    pub(super) late_up: Vec<(usize, Vec<u8>)>,
    pub(super) late_down: Vec<(usize, Vec<u8>)>,
}

/// What becomes of a frame on a link that loses and doubles them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Luck {
    Lost,
    Once,
    /// Delivered, and once more behind so many later frames.
    Twice(usize),
}

/// One client and what it has reported.
pub struct Peer {
    pub client: Client<Heap>,
    pub link: Option<usize>,
    pub principal: Principal,
    pub outcomes: Vec<(CallId, OwnedOutcome)>,
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
    pub admitted: Vec<AdmittedCall>,
    pub started: Vec<Started>,
    /// Every execution, in order, by any server.
    pub runs: Vec<Run>,
    pub cancels: Vec<CallKey>,
    pub withdrawn: Vec<CallKey>,
    pub server_events: Vec<ServerEvent>,
    pub server_errors: Vec<ProtocolError>,
    pub ledger: Ledger,
    /// Bytes of the slices that the machines write to.
    pub out_len: usize,
    /// Most bytes delivered at once.
    pub chunk: usize,
    /// What becomes of a frame that leaves one end (S27); all are delivered once where there is none.
    pub luck: Option<Box<dyn FnMut() -> Luck>>,
    pub(super) secrets: u128,
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
            admitted: Vec::new(),
            started: Vec::new(),
            runs: Vec::new(),
            cancels: Vec::new(),
            withdrawn: Vec::new(),
            server_events: Vec::new(),
            server_errors: Vec::new(),
            ledger: Ledger::default(),
            out_len: 1 << 16,
            chunk: usize::MAX,
            luck: None,
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
            outcomes: Vec::new(),
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

    /// What a server that the test plays says to resume the client's session.
    pub fn resuming_welcome(&mut self, seen: u64) -> Welcome {
        let session = *self.client().session().expect("the client has had one");
        Welcome {
            version: wire::VERSION,
            features: wire::FEATURE_METADATA,
            server: session.server,
            service: session.service,
            session: session.id,
            seen,
            commit: 0,
            grants: session.grants,
            instance: Instance::UNNAMED,
            schemas: Schemas::EMPTY,
        }
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
        self.raw_greet(raw, &hello(resume))
    }

    /// A handshake by hand.
    pub fn raw_greet(&mut self, raw: usize, hello: &wire::Frame<'_>) -> Welcome {
        self.send(raw, hello);
        match self.got(raw).as_slice() {
            [OwnedFrame::Welcome(welcome)] => *welcome,
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

    /// The first client's connection breaks: bytes on their way are lost, both ends learn of it.
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

    /// The client learns that its connection is gone; the server does not, and what is on the way to it stays.
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

    /// Everything written from now on is lost, and neither end notices.
    pub fn silence(&mut self) {
        self.link().silent = true;
    }

    /// Cuts, if there is anything to cut, and connects until there is a session.
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
        self.admitted.clear();
        self.started.clear();
        self.cancels.clear();
        self.withdrawn.clear();
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
}
