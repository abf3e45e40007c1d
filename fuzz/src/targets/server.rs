//! The server machine under hostile clients.

use std::collections::BTreeMap;
use std::time::Duration;

use oncewire_core::wire::{self, Ack, Decoded, Frame, Hello, RequestHeader, Resume, Role};
use oncewire_core::*;

use super::script::{Script, bytes_of};

const KEPT_MAX: u64 = 900;
const SESSIONS_MAX: usize = 4;
const PLAIN: MethodId = MethodId::from_number(1);
const IDEM: MethodId = MethodId::from_number(2);

enum Right {
    Admitted(Admission, bool),
    Running(Running),
}

struct Game<'d> {
    script: Script<'d>,
    server: Server<Heap>,
    now: Instant,
    conns: Vec<ConnId>,
    rights: Vec<Right>,
    /// Executions by session and xid.
    runs: BTreeMap<([u8; 16], u64), u32>,
    sessions: Vec<SessionId>,
    made: u32,
    out: Vec<u8>,
}

/// Plays the script: nothing panics, no limit is exceeded, no xid of a session runs twice, every answer is made of whole
/// frames, each step's work is bounded, and when the connections are gone and the leases over, nothing is left.
pub fn server(data: &[u8]) {
    let mut script = Script::new(data);
    let name = ServiceName::new("fuzz").expect("short");
    let mut config = ServerConfig::new(ServerId::from_bytes([1; 16]), name);
    config.slots = 1 + u32::from(script.byte() % 4);
    config.request_len_max = 300;
    config.reply_len_max = 300;
    config.sessions_max = SESSIONS_MAX;
    config.sessions_per_principal_max = 2;
    config.conns_max = 6;
    config.kept_max = KEPT_MAX;
    config.kept_per_principal_max = 700;
    config.kept_per_session_max = 500;
    config.lease = Duration::from_secs(2);
    config.lease_unused = Duration::from_secs(1);
    config.keepalive = Duration::from_secs(1);
    config.lossy = script.byte() & 7 == 7;
    let mut specs = [MethodSpec::new(PLAIN), MethodSpec::new(IDEM)];
    specs[0].reply_len_max = 100;
    specs[1].reply_len_max = 50;
    specs[1].idempotent = true;
    let mut game = Game {
        script,
        server: Server::new(config, &specs).expect("methods differ"),
        now: Instant::ZERO,
        conns: Vec::new(),
        rights: Vec::new(),
        runs: BTreeMap::new(),
        sessions: Vec::new(),
        made: 0,
        out: Vec::new(),
    };
    while !game.script.is_over() {
        game.step();
        game.poll();
        game.check();
    }
    game.end();
}

