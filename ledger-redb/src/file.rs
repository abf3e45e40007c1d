//! Opening, creating and locking files, of ledgers and of journals, and what is wrong with them.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use oncewire_driver::files::{self, LockError, LockFile};
use oncewire_driver::ledger::{Identity, LedgerError};
use oncewire_driver::protocol::ServerId;
use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, StorageBackend, StorageError, TableDefinition,
    TableError,
};

/// Server id, commit number, format.
pub(crate) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("oncewire.meta");
/// Sessions by id.
pub(crate) const SESSIONS: TableDefinition<'_, &[u8; 16], &[u8]> =
    TableDefinition::new("oncewire.sessions");
/// Calls by session id and slot, in big-endian order.
pub(crate) const CALLS: TableDefinition<'_, &[u8; 18], &[u8]> =
    TableDefinition::new("oncewire.calls");

/// What a file is for, and how messages call it.
pub(crate) struct Kind {
    noun: &'static str,
    /// Only files of this kind have it.
    meta: TableDefinition<'static, &'static str, &'static [u8]>,
    /// What to do when a file of this kind is broken.
    remedy: &'static str,
    /// What to do when it is corrupt inside.
    remedy_inside: &'static str,
}

/// Ledgers of servers.
pub(crate) const LEDGER: Kind = Kind {
    noun: "ledger",
    meta: META,
    remedy: "restore a copy",
    remedy_inside: "restore a copy with `oncewire-ledger restore`",
};

/// Journals of clients.
pub(crate) const JOURNAL: Kind = Kind {
    noun: "journal",
    meta: TableDefinition::new("oncewire.journal.meta"),
    // A client that continues from a copy uses numbers again that its server knows; a new call once got an old reply (C83).
    remedy: NO_COPY,
    remedy_inside: NO_COPY,
};

const NO_COPY: &str = "what it held cannot be learned from it any more, and no copy may take its place: remove it \
                       when its calls have been seen to by other means";

const FORMAT: &str = "format";
const SERVER: &str = "server";
const COMMIT: &str = "commit";
/// The format that this version writes, and the latest that it reads.
const FORMAT_NUMBER: u32 = 2;
/// The oldest format that this version reads.
const FORMAT_OLDEST: u32 = 2;
/// How files of redb begin.
const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";
/// Bytes of pages that redb keeps in memory.
const CACHE_LEN: usize = 64 << 20;

/// A ledger that is open, and the lock that keeps others away.
pub(crate) struct OpenFile {
    pub(crate) database: Database,
    pub(crate) identity: Identity,
    /// `None` for a storage that is no file.
    pub(crate) lock: Option<LockFile>,
}

pub(crate) fn open_or_create(path: &Path) -> Result<OpenFile, LedgerError> {
    let lock = lock(path)?;
    if !files::exists(path).map_err(|error| unusable(path, &error))? {
        let server = random_id()?;
        create(path, &LEDGER, |database| write_identity(database, server, 0))?;
    }
    open_locked(path, lock)
}

/// Opens a journal, and makes one if there is no such file. Returns it and the lock that keeps others away.
pub(crate) fn open_journal(path: &Path) -> Result<(Database, LockFile), LedgerError> {
    let lock = lock_as(path, &JOURNAL)?;
    if !files::exists(path).map_err(|error| unusable(path, &error))? {
        create(path, &JOURNAL, write_journal)?;
    }
    let (database, ()) = open_database(path, &JOURNAL, check_journal)?;
    Ok((database, lock))
}

/// A journal on a storage that is no file; made there if the storage is empty.
pub(crate) fn open_journal_backend(backend: impl StorageBackend) -> Result<Database, LedgerError> {
    let path = Path::new("the journal's storage");
    let fresh = backend.len().map_err(|error| unusable(path, &error))? == 0;
    let database = builder()
        .create_with_backend(backend)
        .map_err(|error| JOURNAL.database_error(path, error))?;
    if fresh {
        write_journal(&database).map_err(|error| unusable(path, &error))?;
    }
    check_journal(&database).map_err(|why| JOURNAL.wrong(path, &why))?;
    Ok(database)
}

fn write_journal(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    write_format(&transaction, &JOURNAL)?;
    Ok(transaction.commit()?)
}

fn check_journal(database: &Database) -> Result<(), String> {
    let transaction = database.begin_read().map_err(|error| cannot_be_read(&error))?;
    open_meta(&transaction, &JOURNAL).map(drop)
}

/// Opens a ledger that exists.
pub(crate) fn open(path: &Path) -> Result<OpenFile, LedgerError> {
    if !files::exists(path).map_err(|error| unusable(path, &error))? {
        return Err(wrong(path, "there is no such file: check the path"));
    }
    let lock = lock(path)?;
    open_locked(path, lock)
}

fn open_locked(path: &Path, lock: LockFile) -> Result<OpenFile, LedgerError> {
    let (database, identity) = open_database(path, &LEDGER, read_identity)?;
    Ok(OpenFile { database, identity, lock: Some(lock) })
}

