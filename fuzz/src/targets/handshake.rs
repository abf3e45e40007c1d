//! Handshakes: a server that reads any `Hello`, and a client that reads any answer.

use std::time::Duration;

use oncewire_core::wire::{
    self, Decoded, FEATURE_TOKEN, Frame, Grants, Hello, Refuse, Resume, Role, Welcome,
};
use oncewire_core::*;

use super::script::{Script, bytes_of};

const ALICE: Principal = Principal(1);
const BOB: Principal = Principal(2);

/// The first byte says which side reads; the others make up what it reads.
pub fn handshake(data: &[u8]) {
    let mut script = Script::new(data);
    if script.byte() & 1 == 0 { server_reads(&mut script) } else { client_reads(&mut script) }
}

fn name(script: &mut Script<'_>) -> Option<ServiceName> {
    match script.byte() % 4 {
        0 => ServiceName::new("fuzz"),
        1 => ServiceName::new("other"),
        _ => None,
    }
}

fn id(script: &mut Script<'_>) -> [u8; 16] {
    let mut id = [script.byte() % 4; 16];
    id[15] ^= script.byte() % 3;
    id
}

fn hello(script: &mut Script<'_>) -> Hello {
    let resume = (script.byte() & 1 == 1)
        .then(|| Resume { session: SessionId::from_bytes(id(script)), acked: script.number() });
    let features = u32::from(script.byte());
    let token = Token::new(&[script.byte() % 4; 16]).filter(|_| features & FEATURE_TOKEN != 0);
    Hello {
        magic: if script.byte() == 255 { *b"1wix" } else { wire::MAGIC },
        version_min: script.byte() % 3,
        version_max: script.byte() % 3,
        features,
        resume,
        slots: script.number() as u32,
        request_len_max: script.number() as u32,
        reply_len_max: script.number() as u32,
        service: name(script),
        server: (script.byte() & 3 == 0).then(|| ServerId::from_bytes(id(script))),
        token,
    }
}

/// Whose token a `Hello` shows, if anyone's.
fn known(bytes: &[u8]) -> Option<Principal> {
    match wire::decode(bytes, Role::Client, 0) {
        Ok(Decoded::Frame(Frame::Hello(Hello { token: Some(token), .. }), _)) => {
            match token.as_bytes().first() {
                Some(0) => Some(ALICE),
                Some(1) => Some(BOB),
                _ => None,
            }
        }
        _ => None,
    }
}

/// No session without an accepted `Hello`, none for the wrong principal or without a token that is known where one is
/// demanded, at most one a connection.
fn server_reads(script: &mut Script<'_>) {
    let mut config =
        ServerConfig::new(ServerId::from_bytes([1; 16]), ServiceName::new("fuzz").expect("short"));
    config.sessions_max = 3;
    config.sessions_per_principal_max = 2;
    let switches = script.byte();
    config.lossy = switches & 1 == 1;
    config.demands_tokens = switches & 2 == 2;
    let mut server: Server<Heap> = Server::new(config, &[]).expect("no methods");
    let now = Instant::from_millis(5);
    let grants =
        Grants { slots: 4, request_len_max: 9, reply_len_max: 9, lease_ms: 9, keepalive_ms: 9 };
    let session = SessionId::from_bytes([2; 16]);
    let record = SessionRecord { id: session, principal: ALICE, grants, seen: 7, acked: 3 };
    let restored = server.restore_session(now, record).expect("there is room");
    for number in 0..4 {
        let principal = if script.byte() & 1 == 0 { ALICE } else { BOB };
        let secret = SessionId::from_bytes([number + 10; 16]);
        let before = server.counters().sessions;
        let Some(conn) = server.handle_connected(now, principal, secret) else { return };
        let mut bytes = bytes_of(&Frame::Hello(hello(script)));
        let raw = usize::from(script.byte() % 64);
        match script.byte() % 4 {
            0 => bytes = script.bytes(raw).to_vec(),
            1 => bytes.extend_from_slice(script.bytes(raw)),
            _ => {}
        }
        let known = known(&bytes).filter(|_| config.demands_tokens);
        known.into_iter().for_each(|principal| server.identify(conn, principal));
        let principal = known.unwrap_or(principal);
        let accepted = server.handle_data(now, conn, &bytes).is_ok();
        let bound = server.session_of(conn);
        assert!(bound.is_none() || known.is_some() || !config.demands_tokens, "W29");
        if bound == Some(restored) {
            assert!(principal == ALICE, "S5: another principal resumed the session");
        }
        assert!(accepted || server.counters().sessions <= before + 1);
        let opened = server.counters().sessions > before;
        assert!(!opened || bytes.starts_with(&[bytes[0], bytes[1], 0, 0, 1]));
        assert!(server.counters().sessions <= 3);
        let mut out = [0; 600];
        let mut events = 0;
        while let Some(event) = server.poll_event() {
            events += 1;
            assert!(events < 100, "events without end");
            if let ServerEvent::Transmit(conn) = event {
                while server.poll_transmit(now, conn, &mut out).is_some() {}
            }
        }
    }
    let later = now + Duration::from_secs(1_000);
    server.handle_timeout(later);
    while server.poll_event().is_some() {}
    server.handle_timeout(later + Duration::from_secs(1_000));
    while server.poll_event().is_some() {}
    assert_eq!(server.counters().kept_bytes, 0);
}

