//! A ledger that is kept in memory twice, here and at a backup that takes over: no disk, and nothing runs again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire_driver::ledger::{
    Batch, Identity, Ledger, LedgerError, RecordChange, Records, Restore, Rollback, Transactional,
};
use oncewire_driver::protocol::ServerId;
use oncewire_driver::{Client, ClientOptions, Method, Server};

use super::disk::Accounts;
use super::sim::{Group, Place, Sim, lock};
use super::world::{Ledgered, Made, reply, text};

/// Transactional: adds to an account and says what is on it; less than nothing is rolled back.
const PAY: Method<(u32, i64), i64> = Method::new("test/pay");
/// Recorded: never ends.
const HANG: Method<(), ()> = Method::new("test/hang");

/// One copy: the records, and what calls have written.
#[derive(Clone, Debug, PartialEq)]
struct Replica {
    records: Records,
    accounts: Accounts,
}

/// What one batch comes to.
type Shipment = (u64, Vec<RecordChange>, Accounts);

impl Replica {
    fn new() -> Replica {
        let records = Records::new(ServerId::from_bytes([7; 16]));
        Replica { records, accounts: Accounts::new() }
    }

    /// At the primary: runs what must run, and says what came of it.
    fn run(&mut self, batch: &mut Batch<Accounts>) -> Shipment {
        let accounts = &mut self.accounts;
        let changes = batch.changes(|call: Transactional<'_, Accounts>| {
            let before = accounts.clone();
            let record = call.run(accounts);
            if record.is_none() {
                *accounts = before;
            }
            record
        });
        let number = self.records.identity().commit + 1;
        self.records.apply(number, &changes).unwrap();
        (number, changes, self.accounts.clone())
    }

    /// At the backup.
    fn apply(&mut self, shipment: &[u8]) -> Result<(), LedgerError> {
        let (number, changes, accounts): Shipment = postcard::from_bytes(shipment).unwrap();
        self.records.apply(number, &changes)?;
        self.accounts = accounts;
        Ok(())
    }
}

/// Where the primary dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dies {
    Never,
    /// The next batch is executed, and does not reach the backup.
    BeforeShipping,
    /// It reaches the backup, and nothing is answered.
    AfterShipping,
}

struct Shipping {
    ours: Arc<Mutex<Replica>>,
    backup: Arc<Mutex<Replica>>,
    dies: Arc<Mutex<Dies>>,
    /// Batches of a primary that is dead.
    lost: Mutex<Vec<Batch<Accounts>>>,
}

impl Ledger for Shipping {
    type Transaction = Accounts;

    fn identity(&self) -> Identity {
        lock(&self.ours).records.identity()
    }

    fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError> {
        lock(&self.ours).records.recover(restore)
    }

    fn commit(&self, mut batch: Batch<Accounts>) {
        let shipment = lock(&self.ours).run(&mut batch);
        let dies = *lock(&self.dies);
        if dies != Dies::BeforeShipping {
            let bytes = postcard::to_allocvec(&shipment).unwrap();
            lock(&self.backup).apply(&bytes).unwrap();
            assert_eq!(*lock(&self.ours), *lock(&self.backup));
        }
        match dies {
            Dies::Never => batch.finish(Ok(shipment.0)),
            _ => lock(&self.lost).push(batch),
        }
    }
}

/// A primary, its backup, and a client that finds the one that serves.
struct Pair {
    sim: Arc<Sim>,
    place: Place,
    group: Arc<Group>,
    ours: Arc<Mutex<Replica>>,
    backup: Arc<Mutex<Replica>>,
    dies: Arc<Mutex<Dies>>,
    client: Client,
    calls: Ledgered,
}

impl Pair {
    fn new() -> Pair {
        let calls = Ledgered::default();
        let (sim, place) = (calls.sim.clone(), calls.place.clone());
        let client = calls.client_with(ClientOptions::default());
        let replica = || Arc::new(Mutex::new(Replica::new()));
        let dies = Arc::new(Mutex::new(Dies::Never));
        let (ours, backup, group) = (replica(), replica(), Arc::default());
        let pair = Pair { sim, place, group, ours, backup, dies, client, calls };
        pair.serve();
        pair
    }

    fn serve(&self) {
        let ledger = Shipping {
            ours: self.ours.clone(),
            backup: self.backup.clone(),
            dies: self.dies.clone(),
            lost: Mutex::default(),
        };
        let server = Server::builder("test")
            .ledger(ledger)
            .transactional(&PAY, |accounts: &mut Accounts, _, (account, amount)| {
                let balance = accounts.entry(account).or_default();
                *balance += amount;
                if *balance < 0 { Err(Rollback::new("nothing is left")) } else { Ok(*balance) }
            })
            .method(&HANG, |_, ()| std::future::pending())
            .runtime(self.sim.runtime(&self.group))
            .build()
            .expect("what was shipped can be recovered");
        *lock(&self.place.0) = Some(server);
        self.sim.run();
    }

