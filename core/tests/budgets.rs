//! What is counted is what memory really holds, and no client gets more than a share of it: S11, C98 to C105, C437.
#![allow(missing_docs)]

mod util;

use oncewire_core::wire::{self, Ack, Frame};
use oncewire_core::*;
use util::bare::{Bare, MIB, NOW, big};
use util::*;

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
                let rest = bare.server.take_shared_tail(conn).unwrap();
                assert_eq!(rest.len() as u64, MIB);
                assert!(bare.server.take_shared_tail(conn).is_none());
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

fn slot_1023(number: u64) -> u64 {
    number * 1024 + 1023
}

/// A one-way request, for whose reply nothing is reserved.
fn one_way(number: u64, body: &[u8]) -> Frame<'_> {
    let flags = wire::FLAG_ONE_WAY;
    Frame::Request(wire::RequestHeader { flags, ..header(number, 0) }, body)
}

#[test]
fn c99_the_last_slot_costs_no_more_than_a_page_and_nothing_when_the_session_is_idle() {
    let mut bare = Bare::with(|_| {});
    let conns: Vec<ConnId> = (0..500).map(|_| bare.open(Principal::ANONYMOUS, 1024)).collect();
    for (at, conn) in conns.iter().enumerate() {
        if at % 2 == 0 {
            let running = bare.start(*conn, &Frame::Request(header(slot_1023(1), 0), b"x"));
            bare.server.reply(NOW, running.unwrap(), b"done").unwrap();
            bare.say(
                *conn,
                &Frame::Ack(Ack { acked: slot_1023(1), last: u64::MAX, base: 0, settled: 0 }),
            );
        } else {
            bare.say(*conn, &Frame::Ask(xid(slot_1023(1)), 1));
        }
        while bare.write(*conn, 4096) > 0 {}
    }
    let tables = bare.server.counters().table_bytes;
    assert!(tables / 500 < 2_500, "{} bytes a session", tables / 500);
    for conn in conns {
        bare.server.handle_disconnected(NOW, conn);
    }
    let counters = bare.server.counters();
    assert_eq!(counters.table_bytes, 0, "nothing is kept in any of {} sessions", counters.sessions);
}

/// A server with more slots than it has memory for, and a connection that may use all of them.
fn with_little_room() -> (Bare, ConnId) {
    let mut bare = Bare::with(|config| {
        config.slots = 65_536;
        config.requests_max = 64 << 10;
    });
    let conn = bare.open(Principal::ANONYMOUS, 65_536);
    (bare, conn)
}

#[test]
fn c99_tables_are_bounded_and_what_finds_no_room_is_not_read() {
    let (mut bare, conn) = with_little_room();
    let mut refused = 0;
    for page in 0..1_000 {
        // Of a method that does not exist: it is refused, and the refusal kept.
        let header = wire::RequestHeader { method: ABSENT, ..header(page * 8 + 16, 0) };
        let bytes = bytes_of(&Frame::Request(header, b"x"));
        bare.server.handle_data(NOW, conn, &bytes).unwrap();
        refused = bare.server.counters().refused;
        assert!(bare.server.counters().table_bytes <= 64 << 10);
        while bare.server.poll_transmit(NOW, conn, &mut [0; 512]).is_some() {}
        if bare.server.session_of(conn).is_none() {
            break;
        }
    }
    assert!((10..1_000).contains(&refused), "{refused}");
    assert_eq!(bare.server.poll_event(), Some(ServerEvent::Close(conn, CloseReason::NoRoom)));
    assert_eq!(bare.server.counters().sessions, 1, "the session lives, and its client may resume");
}

