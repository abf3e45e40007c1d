//! How a server offers a method that takes uploads, and which are open.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use oncewire_core::{Instant, MethodSpec, SessionTag};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::commit::CommitCall;
use super::messages::{
    Close, Commit, Committed, End, Open, Opened, Progress, Put, ServerBreak, Taken, UploadId,
};
use super::queue::Queue;
use super::staging::{Claimed, Staging};
use super::{Incoming, Shape, UploadMethod};
use crate::decode::{ValueLimits, decode};
use crate::faults::Planted;
use crate::ledger::Ledger;
use crate::method::{Method, MethodOptions, RawMethod};
use crate::server::{BuildError, Context, ServerBuilder};
use crate::stream::server::{PER_SESSION_MAX, SWEEP_INTERVAL, arguments_max, open_max, waited};
use crate::sync::Lock;

/// How long an upload of a resumable method outlives its session.
const LINGER: Duration = Duration::from_secs(60);
/// Bytes of [`Taken`] at most.
const TAKEN_LEN_MAX: u32 = 16;
/// Bytes of [`Committed`] beside the reply.
const COMMITTED_LEN: u32 = 1;

impl<L> ServerBuilder<L> {
    /// Offers a method that takes an upload: `function` is called once for each, reads the items as they arrive, and reads `None`
    /// when the client has committed: what it returns then is the commit's reply. Feature `stream`; see
    /// [`upload`](crate::stream::upload).
    ///
    /// It is dropped where it waits if there will be no commit: when it is not read on, the client has dropped its end, or the
    /// client's session has ended. Its context is that of the call that has opened the upload, whose deadline says nothing of the
    /// commit. What [`method`](ServerBuilder::method) says of blocking holds for it too.
    pub fn upload<A, T, R, F, Fut>(self, method: &UploadMethod<A, T, R>, function: F) -> Self
    where
        F: Fn(Context, A, Incoming<T>) -> Fut + Send + Sync + 'static,
        A: DeserializeOwned + Send + 'static,
        T: 'static,
        R: Serialize + Send + 'static,
        Fut: Future<Output = R> + Send + 'static,
    {
        let (builder, table) = self.without_commit(method, function, false);
        builder.method(&commit_method::<A, T, R>(method), move |context: Context, message| {
            commit(table.clone(), context, message)
        })
    }

    /// Offers a [transactional](UploadMethod::transactional) method that takes an upload: `function` is called as that of
    /// [`upload`](ServerBuilder::upload), but reads `None` when the client has sent all, and returns what the client's commit does in
    /// the ledger's transaction (S29). See [`upload`](crate::stream::upload#a-commit-in-a-transaction). Feature `stream`.
    pub fn upload_transactional<A, T, R, F, Fut>(
        self,
        method: &UploadMethod<A, T, R>,
        function: F,
    ) -> Self
    where
        // Not on the `impl`, as for `transactional`.
        L: Ledger,
        F: Fn(Context, A, Incoming<T>) -> Fut + Send + Sync + 'static,
        A: DeserializeOwned + Send + 'static,
        T: 'static,
        R: Serialize + 'static,
        Fut: Future<Output = super::Commit<L::Transaction, R>> + Send + 'static,
    {
        let UploadMethod { name, shape, .. } = *method;
        let (builder, table) = self.without_commit(method, function, true);
        let ends = table.clone();
        let builder = builder.method_raw(end_method(name, shape), move |context, body: Bytes| {
            end(ends.clone(), context, body)
        });
        builder.each_transactional(&commit_method::<A, T, R>(method), move |message: Commit| {
            CommitCall::new(table.clone(), message)
        })
    }

