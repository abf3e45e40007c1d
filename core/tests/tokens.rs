//! Callers that say by a token who they are: C182, C183, C189.
#![allow(missing_docs)]

mod util;

use oncewire_core::wire::{self, FEATURE_METADATA, FEATURE_TOKEN, Frame, Hello, Refuse};
use oncewire_core::*;
use util::bare::{Bare, NOW};
use util::*;

fn token(byte: u8) -> Token {
    Token::new(&[byte; 32]).unwrap()
}

/// A `Hello` with a token, if there is one.
fn hello_with(token: Option<Token>, resume: Option<(SessionId, u64)>) -> Frame<'static> {
    let Frame::Hello(plain) = hello(resume) else { unreachable!() };
    let features = if token.is_some() { FEATURE_TOKEN } else { 0 };
    Frame::Hello(Hello { features, token, ..plain })
}

fn demanding() -> ServerConfig {
    let mut config = default_server_config();
    config.demands_tokens = true;
    config
}

fn pair_with(token: Option<Token>) -> Pair {
    let mut config = ClientConfig::default();
    config.token = token;
    Pair::with(demanding(), config)
}

/// Connects the client, whose token its server's owner knows, or does not.
fn connect(pair: &mut Pair, known: Option<Principal>) {
    let number = pair.connect_as(0, Principal::ANONYMOUS);
    let conn = pair.conn(number).unwrap();
    known.into_iter().for_each(|principal| pair.server.identify(conn, principal));
    pair.drive();
}

/// Says `Hello` on a new connection, as if its owner knew the token as this principal's.
fn greet(pair: &mut Pair, hello: &Frame<'_>, known: Option<Principal>) -> Vec<OwnedFrame> {
    let raw = pair.raw(Principal::ANONYMOUS);
    let conn = pair.conn(raw).unwrap();
    known.into_iter().for_each(|principal| pair.server.identify(conn, principal));
    pair.send(raw, hello);
    pair.got(raw)
}

#[test]
fn c182_a_caller_is_who_its_token_says() {
    let mut pair = pair_with(Some(token(1)));
    connect(&mut pair, Some(ALICE));
    let call = pair.call(b"a");
    assert_eq!(pair.outcome(call), reply(b"a"));
    let conn = pair.conn(pair.link_number()).unwrap();
    assert_eq!(pair.server.principal_of(conn), Some(ALICE));
    let session = pair.server.session_of(conn).unwrap();
    assert_eq!(pair.server.session_record(session).unwrap().principal, ALICE);
    assert!(!pair.server.knows(Principal::ANONYMOUS), "it counts in its own share");
}

#[test]
fn c182_no_token_or_an_unknown_one_is_refused_and_ends_calls_at_once() {
    for (token, refuse) in [(None, Refuse::TokenMissing), (Some(token(1)), Refuse::TokenUnknown)] {
        let mut pair = pair_with(token);
        let waiting = pair.call(b"waiting");
        connect(&mut pair, None);
        assert_eq!(pair.disconnects(), [CloseReason::Refused(refuse)]);
        assert_eq!(pair.outcome(waiting), not_executed(NotExecuted::NeverConnected));
        let later = pair.call(b"later");
        assert_eq!(pair.outcome(later), not_executed(NotExecuted::NeverConnected), "at once");
        assert!(pair.client().wants_connection(), "the server may come to know it");
        assert_eq!(pair.server.counters().hellos_unidentified, 1);
        assert_eq!(pair.server.counters().sessions, 0);
        connect(&mut pair, Some(ALICE));
        let call = pair.call(b"mended");
        assert_eq!(pair.outcome(call), reply(b"mended"));
        assert_eq!((pair.ran(b"waiting"), pair.ran(b"later")), (0, 0));
    }
}

