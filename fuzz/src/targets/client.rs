//! The client machine under a hostile server, and under any order of calls, times and disconnects.

use std::num::NonZeroUsize;
use std::time::Duration;

use oncewire_core::wire::{self, Decoded, Frame, Grants, Refuse, ReplyHeader, Role, Welcome};
use oncewire_core::*;

use super::script::{Script, bytes_of};

const PENDING_MAX: usize = 20;

struct Game<'d> {
    script: Script<'d>,
    client: Client<Heap>,
    now: Instant,
    /// What the client has sent on this connection and was not decoded yet.
    sent: Vec<u8>,
    /// Calls by index, and whether a ticket was given out.
    calls: Vec<Option<(CallId, bool)>>,
    ids: Vec<CallId>,
    session: u8,
    /// The highest xid sent in this session.
    xid: u64,
    slots: u32,
}

/// Plays the script: nothing panics, each call has at most one final outcome and at most one ticket before it, what is
/// sent is made of whole frames in a connection's order, and at the end every call is over.
pub fn client(data: &[u8]) {
    let mut script = Script::new(data);
    let mut config = ClientConfig::default();
    config.slots = 1 + u32::from(script.byte() % 6);
    config.calls_max = PENDING_MAX;
    config.reply_len_max = 300;
    if script.byte() & 1 == 1 {
        config.resend_after = Some(Duration::from_millis(script.short()));
    }
    if script.byte() == 255 {
        config.xid_before_first = u64::MAX - 10;
    }
    let slots = config.slots;
    let mut game = Game {
        script,
        client: Client::new(config),
        now: Instant::ZERO,
        sent: Vec::new(),
        calls: Vec::new(),
        ids: Vec::new(),
        session: 0,
        xid: 0,
        slots,
    };
    while !game.script.is_over() {
        game.step();
        game.poll();
    }
    game.end();
}

