//! The interleavings of threads that share a client, chosen by shuttle's schedulers: who leads, who follows, who is woken.
//!
//! ```sh
//! RUSTFLAGS="--cfg shuttle" cargo test --release --target-dir target/shuttle -p oncewire-driver --test interleavings
//! ```
//!
//! Time does not pass in it, so a wake-up that is lost is a call that never ends, and shuttle reports a deadlock.
//! `INTERLEAVINGS` sets how many are tried of each case; `SHUTTLE_RANDOM_SEED` where chance begins. The same numbers
//! give the same interleavings, so a failure repeats.
#![cfg(shuttle)]

mod world;

use std::future::Future;

use oncewire_driver::Outcome;
use oncewire_driver::protocol::{NotBegun, NotExecuted, Unknown};
use shuttle::future::block_on;
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread::{self, JoinHandle};
use shuttle::{Config, Runner};

use world::{ECHO, HELD, LONG, World, poll_some};

/// Interleavings of each case, with each of the two schedulers.
const INTERLEAVINGS: usize = 3_000;
/// How many preemptions the second scheduler needs at most to find what it looks for.
const DEPTH: usize = 3;
/// Bytes of a thread's stack: the driver in a debug build needs more than the model's default.
const STACK_SIZE: usize = 256 << 10;

fn explore(case: impl Fn() + Send + Sync + Clone + 'static) {
    let iterations = std::env::var("INTERLEAVINGS");
    let iterations = iterations.map_or(INTERLEAVINGS, |n| n.parse().expect("a number"));
    let mut config = Config::new();
    config.stack_size = STACK_SIZE;
    let random = RandomScheduler::new_from_seed(1, iterations);
    Runner::new(random, config.clone()).run(case.clone());
    let pct = PctScheduler::new_from_seed(1, DEPTH, iterations);
    Runner::new(pct, config).run(case);
}

/// A thread with a world of its own hands.
fn beside<F>(world: &World, f: impl FnOnce(World) -> F + Send + 'static) -> JoinHandle<()>
where
    F: Future<Output = ()>,
{
    let world = world.clone();
    thread::spawn(move || block_on(f(world)))
}

fn all_end(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().expect("its assertions hold"));
}

/// The session ends cleanly, which needs everything that was taken in to be settled.
fn close(world: &World) {
    block_on(world.client.close());
    world.tasks.end();
}

#[test]
fn every_thread_gets_its_replies_under_any_leader() {
    explore(|| {
        let world = World::new();
        let threads = (0..3).map(|at| {
            beside(&world, move |world| async move {
                world.echo(2 * at).await;
                world.echo(2 * at + 1).await;
            })
        });
        all_end(threads.collect::<Vec<_>>());
        close(&world);
    });
}

#[test]
fn a_leader_that_is_dropped_hands_over() {
    explore(|| {
        let world = World::new();
        let dropped = beside(&world, |world| async move {
            let mut call = world.client.call(&HELD, &0).start();
            let polls = thread_rng().gen_range(0..3);
            let outcome = poll_some(&mut call, polls).await;
            assert!(outcome.is_none(), "the gate is closed: {outcome:?}");
        });
        let others =
            (1..3).map(|n| beside(&world, move |world| async move { world.echo(n).await }));
        all_end(others.chain([dropped]).collect::<Vec<_>>());
        world.open_gate();
        close(&world);
        assert!(world.runs(0) <= 1);
    });
}

#[test]
fn a_dropped_follower_takes_no_other_call_with_it() {
    explore(|| {
        let world = World::new();
        let fickle = (0..2).map(|at| {
            beside(&world, move |world| async move {
                for n in [4 * at, 4 * at + 1] {
                    let mut call = world.client.call(&ECHO, &n).start();
                    let polls = thread_rng().gen_range(0..3);
                    if let Some(outcome) = poll_some(&mut call, polls).await {
                        world.judge(n, &outcome);
                    }
                }
            })
        });
        let steady = beside(&world, |world| async move {
            world.echo(10).await;
            world.echo(11).await;
        });
        all_end(fickle.chain([steady]).collect::<Vec<_>>());
        close(&world);
    });
}

#[test]
fn a_leader_whose_thread_stops_polling_holds_up_no_other_call() {
    explore(|| {
        let world = World::new();
        let leaves = beside(&world, |world| async move {
            let mut left_alone = world.client.call(&HELD, &0).start();
            assert!(poll_some(&mut left_alone, 1).await.is_none());
            world.echo(1).await;
            world.open_gate();
            world.judge(0, &left_alone.await);
        });
        let other = beside(&world, |world| async move { world.echo(2).await });
        all_end([leaves, other]);
        assert_eq!(world.runs(0), 1);
        close(&world);
    });
}

#[test]
fn requests_that_the_leader_is_to_write_are_written() {
    explore(|| {
        let world = World::new();
        // More than may be written by their callers themselves.
        let many = beside(&world, |world| async move {
            let held: Vec<_> = (0..5).map(|n| world.client.call(&HELD, &n).start()).collect();
            world.echo(5).await;
            world.open_gate();
            for (n, call) in held.into_iter().enumerate() {
                world.judge(n as u64, &call.await);
            }
        });
        let others =
            (6..8).map(|n| beside(&world, move |world| async move { world.echo(n).await }));
        all_end(others.chain([many]).collect::<Vec<_>>());
        close(&world);
    });
}

