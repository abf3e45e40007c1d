//! The real store in the simulated world: its commits run where the seed says, and the process may die inside them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use oncewire_driver::Subject;
use oncewire_driver::ledger::{
    Batch, CallEntry, Entry, Identity, Ledger, LedgerError, Restore, SessionEntry, Store,
};
use oncewire_driver::protocol::RecordState;
use oncewire_ledger_redb::faults::Faults;
use oncewire_ledger_redb::redb::{ReadableTable, TableDefinition, TableError};
use oncewire_ledger_redb::{RedbStore, Snapshots, Transaction};

use super::disk::Death;
use super::model::{Name, Stage};
use super::service::{ACCOUNTS, ACCOUNTS_LEN, PAYMENTS, Reply};
use super::{Broken, World};
use crate::driver_world::executor::{Group, Sleep, lock};
use crate::driver_world::profile::MS;
use crate::rng::Rng;

pub(super) const SESSIONS: TableDefinition<'_, &[u8; 16], &[u8]> =
    TableDefinition::new("oncewire.sessions");
pub(super) const CALLS: TableDefinition<'_, &[u8; 18], &[u8]> =
    TableDefinition::new("oncewire.calls");

/// A ledger whose commits are tasks of the simulated world.
pub struct SimLedger {
    world: Arc<World>,
    group: Group,
    /// Until it is closed.
    store: Arc<Mutex<Option<RedbStore>>>,
    identity: Identity,
    rng: Mutex<Rng>,
    /// For what goes wrong between the transactions of a commit.
    stop_rng: Mutex<Rng>,
    /// The server knows that it has failed.
    failed: Arc<Mutex<bool>>,
    /// By lane, the sessions of the batch that is under way, and how it will end: after an error no other one is written.
    under_way: Arc<Mutex<UnderWay>>,
}

#[derive(Default)]
struct UnderWay {
    sessions: BTreeMap<usize, BTreeSet<[u8; 16]>>,
    broken: bool,
}

impl SimLedger {
    /// Of this store, for the server whose tasks are `group`.
    pub fn new(world: &Arc<World>, group: Group, store: RedbStore) -> SimLedger {
        let identity = Store::identity(&store);
        let rng = |key| Mutex::new(Rng::apart(world.profile.seed, u64::from(group) << 8 | key));
        SimLedger {
            world: world.clone(),
            group,
            store: Arc::new(Mutex::new(Some(store))),
            identity,
            rng: rng(0x75),
            stop_rng: rng(0x79),
            failed: Arc::default(),
            under_way: Arc::default(),
        }
    }

    /// A session is in one batch at a time.
    fn take_off(&self, batch: &mut Batch<Transaction>) {
        let mut sessions: BTreeSet<_> = batch.sessions().iter().map(|id| id.to_bytes()).collect();
        sessions.extend(batch.entries().filter_map(|entry| match entry {
            Entry::SessionOpened(opened) => Some(opened.id.to_bytes()),
            _ => None,
        }));
        let under_way = &mut lock(&self.under_way).sessions;
        if !under_way.values().all(|others| others.is_disjoint(&sessions)) {
            self.world.sim.fail("a session is in two batches");
        }
        if under_way.insert(batch.lane(), sessions).is_some() {
            self.world.sim.fail("two batches are in one lane");
        }
    }
}

impl Ledger for SimLedger {
    type Transaction = Transaction;

    fn identity(&self) -> Identity {
        self.identity
    }

    fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError> {
        let closed = || LedgerError::new("the store is closed");
        lock(&self.store).as_mut().ok_or_else(closed)?.recover(restore)
    }

    fn lanes(&self) -> usize {
        self.world.profile.lanes.0
    }

    fn batch_calls_max(&self) -> usize {
        self.world.profile.lanes.1
    }

    fn commit(&self, mut batch: Batch<Transaction>) {
        self.take_off(&mut batch);
        if *lock(&self.failed) {
            self.world.sim.fail("a batch was passed on after an error of the ledger");
        }
        let mut rng = lock(&self.rng);
        let (first, profile) = (rng.delay(MS), &self.world.profile);
        let death = rng.pick(&[Death::Kill, Death::PowerCut]);
        let dies = rng.one_in(profile.fuse_in) && !self.world.sim.is_calm();
        let fuse = dies.then(|| (rng.below(profile.fuse_max), death));
        let stop = Stop::of(&self.world, &mut lock(&self.stop_rng));
        let (world, store, failed) = (self.world.clone(), self.store.clone(), self.failed.clone());
        let under_way = self.under_way.clone();
        self.world.sim.spawn(self.group, async move {
            Sleep::new(&world.sim, first).await;
            if lock(&under_way).broken {
                return batch.finish(Err(LedgerError::new("another lane has failed")));
            }
            let done = commit(&world, &store, batch, fuse, stop);
            let Some((batch, result)) = done else { return };
            lock(&under_way).broken |= result.is_err();
            // It may be on the disk long before it is reported, and the process may die in between.
            Sleep::new(&world.sim, world.disk.take_owed()).await;
            *lock(&failed) |= result.is_err();
            lock(&under_way).sessions.remove(&batch.lane());
            if let Ok(number) = &result {
                let mut model = lock(&world.model);
                model.commit = model.commit.max(*number);
            }
            batch.finish(result);
        });
    }
}

