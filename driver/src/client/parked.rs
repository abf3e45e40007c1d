//! The client's task, as long as the runtime does not have it.
//!
//! A program may make a client, one call with it, and drop it. Where the runtime has the task from the beginning, that takes two
//! changes of thread, or a round of the executor: the call waits for the task, which dials, and the task wakes the call. So the
//! task of a new client is parked, and a call that finds no connection polls it on its own thread. Within a machine the first
//! call needs no more than that, and a client that is dropped then never needs the runtime.
//!
//! A parked task is one that sleeps: whatever wakes it has it spawned, and a timer does so soon in any case. So it dials, dials
//! again and keeps time though no call is polled, or the one that began the dial is dropped half way.
//!
//! It may be woken under the client's lock, by a stream. So nothing here takes that lock while it holds its own, nor when it is woken.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::pending::PendingId;
use super::shared::Shared;
use super::task::ClientTask;
use crate::reply::RawOutcome;
use crate::runtime::Runtime;
use crate::sync::Lock;

/// A task is spawned after this time, so that a program that makes its client before it needs it has a connection by then.
const PARKED_MAX: Duration = Duration::from_millis(5);
/// Polls by one call. A task that was woken in each of them is spawned.
const POLLS_MAX: u32 = 4;

/// Where the task is. It is the task's waker, too, until the runtime polls it.
pub(super) struct Parked {
    runtime: Arc<dyn Runtime>,
    place: Lock<Place>,
}

enum Place {
    /// It sleeps here.
    Here(Box<ClientTask>),
    /// A thread has taken it, to poll it or to end it. Whether it was woken since.
    Taken(bool),
    /// The runtime has it, or it has ended.
    Gone,
}

impl Parked {
    /// Parks the task of a new client.
    pub(super) fn park(shared: &Arc<Shared>, mut task: ClientTask) {
        let place = Lock::new(Place::Taken(false));
        let parked = Arc::new(Parked { runtime: shared.runtime.clone(), place });
        let waker = Waker::from(parked.clone());
        let until = shared.runtime.now() + PARKED_MAX;
        let is_due = task.set_timer(until, &mut Context::from_waker(&waker));
        shared.with_quietly(|state| {
            state.task = Some(waker);
            state.parked = Some(parked.clone());
            state.armed = until;
        });
        if is_due {
            parked.wake_by_ref();
        }
        parked.put_back(Box::new(task));
    }

    /// Polls the task, if it is here.
    pub(super) fn poll(self: &Arc<Self>) {
        let Some(mut task) = self.take() else { return };
        let waker = Waker::from(self.clone());
        let mut cx = Context::from_waker(&waker);
        for _ in 0..POLLS_MAX {
            // If it panics it is dropped, as where the runtime polls it, and that ends the client.
            if let Poll::Ready(()) = Pin::new(&mut *task).poll(&mut cx) {
                return self.end(task);
            }
            let mut place = self.place.lock();
            if !matches!(*place, Place::Taken(true)) {
                *place = Place::Here(task);
                return;
            }
            *place = Place::Taken(false);
        }
        self.wake_by_ref();
        self.put_back(task);
    }

    /// Whether there is nothing here any more.
    pub(super) fn is_gone(&self) -> bool {
        matches!(*self.place.lock(), Place::Gone)
    }

    /// Takes it, if it is here. [`put_back`](Parked::put_back) or [`end`](Parked::end) must follow.
    pub(super) fn take(&self) -> Option<Box<ClientTask>> {
        let mut place = self.place.lock();
        match std::mem::replace(&mut *place, Place::Taken(false)) {
            Place::Here(task) => Some(task),
            other => {
                *place = other;
                None
            }
        }
    }

    /// It sleeps here again, or if it was woken meanwhile the runtime gets it.
    pub(super) fn put_back(&self, task: Box<ClientTask>) {
        let mut place = self.place.lock();
        match *place {
            Place::Taken(true) => {
                *place = Place::Gone;
                drop(place);
                self.runtime.spawn(Pin::from(task));
            }
            _ => *place = Place::Here(task),
        }
    }

    /// It has nothing more to do. The client's lock must be free.
    pub(super) fn end(&self, task: Box<ClientTask>) {
        *self.place.lock() = Place::Gone;
        drop(task);
    }
}

