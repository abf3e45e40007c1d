//! Simulated byte streams: bounded, slow, delivered in pieces, cut anywhere.
//!
//! A link is two wires. Only the task that polled last is woken: the traits promise no more, and a driver that counts on
//! more hangs.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::protocol::wire::{self, Decoded, Role};

use super::SECOND;
use super::executor::{Sim, lock};
use super::rng::Rng;

/// How links behave.
#[derive(Clone, Copy, Debug)]
pub struct LinkStyle {
    /// Bytes under way in one direction, at most.
    pub capacity: usize,
    /// Longest time from one end to the other, in nanoseconds.
    pub delay_max: u64,
    /// Bytes that it carries in a second; 0 if there is no limit.
    pub rate: u64,
    /// Longest piece that is written, delivered or read at once.
    pub piece_max: usize,
    /// A poll is `Pending` without need once in so many; 0 for never.
    pub stutter_in: u64,
    /// A link is given a byte at which it breaks once in so many; 0 for never.
    pub cut_in: u64,
    /// The byte at which it breaks is below this.
    pub cut_below: u64,
    /// Closing an end with bytes unread resets the link once in so many; 0 for never.
    pub reset_unread_in: u64,
    /// A server's end forgets to wake its reader once in so many arrivals, on purpose; 0 for never.
    pub forgets_in: u64,
}

/// How a link breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// What is under way arrives, then the stream ends.
    Clean,
    /// One direction ends, the other stays.
    HalfClosed,
    /// An error; what is under way may be lost.
    Reset,
    /// Bytes of this direction vanish, and neither end notices.
    Hole,
    /// Bytes of both directions do.
    Holes,
}

/// All of them.
pub const CUTS: [Cut; 5] = [Cut::Clean, Cut::HalfClosed, Cut::Reset, Cut::Hole, Cut::Holes];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    Eof,
    Reset,
}

enum Piece {
    Bytes(Vec<u8>),
    Tail(Tail),
}

struct WireState {
    rng: Rng,
    flying: VecDeque<(u64, Piece)>,
    arrived: VecDeque<u8>,
    /// Bytes flying or arrived.
    held: usize,
    last_at: u64,
    stutters_until: u64,
    tail: Option<Tail>,
    /// Bytes vanish.
    hole: bool,
    /// The reader is gone.
    reader_gone: bool,
    /// The writer learns of it.
    write_error: Option<io::ErrorKind>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    written: u64,
    /// At which byte the link breaks, and how.
    cut: Option<(u64, Cut)>,
    /// What was read and not described yet, while the trace is on.
    spied: Vec<u8>,
}

