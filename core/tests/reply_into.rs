//! Replies that are written where their connection sends next, as its call ends (S4, S11).

mod util;

use std::collections::BTreeMap;

use oncewire_core::wire::{self, Ack, Frame, Role};
use oncewire_core::*;
use util::bare::{Bare, NOW, big};
use util::*;

/// What is written on a connection until nothing more is.
fn polled(server: &mut Server<Heap>, conn: ConnId, out_len: usize) -> Vec<u8> {
    let (mut bytes, mut out) = (Vec::new(), vec![0; out_len]);
    while let Some(len) = server.poll_transmit(NOW, conn, &mut out) {
        bytes.extend(&out[..len.get()]);
    }
    while server.poll_event().is_some() {}
    bytes
}

impl Bare {
    /// Answers a call and says what was written at once.
    fn reply_at(&mut self, running: Running, body: &[u8], conn: ConnId, room: usize) -> Vec<u8> {
        let mut out = vec![0; room];
        let len = self.server.reply_into(NOW, running, body, conn, &mut out).unwrap();
        assert!(out[len..].iter().all(|byte| *byte == 0), "nothing is written behind the frame");
        out.truncate(len);
        out
    }

    fn running(&mut self, conn: ConnId, number: u64) -> Running {
        self.start(conn, &request(number, 0, b"x")).unwrap()
    }

    fn resume(&mut self, of: ConnId) -> ConnId {
        let key = self.server.session_of(of).unwrap();
        let id = self.server.session_record(key).unwrap().id;
        let fresh = SessionId::from_bytes([9; 16]);
        let conn = self.server.handle_connected(NOW, Principal::ANONYMOUS, fresh).unwrap();
        self.say(conn, &hello(Some((id, 0))));
        conn
    }
}

#[test]
fn c445_a_reply_is_written_at_once_only_where_its_connection_sends_next() {
    let mut bare = Bare::with(|_| {});
    let (conn, other) = (bare.open(ALICE, 8), bare.open(BOB, 8));
    let done = |number| {
        bytes_of(&Frame::Reply(
            wire::ReplyHeader { status: Status::Done, xid: xid(number) },
            b"reply",
        ))
    };
    // Where it may leave: the frame that a poll would write, of which no event comes, and which is kept for duplicates.
    let running = bare.running(conn, 1);
    assert_eq!(bare.reply_at(running, b"reply", conn, 64), done(1));
    assert_eq!(bare.server.poll_event(), None);
    assert_eq!(polled(&mut bare.server, conn, 4096), []);
    assert!(bare.say(conn, &request(1, 0, b"x")).is_none(), "it is a duplicate");
    assert_eq!(polled(&mut bare.server, conn, 4096), done(1));

    // Too little room, and another client's connection.
    let (first, second) = (bare.running(conn, 2), bare.running(conn, 3));
    assert_eq!(bare.reply_at(first, b"reply", conn, done(2).len() - 1), []);
    assert_eq!(bare.server.poll_event(), Some(ServerEvent::Transmit(conn)));
    assert_eq!(polled(&mut bare.server, conn, 4096), done(2));
    assert_eq!(bare.reply_at(second, b"reply", other, 64), []);
    assert_eq!(polled(&mut bare.server, other, 4096), []);
    // And behind a reply that waits.
    let third = bare.running(conn, 4);
    assert_eq!(bare.reply_at(third, b"reply", conn, 64), []);
    assert_eq!(polled(&mut bare.server, conn, 4096), [done(3), done(4)].concat());

    // In the middle of a frame.
    let long = bare.start(conn, &big(5, b"x")).unwrap();
    bare.server.reply(NOW, long, &[7; 10_000]).unwrap();
    assert_eq!(bare.write(conn, 4096), 4096);
    let fourth = bare.running(conn, 6);
    assert_eq!(bare.reply_at(fourth, b"reply", conn, 64), []);
    let rest = polled(&mut bare.server, conn, 4096);
    assert_eq!(rest[rest.len() - done(6).len()..], done(6));
}

#[test]
fn c445_a_reply_is_not_written_to_a_connection_that_its_session_has_left() {
    let mut bare = Bare::with(|_| {});
    let old = bare.open(Principal::ANONYMOUS, 8);
    let (first, second) = (bare.running(old, 1), bare.running(old, 2));
    let new = bare.resume(old);
    assert_ne!(old, new);
    // S4: to neither of them, until it is asked for. The `Welcome` has not left, either.
    assert_eq!(bare.reply_at(first, b"reply", old, 64), []);
    assert_eq!(bare.reply_at(second, b"reply", new, 64), []);
    let welcome = frames(polled(&mut bare.server, new, 4096), Role::Server);
    assert!(matches!(welcome[..], [OwnedFrame::Welcome(_)]), "{welcome:?}");
    bare.say(new, &Frame::Ask(xid(2), 1));
    let reply = OwnedFrame::Reply(Status::Done, 2, b"reply".to_vec());
    assert_eq!(frames(polled(&mut bare.server, new, 4096), Role::Server), [reply]);

    // The place of a connection that is gone has another one, of the same session: its name is not enough.
    let running = bare.running(new, 3);
    bare.server.handle_disconnected(NOW, old);
    bare.server.handle_disconnected(NOW, new);
    assert_eq!(bare.reply_at(running, b"reply", new, 64), []);
}

/// A call, by session and xid.
type Name = (usize, u64);

