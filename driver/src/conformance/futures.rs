//! Cases of futures: dropped at any await, left alone, outliving their client; and of the call that reads for the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::poll_once;
use oncewire_core::{Executed, NoReply, NotBegun, NotExecuted, OnDialFailure, Unknown};

use super::faulty_link::{Action, FaultyLink, Mark};
use super::service::{ADD_ONE, ECHO, PANIC, WAIT};
use super::time::outlive_deadline;
use super::world::World;
use super::{Direction, expect_reply, kind};
use crate::client::{Call, CallFailure, Client, Outcome, Retry};

/// Begins to wait for a call, which is then the one that reads for all.
async fn lead(world: &World, mut call: Call<u64>, waiting: u64) -> Call<u64> {
    assert!(poll_once(&mut call).await.is_none());
    world.waiting(waiting).await;
    assert!(poll_once(&mut call).await.is_none());
    call
}

pub async fn c49_others_get_their_replies_when_the_one_that_reads_is_dropped(world: World) {
    let host = world.host().await;
    let client = world.connected(&FaultyLink::to(host.connector.clone())).await;
    for round in 0..20 {
        let leader = lead(&world, client.call(&WAIT, &1).start(), round * 4 + 1).await;
        let others: Vec<_> = (0..3)
            .map(|n| {
                let call = client.call(&WAIT, &n).start();
                world.spawn(call)
            })
            .collect();
        world.waiting(round * 4 + 4).await;
        // The call that must read next is woken, and does not depend on the task's next check.
        world.freeze_timers();
        drop(leader);
        world.service.let_go(4);
        for (n, other) in others.into_iter().enumerate() {
            expect_reply(&world, other, n as u64).await;
        }
        world.thaw_timers();
    }
}

pub async fn c49_others_get_their_replies_when_the_one_that_reads_has_its_own(world: World) {
    let host = world.host().await;
    let client = world.connected(&FaultyLink::to(host.connector.clone())).await;
    for round in 0..20 {
        let leader = lead(&world, client.call(&WAIT, &0).start(), round * 4 + 1).await;
        let mut calls = vec![world.spawn(leader)];
        for n in 1..4 {
            calls.push(world.spawn(client.call(&WAIT, &n).start()));
            world.waiting(round * 4 + n + 1).await;
        }
        world.freeze_timers();
        // Which one a permit goes to is the channel's choice; each reply reaches its caller, whichever call read it.
        for done in 1..=4 {
            world.service.let_go(1);
            world
                .until("a reply", || calls.iter().filter(|c| c.is_finished()).count() == done)
                .await;
        }
        for (n, call) in calls.into_iter().enumerate() {
            expect_reply(&world, call, n as u64).await;
        }
        world.thaw_timers();
    }
}

pub async fn c49_the_next_reader_may_be_dropped_as_well_and_so_on(world: World) {
    let host = world.host().await;
    let client = world.connected(&FaultyLink::to(host.connector.clone())).await;
    let mut calls = Vec::new();
    for n in 0..8 {
        calls.push(lead(&world, client.call(&WAIT, &n).start(), n + 1).await);
    }
    world.freeze_timers();
    let last = calls.pop().expect("eight calls");
    let last = world.spawn(last);
    // Each one is woken to read, and dropped before it can.
    calls.into_iter().for_each(drop);
    world.service.let_go(8);
    expect_reply(&world, last, 7).await;
}

pub async fn c49_others_get_their_replies_though_the_one_that_reads_is_not_polled(world: World) {
    let host = world.host().await;
    let client = world.connected(&FaultyLink::to(host.connector.clone())).await;
    let left_alone = lead(&world, client.call(&WAIT, &1).start(), 1).await;
    let elsewhere = client.clone();
    let call = world.spawn(async move { elsewhere.call(&ADD_ONE, &2).await });
    expect_reply(&world, call, 3).await;
    world.service.let_go(1);
    expect_reply(&world, left_alone, 1).await;
    assert_eq!(client.status().reconnects, 0, "the server was not taken for dead");
}

