//! The store of a ledger: a batch becomes one transaction.
//!
//! It is tried without savepoints. Only where a call was rolled back, or one of its statements failed, is the transaction given up,
//! and run again with each call in a savepoint. `call.run` may be called again for that, and what the last run said counts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use oncewire_driver::ledger::{
    Batch, CallEntry, Changes, Claim, Entry, Identity, LedgerError, Restore, Store, Transactional,
};
use oncewire_driver::protocol::SessionId;
use postgres::IsolationLevel;
use postgres::error::SqlState;
use sha2::{Digest, Sha256};

use crate::error::{Verdict, explain, text_of, verdict};
use crate::kept::{Kept, broken, for_each};
use crate::lanes::{Lanes, open_lane};
use crate::options::PostgresOptions;
use crate::reads::Reads;
use crate::schema::{self, BEGIN, Opened, Turn, Undone, is_durable};
use crate::shared::Sharing;
use crate::sql::Sql;
use crate::staged::{Staged, TOP};
use crate::transaction::{Pass, Transaction, Trouble};

/// How often a batch is begun again because another transaction was first, before that is the ledger's error.
const AGAIN_MAX: u32 = 1_000;

/// A ledger's tables in PostgreSQL. Its commits block; [`PostgresLedger`](crate::PostgresLedger) gives it a thread.
pub struct PostgresStore {
    transaction: Transaction,
    identity: Identity,
    epoch: i64,
    schema: String,
    begin: String,
    finish: String,
    synchronous_commit: String,
    reads: Reads,
    lanes: Arc<Lanes>,
    /// Which of them this is.
    lane: usize,
    batch_calls_max: usize,
    /// Of the first lane, until they get their threads: those of the other ones.
    others: Vec<PostgresStore>,
    /// If other servers may have it at the same time.
    sharing: Option<Sharing>,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("identity", &self.identity)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// Why an attempt to commit a batch has ended.
enum Stop {
    /// Another transaction was first.
    Again,
    /// Something must be kept apart.
    Apart(Pass),
    /// This entry's call broke a constraint that is checked at its end.
    Broke(usize, String),
    /// The ledger's error.
    Failed(LedgerError),
}

/// What is known of a batch's calls after the attempts so far.
struct Attempt {
    pass: Pass,
    /// Calls that broke a constraint at their end.
    broken: BTreeMap<usize, String>,
}

impl PostgresStore {
    /// Opens the ledger, and waits for its turn; see [`PostgresOptions::open`].
    ///
    /// # Errors
    /// Why the database cannot be used, and what to do about it.
    pub fn open(options: PostgresOptions) -> Result<PostgresStore, LedgerError> {
        PostgresStore::of(options, Turn::Wait)
    }

    /// Opens the ledger if no other server has it; see [`PostgresOptions::try_open`].
    ///
    /// # Errors
    /// As [`open`](PostgresStore::open).
    pub fn try_open(options: PostgresOptions) -> Result<PostgresStore, LedgerError> {
        PostgresStore::of(options, Turn::Try)
    }

    /// Opens the ledger, and ends the connection of the server that has it; see [`PostgresOptions::take_over`].
    ///
    /// # Errors
    /// As [`open`](PostgresStore::open).
    pub fn take_over(options: PostgresOptions) -> Result<PostgresStore, LedgerError> {
        PostgresStore::of(options, Turn::TakeOver)
    }

    /// Opens the ledger together with other servers; see [`PostgresOptions::open_shared`].
    ///
    /// # Errors
    /// As [`open`](PostgresStore::open).
    pub fn open_shared(options: PostgresOptions) -> Result<PostgresStore, LedgerError> {
        PostgresStore::of(options, Turn::Share)
    }

    fn of(options: PostgresOptions, turn: Turn) -> Result<PostgresStore, LedgerError> {
        let mut opened = schema::open(&options, turn)?;
        let sharing = match turn {
            Turn::Share => Some(Sharing::new(&mut opened, options.lock_timeout)?),
            Turn::Wait | Turn::Try | Turn::TakeOver => None,
        };
        let owner = sharing.as_ref().map(|sharing| sharing.owner);
        let others = (1..options.lanes).map(|_| open_lane(&options, &opened, owner));
        let others = others.collect::<Result<Vec<Sql>, LedgerError>>()?;
        let Opened { sql, identity, epoch, synchronous_commit, schema } = opened;
        let finish = finish(&schema, sharing.is_some() || !others.is_empty(), options.is_fenced);
        let isolation = match options.isolation {
            IsolationLevel::ReadUncommitted | IsolationLevel::ReadCommitted => "READ COMMITTED",
            IsolationLevel::RepeatableRead => "REPEATABLE READ",
            _ => "SERIALIZABLE",
        };
        let begin = format!("BEGIN ISOLATION LEVEL {isolation} READ WRITE");
        let batch_calls_max = options.batch_calls_max;
        let reads = Reads::new(options);
        let mut connections: Vec<Sql> = std::iter::once(sql).chain(others).collect();
        for sql in &mut connections {
            sql.only_reads_by_default().map_err(|error| explain("be opened", &error))?;
        }
        let count = connections.len();
        let lanes = Arc::new(Lanes::new(connections, identity.commit));
        let store = |lane| PostgresStore {
            transaction: Transaction::new(),
            identity,
            epoch,
            schema: schema.clone(),
            begin: begin.clone(),
            finish: finish.clone(),
            synchronous_commit: synchronous_commit.clone(),
            reads: reads.clone(),
            lanes: lanes.clone(),
            lane,
            batch_calls_max,
            others: Vec::new(),
            sharing: sharing.clone(),
        };
        let mut first = store(0);
        first.others = (1..count).map(store).collect();
        Ok(first)
    }

