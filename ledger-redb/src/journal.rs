//! The journal of a durable client in one file.
//!
//! One table: every entry by its key, each written over the last one of the same key. There is nothing to compact, and the
//! file is as long as what is unsettled.

use std::fmt;
use std::path::Path;

use oncewire_driver::files::LockFile;
use oncewire_driver::journal::{
    Journal, JournalBatch, JournalError, JournalKey, JournalStore, JournalThread, JournalWrite,
};
use redb::{
    Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableError,
};

use crate::file;

/// All that is kept, by the bytes of its key.
const ENTRIES: TableDefinition<'_, &[u8; 9], &[u8]> = TableDefinition::new("oncewire.journal");

/// A journal in a file of redb, on its own thread: for a
/// [`DurableClient`](oncewire_driver::DurableClient).
///
/// ```no_run
/// use oncewire_driver::{ClientOptions, Connect, DurableClient};
/// use oncewire_ledger_redb::RedbJournal;
///
/// fn open(connector: impl Connect) -> Result<DurableClient, oncewire_driver::journal::JournalError> {
///     let journal = RedbJournal::open("orders.journal")?;
///     let (client, left) = DurableClient::open(connector, ClientOptions::default(), journal)?;
///     println!("{} calls were left behind", left.len());
///     Ok(client)
/// }
/// ```
#[derive(Debug)]
pub struct RedbJournal(JournalThread<RedbJournalStore>);

impl RedbJournal {
    /// Opens the journal in this file, or makes one if there is no such file. `PATH.lock` is kept beside it while it is
    /// open, so that no two clients use one journal. It holds the session's id, which is a secret: it is made with mode
    /// 0600, and must be so when it is opened.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do about it. A file that is no journal, a broken one, and one that is not
    /// this user's alone, is left as it is.
    pub fn open(path: impl AsRef<Path>) -> Result<RedbJournal, JournalError> {
        Ok(RedbJournal::new(RedbJournalStore::open(path.as_ref())?))
    }

    /// The journal of a store.
    pub fn new(store: RedbJournalStore) -> RedbJournal {
        RedbJournal(JournalThread::new(store))
    }
}

impl Journal for RedbJournal {
    fn recover(&self, keep: &mut dyn FnMut(JournalKey, &[u8])) -> Result<(), JournalError> {
        self.0.recover(keep)
    }

    fn commit(&self, batch: JournalBatch) {
        self.0.commit(batch);
    }
}

/// A journal's file, or another storage. Its commits block; [`RedbJournal`] gives it a thread.
pub struct RedbJournalStore {
    database: Database,
    /// Held, not used: others are kept away while it is open.
    _lock: Option<LockFile>,
}

impl fmt::Debug for RedbJournalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbJournalStore").finish_non_exhaustive()
    }
}

impl RedbJournalStore {
    /// Opens the journal in this file, or makes one if there is none; see [`RedbJournal::open`].
    ///
    /// # Errors
    /// What is wrong with the file, and what to do about it.
    pub fn open(path: &Path) -> Result<RedbJournalStore, JournalError> {
        let (database, lock) = file::open_journal(path)?;
        Ok(RedbJournalStore { database, _lock: Some(lock) })
    }

    /// The same on any storage, a simulated disk, say; made there if the storage is empty.
    ///
    /// # Errors
    /// What is wrong with the storage, and what to do about it.
    pub fn with_backend(backend: impl StorageBackend) -> Result<RedbJournalStore, JournalError> {
        let database = file::open_journal_backend(backend)?;
        Ok(RedbJournalStore { database, _lock: None })
    }

    fn read(&self, keep: &mut dyn FnMut(JournalKey, &[u8])) -> Result<bool, redb::Error> {
        let entries = match self.database.begin_read()?.open_table(ENTRIES) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(true),
            entries => entries?,
        };
        for entry in entries.iter()? {
            let (key, bytes) = entry?;
            let Some(key) = JournalKey::from_bytes(*key.value()) else { return Ok(false) };
            keep(key, bytes.value());
        }
        Ok(true)
    }

    fn write(&self, writes: &[JournalWrite]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut entries = transaction.open_table(ENTRIES)?;
            for JournalWrite { key, value } in writes {
                match value {
                    Some(value) => drop(entries.insert(&key.to_bytes(), &value[..])?),
                    None => drop(entries.remove(&key.to_bytes())?),
                }
            }
        }
        Ok(transaction.commit()?)
    }
}

impl JournalStore for RedbJournalStore {
    fn recover(&mut self, keep: &mut dyn FnMut(JournalKey, &[u8])) -> Result<(), JournalError> {
        match self.read(keep) {
            Ok(true) => Ok(()),
            Ok(false) => Err(JournalError::new(
                "the journal is corrupt: a key in it is none of its own; what it held cannot be \
                 learned from it",
            )),
            Err(error) => Err(JournalError::new(format!("the journal cannot be read: {error}"))),
        }
    }

    fn commit(&mut self, writes: &[JournalWrite]) -> Result<(), JournalError> {
        self.write(writes).map_err(|error| {
            JournalError::new(format!(
                "the journal cannot be written: {error}; nothing leaves unrecorded: see that the \
                 disk has room and is healthy, then start the program again"
            ))
        })
    }
}
