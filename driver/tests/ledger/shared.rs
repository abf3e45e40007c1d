//! Two servers with one ledger at once (S34): a client moves between them with calls under way, batches of the one that it left come
//! late, claims are held, the store is away, servers die. C386 to C389, C394, C395, C422.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire_driver::ledger::Rollback;
use oncewire_driver::observe::{Event, Source};
use oncewire_driver::{Client, ClientOptions, Method, Server};

use super::disk::Accounts;
use super::shared_store::{Shared, Store};
use super::sim::{Group, Places, Sim, lock};
use super::world::{Ledgered, Made, reply, text};

/// Transactional: adds 1 to an account, and says what is on it.
const PAY: Method<u32, i64> = Method::new("test/pay");
/// Recorded: notes that it ran, and ends when the test says so.
const RUN: Method<u32, u32> = Method::new("test/run");

/// Two servers and a client.
struct Two {
    sim: Arc<Sim>,
    places: Places,
    store: Arc<Mutex<Store>>,
    ledgers: [Shared; 2],
    groups: [Arc<Group>; 2],
    client: Client,
    calls: Ledgered,
    /// How often each recorded call ran.
    runs: Arc<Mutex<BTreeMap<u32, u32>>>,
    /// Recorded calls hang while this is set, until they are not wanted.
    hangs: Arc<Mutex<bool>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Two {
    fn new() -> Two {
        Two::with_lanes(1)
    }

    fn with_lanes(lanes: usize) -> Two {
        let calls = Ledgered::default();
        let (sim, places, store) = (calls.sim.clone(), Places::default(), Store::new());
        lock(&store).lanes = lanes;
        let runtime = sim.runtime(&Arc::default());
        let options = ClientOptions::default().with_backoff_max(Duration::from_millis(200));
        let client = Client::with_runtime(places.clone(), options, runtime);
        let ledgers = [Shared::new(&store), Shared::new(&store)];
        let two = Two {
            sim,
            places,
            store,
            ledgers,
            groups: Default::default(),
            client,
            calls,
            runs: Arc::default(),
            hangs: Arc::default(),
            seen: Arc::default(),
        };
        (0..2).for_each(|at| two.serve(at));
        two
    }

    fn serve(&self, at: usize) {
        let (runs, hangs, seen) = (self.runs.clone(), self.hangs.clone(), self.seen.clone());
        let server = Server::builder("test")
            .ledger(self.ledgers[at].clone())
            .transactional(&PAY, |accounts: &mut Accounts, _, account| {
                let balance = accounts.entry(account).or_default();
                *balance += 1;
                if account.is_multiple_of(7) {
                    return Err(Rollback::new("it is the seventh"));
                }
                Ok(*balance)
            })
            .method(&RUN, move |context, op| {
                *lock(&runs).entry(op).or_default() += 1;
                let hangs = *lock(&hangs);
                async move {
                    if hangs {
                        context.cancelled().await;
                    }
                    op
                }
            })
            .observe(move |_: &Source, event: &Event| {
                lock(&seen).push(format!("s{at}: {event}"));
            })
            .runtime(self.sim.runtime(&self.groups[at]))
            .build()
            .expect("the records can be read");
        *lock(&self.places.servers[at]) = Some(server);
        self.sim.run();
    }

    /// The server's process dies, and another one takes its place.
    fn restart(&mut self, at: usize) {
        let server = lock(&self.places.servers[at]).take();
        self.groups[at].kill();
        self.ledgers[at].die();
        drop(server);
        self.sim.run();
        self.groups[at] = Arc::default();
        self.ledgers[at] = Shared::new(&self.store);
        self.serve(at);
    }

    /// One more client, with connections of its own, which dial where those of the first one do.
    fn another_client(&self) -> (Client, Places) {
        let places = self.places.for_another_client();
        let options = ClientOptions::default().with_backoff_max(Duration::from_millis(200));
        let runtime = self.sim.runtime(&Arc::default());
        (Client::with_runtime(places.clone(), options, runtime), places)
    }

    fn server(&self, at: usize) -> Server {
        lock(&self.places.servers[at]).clone().expect("it runs")
    }

    /// The client loses its connection, and dials the other server, or this one again.
    fn move_to(&self, at: usize) {
        self.places.target.store(at as u64, Ordering::SeqCst);
        self.places.cut();
        self.sim.advance(Duration::from_secs(1));
    }

    fn pay(&self, account: u32) -> Made<i64> {
        self.calls.call(&self.client, &PAY, account)
    }

    fn run(&self, op: u32) -> Made<u32> {
        self.calls.call(&self.client, &RUN, op)
    }

    fn ran(&self, op: u32) -> u32 {
        lock(&self.runs).get(&op).copied().unwrap_or_default()
    }

    fn balance(&self, account: u32) -> i64 {
        lock(&self.store).accounts.get(&account).copied().unwrap_or_default()
    }

    fn saw(&self, what: &str) -> bool {
        lock(&self.seen).iter().any(|line| line.contains(what))
    }
}

#[test]
fn c386_a_transactional_call_whose_client_moves_runs_once_though_the_loser_comes_late() {
    let two = Two::new();
    assert_eq!(two.pay(1).outcome(), reply(1));
    // The batch of the first server waits, and its client is at the second one before it is written.
    two.ledgers[0].hold();
    let made = two.pay(1);
    two.move_to(1);
    assert_eq!((made.outcome(), two.balance(1)), (reply(2), 2));
    two.ledgers[0].release();
    two.sim.run();
    assert_eq!((two.balance(1), lock(&two.store).taken), (2, 1), "the loser's batch is fenced");
    assert_eq!(two.server(0).counters().sessions, 0, "it has yielded");
    assert!(two.saw("another server"), "{:?}", lock(&two.seen));
    // The client continues, and comes back.
    two.move_to(0);
    assert_eq!(two.pay(1).outcome(), reply(3));
}

#[test]
fn c386_a_call_that_the_loser_has_written_is_answered_by_the_winner() {
    let two = Two::new();
    two.hold_replies();
    let made = two.pay(1);
    two.places.target.store(1, Ordering::SeqCst);
    two.ledgers[0].release();
    two.places.cut();
    two.sim.advance(Duration::from_secs(1));
    assert_eq!((made.outcome(), two.balance(1)), (reply(1), 1));
}

impl Two {
    /// A session is open, and batches of the first server wait.
    fn hold_replies(&self) {
        assert_eq!(self.pay(2).outcome(), reply(1));
        self.ledgers[0].hold();
    }
}

#[test]
fn c387_a_recorded_call_that_runs_at_the_loser_is_interrupted_at_the_winner_and_runs_once() {
    let two = Two::new();
    *lock(&two.hangs) = true;
    let made = two.run(5);
    assert_eq!((made.outcome(), two.ran(5)), (None, 1));
    two.move_to(1);
    assert_eq!((made.outcome(), two.ran(5)), (text("unknown: Interrupted, false"), 1));
    *lock(&two.hangs) = false;
    assert_eq!(two.run(6).outcome(), reply(6));
    // It comes back: what the first server remembers is not what counts.
    two.move_to(0);
    assert_eq!((two.run(7).outcome(), two.ran(5), two.ran(6)), (reply(7), 1, 1));
    two.sim.advance(Duration::from_secs(2));
    let counters = two.server(0).counters();
    assert_eq!(
        (counters.sessions, counters.running),
        (1, 0),
        "its handler has seen it, and has ended"
    );
}

#[test]
fn c387_a_recorded_call_that_had_not_started_at_the_loser_runs_at_the_winner() {
    let two = Two::new();
    two.hold_replies();
    let made = two.run(5);
    two.move_to(1);
    assert_eq!((made.outcome(), two.ran(5)), (reply(5), 1));
    two.ledgers[0].release();
    two.sim.advance(Duration::from_secs(2));
    assert_eq!(two.ran(5), 1, "its start was not recorded, so it does not start");
}

#[test]
fn c388_a_session_whose_records_are_out_of_reach_is_kept_and_another_claim_succeeds() {
    let two = Two::new();
    assert_eq!(two.pay(1).outcome(), reply(1));
    lock(&two.store).is_away = true;
    let made = two.pay(1);
    two.move_to(1);
    assert_eq!(made.outcome(), reply(2), "it was answered before");
    let made = two.pay(1);
    two.sim.advance(Duration::from_secs(3));
    assert_eq!((made.outcome(), two.balance(1)), (None, 2));
    lock(&two.store).is_away = false;
    two.sim.advance(Duration::from_secs(3));
    assert_eq!((made.outcome(), two.balance(1)), (reply(3), 3));
    assert_eq!(two.server(1).counters().resumes_unknown, 0);
}

#[test]
fn c394_a_claim_that_finds_the_ledger_lost_fails_it_as_a_batch_does() {
    let two = Two::new();
    assert_eq!(two.pay(1).outcome(), reply(1));
    lock(&two.store).is_lost = true;
    let made = two.pay(2);
    two.move_to(1);
    assert_has_failed(&two, 1);
    assert_eq!(made.outcome(), None, "it is in doubt still");
}

#[test]
fn c394_a_claim_that_finds_the_ledger_lost_fails_it_after_the_batch_that_is_in_flight() {
    for batch_succeeds in [false, true] {
        let two = Two::new();
        let (other, places) = two.another_client();
        assert_eq!(two.calls.call(&other, &PAY, 2).outcome(), reply(1));
        assert_eq!(two.pay(1).outcome(), reply(1));
        two.ledgers[0].hold();
        let made = two.pay(1);
        places.cut();
        let of_other = two.calls.call(&other, &PAY, 2);
        two.sim.advance(Duration::from_secs(1));
        assert_eq!(two.ledgers[0].claims_held(), 1);
        lock(&two.store).is_lost = true;
        two.ledgers[0].release_claim();
        assert!(two.server(0).ledger_error().is_none(), "a batch is in flight");
        assert_eq!((made.outcome(), two.balance(1)), (None, 1));
        lock(&two.store).is_lost = !batch_succeeds;
        two.ledgers[0].release();
        two.sim.run();
        assert_has_failed(&two, 0);
        let paid = batch_succeeds.then(|| reply(2)).flatten();
        assert_eq!((made.outcome(), two.balance(1)), (paid, 1 + i64::from(batch_succeeds)));
        assert_eq!((of_other.outcome(), two.balance(2)), (None, 1));
    }
}

fn assert_has_failed(two: &Two, at: usize) {
    let why = two.server(at).ledger_error().expect("the ledger has failed");
    assert_eq!(why.to_string(), "the store is lost");
    let line = format!("s{at}: ledger failed");
    let lines = lock(&two.seen).iter().filter(|said| said.starts_with(&line)).count();
    assert_eq!(lines, 1, "{:?}", lock(&two.seen));
}

#[test]
fn c395_a_ledger_has_a_few_claims_at_a_time_and_none_for_clients_that_have_gone() {
    let two = Two::new();
    let mut others: Vec<_> = (0..40).map(|_| two.another_client()).collect();
    for (at, (client, _)) in others.iter().enumerate() {
        assert_eq!(two.calls.call(client, &PAY, 7 * at as u32 + 1).outcome(), reply(1));
    }
    two.ledgers[1].hold();
    two.places.target.store(1, Ordering::SeqCst);
    others.iter().for_each(|(_, places)| places.cut());
    two.sim.advance(Duration::from_secs(1));
    assert_eq!(two.ledgers[1].claims_held(), 8);
    // Half of them leave.
    others.truncate(20);
    two.sim.run();
    two.ledgers[1].release();
    two.sim.advance(Duration::from_secs(1));
    let moved = lock(&two.store).moved;
    assert!((20..=28).contains(&moved), "{moved}");
    for (at, (client, _)) in others.iter().enumerate() {
        assert_eq!(two.calls.call(client, &PAY, 7 * at as u32 + 1).outcome(), reply(2));
    }
}

#[test]
fn c388_a_lease_that_is_over_where_a_session_was_ends_it_nowhere_else() {
    let two = Two::new();
    assert_eq!(two.pay(1).outcome(), reply(1));
    // The client has acknowledged: nothing more is written of the session here.
    two.sim.advance(Duration::from_secs(5));
    two.move_to(1);
    assert_eq!(two.pay(1).outcome(), reply(2));
    assert_eq!(two.server(0).counters().sessions, 1, "it does not know yet");
    for _ in 0..40 {
        two.sim.advance(Duration::from_secs(10));
    }
    assert_eq!(two.server(0).counters().sessions, 0);
    assert_eq!(lock(&two.store).sizes().0, 1, "its records stay");
    two.move_to(0);
    assert_eq!(two.pay(1).outcome(), reply(3));
}

#[test]
fn c422_what_a_claim_found_is_not_answered_to_a_connection_that_came_after_it() {
    let two = Two::new();
    assert_eq!(two.pay(1).outcome(), reply(1));
    // The second server claims the session; before it learns so, the client is at the first one again.
    two.ledgers[1].hold_answers();
    two.move_to(1);
    two.move_to(0);
    // A call is given up there, and runs.
    two.ledgers[0].hold();
    let second = Duration::from_secs(1);
    let made = two.calls.begin(two.client.call(&PAY, &1).timeout(second).start());
    two.sim.advance(2 * second);
    let ticket = made.ticket().expect("unknown, with a ticket");
    two.places.target.store(1, Ordering::SeqCst);
    two.places.cut();
    two.sim.advance(second);
    two.ledgers[0].release();
    assert_eq!(two.balance(1), 2);
    // What the second server learns now is older than that.
    two.ledgers[1].release_answers();
    let learned = two.calls.begin(async move { ticket.resolve(9 * second).await });
    two.sim.advance(2 * second);
    assert_eq!((learned.outcome(), two.balance(1)), (reply(2), 2));
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

/// One world of a seed: what broke in it, if anything.
fn world(seed: u64, unfenced: bool, lanes: usize) -> Result<(u64, u64), String> {
    let mut two = Two::with_lanes(lanes);
    lock(&two.store).unfenced = unfenced;
    let mut clients = vec![(two.client.clone(), two.places.clone())];
    // One session is in one lane.
    clients.extend((1..lanes).map(|_| two.another_client()));
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (mut paid, mut ran, mut op) = (Vec::new(), Vec::new(), 0);
    for _ in 0..60 {
        let at = chance.below(2) as usize;
        let (client, places) = match lanes {
            1 => &clients[0],
            lanes => &clients[chance.below(lanes as u64) as usize],
        };
        match chance.below(12) {
            0..=2 => {
                op += 1;
                paid.push((op, two.calls.call(client, &PAY, op)));
            }
            3 | 4 => {
                op += 1;
                *lock(&two.hangs) = chance.below(2) == 0;
                ran.push((op, two.calls.call(client, &RUN, op)));
            }
            5 | 6 => {
                two.places.target.store(at as u64, Ordering::SeqCst);
                places.cut();
            }
            7 => two.ledgers[at].hold(),
            8 if lanes > 1 && chance.below(3) > 0 => {
                two.ledgers[at].release_batch(op as usize);
            }
            8 => two.ledgers[at].release(),
            9 => two.ledgers[at].release_claim(),
            10 => two.restart(at),
            _ => lock(&two.store).is_away = chance.below(2) == 0,
        }
        two.sim.advance(Duration::from_millis(chance.below(500)));
    }
    lock(&two.store).is_away = false;
    for at in 0..2 {
        two.ledgers[at].release();
    }
    for _ in 0..20 {
        two.sim.advance(Duration::from_secs(2));
    }
    check_payments(&two, &paid)?;
    check_runs(&two, &ran)?;
    let store = lock(&two.store);
    Ok((store.moved, store.taken))
}

/// Each payment was made as often as its outcome says.
fn check_payments(two: &Two, paid: &[(u32, Made<i64>)]) -> Result<(), String> {
    for (op, made) in paid {
        let (outcome, balance) = (made.outcome().unwrap_or_default(), two.balance(*op));
        let is_true = match outcome.as_str() {
            "reply 1" => balance == 1,
            "not executed: Aborted" => balance == 0 && op % 7 == 0,
            "unknown: DeadlinePassed, true" => balance <= 1,
            other => other.starts_with("not executed") && balance == 0,
        };
        if !is_true {
            return Err(format!("op {op} ended as {outcome:?}, and paid {balance}"));
        }
    }
    Ok(())
}

/// The same of handlers that run apart from the ledger.
fn check_runs(two: &Two, ran: &[(u32, Made<u32>)]) -> Result<(), String> {
    for (op, made) in ran {
        let (outcome, runs) = (made.outcome().unwrap_or_default(), two.ran(*op));
        let is_true = match outcome.as_str() {
            "unknown: Interrupted, false" | "unknown: DeadlinePassed, true" => runs <= 1,
            other if other.starts_with("not executed") => runs == 0,
            other => other.starts_with("reply") && runs == 1,
        };
        if !is_true {
            return Err(format!("op {op} ended as {outcome:?}, and ran {runs} times"));
        }
    }
    Ok(())
}

#[test]
fn c389_in_no_world_of_two_servers_does_anything_run_twice_or_a_session_wedge() {
    let mut all = (0, 0);
    for seed in 0..150 {
        let (moved, taken) =
            world(seed, false, 1).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        all = (all.0 + moved, all.1 + taken);
    }
    assert!(all.0 > 150 && all.1 > 50, "sessions move, and batches come late: {all:?}");
}

#[test]
fn c389_a_store_that_takes_late_batches_is_found_out() {
    let found = (0..150).find_map(|seed| world(seed, true, 1).err());
    assert!(found.is_some());
}

#[test]
fn c403_nor_does_it_where_each_server_has_lanes_that_end_in_any_order() {
    let mut all = (0, 0);
    for seed in 0..150 {
        let (moved, taken) =
            world(seed, false, 4).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        all = (all.0 + moved, all.1 + taken);
    }
    assert!(all.0 > 300 && all.1 > 50, "sessions move, and batches come late: {all:?}");
}
