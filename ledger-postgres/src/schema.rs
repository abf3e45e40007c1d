//! The ledger's tables: which database may hold them, how they are made and brought up to date, and whose turn it is.

use std::time::Duration;

use oncewire_driver::ledger::{Identity, LedgerError};
use oncewire_driver::protocol::ServerId;

use crate::error::{explain, is_lost};
use crate::lanes::end_lanes;
use crate::options::PostgresOptions;
use crate::sql::Sql;

/// What brings the tables from one format to the next; the first makes them. Each runs in the transaction that notes the new format.
const MIGRATIONS: [&str; 2] = [
    // 1. `session` is the first half of the SHA-256 of a session's id. Numbers of calls are 64 bits without a sign in bigint.
    "CREATE TABLE oncewire_server (
        one int PRIMARY KEY CHECK (one = 1),
        format int NOT NULL,
        id bytea NOT NULL CHECK (octet_length(id) = 16),
        commit_number bigint NOT NULL,
        epoch bigint NOT NULL
    );
    CREATE TABLE oncewire_sessions (
        session bytea PRIMARY KEY CHECK (octet_length(session) = 16),
        tag bigint NOT NULL,
        seen bigint NOT NULL,
        entry bytea NOT NULL
    );
    CREATE TABLE oncewire_calls (
        session bytea NOT NULL,
        slot int NOT NULL,
        xid bigint NOT NULL,
        record bytea NOT NULL,
        PRIMARY KEY (session, slot)
    )",
    // 2. Several servers at once: whose each session is, and how often it was claimed.
    "ALTER TABLE oncewire_server ADD COLUMN shared boolean NOT NULL DEFAULT false;
    ALTER TABLE oncewire_sessions ADD COLUMN owner bigint NOT NULL DEFAULT 0, ADD COLUMN epoch bigint NOT NULL DEFAULT 0;
    CREATE SEQUENCE oncewire_commits;
    CREATE SEQUENCE oncewire_owners MAXVALUE 2147483647",
];

/// The format that this version reads and writes.
pub(crate) const FORMAT: i32 = MIGRATIONS.len() as i32;

/// Whatever the user's default is: what another server has committed meanwhile must be seen.
pub(crate) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// Held while tables are made: "once" in ASCII. In the upper half of the locks that servers hold, too.
const LOCK: i64 = 0x6f6e_6365;

/// Attempts to reach a database again while waiting for one's turn, a second apart.
const ATTEMPTS_MAX: u32 = 60;

/// What is done where another server has the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Wait until it is gone.
    Wait,
    /// Give up.
    Try,
    /// End its connection.
    TakeOver,
    /// Have it together with others that want that, too.
    Share,
}

/// A ledger that is ours.
pub(crate) struct Opened {
    pub(crate) sql: Sql,
    pub(crate) identity: Identity,
    /// Who may commit: no other server has this number.
    pub(crate) epoch: i64,
    /// How commits are made durable: the database's setting.
    pub(crate) synchronous_commit: String,
    /// Where the tables are, as it is written in SQL.
    pub(crate) schema: String,
}

/// What a connection finds before anything is written.
struct Found {
    sql: Sql,
    synchronous_commit: String,
    schema: String,
}

/// Makes the tables if there are none, waits for our turn, and keeps all others from committing.
pub(crate) fn open(options: &PostgresOptions, turn: Turn) -> Result<Opened, LedgerError> {
    let mut found = find(options)?;
    let mut attempts = 0;
    loop {
        if !options.is_fenced {
            return begin(found, options, turn);
        }
        match wait_for_turn(&mut found, options, turn) {
            Ok(()) => return begin(found, options, turn),
            Err(Waited::Failed(error)) => return Err(error),
            // A stand-by waits for long, and the database may fail over meanwhile.
            Err(Waited::Lost(error)) => found = reconnect(options, &mut attempts, error)?,
        }
    }
}

enum Waited {
    Lost(LedgerError),
    Failed(LedgerError),
}

