//! Chunks that have arrived and were not read yet: no more than the credit, the one that is read among them.

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::messages::{Progress, Put, ServerBreak, Taken};
use crate::caught::{register, wake_all};
use crate::faults::{Planted, ServerFault};
use crate::sync::Lock;

pub(super) struct Queue {
    chunk_len: usize,
    credit: usize,
    planted: Planted,
    state: Lock<State>,
}

struct State {
    /// Whose chunks are taken.
    writer: u64,
    /// Chunks that were read.
    read: u64,
    /// Those from there on, as far as they have arrived.
    chunks: VecDeque<Option<Arrived>>,
    /// Chunks that have arrived without a gap, and the position behind them.
    arrived: u64,
    position: u64,
    /// The first of the chunks is being read.
    is_lent: bool,
    phase: Phase,
    reader: Option<Waker>,
    /// The call that waits until each chunk was read. Not more than the credit.
    puts: BTreeMap<u64, Option<Waker>>,
    /// The commit, which waits for the function.
    commit: Option<Waker>,
}

struct Arrived {
    items: Bytes,
    /// The position behind it.
    end: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// No more will come: the commit was started.
    Ended,
    /// The function has returned.
    Stopped,
    Over(ServerBreak),
}

impl Queue {
    pub(super) fn new(writer: u64, chunk_len: usize, credit: usize, planted: Planted) -> Queue {
        let state = State {
            writer,
            read: 0,
            chunks: VecDeque::new(),
            arrived: 0,
            position: 0,
            is_lent: false,
            phase: Phase::Open,
            reader: None,
            puts: BTreeMap::new(),
            commit: None,
        };
        Queue { chunk_len, credit, planted, state: Lock::new(state) }
    }

    /// Another writer continues it. What an earlier one has sent behind a gap does not count, and what still comes of it is
    /// not taken: its chunks need not be cut where the new ones are.
    pub(super) fn resume(&self, writer: u64) -> Option<Progress> {
        let (progress, puts) = {
            let mut state = self.state.lock();
            if let Phase::Over(_) = state.phase {
                return None;
            }
            state.writer = writer;
            let State { arrived, read, position, .. } = *state;
            state.chunks.truncate((arrived - read) as usize);
            (Progress { arrived, read, position }, std::mem::take(&mut state.puts))
        };
        wake_all(puts.into_values().flatten().collect());
        Some(progress)
    }

    /// Takes a chunk. If the function waits for it, this is the waker that it waits with.
    pub(super) fn accept(&self, put: &Put) -> Result<Option<Waker>, Taken> {
        let mut state = self.state.lock();
        state.check(put.writer)?;
        let at = match put.chunk.checked_sub(state.read) {
            Some(at) => at,
            None if self.planted.is(ServerFault::RepeatedChunks) => state.chunks.len() as u64,
            None => return Ok(None),
        };
        // A client that sends more than its credit, or than a chunk, is not served.
        if at >= self.credit as u64 || put.items.len() > self.chunk_len {
            return Err(Taken::No(ServerBreak::Lost));
        }
        if state.phase == Phase::Ended && put.chunk >= state.arrived && !put.items.is_empty() {
            // Another writer has said that there are no more.
            return Err(Taken::No(ServerBreak::Lost));
        }
        if put.items.is_empty() || state.phase == Phase::Ended {
            return Ok(None);
        }
        let at = at as usize;
        if state.chunks.len() <= at {
            state.chunks.resize_with(at + 1, || None);
        }
        if state.chunks[at].is_some() {
            return Ok(None);
        }
        state.chunks[at] = Some(Arrived { items: put.items.clone(), end: put.end });
        state.count_arrived();
        Ok(if at == 0 { state.reader.take() } else { None })
    }

