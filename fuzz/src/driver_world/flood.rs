//! Peers that send to a server without end: what it does for one of them in one turn is bounded.
//!
//! Their stream always has bytes to read, so a connection that reads for as long as there is something would hold up
//! all others for ever. Time passes with what is read of a flood: a bound in time is a bound in reads.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::Subject;
use oncewire_driver::protocol::wire::{self, Frame, Hello, Role};
use oncewire_driver::protocol::{self as core, Heap, Instant, Xid};

use super::World;
use super::executor::{Policy, Sim, Sleep, lock};
use super::handlers;
use super::profile::MS;
use crate::rng::Rng;

/// Reads in one poll of a task that no server makes of one connection.
const READS_MAX: u64 = 64;
/// What a read of a flood takes.
pub const READ_TIME: u64 = 20_000;
/// Bytes that it brings at most.
const READ_LEN: usize = 4096;
/// Bytes of frames after which a flood counts as one: a server that ended the connection at its first frame saw none.
const COUNTED_LEN: usize = 64 << 10;
/// Calls that a flood of calls has in flight, if it was granted so many slots.
const IN_FLIGHT: usize = 64;

/// What a flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pings,
    /// `Hello` again and again: the second is an error.
    Hellos,
    /// Questions about a call that was never made.
    Asks,
    /// Calls, each as soon as there is a slot for it.
    Calls,
}

/// What is sent.
enum Source {
    /// An opening, then, once that is answered, a frame again and again: sent before the `Welcome`, the first of them ends the
    /// connection.
    Frames { opening: Vec<u8>, frame: Vec<u8>, at: usize, is_answered: bool },
    /// What a client's machine has to say, which is given this number of calls.
    Machine { machine: Box<core::Client<Heap>>, calls: usize, out: VecDeque<u8>, coming: Vec<u8> },
}

struct FloodStream {
    world: Arc<World>,
    source: Source,
    /// What it counts as, until it has.
    uncounted: Option<&'static str>,
    /// Bytes until it ends.
    left: usize,
    /// What is written to it after the opening was answered goes nowhere, or waits for ever.
    takes: bool,
    reader: Option<Waker>,
    /// Reads in the present turn.
    reads: InOneTurn,
}

/// A sum over one poll of one task.
#[derive(Clone, Copy, Debug, Default)]
pub struct InOneTurn {
    poll: u64,
    sum: u64,
}

impl InOneTurn {
    /// Adds `amount`, and returns the sum of the present turn.
    pub fn add(&mut self, sim: &Sim, amount: u64) -> u64 {
        let poll = sim.polls.load(Ordering::Relaxed);
        if self.poll != poll {
            *self = InOneTurn { poll, sum: 0 };
        }
        self.sum += amount;
        self.sum
    }
}

/// Moves bytes out of a queue; returns how many.
pub fn take_front(queue: &mut VecDeque<u8>, buf: &mut [u8]) -> usize {
    let len = queue.len().min(buf.len());
    buf.iter_mut().zip(queue.drain(..len)).for_each(|(to, byte)| *to = byte);
    len
}

/// A frame as it is written.
pub fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    let len = wire::encode(frame, &mut bytes).unwrap_or(0);
    bytes.truncate(len);
    bytes
}

fn hello() -> Vec<u8> {
    bytes_of(&Frame::Hello(Hello {
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
        token: None,
    }))
}

impl Kind {
    fn source(self, rng: &mut Rng) -> Source {
        let frame = match self {
            Kind::Pings => bytes_of(&Frame::Ping(Role::Client)),
            Kind::Hellos => hello(),
            Kind::Asks => bytes_of(&Frame::Ask(Xid::new(1).expect("not 0"), 1)),
            Kind::Calls => {
                let machine = Box::new(core::Client::new(core::ClientConfig::default()));
                let (calls, coming) = (rng.range(200, 1_000) as usize, Vec::new());
                return Source::Machine { machine, calls, out: VecDeque::new(), coming };
            }
        };
        Source::Frames { opening: hello(), frame, at: 0, is_answered: false }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Pings => "flood of pings",
            Kind::Hellos => "flood of hellos",
            Kind::Asks => "flood of asks",
            Kind::Calls => "flood of calls",
        }
    }
}

impl FloodStream {
    fn new(world: &Arc<World>, rng: &mut Rng) -> FloodStream {
        let kind = rng.pick(&[Kind::Pings, Kind::Pings, Kind::Asks, Kind::Calls, Kind::Hellos]);
        // An executor that always polls what was woken last polls nothing else as long as it lasts.
        let thousands = if world.profile.schedule.policy == Policy::Newest { 300 } else { 3_000 };
        let left = rng.range(100, thousands) as usize * 1_000;
        world.sim.note(|| format!("a {} of {left} bytes", kind.name()));
        if kind == Kind::Hellos {
            // The second one ends it.
            world.count(kind.name());
        }
        let mut source = kind.source(rng);
        if let Source::Machine { machine, .. } = &mut source {
            machine.handle_connected(Instant::from_nanos(world.sim.now()));
        }
        let takes = kind == Kind::Calls || !rng.one_in(4);
        FloodStream {
            world: world.clone(),
            source,
            uncounted: Some(kind.name()).filter(|_| kind != Kind::Hellos),
            left,
            takes,
            reader: None,
            reads: InOneTurn::default(),
        }
    }

