//! A clock, timers, chance and an executor of one thread: every run of it can be repeated.
//!
//! The next task is drawn from those that are ready; time passes only when none is, or a little between two polls in
//! worlds whose processor is slow. Nothing here reads a real clock.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use oncewire_driver::protocol::Instant;
use oncewire_driver::{BoxFuture, Runtime, Timer};

use super::clocks::Clock;
use super::net::Wire;
use super::rng::Rng;
use super::trace::Trace;

/// How the next task is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Any of those that are ready.
    Any,
    /// The one that has waited longest.
    Oldest,
    /// The one that was woken last.
    Newest,
}

/// How a world is scheduled.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// How the next task is chosen.
    pub policy: Policy,
    /// One poll in so many is of a task that was not woken; 0 for none.
    pub spurious_in: u64,
    /// Time passes between two polls once in so many; 0 for never.
    pub slow_in: u64,
}

/// A group of tasks: they die together in a crash.
pub type Group = u32;

/// What is to happen at a moment.
enum Due {
    Wake(Waker),
    Deliver(Arc<Wire>),
}

struct Task {
    future: Option<BoxFuture<'static, ()>>,
    waker: Waker,
    group: Group,
    /// It has not ended, though its future may be away, being polled.
    lives: bool,
}

#[derive(Default)]
struct Ready {
    list: Vec<usize>,
    queued: Vec<bool>,
}

struct TaskWaker {
    id: usize,
    ready: Arc<Mutex<Ready>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut ready = lock(&self.ready);
        if !std::mem::replace(&mut ready.queued[self.id], true) {
            ready.list.push(self.id);
        }
    }
}

/// The lock of a world of one thread: never contended, and a panic elsewhere does not spoil it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a turn of the executor came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A task was polled.
    Polled,
    /// Nothing was ready, and time has passed.
    Waited,
    /// Nothing is ready and nothing is due: it will stay so.
    Stuck,
}

/// The clock, the tasks and the chance of one world.
pub struct Sim {
    now: AtomicU64,
    schedule: Schedule,
    ready: Arc<Mutex<Ready>>,
    tasks: Mutex<Vec<Task>>,
    due: Mutex<BTreeMap<(u64, u64), Due>>,
    numbers: AtomicU64,
    choices: Mutex<Rng>,
    bits: Mutex<Rng>,
    /// What must end, in words, by the time by which it must: see [`Awaited`](super::awaited::Awaited). The second number
    /// tells equal times apart.
    pub awaited: Arc<Mutex<BTreeMap<(u64, u64), String>>>,
    /// What happened.
    pub trace: Mutex<Trace>,
    /// The first broken promise.
    pub violation: Mutex<Option<String>>,
    /// Polls so far.
    pub polls: AtomicU64,
    /// Polls at the present moment.
    polls_now: AtomicU64,
    calm: AtomicBool,
}

impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sim").field("now", &self.now()).finish_non_exhaustive()
    }
}

/// Polls at one moment above which something spins.
const POLLS_AT_ONCE_MAX: u64 = 200_000;
/// What a world's clock shows at its start: those of its processes may be behind it.
const START: u64 = 1_000_000_000;

impl Sim {
    /// A world's clock at zero.
    pub fn new(seed: u64, schedule: Schedule, trace: Trace) -> Arc<Sim> {
        Arc::new(Sim {
            now: AtomicU64::new(START),
            schedule,
            ready: Arc::default(),
            tasks: Mutex::default(),
            due: Mutex::default(),
            numbers: AtomicU64::new(0),
            choices: Mutex::new(Rng::apart(seed, 1)),
            bits: Mutex::new(Rng::apart(seed, 2)),
            awaited: Arc::default(),
            trace: Mutex::new(trace),
            violation: Mutex::new(None),
            polls: AtomicU64::new(0),
            polls_now: AtomicU64::new(0),
            calm: AtomicBool::new(false),
        })
    }

    /// Nanoseconds on the virtual clock.
    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Nanoseconds since the world began.
    pub fn elapsed(&self) -> u64 {
        self.now().saturating_sub(START)
    }

    /// From now on nothing goes wrong any more.
    pub fn calm_down(&self) {
        self.note(|| "no more faults".to_owned());
        self.calm.store(true, Ordering::Relaxed);
    }

