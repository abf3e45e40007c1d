//! Seeded random walks through everything that the owner and the peers of one machine can do, in any order: commands with
//! keys of what is gone, records that are restored twice, storage that is full, frames that are right or wrong. No walk may
//! reach a debug assertion, and when all is over nothing may be held. Secrets come again, which a sound owner's do not.
#![allow(missing_docs)]

mod util;

use oncewire_core::wire::{Ack, Frame, Grants, Refuse, ReplyHeader, Role, Welcome};
use oncewire_core::*;
use util::*;

type SmallServer = InlineServer<3, 3, 2, 4, 24>;
type SmallClient = InlineClient<4, 2, 24>;

const GRANTS: Grants = Grants {
    slots: 2,
    request_len_max: 20,
    reply_len_max: 100,
    lease_ms: 9_000,
    keepalive_ms: 9_000,
};

const BODY: [u8; 80] = [7; 80];

/// `SEED=n` repeats one walk.
fn seeds() -> std::ops::Range<u64> {
    match std::env::var("SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).unwrap(),
        Err(_) => 0..1_000,
    }
}

/// Says which walk failed.
struct Failed(u64);

impl Drop for Failed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the walk that failed: SEED={}", self.0);
        }
    }
}

fn secret(rng: &mut Rng) -> SessionId {
    // Two with one first half, and some that come again.
    let mut bytes = [0; 16];
    bytes[0] = rng.below(16) as u8;
    bytes[15] = rng.below(2) as u8;
    SessionId::from_bytes(bytes)
}

fn any_request(rng: &mut Rng) -> Frame<'static> {
    let number = 1 + rng.below(7);
    // Mostly the same at each repetition.
    let kind = if rng.one_in(8) { rng.below(6) } else { number };
    let header = wire::RequestHeader {
        flags: [0, 1, 0, 2, 0, 3][kind as usize % 6],
        method: if kind % 2 == 1 { IDEM } else { ECHO },
        remaining_ms: *rng.pick(&[0, 60_000, 60_000]),
        xid: xid(number),
        acked: if rng.one_in(3) { rng.below(number) } else { 0 },
    };
    Frame::Request(header, &BODY[..4 * kind as usize])
}

fn any_client_frame(rng: &mut Rng) -> Vec<u8> {
    let number = xid(1 + rng.below(9));
    bytes_of(&match rng.below(24) {
        0 => {
            let known = secret(rng);
            hello(if rng.one_in(2) { Some((known, rng.below(6))) } else { None })
        }
        1..=4 => Frame::Ask(number, rng.below(3) as u16),
        5..=7 => Frame::Ack(Ack {
            acked: rng.below(3),
            last: rng.below(12),
            base: 0,
            settled: rng.below(16),
        }),
        10 => Frame::Cancel(number),
        11 => Frame::Ping(Role::Client),
        12 => Frame::Goodbye(Role::Client),
        _ => any_request(rng),
    })
}

fn any_grants(rng: &mut Rng) -> Grants {
    Grants {
        slots: rng.below(4) as u32,
        request_len_max: rng.below(60) as u32,
        reply_len_max: rng.below(30) as u32,
        lease_ms: rng.below(3_000) as u32,
        keepalive_ms: rng.below(30_000) as u32,
    }
}

/// An owner of a server that does anything in any order.
struct ServerWalk<T: ServerStorage> {
    rng: Rng,
    now: Instant,
    server: Server<T>,
    conns: Vec<ConnId>,
    sessions: Vec<SessionKey>,
    keys: Vec<CallKey>,
    admitted: Vec<Admission>,
    running: Vec<Running>,
}

impl<T: ServerStorage> ServerWalk<T> {
    fn new(seed: u64, conns_max: usize) -> ServerWalk<T> {
        let mut rng = Rng(seed);
        let mut config = default_server_config();
        config.slots = 1 + rng.below(3) as u32;
        config.conns_max = conns_max;
        config.sessions_max = 3;
        config.lease = ms(rng.below(5_000));
        config.lease_unused = ms(rng.below(5_000));
        config.keepalive = ms(500 + rng.below(5_000));
        config.records_sessions = rng.one_in(2);
        config.lossy = rng.one_in(2);
        if rng.one_in(6) {
            config.requests_max = rng.below(2_000);
            config.kept_max = rng.below(2_000);
        }
        ServerWalk {
            rng,
            now: Instant::from_millis(1),
            server: Server::new(config, &methods()).unwrap(),
            conns: Vec::new(),
            sessions: Vec::new(),
            keys: Vec::new(),
            admitted: Vec::new(),
            running: Vec::new(),
        }
    }