/// Opens a file of ours, and reads with `read` what kind of file it is.
fn open_database<T>(
    path: &Path,
    kind: &Kind,
    read: impl FnOnce(&Database) -> Result<T, String>,
) -> Result<(Database, T), LedgerError> {
    let file = files::open_regular(path).map_err(|error| unusable(path, &error))?;
    check_magic(path, &file, kind)?;
    // It holds the ids of sessions: anyone who reads one can act in its name. When any mode was accepted, another user of
    // the machine resumed a live session (C120).
    files::check_private(path, &file).map_err(|error| kind.wrong(path, &error.to_string()))?;
    let database = of_file(file).map_err(|error| kind.database_error(path, error))?;
    let content = read(&database).map_err(|why| kind.wrong(path, &why))?;
    Ok((database, content))
}

/// A ledger on a storage that is no file; made there if the storage is empty.
pub(crate) fn open_backend(
    backend: impl StorageBackend,
    server: ServerId,
) -> Result<OpenFile, LedgerError> {
    let path = Path::new("the ledger's storage");
    let fresh = backend.len().map_err(|error| unusable(path, &error))? == 0;
    let database = builder()
        .create_with_backend(backend)
        .map_err(|error| LEDGER.database_error(path, error))?;
    if fresh {
        write_identity(&database, server, 0).map_err(|error| unusable(path, &error))?;
    }
    let identity = read_identity(&database).map_err(|why| wrong(path, &why))?;
    Ok(OpenFile { database, identity, lock: None })
}

/// The database in this very file, whatever its path leads to by now.
fn of_file(file: File) -> Result<Database, DatabaseError> {
    builder().create_with_backend(FileBackend::new(file)?)
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    // A file that something else has damaged is reported, not repaired.
    builder.set_check_integrity_on_open(true).set_cache_size(CACHE_LEN);
    builder
}

/// Makes a file under another name first, so that there is never half of one.
fn create(
    path: &Path,
    kind: &Kind,
    write: impl FnOnce(&Database) -> Result<(), redb::Error>,
) -> Result<(), LedgerError> {
    let (new, file) = create_beside(path)?;
    let database = of_file(file).map_err(|error| kind.database_error(&new, error))?;
    write(&database).map_err(|error| unusable(&new, &error))?;
    drop(database);
    put_in_place(&new, path)
}

/// An empty file of ours beside `path`. One that was left there half made is removed; anything else in its place is left
/// alone and is an error, since it was once truncated although it belonged to another program (C121).
pub(crate) fn create_beside(path: &Path) -> Result<(PathBuf, File), LedgerError> {
    let new = beside(path, "new");
    let created = files::remove_own(&new).and_then(|()| {
        let file = files::create_private(&new)?;
        files::check_private(&new, &file).inspect_err(|_| drop(files::remove_own(&new)))?;
        Ok(file)
    });
    let file = created.map_err(|error| unusable(&new, &error))?;
    Ok((new, file))
}

/// Gives a file that is whole its name, durably.
pub(crate) fn put_in_place(new: &Path, path: &Path) -> Result<(), LedgerError> {
    std::fs::rename(new, path).map_err(|error| unusable(path, &error))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let sync = File::open(folder).and_then(|folder| folder.sync_all());
    sync.map_err(|error| unusable(folder, &error))
}

pub(crate) fn random_id() -> Result<ServerId, LedgerError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|error| LedgerError::new(format!("the system has no random numbers: {error}")))?;
    Ok(ServerId::from_bytes(id))
}

pub(crate) fn write_identity(
    database: &Database,
    server: ServerId,
    commit: u64,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        write_format(&transaction, &LEDGER)?;
        let mut meta = transaction.open_table(META)?;
        meta.insert(SERVER, &server.to_bytes()[..])?;
        meta.insert(COMMIT, &commit.to_le_bytes()[..])?;
        transaction.open_table(SESSIONS)?;
        transaction.open_table(CALLS)?;
    }
    Ok(transaction.commit()?)
}

fn write_format(transaction: &redb::WriteTransaction, kind: &Kind) -> Result<(), redb::Error> {
    transaction.open_table(kind.meta)?.insert(FORMAT, &FORMAT_NUMBER.to_le_bytes()[..])?;
    Ok(())
}

/// Notes how far the ledger has come, in the transaction that goes there.
pub(crate) fn write_commit(
    transaction: &redb::WriteTransaction,
    commit: u64,
) -> Result<(), redb::Error> {
    transaction.open_table(META)?.insert(COMMIT, &commit.to_le_bytes()[..])?;
    Ok(())
}

/// Whose ledger it is, or what it is instead.
fn read_identity(database: &Database) -> Result<Identity, String> {
    let transaction = database.begin_read().map_err(|error| cannot_be_read(&error))?;
    let meta = open_meta(&transaction, &LEDGER)?;
    match (field(&meta, SERVER)?.try_into(), field(&meta, COMMIT)?.try_into()) {
        (Ok(server), Ok(commit)) => Ok(Identity {
            server: ServerId::from_bytes(server),
            commit: u64::from_le_bytes(commit),
        }),
        _ => Err("its server id or its commit number is broken: restore a copy".to_owned()),
    }
}