pub async fn c49_a_task_that_leaves_the_reader_alone_gets_its_other_replies_at_once(world: World) {
    let host = world.host().await;
    let client = world.connected(&FaultyLink::to(host.connector.clone())).await;
    let left_alone = lead(&world, client.call(&WAIT, &1).start(), 1).await;
    world.freeze_timers();
    for n in 0..100 {
        expect_reply(&world, client.call(&ADD_ONE, &n), n + 1).await;
    }
    world.service.let_go(1);
    expect_reply(&world, left_alone, 1).await;
    assert_eq!(client.status().reconnects, 0, "the server was not taken for dead");
}

pub async fn c49_a_leader_that_is_not_polled_again_holds_up_no_other_call(world: World) {
    let host = world.host().await;
    let client = world.connected(&FaultyLink::to(host.connector.clone())).await;
    let left_alone = lead(&world, client.call(&WAIT, &1).start(), 1).await;
    let other = world.spawn(client.call(&WAIT, &2).start());
    world.waiting(2).await;
    world.service.let_go(2);
    expect_reply(&world, other, 2).await;
    expect_reply(&world, left_alone, 1).await;
    assert_eq!(client.status().reconnects, 0);
}

/// A call of the echo, with more than the link takes while it is held: its request is left half written.
async fn write_half(world: &World, client: &Client, link: &FaultyLink) -> Call<Bytes> {
    link.hold(Direction::Up);
    let mut large = client.call_raw(ECHO, vec![3; 1 << 20]).start();
    assert!(poll_once(&mut large).await.is_none());
    world.until("the link to be full", || link.held(Direction::Up) == 64 << 10).await;
    large
}

pub async fn c49_a_request_left_half_written_is_finished_by_others(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let large = write_half(&world, &client, &link).await;
    let other = world.spawn(client.call(&ADD_ONE, &1).start());
    link.release(Direction::Up);
    expect_reply(&world, other, 2).await;
    let outcome = world.within("the echo", large).await;
    assert!(matches!(&outcome, Outcome::Reply(reply) if reply.len() == 1 << 20));
    assert_eq!(client.status().reconnects, 0);
}

pub async fn c49_a_request_dropped_half_written_does_not_break_the_stream(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let large = write_half(&world, &client, &link).await;
    drop(large);
    link.release(Direction::Up);
    expect_reply(&world, client.call(&ADD_ONE, &1), 2).await;
    assert_eq!(client.status().reconnects, 0);
}

pub async fn a_deadline_shorter_than_every_other_timer_is_kept(world: World) {
    let host = world.host().await;
    let client = world.connected(&FaultyLink::to(host.connector.clone())).await;
    // The client is idle: its next timer is the keepalive's, seconds away.
    world.until("the client to be idle", || host.server.counters().kept_bytes == 0).await;
    let led = client.call(&WAIT, &1).timeout(Duration::from_millis(300)).start();
    world.waiting(1).await;
    let outcome = world.within("the deadline", led).await;
    assert!(matches!(outcome, Outcome::Unknown(Unknown::DeadlinePassed, Some(_))), "{outcome:?}");
    // The same for one that follows another one.
    let leader = lead(&world, client.call(&WAIT, &2).start(), 2).await;
    let follower = client.call(&WAIT, &3).timeout(Duration::from_millis(300));
    let outcome = world.within("the deadline", follower).await;
    assert!(matches!(outcome, Outcome::Unknown(Unknown::DeadlinePassed, Some(_))), "{outcome:?}");
    world.service.let_go(3);
    expect_reply(&world, leader, 2).await;
}

