//! Several servers on one ledger at once (S34): sessions move between them, claims race, and batches come late.
//!
//! The ledger is the real store on a sound disk, as a database that all servers reach over a network. A batch or a claim is on
//! its way to it for a time, takes effect there in a moment, and its answer is on its way for a time again. In between
//! its server may die, and the session may move.
//!
//! | what goes wrong | what follows |
//! |---|---|
//! | a batch is late | its sessions may be another server's by then: nothing of theirs is written |
//! | its server is dead by then | the same; or it is written all the same |
//! | a batch's answer is lost | the server cannot know whether it was written, and ends |
//! | a claim is late, or its answer is | another server may have claimed the session since |
//! | the database is out of reach of a server | its batches wait or fail, its claims are not answered |
//!
//! Clients move to any server when they dial, and their old connections may still be read where they were.

mod servers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use oncewire_driver::ledger::{
    Batch, CallEntry, Claim, Entry, Identity, Ledger, LedgerError, Restore, SessionEntry, Store,
};
use oncewire_driver::protocol::SessionId;
use oncewire_ledger_redb::{RedbStore, Transaction};

use super::ledger::{CALLS, SESSIONS, note_stable};
use super::profile::Sharing;
use super::{Broken, World};
use crate::driver_world::executor::{Group, Sleep, lock};
use crate::driver_world::profile::MS;
use crate::rng::Rng;
pub use servers::{chaos, operate};

/// The group of what is on its way to the database, and in it.
const STORE: Group = 3;

type Id = [u8; 16];

/// A session's entry, and the records of its calls by slot.
type Found = (SessionEntry, Vec<(u16, Vec<u8>)>);

/// The ledger that all servers have.
pub struct Database(Mutex<State>);

struct State {
    rng: Rng,
    /// None before the world begins, and after it has ended.
    store: Option<RedbStore>,
    /// Whose each session is: a process of a server, and how often it was claimed.
    owners: BTreeMap<Id, (Group, u64)>,
    alive: BTreeSet<Group>,
    /// Until when it cannot be reached, by server.
    away_until: Vec<u64>,
    counters: Counters,
}

/// What has gone wrong so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Batches that came when a session of theirs was another server's.
    pub late: u64,
    /// Batches that were written when their server was dead.
    pub posthumous: u64,
    /// Claims whose answer came when the session had moved again.
    pub raced: u64,
    /// Claims that were not answered, or failed.
    pub unanswered: u64,
    /// Batches whose answer was lost, or that were.
    pub lost: u64,
    /// How often it was out of reach.
    pub away: u64,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

impl Database {
    /// Of a world of this seed.
    pub fn new(seed: u64, sharing: &Sharing) -> Database {
        Database(Mutex::new(State {
            rng: Rng::apart(seed, 0x85),
            store: None,
            owners: BTreeMap::new(),
            alive: BTreeSet::new(),
            away_until: vec![0; sharing.servers],
            counters: Counters::default(),
        }))
    }

    /// What has gone wrong so far.
    pub fn counters(&self) -> Counters {
        lock(&self.0).counters
    }

    /// It begins to serve with this store, or ends.
    pub fn set_store(&self, store: Option<RedbStore>) {
        let before = std::mem::replace(&mut lock(&self.0).store, store);
        drop(before);
    }

    /// A server's process is over.
    pub fn end_of(&self, group: Group) {
        lock(&self.0).alive.remove(&group);
    }

    fn is_away(&self, at: usize, now: u64) -> bool {
        lock(&self.0).away_until[at] > now
    }
}

impl State {
    fn is_owner(&self, ledger: &SharedLedger, id: &Id) -> bool {
        let epoch = lock(&ledger.epochs).get(id).copied();
        epoch.is_some() && self.owners.get(id).copied() == epoch.map(|epoch| (ledger.group, epoch))
    }

    /// What is recorded of a session.
    fn find(&self, session: SessionId) -> Result<Option<Found>, LedgerError> {
        let say = |error: &dyn std::fmt::Display| LedgerError::new(format!("unreadable: {error}"));
        let store = self.store.as_ref().ok_or_else(|| say(&"the world has ended"))?;
        let (snapshot, id) = (store.snapshots().latest(), session.to_bytes());
        // There is no table before the first session.
        let Ok(sessions) = snapshot.open_table(SESSIONS) else { return Ok(None) };
        let Some(bytes) = sessions.get(&id).map_err(|error| say(&error))? else { return Ok(None) };
        let entry =
            SessionEntry::decode(session, bytes.value()).ok_or_else(|| say(&"a session"))?;
        let mut calls = Vec::new();
        if let Ok(table) = snapshot.open_table(CALLS) {
            let (mut first, mut last) = ([0; 18], [0xff; 18]);
            first[..16].copy_from_slice(&id);
            last[..16].copy_from_slice(&id);
            for call in table.range::<&[u8; 18]>(&first..=&last).map_err(|error| say(&error))? {
                let (key, bytes) = call.map_err(|error| say(&error))?;
                let slot = u16::from_be_bytes([key.value()[16], key.value()[17]]);
                calls.push((slot, bytes.value().to_vec()));
            }
        }
        Ok(Some((entry, calls)))
    }
}

