//! What a ledger has a record of, when, and for how long: C61, C67, C72, C73, C76, C178, C192.

use std::time::Duration;

use oncewire_driver::{ClientOptions, Server};

use super::disk::{Accounts, Disk, Mode};
use super::sim::lock;
use super::world::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn c61_a_deadline_or_a_cancel_while_the_started_record_is_written_refuses_the_call() {
    for cancel in [false, true] {
        let mut world = Ledgered::new();
        let client = world.held();
        let made = if cancel {
            let future = client.call(&ADD, &1).start();
            world.sim.run();
            drop(future);
            world.sim.run();
            None
        } else {
            Some(world.begin(client.call(&ADD, &1).timeout(SECOND).start()))
        };
        world.sim.advance(2 * SECOND);
        let mut ticket = made.map(|made| made.ticket().expect("unknown, with a ticket"));
        world.ledger.release();
        world.sim.run();
        if let Some(ticket) = &mut ticket {
            let outcome = ready(ticket.wait()).expect("the ticket tells");
            assert!(format!("{outcome:?}").starts_with("NotExecuted(DeadlinePassed)"));
        }
        world.release_all();
        assert_eq!(world.ledger.disk().calls.len(), 0, "its record is withdrawn");
        world.restart();
        assert_eq!(world.ran(), [] as [i32; 0]);
        world.ledger.mode(Mode::Commit);
        assert_eq!(world.call(&client, &ADD, 2).outcome(), reply(1));
    }
}

#[test]
fn c61_a_transactional_call_is_judged_when_its_transaction_begins() {
    let world = Ledgered::new();
    let client = world.held();
    let _other = world.call(&client, &ADD, 0);
    let made = world.begin(client.call(&PAY, &(1, 5)).timeout(SECOND).start());
    world.sim.advance(2 * SECOND);
    world.release_all();
    let mut ticket = made.ticket().expect("unknown, with a ticket");
    let outcome = ready(ticket.wait()).expect("the ticket tells");
    assert!(format!("{outcome:?}").starts_with("NotExecuted(DeadlinePassed)"));
    assert_eq!(world.ledger.disk().accounts.get(&1), None);
}

#[test]
fn c67_grants_survive_a_restart_with_other_limits() {
    let mut world = Ledgered::new();
    let client = world.client();
    let made: Vec<_> = (0..9).map(|n| world.call(&client, &ADD, n)).collect();
    assert!(made.iter().all(|made| made.outcome().is_some()));
    world.slots = Some(2);
    world.restart();
    let hang: Vec<_> = (0..5).map(|_| world.call(&client, &HANG, ())).collect();
    assert_eq!(world.call(&client, &ADD, 9).outcome(), reply(10), "5 hang, and there is room");
    let newcomer = world.client();
    let others: Vec<_> = (0..2).map(|_| world.call(&newcomer, &HANG, ())).collect();
    let waits = world.call(&newcomer, &ADD, 10);
    assert_eq!(waits.outcome(), None, "a new session has two slots");
    world.sim.advance(4 * SECOND);
    let ends: Vec<_> = hang.iter().chain(&others).map(Made::outcome).collect();
    assert!(ends.iter().all(|end| *end == text("no reply: Aborted")), "{ends:?}");
    assert_eq!(waits.outcome(), reply(11));
}

#[test]
fn c72_a_hole_below_a_committed_xid_is_sent_again_and_runs_once() {
    let mut world = Ledgered::new();
    let client = world.held();
    // Its started record is under way; the payment's batch is behind it.
    let hole = world.call(&client, &ADD, 1);
    let paid = world.call(&client, &PAY, (1, 5));
    // The disk knows the later call only.
    let mut disk = world.ledger.disk();
    world.ledger.release();
    world.sim.run();
    world.ledger.write();
    let written = world.ledger.disk();
    let later = written.calls.iter().filter(|(_, bytes)| bytes.len() > 17 && bytes[17] == 10);
    disk.calls = later.map(|(key, bytes)| (*key, bytes.clone())).collect();
    assert_eq!(disk.calls.len(), 1, "the payment's record: {:?}", written.log);
    disk.accounts = written.accounts;
    world.crash();
    lock(&world.runs).clear();
    world.start(disk);
    world.sim.advance(6 * SECOND);
    assert_eq!((hole.outcome(), paid.outcome()), (reply(1), reply(5)));
    assert_eq!(world.ran(), [1]);
    assert_eq!(world.ledger.disk().accounts[&1], 5);
}

