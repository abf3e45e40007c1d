//! Peers that send calls before they are welcome, and all of it again on the next connection.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::BoxStream;
use oncewire_driver::core::wire::{self, Frame, Hello, RequestHeader};
use oncewire_driver::core::{MethodId, Xid};

use super::World;
use super::service::{NOTE, PAY};
use crate::driver_world::executor::{Sleep, lock};
use crate::driver_world::handlers::pad;
use crate::driver_world::profile::MS;
use crate::rng::Rng;

/// Operations of strangers have numbers from this one on.
pub const OPS: u64 = 1 << 40;
/// The client that they say they are.
const CLIENT: usize = 900;

/// Goes on while faults do.
pub async fn run(world: Arc<World>) {
    let mut rng = Rng::apart(world.profile.seed, 0x6a);
    let mut bytes = Vec::new();
    while !world.sim.is_calm() {
        Sleep::new(&world.sim, rng.delay(400 * MS)).await;
        // The same bytes again, or others.
        if bytes.is_empty() || rng.one_in(2) {
            bytes = opening(&mut rng);
        }
        let Ok(mut stream) = world.dial(CLIENT).await else { continue };
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
fn opening(rng: &mut Rng) -> Vec<u8> {
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
    };
    let mut bytes = frame(&Frame::Hello(hello));
    for xid in 1..=rng.range(1, 4) {
        let op = OPS + rng.below(1 << 30);
        let method = if rng.one_in(2) { NOTE.id() } else { PAY.id() };
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
        remaining_ms: 30_000,
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
