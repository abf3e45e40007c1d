//! What happens to a call while its owner is asked whether its caller may make it, and no permit is free. C451, C455.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use oncewire_driver::{Call, Client, ClientOptions, Method, Server};

use super::disk::{Disk, Mode, TestLedger};
use super::sim::{Group, Places, lock};
use super::world::{Ledgered, reply, text};

/// Recorded: never ends, and runs once at a time.
const HOLD: Method<u32, u32> = Method::new("test/hold").concurrency(1);
/// Recorded.
const NOTE: Method<u32, u32> = Method::new("test/note");

type During = Box<dyn FnOnce() + Send>;

struct World {
    calls: Ledgered,
    places: Places,
    ledger: TestLedger,
    server: Server,
    client: Client,
    /// Happens when a caller is asked for next.
    during: Arc<Mutex<Option<During>>>,
}

impl World {
    fn new() -> World {
        let (calls, places) = (Ledgered::default(), Places::default());
        let ledger = TestLedger::on(Disk::default());
        let during = Arc::<Mutex<Option<During>>>::default();
        let asked = during.clone();
        let server = Server::builder("test")
            .ledger(ledger.clone())
            .method(&HOLD, |_, _| std::future::pending())
            .method(&NOTE, |_, n| std::future::ready(n))
            .authorize(move |_, _| {
                let during = lock(&asked).take();
                during.into_iter().for_each(|happens| happens());
                true
            })
            .runtime(calls.sim.runtime(&Arc::<Group>::default()))
            .build()
            .unwrap();
        *lock(&places.servers[0]) = Some(server.clone());
        let options = ClientOptions::default().with_backoff_max(Duration::from_millis(200));
        let runtime = calls.sim.runtime(&Arc::default());
        let client = Client::with_runtime(places.clone(), options, runtime);
        calls.sim.run();
        World { calls, places, ledger, server, client, during }
    }

    /// The one permit is taken.
    fn hold(&self) -> Call<u32> {
        let call = self.client.call(&HOLD, &1).start();
        self.calls.sim.run();
        assert_eq!((self.server.load().running, self.server.load().waiting), (1, 0));
        call
    }

    fn happens(&self, what: impl FnOnce() + Send + 'static) {
        *lock(&self.during) = Some(Box::new(what));
    }
}

#[test]
fn c451_a_call_is_refused_at_once_if_its_server_drains_while_its_owner_is_asked() {
    let world = World::new();
    let _held = world.hold();
    let server = world.server.clone();
    world.happens(move || {
        let mut drain = Box::pin(server.drain(Duration::from_secs(1_000)));
        assert!(drain.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    });
    let made = world.calls.call(&world.client, &HOLD, 2);
    assert_eq!(made.outcome(), text("not executed: ShuttingDown"));
    assert_eq!(world.server.load().waiting, 0);
}

#[test]
fn c451_a_call_is_refused_at_once_if_the_ledger_fails_while_its_owner_is_asked() {
    let world = World::new();
    let _held = world.hold();
    world.ledger.mode(Mode::Hold);
    let _noted = world.calls.call(&world.client, &NOTE, 7);
    let ledger = world.ledger.clone();
    world.happens(move || ledger.fail());
    let made = world.calls.call(&world.client, &HOLD, 2);
    assert_eq!(made.outcome(), text("not executed: LedgerFailed"));
    assert_eq!(world.server.load().waiting, 0);
}

#[test]
fn c455_a_call_that_is_cancelled_on_another_connection_while_its_owner_is_asked_does_not_wait() {
    let world = World::new();
    let _held = world.hold();
    let call = Arc::new(Mutex::new(Some(world.client.call(&HOLD, &2).start())));
    let (sim, places, cancelled) = (world.calls.sim.clone(), world.places.clone(), call.clone());
    let resumed = world.server.counters().resumes;
    world.happens(move || {
        places.cut();
        drop(lock(&cancelled).take());
        // The client comes back, asks for what it is not sure of, and cancels it.
        sim.advance(Duration::from_secs(1));
    });
    world.calls.sim.run();
    assert_eq!(world.server.counters().resumes, resumed + 1, "it was another connection");
    assert_eq!((world.server.load().running, world.server.load().waiting), (1, 0));
    assert_eq!(world.calls.call(&world.client, &NOTE, 7).outcome(), reply(7));
    assert_eq!(world.server.counters().running, 1, "its slot is free");
}
