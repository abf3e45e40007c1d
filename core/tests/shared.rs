//! Servers that have the same records at the same time (S34): sessions are claimed where their clients come, and yielded
//! where they were. C380 to C384, C435, C438.
#![allow(missing_docs)]

mod util;

use oncewire_core::wire::{Frame, Refuse, Role, Welcome};
use oncewire_core::*;
use util::*;

const NOW: Instant = Instant::ZERO;
const SESSION: SessionId = SessionId::from_bytes([9; 16]);

/// One of the servers, whose clients and whose records the test plays.
struct One {
    server: Server<Heap>,
    connections: u8,
}

impl One {
    fn new() -> One {
        let mut config = default_server_config();
        config.records_sessions = true;
        config.shares_records = true;
        One { server: Server::new(config, &methods()).unwrap(), connections: 0 }
    }

    /// A server that has the session, which was opened on this connection.
    fn with_session() -> (One, ConnId) {
        let mut one = One::new();
        let conn = one.server.handle_connected(NOW, ALICE, SESSION).unwrap();
        assert_eq!(one.say(conn, &hello(None)), [ServerEvent::SessionOpened(conn)]);
        one.server.confirm_session(conn);
        assert!(matches!(one.read(conn)[..], [OwnedFrame::Welcome(_)]));
        (one, conn)
    }

    fn connect(&mut self, principal: Principal) -> ConnId {
        self.connections += 1;
        let secret = SessionId::from_bytes([100 + self.connections; 16]);
        self.server.handle_connected(NOW, principal, secret).unwrap()
    }

    /// A connection on which the session is resumed, and wanted.
    fn resume(&mut self, principal: Principal, acked: u64) -> ConnId {
        let conn = self.connect(principal);
        assert_eq!(
            self.say(conn, &hello(Some((SESSION, acked)))),
            [ServerEvent::SessionWanted(conn)]
        );
        assert_eq!(self.server.wanted_session(conn), Some(SESSION));
        assert_eq!(self.read(conn), [], "nothing is said before its owner has answered");
        conn
    }

    fn events(&mut self) -> Vec<ServerEvent> {
        std::iter::from_fn(|| self.server.poll_event()).collect()
    }

    fn say(&mut self, conn: ConnId, frame: &Frame<'_>) -> Vec<ServerEvent> {
        let bytes = bytes_of(frame);
        let received = self.server.handle_data(NOW, conn, &bytes).unwrap();
        assert!(received.item.is_none());
        self.events()
    }

    fn admit(&mut self, conn: ConnId, frame: &Frame<'_>) -> Admission {
        let bytes = bytes_of(frame);
        match self.server.handle_data(NOW, conn, &bytes).unwrap().item {
            Some(Incoming::Request(request)) => request.admission,
            other => panic!("no call was admitted: {other:?}"),
        }
    }

    /// What the server sends on a connection.
    fn read(&mut self, conn: ConnId) -> Vec<OwnedFrame> {
        let (mut out, mut bytes) = ([0; 4096], Vec::new());
        while let Some(len) = self.server.poll_transmit(NOW, conn, &mut out) {
            bytes.extend_from_slice(&out[..len.get()]);
        }
        frames(bytes, Role::Server)
    }

    fn welcomed(&mut self, conn: ConnId) -> Welcome {
        match &self.read(conn)[..] {
            [OwnedFrame::Welcome(welcome)] => *welcome,
            other => panic!("no welcome: {other:?}"),
        }
    }