    /// Whether nothing goes wrong any more.
    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// A number that was not given before.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes a line, if the trace is on, and its words in the hash.
    pub fn note(&self, line: impl FnOnce() -> String) {
        lock(&self.trace).note(self.elapsed(), line);
    }

    /// Notes a number in the hash.
    pub fn count(&self, number: u64) {
        lock(&self.trace).count(number);
    }

    /// A promise was broken. The first one counts.
    pub fn fail(&self, what: impl Into<String>) {
        let what = what.into();
        self.note(|| format!("VIOLATION {what}"));
        lock(&self.violation).get_or_insert(what);
    }

    /// A runtime whose tasks belong to `group`.
    pub fn runtime(self: &Arc<Self>, group: Group) -> Arc<dyn Runtime> {
        self.runtime_with(group, Arc::default())
    }

    /// The same with a clock of its own.
    pub fn runtime_with(self: &Arc<Self>, group: Group, clock: Arc<Clock>) -> Arc<dyn Runtime> {
        Arc::new(SimRuntime { sim: self.clone(), group, clock })
    }

    /// Polls all tasks, as if all had been woken.
    pub fn wake_all(&self) {
        for task in lock(&self.tasks).iter().filter(|task| task.lives) {
            task.waker.wake_by_ref();
        }
    }

    /// What was just done took so long.
    pub fn take_time(&self, nanos: u64) {
        self.now.fetch_add(nanos, Ordering::Relaxed);
        self.polls_now.store(0, Ordering::Relaxed);
    }

    /// Runs a task beside the caller.
    pub fn spawn(&self, group: Group, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn_boxed(group, Box::pin(future));
    }

    fn spawn_boxed(&self, group: Group, future: BoxFuture<'static, ()>) {
        let mut tasks = lock(&self.tasks);
        let id = tasks.len();
        lock(&self.ready).queued.push(false);
        let waker = Waker::from(Arc::new(TaskWaker { id, ready: self.ready.clone() }));
        waker.wake_by_ref();
        tasks.push(Task { future: Some(future), waker, group, lives: true });
    }

    /// How many tasks of a group have not ended.
    pub fn living(&self, group: Group) -> usize {
        lock(&self.tasks).iter().filter(|task| task.lives && task.group == group).count()
    }

    /// Ends the tasks of a group where they stand.
    pub fn kill(&self, group: Group) {
        self.kill_if(|of| of == group);
    }

    /// Ends all tasks, and forgets all timers.
    pub fn end(&self) {
        self.kill_if(|_| true);
        let due = std::mem::take(&mut *lock(&self.due));
        drop(due);
    }

    fn kill_if(&self, dies: impl Fn(Group) -> bool) {
        let mut dead = Vec::new();
        for task in lock(&self.tasks).iter_mut().filter(|task| dies(task.group)) {
            task.lives = false;
            dead.extend(task.future.take());
        }
        drop(dead);
    }

    /// Wakes `waker` at a moment; returns the key by which that can be called off.
    pub fn wake_at(&self, at: u64, waker: Waker) -> (u64, u64) {
        self.put(at, Due::Wake(waker))
    }

    /// Lets a wire deliver at a moment.
    pub fn deliver_at(&self, at: u64, wire: Arc<Wire>) {
        self.put(at, Due::Deliver(wire));
    }

    fn put(&self, at: u64, due: Due) -> (u64, u64) {
        let key = (at, self.number());
        lock(&self.due).insert(key, due);
        key
    }

    fn call_off(&self, key: (u64, u64)) {
        let due = lock(&self.due).remove(&key);
        drop(due);
    }

    /// One poll, or the passing of time.
    pub fn turn(&self) -> Turn {
        self.act_on_due();
        if let Some(id) = self.choose() {
            self.poll(id);
            return Turn::Polled;
        }
        let Some(at) = lock(&self.due).keys().next().map(|key| key.0) else { return Turn::Stuck };
        self.polls_now.store(0, Ordering::Relaxed);
        self.now.store(at.max(self.now()), Ordering::Relaxed);
        self.count(at);
        Turn::Waited
    }

    fn act_on_due(&self) {
        loop {
            let mut due = lock(&self.due);
            let Some(entry) = due.first_entry().filter(|entry| entry.key().0 <= self.now()) else {
                return;
            };
            let due_now = entry.remove();
            drop(due);
            match due_now {
                Due::Wake(waker) => waker.wake(),
                Due::Deliver(wire) => wire.deliver(),
            }
        }
    }