    /// All but what commits. `S` is what the function returns.
    fn without_commit<A, T, R, S, F, Fut>(
        mut self,
        method: &UploadMethod<A, T, R>,
        function: F,
        transactional: bool,
    ) -> (Self, Arc<UploadTable<S>>)
    where
        F: Fn(Context, A, Incoming<T>) -> Fut + Send + Sync + 'static,
        A: DeserializeOwned + Send + 'static,
        T: 'static,
        S: Send + 'static,
        Fut: Future<Output = S> + Send + 'static,
    {
        let UploadMethod { name, shape, codec, .. } = *method;
        if shape.transactional != transactional {
            let offer = if shape.transactional { "upload_transactional" } else { "upload" };
            self.wrong.get_or_insert(BuildError::UploadCommit { method: name, offer });
        }
        let table = Arc::new(UploadTable::new(shape, self.planted));
        let [opens, puts, closes] = [(); 3].map(|()| table.clone());
        let open: Method<(A, Open), Opened> = Method::new(name)
            .numbered(shape.open)
            .reply_len_max(40)
            .memory_max(arguments_max(shape.chunk_len, shape.credit))
            .drop_on_cancel();
        let function = Arc::new(function);
        let mut builder = self.method(&open, move |context: Context, (arguments, open): (A, Open)| {
            let make = |incoming| {
                let (function, context) = (function.clone(), context.clone());
                // Nothing of the function runs before there is a place.
                async move { function(context, arguments, Incoming::new(incoming, codec)).await }
            };
            std::future::ready(opens.open(&context, open, shape, make))
        });
        builder.stream_signatures.extend(method.described());
        let builder = builder.method_raw(put_method(name, shape), move |context, body: Bytes| {
            put(puts.clone(), context, body)
        });
        let close = close_method(name, shape);
        let builder = builder.method_raw(close, move |context: Context, body: Bytes| {
            if let Some(close) = decode(&body, ValueLimits::DEFAULT) {
                closes.close(&context, close);
            }
            std::future::ready(Bytes::new())
        });
        (builder, table)
    }
}

fn commit_method<A, T, R>(method: &UploadMethod<A, T, R>) -> Method<Commit, Committed<R>> {
    match method.shape.reply_len_max {
        Some(len) => Method::new(method.name).reply_len_max(len.saturating_add(COMMITTED_LEN)),
        None => Method::new(method.name),
    }
}

/// The call for a chunk. It is idempotent by the chunk's number.
fn put_method(name: &'static str, shape: Shape) -> RawMethod {
    let mut spec = MethodSpec::new(shape.put);
    spec.idempotent = true;
    spec.reply_len_max = TAKEN_LEN_MAX;
    let options = MethodOptions { drop_on_cancel: true, ..MethodOptions::CHUNKS };
    RawMethod { name, spec, options, described: None }
}

/// The call that says that there are no more chunks.
fn end_method(name: &'static str, shape: Shape) -> RawMethod {
    let mut end = put_method(name, shape);
    end.spec.id = shape.end;
    end
}

fn close_method(name: &'static str, shape: Shape) -> RawMethod {
    let mut spec = MethodSpec::new(shape.close);
    spec.idempotent = true;
    spec.reply_len_max = 0;
    RawMethod { name, spec, options: MethodOptions::CHUNKS, described: None }
}

async fn put<R: Send + 'static>(
    table: Arc<UploadTable<R>>,
    context: Context,
    body: Bytes,
) -> Bytes {
    encoded(match Put::parse(body) {
        Some(put) => take_chunk(table, &context, put).await,
        None => Taken::No(ServerBreak::Lost),
    })
}

async fn end<S: Send + 'static>(
    table: Arc<UploadTable<S>>,
    context: Context,
    body: Bytes,
) -> Bytes {
    encoded(match decode(&body, ValueLimits::DEFAULT) {
        Some(end) => take_end(table, &context, end).await,
        None => Taken::No(ServerBreak::Lost),
    })
}

fn encoded(taken: Taken) -> Bytes {
    crate::buffer::encode(&taken).map_or_else(|_| Bytes::new(), |taken| taken.into_bytes())
}

/// Waits until the function has read the end and has returned.
async fn take_end<S: Send + 'static>(
    table: Arc<UploadTable<S>>,
    context: &Context,
    End { id, writer, chunks, wait_ms }: End,
) -> Taken {
    let Some(upload) = table.find(context, id) else { return Taken::No(ServerBreak::Lost) };
    drop(table);
    match upload.queue.finish(writer, chunks) {
        Ok(Some(reader)) => upload.wake(reader),
        Ok(None) => {}
        Err(why) => return why,
    }
    let queue = upload.queue.clone();
    drop(upload);
    waited(context, wait_ms, |expired, cx| queue.poll_read(writer, chunks, expired, cx)).await
}

