//! A server alone, whose clients the test plays frame by frame.

use bytes::Bytes;
use oncewire_core::wire::{self, Ack, Frame};
use oncewire_core::*;

use super::*;

pub const MIB: u64 = 1 << 20;
pub const NOW: Instant = Instant::ZERO;

/// A server whose clients are played frame by frame, and read only what a test writes out.
pub struct Bare {
    pub server: Server<Heap>,
    pub secrets: u128,
}

impl Bare {
    pub fn with(change: impl FnOnce(&mut ServerConfig)) -> Bare {
        let mut config = default_server_config();
        config.slots = 1024;
        change(&mut config);
        Bare { server: Server::new(config, &methods()).unwrap(), secrets: 0 }
    }

    /// A connection with a session of so many slots.
    pub fn open(&mut self, principal: Principal, slots: u32) -> ConnId {
        self.open_for(principal, slots, 16 << 20)
    }

    /// The same, for requests of at most so many bytes.
    pub fn open_for(&mut self, principal: Principal, slots: u32, request_len_max: u32) -> ConnId {
        self.secrets += 1;
        // The first half must differ: tables are indexed by it.
        let secret = self.secrets.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        let secret = SessionId::from_bytes(secret);
        let conn = self.server.handle_connected(NOW, principal, secret).unwrap();
        let Frame::Hello(hello) = hello(None) else { unreachable!() };
        self.say(conn, &Frame::Hello(wire::Hello { slots, request_len_max, ..hello }));
        while self.write(conn, 4096) > 0 {}
        conn
    }

    pub fn write(&mut self, conn: ConnId, len: usize) -> usize {
        let written = self.server.poll_transmit(NOW, conn, &mut vec![0; len]);
        while self.server.poll_event().is_some() {}
        written.map_or(0, |len| len.get())
    }

    /// Gives the server a frame; the call, if it admits one.
    pub fn say(&mut self, conn: ConnId, frame: &Frame<'_>) -> Option<Admission> {
        let bytes = bytes_of(frame);
        let received = self.server.handle_data(NOW, conn, &bytes).unwrap();
        let admission = match received.item {
            Some(Incoming::Request(request)) => Some(request.admission),
            _ => None,
        };
        while self.server.poll_event().is_some() {}
        admission
    }

    pub fn start(&mut self, conn: ConnId, frame: &Frame<'_>) -> Option<Running> {
        let admission = self.say(conn, frame)?;
        Some(self.server.start(NOW, admission).unwrap())
    }

    /// A session with a reply of 1 MiB of which 4 KiB were written, or its header if it is shared; `None` if there is no
    /// room for it.
    pub fn begun(&mut self, shared: bool) -> Option<ConnId> {
        let conn = self.open(Principal::ANONYMOUS, 4);
        let running = self.start(conn, &big(1, b"x"))?;
        let reply = vec![7; MIB as usize];
        if shared {
            self.server.reply(NOW, running, Bytes::from(reply)).unwrap();
        } else {
            self.server.reply(NOW, running, &reply).unwrap();
        }
        let written = if shared { wire::REPLY_HEADER_LEN } else { 4096 };
        assert_eq!(self.write(conn, 4096), written);
        Some(conn)
    }

    pub fn acknowledge(&mut self, conn: ConnId) {
        self.say(conn, &Frame::Ack(Ack { acked: 1, last: u64::MAX, base: 0, settled: 0 }));
    }

    pub fn kept_and_half_sent(&self) -> (u64, u64) {
        let counters = self.server.counters();
        (counters.kept_bytes, counters.half_sent_bytes)
    }
}

/// A request for a reply of up to 1 MiB.
pub fn big(number: u64, body: &[u8]) -> Frame<'_> {
    Frame::Request(wire::RequestHeader { method: BIG, ..header(number, 0) }, body)
}