fn reconnect(
    options: &PostgresOptions,
    attempts: &mut u32,
    mut error: LedgerError,
) -> Result<Found, LedgerError> {
    while *attempts < ATTEMPTS_MAX {
        *attempts += 1;
        pause(Duration::from_secs(1));
        match find(options) {
            Ok(found) => return Ok(found),
            Err(again) => error = again,
        }
    }
    Err(error)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a thread that has nothing else to do than to try again later"
)]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Connects, and sees whether the database can hold a ledger; makes the tables where there are none.
fn find(options: &PostgresOptions) -> Result<Found, LedgerError> {
    let mut sql = options.connect_or_explain("oncewire ledger")?;
    let unusable = |why: String| {
        LedgerError::new(format!("the {} cannot hold a ledger: {why}", options.place()))
    };
    let row = sql
        .row(
            "SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), \
             current_setting('fsync'), current_setting('synchronous_commit'), \
             current_setting('transaction_read_only'), quote_ident(current_schema())",
            &[],
        )
        .map_err(|error| explain("be opened", &error))?;
    let version: i32 = row.get(0);
    if version < 140_000 {
        return Err(unusable(format!(
            "it is PostgreSQL {}, and 14 is the oldest that will do",
            version / 10_000
        )));
    }
    if row.get::<_, bool>(1) || row.get::<_, &str>(4) == "on" {
        return Err(unusable(
            "it takes no writes: it is a stand-by, or read-only by default; connect to the primary \
             (target_session_attrs=read-write finds it)"
                .to_owned(),
        ));
    }
    if options.checks_fsync && row.get::<_, &str>(2) != "on" {
        return Err(unusable(
            "it does not sync what it writes (fsync = off), so that a power cut loses what was answered; turn it on, or say \
             without_fsync_check for a test"
                .to_owned(),
        ));
    }
    let Some(schema) = row.get::<_, Option<String>>(5) else {
        return Err(unusable("no schema of its search_path exists: create one".to_owned()));
    };
    // What is durable is decided here, not by a default that somewhere says "off".
    let synchronous_commit = match row.get::<_, String>(3) {
        off if off == "off" => "on".to_owned(),
        other => other,
    };
    let mut found = Found { sql, synchronous_commit, schema };
    create(&mut found)?;
    check_format(&mut found)?;
    Ok(found)
}

impl Found {
    /// A table of the ledger, as it is written in SQL.
    fn table(&self, name: &str) -> String {
        format!("{}.oncewire_{name}", self.schema)
    }
}

/// All of the tables, or none: a ledger that has lost one is no new ledger.
fn create(found: &mut Found) -> Result<(), LedgerError> {
    let explained = |error| explain("be created", &error);
    let tables = ["server", "sessions", "calls"].map(|name| found.table(name));
    let count = |sql: &mut Sql| -> Result<i64, postgres::Error> {
        let names: Vec<&str> = tables.iter().map(String::as_str).collect();
        let of = "SELECT count(to_regclass(name)) FROM unnest($1::text[]) AS name";
        Ok(sql.row(of, &[&names])?.get(0))
    };
    let some = |there: i64| {
        LedgerError::new(format!(
            "the ledger in PostgreSQL is broken: of its {} tables only {there} are there ({}); restore a backup, and give it a new id \
             with `oncewire-ledger-postgres restore`",
            tables.len(),
            tables.join(", ")
        ))
    };
    match count(&mut found.sql).map_err(explained)? {
        0 => {}
        there if there == tables.len() as i64 => return Ok(()),
        there => return Err(some(there)),
    }
    let id = new_id()?;
    let sql = &mut found.sql;
    // Before the transaction, which might not see what was made while it waits. An error ends the connection, and so the lock.
    sql.row("SELECT pg_advisory_lock($1)", &[&LOCK]).map_err(explained)?;
    sql.script(BEGIN).map_err(explained)?;
    // Another one may have been faster.
    match count(sql).map_err(explained)? {
        0 => {
            sql.script(MIGRATIONS[0]).map_err(explained)?;
            let insert = "INSERT INTO oncewire_server VALUES (1, 1, $1, 0, 0)";
            sql.execute(insert, &[&&id[..]]).map_err(explained)?;
        }
        there if there == tables.len() as i64 => {}
        there => return Err(some(there)),
    }
    sql.script("COMMIT").map_err(explained)?;
    sql.row("SELECT pg_advisory_unlock($1)", &[&LOCK]).map_err(explained)?;
    Ok(())
}

/// Of a new ledger.
pub(crate) fn new_id() -> Result<[u8; 16], LedgerError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|error| LedgerError::new(format!("the system has no random numbers: {error}")))?;
    Ok(id)
}

/// A ledger that is only read.
pub(crate) struct Looked {
    pub(crate) sql: Sql,
    pub(crate) identity: Identity,
    pub(crate) epoch: i64,
    pub(crate) schema: String,
}

/// Opens a ledger to look at it: the server that has it keeps it, and a stand-by of the database will do.
pub(crate) fn look(options: &PostgresOptions) -> Result<Looked, LedgerError> {
    let read = |error| explain("be read", &error);
    let mut sql = options.connect_or_explain("oncewire-ledger-postgres")?;
    // One state of all tables, however long it takes.
    sql.script("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").map_err(read)?;
    let row = sql.row("SELECT quote_ident(current_schema())", &[]).map_err(read)?;
    let schema: Option<String> = row.get(0);
    let mut found =
        Found { sql, synchronous_commit: String::new(), schema: schema.unwrap_or_default() };
    let format = check_format(&mut found)?;
    // The number of the last commit is a sequence's, where the ledger is shared.
    let commits = match format {
        1 => "commit_number".to_owned(),
        _ => {
            format!("greatest(commit_number, (SELECT last_value FROM {}))", found.table("commits"))
        }
    };
    let of = format!("SELECT id, {commits}, epoch FROM {}", found.table("server"));
    let rows = found.sql.query(&of, &[]).map_err(read)?;
    let (identity, epoch) = identity_of(rows.first())?;
    Ok(Looked { sql: found.sql, identity, epoch, schema: found.schema })
}

