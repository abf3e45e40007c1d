//! What is known of calls after a crash: C52 to C57, C60.

use std::time::Duration;

use oncewire_driver::{MetadataKey, Method, Server};

use super::disk::Mode;
use super::sim::lock;
use super::world::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn c52_without_a_ledger_a_restart_ends_calls_in_doubt_as_unknown() {
    const ECHO: Method<u8, u8> = Method::new("test/echo");
    let world = Ledgered::default();
    let server = |group: &std::sync::Arc<super::sim::Group>| {
        let builder = Server::builder("test").method(&ECHO, |_, n: u8| async move {
            if n == 0 { std::future::pending().await } else { n }
        });
        builder.runtime(world.sim.runtime(group)).build().unwrap()
    };
    *lock(&world.place.0) = Some(server(&world.group));
    let client = world.client();
    let in_doubt = world.call(&client, &ECHO, 0);
    *lock(&world.place.0) = None;
    world.group.kill();
    let group = std::sync::Arc::default();
    *lock(&world.place.0) = Some(server(&group));
    world.sim.advance(6 * SECOND);
    assert_eq!(in_doubt.outcome(), text("unknown: SessionEnded, false"));
    assert_eq!(world.call(&client, &ECHO, 5).outcome(), reply(5));
}

#[test]
fn c53_a_session_is_recorded_before_its_client_knows_it() {
    let mut world = Ledgered::new();
    world.ledger.mode(Mode::Hold);
    let client = world.client();
    let made = world.call(&client, &ADD, 1);
    world.sim.advance(SECOND);
    assert!(!client.status().connected, "the Welcome waits for the record");
    assert_eq!((world.ledger.held(), world.ledger.disk().sessions.len()), (1, 0));
    world.ledger.release();
    world.sim.run();
    assert!(client.status().connected);
    assert_eq!(world.ledger.held(), 1, "the call's started record");
    // Nothing of the call is on the disk: it runs after the resume.
    world.restart();
    assert_eq!(made.outcome(), reply(1));
    assert_eq!(world.ran(), [1]);
    assert_eq!(world.server().counters().resumes, 1);
}

#[test]
fn c54_a_call_whose_completion_was_not_recorded_is_interrupted_and_never_runs_again() {
    let mut world = Ledgered::new();
    let client = world.held();
    let made = world.call(&client, &ADD, 1);
    assert_eq!(world.ran(), [] as [i32; 0], "not before its record is stable");
    world.ledger.release();
    world.sim.run();
    assert_eq!(world.ran(), [1]);
    assert_eq!(made.outcome(), None, "not answered before its record is stable");
    world.restart();
    assert_eq!(made.outcome(), text("unknown: Interrupted, false"));
    assert_eq!(world.ran(), [1]);
    assert_eq!(world.call(&client, &ADD, 2).outcome(), reply(2));
}

#[test]
fn c54_also_if_it_crashed_between_the_record_and_the_start() {
    let mut world = Ledgered::new();
    let client = world.held();
    let made = world.call(&client, &ADD, 1);
    world.ledger.write();
    world.restart();
    assert_eq!(made.outcome(), text("unknown: Interrupted, false"));
    assert_eq!(world.ran(), [] as [i32; 0]);
}

#[test]
fn c55_a_call_whose_completion_was_recorded_keeps_its_reply_over_the_crash() {
    let mut world = Ledgered::new();
    let client = world.held();
    let made = world.call(&client, &ADD, 1);
    world.ledger.release();
    world.sim.run();
    world.ledger.write();
    assert_eq!(made.outcome(), None);
    world.restart();
    assert_eq!(made.outcome(), reply(1));
    assert_eq!(world.ran(), [1]);
    assert_eq!(world.server().counters().asks, 1);
}

#[test]
fn c55_aborted_and_too_large_calls_too() {
    for (len, end) in [(200, "no reply: ReplyTooLarge"), (50, "reply")] {
        let mut world = Ledgered::new();
        let client = world.held();
        let long = world.call(&client, &LONG, len);
        let panics = world.call(&client, &ADD, -1);
        for _ in 0..2 {
            world.ledger.release();
            world.sim.run();
        }
        world.ledger.write();
        world.restart();
        assert!(long.outcome().unwrap().starts_with(end), "{:?}", long.outcome());
        world.release_all();
        let panics = panics.outcome();
        assert!(
            panics == text("no reply: Aborted") || panics == text("unknown: Interrupted, false")
        );
        assert_eq!(world.ran(), [-1]);
    }
}

/// Two payments in one batch, the second of which panics or is refused by its own handler.
fn pays(world: &Ledgered, second: i64) -> [Made<i64>; 2] {
    let client = world.held();
    // Something else is being committed, so that the payments are ready together.
    let _other = world.call(&client, &ADD, 0);
    let pays = [(7, 100), (7, second)].map(|pay| world.call(&client, &PAY, pay));
    world.ledger.release();
    world.sim.run();
    pays
}

