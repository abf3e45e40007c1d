//! What idle sessions cost on the heap, counted byte by byte.

// An allocator cannot be written without it; the crate under test forbids it for itself.
#![allow(unsafe_code, missing_docs)]
#![cfg(feature = "alloc")]

#[path = "util/counting.rs"]
mod counting;

use std::sync::atomic::Ordering;

use counting::LIVE;
use oncewire_core::*;

const SESSIONS: usize = 10_000;
/// The promise: bytes of heap for an idle session without a connection.
const SESSION_BYTES_MAX: usize = 128;

/// One client's whole life at the server: open, one call with a reply of 1,000 bytes, acknowledge, go away.
fn visit(server: &mut Server<Heap>, number: usize, now: Instant) {
    let mut client: Client<Heap> = Client::new(ClientConfig::default());
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    let conn =
        server.handle_connected(now, Principal::ANONYMOUS, SessionId::from_bytes(id)).unwrap();
    client.handle_connected(now);
    client.call(now, Call::new(MethodId::of("m"), b"arguments")).unwrap();
    let later = now + std::time::Duration::from_secs(1);
    let mut wire = [0; 4096];
    for now in [now, now, now, later] {
        while let Some(len) = client.poll_transmit(now, &mut wire) {
            let mut data = &wire[..len.get()];
            while !data.is_empty() {
                let received = server.handle_data(now, conn, data).unwrap();
                data = &data[received.consumed..];
                if let Some(Incoming::Request(request)) = received.item {
                    let running = server.start(now, request.admission).unwrap();
                    server.reply(now, running, &[7; 1000]).unwrap();
                }
            }
        }
        while let Some(len) = server.poll_transmit(now, conn, &mut wire) {
            let mut data = &wire[..len.get()];
            while !data.is_empty() {
                data = &data[client.handle_data(now, data).unwrap().consumed..];
            }
        }
        while server.poll_event().is_some() {}
        while client.poll_event().is_some() {}
    }
    assert_eq!(client.pending(), 0);
    server.handle_disconnected(later, conn);
}

#[test]
fn an_idle_session_without_a_connection_costs_at_most_128_bytes() {
    let name = ServiceName::new("memory").unwrap();
    let config = ServerConfig::new(ServerId::from_bytes([1; 16]), name);
    let methods = [MethodSpec::new(MethodId::of("m"))];
    let mut server: Server<Heap> = Server::new(config, &methods).unwrap();
    let before = LIVE.load(Ordering::Relaxed);
    for number in 0..SESSIONS {
        visit(&mut server, number, Instant::from_millis(number as u64));
    }
    let bytes = LIVE.load(Ordering::Relaxed) - before;
    let counters = server.counters();
    assert_eq!((counters.sessions, counters.conns, counters.kept_bytes), (SESSIONS, 0, 0));
    println!("{} bytes a session", bytes / SESSIONS);
    assert!(
        bytes <= SESSIONS * SESSION_BYTES_MAX,
        "{} bytes a session, {SESSION_BYTES_MAX} are promised",
        bytes / SESSIONS
    );
}
