//! Calls that a server does not let their caller make: C192, C437.
#![allow(missing_docs)]

mod util;

use oncewire_core::wire::{Frame, RequestHeader};
use oncewire_core::*;
use util::*;

const NOW: Instant = Instant::ZERO;
const MIB: u64 = 1 << 20;

/// A server that asks its owner, and a client that is played frame by frame.
struct Asking {
    server: Server<Heap>,
    conn: ConnId,
}

impl Asking {
    fn with(change: impl FnOnce(&mut ServerConfig)) -> Asking {
        let mut config = default_server_config();
        config.authorizes = true;
        change(&mut config);
        let mut server = Server::new(config, &methods()).unwrap();
        let secret = SessionId::from_bytes([7; 16]);
        let conn = server.handle_connected(NOW, ALICE, secret).unwrap();
        let mut asking = Asking { server, conn };
        assert!(asking.say(&hello(None)).is_none());
        asking.answer();
        asking
    }

    /// Gives it a frame. Returns the call that its owner must allow: its admission, its method's index, its length.
    fn say(&mut self, frame: &Frame<'_>) -> Option<(Admission, usize, usize)> {
        let bytes = bytes_of(frame);
        let received = self.server.handle_data(NOW, self.conn, &bytes).unwrap();
        let asked = match received.item {
            Some(Incoming::Request(request)) => {
                Some((request.admission, request.method_index, request.body.len()))
            }
            _ => None,
        };
        while self.server.poll_event().is_some() {}
        asked
    }

    /// A call of up to 1 MiB of reply.
    fn call(&mut self, number: u64) -> Option<(Admission, usize, usize)> {
        let header = RequestHeader { method: BIG, ..header(number, 0) };
        self.say(&Frame::Request(header, b"body"))
    }

    fn verdict(&mut self, number: u64, allowed: bool) -> Result<Admission, CallRefused> {
        let (admission, method, len) = self.call(number).expect("it is new");
        self.server.authorize(NOW, admission, method, len, allowed)
    }

    /// The status in the next frame that it sends, if it is a reply.
    fn answer(&mut self) -> Option<u8> {
        let mut out = [0; 256];
        self.server.poll_transmit(NOW, self.conn, &mut out)?;
        (out[4] == 0x42).then_some(out[5])
    }

    fn set_aside(&self) -> (u64, u64) {
        let counters = self.server.counters();
        (counters.kept_bytes, counters.request_bytes)
    }
}

#[test]
fn c192_a_call_that_is_not_allowed_is_refused_once_and_for_all() {
    let mut asking = Asking::with(|_| {});
    let denied = NotExecuted::PermissionDenied;
    assert_eq!(asking.verdict(1, false).unwrap_err(), CallRefused(denied));
    assert_eq!(asking.answer(), Status::Refused(denied).to_byte());
    // A duplicate and an `Ask` are answered from what is kept: the owner, who may say otherwise now, is not asked.
    assert!(asking.call(1).is_none());
    assert_eq!(asking.answer(), Status::Refused(denied).to_byte());
    assert!(asking.say(&Frame::Ask(xid(1), 1)).is_none());
    assert_eq!(asking.answer(), Status::Refused(denied).to_byte());
    assert_eq!(asking.server.counters().duplicates, 1);
    assert_eq!(asking.set_aside(), (0, 0));
}

#[test]
fn c192_nothing_is_set_aside_for_a_call_before_it_is_allowed() {
    let mut asking = Asking::with(|_| {});
    let (admission, method, len) = asking.call(1).unwrap();
    assert_eq!(asking.set_aside(), (0, 0));
    let admission = asking.server.authorize(NOW, admission, method, len, true).unwrap();
    assert_eq!(asking.set_aside(), (MIB, 4));
    let running = asking.server.start(NOW, admission).unwrap();
    asking.server.reply(NOW, running, &[7; 200]).unwrap();
    assert_eq!(asking.answer(), Some(0));
    assert_eq!(asking.set_aside(), (200, 0));
    asking.say(&Frame::Ack(wire::Ack { acked: 1, last: u64::MAX, base: 0, settled: 0 }));
    assert_eq!(asking.set_aside(), (0, 0));
}

#[test]
fn c192_a_server_without_room_denies_what_is_not_allowed_and_refuses_what_is() {
    let mut asking = Asking::with(|config| config.kept_max = MIB / 2);
    assert_eq!(asking.verdict(1, false).unwrap_err(), CallRefused(NotExecuted::PermissionDenied));
    assert_eq!(asking.verdict(2, true).unwrap_err(), CallRefused(NotExecuted::Overloaded));
    assert_eq!(asking.set_aside(), (0, 0));
}

#[test]
fn c437_what_is_not_allowed_is_denied_however_much_its_session_holds() {
    let mut asking = Asking::with(|config| config.kept_max = 4 * MIB);
    let first = asking.conn;
    assert!(asking.verdict(1, true).is_ok() && asking.verdict(2, true).is_ok());
    let secret = SessionId::from_bytes([8; 16]);
    asking.conn = asking.server.handle_connected(NOW, BOB, secret).unwrap();
    assert!(asking.say(&hello(None)).is_none());
    asking.answer();
    assert!(asking.verdict(1, true).is_ok());
    // Now it holds more than is free.
    asking.conn = first;
    assert_eq!(asking.verdict(3, false).unwrap_err(), CallRefused(NotExecuted::PermissionDenied));
    assert_eq!(asking.verdict(4, true).unwrap_err(), CallRefused(NotExecuted::Overloaded));
}

#[test]
fn c192_a_verdict_that_comes_after_the_session_was_ended_starts_nothing() {
    let mut asking = Asking::with(|_| {});
    let (admission, method, len) = asking.call(1).unwrap();
    // Other arguments under the same number: the session is ended for that.
    let header = RequestHeader { method: BIG, ..header(1, 0) };
    let retry = bytes_of(&Frame::Request(header, b"evil"));
    assert!(asking.server.handle_data(NOW, asking.conn, &retry).is_err());
    let verdict = asking.server.authorize(NOW, admission, method, len, true);
    let started = verdict.and_then(|admission| asking.server.start(NOW, admission));
    assert_eq!(started.unwrap_err(), CallRefused(NotExecuted::Cancelled));
    assert_eq!(asking.set_aside(), (0, 0));
}
