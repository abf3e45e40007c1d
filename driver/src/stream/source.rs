//! An open stream at the server: the function's stream, and the chunks of it that were not received yet.
//!
//! The function's stream is polled by the call that asks for the next chunk, and by no other: so it makes nothing that was not asked
//! for. While it is polled it is not in the state, and the lock is free.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_core::Stream;

use super::item::{Codec, ItemTooLong, Piece, put};
use super::messages::{Chunk, HEADER_LEN, Pull};
use crate::caught::{Guarded, caught, register, wake_all};
use crate::sync::Lock;

/// The function's stream, without its types.
pub(super) trait Produce: Send {
    /// The next item, encoded, `Err` if it cannot be; `None` at the end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, ItemTooLong>>>;
}

/// A stream of items, and how they are encoded.
pub(super) struct Producer<S, T> {
    pub(super) stream: Pin<Box<S>>,
    pub(super) codec: Codec<T>,
}

impl<S: Stream<Item = T> + Send, T> Produce for Producer<S, T> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, ItemTooLong>>> {
        let encode = |item| self.codec.encode(item).ok_or(ItemTooLong);
        self.stream.as_mut().poll_next(cx).map(|item| item.map(encode))
    }
}

type BoxProducer = Guarded<Box<dyn Produce>>;

/// An open stream.
pub(super) struct Source {
    chunk_len: usize,
    credit: usize,
    state: Lock<State>,
}

struct State {
    producer: Production,
    /// The number of the oldest chunk that is kept.
    oldest: u64,
    /// Chunks that were made and not received yet, as replies.
    kept: VecDeque<Bytes>,
    /// The call that waits for each chunk whose turn it is not. Not more than the credit.
    waiters: BTreeMap<u64, Option<Waker>>,
}

enum Production {
    Resting(Draft),
    /// A call polls it.
    Polled,
    /// It was dropped; this is the answer to whatever is asked for beyond the chunks.
    Over(Chunk),
}

/// A chunk in the making, and what makes it.
struct Draft {
    producer: BoxProducer,
    /// The position of the chunk's first item.
    position: u64,
    /// The header's place, and the items.
    reply: Vec<u8>,
    /// How far the position is behind the items.
    advance: u64,
    /// What did not fit into the chunk before.
    rest: Option<Piece>,
}

/// Why no more is put into a draft.
enum Filled {
    /// The producer has nothing more now.
    Pending,
    Full,
    Over(Chunk),
}

/// Items that are put into one chunk at most: those of a stream of bytes may have no length.
const PIECES_MAX: usize = 16_384;

impl Draft {
    /// Puts items into it until it is full, or there are no more.
    fn fill(&mut self, chunk_len: usize, cx: &mut Context<'_>) -> Filled {
        for _ in 0..PIECES_MAX {
            if self.rest.is_none() {
                let Some(producer) = self.producer.get_mut() else { return Filled::Pending };
                match producer.poll_piece(cx) {
                    Poll::Pending => return Filled::Pending,
                    Poll::Ready(None) => return Filled::Over(Chunk::End(self.end())),
                    Poll::Ready(Some(Err(ItemTooLong))) => {
                        return Filled::Over(Chunk::ItemTooLong(self.end()));
                    }
                    Poll::Ready(Some(Ok(piece))) => self.rest = Some(piece),
                }
            }
            match put(&mut self.rest, &mut self.reply, HEADER_LEN, chunk_len) {
                Ok(advance) => self.advance += advance,
                Err(ItemTooLong) => return Filled::Over(Chunk::ItemTooLong(self.end())),
            }
            if self.rest.is_some() || self.reply.len() == HEADER_LEN + chunk_len {
                return Filled::Full;
            }
        }
        // The others of this thread have their turn.
        cx.waker().wake_by_ref();
        Filled::Pending
    }

    /// The position behind its last item. A client may have begun at any number.
    fn end(&self) -> u64 {
        self.position.saturating_add(self.advance)
    }

    /// The items so far as a reply; `None` if there are none. The next chunk begins.
    fn seal(&mut self) -> Option<Bytes> {
        if self.reply.len() == HEADER_LEN {
            return None;
        }
        let header = Chunk::Items(self.position, Bytes::new()).header();
        let mut reply = std::mem::replace(&mut self.reply, header.to_vec());
        reply[..HEADER_LEN].copy_from_slice(&header);
        self.position = self.end();
        self.advance = 0;
        Some(Bytes::from(reply))
    }
}