    /// What the records of the other server have of the session, and of one call of it.
    fn restore(&mut self, from: &One, call: Option<(u64, RecordState<'_>)>) -> SessionKey {
        let key = from.server.find_session(SESSION).expect("the other one has it");
        let record = SessionRecord { seen: 0, ..from.server.session_record(key).unwrap() };
        let key = self.server.restore_session(NOW, record).expect("there is room");
        if let Some((number, state)) = call {
            let digest = from.digest(number);
            let record = CallRecord { xid: xid(number), digest, state };
            assert!(self.server.restore_call(key, record));
        }
        key
    }

    fn digest(&self, number: u64) -> u64 {
        let bytes = request(number, 0, b"pay");
        let Frame::Request(header, body) = bytes else { unreachable!() };
        oncewire_core::digest(header.method, header.flags, body)
    }
}

#[test]
fn c380_a_server_that_shares_its_records_asks_for_each_session_that_a_client_resumes() {
    let (mut one, first) = One::with_session();
    one.server.handle_disconnected(NOW, first);
    one.server.set_commit(7);
    // Also of one that it has: its client may have been elsewhere since.
    let conn = one.resume(ALICE, 0);
    assert_eq!(one.server.counters().resumes, 0);
    one.server.set_commit(9);
    one.server.set_commit(8);
    one.server.answer_wanted(NOW, conn, Claimed::Found);
    let welcome = one.welcomed(conn);
    assert_eq!((welcome.session, welcome.commit), (SESSION, 9), "the highest commit is said");
    assert_eq!(one.server.counters().resumes, 1);
    assert_eq!(one.server.wanted_session(conn), None);
    // An answer that comes twice changes nothing.
    one.server.answer_wanted(NOW, conn, Claimed::Unknown);
    assert_eq!(one.read(conn), []);
    // The newest handshake wins (S4).
    let newer = one.resume(ALICE, 0);
    one.server.answer_wanted(NOW, newer, Claimed::Found);
    assert_eq!(one.welcomed(newer).session, SESSION);
    assert_eq!(one.read(conn), [OwnedFrame::Refuse(Refuse::Superseded)]);
}

#[test]
fn c380_a_server_of_its_own_records_asks_for_none() {
    let mut bare = bare::Bare::with(|_| {});
    let conn = bare.server.handle_connected(NOW, ALICE, SESSION).unwrap();
    let hello = bytes_of(&hello(Some((SESSION, 0))));
    bare.server.handle_data(NOW, conn, &hello).unwrap();
    assert_eq!(bare.server.poll_event(), Some(ServerEvent::Transmit(conn)));
    assert_eq!(bare.server.counters().resumes_unknown, 1);
}

#[test]
fn c381_a_session_that_is_unknown_foreign_or_out_of_reach_is_refused_as_such() {
    for (claimed, refuse) in [
        (Claimed::Unknown, Refuse::SessionUnknown),
        (Claimed::WrongPrincipal, Refuse::WrongPrincipal),
        // The client comes back, and keeps its session.
        (Claimed::Unavailable, Refuse::ShuttingDown),
    ] {
        let mut one = One::new();
        let conn = one.resume(ALICE, 0);
        one.server.answer_wanted(NOW, conn, claimed);
        assert_eq!(one.read(conn), [OwnedFrame::Refuse(refuse)]);
        assert!(matches!(one.events()[..], [ServerEvent::Close(closed, _)] if closed == conn));
    }
}

#[test]
fn c381_a_session_of_another_principal_is_refused_after_its_claim_too() {
    let (mut one, first) = One::with_session();
    let conn = one.resume(BOB, 0);
    one.server.answer_wanted(NOW, conn, Claimed::Found);
    assert_eq!(one.read(conn), [OwnedFrame::Refuse(Refuse::WrongPrincipal)]);
    assert_eq!(one.server.session_of(first), one.server.find_session(SESSION), "it stays");
}

#[test]
fn c381_what_comes_before_the_answer_ends_the_connection_and_no_session() {
    for second in [hello(Some((SESSION, 0))), request(1, 0, b"pay")] {
        let (mut one, first) = One::with_session();
        one.server.handle_disconnected(NOW, first);
        let conn = one.resume(ALICE, 0);
        assert!(one.server.handle_data(NOW, conn, &bytes_of(&second)).is_err());
        one.server.answer_wanted(NOW, conn, Claimed::Found);
        assert!(matches!(one.read(conn)[..], [OwnedFrame::Refuse(Refuse::Protocol(_))]));
        assert_eq!(one.server.counters().sessions, 1);
    }
    // One that waits may go, and be answered afterwards.
    let mut one = One::new();
    let conn = one.resume(ALICE, 0);
    one.server.handle_disconnected(NOW, conn);
    assert_eq!(one.server.wanted_session(conn), None);
    one.server.answer_wanted(NOW, conn, Claimed::Found);
    assert_eq!(one.events(), []);
}

#[test]
fn c382_a_session_moves_with_what_is_known_of_its_calls_and_nothing_runs_again() {
    let (mut loser, old) = One::with_session();
    let admission = loser.admit(old, &request(1, 0, b"pay"));
    let running = loser.server.start(NOW, admission).unwrap();
    let waiting = loser.admit(old, &request(2, 0, b"pay"));
    // Of the first call the records have the start, of the second nothing yet.
    let mut winner = One::new();
    let conn = winner.resume(ALICE, 0);
    winner.restore(&loser, Some((1, RecordState::Started)));
    winner.server.answer_wanted(NOW, conn, Claimed::Found);
    assert_eq!(winner.welcomed(conn).seen, 1, "the second was never read");
    winner.say(conn, &Frame::Ask(xid(1), 1));
    assert_eq!(winner.read(conn), [OwnedFrame::Reply(Status::Interrupted, 1, vec![])]);
    // The loser's next batch is refused.
    let key = loser.server.find_session(SESSION).unwrap();
    loser.server.yield_session(NOW, key);
    assert_eq!(loser.read(old), [OwnedFrame::Refuse(Refuse::Superseded)]);
    let events = loser.events();
    assert!(events.contains(&ServerEvent::Abandoned(key)), "{events:?}");
    assert_eq!(loser.server.find_session(SESSION), None);
    assert!(
        loser.server.start(NOW, waiting).is_err(),
        "it runs at the winner, if it is sent again"
    );
    assert_eq!(loser.events(), [], "what runs is waited for");
    // It may come back at once, while what ran in it still does.
    let back = loser.resume(ALICE, 1);
    let again = loser.restore(&winner, None);
    assert_ne!(again, key);
    loser.server.answer_wanted(NOW, back, Claimed::Found);
    assert_eq!(loser.welcomed(back).session, SESSION);
    loser.server.reply(NOW, running, &b"late"[..]).unwrap();
    assert_eq!(loser.events(), [ServerEvent::SessionEnded(SESSION, SessionEnd::Taken)]);
    assert_eq!(loser.read(back), [], "nothing is said of what the winner calls interrupted");
    assert_eq!((loser.server.counters().sessions, loser.server.counters().running), (1, 0));
    // A key of what it was before yields nothing of what it is.
    loser.server.yield_session(NOW, key);
    assert_eq!(loser.server.find_session(SESSION), Some(again));
}

#[test]
fn c383_of_two_connections_that_wait_for_one_session_the_newer_has_it() {
    let (source, _) = One::with_session();
    for newer_first in [true, false] {
        let mut one = One::new();
        let (older, newer) = (one.resume(ALICE, 0), one.resume(ALICE, 0));
        one.restore(&source, None);
        let order = if newer_first { [newer, older] } else { [older, newer] };
        for conn in order {
            one.server.answer_wanted(NOW, conn, Claimed::Found);
        }
        assert_eq!(one.welcomed(newer).session, SESSION, "newer first: {newer_first}");
        assert_eq!(one.read(older), [OwnedFrame::Refuse(Refuse::Superseded)]);
    }
}

/// A server that had the session, and from which another one has claimed it since.
fn left_behind() -> (One, One) {
    let (mut one, first) = One::with_session();
    one.server.handle_disconnected(NOW, first);
    let mut other = One::new();
    other.restore(&one, None);
    (one, other)
}

#[test]
fn c435_the_newest_handshake_wins_in_a_session_that_was_here_before() {
    for newer_first in [true, false] {
        let (mut one, other) = left_behind();
        let (older, newer) = (one.resume(ALICE, 0), one.resume(ALICE, 0));
        let key = one.server.find_session(SESSION).unwrap();
        one.server.yield_session(NOW, key);
        one.restore(&other, None);
        let order = if newer_first { [newer, older] } else { [older, newer] };
        for conn in order {
            one.server.answer_wanted(NOW, conn, Claimed::Found);
        }
        assert_eq!(one.welcomed(newer).session, SESSION, "newer first: {newer_first}");
        assert_eq!(one.read(older), [OwnedFrame::Refuse(Refuse::Superseded)]);
    }
}

#[test]
fn c435_a_connection_that_comes_while_an_older_one_is_answered_takes_its_place() {
    let (mut one, first) = One::with_session();
    one.server.handle_disconnected(NOW, first);
    let older = one.resume(ALICE, 0);
    let newer = one.resume(ALICE, 0);
    one.server.answer_wanted(NOW, older, Claimed::Found);
    assert_eq!(one.welcomed(older).session, SESSION);
    // Its session is claimed once more.
    one.server.answer_wanted(NOW, newer, Claimed::Found);
    assert_eq!(one.read(older), [OwnedFrame::Refuse(Refuse::Superseded)]);
    assert_eq!(one.welcomed(newer).session, SESSION);
}

#[test]
fn c435_who_is_not_the_sessions_principal_learns_nothing_of_its_newer_connection() {
    let (mut one, first) = One::with_session();
    one.server.handle_disconnected(NOW, first);
    let (strange, newer) = (one.resume(BOB, 0), one.resume(ALICE, 0));
    one.server.answer_wanted(NOW, newer, Claimed::Found);
    one.server.answer_wanted(NOW, strange, Claimed::Found);
    assert_eq!(one.read(strange), [OwnedFrame::Refuse(Refuse::WrongPrincipal)]);
    assert_eq!(one.welcomed(newer).session, SESSION);
}

#[test]
fn c384_a_server_that_drains_claims_nothing_and_says_goodbye_in_what_it_has() {
    let (mut one, first) = One::with_session();
    one.server.handle_disconnected(NOW, first);
    let mut other = One::new();
    for server in [&mut one.server, &mut other.server] {
        server.drain(NOW, secs(5));
    }
    let conn = one.resume(ALICE, 0);
    one.server.answer_wanted(NOW, conn, Claimed::Found);
    assert!(matches!(one.read(conn)[..], [OwnedFrame::Welcome(_), OwnedFrame::Goodbye]));
    let conn = other.connect(ALICE);
    other.say(conn, &hello(Some((SESSION, 0))));
    assert_eq!(other.read(conn), [OwnedFrame::Refuse(Refuse::ShuttingDown)]);
    // One that waits when the drain begins is refused, too.
    let mut late = One::new();
    let conn = late.resume(ALICE, 0);
    late.server.drain(NOW, secs(5));
    late.server.answer_wanted(NOW, conn, Claimed::Found);
    assert_eq!(late.read(conn), [OwnedFrame::Refuse(Refuse::ShuttingDown)]);
}

#[test]
fn c438_a_session_that_is_here_and_claimed_when_a_drain_begins_is_resumed() {
    let (mut one, first) = One::with_session();
    one.server.handle_disconnected(NOW, first);
    let conn = one.resume(ALICE, 0);
    one.server.drain(NOW, secs(5));
    assert_eq!(one.read(conn), []);
    one.server.answer_wanted(NOW, conn, Claimed::Found);
    assert!(matches!(one.read(conn)[..], [OwnedFrame::Welcome(_), OwnedFrame::Goodbye]));
}