/// It was closed in the middle of them where they filled the output and the rest of that was polled with, as drivers do.
#[test]
fn c99_answers_that_wait_leave_before_what_finds_no_room_closes_the_connection() {
    let (mut bare, conn) = with_little_room();
    for number in 1..=3 {
        let running = bare.start(conn, &Frame::Request(header(number, 0), b"x")).unwrap();
        bare.server.reply(NOW, running, &[7; 3_000][..]).unwrap();
    }
    for page in 1..1_000 {
        let header = wire::RequestHeader { method: ABSENT, ..header(page * 8 + 16, 0) };
        bare.server.handle_data(NOW, conn, &bytes_of(&Frame::Request(header, b"x"))).unwrap();
    }
    let refused = bare.server.counters().refused as usize;
    let (mut sent, mut out) = (0, [0; 4096]);
    loop {
        let mut len = 0;
        while let Some(more) = bare.server.poll_transmit(NOW, conn, &mut out[len..]) {
            len += more.get();
        }
        if len == 0 {
            break;
        }
        sent += len;
    }
    assert_eq!(sent, 3 * 3_000 + (3 + refused) * wire::REPLY_HEADER_LEN);
    assert_eq!(bare.server.poll_event(), Some(ServerEvent::Close(conn, CloseReason::NoRoom)));
}

/// A slot was made for it first, and where there was no memory for one, its client was not called faulty.
#[test]
fn an_ask_for_what_is_settled_makes_no_slot() {
    for (lossy, requests_max) in [(false, MIB), (true, MIB), (false, 64), (true, 64)] {
        let mut bare = Bare::with(|config| {
            config.lossy = lossy;
            config.requests_max = requests_max;
        });
        let conn = bare.open(Principal::ANONYMOUS, 4);
        bare.say(conn, &Frame::Ack(Ack { acked: 5, last: 5, base: 0, settled: 0 }));
        let ask = bytes_of(&Frame::Ask(xid(3), 1));
        let answer = bare.server.handle_data(NOW, conn, &ask).err();
        let settled = ProtocolError::AlreadySettled { xid: 3 };
        assert_eq!(answer, if lossy { None } else { Some(settled) });
        assert_eq!(bare.server.counters().table_bytes, 0);
        assert_eq!(bare.server.session_of(conn).is_some(), lossy);
    }
}

#[test]
fn c100_requests_count_while_their_calls_run() {
    let body = vec![7; MIB as usize];
    let mut bare = Bare::with(|config| config.requests_max = 32 * MIB);
    let conns: Vec<ConnId> = (0..100).map(|_| bare.open(Principal::ANONYMOUS, 4)).collect();
    let mut running = Vec::new();
    for conn in &conns {
        running.extend(bare.start(*conn, &one_way(1, &body)));
    }
    let counters = bare.server.counters();
    assert_eq!(counters.request_bytes, running.len() as u64 * MIB);
    assert_eq!(counters.refused, 100 - running.len() as u64);
    assert!((16..32).contains(&running.len()), "{}", running.len());
    let honest = bare.open(Principal::ANONYMOUS, 4);
    assert!(bare.start(honest, &one_way(1, &body[..200_000])).is_some(), "others get theirs");
    for running in running {
        bare.server.abort(NOW, running);
    }
    assert_eq!(bare.server.counters().request_bytes, 200_000);
}

#[test]
fn c101_a_client_that_reserves_all_it_can_leaves_room_for_others() {
    // A method of 64 KiB from 17 sessions of 1,024 calls each; one of 1 MiB from 4 sessions of 256.
    for (method, sessions, calls) in [(ECHO, 17, 1024), (BIG, 4, 256)] {
        for principal in [Principal::ANONYMOUS, ALICE] {
            let mut bare = Bare::with(|_| {});
            let call = |number| {
                Frame::Request(wire::RequestHeader { method, ..header(number, 0) }, b"slow")
            };
            let greedy: Vec<ConnId> = (0..sessions).map(|_| bare.open(principal, 1024)).collect();
            let mut running = Vec::new();
            for number in 1..=calls {
                for conn in &greedy {
                    running.extend(bare.start(*conn, &call(number)));
                }
            }
            assert!(bare.server.counters().kept_bytes < 1 << 30);
            for (honest, calls_min) in [(BOB, 20), (principal, 4)] {
                let conn = bare.open(honest, 1024);
                for number in 1..=calls_min {
                    let started = bare.start(conn, &call(number)).is_some();
                    assert!(started, "{method}: {principal:?}, then {honest:?}, call {number}");
                }
            }
        }
    }
}