    /// The stores of the other lanes.
    pub(crate) fn take_others(&mut self) -> Vec<PostgresStore> {
        std::mem::take(&mut self.others)
    }

    pub(crate) fn batch_calls_max(&self) -> usize {
        self.batch_calls_max
    }

    /// Where idempotent methods read.
    pub fn reads(&self) -> Reads {
        self.reads.clone()
    }

    /// The commits of this store that wrote effects.
    pub fn changes(&self) -> Changes {
        self.lanes.changes.changes()
    }

    fn sql(&mut self) -> Result<&mut Sql, LedgerError> {
        self.transaction.sql().ok_or_else(closed)
    }

    fn try_commit(&mut self, batch: &mut Batch<Transaction>) -> Result<u64, LedgerError> {
        let mut attempt = Attempt { pass: Pass::Plain, broken: BTreeMap::new() };
        let mut again = 0;
        loop {
            let stop = match self.attempt(batch, &attempt) {
                Ok(commit) => return Ok(commit),
                Err(stop) => stop,
            };
            match stop {
                Stop::Failed(error) => return Err(error),
                Stop::Apart(pass) if pass > attempt.pass => attempt.pass = pass,
                Stop::Broke(index, why) if !attempt.broken.contains_key(&index) => {
                    attempt.broken.insert(index, why);
                }
                Stop::Apart(_) | Stop::Broke(..) | Stop::Again if again == AGAIN_MAX => {
                    return Err(LedgerError::new(format!(
                        "the ledger in PostgreSQL cannot commit: other transactions got in the way {AGAIN_MAX} times; see who \
                         writes the tables of the handlers"
                    )));
                }
                Stop::Apart(_) | Stop::Broke(..) | Stop::Again => again += 1,
            }
            let undo = self.sql()?.roll_back();
            undo.map_err(|error| explain("roll back", &error))?;
        }
    }

    /// One transaction.
    fn attempt(&mut self, batch: &mut Batch<Transaction>, attempt: &Attempt) -> Result<u64, Stop> {
        let sql = self.transaction.sql().ok_or_else(|| Stop::Failed(closed()))?;
        // Rows of one session are written by one batch at a time: only calls need more.
        let begin = if batch.transactions() == 0 { BEGIN } else { &self.begin };
        sql.begin_with_next(begin);
        self.transaction.pass = attempt.pass;
        if let Some(sharing) = &mut self.sharing {
            let sql = self.transaction.sql().ok_or_else(|| Stop::Failed(closed()))?;
            sharing.fence(sql, batch).map_err(stop)?;
        }
        let mut staged = Staged::default();
        let mut effects = false;
        for (index, entry) in batch.entries().enumerate() {
            match entry {
                Entry::Transaction(call) => {
                    let broke = attempt.broken.get(&index).cloned();
                    if let Some(record) = self.run(call, index, broke)? {
                        staged.put(record);
                        effects |= self.transaction.ran;
                    }
                }
                Entry::SessionOpened(session) => staged.open(session),
                Entry::SessionEnded(session) => staged.end(session),
                Entry::Call(record) => staged.put(record),
                Entry::Withdrawn(name) => staged.withdraw(name),
                Entry::Settled { session, seen, held } => {
                    staged.settle(session, seen, held.iter().map(|xid| xid.get()).collect());
                }
            }
        }
        let commit = self.finish(staged, attempt.pass)?;
        self.lanes.committed(effects);
        Ok(commit)
    }

