//! C106 to C110: peers that send without end. Everything runs on one thread that the test drives poll by poll, on a clock
//! that moves with the bytes that are read and the calls that are executed: nothing here depends on how fast the machine
//! is, and a poll that does not end hangs the test.
#![allow(missing_docs)]

use std::collections::VecDeque;
use std::future::{Future, IntoFuture};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::core::wire::{self, Frame, Role};
use oncewire_driver::core::{self, Heap, Instant};
use oncewire_driver::{
    BoxFuture, BoxStream, CallFuture, Client, ClientOptions, Connect, Method, Outcome, Runtime,
    Server, ServerBuilder, Subject, Timer,
};

const ECHO: Method<u32, u32> = Method::new("floods.echo");
/// Takes [`WORK_TIME`].
const WORK: Method<u32, u32> = Method::new("floods.work");

/// Has no reply.
const NEVER: Method<u32, u32> = Method::new("floods.never");

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
        let number = self.0.numbers.fetch_add(1, Ordering::SeqCst) + 1;
        bytes.fill(0);
        bytes[..8].copy_from_slice(&number.to_le_bytes());
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
        HalfPipe::put(&self.output, buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

// ---- a server, and strangers ----

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

/// A client's machine at one end of a stream, driven by hand.
struct Peer {
    machine: core::Client<Heap>,
    stream: Stream,
}

impl Peer {
    fn connect(world: &Arc<World>, server: &Server) -> Peer {
        let (stream, theirs) = streams(world);
        server.serve_stream(Box::new(theirs) as BoxStream, Subject::Anonymous);
        let mut peer = Peer { machine: core::Client::new(core::ClientConfig::default()), stream };
        peer.machine.handle_connected(world.now());
        world.run_until(|| {
            peer.turn();
            peer.machine.is_connected()
        });
        peer
    }

    fn call(&mut self, method: &Method<u32, u32>) {
        let call = core::Call::new(method.id(), &[1][..]);
        self.machine.call(self.stream.world.now(), call).unwrap();
    }

    /// Sends what there is to send, and takes what has come.
    fn turn(&mut self) {
        let now = self.stream.world.now();
        let mut out = vec![0; 1 << 16];
        while let Some(len) = self.machine.poll_transmit(now, &mut out) {
            HalfPipe::put(&self.stream.output, &out[..len.get()]);
        }
        while self.machine.poll_event().is_some() {}
        let data: Vec<u8> = lock(&self.stream.input).bytes.drain(..).collect();
        let mut rest = &data[..];
        while !rest.is_empty() {
            rest = &rest[self.machine.handle_data(now, rest).unwrap().consumed..];
        }
    }

    fn flood(&self, frame: &Frame<'_>) {
        HalfPipe::flood(&self.stream.output, &encode(frame));
    }

    /// Makes a call; how long until the reply.
    fn round_trip(&mut self) -> Duration {
        let world = self.stream.world.clone();
        let begun = world.now();
        self.call(&ECHO);
        world.run_until(|| {
            self.turn();
            self.machine.pending() == 0
        });
        world.now().since(begun)
    }
}

fn encode(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = vec![0; 1 << 10];
    let len = wire::encode(frame, &mut out).unwrap();
    out.truncate(len);
    out
}

// ---- servers ----

#[test]
fn c106_a_flood_of_pings_takes_no_more_than_its_turns() {
    let world = World::new();
    let (server, _) = server(&world);
    let mut honest = Peer::connect(&world, &server);
    let flooders: Vec<_> = (0..5).map(|_| Peer::connect(&world, &server)).collect();
    flooders.iter().for_each(|flooder| flooder.flood(&Frame::Ping(Role::Client)));
    for _ in 0..5 {
        let time = honest.round_trip();
        assert!(time <= 2 * 6 * POLL_MAX, "{time:?}");
    }
    // One more connects, too.
    let begun = world.now();
    Peer::connect(&world, &server);
    assert!(world.now().since(begun) <= 5 * 6 * POLL_MAX);
    // Pongs that no one reads are not kept.
    let pongs: usize = flooders.iter().map(|flooder| lock(&flooder.stream.input).bytes.len()).sum();
    assert!(pongs < 1 << 16, "{pongs} bytes of pongs");
}

#[test]
fn c106_a_flood_of_asks_takes_no_more_than_its_turns() {
    let world = World::new();
    let (server, _) = server(&world);
    let mut honest = Peer::connect(&world, &server);
    let mut flooder = Peer::connect(&world, &server);
    flooder.round_trip();
    flooder.flood(&Frame::Ask(core::Xid::new(1).unwrap(), 1));
    for _ in 0..5 {
        let time = honest.round_trip();
        assert!(time <= 2 * POLL_MAX, "{time:?}");
    }
}

#[test]
fn c107_a_thousand_calls_in_flight_leave_others_their_turns() {
    let world = World::new();
    let (server, works) = server(&world);
    let mut honest = Peer::connect(&world, &server);
    let mut busy = Peer::connect(&world, &server);
    (0..1000).for_each(|_| busy.call(&WORK));
    busy.turn();
    let time = honest.round_trip();
    assert!(time <= 2 * POLL_MAX, "{time:?}");
    assert!(works.load(Ordering::SeqCst) < 50, "of the thousand, the first few were executed");
    world.run_until(|| {
        busy.turn();
        busy.machine.pending() == 0
    });
    assert_eq!(works.load(Ordering::SeqCst), 1000);
}

/// The mutant `greedy`: these tests would notice a turn without bounds.
#[cfg(feature = "_faults")]
#[test]
#[should_panic(expected = "a poll took")]
fn c135_a_turn_without_bounds_is_found_out() {
    let world = World::new();
    let fault = oncewire_driver::faults::ServerFault::Greedy;
    let server = offer(&world).0.fault(fault).build().unwrap();
    let mut honest = Peer::connect(&world, &server);
    let flooder = Peer::connect(&world, &server);
    // Not without end: such a turn has none either.
    HalfPipe::put(&flooder.stream.output, &encode(&Frame::Ping(Role::Client)).repeat(1 << 18));
    honest.round_trip();
}

// ---- clients ----

/// Dials a server of the same world.
#[derive(Clone)]
struct Dial {
    world: Arc<World>,
    server: Server,
    /// What clients read.
    inputs: Arc<Mutex<Vec<Arc<Mutex<HalfPipe>>>>>,
}

impl Dial {
    fn new(world: &Arc<World>) -> Dial {
        Dial { world: world.clone(), server: server(world).0, inputs: Arc::default() }
    }

    /// A client that has made a call.
    fn client(&self) -> Client {
        let runtime = Arc::new(HandRuntime(self.world.clone()));
        let client = Client::with_runtime(self.clone(), ClientOptions::default(), runtime);
        let mut call = client.call(&ECHO, &0).into_future();
        let mut cx = Context::from_waker(Waker::noop());
        self.world.run_until(|| Pin::new(&mut call).poll(&mut cx).is_ready());
        client
    }

    /// From now on the last client that connected reads this without end.
    fn flood(&self, frame: &Frame<'_>) {
        HalfPipe::flood(lock(&self.inputs).last().unwrap(), &encode(frame));
    }
}

impl Connect for Dial {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        let (ours, theirs) = streams(&self.world);
        lock(&self.inputs).push(ours.input.clone());
        self.server.serve_stream(Box::new(theirs), Subject::Anonymous);
        Box::pin(std::future::ready(Ok(Box::new(ours) as BoxStream)))
    }

    fn address(&self) -> String {
        "the same world".to_owned()
    }
}