type Meta = redb::ReadOnlyTable<&'static str, &'static [u8]>;

/// What a file says of itself, if it is of this kind and this version can read it.
fn open_meta(transaction: &redb::ReadTransaction, kind: &Kind) -> Result<Meta, String> {
    let noun = kind.noun;
    let meta = match transaction.open_table(kind.meta) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) => {
            return Err(format!("it is a redb file, but no Oncewire {noun}: choose another path"));
        }
        Err(error) => return Err(cannot_be_read(&error)),
    };
    match field(&meta, FORMAT)?.try_into().map(u32::from_le_bytes) {
        Ok(known) if (FORMAT_OLDEST..=FORMAT_NUMBER).contains(&known) => Ok(meta),
        Ok(later) if later > FORMAT_NUMBER => Err(format!(
            "it has format {later}, and this version knows formats up to {FORMAT_NUMBER}: \
             use the version of oncewire-ledger-redb that wrote it, or a later one"
        )),
        Ok(earlier) if earlier > 0 => Err(format!(
            "it has format {earlier}, and this version knows formats from {FORMAT_OLDEST}: \
             let the servers and clients that use it finish with the version that wrote it"
        )),
        _ => Err(format!("its format number is broken: {}", kind.remedy)),
    }
}

fn field(meta: &Meta, name: &str) -> Result<Vec<u8>, String> {
    let value = meta.get(name).map_err(|error| cannot_be_read(&error))?;
    Ok(value.map(|value| value.value().to_vec()).unwrap_or_default())
}

fn cannot_be_read(error: &dyn std::fmt::Display) -> String {
    format!("it cannot be read: {error}")
}

/// Keeps other servers away, and gives them our pid.
pub(crate) fn lock(path: &Path) -> Result<LockFile, LedgerError> {
    lock_as(path, &LEDGER)
}

fn lock_as(path: &Path, kind: &Kind) -> Result<LockFile, LedgerError> {
    let lock_path = beside(path, "lock");
    LockFile::take(&lock_path).map_err(|error| match error {
        LockError::Held(pid) => {
            let holder = match pid {
                Some(pid) => format!("process {pid}"),
                None => "another process".to_owned(),
            };
            let why = format!("{holder} uses it: end that first, or choose another path");
            kind.wrong(path, &why)
        }
        LockError::Unusable(error) => unusable(&lock_path, &error),
    })
}

/// The path with a dot and this ending behind it.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

fn check_magic(path: &Path, mut file: &File, kind: &Kind) -> Result<(), LedgerError> {
    forget_cached(file).map_err(|error| unusable(path, &error))?;
    let mut start = [0; MAGIC.len()];
    match file.read_exact(&mut start) {
        Ok(()) if start == MAGIC => Ok(()),
        Ok(()) => Err(kind.wrong(
            path,
            &format!(
                "it is something else, or its beginning was overwritten: choose another path, or {}",
                kind.remedy
            ),
        )),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(kind.wrong(
            path,
            &format!(
                "it is empty or cut off: {}; only if there never was one, remove it, and a new \
                 one is made",
                kind.remedy
            ),
        )),
        Err(error) => Err(unusable(path, &error)),
    }
}

/// From here on, reads show what is on the disk.
///
/// After an fsync that failed, Linux takes what it could not write for clean, and keeps showing it to every process that opens the
/// file next; no later fsync writes it. What a server had built on that would be gone after a power cut, so it is dropped
/// before anything is read.
fn forget_cached(file: &File) -> std::io::Result<()> {
    file.sync_data()?;
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

/// What is wrong with a ledger, and what to do.
pub(crate) fn wrong(path: &Path, why: &str) -> LedgerError {
    LEDGER.wrong(path, why)
}

/// What the system says of a file.
pub(crate) fn unusable(path: &Path, error: &dyn std::fmt::Display) -> LedgerError {
    LedgerError::new(format!(
        "{} cannot be read and written: {error}; check that it is a file in a folder that exists, \
         that this user may write both, and that the disk has room",
        path.display()
    ))
}

impl Kind {
    fn wrong(&self, path: &Path, why: &str) -> LedgerError {
        let noun = self.noun;
        LedgerError::new(format!("the {noun} {} cannot be used: {why}", path.display()))
    }

    fn database_error(&self, path: &Path, error: DatabaseError) -> LedgerError {
        let corrupt = |what: &dyn std::fmt::Display| {
            self.wrong(path, &format!("it is corrupt ({what}): {}", self.remedy_inside))
        };
        match error {
            DatabaseError::DatabaseAlreadyOpen => {
                self.wrong(path, "another program has it open: end that first")
            }
            DatabaseError::UpgradeRequired(format) => self.wrong(
                path,
                &format!(
                    "its redb file format {format} is not that of this version: use the version \
                     that wrote it"
                ),
            ),
            DatabaseError::Storage(StorageError::Corrupted(what)) => corrupt(&what),
            DatabaseError::Storage(StorageError::Io(error))
                if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
            {
                corrupt(&error)
            }
            other => unusable(path, &other),
        }
    }
}
