//! Answers that are delivered late, or for a second time, and are not the ones they seem (S27).

use oncewire_core::*;

use crate::util::*;

fn welcome(seen: u64) -> wire::Frame<'static> {
    wire::Frame::Welcome(wire::Welcome {
        version: wire::VERSION,
        features: 0,
        server: ServerId::from_bytes([7; 16]),
        service: ServiceName::new("toy").unwrap(),
        session: SessionId::from_bytes([1; 16]),
        seen,
        commit: 0,
        grants: wire::Grants {
            slots: 1,
            request_len_max: 16,
            reply_len_max: 16,
            lease_ms: 300_000,
            keepalive_ms: 300_000,
        },
        instance: Instance::UNNAMED,
        schemas: Schemas::EMPTY,
    })
}

/// A client on a lossy link that has asked twice for a call which its server never read, has had one `NotSeen`, has sent
/// the call again, cancelled it, and asked for it once more.
fn asked_before_and_after() -> (Client<Heap>, CallId, Instant) {
    let mut config = ClientConfig::default();
    config.resend_after = Some(secs(1));
    let mut client: Client<Heap> = Client::new(config);
    let mut now = Instant::ZERO;
    let call = client.call(now, Call::new(ECHO, b"a")).unwrap();
    for seen in [0, 1] {
        client.handle_connected(now);
        kinds_sent(&mut client, now);
        assert!(answer(&mut client, now, &welcome(seen)).is_none());
        let kind = if seen == 0 { 2 } else { 3 };
        assert_eq!(kinds_sent(&mut client, now), [kind], "a request, then an Ask");
    }
    now = now + secs(2);
    client.handle_timeout(now);
    assert_eq!(kinds_sent(&mut client, now), [3], "an Ask");
    assert!(answer(&mut client, now, &not_seen(1)).is_none());
    assert_eq!(kinds_sent(&mut client, now), [2], "the request");
    client.cancel(now, call);
    now = now + secs(10);
    client.handle_timeout(now);
    assert_eq!(kinds_sent(&mut client, now), [3, 5], "an Ask and a Cancel");
    (client, call, now)
}

fn not_seen(ask: u16) -> wire::Frame<'static> {
    let xid = Xid::new(1).unwrap();
    wire::Frame::Reply(wire::ReplyHeader { status: Status::NotSeen { ask }, xid }, &[])
}

fn kinds_sent(client: &mut Client<Heap>, now: Instant) -> Vec<u8> {
    while client.poll_event().is_some() {}
    let mut out = [0; 4096];
    let len = client.poll_transmit(now, &mut out).map_or(0, |len| len.get());
    let mut kinds = Vec::new();
    let mut rest = &out[..len];
    while let Some(front) = wire::peek(rest) {
        kinds.push(rest[4]);
        rest = &rest[front.len..];
    }
    kinds
}

fn answer(
    client: &mut Client<Heap>,
    now: Instant,
    frame: &wire::Frame<'_>,
) -> Option<(CallId, bool)> {
    let mut out = [0; wire::CONTROL_LEN_MAX];
    let len = wire::encode(frame, &mut out).unwrap();
    let item = client.handle_data(now, &out[..len]).unwrap().item?;
    Some((item.call, item.outcome == Outcome::NotExecuted(NotExecuted::Cancelled)))
}

/// Found by the explorer in its world "lossy cut": the `NotSeen` was older than the request, which ran.
#[test]
fn a_not_seen_to_an_ask_from_before_the_request_is_not_the_answer_to_one_from_after_it() {
    let (mut client, call, now) = asked_before_and_after();
    assert_eq!(answer(&mut client, now, &not_seen(1)), None, "it answers the first Ask");
    assert_eq!(answer(&mut client, now, &not_seen(2)), None, "it was delivered twice");
    let xid = Xid::new(1).unwrap();
    let done = wire::Frame::Reply(wire::ReplyHeader { status: Status::Done, xid }, b"a");
    assert_eq!(answer(&mut client, now, &done), Some((call, false)), "the call ran");
}

#[test]
fn a_not_seen_to_the_ask_from_after_the_request_counts_whatever_was_lost_before() {
    let (mut client, call, now) = asked_before_and_after();
    assert_eq!(answer(&mut client, now, &not_seen(3)), Some((call, true)));
}

/// It was taken for the answer to the `Ask` of this connection, and a call that had run was reported as not executed.
#[test]
fn a_not_seen_to_an_ask_from_before_the_connection_is_ignored() {
    let (mut client, call, now) = asked_before_and_after();
    client.handle_connected(now);
    kinds_sent(&mut client, now);
    assert!(answer(&mut client, now, &welcome(1)).is_none());
    assert_eq!(kinds_sent(&mut client, now), [3, 5], "an Ask, the fourth, and a Cancel");
    assert_eq!(answer(&mut client, now, &not_seen(3)), None, "its request has come since");
    assert_eq!(answer(&mut client, now, &not_seen(4)), Some((call, true)));
}

#[test]
fn c143_an_old_welcome_after_a_reconnect_settles_no_call() {
    let mut server = Pair::new();
    let welcome = server.raw_session().1;
    let mut config = ClientConfig::default();
    config.resend_after = Some(ms(200));
    let mut pair = Pair::with(default_server_config(), config);
    let first = pair.connect_by_hand(0);
    pair.send_down(first, &wire::Frame::Welcome(welcome));
    let call = pair.call(b"a");
    pair.cancel(call);
    assert!(pair.got_up(first).iter().any(|frame| matches!(frame, OwnedFrame::Request(..))));

    // The server has read the call and runs it. On the next connection the first `Welcome` arrives once more.
    let second = pair.connect_by_hand(0);
    pair.send_down(second, &wire::Frame::Welcome(wire::Welcome { seen: 0, ..welcome }));
    assert_eq!(pair.outcome(call), None, "nothing is known of it");
    let asked = |frame: &OwnedFrame| matches!(frame, OwnedFrame::Ask(..));
    assert!(pair.got_up(second).iter().any(asked));
}
