//! What wrong and hostile peers can do, and cannot: S24, and C70.
//!
//! The cases found by attacking the rules stand with what they are about: C61, C63–C65 in `time.rs`, C62, C74, C75 and
//! C77 in `handover.rs`, C66 and C67 in `room.rs`, C71 in `duplicates.rs`, C68, C69 and C73 in `sessions.rs`, C72 and C76
//! in `crashes.rs`.
#![allow(missing_docs)]

mod util;

use oncewire_core::wire::{Ack, Frame, Refuse, Role, Welcome};
use oncewire_core::*;
use util::*;

#[test]
fn c70_handlers_that_hang_are_ended_as_aborted_and_other_sessions_never_notice() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let hanging: Vec<CallId> = (0..4u8).map(|n| pair.call(&[n])).collect();
    let waiting = pair.call(b"waiting");
    let other = pair.add_client(ClientConfig::default(), BOB);
    pair.connect(other);
    pair.drive();
    pair.mode = Mode::Echo;
    let fine = pair.call_with(other, Call::new(ECHO, b"fine"));
    assert_eq!(pair.outcome_at(other, fine), reply(b"fine"));
    // The driver's time limit of the method passes.
    for n in 0..4u8 {
        pair.abort(&[n]);
    }
    for call in hanging {
        assert_eq!(pair.outcome(call), Some(OwnedOutcome::NoReply(NoReply::Aborted)));
    }
    assert_eq!(pair.outcome(waiting), reply(b"waiting"), "the slots are free again");
}

#[test]
fn s24_a_broken_frame_of_one_session_does_not_touch_another() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    let (raw, _) = pair.raw_session();
    pair.send_bytes(raw, &[0xff; 64]);
    assert_eq!(pair.server_errors.len(), 1);
    pair.finish(b"a");
    assert_eq!(pair.outcome(call), reply(b"a"));
    assert_eq!(pair.disconnects(), []);
}

#[test]
fn s24_random_bytes_never_panic_and_never_hold_more_than_their_connection() {
    for seed in 0..800 {
        let mut rng = Rng(seed);
        let mut pair = Pair::unconnected();
        pair.out_len = 512;
        let (raw, _) = pair.raw_session();
        for _ in 0..8 {
            let len = rng.below(40) as usize;
            let mut bytes: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
            if len >= 5 && !rng.one_in(4) {
                // A plausible length and kind.
                bytes[..4].copy_from_slice(&(len as u32 - 4).to_le_bytes());
                bytes[4] = *rng.pick(&[1, 2, 3, 4, 5, 6, 7, 8, 0x41, 0x42]);
            }
            pair.send_bytes(raw, &bytes);
        }
        pair.hang_up(raw);
        pair.advance(secs(400));
        let counters = pair.server.counters();
        let left = (counters.conns, counters.sessions, counters.kept_bytes, counters.running);
        assert_eq!(left, (0, 0, 0, 0), "seed {seed}");
    }
}

/// A frame as any client could send it, right or wrong.
fn any_frame(rng: &mut Rng, session: SessionId) -> Vec<u8> {
    let number = xid(1 + rng.below(12));
    let bytes = rng.next().to_le_bytes();
    let body = &bytes[..rng.below(2) as usize];
    let method = *rng.pick(&[ECHO, IDEM, BIG, ABSENT]);
    let header = wire::RequestHeader {
        flags: rng.below(4) as u8,
        method,
        remaining_ms: rng.below(2_000) as u32,
        xid: number,
        acked: rng.below(4).min(rng.below(12)),
    };
    let resume = if rng.one_in(2) { Some((session, rng.below(6))) } else { None };
    let ack = Ack {
        acked: rng.below(6),
        last: rng.below(12),
        base: rng.below(3) as u32,
        settled: rng.below(16),
    };
    bytes_of(&match rng.below(20) {
        0 => hello(resume),
        1..=3 => Frame::Ask(number, rng.below(3) as u16),
        4..=6 => Frame::Ack(ack),
        7 => Frame::Cancel(number),
        8 => Frame::Ping(Role::Client),
        9 => Frame::Goodbye(Role::Client),
        _ => Frame::Request(header, body),
    })
}

