//! One client, many threads: short calls whose futures are dropped anywhere, over streams that break.
//!
//! What a simulation of one thread cannot show: two polls at the same moment. A run cannot be repeated exactly, but its
//! seed, which is printed when it fails, gives the same mixture.

use std::future::{Future, IntoFuture};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::protocol::{Executed, Unknown};
use oncewire_driver::{
    BoxFuture, BoxStream, Call, Client, ClientOptions, Connect, Method, Outcome, Server,
    SmolRuntime,
};
use oncewire_fuzz::rng::Rng;
use oncewire_pipe::memory::{MemoryConnector, listener};

const ECHO: Method<u64, u64> = Method::new("threads/echo");
const SLOW: Method<u64, u64> = Method::new("threads/slow");

/// Threads that call, and threads that run the client's and the server's tasks.
const CALLERS: u64 = 6;
const WORKERS: usize = 3;
const STEPS: u64 = 600;
/// Calls have a deadline of 30 s: one that comes to it was forgotten.
const WATCHDOG: Duration = Duration::from_secs(120);

/// Breaks each connection after some bytes.
struct Breaking {
    inner: MemoryConnector,
    seed: u64,
    dials: AtomicU64,
    bytes_max: u64,
}

impl Connect for Breaking {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let stream = self.inner.connect().await?;
            let dial = self.dials.fetch_add(1, Ordering::Relaxed);
            let left = Rng::apart(self.seed, dial).below(self.bytes_max);
            Ok(Box::new(Brittle { stream, left }) as BoxStream)
        })
    }

    fn address(&self) -> String {
        self.inner.address()
    }
}

struct Brittle {
    stream: BoxStream,
    left: u64,
}

impl Brittle {
    fn wear(&mut self, len: usize) -> io::Result<()> {
        self.left = self.left.checked_sub(len as u64).ok_or(io::ErrorKind::ConnectionReset)?;
        Ok(())
    }
}

impl AsyncRead for Brittle {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let len = std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        Poll::Ready(self.wear(len).map(|()| len))
    }
}

impl AsyncWrite for Brittle {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.wear(1)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// What was executed, by operation.
struct Runs(Vec<AtomicUsize>);

impl Runs {
    fn run(&self, op: u64) {
        let before = self.0[op as usize].fetch_add(1, Ordering::SeqCst);
        assert_eq!(before, 0, "operation {op} runs a second time");
    }

    fn judge(&self, op: u64, outcome: &Outcome<u64>) {
        let runs = self.0[op as usize].load(Ordering::SeqCst);
        let right = match outcome.executed() {
            Executed::Yes => runs == 1,
            Executed::No => runs == 0,
            Executed::Unknown => true,
        };
        assert!(right, "operation {op} ran {runs} times and ended as {outcome:?}");
        match outcome {
            Outcome::Reply(reply) => assert_eq!(*reply, op + 1),
            Outcome::Unknown(Unknown::DeadlinePassed, _) => panic!("operation {op} was forgotten"),
            _ => {}
        }
    }
}

struct Caller {
    client: Client,
    runs: Arc<Runs>,
    rng: Rng,
    ops: std::ops::Range<u64>,
}

impl Caller {
    fn begin(&mut self) -> Option<(u64, Call<u64>)> {
        let op = self.ops.next()?;
        let method = if self.rng.one_in(8) { &SLOW } else { &ECHO };
        Some((op, self.client.call(method, &op).into_future()))
    }