pub async fn a_reply_that_has_arrived_counts_though_its_deadline_has_passed_since(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    for round in 0..10 {
        let call = client.call(&WAIT, &7).timeout(Duration::from_secs(5)).start();
        let mut call = lead(&world, call, round + 1).await;
        link.hold(Direction::Down);
        world.service.let_go(1);
        // What the server has sent may be on its way for long: a pipe's child passes it on in its own time.
        let arrival = async {
            while link.held_frames(Direction::Down) == 0 {
                assert!(poll_once(&mut call).await.is_none());
                world.moment().await;
            }
        };
        world.within("the reply to arrive", arrival).await;
        // It can be read from now on, but was not before its deadline: the client's process was suspended, say.
        link.release(Direction::Down);
        world.advance(Duration::from_secs(6));
        world.moment().await;
        world.moment().await;
        expect_reply(&world, call, 7).await;
    }
}

pub async fn close_waits_for_what_is_pending_and_ends_the_session(world: World) {
    let host = world.host().await;
    let client = world.connected(&FaultyLink::to(host.connector.clone())).await;
    let call = client.call(&WAIT, &7).start();
    world.waiting(1).await;
    let closes = client.clone();
    let close = world.spawn(async move { closes.close().await });
    let closing = async {
        loop {
            match client.call(&ADD_ONE, &1).await {
                Outcome::NotExecuted(NotExecuted::NotBegun(NotBegun::Closed)) => return,
                Outcome::Reply(_) => world.moment().await,
                other => panic!("no call is begun once the client closes: {other:?}"),
            }
        }
    };
    world.within("the client to close", closing).await;
    assert_eq!(host.server.counters().sessions, 1);
    world.service.let_go(1);
    expect_reply(&world, call, 7).await;
    world.within("the goodbye", close).await;
    world.counted(&host, "the session to end", |counters| counters.sessions == 0).await;
    world.within("closing again", client.close()).await;
}

pub async fn close_is_done_as_soon_as_the_server_has_said_goodbye(world: World) {
    let host = world.host().await;
    let client = world.connected(&FaultyLink::to(host.connector.clone())).await;
    expect_reply(&world, client.call(&ADD_ONE, &1), 2).await;
    // No call waits: `close` must not wait for the task's next check either.
    world.freeze_timers();
    world.within("the goodbye", client.close()).await;
    world.thaw_timers();
    world.counted(&host, "the session to end", |counters| counters.sessions == 0).await;
}

pub async fn close_does_not_wait_for_ever(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let call = client.call(&WAIT, &7).start();
    world.waiting(1).await;
    link.refuse_dials(true);
    link.cut();
    world.until("the loss", || !client.status().connected).await;
    let waits = client.call(&ADD_ONE, &1).start();
    let mut close = Box::pin(client.close());
    assert!(poll_once(&mut close).await.is_none());
    world
        .advance_until(Duration::from_secs(1), "the end", || client.status().counters.sent == 1)
        .await;
    let step = async {
        loop {
            if poll_once(&mut close).await.is_some() {
                return;
            }
            world.advance(Duration::from_secs(1));
            world.moment().await;
        }
    };
    world.within("the close timeout", step).await;
    let outcome = world.within("the call's outcome", call).await;
    assert!(matches!(outcome, Outcome::Unknown(Unknown::Closed, None)), "{outcome:?}");
    let outcome = world.within("the call's outcome", waits).await;
    let closed = NotExecuted::Closed;
    assert!(matches!(&outcome, Outcome::NotExecuted(why) if *why == closed), "{outcome:?}");
}

pub async fn the_drop_of_the_last_handle_ends_the_session_when_its_calls_are_settled(world: World) {
    let host = world.host().await;
    let client = world.connected(&FaultyLink::to(host.connector.clone())).await;
    let clone = client.clone();
    let call = client.call(&WAIT, &7).start();
    world.waiting(1).await;
    drop(client);
    expect_reply(&world, clone.call(&ADD_ONE, &1), 2).await;
    drop(clone);
    world.service.let_go(1);
    expect_reply(&world, call, 7).await;
    world.counted(&host, "the session to end", |counters| counters.sessions == 0).await;
    world.counted(&host, "the connection to end", |counters| counters.conns == 0).await;
}

