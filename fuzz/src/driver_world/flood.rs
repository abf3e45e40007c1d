//! Peers that send without end: what a server does for one of them in one turn is bounded.
//!
//! Their stream always has bytes to read, so a connection that reads for as long as there is something holds everybody up
//! for ever. Virtual time does not pass in a turn; reads are counted instead.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::Subject;
use oncewire_driver::core::wire::{self, Frame, Hello, Role};

use super::World;
use super::executor::{Sleep, lock};
use super::place::USERS;
use super::profile::MS;
use crate::mutant::Mutant;
use crate::rng::Rng;

/// Reads in one poll of a task that no server makes of one connection.
const READS_MAX: u64 = 64;

/// What a flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pings,
    /// `Hello` again and again: the second is an error.
    Hellos,
}

struct FloodStream {
    world: Arc<World>,
    opening: Vec<u8>,
    frame: Vec<u8>,
    /// Bytes that were read.
    at: usize,
    /// Bytes until it ends.
    len: usize,
    /// What is written to it goes nowhere, or waits for ever.
    takes: bool,
    /// Which poll of the world this is, and how many reads there were in it.
    reads: (u64, u64),
}

fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    let len = wire::encode(frame, &mut bytes).unwrap_or(0);
    bytes.truncate(len);
    bytes
}

impl FloodStream {
    fn new(world: &Arc<World>, rng: &mut Rng) -> FloodStream {
        let hello = bytes_of(&Frame::Hello(Hello {
            magic: wire::MAGIC,
            version_min: wire::VERSION,
            version_max: wire::VERSION,
            features: 0,
            resume: None,
            slots: 8,
            request_len_max: 1 << 10,
            reply_len_max: 1 << 10,
            service: None,
            server: None,
        }));
        let kind = rng.pick(&[Kind::Pings, Kind::Pings, Kind::Pings, Kind::Hellos]);
        let frame = match kind {
            Kind::Pings => bytes_of(&Frame::Ping(Role::Client)),
            Kind::Hellos => hello.clone(),
        };
        let len = rng.range(100, 800) as usize * 1_000;
        world.sim.note(|| format!("a flood of {len} bytes: {kind:?}"));
        FloodStream {
            world: world.clone(),
            opening: hello,
            frame,
            at: 0,
            len,
            takes: !rng.one_in(4),
            reads: (0, 0),
        }
    }

    /// A server that goes on reading is stopped here, and found out.
    fn count_read(&mut self) -> io::Result<()> {
        let poll = self.world.sim.polls.load(Ordering::Relaxed);
        if self.reads.0 != poll {
            self.reads = (poll, 0);
        }
        self.reads.1 += 1;
        if self.reads.1 > READS_MAX {
            let what = format!("one connection was read {READS_MAX} times in one turn");
            self.world.sim.fail(what);
            return Err(io::ErrorKind::Other.into());
        }
        Ok(())
    }
}

impl AsyncRead for FloodStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.count_read()?;
        let this = &mut *self;
        let len = buf.len().min(this.len.saturating_sub(this.at));
        for byte in &mut buf[..len] {
            *byte = match this.at.checked_sub(this.opening.len()) {
                None => this.opening[this.at],
                Some(at) => this.frame[at % this.frame.len()],
            };
            this.at += 1;
        }
        Poll::Ready(Ok(len))
    }
}

impl AsyncWrite for FloodStream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.takes { Poll::Ready(Ok(buf.len())) } else { Poll::Pending }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The mutant's way: as long as there is something.
async fn read_all(mut stream: FloodStream) {
    let mut bytes = [0; 4096];
    while let Ok(1..) = poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut bytes)).await {}
}

/// A few floods, one after another or several at once.
pub async fn run(world: Arc<World>) {
    let mut rng = Rng::apart(world.profile.seed, 0x6b);
    for _ in 0..rng.range(1, 6) {
        Sleep::new(&world.sim, rng.delay(300 * MS)).await;
        let server = lock(&world.place).hosts.first().map(|host| host.server.clone());
        if let Some(server) = server {
            let stream = FloodStream::new(&world, &mut rng);
            *lock(&world.place).faults.entry("flood").or_default() += 1;
            match world.mutant {
                Some(Mutant::Greedy) => world.sim.spawn(USERS, read_all(stream)),
                _ => server.serve_stream(Box::new(stream), Subject::Anonymous),
            }
        }
    }
}