impl Game<'_> {
    fn check(&self) {
        let counters = self.server.counters();
        assert!(counters.kept_bytes <= KEPT_MAX, "S11: {counters:?}");
        assert!(counters.sessions <= SESSIONS_MAX, "S6: {counters:?}");
        assert!(counters.conns <= 6);
        assert_eq!(counters.running, self.rights.len() as u64, "{counters:?}");
    }

    fn step(&mut self) {
        match self.script.byte() % 16 {
            0 => self.connect(),
            1 => {
                if let Some(conn) = self.pick() {
                    self.server.handle_disconnected(self.now, conn);
                }
            }
            2 => {
                let by = Duration::from_millis(self.script.number() % 5_000);
                self.now = self.now + by;
                self.server.handle_timeout(self.now);
            }
            3 => {
                let len = usize::from(self.script.byte());
                let bytes = self.script.bytes(len);
                self.receive(bytes);
            }
            4 | 5 => self.hello(),
            6..10 => self.request(),
            10..13 => self.handle(),
            13 if self.script.byte() == 255 => self.server.drain(self.now, Duration::from_secs(1)),
            _ => self.control(),
        }
    }

    fn pick(&mut self) -> Option<ConnId> {
        let at = usize::from(self.script.byte());
        self.conns.get(at % self.conns.len().max(1)).copied()
    }

    fn connect(&mut self) {
        self.made = self.made.wrapping_add(1);
        // Of 128 random bits, no two sessions get the same: nor may they here, however long the script is.
        let mut id = [self.made as u8; 16];
        id[1] = self.script.byte() % 2;
        id[2..6].copy_from_slice(&self.made.to_le_bytes());
        let id = SessionId::from_bytes(id);
        let principal = Principal(u64::from(self.script.byte() % 3));
        if let Some(conn) = self.server.handle_connected(self.now, principal, id) {
            self.conns.push(conn);
            self.sessions.push(id);
        }
    }

    fn hello(&mut self) {
        let (kind, at) = (self.script.byte(), usize::from(self.script.byte()));
        let session = self.sessions.get(at % self.sessions.len().max(1)).copied();
        let acked = self.script.number();
        let hello = Hello {
            magic: wire::MAGIC,
            version_min: 1,
            version_max: 1,
            features: u32::from(kind) & wire::FEATURE_METADATA,
            resume: session.filter(|_| kind & 1 == 1).map(|session| Resume { session, acked }),
            slots: 1 + u32::from(kind >> 5),
            request_len_max: 300,
            reply_len_max: 200,
            service: None,
            server: None,
            token: None,
        };
        self.receive(&bytes_of(&Frame::Hello(hello)));
    }

    fn request(&mut self) {
        let (kind, number, acked) =
            (self.script.byte(), self.script.number(), self.script.number());
        let Some(xid) = Xid::new(number) else { return };
        let acked = if kind & 0x80 == 0 { acked.min(number.saturating_sub(1)) } else { acked };
        let header = RequestHeader {
            // A body of zeros is a block without pairs; the others are broken.
            flags: kind & 3 | if kind & 0xc == 0xc { wire::FLAG_METADATA } else { 0 },
            method: MethodId::from_number(1 + u64::from(kind >> 2 & 3)),
            remaining_ms: if kind & 0x10 == 0 { 30_000 } else { 5 },
            xid,
            acked,
        };
        let body = [kind >> 6; 40];
        self.receive(&bytes_of(&Frame::Request(header, &body[..usize::from(kind >> 4 & 3)])));
    }

    fn control(&mut self) {
        let (kind, number) = (self.script.byte(), self.script.number());
        let frame = match (kind % 6, Xid::new(number)) {
            (0, Some(xid)) => Frame::Ask(xid, 1),
            (1, Some(xid)) => Frame::Cancel(xid),
            (2, _) => Frame::Ack(Ack {
                acked: number,
                last: u64::from(self.script.byte()),
                base: self.script.number() as u32,
                settled: self.script.number(),
            }),
            (3, _) => Frame::Ping(Role::Client),
            (4, _) => Frame::Goodbye(Role::Client),
            _ => Frame::Pong(Role::Client),
        };
        self.receive(&bytes_of(&frame));
    }

    fn receive(&mut self, bytes: &[u8]) {
        let Some(conn) = self.pick() else { return };
        let mut rest = bytes;
        let mut rounds = 0;
        while let Ok(received) = self.server.handle_data(self.now, conn, rest) {
            rounds += 1;
            assert!(rounds < 1_000, "no end to what a few bytes bring");
            assert!(received.consumed <= rest.len());
            rest = &rest[received.consumed..];
            match received.item {
                Some(Incoming::Request(request)) => {
                    self.rights.push(Right::Admitted(request.admission, request.idempotent));
                }
                Some(_) => {}
                None => return,
            }
        }
    }

    /// A handler goes on.
    fn handle(&mut self) {
        let (what, at) = (self.script.byte(), usize::from(self.script.byte()));
        if self.rights.is_empty() {
            return;
        }
        match self.rights.swap_remove(at % self.rights.len()) {
            Right::Admitted(admission, _) if what % 8 == 0 => {
                self.server.refuse(self.now, admission, NotExecuted::BadArguments);
            }
            Right::Admitted(admission, idempotent) => self.start(admission, idempotent),
            Right::Running(running) if what % 8 == 0 => self.server.abort(self.now, running),
            Right::Running(running) if what % 8 == 1 => {
                self.server.roll_back(self.now, running, NotExecuted::Aborted);
            }
            Right::Running(running) => {
                let body = &[5; 120][..usize::from(what & 0x7f).min(120)];
                let conn = self.conns.get(at % self.conns.len().max(1)).copied();
                match (what < 0x80, conn) {
                    (true, Some(conn)) if what % 2 == 0 => {
                        let mut out = [0; 100];
                        let len = self.server.reply_into(self.now, running, body, conn, &mut out);
                        check_frames(&out[..len.unwrap_or(0)]);
                    }
                    (true, _) => drop(self.server.reply(self.now, running, body)),
                    (false, _) => {
                        let body = body.to_vec().into();
                        let _ = self.server.reply_with_len(self.now, running, body);
                    }
                }
            }
        }
    }

    fn start(&mut self, admission: Admission, idempotent: bool) {
        let key = admission.key();
        let record = self.server.record_of(key);
        if let Ok(running) = self.server.start(self.now, admission) {
            let (session, _) = record.expect("what starts has a session");
            let runs = self.runs.entry((session.to_bytes(), key.xid().get())).or_default();
            *runs += 1;
            assert!(*runs == 1 || idempotent, "S10: {key:?} of {session:?} ran twice");
            self.rights.push(Right::Running(running));
        }
    }

    fn poll(&mut self) {
        let mut events = 0;
        while let Some(event) = self.server.poll_event() {
            events += 1;
            assert!(events < 1_000, "events without end");
            match event {
                ServerEvent::Transmit(conn) => self.transmit(conn),
                ServerEvent::Close(conn, _) => self.conns.retain(|known| *known != conn),
                _ => {}
            }
        }
    }

    fn transmit(&mut self, conn: ConnId) {
        let mut out = [0; 500];
        let room = wire::CONTROL_LEN_MAX + usize::from(self.script.byte() & 1) * 116;
        self.out.clear();
        while let Some(len) = self.server.poll_transmit(self.now, conn, &mut out[..room]) {
            self.out.extend_from_slice(&out[..len.get()]);
            assert!(self.out.len() < 100_000, "sends without end");
        }
        check_frames(&self.out);
    }

    /// The connections break, handlers finish, leases end.
    fn end(&mut self) {
        for conn in std::mem::take(&mut self.conns) {
            self.server.handle_disconnected(self.now, conn);
        }
        for right in std::mem::take(&mut self.rights) {
            match right {
                Right::Admitted(admission, _) => {
                    self.server.refuse(self.now, admission, NotExecuted::BadArguments);
                }
                Right::Running(running) => {
                    let _ = self.server.reply(self.now, running, &[1; 10]);
                }
            }
        }
        self.check();
        for _ in 0..3 {
            self.poll();
            self.now = self.now + Duration::from_secs(10);
            self.server.handle_timeout(self.now);
        }
        self.poll();
        let counters = self.server.counters();
        let left = (counters.sessions, counters.conns, counters.running, counters.kept_bytes);
        assert_eq!(left, (0, 0, 0, 0), "{counters:?}");
        let requests = counters.request_bytes + counters.coming_bytes;
        let bytes = (counters.half_sent_bytes, requests, counters.table_bytes);
        assert_eq!(bytes, (0, 0, 0), "{counters:?}");
    }
}

/// A server sends whole frames.
fn check_frames(mut rest: &[u8]) {
    while !rest.is_empty() {
        match wire::decode(rest, Role::Server, 300) {
            Ok(Decoded::Frame(_, len)) => rest = &rest[len..],
            other => panic!("the server sends {rest:02x?}: {other:?}"),
        }
    }
}