/// One of two servers that get the same; one is polled for all replies.
struct Twin {
    bare: Bare,
    at_once: bool,
    conns: Vec<ConnId>,
    running: BTreeMap<Name, Running>,
    written: usize,
}

const SESSIONS: usize = 3;
const SLOTS: u32 = 8;

impl Twin {
    fn new(at_once: bool) -> Twin {
        let mut bare = Bare::with(|_| {});
        let conns = (0..SESSIONS).map(|_| bare.open(Principal::ANONYMOUS, SLOTS)).collect();
        Twin { bare, at_once, conns, running: BTreeMap::new(), written: 0 }
    }

    /// Whether any of these calls, or of those that run, is such a one.
    fn has_any(&self, ended: &[Name], is_such: impl Fn(&Name) -> bool) -> bool {
        self.running.keys().chain(ended).any(is_such)
    }

    /// A request of a session, unless its slot is busy.
    fn request(&mut self, rng: &mut Rng, of: usize, number: u64, ended: &[Name]) {
        let slot = |xid: u64| xid % u64::from(SLOTS);
        if self.has_any(ended, |(session, xid)| *session == of && slot(*xid) == slot(number)) {
            // S8: a client skips the number.
            return;
        }
        let header = wire::RequestHeader {
            flags: [0, 0, wire::FLAG_ONE_WAY, wire::FLAG_IDEMPOTENT][rng.below(4) as usize],
            method: *rng.pick(&[ECHO, IDEM, BIG]),
            ..header(number, 0)
        };
        if let Some(admission) = self.bare.say(self.conns[of], &Frame::Request(header, b"x")) {
            let running = self.bare.server.start(NOW, admission).unwrap();
            self.running.insert((of, number), running);
        }
    }

    /// A call that runs ends. What is written at once is put behind what was sent on its connection.
    fn end_one(&mut self, rng: &mut Rng, sent: &mut [Vec<u8>], ended: &mut Vec<Name>) {
        let names: Vec<_> = self.running.keys().copied().collect();
        let (len, room) = (rng.below(3_000) >> rng.below(12), rng.below(400) as usize);
        let (to, chosen) = (rng.below(6) as usize, rng.next());
        if names.is_empty() {
            return;
        }
        let name = names[chosen as usize % names.len()];
        let running = self.running.remove(&name).unwrap();
        ended.push(name);
        // Mostly where it came from.
        let to = if to < SESSIONS { to } else { name.0 };
        let body = &vec![7; len as usize][..];
        let (server, mut out) = (&mut self.bare.server, vec![0; room]);
        let written = match self.at_once {
            true => server.reply_into(NOW, running, body, self.conns[to], &mut out),
            false => server.reply(NOW, running, body).map(|()| 0),
        };
        let written = written.unwrap_or(0);
        self.written += written;
        sent[to].extend_from_slice(&out[..written]);
    }

    /// A client acknowledges what it has seen.
    fn acknowledge(&mut self, of: usize, acked: u64, ended: &[Name]) {
        if !self.has_any(ended, |(session, xid)| *session == of && *xid <= acked) {
            let ack = Ack { acked, last: 0, base: 0, settled: 0 };
            self.bare.say(self.conns[of], &Frame::Ack(ack));
        }
    }

    /// What it sends for one more step; by connection, and whatever the order of frames in it.
    fn step(&mut self, rng: &mut Rng, last: &mut [u64; SESSIONS]) -> Vec<Vec<String>> {
        let mut sent = vec![Vec::new(); SESSIONS];
        // Replies that have not left yet, which no client acknowledges.
        let mut ended = Vec::new();
        for _ in 0..1 + rng.below(4) {
            let of = rng.below(SESSIONS as u64) as usize;
            let acked = last[of].saturating_sub(rng.below(12) + 4);
            match rng.below(8) {
                0..3 => {
                    last[of] += 1;
                    self.request(rng, of, last[of], &ended);
                }
                3..6 => self.end_one(rng, &mut sent, &mut ended),
                6 => self.acknowledge(of, acked, &ended),
                _ => {
                    self.bare.say(self.conns[of], &Frame::Ping(Role::Client));
                }
            }
        }
        for (sent, conn) in sent.iter_mut().zip(&self.conns) {
            sent.extend(polled(&mut self.bare.server, *conn, 4096));
        }
        let shown = |sent| {
            let mut shown: Vec<_> =
                frames(sent, Role::Server).iter().map(|frame| format!("{frame:?}")).collect();
            shown.sort();
            shown
        };
        sent.into_iter().map(shown).collect()
    }
}

#[test]
fn c446_what_is_written_at_once_is_what_a_poll_would_have_written() {
    let mut written = 0;
    for seed in 0..200 {
        let (mut at_once, mut later) = (Twin::new(true), Twin::new(false));
        let (mut rng, mut last) = (Rng(seed), [0; SESSIONS]);
        for step in 0..100 {
            let (mut same_rng, mut same_last) = (rng.clone(), last);
            let sent = at_once.step(&mut rng, &mut last);
            assert_eq!(sent, later.step(&mut same_rng, &mut same_last), "seed {seed}, step {step}");
            let counters = [&at_once, &later].map(|twin| twin.bare.server.counters());
            assert_eq!(counters[0], counters[1], "seed {seed}, step {step}");
        }
        written += at_once.written;
    }
    assert!(written > 100_000, "{written} bytes were written at once");
}