    /// One step, now and then on the connection that is given.
    fn step(&mut self, conn: Option<ConnId>) {
        let now = self.now;
        match self.rng.below(34) {
            0..=2 => self.connect(),
            3 => conn.into_iter().for_each(|conn| self.server.handle_disconnected(now, conn)),
            4 => conn.into_iter().for_each(|conn| self.server.confirm_session(conn)),
            5..=15 => conn.into_iter().for_each(|conn| self.read(conn)),
            16..=18 if !self.admitted.is_empty() => self.start_or_refuse(),
            19..=21 if !self.running.is_empty() => self.end_one(),
            22 => self.restore_session(),
            23..=25 if !self.sessions.is_empty() => self.restore_call(),
            26 => self.look(),
            27 if self.rng.one_in(8) => {
                let grace = ms(self.rng.below(4_000));
                self.server.drain(now, grace);
            }
            28 => {
                self.now = now + ms(self.rng.below(2_000));
                self.server.handle_timeout(self.now);
            }
            29..=31 => conn.into_iter().for_each(|conn| self.write(conn)),
            _ => self.poll_events(),
        }
        self.sessions.extend(conn.and_then(|conn| self.server.session_of(conn)));
    }

    fn connect(&mut self) {
        let who = Principal(self.rng.below(8) / 7);
        let secret = secret(&mut self.rng);
        let Some(conn) = self.server.handle_connected(self.now, who, secret) else { return };
        self.conns.push(conn);
        if self.rng.one_in(4) {
            return;
        }
        let resume = if self.rng.one_in(2) { self.sessions.last() } else { None };
        let record = resume.and_then(|key| self.server.session_record(*key));
        let greeting = hello(record.map(|record| (record.id, self.rng.below(3))));
        let _ = self.server.handle_data(self.now, conn, &bytes_of(&greeting));
        if self.rng.one_in(8) {
            return;
        }
        self.server.confirm_session(conn);
        let _ = self.server.poll_transmit(self.now, conn, &mut [0; wire::CONTROL_LEN_MAX]);
    }

    fn read(&mut self, conn: ConnId) {
        let mut data = any_client_frame(&mut self.rng);
        if self.rng.one_in(20) {
            data.truncate(self.rng.below(data.len() as u64) as usize);
        } else if self.rng.one_in(3) {
            data.extend(any_client_frame(&mut self.rng));
        }
        let mut at = 0;
        while let Ok(taken) = self.server.handle_data(self.now, conn, &data[at..]) {
            at += taken.consumed;
            match taken.item {
                Some(Incoming::Request(request)) => {
                    self.keys.push(request.admission.key());
                    self.admitted.push(request.admission);
                }
                Some(_) => {}
                None => break,
            }
        }
    }

    fn start_or_refuse(&mut self) {
        let at = self.rng.below(self.admitted.len() as u64) as usize;
        let admission = self.admitted.swap_remove(at);
        if self.rng.one_in(4) {
            self.server.refuse(self.now, admission, NotExecuted::Overloaded);
        } else {
            self.running.extend(self.server.start(self.now, admission));
        }
    }

    fn end_one(&mut self) {
        let at = self.rng.below(self.running.len() as u64) as usize;
        let run = self.running.swap_remove(at);
        match self.rng.below(4) {
            0 => self.server.abort(self.now, run),
            1 => self.server.roll_back(self.now, run, NotExecuted::SessionRefused),
            2 => self.server.no_reply(self.now, run, NoReply::NotKept),
            _ => drop(self.server.reply(self.now, run, &BODY[..self.rng.below(50) as usize])),
        }
    }

    fn restore_session(&mut self) {
        let record = SessionRecord {
            id: secret(&mut self.rng),
            principal: Principal(self.rng.below(8) / 7),
            grants: any_grants(&mut self.rng),
            seen: self.rng.below(8),
            acked: self.rng.below(3),
        };
        self.sessions.extend(self.server.restore_session(self.now, record));
    }

    fn restore_call(&mut self) {
        let key = *self.rng.pick(&self.sessions);
        let state = match self.rng.below(3) {
            0 => RecordState::Started,
            1 => RecordState::NoReply(NoReply::NotKept),
            _ => RecordState::Done(&BODY[..self.rng.below(50) as usize]),
        };
        let record = CallRecord { xid: xid(1 + self.rng.below(9)), digest: 1, state };
        self.server.restore_call(key, record);
    }