#[test]
fn c182_a_session_of_one_token_is_no_other_tokens() {
    let mut pair = pair_with(Some(token(1)));
    connect(&mut pair, Some(ALICE));
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    let session = pair.session_id();
    pair.finish(b"a");
    assert_eq!(pair.outcome(call), reply(b"a"));
    let resume = hello_with(Some(token(2)), Some((session, 1)));
    let refused = greet(&mut pair, &resume, Some(BOB));
    assert_eq!(refused, [OwnedFrame::Refuse(Refuse::WrongPrincipal)]);
    let refused = greet(&mut pair, &resume, None);
    assert_eq!(refused, [OwnedFrame::Refuse(Refuse::TokenUnknown)]);
    // What the transport says is no token.
    let resume = hello(Some((session, 1)));
    assert_eq!(greet(&mut pair, &resume, None), [OwnedFrame::Refuse(Refuse::TokenMissing)]);
    assert!(pair.client().is_connected(), "the owner keeps its connection");
}

/// Where the token was taken back, calls in doubt wait for their deadlines, as they do for any server that is not there.
#[test]
fn c182_a_token_that_is_taken_back_ends_no_session_and_no_call_in_doubt() {
    let mut pair = pair_with(Some(token(1)));
    connect(&mut pair, Some(ALICE));
    pair.mode = Mode::Start;
    let in_doubt = pair.call(b"in doubt");
    pair.cut();
    connect(&mut pair, None);
    assert_eq!(pair.outcome(in_doubt), None);
    assert_eq!(pair.sessions_lost(), []);
    pair.client().set_token(token(2));
    connect(&mut pair, Some(ALICE));
    pair.finish(b"in doubt");
    assert_eq!(pair.outcome(in_doubt), reply(b"in doubt"), "by another token of the same name");
    assert_eq!(pair.ran(b"in doubt"), 1);
}

#[test]
fn c182_who_shows_no_token_learns_nothing_of_the_server_but_its_instance() {
    let mut pair = pair_with(None);
    let Frame::Hello(plain) = hello(None) else { unreachable!() };
    let wanted = Frame::Hello(Hello { service: Some(service("another")), ..plain });
    assert_eq!(greet(&mut pair, &wanted, None), [OwnedFrame::Refuse(Refuse::TokenMissing)]);
    pair.server.drain(pair.now, secs(10));
    assert_eq!(greet(&mut pair, &wanted, None), [OwnedFrame::Refuse(Refuse::TokenMissing)]);
}

#[test]
fn c182_a_server_that_demands_no_token_ignores_one() {
    let mut config = ClientConfig::default();
    config.token = Some(token(1));
    let mut pair = Pair::with(default_server_config(), config).connected();
    let call = pair.call(b"a");
    assert_eq!(pair.outcome(call), reply(b"a"));
    let conn = pair.conn(pair.link_number()).unwrap();
    assert_eq!(pair.server.principal_of(conn), Some(ALICE), "the transport's");
}

#[test]
fn c183_a_connection_moves_to_the_share_of_its_tokens_principal() {
    let mut bare = Bare::with(|config| {
        config.demands_tokens = true;
        config.conns_max = 40;
    });
    let connect = |bare: &mut Bare, number: u8| {
        let secret = SessionId::from_bytes([number; 16]);
        bare.server.handle_connected(NOW, Principal::ANONYMOUS, secret)
    };
    // All that strangers may have at once.
    let strangers: Vec<ConnId> = (0..50).filter_map(|number| connect(&mut bare, number)).collect();
    assert_eq!(strangers.len(), 30);
    for conn in &strangers[..20] {
        bare.server.identify(*conn, ALICE);
        bare.server.identify(*conn, BOB);
        assert_eq!(bare.server.principal_of(*conn), Some(ALICE), "once");
    }
    // There is room for strangers again.
    assert!(connect(&mut bare, 60).is_some());
    for conn in &strangers {
        bare.server.handle_disconnected(NOW, *conn);
    }
    assert!(!bare.server.knows(ALICE) && bare.server.knows(Principal::ANONYMOUS));
    assert_eq!(bare.server.counters().conns, 1);
}

