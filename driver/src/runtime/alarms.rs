//! Many timers on one of async-io's.
//!
//! To set one of async-io's timers wakes the thread that waits in its reactor, or ends its next wait at once, which costs half a dozen
//! system calls. Most timers of ours are set, put off and dropped without having fired: each client has three. So they share one of
//! async-io's, which is set only when another must fire earlier than that.
//!
//! That costs least where the threads that make calls run the reactor, too. Where they seldom do, async-io's own thread runs it, and
//! after each timer that fires there that thread wakes once more, 50 µs later: ten switches between threads for each check of the calls
//! in flight. So if the timer often fires there, a thread that does nothing else keeps the alarms for a while.
//!
//! Wakers are called, and dropped, when no lock is held here.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use oncewire_core::Instant;

use super::{Timer, clock};
use crate::caught::{caught, wake_all};

/// An alarm that has come while it was set rings after this time: who sets it may hold locks that wakers need.
const RING_AFTER_MIN: Duration = Duration::from_micros(20);
/// If the timer has not fired for so long after its moment, it is set again. To set it may have panicked, as async-io's reactor does where no
/// file is free for it: no alarm would ring any more.
const LATE_MAX: Duration = Duration::from_millis(50);
/// What async-io calls the thread that runs the reactor when no other one does.
const REACTOR_THREAD: &str = "async-io";
/// What we call ours.
const KEEPER_THREAD: &str = "oncewire-timers";
/// If the timer fires on async-io's thread again within this time, our thread keeps the alarms.
const OFTEN_WITHIN: Duration = Duration::from_millis(2);
/// How long our thread keeps them at a time: later another thread may run the reactor.
const KEEPS_FOR: Duration = Duration::from_millis(100);
/// Attempts of an alarm that is dropped to get the lock. In a fork of the process it may never be free.
const DROP_TRIES: u32 = 100;

/// When an alarm rings, and its number.
type Key = (Instant, u64);

struct Alarms {
    set: Mutex<Set>,
    /// Fires when `Set::armed` says, if the reactor is the keeper. Locked before that.
    timer: Mutex<async_io::Timer>,
    /// The thread is the keeper now, or `Set::armed` is earlier than it was.
    changed: Condvar,
}

struct Set {
    wakers: BTreeMap<Key, Waker>,
    /// No later than the first of them, when no lock is held.
    armed: Instant,
    keeper: Keeper,
    /// When the timer last fired on async-io's own thread.
    apart_at: Instant,
    /// The process that has the thread, which a fork of it has not; 0 if none has.
    thread_of: u32,
}

/// Who looks at `Set::armed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeper {
    Reactor,
    /// Our thread, until this moment.
    Thread(Instant),
}

impl Set {
    fn new(armed: Instant) -> Set {
        let (wakers, keeper) = (BTreeMap::new(), Keeper::Reactor);
        Set { wakers, armed, keeper, apart_at: Instant::ZERO, thread_of: 0 }
    }

    /// Whether the thread is the keeper, and is there: in a fork of the process it is not, and the reactor keeps the alarms again.
    fn is_threads(&mut self) -> bool {
        if matches!(self.keeper, Keeper::Thread(_)) && self.thread_of != std::process::id() {
            self.keeper = Keeper::Reactor;
        }
        self.keeper != Keeper::Reactor
    }

    /// Takes out the wakers that are due.
    fn take_due(&mut self, now: Instant) -> Vec<Waker> {
        let mut due = Vec::new();
        while let Some(first) = self.wakers.first_entry()
            && first.key().0 <= now
        {
            due.push(first.remove());
        }
        let next = self.wakers.first_key_value().map(|(key, _)| key.0);
        self.armed = next.unwrap_or(Instant::FAR_FUTURE);
        due
    }
}