#[test]
fn a_connection_that_breaks_under_its_leader_is_resumed_for_all() {
    explore(|| {
        let world = World::new();
        let callers = (0..2).map(|at| {
            beside(&world, move |world| async move {
                world.echo(2 * at).await;
                world.echo(2 * at + 1).await;
            })
        });
        let cuts = beside(&world, |world| async move {
            world.cut();
            thread::yield_now();
            world.cut();
        });
        all_end(callers.chain([cuts]).collect::<Vec<_>>());
        close(&world);
    });
}

#[test]
fn handlers_that_wait_in_tasks_used_before_are_woken() {
    explore(|| {
        let world = World::new();
        let first = world.client.call(&HELD, &0).start();
        block_on(async {
            world.has_run(0).await;
            world.open_gate();
            world.judge(0, &first.await);
        });
        world.close_gate();
        let waits = beside(&world, |world| async move {
            world.judge(1, &world.client.call(&HELD, &1).await);
        });
        // It begins now, and may wait already.
        let opens = beside(&world, |world| async move {
            world.has_run(1).await;
            world.open_gate();
        });
        all_end([waits, opens]);
        assert_eq!(world.runs(1), 1);
        close(&world);
    });
}

#[test]
fn a_call_that_fails_fast_leaves_a_ticket_that_tells_the_rest() {
    explore(|| {
        let world = World::new();
        let caller = beside(&world, |world| async move {
            match world.client.call(&HELD, &0).fail_fast(true).await {
                Outcome::Unknown(Unknown::Disconnected, Some(mut ticket)) => {
                    world.open_gate();
                    world.judge(0, &ticket.wait().await);
                }
                outcome => world.judge(0, &outcome),
            }
            world.open_gate();
        });
        let other = beside(&world, |world| async move { world.echo(1).await });
        let cuts = beside(&world, |world| async move {
            world.cut();
            world.echo(2).await;
            world.cut();
            world.open_gate();
        });
        all_end([caller, other, cuts]);
        close(&world);
    });
}

#[test]
fn close_waits_for_those_who_wait_and_ends() {
    explore(|| {
        let world = World::new();
        let held = beside(&world, |world| async move {
            let outcome = world.client.call(&HELD, &0).await;
            let closed = NotExecuted::NotBegun(NotBegun::Closed);
            let possible = match &outcome {
                Outcome::Reply(_) => true,
                Outcome::NotExecuted(why) => *why == closed,
                _ => false,
            };
            assert!(possible, "{outcome:?}");
            world.judge(0, &outcome);
        });
        let closes = beside(&world, |world| async move {
            world.client.close().await;
        });
        let opens = beside(&world, |world| async move { world.open_gate() });
        all_end([held, closes, opens]);
        close(&world);
    });
}

#[test]
fn calls_are_sent_though_their_futures_are_not_polled() {
    explore(|| {
        let world = World::new();
        let leads = beside(&world, |world| async move {
            let mut call = world.client.call(&HELD, &0).start();
            let polls = thread_rng().gen_range(0..3);
            assert!(poll_some(&mut call, polls).await.is_none());
        });
        let sends = beside(&world, |world| async move {
            world.client.send(&ECHO, &1).expect("it is open");
            let unpolled = world.client.call(&ECHO, &2).start();
            world.has_run(1).await;
            world.has_run(2).await;
            drop(unpolled);
        });
        all_end([leads, sends]);
        world.open_gate();
        close(&world);
    });
}

#[test]
fn what_one_cannot_write_another_one_does() {
    explore(|| {
        let world = World::with_capacity(48);
        let long = (0..2).map(|at| {
            beside(&world, move |world| async move {
                let bytes = vec![at as u8; 150];
                let mut call = world.client.call(&LONG, &bytes).start();
                let polls = thread_rng().gen_range(0..6);
                let outcome = match poll_some(&mut call, polls).await {
                    None if polls % 2 == 0 => return,
                    None => call.await,
                    Some(outcome) => outcome,
                };
                assert!(matches!(outcome, Outcome::Reply(reply) if reply == bytes));
            })
        });
        let short = beside(&world, |world| async move { world.echo(0).await });
        all_end(long.chain([short]).collect::<Vec<_>>());
        close(&world);
    });
}

#[test]
fn the_last_handle_may_go_while_its_calls_wait() {
    explore(|| {
        let world = World::new();
        let call = world.client.call(&HELD, &0).start();
        let gate = world.clone();
        let waits = thread::spawn(move || {
            let outcome = block_on(call);
            gate.judge(0, &outcome);
            assert!(matches!(outcome, Outcome::Reply(_)), "{outcome:?}");
        });
        let opens = beside(&world, |world| async move { world.open_gate() });
        let tasks = world.tasks.clone();
        drop(world);
        all_end([opens, waits]);
        tasks.end();
    });
}
