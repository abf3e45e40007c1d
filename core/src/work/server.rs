//! A server whose session has 65,536 slots, all of them held.

extern crate std;

use std::format;
use std::vec::Vec;

use super::{BOUND, FULL, Worst, encoded, orders};
use crate::storage::counted::{Counting, looks_of};
use crate::wire::{Ack, FLAG_IDEMPOTENT, Frame, Hello, MAGIC, RequestHeader, Resume};
use crate::*;

const METHOD: MethodId = MethodId::from_number(1);
const NOW: Instant = Instant::from_millis(1);
const SECRET: SessionId = SessionId::from_bytes([9; 16]);

struct Full {
    server: Server<Counting>,
    conn: ConnId,
}

impl Full {
    fn new() -> Full {
        let service = ServiceName::new("full").unwrap();
        let mut config = ServerConfig::new(ServerId::from_bytes([1; 16]), service);
        config.slots = FULL as u32;
        let spec = MethodSpec { idempotent: true, reply_len_max: 16, ..MethodSpec::new(METHOD) };
        let mut server = Server::new(config, &[spec]).unwrap();
        let conn = server.handle_connected(NOW, Principal(1), SECRET).unwrap();
        let mut full = Full { server, conn };
        full.hello(None).unwrap();
        full.flush();
        full
    }

    fn hello(&mut self, resume: Option<Resume>) -> Result<(), ProtocolError> {
        let hello = Hello {
            magic: MAGIC,
            version_min: wire::VERSION,
            version_max: wire::VERSION,
            features: 0,
            resume,
            slots: FULL as u32,
            request_len_max: 64,
            reply_len_max: 64,
            service: None,
            server: None,
            token: None,
        };
        self.take(&Frame::Hello(hello)).map(drop)
    }

    fn take(&mut self, frame: &Frame<'_>) -> Result<Option<Admission>, ProtocolError> {
        let bytes = encoded(frame);
        let received = self.server.handle_data(NOW, self.conn, &bytes)?;
        Ok(received.item.map(|item| match item {
            Incoming::Request(request) => request.admission,
            other => panic!("{other:?}"),
        }))
    }

    fn request(&mut self, xid: u64) -> Admission {
        let header = RequestHeader {
            flags: FLAG_IDEMPOTENT,
            method: METHOD,
            remaining_ms: 1_000,
            xid: Xid::new(xid).unwrap(),
            acked: 0,
        };
        self.take(&Frame::Request(header, b"")).unwrap().unwrap()
    }

    fn reply(&mut self, admission: Admission) {
        let running = self.server.start(NOW, admission).unwrap();
        self.server.reply(NOW, running, b"").unwrap();
        self.flush();
    }

    fn ack(&mut self, acked: u64) -> Result<(), ProtocolError> {
        let ack = Ack { acked, last: FULL, base: 0, settled: 0 };
        self.take(&Frame::Ack(ack)).map(drop)
    }

    /// Takes and drops all that waits to be sent.
    fn flush(&mut self) {
        let mut out = [0; 1024];
        loop {
            while self.server.poll_transmit(NOW, self.conn, &mut out).is_some() {}
            if self.server.poll_event().is_none() {
                break;
            }
        }
    }

    /// The connection breaks, and the session is resumed.
    fn resume(&mut self, acked: u64) -> Result<(), ProtocolError> {
        self.server.handle_disconnected(NOW, self.conn);
        let secret = SessionId::from_bytes([8; 16]);
        self.conn = self.server.handle_connected(NOW, Principal(1), secret).unwrap();
        let result = self.hello(Some(Resume { session: SECRET, acked }));
        self.flush();
        result
    }
}

#[test]
fn c140_requests_and_replies_cost_the_same_in_every_order() {
    let mut ends = orders();
    ends.rotate_left(1);
    for ((came, xids), (ended, order)) in orders().into_iter().zip(ends) {
        let mut full = Full::new();
        let (mut requests, mut replies) = (Worst::default(), Worst::default());
        let mut admissions: Vec<Option<Admission>> = (0..=FULL).map(|_| None).collect();
        for xid in xids {
            let (looks, admission) = looks_of(|| full.request(xid));
            requests.note(looks);
            admissions[xid as usize] = Some(admission);
        }
        for xid in order {
            let admission = admissions[xid as usize].take().unwrap();
            replies.note(looks_of(|| full.reply(admission)).0);
        }
        let case = format!("{came}, {ended}: {} and {}", requests.step, replies.step);
        assert!(requests.step.max(replies.step) <= BOUND, "{case}");

        let session = full.server.session_of(full.conn).unwrap();
        assert!(full.server.held_calls(session).map(Xid::get).eq(1..=FULL), "{case}");
        // One `Ack` discards all: not more for each than its request may cost.
        let (looks, result) = looks_of(|| full.ack(FULL));
        result.unwrap();
        assert!(looks <= BOUND * FULL, "{case}: {looks} looks");
        assert_eq!(full.server.held_calls(session).count(), 0);
    }
}

#[test]
fn c140_acknowledging_a_call_that_runs_costs_no_walk_over_those_before_it() {
    for (came, xids) in orders() {
        let mut full = Full::new();
        let mut last = None;
        for xid in xids {
            let admission = full.request(xid);
            if xid == FULL {
                last = Some(admission);
            } else {
                full.reply(admission);
            }
        }
        let error = ProtocolError::AckAhead { acked: FULL };
        // The first one may pass all that have finished; after it they are known to have.
        assert_eq!(full.resume(FULL), Err(error));
        let mut worst = Worst::default();
        for _ in 0..100 {
            let (looks, result) = looks_of(|| full.resume(FULL));
            assert_eq!(result, Err(error));
            worst.note(looks);
        }
        assert!(worst.step <= BOUND, "{came}: {}", worst.step);
        full.resume(FULL - 1).unwrap();
        full.reply(last.unwrap());
        assert_eq!(full.resume(FULL), Ok(()));
    }
}
