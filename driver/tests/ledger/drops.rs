//! The user's code in calls that never run: it may call the server when it is dropped, and it may panic.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use oncewire_driver::{Client, ClientOptions, Method, Server};
use serde::{Deserialize, Serialize};

use super::disk::{Accounts, Disk, Mode, TestLedger};
use super::sim::lock;
use super::world::Ledgered;

thread_local! {
    static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
    static DROPPED: RefCell<usize> = const { RefCell::new(0) };
}

/// An argument that calls the server when it is dropped, and then panics.
#[derive(Debug, Serialize, Deserialize)]
struct Nosy(u32);

impl Drop for Nosy {
    fn drop(&mut self) {
        let server = SERVER.with_borrow(Clone::clone);
        if let Some(server) = server {
            DROPPED.with_borrow_mut(|dropped| *dropped += 1);
            let _counters = server.counters();
            panic!("a panic in a drop");
        }
    }
}

const RECORDED: Method<Nosy, u32> = Method::new("test/recorded");
const TRANSACTIONAL: Method<Nosy, u32> = Method::new("test/transactional");
const IDEMPOTENT: Method<Nosy, u32> = Method::new("test/idempotent").idempotent();

fn start(world: &mut Ledgered) -> Client {
    world.ledger = TestLedger::on(Disk::default());
    world.group = Arc::default();
    let server = Server::builder("test")
        .ledger(world.ledger.clone())
        .method(&RECORDED, |_, _| async move { 1 })
        .method(&IDEMPOTENT, |_, _| async move { 1 })
        .transactional(&TRANSACTIONAL, |_: &mut Accounts, _, _| Ok(1))
        .runtime(world.sim.runtime(&world.group))
        .build()
        .unwrap();
    *lock(&world.place.0) = Some(server.clone());
    let mut options = ClientOptions::default();
    options.timeout = Duration::from_secs(1);
    let client = world.client_with(options);
    world.sim.run();
    assert!(client.status().connected);
    SERVER.set(Some(server));
    client
}

/// How many arguments were dropped by the server, and how many calls it holds.
fn dropped() -> usize {
    DROPPED.take()
}

/// Bytes of a `Nosy`, which is not to be dropped by the test itself.
fn seven() -> Vec<u8> {
    vec![7]
}

#[test]
fn c115_what_is_left_of_calls_whose_deadline_passes_before_their_record_is_dropped_without_the_lock()
 {
    let mut world = Ledgered::default();
    let client = start(&mut world);
    world.ledger.mode(Mode::Hold);
    let made: Vec<_> = [&RECORDED, &TRANSACTIONAL]
        .map(|method| world.begin(client.call_raw(method.id(), seven()).start()))
        .into();
    world.sim.advance(Duration::from_secs(2));
    world.release_all();
    for made in made {
        assert_eq!(made.outcome(), Some("unknown: DeadlinePassed, true".to_owned()));
    }
    assert_eq!((dropped(), world.server().counters().running), (2, 0));
    SERVER.set(None);
}

#[test]
fn c115_what_is_left_of_calls_that_the_ledger_cannot_record_is_dropped_without_the_lock() {
    // What may have run is not answered (S31).
    let refused = Some("not executed: LedgerFailed".to_owned());
    for (method, learned, running) in [(RECORDED, refused, 0), (TRANSACTIONAL, None, 1)] {
        let mut world = Ledgered::default();
        let client = start(&mut world);
        world.ledger.mode(Mode::Fail);
        let made = world.begin(client.call_raw(method.id(), seven()).start());
        assert_eq!(made.outcome(), learned);
        assert_eq!((dropped(), world.server().counters().running), (1, running));
        SERVER.set(None);
    }
}

#[test]
fn c115_a_call_that_runs_and_panics_while_its_arguments_are_dropped_is_aborted() {
    let mut world = Ledgered::default();
    let client = start(&mut world);
    for method in [&RECORDED, &IDEMPOTENT] {
        let made = world.begin(client.call_raw(method.id(), seven()).start());
        assert_eq!(made.outcome(), Some("no reply: Aborted".to_owned()));
    }
    let made = world.begin(client.call_raw(TRANSACTIONAL.id(), seven()).start());
    assert_eq!(made.outcome(), Some("not executed: Aborted".to_owned()));
    assert_eq!(world.server().counters().running, 0);
    SERVER.set(None);
}
