//! Transactional methods of services, durable clients, and the ways to write a transaction's type.
#![allow(missing_docs, unreachable_pub)]

use std::path::PathBuf;

use oncewire::ledger::Rollback;
use oncewire::{Client, ClientOptions, Context, DurableClient, Outcome, Server};
use oncewire_ledger_redb::redb::{ReadableTable, TableDefinition};
use oncewire_ledger_redb::{RedbJournal, RedbLedger, Transaction};
use oncewire_pipe::memory;

const ACCOUNTS: TableDefinition<'_, u64, u64> = TableDefinition::new("accounts");

type RolledBackOr<R> = Result<R, Rollback>;

/// On a ledger of any kind.
#[oncewire::service(name = "bank")]
pub trait Bank {
    type Transaction;
    /// Pays in.
    #[rpc(transactional, reply_len_max = 64)]
    fn deposit(
        &self,
        transaction: &mut Self::Transaction,
        context: &Context,
        account: u64,
        cents: u64,
    ) -> Result<u64, Rollback>;
    /// Takes out, unless there is too little.
    #[rpc(transactional, name = "deduct.v2")]
    fn deduct(
        &self,
        transaction: &mut Self::Transaction,
        context: &Context,
        account: u64,
        cents: u64,
    ) -> RolledBackOr<Result<u64, String>>;
    #[rpc(transactional, one_way)]
    fn close(
        &self,
        transaction: &mut <Self as Bank>::Transaction,
        context: &Context,
        account: u64,
    ) -> Result<(), Rollback>;
    #[rpc(idempotent)]
    async fn motto(&self, context: Context, times: u32) -> String;
}

/// On a ledger of this kind.
#[oncewire::service(name = "audit")]
pub trait Audit {
    #[rpc(transactional)]
    fn all(&self, transaction: &mut Transaction, context: &Context) -> Result<Vec<u64>, Rollback>;
}

struct OnRedb;

impl Bank for OnRedb {
    type Transaction = Transaction;

    fn deposit(
        &self,
        transaction: &mut Transaction,
        _: &Context,
        account: u64,
        cents: u64,
    ) -> Result<u64, Rollback> {
        let mut accounts = transaction.open_table(ACCOUNTS)?;
        let balance = accounts.get(account)?.map_or(0, |there| there.value()) + cents;
        accounts.insert(account, balance)?;
        Ok(balance)
    }

    fn deduct(
        &self,
        transaction: &mut Transaction,
        _: &Context,
        account: u64,
        cents: u64,
    ) -> Result<Result<u64, String>, Rollback> {
        let mut accounts = transaction.open_table(ACCOUNTS)?;
        let there = accounts.get(account)?.map_or(0, |there| there.value());
        let Some(left) = there.checked_sub(cents) else { return Ok(Err(format!("only {there}"))) };
        accounts.insert(account, left)?;
        if left == 13 {
            return Err(Rollback::new("an unlucky number"));
        }
        Ok(Ok(left))
    }

    fn close(
        &self,
        transaction: &mut Transaction,
        _: &Context,
        account: u64,
    ) -> Result<(), Rollback> {
        transaction.open_table(ACCOUNTS)?.remove(account)?;
        Ok(())
    }

    async fn motto(&self, _: Context, times: u32) -> String {
        "once ".repeat(times as usize)
    }
}

impl Audit for OnRedb {
    fn all(&self, transaction: &mut Transaction, _: &Context) -> Result<Vec<u64>, Rollback> {
        let accounts = transaction.open_table(ACCOUNTS)?;
        let balances = accounts.iter()?.map(|row| Ok(row?.1.value()));
        balances.collect()
    }
}

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let name = format!("oncewire-facade-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a folder of the test's own");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn serve(folder: &Folder) -> memory::MemoryConnector {
    let ledger = RedbLedger::open(folder.0.join("a.ledger")).unwrap();
    let builder = Server::builder("bank").ledger(ledger);
    let server = builder.service(BankServer(OnRedb)).service(AuditServer(OnRedb)).build().unwrap();
    let (connector, acceptor) = memory::listener();
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    connector
}

#[test]
fn transactional_methods_run_in_the_ledgers_transaction() {
    let folder = Folder::new("transactional");
    let client = Client::new(serve(&folder), ClientOptions::default());
    let bank = BankClient(client.clone());
    smol::block_on(async {
        assert_eq!(bank.deposit(7, 100).await.ok(), Ok(100));
        assert_eq!(bank.deduct(7, 30).await.ok(), Ok(Ok(70)));
        assert_eq!(bank.deduct(7, 71).await.ok(), Ok(Err("only 70".to_owned())));
        let rolled_back = bank.deduct(7, 57).await;
        assert!(matches!(rolled_back, Outcome::NotExecuted(_)), "{rolled_back:?}");
        assert_eq!(bank.deposit(8, 1).await.ok(), Ok(1));
        bank.close(8).unwrap();
        assert_eq!(bank.motto(2).await.ok(), Ok("once once ".to_owned()));
        // Behind the one-way call, in the same session and queue.
        assert_eq!(AuditClient(client.clone()).all().await.ok(), Ok(vec![70]));
        client.close().await;
    });
}

#[test]
fn a_durable_client_makes_the_same_calls_with_tags() {
    let folder = Folder::new("durable");
    let connector = serve(&folder);
    let journal = RedbJournal::open(folder.0.join("a.journal")).unwrap();
    let (client, left) = DurableClient::open(connector, ClientOptions::default(), journal).unwrap();
    assert!(left.is_empty());
    let bank = DurableBankClient(client.clone());
    smol::block_on(async {
        let delivery = bank.deposit("order 17", 7, 100).await;
        assert!(matches!(delivery.outcome, Outcome::Reply(100)), "{delivery:?}");
        delivery.receipt.confirm();
        let delivery = bank.motto("order 18", 1).await;
        assert!(matches!(&delivery.outcome, Outcome::Reply(motto) if motto == "once "));
        delivery.receipt.confirm();
        client.close().await;
    });
}
