//! Lines that are slow, and peers that stand still: C94 to C97.
//!
//! The [`Pair`](util::Pair) of the other files delivers everything at once. Here a line carries so many bytes a second
//! each way, and has a buffer in front of it that takes more than it carries, as a kernel's send buffer does.
#![allow(missing_docs)]

mod util;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use oncewire_core::wire::Role;
use oncewire_core::*;
use util::*;

/// One direction of a line.
struct Lane {
    /// Bytes a second.
    rate: u64,
    /// Bytes that it takes before they have arrived.
    capacity: usize,
    /// What its writer could not put there yet.
    unsent: VecDeque<Bytes>,
    on_the_way: VecDeque<u8>,
    /// Bytes that may arrive, in billionths.
    credit: u64,
    /// Nothing gets through any more.
    frozen: bool,
    /// Bytes that were ever put there.
    sent: usize,
}

impl Lane {
    fn new(rate: u64, capacity: usize) -> Lane {
        let (unsent, on_the_way) = (VecDeque::new(), VecDeque::new());
        Lane { rate, capacity, unsent, on_the_way, credit: 0, frozen: false, sent: 0 }
    }

    /// Puts what fits onto the line; says whether any of what had not fitted did.
    fn push(&mut self) -> bool {
        let mut moved = false;
        while let Some(front) = self.unsent.front_mut() {
            let len = front.len().min(self.capacity - self.on_the_way.len());
            if len == 0 {
                break;
            }
            self.on_the_way.extend(front.split_to(len));
            self.sent += len;
            moved = true;
            if front.is_empty() {
                self.unsent.pop_front();
            }
        }
        moved
    }

    /// What arrives within a time.
    fn arrive(&mut self, time: Duration) -> Vec<u8> {
        if self.frozen {
            return Vec::new();
        }
        self.credit += self.rate * time.as_nanos() as u64;
        let len = (self.credit / 1_000_000_000).min(self.on_the_way.len() as u64);
        self.credit -= len * 1_000_000_000;
        if self.on_the_way.len() as u64 == len {
            // A line that stands idle saves nothing up.
            self.credit = 0;
        }
        self.on_the_way.drain(..len as usize).collect()
    }
}

/// A client and a server with a slow line between them.
struct Slow {
    now: Instant,
    step: Duration,
    client: Client<Heap>,
    server: Server<Heap>,
    conn: Option<ConnId>,
    up: Lane,
    down: Lane,
    up_in: Vec<u8>,
    down_in: Vec<u8>,
    /// What both drivers do with the rest of a large frame.
    takes_rest: bool,
    /// Whether handlers answer.
    answers: bool,
    reply_len: usize,
    runs: usize,
    running: Vec<Running>,
    replies: usize,
    bad: Vec<String>,
    connections: u32,
    client_lost: Vec<CloseReason>,
    server_lost: Vec<CloseReason>,
    /// A process that was stopped: its machine is not called.
    stopped: Option<Role>,
}

impl Slow {
    /// A line that carries `up` and `down` bytes a second, with so much room in front of it each way.
    fn line(up: u64, down: u64, capacity: usize) -> Slow {
        let mut config = default_server_config();
        config.slots = 1024;
        Slow::line_of(up, down, capacity, config, ClientConfig::default())
    }

    fn line_of(
        up: u64,
        down: u64,
        capacity: usize,
        config: ServerConfig,
        client: ClientConfig,
    ) -> Slow {
        let mut big = MethodSpec::new(BIG);
        big.reply_len_max = 4 << 20;
        let mut slow = Slow {
            now: Instant::from_millis(1_000),
            step: ms(50),
            client: Client::new(client),
            server: Server::new(config, &[big, MethodSpec::new(ECHO)]).unwrap(),
            conn: None,
            up: Lane::new(up, capacity),
            down: Lane::new(down, capacity),
            up_in: Vec::new(),
            down_in: Vec::new(),
            takes_rest: true,
            answers: true,
            reply_len: 1,
            runs: 0,
            running: Vec::new(),
            replies: 0,
            bad: Vec::new(),
            connections: 0,
            client_lost: Vec::new(),
            server_lost: Vec::new(),
            stopped: None,
        };
        slow.connect();
        slow.advance(secs(1));
        assert!(slow.client.is_connected());
        slow
    }

