//! Ledgers with several batches under way at once: held and released in any order, with crashes in between. C400 to C402.

use std::time::Duration;

use super::disk::{Disk, Mode};
use super::world::*;

const SECOND: Duration = Duration::from_secs(1);

fn world(lanes: usize, calls: usize) -> Ledgered {
    let mut world = Ledgered::default();
    world.start(Disk { lanes: Some((lanes, calls)), ..Disk::default() });
    world
}

/// Clients whose sessions are open, on a server whose commits are held from now on.
fn held(world: &Ledgered, clients: usize) -> Vec<oncewire_driver::Client> {
    let clients: Vec<_> = (0..clients).map(|_| world.client()).collect();
    for client in &clients {
        assert_eq!(world.call(client, &COUNT, ()).outcome(), reply(0));
    }
    world.ledger.mode(Mode::Hold);
    clients
}

#[test]
fn c400_a_ledger_has_a_batch_in_each_lane_and_a_session_in_one_of_them() {
    let world = world(3, 1);
    let clients = held(&world, 4);
    let made: Vec<_> =
        (0..8).map(|at| world.call(&clients[at % 4], &PAY, (at as u32 % 4, 1))).collect();
    assert_eq!(world.ledger.held(), 3, "as many as there are lanes");
    // The second one ends first. A batch of the session that waited longest is next.
    world.ledger.turn(1);
    world.ledger.release();
    world.sim.run();
    assert_eq!((made[1].outcome(), made[5].outcome()), (reply(1), None));
    assert_eq!((made[0].outcome(), world.ledger.held()), (None, 3));
    world.release_all();
    let outcomes: Vec<_> = made.iter().map(Made::outcome).collect();
    let expected: Vec<_> = [1, 1, 1, 1, 2, 2, 2, 2].map(reply).into();
    assert_eq!(outcomes, expected);
}

#[test]
fn c400_a_batch_has_as_many_calls_as_the_ledger_takes_and_recorded_ones_beside() {
    let world = world(2, 2);
    let clients = held(&world, 3);
    let paid: Vec<_> = (0..5).map(|_| world.call(&clients[0], &PAY, (0, 1))).collect();
    let ran = [world.call(&clients[1], &ADD, 1), world.call(&clients[2], &ADD, 2)];
    let before = world.ledger.batches().len();
    world.release_all();
    assert!(paid.iter().all(|made| made.outcome().is_some()));
    assert!(ran.iter().all(|made| made.outcome().is_some()));
    let batches = &world.ledger.batches()[before..];
    assert_eq!(batches.iter().sum::<usize>() + 2, 5 + 2 * 2, "{batches:?}");
    assert_eq!(world.ledger.disk().accounts[&0], 5);
}

