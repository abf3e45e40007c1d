//! What comes behind a `Hello` before its `Welcome` has left, and how long a handshake and a frame may take: C87 and C88.
//! Before that, no one else can resume the session: C155.
#![allow(missing_docs)]

mod util;

use oncewire_core::wire::{Ack, Frame, Refuse, Role};
use oncewire_core::*;
use util::*;

const NO_SESSION: u8 = 6;
const SECRET: SessionId = SessionId::from_bytes([9; 16]);

/// A server, and a connection that has said nothing.
fn server(records: bool, notices: bool) -> (Server<Heap>, ConnId) {
    let mut config = default_server_config();
    (config.records_sessions, config.notices) = (records, notices);
    let mut server: Server<Heap> = Server::new(config, &methods()).unwrap();
    let conn = server.handle_connected(Instant::ZERO, ALICE, SECRET).unwrap();
    (server, conn)
}

/// All frames that only a client with a session sends.
fn of_a_session() -> [Frame<'static>; 7] {
    [
        request(1, 0, b"a"),
        Frame::Ask(xid(1), 1),
        Frame::Ack(Ack { acked: 0, last: 0, base: 0, settled: 0 }),
        Frame::Cancel(xid(1)),
        Frame::Ping(Role::Client),
        Frame::Pong(Role::Client),
        Frame::Goodbye(Role::Client),
    ]
}

/// The frames that are written on a connection; `None` once the server has let go of it.
fn said(server: &mut Server<Heap>, conn: ConnId) -> Vec<OwnedFrame> {
    let mut out = [0; 4096];
    let len = server.poll_transmit(Instant::ZERO, conn, &mut out).map_or(0, |len| len.get());
    let mut rest = &out[..len];
    let mut frames = Vec::new();
    while let Ok(wire::Decoded::Frame(frame, len)) = wire::decode(rest, Role::Server, 4096) {
        frames.push(frame.into());
        rest = &rest[len..];
    }
    frames
}

#[test]
fn c87_what_comes_in_one_write_with_the_hello_is_not_taken() {
    for frame in of_a_session() {
        for (records, notices) in [(false, false), (true, false), (false, true), (true, true)] {
            for (whole, together) in [(true, true), (true, false), (false, true)] {
                let (mut server, conn) = server(records, notices);
                let mut bytes = bytes_of(&hello(None));
                let behind = bytes_of(&frame);
                let behind = if whole { &behind[..] } else { &behind[..5] };
                let result = if together {
                    bytes.extend(behind);
                    server.handle_data(Instant::ZERO, conn, &bytes).map(drop)
                } else {
                    server.handle_data(Instant::ZERO, conn, &bytes).unwrap();
                    assert_eq!(server.take_notice().is_some(), notices);
                    server.handle_data(Instant::ZERO, conn, behind).map(drop)
                };
                assert_eq!(result, Err(ProtocolError::NoSession), "{frame:?}");
                assert_eq!(server.take_notice(), None, "of a session that has ended");
                assert_eq!(
                    said(&mut server, conn),
                    [OwnedFrame::Refuse(Refuse::Protocol(NO_SESSION))]
                );
                while let Some(event) = server.poll_event() {
                    assert!(!matches!(event, ServerEvent::SessionOpened(_)), "nothing to record");
                }
                let counters = server.counters();
                assert_eq!((counters.sessions, counters.conns, counters.admitted), (0, 0, 0));
            }
        }
    }
}

/// A request was admitted while the record of its session was on its way; with a broken frame behind it the call was
/// executed and recorded in a session that no record knew.
#[test]
fn c87_a_request_that_comes_while_the_session_is_being_recorded_is_not_taken() {
    let (mut server, conn) = server(true, false);
    server.handle_data(Instant::ZERO, conn, &bytes_of(&hello(None))).unwrap();
    assert_eq!(server.poll_event(), Some(ServerEvent::SessionOpened(conn)));
    let request = bytes_of(&request(1, 0, b"a"));
    let result = server.handle_data(Instant::ZERO, conn, &request).map(drop);
    assert_eq!(result, Err(ProtocolError::NoSession));
    server.confirm_session(conn);
    assert_eq!(said(&mut server, conn), [OwnedFrame::Refuse(Refuse::Protocol(NO_SESSION))]);
    let events: Vec<_> = std::iter::from_fn(|| server.poll_event()).collect();
    let ended = ServerEvent::SessionEnded(SECRET, SessionEnd::Lease);
    assert!(events.contains(&ended), "its record, which comes first, is forgotten: {events:?}");
}

