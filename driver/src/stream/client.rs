//! The client's end of a stream.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use oncewire_core::{NotBegun, NotExecuted, Unknown};
use serde::Serialize;

use super::item::Codec;
use super::messages::{Chunk, Opened, Pull, StreamId};
use super::{Shape, StreamBreak, StreamError, StreamMethod};
use crate::buffer::Encoded;
use crate::client::{Call, CallFailure, Client, Outcome};
use crate::decode::{ValueLimits, decode};
use crate::method::Typed;

/// How long a call for a chunk waits at the server for the first item.
pub(super) const WAIT: Duration = Duration::from_secs(2);
/// A stream that is not resumable begins at 0.
const NO_POSITION: StreamBreak =
    StreamBreak::NotOpened(CallFailure::NotExecuted(NotExecuted::BadArguments));
/// A stream is opened again so often without an item in between.
const REOPENS_MAX: u32 = 5;

impl Client {
    /// Reads a stream: see [`stream`](crate::stream). It is opened when it is first polled. Feature `stream`.
    pub fn stream<A: Serialize, T>(
        &self,
        method: &StreamMethod<A, T>,
        arguments: &A,
    ) -> ServerStream<T> {
        let StreamMethod { name, shape, codec, typed, .. } = *method;
        ServerStream {
            client: self.clone(),
            name,
            typed,
            shape,
            codec,
            arguments: postcard::to_allocvec(arguments).ok(),
            timeout: self.timeout(),
            position: 0,
            chunk: Bytes::new(),
            reopens: 0,
            at_once: 0,
            phase: Phase::Fresh,
        }
    }
}

/// A stream that a server sends: its items in order, each once, and then `None`; or a [`StreamError`], and then `None`.
///
/// Dropping it frees what it held, here and at the server. The future of [`next`](ServerStream::next) may be dropped: nothing is lost
/// by that.
#[must_use = "a stream is opened when it is first polled"]
pub struct ServerStream<T> {
    client: Client,
    name: &'static str,
    typed: Option<Typed>,
    shape: Shape,
    codec: Codec<T>,
    /// `None`: they cannot be encoded.
    arguments: Option<Vec<u8>>,
    timeout: Duration,
    /// Behind the last item that was returned.
    position: u64,
    /// Items that were received and not returned yet.
    chunk: Bytes,
    /// Since the last item.
    reopens: u32,
    /// Chunks that were there whenever they were asked for.
    at_once: u32,
    phase: Phase,
}

enum Phase {
    Fresh,
    Opening(StreamId, Call<Bytes>),
    Open(Pulls),
    Over,
}

/// The calls for chunks.
struct Pulls {
    /// Of the server that has opened it.
    client: Client,
    stream: StreamId,
    /// The chunk that comes next; those before it were received.
    received: u64,
    /// One for it and each that follows.
    calls: VecDeque<Call<Bytes>>,
    /// How many there may be: up to the credit while there are items, and one for a stream that has none.
    window: usize,
}

impl<T> ServerStream<T> {
    /// Begins at this position instead of 0, of a [`resumable`](StreamMethod::resumable) method. For a stream that has begun it has
    /// no effect.
    pub fn from_position(mut self, position: u64) -> Self {
        if let Phase::Fresh = self.phase {
            self.position = position;
        }
        self
    }

