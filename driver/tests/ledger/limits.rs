//! Limits of running handlers, and cancels, where calls are recorded.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire_driver::protocol::Instant;
use oncewire_driver::{
    BoxFuture, Client, ClientOptions, Context, DurableClient, Method, Runtime, Server, Timer,
};

use super::disk::{Accounts, Disk, Mode, TestLedger};
use super::journal::{Pages, TestJournal};
use super::sim::{Group, lock};
use super::world::Ledgered;

const SECOND: Duration = Duration::from_secs(1);
/// Takes ten seconds.
const SLOW: Method<u32, u32> = Method::new("test/slow").concurrency(1).queue_max(4);
const QUICK: Method<u32, u32> = Method::new("test/quick").concurrency(1).queue_max(4);
const DROPPED: Method<u32, u32> = Method::new("test/dropped").drop_on_cancel();
const PAY: Method<u32, u32> = Method::new("test/pay");

fn start(world: &mut Ledgered) {
    world.ledger = TestLedger::on(Disk::default());
    world.group = Arc::default();
    let runtime = world.sim.runtime(&world.group);
    let server = Server::builder("test")
        .ledger(world.ledger.clone())
        .method(&SLOW, move |_, n| {
            let mut timer = runtime.timer();
            timer.set(runtime.now() + 10 * SECOND);
            async move {
                std::future::poll_fn(|cx| timer.poll(cx)).await;
                n
            }
        })
        .method(&QUICK, |_, n| std::future::ready(n))
        .method(&DROPPED, |_, _| std::future::pending())
        .transactional(&PAY, |_: &mut Accounts, _, n| Ok(n))
        .runtime(world.sim.runtime(&world.group))
        .build()
        .unwrap();
    *lock(&world.place.0) = Some(server);
}

fn connected(world: &Ledgered) -> Client {
    let mut options = ClientOptions::default();
    options.timeout = Duration::from_secs(15);
    let client = world.client_with(options);
    world.sim.run();
    client
}

#[test]
fn c117_recorded_calls_wait_for_their_turn_and_those_whose_deadline_passes_leave_no_record() {
    let mut world = Ledgered::default();
    start(&mut world);
    let client = connected(&world);
    let made: Vec<_> = (0..3).map(|n| world.call(&client, &SLOW, n)).collect();
    assert_eq!(world.server().load().waiting, 2);
    world.sim.advance(11 * SECOND);
    assert_eq!(made[0].outcome(), Some("reply 0".to_owned()));
    world.sim.advance(5 * SECOND);
    // The second began after ten seconds, and the third would after twenty.
    assert_eq!(made[2].outcome(), Some("unknown: DeadlinePassed, true".to_owned()));
    world.sim.advance(20 * SECOND);
    let log = world.ledger.disk().log;
    let started = log.iter().filter(|line| line.contains("Started")).count();
    assert_eq!(started, 2, "{log:?}");
    assert_eq!((world.server().load().running, world.server().load().waiting), (0, 0));
    assert_eq!(world.server().counters().running, 0);
    // Every way out has given its permit back.
    for n in 0..3 {
        assert_eq!(world.call(&client, &QUICK, n).outcome(), Some(format!("reply {n}")));
        assert_eq!(world.call(&client, &PAY, n).outcome(), Some(format!("reply {n}")));
    }
    assert_eq!(world.server().load().running, 0);
}

#[test]
fn c146_a_call_that_waits_for_its_turn_is_refused_at_its_deadline() {
    let in_memory = |world: &mut Ledgered| {
        let builder = Server::builder("test").method(&SLOW, |_, _| std::future::pending());
        let server = builder.runtime(world.sim.runtime(&world.group)).build().unwrap();
        *lock(&world.place.0) = Some(server);
    };
    for start in [start, in_memory] {
        let mut world = Ledgered::default();
        start(&mut world);
        let client = connected(&world);
        let call =
            |n: u32, timeout| world.begin(client.call(&SLOW, &n).timeout(timeout * SECOND).start());
        let runs = call(0, 60);
        // The second one's deadline comes first.
        let made = [call(1, 60), call(2, 2)];
        assert_eq!((world.server().load().running, world.server().load().waiting), (1, 2));
        world.sim.advance(2 * SECOND);
        let mut ticket = made[1].ticket().expect("the client has given up");
        let later = world.begin(async move { ticket.wait().await });
        world.sim.advance(SECOND / 1000);
        assert_eq!(later.outcome(), Some("not executed: DeadlinePassed".to_owned()));
        assert_eq!((world.server().load().running, world.server().load().waiting), (1, 1));
        assert!(runs.outcome().is_none() && made[0].outcome().is_none());
    }
}