/// A client is up only after a sane `Welcome`, and stays within what it can serve.
fn client_reads(script: &mut Script<'_>) {
    let mut config = ClientConfig::default();
    config.slots = 4;
    config.service = name(script);
    config.server = (script.byte() & 3 == 0).then(|| ServerId::from_bytes(id(script)));
    config.token = Token::new(&[script.byte(); 16]).filter(|token| token.as_bytes()[0] & 1 == 1);
    if script.byte() & 1 == 1 {
        config.resend_after = Some(Duration::from_millis(100));
    }
    let mut client: Client<Heap> = Client::new(config);
    let mut now = Instant::from_millis(5);
    let _ = client.call(now, Call::new(MethodId::of("fuzz/call"), b"body"));
    let mut out = [0; 600];
    for _ in 0..4 {
        if !client.wants_connection() {
            break;
        }
        client.handle_connected(now);
        while client.poll_transmit(now, &mut out).is_some() {}
        let frame = match script.byte() % 8 {
            0..6 => Frame::Welcome(welcome(script)),
            _ => Frame::Refuse(refuse(script), Instance::UNNAMED),
        };
        let mut bytes = bytes_of(&frame);
        let raw = usize::from(script.byte() % 64);
        if script.byte().is_multiple_of(4) {
            bytes.extend_from_slice(script.bytes(raw));
        }
        let result = client.handle_data(now, &bytes);
        if client.is_connected() {
            let session = client.session().expect("connected");
            assert!(result.is_ok());
            assert!((1..=4).contains(&session.grants.slots), "{session:?}");
            assert!(session.grants.keepalive_ms > 0);
            assert!(config.service.is_none_or(|service| service == session.service));
            assert!(config.server.is_none_or(|server| server == session.server));
        }
        while client.poll_event().is_some() {}
        while client.poll_transmit(now, &mut out).is_some() {}
        client.handle_disconnected(now);
        now = now + Duration::from_millis(u64::from(script.byte()));
        client.handle_timeout(now);
    }
    client.handle_timeout(now + Duration::from_secs(31));
    while client.poll_event().is_some() {}
    assert!(client.pending() <= 1);
}

fn welcome(script: &mut Script<'_>) -> Welcome {
    // A client takes no other h than 0 for a new session.
    let seen = |number| if number % 2 == 0 { 0 } else { number };
    Welcome {
        version: 1 + (script.byte() == 255) as u8,
        features: u32::from(script.byte() == 255),
        server: ServerId::from_bytes(id(script)),
        service: name(script).unwrap_or(ServiceName::EMPTY),
        session: SessionId::from_bytes(id(script)),
        seen: seen(script.number()),
        commit: script.number(),
        grants: Grants {
            slots: script.number() as u32 % 7,
            request_len_max: script.number() as u32,
            reply_len_max: script.number() as u32,
            lease_ms: script.number() as u32,
            keepalive_ms: script.number() as u32,
        },
        instance: Instance::UNNAMED,
        schemas: Schemas::EMPTY,
    }
}

fn refuse(script: &mut Script<'_>) -> Refuse {
    match script.byte() % 12 {
        0 => Refuse::Protocol(script.byte()),
        1 => Refuse::VersionUnsupported { min: script.byte(), max: script.byte() },
        2 => Refuse::SessionUnknown,
        3 => Refuse::WrongPrincipal,
        4 => Refuse::SessionsFull,
        5 => Refuse::PrincipalFull,
        6 => Refuse::WrongServer {
            service: name(script).unwrap_or(ServiceName::EMPTY),
            server: ServerId::from_bytes(id(script)),
        },
        7 => Refuse::ShuttingDown,
        8 => Refuse::Superseded,
        9 => Refuse::TokenMissing,
        10 => Refuse::TokenUnknown,
        _ => Refuse::TooSlow,
    }
}
