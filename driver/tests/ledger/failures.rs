//! Ledgers that cannot write: C58.

use std::time::Duration;

use super::disk::Mode;
use super::world::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn c58_a_ledger_that_cannot_write_stops_the_server_from_answering() {
    let mut world = Ledgered::new();
    let client = world.held();
    let started = world.call(&client, &ADD, 1);
    world.ledger.release();
    world.sim.run();
    assert_eq!(world.ran(), [1]);
    // Its completion is under way; two others wait for the next batch.
    let waits = world.call(&client, &ADD, 2);
    let pays = world.call(&client, &PAY, (1, 5));
    world.ledger.mode(Mode::Fail);
    world.ledger.release();
    world.sim.run();
    assert_eq!(started.outcome(), reply(1), "that one is stable");
    assert_eq!(waits.outcome(), text("not executed: LedgerFailed"));
    // What was written of it, if anything was, only the next run of the server learns.
    assert_eq!(pays.outcome(), None);
    assert_eq!(world.call(&client, &ADD, 3).outcome(), text("not executed: LedgerFailed"));
    assert_eq!(world.call(&client, &COUNT, ()).outcome(), text("not executed: LedgerFailed"));
    let error = world.server().ledger_error().expect("the error is loud");
    assert_eq!(error.to_string(), "no space left on the disk");
    assert_eq!(world.ran(), [1]);
    world.restart();
    assert_eq!(pays.outcome(), reply(5), "and executed once, after all");
    assert_eq!(world.ledger.disk().accounts[&1], 5);
    assert_eq!(world.server().ledger_error(), None);
}

#[test]
fn c58_a_completion_that_cannot_be_recorded_is_not_answered() {
    let mut world = Ledgered::new();
    let client = world.held();
    let made = world.call(&client, &ADD, 1);
    world.ledger.mode(Mode::Fail);
    world.ledger.release();
    world.sim.advance(20 * SECOND);
    assert_eq!((made.outcome(), world.ran()), (None, vec![1]));
    world.restart();
    assert_eq!(made.outcome(), text("unknown: Interrupted, false"));
}

#[test]
fn c425_who_comes_to_a_server_whose_ledger_has_failed_is_answered_by_the_next_one() {
    let mut world = Ledgered::new();
    // The records of two sessions are to be written when the disk turns out to be full, and one client comes later.
    world.ledger.mode(Mode::Hold);
    let clients = [world.client(), world.client()];
    let mut made: Vec<_> = clients.iter().map(|client| world.call(client, &PAY, (1, 5))).collect();
    world.ledger.fail();
    world.sim.run();
    let newcomer = world.client();
    made.push(world.call(&newcomer, &PAY, (1, 5)));
    world.sim.advance(SECOND);
    assert!(made.iter().all(|made| made.outcome().is_none()), "none has begun");
    world.restart();
    world.sim.advance(60 * SECOND);
    let mut replies: Vec<_> = made.iter().map(|made| made.outcome()).collect();
    replies.sort();
    assert_eq!(replies, [reply(10), reply(15), reply(5)]);
    assert_eq!(world.ledger.disk().accounts[&1], 15);
}

#[test]
fn c190_a_ledger_that_leaves_a_transaction_out_has_failed() {
    let mut world = Ledgered::new();
    let client = world.client();
    assert_eq!(world.call(&client, &PAY, (1, 1)).outcome(), reply(1));
    world.ledger.mode(Mode::LeaveOut);
    let made = world.call(&client, &PAY, (1, 5));
    assert_eq!(made.outcome(), None, "it has no outcome that would be true");
    let error = world.server().ledger_error().expect("the error is loud").to_string();
    assert!(error.contains("without running"), "{error}");
    assert_eq!(world.call(&client, &PAY, (1, 5)).outcome(), text("not executed: LedgerFailed"));
    world.ledger.mode(Mode::Commit);
    world.restart();
    assert_eq!((made.outcome(), world.ledger.disk().accounts[&1]), (reply(6), 6));
}

#[test]
fn c58_serving_ends_with_the_ledgers_error() {
    let world = Ledgered::new();
    let (_sender, receiver) = smol::channel::unbounded();
    let server = world.server();
    let mut serving = Box::pin(server.serve(NoConnections(receiver)));
    assert!(ready(serving.as_mut()).is_none());
    world.ledger.mode(Mode::Fail);
    let _client = world.client();
    world.sim.run();
    let error = ready(serving.as_mut()).expect("serving ends").expect_err("with an error");
    assert_eq!(error.to_string(), "no space left on the disk");
}

/// Accepts no connection.
struct NoConnections(smol::channel::Receiver<()>);

impl oncewire_driver::Accept for NoConnections {
    fn accept(
        &self,
    ) -> oncewire_driver::BoxFuture<
        '_,
        std::io::Result<(oncewire_driver::BoxStream, oncewire_driver::Subject)>,
    > {
        Box::pin(async {
            self.0.recv().await.map_err(|_| std::io::ErrorKind::BrokenPipe)?;
            std::future::pending().await
        })
    }

    fn address(&self) -> String {
        "nowhere".to_owned()
    }
}

#[test]
fn c58_a_ledger_that_lets_go_of_a_batch_has_failed() {
    let world = Ledgered::new();
    let client = world.held();
    let made = world.call(&client, &ADD, 1);
    world.ledger.crash();
    world.sim.run();
    assert_eq!(made.outcome(), text("not executed: LedgerFailed"));
    assert!(world.server().ledger_error().is_some());
}
