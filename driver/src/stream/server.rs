//! How a server offers a stream, and which are open.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use oncewire_core::{MethodSpec, SessionTag};
use serde::de::DeserializeOwned;

use super::messages::{Chunk, HEADER_LEN, Opened, Pull, StreamId};
use super::source::{Producer, Source};
use super::{Shape, StreamMethod};
use crate::decode::{ValueLimits, decode};
use crate::method::{Method, MethodOptions, RawMethod};
use crate::runtime::Timer;
use crate::server::{Context, ServerBuilder};
use crate::sync::Lock;

/// Streams of one method that a session may have open.
pub(super) const PER_SESSION_MAX: usize = 64;
/// What all streams of one method may hold in chunks: the limits of replies do not count those.
const KEPT_MAX: usize = 256 << 20;
/// Streams of one method that may be open, however small their chunks.
const OPEN_MAX: usize = 16_384;
/// What the arguments of a stream may take in memory, however small its chunks.
const ARGUMENTS_LEN: usize = 64 << 10;
/// A call for a chunk waits no longer, whatever its client asks for: it keeps its session alive.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a stream may outlive its session.
pub(super) const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

impl<L> ServerBuilder<L> {
    /// Offers a method that returns a stream: `function` is called once for each that is opened, with the position at which it is to
    /// begin, and the stream that it returns is polled as its client asks for items. Feature `stream`; see
    /// [`stream`](crate::stream).
    ///
    /// The stream is dropped when it has ended or panicked, when its client has dropped its end, and some seconds after the
    /// client's session has ended. What [`method`](ServerBuilder::method) says of blocking holds for the function and its stream.
    pub fn stream<A, T, F, Fut, S>(self, method: &StreamMethod<A, T>, function: F) -> Self
    where
        F: Fn(Context, A, u64) -> Fut + Send + Sync + 'static,
        A: DeserializeOwned + Send + 'static,
        T: Send + 'static,
        Fut: Future<Output = S> + Send + 'static,
        S: Stream<Item = T> + Send + 'static,
    {
        let StreamMethod { name, shape, codec, .. } = *method;
        let (opens, pulls, closes) = {
            let table = Arc::new(StreamTable::new(shape));
            (table.clone(), table.clone(), table)
        };
        let open: Method<(A, u64, StreamId), Opened> = Method::new(name)
            .reply_len_max(1)
            .memory_max(arguments_max(shape.chunk_len, shape.credit))
            .drop_on_cancel();
        let open_function = move |context: Context, (arguments, position, id)| {
            // Its client looks at that too, and a stranger does not.
            let place = match position > 0 && !shape.resumable {
                true => Err(Opened::NotResumable),
                false => opens.reserve(&context, id).ok_or(Opened::TooMany),
            };
            // Nothing of the function runs if there is no place.
            let opened = place.map(|place| (place, function(context.clone(), arguments, position)));
            async move {
                let (place, function) = match opened {
                    Ok(opened) => opened,
                    Err(why) => return why,
                };
                let stream = Box::pin(function.await);
                place.open(&context, Box::new(Producer { stream, codec }), position, shape);
                Opened::Yes
            }
        };
        let mut builder = self.method(&open, open_function);
        builder.stream_signatures.extend(method.described());
        let builder = builder.method_raw(next_method(name, shape), move |context, body: Bytes| {
            next(pulls.clone(), context, body)
        });
        builder.method_raw(close_method(name, shape), move |context, body: Bytes| {
            if let Some(id) = decode::<StreamId>(&body, ValueLimits::DEFAULT) {
                closes.close(context.session(), id);
            }
            std::future::ready(Bytes::new())
        })
    }
}

/// The call for a chunk. Its reply is not kept: the stream keeps the chunk.
fn next_method(name: &'static str, shape: Shape) -> RawMethod {
    let mut spec = MethodSpec::new(shape.next);
    spec.idempotent = true;
    spec.reply_len_max = shape.chunk_len.saturating_add(HEADER_LEN as u32);
    let options = MethodOptions { drop_on_cancel: true, ..MethodOptions::CHUNKS };
    RawMethod { name, spec, options, described: None }
}