fn identity_of(row: Option<&postgres::Row>) -> Result<(Identity, i64), LedgerError> {
    let row = row.ok_or_else(no_identity)?;
    let id = row.get::<_, &[u8]>(0).try_into().map_err(|_| no_identity())?;
    let commit: i64 = row.get(1);
    let identity = Identity { server: ServerId::from_bytes(id), commit: commit as u64 };
    Ok((identity, row.get(2)))
}

/// The format of the tables, if this version can use it.
fn check_format(found: &mut Found) -> Result<i32, LedgerError> {
    let of = format!("SELECT format FROM {}", found.table("server"));
    let rows = found.sql.query(&of, &[]).map_err(|error| explain("be read", &error))?;
    let format: i32 = rows.first().map(|row| row.get(0)).ok_or_else(no_identity)?;
    if format > FORMAT {
        return Err(LedgerError::new(format!(
            "the ledger in PostgreSQL has format {format}, and this version knows formats up to {FORMAT}: use the version of \
             oncewire-ledger-postgres that wrote it, or a later one"
        )));
    }
    if format < 1 {
        return Err(LedgerError::new(format!(
            "the ledger in PostgreSQL is broken: format {format} is none; restore a backup"
        )));
    }
    Ok(format)
}

fn no_identity() -> LedgerError {
    LedgerError::new(
        "the ledger in PostgreSQL is broken: oncewire_server has no row, so whose calls it holds is unknown; restore a backup",
    )
}

fn wait_for_turn(found: &mut Found, options: &PostgresOptions, turn: Turn) -> Result<(), Waited> {
    let sort = |error: postgres::Error| match is_lost(&error) {
        true => Waited::Lost(explain("be waited for", &error)),
        false => Waited::Failed(explain("be waited for", &error)),
    };
    let name = found.table("server");
    let sql = &mut found.sql;
    // The table's number: one lock a ledger, of which a database may hold several in schemas.
    let of = "SELECT ($1::text)::regclass::oid::int8";
    let table: i64 = sql.row(of, &[&name]).map_err(sort)?.get(0);
    let lock = LOCK << 32 | table;
    if turn == Turn::TakeOver {
        // Until then the one that hangs may still commit; its epoch is over as soon as we begin.
        let end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory' AND granted \
                   AND classid::int8 = $1 AND objid::int8 = $2 AND objsubid = 1 AND pid <> pg_backend_pid() \
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        sql.query(end, &[&LOCK, &table]).map_err(sort)?;
    }
    if turn == Turn::Share {
        sql.row("SELECT pg_advisory_lock_shared($1)", &[&lock]).map_err(sort)?;
        return Ok(());
    }
    if turn == Turn::Try {
        let is_ours: bool =
            sql.row("SELECT pg_try_advisory_lock($1)", &[&lock]).map_err(sort)?.get(0);
        if !is_ours {
            return Err(Waited::Failed(in_use(sql, options, table)));
        }
        return end_lanes(sql, table).map_err(sort);
    }
    sql.row("SELECT pg_advisory_lock($1)", &[&lock]).map_err(sort)?;
    end_lanes(sql, table).map_err(sort)?;
    Ok(())
}

/// How long statements wait for what others have locked.
pub(crate) fn wait_for_locks(
    sql: &mut Sql,
    options: &PostgresOptions,
) -> Result<(), postgres::Error> {
    let timeout = options.lock_timeout.as_millis().clamp(1, i32::MAX as u128);
    sql.script(&format!("SET lock_timeout = {timeout}"))
}

/// Who has it.
fn in_use(sql: &mut Sql, options: &PostgresOptions, table: i64) -> LedgerError {
    let of = "SELECT a.pid, a.application_name, coalesce(host(a.client_addr), 'this machine') \
              FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted \
              AND l.classid::int8 = $1 AND l.objid::int8 = $2 AND l.objsubid = 1 \
              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let holder = match sql.query(of, &[&LOCK, &table]) {
        Ok(rows) => rows.first().map(|row| {
            let (pid, name, at): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
            format!("the connection with pid {pid} ({name:?} from {at})")
        }),
        Err(_) => None,
    };
    let holder = holder.unwrap_or_else(|| "another connection".to_owned());
    LedgerError::new(format!(
        "the ledger in the {} is in use by {holder}: end that server first, or wait for it as a stand-by",
        options.place()
    ))
}

