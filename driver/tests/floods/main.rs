//! C106 to C110: peers that send without end; C171 to C177: calls that leave together, or are left.
//!
//! Everything runs on one thread that the test drives poll by poll, on a clock that moves with the bytes that are read and
//! the calls that are executed: nothing here depends on how fast the machine is, and a poll that does not end hangs the
//! test.
#![allow(missing_docs)]

mod batches;
mod clients;
mod servers;

use std::collections::VecDeque;
use std::future::{Future, IntoFuture};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::protocol::wire::{self, Frame, Role};
use oncewire_driver::protocol::{self as core, Heap, Instant};
use oncewire_driver::{
    BoxFuture, BoxStream, Call, Client, ClientOptions, Connect, Method, Outcome, Runtime, Server,
    ServerBuilder, Subject, Timer,
};

const ECHO: Method<u32, u32> = Method::new("floods/echo");
/// Takes [`WORK_TIME`].
const WORK: Method<u32, u32> = Method::new("floods/work");

/// Has no reply.
const NEVER: Method<u32, u32> = Method::new("floods/never");

/// What a byte takes that is read: 262 µs for a buffer of 64 KiB.
const BYTE_TIME: Duration = Duration::from_nanos(4);
const WORK_TIME: Duration = Duration::from_micros(10);
/// The longest poll: a turn of 100 µs, and a read that cannot be interrupted.
const POLL_MAX: Duration = Duration::from_micros(400);
/// The same where a client ends what is overdue: before, it reads what sockets usually hold.
const JUDGE_MAX: Duration = Duration::from_millis(4);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- the executor ----

struct Task {
    future: Mutex<Option<BoxFuture<'static, ()>>>,
    queued: AtomicBool,
    world: Arc<World>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::SeqCst) {
            let world = self.world.clone();
            lock(&world.ready).push_back(self);
        }
    }
}

#[derive(Default)]
struct World {
    /// Nanoseconds.
    now: AtomicU64,
    tasks: Mutex<Vec<Arc<Task>>>,
    ready: Mutex<VecDeque<Arc<Task>>>,
    /// When to wake whom.
    timers: Mutex<Vec<(Instant, Waker)>>,
    numbers: AtomicU64,
}

impl World {
    fn new() -> Arc<World> {
        let world = World::default();
        world.now.store(1_000_000_000, Ordering::SeqCst);
        Arc::new(world)
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.now.load(Ordering::SeqCst))
    }

    fn pass(&self, time: Duration) {
        self.now.fetch_add(time.as_nanos() as u64, Ordering::SeqCst);
    }

    fn spawn(self: &Arc<Self>, future: impl Future<Output = ()> + Send + 'static) {
        let future: BoxFuture<'static, ()> = Box::pin(future);
        let queued = AtomicBool::new(false);
        let task = Task { future: Mutex::new(Some(future)), queued, world: self.clone() };
        let task = Arc::new(task);
        // It lives though nothing may ever wake it.
        lock(&self.tasks).push(task.clone());
        task.wake();
    }

    /// Wakes those whose timers are due.
    fn fire(&self) {
        let now = self.now();
        let due: Vec<_> = lock(&self.timers).extract_if(.., |(at, _)| *at <= now).collect();
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Fires what is due, and polls the task that has waited longest; says how long that took, or nothing if none waits.
    fn step(self: &Arc<Self>) -> Option<Duration> {
        self.fire();
        let task = lock(&self.ready).pop_front()?;
        task.queued.store(false, Ordering::SeqCst);
        let begun = self.now();
        let waker = Waker::from(task.clone());
        let mut future = lock(&task.future);
        if let Some(running) = future.as_mut()
            && running.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
        {
            *future = None;
        }
        Some(self.now().since(begun))
    }

    /// Steps until `done`, and checks that no poll takes longer than it may.
    fn run_until(self: &Arc<Self>, done: impl FnMut() -> bool) {
        self.run_with(POLL_MAX, done);
    }

    fn run_with(self: &Arc<Self>, poll_max: Duration, mut done: impl FnMut() -> bool) {
        for _ in 0..100_000 {
            if done() {
                return;
            }
            match self.step() {
                Some(took) => assert!(took <= poll_max, "a poll took {took:?}"),
                None => self.pass(Duration::from_micros(100)),
            }
        }
        panic!("it does not come");
    }
}

