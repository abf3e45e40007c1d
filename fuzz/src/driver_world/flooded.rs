//! Streams between a client and its link: servers that send without end beside their answers, and receivers that are not
//! heard.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::protocol::Status;
use oncewire_driver::protocol::wire::{self, Decoded, Frame, Role};

use super::World;
use super::flood::{InOneTurn, READ_TIME, bytes_of, take_front};
use super::net::SimStream;
use crate::rng::Rng;

/// The longest frame that is looked for.
const BODY_LEN_MAX: u32 = u32::MAX >> 8;
/// Bytes of a flood that a client takes in one poll of a task, at most: it reads what sockets usually hold before it ends
/// what is overdue, and goes on with its turn.
const POLL_MAX: u64 = 512 << 10;

/// What comes between two frames of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pings,
    /// The last reply again and again: its call has its outcome.
    LateAnswers,
}

/// A client's end of a link whose server sends without end, whenever it has nothing else to say.
pub struct FloodedStream {
    inner: SimStream,
    world: Arc<World>,
    kind: Kind,
    /// The front of a frame.
    partial: Vec<u8>,
    /// Whole frames that were not read yet.
    whole: VecDeque<u8>,
    /// What it sends between them; empty as long as there is no such thing.
    flood: Vec<u8>,
    /// Bytes until it is tired.
    left: usize,
    /// Bytes of the flood that were read in the present turn.
    taken: InOneTurn,
    ended: bool,
}

impl FloodedStream {
    /// Floods on this link, if the seed says so.
    pub fn new(world: &Arc<World>, inner: SimStream, rng: &mut Rng) -> FloodedStream {
        let kind = rng.pick(&[Kind::Pings, Kind::LateAnswers]);
        world.count(match kind {
            Kind::Pings => "client flooded by pings",
            Kind::LateAnswers => "client flooded by answers",
        });
        FloodedStream {
            inner,
            world: world.clone(),
            kind,
            partial: Vec::new(),
            whole: VecDeque::new(),
            flood: Vec::new(),
            left: rng.range(20, 400) as usize * 1_000,
            taken: InOneTurn::default(),
            ended: false,
        }
    }

    /// Moves whole frames out of what has come.
    fn sort(&mut self) {
        loop {
            let len = match wire::decode(&self.partial, Role::Server, BODY_LEN_MAX) {
                Ok(Decoded::Frame(frame, len)) => {
                    match frame {
                        Frame::Welcome(_) if self.kind == Kind::Pings => {
                            self.flood = bytes_of(&Frame::Ping(Role::Server));
                        }
                        Frame::Reply(header, body)
                            if self.kind == Kind::LateAnswers
                                && header.status == Status::Done
                                && body.len() < 400 =>
                        {
                            self.flood = self.partial[..len].to_vec();
                        }
                        _ => {}
                    }
                    len
                }
                Ok(Decoded::Incomplete(_)) => return,
                // The client finds out.
                Err(_) => self.partial.len(),
            };
            self.whole.extend(self.partial.drain(..len));
            if self.partial.is_empty() {
                return;
            }
        }
    }

    fn count(&mut self, len: usize) {
        if self.taken.add(&self.world.sim, len as u64) > POLL_MAX {
            self.left = 0;
            self.world.sim.fail(format!("a client read {POLL_MAX} bytes of a flood in one turn"));
        }
    }
}

impl std::fmt::Debug for FloodedStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FloodedStream").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl AsyncRead for FloodedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        loop {
            if !this.whole.is_empty() {
                return Poll::Ready(Ok(take_front(&mut this.whole, buf)));
            }
            let mut bytes = [0; 4096];
            match Pin::new(&mut this.inner).poll_read(cx, &mut bytes) {
                Poll::Ready(Ok(0)) if !this.ended && !this.partial.is_empty() => {
                    this.ended = true;
                    this.whole.extend(this.partial.drain(..));
                }
                Poll::Ready(Ok(len @ 1..)) => {
                    this.partial.extend(&bytes[..len]);
                    this.sort();
                }
                Poll::Pending if this.left > 0 && !this.flood.is_empty() => {
                    this.world.sim.take_time(READ_TIME);
                    let frames = (1_000 / this.flood.len()).max(1);
                    let len = frames * this.flood.len();
                    this.left = this.left.saturating_sub(len);
                    this.count(len);
                    this.whole.extend(this.flood.repeat(frames));
                }
                ended => return ended,
            }
        }
    }
}

impl AsyncWrite for FloodedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// The frames of one direction as they pass, none of them kept for longer than it takes to know its kind.
#[derive(Debug)]
struct Passing {
    from: Role,
    /// The front of a small frame.
    front: Vec<u8>,
    /// Bytes of a large one that are still to come.
    left: usize,
    out: VecDeque<u8>,
}

impl Passing {
    fn new(from: Role) -> Passing {
        Passing { from, front: Vec::new(), left: 0, out: VecDeque::new() }
    }

    /// Bytes pass; Pongs do not, while `is_mute`.
    fn take(&mut self, mut bytes: &[u8], is_mute: bool) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let len = self.left.min(bytes.len());
                self.out.extend(&bytes[..len]);
                self.left -= len;
                bytes = &bytes[len..];
                continue;
            }
            self.front.push(bytes[0]);
            bytes = &bytes[1..];
            match wire::decode(&self.front, self.from, BODY_LEN_MAX) {
                Ok(Decoded::Frame(Frame::Pong(_), _)) if is_mute => self.front.clear(),
                Ok(Decoded::Incomplete(wanted)) if wanted <= wire::CONTROL_LEN_MAX => {}
                Ok(Decoded::Incomplete(wanted)) => {
                    self.left = wanted - self.front.len();
                    self.out.extend(self.front.drain(..));
                }
                _ => self.out.extend(self.front.drain(..)),
            }
        }
    }
}

/// The mutant `mute`: a peer that receives a large frame is not heard meanwhile, as before receivers had to say that
/// they do.
#[derive(Debug)]
pub struct MuteStream {
    inner: SimStream,
    up: Passing,
    down: Passing,
}

impl MuteStream {
    /// Around a client's end.
    pub fn new(inner: SimStream) -> MuteStream {
        MuteStream { inner, up: Passing::new(Role::Client), down: Passing::new(Role::Server) }
    }

    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.up.out.is_empty() {
            let bytes = self.up.out.make_contiguous();
            let len = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
            self.up.out.drain(..len);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for MuteStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        // What was written waits for room: there may be some.
        if let Poll::Ready(Err(error)) = this.poll_empty(cx) {
            return Poll::Ready(Err(error));
        }
        while this.down.out.is_empty() {
            let mut bytes = [0; 4096];
            match ready!(Pin::new(&mut this.inner).poll_read(cx, &mut bytes)) {
                Ok(len @ 1..) => this.down.take(&bytes[..len], this.up.left > 0),
                ended => return Poll::Ready(ended),
            }
        }
        Poll::Ready(Ok(take_front(&mut this.down.out, buf)))
    }
}

impl AsyncWrite for MuteStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_empty(cx))?;
        let len = buf.len().min(4096);
        this.up.take(&buf[..len], this.down.left > 0);
        match this.poll_empty(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(len)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(cx))?;
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