    fn choose(&self) -> Option<usize> {
        let mut ready = lock(&self.ready);
        let mut choices = lock(&self.choices);
        if ready.list.is_empty() {
            return None;
        }
        if choices.one_in(self.schedule.spurious_in) {
            let id = choices.index(ready.queued.len());
            if !std::mem::replace(&mut ready.queued[id], true) {
                ready.list.push(id);
            }
        }
        if choices.one_in(self.schedule.slow_in) {
            let now = self.now() + choices.delay(200_000);
            self.now.store(now, Ordering::Relaxed);
            self.polls_now.store(0, Ordering::Relaxed);
        }
        let id = match self.schedule.policy {
            Policy::Any => {
                let at = choices.index(ready.list.len());
                ready.list.swap_remove(at)
            }
            Policy::Oldest => ready.list.remove(0),
            Policy::Newest => ready.list.pop()?,
        };
        ready.queued[id] = false;
        Some(id)
    }

    fn poll(&self, id: usize) {
        let taken = {
            let mut tasks = lock(&self.tasks);
            let task = &mut tasks[id];
            task.future.take().map(|future| (future, task.waker.clone()))
        };
        let Some((mut future, waker)) = taken else { return };
        self.count(id as u64);
        self.polls.fetch_add(1, Ordering::Relaxed);
        if self.polls_now.fetch_add(1, Ordering::Relaxed) == POLLS_AT_ONCE_MAX {
            self.fail(format!("task {id} and others spin: time does not pass"));
        }
        let mut cx = Context::from_waker(&waker);
        let poll = AssertUnwindSafe(|| future.as_mut().poll(&mut cx));
        let ended = match std::panic::catch_unwind(poll) {
            Ok(poll) => poll.is_ready(),
            Err(panic) => {
                self.fail(format!("task {id} panicked: {}", words(&*panic)));
                true
            }
        };
        let mut tasks = lock(&self.tasks);
        let task = &mut tasks[id];
        if ended {
            task.lives = false;
        } else if task.lives {
            task.future = Some(future);
            return;
        }
        drop(tasks);
        drop(future);
    }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

struct SimRuntime {
    sim: Arc<Sim>,
    group: Group,
    clock: Arc<Clock>,
}

impl Runtime for SimRuntime {
    fn now(&self) -> Instant {
        self.clock.now(&self.sim)
    }

    fn timer(&self) -> Box<dyn Timer> {
        Box::new(SimTimer::new(&self.sim, self.clock.clone()))
    }

    fn random(&self, bytes: &mut [u8]) {
        let mut bits = lock(&self.sim.bits);
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&bits.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.sim.spawn_boxed(self.group, task);
    }

    /// Where the connector allows it.
    fn parks_client(&self) -> bool {
        true
    }
}

/// A timer on the virtual clock: fires once after each `set`, and wakes only the task that polled last.
#[derive(Debug)]
pub struct SimTimer {
    sim: Arc<Sim>,
    /// Its runtime's.
    clock: Arc<Clock>,
    at: Instant,
    key: Option<(u64, u64)>,
}

impl SimTimer {
    fn new(sim: &Arc<Sim>, clock: Arc<Clock>) -> SimTimer {
        SimTimer { sim: sim.clone(), clock, at: Instant::FAR_FUTURE, key: None }
    }

    fn disarm(&mut self) {
        if let Some(key) = self.key.take() {
            self.sim.call_off(key);
        }
    }
}

impl Timer for SimTimer {
    fn set(&mut self, at: Instant) {
        self.disarm();
        self.at = at;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.disarm();
        if self.at <= self.clock.now(&self.sim) {
            self.at = Instant::FAR_FUTURE;
            return Poll::Ready(());
        }
        let at = self.clock.shows_at(self.at);
        if self.at != Instant::FAR_FUTURE && at != u64::MAX {
            self.key = Some(self.sim.wake_at(at, cx.waker().clone()));
        }
        Poll::Pending
    }
}

impl Drop for SimTimer {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// A pause on the virtual clock.
#[derive(Debug)]
pub struct Sleep(SimTimer);

impl Sleep {
    /// Ends `nanos` from now.
    pub fn new(sim: &Arc<Sim>, nanos: u64) -> Sleep {
        let mut timer = SimTimer::new(sim, Arc::default());
        timer.set(Instant::from_nanos(sim.now()) + Duration::from_nanos(nanos));
        Sleep(timer)
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll(cx)
    }
}
