//! A ledger whose disk outlives its server, and whose commits the test holds in its hand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use oncewire_driver::ledger::{
    Batch, CallEntry, Entry, Identity, Ledger, LedgerError, Restore, SessionEntry,
};
use oncewire_driver::protocol::{ServerId, SessionId};

use super::sim::lock;

/// What transactional handlers write: accounts.
pub type Accounts = BTreeMap<u32, i64>;

/// What survives a crash.
#[derive(Clone, Default)]
pub struct Disk {
    pub sessions: BTreeMap<[u8; 16], SessionEntry>,
    pub calls: BTreeMap<([u8; 16], u16), Vec<u8>>,
    pub accounts: Accounts,
    pub commit: u64,
    /// Entries written, by kind.
    pub log: Vec<String>,
    /// Each session is given back twice.
    pub repeats_sessions: bool,
    /// Lanes, and calls of a batch; one lane if it is not said.
    pub lanes: Option<(usize, usize)>,
}

/// What becomes of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Written and finished at once.
    #[default]
    Commit,
    /// Held until the test says more.
    Hold,
    /// Not written; finished with an error.
    Fail,
    /// A ledger with a bug: what runs in its transaction is left out, and all is said to be durable.
    LeaveOut,
}

#[derive(Default)]
struct State {
    disk: Disk,
    mode: Mode,
    held: VecDeque<Batch<Accounts>>,
    /// Batches that were given out, and their lengths.
    batches: Vec<usize>,
}

#[derive(Clone, Default)]
pub struct TestLedger(Arc<Mutex<State>>);

impl TestLedger {
    pub fn on(disk: Disk) -> TestLedger {
        let ledger = TestLedger::default();
        lock(&ledger.0).disk = disk;
        ledger
    }

    pub fn disk(&self) -> Disk {
        lock(&self.0).disk.clone()
    }

    pub fn mode(&self, mode: Mode) {
        lock(&self.0).mode = mode;
    }

    pub fn repeat_sessions(&self) {
        lock(&self.0).disk.repeats_sessions = true;
    }