    /// Runs a transactional call, and leaves nothing of it where it was rolled back.
    fn run<'a>(
        &mut self,
        call: Transactional<'a, Transaction>,
        index: usize,
        broke: Option<String>,
    ) -> Result<Option<CallEntry<'a>>, Stop> {
        let apart = self.transaction.pass > Pass::Plain;
        if apart {
            self.script("SAVEPOINT oncewire_call")?;
        }
        self.transaction.trouble = broke.map(Trouble::Broke);
        self.transaction.ran = false;
        let record = call.run(&mut self.transaction);
        match (self.transaction.trouble.take(), record) {
            (Some(Trouble::Ledger(error)), _) => Err(Stop::Failed(error)),
            (Some(Trouble::Again), _) => Err(Stop::Again),
            // It has done nothing, and this is what it says to that.
            (Some(Trouble::Broke(_)), Some(record)) => {
                self.script("RELEASE oncewire_call")?;
                Ok(Some(record))
            }
            (Some(Trouble::Failed) | None, None) | (Some(Trouble::Broke(_)), None) if apart => {
                self.script("ROLLBACK TO oncewire_call; RELEASE oncewire_call")?;
                Ok(None)
            }
            (_, None) => Err(Stop::Apart(Pass::Calls)),
            // It has gone on after a statement that failed: so must what it did before.
            (Some(Trouble::Failed), Some(_)) => Err(Stop::Apart(Pass::Statements)),
            (None, Some(record)) => {
                if apart {
                    self.check_constraints(index)?;
                }
                Ok(Some(record))
            }
        }
    }

    /// Finds out whether the call that has just run breaks a constraint that would be checked at the commit only, and then for all
    /// calls of the batch.
    fn check_constraints(&mut self, index: usize) -> Result<(), Stop> {
        // Taken back, so that the next call's constraints are deferred as they were.
        let check = "SAVEPOINT oncewire_check; SET CONSTRAINTS ALL IMMEDIATE; \
                     ROLLBACK TO oncewire_check; RELEASE oncewire_check; RELEASE oncewire_call";
        let sql = self.sql().map_err(Stop::Failed)?;
        match sql.script(check) {
            Ok(()) => Ok(()),
            Err(error) if verdict(&error) == Verdict::OfTheCall => {
                Err(Stop::Broke(index, text_of(&error)))
            }
            Err(error) => Err(stop(error)),
        }
    }

    /// Writes the records, and commits.
    fn finish(&mut self, mut staged: Staged, pass: Pass) -> Result<u64, Stop> {
        let (last, epoch) = (self.identity.commit as i64, self.epoch);
        let next = last + 1;
        let sql = self.transaction.sql().ok_or_else(|| Stop::Failed(closed()))?;
        let owner = self.sharing.as_ref().map_or(0, |sharing| sharing.owner);
        let (opened, ended) = staged.opened_and_ended();
        let columns = staged.write(sql, &self.schema, owner).map_err(stop)?;
        let written = sql.row_and_commit(
            &self.finish,
            &[
                &next,
                &epoch,
                &last,
                &columns.sessions,
                &columns.slots,
                &columns.xids,
                &columns.records,
                &self.synchronous_commit,
            ],
        );
        let written = written.map_err(|error| match error.code() {
            Some(&SqlState::DIVISION_BY_ZERO) => Stop::Failed(LedgerError::new(
                "another server has taken over the ledger in PostgreSQL: this one commits nothing any more, and answers nothing that \
                 has no record; end it, or open the ledger again to wait for its turn",
            )),
            _ => stop(error),
        })?;
        let number: i64 = written.row.get(0);
        match is_durable(written.committed, sql) {
            Ok(()) => {}
            Err(Undone::NotReplicated(error)) => return Err(Stop::Failed(error)),
            Err(Undone::Database(error)) => {
                let is_constraint = error.code().is_some_and(|code| code.code().starts_with("23"));
                return Err(match verdict(&error) {
                    Verdict::Again => Stop::Again,
                    // One that is checked at the commit: whose it is shows where calls are apart.
                    Verdict::OfTheCall if is_constraint && pass == Pass::Plain => {
                        Stop::Apart(Pass::Calls)
                    }
                    _ => Stop::Failed(explain("commit", &error)),
                });
            }
        }
        if let Some(sharing) = &mut self.sharing {
            sharing.note(&opened, &ended);
        }
        self.identity.commit = number as u64;
        Ok(number as u64)
    }

    fn script(&mut self, sql: &str) -> Result<(), Stop> {
        self.sql().map_err(Stop::Failed)?.script(sql).map_err(stop)
    }
}

fn closed() -> LedgerError {
    LedgerError::new("the ledger's connection was closed after an earlier error: open it again")
}

