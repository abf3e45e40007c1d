//! The task of one connection: reads, runs what it can at once, writes.
//!
//! A handler that is ready at its first poll runs within the connection's turn, without a task, a timer or a wake-up of
//! its own; one that is not continues in a task (`runner.rs`). So a turn may take any time, and ends by the clock
//! (`pace.rs`). When it went on for as long as there was something to read, a peer that sent Pings without end kept
//! others waiting for seconds (C106).
//!
//! No read follows another without an attempt to write: two peers that write 64 MiB each before they read would wait for ever (C40).
//!
//! | file | what it does |
//! |---|---|
//! | `conn.rs` | the task and its turns: what is read and written, and when |
//! | `conn/calls.rs` | what the machine has found in what was read: a call is admitted, started and run |

mod calls;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use oncewire_core::{ConnId, Instant};

use super::execution::Replied;
use super::pace::Pace;
use super::state::{ConnWork, Shared};
use crate::buffer::{self, ReadBuffer, Scratch, Spares, WriteBuffer};
use crate::faults::ServerFault;
use crate::runtime::Timer;
use crate::spin::{self, ConnSpinPolicy};
use crate::transport::{BoxStream, Subject};
use calls::Next;

pub(super) struct ConnTask {
    shared: Arc<Shared>,
    id: ConnId,
    subject: Subject,
    /// Its `Hello` has to say who calls, and was not read yet.
    awaits_token: bool,
    stream: BoxStream,
    /// A frame that has not come whole, or what an earlier turn had no time for.
    read: ReadBuffer,
    /// What is in `read` may be whole frames.
    backlog: bool,
    pace: Pace,
    /// What the stream did not take.
    write: WriteBuffer,
    /// Ends the wait for a peer that does not take the last frame.
    linger: Option<Box<dyn Timer>>,
    /// Whether the next request comes so soon after a reply that spinning pays.
    spin: ConnSpinPolicy,
}

/// Whether a connection's task continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It sleeps until it is woken.
    Sleep,
    /// The stream broke, or the machine has closed it.
    End,
}

/// What is left of received bytes.
enum Rest {
    /// The front of a frame of this many bytes.
    Needs(usize),
    /// Frames for which this turn has no time.
    Later,
}

/// Reads in one turn, at most: then others get theirs.
const READS_MAX: usize = 32;
/// The same of writes of a full buffer, one after another.
const WRITES_MAX: usize = 4;
/// How long a connection lingers at most, until its last frame has left (compare `SO_LINGER`).
const LINGER: Duration = Duration::from_secs(5);

impl ConnTask {
    pub(super) fn new(
        shared: Arc<Shared>,
        id: ConnId,
        subject: Subject,
        stream: BoxStream,
    ) -> ConnTask {
        ConnTask {
            awaits_token: shared.tokens.is_some(),
            shared,
            id,
            subject,
            stream,
            read: ReadBuffer::default(),
            backlog: false,
            pace: Pace::default(),
            write: WriteBuffer::default(),
            linger: None,
            spin: ConnSpinPolicy::default(),
        }
    }