    fn connect(&mut self) {
        self.connections += 1;
        self.up = Lane { sent: self.up.sent, ..Lane::new(self.up.rate, self.up.capacity) };
        self.down = Lane { sent: self.down.sent, ..Lane::new(self.down.rate, self.down.capacity) };
        self.up_in.clear();
        self.down_in.clear();
        let mut secret = [0; 16];
        secret[0] = self.connections as u8;
        let secret = SessionId::from_bytes(secret);
        self.client.handle_connected(self.now);
        self.conn = self.server.handle_connected(self.now, ALICE, secret);
    }

    fn call(&mut self, len: usize) {
        let method = if self.reply_len > 1_000 { BIG } else { ECHO };
        let mut call = Call::new(method, Bytes::from(vec![7; len]));
        call.timeout = secs(100_000);
        self.client.call(self.now, call).unwrap();
    }

    /// Time passes; a connection that breaks is made again.
    fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + self.step;
            self.turn();
        }
    }

    /// Time passes until everything was answered, but no more than this.
    fn answered_within(&mut self, time: Duration) -> bool {
        let end = self.now + time;
        while self.client.pending() > 0 && self.now < end {
            self.now = self.now + self.step;
            self.turn();
        }
        self.client.pending() == 0
    }

    fn turn(&mut self) {
        if self.stopped != Some(Role::Server) {
            let up = self.up.arrive(self.step);
            self.read_up(&up);
            self.server.handle_timeout(self.now);
            self.poll_server();
        }
        if self.stopped != Some(Role::Client) {
            let down = self.down.arrive(self.step);
            self.read_down(&down);
            self.client.handle_timeout(self.now);
            self.poll_client();
        }
        if self.client_lost.len() + self.server_lost.len() >= self.connections as usize {
            self.client.handle_disconnected(self.now);
            if let Some(conn) = self.conn.take() {
                self.server.handle_disconnected(self.now, conn);
            }
            self.connect();
        }
    }

    fn poll_client(&mut self) {
        self.write_up();
        while let Some(event) = self.client.poll_event() {
            match event {
                ClientEvent::Disconnect(reason) => self.client_lost.push(reason),
                ClientEvent::Ended { outcome, .. } => self.bad.push(format!("{outcome:?}")),
                _ => {}
            }
        }
    }

    fn read_up(&mut self, bytes: &[u8]) {
        self.up_in.extend(bytes);
        while let (Some(conn), false) = (self.conn, bytes.is_empty()) {
            let received = self.server.handle_data(self.now, conn, &self.up_in).unwrap();
            let Some(Incoming::Request(request)) = received.item else {
                self.up_in.drain(..received.consumed);
                return;
            };
            let running = self.server.start(self.now, request.admission).unwrap();
            self.up_in.drain(..received.consumed);
            self.runs += 1;
            self.running.push(running);
            if self.answers {
                self.answer();
            }
        }
    }

    fn answer(&mut self) {
        for running in self.running.drain(..) {
            let body = Bytes::from(vec![9; self.reply_len]);
            self.server.reply(self.now, running, body).unwrap();
        }
    }

    fn read_down(&mut self, bytes: &[u8]) {
        self.down_in.extend(bytes);
        while !bytes.is_empty() {
            let received = self.client.handle_data(self.now, &self.down_in).unwrap();
            let Some(reply) = received.item else {
                self.down_in.drain(..received.consumed);
                return;
            };
            assert!(matches!(reply.outcome, Outcome::Reply(body) if body.len() == self.reply_len));
            self.replies += 1;
            self.down_in.drain(..received.consumed);
        }
    }

    fn write_up(&mut self) {
        if self.up.push() {
            self.client.handle_progress(self.now);
        }
        let mut out = vec![0; 64 << 10];
        while self.up.unsent.is_empty() {
            let Some(len) = self.client.poll_transmit(self.now, &mut out) else { break };
            self.up.unsent.push_back(Bytes::copy_from_slice(&out[..len.get()]));
            if self.takes_rest {
                self.up.unsent.extend(self.client.take_shared_tail());
            }
            self.up.push();
        }
    }

    fn write_down(&mut self, conn: ConnId) {
        if self.down.push() {
            self.server.handle_progress(self.now, conn);
        }
        let mut out = vec![0; 64 << 10];
        while self.down.unsent.is_empty() {
            let Some(len) = self.server.poll_transmit(self.now, conn, &mut out) else { break };
            self.down.unsent.push_back(Bytes::copy_from_slice(&out[..len.get()]));
            if self.takes_rest {
                self.down.unsent.extend(self.server.take_shared_tail(conn));
            }
            self.down.push();
        }
    }

    fn poll_server(&mut self) {
        if let Some(conn) = self.conn {
            self.write_down(conn);
        }
        while let Some(event) = self.server.poll_event() {
            match event {
                ServerEvent::Transmit(conn) if Some(conn) == self.conn => self.write_down(conn),
                ServerEvent::Close(conn, reason) if Some(conn) == self.conn => {
                    self.conn = None;
                    self.server_lost.push(reason);
                }
                _ => {}
            }
        }
    }

    fn assert_untroubled(&self) {
        assert_eq!((&self.client_lost[..], &self.server_lost[..]), (&[][..], &[][..]));
        assert_eq!((self.connections, &self.bad[..]), (1, &[][..]));
    }
}