/// It was refused: the session holds more than is free, though the call asks for none of that.
#[test]
fn c437_a_one_way_call_needs_no_room_for_a_reply_however_much_its_session_holds() {
    let mut bare = Bare::with(|config| config.kept_max = 4 * MIB);
    let (first, second) = (bare.open(ALICE, 4), bare.open(BOB, 4));
    let calls = [(first, 1), (first, 2), (second, 1)];
    let running = calls.map(|(conn, number)| bare.start(conn, &big(number, b"x")).unwrap());
    assert!(bare.start(first, &big(3, b"x")).is_none(), "there is no room for its reply");
    assert!(bare.start(first, &one_way(4, b"x")).is_some());
    running.into_iter().for_each(|running| bare.server.abort(NOW, running));
}

#[test]
fn c102_no_principal_gets_all_connections_or_all_sessions() {
    for principal in [Principal::ANONYMOUS, ALICE] {
        let mut bare = Bare::with(|config| {
            config.conns_max = 40;
            config.sessions_max = 100;
        });
        let mut conns = Vec::new();
        for number in 0..50u8 {
            let secret = SessionId::from_bytes([number; 16]);
            conns.extend(bare.server.handle_connected(NOW, principal, secret));
        }
        assert_eq!(conns.len(), 30);
        assert_eq!(bare.server.counters().conns_refused, 20);
        let other = bare.open(BOB, 4);
        assert!(bare.server.session_of(other).is_some());
        for conn in conns.drain(..) {
            bare.server.handle_disconnected(NOW, conn);
        }
        for _ in 0..100 {
            let conn = bare.open(principal, 4);
            bare.server.handle_disconnected(NOW, conn);
        }
        let counters = bare.server.counters();
        assert_eq!((counters.sessions, counters.hellos_without_room), (1 + 75, 25));
        let other = bare.open(BOB, 4);
        assert!(bare.server.session_of(other).is_some());
        assert!(bare.server.knows(BOB) && bare.server.knows(principal));
        assert!(!bare.server.knows(Principal(77)));
    }
}

#[test]
fn c103_what_strangers_try_is_counted_by_kind() {
    let mut bare = Bare::with(|_| {});
    let own = bare.open(ALICE, 4);
    let session = bare.server.session_of(own).unwrap();
    let id = bare.server.session_record(session).unwrap().id;
    let say = |bare: &mut Bare, principal, frame: &Frame<'_>| {
        bare.secrets += 1;
        let secret = SessionId::from_bytes(bare.secrets.to_le_bytes());
        let conn = bare.server.handle_connected(NOW, principal, secret).unwrap();
        let _ = bare.server.handle_data(NOW, conn, &bytes_of(frame));
        while bare.write(conn, 4096) > 0 {}
    };
    for guess in 0..82 {
        say(&mut bare, BOB, &hello(Some((SessionId::from_bytes([guess; 16]), 0))));
    }
    say(&mut bare, BOB, &hello(Some((id, 0))));
    let Frame::Hello(plain) = hello(None) else { unreachable!() };
    let wanted = Some(service("another"));
    say(&mut bare, BOB, &Frame::Hello(wire::Hello { service: wanted, ..plain }));
    say(&mut bare, BOB, &Frame::Hello(wire::Hello { version_min: 8, version_max: 9, ..plain }));
    say(&mut bare, BOB, &Frame::Hello(wire::Hello { slots: 0, ..plain }));
    let counters = bare.server.counters();
    assert_eq!(counters.resumes_unknown, 82);
    assert_eq!(counters.resumes_of_others, 1);
    assert_eq!(counters.hellos_mismatched, 2);
    assert_eq!(counters.protocol_errors, 1, "no slots: W20");
    assert_eq!((counters.sessions, counters.resumes), (1, 0));
}

/// Gives the server the bytes in pieces of so many, and again what it did not take; the call, if it admits one.
fn trickle(bare: &mut Bare, conn: ConnId, bytes: &[u8], piece: usize) -> Option<Admission> {
    let (mut from, mut to, mut admission) = (0, 0, None);
    while to < bytes.len() {
        to = (to + piece).min(bytes.len());
        loop {
            let received = bare.server.handle_data(NOW, conn, &bytes[from..to]).unwrap();
            from += received.consumed;
            match received.item {
                Some(Incoming::Request(request)) => admission = Some(request.admission),
                _ => break,
            }
        }
    }
    assert_eq!(from, bytes.len());
    admission
}