    /// The primary dies, its backup serves, and has a backup that begins as a whole copy.
    fn fail_over(&mut self) {
        let server = lock(&self.place.0).take();
        self.group.kill();
        drop(server);
        *lock(&self.dies) = Dies::Never;
        self.group = Arc::default();
        self.ours = self.backup.clone();
        let copy = postcard::to_allocvec(&lock(&self.ours).records).unwrap();
        let records = postcard::from_bytes(&copy).unwrap();
        let accounts = lock(&self.ours).accounts.clone();
        self.backup = Arc::new(Mutex::new(Replica { records, accounts }));
        self.serve();
        self.sim.advance(Duration::from_secs(6));
    }

    fn pay(&self, amount: i64) -> Made<i64> {
        self.calls.call(&self.client, &PAY, (1, amount))
    }

    fn balance(&self) -> i64 {
        lock(&self.ours).accounts.get(&1).copied().unwrap_or_default()
    }
}

#[test]
fn a_call_that_the_backup_has_is_answered_by_it_and_does_not_run_again() {
    let mut pair = Pair::new();
    assert_eq!(pair.pay(5).outcome(), reply(5));
    *lock(&pair.dies) = Dies::AfterShipping;
    let made = pair.pay(1);
    assert_eq!((made.outcome(), pair.balance()), (None, 6));
    pair.fail_over();
    assert_eq!((made.outcome(), pair.balance()), (reply(6), 6));
    let server = lock(&pair.place.0).clone().unwrap();
    assert_eq!((server.counters().resumes, server.counters().sessions), (1, 1));
}

#[test]
fn a_call_that_the_backup_does_not_have_runs_there_once() {
    let mut pair = Pair::new();
    assert_eq!(pair.pay(5).outcome(), reply(5));
    *lock(&pair.dies) = Dies::BeforeShipping;
    let made = pair.pay(1);
    pair.fail_over();
    assert_eq!((made.outcome(), pair.balance()), (reply(6), 6));
}

#[test]
fn a_call_that_was_rolled_back_leaves_nothing_at_either() {
    let mut pair = Pair::new();
    assert_eq!(pair.pay(5).outcome(), reply(5));
    assert_eq!(pair.pay(-6).outcome(), text("not executed: Aborted"));
    pair.fail_over();
    assert_eq!((pair.pay(1).outcome(), pair.balance()), (reply(6), 6));
}

#[test]
fn a_recorded_call_that_ran_at_the_primary_is_interrupted_at_the_backup() {
    let mut pair = Pair::new();
    let made = pair.calls.call(&pair.client, &HANG, ());
    pair.fail_over();
    assert_eq!(made.outcome(), text("unknown: Interrupted, false"));
}

#[test]
fn what_the_client_has_seen_is_forgotten_in_all_copies_and_so_is_its_session() {
    let mut pair = Pair::new();
    (0..3).for_each(|_| drop(pair.pay(1).outcome()));
    assert!(lock(&pair.backup).records.calls() > 0);
    pair.sim.advance(Duration::from_secs(3));
    let counts = |pair: &Pair| {
        let backup = lock(&pair.backup);
        (backup.records.sessions(), backup.records.calls())
    };
    assert_eq!(counts(&pair), (1, 0));
    pair.fail_over();
    assert_eq!(pair.pay(1).outcome(), reply(4));
    let client = pair.client.clone();
    let closed = pair.calls.begin(async move {
        client.close().await;
        oncewire_driver::Outcome::Reply(())
    });
    pair.sim.advance(Duration::from_secs(1));
    assert_eq!((closed.outcome(), counts(&pair)), (reply(()), (0, 0)));
}

#[test]
fn a_batch_that_is_missing_comes_again_or_is_broken_changes_nothing() {
    let pair = Pair::new();
    assert_eq!(pair.pay(5).outcome(), reply(5));
    let mut records = lock(&pair.backup).records.clone();
    let before = records.clone();
    let commit = records.identity().commit;
    for number in [0, commit, commit + 2, u64::MAX] {
        assert!(records.apply(number, &[]).is_err(), "{number}");
    }
    // A session whose entry is not one.
    let bytes = postcard::to_allocvec(&(0_u32, [9_u8; 16], [0xff_u8; 3].as_slice())).unwrap();
    let broken: RecordChange = postcard::from_bytes(&bytes).unwrap();
    assert!(records.apply(commit + 1, &[broken]).is_err());
    assert_eq!(records, before);
    assert!(records.apply(commit + 1, &[]).is_ok());
}

#[test]
fn nothing_secret_is_shown_of_a_change() {
    let pair = Pair::new();
    assert_eq!(pair.pay(5).outcome(), reply(5));
    let text = format!("{:?}", lock(&pair.backup).records);
    assert!(text.contains("sessions: 1") && text.len() < 200, "{text}");
}