/// A call in a task of its own; when it has ended, its outcome and the moment.
type Watched = Arc<Mutex<Option<(Outcome<u32>, Instant)>>>;

fn watch(world: &Arc<World>, call: CallFuture<u32>) -> Watched {
    let (watched, clock) = (Watched::default(), world.clone());
    let reported = watched.clone();
    world.spawn(async move {
        let outcome = call.await;
        *lock(&reported) = Some((outcome, clock.now()));
    });
    watched
}

fn a_flooded_client_keeps_its_deadlines(frame: &Frame<'_>) {
    const TIMEOUT: Duration = Duration::from_millis(20);
    let world = World::new();
    let dial = Dial::new(&world);
    let neighbour = dial.client();
    let flooded = dial.client();
    dial.flood(frame);
    let deadline = world.now() + TIMEOUT;
    // One that reads for all, one that waits for it, and one that is not polled any more.
    let timed = |n| flooded.call(&NEVER, &n).timeout(TIMEOUT).into_future();
    let calls = [watch(&world, timed(1)), watch(&world, timed(2))];
    let mut left = timed(3);
    assert!(Pin::new(&mut left).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let mut beside = 0;
    while calls.iter().any(|call| lock(call).is_none()) {
        let begun = world.now();
        let call = watch(&world, neighbour.call(&ECHO, &1).into_future());
        world.run_with(JUDGE_MAX, || lock(&call).is_some());
        let time = world.now().since(begun);
        assert!(time <= 2 * JUDGE_MAX, "a neighbour's call took {time:?}");
        beside += 1;
    }
    assert!(beside > 1, "the neighbour was served meanwhile");
    for call in &calls {
        let (outcome, at) = lock(call).take().unwrap();
        assert!(matches!(outcome, Outcome::Unknown(..)), "{outcome:?}");
        let late = at.since(deadline);
        // Before deadlines are judged, more is read than in a turn.
        assert!(at >= deadline && late <= 2 * JUDGE_MAX, "reported {late:?} late");
    }
    let left = Pin::new(&mut left).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(left, Poll::Ready(Outcome::Unknown(..))), "{left:?}");
}