#[test]
fn c104_requests_count_as_soon_as_they_are_announced() {
    let body = vec![7; MIB as usize];
    let mut bare = Bare::with(|config| config.requests_max = 32 * MIB);
    let frame = bytes_of(&one_way(1, &body));
    let conns: Vec<ConnId> = (0..100).map(|_| bare.open(Principal::ANONYMOUS, 4)).collect();
    let mut held = 0;
    for conn in &conns {
        // A twentieth of it: the rest never comes.
        let front = &frame[..frame.len() / 20];
        let received = bare.server.handle_data(NOW, *conn, front).unwrap();
        held += front.len() - received.consumed;
    }
    let counters = bare.server.counters();
    assert!((16 * MIB..32 * MIB).contains(&counters.coming_bytes), "{counters:?}");
    assert!(held < 32 * frame.len() / 20, "what finds no room is not to be kept: {held}");
    for conn in conns {
        bare.server.handle_disconnected(NOW, conn);
    }
    assert_eq!(bare.server.counters().coming_bytes, 0);
}

/// With its length field it has 2³² + 3 bytes, and was counted as 3.
#[test]
fn c104_the_longest_request_that_a_length_can_announce_is_counted_whole() {
    let mut bare = Bare::with(|config| config.request_len_max = u32::MAX);
    let conn = bare.open_for(ALICE, 4, u32::MAX);
    let mut front = bytes_of(&Frame::Request(header(1, 0), b""));
    front[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let received = bare.server.handle_data(NOW, conn, &front).unwrap();
    assert_eq!(received.consumed, front.len(), "it finds no room, and is dropped as it comes");
    assert_eq!(bare.server.counters().coming_bytes, 0);
}

#[test]
fn c104_a_long_request_that_finds_no_room_is_dropped_as_it_comes_and_refused() {
    let body: Vec<u8> = (0..50_003).map(|at| (at * 7) as u8).collect();
    for piece in [1, 63, 64, 100, 4_096, 1 << 20] {
        let mut bare = Bare::with(|config| config.requests_max = 40_000);
        let conn = bare.open(ALICE, 4);
        let frame = bytes_of(&Frame::Request(header(1, 0), &body));
        let behind = bytes_of(&Frame::Request(header(2, 0), b"small"));
        let admitted = trickle(&mut bare, conn, &[&frame[..], &behind].concat(), piece);
        assert_eq!(admitted.map(|admission| admission.key().xid()), Some(xid(2)), "{piece}");
        let counters = bare.server.counters();
        let (refused, running) = (counters.refused, counters.running);
        assert_eq!((refused, running, counters.coming_bytes), (1, 1, 0), "{piece}");
        // Its digest is known all the same: the same request is refused again, and another one is a false retry.
        let again = trickle(&mut bare, conn, &frame, piece);
        assert!(again.is_none() && bare.server.counters().duplicates == 1, "{piece}");
        let mut other = frame.clone();
        other[30_000] ^= 1;
        let mut from = 0;
        let error = loop {
            match bare.server.handle_data(NOW, conn, &other[from..]) {
                Ok(received) => from += received.consumed,
                Err(error) => break error,
            }
        };
        assert_eq!(error, ProtocolError::FalseRetry { xid: 1 });
    }
}

/// Its bytes were taken for the front of a frame, and these for a Pong: its sender heard nothing for as long as it took, and
/// called the server dead.
#[test]
fn c104_a_client_is_heard_while_its_request_is_dropped_whatever_bytes_it_has() {
    for byte in [0, 7] {
        let mut config = default_server_config();
        config.requests_max = 100 << 10;
        let mut pair = Pair::with(config, ClientConfig::default());
        let (raw, _) = pair.raw_session();
        let body = vec![byte; 300 << 10];
        for piece in bytes_of(&request(1, 0, &body)).chunks(16 << 10) {
            pair.send_bytes(raw, piece);
            pair.advance(secs(5));
            assert!(!pair.got(raw).is_empty(), "bytes of {byte}");
        }
        assert_eq!(pair.server.counters().refused, 1);
    }
}

/// The answers to the `Ask`s of the resume were dropped with the connection, and the request that had it closed came right
/// behind them the next time as well: sixteen calls that had finished were unknown for as long as it was wanted.
#[test]
fn c99_a_request_that_finds_no_memory_costs_other_calls_no_answer() {
    let mut config = default_server_config();
    config.slots = 64;
    // Enough for a table of 32 slots, but not beside one of 16.
    config.requests_max = 7_600;
    let mut pair = Pair::with(config, ClientConfig::default()).connected();
    pair.mode = Mode::Start;
    let bodies: Vec<[u8; 1]> = (0..17).map(|n| [n]).collect();
    let calls: Vec<CallId> = bodies.iter().map(|body| pair.call(body)).collect();
    assert_eq!((pair.started.len(), pair.server.counters().closed_without_room), (16, 1));
    for body in &bodies[..16] {
        pair.finish(body);
    }
    pair.reconnect();
    for (call, body) in calls.iter().zip(&bodies).take(16) {
        assert_eq!(pair.outcome(*call), reply(body));
    }
    pair.reconnect();
    // The table finds room now. The call beside it does not, and is refused.
    assert_eq!(pair.outcome(calls[16]), not_executed(NotExecuted::Overloaded));
}

#[test]
fn c99_a_connection_that_finishes_for_want_of_memory_waits_no_longer_than_its_peer_lives() {
    let mut bare = Bare::with(|config| {
        config.slots = 64;
        config.requests_max = 6_000;
    });
    let conn = bare.open(ALICE, 64);
    let running: Vec<Running> =
        (0..16).map(|slot| bare.start(conn, &request(64 + slot, 0, b"x")).unwrap()).collect();
    for running in running {
        bare.server.reply(NOW, running, b"y").unwrap();
    }
    // Nothing is written, as if the peer took nothing.
    let bytes = bytes_of(&request(80, 0, b"x"));
    assert!(bare.server.handle_data(NOW, conn, &bytes).unwrap().item.is_none());
    assert!(bare.server.handle_data(NOW, conn, &bytes).unwrap().item.is_none(), "not read");
    let mut now = NOW;
    while bare.server.session_of(conn).is_some() {
        now = bare.server.poll_timeout().unwrap();
        bare.server.handle_timeout(now);
    }
    assert!(now <= NOW + secs(10));
    let closed = ServerEvent::Close(conn, CloseReason::PeerSilent);
    assert_eq!(std::iter::from_fn(|| bare.server.poll_event()).next(), Some(closed));
    assert_eq!(bare.server.counters().kept_bytes, 16, "and all is kept");
}

#[test]
fn c99_a_resume_that_acknowledges_everything_gives_the_tables_back() {
    let mut pair = Pair::unconnected();
    let (raw, welcome) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"x"));
    pair.hang_up(raw);
    assert_ne!(pair.server.counters().table_bytes, 0);
    pair.raw_resume(welcome.session, 1);
    assert_eq!(pair.server.counters().table_bytes, 0);
}

#[test]
fn c196_an_id_that_is_almost_right_is_as_wrong_as_any() {
    let mut bare = Bare::with(|_| {});
    let own = bare.open(ALICE, 4);
    let session = bare.server.session_of(own).unwrap();
    let id = bare.server.session_record(session).unwrap().id.to_bytes();
    for bit in 0..128 {
        let mut guess = id;
        guess[bit / 8] ^= 1 << (bit % 8);
        bare.secrets += 1;
        let secret = SessionId::from_bytes(bare.secrets.to_be_bytes());
        let conn = bare.server.handle_connected(NOW, ALICE, secret).unwrap();
        let hello = bytes_of(&hello(Some((SessionId::from_bytes(guess), 0))));
        let _refused = bare.server.handle_data(NOW, conn, &hello);
        while bare.write(conn, 4096) > 0 {}
        assert!(bare.server.session_of(conn).is_none(), "bit {bit}");
    }
    let counters = bare.server.counters();
    assert_eq!((counters.resumes_unknown, counters.resumes, counters.sessions), (128, 0, 1));
    // The session is where it was.
    assert_eq!(bare.server.session_of(own), Some(session));
}
