//! The bank in PostgreSQL: accounts, the log of executions and the records of calls in one database, changed in one
//! transaction. Whichever server's turn it is, it finds all of it there.

use std::time::Duration;

use oncewire::ledger::{LedgerError, Rollback};
use oncewire::{Context, Server};
use oncewire_ledger_postgres::postgres::{IsolationLevel, Row};
use oncewire_ledger_postgres::{PostgresLedger, PostgresOptions, Reads, SqlError, Transaction};

use crate::chance::within;
use crate::durable::TransactionalBankMethods as Methods;
use crate::service::{
    AUDIT_PAGE_LEN_MAX, AccountId, AuditPage, BankError, Change, Executions, LEASE, Note, Open,
    SERVICE, Stats,
};
use crate::turn::{This, Turn, server_of};

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS accounts (id bigserial PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE IF NOT EXISTS log (
    client bigint, number bigint, executed int NOT NULL, applied int NOT NULL, PRIMARY KEY (client, number)
)";

/// How long a read waits until it tries again to reach the database.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// How several banks have one ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Each waits until the one before is gone.
    InTurns,
    /// It is gone now.
    TakeOver,
    /// All at once.
    Shared,
    /// In turns that are not waited for: a bug.
    WithoutFence,
}

/// Waits for the turn of this server and makes its bank; blocks the thread.
pub(crate) fn open(connection: &str, how: How) -> Result<Turn, String> {
    ledger(connection, how)
        .map_err(|error| error.to_string())
        .and_then(|ledger| build(ledger).map_err(|error| error.to_string()))
}

fn ledger(connection: &str, how: How) -> Result<PostgresLedger, LedgerError> {
    // Enough also where several banks write the same tables: what a call does to an account is one statement.
    let options = PostgresOptions::new(connection)?
        .with_tables(TABLES)
        .with_isolation(IsolationLevel::ReadCommitted);
    match how {
        How::InTurns => options.open(),
        How::TakeOver => options.take_over(),
        How::Shared => options.open_shared(),
        How::WithoutFence => options.without_fence().open(),
    }
}

fn build(ledger: PostgresLedger) -> Result<Turn, oncewire::BuildError> {
    let this = This::default();
    let (balances, stats, server) = (ledger.reads(), ledger.reads(), this.clone());
    let server = Server::builder(SERVICE)
        .ledger(ledger)
        .configure(|config| config.lease = LEASE)
        .transactional(&Methods::OPEN, |tx: &mut Transaction, _, (open,)| {
            self::open_account(tx, &open)
        })
        .transactional(&Methods::DEDUCT, |tx: &mut Transaction, _, (change,)| {
            let amount = -signed(change.amount)?;
            self::change(tx, &change, amount)
        })
        .transactional(&Methods::DEPOSIT, |tx: &mut Transaction, _, (change,)| {
            let amount = signed(change.amount)?;
            self::change(tx, &change, amount)
        })
        .transactional(&Methods::NOTE, |tx: &mut Transaction, _, (note,)| self::note(tx, &note))
        .transactional(&Methods::AUDIT, |tx: &mut Transaction, _, (page,)| audit(tx, &page))
        .blocking(&Methods::BALANCE, move |context, (account,)| {
            balance(&balances, &context, account)
        })
        .blocking(&Methods::STATS, move |context, ()| {
            read_stats(&stats, &context, server_of(&server).as_ref())
        })
        .signatures()
        .status()
        .build()?;
    Ok(Turn::new(server, this))
}

/// Amounts and numbers of accounts are small; what names a client is 64 bits of chance.
fn signed(number: u64) -> Result<i64, Rollback> {
    i64::try_from(number).map_err(|_| Rollback::new("no account holds so much"))
}

fn open_account(tx: &mut Transaction, open: &Open) -> Result<AccountId, Rollback> {
    let opening = signed(open.opening)?;
    let row =
        tx.query_one("INSERT INTO accounts (balance) VALUES ($1) RETURNING id", &[&opening])?;
    log(tx, open.operation, true)?;
    Ok(unsigned(&row, 0))
}