impl Game<'_> {
    fn step(&mut self) {
        match self.script.byte() % 16 {
            0..4 => self.call(),
            4 => {
                if let Some(id) = self.pick() {
                    self.client.cancel(self.now, id);
                }
            }
            5 => {
                if let Some(id) = self.pick() {
                    self.client.forget(self.now, id);
                    if self.is_known(id) {
                        self.calls[id.index()] = None;
                    }
                }
            }
            6 => {
                let by = Duration::from_millis(self.script.number() % 100_000);
                self.now = self.now + by;
                self.client.handle_timeout(self.now);
            }
            7 => {
                self.sent.clear();
                self.client.handle_connected(self.now);
            }
            8 => self.client.handle_disconnected(self.now),
            9 => {
                let len = usize::from(self.script.byte());
                let bytes = self.script.bytes(len).to_vec();
                self.receive(&bytes);
            }
            10 | 11 => self.welcome(),
            12..15 => self.reply(),
            _ => self.other_frame(),
        }
    }

    fn is_known(&self, id: CallId) -> bool {
        matches!(self.calls.get(id.index()), Some(Some((known, _))) if *known == id)
    }

    fn pick(&mut self) -> Option<CallId> {
        let at = usize::from(self.script.byte());
        self.ids.get(at % self.ids.len().max(1)).copied()
    }

    fn call(&mut self) {
        let flags = self.script.byte();
        let len = usize::from(self.script.byte());
        let mut call = Call::new(MethodId::from_number(u64::from(flags)), &[7; 255][..len]);
        call.idempotent = flags & 1 != 0;
        call.one_way = flags & 2 != 0;
        call.fail_fast = flags & 4 != 0;
        call.with_len = flags & 16 != 0;
        if flags & 8 != 0 {
            call.timeout = Duration::from_millis(u64::from(self.script.byte()));
        }
        let one_way = call.one_way;
        if let Ok(id) = self.client.call(self.now, call) {
            if self.calls.len() <= id.index() {
                self.calls.resize(id.index() + 1, None);
            }
            let tenant = self.calls[id.index()];
            assert!(tenant.is_none(), "{id:?} has the index of {tenant:?}, which is not over");
            self.ids.push(id);
            self.calls[id.index()] = (!one_way).then_some((id, false));
        }
        assert!(self.client.pending() <= PENDING_MAX);
    }

    fn welcome(&mut self) {
        let (kind, seen) = (self.script.byte(), self.script.number());
        self.session = self.session.wrapping_add(u8::from(kind & 3 == 0));
        let grants = Grants {
            slots: if kind & 4 == 0 { 1 } else { 2 }.min(self.slots),
            request_len_max: 200,
            reply_len_max: 300,
            lease_ms: 1_000,
            keepalive_ms: 1_000,
        };
        let welcome = Welcome {
            version: 1,
            features: 0,
            server: ServerId::from_bytes([self.session; 16]),
            service: ServiceName::EMPTY,
            session: SessionId::from_bytes([self.session; 16]),
            seen,
            commit: u64::from(kind >> 7),
            grants,
            instance: Instance::UNNAMED,
            schemas: Schemas::EMPTY,
        };
        self.receive(&bytes_of(&Frame::Welcome(welcome)));
    }

    fn reply(&mut self) {
        const STATUS: [u8; 8] = [0, 0, 0, 1, 3, 0x10, 0x20, 0x21];
        let kind = self.script.byte();
        let status = STATUS[usize::from(kind % 8)];
        let ask = if status == 0x20 { u16::from(kind / 8 % 4) } else { 0 };
        let status = Status::from_wire(status, ask);
        let number = match self.script.byte() {
            back @ 0..200 => self.xid.saturating_sub(u64::from(back % 8)),
            _ => self.script.number(),
        };
        let (Some(status), Some(xid)) = (status, Xid::new(number)) else { return };
        let len = if status == Status::Done { usize::from(self.script.byte()) } else { 0 };
        self.receive(&bytes_of(&Frame::Reply(ReplyHeader { status, xid }, &[9; 255][..len])));
    }

    fn other_frame(&mut self) {
        let frame = match self.script.byte() % 8 {
            0 => Frame::Ping(Role::Server),
            1 => Frame::Pong(Role::Server),
            2 => Frame::Goodbye(Role::Server),
            3 => Frame::Refuse(Refuse::SessionUnknown, Instance::UNNAMED),
            4 => Frame::Refuse(Refuse::Superseded, Instance::UNNAMED),
            5 => Frame::Refuse(Refuse::Protocol(self.script.byte()), Instance::UNNAMED),
            6 => Frame::Refuse(Refuse::ShuttingDown, Instance::UNNAMED),
            _ => {
                self.client.close(self.now);
                return;
            }
        };
        self.receive(&bytes_of(&frame));
    }

    fn receive(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Ok(received) = self.client.handle_data(self.now, rest) {
            rest = &rest[received.consumed..];
            let Some(reply) = received.item else { return };
            assert!(!matches!(reply.outcome, Outcome::Unknown { ticket: true, .. }));
            assert!(self.is_known(reply.call), "a reply for a call that is over");
            self.calls[reply.call.index()] = None;
        }
    }

    fn poll(&mut self) {
        let mut events = 0;
        while let Some(event) = self.client.poll_event() {
            events += 1;
            assert!(events < 1_000, "events without end");
            let ClientEvent::Ended { call, outcome, .. } = event else { continue };
            assert!(self.is_known(call), "{outcome:?} for a call that is over");
            if let Outcome::Unknown { ticket: true, .. } = outcome {
                let first = self.calls[call.index()].replace((call, true));
                assert_eq!(first, Some((call, false)), "a second ticket");
            } else {
                self.calls[call.index()] = None;
            }
        }
        let mut out = [0; 700];
        let room = 256 + usize::from(self.script.byte() & 1) * 444;
        let mut sends = 0;
        while let Some(len) = self.client.poll_transmit(self.now, &mut out[..room]) {
            sends += 1;
            assert!(sends < 1_000, "sends without end");
            self.sent.extend_from_slice(&out[..NonZeroUsize::get(len)]);
        }
        self.read_sent();
        assert!(self.client.unsettled() <= self.slots as usize);
    }

    fn read_sent(&mut self) {
        loop {
            match wire::decode(&self.sent, Role::Client, u32::MAX / 2) {
                Ok(Decoded::Frame(frame, len)) => {
                    if let Frame::Request(header, _) = frame {
                        assert!(header.acked < header.xid.get(), "X covers the call itself");
                        self.xid = header.xid.get();
                    }
                    self.sent.drain(..len);
                }
                Ok(Decoded::Incomplete(_)) => return,
                Err(error) => panic!("the client sends {:02x?}: {error}", self.sent),
            }
        }
    }

    /// The session is lost and the server refuses for good: every call ends.
    fn end(&mut self) {
        self.sent.clear();
        self.client.handle_connected(self.now);
        self.poll();
        let refuse = Refuse::VersionUnsupported { min: 9, max: 9 };
        self.receive(&bytes_of(&Frame::Refuse(refuse, Instance::UNNAMED)));
        self.poll();
        assert_eq!(self.client.pending(), 0, "{:?}", self.client);
        assert!(self.calls.iter().all(Option::is_none), "{:?}", self.calls);
        assert_eq!(self.client.unsettled(), 0);
    }
}