/// One direction of a link.
pub struct Wire {
    sim: Arc<Sim>,
    style: LinkStyle,
    name: String,
    from: Role,
    state: Mutex<WireState>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Wire {
    fn new(sim: &Arc<Sim>, style: LinkStyle, seed: u64, link: u64, from: Role) -> Arc<Wire> {
        let mut rng = Rng::apart(seed, (link << 8) | 0x40 | from as u64);
        let cut = rng.one_in(style.cut_in).then(|| (rng.delay(style.cut_below), rng.pick(&CUTS)));
        let state = WireState {
            rng,
            flying: VecDeque::new(),
            arrived: VecDeque::new(),
            held: 0,
            last_at: 0,
            stutters_until: 0,
            tail: None,
            hole: false,
            reader_gone: false,
            write_error: None,
            reader: None,
            writer: None,
            written: 0,
            cut,
            spied: Vec::new(),
        };
        let name = format!("link {link} {}", if from == Role::Client { "up" } else { "down" });
        Arc::new(Wire { sim: sim.clone(), style, name, from, state: Mutex::new(state) })
    }

    /// What is due arrives.
    pub fn deliver(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        let now = self.sim.now();
        let Some((at, piece)) = state.flying.pop_front() else { return };
        if at > now {
            // Something else has taken its place.
            state.flying.push_front((at, piece));
            return;
        }
        match piece {
            Piece::Bytes(mut bytes) => {
                let len = state.rng.range(1, self.style.piece_max as u64) as usize;
                if len < bytes.len() {
                    let rest = bytes.split_off(len);
                    let at = now + state.rng.delay(self.style.delay_max / 4 + 1);
                    state.flying.push_front((at, Piece::Bytes(rest)));
                    self.sim.deliver_at(at, self.clone());
                }
                self.arrive(&mut state, bytes);
            }
            Piece::Tail(tail) => {
                state.tail.get_or_insert(tail);
            }
        }
        if let Some((at, _)) = state.flying.front()
            && *at <= now
        {
            self.sim.deliver_at(now, self.clone());
        }
        if self.from == Role::Client && state.rng.one_in(self.style.forgets_in) {
            state.reader = None;
        }
        state.reader.take().into_iter().for_each(Waker::wake);
    }

    fn arrive(&self, state: &mut WireState, bytes: Vec<u8>) {
        self.sim.count(bytes.len() as u64);
        if state.tail.is_some() || state.reader_gone {
            state.held -= bytes.len();
            if state.reader_gone {
                // A writer whose reader is gone learns of it.
                state.write_error.get_or_insert(io::ErrorKind::ConnectionReset);
            }
            state.writer.take().into_iter().for_each(Waker::wake);
            return;
        }
        state.arrived.extend(bytes);
    }

    fn fly(self: &Arc<Self>, state: &mut WireState, piece: Piece) {
        let delay = state.rng.delay(self.style.delay_max);
        let mut at = (self.sim.now() + delay).max(state.last_at);
        match piece {
            Piece::Bytes(bytes) if self.style.rate > 0 => {
                // One after the other, so that the reader does not get a second's worth at once.
                for part in bytes.chunks((self.style.rate / 50).max(1) as usize) {
                    at += part.len() as u64 * SECOND / self.style.rate;
                    self.fly_at(state, at, Piece::Bytes(part.to_vec()));
                }
            }
            piece => self.fly_at(state, at, piece),
        }
    }

    fn fly_at(self: &Arc<Self>, state: &mut WireState, at: u64, piece: Piece) {
        state.last_at = at;
        state.flying.push_back((at, piece));
        self.sim.deliver_at(at, self.clone());
    }

    /// The stream ends after what is under way.
    fn end_cleanly(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        if !state.hole {
            self.fly(&mut state, Piece::Tail(Tail::Eof));
        }
        state.write_error.get_or_insert(io::ErrorKind::BrokenPipe);
        state.writer.take().into_iter().for_each(Waker::wake);
    }

    fn reset(&self) {
        let mut state = lock(&self.state);
        if state.hole {
            return;
        }
        if state.rng.one_in(2) {
            state.flying.clear();
        }
        if state.rng.one_in(2) {
            state.arrived.clear();
        }
        let flying: usize = state.flying.iter().map(|(_, piece)| piece.len()).sum();
        state.held = flying + state.arrived.len();
        state.tail = Some(Tail::Reset);
        state.write_error.get_or_insert(io::ErrorKind::ConnectionReset);
        state.reader.take().into_iter().for_each(Waker::wake);
        state.writer.take().into_iter().for_each(Waker::wake);
    }

    /// Bytes that its writer has not written.
    fn slip_in(self: &Arc<Self>, bytes: &[u8]) {
        let mut state = lock(&self.state);
        if state.write_error.is_none() && !state.hole {
            state.held += bytes.len();
            self.fly(&mut state, Piece::Bytes(bytes.to_vec()));
        }
    }

    fn dig_hole(&self) {
        lock(&self.state).hole = true;
    }

    fn poll_write(self: &Arc<Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<Written>> {
        let mut state = lock(&self.state);
        if let Some(kind) = state.write_error {
            return Poll::Ready(Err(kind.into()));
        }
        if self.stutters(&mut state, cx) {
            return Poll::Pending;
        }
        let room = self.style.capacity.saturating_sub(state.held);
        if room == 0 {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let max = buf.len().min(room);
        let mut len = if state.rng.one_in(3) { 1 + state.rng.index(max) } else { max };
        let breaks = |(at, _): &(u64, Cut)| *at < state.written + len as u64 && !self.sim.is_calm();
        let cut = state.cut.filter(breaks);
        if let Some((at, _)) = cut {
            len = (at - state.written).max(1).min(len as u64) as usize;
            state.cut = None;
        }
        state.written += len as u64;
        // In a hole bytes take up the room of the socket's buffer for ever.
        state.held += len;
        if !state.hole {
            self.fly(&mut state, Piece::Bytes(buf[..len].to_vec()));
        }
        Poll::Ready(Ok(Written { len, cut: cut.map(|(_, cut)| cut) }))
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.state);
        if self.stutters(&mut state, cx) {
            return Poll::Pending;
        }
        if state.arrived.is_empty() {
            match state.tail {
                Some(Tail::Eof) => return Poll::Ready(Ok(0)),
                Some(Tail::Reset) => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                None => {}
            }
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let max = state.arrived.len().min(buf.len());
        let max = max.min(state.rng.range(1, self.style.piece_max as u64) as usize);
        for (to, byte) in buf.iter_mut().zip(state.arrived.drain(..max)) {
            *to = byte;
        }
        state.held -= max;
        state.writer.take().into_iter().for_each(Waker::wake);
        self.spy(&mut state, &buf[..max]);
        Poll::Ready(Ok(max))
    }

    /// Not yet, though there is no need to wait; the task that polls is woken soon.
    fn stutters(&self, state: &mut WireState, cx: &mut Context<'_>) -> bool {
        // One at a time: each costs a poll, which may stutter again.
        let now = self.sim.now();
        if state.stutters_until >= now || !state.rng.one_in(self.style.stutter_in) {
            return false;
        }
        let at = now + state.rng.delay(self.style.delay_max.min(1_000_000) + 1);
        state.stutters_until = at;
        self.sim.wake_at(at, cx.waker().clone());
        true
    }

    fn spy(&self, state: &mut WireState, bytes: &[u8]) {
        if !lock(&self.sim.trace).is_on() {
            return;
        }
        state.spied.extend(bytes);
        loop {
            match wire::decode(&state.spied, self.from, u32::MAX / 2) {
                Ok(Decoded::Frame(frame, len)) => {
                    let mut said = format!("{frame:?}");
                    said.truncate(200);
                    self.sim.note(|| format!("{} brings {said}", self.name));
                    state.spied.drain(..len);
                }
                _ => return,
            }
        }
    }
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Tail(_) => 0,
        }
    }
}

struct Written {
    len: usize,
    cut: Option<Cut>,
}

/// Both wires of a link, to break it from outside.
#[derive(Clone, Debug)]
pub struct Link {
    /// Its number.
    pub id: u64,
    up: Arc<Wire>,
    down: Arc<Wire>,
}

impl Link {
    /// A link, its client's end and its server's end.
    pub fn new(sim: &Arc<Sim>, style: LinkStyle, seed: u64) -> (Link, SimStream, SimStream) {
        let id = sim.number();
        let up = Wire::new(sim, style, seed, id, Role::Client);
        let down = Wire::new(sim, style, seed, id, Role::Server);
        let link = Link { id, up, down };
        let ours = SimStream { link: link.clone(), of: Role::Client };
        let theirs = SimStream { link: link.clone(), of: Role::Server };
        (link, ours, theirs)
    }