    fn look(&mut self) {
        for key in &self.keys {
            let _ = (self.server.is_cancelled(*key), self.server.is_wanted(*key));
            let _ = self.server.record_of(*key);
        }
        for key in &self.sessions {
            let _ = (self.server.session_record(*key), self.server.held_calls(*key).count());
        }
        for conn in &self.conns {
            let _ = (self.server.session_of(*conn), self.server.principal_of(*conn));
            self.server.handle_progress(self.now, *conn);
        }
    }

    fn write(&mut self, conn: ConnId) {
        let mut out = [0; 512];
        let len = *self.rng.pick(&[30, 64, wire::CONTROL_LEN_MAX, 512]);
        let _ = self.server.poll_transmit(self.now, conn, &mut out[..len]);
        if self.rng.one_in(3) {
            let _ = self.server.take_shared_tail(conn);
        }
    }

    fn poll_events(&mut self) {
        for _ in 0..self.rng.below(6) {
            let Some(event) = self.server.poll_event() else { break };
            if let ServerEvent::SessionOpened(conn) = event {
                self.sessions.extend(self.server.session_of(conn));
            }
        }
    }

    /// Everything ends, and nothing is left.
    fn end(mut self, seed: u64) {
        for admission in self.admitted {
            self.server.refuse(self.now, admission, NotExecuted::Overloaded);
        }
        for run in self.running {
            self.server.abort(self.now, run);
        }
        for conn in self.conns {
            self.server.handle_disconnected(self.now, conn);
        }
        for _ in 0..8 {
            self.now = self.now + secs(400);
            self.server.handle_timeout(self.now);
            while self.server.poll_event().is_some() {}
        }
        let left = self.server.counters();
        assert_eq!((left.conns, left.sessions, left.running), (0, 0, 0), "seed {seed}");
        let bytes = (left.kept_bytes, left.request_bytes, left.table_bytes, left.coming_bytes);
        assert_eq!(bytes, (0, 0, 0, 0), "seed {seed}");
    }
}

fn walk_server<T: ServerStorage>(seed: u64, conns_max: usize) {
    let mut walk: ServerWalk<T> = ServerWalk::new(seed, conns_max);
    for _ in 0..150 {
        let back = if walk.rng.one_in(6) { walk.rng.below(9) } else { walk.rng.below(2) } as usize;
        let conn = walk.conns.len().checked_sub(back + 1).map(|at| walk.conns[at]);
        walk.step(conn);
    }
    walk.end(seed);
}

#[test]
fn a_server_bears_its_owner_and_its_clients_in_any_order() {
    for seed in seeds() {
        let _failed = Failed(seed);
        walk_server::<SmallServer>(seed, 9);
        walk_server::<Heap>(seed, 4);
    }
}

fn welcome(rng: &mut Rng) -> Vec<u8> {
    bytes_of(&Frame::Welcome(Welcome {
        version: wire::VERSION,
        features: 0,
        server: ServerId::from_bytes([1; 16]),
        service: service("test"),
        session: SessionId::from_bytes([rng.below(12) as u8 / 11; 16]),
        seen: rng.below(3) * rng.below(3),
        commit: 0,
        grants: GRANTS,
        instance: Instance::UNNAMED,
        schemas: Schemas::EMPTY,
    }))
}

fn any_server_frame(rng: &mut Rng) -> Vec<u8> {
    let number = xid(1 + rng.below(4));
    let status = *rng.pick(&[
        Status::Done,
        Status::NoReply(NoReply::NotKept),
        Status::Refused(NotExecuted::Overloaded),
        Status::NotSeen { ask: 1 },
        Status::NotSeen { ask: 2 },
        Status::Interrupted,
    ]);
    bytes_of(&match rng.below(20) {
        0 if rng.one_in(4) => return welcome(rng),
        6 if rng.one_in(4) => Frame::Refuse(
            *rng.pick(&[
                Refuse::Protocol(3),
                Refuse::SessionUnknown,
                Refuse::ShuttingDown,
                Refuse::Superseded,
                Refuse::WrongPrincipal,
            ]),
            Instance::UNNAMED,
        ),
        7 => Frame::Ping(Role::Server),
        8 if rng.one_in(3) => Frame::Goodbye(Role::Server),
        _ => {
            let len = if status == Status::Done { rng.below(30) as usize } else { 0 };
            Frame::Reply(ReplyHeader { status, xid: number }, &BODY[..len])
        }
    })
}

