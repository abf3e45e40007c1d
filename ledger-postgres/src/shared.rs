//! Several servers on one ledger at once: whose each session is, how it is claimed, and what keeps the others from writing of it.
//!
//! Each session's row names its owner and an epoch that grows with each claim. A batch locks the rows of its sessions for sharing before it
//! runs anything, and leaves out those that are not its server's any more; a claim changes the row, and so waits for batches that run,
//! and is seen by all that begin later.
//!
//! An owner is a number that no other server gets. Each connection of its server holds an advisory lock on it for as long as it lives:
//! sessions of owners that are gone are the next server's that starts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oncewire_driver::ledger::{Batch, CallEntry, Claim, LedgerError, SessionEntry};
use oncewire_driver::protocol::SessionTag;
use postgres::error::SqlState;

use crate::error::{Verdict, explain, verdict};
use crate::schema::{BEGIN, commit_durably};
use crate::sql::Sql;

type Hash = [u8; 16];

/// How long a claim waits for a row that another server's batch has locked. Then its client tries again: batches of this server
/// wait meanwhile.
const CLAIM_WAIT_MS: u32 = 100;

/// One of the servers that have the ledger; each of its lanes has one.
#[derive(Clone, Debug)]
pub(crate) struct Sharing {
    /// Its number.
    pub(crate) owner: i64,
    /// Its sessions, as of their last claims. No two lanes have one at the same time.
    epochs: Arc<Mutex<HashMap<Hash, i64>>>,
    /// How long a batch of another server may stand still in its transaction before its connection is ended for a claim.
    stuck_after: Duration,
    /// The number of this ledger's locks.
    table: i32,
    schema: String,
    synchronous_commit: String,
    /// All servers that share it have this one.
    server_epoch: i64,
}

/// What became of an attempt to claim a session.
enum Found {
    Unknown,
    NotTheirs,
    Unchanged { commit: u64 },
    Moved { entry: SessionEntry, calls: Vec<(u16, Vec<u8>)>, epoch: i64, commit: u64 },
}

/// Why an attempt to claim a session failed.
enum Trouble {
    /// A batch of this owner has its row locked.
    Locked(i64),
    /// Of this session, or now.
    Unavailable(LedgerError),
    /// The ledger can do no more.
    Failed(LedgerError),
}

impl From<postgres::Error> for Trouble {
    fn from(error: postgres::Error) -> Trouble {
        let why = explain("be claimed", &error);
        match verdict(&error) {
            Verdict::Again => Trouble::Unavailable(why),
            Verdict::OfTheCall | Verdict::OfTheLedger => Trouble::Failed(why),
        }
    }
}

/// The number of a ledger's locks, of which a database may hold several in schemas.
pub(crate) fn table_of(sql: &mut Sql, schema: &str) -> Result<i32, postgres::Error> {
    let of = format!("SELECT ('{schema}.oncewire_server'::regclass::oid::int8)::int8");
    Ok(sql.row(&of, &[])?.get::<_, i64>(0) as u32 as i32)
}

/// This connection is one of this owner's from now on.
pub(crate) fn hold_owner(sql: &mut Sql, table: i32, owner: i64) -> Result<(), postgres::Error> {
    sql.row("SELECT pg_advisory_lock_shared($1, $2)", &[&table, &(owner as i32)]).map(drop)
}

impl Sharing {
    pub(crate) fn new(
        opened: &mut crate::schema::Opened,
        stuck_after: Duration,
    ) -> Result<Sharing, LedgerError> {
        let doing = |error| explain("be shared", &error);
        let schema = opened.schema.clone();
        let sql = &mut opened.sql;
        let table = table_of(sql, &schema).map_err(doing)?;
        let next = format!("SELECT nextval('{schema}.oncewire_owners')");
        let owner: i64 = sql.row(&next, &[]).map_err(doing)?.get(0);
        hold_owner(sql, table, owner).map_err(doing)?;
        Ok(Sharing {
            owner,
            epochs: Arc::default(),
            stuck_after,
            table,
            schema,
            synchronous_commit: opened.synchronous_commit.clone(),
            server_epoch: opened.epoch,
        })
    }