    /// What is broken on purpose speaks in the client's name.
    pub fn slip_in(&self, bytes: &[u8]) {
        self.up.slip_in(bytes);
    }

    /// Breaks it; `from` says which direction counts where only one is meant.
    pub fn cut(&self, how: Cut, from: Role) {
        let (this, other) = match from {
            Role::Client => (&self.up, &self.down),
            Role::Server => (&self.down, &self.up),
        };
        this.sim.note(|| format!("link {} is cut: {how:?} from {from:?}", self.id));
        match how {
            Cut::Clean => [this, other].map(Wire::end_cleanly),
            Cut::HalfClosed => [this.end_cleanly(), ()],
            Cut::Reset => [this, other].map(|wire| wire.reset()),
            Cut::Hole => [this.dig_hole(), ()],
            Cut::Holes => [this, other].map(|wire| wire.dig_hole()),
        };
    }
}

/// One end of a link.
#[derive(Debug)]
pub struct SimStream {
    link: Link,
    of: Role,
}

impl SimStream {
    fn output(&self) -> &Arc<Wire> {
        if self.of == Role::Client { &self.link.up } else { &self.link.down }
    }

    fn input(&self) -> &Arc<Wire> {
        if self.of == Role::Client { &self.link.down } else { &self.link.up }
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            self.input().sim.fail("a stream was asked to read nothing");
        }
        self.input().poll_read(cx, buf)
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(self.output().poll_write(cx, buf))?;
        if let Some(cut) = written.cut {
            self.link.cut(cut, self.of);
        }
        Poll::Ready(Ok(written.len))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.output();
        let mut state = lock(&wire.state);
        if wire.stutters(&mut state, cx) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output().end_cleanly();
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let resets = {
            let mut input = lock(&self.input().state);
            input.reader_gone = true;
            let unread = !input.arrived.is_empty();
            input.held -= input.arrived.len();
            input.arrived.clear();
            input.writer.take().into_iter().for_each(Waker::wake);
            let reset_in = self.input().style.reset_unread_in;
            unread && input.rng.one_in(reset_in)
        };
        self.input().sim.note(|| format!("link {} is closed by {:?}", self.link.id, self.of));
        self.output().end_cleanly();
        if resets {
            self.link.cut(Cut::Reset, self.of);
        }
    }
}