/// One server's way to the database.
#[derive(Clone, Debug)]
pub struct SharedLedger(Arc<Way>);

/// What a server's way to the database is made of.
pub struct Way {
    world: Arc<World>,
    at: usize,
    /// The process.
    group: Group,
    identity: Identity,
    /// Sessions of this process, as of when it claimed each.
    epochs: Mutex<BTreeMap<Id, u64>>,
    rng: Mutex<Rng>,
    /// The server knows that it has failed.
    failed: Mutex<bool>,
    /// It has, and no other batch is written.
    broken: Mutex<bool>,
}

impl std::ops::Deref for SharedLedger {
    type Target = Way;

    fn deref(&self) -> &Way {
        &self.0
    }
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Way").field("group", &self.group).finish_non_exhaustive()
    }
}

/// What happens to a batch or a claim on its way.
struct Trip {
    /// How long it takes to the database, and how long its answer takes back.
    there: u64,
    back: u64,
    /// It fails, before it has come to the database or after.
    fails: bool,
    arrives: bool,
    /// It is written though its server is dead by then.
    outlives: bool,
}

impl SharedLedger {
    fn trip(&self) -> Trip {
        let mut rng = lock(&self.rng);
        let sharing = self.world.sharing();
        let calm = self.world.sim.is_calm();
        let mut time = || match rng.one_in(sharing.late_in) && !calm {
            true => rng.delay(sharing.late_max),
            false => rng.delay(MS),
        };
        let (there, back) = (time(), time());
        let fails = rng.one_in(sharing.fails_in) && !calm;
        Trip { there, back, fails, arrives: rng.one_in(2), outlives: rng.one_in(2) }
    }

    fn database(&self) -> &Database {
        self.world.database.as_ref().expect("it has a ledger of this kind")
    }

    fn note_failure(&self, what: &str) -> LedgerError {
        lock(&self.world.model).ledger_failed = true;
        self.world.sim.note(|| format!("server {}: {what}", self.at));
        LedgerError::new(what)
    }

    /// Waits as long as the database cannot be reached.
    async fn reach(&self) {
        while self.database().is_away(self.at, self.world.sim.now()) {
            Sleep::new(&self.world.sim, 20 * MS).await;
        }
    }

    /// A batch comes to the database. None if it was lost with its server.
    fn land(
        &self,
        batch: &mut Batch<Transaction>,
        trip: &Trip,
    ) -> Option<Result<u64, LedgerError>> {
        let mut guard = lock(&self.database().0);
        let state = &mut *guard;
        let is_dead = !state.alive.contains(&self.group);
        if is_dead && !trip.outlives {
            return None;
        }
        state.counters.posthumous += u64::from(is_dead);
        for session in batch.sessions() {
            if !state.is_owner(self, &session.to_bytes()) {
                state.counters.late += 1;
                self.world.sim.note(|| format!("server {} has lost {}", self.at, session.tag()));
                if self.world.broken != Some(Broken::Unfenced) {
                    batch.taken(session);
                }
            }
        }
        let (mut opened, mut ended) = (Vec::new(), Vec::new());
        for entry in batch.entries() {
            match entry {
                Entry::SessionOpened(session) => opened.push(session.id.to_bytes()),
                Entry::SessionEnded(session) => ended.push(session.to_bytes()),
                _ => {}
            }
        }
        let store = state.store.as_mut()?;
        let result = store.commit(batch);
        self.world.sim.note(|| {
            format!("server {}: a commit of {} entries: {result:?}", self.at, batch.len())
        });
        match &result {
            Err(error) => self.world.sim.fail(format!("a sound disk, and {error}")),
            Ok(number) => {
                let snapshots = store.snapshots();
                for id in opened {
                    state.owners.insert(id, (self.group, 1));
                    lock(&self.epochs).insert(id, 1);
                }
                for id in ended {
                    state.owners.remove(&id);
                    lock(&self.epochs).remove(&id);
                }
                note_stable(&self.world, batch, Some(&snapshots));
                if !is_dead {
                    let mut model = lock(&self.world.model);
                    model.commit = model.commit.max(*number);
                }
            }
        }
        Some(result)
    }

    async fn carry(self, mut batch: Batch<Transaction>, trip: Trip) {
        let sim = &self.world.sim;
        Sleep::new(sim, trip.there).await;
        self.reach().await;
        let landed = match *lock(&self.broken) || trip.fails && !trip.arrives {
            true => None,
            false => self.land(&mut batch, &trip),
        };
        *lock(&self.broken) |= landed.is_none() || trip.fails;
        Sleep::new(sim, self.world.disk.take_owed() + trip.back).await;
        let result = match landed {
            Some(result) if !trip.fails => result,
            _ => {
                lock(&self.database().0).counters.lost += 1;
                Err(self.note_failure("the answer to a batch is lost"))
            }
        };
        *lock(&self.failed) |= result.is_err();
        batch.finish(result);
    }

