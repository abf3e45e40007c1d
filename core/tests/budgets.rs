//! What is counted is what memory really holds, and nobody gets more than a share of it: S11, C98 to C105.
#![allow(missing_docs)]

mod util;

use bytes::Bytes;
use oncewire_core::wire::{self, Ack, Frame};
use oncewire_core::*;
use util::*;

const MIB: u64 = 1 << 20;
const NOW: Instant = Instant::ZERO;

/// A server whose clients are played frame by frame, and read only what a test writes out.
struct Bare {
    server: Server<Heap>,
    secrets: u128,
}

impl Bare {
    fn with(change: impl FnOnce(&mut ServerConfig)) -> Bare {
        let mut config = default_server_config();
        config.slots = 1024;
        change(&mut config);
        Bare { server: Server::new(config, &methods()).unwrap(), secrets: 0 }
    }

    /// A connection with a session of so many slots.
    fn open(&mut self, principal: Principal, slots: u32) -> ConnId {
        self.secrets += 1;
        // The first half must differ: tables are indexed by it.
        let secret = self.secrets.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        let secret = SessionId::from_bytes(secret);
        let conn = self.server.handle_connected(NOW, principal, secret).unwrap();
        let Frame::Hello(hello) = hello(None) else { unreachable!() };
        self.say(conn, &Frame::Hello(wire::Hello { slots, request_len_max: 16 << 20, ..hello }));
        while self.write(conn, 4096) > 0 {}
        conn
    }

    fn write(&mut self, conn: ConnId, len: usize) -> usize {
        let written = self.server.poll_transmit(NOW, conn, &mut vec![0; len]);
        while self.server.poll_event().is_some() {}
        written.map_or(0, |len| len.get())
    }

    /// Gives the server a frame; the call, if it admits one.
    fn say(&mut self, conn: ConnId, frame: &Frame<'_>) -> Option<Admission> {
        let bytes = bytes_of(frame);
        let received = self.server.handle_data(NOW, conn, &bytes).unwrap();
        let admission = match received.item {
            Some(Incoming::Request(request)) => Some(request.admission),
            _ => None,
        };
        while self.server.poll_event().is_some() {}
        admission
    }

    fn start(&mut self, conn: ConnId, frame: &Frame<'_>) -> Option<Running> {
        let admission = self.say(conn, frame)?;
        Some(self.server.start(NOW, admission).unwrap())
    }

    /// A session with a reply of 1 MiB of which 4 KiB were written; `None` if there is no room for it.
    fn begun(&mut self, shared: bool) -> Option<ConnId> {
        let conn = self.open(Principal::NOBODY, 4);
        let running = self.start(conn, &big(1, b"x"))?;
        let reply = vec![7; MIB as usize];
        if shared {
            self.server.reply(NOW, running, Bytes::from(reply)).unwrap();
        } else {
            self.server.reply(NOW, running, &reply).unwrap();
        }
        assert_eq!(self.write(conn, 4096), 4096);
        Some(conn)
    }

    fn acknowledge(&mut self, conn: ConnId) {
        self.say(conn, &Frame::Ack(Ack { acked: 1, base: 0, settled: 0 }));
    }

    fn kept_and_half_sent(&self) -> (u64, u64) {
        let counters = self.server.counters();
        (counters.kept_bytes, counters.half_sent_bytes)
    }
}

/// A request for a reply of up to 1 MiB.
fn big(number: u64, body: &[u8]) -> Frame<'_> {
    Frame::Request(wire::RequestHeader { method: BIG, ..header(number, 0) }, body)
}

#[test]
fn c98_an_acknowledged_reply_stays_counted_until_it_has_left() {
    for shared in [false, true] {
        let mut bare = Bare::with(|config| config.kept_max = 2 * MIB);
        let mut conns = Vec::new();
        for _ in 0..50 {
            if let Some(conn) = bare.begun(shared) {
                bare.acknowledge(conn);
                conns.push(conn);
            }
        }
        let (kept, half_sent) = bare.kept_and_half_sent();
        assert!((MIB..=2 * MIB).contains(&half_sent), "{half_sent}");
        assert_eq!(kept, half_sent);
        assert!(bare.server.counters().refused >= 48, "refused once the budget is used up");
        for conn in conns {
            bare.server.handle_disconnected(NOW, conn);
        }
        assert_eq!(bare.kept_and_half_sent(), (0, 0), "the connections are gone");
    }
}

#[test]
fn c98_what_was_half_sent_is_given_back_when_it_has_left() {
    for shared in [false, true] {
        for acknowledged_while_written in [false, true] {
            let mut bare = Bare::with(|_| {});
            let conn = bare.begun(shared).unwrap();
            if !acknowledged_while_written {
                bare.acknowledge(conn);
            }
            if shared {
                let rest = bare.server.take_rest(conn).unwrap();
                assert_eq!(rest.len() as u64, MIB + wire::REPLY_HEADER_LEN as u64 - 4096);
                assert!(bare.server.take_rest(conn).is_none());
            }
            if acknowledged_while_written {
                bare.acknowledge(conn);
            }
            assert_eq!(bare.kept_and_half_sent(), (MIB, MIB));
            while bare.write(conn, 4096) > 0 {}
            assert_eq!(bare.kept_and_half_sent(), (0, 0));
        }
    }
}
