//! What an observer sees of a server with a ledger: C255.

use super::disk::Mode;
use super::sim::lock;
use super::world::*;

/// What was seen of calls, and of the ledger, since the last time.
fn seen(world: &Ledgered) -> Vec<String> {
    let is_of_interest = |line: &String| line.contains("test/") || line.starts_with("ledger");
    lock(&world.seen).drain(..).filter(is_of_interest).collect()
}

#[test]
fn c255_calls_that_are_recorded_rolled_back_or_left_unanswered_are_seen_as_they_end() {
    let world = Ledgered::new();
    let client = world.client();
    world.call(&client, &ADD, 1);
    assert_eq!(seen(&world), ["test/add starts", "test/add ends: OK"]);
    world.call(&client, &ADD, -1);
    let lines = seen(&world);
    assert_eq!((&*lines[0], &*lines[2]), ("test/add starts", "test/add ends: ABORTED"));
    assert!(lines[1].ends_with("panicked"), "{lines:?}");
    world.call(&client, &PAY, (1, -5));
    let rolled_back = "test/pay rolled back: nothing is left, false";
    assert_eq!(seen(&world), ["test/pay starts", rolled_back, "test/pay ends: ROLLED_BACK"]);
    world.call(&client, &PAY, (1, 13));
    assert!(seen(&world)[1].ends_with(", true"), "a panic");
    world.call(&client, &PAY, (1, 5));
    assert_eq!(seen(&world), ["test/pay starts", "test/pay ends: OK"]);
    world.call(&client, &COUNT, ());
    assert_eq!(seen(&world), ["test/count starts", "test/count ends: OK"]);
    world.call(&client, &LONG, 1000);
    assert_eq!(seen(&world)[1], "test/long ends: REPLY_TOO_LARGE");

    world.ledger.mode(Mode::Fail);
    world.call(&client, &PAY, (1, 5));
    let failed = "ledger failed: no space left on the disk";
    let unanswered = "test/pay ends: UNKNOWN_INTERRUPTED";
    assert_eq!(seen(&world), ["test/pay starts", failed, unanswered]);
    world.call(&client, &ADD, 2);
    assert_eq!(seen(&world), ["test/add refused: LedgerFailed"]);
}
