//! Peers that send calls before they have their `Welcome`, and leave without a `Goodbye`.
//!
//! Links deliver in pieces, so what follows a `Hello` may be read after its `Welcome` has left: such a call may
//! run. Each connection has a name and operations of its own, so that the model knows which session it ran in.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::BoxStream;
use oncewire_driver::protocol::wire::{self, Frame, Hello, RequestHeader};
use oncewire_driver::protocol::{MethodId, Xid};

use super::World;
use super::model::Kind;
use super::service::{NOTE, PAY};
use crate::driver_world::executor::{Sleep, lock};
use crate::driver_world::handlers::pad;
use crate::driver_world::profile::MS;
use crate::rng::Rng;

/// Connections of strangers are clients from this number on.
pub const CLIENTS: usize = 900;
/// The time that their calls have.
const TIMEOUT_MS: u64 = 30_000;

/// Goes on while faults do.
pub async fn run(world: Arc<World>) {
    let mut rng = Rng::apart(world.profile.seed, 0x6a);
    let mut client = CLIENTS;
    while !world.sim.is_calm() {
        Sleep::new(&world.sim, rng.delay(400 * MS)).await;
        let Ok(mut stream) = world.dial(client).await else { continue };
        client += 1;
        let bytes = opening(&world, &mut rng);
        lock(&world.host).strangers += 1;
        if write_all(&mut stream, &bytes).await.is_some() && rng.one_in(2) {
            let (sleep, reads) = (Sleep::new(&world.sim, 2_000 * MS), read_some(&mut stream));
            let (mut sleep, mut reads) = (std::pin::pin!(sleep), std::pin::pin!(reads));
            poll_fn(|cx| match reads.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => sleep.as_mut().poll(cx),
            })
            .await;
        }
    }
}

/// A `Hello` with calls behind it, and perhaps a frame behind them that is none.
fn opening(world: &World, rng: &mut Rng) -> Vec<u8> {
    let hello = Hello {
        magic: wire::MAGIC,
        version_min: wire::VERSION,
        version_max: wire::VERSION,
        features: 0,
        resume: None,
        slots: 4,
        request_len_max: 1 << 16,
        reply_len_max: 1 << 16,
        service: None,
        server: None,
        token: None,
    };
    let mut bytes = frame(&Frame::Hello(hello));
    for xid in 1..=rng.range(1, 4) {
        let (method, kind) =
            if rng.one_in(2) { (NOTE.id(), Kind::Note) } else { (PAY.id(), Kind::Pay) };
        let op = lock(&world.model).begin(world.sim.now(), kind, TIMEOUT_MS * MS);
        bytes.extend(request(xid, method, op));
    }
    if rng.one_in(2) {
        bytes.extend([9, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4, 5, 6, 7]);
    }
    bytes
}

fn request(xid: u64, method: MethodId, op: u64) -> Vec<u8> {
    let body = postcard::to_allocvec(&(op, pad(op, 10))).expect("numbers and bytes");
    let header = RequestHeader {
        flags: 0,
        method,
        remaining_ms: TIMEOUT_MS as u32,
        xid: Xid::new(xid).expect("no xid is 0"),
        acked: 0,
    };
    frame(&Frame::Request(header, &body))
}

fn frame(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = vec![0; 4_096];
    let len = wire::encode(frame, &mut bytes).expect("a short frame");
    bytes.truncate(len);
    bytes
}

async fn write_all(stream: &mut BoxStream, mut bytes: &[u8]) -> Option<()> {
    while !bytes.is_empty() {
        let len = poll_fn(|cx| Pin::new(&mut *stream).poll_write(cx, bytes)).await.ok()?;
        bytes = &bytes[len..];
    }
    poll_fn(|cx| Pin::new(&mut *stream).poll_flush(cx)).await.ok()
}

/// Until it ends: the server does not like it.
async fn read_some(stream: &mut BoxStream) {
    let mut bytes = [0; 512];
    for _ in 0..4 {
        match poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut bytes)).await {
            Ok(1..) => {}
            _ => return,
        }
    }
}
