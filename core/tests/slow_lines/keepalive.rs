//! Peers that are stopped for longer than the keepalive, and who bears that: C96 and C97.

use super::*;

/// A line whose server, or client, has this keepalive.
fn line_with(server: Option<Duration>, client: Option<Duration>) -> Slow {
    let mut config = default_server_config();
    config.slots = 1024;
    config.keepalive = server.unwrap_or(config.keepalive);
    let mut options = ClientConfig::default();
    options.keepalive = client.unwrap_or(options.keepalive);
    let mut slow = Slow::line_of(100_000, 100_000, 64 << 10, config, options);
    // Looks every second or so are often enough.
    slow.step = ms(200);
    slow
}

#[test]
fn c96_a_stopped_peer_keeps_its_connection_where_either_side_says_never() {
    for (server, client) in [(Some(NEVER), None), (None, Some(NEVER))] {
        for stopped in [Role::Client, Role::Server] {
            let mut slow = line_with(server, client);
            slow.answers = false;
            slow.call(1);
            slow.advance(secs(1));
            slow.stopped = Some(stopped);
            slow.advance(secs(2_000));
            slow.stopped = None;
            slow.answer();
            assert!(slow.answered_within(secs(10)), "{server:?} {client:?} {stopped:?}");
            slow.assert_untroubled();
        }
    }
}

#[test]
fn c96_a_peer_may_stop_in_the_middle_of_a_frame() {
    for (server, client) in [(Some(NEVER), None), (None, Some(NEVER))] {
        for stopped in [Role::Client, Role::Server] {
            let mut slow = line_with(server, client);
            slow.reply_len = 2_000_000;
            slow.call(2_000_000);
            for _ in 0..2 {
                slow.advance(secs(15));
                slow.stopped = Some(stopped);
                slow.advance(secs(1_000));
                slow.stopped = None;
            }
            assert!(slow.answered_within(secs(100)), "{server:?} {client:?} {stopped:?}");
            slow.assert_untroubled();
        }
    }
}

/// By default a server keeps a stopped client for an hour, and no longer.
#[test]
fn c97_a_server_decides_how_long_it_bears_a_client_that_asks_for_patience() {
    let mut slow = line_with(None, Some(NEVER));
    slow.stopped = Some(Role::Client);
    slow.advance(secs(2_600));
    assert_eq!(slow.server_lost, [], "not before three quarters of an hour");
    slow.advance(secs(1_000));
    assert_eq!(slow.server_lost.first(), Some(&CloseReason::PeerSilent));
}

#[test]
fn c97_other_clients_of_a_patient_server_are_judged_as_ever() {
    let mut slow = line_with(None, None);
    slow.stopped = Some(Role::Client);
    slow.advance(secs(10));
    assert_eq!(slow.server_lost, [CloseReason::PeerSilent]);
}

#[test]
fn c97_a_server_without_patience_grants_none() {
    let mut config = default_server_config();
    config.keepalive_max = Duration::ZERO;
    let mut options = ClientConfig::default();
    options.keepalive = NEVER;
    let mut slow = Slow::line_of(100_000, 100_000, 64 << 10, config, options);
    assert_eq!(slow.client.session().unwrap().grants.keepalive_ms, 10_000);
    // The client still is as patient as it likes.
    slow.stopped = Some(Role::Server);
    slow.advance(secs(1_000));
    slow.stopped = None;
    slow.advance(secs(10));
    slow.assert_untroubled();
}

/// A patient client hears from its server as often as before: one that is dead is noticed where the system says so.
#[test]
fn c97_a_patient_line_is_asked_as_often_as_any() {
    for (server, client) in [(Some(NEVER), None), (None, Some(NEVER))] {
        let mut slow = line_with(server, client);
        let before = slow.up.sent + slow.down.sent;
        slow.advance(secs(1_000));
        let bytes = slow.up.sent + slow.down.sent - before;
        assert!((1_000..=4_000).contains(&bytes), "{bytes} bytes");
    }
}

/// A session from before a restart, granted by another configuration, is judged and spoken to by its own grant.
#[test]
fn c97_a_restored_session_keeps_the_keepalive_that_it_was_granted() {
    for (granted, keepalive) in [(10_000, NEVER), (u32::MAX, secs(10)), (10_000, secs(3_600))] {
        let mut config = default_server_config();
        config.keepalive = keepalive;
        let mut server: Server<Heap> = Server::new(config, &methods()).unwrap();
        let record = SessionRecord {
            id: SessionId::from_bytes([5; 16]),
            principal: ALICE,
            grants: wire::Grants {
                slots: 4,
                request_len_max: 1_000_000,
                reply_len_max: 100,
                lease_ms: 300_000,
                keepalive_ms: granted,
            },
            seen: 0,
            acked: 0,
        };
        let mut now = Instant::ZERO;
        server.restore_session(now, record).unwrap();
        let conn = server.handle_connected(now, ALICE, SessionId::from_bytes([6; 16])).unwrap();
        let resume = bytes_of(&hello(Some((record.id, 0))));
        server.handle_data(now, conn, &resume).unwrap();
        // Half a request every two seconds: within ten seconds it is heard that the server hears.
        let frame = bytes_of(&request(4, 3, &[7; 100_000]));
        let mut out = [0; 1_000];
        while server.poll_transmit(now, conn, &mut out).is_some() {}
        for step in 1..=4 {
            server.handle_data(now, conn, &frame[..100 * step]).unwrap();
            now = now + secs(2);
            server.handle_timeout(now);
        }
        assert!(server.poll_transmit(now, conn, &mut out).is_some(), "{granted} {keepalive:?}");
        let mut lost = false;
        for _ in 0..30 {
            now = now + secs(2);
            server.handle_timeout(now);
            while let Some(event) = server.poll_event() {
                lost |= matches!(event, ServerEvent::Close(..));
                while server.poll_transmit(now, conn, &mut out).is_some() {}
            }
        }
        assert_eq!(lost, keepalive == secs(10) && granted != u32::MAX);
    }
}