/// Writes the record of each call, and the number of the commit; which is only there to be written while no other server has
/// taken the next epoch. A handler may have called a function that sets how commits are made durable: here it is set back.
///
/// Where other transactions of the ledger are under way, those of other lanes or servers, none waits for another one's number. It is sent
/// together with the COMMIT, so it must fail where the fence does not hold: it divides by the fence's rows.
fn finish(schema: &str, has_others: bool, is_fenced: bool) -> String {
    let fence = match (has_others, is_fenced) {
        (false, true) => format!(
            "UPDATE {schema}.oncewire_server SET commit_number = $1 \
             WHERE epoch = $2 AND commit_number = $3 RETURNING commit_number AS number"
        ),
        (false, false) => format!(
            "UPDATE {schema}.oncewire_server SET commit_number = $1 \
             WHERE $2::bigint IS NOT NULL AND $3::bigint IS NOT NULL RETURNING commit_number AS number"
        ),
        (true, true) => format!(
            "SELECT nextval('{schema}.oncewire_commits') AS number FROM (SELECT 1 FROM {schema}.oncewire_server \
             WHERE epoch = $2 AND $1::bigint >= 0 AND $3::bigint >= 0 FOR SHARE) AS server"
        ),
        (true, false) => format!(
            "SELECT nextval('{schema}.oncewire_commits') AS number \
             WHERE $1::bigint >= 0 AND $2::bigint >= 0 AND $3::bigint >= 0"
        ),
    };
    format!(
        "WITH fence AS ({fence}), \
         put AS (INSERT INTO {schema}.oncewire_calls AS c (session, slot, xid, record) \
             SELECT * FROM unnest($4::bytea[], $5::int[], $6::bigint[], $7::bytea[]) \
             ON CONFLICT (session, slot) DO UPDATE SET xid = excluded.xid, record = excluded.record \
             WHERE (c.xid # {TOP}) <= (excluded.xid # {TOP})) \
         SELECT (SELECT number FROM fence), 1 / (SELECT count(*) FROM fence), set_config('synchronous_commit', $8, true)"
    )
}

/// What an error of the ledger's own statements means.
fn stop(error: postgres::Error) -> Stop {
    match verdict(&error) {
        Verdict::Again => Stop::Again,
        _ => Stop::Failed(explain("be written", &error)),
    }
}

/// The first half of the SHA-256 of a session's id: it names the session in the tables, and no one who reads it can resume it.
fn hash(id: SessionId) -> SessionId {
    let whole: [u8; 32] = Sha256::digest(id.to_bytes()).into();
    let mut half = [0; 16];
    half.copy_from_slice(&whole[..16]);
    SessionId::from_bytes(half)
}

impl Store for PostgresStore {
    type Transaction = Transaction;

    fn identity(&self) -> Identity {
        self.identity
    }

    fn session_hash(&self) -> Option<fn(SessionId) -> SessionId> {
        Some(hash)
    }

    fn shared(&self) -> bool {
        self.sharing.is_some()
    }

    fn claim(&mut self, claim: Claim) {
        match self.lanes.take(self.lane) {
            Ok(mut sql) => {
                match self.sharing.as_mut().map(|sharing| sharing.claim(&mut sql, claim)) {
                    Some(Ok(())) | None => self.lanes.give_back(self.lane, Some(sql)),
                    // As after a batch: see `connected`.
                    Some(Err(error)) => {
                        drop(sql);
                        self.lanes.fail(&error);
                    }
                }
            }
            Err(error) => claim.failed(error),
        }
    }

    fn recover(&mut self, restore: &mut Restore<'_>) -> Result<(), LedgerError> {
        self.connected(|store| {
            let schema = store.schema.clone();
            let sql = store.transaction.sql().ok_or_else(closed)?;
            let owner = match &mut store.sharing {
                Some(sharing) => {
                    sharing.adopt(sql)?;
                    Some(sharing.owner)
                }
                None => None,
            };
            let mut damaged = None;
            for_each(sql, &schema, owner, |kept| match kept {
                Kept::Session(entry) => restore.session(entry),
                Kept::Call(entry) => restore.call(entry),
                Kept::Broken(what) => damaged = Some(what),
            })?;
            damaged.map_or(Ok(()), |what| Err(broken(what)))
        })
    }

    fn commit(&mut self, batch: &mut Batch<Transaction>) -> Result<u64, LedgerError> {
        self.connected(|store| store.try_commit(batch))
    }
}

impl PostgresStore {
    /// Does something on the connection. After an error no other batch comes. What the database has of this one is settled by the end of
    /// the connection, and with the other ones closed, too, a stand-by need not wait until this process has ended.
    fn connected<T>(
        &mut self,
        run: impl FnOnce(&mut PostgresStore) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.transaction.set_sql(self.lanes.take(self.lane)?);
        let result = run(self);
        let sql = self.transaction.take_sql();
        match &result {
            Ok(_) => self.lanes.give_back(self.lane, sql),
            Err(error) => {
                drop(sql);
                self.lanes.fail(error);
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of sixteen zeros begins so; RFC 6234 has the algorithm.
    #[test]
    fn sessions_are_named_by_the_first_half_of_a_sha256() {
        let zeros = hash(SessionId::from_bytes([0; 16])).to_bytes();
        let text: String = zeros.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "374708fff7719dd5979ec875d56cd228");
    }
}
