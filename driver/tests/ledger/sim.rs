//! One thread, virtual time, streams in memory: a server that can be killed between any two of its steps.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::protocol::Instant;
use oncewire_driver::{BoxFuture, BoxStream, Connect, Runtime, Server, Subject, Timer};

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The clock, the tasks, and who waits for which moment.
#[derive(Default)]
pub struct Sim {
    now: AtomicU64,
    bits: AtomicU64,
    ready: Mutex<VecDeque<Arc<Task>>>,
    timers: Mutex<Vec<(u64, Waker)>>,
}

/// Tasks that die together.
#[derive(Default)]
pub struct Group {
    dead: AtomicBool,
    tasks: Mutex<Vec<Arc<Task>>>,
}

impl Group {
    /// Drops all tasks, as a crash does; what they would have started is not started.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
        let tasks = std::mem::take(&mut *lock(&self.tasks));
        for task in tasks {
            let future = lock(&task.future).take();
            drop(future);
        }
    }
}

struct Task {
    sim: std::sync::Weak<Sim>,
    future: Mutex<Option<BoxFuture<'static, ()>>>,
    queued: AtomicBool,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if let Some(sim) = self.sim.upgrade()
            && !self.queued.swap(true, Ordering::SeqCst)
        {
            lock(&sim.ready).push_back(self);
        }
    }
}

impl Sim {
    pub fn runtime(self: &Arc<Self>, group: &Arc<Group>) -> Arc<dyn Runtime> {
        Arc::new(SimRuntime { sim: self.clone(), group: group.clone() })
    }

    /// Runs until nothing is ready.
    pub fn run(&self) {
        for _ in 0..1_000_000 {
            let Some(task) = lock(&self.ready).pop_front() else { return };
            task.queued.store(false, Ordering::SeqCst);
            let waker = Waker::from(task.clone());
            let Some(mut future) = lock(&task.future).take() else { continue };
            if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                *lock(&task.future) = Some(future);
            }
        }
        panic!("something spins");
    }

    /// Lets time pass, in steps, so that what is due happens in order.
    pub fn advance(&self, by: Duration) {
        let until = self.now.load(Ordering::SeqCst) + by.as_nanos() as u64;
        self.run();
        loop {
            let next = lock(&self.timers).iter().map(|(at, _)| *at).min();
            let Some(at) = next.filter(|at| *at <= until) else { break };
            self.now.fetch_max(at, Ordering::SeqCst);
            let mut due = Vec::new();
            lock(&self.timers).retain(|(other, waker)| {
                let keep = *other > at;
                if !keep {
                    due.push(waker.clone());
                }
                keep
            });
            due.into_iter().for_each(Waker::wake);
            self.run();
        }
        self.now.fetch_max(until, Ordering::SeqCst);
        self.run();
    }
}

struct SimRuntime {
    sim: Arc<Sim>,
    group: Arc<Group>,
}

impl Runtime for SimRuntime {
    fn now(&self) -> Instant {
        Instant::ZERO + Duration::from_nanos(self.sim.now.load(Ordering::SeqCst))
    }

    fn timer(&self) -> Box<dyn Timer> {
        Box::new(SimTimer { sim: self.sim.clone(), at: u64::MAX })
    }

    fn random(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.sim.bits.fetch_add(1, Ordering::SeqCst) + 1;
            let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            chunk.copy_from_slice(&mixed.to_le_bytes()[..chunk.len()]);
        }
    }

    fn spawn(&self, future: BoxFuture<'static, ()>) {
        if self.group.dead.load(Ordering::SeqCst) {
            return;
        }
        let future = Mutex::new(Some(future));
        let sim = Arc::downgrade(&self.sim);
        let task = Arc::new(Task { sim, future, queued: AtomicBool::new(false) });
        lock(&self.group.tasks).push(task.clone());
        task.wake();
    }
}

struct SimTimer {
    sim: Arc<Sim>,
    at: u64,
}

impl Timer for SimTimer {
    fn set(&mut self, at: Instant) {
        let nanos = at.since(Instant::ZERO).as_nanos();
        self.at = u64::try_from(nanos).unwrap_or(u64::MAX);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.at <= self.sim.now.load(Ordering::SeqCst) {
            self.at = u64::MAX;
            return Poll::Ready(());
        }
        if self.at != u64::MAX {
            lock(&self.sim.timers).push((self.at, cx.waker().clone()));
        }
        Poll::Pending
    }
}

#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    closed: bool,
    reader: Option<Waker>,
}

/// One end of a connection in memory.
struct Stream {
    incoming: Arc<Mutex<Pipe>>,
    outgoing: Arc<Mutex<Pipe>>,
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = lock(&self.incoming);
        if pipe.bytes.is_empty() && !pipe.closed {
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let len = out.len().min(pipe.bytes.len());
        for (byte, from) in out.iter_mut().zip(pipe.bytes.drain(..len)) {
            *byte = from;
        }
        Poll::Ready(Ok(len))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = lock(&self.outgoing);
        if pipe.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        pipe.bytes.extend(bytes);
        let reader = pipe.reader.take();
        drop(pipe);
        reader.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        for pipe in [&self.incoming, &self.outgoing] {
            let mut pipe = lock(pipe);
            pipe.closed = true;
            let reader = pipe.reader.take();
            drop(pipe);
            reader.into_iter().for_each(Waker::wake);
        }
    }
}

/// Where clients dial: the server that runs now, if one does.
#[derive(Clone, Default)]
pub struct Place(pub Arc<Mutex<Option<Server>>>);

impl Connect for Place {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let server = lock(&self.0).clone().ok_or(io::ErrorKind::ConnectionRefused)?;
            let (up, down) = (Arc::<Mutex<Pipe>>::default(), Arc::<Mutex<Pipe>>::default());
            let theirs = Stream { incoming: up.clone(), outgoing: down.clone() };
            server.serve_stream(Box::new(theirs), Subject::Name("alice".into()));
            Ok(Box::new(Stream { incoming: down, outgoing: up }) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "memory".to_owned()
    }
}

/// Two servers, of which clients dial one, and the pipes of the last connection.
#[derive(Clone, Default)]
pub struct Places {
    pub servers: [Arc<Mutex<Option<Server>>>; 2],
    /// Which one is dialled.
    pub target: Arc<AtomicU64>,
    last: Arc<Mutex<Vec<Arc<Mutex<Pipe>>>>>,
}

impl Places {
    /// The same places, with connections of its own.
    pub fn for_another_client(&self) -> Places {
        Places { last: Arc::default(), ..self.clone() }
    }

    /// Breaks the last connection at both its ends.
    pub fn cut(&self) {
        for pipe in lock(&self.last).drain(..) {
            let mut pipe = lock(&pipe);
            pipe.closed = true;
            let reader = pipe.reader.take();
            drop(pipe);
            reader.into_iter().for_each(Waker::wake);
        }
    }
}

impl Connect for Places {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let at = self.target.load(Ordering::SeqCst) as usize;
            let server = lock(&self.servers[at]).clone().ok_or(io::ErrorKind::ConnectionRefused)?;
            let (up, down) = (Arc::<Mutex<Pipe>>::default(), Arc::<Mutex<Pipe>>::default());
            *lock(&self.last) = vec![up.clone(), down.clone()];
            let theirs = Stream { incoming: up.clone(), outgoing: down.clone() };
            server.serve_stream(Box::new(theirs), Subject::Name("alice".into()));
            Ok(Box::new(Stream { incoming: down, outgoing: up }) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "memory".to_owned()
    }
}
