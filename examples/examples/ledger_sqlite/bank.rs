//! A bank whose accounts and whose calls' records are in one SQLite database.

use std::path::{Path, PathBuf};

use oncewire::ledger::Rollback;
use oncewire::{Context, Server};
use rusqlite::{Connection, params};

use crate::store::{SqliteStore, Transaction};

#[oncewire::service(name = "sqlite_bank")]
pub trait Bank {
    /// Pays in, and says what is there then.
    #[rpc(transactional)]
    fn deposit(
        &self,
        transaction: &mut Transaction,
        context: &Context,
        account: u32,
        cents: i64,
    ) -> Result<i64, Rollback>;
    /// Pays out, and says what is there then. Where too little is there, the database's own constraint rolls the call back.
    #[rpc(transactional)]
    fn withdraw(
        &self,
        transaction: &mut Transaction,
        context: &Context,
        account: u32,
        cents: i64,
    ) -> Result<i64, Rollback>;
    /// Recorded, not transactional: it gives back the notice's number.
    async fn notice(&self, context: Context, number: u32) -> u32;
    /// What is there: read over a connection of its own, which sees only what is durable.
    #[rpc(idempotent, blocking)]
    fn balance(&self, context: Context, account: u32) -> i64;
}

struct InSqlite {
    file: PathBuf,
}

impl Bank for InSqlite {
    fn deposit(
        &self,
        transaction: &mut Transaction,
        _: &Context,
        account: u32,
        cents: i64,
    ) -> Result<i64, Rollback> {
        change(transaction, account, cents)
    }

    fn withdraw(
        &self,
        transaction: &mut Transaction,
        _: &Context,
        account: u32,
        cents: i64,
    ) -> Result<i64, Rollback> {
        change(transaction, account, -cents)
    }

    async fn notice(&self, _: Context, number: u32) -> u32 {
        number
    }

    fn balance(&self, _: Context, account: u32) -> i64 {
        balance(&self.file, account).expect("the database can be read")
    }
}

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS accounts (
        id INTEGER PRIMARY KEY,
        cents INTEGER NOT NULL CHECK (cents >= 0),
        changes INTEGER NOT NULL
    );";

fn change(transaction: &mut Transaction, account: u32, cents: i64) -> Result<i64, Rollback> {
    transaction.execute(
        "INSERT OR IGNORE INTO accounts (id, cents, changes) VALUES (?1, 0, 0)",
        [account],
    )?;
    // In two steps: if the second fails, the first must be undone.
    transaction.execute("UPDATE accounts SET changes = changes + 1 WHERE id = ?1", [account])?;
    let sql = "UPDATE accounts SET cents = cents + ?2 WHERE id = ?1 RETURNING cents";
    Ok(transaction.row(sql, params![account, cents], |row| row.get(0))?)
}

fn balance(path: &Path, account: u32) -> rusqlite::Result<i64> {
    let database = Connection::open(path)?;
    let sql = "SELECT coalesce(sum(cents), 0) FROM accounts WHERE id = ?1";
    database.query_row(sql, [account], |row| row.get(0))
}

/// All accounts: number, cents, changes.
///
/// # Errors
/// SQLite's.
pub fn accounts(path: &Path) -> rusqlite::Result<Vec<(u32, i64, i64)>> {
    let database = Connection::open(path)?;
    let mut all = database.prepare("SELECT id, cents, changes FROM accounts ORDER BY id")?;
    let rows = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    rows.collect()
}

/// The bank on this database.
///
/// # Errors
/// What is wrong with the database.
pub fn server(path: &Path) -> Result<Server, Box<dyn std::error::Error>> {
    let store = SqliteStore::open(path, TABLES)?;
    let bank = InSqlite { file: path.to_owned() };
    let builder = Server::builder("sqlite_bank").ledger(store.into_ledger());
    Ok(builder.service(BankServer(bank)).build()?)
}
