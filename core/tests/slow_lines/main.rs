//! Lines that are slow, and peers that stop: C94 to C97.
//!
//! The [`Pair`](util::Pair) of the other files delivers everything at once. Here a line carries so many bytes a second
//! each way, and has a buffer in front of it that takes more than it carries, as a kernel's send buffer does.
#![allow(missing_docs)]

#[path = "../util/mod.rs"]
mod util;

mod keepalive;
mod speed;

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
            // An idle line saves nothing up.
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
