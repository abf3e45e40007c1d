//! What the driver runs on while its interleavings are explored: time does not pass, streams are in memory, tasks and
//! threads belong to the model, and every lock is a place at which another one may go on.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::protocol::Instant;
use oncewire_driver::{
    Accept, BoxFuture, BoxStream, Client, ClientOptions, Connect, Method, Outcome, Runtime, Server,
    Subject, Timer,
};
use shuttle::future::block_on;
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::Mutex;

/// Answers at once.
pub(crate) const ECHO: Method<u64, u64> = Method::new("interleavings/echo");
/// Answers once the gate is open.
pub(crate) const HELD: Method<u64, u64> = Method::new("interleavings/held");
/// Answers with as many bytes as it was sent.
pub(crate) const LONG: Method<Vec<u8>, Vec<u8>> = Method::new("interleavings/long");

/// The time, always.
const NOW: Instant = Instant::from_nanos(1_000_000_000);

/// The tasks of the client and the server, which end when they are stopped.
#[derive(Clone, Default)]
pub(crate) struct Tasks(Arc<std::sync::Mutex<Living>>);

#[derive(Default)]
struct Living {
    told_to_end: bool,
    wakers: Vec<Waker>,
    handles: Vec<shuttle::future::JoinHandle<()>>,
}