/// It was welcome without a record, so that its calls would be refused with the reason. One whose refusal was lost ended as unknown at the
/// next server, which did not know the session.
#[test]
fn c425_where_the_ledger_has_failed_no_session_begins_without_its_record() {
    let (mut server, waits) = server(true, false);
    server.handle_data(Instant::ZERO, waits, &bytes_of(&hello(None))).unwrap();
    assert_eq!(server.poll_event(), Some(ServerEvent::SessionOpened(waits)));
    server.fail_ledger();
    assert_eq!(said(&mut server, waits), [OwnedFrame::Refuse(Refuse::ShuttingDown)]);
    server.confirm_session(waits);
    let other = SessionId::from_bytes([8; 16]);
    let late = server.handle_connected(Instant::ZERO, ALICE, other).unwrap();
    server.handle_data(Instant::ZERO, late, &bytes_of(&hello(None))).unwrap();
    assert_eq!(said(&mut server, late), [OwnedFrame::Refuse(Refuse::ShuttingDown)]);
    let events: Vec<_> = std::iter::from_fn(|| server.poll_event()).collect();
    assert!(events.contains(&ServerEvent::SessionEnded(SECRET, SessionEnd::Lease)));
    assert_eq!(server.counters().sessions, 0);
}

#[test]
fn c87_the_same_bytes_on_another_connection_execute_nothing() {
    let mut pair = Pair::unconnected();
    let (raw, _) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"a"));
    assert_eq!(pair.ran(b"a"), 1);
    let again = pair.raw(ALICE);
    let mut bytes = bytes_of(&hello(None));
    bytes.extend(bytes_of(&request(1, 0, b"a")));
    pair.send_bytes(again, &bytes);
    assert_eq!(pair.ran(b"a"), 1);
    assert_eq!(pair.got(again), [OwnedFrame::Refuse(Refuse::Protocol(NO_SESSION))]);
    assert_eq!(pair.server.counters().sessions, 1);
}

#[test]
fn c87_behind_a_hello_that_resumes_the_session_survives() {
    let mut pair = Pair::unconnected();
    let (raw, welcome) = pair.raw_session();
    pair.send(raw, &request(1, 0, b"a"));
    pair.got(raw);
    let again = pair.raw(ALICE);
    let mut bytes = bytes_of(&hello(Some((welcome.session, 0))));
    bytes.extend(bytes_of(&Frame::Ask(xid(1), 1)));
    pair.send_bytes(again, &bytes);
    assert_eq!(pair.got(again), [OwnedFrame::Refuse(Refuse::Protocol(NO_SESSION))]);
    let (raw, _) = pair.raw_resume(welcome.session, 0);
    pair.send(raw, &Frame::Ask(xid(1), 1));
    assert_eq!(pair.got(raw), [OwnedFrame::Reply(Status::Done, 1, echo(b"a"))]);
}

#[test]
fn c87_a_second_hello_before_the_welcome_has_left_has_one_welcome_on_a_lossy_link() {
    let mut config = default_server_config();
    config.lossy = true;
    config.records_sessions = true;
    let mut server: Server<Heap> = Server::new(config, &methods()).unwrap();
    let conn = server.handle_connected(Instant::ZERO, ALICE, SECRET).unwrap();
    for _ in 0..2 {
        server.handle_data(Instant::ZERO, conn, &bytes_of(&hello(None))).unwrap();
        assert_eq!(said(&mut server, conn), []);
    }
    assert_eq!(server.poll_event(), Some(ServerEvent::SessionOpened(conn)));
    assert_eq!(server.poll_event(), None);
    server.confirm_session(conn);
    assert!(matches!(said(&mut server, conn)[..], [OwnedFrame::Welcome(_)]));
    assert_eq!(server.counters().sessions, 1);
}