    fn epochs(&self) -> MutexGuard<'_, HashMap<Hash, i64>> {
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the sessions of servers that have ended.
    pub(crate) fn adopt(&mut self, sql: &mut Sql) -> Result<(), LedgerError> {
        let doing = |error| explain("be taken over", &error);
        let schema = &self.schema;
        sql.script(BEGIN).map_err(doing)?;
        let ended = format!(
            "SELECT DISTINCT owner FROM {schema}.oncewire_sessions s WHERE NOT EXISTS (SELECT 1 FROM pg_locks l \
                 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid::int8 = $1 AND l.objid::int8 = s.owner \
                 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
        );
        let table = i64::from(self.table as u32);
        let ended = sql.query(&ended, &[&table]).map_err(doing)?;
        let ended: Vec<i64> = ended.iter().map(|row| row.get(0)).collect();
        // By their numbers, which are not used again: a session that another server takes meanwhile is compared once more when its row
        // is free, and stays that server's. Locked in the order in which batches lock them.
        let adopt = format!(
            "WITH left_over AS (SELECT session FROM {schema}.oncewire_sessions WHERE owner = ANY($2) ORDER BY session FOR UPDATE) \
             UPDATE {schema}.oncewire_sessions s SET owner = $1, epoch = epoch + 1 FROM left_over l \
             WHERE s.session = l.session RETURNING s.session, s.epoch"
        );
        for row in sql.query(&adopt, &[&self.owner, &ended]).map_err(doing)? {
            if let Ok(hash) = row.get::<_, &[u8]>(0).try_into() {
                self.epochs().insert(hash, row.get(1));
            }
        }
        self.commit(sql).map_err(|trouble| match trouble {
            Trouble::Failed(error) | Trouble::Unavailable(error) => error,
            Trouble::Locked(_) => LedgerError::new("a session is locked"),
        })
    }

