//! What is slow is not dead, and what is dead is found within the keepalive: C94 and C95.

use super::*;

/// Bytes in front of the line: little, and more than the line carries in many keepalives.
const CAPACITIES: [usize; 2] = [16 << 10, 64 << 20];

#[test]
fn c94_a_request_that_takes_longer_than_the_keepalive_arrives_and_is_sent_once() {
    for rate in [10_000, 50_000] {
        for capacity in CAPACITIES {
            for takes_rest in [false, true] {
                let mut slow = Slow::line(rate, 1_000_000, capacity);
                slow.takes_rest = takes_rest;
                // Three keepalives' worth.
                let len = rate as usize * 30;
                slow.call(len);
                assert!(slow.answered_within(secs(40)), "{rate} B/s, {capacity} B, {takes_rest}");
                slow.assert_untroubled();
                assert_eq!((slow.runs, slow.replies), (1, 1));
                assert!(slow.up.sent < len + 1_000, "{} bytes for {len}", slow.up.sent);
            }
        }
    }
}

#[test]
fn c94_a_reply_that_takes_longer_than_the_keepalive_arrives_and_is_sent_once() {
    for rate in [10_000, 50_000] {
        for capacity in CAPACITIES {
            for takes_rest in [false, true] {
                let mut slow = Slow::line(1_000_000, rate, capacity);
                slow.takes_rest = takes_rest;
                slow.reply_len = rate as usize * 30;
                slow.call(1);
                assert!(slow.answered_within(secs(40)), "{rate} B/s, {capacity} B, {takes_rest}");
                slow.assert_untroubled();
                assert_eq!((slow.runs, slow.replies), (1, 1));
                let len = slow.reply_len;
                assert!(slow.down.sent < len + 1_000, "{} bytes for {len}", slow.down.sent);
            }
        }
    }
}

#[test]
fn c94_large_bodies_in_both_directions_at_once_arrive() {
    for capacity in CAPACITIES {
        let mut slow = Slow::line(10_000, 10_000, capacity);
        slow.reply_len = 300_000;
        slow.call(1);
        slow.advance(secs(1));
        slow.call(300_000);
        assert!(slow.answered_within(secs(200)), "{capacity} B");
        slow.assert_untroubled();
        assert_eq!((slow.runs, slow.replies), (2, 2));
    }
}

/// No single frame is large, but the line has a minute's worth of them, and a Ping waits its turn behind them.
#[test]
fn c94_many_small_requests_in_front_of_a_slow_line_do_not_look_like_silence() {
    let mut slow = Slow::line(10_000, 1_000_000, 64 << 20);
    slow.answers = false;
    for _ in 0..600 {
        slow.call(1_000);
    }
    slow.advance(secs(80));
    slow.answer();
    assert!(slow.answered_within(secs(10)));
    slow.assert_untroubled();
    assert_eq!((slow.runs, slow.replies), (600, 600));
}

/// The same down: the client's own words are few, since it rarely acknowledges.
#[test]
fn c94_many_small_replies_in_front_of_a_slow_line_do_not_look_like_silence() {
    let mut slow = Slow::line(1_000_000, 10_000, 64 << 20);
    slow.answers = false;
    slow.reply_len = 1_000;
    for _ in 0..600 {
        slow.call(1);
    }
    slow.advance(secs(2));
    slow.answer();
    assert!(slow.answered_within(secs(80)));
    slow.assert_untroubled();
    assert_eq!((slow.runs, slow.replies), (600, 600));
}

#[test]
fn c95_a_server_that_freezes_in_the_middle_of_a_request_is_found_within_the_keepalive() {
    for capacity in [16 << 10, 64 << 20] {
        let mut slow = Slow::line(200_000, 1_000_000, capacity);
        slow.call(4 << 20);
        slow.advance(secs(12));
        slow.assert_untroubled();
        slow.stopped = Some(Role::Server);
        slow.advance(secs(7));
        assert_eq!(slow.client_lost, [], "not before three quarters of the time");
        slow.advance(secs(3));
        assert_eq!(slow.client_lost, [CloseReason::PeerSilent]);
    }
}

#[test]
fn c95_a_client_that_freezes_in_the_middle_of_a_reply_is_found_within_the_keepalive() {
    for capacity in [16 << 10, 64 << 20] {
        let mut slow = Slow::line(1_000_000, 200_000, capacity);
        slow.reply_len = 4 << 20;
        slow.call(1);
        slow.advance(secs(12));
        slow.assert_untroubled();
        slow.stopped = Some(Role::Client);
        slow.advance(secs(7));
        assert_eq!(slow.server_lost, [], "not before three quarters of the time");
        slow.advance(secs(3));
        assert_eq!(slow.server_lost, [CloseReason::PeerSilent]);
    }
}

/// A line that takes bytes shows life where the peer says nothing: an older peer, say, or one whose words are lost.
#[test]
fn c95_a_peer_that_takes_bytes_is_alive_though_it_says_nothing() {
    let mut slow = Slow::line(200_000, 1_000_000, 16 << 10);
    slow.call(4 << 20);
    slow.down.frozen = true;
    slow.advance(secs(20));
    assert_eq!(slow.client_lost, []);
    // Then the last bytes have left, and nothing comes.
    slow.advance(secs(60));
    assert_eq!(slow.client_lost.first(), Some(&CloseReason::PeerSilent));
}

/// What was broken by something else is sent again in one go: nothing judges the second attempt by a shorter time.
#[test]
fn c94_a_large_request_whose_connection_broke_arrives_on_the_next_one() {
    let mut slow = Slow::line(10_000, 1_000_000, 64 << 20);
    slow.call(300_000);
    slow.advance(secs(30));
    slow.assert_untroubled();
    let conn = slow.conn.take().unwrap();
    slow.server.handle_disconnected(slow.now, conn);
    slow.client.handle_disconnected(slow.now);
    slow.connect();
    assert!(slow.answered_within(secs(80)));
    assert_eq!((slow.connections, slow.runs, slow.replies), (2, 1, 1));
}

/// An idle line is no busier than it was, and a long call costs one Pong.
#[test]
fn c95_an_idle_line_carries_pings_and_nothing_else() {
    let mut slow = Slow::line(1_000_000, 1_000_000, 64 << 10);
    let before = slow.up.sent + slow.down.sent;
    slow.advance(secs(1_000));
    slow.assert_untroubled();
    // A Ping and its Pong at half of all looks, at most, of either side.
    let bytes = slow.up.sent + slow.down.sent - before;
    assert!(bytes <= 400 * 10, "{bytes} bytes");
}
