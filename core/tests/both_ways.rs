//! Both ways over one link: a client and a server at each end (S26).
#![allow(missing_docs)]

mod util;

use std::collections::VecDeque;

use oncewire_core::wire::{self, Role};
use oncewire_core::*;
use util::*;

/// One end of a link: a machine of each role side by side.
struct End {
    client: Client<Heap>,
    server: Server<Heap>,
    conn: Option<ConnId>,
    outcomes: Vec<(CallId, OwnedOutcome)>,
    runs: Vec<Vec<u8>>,
    /// Bytes from the other end, not taken yet.
    arrived: Vec<u8>,
}

impl End {
    fn new(name: &str, number: u8) -> End {
        let config = ServerConfig::new(ServerId::from_bytes([number; 16]), service(name));
        End {
            client: Client::new(ClientConfig::default()),
            server: Server::new(config, &methods()).unwrap(),
            conn: None,
            outcomes: Vec::new(),
            runs: Vec::new(),
            arrived: Vec::new(),
        }
    }

    fn connect(&mut self, now: Instant, secret: u8) {
        self.client.handle_connected(now);
        self.conn = self.server.handle_connected(now, ALICE, SessionId::from_bytes([secret; 16]));
        self.arrived.clear();
    }

    fn disconnect(&mut self, now: Instant) {
        self.client.handle_disconnected(now);
        if let Some(conn) = self.conn.take() {
            self.server.handle_disconnected(now, conn);
        }
    }

    /// What both machines want to send. The slices are long enough for whole frames: the two streams must not mix
    /// inside one.
    fn transmit(&mut self, now: Instant, wire: &mut VecDeque<u8>) {
        let mut out = vec![0; 1 << 16];
        while let Some(event) = self.client.poll_event() {
            if let ClientEvent::Ended { call, outcome, .. } = event {
                self.outcomes.push((call, outcome.into()));
            }
        }
        while let Some(len) = self.client.poll_transmit(now, &mut out) {
            wire.extend(&out[..len.get()]);
        }
        while let Some(event) = self.server.poll_event() {
            if let ServerEvent::Transmit(conn) = event {
                while let Some(len) = self.server.poll_transmit(now, conn, &mut out) {
                    wire.extend(&out[..len.get()]);
                }
            }
        }
    }

    /// Gives each whole frame to the machine whose peer sent it.
    fn receive(&mut self, now: Instant) {
        let data = std::mem::take(&mut self.arrived);
        let mut rest = &data[..];
        while let Some(front) = wire::peek(rest)
            && front.len <= rest.len()
        {
            let (frame, after) = rest.split_at(front.len);
            match front.from {
                Role::Server => {
                    let received = self.client.handle_data(now, frame).unwrap();
                    assert_eq!(received.consumed, frame.len());
                    if let Some(reply) = received.item {
                        self.outcomes.push((reply.call, reply.outcome.into()));
                    }
                }
                Role::Client => self.serve(now, frame),
            }
            rest = after;
        }
        self.arrived = rest.to_vec();
    }

    fn serve(&mut self, now: Instant, frame: &[u8]) {
        let received = self.server.handle_data(now, self.conn.unwrap(), frame).unwrap();
        assert_eq!(received.consumed, frame.len());
        if let Some(Incoming::Request(request)) = received.item {
            self.runs.push(request.body.to_vec());
            let answer = echo(request.body);
            let running = self.server.start(now, request.admission).unwrap();
            self.server.reply(now, running, &answer).unwrap();
        }
    }

    fn outcome(&self, id: CallId) -> Option<OwnedOutcome> {
        self.outcomes.iter().rev().find(|(call, _)| *call == id).map(|(_, outcome)| outcome.clone())
    }
}

struct Both {
    now: Instant,
    ends: [End; 2],
    wires: [VecDeque<u8>; 2],
    chunk: usize,
}

impl Both {
    fn new() -> Both {
        Both {
            now: Instant::from_millis(1),
            ends: [End::new("left", 1), End::new("right", 2)],
            wires: [VecDeque::new(), VecDeque::new()],
            chunk: usize::MAX,
        }
    }

    fn connect(&mut self, secret: u8) {
        for end in &mut self.ends {
            end.connect(self.now, secret);
        }
    }