/// When a server, left alone, closes the connection, and why.
fn closes(mut server: Server<Heap>, from: Instant) -> Option<(Instant, CloseReason)> {
    let mut now = from;
    for _ in 0..1_000 {
        now = server.poll_timeout()?.max(now);
        server.handle_timeout(now);
        while let Some(event) = server.poll_event() {
            match event {
                ServerEvent::Transmit(conn) => {
                    while server.poll_transmit(now, conn, &mut [0; 512]).is_some() {}
                }
                ServerEvent::Close(_, reason) => return Some((now, reason)),
                _ => {}
            }
        }
    }
    None
}

/// With a keepalive of an hour, both were judged every quarter of an hour.
#[test]
fn c88_a_handshake_and_a_frame_have_their_own_times_whatever_the_keepalive() {
    for keepalive in [ms(1), ms(50), ms(400), secs(10), secs(3600), std::time::Duration::MAX] {
        let mut config = default_server_config();
        config.keepalive = keepalive;
        config.handshake_timeout = ms(700);
        config.frame_timeout = ms(300);
        let silent = || {
            let mut server: Server<Heap> = Server::new(config, &methods()).unwrap();
            let conn = server.handle_connected(Instant::from_millis(10), ALICE, SECRET).unwrap();
            (server, conn)
        };
        let too_slow = |at| Some((Instant::from_millis(at), CloseReason::TooSlow));
        assert_eq!(closes(silent().0, Instant::ZERO), too_slow(710), "{keepalive:?}");

        let (mut server, conn) = silent();
        let half = &bytes_of(&hello(None))[..9];
        server.handle_data(Instant::from_millis(600), conn, half).unwrap();
        assert_eq!(closes(server, Instant::from_millis(600)), too_slow(710), "half a Hello");

        // A peer that may be silent for longer may be so in the middle of a frame.
        if keepalive < ms(300) || keepalive > ms(400) {
            continue;
        }
        let (mut server, conn) = silent();
        server.handle_data(Instant::from_millis(600), conn, &bytes_of(&hello(None))).unwrap();
        server.poll_transmit(Instant::from_millis(600), conn, &mut [0; 512]).unwrap();
        let part = &bytes_of(&request(1, 0, b"aaaa"))[..30];
        server.handle_data(Instant::from_millis(1_000), conn, part).unwrap();
        server.handle_data(Instant::from_millis(1_200), conn, part).unwrap();
        assert_eq!(closes(server, Instant::from_millis(1_200)), too_slow(1_400), "half a request");
    }
}

#[test]
fn c88_a_whole_frame_ends_its_time_and_the_oldest_incomplete_one_is_judged_first() {
    let mut config = default_server_config();
    config.keepalive = ms(400);
    config.frame_timeout = ms(400);
    let mut server: Server<Heap> = Server::new(config, &methods()).unwrap();
    let part = bytes_of(&request(1, 0, b"aaaa"));
    let mut conns = Vec::new();
    for n in 0..3u8 {
        let at = Instant::from_millis(u64::from(n) * 100);
        let secret = SessionId::from_bytes([n + 1; 16]);
        let conn = server.handle_connected(at, ALICE, secret).unwrap();
        server.handle_data(at, conn, &bytes_of(&hello(None))).unwrap();
        server.poll_transmit(at, conn, &mut [0; 512]).unwrap();
        server.handle_data(at, conn, &part[..20]).unwrap();
        conns.push(conn);
    }
    let at = Instant::from_millis(250);
    assert!(server.handle_data(at, conns[0], &part).unwrap().item.is_some());
    server.handle_data(at, conns[0], &[]).unwrap();
    server.handle_disconnected(at, conns[1]);
    // Byte by byte, it lives but does not get on.
    server.handle_data(Instant::from_millis(500), conns[2], &part[..21]).unwrap();
    let third = Some((Instant::from_millis(600), CloseReason::TooSlow));
    assert_eq!(closes(server, Instant::from_millis(500)), third);
}