#[test]
fn c117_a_call_whose_record_comes_too_late_gives_its_turn_to_the_next() {
    let mut world = Ledgered::default();
    start(&mut world);
    let client = connected(&world);
    world.ledger.mode(Mode::Hold);
    let late = world.call(&client, &QUICK, 1);
    let pay = world.call(&client, &PAY, 1);
    world.sim.advance(16 * SECOND);
    let next = world.call(&client, &QUICK, 2);
    assert_eq!((late.outcome(), pay.outcome()), {
        let unknown = Some("unknown: DeadlinePassed, true".to_owned());
        (unknown.clone(), unknown)
    });
    assert_eq!(world.server().load().waiting, 1);
    world.release_all();
    world.ledger.mode(Mode::Commit);
    assert_eq!(next.outcome(), Some("reply 2".to_owned()));
    assert_eq!((world.server().load().running, world.server().load().waiting), (0, 0));
}

#[test]
fn c117_when_the_ledger_fails_what_waits_is_refused() {
    let mut world = Ledgered::default();
    start(&mut world);
    let client = connected(&world);
    assert_eq!(world.call(&client, &QUICK, 0).outcome(), Some("reply 0".to_owned()));
    world.ledger.mode(Mode::Fail);
    let made: Vec<_> = (0..3).map(|n| world.call(&client, &SLOW, n)).collect();
    world.sim.run();
    for made in made {
        assert_eq!(made.outcome(), Some("not executed: LedgerFailed".to_owned()));
    }
    assert_eq!((world.server().load().running, world.server().load().waiting), (0, 0));
}

/// Handlers that leave clones of their contexts behind, which wait for their calls' ends.
struct Listeners {
    world: Ledgered,
    client: Client,
    /// The calls whose ends were seen.
    ended: Arc<Mutex<Vec<u32>>>,
}

const RECORDED: Method<u32, u32> = Method::new("test/context");
const TRANSACTION: Method<u32, u32> = Method::new("test/context_of_transaction");

impl Listeners {
    /// Its ledger holds all commits.
    fn new() -> Listeners {
        let mut world = Ledgered::default();
        world.ledger = TestLedger::on(Disk::default());
        let runtime = world.sim.runtime(&world.group);
        let ended = Arc::<Mutex<Vec<u32>>>::default();
        let reported = ended.clone();
        let listen = Arc::new(move |context: Context, n| {
            let reported = reported.clone();
            runtime.spawn(Box::pin(async move {
                context.cancelled().await;
                assert!(context.is_cancelled());
                lock(&reported).push(n);
            }));
        });
        let (recorded, runtime) = (listen.clone(), world.sim.runtime(&world.group));
        let server = Server::builder("test")
            .ledger(world.ledger.clone())
            .method(&RECORDED, move |context, seconds| {
                recorded(context, seconds);
                let mut timer = runtime.timer();
                timer.set(runtime.now() + seconds * SECOND);
                async move {
                    std::future::poll_fn(|cx| timer.poll(cx)).await;
                    seconds
                }
            })
            .transactional(&TRANSACTION, move |_: &mut Accounts, context, n| {
                listen(context.clone(), n);
                Ok(n)
            })
            .runtime(world.sim.runtime(&world.group))
            .build()
            .unwrap();
        *lock(&world.place.0) = Some(server);
        let client = connected(&world);
        world.ledger.mode(Mode::Hold);
        Listeners { world, client, ended }
    }

    fn ended(&self) -> Vec<u32> {
        self.world.sim.run();
        let mut ended = std::mem::take(&mut *lock(&self.ended));
        ended.dedup();
        ended
    }
}

#[test]
fn c147_a_call_that_has_ended_ends_the_waits_of_its_context() {
    // The end of a transaction is durable, or may not be.
    for fails in [false, true] {
        let of = Listeners::new();
        let made = of.world.call(&of.client, &TRANSACTION, 1);
        of.world.ledger.write();
        assert_eq!(of.ended(), [0; 0]);
        if fails {
            of.world.ledger.crash()
        } else {
            of.world.ledger.release()
        }
        assert_eq!(of.ended(), [1]);
        assert_eq!(made.outcome().is_some(), !fails);
    }
    // A handler has ended, and its record may not be durable.
    let of = Listeners::new();
    let made = of.world.call(&of.client, &RECORDED, 0);
    of.world.ledger.release();
    assert_eq!(of.ended(), [0; 0]);
    of.world.ledger.crash();
    assert_eq!(of.ended(), [0]);
    assert!(made.outcome().is_none());
    // It ends when nothing is written any more.
    let of = Listeners::new();
    let made = of.world.call(&of.client, &RECORDED, 1);
    of.world.ledger.release();
    let _unknown = of.world.call(&of.client, &TRANSACTION, 2);
    of.world.ledger.crash();
    assert_eq!(of.ended(), [0; 0]);
    let failed = of.world.call(&of.client, &TRANSACTION, 3);
    assert_eq!(failed.outcome(), Some("not executed: LedgerFailed".to_owned()));
    of.world.sim.advance(SECOND);
    assert_eq!(of.ended(), [1]);
    assert!(made.outcome().is_none());
}