impl Shared {
    /// Polls the client's task, which is parked, for a call that waits for a connection.
    #[cold]
    #[inline(never)]
    pub(super) fn dial(
        &self,
        id: PendingId,
        cx: &mut Context<'_>,
        outcome: &mut Option<RawOutcome>,
    ) {
        /// No call polls it any more.
        struct Guard<'a>(&'a Shared);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                self.0.with_quietly(|state| state.driver = None);
            }
        }
        let parked = self.with_quietly(|state| {
            state.driver = Some(id);
            state.parked.clone()
        });
        let guard = Guard(self);
        if let Some(parked) = &parked {
            parked.poll();
        }
        drop(guard);
        let is_gone = parked.as_ref().is_none_or(|parked| parked.is_gone());
        self.with(|state, now| {
            state.process.continue_poll();
            if is_gone {
                state.parked = None;
            }
            // Whichever call leads now, this one has its outcome, or is woken when it has.
            state.poll_outcome(id, now, cx, false, outcome);
        });
    }
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    /// Once the runtime has the task, this is the waker of an earlier poll, and need not wake it.
    fn wake_by_ref(self: &Arc<Self>) {
        let mut place = self.place.lock();
        match std::mem::replace(&mut *place, Place::Gone) {
            Place::Here(task) => {
                drop(place);
                self.runtime.spawn(Pin::from(task));
            }
            Place::Taken(_) => *place = Place::Taken(true),
            Place::Gone => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::net::UnixStream;
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Mutex, PoisonError};
    use std::thread::{self, ThreadId};

    use async_io::Async;
    use oncewire_core::Instant;

    use super::*;
    use crate::client::{Client, ClientOptions};
    use crate::runtime::{SmolRuntime, Timer};
    use crate::transport::{BoxFuture, BoxStream, Connect, Subject};
    use crate::{Method, Server};

    const ADD_ONE: Method<u64, u64> = Method::new("test/add_one");

    type Tasks = Mutex<Vec<BoxFuture<'static, ()>>>;

    /// Keeps what is spawned. Where a client yields, a server runs until it has answered.
    #[derive(Default)]
    struct Still {
        spawned: Tasks,
        others: Arc<smol::Executor<'static>>,
        server: Mutex<Option<Server>>,
    }

    struct Never;

    impl Timer for Never {
        fn set(&mut self, _: Instant) {}

        fn poll(&mut self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Pending
        }
    }

    impl Runtime for Still {
        /// No time passes: however long a yield takes, the next one is worth while.
        fn now(&self) -> Instant {
            Instant::from_nanos(1_000_000_000)
        }

        fn timer(&self) -> Box<dyn Timer> {
            Box::new(Never)
        }

        fn random(&self, bytes: &mut [u8]) {
            bytes.fill(1);
        }

        fn spawn(&self, task: BoxFuture<'static, ()>) {
            self.spawned.lock().unwrap_or_else(PoisonError::into_inner).push(task);
        }

        fn yield_now(&self) {
            let server = self.server.lock().unwrap().clone();
            let Some(server) = server else { return };
            // It reads and answers in the same poll.
            let answers = || (server.counters().sessions, server.counters().replies);
            let clock = SmolRuntime::global();
            let (before, until) = (answers(), clock.now() + Duration::from_secs(20));
            while answers() == before && clock.now() < until {
                if !self.others.try_tick() {
                    thread::yield_now();
                }
            }
        }

        fn parks_client(&self) -> bool {
            true
        }
    }

    impl Still {
        fn take(&self) -> Vec<BoxFuture<'static, ()>> {
            std::mem::take(&mut self.spawned.lock().unwrap())
        }
    }

    /// Dials by making a pair of sockets, once it may, and says on which thread.
    struct Dial {
        server: Server,
        may: Arc<(AtomicBool, Mutex<Option<Waker>>)>,
        dials: Sender<ThreadId>,
        _lives: Arc<()>,
    }

    impl Connect for Dial {
        fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
            self.dials.send(thread::current().id()).unwrap();
            Box::pin(async {
                std::future::poll_fn(|cx| {
                    *self.may.1.lock().unwrap() = Some(cx.waker().clone());
                    match self.may.0.load(Ordering::SeqCst) {
                        true => Poll::Ready(()),
                        false => Poll::Pending,
                    }
                })
                .await;
                let (ours, theirs) = UnixStream::pair()?;
                self.server.serve_stream(Box::new(Async::new(theirs)?), Subject::Anonymous);
                Ok(Box::new(Async::new(ours)?) as BoxStream)
            })
        }

        fn address(&self) -> String {
            "a pair of sockets".to_owned()
        }

        fn dials_anywhere(&self) -> bool {
            true
        }
    }

    /// What a test needs: a dial, on which threads it was begun, and what lives as long as the client.
    fn dial(server_runtime: Arc<dyn Runtime>, may: bool) -> (Dial, Receiver<ThreadId>, Arc<()>) {
        let add_one = |_, n| std::future::ready(n + 1);
        let server = Server::builder("test").runtime(server_runtime).method(&ADD_ONE, add_one);
        let (dials, begun) = channel();
        let lives = Arc::new(());
        let may = Arc::new((AtomicBool::new(may), Mutex::new(None)));
        let _lives = lives.clone();
        (Dial { server: server.build().unwrap(), may, dials, _lives }, begun, lives)
    }

    fn client(dial: Dial, runtime: &Arc<Still>) -> Client {
        Client::with_runtime(dial, ClientOptions::default(), runtime.clone())
    }

    #[test]
    fn c441_a_dial_that_a_call_has_begun_continues_when_the_call_is_dropped() {
        let runtime = Arc::new(Still::default());
        let (dial, begun, _) = dial(SmolRuntime::global(), false);
        let may = dial.may.clone();
        let client = client(dial, &runtime);
        assert!(begun.try_recv().is_err(), "no one has needed it");
        {
            let mut call = pin!(client.call(&ADD_ONE, &1));
            assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        assert_eq!(begun.try_recv(), Ok(thread::current().id()));
        // To cancel the call is the task's, which the runtime has now.
        let mut tasks = runtime.take();
        assert_eq!(tasks.len(), 1);
        let mut task = tasks.remove(0);
        assert!(task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        may.0.store(true, Ordering::SeqCst);
        smol::spawn(task).detach();
        assert_eq!(client.call(&ADD_ONE, &2).block().ok(), Ok(3));
        assert!(begun.try_recv().is_err(), "it is the same dial");
    }

    #[test]
    fn c441_a_dial_that_a_forgotten_call_has_begun_continues_by_its_own_event() {
        let runtime = Arc::new(Still::default());
        let (dial, _begun, _) = dial(SmolRuntime::global(), false);
        let may = dial.may.clone();
        let client = client(dial, &runtime);
        let mut call = Box::pin(client.call(&ADD_ONE, &1));
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        std::mem::forget(call);
        assert!(runtime.take().is_empty(), "it sleeps");
        may.0.store(true, Ordering::SeqCst);
        may.1.lock().unwrap().take().unwrap().wake();
        let task = runtime.take().pop().expect("it was woken");
        smol::spawn(task).detach();
        assert_eq!(client.call(&ADD_ONE, &2).block().ok(), Ok(3));
    }

    #[test]
    fn c442_a_client_that_makes_no_call_connects_all_the_same() {
        struct Parks(Arc<SmolRuntime>);
        impl Runtime for Parks {
            fn now(&self) -> Instant {
                self.0.now()
            }
            fn timer(&self) -> Box<dyn Timer> {
                self.0.timer()
            }
            fn random(&self, bytes: &mut [u8]) {
                self.0.random(bytes);
            }
            fn spawn(&self, task: BoxFuture<'static, ()>) {
                self.0.spawn(task);
            }
            fn parks_client(&self) -> bool {
                true
            }
        }
        let (dial, begun, _) = dial(SmolRuntime::global(), true);
        let runtime = Arc::new(Parks(SmolRuntime::global()));
        let client = Client::with_runtime(dial, ClientOptions::default(), runtime);
        begun.recv_timeout(Duration::from_secs(20)).expect("soon");
        drop(client);
        // Who waits for the connection does not wait for the timer.
        let still = Arc::new(Still::default());
        let (dial, begun, _) = self::dial(SmolRuntime::global(), true);
        let client = self::client(dial, &still);
        let mut connected = pin!(client.connected());
        assert!(connected.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        smol::spawn(still.take().pop().expect("it was woken")).detach();
        assert!(smol::block_on(connected) && begun.try_recv().is_ok());
    }

    #[test]
    fn c443_a_client_of_one_call_never_needs_the_runtime_and_leaves_nothing() {
        let runtime = Arc::new(Still::default());
        let executor = runtime.others.clone();
        let others = SmolRuntime::with_spawner(move |task| executor.spawn(task).detach());
        let (dial, begun, lives) = dial(others, true);
        let server = dial.server.clone();
        *runtime.server.lock().unwrap() = Some(server.clone());
        let client = client(dial, &runtime);
        let call = client.call(&ADD_ONE, &1);
        let Poll::Ready(outcome) = pin!(call).poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("it is answered while the client yields");
        };
        assert_eq!(outcome.ok(), Ok(2));
        assert_eq!(begun.try_recv(), Ok(thread::current().id()));
        drop(client);
        assert!(runtime.take().is_empty(), "nothing was spawned");
        assert_eq!(Arc::strong_count(&lives), 1, "the client is gone");
        while server.counters().sessions > 0 {
            smol::block_on(runtime.others.tick());
        }
    }

    #[test]
    fn c444_a_client_ends_though_another_thread_has_its_lock_for_long() {
        let runtime = Arc::new(Still::default());
        let (dial, _begun, _) = dial(SmolRuntime::global(), false);
        let client = client(dial, &runtime);
        let mut connected = pin!(client.connected());
        assert!(connected.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let task = runtime.take().pop().expect("it was woken");
        let shared = client.handle.shared.clone();
        let ((held, is_held), (_keep, never)) = (channel(), channel::<()>());
        let holder = thread::spawn(move || {
            shared.with_quietly(|_| {
                held.send(()).unwrap();
                assert!(never.recv_timeout(Duration::from_millis(300)).is_err());
            });
        });
        is_held.recv().unwrap();
        // As where its executor ends, or it has nothing more to do.
        drop(task);
        holder.join().unwrap();
        let until = SmolRuntime::global().now() + Duration::from_secs(20);
        while !client.handle.shared.with_quietly(|state| state.lifecycle.task_gone) {
            assert!(SmolRuntime::global().now() < until, "it never ends");
            thread::yield_now();
        }
    }
}