    /// Waits until a chunk was read, or the wait has `expired`.
    pub(super) fn poll_read(
        &self,
        writer: u64,
        chunk: u64,
        expired: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Taken> {
        let mut dropped = Vec::new();
        let mut state = self.state.lock();
        if let Err(why) = state.check(writer) {
            return Poll::Ready(why);
        }
        if chunk < state.read || expired {
            state.puts.remove(&chunk);
            return Poll::Ready(Taken::Yes { read: state.read });
        }
        register(state.puts.entry(chunk).or_default(), cx, &mut dropped);
        drop(state);
        drop(dropped);
        Poll::Pending
    }

    /// The next chunk for the function; `None` at the end. The one before was read.
    pub(super) fn poll_chunk(&self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let (mut dropped, mut wakers) = (Vec::new(), Vec::new());
        let mut given_back = None;
        let poll = {
            let mut state = self.state.lock();
            if std::mem::take(&mut state.is_lent) {
                given_back = state.chunks.pop_front();
                state.read += 1;
                wakers = state.take_puts_read();
            }
            let poll = match (state.chunks.front(), state.phase) {
                (_, Phase::Stopped | Phase::Over(_)) => Poll::Pending,
                (Some(Some(Arrived { items, .. })), _) => {
                    let items = items.clone();
                    state.is_lent = true;
                    Poll::Ready(Some(items))
                }
                (_, Phase::Ended) => Poll::Ready(None),
                (_, Phase::Open) => Poll::Pending,
            };
            if poll.is_pending() {
                register(&mut state.reader, cx, &mut dropped);
            }
            poll
        };
        drop((given_back, dropped));
        wake_all(wakers);
        poll
    }

    /// Whether this is the one whose chunks are taken.
    pub(super) fn is_written_by(&self, writer: u64) -> bool {
        self.state.lock().writer == writer
    }

    /// No more will come, if all of these have arrived.
    pub(super) fn end(&self, writer: u64, chunks: u64) -> Result<(), ServerBreak> {
        let mut state = self.state.lock();
        match state.phase {
            Phase::Over(why) => return Err(why),
            Phase::Open if state.writer == writer && state.arrived == chunks => {}
            Phase::Open | Phase::Ended | Phase::Stopped => return Err(ServerBreak::Lost),
        }
        state.phase = Phase::Ended;
        Ok(())
    }

    /// The same before the commit, and maybe again. The waker of the function that waits for more.
    pub(super) fn finish(&self, writer: u64, chunks: u64) -> Result<Option<Waker>, Taken> {
        let mut state = self.state.lock();
        state.check(writer)?;
        if state.arrived != chunks {
            return Err(Taken::No(ServerBreak::Lost));
        }
        state.phase = Phase::Ended;
        Ok(state.reader.take())
    }

    /// The function has returned: nothing is read any more.
    pub(super) fn stop(&self) {
        self.enter(Phase::Stopped);
    }

    /// It is not continued. What was said first holds.
    pub(super) fn break_off(&self, why: ServerBreak) {
        self.enter(Phase::Over(why));
    }

    fn enter(&self, phase: Phase) {
        let (chunks, wakers, reader) = {
            let mut state = self.state.lock();
            if let Phase::Over(_) = state.phase {
                return;
            }
            state.phase = phase;
            let mut wakers: Vec<Waker> =
                std::mem::take(&mut state.puts).into_values().flatten().collect();
            wakers.extend(state.commit.take());
            (std::mem::take(&mut state.chunks), wakers, state.reader.take())
        };
        // The reader's waker may be all that is left of a task of the user's.
        drop((chunks, reader));
        wake_all(wakers);
    }

    /// Why it is not continued, if it is not.
    pub(super) fn poll_broken(&self, cx: Option<&mut Context<'_>>) -> Poll<ServerBreak> {
        let mut dropped = Vec::new();
        let mut state = self.state.lock();
        if let Phase::Over(why) = state.phase {
            return Poll::Ready(why);
        }
        cx.into_iter().for_each(|cx| register(&mut state.commit, cx, &mut dropped));
        drop(state);
        drop(dropped);
        Poll::Pending
    }
}

impl State {
    fn check(&self, writer: u64) -> Result<(), Taken> {
        match self.phase {
            Phase::Over(why) => Err(Taken::No(why)),
            Phase::Open | Phase::Ended | Phase::Stopped if self.writer != writer => {
                Err(Taken::No(ServerBreak::Lost))
            }
            Phase::Stopped => Err(Taken::Stopped),
            Phase::Open | Phase::Ended => Ok(()),
        }
    }

    fn count_arrived(&mut self) {
        while let Some(Some(next)) = self.chunks.get((self.arrived - self.read) as usize) {
            self.position = next.end;
            self.arrived += 1;
        }
    }

    fn take_puts_read(&mut self) -> Vec<Waker> {
        let waiting = self.puts.split_off(&self.read);
        std::mem::replace(&mut self.puts, waiting).into_values().flatten().collect()
    }
}
