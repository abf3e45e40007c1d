//! The store of a ledger: a batch becomes one durable commit, and records become bytes.
//!
//! A commit is tried as one transaction of redb, with one fsync. If one of its calls is rolled back, the transaction is
//! given up and each call runs again in its own: see `run_separately` for what must not go wrong there.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use oncewire_driver::files::LockFile;
use oncewire_driver::ledger::{
    Batch, CallEntry, ChangeSource, Entry, Identity, LedgerError, Restore, SessionEntry, Store,
};
use oncewire_driver::protocol::{ServerId, SessionId};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, Table};

use crate::file::{self, CALLS, OpenFile, SESSIONS};
use crate::{Snapshots, Transaction};

/// A ledger's file, or another storage. Its commits block; [`RedbLedger`](crate::RedbLedger) gives it a thread.
pub struct RedbStore {
    database: Database,
    identity: Identity,
    snapshots: Snapshots,
    changes: ChangeSource,
    writes: Vec<Write>,
    /// The bytes of `writes`.
    bytes: Vec<u8>,
    #[cfg(any(test, feature = "_faults"))]
    faults: crate::faults::Faults,
    /// Held, not used: others are kept away while it is open.
    _lock: Option<LockFile>,
}

impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbStore").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// What an entry makes of the tables.
enum Write {
    PutSession([u8; 16], Range<usize>),
    RemoveSession([u8; 16]),
    PutCall { key: [u8; 18], xid: u64, bytes: Range<usize> },
    RemoveCall { key: [u8; 18], xid: u64 },
    Settle { session: [u8; 16], seen: u64, held: Vec<u64> },
}

/// A call was rolled back: its neighbours run again without it.
struct RolledBack;

impl RedbStore {
    /// Opens the ledger in this file, or makes one if there is none; see [`RedbLedger::open`](crate::RedbLedger::open).
    ///
    /// # Errors
    /// What is wrong with the file, and what to do about it.
    pub fn open(path: &Path) -> Result<RedbStore, LedgerError> {
        RedbStore::of(file::open_or_create(path)?)
    }

    /// The same on any storage, a simulated disk, say. `server` is the id of the ledger that is made there if the
    /// storage is empty.
    ///
    /// # Errors
    /// What is wrong with the storage, and what to do about it.
    pub fn with_backend(
        backend: impl StorageBackend,
        server: ServerId,
    ) -> Result<RedbStore, LedgerError> {
        RedbStore::of(file::open_backend(backend, server)?)
    }

    fn of(open: OpenFile) -> Result<RedbStore, LedgerError> {
        let OpenFile { database, identity, lock } = open;
        let snapshot = database.begin_read().map_err(cannot_read)?;
        let changes = ChangeSource::new(identity.commit);
        let snapshots = Snapshots::first(snapshot, &changes);
        Ok(RedbStore {
            database,
            identity,
            snapshots,
            changes,
            writes: Vec::new(),
            bytes: Vec::new(),
            #[cfg(any(test, feature = "_faults"))]
            faults: crate::faults::Faults::default(),
            _lock: lock,
        })
    }

    /// What goes wrong inside the next commits.
    #[cfg(any(test, feature = "_faults"))]
    pub fn set_faults(&mut self, faults: crate::faults::Faults) {
        self.faults = faults;
    }

