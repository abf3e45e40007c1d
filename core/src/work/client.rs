//! A client with 65,536 calls, all of them unsettled.

extern crate std;

use core::time::Duration;

use super::{BOUND, FULL, Worst, encoded, orders};
use crate::storage::counted::{Counting, looks_of};
use crate::wire::{Frame, Grants, ReplyHeader, Welcome};
use crate::*;

const NOW: Instant = Instant::from_millis(1);
/// The first number that falls on slot 0.
const FIRST: u64 = FULL;

struct Full {
    client: Client<Counting>,
    now: Instant,
}

impl Full {
    fn new(config: ClientConfig) -> Full {
        let mut full = Full { client: Client::new(config), now: NOW };
        full.connect();
        full
    }

    fn connect(&mut self) {
        self.client.handle_connected(self.now);
        self.flush();
        let welcome = Welcome {
            version: wire::VERSION,
            features: 0,
            server: ServerId::from_bytes([1; 16]),
            service: ServiceName::new("full").unwrap(),
            session: SessionId::from_bytes([2; 16]),
            seen: 0,
            commit: 0,
            grants: Grants {
                slots: FULL as u32,
                request_len_max: 64,
                reply_len_max: 64,
                lease_ms: 1_000_000,
                keepalive_ms: 1_000_000,
            },
            instance: Instance::UNNAMED,
            schemas: Schemas::EMPTY,
        };
        self.client.handle_data(self.now, &encoded(&Frame::Welcome(welcome))).unwrap();
        self.flush();
    }

    fn call(&mut self, timeout: Duration) {
        let mut call = Call::new(MethodId::from_number(1), b"");
        call.timeout = timeout;
        self.client.call(self.now, call).unwrap();
        self.flush();
    }

    fn answer(&mut self, xid: u64) {
        let header = ReplyHeader { status: Status::Done, xid: Xid::new(xid).unwrap() };
        let bytes = encoded(&Frame::Reply(header, b""));
        assert!(self.client.handle_data(self.now, &bytes).unwrap().item.is_some());
        self.flush();
    }

    fn flush(&mut self) {
        let mut out = [0; 1024];
        while self.client.poll_transmit(self.now, &mut out).is_some() {}
        while self.client.poll_event().is_some() {}
    }
}

fn config() -> ClientConfig {
    // What is settled is not acknowledged before the test ends.
    let (ack_delay, ack_bytes) = (Duration::MAX, usize::MAX);
    ClientConfig { slots: FULL as u32, ack_delay, ack_bytes, ..ClientConfig::default() }
}

#[test]
fn c141_calls_and_answers_cost_the_same_in_every_order() {
    for (order, xids) in orders() {
        let mut full = Full::new(config());
        let mut worst = Worst::default();
        for _ in 0..FULL {
            worst.note(looks_of(|| full.call(Duration::from_secs(30))).0);
        }
        // Each answer frees a slot for the next call, wherever it is.
        for xid in xids {
            worst.note(looks_of(|| full.answer(FIRST + xid - 1)).0);
            worst.note(looks_of(|| full.call(Duration::from_secs(30))).0);
        }
        assert!(worst.step <= BOUND, "{order}: {}", worst.step);
    }
}

#[test]
fn c141_calls_that_are_due_together_are_ended_in_steps() {
    /// Looks of one step: blocks of 64 calls, of blocks, and of these, for each of 1,024 calls, and a few to end it.
    const STEP: u64 = 1024 * (3 * 64 + 8);

    let mut full = Full::new(config());
    for number in 0..FULL {
        full.call(Duration::from_millis(1_000 + number % 7));
    }
    full.now = Instant::from_millis(2_000);
    let (mut steps, mut total) = (0, 0);
    while full.client.poll_timeout().is_some_and(|at| at <= full.now) {
        let (looks, ()) = looks_of(|| full.client.handle_timeout(full.now));
        while full.client.poll_event().is_some() {}
        assert!(looks <= STEP, "{looks}");
        (steps, total) = (steps + 1, total + looks);
    }
    assert!((64..80).contains(&steps), "{steps} steps");
    assert!(total <= FULL * BOUND, "{total}");
    // None is due any more, though all are unsettled still.
    assert_eq!(full.client.unsettled() as u64, FULL);
}

#[test]
fn c141_timers_of_calls_that_were_answered_in_time_are_passed_in_steps() {
    let mut full = Full::new(config());
    for round in 0..2 {
        for _ in 0..FULL {
            full.call(Duration::from_secs(30));
        }
        for xid in 1..=FULL {
            full.answer(FIRST + round * FULL + xid - 1);
        }
    }
    full.call(Duration::from_secs(3_000));
    full.now = full.now + Duration::from_secs(60);
    let mut worst = Worst::default();
    let mut steps = 0;
    while full.client.poll_deadline().is_some_and(|at| at <= full.now) {
        worst.note(looks_of(|| full.client.handle_deadlines(full.now)).0);
        steps += 1;
    }
    assert!(worst.step <= 1024 * 3 * 64 && steps <= 3, "{} looks, {steps} steps", worst.step);
    let (looks, ()) = looks_of(|| full.client.handle_deadlines(full.now));
    assert_eq!(looks, 0, "nothing is due");
}

#[test]
fn c141_failed_attempts_to_connect_cost_nothing_for_each_call() {
    let mut full = Full::new(config());
    for _ in 0..FULL {
        full.call(Duration::from_secs(30));
    }
    full.client.handle_disconnected(full.now);
    let mut worst = Worst::default();
    for _ in 0..10 {
        worst.note(looks_of(|| full.client.handle_disconnected(full.now)).0);
        worst.note(looks_of(|| full.flush()).0);
    }
    assert!(worst.step <= BOUND, "{}", worst.step);
    assert_eq!(full.client.pending() as u64, FULL);
}