/// Bytes in front of the line: little, and more than the line carries in many keepalives.
const CAPACITIES: [usize; 2] = [16 << 10, 64 << 20];

#[test]
fn c94_a_request_that_takes_longer_than_the_keepalive_arrives_and_is_sent_once() {
    for rate in [10_000, 50_000] {
        for capacity in CAPACITIES {
            for takes_rest in [false, true] {
                let mut slow = Slow::line(rate, 1_000_000, capacity);
                slow.takes_rest = takes_rest;
                // Three keepalives' worth.
                let len = rate as usize * 30;
                slow.call(len);
                assert!(slow.answered_within(secs(40)), "{rate} B/s, {capacity} B, {takes_rest}");
                slow.assert_untroubled();
                assert_eq!((slow.runs, slow.replies), (1, 1));
                assert!(slow.up.sent < len + 1_000, "{} bytes for {len}", slow.up.sent);
            }
        }
    }
}

#[test]
fn c94_a_reply_that_takes_longer_than_the_keepalive_arrives_and_is_sent_once() {
    for rate in [10_000, 50_000] {
        for capacity in CAPACITIES {
            for takes_rest in [false, true] {
                let mut slow = Slow::line(1_000_000, rate, capacity);
                slow.takes_rest = takes_rest;
                slow.reply_len = rate as usize * 30;
                slow.call(1);
                assert!(slow.answered_within(secs(40)), "{rate} B/s, {capacity} B, {takes_rest}");
                slow.assert_untroubled();
                assert_eq!((slow.runs, slow.replies), (1, 1));
                let len = slow.reply_len;
                assert!(slow.down.sent < len + 1_000, "{} bytes for {len}", slow.down.sent);
            }
        }
    }
}

#[test]
fn c94_large_bodies_in_both_directions_at_once_arrive() {
    for capacity in CAPACITIES {
        let mut slow = Slow::line(10_000, 10_000, capacity);
        slow.reply_len = 300_000;
        slow.call(1);
        slow.advance(secs(1));
        slow.call(300_000);
        assert!(slow.answered_within(secs(200)), "{capacity} B");
        slow.assert_untroubled();
        assert_eq!((slow.runs, slow.replies), (2, 2));
    }
}

/// No single frame is large, but the line has a minute's worth of them, and a Ping waits its turn behind them.
#[test]
fn c94_many_small_requests_in_front_of_a_slow_line_do_not_look_like_silence() {
    let mut slow = Slow::line(10_000, 1_000_000, 64 << 20);
    slow.answers = false;
    for _ in 0..600 {
        slow.call(1_000);
    }
    slow.advance(secs(80));
    slow.answer();
    assert!(slow.answered_within(secs(10)));
    slow.assert_untroubled();
    assert_eq!((slow.runs, slow.replies), (600, 600));
}

/// The same down: the client's own words are few, since it acknowledges seldom.
#[test]
fn c94_many_small_replies_in_front_of_a_slow_line_do_not_look_like_silence() {
    let mut slow = Slow::line(1_000_000, 10_000, 64 << 20);
    slow.answers = false;
    slow.reply_len = 1_000;
    for _ in 0..600 {
        slow.call(1);
    }
    slow.advance(secs(2));
    slow.answer();
    assert!(slow.answered_within(secs(80)));
    slow.assert_untroubled();
    assert_eq!((slow.runs, slow.replies), (600, 600));
}