/// An error between two transactions of one commit, which is none of the disk's.
#[derive(Clone, Copy, Debug)]
struct Stop {
    faults: Faults,
    /// The server ends in order after it: redb closes its file. Otherwise it is ended without that.
    closes: bool,
}

impl Stop {
    fn of(world: &World, rng: &mut Rng) -> Stop {
        let records_apart = world.broken == Some(Broken::Apart);
        let stops = rng.one_in(world.profile.stop_in) && !world.sim.is_calm();
        let stop_at = stops.then(|| rng.below(4) as u32);
        Stop { faults: Faults { stop_at, records_apart }, closes: rng.one_in(2) }
    }
}

type Done = (Batch<Transaction>, Result<u64, LedgerError>);

/// One commit of the real store; `None` if the process died inside it.
fn commit(
    world: &World,
    store: &Mutex<Option<RedbStore>>,
    mut batch: Batch<Transaction>,
    fuse: Option<(u64, Death)>,
    stop: Stop,
) -> Option<Done> {
    if let Some((operations, death)) = fuse {
        world.disk.light_fuse(operations, death);
    }
    let errors = world.disk.failures();
    // After an error no other batch comes, so it is there.
    let mut open = lock(store).take()?;
    open.set_faults(stop.faults);
    let result = open.commit(&mut batch);
    world.disk.put_fuse_out();
    world.sim.note(|| format!("a commit of {} entries: {result:?}", batch.len()));
    let blown = world.disk.blown();
    let stopped = result.is_err() && blown.is_none() && world.disk.failures() == errors;
    if stopped {
        lock(&world.host).stops += 1;
        lock(&world.model).ledger_failed = true;
    }
    if !(stopped && stop.closes) {
        *lock(store) = Some(open);
    }
    if let Some(death) = blown {
        world.end_life(0, death);
        return None;
    }
    let result = world.answer_of_disk(result);
    if result.is_ok() {
        let snapshots = lock(store).as_ref().map(RedbStore::snapshots);
        note_stable(world, &mut batch, snapshots.as_ref());
    }
    Some((batch, result))
}

/// What is durable now. A transactional call's record is in the table, if it was not rolled back.
pub(super) fn note_stable(
    world: &World,
    batch: &mut Batch<Transaction>,
    snapshots: Option<&Snapshots>,
) {
    let mut model = lock(&world.model);
    if model.looks_away {
        return;
    }
    if world.disk.unsynced() > 0 {
        world.sim.fail(format!("a commit returned with {} writes unsynced", world.disk.unsynced()));
    }
    for entry in batch.entries() {
        match entry {
            Entry::SessionOpened(session) => {
                model.sessions.insert(session.id.to_bytes(), client_of(session));
            }
            Entry::Call(call) => {
                let client = model.sessions.get(&call.session.to_bytes()).copied();
                let reply = reply_of(&call).ok().flatten();
                if let Some(client) = client {
                    let name = (client, call.record.xid.get());
                    model.note_stable(name, stage_of(&call), reply.map(|(op, _)| op));
                }
            }
            _ => {}
        }
    }
    if batch.transactions() > 0 {
        let found = snapshots.and_then(|snapshots| find_records(snapshots).ok());
        for record in found.unwrap_or_default() {
            if let Some(name) = record.name(&model.sessions) {
                model.note_stable(name, record.stage, record.reply.map(|(op, _)| op));
            }
        }
    }
}

fn client_of(session: &SessionEntry) -> usize {
    match &session.subject {
        Subject::Name(name) => name.parse().unwrap_or(usize::MAX),
        _ => usize::MAX,
    }
}

fn stage_of(call: &CallEntry<'_>) -> Stage {
    match call.record.state {
        RecordState::Started => Stage::Started,
        _ => Stage::Done,
    }
}

/// A call's record on the disk.
struct Found {
    session: [u8; 16],
    xid: u64,
    stage: Stage,
    /// The operation and the number in its reply, if it has one.
    reply: Option<(u64, u64)>,
}

impl Found {
    fn name(&self, sessions: &BTreeMap<[u8; 16], usize>) -> Option<Name> {
        Some((*sessions.get(&self.session)?, self.xid))
    }
}