pub async fn the_drop_of_an_idle_client_ends_its_session_at_once(world: World) {
    let host = world.host().await;
    for n in 0..20 {
        let client = world.connected(&FaultyLink::to(host.connector.clone())).await;
        expect_reply(&world, client.call(&ADD_ONE, &n), n + 1).await;
        world.freeze_timers();
        drop(client);
        world.counted(&host, "the session to end", |counters| counters.sessions == 0).await;
        world.counted(&host, "the connection to end", |counters| counters.conns == 0).await;
        world.thaw_timers();
    }
}

pub async fn a_dropped_ticket_cancels_its_call_at_the_server(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let outcome = outlive_deadline(&world, &client).await;
    assert!(matches!(outcome, Outcome::Unknown(Unknown::DeadlinePassed, Some(_))), "{outcome:?}");
    assert_eq!(link.frames(Direction::Up, kind::CANCEL), 0);
    drop(outcome);
    world.until("the handler to notice", || world.service.cancelled() == 1).await;
    assert_eq!(link.frames(Direction::Up, kind::CANCEL), 1);
    world.service.let_go(1);
}

pub async fn a_client_whose_server_comes_later_waits_for_it(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    link.refuse_dials(true);
    let client = world.client(&link);
    let call = client.call(&ADD_ONE, &1).start();
    world.until("a few attempts", || link.dials() > 5).await;
    let why = client.status().last_error.expect("why there is no connection");
    assert!(why.starts_with("cannot connect to "), "{why}");
    link.refuse_dials(false);
    expect_reply(&world, call, 2).await;
}

pub async fn c162_a_retry_makes_again_only_what_was_not_executed(world: World) {
    const MINUTE: Duration = Duration::from_secs(60);
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    link.refuse_dials(true);
    let client = world.client_with(&link, |options| options.on_dial_failure = OnDialFailure::End);
    let attempts = Arc::new(AtomicU64::new(0));
    let made = || attempts.load(Ordering::SeqCst);
    let add_one = |retry: Retry| {
        let (client, attempts) = (client.clone(), attempts.clone());
        let make = move || {
            attempts.fetch_add(1, Ordering::SeqCst);
            client.call(&ADD_ONE, &1)
        };
        world.spawn(async move { retry.call(make).await })
    };
    // The server is not there, and then it is.
    let retry = Retry::within(MINUTE * 1000).pauses(MINUTE, MINUTE);
    let task = add_one(retry.clone());
    world.advance_until(MINUTE, "the third attempt", || made() >= 3).await;
    link.refuse_dials(false);
    // A handshake takes real time, which steps of a minute do not leave it.
    assert!(world.within("the connection", client.connected()).await);
    let before = made();
    let is_made = || made() > before || task.is_finished();
    world.advance_until(MINUTE, "the next attempt", is_made).await;
    assert_eq!(world.within("the reply", task).await.unwrap(), 2);
    assert_eq!(world.service.runs(), 1);
    // It was executed, and is not made again.
    let failed = retry.call(|| client.call(&PANIC, &()));
    let failed = world.within("the outcome", failed).await.unwrap_err();
    assert_eq!(failed.failure(), CallFailure::NoReply(NoReply::Aborted));
    assert_eq!(world.service.runs(), 2);
    // The budget ends, with what the last attempt ended with.
    link.refuse_dials(true);
    link.cut();
    world.until("the break", || !client.status().connected).await;
    let (before, begun) = (made(), world.runtime().now());
    let task = add_one(Retry::within(MINUTE * 5).attempts_max(u32::MAX).pauses(MINUTE, MINUTE));
    world.advance_until(MINUTE / 6, "the end of the budget", || task.is_finished()).await;
    assert_eq!(task.await.unwrap_err().executed(), Executed::No);
    let took = world.runtime().now().since(begun);
    assert!(made() > before + 1 && took < MINUTE * 6, "{} attempts, {took:?}", made() - before);
    assert_eq!(world.service.runs(), 2);
}