/// An executor that drops new tasks instead of polling them, from when it shuts down.
struct Mortal {
    runtime: Arc<dyn Runtime>,
    is_down: AtomicBool,
}

impl Runtime for Mortal {
    fn now(&self) -> Instant {
        self.runtime.now()
    }

    fn timer(&self) -> Box<dyn Timer> {
        self.runtime.timer()
    }

    fn random(&self, bytes: &mut [u8]) {
        self.runtime.random(bytes);
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        if !self.is_down.load(Ordering::SeqCst) {
            self.runtime.spawn(task);
        }
    }
}

#[test]
fn c148_calls_whose_tasks_are_dropped_before_they_run_are_refused() {
    let refused = Some("not executed: ShuttingDown".to_owned());
    for with_ledger in [false, true] {
        let mut world = Ledgered::default();
        world.ledger = TestLedger::on(Disk::default());
        let runtime = world.sim.runtime(&world.group);
        let mortal = Arc::new(Mortal { runtime: runtime.clone(), is_down: AtomicBool::new(false) });
        let slow = move |_, n: u32| {
            let mut timer = runtime.timer();
            timer.set(runtime.now() + SECOND);
            async move {
                std::future::poll_fn(|cx| timer.poll(cx)).await;
                n
            }
        };
        let builder = Server::builder("test").runtime(mortal.clone());
        let built = match with_ledger {
            false => builder.method(&SLOW, slow).build(),
            true => builder.ledger(world.ledger.clone()).method(&SLOW, slow).build(),
        };
        *lock(&world.place.0) = Some(built.unwrap());
        let client = connected(&world);
        let runs = world.call(&client, &SLOW, 1);
        let waits = [world.call(&client, &SLOW, 2), world.call(&client, &SLOW, 3)];
        assert_eq!((world.server().load().running, world.server().load().waiting), (1, 2));
        mortal.is_down.store(true, Ordering::SeqCst);
        world.sim.advance(SECOND);
        // It ends, and the turn of the next one never comes.
        assert_eq!(runs.outcome(), Some("reply 1".to_owned()));
        waits.iter().for_each(|call| assert_eq!(call.outcome(), refused));
        assert_eq!((world.server().load().running, world.server().load().waiting), (0, 0));
        if with_ledger {
            // It has a started record, and does not run: the record goes.
            assert_eq!(world.call(&client, &SLOW, 4).outcome(), refused);
            let log = world.ledger.disk().log;
            assert!(log.iter().any(|line| line.starts_with("withdrawn")), "{log:?}");
        }
        assert_eq!((world.server().load().running, world.server().counters().running), (0, 0));
        mortal.is_down.store(false, Ordering::SeqCst);
        let next = world.call(&client, &SLOW, 5);
        world.sim.advance(SECOND);
        assert_eq!(next.outcome(), Some("reply 5".to_owned()));
    }
}

#[test]
fn c116_a_recorded_call_that_is_cancelled_is_dropped_and_kept_as_aborted() {
    let mut world = Ledgered::default();
    start(&mut world);
    let group: Arc<Group> = Arc::default();
    let (client, left) = DurableClient::with_runtime(
        world.place.clone(),
        ClientOptions::default(),
        TestJournal::on(Pages::default()),
        world.sim.runtime(&group),
    )
    .unwrap();
    assert!(left.is_empty());
    let call = client.call("long poll", &DROPPED, &1);
    world.sim.advance(SECOND);
    assert_eq!(world.server().load().running, 1);
    call.cancel();
    let made = world.begin(async move { call.await.outcome });
    world.sim.advance(SECOND);
    assert_eq!(made.outcome(), Some("no reply: Aborted".to_owned()));
    assert_eq!((world.server().load().running, world.server().counters().running), (0, 0));
}

#[test]
fn options_that_a_transactional_method_cannot_have_are_refused() {
    const LIMITED: Method<u32, u32> = PAY.time_limit(SECOND);
    let options = [
        (LIMITED, "time_limit"),
        (PAY.concurrency(1), "concurrency"),
        (PAY.queue_max(1), "queue_max"),
        (PAY.drop_on_cancel(), "drop_on_cancel"),
    ];
    for (method, option) in options {
        let built = Server::builder("test")
            .ledger(TestLedger::on(Disk::default()))
            .transactional(&method, |_: &mut Accounts, _, n| Ok(n))
            .build();
        let expected = format!("the transactional method test/pay cannot have `{option}`");
        let error = built.expect_err("it is not built");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}
