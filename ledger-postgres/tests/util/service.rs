//! A bank on the ledger, and a way to dial whatever server runs.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use oncewire_driver::ledger::{Changes, LedgerError, Rollback};
use oncewire_driver::{BoxFuture, BoxStream, Connect, Method, Server, ServerConfig, Subject};
use oncewire_ledger_postgres::{PostgresLedger, PostgresOptions, Reads, SqlError, Transaction};
use smol::net::unix::UnixStream;

/// Transactional: adds, and says what is there. Rolls back what leaves less than nothing, and panics at 13.
pub const PAY: Method<(i32, i64), i64> = Method::new("test/pay");
/// Transactional: pays, continues after a statement that fails, and pays again.
pub const STUMBLE: Method<i32, i64> = Method::new("test/stumble");
/// Transactional: writes a row whose constraint is checked at the commit; a negative one breaks it.
pub const DEFER: Method<i32, bool> = Method::new("test/defer");
/// Transactional: runs this statement.
pub const STATEMENT: Method<String, ()> = Method::new("test/statement");
/// Recorded: counts.
pub const COUNT: Method<(), u32> = Method::new("test/count");
/// Idempotent, on a connection of its own.
pub const BALANCE: Method<i32, i64> = Method::new("test/balance").idempotent();

/// A long poll: what an account holds, once it is more than this.
pub const WATCH: Method<(i32, i64), Result<i64, String>> =
    Method::new("test/watch").idempotent().drop_on_cancel();

pub const TABLES: &str = "
CREATE TABLE IF NOT EXISTS accounts (id int PRIMARY KEY, cents bigint NOT NULL, changes bigint NOT NULL);
CREATE TABLE IF NOT EXISTS customers (id int PRIMARY KEY);
CREATE TABLE IF NOT EXISTS orders (customer int REFERENCES customers DEFERRABLE INITIALLY DEFERRED);
INSERT INTO customers SELECT generate_series(0, 99) ON CONFLICT DO NOTHING";

pub fn options(connection: &str) -> PostgresOptions {
    PostgresOptions::new(connection).unwrap().with_tables(TABLES)
}

fn pay(transaction: &mut Transaction, account: i32, cents: i64) -> Result<i64, SqlError> {
    let row = transaction.query_one(
        "INSERT INTO accounts VALUES ($1, $2, 1) ON CONFLICT (id) DO UPDATE \
         SET cents = accounts.cents + $2, changes = accounts.changes + 1 RETURNING cents",
        &[&account, &cents],
    )?;
    Ok(row.get(0))
}

fn balance(reads: &Reads, account: i32) -> i64 {
    let row = reads.query_opt("SELECT cents FROM accounts WHERE id = $1", &[&account]);
    row.ok().flatten().map_or(0, |row| row.get(0))
}

async fn watch(reads: Reads, changes: Changes, account: i32, more: i64) -> Result<i64, String> {
    loop {
        let (seen, reads) = (changes.last(), reads.clone());
        let cents = smol::unblock(move || balance(&reads, account)).await;
        if cents > more {
            return Ok(cents);
        }
        changes.after(seen).await.map_err(|error| error.to_string())?;
    }
}

pub fn server(ledger: PostgresLedger, runs: &Arc<AtomicU32>) -> Server {
    server_with(ledger, runs, |_| {})
}

/// The same with other limits.
pub fn server_with(
    ledger: PostgresLedger,
    runs: &Arc<AtomicU32>,
    change: impl FnOnce(&mut ServerConfig),
) -> Server {
    let (reads, runs) = (ledger.reads(), runs.clone());
    let (watched, changes) = (reads.clone(), ledger.changes());
    Server::builder("test")
        .ledger(ledger)
        .transactional(&PAY, |transaction: &mut Transaction, _, (account, cents)| {
            let balance = pay(transaction, account, cents)?;
            assert_ne!(cents, 13, "a transactional handler that panics");
            if balance < 0 {
                return Err(Rollback::new("nothing is left"));
            }
            Ok(balance)
        })
        .transactional(&STUMBLE, |transaction: &mut Transaction, _, account| {
            pay(transaction, account, 1)?;
            let twice = transaction.execute("INSERT INTO customers VALUES (1)", &[]);
            assert!(twice.is_err(), "the customer is there");
            match pay(transaction, account, 1) {
                Ok(balance) => Ok(balance),
                // As a handler that takes what it gets.
                Err(_) => Ok(-1),
            }
        })
        .transactional(&DEFER, |transaction: &mut Transaction, _, customer| {
            transaction.execute("INSERT INTO orders VALUES ($1)", &[&customer])?;
            Ok(true)
        })
        .transactional(&STATEMENT, |transaction: &mut Transaction, _, statement: String| {
            transaction.execute(&statement, &[])?;
            Ok(())
        })
        .method(&COUNT, move |_, ()| {
            let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
            async move { run }
        })
        .blocking(&BALANCE, move |_, account: i32| balance(&reads, account))
        .method(&WATCH, move |_, (account, more)| {
            watch(watched.clone(), changes.clone(), account, more)
        })
        .configure(change)
        .build()
        .unwrap()
}

pub fn open(connection: &str, runs: &Arc<AtomicU32>) -> Server {
    server(options(connection).open().unwrap(), runs)
}

/// Waits until the server's ledger can commit no more. This call must have no answer by then.
pub async fn until_it_fails<C>(server: &Server, call: &mut C)
where
    C: Future<Output: std::fmt::Debug> + Unpin,
{
    let fails = async {
        while server.ledger_error().is_none() {
            smol::future::yield_now().await;
        }
    };
    let answered = async {
        let outcome = call.await;
        panic!("the call was answered: {outcome:?}");
    };
    smol::future::or(fails, answered).await;
}

/// Why a ledger is refused.
pub fn refused(options: PostgresOptions) -> String {
    let error: LedgerError = options.try_open().expect_err("it is refused");
    let text = error.to_string();
    assert!(!text.contains('\n'), "one line: {text}");
    text
}

/// Where clients dial: the server that runs now, if one does.
#[derive(Clone, Default)]
pub struct Place(Arc<Mutex<Option<Server>>>, Arc<Mutex<Option<UnixStream>>>);

impl Place {
    pub fn set(&self, server: Option<Server>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }

    /// Breaks the last connection: neither side has said goodbye.
    pub fn cut(&self) {
        assert!(self.try_cut(), "there is a connection");
    }

    /// The same, if there has been one since the last time.
    pub fn try_cut(&self) -> bool {
        let last = self.1.lock().unwrap_or_else(PoisonError::into_inner).take();
        last.is_some_and(|last| last.shutdown(std::net::Shutdown::Both).is_ok())
    }
}

impl Connect for Place {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let server = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let server = server.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (ours, theirs) = UnixStream::pair()?;
            *self.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(ours.clone());
            server.serve_stream(Box::new(theirs), Subject::Anonymous);
            Ok(Box::new(ours) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "a socket pair".to_owned()
    }
}