fn close_method(name: &'static str, shape: Shape) -> RawMethod {
    let mut spec = MethodSpec::new(shape.close);
    spec.idempotent = true;
    spec.reply_len_max = 0;
    RawMethod { name, spec, options: MethodOptions::CHUNKS, described: None }
}

async fn next(table: Arc<StreamTable>, context: Context, body: Bytes) -> Bytes {
    let Some(pull) = decode::<Pull>(&body, ValueLimits::DEFAULT) else {
        return Chunk::Lost.bytes();
    };
    let Some(source) = table.source(context.session(), pull.stream) else {
        return Chunk::Lost.bytes();
    };
    drop(table);
    waited(&context, pull.wait_ms, |expired, cx| source.poll_pull(&pull, expired, cx)).await
}

/// What a call waits for, for some milliseconds at most: `poll` is given whether those have passed.
pub(super) async fn waited<T>(
    context: &Context,
    wait_ms: u32,
    mut poll: impl FnMut(bool, &mut TaskContext<'_>) -> Poll<T>,
) -> T {
    let mut wait: Option<Box<dyn Timer>> = None;
    std::future::poll_fn(|cx| {
        let expired = wait.as_mut().is_some_and(|timer| timer.poll(cx).is_ready());
        let poll = poll(expired || wait_ms == 0, cx);
        if poll.is_pending() && wait.is_none() {
            let Some((now, mut timer)) = context.timer() else { return poll };
            timer.set(now + WAIT_MAX.min(Duration::from_millis(wait_ms.into())));
            // It is not over before it is set; polled, it wakes this call.
            let _pending = timer.poll(cx);
            wait = Some(timer);
        }
        poll
    })
    .await
}

/// Bytes of chunks that one stream may hold: the credit, and the one in the making.
fn chunks_max(chunk_len: u32, credit: u32) -> usize {
    (credit as usize + 1).saturating_mul(chunk_len as usize)
}

/// Bytes of memory that the arguments of one stream may take: the function may hold them for as long as it is open, and no
/// budget of requests counts them then.
pub(super) fn arguments_max(chunk_len: u32, credit: u32) -> usize {
    chunks_max(chunk_len, credit).max(ARGUMENTS_LEN)
}

/// How many streams of one method may be open.
pub(super) fn open_max(chunk_len: u32, credit: u32) -> usize {
    (KEPT_MAX / arguments_max(chunk_len, credit)).clamp(1, OPEN_MAX)
}

/// The open streams of one method.
struct StreamTable {
    /// How many may be open.
    open_max: usize,
    state: Lock<TableState>,
}

#[derive(Default)]
struct TableState {
    sessions: HashMap<SessionTag, HashMap<StreamId, Entry>>,
    open: usize,
    /// A task looks for sessions that have ended.
    sweeps: bool,
}

struct Entry {
    /// Asks whether the session has ended.
    context: Context,
    /// `None` while the function has not returned its stream.
    source: Option<Arc<Source>>,
}

impl StreamTable {
    fn new(shape: Shape) -> StreamTable {
        StreamTable { open_max: open_max(shape.chunk_len, shape.credit), state: Lock::default() }
    }

    /// A place for a stream; `None` if there are too many, or its id is taken. A session has at most as many as are left for all
    /// others, so that one alone does not take the last.
    fn reserve(self: &Arc<Self>, context: &Context, id: StreamId) -> Option<Place> {
        let session = context.session()?;
        let sweeps = {
            let mut state = self.state.lock();
            let TableState { sessions, open, .. } = &mut *state;
            let streams = sessions.entry(session).or_default();
            let left = self.open_max - *open;
            if streams.len() >= PER_SESSION_MAX.min(left) || streams.contains_key(&id) {
                if streams.is_empty() {
                    sessions.remove(&session);
                }
                return None;
            }
            streams.insert(id, Entry { context: context.clone(), source: None });
            *open += 1;
            std::mem::replace(&mut state.sweeps, true)
        };
        if !sweeps {
            context.spawn(self.clone().sweep(context.clone()));
        }
        Some(Place { table: self.clone(), session, id, opened: false })
    }

    fn source(&self, session: Option<SessionTag>, id: StreamId) -> Option<Arc<Source>> {
        self.state.lock().sessions.get(&session?)?.get(&id)?.source.clone()
    }

    /// A stream is not wanted any more.
    fn close(&self, session: Option<SessionTag>, id: StreamId) {
        let entry = session.and_then(|session| self.state.lock().remove(session, id));
        if let Some(Entry { source: Some(source), .. }) = entry {
            source.close();
        }
    }

    /// Closes the streams of sessions that have ended, until none is open.
    async fn sweep(self: Arc<Self>, context: Context) {
        while let Some((now, mut timer)) = context.timer() {
            timer.set(now + SWEEP_INTERVAL);
            std::future::poll_fn(|cx| timer.poll(cx)).await;
            let sessions = self.state.lock().one_of_each_session();
            for (session, context) in sessions {
                if context.session().is_none() {
                    self.close_session(session);
                }
            }
            let mut state = self.state.lock();
            if state.open == 0 {
                state.sweeps = false;
                return;
            }
        }
        // The server is gone.
        let sessions = self.state.lock().one_of_each_session();
        for (session, _) in sessions {
            self.close_session(session);
        }
    }

    fn close_session(&self, session: SessionTag) {
        let streams = {
            let mut state = self.state.lock();
            let streams = state.sessions.remove(&session).unwrap_or_default();
            state.open -= streams.len();
            streams
        };
        streams.into_values().filter_map(|entry| entry.source).for_each(|source| source.close());
    }
}

impl TableState {
    fn one_of_each_session(&self) -> Vec<(SessionTag, Context)> {
        let one = |(session, streams): (&SessionTag, &HashMap<StreamId, Entry>)| {
            Some((*session, streams.values().next()?.context.clone()))
        };
        self.sessions.iter().filter_map(one).collect()
    }

    fn remove(&mut self, session: SessionTag, id: StreamId) -> Option<Entry> {
        let streams = self.sessions.get_mut(&session)?;
        let entry = streams.remove(&id)?;
        if streams.is_empty() {
            self.sessions.remove(&session);
        }
        self.open -= 1;
        Some(entry)
    }
}

/// A place in the table. It is free again if the function does not return.
struct Place {
    table: Arc<StreamTable>,
    session: SessionTag,
    id: StreamId,
    opened: bool,
}

impl Place {
    fn open(
        mut self,
        context: &Context,
        producer: Box<dyn super::source::Produce>,
        position: u64,
        shape: Shape,
    ) {
        let (chunk_len, credit) = (shape.chunk_len as usize, shape.credit as usize);
        let source = Arc::new(Source::new(producer, position, chunk_len, credit));
        self.opened = true;
        let mut state = self.table.state.lock();
        let streams = state.sessions.get_mut(&self.session);
        match streams.and_then(|streams| streams.get_mut(&self.id)) {
            Some(entry) => {
                // A client that names two streams alike loses the one before, which is dropped without the lock.
                let before = entry.source.replace(source);
                drop(state);
                before.inspect(|before| before.close());
            }
            // It was closed meanwhile. The user's stream is dropped without the lock.
            None => {
                drop(state);
                source.close();
            }
        }
        // With a ledger it begins when its record is stable: its client may have cancelled and closed it by then.
        if context.is_cancelled() {
            self.table.close(Some(self.session), self.id);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.opened {
            let _entry = self.table.state.lock().remove(self.session, self.id);
        }
    }
}