impl Source {
    pub(super) fn new(
        producer: Box<dyn Produce>,
        position: u64,
        chunk_len: usize,
        credit: usize,
    ) -> Source {
        let draft = Draft {
            producer: Guarded::new(producer),
            position,
            reply: vec![0; HEADER_LEN],
            advance: 0,
            rest: None,
        };
        let state = State {
            producer: Production::Resting(draft),
            oldest: 0,
            kept: VecDeque::new(),
            waiters: BTreeMap::new(),
        };
        Source { chunk_len, credit, state: Lock::new(state) }
    }

    /// The chunk that is asked for. `expired`: it has waited for as long as it may.
    pub(super) fn poll_pull(
        &self,
        pull: &Pull,
        expired: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Bytes> {
        let mut dropped = Vec::new();
        loop {
            let mut draft = {
                let mut state = self.state.lock();
                state.forget(pull.received);
                match state.find(pull.chunk, self.credit) {
                    Found::Reply(reply) => return Poll::Ready(reply),
                    Found::Next(draft) => draft,
                    Found::Later if expired => return Poll::Ready(Chunk::Empty.bytes()),
                    Found::Later => {
                        let slot = state.waiters.entry(pull.chunk).or_default();
                        register(slot, cx, &mut dropped);
                        return Poll::Pending;
                    }
                }
            };
            let position = draft.position;
            let filled = caught(|| draft.fill(self.chunk_len, cx))
                .unwrap_or_else(|_| Filled::Over(Chunk::Panicked(position)));
            let (made, left) = self.put_back(draft, filled);
            // The user's stream, and the wakers, may call the server.
            drop(left.draft);
            wake_all(left.waiters);
            if !made {
                return if expired { Poll::Ready(Chunk::Empty.bytes()) } else { Poll::Pending };
            }
        }
    }

    /// Says whether there is a chunk more, or an end.
    fn put_back(&self, mut draft: Draft, filled: Filled) -> (bool, Left) {
        let mut state = self.state.lock();
        let waiters = state.take_waiters();
        if let Production::Over(_) = state.producer {
            // It was closed meanwhile.
            return (true, Left { draft: Some(draft), waiters });
        }
        // What was made before a panic is whole items, and was not received: the position says so.
        let panicked = matches!(filled, Filled::Over(Chunk::Panicked(_)));
        let sealed = if panicked { None } else { draft.seal() };
        let made = sealed.is_some() || matches!(filled, Filled::Over(_));
        state.kept.extend(sealed);
        let draft = match filled {
            Filled::Over(end) => {
                state.producer = Production::Over(end);
                Some(draft)
            }
            Filled::Pending | Filled::Full => {
                state.producer = Production::Resting(draft);
                None
            }
        };
        (made, Left { draft, waiters })
    }

    /// The stream is not wanted any more: drops the function's, and what was kept. Calls that wait learn that it is lost.
    pub(super) fn close(&self) {
        let (producer, kept, waiters) = {
            let mut state = self.state.lock();
            let over = Production::Over(Chunk::Lost);
            (
                std::mem::replace(&mut state.producer, over),
                std::mem::take(&mut state.kept),
                state.take_waiters(),
            )
        };
        drop((producer, kept));
        wake_all(waiters);
    }
}

/// What is dropped, and woken, without the lock.
struct Left {
    draft: Option<Draft>,
    waiters: Vec<Waker>,
}

/// What is known of a chunk.
enum Found {
    Reply(Bytes),
    /// It is made now, by this call. The producer is taken out.
    Next(Draft),
    /// One before it is being made, or was not asked for yet.
    Later,
}

impl State {
    fn take_waiters(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.waiters).into_values().flatten().collect()
    }

    /// Chunks below this one were received.
    fn forget(&mut self, received: u64) {
        while self.oldest < received && self.kept.pop_front().is_some() {
            self.oldest += 1;
        }
    }

    fn find(&mut self, chunk: u64, credit: usize) -> Found {
        let made = self.kept.len() as u64;
        let Some(at) = chunk.checked_sub(self.oldest) else {
            return Found::Reply(Chunk::Lost.bytes());
        };
        if at < made {
            // It is shared, not copied.
            return Found::Reply(self.kept[at as usize].clone());
        }
        match &self.producer {
            Production::Over(end) => return Found::Reply(end.bytes()),
            // A client that asks for more than its credit does not get it.
            _ if at >= credit as u64 => return Found::Reply(Chunk::Lost.bytes()),
            Production::Polled => return Found::Later,
            Production::Resting(_) if at > made => return Found::Later,
            Production::Resting(_) => {}
        }
        match std::mem::replace(&mut self.producer, Production::Polled) {
            Production::Resting(draft) => Found::Next(draft),
            Production::Polled | Production::Over(_) => unreachable!("it is resting"),
        }
    }
}