#[test]
fn c95_a_server_that_freezes_in_the_middle_of_a_request_is_found_within_the_keepalive() {
    for capacity in [16 << 10, 64 << 20] {
        let mut slow = Slow::line(200_000, 1_000_000, capacity);
        slow.call(4 << 20);
        slow.advance(secs(12));
        slow.assert_untroubled();
        slow.stopped = Some(Role::Server);
        slow.advance(secs(7));
        assert_eq!(slow.client_lost, [], "not before three quarters of the time");
        slow.advance(secs(3));
        assert_eq!(slow.client_lost, [CloseReason::PeerSilent]);
    }
}

#[test]
fn c95_a_client_that_freezes_in_the_middle_of_a_reply_is_found_within_the_keepalive() {
    for capacity in [16 << 10, 64 << 20] {
        let mut slow = Slow::line(1_000_000, 200_000, capacity);
        slow.reply_len = 4 << 20;
        slow.call(1);
        slow.advance(secs(12));
        slow.assert_untroubled();
        slow.stopped = Some(Role::Client);
        slow.advance(secs(7));
        assert_eq!(slow.server_lost, [], "not before three quarters of the time");
        slow.advance(secs(3));
        assert_eq!(slow.server_lost, [CloseReason::PeerSilent]);
    }
}

/// A line that takes bytes shows life where the peer says nothing: an older peer, say, or one whose words are lost.
#[test]
fn c95_a_peer_that_takes_bytes_is_alive_though_it_says_nothing() {
    let mut slow = Slow::line(200_000, 1_000_000, 16 << 10);
    slow.call(4 << 20);
    slow.down.frozen = true;
    slow.advance(secs(20));
    assert_eq!(slow.client_lost, []);
    // Then the last bytes have left, and nothing comes.
    slow.advance(secs(60));
    assert_eq!(slow.client_lost.first(), Some(&CloseReason::PeerSilent));
}

/// What was broken by something else is sent again in one go: nothing judges the second attempt by a shorter time.
#[test]
fn c94_a_large_request_whose_connection_broke_arrives_on_the_next_one() {
    let mut slow = Slow::line(10_000, 1_000_000, 64 << 20);
    slow.call(300_000);
    slow.advance(secs(30));
    slow.assert_untroubled();
    let conn = slow.conn.take().unwrap();
    slow.server.handle_disconnected(slow.now, conn);
    slow.client.handle_disconnected(slow.now);
    slow.connect();
    assert!(slow.answered_within(secs(80)));
    assert_eq!((slow.connections, slow.runs, slow.replies), (2, 1, 1));
}

/// An idle line is no busier than it was, and a long call costs one Pong.
#[test]
fn c95_an_idle_line_carries_pings_and_nothing_else() {
    let mut slow = Slow::line(1_000_000, 1_000_000, 64 << 10);
    let before = slow.up.sent + slow.down.sent;
    slow.advance(secs(1_000));
    slow.assert_untroubled();
    // A Ping and its Pong at half of all looks, at most, of either side.
    let bytes = slow.up.sent + slow.down.sent - before;
    assert!(bytes <= 400 * 10, "{bytes} bytes");
}

/// A line whose server, or client, has this keepalive.
fn line_with(server: Option<Duration>, client: Option<Duration>) -> Slow {
    let mut config = default_server_config();
    config.slots = 1024;
    config.keepalive = server.unwrap_or(config.keepalive);
    let mut options = ClientConfig::default();
    options.keepalive = client.unwrap_or(options.keepalive);
    let mut slow = Slow::line_of(100_000, 100_000, 64 << 10, config, options);
    // Looks every second or so are often enough.
    slow.step = ms(200);
    slow
}

#[test]
fn c96_a_stopped_peer_keeps_its_connection_where_either_side_says_never() {
    for (server, client) in [(Some(NEVER), None), (None, Some(NEVER))] {
        for stopped in [Role::Client, Role::Server] {
            let mut slow = line_with(server, client);
            slow.answers = false;
            slow.call(1);
            slow.advance(secs(1));
            slow.stopped = Some(stopped);
            slow.advance(secs(2_000));
            slow.stopped = None;
            slow.answer();
            assert!(slow.answered_within(secs(10)), "{server:?} {client:?} {stopped:?}");
            slow.assert_untroubled();
        }
    }
}