#[test]
fn s24_a_client_that_says_anything_in_any_order_runs_no_xid_twice_and_leaks_nothing() {
    for seed in 0..1_500 {
        let mut rng = Rng(seed);
        let mut pair = Pair::unconnected();
        pair.out_len = 512;
        let (mut raw, welcome) = pair.raw_session();
        for _ in 0..60 {
            pair.mode = *rng.pick(&[Mode::Echo, Mode::Start, Mode::Hold]);
            let frame = any_frame(&mut rng, welcome.session);
            pair.send_bytes(raw, &frame);
            if rng.one_in(3) && !pair.admitted.is_empty() {
                let body = pair.admitted[0].body.clone();
                let _ = pair.start(&body);
            }
            if rng.one_in(3) && !pair.started.is_empty() {
                let body = pair.started[0].body.clone();
                pair.finish(&body);
            }
            if rng.one_in(4) || !pair.links[raw].server_open {
                raw = pair.raw(ALICE);
                let resume = rng.one_in(8).then_some((welcome.session, 0));
                pair.send(raw, &hello(resume.xor(Some((welcome.session, 0)))));
            }
            if rng.one_in(20) {
                pair.advance(secs(1));
            }
        }
        let mut xids: Vec<(SessionId, u64)> = pair
            .runs
            .iter()
            .filter(|run| run.method != IDEM)
            .map(|run| (run.session, run.xid))
            .collect();
        let all = xids.len();
        xids.sort_by_key(|(session, xid)| (session.to_bytes(), *xid));
        xids.dedup();
        assert_eq!(all, xids.len(), "seed {seed}: an xid ran twice");
        while let Some(call) = pair.admitted.first() {
            let body = call.body.clone();
            let _ = pair.start(&body);
        }
        while let Some(call) = pair.started.first() {
            let body = call.body.clone();
            pair.finish(&body);
        }
        pair.advance(secs(700));
        let counters = pair.server.counters();
        let left = (counters.conns, counters.sessions, counters.kept_bytes, counters.running);
        assert_eq!(left, (0, 0, 0, 0), "seed {seed}");
    }
}

#[test]
fn s24_a_welcome_that_cannot_be_ends_the_connection() {
    let good = welcome();
    let grants = |grants| Welcome { grants, ..good };
    for wrong in [
        Welcome { version: wire::VERSION + 1, ..good },
        Welcome { features: 1, ..good },
        grants(wire::Grants { slots: 0, ..good.grants }),
        grants(wire::Grants { slots: 1025, ..good.grants }),
        grants(wire::Grants { keepalive_ms: 0, ..good.grants }),
    ] {
        let mut pair = Pair::unconnected();
        let link = pair.connect_by_hand(0);
        pair.send_down(link, &Frame::Welcome(wrong));
        assert_eq!(pair.peers[0].errors, [ProtocolError::UnexpectedWelcome], "{wrong:?}");
    }
    let mut pair = Pair::unconnected();
    let link = pair.connect_by_hand(0);
    pair.send_down(link, &Frame::Welcome(good));
    assert!(pair.client().is_connected());
    pair.send_down(link, &Frame::Welcome(good));
    assert_eq!(pair.peers[0].errors, [ProtocolError::UnexpectedWelcome], "a second one");
}

#[test]
fn s24_an_answer_before_the_welcome_ends_the_connection() {
    let mut pair = Pair::unconnected();
    let link = pair.connect_by_hand(0);
    let header = wire::ReplyHeader { status: Status::Done, xid: xid(4) };
    pair.send_down(link, &Frame::Reply(header, b""));
    assert_eq!(pair.peers[0].errors, [ProtocolError::UnexpectedAnswer { xid: 4 }]);
}

#[test]
fn s24_an_unrequested_not_seen_ends_the_connection_and_no_call() {
    let mut pair = Pair::new();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    let xid = xid(pair.runs[0].xid);
    let header = wire::ReplyHeader { status: Status::NotSeen { ask: 1 }, xid };
    pair.link().down.extend(bytes_of(&Frame::Reply(header, b"")));
    pair.drive();
    assert_eq!(pair.peers[0].errors, [ProtocolError::UnexpectedAnswer { xid: xid.get() }]);
    assert_eq!(pair.outcome(call), None);
    pair.reconnect();
    pair.finish(b"a");
    assert_eq!((pair.outcome(call), pair.ran(b"a")), (reply(b"a"), 1));
}

#[test]
fn s24_a_reply_longer_than_the_client_takes_is_judged_by_its_length_alone() {
    let mut config = ClientConfig::default();
    config.reply_len_max = 1_000;
    let mut pair = Pair::with(default_server_config(), config).connected();
    pair.link().down.extend(2_000u32.to_le_bytes());
    pair.drive();
    assert_eq!(pair.peers[0].errors, [ProtocolError::FrameTooLong { len: 2_000, max: 1_032 }]);
}