    /// A claim comes to the database: what it answers, later.
    fn judge(&self, claim: &Claim, early: Option<Found>) -> Verdict {
        let (session, id) = (claim.session(), claim.session().to_bytes());
        let mut guard = lock(&self.database().0);
        let state = &mut *guard;
        let Some(commit) = state.store.as_ref().map(|store| Store::identity(store).commit) else {
            return Verdict::Unavailable;
        };
        let (entry, calls) = match state.find(session) {
            Ok(Some(found)) => early.unwrap_or(found),
            Ok(None) => return Verdict::Unknown,
            Err(error) => {
                self.world.sim.fail(error.to_string());
                return Verdict::Unavailable;
            }
        };
        if !claim.is_theirs(&entry) {
            return Verdict::NotTheirs;
        }
        if claim.is_held() && state.is_owner(self, &id) {
            return Verdict::Unchanged { commit };
        }
        let epoch = state.owners.get(&id).map_or(1, |(_, epoch)| epoch + 1);
        state.owners.insert(id, (self.group, epoch));
        lock(&self.world.model).moves += 1;
        self.world.sim.note(|| format!("session {} moves to server {}", session.tag(), self.at));
        Verdict::Found { entry, calls, epoch, commit }
    }

    async fn carry_claim(self, claim: Claim, trip: Trip) {
        let sim = &self.world.sim;
        let early = match self.world.broken {
            Some(Broken::EarlyClaim) => {
                lock(&self.database().0).find(claim.session()).ok().flatten()
            }
            _ => None,
        };
        Sleep::new(sim, trip.there).await;
        let is_away = self.database().is_away(self.at, sim.now());
        let verdict = match is_away || trip.fails && !trip.arrives {
            true => Verdict::Unavailable,
            false => self.judge(&claim, early),
        };
        Sleep::new(sim, trip.back).await;
        self.answer(claim, verdict, trip.fails && trip.arrives);
    }

    fn answer(&self, claim: Claim, verdict: Verdict, is_lost: bool) {
        let id = claim.session().to_bytes();
        if is_lost {
            lock(&self.database().0).counters.unanswered += 1;
            return claim.failed(self.note_failure("the answer to a claim is lost"));
        }
        match verdict {
            Verdict::Unavailable => {
                lock(&self.database().0).counters.unanswered += 1;
                claim.unavailable(LedgerError::new("the database is out of reach"));
            }
            Verdict::Unknown => claim.unknown(),
            Verdict::NotTheirs => claim.not_theirs(),
            Verdict::Unchanged { commit } => claim.unchanged(commit),
            Verdict::Found { entry, calls, epoch, commit } => {
                let mut state = lock(&self.database().0);
                let raced = state.owners.get(&id) != Some(&(self.group, epoch));
                state.counters.raced += u64::from(raced);
                drop(state);
                lock(&self.epochs).insert(id, epoch);
                let session = claim.session();
                let decoded = calls
                    .iter()
                    .filter_map(|(slot, bytes)| CallEntry::decode(session, *slot, bytes));
                claim.found(entry, decoded, commit);
            }
        }
    }
}

/// What the database says of a session.
enum Verdict {
    Unavailable,
    Unknown,
    NotTheirs,
    Unchanged { commit: u64 },
    Found { entry: SessionEntry, calls: Vec<(u16, Vec<u8>)>, epoch: u64, commit: u64 },
}

impl Ledger for SharedLedger {
    type Transaction = Transaction;

    fn identity(&self) -> Identity {
        self.identity
    }

    fn shared(&self) -> bool {
        true
    }

    fn lanes(&self) -> usize {
        self.world.profile.lanes.0
    }

    fn batch_calls_max(&self) -> usize {
        self.world.profile.lanes.1
    }

    /// Sessions of processes that have ended.
    fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError> {
        let mut guard = lock(&self.database().0);
        let state = &mut *guard;
        let is_over = |owner: &(Group, u64)| !state.alive.contains(&owner.0);
        let dead = state.owners.iter().filter(|(_, owner)| is_over(owner));
        let dead: Vec<Id> = dead.map(|(id, _)| *id).collect();
        for id in dead {
            let session = SessionId::from_bytes(id);
            let Some((entry, calls)) = state.find(session)? else { continue };
            let epoch = state.owners.get(&id).map_or(1, |(_, epoch)| epoch + 1);
            state.owners.insert(id, (self.group, epoch));
            lock(&self.epochs).insert(id, epoch);
            restore.session(&entry);
            let decoded =
                calls.iter().map(|(slot, bytes)| CallEntry::decode(session, *slot, bytes));
            decoded.flatten().for_each(|call| restore.call(call));
        }
        Ok(())
    }

    fn commit(&self, batch: Batch<Transaction>) {
        if *lock(&self.failed) {
            self.world.sim.fail("a batch was passed on after an error of the ledger");
        }
        let (ledger, trip) = (self.clone(), self.trip());
        self.world.sim.spawn(STORE, ledger.carry(batch, trip));
    }

    fn claim(&self, claim: Claim) {
        let (ledger, trip) = (self.clone(), self.trip());
        self.world.sim.spawn(STORE, ledger.carry_claim(claim, trip));
    }
}