async fn take_chunk<R: Send + 'static>(
    table: Arc<UploadTable<R>>,
    context: &Context,
    put: Put,
) -> Taken {
    let Some(upload) = table.find(context, put.id) else { return Taken::No(ServerBreak::Lost) };
    drop(table);
    match upload.queue.accept(&put) {
        Ok(Some(reader)) => upload.wake(reader),
        Ok(None) => {}
        Err(why) => return why,
    }
    let (queue, writer, chunk, wait_ms) =
        (upload.queue.clone(), put.writer, put.chunk, put.wait_ms);
    drop((upload, put));
    waited(context, wait_ms, |expired, cx| queue.poll_read(writer, chunk, expired, cx)).await
}

/// The function is this call's from the moment on at which it takes it.
async fn commit<R: Send + 'static>(
    table: Arc<UploadTable<R>>,
    context: Context,
    message: Commit,
) -> Committed<R> {
    let Commit { id, writer, chunks } = message;
    // It is in no table from now on, so no one but this call ends it.
    let Some(Entry { upload, .. }) = table.take(&context, id, writer) else {
        return Committed::No(ServerBreak::Lost);
    };
    drop(table);
    let mut function = match poll_fn(|cx| upload.poll_claim(cx)).await {
        Claimed::Returned(reply) => return Committed::Done(reply),
        Claimed::Broken(why) => return Committed::No(why),
        Claimed::Function(function) => function,
    };
    let queue = upload.queue.clone();
    drop(upload);
    if let Err(why) = queue.end(writer, chunks) {
        return Committed::No(why);
    }
    // A panic is the call's.
    poll_fn(|cx| {
        if let Some(function) = function.get_mut()
            && let Poll::Ready(reply) = function.as_mut().poll(cx)
        {
            return Poll::Ready(Committed::Done(reply));
        }
        queue.poll_broken(Some(cx)).map(Committed::No)
    })
    .await
}

/// The open uploads of one method.
pub(super) struct UploadTable<R> {
    open_max: usize,
    /// How long one outlives its session.
    linger: Duration,
    planted: Planted,
    state: Lock<TableState<R>>,
}

struct TableState<R> {
    uploads: HashMap<UploadId, Entry<R>>,
    by_session: HashMap<SessionTag, usize>,
    /// A task looks for sessions that have ended.
    sweeps: bool,
}

pub(super) struct Entry<R> {
    pub(super) upload: Arc<Staging<R>>,
    /// Of the last call: asks whether the session has ended.
    context: Context,
    session: SessionTag,
    /// When that was seen.
    ended: Option<Instant>,
}

