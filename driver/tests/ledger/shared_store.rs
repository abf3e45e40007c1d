//! Records in memory that two servers have at the same time, each through a ledger whose batches and claims the test holds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use oncewire_driver::ledger::{
    Batch, Claim, Entry, Identity, Ledger, LedgerError, Records, Restore, Transactional,
};
use oncewire_driver::protocol::ServerId;

use super::disk::{Accounts, sessions_of};
use super::sim::lock;

type Id = [u8; 16];

/// Answers a claim.
type Answer = Box<dyn FnOnce() + Send>;

/// What all servers have.
pub struct Store {
    records: Records,
    pub accounts: Accounts,
    /// Whose each session is: a life of a server, and how often it was claimed.
    owners: BTreeMap<Id, (u32, u64)>,
    /// Lives of servers that have not ended.
    alive: BTreeSet<u32>,
    lives: u32,
    /// A broken one: late batches are written, whosever the session is.
    pub unfenced: bool,
    /// Lanes of each server.
    pub lanes: usize,
    /// It cannot be reached.
    pub is_away: bool,
    /// No claim and no batch succeeds any more.
    pub is_lost: bool,
    /// Sessions that moved, and those of which a batch came late.
    pub moved: u64,
    pub taken: u64,
}

impl Store {
    pub fn new() -> Arc<Mutex<Store>> {
        Arc::new(Mutex::new(Store {
            records: Records::new(ServerId::from_bytes([7; 16])),
            accounts: Accounts::new(),
            owners: BTreeMap::new(),
            alive: BTreeSet::new(),
            lives: 0,
            unfenced: false,
            lanes: 1,
            is_away: false,
            is_lost: false,
            moved: 0,
            taken: 0,
        }))
    }

    pub fn sizes(&self) -> (usize, usize) {
        (self.records.sessions(), self.records.calls())
    }
}

/// One server's way to them.
#[derive(Clone)]
pub struct Shared {
    store: Arc<Mutex<Store>>,
    life: u32,
    /// Sessions of this server, as of when it claimed each.
    epochs: Arc<Mutex<BTreeMap<Id, u64>>>,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    holds: bool,
    batches: VecDeque<Batch<Accounts>>,
    claims: VecDeque<Claim>,
    holds_answers: bool,
    answers: Vec<Answer>,
}

impl Shared {
    pub fn new(store: &Arc<Mutex<Store>>) -> Shared {
        let mut all = lock(store);
        all.lives += 1;
        let life = all.lives;
        all.alive.insert(life);
        drop(all);
        Shared { store: store.clone(), life, epochs: Arc::default(), held: Arc::default() }
    }

    /// Holds what comes from now on.
    pub fn hold(&self) {
        lock(&self.held).holds = true;
    }

    /// Does what is held, and holds nothing any more.
    pub fn release(&self) {
        lock(&self.held).holds = false;
        loop {
            let claim = lock(&self.held).claims.pop_front();
            let batch = lock(&self.held).batches.pop_front();
            if claim.is_none() && batch.is_none() {
                return;
            }
            claim.into_iter().for_each(|claim| self.answer(claim));
            batch.into_iter().for_each(|batch| self.write(batch));
        }
    }

    /// One batch that is held is written, whichever came first.
    pub fn release_batch(&self, by: usize) {
        let mut held = lock(&self.held);
        let by = by % held.batches.len().max(1);
        held.batches.rotate_left(by);
        let batch = held.batches.pop_front();
        drop(held);
        batch.into_iter().for_each(|batch| self.write(batch));
    }

    /// The oldest claim that is held is answered, before batches that came earlier.
    pub fn release_claim(&self) {
        let claim = lock(&self.held).claims.pop_front();
        claim.into_iter().for_each(|claim| self.answer(claim));
    }

    /// From now on claims take effect, and are not answered.
    pub fn hold_answers(&self) {
        lock(&self.held).holds_answers = true;
    }

    /// Answers those claims, and all others at once.
    pub fn release_answers(&self) {
        lock(&self.held).holds_answers = false;
        let answers = std::mem::take(&mut lock(&self.held).answers);
        answers.into_iter().for_each(|answer| answer());
    }

    pub fn claims_held(&self) -> usize {
        lock(&self.held).claims.len()
    }

    /// Its server's process is dead.
    pub fn die(&self) {
        lock(&self.store).alive.remove(&self.life);
        let held = std::mem::take(&mut *lock(&self.held));
        drop(held);
    }

    fn is_ours(&self, store: &Store, id: &Id) -> bool {
        let epoch = lock(&self.epochs).get(id).copied();
        store.owners.get(id).copied() == epoch.map(|epoch| (self.life, epoch)) && epoch.is_some()
    }

