//! Streams and uploads of a server with a ledger: the calls that open them are recorded first. C453.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use oncewire_driver::stream::{Incoming, StreamMethod, UploadMethod};
use oncewire_driver::{Client, Context as CallContext, Server};

use super::disk::{Disk, Mode, TestLedger};
use super::sim::lock;
use super::world::Ledgered;

const COUNT: StreamMethod<u64, u64> = StreamMethod::new("test/count");
const SUM: UploadMethod<u64, u64, u64> = UploadMethod::new("test/sum").resumable();

/// What a function holds for as long as it is there.
struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How many functions were begun, and are there.
#[derive(Clone, Default)]
struct Functions {
    begun: Arc<AtomicUsize>,
    held: Arc<AtomicUsize>,
}

impl Functions {
    fn begin(&self) -> Held {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.held.fetch_add(1, Ordering::SeqCst);
        Held(self.held.clone())
    }

    fn counts(&self) -> (usize, usize) {
        (self.begun.load(Ordering::SeqCst), self.held.load(Ordering::SeqCst))
    }
}

/// A world whose commits are held from now on.
fn start() -> (Ledgered, Client, Functions) {
    let mut world = Ledgered::default();
    world.ledger = TestLedger::on(Disk::default());
    let functions = Functions::default();
    let (counts, sums) = (functions.clone(), functions.clone());
    let count = move |_: CallContext, n: u64, _: u64| {
        let held = counts.begin();
        async move {
            smol::stream::unfold((held, n), |(held, n)| async move { Some((n, (held, n + 1))) })
        }
    };
    let sum = move |_: CallContext, from: u64, mut numbers: Incoming<u64>| {
        let held = sums.begin();
        async move {
            let mut sum = from;
            while let Some(number) = numbers.next().await {
                sum += number;
            }
            drop(held);
            sum
        }
    };
    let builder = Server::builder("test").ledger(world.ledger.clone());
    let builder = builder.stream(&COUNT, count).upload(&SUM, sum);
    let server = builder.runtime(world.sim.runtime(&world.group)).build().unwrap();
    *lock(&world.place.0) = Some(server);
    let client = world.client();
    world.sim.run();
    assert!(client.status().connected);
    world.ledger.mode(Mode::Hold);
    (world, client, functions)
}

/// Polls it once: what it has to send is begun.
fn begin<T>(future: impl Future<Output = T>) {
    assert!(pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

#[test]
fn c453_what_is_dropped_when_it_is_being_opened_is_not_left_open() {
    let (world, client, functions) = start();
    for nth in 1..=100 {
        let mut stream = client.stream(&COUNT, &0);
        begin(stream.next());
        let mut upload = client.upload(&SUM, &0);
        begin(upload.ready());
        world.sim.run();
        assert_eq!(world.ledger.held(), 1, "the opens wait for their records");
        // The server reads that they are not wanted when it knows that the records are durable, and has not begun.
        drop((stream, upload));
        world.ledger.release();
        world.sim.run();
        world.release_all();
        // That of the upload was not even begun.
        assert_eq!(functions.counts(), (nth, 0));
    }
}

/// Runs a future to its end, and releases what it waits for.
fn end<T>(world: &Ledgered, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    for _ in 0..1_000 {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done;
        }
        world.sim.run();
        world.release_all();
    }
    panic!("it does not end");
}

#[test]
fn c453_a_resume_that_is_dropped_when_it_is_being_opened_leaves_the_upload_to_its_writer() {
    let (world, client, functions) = start();
    let mut upload = client.upload(&SUM, &1);
    end(&world, upload.send(10)).unwrap();
    end(&world, upload.flush()).unwrap();
    let mut resumed = client.upload(&SUM, &1).resume(upload.id());
    begin(resumed.ready());
    world.sim.run();
    assert_eq!(world.ledger.held(), 1, "the open waits for its record");
    drop(resumed);
    world.ledger.release();
    world.sim.run();
    world.release_all();
    end(&world, upload.send(100)).unwrap();
    assert_eq!(end(&world, upload.commit()), Ok(111));
    assert_eq!(functions.counts(), (1, 0));
}