#[test]
fn c401_a_lane_that_fails_ends_the_ledger_when_the_others_have_come_back() {
    let mut world = world(3, 1);
    let clients = held(&world, 4);
    let made: Vec<_> =
        (0..4u32).map(|at| world.call(&clients[at as usize], &PAY, (at, 1))).collect();
    world.ledger.fail();
    world.sim.run();
    assert!(world.server().ledger_error().is_none(), "two batches are under way");
    assert_eq!((world.ledger.held(), made[3].outcome()), (2, None), "and no other one comes");
    world.ledger.release();
    world.sim.run();
    assert_eq!(made[1].outcome(), reply(1), "it is durable");
    assert!(world.server().ledger_error().is_none());
    world.ledger.write();
    world.ledger.crash();
    world.sim.run();
    let error = world.server().ledger_error().expect("the ledger has failed");
    assert_eq!(error.to_string(), "no space left on the disk", "the first error");
    assert_eq!(made[3].outcome(), text("not executed: LedgerFailed"));
    assert_eq!((made[0].outcome(), made[2].outcome()), (None, None), "the next run knows");
    world.ledger.mode(Mode::Commit);
    world.restart();
    assert_eq!((made[0].outcome(), made[2].outcome()), (reply(1), reply(1)));
    assert_eq!(world.ledger.disk().accounts.values().copied().collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn c401_calls_that_are_refused_leave_no_lane_or_session_behind() {
    let world = world(2, 1);
    let clients = held(&world, 3);
    let paid: Vec<_> =
        (0..2u32).map(|at| world.call(&clients[at as usize], &PAY, (at, 1))).collect();
    // They wait, and their deadlines pass.
    let late: Vec<_> = (0..3)
        .map(|at: u32| {
            let client = clients[at as usize].clone();
            world.begin(async move { client.call(&PAY, &(at, 1)).timeout(SECOND).await })
        })
        .collect();
    world.sim.advance(2 * SECOND);
    world.ledger.mode(Mode::Commit);
    world.release_all();
    assert!(paid.iter().all(|made| made.outcome() == reply(1)));
    assert!(late.iter().all(|made| made.outcome().is_some_and(|o| !o.starts_with("reply"))));
    for (at, client) in clients.iter().enumerate() {
        let expected = reply(if at < 2 { 2 } else { 1 });
        assert_eq!(world.call(client, &PAY, (at as u32, 1)).outcome(), expected);
    }
}

/// A small generator.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// One world of a seed. Returns the most batches that were under way at once.
fn walk(seed: u64) -> usize {
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let lanes = 2 + chance.below(4) as usize;
    let calls = [1, 1, 3, usize::MAX][chance.below(4) as usize];
    let mut world = world(lanes, calls);
    let clients: Vec<_> = (0..5).map(|_| world.client()).collect();
    let (mut paid, mut ran, mut most) = (Vec::new(), Vec::new(), 0);
    for step in 0..80 {
        let at = chance.below(5);
        match chance.below(11) {
            0..=4 => paid.push((at, world.call(&clients[at as usize], &PAY, (at as u32, 1)))),
            5 => ran.push((step, world.call(&clients[at as usize], &ADD, step))),
            6 => world.ledger.mode(Mode::Hold),
            7 | 8 if world.ledger.held() > 0 => {
                world.ledger.turn(at as usize);
                world.ledger.release();
            }
            9 => {
                world.ledger.mode(Mode::Commit);
                while world.ledger.held() > 0 {
                    world.ledger.turn(chance.below(4) as usize);
                    world.ledger.release();
                    world.sim.run();
                }
            }
            10 if chance.below(3) == 0 => {
                // Some batches are on the disk, and their server never knew.
                (0..chance.below(3).min(world.ledger.held() as u64)).for_each(|_| {
                    world.ledger.turn(1);
                    world.ledger.write();
                });
                world.crash();
                world.start(world.ledger.disk());
            }
            _ => {}
        }
        most = most.max(world.ledger.held());
        world.sim.advance(Duration::from_millis(chance.below(300)));
    }
    world.ledger.mode(Mode::Commit);
    world.release_all();
    (0..20).for_each(|_| world.sim.advance(2 * SECOND));
    check(&world, seed, &paid, &ran);
    most
}

fn check(world: &Ledgered, seed: u64, paid: &[(u64, Made<i64>)], ran: &[(i32, Made<u32>)]) {
    let disk = world.ledger.disk();
    for client in 0..5 {
        let of = paid.iter().filter(|(of, _)| *of == client);
        let outcomes: Vec<String> =
            of.map(|(_, made)| made.outcome().expect("no session wedges")).collect();
        let replies: Vec<i64> =
            outcomes.iter().filter_map(|text| text.strip_prefix("reply ")?.parse().ok()).collect();
        assert!(replies.is_sorted_by(|a, b| a < b), "seed {seed}: in their order: {replies:?}");
        let doubtful = outcomes.iter().filter(|text| text.starts_with("unknown")).count();
        let balance = disk.accounts.get(&(client as u32)).copied().unwrap_or(0) as usize;
        let known = replies.len()..=replies.len() + doubtful;
        assert!(known.contains(&balance), "seed {seed}: {balance} of {outcomes:?}");
    }
    for (step, made) in ran {
        let runs = world.ran().iter().filter(|run| *run == step).count();
        let outcome = made.outcome().expect("no session wedges");
        let is_true = match outcome.as_str() {
            text if text.starts_with("reply") => runs == 1,
            text if text.starts_with("not executed") => runs == 0,
            _ => runs <= 1,
        };
        assert!(is_true, "seed {seed}: {outcome}, and ran {runs} times");
    }
}

#[test]
fn c402_whatever_order_lanes_end_in_nothing_runs_twice_and_each_session_keeps_its_order() {
    let most = (0..200).map(walk).max();
    assert!(most.is_some_and(|most| most >= 4), "{most:?}");
}
