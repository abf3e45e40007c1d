//! Three ways to make a payment: in the ledger's transaction, recorded, and with an idempotency-key table made by hand.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use oncewire_driver::ledger::Ledger;
use oncewire_driver::{
    BoxFuture, BoxStream, Client, ClientOptions, Connect, Method, Server, ServerBuilder, Subject,
};
use oncewire_ledger_redb::redb::{ReadableTable, TableDefinition};
use oncewire_ledger_redb::{RedbLedger, Transaction};
use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};
use smol::net::unix::UnixStream;

use crate::Result;

const ACCOUNTS: TableDefinition<'_, u64, u64> = TableDefinition::new("accounts");
/// Accounts that are paid into.
const ACCOUNTS_LEN: u64 = 1000;

/// Account and key; only the table made by hand needs the key.
type Pay = Method<(u64, u64), u64>;
static PAY: Pay = Method::new("bench/pay");
static NOTE: Pay = Method::new("bench/note");
static BY_HAND: Pay = Method::new("bench/by_hand").idempotent();

/// How a call is made safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Transactional,
    Recorded,
    /// A row with the key and the reply in the same transaction of SQLite, one transaction a request.
    ByHand,
}

impl Kind {
    pub(super) const ALL: [Kind; 3] = [Kind::Transactional, Kind::Recorded, Kind::ByHand];

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Transactional => "transactional",
            Kind::Recorded => "recorded",
            Kind::ByHand => "SQLite key table by hand",
        }
    }

    pub(super) fn method(self) -> &'static Pay {
        match self {
            Kind::Transactional => &PAY,
            Kind::Recorded => &NOTE,
            Kind::ByHand => &BY_HAND,
        }
    }
}

/// Servers and a client of each.
pub(super) struct Service {
    ledgered: Client,
    by_hand: Client,
    /// Keys given so far.
    pub(super) numbers: Arc<AtomicU64>,
}

/// An account and a key that was not used before.
pub(super) fn argument(numbers: &AtomicU64, account: u64) -> (u64, u64) {
    let key = numbers.fetch_add(1, Ordering::Relaxed);
    ((account + key) % ACCOUNTS_LEN, key)
}

impl Service {
    pub(super) fn new(folder: &Path) -> Result<Service> {
        let ledgered = ledgered(RedbLedger::open(folder.join("ledger"))?)?;
        let by_hand = by_hand(&folder.join("keys.sqlite"))?;
        let client = |server: Server| Client::new(Dial(server), ClientOptions::default());
        let numbers = Arc::default();
        Ok(Service { ledgered: client(ledgered), by_hand: client(by_hand), numbers })
    }

    pub(super) fn client(&self, kind: Kind) -> &Client {
        if kind == Kind::ByHand { &self.by_hand } else { &self.ledgered }
    }

    pub(super) fn argument(&self, account: u64) -> (u64, u64) {
        argument(&self.numbers, account)
    }

    pub(super) fn close(&self) {
        smol::block_on(async {
            self.ledgered.close().await;
            self.by_hand.close().await;
        });
    }
}

/// A server on a ledger of redb.
pub(super) fn ledgered(ledger: RedbLedger) -> Result<Server> {
    on_ledger(Server::builder("ledgered"), ledger)
}

/// The same on any runtime, and on anything that commits to redb.
pub(super) fn on_ledger(
    builder: ServerBuilder,
    ledger: impl Ledger<Transaction = Transaction>,
) -> Result<Server> {
    let builder = builder
        .ledger(ledger)
        .transactional(&PAY, |transaction: &mut Transaction, _, (account, _key)| {
            transaction.with_table(ACCOUNTS, move |accounts| {
                let balance = accounts.get(account)?.map_or(0, |balance| balance.value()) + 1;
                accounts.insert(account, balance)?;
                Ok(balance)
            })
        })
        .method(&NOTE, |_, _| async { 0 });
    Ok(builder.build()?)
}

/// Calls that may come twice, and a table that says so: what services do without a ledger.
fn by_hand(path: &Path) -> Result<Server> {
    let database = Connection::open(path)?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    database.pragma_update(None, "synchronous", "FULL")?;
    database.execute_batch(
        "CREATE TABLE keys (key INTEGER PRIMARY KEY, reply INTEGER NOT NULL);
         CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);",
    )?;
    let database = Mutex::new(database);
    let builder = Server::builder("by_hand").method(&BY_HAND, move |_, (account, key)| {
        let paid = {
            let database = database.lock().unwrap_or_else(PoisonError::into_inner);
            pay(&database, account, key)
        };
        async move { paid.expect("SQLite commits") }
    });
    Ok(builder.build()?)
}

fn pay(database: &Connection, account: u64, key: u64) -> rusqlite::Result<u64> {
    let (account, key) = (account as i64, key as i64);
    database.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let sql = "SELECT reply FROM keys WHERE key = ?1";
    let known: Option<i64> =
        database.prepare_cached(sql)?.query_row([key], |row| row.get(0)).optional()?;
    let reply = match known {
        Some(reply) => reply,
        None => {
            let sql = "INSERT INTO accounts VALUES (?1, 1)
                ON CONFLICT (id) DO UPDATE SET balance = balance + 1 RETURNING balance";
            let reply: i64 =
                database.prepare_cached(sql)?.query_row([account], |row| row.get(0))?;
            database.prepare_cached("INSERT INTO keys VALUES (?1, ?2)")?.execute([key, reply])?;
            reply
        }
    };
    database.prepare_cached("COMMIT")?.execute([])?;
    Ok(reply as u64)
}

/// Dials by making a pair of sockets.
struct Dial(Server);

impl Connect for Dial {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let (ours, theirs) = UnixStream::pair()?;
            self.0.serve_stream(Box::new(theirs), Subject::Anonymous);
            Ok(Box::new(ours) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "a socket pair".to_owned()
    }
}
