//! The bank in etcd: accounts, the log of executions and the records of calls in one ledger, changed in one transaction. Whichever
//! server's turn it is, it finds all of it there; and its clients find the server there.
//!
//! | key | value |
//! |---|---|
//! | `accounts` | how many were opened |
//! | `account/NUMBER` | what it holds |
//! | `log/CLIENT/PAGE` | for each of the operations of a page, how often it was executed and applied, in JSON |
//!
//! A call writes four keys at most, of less than 3 KiB together. Operations share pages, since a server that takes its turn
//! reads each key.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use oncewire::ledger::{LedgerError, Rollback};
use oncewire::{BoxFuture, Server};
use oncewire_etcd::ledger::{EtcdLedger, Reads, Transaction};
use oncewire_etcd::{Registration, Registry};

use crate::durable::TransactionalBankMethods as Methods;
use crate::etcd_place::EtcdPlace;
use crate::service::{
    AUDIT_PAGE_LEN_MAX, AccountId, AuditPage, BankError, Executions, LEASE, Operation, SERVICE,
    Stats,
};
use crate::transactional::{self, Tables};
use crate::turn::{Entry, Site, This, Turn, server_of};

/// Operations on a page of the log.
const PAGE_LEN: u64 = 64;
const ACCOUNTS: &str = "accounts";

/// How several banks have one ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Each waits until the one before is gone.
    InTurns,
    /// In turns that are not waited for: a bug.
    WithoutFence,
}

/// Waits for the turn of this server and makes its bank. `lease` is how long a turn lasts behind the death of its server.
///
/// # Errors
/// etcd cannot be reached or refuses it, or what is there cannot be read.
pub(crate) async fn open(place: &EtcdPlace, lease: Duration, how: How) -> Result<Turn, String> {
    let etcd = place.etcd().map_err(|error| error.to_string())?;
    // To wait for a turn at an etcd that is not there would be to wait for ever, and not to say why.
    let found = etcd.get("oncewire").await;
    found.map_err(|error| format!("etcd cannot be reached: {error}"))?;
    let registry = Registry::new(etcd).with_lease(lease);
    let ledger = ledger(&registry, place.name(), how).await.map_err(|error| error.to_string())?;
    let lost: BoxFuture<'static, ()> = Box::pin(ledger.ended());
    let (server, this) = build(ledger).map_err(|error| error.to_string())?;
    let lost = Mutex::new(Some(lost));
    let name = place.name().to_owned();
    Ok(Turn::new(server, this).at(Name { registry, name, lost }))
}

async fn ledger(registry: &Registry, name: &str, how: How) -> Result<EtcdLedger, LedgerError> {
    match how {
        How::InTurns => EtcdLedger::open(registry, name).await,
        How::WithoutFence => EtcdLedger::open_without_fence(registry, name).await,
    }
}

fn build(ledger: EtcdLedger) -> Result<(Server, This), oncewire::BuildError> {
    let this = This::default();
    let (balances, reads, server) = (ledger.reads(), ledger.reads(), this.clone());
    let server = Server::builder(SERVICE)
        .ledger(ledger)
        .configure(|config| config.lease = LEASE)
        .transactional(&Methods::OPEN, |tx: &mut Transaction, _, (open,)| {
            transactional::open(tx, &open)
        })
        .transactional(&Methods::DEDUCT, |tx: &mut Transaction, _, (change,)| {
            transactional::deduct(tx, &change)
        })
        .transactional(&Methods::DEPOSIT, |tx: &mut Transaction, _, (change,)| {
            transactional::deposit(tx, &change)
        })
        .transactional(&Methods::NOTE, |tx: &mut Transaction, _, (note,)| {
            transactional::note(tx, &note)
        })
        .transactional(&Methods::AUDIT, |tx: &mut Transaction, _, (page,)| tx.audit(&page))
        .method(&Methods::BALANCE, move |_, (account,)| {
            let balance = balances.get(account_key(account));
            let balance = number(balance).expect("a balance can be read");
            std::future::ready(balance.ok_or(BankError::NoSuchAccount))
        })
        .blocking(&Methods::STATS, move |_, ()| read_stats(&reads, server_of(&server).as_ref()))
        .signatures()
        .status()
        .build()?;
    Ok((server, this))
}

