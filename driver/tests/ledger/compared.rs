//! Calls that are restored from a journal are compared with the server by what the run that made them meant (S33).

use super::disk::Mode;
use super::durable::balance;
use super::process::{Notes, Process, Then, settle_down};
use super::world::*;
use oncewire_driver::Method;

const MEANT: Method<(u32, i64), i64> = PAY.parameters(&["account", "amount"]);
/// The same bytes, with the names of the arguments in the other order.
const SWAPPED: Method<(u32, i64), i64> = PAY.parameters(&["amount", "account"]);

const MISMATCH: &str = "`test/pay` is (account: u32, amount: i64) -> i64 at the client, and (amount: u32, account: i64) -> i64 at the \
                        server";

/// A call whose program is killed when it is in the journal, and `sent` if so, and its server with it. The next server means `next`.
fn killed(sent: bool, next: Method<(u32, i64), i64>) -> (Ledgered, Process) {
    let mut world = Ledgered::meaning(MEANT);
    let process = Process::start(&world, Default::default(), Notes::default(), Then::Confirms);
    // The session is in the journal, and the client has compared the method.
    process.call("first", &MEANT, (2, 1), Then::Confirms);
    world.sim.run();
    process.journal.mode(Mode::Hold);
    process.call("1", &MEANT, (1, 1), Then::Confirms);
    world.sim.run();
    match sent {
        true => process.journal.release(),
        false => process.journal.write(),
    }
    world.sim.run();
    assert_eq!((process.learned("1").len(), balance(&world, 1)), (0, i64::from(sent)));
    let (pages, notes) = process.kill(&world);
    world.pay = Some(next);
    world.restart();
    let process = Process::start(&world, pages, notes, Then::Confirms);
    settle_down(&world);
    (world, process)
}

#[test]
fn c340_a_call_from_a_journal_that_the_server_means_otherwise_is_not_executed() {
    let (world, process) = killed(false, SWAPPED);
    assert_eq!(process.learned("1"), ["not executed: SignatureMismatch"]);
    assert_eq!((process.journal.calls(), balance(&world, 1)), (0, 0));
    let found = process.client.status().mismatches;
    assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), [MISMATCH]);
    // The program itself means what the server does by now.
    process.call("2", &SWAPPED, (3, 7), Then::Confirms);
    world.sim.run();
    assert_eq!((process.learned("2"), balance(&world, 3)), (vec!["reply 7".to_owned()], 7));
}

#[test]
fn c341_a_call_from_a_journal_that_the_server_means_likewise_is_executed_once() {
    for next in [MEANT, PAY] {
        let (world, process) = killed(false, next);
        assert_eq!(process.learned("1"), ["reply 1"]);
        assert_eq!((process.journal.calls(), balance(&world, 1)), (0, 1));
        assert_eq!(process.client.status().mismatches, []);
    }
}

#[test]
fn c342_what_was_executed_before_the_server_changed_its_mind_is_answered() {
    let (world, process) = killed(true, SWAPPED);
    assert_eq!(process.learned("1"), ["reply 1"], "its record says so");
    assert_eq!((process.journal.calls(), balance(&world, 1)), (0, 1));
}