pub async fn attempts_to_connect_come_less_and_less_often(world: World) {
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    link.refuse_dials(true);
    let client = world.client_with(&link, |options| {
        options.backoff_min = Duration::from_secs(100);
        options.backoff_max = Duration::from_secs(400);
    });
    world.until("the first attempt", || link.dials() == 1).await;
    let hours = async {
        for _ in 0..100 {
            world.advance(Duration::from_secs(36));
            world.settle().await;
            world.moment().await;
            world.moment().await;
        }
    };
    world.within("an hour", hours).await;
    // Pauses of 200 s on average, once they have grown; a pause's end is seen up to a step late.
    let dials = link.dials();
    assert!((5..60).contains(&dials), "{dials} attempts in an hour");
    assert!(!client.status().connected);
}

/// xorshift64*, so that a failure can be repeated from its seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

/// Cuts connections inside of frames and between them, while calls are made.
async fn cut_while(world: &World, link: &FaultyLink, going_on: impl Fn() -> bool, seed: u64) {
    let mut chance = Chance(seed | 1);
    while going_on() {
        if link.connections() > 0 {
            let (mark, way) = match chance.below(3) {
                0 => (Mark::Inside(kind::REQUEST, chance.below(33) as usize), Direction::Up),
                1 => (Mark::Inside(kind::REPLY, chance.below(17) as usize), Direction::Down),
                _ => (Mark::Kind(kind::ACK), Direction::Up),
            };
            link.fault(way, mark, Action::Cut);
        }
        for _ in 0..chance.below(10) {
            world.moment().await;
        }
    }
}

pub async fn calls_dropped_at_any_await_on_connections_that_break_run_at_most_once(world: World) {
    const TASKS: u64 = 6;
    const CALLS: u64 = 120;
    let host = world.host().await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.client_with(&link, |options| options.slots = 16);
    let seed = world.seed();
    let ended = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (client, ended) = (client.clone(), ended.clone());
            let mut chance = Chance((seed ^ (task + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
            world.spawn(async move {
                let mut replied = Vec::new();
                for n in task * CALLS..(task + 1) * CALLS {
                    let fail_fast = chance.below(4) == 0;
                    let call = client.call(&ADD_ONE, &n).fail_fast(fail_fast);
                    let mut call =
                        if chance.below(2) == 0 { call.start() } else { call.into_future() };
                    let mut polls = if chance.below(3) == 0 { chance.below(4) } else { u64::MAX };
                    let outcome = std::future::poll_fn(|cx| {
                        if polls == 0 {
                            return Poll::Ready(None);
                        }
                        polls -= 1;
                        std::pin::Pin::new(&mut call).poll(cx).map(Some)
                    });
                    if let Some(Outcome::Reply(reply)) = outcome.await {
                        assert_eq!(reply, n + 1, "seed {seed}");
                        replied.push(n);
                    }
                    ended.fetch_add(1, Ordering::Relaxed);
                }
                replied
            })
        })
        .collect();
    let going_on = || tasks.iter().any(|task| !task.is_finished());
    let cuts = cut_while(&world, &link, going_on, seed);
    let what = format!("another call to end, seed {seed}");
    world.while_progress(&what, || ended.load(Ordering::Relaxed), cuts).await;
    let mut replied = Vec::new();
    for task in tasks {
        replied.extend(task.await);
    }
    world.within("the goodbye", client.close()).await;
    let mut ran = world.service.arguments();
    ran.sort_unstable();
    let times = ran.len();
    ran.dedup();
    assert_eq!(ran.len(), times, "something ran twice, seed {seed}");
    let missing = replied.iter().find(|n| ran.binary_search(n).is_err());
    assert_eq!(missing, None, "a reply without an execution, seed {seed}");
    let nothing = |c: &oncewire_core::ServerCounters| c.running == 0;
    world.counted(&host, "nothing to be left", nothing).await;
    assert_eq!(client.call(&ADD_ONE, &1).await.executed(), Executed::No);
}