/// What the reply in a completion record says, if there is one.
fn reply_of(call: &CallEntry<'_>) -> Result<Option<(u64, u64)>, String> {
    let RecordState::Done(body) = call.record.state else { return Ok(None) };
    let reply = postcard::from_bytes::<Reply>(body)
        .map_err(|error| format!("a record cannot be read: {error}"))?;
    super::service::read(&reply).ok_or("a recorded reply has other bytes".to_owned()).map(Some)
}

fn find_records(snapshots: &Snapshots) -> Result<Vec<Found>, String> {
    let say = |error: &dyn std::fmt::Display| format!("a record cannot be read: {error}");
    let calls = snapshots.latest().open_table(CALLS).map_err(|error| say(&error))?;
    let mut found = Vec::new();
    for entry in calls.iter().map_err(|error| say(&error))? {
        let (key, bytes) = entry.map_err(|error| say(&error))?;
        let (id, slot) = key.value().split_at(16);
        let session: [u8; 16] = id.try_into().map_err(|error| say(&error))?;
        let slot = u16::from_be_bytes([slot[0], slot[1]]);
        let id = oncewire_driver::protocol::SessionId::from_bytes(session);
        let call =
            CallEntry::decode(id, slot, bytes.value()).ok_or("a record cannot be decoded")?;
        let reply = reply_of(&call)?;
        let (xid, stage) = (call.record.xid.get(), stage_of(&call));
        found.push(Found { session, xid, stage, reply });
    }
    Ok(found)
}

/// The sessions of a file, and whose they are.
fn find_sessions(snapshots: &Snapshots) -> Result<BTreeMap<[u8; 16], usize>, String> {
    let say = |error: &dyn std::fmt::Display| format!("a session cannot be read: {error}");
    let table = snapshots.latest().open_table(SESSIONS).map_err(|error| say(&error))?;
    let mut sessions = BTreeMap::new();
    for entry in table.iter().map_err(|error| say(&error))? {
        let (id, bytes) = entry.map_err(|error| say(&error))?;
        let session = oncewire_driver::protocol::SessionId::from_bytes(*id.value());
        let entry = SessionEntry::decode(session, bytes.value());
        sessions.insert(*id.value(), client_of(&entry.ok_or("a session cannot be decoded")?));
    }
    Ok(sessions)
}

/// A table of numbers; empty if there is none yet.
fn numbers(
    snapshots: &Snapshots,
    table: TableDefinition<'_, u64, u64>,
) -> Result<BTreeMap<u64, u64>, String> {
    let say = |error: &dyn std::fmt::Display| format!("a table cannot be read: {error}");
    let table = match snapshots.latest().open_table(table) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
        table => table.map_err(|error| say(&error))?,
    };
    let mut all = BTreeMap::new();
    for entry in table.iter().map_err(|error| say(&error))? {
        let (key, value) = entry.map_err(|error| say(&error))?;
        all.insert(key.value(), value.value());
    }
    Ok(all)
}

/// Holds a file that was just opened against all that is known.
pub fn audit(world: &World, store: &RedbStore) -> Result<(), String> {
    let identity = Store::identity(store);
    let snapshots = store.snapshots();
    let payments = numbers(&snapshots, PAYMENTS)?;
    let accounts = numbers(&snapshots, ACCOUNTS)?;
    for account in 0..ACCOUNTS_LEN {
        let of = payments.keys().filter(|op| **op % ACCOUNTS_LEN == account).count() as u64;
        let balance = accounts.get(&account).copied().unwrap_or(0);
        if balance != of {
            return Err(format!("account {account} holds {balance}, of {of} payments"));
        }
    }
    let (sessions, records) = (find_sessions(&snapshots)?, find_records(&snapshots)?);
    // What `oncewire-ledger verify` calls broken.
    if let Some(stray) = records.iter().find(|record| !sessions.contains_key(&record.session)) {
        return Err(format!("a record of xid {} belongs to no session", stray.xid));
    }
    let mut model = lock(&world.model);
    if identity.server != world.server_id() {
        return Err(format!("it is the ledger of another server: {}", identity.server));
    }
    if identity.commit < model.commit {
        return Err(format!(
            "commit {} was reported, and it has {}",
            model.commit, identity.commit
        ));
    }
    model.sessions.extend(sessions);
    for record in records {
        if let Some((op, number)) = record.reply {
            model.audit_record(op, number, &payments)?;
        }
        if let Some(name) = record.name(&model.sessions) {
            model.note_stable(name, record.stage, record.reply.map(|(op, _)| op));
        }
    }
    model.audit(&payments)
}

/// Everybody is gone: what the ledger still holds.
pub fn leftovers(store: &RedbStore) -> Result<(usize, usize), String> {
    let snapshots = store.snapshots();
    Ok((find_sessions(&snapshots)?.len(), find_records(&snapshots)?.len()))
}

impl std::fmt::Debug for SimLedger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimLedger").field("group", &self.group).finish_non_exhaustive()
    }
}