    fn write(&self, mut batch: Batch<Accounts>) {
        let mut guard = lock(&self.store);
        let store = &mut *guard;
        if store.is_lost {
            drop(guard);
            return batch.finish(Err(LedgerError::new("the store is lost")));
        }
        for session in batch.sessions() {
            let is_ours = self.is_ours(store, &session.to_bytes());
            if !is_ours {
                store.taken += 1;
                if !store.unfenced {
                    batch.taken(session);
                }
            }
        }
        for entry in batch.entries() {
            match entry {
                Entry::SessionOpened(session) => {
                    store.owners.insert(session.id.to_bytes(), (self.life, 1));
                    lock(&self.epochs).insert(session.id.to_bytes(), 1);
                }
                Entry::SessionEnded(session) => {
                    store.owners.remove(&session.to_bytes());
                    lock(&self.epochs).remove(&session.to_bytes());
                }
                _ => {}
            }
        }
        let accounts = &mut store.accounts;
        let changes = batch.changes(|call: Transactional<'_, Accounts>| {
            let before = accounts.clone();
            let record = call.run(accounts);
            if record.is_none() {
                *accounts = before;
            }
            record
        });
        let number = store.records.identity().commit + 1;
        store.records.apply(number, &changes).unwrap();
        drop(guard);
        batch.finish(Ok(number));
    }

    fn answer(&self, claim: Claim) {
        let answer = self.judge(claim);
        let mut held = lock(&self.held);
        if held.holds_answers {
            return held.answers.push(answer);
        }
        drop(held);
        answer();
    }

    /// A claim takes effect.
    fn judge(&self, claim: Claim) -> Answer {
        let mut guard = lock(&self.store);
        let store = &mut *guard;
        if store.is_away {
            let why = LedgerError::new("the store is away");
            return Box::new(move || claim.unavailable(why));
        }
        if store.is_lost {
            let why = LedgerError::new("the store is lost");
            return Box::new(move || claim.failed(why));
        }
        let (id, commit) = (claim.session().to_bytes(), store.records.identity().commit);
        let records = store.records.clone();
        let Some((entry, _)) = records.session(claim.session()).unwrap() else {
            return Box::new(move || claim.unknown());
        };
        if !claim.is_theirs(&entry) {
            return Box::new(move || claim.not_theirs());
        }
        if claim.is_held() && self.is_ours(store, &id) {
            return Box::new(move || claim.unchanged(commit));
        }
        let epoch = store.owners.get(&id).map_or(1, |(_, epoch)| epoch + 1);
        store.owners.insert(id, (self.life, epoch));
        store.moved += 1;
        lock(&self.epochs).insert(id, epoch);
        Box::new(move || {
            let (_, calls) = records.session(claim.session()).unwrap().unwrap();
            claim.found(entry, calls, commit);
        })
    }
}

impl Ledger for Shared {
    type Transaction = Accounts;

    fn identity(&self) -> Identity {
        lock(&self.store).records.identity()
    }

    fn shared(&self) -> bool {
        true
    }

    /// Sessions of servers that have ended.
    fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError> {
        let mut guard = lock(&self.store);
        let store = &mut *guard;
        for (id, owner) in &mut store.owners {
            if store.alive.contains(&owner.0) {
                continue;
            }
            *owner = (self.life, owner.1 + 1);
            lock(&self.epochs).insert(*id, owner.1);
            let id = oncewire_driver::protocol::SessionId::from_bytes(*id);
            if let Some((entry, calls)) = store.records.session(id)? {
                restore.session(&entry);
                calls.into_iter().for_each(|call| restore.call(call));
            }
        }
        Ok(())
    }

    fn lanes(&self) -> usize {
        lock(&self.store).lanes
    }

    fn batch_calls_max(&self) -> usize {
        1
    }

    fn commit(&self, mut batch: Batch<Accounts>) {
        let sessions = sessions_of(&mut batch);
        let mut held = lock(&self.held);
        for other in &mut held.batches {
            assert_ne!(other.lane(), batch.lane());
            assert!(sessions_of(other).is_disjoint(&sessions), "a session is in two batches");
        }
        let is_claimed = |claim: &Claim| sessions.contains(&claim.session().to_bytes());
        assert!(!held.claims.iter().any(is_claimed), "a session is claimed and in a batch");
        if held.holds {
            return held.batches.push_back(batch);
        }
        drop(held);
        self.write(batch);
    }

    fn claim(&self, claim: Claim) {
        let mut held = lock(&self.held);
        if held.holds {
            return held.claims.push_back(claim);
        }
        drop(held);
        self.answer(claim);
    }
}