#[test]
fn c96_a_peer_may_stop_in_the_middle_of_a_frame() {
    for (server, client) in [(Some(NEVER), None), (None, Some(NEVER))] {
        for stopped in [Role::Client, Role::Server] {
            let mut slow = line_with(server, client);
            slow.reply_len = 2_000_000;
            slow.call(2_000_000);
            for _ in 0..2 {
                slow.advance(secs(15));
                slow.stopped = Some(stopped);
                slow.advance(secs(1_000));
                slow.stopped = None;
            }
            assert!(slow.answered_within(secs(100)), "{server:?} {client:?} {stopped:?}");
            slow.assert_untroubled();
        }
    }
}

/// A server that nobody has configured so bears a stopped client for an hour, and no longer.
#[test]
fn c97_a_server_decides_how_long_it_bears_a_client_that_asks_for_patience() {
    let mut slow = line_with(None, Some(NEVER));
    slow.stopped = Some(Role::Client);
    slow.advance(secs(2_600));
    assert_eq!(slow.server_lost, [], "not before three quarters of an hour");
    slow.advance(secs(1_000));
    assert_eq!(slow.server_lost.first(), Some(&CloseReason::PeerSilent));
}

#[test]
fn c97_other_clients_of_a_patient_server_are_judged_as_ever() {
    let mut slow = line_with(None, None);
    slow.stopped = Some(Role::Client);
    slow.advance(secs(10));
    assert_eq!(slow.server_lost, [CloseReason::PeerSilent]);
}

#[test]
fn c97_a_server_without_patience_grants_none() {
    let mut config = default_server_config();
    config.keepalive_max = Duration::ZERO;
    let mut options = ClientConfig::default();
    options.keepalive = NEVER;
    let mut slow = Slow::line_of(100_000, 100_000, 64 << 10, config, options);
    assert_eq!(slow.client.session().unwrap().grants.keepalive_ms, 10_000);
    // The client still is as patient as it likes.
    slow.stopped = Some(Role::Server);
    slow.advance(secs(1_000));
    slow.stopped = None;
    slow.advance(secs(10));
    slow.assert_untroubled();
}

/// A patient client hears from its server as often as before: one that is dead is noticed where the system says so.
#[test]
fn c97_a_patient_line_is_asked_as_often_as_any() {
    for (server, client) in [(Some(NEVER), None), (None, Some(NEVER))] {
        let mut slow = line_with(server, client);
        let before = slow.up.sent + slow.down.sent;
        slow.advance(secs(1_000));
        let bytes = slow.up.sent + slow.down.sent - before;
        assert!((1_000..=4_000).contains(&bytes), "{bytes} bytes");
    }
}

/// A session from before a restart, granted by another configuration, is judged and spoken to by its own grant.
#[test]
fn c97_a_restored_session_keeps_the_keepalive_that_it_was_granted() {
    for (granted, keepalive) in [(10_000, NEVER), (u32::MAX, secs(10)), (10_000, secs(3_600))] {
        let mut config = default_server_config();
        config.keepalive = keepalive;
        let mut server: Server<Heap> = Server::new(config, &methods()).unwrap();
        let record = SessionRecord {
            id: SessionId::from_bytes([5; 16]),
            principal: ALICE,
            grants: wire::Grants {
                slots: 4,
                request_len_max: 1_000_000,
                reply_len_max: 100,
                lease_ms: 300_000,
                keepalive_ms: granted,
            },
            seen: 0,
            acked: 0,
        };
        let mut now = Instant::ZERO;
        server.restore_session(now, record).unwrap();
        let conn = server.handle_connected(now, ALICE, SessionId::from_bytes([6; 16])).unwrap();
        let resume = bytes_of(&hello(Some((record.id, 0))));
        server.handle_data(now, conn, &resume).unwrap();
        // Half a request every two seconds: within ten seconds it is heard that the server hears.
        let frame = bytes_of(&request(4, 3, &[7; 100_000]));
        let mut out = [0; 1_000];
        while server.poll_transmit(now, conn, &mut out).is_some() {}
        for step in 1..=4 {
            server.handle_data(now, conn, &frame[..100 * step]).unwrap();
            now = now + secs(2);
            server.handle_timeout(now);
        }
        assert!(server.poll_transmit(now, conn, &mut out).is_some(), "{granted} {keepalive:?}");
        let mut lost = false;
        for _ in 0..30 {
            now = now + secs(2);
            server.handle_timeout(now);
            while let Some(event) = server.poll_event() {
                lost |= matches!(event, ServerEvent::Close(..));
                while server.poll_transmit(now, conn, &mut out).is_some() {}
            }
        }
        assert_eq!(lost, keepalive == secs(10) && granted != u32::MAX);
    }
}