    async fn run(mut self) {
        while let Some((op, call)) = self.begin() {
            let mut call = pin!(call);
            match self.rng.below(6) {
                0 | 1 => self.runs.judge(op, &call.await),
                2 => {
                    let polls = self.rng.range(1, 3);
                    if let Some(outcome) = poll_some(call, polls).await {
                        self.runs.judge(op, &outcome);
                    }
                }
                3 => {
                    // Held, perhaps as the one that leads, while others are waited for.
                    let early = poll_some(call.as_mut(), 1).await;
                    if let Some((other, held)) = self.begin() {
                        self.runs.judge(other, &held.await);
                    }
                    match early {
                        Some(outcome) => self.runs.judge(op, &outcome),
                        None => self.runs.judge(op, &call.await),
                    }
                }
                4 => {
                    let others: Vec<_> = (0..3).filter_map(|_| self.begin()).collect();
                    let mut joined = Vec::new();
                    for (other, future) in others {
                        let runs = self.runs.clone();
                        joined.push(Box::pin(async move { runs.judge(other, &future.await) }));
                    }
                    join(joined).await;
                    self.runs.judge(op, &call.await);
                }
                _ => {
                    let mut other = pin!(smol::future::yield_now());
                    let first = std::future::poll_fn(|cx| {
                        if let Poll::Ready(outcome) = call.as_mut().poll(cx) {
                            return Poll::Ready(Some(outcome));
                        }
                        other.as_mut().poll(cx).map(|()| None)
                    });
                    if let Some(outcome) = first.await {
                        self.runs.judge(op, &outcome);
                    }
                }
            }
        }
    }
}

async fn poll_some<F: Future>(mut future: Pin<&mut F>, mut polls: u64) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        polls -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polls == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn join<F: Future<Output = ()> + Unpin>(mut all: Vec<F>) {
    std::future::poll_fn(|cx| {
        all.retain_mut(|future| Pin::new(future).poll(cx).is_pending());
        if all.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// One mixture, to its end.
fn mix(seed: u64, bytes_max: u64) {
    let executor = Arc::new(smol::Executor::new());
    let (stop, stopped) = smol::channel::bounded::<()>(1);
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (executor, stopped) = (executor.clone(), stopped.clone());
            thread::spawn(move || {
                let _closed = smol::block_on(executor.run(stopped.recv()));
            })
        })
        .collect();
    let spawner = executor.clone();
    let runtime = SmolRuntime::with_spawner(move |task| spawner.spawn(task).detach());
    let runs = Arc::new(Runs((0..CALLERS * STEPS).map(|_| AtomicUsize::new(0)).collect()));
    let (inner, acceptor) = listener();
    let (fast, slow) = (runs.clone(), runs.clone());
    let server = Server::builder("threads")
        .runtime(runtime.clone())
        .method(&ECHO, move |_, op| {
            fast.run(op);
            async move { op + 1 }
        })
        .method(&SLOW, move |_, op| {
            slow.run(op);
            async move {
                smol::future::yield_now().await;
                op + 1
            }
        })
        .build()
        .expect("sound");
    let serving = server.clone();
    executor.spawn(async move { serving.serve(acceptor).await }).detach();
    let mut options = ClientOptions::default();
    options.backoff_min = Duration::from_millis(1);
    let connector = Breaking { inner, seed, dials: AtomicU64::new(0), bytes_max };
    let client = Client::with_runtime(connector, options, runtime);
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let ops = number * STEPS..(number + 1) * STEPS;
            let rng = Rng::apart(seed, number << 32);
            let caller = Caller { client: client.clone(), runs: runs.clone(), rng, ops };
            thread::spawn(move || smol::block_on(caller.run()))
        })
        .collect();
    for caller in callers {
        caller.join().expect("a caller");
    }
    smol::block_on(async {
        client.close().await;
        drop(client);
        server.drain(Duration::from_secs(5)).await;
    });
    let counters = server.counters();
    assert_eq!((counters.kept_bytes, counters.running), (0, 0), "{counters:?}");
    drop(stop);
    for worker in workers {
        worker.join().expect("a worker");
    }
}

/// Runs a mixture beside a watchdog.
fn watched(seed: u64, bytes_max: u64) {
    let (done, finished) = mpsc::channel();
    let mixing = thread::spawn(move || {
        mix(seed, bytes_max);
        done.send(()).expect("the watchdog waits");
    });
    match finished.recv_timeout(WATCHDOG) {
        Ok(()) => mixing.join().expect("it has ended"),
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("seed {seed}, {bytes_max} bytes: it hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            panic!("seed {seed}, {bytes_max} bytes: {:?}", mixing.join().err().map(|_| "panicked"))
        }
    }
}

#[test]
fn futures_dropped_in_many_threads_harm_no_other_call() {
    for seed in 0..8 {
        watched(seed, u64::MAX);
    }
}

#[test]
fn connections_that_break_under_many_threads_lose_no_call() {
    for seed in 10..18 {
        watched(seed, 20_000);
    }
}