impl Tasks {
    /// The model's own state: its lock is never held when another one may go on.
    fn lock(&self) -> std::sync::MutexGuard<'_, Living> {
        self.0.lock().expect("no panic under the lock")
    }

    fn spawn(&self, mut task: BoxFuture<'static, ()>) {
        let tasks = self.clone();
        let handle = shuttle::future::spawn(std::future::poll_fn(move |cx| {
            {
                let mut living = tasks.lock();
                if living.told_to_end {
                    return Poll::Ready(());
                }
                living.wakers.push(cx.waker().clone());
            }
            task.as_mut().poll(cx)
        }));
        self.lock().handles.push(handle);
    }

    /// Ends them all, and waits for that: what is dropped when the model ends cannot wait for locks.
    pub(crate) fn end(&self) {
        let wakers = {
            let mut living = self.lock();
            living.told_to_end = true;
            std::mem::take(&mut living.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
        loop {
            let Some(handle) = self.lock().handles.pop() else { return };
            block_on(handle).expect("it was not aborted");
        }
    }
}

/// Time does not pass, so no timer saves a task that waits: one that is not woken never wakes.
struct Frozen {
    tasks: Tasks,
    /// What the next random bytes are; a client's are all zero, so that it dials again at once.
    chance: Option<AtomicU64>,
}

impl Runtime for Frozen {
    fn now(&self) -> Instant {
        NOW
    }

    fn timer(&self) -> Box<dyn Timer> {
        Box::new(Never { at: Instant::FAR_FUTURE })
    }

    fn random(&self, bytes: &mut [u8]) {
        bytes.fill(0);
        if let Some(chance) = &self.chance {
            let number = chance.fetch_add(1, Ordering::Relaxed) + 1;
            bytes[..8].copy_from_slice(&number.to_le_bytes());
        }
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.tasks.spawn(task);
    }

    fn yield_now(&self) {
        shuttle::thread::yield_now();
    }

    fn parks_client(&self) -> bool {
        thread_rng().r#gen()
    }
}

struct Never {
    at: Instant,
}

impl Timer for Never {
    fn set(&mut self, at: Instant) {
        self.at = at;
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<()> {
        if self.at <= NOW { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// One direction of a stream.
#[derive(Default)]
struct HalfPipe {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// Nothing more is written.
    ended: bool,
    /// Its reader is gone.
    reader_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl HalfPipe {
    /// Wakes both ends.
    fn wake(&mut self) -> [Option<Waker>; 2] {
        [self.reader.take(), self.writer.take()]
    }
}

type Shared = Arc<Mutex<HalfPipe>>;

fn change<T>(half: &Shared, f: impl FnOnce(&mut HalfPipe) -> T) -> T {
    let (result, wake) = {
        let mut half = half.lock().expect("no panic under the lock");
        let result = f(&mut half);
        (result, half.wake())
    };
    wake.into_iter().flatten().for_each(Waker::wake);
    result
}

/// One end of a stream.
struct Stream {
    input: Shared,
    output: Shared,
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        {
            let mut half = self.input.lock().expect("no panic under the lock");
            if half.bytes.is_empty() {
                if half.ended {
                    return Poll::Ready(Ok(0));
                }
                half.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(change(&self.input, |half| {
            let len = half.bytes.len().min(buf.len());
            for (to, byte) in buf.iter_mut().zip(half.bytes.drain(..len)) {
                *to = byte;
            }
            len
        })))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        {
            let mut half = self.output.lock().expect("no panic under the lock");
            if half.reader_gone || half.ended {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if half.bytes.len() >= half.capacity {
                half.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(change(&self.output, |half| {
            let len = buf.len().min(half.capacity - half.bytes.len());
            half.bytes.extend(&buf[..len]);
            len
        })))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        change(&self.output, |half| half.ended = true);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        change(&self.output, |half| half.ended = true);
        change(&self.input, |half| half.reader_gone = true);
    }
}

/// The address: dials, and connections to be accepted or cut.
#[derive(Default)]
struct AcceptQueue {
    waiting: VecDeque<Stream>,
    acceptor: Option<Waker>,
    halves: Vec<Shared>,
}

#[derive(Clone)]
struct Address {
    queue: Arc<Mutex<AcceptQueue>>,
    capacity: usize,
}

impl Connect for Address {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let half = || {
                let half = HalfPipe { capacity: self.capacity, ..HalfPipe::default() };
                Arc::new(Mutex::new(half))
            };
            let (up, down) = (half(), half());
            let theirs = Stream { input: up.clone(), output: down.clone() };
            let acceptor = {
                let mut queue = self.queue.lock().expect("no panic under the lock");
                queue.halves = vec![up.clone(), down.clone()];
                queue.waiting.push_back(theirs);
                queue.acceptor.take()
            };
            acceptor.into_iter().for_each(Waker::wake);
            Ok(Box::new(Stream { input: down, output: up }) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "the model's address".to_owned()
    }

    fn dials_anywhere(&self) -> bool {
        true
    }
}

impl Accept for Address {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(std::future::poll_fn(|cx| {
            let mut queue = self.queue.lock().expect("no panic under the lock");
            match queue.waiting.pop_front() {
                Some(stream) => {
                    Poll::Ready(Ok((Box::new(stream) as BoxStream, Subject::Anonymous)))
                }
                None => {
                    queue.acceptor = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        }))
    }

    fn address(&self) -> String {
        "the model's address".to_owned()
    }
}

/// Something that is changed, and waited for.
struct Watched<T>(Arc<Mutex<(T, Vec<Waker>)>>);

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Watched(self.0.clone())
    }
}

impl<T: Default> Default for Watched<T> {
    fn default() -> Self {
        Watched(Arc::default())
    }
}

impl<T> Watched<T> {
    fn change<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        let (result, wakers) = {
            let mut watched = self.0.lock().expect("no panic under the lock");
            (f(&mut watched.0), std::mem::take(&mut watched.1))
        };
        wakers.into_iter().for_each(Waker::wake);
        result
    }

    fn look<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        f(&self.0.lock().expect("no panic under the lock").0)
    }

    async fn until(&self, holds: impl Fn(&T) -> bool) {
        std::future::poll_fn(|cx| {
            let mut watched = self.0.lock().expect("no panic under the lock");
            if holds(&watched.0) {
                return Poll::Ready(());
            }
            watched.1.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// A client, a server, and what is between them.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) tasks: Tasks,
    address: Address,
    /// Whether what [`HELD`] waits for has come.
    gate: Watched<bool>,
    /// Executions, by argument.
    runs: Runs,
}

/// Arguments are below this.
const ARGUMENTS: usize = 16;

type Runs = Watched<[usize; ARGUMENTS]>;

impl World {
    /// Both are there; whether they have connected is chance, so that both are explored: to connect, and to go on.
    pub(crate) fn new() -> World {
        World::with_capacity(usize::MAX)
    }

    /// The same over a stream that takes only so many bytes at once.
    pub(crate) fn with_capacity(capacity: usize) -> World {
        let address = Address { queue: Arc::default(), capacity };
        let gate = Watched::<bool>::default();
        let tasks = Tasks::default();
        let runs = Runs::default();
        let (echo, held, holds) = (runs.clone(), runs.clone(), gate.clone());
        let server = Server::builder("interleavings")
            .runtime(Arc::new(Frozen { tasks: tasks.clone(), chance: Some(AtomicU64::new(0)) }))
            .method(&ECHO, move |_, n| {
                note(&echo, n);
                async move { n + 1 }
            })
            .method(&HELD, move |_, n| {
                note(&held, n);
                let gate = holds.clone();
                async move {
                    gate.until(|open| *open).await;
                    n + 1
                }
            })
            .method(&LONG, |_, bytes| async move { bytes })
            .build()
            .expect("the description is sound");
        let acceptor = address.clone();
        tasks.spawn(Box::pin(
            async move { server.serve(acceptor).await.expect("it is served once") },
        ));
        let mut options = ClientOptions::default();
        options.backoff_min = std::time::Duration::ZERO;
        options.backoff_max = std::time::Duration::ZERO;
        let runtime = Arc::new(Frozen { tasks: tasks.clone(), chance: None });
        let client = Client::with_runtime(address.clone(), options, runtime);
        if thread_rng().r#gen() {
            assert!(block_on(client.connected()));
        }
        World { client, tasks, address, gate, runs }
    }

    /// What waits for the gate may end.
    pub(crate) fn open_gate(&self) {
        self.gate.change(|open| *open = true);
    }

    /// What begins from now on waits for it once more.
    pub(crate) fn close_gate(&self) {
        self.gate.change(|open| *open = false);
    }

    /// The connection breaks, if there is one; what is on its way is lost.
    pub(crate) fn cut(&self) {
        let halves = self.address.queue.lock().expect("no panic under the lock").halves.clone();
        for half in &halves {
            change(half, |half| {
                half.bytes.clear();
                (half.ended, half.reader_gone) = (true, true);
            });
        }
    }

    /// How often it was executed with this argument.
    pub(crate) fn runs(&self, n: u64) -> usize {
        self.runs.look(|runs| runs[n as usize])
    }

    /// Waits until it was executed with this argument.
    pub(crate) async fn has_run(&self, n: u64) {
        self.runs.until(|runs| runs[n as usize] > 0).await;
    }

    /// Whether a caller's outcome agrees with what was executed.
    pub(crate) fn judge(&self, n: u64, outcome: &Outcome<u64>) {
        match outcome {
            Outcome::Reply(reply) => assert_eq!((*reply, self.runs(n)), (n + 1, 1), "argument {n}"),
            Outcome::NotExecuted(why) => assert_eq!(self.runs(n), 0, "argument {n}: {why:?}"),
            other => assert!(self.runs(n) <= 1, "argument {n}: {other:?}"),
        }
    }

    /// Makes a call, waits for it and demands a reply.
    pub(crate) async fn echo(&self, n: u64) {
        let outcome = self.client.call(&ECHO, &n).await;
        assert!(matches!(outcome, Outcome::Reply(_)), "argument {n}: {outcome:?}");
        self.judge(n, &outcome);
    }
}

fn note(runs: &Runs, n: u64) {
    let count = runs.change(|runs| {
        runs[n as usize] += 1;
        runs[n as usize]
    });
    assert_eq!(count, 1, "argument {n} runs a second time");
}

/// Polls a future so many times at most, whether it was woken or not.
pub(crate) async fn poll_some<F: Future + Unpin>(future: &mut F, polls: u64) -> Option<F::Output> {
    for at in 0..polls {
        if at > 0 {
            shuttle::future::yield_now().await;
        }
        let polled = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
    }
    None
}