/// It is our turn: brings the tables up to date, and takes the next epoch, so that the server that had the one before commits nothing any
/// more.
///
/// This is a commit, and it is durable, in the stand-bys too, before anything is read: what a primary shows after a restart may
/// never have reached them.
fn begin(mut found: Found, options: &PostgresOptions, turn: Turn) -> Result<Opened, LedgerError> {
    let doing = |error| explain("be taken over", &error);
    let server = found.table("server");
    // Those that share it may begin at the same time.
    found.sql.row("SELECT pg_advisory_lock($1)", &[&LOCK]).map_err(doing)?;
    // Another version may have been here while we waited.
    let format = check_format(&mut found)?;
    let Found { mut sql, synchronous_commit, schema } = found;
    sql.script(BEGIN).map_err(doing)?;
    for (at, migration) in MIGRATIONS.iter().enumerate().skip(format as usize) {
        sql.script(migration).map_err(doing)?;
        let note = format!("UPDATE {server} SET format = $1");
        sql.execute(&note, &[&(at as i32 + 1)]).map_err(doing)?;
    }
    if !options.tables.is_empty() {
        sql.script(&options.tables)
            .map_err(|error| explain("make the service's own tables", &error))?;
    }
    let (identity, epoch) = take_epoch(&mut sql, &schema, turn).map_err(doing)??;
    sql.script(&format!("SET LOCAL synchronous_commit = {synchronous_commit}")).map_err(doing)?;
    commit_durably(&mut sql).map_err(|error| error.unwrap_or_else(doing))?;
    sql.row("SELECT pg_advisory_unlock($1)", &[&LOCK]).map_err(doing)?;
    wait_for_locks(&mut sql, options).map_err(doing)?;
    Ok(Opened { sql, identity, epoch, synchronous_commit, schema })
}

/// The next epoch; or the one of those that share the ledger, if it is shared. The number of the last commit is a sequence's then, for
/// which no commit waits for another.
fn take_epoch(
    sql: &mut Sql,
    schema: &str,
    turn: Turn,
) -> Result<Result<(Identity, i64), LedgerError>, postgres::Error> {
    let shares = turn == Turn::Share;
    let last =
        format!("greatest(commit_number, (SELECT last_value FROM {schema}.oncewire_commits))");
    if shares {
        // Nothing changes. The lock makes this a commit, and unlike one for an update it need not wait for a moment in which no other
        // server commits: among many busy ones there is none.
        let of = format!(
            "SELECT id, {last}, epoch FROM {schema}.oncewire_server WHERE shared FOR SHARE"
        );
        let rows = sql.query(&of, &[])?;
        if !rows.is_empty() {
            return Ok(identity_of(rows.first()));
        }
    }
    let of = format!("SELECT {last} FROM {schema}.oncewire_server FOR UPDATE");
    let rows = sql.query(&of, &[])?;
    let Some(row) = rows.first() else { return Ok(Err(no_identity())) };
    let last: i64 = row.get(0);
    if last > 0 {
        let set = "SELECT setval(($1::text)::regclass, $2)";
        sql.row(set, &[&format!("{schema}.oncewire_commits"), &last])?;
    }
    let next = format!(
        "UPDATE {schema}.oncewire_server SET epoch = epoch + 1, shared = $1, commit_number = $2 \
         RETURNING id, commit_number, epoch"
    );
    let rows = sql.query(&next, &[&shares, &last])?;
    Ok(identity_of(rows.first()))
}

/// Why a commit is not known to be durable.
pub(crate) enum Undone {
    /// The database says so.
    Database(postgres::Error),
    /// It is in this database, and perhaps in no stand-by.
    NotReplicated(LedgerError),
}

impl Undone {
    pub(crate) fn unwrap_or_else(
        self,
        explain: impl FnOnce(postgres::Error) -> LedgerError,
    ) -> LedgerError {
        match self {
            Undone::Database(error) => explain(error),
            Undone::NotReplicated(error) => error,
        }
    }
}

/// Commits, and takes a warning for what it is: the wait for a stand-by was given up.
pub(crate) fn commit_durably(sql: &mut Sql) -> Result<(), Undone> {
    let _earlier = sql.warnings().take();
    let committed = sql.script("COMMIT");
    is_durable(committed, sql)
}

/// What a commit's end means, by what was warned of meanwhile.
pub(crate) fn is_durable(
    committed: Result<(), postgres::Error>,
    sql: &mut Sql,
) -> Result<(), Undone> {
    committed.map_err(Undone::Database)?;
    match sql.warnings().take() {
        None => Ok(()),
        Some(said) => Err(Undone::NotReplicated(LedgerError::new(format!(
            "a commit of the ledger is in this database and may be in no stand-by: {said}; see that one is connected, and leave \
             no commit of this primary's to be cancelled"
        )))),
    }
}