impl<R: Send + 'static> UploadTable<R> {
    fn new(shape: Shape, planted: Planted) -> UploadTable<R> {
        let state =
            TableState { uploads: HashMap::new(), by_session: HashMap::new(), sweeps: false };
        UploadTable {
            open_max: open_max(shape.chunk_len, shape.credit),
            planted,
            linger: if shape.resumable { LINGER } else { Duration::ZERO },
            state: Lock::new(state),
        }
    }

    fn open<F>(
        self: &Arc<Self>,
        context: &Context,
        open: Open,
        shape: Shape,
        make: impl FnOnce(Arc<Queue>) -> F,
    ) -> Opened
    where
        F: Future<Output = R> + Send + 'static,
    {
        let Open { id, writer, resumes } = open;
        if resumes {
            // Its client has dropped it while its record was written: the writer that has the upload keeps it.
            if context.is_cancelled() {
                return Opened::Lost;
            }
            let upload = self.find(context, id);
            let progress = upload.and_then(|upload| upload.queue.resume(writer));
            return progress.map_or(Opened::Lost, Opened::Yes);
        }
        let Some(session) = context.session() else { return Opened::Lost };
        let (chunk_len, credit) = (shape.chunk_len as usize, shape.credit as usize);
        let queue = Queue::new(writer, chunk_len, credit, self.planted);
        let queue = Arc::new(queue);
        let upload = Arc::new(Staging::new(queue.clone(), make(queue)));
        let sweeps = {
            let mut state = self.state.lock();
            let left = self.open_max.saturating_sub(state.uploads.len());
            let own = state.by_session.get(&session).copied().unwrap_or(0);
            if own >= PER_SESSION_MAX.min(left) || state.uploads.contains_key(&id) {
                drop(state);
                return Opened::TooMany;
            }
            let (upload, context) = (upload.clone(), context.clone());
            state.uploads.insert(id, Entry { upload, context, session, ended: None });
            state.by_session.insert(session, own + 1);
            std::mem::replace(&mut state.sweeps, true)
        };
        if !sweeps {
            context.spawn(self.clone().sweep(context.clone()));
        }
        context.spawn(upload.run());
        // With a ledger it begins when its record is stable: its client may have cancelled and closed it by then.
        if context.is_cancelled() {
            self.close(context, Close { id, writer });
        }
        Opened::Yes(Progress::NONE)
    }

    /// The upload of this caller's, which is its session's from now on.
    fn find(&self, context: &Context, id: UploadId) -> Option<Arc<Staging<R>>> {
        let mut state = self.state.lock();
        let TableState { uploads, by_session, .. } = &mut *state;
        let entry = uploads.get_mut(&id).filter(|entry| entry.is_of(context))?;
        let session = context.session()?;
        if entry.session != session {
            uncount(by_session, entry.session);
            *by_session.entry(session).or_default() += 1;
            (entry.session, entry.ended) = (session, None);
            let before = std::mem::replace(&mut entry.context, context.clone());
            let upload = entry.upload.clone();
            drop(state);
            drop(before);
            return Some(upload);
        }
        Some(entry.upload.clone())
    }

    /// Takes it out, if it is the caller's, and the writer's.
    pub(super) fn take(&self, context: &Context, id: UploadId, writer: u64) -> Option<Entry<R>> {
        let mut state = self.state.lock();
        let entry = state.uploads.get(&id)?;
        if !entry.is_of(context) || !entry.upload.queue.is_written_by(writer) {
            return None;
        }
        state.remove(id)
    }

    /// A commit that was rolled back gives it back.
    pub(super) fn put_back(self: &Arc<Self>, id: UploadId, entry: Entry<R>) {
        let context = entry.context.clone();
        let sweeps = {
            let mut state = self.state.lock();
            *state.by_session.entry(entry.session).or_default() += 1;
            if let Some(other) = state.uploads.insert(id, entry) {
                // Another one has been opened by this id meanwhile, by a client that does not draw them.
                uncount(&mut state.by_session, other.session);
                drop(state);
                other.upload.close();
                return;
            }
            std::mem::replace(&mut state.sweeps, true)
        };
        if !sweeps {
            context.spawn(self.clone().sweep(context.clone()));
        }
    }

    /// It is not wanted any more. A writer that was replaced does not say so for the one that continues.
    fn close(&self, context: &Context, Close { id, writer }: Close) {
        if let Some(entry) = self.take(context, id, writer) {
            entry.upload.close();
        }
    }

    /// Closes the uploads whose sessions have ended, until none is open.
    async fn sweep(self: Arc<Self>, context: Context) {
        while let Some((now, mut timer)) = context.timer() {
            timer.set(now + SWEEP_INTERVAL);
            poll_fn(|cx| timer.poll(cx)).await;
            let (over, is_empty) = {
                let mut state = self.state.lock();
                let over = state.take_ended(now + SWEEP_INTERVAL, self.linger);
                if state.uploads.is_empty() {
                    state.sweeps = false;
                }
                (over, !state.sweeps)
            };
            over.iter().for_each(|entry| entry.upload.close());
            if is_empty {
                return;
            }
        }
        // The server is gone.
        let over = std::mem::take(&mut self.state.lock().uploads);
        over.values().for_each(|entry| entry.upload.close());
    }
}

impl<R> Entry<R> {
    /// The caller must be the one who opened it, as far as the transport can say.
    fn is_of(&self, context: &Context) -> bool {
        self.context.caller == context.caller
    }
}

impl<R> TableState<R> {
    fn remove(&mut self, id: UploadId) -> Option<Entry<R>> {
        let entry = self.uploads.remove(&id)?;
        uncount(&mut self.by_session, entry.session);
        Some(entry)
    }

    fn take_ended(&mut self, now: Instant, linger: Duration) -> Vec<Entry<R>> {
        let mut over = Vec::new();
        for (id, entry) in &mut self.uploads {
            if entry.context.session().is_some() {
                continue;
            }
            let ended = *entry.ended.get_or_insert(now);
            if now.since(ended) >= linger {
                over.push(*id);
            }
        }
        over.into_iter().filter_map(|id| self.remove(id)).collect()
    }
}

fn uncount(by_session: &mut HashMap<SessionTag, usize>, session: SessionTag) {
    match by_session.get_mut(&session) {
        Some(count) if *count > 1 => *count -= 1,
        _ => drop(by_session.remove(&session)),
    }
}
