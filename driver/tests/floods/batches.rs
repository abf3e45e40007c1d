//! Calls that can leave together do: one write takes a batch, however the calls are polled.

use super::clients::Dial;
use super::*;

/// Calls in flight.
const WIDTH: usize = 64;
const ROUNDS: usize = 50;
/// Writes besides one a round: the first calls, acknowledgements.
const MORE_WRITES_MAX: usize = 4;

/// What the futures of one task are woken by: which of them, and the task.
#[derive(Default)]
struct Woken {
    ready: Mutex<VecDeque<usize>>,
    task: Mutex<Option<Waker>>,
}

struct Child {
    index: usize,
    woken: Arc<Woken>,
}

impl Wake for Child {
    fn wake(self: Arc<Self>) {
        lock(&self.woken.ready).push_back(self.index);
        lock(&self.woken.task).iter().for_each(Waker::wake_by_ref);
    }
}

/// One task that keeps calls in flight, and begins one for each that completes: as `buffer_unordered` does, it takes all
/// outcomes that are there before it polls the first new call.
struct Buffered {
    client: Client,
    calls: Vec<Option<Call<u32>>>,
    woken: Arc<Woken>,
    done: usize,
}

impl Buffered {
    fn begin(&mut self, index: usize) {
        self.calls[index] = Some(self.client.call(&ECHO, &(index as u32)).into_future());
        lock(&self.woken.ready).push_back(index);
    }
}

impl Future for Buffered {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        *lock(&this.woken.task) = Some(cx.waker().clone());
        loop {
            let next = lock(&this.woken.ready).pop_front();
            let Some(index) = next else { return Poll::Pending };
            let waker = Waker::from(Arc::new(Child { index, woken: this.woken.clone() }));
            let Some(call) = &mut this.calls[index] else { continue };
            let Poll::Ready(outcome) = Pin::new(call).poll(&mut Context::from_waker(&waker)) else {
                continue;
            };
            assert!(matches!(outcome, Outcome::Reply(_)), "{outcome:?}");
            this.done += 1;
            if this.done == WIDTH * ROUNDS {
                return Poll::Ready(());
            }
            this.begin(index);
        }
    }
}

/// `batches`: into how many the calls in flight may fall.
fn assert_a_write_a_batch(
    batches: usize,
    begin: impl FnOnce(&Arc<World>, Client, Arc<AtomicUsize>),
) {
    let world = World::new();
    let dial = Dial::new(&world);
    let client = dial.client();
    let before = dial.writes();
    let done = Arc::new(AtomicUsize::new(0));
    begin(&world, client, done.clone());
    world.run_until(|| done.load(Ordering::SeqCst) == WIDTH * ROUNDS);
    let writes = dial.writes() - before;
    assert!(writes <= batches * ROUNDS + MORE_WRITES_MAX, "{writes} writes in {ROUNDS} rounds");
}

#[test]
fn c171_one_task_that_keeps_calls_in_flight_writes_once_a_batch() {
    assert_a_write_a_batch(1, |world, client, done| {
        let calls = (0..WIDTH).map(|_| None).collect();
        let mut buffered = Buffered { client, calls, woken: Arc::default(), done: 0 };
        (0..WIDTH).for_each(|index| buffered.begin(index));
        world.spawn(async move {
            (&mut buffered).await;
            done.store(buffered.done, Ordering::SeqCst);
        });
    });
}

#[test]
fn c171_tasks_that_each_call_again_and_again_write_once_a_batch() {
    // The first few calls are written at once, and then leave together as they come back: before the others do.
    assert_a_write_a_batch(2, |world, client, done| {
        for index in 0..WIDTH {
            let (client, done) = (client.clone(), done.clone());
            world.spawn(async move {
                for _ in 0..ROUNDS {
                    let outcome = client.call(&ECHO, &(index as u32)).await;
                    assert!(matches!(outcome, Outcome::Reply(_)), "{outcome:?}");
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
}

#[test]
fn c172_a_call_that_waits_for_company_and_is_left_is_sent_all_the_same() {
    let world = World::new();
    let dial = Dial::new(&world);
    let client = dial.client();
    for round in 0..10 {
        let mut calls: Vec<_> =
            (0..8).map(|n| client.call(&ECHO, &n).into_future()).map(Some).collect();
        let poll = |calls: &mut Vec<Option<Call<u32>>>| {
            let mut cx = Context::from_waker(Waker::noop());
            for slot in calls.iter_mut() {
                if slot.as_mut().is_some_and(|call| Pin::new(call).poll(&mut cx).is_ready()) {
                    *slot = None;
                }
            }
            calls.iter().all(Option::is_none)
        };
        // The last write is answered by several outcomes: they are all taken.
        world.run_until(|| poll(&mut calls));
        let (writes, begun) = (dial.writes(), world.now());
        let mut left = client.call(&ECHO, &round).into_future();
        let poll = Pin::new(&mut left).poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll.is_pending());
        world.run_until(|| dial.writes() > writes);
        let time = world.now().since(begun);
        assert!(time <= Duration::from_millis(1), "{time:?} in round {round}");
    }
}

#[test]
fn c175_what_is_sent_behind_a_call_that_reads_and_is_left_leaves_soon_all_the_same() {
    type Send = fn(&Client, Call<u32>) -> Call<u32>;
    let sends: [(&str, Send); 3] = [
        ("a one-way call", |client, begun| {
            client.send(&ECHO, &1).unwrap();
            begun
        }),
        ("a call that was started", |client, begun| {
            std::mem::forget(begun);
            client.call(&ECHO, &1).start()
        }),
        ("a cancel", |client, begun| {
            drop(begun);
            client.call(&ECHO, &1)
        }),
    ];
    for (what, send) in sends {
        let world = World::new();
        let dial = Dial::new(&world);
        let client = dial.client();
        let begun = client.call(&NEVER, &1).start();
        let mut left = client.call(&NEVER, &0);
        let poll = Pin::new(&mut left).poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll.is_pending());
        // The task sleeps until it is time to read itself.
        let settled = world.now() + Duration::from_millis(5);
        world.run_until(|| world.now() >= settled);
        let (writes, since) = (dial.writes(), world.now());
        let _call = send(&client, begun);
        world.run_until(|| dial.writes() > writes);
        let time = world.now().since(since);
        assert!(time <= Duration::from_millis(1), "{what} left after {time:?}");
    }
}