    /// Within a batch's transaction, before anything runs: locks the sessions of its entries, and leaves out those that are not ours.
    pub(crate) fn fence<X: 'static>(
        &mut self,
        sql: &mut Sql,
        batch: &mut Batch<X>,
    ) -> Result<(), postgres::Error> {
        let sessions = batch.sessions();
        if sessions.is_empty() {
            return Ok(());
        }
        let hashes: Vec<Vec<u8>> = sessions.iter().map(|id| id.to_bytes().to_vec()).collect();
        // In one order at all servers.
        let lock = format!(
            "SELECT session, owner, epoch FROM {}.oncewire_sessions WHERE session = ANY($1) ORDER BY session FOR SHARE",
            self.schema
        );
        let rows = sql.query(&lock, &[&hashes])?;
        let found: HashMap<&[u8], (i64, i64)> =
            rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
        let mut epochs = self.epochs();
        for session in sessions {
            let hash = session.to_bytes();
            let ours = epochs.get(&hash).map(|epoch| (self.owner, *epoch));
            if ours.is_none() || found.get(&hash[..]).copied() != ours {
                epochs.remove(&hash);
                batch.taken(session);
            }
        }
        Ok(())
    }

    /// A batch is durable that opened and ended these sessions.
    pub(crate) fn note(&mut self, opened: &[Hash], ended: &[Hash]) {
        let mut epochs = self.epochs();
        epochs.retain(|hash, _| !ended.contains(hash));
        epochs.extend(opened.iter().map(|hash| (*hash, 1)));
    }

    /// Answers a claim.
    ///
    /// # Errors
    /// The ledger can do no more, and the claim says so.
    pub(crate) fn claim(&mut self, sql: &mut Sql, claim: Claim) -> Result<(), LedgerError> {
        let mut trouble = None;
        for _ in 0..2 {
            match self.attempt(sql, &claim) {
                Ok(found) => {
                    self.answer(claim, found);
                    return Ok(());
                }
                Err(Trouble::Locked(owner)) => match self.end_stuck(sql, owner) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        trouble = Some(Trouble::from(error));
                        break;
                    }
                },
                Err(other) => {
                    trouble = Some(other);
                    break;
                }
            }
        }
        match trouble {
            Some(Trouble::Failed(error)) => {
                claim.failed(error.clone());
                return Err(error);
            }
            Some(Trouble::Unavailable(error)) => claim.unavailable(error),
            Some(Trouble::Locked(_)) | None => {
                let why = "a batch of another server has the session's row";
                claim.unavailable(LedgerError::new(why));
            }
        }
        Ok(())
    }

    fn answer(&mut self, claim: Claim, found: Found) {
        let hash = claim.session().to_bytes();
        match found {
            Found::Unknown => {
                self.epochs().remove(&hash);
                claim.unknown();
            }
            Found::NotTheirs => claim.not_theirs(),
            Found::Unchanged { commit } => claim.unchanged(commit),
            Found::Moved { entry, calls, epoch, commit } => {
                let id = claim.session();
                let decoded: Option<Vec<CallEntry<'_>>> =
                    calls.iter().map(|(slot, bytes)| CallEntry::decode(id, *slot, bytes)).collect();
                // A record that is skipped is a call that runs twice. Nor is the session ours as it is known here, though the row
                // says so: the next claim would be answered with what the server had of it before it moved.
                let Some(calls) = decoded else {
                    self.epochs().remove(&hash);
                    return claim.unavailable(LedgerError::new("a record of it cannot be decoded"));
                };
                self.epochs().insert(hash, epoch);
                claim.found(entry, calls, commit);
            }
        }
    }

    fn attempt(&mut self, sql: &mut Sql, claim: &Claim) -> Result<Found, Trouble> {
        sql.script(BEGIN)?;
        let found = self.attempt_in(sql, claim);
        match &found {
            Ok(Found::Moved { .. }) => self.commit(sql)?,
            _ => sql.script("ROLLBACK")?,
        }
        found
    }

    fn attempt_in(&self, sql: &mut Sql, claim: &Claim) -> Result<Found, Trouble> {
        let (hash, schema) = (claim.session().to_bytes(), &self.schema);
        let of = format!(
            "SELECT tag, seen, entry, owner, epoch FROM {schema}.oncewire_sessions WHERE session = $1"
        );
        let Some(row) = sql.query(&of, &[&&hash[..]])?.into_iter().next() else {
            return Ok(Found::Unknown);
        };
        let Some(mut entry) = SessionEntry::decode(claim.session(), row.get(2)) else {
            return Err(Trouble::Unavailable(LedgerError::new("its session cannot be decoded")));
        };
        if !claim.is_theirs(&entry) {
            return Ok(Found::NotTheirs);
        }
        let (owner, epoch): (i64, i64) = (row.get(3), row.get(4));
        let commit = format!("SELECT last_value FROM {schema}.oncewire_commits");
        let commit = |sql: &mut Sql| sql.row(&commit, &[]).map(|row| row.get::<_, i64>(0));
        if claim.is_held() && owner == self.owner && self.epochs().get(&hash) == Some(&epoch) {
            return Ok(Found::Unchanged { commit: commit(sql)? as u64 });
        }
        // A server that has taken the whole ledger for itself keeps all others from writing.
        let fence =
            format!("SELECT 1 FROM {schema}.oncewire_server WHERE epoch = $1 AND shared FOR SHARE");
        if sql.query(&fence, &[&self.server_epoch])?.is_empty() {
            return Err(Trouble::Failed(LedgerError::new("another server has it for itself")));
        }
        sql.script(&format!("SET LOCAL lock_timeout = {CLAIM_WAIT_MS}"))?;
        let take = format!(
            "UPDATE {schema}.oncewire_sessions SET owner = $2, epoch = epoch + 1 WHERE session = $1 \
             RETURNING epoch, tag, seen"
        );
        let taken = sql.query(&take, &[&&hash[..], &self.owner]).map_err(|error| {
            match error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
                true => Trouble::Locked(owner),
                false => Trouble::from(error),
            }
        })?;
        // Another one may have ended it while this waited.
        let Some(row) = taken.first() else { return Ok(Found::Unknown) };
        entry.tag = SessionTag::from_number(row.get::<_, i64>(1) as u64);
        entry.seen = entry.seen.max(row.get::<_, i64>(2) as u64);
        let of = format!("SELECT slot, record FROM {schema}.oncewire_calls WHERE session = $1");
        let rows = sql.query(&of, &[&&hash[..]])?;
        let calls = rows.iter().map(|row| (row.get::<_, i32>(0) as u16, row.get(1))).collect();
        Ok(Found::Moved { entry, calls, epoch: row.get(0), commit: commit(sql)? as u64 })
    }

    fn commit(&self, sql: &mut Sql) -> Result<(), Trouble> {
        let how = format!("SET LOCAL synchronous_commit = {}", self.synchronous_commit);
        sql.script(&how)?;
        commit_durably(sql).map_err(|undone| {
            Trouble::Failed(undone.unwrap_or_else(|error| explain("be claimed", &error)))
        })
    }

    /// Ends the connection of a server whose batch stands still with a session locked: its process is stopped, say. False if it does not.
    fn end_stuck(&self, sql: &mut Sql, owner: i64) -> Result<bool, postgres::Error> {
        let end = "SELECT pg_terminate_backend(a.pid, 2000) FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                   WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 \
                   AND l.classid::int8 = $1 AND l.objid::int8 = $2 \
                   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                   AND a.state LIKE 'idle in transaction%' \
                   AND clock_timestamp() - a.state_change > $3 * interval '1 millisecond'";
        let table = i64::from(self.table as u32);
        let millis = self.stuck_after.as_secs_f64() * 1_000.0;
        let ended = sql.query(end, &[&table, &owner, &millis])?;
        Ok(!ended.is_empty())
    }
}