    pub fn handles(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    pub fn held(&self) -> usize {
        lock(&self.0).held.len()
    }

    pub fn batches(&self) -> Vec<usize> {
        lock(&self.0).batches.clone()
    }

    /// Another batch is the next one to be written.
    pub fn turn(&self, by: usize) {
        let held = &mut lock(&self.0).held;
        let by = by % held.len().max(1);
        held.rotate_left(by);
    }

    /// A batch fails; the disk is full from now on.
    pub fn fail(&self) {
        self.mode(Mode::Fail);
        let batch = lock(&self.0).held.pop_front().expect("a batch is held");
        batch.finish(Err(LedgerError::new("no space left on the disk")));
    }

    /// Writes the batch that is held, without telling.
    pub fn write(&self) {
        let mut batch = lock(&self.0).held.pop_front().expect("a batch is held");
        self.apply(&mut batch);
        lock(&self.0).held.push_front(batch);
    }

    /// Writes the batch that is held, and finishes it.
    pub fn release(&self) {
        self.write();
        let batch = lock(&self.0).held.pop_front().expect("a batch is held");
        let commit = lock(&self.0).disk.commit;
        batch.finish(Ok(commit));
    }

    /// The process that held the batches is dead.
    pub fn crash(&self) {
        let held = std::mem::take(&mut lock(&self.0).held);
        drop(held);
    }

    /// No two batches that are under way have a lane or a session in common.
    fn check_lanes(&self, batch: &mut Batch<Accounts>) {
        let sessions = sessions_of(batch);
        let mut state = lock(&self.0);
        let (lanes, calls) = state.disk.lanes.unwrap_or((1, usize::MAX));
        assert!(batch.lane() < lanes && batch.transactions() <= calls, "{batch:?}");
        for held in &mut state.held {
            assert_ne!(held.lane(), batch.lane());
            assert!(sessions_of(held).is_disjoint(&sessions), "a session is in two batches");
        }
    }

    /// As real ones do: all in one transaction first, and each call in its own after a rollback.
    fn apply(&self, batch: &mut Batch<Accounts>) {
        let before = self.disk();
        let mut disk = before.clone();
        if !batch.entries().all(|entry| write(&mut disk, entry)) {
            disk = before;
            batch.entries().for_each(|entry| {
                let mut alone = disk.clone();
                if write(&mut alone, entry) {
                    disk = alone;
                }
            });
        }
        disk.commit += 1;
        lock(&self.0).disk = disk;
    }
}

/// The sessions of a batch, those that are opened in it, too.
pub fn sessions_of(batch: &mut Batch<Accounts>) -> BTreeSet<[u8; 16]> {
    let mut sessions: BTreeSet<_> = batch.sessions().iter().map(|id| id.to_bytes()).collect();
    for entry in batch.entries() {
        if let Entry::SessionOpened(opened) = entry {
            sessions.insert(opened.id.to_bytes());
        }
    }
    sessions
}

fn put(disk: &mut Disk, entry: CallEntry<'_>) {
    let mut bytes = Vec::new();
    entry.encode(&mut bytes);
    disk.log.push(format!("{:?} {}", entry.record.state, entry.record.xid));
    let key = (entry.session.to_bytes(), entry.slot);
    let later = disk.calls.get(&key).and_then(|old| CallEntry::xid_of(old));
    // C76.
    if later.is_none_or(|xid| xid <= entry.record.xid.get()) {
        disk.calls.insert(key, bytes);
    }
}

/// False if a call must be rolled back.
fn write(disk: &mut Disk, entry: Entry<'_, Accounts>) -> bool {
    match entry {
        Entry::SessionOpened(session) => {
            disk.log.push("opened".to_owned());
            disk.sessions.insert(session.id.to_bytes(), session.clone());
        }
        Entry::SessionEnded(id) => {
            disk.log.push("ended".to_owned());
            disk.sessions.remove(&id.to_bytes());
            disk.calls.retain(|key, _| key.0 != id.to_bytes());
        }
        Entry::Call(entry) => put(disk, entry),
        Entry::Withdrawn(name) => {
            disk.log.push(format!("withdrawn {}", name.xid));
            let key = (name.session.to_bytes(), name.slot);
            let there = disk.calls.get(&key).and_then(|bytes| CallEntry::xid_of(bytes));
            if there == Some(name.xid.get()) {
                disk.calls.remove(&key);
            }
        }
        Entry::Settled { session, seen, held } => {
            let held: Vec<u64> = held.iter().map(|xid| xid.get()).collect();
            disk.log.push(format!("settled but {held:?}"));
            disk.calls.retain(|key, bytes| {
                key.0 != session.to_bytes()
                    || CallEntry::xid_of(bytes).is_some_and(|xid| held.contains(&xid))
            });
            if let Some(entry) = disk.sessions.get_mut(&session.to_bytes()) {
                entry.seen = seen;
            }
        }
        Entry::Transaction(call) => {
            let mut accounts = disk.accounts.clone();
            let Some(record) = call.run(&mut accounts) else { return false };
            disk.accounts = accounts;
            put(disk, record);
        }
    }
    true
}

impl Ledger for TestLedger {
    type Transaction = Accounts;

    fn identity(&self) -> Identity {
        Identity { server: ServerId::from_bytes([0x1e; 16]), commit: self.disk().commit }
    }

    fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError> {
        let disk = self.disk();
        for _ in 0..1 + usize::from(disk.repeats_sessions) {
            disk.sessions.values().for_each(|session| restore.session(session));
        }
        for ((session, slot), bytes) in &disk.calls {
            let entry = CallEntry::decode(SessionId::from_bytes(*session), *slot, bytes);
            restore.call(entry.ok_or_else(|| LedgerError::new("a record is broken"))?);
        }
        Ok(())
    }

    fn lanes(&self) -> usize {
        self.disk().lanes.map_or(1, |(lanes, _)| lanes)
    }

    fn batch_calls_max(&self) -> usize {
        self.disk().lanes.map_or(usize::MAX, |(_, calls)| calls)
    }

    fn commit(&self, mut batch: Batch<Accounts>) {
        self.check_lanes(&mut batch);
        lock(&self.0).batches.push(batch.len());
        let mode = lock(&self.0).mode;
        match mode {
            Mode::Commit => {
                self.apply(&mut batch);
                let commit = lock(&self.0).disk.commit;
                batch.finish(Ok(commit));
            }
            Mode::Hold => lock(&self.0).held.push_back(batch),
            Mode::LeaveOut => {
                let commit = self.disk().commit + 1;
                batch.finish(Ok(commit));
            }
            Mode::Fail => batch.finish(Err(LedgerError::new("no space left on the disk"))),
        }
    }
}