    /// Where what is durable can be read.
    pub fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }

    /// Stages the writes of each entry and runs the transactional calls, all in one transaction.
    fn run_together(
        &mut self,
        batch: &mut Batch<Transaction>,
        transaction: &mut Transaction,
    ) -> Result<(), RolledBack> {
        for entry in batch.entries() {
            match entry {
                Entry::Transaction(call) => {
                    let record = call.run(transaction).ok_or(RolledBack)?;
                    self.put_call(record);
                }
                entry => self.stage(entry),
            }
        }
        Ok(())
    }

    /// The same, each call in its own transaction, none of which is durable by itself.
    ///
    /// redb makes such transactions durable when it is closed, also after an error. So each holds the record of its
    /// call, and all that the batch says before it: whatever part of a batch becomes durable is one that S28 and S29
    /// allow. The records were once written in the last transaction only; an error before it left effects without records,
    /// and those calls ran twice.
    ///
    /// Says whether any of them may have left effects.
    fn run_separately(&mut self, batch: &mut Batch<Transaction>) -> Result<bool, redb::Error> {
        let mut effects = false;
        for entry in batch.entries() {
            let Entry::Transaction(call) = entry else {
                self.stage(entry);
                continue;
            };
            self.may_stop()?;
            let mut inner = self.database.begin_write()?;
            inner.set_durability(Durability::None)?;
            let mut transaction = Transaction::new(inner);
            match call.run(&mut transaction) {
                Some(record) => {
                    self.put_call(record);
                    if !self.keeps_records_apart() {
                        self.write_staged(&transaction)?;
                    }
                    effects |= transaction.has_effects();
                    transaction.into_inner()?.commit()?;
                }
                None => transaction.into_inner()?.abort()?,
            }
        }
        self.may_stop()?;
        Ok(effects)
    }

    fn stage(&mut self, entry: Entry<'_, Transaction>) {
        match entry {
            Entry::SessionOpened(session) => {
                let start = self.bytes.len();
                self.bytes.extend_from_slice(&session.encode());
                self.writes.push(Write::PutSession(session.id.to_bytes(), start..self.bytes.len()));
            }
            Entry::SessionEnded(id) => self.writes.push(Write::RemoveSession(id.to_bytes())),
            Entry::Call(record) => self.put_call(record),
            Entry::Withdrawn(name) => {
                let key = call_key(name.session.to_bytes(), name.slot);
                self.writes.push(Write::RemoveCall { key, xid: name.xid.get() });
            }
            Entry::Settled { session, seen, held } => {
                let held = held.iter().map(|xid| xid.get()).collect();
                self.writes.push(Write::Settle { session: session.to_bytes(), seen, held });
            }
            Entry::Transaction(_) => {
                debug_assert!(false, "the caller runs it, and stages its record")
            }
        }
    }

    fn put_call(&mut self, entry: CallEntry<'_>) {
        let start = self.bytes.len();
        entry.encode(&mut self.bytes);
        let key = call_key(entry.session.to_bytes(), entry.slot);
        let (xid, bytes) = (entry.record.xid.get(), start..self.bytes.len());
        self.writes.push(Write::PutCall { key, xid, bytes });
    }

    /// Writes what is staged, in the order in which it was.
    fn write_staged(&mut self, transaction: &Transaction) -> Result<(), redb::Error> {
        let mut calls = transaction.inner.open_table(CALLS)?;
        for write in &self.writes {
            match write {
                Write::PutSession(id, bytes) => {
                    let mut sessions = transaction.inner.open_table(SESSIONS)?;
                    sessions.insert(id, &self.bytes[bytes.clone()])?;
                }
                Write::RemoveSession(id) => {
                    transaction.inner.open_table(SESSIONS)?.remove(id)?;
                    let (first, last) = all_calls(*id);
                    calls.retain_in::<&[u8; 18], _>(&first..=&last, |_, _| false)?;
                }
                Write::PutCall { key, xid, bytes } => {
                    put_call(&mut calls, key, *xid, &self.bytes[bytes.clone()])?;
                }
                Write::RemoveCall { key, xid } => {
                    let there = calls.get(key)?.and_then(|old| CallEntry::xid_of(old.value()));
                    if there == Some(*xid) {
                        calls.remove(key)?;
                    }
                }
                Write::Settle { session, seen, held } => {
                    settle(&mut calls, *session, *seen, held)?;
                    note_seen(&mut transaction.inner.open_table(SESSIONS)?, *session, *seen)?;
                }
            }
        }
        self.clear_staged();
        Ok(())
    }

    /// Writes what is staged, and makes it durable with all else that is in the transaction.
    fn finish(&mut self, transaction: Transaction, commit: u64) -> Result<(), redb::Error> {
        debug_assert!(
            commit > self.identity.commit,
            "the number shows an old copy only if it grows"
        );
        self.write_staged(&transaction)?;
        debug_assert!(
            self.writes.is_empty() && self.bytes.is_empty(),
            "nothing is left for the next"
        );
        file::write_commit(&transaction.inner, commit)?;
        Ok(transaction.into_inner()?.commit()?)
    }

    fn try_commit(&mut self, batch: &mut Batch<Transaction>) -> Result<u64, redb::Error> {
        let commit = self.identity.commit + 1;
        self.clear_staged();
        let mut transaction = Transaction::new(self.database.begin_write()?);
        let effects = match self.run_together(batch, &mut transaction) {
            Ok(()) => transaction.has_effects(),
            Err(RolledBack) => {
                transaction.into_inner()?.abort()?;
                self.clear_staged();
                let effects = self.run_separately(batch)?;
                transaction = Transaction::new(self.database.begin_write()?);
                effects
            }
        };
        self.finish(transaction, commit)?;
        self.identity.commit = commit;
        self.snapshots.set(self.database.begin_read()?, effects.then_some(commit));
        if effects {
            self.changes.committed(commit);
        }
        Ok(commit)
    }

    /// Where a simulator lets a commit fail.
    fn may_stop(&mut self) -> Result<(), redb::Error> {
        #[cfg(any(test, feature = "_faults"))]
        self.faults.may_stop()?;
        Ok(())
    }

    /// The mutant that writes records after their effects.
    fn keeps_records_apart(&self) -> bool {
        #[cfg(any(test, feature = "_faults"))]
        return self.faults.records_apart;
        #[cfg(not(any(test, feature = "_faults")))]
        false
    }

    fn clear_staged(&mut self) {
        self.writes.clear();
        self.bytes.clear();
        // One large batch does not cost its memory for ever.
        self.bytes.shrink_to(1 << 20);
    }
}

