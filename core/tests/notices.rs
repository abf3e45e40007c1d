//! What a server's machine says that it has decided by itself: C250.
#![allow(missing_docs)]

mod util;

use oncewire_core::wire::{self, Ack, Frame, RequestHeader};
use oncewire_core::*;
use util::bare::NOW;
use util::*;

/// A server that says what it decides, and a client that is played frame by frame.
struct Watched {
    server: Server<Heap>,
    conn: ConnId,
    notices: Vec<Notice>,
    ended: Vec<SessionEnd>,
}

impl Watched {
    fn with(change: impl FnOnce(&mut ServerConfig)) -> Watched {
        let mut config = default_server_config();
        config.notices = true;
        change(&mut config);
        let mut server = Server::new(config, &methods()).unwrap();
        let conn = connect(&mut server, 7);
        Watched { server, conn, notices: Vec::new(), ended: Vec::new() }
    }

    /// Gives it a frame; the call, if it admits one.
    fn say(&mut self, frame: &Frame<'_>) -> Option<Admission> {
        let bytes = bytes_of(frame);
        let mut asked = None;
        let mut at = 0;
        while at < bytes.len() {
            let received = self.server.handle_data(NOW, self.conn, &bytes[at..]).unwrap();
            at += received.consumed;
            match received.item {
                Some(Incoming::Request(request)) => asked = Some(request.admission),
                Some(Incoming::Notice) => self.notices.extend(self.server.take_notice()),
                _ => {}
            }
        }
        self.transmit();
        asked
    }

    fn transmit(&mut self) {
        while self.server.poll_transmit(NOW, self.conn, &mut [0; 4096]).is_some() {}
        self.poll();
    }

    fn poll(&mut self) {
        while let Some(event) = self.server.poll_event() {
            if let ServerEvent::SessionEnded(_, over) = event {
                self.ended.push(over);
            }
        }
    }

    fn said(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }
}

fn connect(server: &mut Server<Heap>, secret: u8) -> ConnId {
    server.handle_connected(NOW, ALICE, SessionId::from_bytes([secret; 16])).unwrap()
}

fn resume(secret: u8) -> Frame<'static> {
    let Frame::Hello(plain) = hello(None) else { unreachable!() };
    let session = SessionId::from_bytes([secret; 16]);
    Frame::Hello(wire::Hello { resume: Some(wire::Resume { session, acked: 0 }), ..plain })
}

fn request(number: u64, method: MethodId) -> Frame<'static> {
    Frame::Request(RequestHeader { method, ..header(number, 0) }, b"body")
}

fn verdict(notice: &Notice) -> (u64, Verdict) {
    let Notice::Duplicate { call, verdict, .. } = notice else { panic!("{notice:?}") };
    (call.xid().get(), *verdict)
}

#[test]
fn c250_a_server_says_what_it_decides_of_sessions_and_of_calls_that_it_does_not_run() {
    let mut watched = Watched::with(|_| {});
    watched.say(&hello(None));
    assert_eq!(watched.said(), [Notice::Opened]);

    // A new call is its owner's affair; the same again is not.
    let admission = watched.say(&request(1, ECHO)).expect("it is new");
    assert_eq!(watched.said(), []);
    assert!(watched.say(&request(1, ECHO)).is_none());
    let said = watched.said();
    assert_eq!(verdict(&said[0]), (1, Verdict::WhenDone));
    assert!(matches!(said[..], [Notice::Duplicate { method: Some(ECHO), .. }]), "{said:?}");
    watched.say(&Frame::Ask(xid(1), 1));
    let said = watched.said();
    assert_eq!(verdict(&said[0]), (1, Verdict::WhenDone));
    assert!(matches!(said[..], [Notice::Duplicate { method: None, .. }]), "{said:?}");

    let running = watched.server.start(NOW, admission).unwrap();
    watched.server.reply(NOW, running, b"reply").unwrap();
    watched.transmit();
    watched.say(&request(1, ECHO));
    watched.say(&Frame::Ask(xid(1), 2));
    watched.say(&Frame::Ask(xid(2), 3));
    let said = watched.said();
    let verdicts: Vec<_> = said.iter().map(verdict).collect();
    let expected = [(1, Verdict::Kept), (1, Verdict::Kept), (2, Verdict::NotSeen)];
    assert_eq!(verdicts, expected);
    watched.say(&Frame::Ack(Ack { acked: 1, last: u64::MAX, base: 0, settled: 0 }));
    watched.say(&request(1, ECHO));
    assert_eq!(watched.said().iter().map(verdict).collect::<Vec<_>>(), [(1, Verdict::Dropped)]);

    watched.say(&request(3, ABSENT));
    let said = watched.said();
    let [Notice::Refused { call, method, why }] = said[..] else { panic!("{said:?}") };
    let expected = (xid(3), ABSENT, NotExecuted::UnknownMethod);
    assert_eq!((call.xid(), method, why), expected);

    watched.server.handle_disconnected(NOW, watched.conn);
    watched.conn = connect(&mut watched.server, 8);
    watched.say(&resume(7));
    assert_eq!(watched.said(), [Notice::Resumed]);
    assert_eq!(watched.ended, []);
    // An id that it does not have: refused, which the close of the connection says.
    watched.conn = connect(&mut watched.server, 9);
    watched.say(&resume(5));
    assert_eq!(watched.said(), []);
}

#[test]
fn c250_a_session_that_is_over_says_why() {
    let ended_by = |end: fn(&mut Watched)| {
        let mut watched = Watched::with(|config| config.lease = secs(10));
        watched.say(&hello(None));
        end(&mut watched);
        watched.poll();
        watched.ended
    };
    let goodbye = ended_by(|watched| {
        assert!(watched.say(&Frame::Goodbye(wire::Role::Client)).is_none());
    });
    assert_eq!(goodbye, [SessionEnd::Goodbye]);
    let unused = ended_by(|watched| {
        watched.server.handle_disconnected(NOW, watched.conn);
        watched.server.handle_timeout(NOW + secs(60));
    });
    assert_eq!(unused, [SessionEnd::Lease]);
    let false_retry = ended_by(|watched| {
        let admission = watched.say(&Frame::Request(header(1, 0), b"body")).unwrap();
        let running = watched.server.start(NOW, admission).unwrap();
        watched.server.reply(NOW, running, b"").unwrap();
        watched.transmit();
        let other = bytes_of(&Frame::Request(header(1, 0), b"other"));
        assert!(watched.server.handle_data(NOW, watched.conn, &other).is_err());
    });
    assert_eq!(false_retry, [SessionEnd::FalseRetry]);
    let while_it_runs = ended_by(|watched| {
        let admission = watched.say(&Frame::Request(header(1, 0), b"body")).unwrap();
        let running = watched.server.start(NOW, admission).unwrap();
        let other = bytes_of(&Frame::Request(header(1, 0), b"other"));
        assert!(watched.server.handle_data(NOW, watched.conn, &other).is_err());
        watched.poll();
        assert_eq!(watched.ended, [], "it runs");
        watched.server.abort(NOW, running);
    });
    assert_eq!(while_it_runs, [SessionEnd::FalseRetry]);
}

#[test]
fn c250_without_being_asked_a_server_says_nothing() {
    let mut watched = Watched::with(|config| config.notices = false);
    watched.say(&hello(None));
    watched.say(&request(1, ECHO));
    watched.say(&request(1, ECHO));
    watched.say(&request(2, ABSENT));
    watched.say(&Frame::Ask(xid(3), 1));
    assert_eq!(watched.said(), []);
}