    /// Reads while it writes, so that two peers that both write before they read do not wait for each other (C40).
    ///
    /// A turn is bounded in time and in reads, so that a peer that sends without end takes no more than its turn (C106).
    fn turn(&mut self, pace: &mut Pace, cx: &mut Context<'_>, scratch: &mut Scratch) -> Turn {
        let shared = self.shared.clone();
        pace.begin(shared.runtime.now());
        let endless = shared.with_at(pace.now, |state, _| {
            state.begin_turn(self.id, cx);
            state.planted.is(ServerFault::Greedy)
        });
        let reads_max = if endless {
            pace.go_on();
            usize::MAX
        } else {
            READS_MAX
        };
        // Set to spin for the next request.
        let mut budget: Option<Duration> = None;
        for _ in 0..reads_max {
            let read = match budget.take() {
                Some(budget) => self.spin(&shared, budget, pace, cx, scratch),
                None => self.read_once(false, pace, cx, scratch),
            };
            let written = self.write_all(pace.now, cx, scratch);
            match (&read, &written) {
                (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => {
                    shared.note_lost(self.id, || error.to_string());
                    return Turn::End;
                }
                (Poll::Ready(Ok(0)), _) => return Turn::End,
                // The last frame has left, and asks for no answer.
                (Poll::Ready(Ok(_)), Poll::Ready(Ok(false)))
                    if shared.with_at(pace.now, |state, _| state.is_closed(self.id)) =>
                {
                    return Turn::End;
                }
                (Poll::Ready(Ok(_)), _) => {
                    if pace.check(shared.runtime.now()) || self.backlog {
                        break;
                    }
                    if matches!(written, Poll::Ready(Ok(true))) {
                        budget = self.spin_budget();
                    }
                    continue;
                }
                (Poll::Pending, _) => {}
            }
            if let Some(turn) = self.rest_of_turn(&shared, written.is_pending(), pace.now, cx) {
                return turn;
            }
            if pace.check(shared.runtime.now()) {
                break;
            }
        }
        shared.with_at(pace.now, |state, _| state.end_turn(self.id));
        shared.let_others();
        cx.waker().wake_by_ref();
        Turn::Sleep
    }

    /// What follows where nothing was read: `None` if replies that came meanwhile must leave first. `blocked`: the stream
    /// takes nothing now. It wakes the task for what it has and for what it takes.
    fn rest_of_turn(
        &mut self,
        shared: &Arc<Shared>,
        blocked: bool,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Option<Turn> {
        let work = shared.with_at(now, |state, _| {
            let work = state.next_work(self.id, blocked);
            if blocked || matches!(work, ConnWork::Nothing) {
                state.end_turn(self.id);
            }
            work
        });
        match work {
            // The last frame says why, so the connection lingers until the peer has taken it. Not behind the rest of
            // a reply, which may be long, and whose memory is no longer counted.
            ConnWork::Close
                if blocked && !self.write.holds_rest() && self.poll_linger(cx).is_pending() =>
            {
                Some(Turn::Sleep)
            }
            ConnWork::Close => Some(Turn::End),
            ConnWork::Transmit if !blocked => None,
            ConnWork::Transmit | ConnWork::Nothing => Some(Turn::Sleep),
        }
    }

    /// How long to spin for the next request, if at all: not where handlers wait for this thread.
    fn spin_budget(&mut self) -> Option<Duration> {
        let shared = &self.shared;
        let is_busy = || shared.with_quietly(|state| state.machine.is_busy());
        if !self.spin.should_spin(&shared.newcomers) || is_busy() {
            return None;
        }
        shared.runtime.spin_budget(std::ptr::from_ref(self).addr())
    }

    /// Spins for the next request.
    fn spin(
        &mut self,
        shared: &Shared,
        budget: Duration,
        pace: &mut Pace,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Poll<io::Result<usize>> {
        let read = spin::spin(&*shared.runtime, pace.now, budget, |now, spin| {
            pace.now = now;
            let read = self.read_once(true, pace, cx, scratch);
            let is_over = self.spin.is_over(&shared.newcomers, spin, now, read.is_ready());
            is_over.then_some(read)
        });
        if read.is_pending() { self.read_once(false, pace, cx, scratch) } else { read }
    }

    /// Ready when the last frame has taken too long.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let runtime = &self.shared.runtime;
        let timer = self.linger.get_or_insert_with(|| {
            let mut timer = runtime.timer();
            timer.set(runtime.now() + LINGER);
            timer
        });
        timer.poll(cx)
    }

    /// Reads once and runs what came; `Ready(Ok(0))` at the end of the stream. What an earlier turn left comes first.
    fn read_once(
        &mut self,
        force: bool,
        pace: &mut Pace,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Poll<io::Result<usize>> {
        if !self.read.is_empty() {
            let result = match self.backlog {
                true => Poll::Ready(Ok(1)),
                false => spin::read(force, || self.read.poll_fill(&mut self.stream, cx)),
            };
            if let Poll::Ready(Ok(1..)) = result {
                let mut read = std::mem::take(&mut self.read);
                if let Some(large) = read.take_large() {
                    // One frame, and all of it.
                    self.take_data(pace, &large, Some(&large), &mut scratch.spares);
                    return result;
                }
                let spares = &mut scratch.spares;
                let (consumed, rest) = self.take_data(pace, read.unread(), None, spares);
                read.consume(consumed);
                self.backlog = matches!(rest, Rest::Later);
                match rest {
                    _ if read.is_empty() => {
                        self.backlog = false;
                        read.release_if_empty();
                    }
                    Rest::Later => {}
                    Rest::Needs(wanted) => read.prepare(wanted),
                }
                self.read = read;
            }
            return result;
        }
        let Scratch { read, spares, .. } = scratch;
        let stream = Pin::new(&mut self.stream);
        let result = spin::read(force, || futures_io::AsyncRead::poll_read(stream, cx, read));
        if let Poll::Ready(Ok(len @ 1..)) = result {
            let data = &read[..len];
            let (consumed, rest) = self.take_data(pace, data, None, spares);
            match rest {
                _ if consumed == len => {}
                Rest::Later => {
                    self.read.keep_frames(&data[consumed..]);
                    self.backlog = true;
                }
                Rest::Needs(wanted) => self.read.keep(&data[consumed..], wanted),
            }
        }
        result
    }

    /// Gives the machine what was received, and runs what it admits, until the turn is over. Returns how much it took.
    fn take_data(
        &mut self,
        pace: &mut Pace,
        data: &[u8],
        large: Option<&Bytes>,
        spares: &mut Spares,
    ) -> (usize, Rest) {
        let shared = &self.shared;
        if self.awaits_token
            && let Some(subject) = shared.identify(self.id, data)
        {
            (self.subject, self.awaits_token) = (subject, false);
        }
        let (mut consumed, mut window) = (0, buffer::window(data));
        // The machine gets a reply under the lock that the next call needs anyway.
        let mut replied = Replied::none();
        loop {
            let (now, found) = (pace.now, &data[..window]);
            let mut next = self.take_next(now, found, &mut consumed, large, spares, &mut replied);
            if let Next::Authorize(request) = next {
                next = self.authorize(now, request, large, spares, &mut replied);
            }
            match next {
                Next::Record(admission, permit, call) => {
                    shared.record(admission, permit, call, &self.subject);
                }
                // What was asked has its answer.
                Next::Authorize(_) | Next::Nothing => {}
                Next::Wait(wanted) if window == data.len() => {
                    return (consumed, Rest::Needs(wanted));
                }
                Next::Wait(_) => {
                    window = consumed + buffer::window(&data[consumed..]);
                    pace.hurry();
                }
                Next::Lost => return (data.len(), Rest::Needs(0)),
            }
            if pace.is_due() && pace.check(shared.runtime.now()) {
                shared.with_quietly(|state| {
                    state.finish_replied(pace.now, &mut replied);
                });
                return (consumed, Rest::Later);
            }
        }
    }

    /// Writes what is left and what the machine wants to send, until there is nothing more, the stream takes no more, or
    /// it is time to read again. Says whether there was anything.
    fn write_all(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Poll<io::Result<bool>> {
        let mut wrote = false;
        for _ in 0..WRITES_MAX {
            if !self.write.is_empty() {
                let written = self.write.poll_write(&mut self.stream, cx);
                if self.write.take_progress() {
                    self.shared.with_quietly(|state| state.machine.handle_progress(now, self.id));
                }
                std::task::ready!(written)?;
                self.write.release();
                wrote = true;
            }
            let id = self.id;
            let (len, rest) = self.shared.with_at(now, |state, now| {
                state.set_transmit(id, false);
                let (mut len, mut tail) = (0, None);
                while tail.is_none()
                    && let Some(more) =
                        state.machine.poll_transmit(now, id, &mut scratch.write[len..])
                {
                    len += more.get();
                    tail = state.machine.take_shared_tail(id);
                }
                (len, tail)
            });
            if len == 0 {
                return Poll::Ready(Ok(wrote));
            }
            if let Some(rest) = rest {
                self.write.append(rest);
            }
            let out = &scratch.write[..len];
            std::task::ready!(self.write.poll_write_through(&mut self.stream, cx, out))?;
            wrote = true;
        }
        // There may be more.
        self.shared.with_quietly(|state| state.set_transmit(self.id, true));
        Poll::Ready(Ok(wrote))
    }
}

impl Future for ConnTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.ask_observers();
        let mut scratch = Scratch::take();
        let mut pace = self.pace;
        let turn = self.turn(&mut pace, cx, &mut scratch);
        self.pace = pace;
        scratch.put();
        if turn == Turn::End { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for ConnTask {
    fn drop(&mut self) {
        self.shared.disconnect(self.id);
    }
}
