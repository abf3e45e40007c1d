//! A method that is declared idempotent says so for its calls: C180, C181.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use oncewire_driver::{Client, ClientOptions, Method, Server};

use super::disk::Mode;
use super::sim::{Group, Place, Sim, lock};
use super::world::*;

/// Waits for ever at the first server, and says how often it ran at the second.
const READ: Method<(), usize> = Method::new("test/read").idempotent();

/// Two servers without a ledger, one after the other, at one address.
struct Replaced {
    sim: Arc<Sim>,
    place: Place,
    first: Arc<Group>,
    runs: Arc<AtomicUsize>,
}

impl Replaced {
    fn new() -> Replaced {
        let world = Replaced {
            sim: Arc::default(),
            place: Place::default(),
            first: Arc::default(),
            runs: Arc::default(),
        };
        world.start(&world.first, true);
        world
    }

    fn start(&self, group: &Arc<Group>, hangs: bool) {
        let runs = self.runs.clone();
        let builder = Server::builder("test").method(&READ, move |_, ()| {
            let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                run
            }
        });
        let server = builder.runtime(self.sim.runtime(group)).build().expect("the server is built");
        *lock(&self.place.0) = Some(server);
    }

    fn client(&self) -> Client {
        let runtime = self.sim.runtime(&Arc::default());
        Client::with_runtime(self.place.clone(), ClientOptions::default(), runtime)
    }

    /// Puts the second server in the place of the first, and lets clients dial it.
    fn replace(&self) {
        let first = lock(&self.place.0).take();
        self.first.kill();
        drop(first);
        self.start(&Arc::default(), false);
        self.sim.advance(Duration::from_secs(6));
    }
}

#[test]
fn c180_a_call_of_an_idempotent_method_runs_again_at_the_server_that_replaces_its_own() {
    let (world, beside) = (Replaced::new(), Ledgered::default());
    let client = world.client();
    let call = beside.begin_in(&world.sim, client.call(&READ, &()).start());
    let once = beside.begin_in(&world.sim, client.call(&READ, &()).at_most_once().start());
    client.send(&READ, &()).expect("one-way calls are taken");
    world.sim.run();
    assert_eq!(world.runs.load(Ordering::SeqCst), 3);
    world.replace();
    assert_eq!(call.outcome(), reply(4), "said once, by the method");
    assert_eq!(once.outcome(), text("unknown: SessionEnded, false"), "as this call asked");
    assert_eq!(world.runs.load(Ordering::SeqCst), 5, "the one-way call ran again as well");
}

#[test]
fn c181_a_call_of_an_idempotent_method_costs_no_commit_of_a_ledger() {
    let world = Ledgered::new();
    let client = world.held();
    world.ledger.mode(Mode::Commit);
    let before = world.ledger.disk().commit;
    for _ in 0..10 {
        assert_eq!(world.call(&client, &COUNT, ()).outcome(), reply(0));
        client.send(&COUNT, &()).expect("one-way calls are taken");
        world.sim.run();
    }
    assert_eq!(world.ledger.disk().commit, before, "reads leave no record");
    let call = world.begin(client.call(&COUNT, &()).at_most_once().start());
    assert_eq!(call.outcome(), reply(0));
    assert_eq!(world.ledger.disk().commit, before + 2, "that it started, and that it ended");
}
