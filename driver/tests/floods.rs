//! C106 to C110: peers that send without end. Everything runs on one thread that the test drives poll by poll, on a clock
//! that moves with the bytes that are read and the calls that are executed: nothing here depends on how fast the machine
//! is, and a poll that does not end hangs the test.
#![allow(missing_docs)]

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::core::wire::{self, Frame, Role};
use oncewire_driver::core::{self, Heap, Instant};
use oncewire_driver::{BoxFuture, BoxStream, Method, Runtime, Server, Subject, Timer};

const ECHO: Method<u32, u32> = Method::new("floods.echo");
/// Takes [`WORK_TIME`].
const WORK: Method<u32, u32> = Method::new("floods.work");

/// What a byte takes that is read: 262 µs for a buffer of 64 KiB.
const BYTE_TIME: Duration = Duration::from_nanos(4);
const WORK_TIME: Duration = Duration::from_micros(10);
/// The longest poll: a turn of 100 µs, and a read that cannot be interrupted.
const POLL_MAX: Duration = Duration::from_micros(400);

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
        Arc::new(Task { future: Mutex::new(Some(future)), queued, world: self.clone() }).wake();
    }

    /// Fires what is due, and polls whoever has waited longest; says how long that took, or nothing if nobody waits.
    fn step(self: &Arc<Self>) -> Option<Duration> {
        let due: Vec<_> = {
            let now = self.now();
            lock(&self.timers)
                .extract_if(.., |(at, _)| *at <= now)
                .map(|(_, waker)| waker)
                .collect()
        };
        due.into_iter().for_each(Waker::wake);
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
    fn run_until(self: &Arc<Self>, mut done: impl FnMut() -> bool) {
        for _ in 0..100_000 {
            if done() {
                return;
            }
            match self.step() {
                Some(took) => assert!(took <= POLL_MAX, "a poll took {took:?}"),
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
struct Lane {
    bytes: VecDeque<u8>,
    reader: Option<Waker>,
    /// When `bytes` are read, this comes again and again.
    flood: Vec<u8>,
}

impl Lane {
    fn put(lane: &Mutex<Lane>, bytes: &[u8]) {
        let reader = {
            let mut lane = lock(lane);
            lane.bytes.extend(bytes);
            lane.reader.take()
        };
        reader.into_iter().for_each(Waker::wake);
    }

    fn flood(lane: &Mutex<Lane>, frame: &[u8]) {
        lock(lane).flood = frame.repeat(1000);
        Lane::put(lane, &[]);
    }
}

/// One end of a stream that takes whatever is written.
struct Stream {
    world: Arc<World>,
    input: Arc<Mutex<Lane>>,
    output: Arc<Mutex<Lane>>,
}

/// Both ends.
fn streams(world: &Arc<World>) -> (Stream, Stream) {
    let (up, down) = (Arc::<Mutex<Lane>>::default(), Arc::<Mutex<Lane>>::default());
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
        let mut lane = lock(&self.input);
        if lane.bytes.is_empty() && lane.flood.is_empty() {
            lane.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        while lane.bytes.len() < buf.len() && !lane.flood.is_empty() {
            let Lane { bytes, flood, .. } = &mut *lane;
            bytes.extend(&*flood);
        }
        let len = lane.bytes.len().min(buf.len());
        buf.iter_mut().zip(lane.bytes.drain(..len)).for_each(|(to, byte)| *to = byte);
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
        Lane::put(&self.output, buf);
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
    let works = Arc::new(AtomicUsize::new(0));
    let (counted, clock) = (works.clone(), world.clone());
    let server = Server::builder("floods")
        .runtime(Arc::new(HandRuntime(world.clone())))
        .method(&ECHO, |_, n| async move { n })
        .method(&WORK, move |_, n| {
            counted.fetch_add(1, Ordering::SeqCst);
            clock.pass(WORK_TIME);
            async move { n }
        })
        .build()
        .unwrap();
    (server, works)
}

/// A client's machine at one end of a stream, driven by hand.
struct Peer {
    machine: core::Client<Heap>,
    stream: Stream,
}

impl Peer {
    fn connect(world: &Arc<World>, server: &Server) -> Peer {
        let (stream, theirs) = streams(world);
        server.serve_stream(Box::new(theirs) as BoxStream, Subject::Nobody);
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
            Lane::put(&self.stream.output, &out[..len.get()]);
        }
        while self.machine.poll_event().is_some() {}
        let data: Vec<u8> = lock(&self.stream.input).bytes.drain(..).collect();
        let mut rest = &data[..];
        while !rest.is_empty() {
            rest = &rest[self.machine.handle_data(now, rest).unwrap().consumed..];
        }
    }

    fn flood(&self, frame: &Frame<'_>) {
        Lane::flood(&self.stream.output, &encode(frame));
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
    // Pongs for nobody are not kept.
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
