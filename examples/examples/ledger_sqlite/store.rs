//! Completion records in a service's own SQLite database, in the same transaction as what its handlers write.
//!
//! `driver/LEDGERS.md` says why each statement is as it is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use oncewire::files::{self, LockError, LockFile};
use oncewire::ledger::{
    Batch, CallEntry, CallName, Entry, Identity, LedgerError, LedgerThread, Restore, SessionEntry,
    Store,
};
use oncewire::{ServerId, SessionId};
use rusqlite::{Connection, OptionalExtension, Params, Row, params};

/// What the ledger needs beside the service's own tables.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS oncewire_server (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        id BLOB NOT NULL,
        commit_number INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS oncewire_sessions (
        id BLOB PRIMARY KEY,
        entry BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS oncewire_calls (
        session BLOB NOT NULL,
        slot INTEGER NOT NULL,
        xid INTEGER NOT NULL,
        record BLOB NOT NULL,
        PRIMARY KEY (session, slot)
    ) WITHOUT ROWID;
";

/// A record never replaces one of a later xid on its slot.
const PUT_CALL: &str = "
    INSERT INTO oncewire_calls (session, slot, xid, record) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (session, slot) DO UPDATE SET xid = excluded.xid, record = excluded.record
    WHERE oncewire_calls.xid <= excluded.xid";
const WITHDRAW: &str = "DELETE FROM oncewire_calls WHERE session = ?1 AND slot = ?2 AND xid = ?3";
const SETTLE: &str = "
    DELETE FROM oncewire_calls
    WHERE session = ?1 AND xid <= ?2 AND xid NOT IN (SELECT value FROM json_each(?3))";
const PUT_SESSION: &str = "
    INSERT INTO oncewire_sessions (id, entry) VALUES (?1, ?2)
    ON CONFLICT (id) DO UPDATE SET entry = excluded.entry";
const END_CALLS: &str = "DELETE FROM oncewire_calls WHERE session = ?1";
const END_SESSION: &str = "DELETE FROM oncewire_sessions WHERE id = ?1";

/// How long a commit waits for another writer of the database.
const BUSY: Duration = Duration::from_secs(10);

/// In which transactional handlers read and write the service's tables.
#[derive(Debug)]
pub struct Transaction(Connection);

impl Transaction {
    /// Executes one statement and says how many rows it changed.
    ///
    /// # Errors
    /// SQLite's; `?` makes a rollback of this call of it.
    pub fn execute(&mut self, sql: &str, values: impl Params) -> rusqlite::Result<usize> {
        self.0.prepare_cached(sql)?.execute(values)
    }

    /// The first row of a query, read by `read`.
    ///
    /// # Errors
    /// As [`execute`](Transaction::execute); also if there is no row.
    pub fn row<T>(
        &mut self,
        sql: &str,
        values: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        self.0.prepare_cached(sql)?.query_row(values, read)
    }
}

/// A service's database, with the records of its calls in it.
#[derive(Debug)]
pub struct SqliteStore {
    transaction: Transaction,
    identity: Identity,
    /// Held, not used: no second server uses the database.
    _lock: LockFile,
}

/// A number as SQLite has it. Ours are counted up from one, and stay far below.
fn number(number: u64) -> rusqlite::Result<i64> {
    i64::try_from(number).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn say(what: &str) -> impl Fn(rusqlite::Error) -> LedgerError {
    move |error| LedgerError::new(format!("the database cannot be {what}: {error}"))
}

impl SqliteStore {
    /// Opens the database, makes `tables` of the service and the ledger's own where there are none yet.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn open(path: &Path, tables: &str) -> Result<SqliteStore, LedgerError> {
        let lock = lock(path)?;
        keep_private(path).map_err(|error| {
            LedgerError::new(format!("{} cannot be used: {error}", path.display()))
        })?;
        let connection = Connection::open(path).map_err(say("opened"))?;
        let identity = prepare(&connection, tables).map_err(say("prepared"))?;
        Ok(SqliteStore { transaction: Transaction(connection), identity, _lock: lock })
    }

    /// The ledger of this store.
    pub fn into_ledger(self) -> LedgerThread<SqliteStore> {
        LedgerThread::new(self)
    }

    fn apply(&mut self, batch: &mut Batch<Transaction>, commit: u64) -> rusqlite::Result<()> {
        for entry in batch.entries() {
            match entry {
                Entry::SessionOpened(session) => {
                    let id = session.id.to_bytes();
                    self.transaction.execute(PUT_SESSION, params![id, session.encode()])?;
                }
                Entry::SessionEnded(id) => {
                    let id = id.to_bytes();
                    self.transaction.execute(END_CALLS, [id])?;
                    self.transaction.execute(END_SESSION, [id])?;
                }
                Entry::Call(call) => self.put_call(call)?,
                Entry::Withdrawn(CallName { session, slot, xid }) => {
                    let xid = number(xid.get())?;
                    self.transaction.execute(WITHDRAW, params![session.to_bytes(), slot, xid])?;
                }
                Entry::Settled { session, seen, held } => {
                    let held: Vec<String> = held.iter().map(|xid| xid.get().to_string()).collect();
                    let held = format!("[{}]", held.join(","));
                    let id = session.to_bytes();
                    self.transaction.execute(SETTLE, params![id, number(seen)?, held])?;
                    self.note_seen(session, seen)?;
                }
                Entry::Transaction(call) => {
                    // What this call did can be taken back without its neighbours'.
                    self.transaction.execute("SAVEPOINT oncewire_call", [])?;
                    match call.run(&mut self.transaction) {
                        Some(record) => self.put_call(record)?,
                        None => {
                            self.transaction.execute("ROLLBACK TO oncewire_call", [])?;
                        }
                    }
                    // Fails if the handler ended the transaction by itself: nothing is answered then.
                    self.transaction.execute("RELEASE oncewire_call", [])?;
                }
            }
        }
        let commit = number(commit)?;
        self.transaction.execute("UPDATE oncewire_server SET commit_number = ?1", [commit])?;
        Ok(())
    }

    fn put_call(&mut self, call: CallEntry<'_>) -> rusqlite::Result<()> {
        let (session, xid) = (call.session.to_bytes(), number(call.record.xid.get())?);
        let mut record = Vec::new();
        call.encode(&mut record);
        self.transaction.execute(PUT_CALL, params![session, call.slot, xid, record])?;
        Ok(())
    }

    fn note_seen(&mut self, session: SessionId, seen: u64) -> rusqlite::Result<()> {
        let id = session.to_bytes();
        let sql = "SELECT entry FROM oncewire_sessions WHERE id = ?1";
        let bytes: Option<Vec<u8>> =
            self.transaction.row(sql, [id], |row| row.get(0)).optional()?;
        if let Some(mut entry) = bytes.and_then(|bytes| SessionEntry::decode(session, &bytes)) {
            entry.seen = seen;
            self.transaction.execute(PUT_SESSION, params![id, entry.encode()])?;
        }
        Ok(())
    }

    fn try_recover(&self, restore: &mut Restore<'_>) -> rusqlite::Result<bool> {
        let connection = &self.transaction.0;
        let mut sessions = connection.prepare("SELECT id, entry FROM oncewire_sessions")?;
        let mut rows = sessions.query([])?;
        while let Some(row) = rows.next()? {
            let (id, bytes): ([u8; 16], Vec<u8>) = (row.get(0)?, row.get(1)?);
            match SessionEntry::decode(SessionId::from_bytes(id), &bytes) {
                Some(entry) => restore.session(&entry),
                None => return Ok(false),
            }
        }
        let mut calls = connection.prepare("SELECT session, slot, record FROM oncewire_calls")?;
        let mut rows = calls.query([])?;
        while let Some(row) = rows.next()? {
            let (id, slot, bytes): ([u8; 16], u16, Vec<u8>) =
                (row.get(0)?, row.get(1)?, row.get(2)?);
            match CallEntry::decode(SessionId::from_bytes(id), slot, &bytes) {
                Some(entry) => restore.call(entry),
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

impl Store for SqliteStore {
    type Transaction = Transaction;

    fn identity(&self) -> Identity {
        self.identity
    }

    fn recover(&mut self, restore: &mut Restore<'_>) -> Result<(), LedgerError> {
        match self.try_recover(restore).map_err(say("read"))? {
            true => Ok(()),
            false => Err(LedgerError::new("a record in the database cannot be decoded")),
        }
    }

    fn commit(&mut self, batch: &mut Batch<Transaction>) -> Result<u64, LedgerError> {
        let commit = self.identity.commit + 1;
        self.transaction.0.execute_batch("BEGIN IMMEDIATE").map_err(say("written"))?;
        let applied = self.apply(batch, commit);
        let done = applied.and_then(|()| self.transaction.0.execute_batch("COMMIT"));
        if let Err(error) = done {
            // No other batch will come; what is still open must not keep others out.
            let _ = self.transaction.0.execute_batch("ROLLBACK");
            return Err(say("written")(error));
        }
        self.identity.commit = commit;
        Ok(commit)
    }
}

/// Keeps other servers away. Not SQLite's own lock: other programs may read the database, and write to it.
fn lock(path: &Path) -> Result<LockFile, LedgerError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    LockFile::take(&name).map_err(|error| match error {
        LockError::Held(_) => LedgerError::new(format!("another server uses {}", path.display())),
        LockError::Unusable(error) => LedgerError::new(format!("{}: {error}", name.display())),
    })
}

/// Sees that only this user can read the database, which holds the ids of sessions, before there is anything in it. SQLite
/// gives the files that it makes beside it the same mode.
fn keep_private(path: &Path) -> std::io::Result<()> {
    let file = if files::exists(path)? {
        files::open_regular(path)?
    } else {
        files::create_private(path)?
    };
    files::check_private(path, &file)
}

/// Settings, tables, and whose database it is.
fn prepare(connection: &Connection, tables: &str) -> rusqlite::Result<Identity> {
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // NORMAL would not sync a commit in WAL mode: a power cut could take back what was answered.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.execute_batch(&format!("BEGIN IMMEDIATE; {TABLES} {tables} COMMIT"))?;
    // Random, and made once with the database.
    let new = "INSERT OR IGNORE INTO oncewire_server VALUES (1, randomblob(16), 0)";
    connection.execute(new, [])?;
    connection.query_row("SELECT id, commit_number FROM oncewire_server", [], |row| {
        let (id, commit): ([u8; 16], i64) = (row.get(0)?, row.get(1)?);
        let commit = u64::try_from(commit)
            .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(1, commit))?;
        Ok(Identity { server: ServerId::from_bytes(id), commit })
    })
}
