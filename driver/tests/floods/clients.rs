//! Clients whose server sends without end, whose tasks do not run, or whose stream panics: C108 to C110, C177.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

/// Dials a server of the same world.
#[derive(Clone)]
pub(super) struct Dial {
    world: Arc<World>,
    server: Server,
    /// What clients read, and what they write.
    inputs: Arc<Mutex<Vec<Arc<Mutex<HalfPipe>>>>>,
    outputs: Arc<Mutex<Vec<Arc<Mutex<HalfPipe>>>>>,
}

impl Dial {
    pub(super) fn new(world: &Arc<World>) -> Dial {
        let server = server(world).0;
        Dial { world: world.clone(), server, inputs: Arc::default(), outputs: Arc::default() }
    }

    /// How often the last client that connected has written.
    pub(super) fn writes(&self) -> usize {
        lock(lock(&self.outputs).last().unwrap()).writes
    }

    /// The next write of the last client that connected panics.
    fn panic(&self) {
        lock(lock(&self.outputs).last().unwrap()).panics = true;
    }

    /// A client that has made a call.
    pub(super) fn client(&self) -> Client {
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
        lock(&self.outputs).push(ours.output.clone());
        self.server.serve_stream(Box::new(theirs), Subject::Anonymous);
        Box::pin(std::future::ready(Ok(Box::new(ours) as BoxStream)))
    }

    fn address(&self) -> String {
        "the same world".to_owned()
    }
}

/// A call in a task of its own; when it has ended, its outcome and the moment.
type Watched = Arc<Mutex<Option<(Outcome<u32>, Instant)>>>;

fn watch(world: &Arc<World>, call: Call<u32>) -> Watched {
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
fn c109_a_deadline_wakes_its_call_though_no_task_runs() {
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
fn c110_a_call_that_is_polled_once_and_left_delays_no_other() {
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

/// Counts how often it is woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

const DUE_IN: Duration = Duration::from_secs(20);

#[test]
fn c149_calls_that_are_due_at_once_are_ended_by_one_wake_of_the_timer() {
    const CALLS: usize = 65_536;
    let world = World::new();
    let client = Dial::new(&world).client();
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    let begin = |n: usize| {
        let mut call = client.call(&NEVER, &(n as u32)).timeout(DUE_IN).into_future();
        assert!(Pin::new(&mut call).poll(&mut Context::from_waker(&waker)).is_pending());
        call
    };
    let calls: Vec<_> = (0..CALLS).map(begin).collect();
    let woken = count.0.load(Ordering::SeqCst);
    world.pass(DUE_IN);
    // No task is polled. The waker that had ended a thousand calls once called itself for the next thousand.
    let small = std::thread::Builder::new().stack_size(128 << 10);
    small.spawn(move || world.fire()).unwrap().join().unwrap();
    assert!(count.0.load(Ordering::SeqCst) - woken >= CALLS);
    drop(calls);
}

/// No server is there.
struct Nowhere;

impl Connect for Nowhere {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::ConnectionRefused.into())))
    }

    fn address(&self) -> String {
        "nowhere".to_owned()
    }
}

#[test]
fn c149_calls_that_are_due_at_once_and_not_polled_free_their_places_at_once() {
    const CALLS: usize = 8 * 1024;
    let world = World::new();
    let mut options = ClientOptions::default();
    options.calls_max = CALLS;
    let client = Client::with_runtime(Nowhere, options, Arc::new(HandRuntime(world.clone())));
    let begin = |n: usize| client.call(&NEVER, &(n as u32)).timeout(DUE_IN).start();
    let is_refused = |mut call: Call<u32>| {
        Pin::new(&mut call).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    };
    let calls: Vec<_> = (0..CALLS).map(begin).collect();
    assert!(is_refused(begin(0)));
    while world.step().is_some() {}
    world.pass(DUE_IN);
    // The clock does not move.
    while world.step().is_some() {}
    let later: Vec<_> = (0..CALLS).map(begin).collect();
    assert!(!later.into_iter().any(is_refused));
    drop(calls);
}

#[test]
fn c170_a_client_that_dials_without_a_pause_leaves_others_their_turns() {
    let world = World::new();
    let neighbour = Dial::new(&world).client();
    let mut options = ClientOptions::default();
    (options.backoff_min, options.backoff_max) = (Duration::ZERO, Duration::ZERO);
    let client = Client::with_runtime(Nowhere, options, Arc::new(HandRuntime(world.clone())));
    let call = watch(&world, neighbour.call(&ECHO, &1).into_future());
    world.run_until(|| lock(&call).is_some());
    assert!(!client.status().connected);
}

#[test]
fn c177_a_call_whose_first_poll_panics_has_begun_all_the_same() {
    let world = World::new();
    let dial = Dial::new(&world);
    let client = dial.client();
    let mut call = client.call(&ECHO, &7);
    dial.panic();
    let mut poll = || Pin::new(&mut call).poll(&mut Context::from_waker(Waker::noop()));
    catch_unwind(AssertUnwindSafe(&mut poll)).unwrap_err();
    // The request has left, so it must not end as never begun.
    let mut outcome = Poll::Pending;
    world.run_until(|| {
        outcome = poll();
        outcome.is_ready()
    });
    assert!(matches!(outcome, Poll::Ready(Outcome::Reply(7))), "{outcome:?}");
}