    /// A server that goes on reading is stopped here, and found out.
    fn count_read(&mut self) -> io::Result<()> {
        if self.reads.add(&self.world.sim, 1) > READS_MAX {
            let what = format!("one connection was read {READS_MAX} times in one turn");
            self.world.sim.fail(what);
            return Err(io::ErrorKind::Other.into());
        }
        Ok(())
    }

    fn count_flood(&mut self) {
        if self.source.is_flood()
            && let Some(name) = self.uncounted.take()
        {
            self.world.count(name);
        }
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.world.sim.now())
    }
}

impl Source {
    /// The next bytes; none for now, or ever, if `is_over`.
    fn fill(&mut self, now: Instant, buf: &mut [u8]) -> usize {
        match self {
            Source::Frames { opening, frame, at, is_answered } => {
                let bytes = opening.iter().chain(frame.iter().cycle());
                let limit = if *is_answered { usize::MAX } else { opening.len() };
                let start = match at.checked_sub(opening.len()) {
                    None => *at,
                    Some(at) => opening.len() + at % frame.len(),
                };
                let len = buf.len().min(limit - *at);
                buf.iter_mut().zip(bytes.skip(start)).take(len).for_each(|(to, byte)| *to = *byte);
                *at += len;
                len
            }
            Source::Machine { machine, calls, out, .. } => {
                while *calls > 0 && machine.is_connected() && machine.pending() < IN_FLIGHT {
                    *calls -= 1;
                    // As a handler of the world would not understand it: it is refused, or echoes nothing.
                    let call = core::Call::new(handlers::FLOODED, &b"flood"[..]);
                    if machine.call(now, call).is_err() {
                        *calls = 0;
                    }
                }
                let mut bytes = [0; READ_LEN];
                while out.len() < buf.len()
                    && let Some(len) = machine.poll_transmit(now, &mut bytes)
                {
                    out.extend(&bytes[..len.get()]);
                }
                take_front(out, buf)
            }
        }
    }

    /// Whether the server has read enough of it.
    fn is_flood(&self) -> bool {
        match self {
            Source::Frames { at, .. } => *at >= COUNTED_LEN,
            Source::Machine { .. } => self.is_over(),
        }
    }

    /// Whether the server has yet to answer the opening.
    fn is_opening(&self) -> bool {
        matches!(self, Source::Frames { is_answered: false, .. })
    }

    fn is_over(&self) -> bool {
        match self {
            Source::Frames { .. } => false,
            Source::Machine { machine, calls, .. } => {
                (*calls == 0 && machine.pending() == 0) || machine.refusal().is_some()
            }
        }
    }

    /// What the server writes.
    fn take(&mut self, now: Instant, bytes: &[u8]) -> io::Result<()> {
        let (machine, coming) = match self {
            Source::Frames { is_answered, .. } => {
                *is_answered = true;
                return Ok(());
            }
            Source::Machine { machine, coming, .. } => (machine, coming),
        };
        coming.extend(bytes);
        loop {
            let taken = machine.handle_data(now, coming);
            let consumed = taken.map_err(|_| io::ErrorKind::InvalidData)?.consumed;
            while machine.poll_event().is_some() {}
            coming.drain(..consumed);
            if consumed == 0 || coming.is_empty() {
                return Ok(());
            }
        }
    }
}

impl AsyncRead for FloodStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let (now, max) = (this.now(), buf.len().min(READ_LEN).min(this.left));
        let len = this.source.fill(now, &mut buf[..max]);
        this.count_flood();
        if len == 0 {
            if this.left == 0 || this.source.is_over() {
                return Poll::Ready(Ok(0));
            }
            this.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        this.left -= len;
        this.world.sim.take_time(READ_TIME);
        this.count_read()?;
        Poll::Ready(Ok(len))
    }
}

impl AsyncWrite for FloodStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.takes && !self.source.is_opening() {
            return Poll::Pending;
        }
        let now = self.now();
        self.source.take(now, buf)?;
        self.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A few floods, one after another or several at once.
pub async fn run(world: Arc<World>) {
    let mut rng = Rng::apart(world.profile.seed, 0x6b);
    for _ in 0..rng.range(1, 6) {
        Sleep::new(&world.sim, rng.delay(300 * MS)).await;
        let server = lock(&world.place).hosts.first().map(|host| host.server.clone());
        if let Some(server) = server {
            let stream = FloodStream::new(&world, &mut rng);
            server.serve_stream(Box::new(stream), Subject::Anonymous);
        }
    }
}