#[test]
fn c73_idempotent_calls_leave_no_record_and_run_again() {
    let mut world = Ledgered::new();
    let client = world.held();
    let batches = world.ledger.batches().len();
    assert_eq!(world.begin(client.call(&COUNT, &()).start()).outcome(), reply(0));
    assert_eq!(world.ledger.batches().len(), batches, "nothing was written");
    let asked_once = world.begin(client.call(&COUNT, &()).at_most_once().start());
    assert_eq!(asked_once.outcome(), None, "at most once, as the request asks: recorded");
    world.release_all();
    assert_eq!(asked_once.outcome(), reply(0));
    world.restart();
    assert_eq!(world.begin(client.call(&COUNT, &()).start()).outcome(), reply(0));
}

#[test]
fn c76_a_record_never_replaces_one_of_a_later_xid_on_its_slot() {
    let mut world = Ledgered::default();
    world.slots = Some(1);
    world.start(Disk::default());
    let client = world.held();
    let expired = world.begin(client.call(&ADD, &1).timeout(SECOND).start());
    let later = world.call(&client, &ADD, 2);
    world.sim.advance(2 * SECOND);
    drop(expired.ticket());
    // The record of xid 1 becomes stable, the call is refused, and xid 2 takes the slot. Its started record and the
    // withdrawal of xid 1 are written in the order in which they were noted.
    world.ledger.release();
    world.sim.run();
    while world.ran().is_empty() {
        world.ledger.release();
        world.sim.run();
    }
    assert_eq!(world.ran(), [2]);
    world.restart();
    assert_eq!(later.outcome(), text("unknown: Interrupted, false"));
    assert_eq!(world.ran(), [2], "xid 2 is not run again");
}

#[test]
fn calls_that_are_ready_together_share_a_commit() {
    let world = Ledgered::new();
    let client = world.held();
    let _first = world.call(&client, &ADD, 0);
    let many: Vec<_> = (1..100).map(|n| world.call(&client, &PAY, (n, 5))).collect();
    let before = world.ledger.batches().len();
    world.ledger.release();
    world.sim.run();
    assert_eq!(world.ledger.batches()[before..], [99], "all of them");
    world.release_all();
    assert!(many.iter().all(|made| made.outcome() == reply(5)));
    assert!(world.ledger.batches().len() <= before + 2);
}

#[test]
fn what_clients_have_seen_is_forgotten_and_what_has_ended_too() {
    let world = Ledgered::new();
    let client = world.held();
    let made: Vec<_> = (0..50).map(|n| world.call(&client, &ADD, n)).collect();
    world.release_all();
    assert!(made.iter().all(|made| made.outcome().is_some()));
    world.ledger.mode(Mode::Commit);
    assert_eq!(world.ledger.disk().calls.len(), 50, "one a slot that was used");
    for n in 0..50 {
        assert_eq!(world.call(&client, &ADD, n).outcome(), reply(n + 51));
    }
    assert_eq!(world.ledger.disk().calls.len(), 50, "later calls replace them");
    world.sim.advance(3 * SECOND);
    assert_eq!(world.ledger.disk().calls.len(), 0);
    let session = world.ledger.disk().sessions.into_values().next().unwrap();
    assert!(session.seen > 0, "h survives its calls");
    let batches = world.ledger.batches().len();
    world.sim.advance(30 * SECOND);
    assert_eq!(world.ledger.batches().len(), batches, "an idle server writes nothing");
    drop(client);
    world.sim.advance(6 * SECOND);
    assert_eq!(world.ledger.disk().sessions.len(), 0);
}

#[test]
fn what_is_acknowledged_after_a_restart_is_forgotten_without_another_call() {
    let mut world = Ledgered::new();
    let client = world.held();
    let made: Vec<_> = (0..20).map(|n| world.call(&client, &ADD, n)).collect();
    world.release_all();
    assert!(made.iter().all(|made| made.outcome().is_some()));
    assert_eq!(world.ledger.disk().calls.len(), 20);
    world.restart();
    world.ledger.mode(Mode::Commit);
    // The client resumes by itself, and acknowledges as it does.
    world.sim.advance(5 * SECOND);
    assert_eq!(world.server().counters().resumes, 1);
    assert_eq!(world.ledger.disk().calls.len(), 0);
    assert_eq!(world.ledger.disk().sessions.len(), 1);
}