/// While its session's record is on its way, the server is what takes long.
#[test]
fn c88_a_client_that_waits_for_a_slow_ledger_is_not_called_silent() {
    let (mut server, conn) = server(true, false);
    server.handle_data(Instant::ZERO, conn, &bytes_of(&hello(None))).unwrap();
    for second in 1..40 {
        server.handle_timeout(Instant::from_millis(second * 1_000));
        while let Some(event) = server.poll_event() {
            assert_eq!(event, ServerEvent::SessionOpened(conn));
        }
    }
    server.confirm_session(conn);
    assert!(matches!(said(&mut server, conn)[..], [OwnedFrame::Welcome(_)]));
}

/// A session is always granted a moment, and a frame of it was judged again and again until that was over.
#[test]
fn c88_a_server_that_allows_no_time_at_all_does_not_spin() {
    let mut config = default_server_config();
    config.keepalive = ms(0);
    config.frame_timeout = ms(0);
    let mut pair = Pair::with(config, ClientConfig::default());
    let (raw, _) = pair.raw_session();
    pair.send_bytes(raw, &bytes_of(&request(1, 0, b"aaaa"))[..30]);
    pair.advance(ms(50));
    assert_eq!(pair.server.counters().timeouts, 1);
}

#[test]
fn c144_a_read_of_nothing_keeps_no_peer_alive_and_no_frame_in_time() {
    let mut pair = Pair::new();
    let (raw, _) = pair.raw_session();
    let conn = pair.conn(raw).unwrap();
    pair.send_bytes(raw, &bytes_of(&request(1, 0, b"aaaa"))[..30]);
    let config = pair.server_config;
    for _ in 0..config.frame_timeout.as_secs() + 2 {
        pair.now = pair.now + secs(1);
        // Bytes move on the link, but none of this frame is given.
        pair.server.handle_progress(pair.now, conn);
        let taken = pair.server.handle_data(pair.now, conn, &[]).unwrap();
        assert_eq!((taken.consumed, taken.item.is_none()), (0, true));
        pair.server.handle_timeout(pair.now);
        pair.drive();
    }
    assert!(pair.server_events.contains(&ServerEvent::Close(conn, CloseReason::TooSlow)));

    let mut pair = Pair::new();
    let (raw, _) = pair.raw_session();
    let conn = pair.conn(raw).unwrap();
    pair.silence();
    for _ in 0..pair.server_config.keepalive.as_secs() + 1 {
        let now = pair.now;
        assert_eq!(pair.client().handle_data(now, &[]).unwrap().consumed, 0);
        pair.server.handle_data(now, conn, &[]).unwrap();
        pair.advance(secs(1));
    }
    assert_eq!(pair.disconnects(), [CloseReason::PeerSilent]);
    assert!(pair.server_events.contains(&ServerEvent::Close(conn, CloseReason::PeerSilent)));
}

#[test]
fn c155_a_session_whose_welcome_has_not_left_cannot_be_resumed() {
    for records in [false, true] {
        for asked in [false, true] {
            let (mut server, opening) = server(records, false);
            server.handle_data(Instant::ZERO, opening, &bytes_of(&hello(None))).unwrap();
            while asked && server.poll_event().is_some() {}
            let other = SessionId::from_bytes([8; 16]);
            let resuming = server.handle_connected(Instant::ZERO, ALICE, other).unwrap();
            let resume = bytes_of(&hello(Some((SECRET, 0))));
            server.handle_data(Instant::ZERO, resuming, &resume).unwrap();
            let refused = OwnedFrame::Refuse(Refuse::SessionUnknown);
            assert_eq!(said(&mut server, resuming), [refused]);
            server.confirm_session(opening);
            assert!(matches!(said(&mut server, opening).as_slice(), [OwnedFrame::Welcome(_)]));
            assert_eq!(server.counters().sessions, 1);
        }
    }
}
