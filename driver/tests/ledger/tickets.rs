//! Tickets that are waited for within some time.

use std::time::Duration;

use oncewire_driver::{CallFailure, NotExecuted, Outcome, Unknown};

use super::world::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_ticket_outlives_the_time_that_it_is_resolved_within() {
    let world = Ledgered::new();
    let client = world.held();
    let made = world.begin(client.call(&ADD, &1).timeout(SECOND).start());
    world.sim.advance(2 * SECOND);
    let ticket = made.ticket().expect("unknown, with a ticket");
    let waits = world.begin(async move { ticket.resolve(SECOND).await });
    world.sim.advance(SECOND - Duration::from_millis(1));
    assert!(waits.outcome().is_none(), "it waits");
    world.sim.advance(Duration::from_millis(1));
    let Some(Outcome::Unknown(Unknown::DeadlinePassed, Some(ticket))) = waits.take() else {
        panic!("the time has passed, and the ticket is there")
    };
    let waits = world.begin(async move { ticket.resolve(60 * SECOND).await });
    world.sim.advance(SECOND);
    assert!(waits.outcome().is_none(), "it waits");
    world.ledger.release();
    world.sim.run();
    assert_eq!(waits.outcome(), text("not executed: DeadlinePassed"));
}

#[test]
fn a_ticket_that_has_said_its_outcome_says_it_again_at_once() {
    let world = Ledgered::new();
    let client = world.held();
    let made = world.begin(client.call(&ADD, &1).timeout(SECOND).start());
    world.sim.advance(2 * SECOND);
    let mut ticket = made.ticket().expect("unknown, with a ticket");
    world.ledger.release();
    world.sim.run();
    let passed = Some(CallFailure::NotExecuted(NotExecuted::DeadlinePassed));
    for _ in 0..2 {
        assert_eq!(ready(ticket.wait()).map(|outcome| outcome.failure()), Some(passed));
    }
    let again = ready(async move { ticket.resolve(SECOND).await });
    assert_eq!(again.map(|outcome| outcome.failure()), Some(passed));
}