fn any_client<S: ClientStorage>(rng: &mut Rng) -> Client<S> {
    let mut config = ClientConfig::default();
    config.durable = rng.one_in(2);
    config.resend_after = if rng.one_in(2) { Some(ms(rng.below(900))) } else { None };
    config.keepalive = if rng.one_in(4) { NEVER } else { secs(3) };
    config.slots = 2;
    let restored = ClientSession {
        id: SessionId::from_bytes([0; 16]),
        server: ServerId::from_bytes([1; 16]),
        service: service("test"),
        grants: GRANTS,
        commit: 0,
    };
    match rng.below(3) {
        0 => Client::restore(config, restored, rng.below(6)).unwrap(),
        _ => Client::new(config),
    }
}

fn any_call(rng: &mut Rng) -> Call<'static> {
    let body = &BODY[..*rng.pick(&[0, 4, 4, 20, 20, 24])];
    let mut call = Call::new(*rng.pick(&[ECHO, IDEM]), body);
    call.idempotent = rng.one_in(3);
    call.one_way = rng.one_in(6);
    call.fail_fast = rng.one_in(4);
    call.timeout = *rng.pick(&[ms(0), ms(500), secs(90), secs(90), NEVER]);
    call
}

fn read_all<S: ClientStorage>(client: &mut Client<S>, now: Instant, data: &[u8]) {
    let mut at = 0;
    while let Ok(taken) = client.handle_data(now, &data[at..]) {
        at += taken.consumed;
        if taken.item.is_none() {
            break;
        }
    }
}

/// The session ends, and nothing is left.
fn end_client<S: ClientStorage>(
    mut client: Client<S>,
    calls: Vec<CallId>,
    now: Instant,
    seed: u64,
) {
    let _ = (client.poll_timeout(), client.counters());
    for id in calls {
        client.forget(now, id);
    }
    client.handle_connected(now);
    let refuse = bytes_of(&Frame::Refuse(Refuse::SessionUnknown, Instance::UNNAMED));
    let _ = client.handle_data(now, &refuse);
    while client.poll_event().is_some() {}
    assert_eq!((client.pending(), client.unsettled()), (0, 0), "seed {seed}");
}

fn walk_client<S: ClientStorage>(seed: u64) {
    let mut rng = Rng(seed);
    let mut client: Client<S> = any_client(&mut rng);
    let mut now = Instant::from_millis(1);
    let mut calls = Vec::new();
    for _ in 0..150 {
        let id = calls.get(rng.below(64) as usize % calls.len().max(1)).copied();
        match rng.below(34) {
            0..=4 | 28 | 29 => {
                let call = any_call(&mut rng);
                calls.extend(client.call(now, call));
            }
            5 => id.into_iter().for_each(|id| client.cancel(now, id)),
            6 => id.into_iter().for_each(|id| client.forget(now, id)),
            7 | 8 => id.into_iter().for_each(|id| client.settle(now, id)),
            9 if rng.one_in(12) => client.close(now),
            10 => client.handle_connected(now),
            11..=13 if !client.is_connected() => {
                client.handle_connected(now);
                let _ = client.poll_transmit(now, &mut [0; wire::CONTROL_LEN_MAX]);
                let _ = client.handle_data(now, &welcome(&mut rng));
            }
            12 if rng.one_in(2) => client.handle_disconnected(now),
            14 => {
                let call = any_call(&mut rng);
                calls.extend(client.restore_call(now, xid(1 + rng.below(6)), call));
            }
            15 => {
                now = now + ms(rng.below(1_000));
                client.handle_timeout(now);
            }
            16 => client.handle_deadlines(now),
            17 => {
                let session = SessionId::from_bytes([rng.below(8) as u8 / 7; 16]);
                client.journaled(now, session, xid(1 + rng.below(9)));
            }
            18..=20 => {
                if let Some(call) = client.poll_unjournaled(now) {
                    let (id, number) = (call.call, call.xid);
                    calls.push(id);
                    if let (Some(session), true) = (client.session().copied(), rng.one_in(2)) {
                        client.journaled(now, session.id, number);
                    }
                }
            }
            21..=25 => {
                let mut out = [0; 512];
                let len = *rng.pick(&[40, wire::CONTROL_LEN_MAX, 512]);
                let _ = client.poll_transmit(now, &mut out[..len]);
                if rng.one_in(3) {
                    let _ = client.take_shared_tail();
                }
            }
            26 | 27 => {
                let data = any_server_frame(&mut rng);
                read_all(&mut client, now, &data);
            }
            _ => {
                for _ in 0..rng.below(5) {
                    let _ = client.poll_event();
                }
            }
        }
    }
    end_client(client, calls, now, seed);
}

#[test]
fn a_client_bears_its_owner_and_its_server_in_any_order() {
    for seed in seeds() {
        let _failed = Failed(seed);
        walk_client::<SmallClient>(seed);
        walk_client::<Heap>(seed);
    }
}