#[test]
fn c178_a_session_that_a_ledger_gives_back_twice_is_one_and_stays() {
    let mut world = Ledgered::new();
    let client = world.client();
    assert_eq!(world.call(&client, &ADD, 1).outcome(), reply(1));
    world.ledger.repeat_sessions();
    for n in 2..4 {
        world.restart();
        world.sim.advance(5 * SECOND);
        assert_eq!(world.call(&client, &ADD, n).outcome(), reply(n as usize));
        assert_eq!(world.ledger.disk().sessions.len(), 1, "it was not ended");
        assert_eq!(client.status().counters.sessions, 1);
    }
}

#[test]
fn c192_a_denied_call_leaves_no_record_and_an_allowed_one_does() {
    let world = Ledgered::default();
    let server = Server::builder("test")
        .ledger(world.ledger.clone())
        .method(&ADD, |_, n| std::future::ready(n as u32))
        .transactional(&PAY, |_: &mut Accounts, _, (_, amount)| Ok(amount))
        .authorize(|_, method| method == "test/add")
        .runtime(world.sim.runtime(&world.group));
    *lock(&world.place.0) = Some(server.build().unwrap());
    let client = world.client();
    world.sim.run();
    let denied = world.call(&client, &PAY, (1, 1));
    assert_eq!(denied.outcome(), Some("not executed: PermissionDenied".to_owned()));
    assert_eq!(world.ledger.disk().log, ["opened"]);
    assert_eq!(world.call(&client, &ADD, 3).outcome(), reply(3));
    assert!(world.ledger.disk().log.len() > 1);
}

#[test]
fn s14_the_time_limit_counts_from_the_start_of_a_recorded_call() {
    let world = Ledgered::new();
    let client = world.held();
    let made = world.call(&client, &HANG, ());
    world.sim.advance(5 * SECOND);
    world.ledger.release();
    world.sim.advance(2 * SECOND);
    assert_eq!(world.server().counters().running, 1);
    assert_eq!(world.ledger.disk().log.iter().filter(|line| line.contains("Aborted")).count(), 0);
    world.release_all();
    assert_eq!(made.outcome(), None, "it has run for two seconds of three");
    world.sim.advance(2 * SECOND);
    world.release_all();
    assert_eq!(made.outcome(), text("no reply: Aborted"));
}

#[test]
fn s05_a_restored_session_is_its_principals() {
    let mut world = Ledgered::new();
    let client = world.client_with(ClientOptions::default());
    assert_eq!(world.call(&client, &ADD, 0).outcome(), reply(1));
    let mut disk = world.ledger.disk();
    for session in disk.sessions.values_mut() {
        assert_eq!(session.subject, oncewire_driver::Subject::Name("alice".into()));
        session.subject = oncewire_driver::Subject::Name("bob".into());
    }
    world.crash();
    world.start(disk);
    world.sim.advance(6 * SECOND);
    assert_eq!(world.server().counters().resumes, 0);
}

#[test]
fn a_server_that_is_dropped_leaves_nothing_behind() {
    let world = Ledgered::new();
    let client = world.client();
    let made = world.call(&client, &PAY, (1, 5));
    assert_eq!(made.outcome(), reply(5));
    drop(client);
    world.sim.advance(6 * SECOND);
    let server = lock(&world.place.0).take();
    drop(server);
    world.sim.advance(2 * SECOND);
    // The ledger's other handle is the world's.
    assert_eq!(world.ledger.handles(), 1);
}

#[test]
fn a_server_that_dies_while_calls_wait_for_their_records_leaves_nothing_behind() {
    let world = Ledgered::new();
    let client = world.held();
    let calls = [(1, 5), (2, 5)].map(|deposit| world.call(&client, &PAY, deposit));
    let recorded = world.call(&client, &ADD, 1);
    assert_eq!(world.ledger.held(), 1, "the others wait for this one");
    world.crash();
    assert_eq!(world.ledger.handles(), 1);
    assert!(calls.iter().all(|call| call.outcome().is_none()) && recorded.outcome().is_none());
}