#[test]
fn c183_a_principal_without_a_place_left_is_refused_and_others_are_not() {
    let mut bare = Bare::with(|config| {
        config.demands_tokens = true;
        config.conns_max = 40;
    });
    let mut number = 0;
    let mut open = |bare: &mut Bare, principal| {
        number += 1;
        let secret = SessionId::from_bytes([number; 16]);
        let conn = bare.server.handle_connected(NOW, Principal::ANONYMOUS, secret).unwrap();
        bare.server.identify(conn, principal);
        let _ = bare.server.handle_data(NOW, conn, &bytes_of(&hello_with(Some(token(1)), None)));
        while bare.write(conn, 4096) > 0 {}
        bare.server.session_of(conn).is_some()
    };
    let opened = (0..35).filter(|_| open(&mut bare, ALICE)).count();
    assert!((30..=31).contains(&opened), "{opened}: it leaves a quarter to others");
    assert_eq!(bare.server.counters().hellos_without_room, 35 - opened as u64);
    assert!(open(&mut bare, BOB));
}

#[test]
fn c183_the_last_place_is_its_own() {
    let mut bare = Bare::with(|config| {
        config.demands_tokens = true;
        config.conns_max = 1;
    });
    let secret = SessionId::from_bytes([1; 16]);
    let conn = bare.server.handle_connected(NOW, Principal::ANONYMOUS, secret).unwrap();
    bare.server.identify(conn, ALICE);
    assert_eq!(bare.server.principal_of(conn), Some(ALICE));
    assert!(!bare.server.knows(Principal::ANONYMOUS));
}

/// An attacker between a client and a server, or either of them, takes features away or adds some.
#[test]
fn c189_features_are_neither_forced_on_an_end_nor_dropped_to_evade_a_check() {
    // Without the bit, bytes behind the `Hello` are a later version's, and no token.
    let mut pair = pair_with(None);
    let mut bytes = bytes_of(&hello_with(None, None));
    bytes.extend([&[32][..], &[1; 32]].concat());
    let len = (bytes.len() - wire::LEN_FIELD_LEN) as u32;
    bytes[..wire::LEN_FIELD_LEN].copy_from_slice(&len.to_le_bytes());
    let raw = pair.raw(Principal::ANONYMOUS);
    pair.send_bytes(raw, &bytes);
    assert_eq!(pair.got(raw), [OwnedFrame::Refuse(Refuse::TokenMissing)]);
    // A server grants what was offered, and no more, also where the `Hello` has bits that it does not know.
    for features in [0, FEATURE_METADATA, !FEATURE_TOKEN] {
        let mut pair = Pair::unconnected();
        let Frame::Hello(plain) = hello(None) else { unreachable!() };
        let raw = pair.raw(ALICE);
        let welcome = pair.raw_greet(raw, &Frame::Hello(Hello { features, ..plain }));
        assert_eq!(welcome.features & !features, 0);
    }
    // A client takes none that it did not offer, a token's included.
    for bit in (0..32).filter(|bit| 1 << bit != FEATURE_METADATA) {
        let mut pair = Pair::new();
        let link = pair.connect_by_hand(0);
        pair.drive();
        let mut welcome = pair.resuming_welcome(0);
        welcome.features |= 1 << bit;
        pair.send_down(link, &Frame::Welcome(welcome));
        assert!(!pair.client().is_connected(), "bit {bit}");
        assert_eq!(pair.peers[0].errors, [ProtocolError::UnexpectedWelcome], "bit {bit}");
    }
    // And what a session had is not taken from it on a later connection.
    let mut pair = Pair::new();
    let link = pair.connect_by_hand(0);
    pair.drive();
    let mut welcome = pair.resuming_welcome(0);
    welcome.features = 0;
    pair.send_down(link, &Frame::Welcome(welcome));
    assert_eq!(pair.sessions_lost().len(), 1);
}