fn change(
    tx: &mut Transaction,
    change: &Change,
    amount: i64,
) -> Result<Result<u64, BankError>, Rollback> {
    let account = signed(change.account)?;
    let changed = tx.query_opt(
        "UPDATE accounts SET balance = balance + $2 WHERE id = $1 AND balance + $2 >= 0 RETURNING balance",
        &[&account, &amount],
    )?;
    let result = match changed {
        Some(row) => Ok(unsigned(&row, 0)),
        None => {
            let found = tx.query_opt("SELECT balance FROM accounts WHERE id = $1", &[&account])?;
            let declined = |row: Row| BankError::Insufficient { balance: unsigned(&row, 0) };
            Err(found.map_or(BankError::NoSuchAccount, declined))
        }
    };
    // Declined is an answer, not a rollback: it is logged and recorded like any other.
    log(tx, change.operation, result.is_ok())?;
    Ok(result)
}

fn note(tx: &mut Transaction, note: &Note) -> Result<(), Rollback> {
    let account = signed(note.account)?;
    let known = tx.query_opt("SELECT 1 FROM accounts WHERE id = $1", &[&account])?.is_some();
    log(tx, note.operation, known)
}

fn log(
    tx: &mut Transaction,
    operation: crate::service::Operation,
    applied: bool,
) -> Result<(), Rollback> {
    tx.execute(
        "INSERT INTO log VALUES ($1, $2, 1, $3) ON CONFLICT (client, number) \
         DO UPDATE SET executed = log.executed + 1, applied = log.applied + $3",
        &[&operation.client.cast_signed(), &signed(operation.number)?, &i32::from(applied)],
    )?;
    Ok(())
}

fn audit(tx: &mut Transaction, page: &AuditPage) -> Result<Vec<Executions>, Rollback> {
    let (first, count) = (signed(page.first)?, page.count.min(AUDIT_PAGE_LEN_MAX));
    let mut executions = vec![Executions::default(); count as usize];
    let rows = tx.query(
        "SELECT number - $2, executed, applied FROM log \
         WHERE client = $1 AND number >= $2 AND number - $2 < $3",
        &[&page.client.cast_signed(), &first, &signed(count)?],
    )?;
    for row in rows {
        if let Some(entry) = executions.get_mut(unsigned(&row, 0) as usize) {
            let (executed, applied): (i32, i32) = (row.get(1), row.get(2));
            *entry =
                Executions { executed: executed.unsigned_abs(), applied: applied.unsigned_abs() };
        }
    }
    Ok(executions)
}

fn balance(reads: &Reads, context: &Context, account: AccountId) -> Result<u64, BankError> {
    let account = i64::try_from(account).map_err(|_| BankError::NoSuchAccount)?;
    let read = || reads.query_opt("SELECT balance FROM accounts WHERE id = $1", &[&account]);
    insist(context, read).map(|row| unsigned(&row, 0)).ok_or(BankError::NoSuchAccount)
}

fn read_stats(reads: &Reads, context: &Context, server: Option<&Server>) -> Stats {
    let all = "SELECT (SELECT count(*) FROM accounts), \
               (SELECT coalesce(sum(balance), 0)::bigint FROM accounts), (SELECT count(*) FROM log), \
               (SELECT count(*) FROM log WHERE executed > 1)";
    let row = insist(context, || reads.query_one(all, &[]));
    Stats {
        accounts: unsigned(&row, 0),
        balances: unsigned(&row, 1),
        operations: unsigned(&row, 2),
        executed_again: unsigned(&row, 3),
        ..Stats::of_server(server)
    }
}

/// Reads, again where the database cannot be reached: as long as the outcome is needed.
fn insist<T>(context: &Context, read: impl Fn() -> Result<T, SqlError>) -> T {
    loop {
        let error = match read() {
            Ok(read) => return read,
            Err(error) => error,
        };
        let pause = AGAIN_AFTER.min(context.remaining());
        let unwanted = smol::block_on(within(pause, context.cancelled())).is_some();
        if unwanted || context.remaining().is_zero() {
            // Its caller takes that for no reply, which is true.
            panic!("the bank cannot read: {error}");
        }
    }
}

/// A column that is never less than 0.
fn unsigned(row: &Row, column: usize) -> u64 {
    row.get::<_, i64>(column).unsigned_abs()
}