#[test]
fn s24_a_server_that_says_anything_in_any_order_never_makes_a_client_panic_or_spin() {
    for seed in 0..1_000 {
        let mut rng = Rng(seed);
        let mut pair = Pair::unconnected();
        pair.out_len = 512;
        for n in 0..6u8 {
            let mut call = Call::new(IDEM, &[0]);
            call.idempotent = rng.one_in(2);
            call.fail_fast = rng.one_in(3);
            call.timeout = ms(rng.below(20_000));
            let now = pair.now;
            let id = pair.client().call(now, call).unwrap();
            if n == 3 {
                pair.cancel(id);
            }
        }
        for _ in 0..40 {
            if pair.peers[0].link.is_none() {
                pair.connect_by_hand(0);
            }
            let link = pair.link_number();
            let ask = rng.below(3) as u16;
            let status = *rng.pick(&[
                Status::Done,
                Status::NoReply(NoReply::Aborted),
                Status::Refused(NotExecuted::Overloaded),
                Status::NotSeen { ask },
                Status::Interrupted,
            ]);
            let body: &[u8] = if status == Status::Done { b"body" } else { b"" };
            let number = xid(1 + rng.below(12));
            let mut said = welcome();
            said.seen = rng.below(12);
            said.commit = rng.below(2);
            let code = rng.below(20) as u8;
            let refuse = *rng.pick(&[
                Refuse::Protocol(code),
                Refuse::SessionUnknown,
                Refuse::SessionsFull,
                Refuse::ShuttingDown,
                Refuse::Superseded,
                Refuse::WrongPrincipal,
            ]);
            pair.drive();
            pair.links[link].up.clear();
            pair.send_down(
                link,
                &match rng.below(12) {
                    0..=3 => Frame::Welcome(said),
                    4 => Frame::Refuse(refuse, Instance::UNNAMED),
                    5 => Frame::Goodbye(Role::Server),
                    6 => Frame::Ping(Role::Server),
                    _ => Frame::Reply(wire::ReplyHeader { status, xid: number }, body),
                },
            );
            if rng.one_in(5) {
                pair.advance(secs(2));
            }
        }
        // Whatever was said, an honest server ends every call.
        pair.cut();
        pair.restart_server();
        pair.reconnect();
        pair.advance(secs(60));
        assert_eq!(pair.client().unsettled(), 0, "seed {seed}");
        assert_eq!(pair.client().pending(), 0, "seed {seed}");
    }
}

#[test]
fn s1_a_session_id_is_never_displayed_whole() {
    let mut pair = Pair::new();
    pair.call(b"a");
    let id = pair.session_id();
    let hex: String = id.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let shown = format!(
        "{id:?} {:?} {:?} {:?}",
        pair.peers[0].client.session(),
        pair.server,
        pair.events()
    );
    assert!(!shown.contains(&hex[..8]), "{shown}");
}

#[test]
fn s20_a_client_that_never_reads_holds_no_more_than_its_grants() {
    let mut config = default_server_config();
    config.kept_per_session_max = 3 << 20;
    let mut pair = Pair::with(config, ClientConfig::default());
    let (raw, _) = pair.raw_session();
    for number in 1..=100 {
        let header = wire::RequestHeader { method: BIG, ..header(number, 0) };
        pair.send(raw, &Frame::Request(header, &vec![1; 1_000_000]));
        assert!(pair.kept() <= 3 << 20);
    }
    // Each slot's later xid discards what was kept for the earlier one.
    assert_eq!(pair.server_errors, []);
}

#[test]
fn s26_frames_of_the_other_role_are_unknown_kinds() {
    let mut pair = Pair::unconnected();
    let (raw, _) = pair.raw_session();
    pair.send(raw, &Frame::Ping(Role::Server));
    assert_eq!(pair.server_errors, [ProtocolError::UnknownKind(0x46)]);
}

#[test]
fn w20_a_peer_of_another_protocol_or_version_is_refused() {
    let mut pair = Pair::unconnected();
    let raw = pair.raw(ALICE);
    let mut bytes = bytes_of(&hello(None));
    bytes[5] ^= 1;
    pair.send_bytes(raw, &bytes);
    assert_eq!(pair.server_errors, [ProtocolError::BadMagic]);
    let raw = pair.raw(ALICE);
    let Frame::Hello(said) = hello(None) else { unreachable!() };
    pair.send(raw, &Frame::Hello(wire::Hello { version_min: 2, version_max: 9, ..said }));
    let unsupported = Refuse::VersionUnsupported { min: wire::VERSION, max: wire::VERSION };
    assert_eq!(pair.got(raw), [OwnedFrame::Refuse(unsupported)]);
    assert_eq!(pair.server.counters().sessions, 0);
}