impl Tables for Transaction {
    fn insert_account(&mut self, balance: u64) -> Result<AccountId, Rollback> {
        let id = number(self.get(ACCOUNTS))?.unwrap_or(0) + 1;
        self.put(ACCOUNTS, id.to_string())?;
        self.put(account_key(id), balance.to_string())?;
        Ok(id)
    }

    fn balance(&mut self, account: AccountId) -> Result<Option<u64>, Rollback> {
        number(self.get(account_key(account)))
    }

    fn set_balance(&mut self, account: AccountId, balance: u64) -> Result<(), Rollback> {
        Ok(self.put(account_key(account), balance.to_string())?)
    }

    fn log(&mut self, operation: Operation, applied: bool) -> Result<(), Rollback> {
        let key = page_key(operation.client, operation.number / PAGE_LEN);
        let mut page = page(self.get(&key))?;
        let at = (operation.number % PAGE_LEN) as usize;
        if page.len() <= at {
            page.resize(at + 1, (0, 0));
        }
        let (executed, before) = page[at];
        page[at] = (executed.saturating_add(1), before.saturating_add(u32::from(applied)));
        Ok(self.put(key, serde_json::to_vec(&page)?)?)
    }

    fn audit(&mut self, page: &AuditPage) -> Result<Vec<Executions>, Rollback> {
        let end = page.first.saturating_add(page.count.min(AUDIT_PAGE_LEN_MAX));
        let mut all = Vec::new();
        let mut next = page.first;
        while next < end {
            let logged = self::page(self.get(page_key(page.client, next / PAGE_LEN)))?;
            let of_page = next % PAGE_LEN..(next % PAGE_LEN + (end - next)).min(PAGE_LEN);
            next += of_page.end - of_page.start;
            all.extend(of_page.map(|at| {
                let (executed, applied) = logged.get(at as usize).copied().unwrap_or_default();
                Executions { executed, applied }
            }));
        }
        Ok(all)
    }
}

fn account_key(account: AccountId) -> String {
    format!("account/{account}")
}

fn page_key(client: u64, page: u64) -> String {
    format!("log/{client:016x}/{page}")
}

/// A number as it is kept; `None` if none is.
fn number(value: Option<Vec<u8>>) -> Result<Option<u64>, Rollback> {
    value.map(|digits| Ok(std::str::from_utf8(&digits)?.parse()?)).transpose()
}

/// How often each operation of a page was executed, and applied; those behind its end never.
fn page(value: Option<Vec<u8>>) -> Result<Vec<(u32, u32)>, Rollback> {
    Ok(value.map(|json| serde_json::from_slice(&json)).transpose()?.unwrap_or_default())
}

fn read_stats(reads: &Reads, server: Option<&Server>) -> Stats {
    let mut stats = Stats::of_server(server);
    for (_, balance) in reads.scan("account/") {
        stats.accounts += 1;
        let balance = number(Some(balance)).expect("a balance can be read");
        stats.balances += balance.unwrap_or_default();
    }
    for (_, logged) in reads.scan("log/") {
        for (executed, _) in page(Some(logged)).expect("the log can be read") {
            stats.operations += u64::from(executed > 0);
            stats.executed_again += u64::from(executed > 1);
        }
    }
    stats
}

/// The ledger's name, by which clients find the server as well.
struct Name {
    registry: Registry,
    name: String,
    /// Ends when the turn does; waited for once.
    lost: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Site for Name {
    fn enter(&self, server: &Server, address: &str) -> Result<Box<dyn Entry>, String> {
        let address = address.strip_prefix("tcp:").ok_or_else(|| {
            format!("clients find the server of a ledger in etcd over TCP, and {address} is no tcp:HOST:PORT")
        })?;
        let registration = self.registry.register(server, &self.name, address);
        Ok(Box::new(registration.map_err(|error| error.to_string())?))
    }

    fn lost(&self) -> BoxFuture<'_, ()> {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner).take();
        lost.unwrap_or_else(|| Box::pin(std::future::pending()))
    }
}

impl Entry for Registration {
    fn drain(self: Box<Self>, grace: Duration) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // What cannot be withdrawn goes with its lease.
            let _withdrawn = Registration::drain(*self, grace).await;
        })
    }
}