    /// The stream breaks when the server has not answered for this long: [`ClientOptions::timeout`](crate::ClientOptions::timeout)
    /// unless this says otherwise. A server that has no items for longer answers that.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Items that were returned, or bytes, from the stream's begin on.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next item; `None` at the end, and after an error.
    pub async fn next(&mut self) -> Option<Result<T, StreamError>> {
        std::future::poll_fn(|cx| self.poll_item(cx)).await
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, StreamError>>> {
        loop {
            if !self.chunk.is_empty() {
                return Poll::Ready(Some(self.take_item()));
            }
            let step = match &mut self.phase {
                Phase::Over => return Poll::Ready(None),
                Phase::Fresh => self.begin_open(),
                Phase::Opening(stream, call) => {
                    let outcome = ready!(Pin::new(&mut *call).poll(cx));
                    let (stream, client) = (*stream, self.client.at_server_of(call));
                    self.handle_opened(client, stream, outcome)
                }
                Phase::Open(pulls) => {
                    pulls.fill(self.shape, self.timeout);
                    // Others of its thread have their turn, though it never has to wait.
                    if self.at_once >= self.shape.credit {
                        self.at_once = 0;
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    let Some(call) = pulls.calls.front_mut() else {
                        debug_assert!(false, "there is a call for the next chunk");
                        return Poll::Pending;
                    };
                    let at_once = std::mem::take(&mut self.at_once);
                    let outcome = ready!(Pin::new(call).poll(cx));
                    self.at_once = at_once + 1;
                    pulls.calls.pop_front();
                    self.handle_chunk(outcome)
                }
            };
            match step {
                Ok(Step::Continue) => {}
                Ok(Step::End) => {
                    self.close();
                    return Poll::Ready(None);
                }
                Err(why) => return Poll::Ready(Some(Err(self.fail(why)))),
            }
        }
    }

    /// Opens it at the present position.
    fn begin_open(&mut self) -> Result<Step, StreamBreak> {
        let not_begun = NotExecuted::NotBegun(NotBegun::Unencodable);
        let unencodable = || StreamBreak::NotOpened(CallFailure::NotExecuted(not_begun));
        if self.position > 0 && !self.shape.resumable {
            return Err(NO_POSITION);
        }
        let stream = self.client.random();
        let mut body = self.arguments.clone().ok_or_else(unencodable)?;
        let behind = postcard::to_allocvec(&(self.position, stream)).map_err(|_| unencodable())?;
        body.extend(behind);
        let call = self.client.call_opening((self.shape.open, self.name), self.typed, body);
        let call = call.timeout(self.timeout);
        self.phase = Phase::Opening(stream, call);
        Ok(Step::Continue)
    }

    fn handle_opened(
        &mut self,
        client: Client,
        stream: StreamId,
        outcome: Outcome<Bytes>,
    ) -> Result<Step, StreamBreak> {
        match outcome.ok() {
            Ok(reply) => match decode(&reply, ValueLimits::DEFAULT) {
                Some(Opened::Yes) => {
                    let calls = VecDeque::new();
                    let pulls = Pulls { client, stream, received: 0, calls, window: 1 };
                    self.phase = Phase::Open(pulls);
                    Ok(Step::Continue)
                }
                Some(Opened::TooMany) => {
                    let why = CallFailure::NotExecuted(NotExecuted::Overloaded);
                    Err(StreamBreak::NotOpened(why))
                }
                Some(Opened::NotResumable) => Err(NO_POSITION),
                None => Err(StreamBreak::Undecodable),
            },
            Err(why) => self.reopen_if(has_lost(why), StreamBreak::NotOpened(why)),
        }
    }

    /// The front call has this outcome, and was taken off.
    fn handle_chunk(&mut self, outcome: Outcome<Bytes>) -> Result<Step, StreamBreak> {
        let Phase::Open(pulls) = &mut self.phase else { return Ok(Step::Continue) };
        let reply = match outcome.ok() {
            Ok(reply) => reply,
            Err(why) => return self.reopen_if(has_lost(why), StreamBreak::NoAnswer(why)),
        };
        let position = self.position;
        match Chunk::parse(reply).ok_or(StreamBreak::Undecodable)? {
            Chunk::Items(at, items) if at == position => {
                pulls.received += 1;
                pulls.window = (pulls.window * 2).min(self.shape.credit as usize);
                self.chunk = items;
                self.reopens = 0;
                Ok(Step::Continue)
            }
            Chunk::Empty => {
                let again = pulls.call(self.shape, self.timeout, pulls.received);
                pulls.calls.push_front(again);
                pulls.window = 1;
                Ok(Step::Continue)
            }
            Chunk::End(at) if at == position => Ok(Step::End),
            Chunk::Panicked(_) => Err(StreamBreak::Panicked),
            Chunk::ItemTooLong(at) if at == position => Err(StreamBreak::ItemTooLong),
            Chunk::Items(..) | Chunk::End(_) | Chunk::ItemTooLong(_) | Chunk::Lost => {
                self.reopen_if(true, StreamBreak::Lost)
            }
        }
    }

    /// Another one takes the place of a stream that the server has lost, if that can be.
    fn reopen_if(&mut self, lost: bool, why: StreamBreak) -> Result<Step, StreamBreak> {
        if !lost || !self.shape.resumable || self.reopens == REOPENS_MAX {
            return Err(why);
        }
        self.reopens += 1;
        self.close();
        self.phase = Phase::Fresh;
        Ok(Step::Continue)
    }

    fn take_item(&mut self) -> Result<T, StreamError> {
        match self.codec.take(&mut self.chunk) {
            Some(taken) => {
                self.position = self.position.saturating_add(taken.advance);
                Ok(taken.item)
            }
            None => Err(self.fail(StreamBreak::Undecodable)),
        }
    }

    fn fail(&mut self, why: StreamBreak) -> StreamError {
        self.close();
        self.chunk = Bytes::new();
        StreamError { position: self.position, why }
    }

    /// Ends its calls, and lets the server drop what it holds.
    fn close(&mut self) {
        let (client, stream) = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Fresh | Phase::Over => return,
            Phase::Opening(stream, call) => (self.client.at_server_of(&call), stream),
            Phase::Open(Pulls { client, stream, .. }) => (client, stream),
        };
        if let Ok(body) = crate::buffer::encode(&stream) {
            // A client that is closed ends its session, and the streams of that.
            let _closed = client.send_one_way(self.shape.close, true, body);
        }
    }
}

/// The next step of a stream.
enum Step {
    Continue,
    End,
}

/// Whether a call has this outcome because its server or its session is gone, which the next may not be.
fn has_lost(why: CallFailure) -> bool {
    match why {
        CallFailure::NotExecuted(why) => why == NotExecuted::ShuttingDown,
        CallFailure::Unknown(why) => why != Unknown::DeadlinePassed,
        CallFailure::NoReply(_) => false,
    }
}

impl Pulls {
    /// Asks for as many chunks as it may.
    fn fill(&mut self, shape: Shape, timeout: Duration) {
        while self.calls.len() < self.window {
            let chunk = self.received + self.calls.len() as u64;
            let call = self.call(shape, timeout, chunk);
            self.calls.push_back(call);
        }
    }

    fn call(&self, shape: Shape, timeout: Duration, chunk: u64) -> Call<Bytes> {
        let wait = WAIT.min(timeout / 2);
        let wait_ms = wait.as_millis() as u32;
        let pull = Pull { stream: self.stream, chunk, received: self.received, wait_ms };
        let body = crate::buffer::encode(&pull).unwrap_or_else(|_| Encoded::from(Bytes::new()));
        self.client.call_encoded(shape.next, body).idempotent().timeout(timeout).start_now()
    }
}

impl<T> Stream for ServerStream<T> {
    type Item = Result<T, StreamError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_item(cx)
    }
}

impl<T> Drop for ServerStream<T> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<T> fmt::Debug for ServerStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match &self.phase {
            Phase::Fresh => "not opened",
            Phase::Opening(..) => "opening",
            Phase::Open(_) => "open",
            Phase::Over => "over",
        };
        f.debug_struct("ServerStream")
            .field("position", &self.position)
            .field("phase", &phase)
            .finish_non_exhaustive()
    }
}