#[test]
fn c56_of_calls_in_one_durable_commit_one_that_panics_or_fails_is_rolled_back_alone() {
    for (second, panics) in [(13, 1), (-500, 0)] {
        let world = Ledgered::new();
        let [good, bad] = pays(&world, second);
        assert_eq!((good.outcome(), bad.outcome()), (None, None));
        world.release_all();
        assert_eq!(good.outcome(), reply(100));
        assert_eq!(bad.outcome(), text("not executed: Aborted"));
        assert_eq!(world.ledger.disk().accounts[&7], 100);
        let faults = world.server().handler_faults();
        assert_eq!((faults.rollbacks, faults.panics), (1, panics));
        let why = world.server().last_rollback().unwrap();
        assert_eq!(why, if panics == 1 { "the handler panicked" } else { "nothing is left" });
    }
}

#[test]
fn c56_a_transactional_call_is_executed_exactly_once_wherever_the_crash_comes() {
    // Before the batch is given out, before it is written, after it, and after it was concluded.
    for point in 0..4 {
        let mut world = Ledgered::new();
        let client = world.held();
        if point == 0 {
            let _other = world.call(&client, &ADD, 0);
        }
        let made = world.call(&client, &PAY, (1, 5));
        match point {
            2 => world.ledger.write(),
            3 => world.ledger.release(),
            _ => {}
        }
        world.restart();
        assert_eq!(made.outcome(), reply(5), "crash point {point}");
        assert_eq!(world.ledger.disk().accounts[&1], 5, "crash point {point}");
    }
}

#[test]
fn c56_a_neighbour_that_panics_and_a_crash() {
    for written in [false, true] {
        let mut world = Ledgered::new();
        let [good, bad] = pays(&world, 13);
        if written {
            world.ledger.write();
        }
        world.restart();
        assert_eq!(good.outcome(), reply(100));
        assert_eq!(bad.outcome(), text("not executed: Aborted"));
        assert_eq!(world.ledger.disk().accounts[&7], 100);
    }
}

#[test]
fn c57_a_second_crash_during_recovery_gives_the_same_result() {
    let mut world = Ledgered::new();
    let client = world.held();
    let made = [1, 2].map(|n| world.call(&client, &ADD, n));
    let paid = world.call(&client, &PAY, (1, 5));
    world.ledger.release();
    world.sim.run();
    world.ledger.write();
    for _ in 0..3 {
        world.crash();
        world.start(world.ledger.disk());
    }
    world.sim.advance(6 * SECOND);
    // The first one ran and its completion was not written; of the second one the started record was.
    let interrupted = text("unknown: Interrupted, false");
    assert_eq!([made[0].outcome(), made[1].outcome()], [interrupted.clone(), interrupted]);
    assert_eq!(world.ran(), [1]);
    assert_eq!(paid.outcome(), reply(5));
    assert_eq!(world.ledger.disk().accounts[&1], 5);
}

#[test]
fn c60_an_old_copy_of_the_ledger_is_noticed_by_its_commit_number() {
    let mut world = Ledgered::new();
    let client = world.client();
    assert_eq!(world.call(&client, &ADD, 1).outcome(), reply(1));
    let copy = world.ledger.disk();
    for n in 2..5 {
        assert_eq!(world.call(&client, &ADD, n).outcome(), reply(n));
    }
    // The client hears how far the ledger has come when it resumes.
    world.restart();
    world.ledger.mode(Mode::Hold);
    let in_doubt = world.call(&client, &ADD, 5);
    world.crash();
    world.start(copy);
    world.sim.advance(6 * SECOND);
    assert_eq!(in_doubt.outcome(), text("unknown: SessionEnded, false"));
    assert_eq!(world.ran(), [1, 2, 3, 4]);
}

#[test]
fn c217_recorded_and_transactional_calls_keep_their_metadata_through_a_crash() {
    const TENANT: MetadataKey<String> = MetadataKey::new("tenant");
    let mut world = Ledgered::new();
    let client = world.held();
    let recorded = world.begin(client.call(&ADD, &1).metadata(&TENANT, "acme").start());
    let paid = world.begin(client.call(&PAY, &(7, 5)).metadata(&TENANT, "acme").start());
    // Neither is stable: both are sent again, and run.
    world.restart();
    world.release_all();
    assert_eq!((recorded.outcome(), paid.outcome()), (reply(1), reply(5)));
    world.ledger.mode(Mode::Hold);
    let paid = world.begin(client.call(&PAY, &(7, 5)).metadata(&TENANT, "acme").start());
    world.ledger.release();
    // It is stable, and its reply has not left: what the client asks for is answered.
    world.restart();
    assert_eq!(paid.outcome(), reply(10), "not twice");
}