    fn cut(&mut self) {
        for end in &mut self.ends {
            end.disconnect(self.now);
        }
        self.wires.iter_mut().for_each(VecDeque::clear);
    }

    fn drive(&mut self) {
        loop {
            for (end, wire) in self.ends.iter_mut().zip(&mut self.wires) {
                end.transmit(self.now, wire);
            }
            if self.wires.iter().all(VecDeque::is_empty) {
                return;
            }
            for at in 0..2 {
                let len = self.chunk.min(self.wires[1 - at].len());
                self.ends[at].arrived.extend(self.wires[1 - at].drain(..len));
                self.ends[at].receive(self.now);
            }
        }
    }

    fn call(&mut self, at: usize, body: &[u8]) -> CallId {
        self.ends[at].client.call(self.now, Call::new(ECHO, body)).unwrap()
    }

    fn advance(&mut self, duration: std::time::Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.now = self.now + ms(500);
            for end in &mut self.ends {
                end.client.handle_timeout(self.now);
                end.server.handle_timeout(self.now);
            }
            self.drive();
        }
    }
}

#[test]
fn s26_both_ends_call_each_other_over_one_link() {
    for chunk in [usize::MAX, 1, 5] {
        let mut both = Both::new();
        both.chunk = chunk;
        both.connect(1);
        let left = both.call(0, b"from the left");
        let right = both.call(1, b"from the right");
        both.drive();
        assert_eq!(both.ends[0].outcome(left), reply(b"from the left"));
        assert_eq!(both.ends[1].outcome(right), reply(b"from the right"));
        assert_eq!(both.ends[0].runs, [b"from the right"]);
        assert_eq!(both.ends[1].runs, [b"from the left"]);
        let service = |at: usize| both.ends[at].client.session().unwrap().service;
        assert_eq!((service(0).as_str(), service(1).as_str()), ("right", "left"));
    }
}

#[test]
fn s26_each_direction_has_numbers_and_slots_of_its_own() {
    let mut both = Both::new();
    both.connect(1);
    let mut calls = Vec::new();
    for n in 0..100u8 {
        calls.push((0, both.call(0, &[0, n]), [0, n]));
        if n % 3 == 0 {
            calls.push((1, both.call(1, &[1, n]), [1, n]));
        }
    }
    both.drive();
    for (at, id, body) in calls {
        assert_eq!(both.ends[at].outcome(id), reply(&body));
    }
    assert_eq!((both.ends[0].runs.len(), both.ends[1].runs.len()), (34, 100));
    both.advance(secs(1));
    for end in &both.ends {
        assert_eq!(end.server.counters().kept_bytes, 0);
    }
}

#[test]
fn s26_a_break_is_resumed_in_both_directions_and_nothing_runs_twice() {
    for cut_at in 0..400 {
        let mut both = Both::new();
        both.connect(1);
        let left = both.call(0, b"left");
        let right = both.call(1, b"right");
        // Deliver so many bytes each way, and cut.
        both.chunk = 1;
        for _ in 0..cut_at {
            for at in 0..2 {
                let (end, wire) = (&mut both.ends[at], &mut both.wires[at]);
                end.transmit(both.now, wire);
            }
            for at in 0..2 {
                if let Some(byte) = both.wires[1 - at].pop_front() {
                    both.ends[at].arrived.push(byte);
                    both.ends[at].receive(both.now);
                }
            }
        }
        both.cut();
        both.connect(2);
        both.chunk = usize::MAX;
        both.drive();
        assert_eq!(both.ends[0].outcome(left), reply(b"left"), "cut after {cut_at} bytes");
        assert_eq!(both.ends[1].outcome(right), reply(b"right"), "cut after {cut_at} bytes");
        assert_eq!((both.ends[0].runs.len(), both.ends[1].runs.len()), (1, 1), "{cut_at}");
    }
}

#[test]
fn s26_an_idle_link_stays_up_and_one_direction_may_end_before_the_other() {
    let mut both = Both::new();
    both.connect(1);
    both.drive();
    both.advance(secs(120));
    assert!(both.ends.iter().all(|end| end.client.is_connected()));
    let now = both.now;
    both.ends[0].client.close(now);
    both.drive();
    assert_eq!(both.ends[1].server.counters().sessions, 0);
    let call = both.call(1, b"still here");
    both.drive();
    assert_eq!(both.ends[1].outcome(call), reply(b"still here"));
}