#[test]
fn c108_a_flood_of_pings_leaves_a_client_its_deadlines() {
    a_flooded_client_keeps_its_deadlines(&Frame::Ping(Role::Server));
}

#[test]
fn c108_a_flood_of_late_answers_leaves_a_client_its_deadlines() {
    let header = wire::ReplyHeader { status: core::Status::Done, xid: core::Xid::new(1).unwrap() };
    a_flooded_client_keeps_its_deadlines(&Frame::Reply(header, &[0]));
}

/// Whether a task was woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn c109_a_deadline_is_told_though_no_task_runs() {
    let world = World::new();
    let dial = Dial::new(&world);
    let connected = dial.client();
    let runtime = Arc::new(HandRuntime(world.clone()));
    let dialling = Client::with_runtime(dial.clone(), ClientOptions::default(), runtime);
    for client in [&connected, &dialling] {
        for timeout in [Duration::from_millis(700), Duration::from_millis(300)] {
            let flag = Arc::new(Flag::default());
            let waker = Waker::from(flag.clone());
            let mut cx = Context::from_waker(&waker);
            let mut call = client.call(&ECHO, &1).timeout(timeout).into_future();
            let begun = world.now();
            while !flag.0.load(Ordering::SeqCst) {
                assert!(Pin::new(&mut call).poll(&mut cx).is_pending());
                // No task is polled from here on.
                flag.0.store(false, Ordering::SeqCst);
                while !flag.0.load(Ordering::SeqCst) {
                    world.pass(Duration::from_millis(1));
                    world.fire();
                    assert!(world.now() <= begun + timeout + Duration::from_millis(1));
                }
            }
            match Pin::new(&mut call).poll(&mut cx) {
                Poll::Ready(Outcome::NotExecuted(_)) => assert!(!client.status().connected),
                Poll::Ready(Outcome::Unknown(..)) => assert!(client.status().connected),
                other => panic!("{other:?}"),
            }
            let time = world.now().since(begun);
            assert!(time >= timeout && time <= timeout + Duration::from_millis(1), "{time:?}");
        }
    }
}

#[test]
fn c110_a_call_that_is_polled_once_and_left_delays_nobody() {
    let world = World::new();
    let dial = Dial::new(&world);
    let client = dial.client();
    let mut left = Vec::new();
    for n in 0..20 {
        for _ in 0..3 {
            let mut call = client.call(&ECHO, &n).into_future();
            assert!(Pin::new(&mut call).poll(&mut Context::from_waker(Waker::noop())).is_pending());
            left.push(call);
        }
        let begun = world.now();
        let calls = [1, 2, 3].map(|n| watch(&world, client.call(&ECHO, &n).into_future()));
        world.run_until(|| calls.iter().all(|call| lock(call).is_some()));
        let time = world.now().since(begun);
        assert!(time <= Duration::from_millis(1), "{time:?} in round {n}");
        if n % 3 == 0 {
            left.clear();
        }
    }
}
