//! What the server says that it holds, against an allocator that counts: random walks of clients that keep to no rule.

// An allocator cannot be written without it; the crate under test forbids it for itself.
#![allow(unsafe_code, missing_docs)]
#![cfg(feature = "alloc")]

#[path = "util/counting.rs"]
mod counting;
mod util;

use std::sync::atomic::Ordering;

use bytes::Bytes;
use counting::LIVE;
use oncewire_core::wire::{self, Ack, Frame};
use oncewire_core::*;
use util::*;

const KEPT_MAX: u64 = 4 << 20;
const REQUESTS_MAX: u64 = 1 << 20;
const SLOTS: u32 = 512;
/// What a session may cost beside what is counted, and a connection.
const SESSION_BYTES: u64 = 512;
const CONN_BYTES: u64 = 512;
/// Tables of sessions and connections, which grow in chunks.
const FIXED: u64 = 64 << 10;

struct Line {
    conn: ConnId,
    session: SessionId,
    xid: u64,
    /// The rest of a reply, on its way.
    rest: Option<Bytes>,
}

struct Walk {
    rng: Rng,
    server: Server<Heap>,
    now: Instant,
    lines: Vec<Line>,
    running: Vec<Running>,
    old_sessions: Vec<SessionId>,
    secrets: u64,
    baseline: u64,
    half_sent_seen: bool,
}

impl Walk {
    fn new(seed: u64) -> Walk {
        let mut config = default_server_config();
        config.slots = SLOTS;
        config.kept_max = KEPT_MAX;
        config.requests_max = REQUESTS_MAX;
        config.lease = secs(20);
        config.lease_unused = secs(5);
        config.frame_timeout = secs(1_000);
        config.keepalive = secs(10_000);
        let server = Server::new(config, &methods()).unwrap();
        let mut walk = Walk {
            rng: Rng(seed),
            server,
            now: Instant::ZERO,
            lines: Vec::with_capacity(64),
            running: Vec::with_capacity(100_000),
            old_sessions: Vec::with_capacity(64),
            secrets: 0,
            baseline: 0,
            half_sent_seen: false,
        };
        walk.baseline = LIVE.load(Ordering::Relaxed) as u64;
        walk
    }

    fn connect(&mut self, resume: Option<SessionId>) {
        self.secrets += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.secrets.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        let secret = SessionId::from_bytes(id);
        let principal = *self.rng.pick(&[Principal::ANONYMOUS, Principal::ANONYMOUS, ALICE, BOB]);
        let Some(conn) = self.server.handle_connected(self.now, principal, secret) else { return };
        let Frame::Hello(said) = hello(resume.map(|id| (id, 0))) else { unreachable!() };
        let said = wire::Hello { slots: SLOTS, ..said };
        let session = resume.unwrap_or(secret);
        let xid = 1_000 * self.secrets;
        self.lines.push(Line { conn, session, xid, rest: None });
        self.say(self.lines.len() - 1, &Frame::Hello(said));
        let at = self.lines.len() - 1;
        self.transmit(at, 4096);
    }

    fn say(&mut self, at: usize, frame: &Frame<'_>) {
        let (bytes, conn) = (bytes_of(frame), self.lines[at].conn);
        let mut from = 0;
        while let Ok(received) = self.server.handle_data(self.now, conn, &bytes[from..]) {
            from += received.consumed;
            match received.item {
                Some(Incoming::Request(request)) => {
                    if let Ok(running) = self.server.start(self.now, request.admission) {
                        self.running.push(running);
                    }
                }
                Some(_) => {}
                None => break,
            }
        }
    }

    fn transmit(&mut self, at: usize, len: usize) {
        let line = &mut self.lines[at];
        // Polled again only when the rest has left.
        line.rest = None;
        let mut out = [0; 8192];
        let _ = self.server.poll_transmit(
            self.now,
            line.conn,
            &mut out[..len.max(wire::CONTROL_LEN_MAX)],
        );
        if self.rng.one_in(2) {
            line.rest = self.server.take_shared_tail(line.conn);
        }
    }

    fn finish(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let at = self.rng.below(self.running.len() as u64) as usize;
        let running = self.running.swap_remove(at);
        let max = running.reply_len_max() as u64;
        let len = match self.rng.below(4) {
            0 => self.rng.below(64),
            1 => self.rng.below(2_000),
            _ => self.rng.below(max + 1),
        };
        let body = vec![7; len.min(max) as usize];
        match self.rng.below(8) {
            0 => self.server.abort(self.now, running),
            1..=3 => drop(self.server.reply(self.now, running, &body)),
            _ => drop(self.server.reply(self.now, running, Bytes::from(body))),
        }
    }

