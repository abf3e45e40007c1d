//! Every limit and time of both configurations at 0, 1 and its maximum: calls end, nothing spins, and nothing is left.
#![allow(missing_docs)]

mod util;

use std::time::Duration;

use oncewire_core::*;
use util::*;

/// A value at the edge of what its type can say.
#[derive(Clone, Copy, Debug)]
enum Edge {
    Zero,
    One,
    Max,
}

const EDGES: [Edge; 3] = [Edge::Zero, Edge::One, Edge::Max];

trait AtEdge {
    fn at(edge: Edge) -> Self;
}

macro_rules! at_edge {
    ($($type:ty: $zero:expr, $one:expr, $max:expr;)*) => {
        $(impl AtEdge for $type {
            fn at(edge: Edge) -> Self {
                match edge {
                    Edge::Zero => $zero,
                    Edge::One => $one,
                    Edge::Max => $max,
                }
            }
        })*
    };
}

at_edge! {
    u32: 0, 1, u32::MAX;
    u64: 0, 1, u64::MAX;
    usize: 0, 1, usize::MAX;
    Duration: Duration::ZERO, Duration::from_nanos(1), Duration::MAX;
    Option<Duration>: Some(Duration::ZERO), Some(Duration::from_nanos(1)), Some(Duration::MAX);
}

/// Sets one field.
type Field<C> = (&'static str, fn(&mut C, Edge));

macro_rules! fields {
    ($config:ty: $($name:ident)*) => {
        [$((stringify!($name), |config: &mut $config, edge| config.$name = AtEdge::at(edge))),*]
    };
}

const SERVER_FIELDS: [Field<ServerConfig>; 18] = fields! {
    ServerConfig:
    slots request_len_max reply_len_max lease lease_unused keepalive keepalive_max handshake_timeout frame_timeout
    conns_max sessions_max sessions_per_principal_max kept_per_session_max kept_per_principal_max kept_max
    requests_per_session_max requests_per_principal_max requests_max
};

const CLIENT_FIELDS: [Field<ClientConfig>; 10] = fields! {
    ClientConfig:
    slots request_len_max reply_len_max calls_max pending_bytes_max keepalive handshake_timeout resend_after
    ack_delay ack_bytes
};

/// The life of a client and a server: calls, one of which is not answered in time, a break, a close, a drain.
fn live(case: &str, server: ServerConfig, client: ClientConfig) {
    let mut pair = Pair::with(server, client);
    let mut calls = Vec::new();
    for (at, body) in [&b""[..], b"a", b"slow"].into_iter().enumerate() {
        pair.mode = if body == b"slow" { Mode::Start } else { Mode::Echo };
        let mut call = Call::new(ECHO, body);
        call.timeout = secs(2);
        let now = pair.now;
        // What is too large or too much for the client is refused.
        calls.extend(pair.client().call(now, call));
        for _ in 0..3 {
            if !pair.client().is_connected() {
                pair.reconnect();
            }
            pair.advance(ms(300));
        }
        if at == 1 {
            pair.cut();
        }
    }
    // Deadlines pass, whatever the keepalive.
    pair.advance(secs(3));
    for call in &calls {
        assert!(pair.outcome(*call).is_some(), "{case}: a call has no outcome");
    }
    while let Some(started) = pair.started.pop() {
        let _ = pair.server.reply(pair.now, started.running, b"late");
        pair.drive();
    }

    let now = pair.now;
    for call in calls {
        pair.forget(call);
    }
    pair.client().close(now);
    pair.drive();
    pair.server.drain(now, secs(10));
    for _ in 0..30 {
        if !pair.client().is_connected() && pair.client().wants_connection() {
            pair.reconnect();
        }
        pair.advance(ms(400));
    }
    assert!(pair.server.is_drained(), "{case}: {:?}", pair.server.counters());
    // Sessions that are not resumed are gone by their leases, if those end.
    pair.advance(secs(400));
    let lasting = server.lease == Duration::MAX || server.lease_unused == Duration::MAX;
    let counters = pair.server.counters();
    if !lasting {
        assert_eq!(counters.sessions, 0, "{case}");
        assert!(!pair.server.knows(ALICE), "{case}: a principal is left");
    }
    let left = (counters.conns, counters.kept_bytes, counters.request_bytes, counters.running);
    assert_eq!(left, (0, 0, 0, 0), "{case}");
    assert!(lasting || counters.table_bytes == 0, "{case}");
    assert_eq!(pair.server_errors, [], "{case}");
}

fn each(mut run: impl FnMut(&str, ServerConfig, ClientConfig)) {
    let (server, client) = (default_server_config(), ClientConfig::default());
    for edge in EDGES {
        for (name, set) in SERVER_FIELDS {
            let mut server = server;
            set(&mut server, edge);
            run(&format!("server, {name}: {edge:?}"), server, client);
        }
        for (name, set) in CLIENT_FIELDS {
            let (mut server, mut client) = (server, client);
            set(&mut client, edge);
            server.lossy = client.resend_after.is_some();
            run(&format!("client, {name}: {edge:?}"), server, client);
        }
    }
}

#[test]
fn c142_every_limit_and_time_may_be_0_or_1_or_its_maximum() {
    each(live);
}

#[test]
fn c142_all_times_and_all_limits_may_be_at_their_edges_together() {
    for edge in EDGES {
        let (mut server, mut client) = (default_server_config(), ClientConfig::default());
        for (name, set) in SERVER_FIELDS {
            // Without connections or sessions there is nothing to try.
            if name != "conns_max" && !name.starts_with("sessions") {
                set(&mut server, edge);
            }
        }
        for (name, set) in CLIENT_FIELDS {
            if name != "resend_after" && name != "calls_max" {
                set(&mut client, edge);
            }
        }
        live(&format!("all: {edge:?}"), server, client);
    }
}

#[test]
fn c142_what_is_sent_again_without_delay_is_sent_once_a_millisecond() {
    let mut server = default_server_config();
    server.lossy = true;
    let mut client = ClientConfig::default();
    client.resend_after = Some(Duration::ZERO);
    let mut pair = Pair::with(server, client).connected();
    pair.mode = Mode::Start;
    pair.call(b"a");
    pair.hold(true);
    let before = pair.client().counters().resends;
    // 1, 2, 4, … ms apart.
    pair.advance(ms(100));
    let resends = pair.client().counters().resends - before;
    assert!((4..=7).contains(&resends), "{resends}");
}

#[test]
fn c142_a_principal_that_may_have_no_session_leaves_nothing() {
    let mut config = default_server_config();
    config.sessions_per_principal_max = 0;
    let mut pair = Pair::with(config, ClientConfig::default());
    for _ in 0..10 {
        let raw = pair.raw(ALICE);
        pair.send(raw, &hello(None));
        assert_eq!(pair.got(raw), [OwnedFrame::Refuse(wire::Refuse::PrincipalFull)]);
    }
    assert_eq!(pair.server.counters().conns, 0);
    assert!(!pair.server.knows(ALICE));
    assert_eq!(pair.server.poll_timeout(), None);
}

#[test]
fn c142_what_is_never_acknowledged_by_itself_is_acknowledged_before_a_goodbye() {
    let mut client = ClientConfig::default();
    client.ack_delay = Duration::MAX;
    let mut pair = Pair::with(default_server_config(), client).connected();
    pair.call(b"a");
    assert!(pair.server.counters().kept_bytes > 0);
    pair.close();
    assert!(pair.client().is_closed());
    assert_eq!((pair.server.counters().sessions, pair.server.counters().kept_bytes), (0, 0));
}