struct HandRuntime(Arc<World>);

impl Runtime for HandRuntime {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn timer(&self) -> Box<dyn Timer> {
        Box::new(HandTimer { world: self.0.clone(), at: Instant::FAR_FUTURE })
    }

    fn random(&self, bytes: &mut [u8]) {
        // Spread over all of `u64`, as pauses between dials expect it: small numbers are pauses of no time.
        let number = self.0.numbers.fetch_add(1, Ordering::SeqCst) + 1;
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bytes.fill(0);
        bytes[..8].copy_from_slice(&spread.to_le_bytes());
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.0.spawn(task);
    }
}

struct HandTimer {
    world: Arc<World>,
    at: Instant,
}

impl Timer for HandTimer {
    fn set(&mut self, at: Instant) {
        self.at = at;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.at <= self.world.now() {
            self.at = Instant::FAR_FUTURE;
            return Poll::Ready(());
        }
        if self.at != Instant::FAR_FUTURE {
            lock(&self.world.timers).push((self.at, cx.waker().clone()));
        }
        Poll::Pending
    }
}

// ---- streams ----

#[derive(Default)]
struct HalfPipe {
    bytes: VecDeque<u8>,
    reader: Option<Waker>,
    /// How often it was written to.
    writes: usize,
    /// The next write panics, once what it was given is there.
    panics: bool,
    /// When `bytes` are read, this comes again and again.
    flood: Vec<u8>,
}

impl HalfPipe {
    fn put(half: &Mutex<HalfPipe>, bytes: &[u8]) {
        let reader = {
            let mut half = lock(half);
            half.bytes.extend(bytes);
            half.reader.take()
        };
        reader.into_iter().for_each(Waker::wake);
    }

    fn flood(half: &Mutex<HalfPipe>, frame: &[u8]) {
        lock(half).flood = frame.repeat(1000);
        HalfPipe::put(half, &[]);
    }
}

/// One end of a stream that takes whatever is written.
struct Stream {
    world: Arc<World>,
    input: Arc<Mutex<HalfPipe>>,
    output: Arc<Mutex<HalfPipe>>,
}

/// Both ends.
fn streams(world: &Arc<World>) -> (Stream, Stream) {
    let (up, down) = (Arc::<Mutex<HalfPipe>>::default(), Arc::<Mutex<HalfPipe>>::default());
    let (world, up2, down2) = (world.clone(), up.clone(), down.clone());
    let client = Stream { world: world.clone(), input: down, output: up };
    (client, Stream { world, input: up2, output: down2 })
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut half = lock(&self.input);
        if half.bytes.is_empty() && half.flood.is_empty() {
            half.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        while half.bytes.len() < buf.len() && !half.flood.is_empty() {
            let HalfPipe { bytes, flood, .. } = &mut *half;
            bytes.extend(&*flood);
        }
        let len = half.bytes.len().min(buf.len());
        buf.iter_mut().zip(half.bytes.drain(..len)).for_each(|(to, byte)| *to = byte);
        self.world.pass(BYTE_TIME * len as u32);
        Poll::Ready(Ok(len))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        lock(&self.output).writes += 1;
        HalfPipe::put(&self.output, buf);
        assert!(!std::mem::take(&mut lock(&self.output).panics), "as the test asks for");
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

// ---- a server ----

fn server(world: &Arc<World>) -> (Server, Arc<AtomicUsize>) {
    let (builder, works) = offer(world);
    (builder.build().unwrap(), works)
}

fn offer(world: &Arc<World>) -> (ServerBuilder, Arc<AtomicUsize>) {
    let works = Arc::new(AtomicUsize::new(0));
    let (counted, clock) = (works.clone(), world.clone());
    let builder = Server::builder("floods")
        .runtime(Arc::new(HandRuntime(world.clone())))
        .method(&ECHO, |_, n| async move { n })
        .method(&NEVER, |_, _| std::future::pending())
        .method(&WORK, move |_, n| {
            counted.fetch_add(1, Ordering::SeqCst);
            clock.pass(WORK_TIME);
            async move { n }
        });
    (builder, works)
}

fn encode(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = vec![0; 1 << 10];
    let len = wire::encode(frame, &mut out).unwrap();
    out.truncate(len);
    out
}