fn alarms() -> &'static Arc<Alarms> {
    static ALARMS: LazyLock<Arc<Alarms>> =
        LazyLock::new(|| Arc::new(Alarms::new(Set::new(Instant::FAR_FUTURE))));
    &ALARMS
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Alarms {
    fn new(set: Set) -> Alarms {
        let timer = Mutex::new(async_io::Timer::never());
        Alarms { set: Mutex::new(set), timer, changed: Condvar::new() }
    }

    /// Has `waker` called at a moment.
    fn put(self: &Arc<Self>, now: Instant, key: Key, waker: Waker) {
        let (replaced, is_earlier) = {
            let mut set = lock(&self.set);
            let before = set.keeper;
            // The thread that kept the alarms is one that only the parent of this process has.
            let is_left = !set.is_threads() && set.keeper != before;
            let is_earlier = is_left || key.0 < set.armed || set.armed + LATE_MAX < now;
            set.armed = set.armed.min(key.0);
            (set.wakers.insert(key, waker), is_earlier)
        };
        drop(replaced);
        if is_earlier {
            self.arm();
        }
    }

    /// Has the keeper look at what `armed` says.
    fn arm(self: &Arc<Self>) {
        let is_threads = lock(&self.set).is_threads();
        match is_threads {
            true => self.changed.notify_one(),
            false => self.set_timer(),
        }
    }

    /// The timer is left as it is: when it fires, the next one is looked for.
    fn remove(&self, key: Key) {
        let removed = lock(&self.set).wakers.remove(&key);
        drop(removed);
    }

    /// The same if the lock is free, or soon: if not, its waker is called once for nothing.
    fn try_remove(&self, key: Key) {
        for _ in 0..DROP_TRIES {
            if let Ok(mut set) = self.set.try_lock() {
                let removed = set.wakers.remove(&key);
                drop(set);
                drop(removed);
                return;
            }
            thread::yield_now();
        }
    }

    /// Whether there is a thread; if not, it is made. Where the system has none, the reactor keeps the alarms.
    fn has_thread(self: &Arc<Self>, set: &mut Set) -> bool {
        let process = std::process::id();
        if set.thread_of != process {
            let alarms = self.clone();
            let thread = thread::Builder::new().name(KEEPER_THREAD.to_owned());
            if thread.spawn(move || alarms.keep()).is_err() {
                return false;
            }
            set.thread_of = process;
        }
        true
    }

    /// What the thread does.
    fn keep(self: &Arc<Self>) {
        let mut set = lock(&self.set);
        loop {
            let Keeper::Thread(until) = set.keeper else {
                set = self.changed.wait(set).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let now = clock::now();
            let due = set.take_due(now);
            if !due.is_empty() {
                // It checks again afterwards: what is set meanwhile need not wake it.
                set.armed = now;
                drop(set);
                wake_all(due);
                set = lock(&self.set);
            } else if until <= now {
                set.keeper = Keeper::Reactor;
                drop(set);
                // If it panics, the timer is late, and is set by the next alarm.
                let _panicked = caught(|| self.set_timer());
                set = lock(&self.set);
            } else {
                let rest = set.armed.since(now);
                let waited = self.changed.wait_timeout(set, rest);
                set = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// Sets the timer for what `armed` says by now: another thread may have set it for something later meanwhile.
    fn set_timer(self: &Arc<Self>) {
        let mut timer = lock(&self.timer);
        let at = lock(&self.set).armed;
        if at == Instant::FAR_FUTURE {
            return;
        }
        let waker = Waker::from(self.clone());
        let mut rest = at.since(clock::now()).max(RING_AFTER_MIN);
        loop {
            timer.set_after(rest);
            if Pin::new(&mut *timer).poll(&mut Context::from_waker(&waker)).is_pending() {
                return;
            }
            rest = RING_AFTER_MIN;
        }
    }
}

/// The timer has fired.
impl Wake for Alarms {
    fn wake(self: Arc<Self>) {
        let due = {
            let now = clock::now();
            let mut set = lock(&self.set);
            if thread::current().name() == Some(REACTOR_THREAD) {
                let is_often = now.since(set.apart_at) < OFTEN_WITHIN;
                set.apart_at = now;
                if is_often && self.has_thread(&mut set) {
                    set.keeper = Keeper::Thread(now + KEEPS_FOR);
                }
            }
            set.take_due(now)
        };
        self.arm();
        wake_all(due);
    }
}

/// One of the timers that share one.
pub(super) struct Alarm {
    at: Instant,
    /// Under which its waker is to be found, and a copy of that: since the last poll.
    set: Option<(Key, Waker)>,
}

impl Alarm {
    /// It was never set.
    pub(super) fn new() -> Alarm {
        Alarm { at: Instant::FAR_FUTURE, set: None }
    }
}

impl Timer for Alarm {
    fn set(&mut self, at: Instant) {
        if at == self.at {
            return;
        }
        self.at = at;
        if let Some((key, _)) = self.set.take() {
            alarms().remove(key);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        if self.at == Instant::FAR_FUTURE {
            return Poll::Pending;
        }
        let now = clock::now();
        if self.at <= now {
            self.set(Instant::FAR_FUTURE);
            return Poll::Ready(());
        }
        let key = match &self.set {
            // It has not rung yet, or it would have come.
            Some((_, waker)) if waker.will_wake(cx.waker()) => return Poll::Pending,
            Some((key, _)) => *key,
            None => (self.at, NUMBER.fetch_add(1, Ordering::Relaxed)),
        };
        let [waker, copy] = [(); 2].map(|()| cx.waker().clone());
        alarms().put(now, key, waker);
        self.set = Some((key, copy));
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some((key, _)) = self.set.take() {
            alarms().try_remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Says who was woken.
    struct Signal(u64, Sender<u64>);

    impl Wake for Signal {
        fn wake(self: Arc<Self>) {
            // The last one may come after the test has ended.
            let _ = self.1.send(self.0);
        }
    }

    /// Far enough away for all alarms of a test to be set before.
    fn begin() -> Instant {
        clock::now() + Duration::from_millis(500)
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn alarms_ring_in_the_order_of_their_moments_and_not_in_which_they_were_set() {
        let ((sender, woken), begin) = (channel(), begin());
        let mut alarms = [3, 1, 5, 2, 4].map(|number| {
            let mut alarm = Alarm::new();
            alarm.set(begin + millis(number));
            let waker = Waker::from(Arc::new(Signal(number, sender.clone())));
            assert!(alarm.poll(&mut Context::from_waker(&waker)).is_pending());
            (alarm, number)
        });
        for number in 1..=5 {
            assert_eq!(woken.recv().unwrap(), number);
            assert!(clock::now() >= begin + millis(number));
            let (alarm, _) = alarms.iter_mut().find(|alarm| alarm.1 == number).unwrap();
            assert!(alarm.poll(&mut Context::from_waker(Waker::noop())).is_ready());
            assert!(alarm.poll(&mut Context::from_waker(Waker::noop())).is_pending(), "once");
        }
    }

    #[test]
    fn an_alarm_wakes_who_polled_it_last_for_when_it_was_set_last_and_no_one_when_it_is_dropped() {
        let ((sender, woken), begin) = (channel(), begin());
        let poll = |alarm: &mut Alarm, number| {
            let waker = Waker::from(Arc::new(Signal(number, sender.clone())));
            alarm.poll(&mut Context::from_waker(&waker))
        };
        let [mut put_off, mut advanced, mut dropped, mut last] = [(); 4].map(|()| Alarm::new());
        put_off.set(begin + millis(5));
        assert!(poll(&mut put_off, 1).is_pending());
        put_off.set(begin + millis(30));
        assert!(poll(&mut put_off, 2).is_pending());
        assert!(poll(&mut put_off, 3).is_pending());
        advanced.set(begin + millis(10_000));
        assert!(poll(&mut advanced, 4).is_pending());
        advanced.set(begin + millis(15));
        assert!(poll(&mut advanced, 5).is_pending());
        dropped.set(begin + millis(10));
        assert!(poll(&mut dropped, 6).is_pending());
        drop(dropped);
        last.set(begin + millis(60));
        assert!(poll(&mut last, 7).is_pending());
        assert_eq!([(); 3].map(|()| woken.recv().unwrap()), [5, 3, 7]);
        put_off.set(Instant::ZERO);
        assert!(poll(&mut put_off, 8).is_ready(), "long past");
    }

    #[test]
    fn an_alarm_rings_though_the_timer_was_not_set_for_the_one_before_it() {
        let ((sender, woken), now) = (channel(), clock::now());
        let alarms = Arc::new(Alarms::new(Set::new(now)));
        let later = now + LATE_MAX + millis(1);
        alarms.put(later, (later, 0), Waker::from(Arc::new(Signal(1, sender))));
        assert_eq!(woken.recv_timeout(Duration::from_secs(20)), Ok(1));
    }

    /// Says on which thread it was woken.
    struct Where(Sender<Option<String>>);

    impl Wake for Where {
        fn wake(self: Arc<Self>) {
            // The test has ended if it does not wait for this.
            let _ = self.0.send(thread::current().name().map(str::to_owned));
        }
    }

    /// Where an alarm rings that is set now.
    fn rings_on(alarms: &Arc<Alarms>) -> Option<String> {
        let ((sender, woken), now) = (channel(), clock::now());
        let at = now + millis(10);
        alarms.put(now, (at, 0), Waker::from(Arc::new(Where(sender))));
        let name = woken.recv_timeout(Duration::from_secs(20)).expect("it rings");
        assert!(clock::now() >= at);
        name
    }

    #[test]
    fn c449_if_the_timer_often_fires_on_the_reactors_own_thread_another_keeps_the_alarms_for_a_while()
     {
        let alarms = Arc::new(Alarms::new(Set::new(Instant::FAR_FUTURE)));
        let thread_of = || lock(&alarms.set).thread_of;
        let fire = |name: &str| {
            let (alarms, thread) = (alarms.clone(), thread::Builder::new().name(name.to_owned()));
            thread.spawn(move || alarms.wake()).unwrap().join().unwrap();
        };
        fire(REACTOR_THREAD);
        assert_eq!(thread_of(), 0, "once is not often");
        // However long the threads of this test take to begin.
        lock(&alarms.set).apart_at = clock::now() + millis(100_000);
        fire("a program's");
        assert_eq!(thread_of(), 0);
        fire(REACTOR_THREAD);
        assert_eq!(thread_of(), std::process::id());
        lock(&alarms.set).keeper = Keeper::Thread(Instant::FAR_FUTURE);
        assert_eq!(rings_on(&alarms).as_deref(), Some(KEEPER_THREAD));
        lock(&alarms.set).keeper = Keeper::Thread(Instant::ZERO);
        alarms.changed.notify_one();
        let until = clock::now() + Duration::from_secs(20);
        while lock(&alarms.set).keeper != Keeper::Reactor {
            assert!(clock::now() < until, "it keeps them for ever");
            thread::yield_now();
        }
        assert_ne!(rings_on(&alarms).as_deref(), Some(KEEPER_THREAD));
    }

    #[test]
    fn c450_alarms_ring_in_a_fork_of_a_process_whose_thread_kept_them() {
        let now = clock::now();
        // As they are when the parent's thread would be about to look, will look before the next alarm, and waits for none.
        for armed in [now, now + millis(5), Instant::FAR_FUTURE] {
            let (keeper, thread_of) = (Keeper::Thread(Instant::FAR_FUTURE), !std::process::id());
            let set = Set { keeper, thread_of, ..Set::new(armed) };
            rings_on(&Arc::new(Alarms::new(set)));
        }
    }

    #[test]
    fn alarms_that_many_threads_set_at_once_all_ring() {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                thread::spawn(move || {
                    let (sender, woken) = channel();
                    let waker = Waker::from(Arc::new(Signal(thread, sender)));
                    for round in 0..100 {
                        let mut alarm = Alarm::new();
                        alarm.set(clock::now() + Duration::from_micros(1 + 37 * (round % 11)));
                        while alarm.poll(&mut Context::from_waker(&waker)).is_pending() {
                            let waited = woken.recv_timeout(Duration::from_secs(20));
                            assert!(waited.is_ok(), "alarm {round} of thread {thread} is lost");
                        }
                        // It may have come between two looks, and rung as well.
                        drop(alarm);
                        while woken.try_recv().is_ok() {}
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