    fn step(&mut self) {
        let at = self.rng.below(self.lines.len().max(1) as u64) as usize;
        if self.lines.is_empty() || (self.lines.len() < 24 && self.rng.one_in(20)) {
            let old = match self.old_sessions.is_empty() || self.rng.one_in(2) {
                true => None,
                false => Some(*self.rng.pick(&self.old_sessions)),
            };
            return self.connect(old);
        }
        match self.rng.below(16) {
            0..=4 => {
                let method = *self.rng.pick(&[ECHO, IDEM, BIG, BIG, ABSENT]);
                let jump = if self.rng.one_in(4) { self.rng.below(600) } else { 1 };
                self.lines[at].xid += jump;
                let mut flags = if method == IDEM { wire::FLAG_IDEMPOTENT } else { 0 };
                flags |= if self.rng.one_in(8) { wire::FLAG_ONE_WAY } else { 0 };
                let plain = header(self.lines[at].xid, 0);
                let body = vec![1; self.rng.below(20_000) as usize];
                self.say(
                    at,
                    &Frame::Request(wire::RequestHeader { method, flags, ..plain }, &body),
                );
            }
            5..=7 => self.finish(),
            8 => {
                let asked = self.lines[at].xid + self.rng.below(700);
                self.say(at, &Frame::Ask(xid(asked), 0));
            }
            9..=10 => {
                let last = self.lines[at].xid;
                let acked = if self.rng.one_in(3) { last } else { 0 };
                let base = self.rng.below(u64::from(SLOTS)) as u32;
                let slot = (last % u64::from(SLOTS)) as u32;
                let base = if self.rng.one_in(2) { slot } else { base };
                let settled = if self.rng.one_in(4) { self.rng.next() } else { 1 };
                self.say(at, &Frame::Ack(Ack { acked, last, base, settled }));
            }
            11..=14 => {
                let len = self.rng.below(8192) as usize;
                self.transmit(at, len);
            }
            _ if self.rng.one_in(8) => {
                let line = self.lines.swap_remove(at);
                drop(line.rest);
                self.server.handle_disconnected(self.now, line.conn);
                if self.old_sessions.len() == 32 {
                    self.old_sessions.swap_remove(0);
                }
                self.old_sessions.push(line.session);
            }
            _ => {
                self.now = self.now + ms(self.rng.below(2_000));
                self.server.handle_timeout(self.now);
            }
        }
    }

    fn poll(&mut self) {
        while let Some(event) = self.server.poll_event() {
            if let ServerEvent::Close(conn, _) = event {
                self.lines.retain(|line| line.conn != conn);
            }
        }
    }

    fn check(&mut self, seed: u64, step: usize) {
        let counters = self.server.counters();
        let live = (LIVE.load(Ordering::Relaxed) as u64).saturating_sub(self.baseline);
        let words = counters.sessions as u64 * SESSION_BYTES + counters.conns as u64 * CONN_BYTES;
        let said = counters.kept_bytes + counters.table_bytes + words + FIXED;
        assert!(live <= said, "seed {seed}, step {step}: {live} bytes are live: {counters:?}");
        assert!(counters.kept_bytes <= KEPT_MAX, "seed {seed}, step {step}: {counters:?}");
        let requests = counters.request_bytes + counters.table_bytes;
        assert!(requests <= REQUESTS_MAX, "seed {seed}, step {step}: {counters:?}");
        self.half_sent_seen |= counters.half_sent_bytes > 0;
    }

    fn end(mut self, seed: u64) -> bool {
        for line in std::mem::take(&mut self.lines) {
            drop(line.rest);
            self.server.handle_disconnected(self.now, line.conn);
        }
        while !self.running.is_empty() {
            self.finish();
        }
        for _ in 0..100 {
            self.now = self.now + secs(10);
            self.server.handle_timeout(self.now);
            while self.server.poll_event().is_some() {}
        }
        let counters = self.server.counters();
        let held = [
            counters.kept_bytes,
            counters.half_sent_bytes,
            counters.coming_bytes,
            counters.request_bytes,
            counters.table_bytes,
            counters.running,
        ];
        assert_eq!(held, [0; 6], "seed {seed}: {counters:?}");
        assert_eq!((counters.sessions, counters.conns), (0, 0), "seed {seed}");
        self.half_sent_seen
    }
}

#[test]
fn c98_what_a_server_says_it_holds_is_what_the_allocator_counts() {
    let mut half_sent = 0;
    for seed in 0..30 {
        let mut walk = Walk::new(seed);
        for step in 0..4_000 {
            walk.step();
            walk.poll();
            walk.check(seed, step);
        }
        half_sent += u32::from(walk.end(seed));
    }
    assert!(half_sent >= 20, "{half_sent} walks acknowledged what was half sent");
}