impl Store for RedbStore {
    type Transaction = Transaction;

    fn identity(&self) -> Identity {
        self.identity
    }

    fn recover(&mut self, restore: &mut Restore<'_>) -> Result<(), LedgerError> {
        let transaction = self.database.begin_read().map_err(cannot_read)?;
        let sessions = transaction.open_table(SESSIONS).map_err(cannot_read)?;
        for session in sessions.iter().map_err(cannot_read)? {
            let (id, bytes) = session.map_err(cannot_read)?;
            let entry = SessionEntry::decode(SessionId::from_bytes(*id.value()), bytes.value());
            restore.session(&entry.ok_or_else(|| broken("a session"))?);
        }
        let calls = transaction.open_table(CALLS).map_err(cannot_read)?;
        for call in calls.iter().map_err(cannot_read)? {
            let (key, bytes) = call.map_err(cannot_read)?;
            let (session, slot) = call_name(key.value());
            let entry = CallEntry::decode(session, slot, bytes.value());
            restore.call(entry.ok_or_else(|| broken("a call"))?);
        }
        Ok(())
    }

    fn commit(&mut self, batch: &mut Batch<Transaction>) -> Result<u64, LedgerError> {
        self.try_commit(batch).map_err(|error| {
            let error = LedgerError::new(format!(
                "the ledger cannot be written: {error}; what has no record is not answered: see that \
                 the disk has room and is healthy, then start the server again"
            ));
            self.changes.fail(error.clone());
            error
        })
    }
}

fn put_call(
    calls: &mut Table<'_, &[u8; 18], &[u8]>,
    key: &[u8; 18],
    xid: u64,
    bytes: &[u8],
) -> Result<(), redb::StorageError> {
    // A record of a later xid stays. The record of an expired call can come after that of the next call on its slot;
    // where it replaced that one, the next call ran again after a crash (C76).
    let is_later = |old: &[u8]| CallEntry::xid_of(old).is_some_and(|old| old > xid);
    let old = calls.insert(key, bytes)?;
    let later = old.filter(|old| is_later(old.value())).map(|old| old.value().to_vec());
    if let Some(later) = later {
        calls.insert(key, &later[..])?;
    }
    Ok(())
}

/// Removes the records of a session up to `seen`, but those of `held`.
fn settle(
    calls: &mut Table<'_, &[u8; 18], &[u8]>,
    session: [u8; 16],
    seen: u64,
    held: &[u64],
) -> Result<(), redb::StorageError> {
    debug_assert!(held.is_sorted(), "it is searched by halves");
    let mut gone = Vec::new();
    let (first, last) = all_calls(session);
    for call in calls.range::<&[u8; 18]>(&first..=&last)? {
        let (key, bytes) = call?;
        let xid = CallEntry::xid_of(bytes.value()).unwrap_or(0);
        if xid <= seen && held.binary_search(&xid).is_err() {
            gone.push(*key.value());
        }
    }
    for key in gone {
        calls.remove(&key)?;
    }
    Ok(())
}

fn note_seen(
    sessions: &mut Table<'_, &[u8; 16], &[u8]>,
    id: [u8; 16],
    seen: u64,
) -> Result<(), redb::StorageError> {
    let entry = sessions
        .get(&id)?
        .and_then(|bytes| SessionEntry::decode(SessionId::from_bytes(id), bytes.value()));
    if let Some(mut entry) = entry {
        entry.seen = seen;
        sessions.insert(&id, &entry.encode()[..])?;
    }
    Ok(())
}

fn call_key(session: [u8; 16], slot: u16) -> [u8; 18] {
    let mut key = [0; 18];
    key[..16].copy_from_slice(&session);
    key[16..].copy_from_slice(&slot.to_be_bytes());
    key
}

/// The session and the slot in a key.
pub(crate) fn call_name(key: &[u8; 18]) -> (SessionId, u16) {
    let mut id = [0; 16];
    id.copy_from_slice(&key[..16]);
    (SessionId::from_bytes(id), u16::from_be_bytes([key[16], key[17]]))
}

/// The first and the last key of the calls of a session.
fn all_calls(session: [u8; 16]) -> ([u8; 18], [u8; 18]) {
    (call_key(session, 0), call_key(session, u16::MAX))
}

fn cannot_read(error: impl Into<redb::Error>) -> LedgerError {
    let error: redb::Error = error.into();
    LedgerError::new(format!("the ledger cannot be read: {error}; restore a copy of it"))
}

fn broken(what: &str) -> LedgerError {
    LedgerError::new(format!(
        "the ledger is corrupt: {what} in it cannot be decoded; `oncewire-ledger verify` says how \
         much is broken; restore a copy"
    ))
}
