//! Durable clients and servers with a ledger, both killed at any step.

use std::time::Duration;

use super::disk::{Disk, Mode};
use super::durable::balance;
use super::process::{Notes, Process, Then, settle_down};
use super::world::*;

const SECOND: Duration = Duration::from_secs(1);

/// A small generator: every run of a seed is the same.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Payments, while program and server are killed at any step of journal and ledger. Says what is wrong in the end.
fn both_are_killed(seed: u64, lies: usize) -> Result<(), String> {
    both_end(seed, lies, false)
}

/// The same; servers that are not killed but drained, if it is `rolling`.
fn both_end(seed: u64, lies: usize, rolling: bool) -> Result<(), String> {
    let mut random = Random(seed);
    let mut drained: Option<Made<()>> = None;
    // So few slots that numbers are skipped and calls wait.
    let slots = (seed % 2 == 1).then_some(2 + (seed / 2 % 3) as u32);
    let mut world = Ledgered::default();
    world.slots = slots;
    world.start(Disk::default());
    let mut process = Process::start(&world, Default::default(), Notes::default(), Then::Confirms);
    process.journal.lie(lies);
    let mut made = 0;
    for _ in 0..40 {
        match random.below(12) {
            0..3 => {
                made += 1;
                let then = if random.below(3) == 0 { Then::Forgets } else { Then::Confirms };
                process.pay(&world, made, then);
            }
            3 => process.journal.mode(Mode::Hold),
            4 => world.ledger.mode(Mode::Hold),
            5 | 6 if process.journal.held() > 0 => process.journal.release(),
            7 | 8 if world.ledger.held() > 0 => world.ledger.release(),
            9 => {
                if process.journal.held() > 0 && random.below(2) == 0 {
                    process.journal.write();
                }
                let (pages, notes) = process.kill(&world);
                process = Process::start(&world, pages, notes, Then::Confirms);
                process.journal.lie(lies);
                settle_down(&world);
            }
            10 if rolling && drained.is_none() => drained = Some(world.drain(30 * SECOND)),
            10 => {
                if world.ledger.held() > 0 && random.below(2) == 0 {
                    world.ledger.write();
                }
                drained = None;
                world.restart();
            }
            _ => world.sim.advance(Duration::from_millis(random.below(2_000))),
        }
        world.sim.run();
        if drained.as_ref().is_some_and(|drained| drained.outcome().is_some()) {
            drained = None;
            world.restart();
        }
    }
    let (pages, notes) = process.kill(&world);
    world.restart();
    let process = Process::start(&world, pages, notes, Then::Confirms);
    settle_down(&world);
    if process.journal.calls() > 0 {
        return Err(format!("{} calls are left", process.journal.calls()));
    }
    payments_are_true(&world, &process, made)
}

/// Each payment was executed as often as its outcomes say.
fn payments_are_true(world: &Ledgered, process: &Process, made: u32) -> Result<(), String> {
    for account in 1..=made {
        let learned = process.learned(&account.to_string());
        let paid = balance(world, account);
        // What was not in the journal was never sent, and has no outcome.
        let truth = match learned.first().map_or("", |learned| &**learned) {
            "" => paid == 0,
            "reply 1" => paid == 1,
            first => first.starts_with("not executed") && paid == 0,
        };
        if !truth || learned.iter().any(|other| *other != learned[0]) {
            return Err(format!(
                "payment {account} was executed {paid} times, and learned {learned:?}"
            ));
        }
    }
    Ok(())
}

#[test]
fn payments_are_executed_exactly_once_whichever_side_is_killed_at_whichever_step() {
    for seed in 0..300 {
        if let Err(why) = both_are_killed(seed, 0) {
            panic!("{why} (seed {seed})");
        }
    }
}

/// Rolling restarts beside kills. Before a client waited with its `Goodbye` until nothing was unsettled, 13 of these runs
/// ended with `Unknown` of a payment that was never made.
#[test]
fn c78_payments_are_known_to_be_executed_or_not_while_servers_are_drained_one_after_another() {
    for seed in 0..300 {
        if let Err(why) = both_end(seed, 0, true) {
            panic!("{why} (seed {seed})");
        }
    }
}

#[test]
fn a_journal_that_says_written_too_early_is_found_out() {
    let found = (0..60).filter(|seed| both_are_killed(*seed, 2).is_err()).count();
    assert!(found > 5, "in {found} of 60 runs");
}
