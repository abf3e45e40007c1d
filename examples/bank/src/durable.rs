//! The bank with a ledger: its calls and its accounts survive a crash.
//!
//! *Recorded*: the handlers and the books are those of every bank, the books are a file beside the ledger, and a
//! crash between the two leaves the call `Unknown(Interrupted)`. *Transactional*: accounts and log are tables in the
//! ledger's file, and money moves in the transaction that records the reply: exactly once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use oncewire::ledger::Rollback;
use oncewire::redb::redb::{
    ReadableTable, ReadableTableMetadata, StorageBackend, TableDefinition, TableError,
};
use oncewire::redb::{RedbLedger, RedbStore, Snapshot, Snapshots, Transaction};
use oncewire::{Context, Server, ServerId};

use crate::chance::unique;
use crate::cli::Mutant;
use crate::service::{
    AUDIT_PAGE_LEN_MAX, AccountId, AuditPage, BankError, Change, Executions, LEASE, Note, Open,
    Operation, SERVICE, Stats, recorded_server,
};
use crate::transactional::{self, Tables};

const ACCOUNTS: TableDefinition<'_, AccountId, u64> = TableDefinition::new("accounts");
/// How often each operation was executed, and applied.
const LOG: TableDefinition<'_, (u64, u64), (u32, u32)> = TableDefinition::new("log");

/// A bank on the ledger in this file.
pub(crate) fn server(
    path: &Path,
    transactional: bool,
    mutant: Option<Mutant>,
) -> Result<Server, String> {
    let ledger = if mutant == Some(Mutant::HastyLedger) {
        let disk = LyingDisk::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let id = u128::from(unique()) << 64 | u128::from(unique());
        RedbStore::with_backend(disk, ServerId::from_bytes(id.to_le_bytes())).map(RedbLedger::new)
    } else {
        RedbLedger::open(path)
    };
    let ledger = ledger.map_err(|error| error.to_string())?;
    if transactional {
        return transactional_server(ledger);
    }
    let mut books = path.as_os_str().to_owned();
    books.push(".books");
    recorded_server(ledger, &PathBuf::from(books))
}

/// [`Bank`](crate::service::Bank) on the wire; in the program its money moves in a transaction.
#[oncewire::service(name = "bank")]
pub(crate) trait TransactionalBank {
    #[rpc(transactional, reply_len_max = 16)]
    fn open(&self, tx: &mut Transaction, _: &Context, open: Open) -> Result<AccountId, Rollback>;
    #[rpc(transactional, reply_len_max = 32)]
    fn deduct(
        &self,
        transaction: &mut Transaction,
        context: &Context,
        change: Change,
    ) -> Result<Result<u64, BankError>, Rollback>;
    #[rpc(transactional, reply_len_max = 32)]
    fn deposit(
        &self,
        transaction: &mut Transaction,
        context: &Context,
        change: Change,
    ) -> Result<Result<u64, BankError>, Rollback>;
    #[rpc(idempotent)]
    async fn balance(&self, context: Context, account: AccountId) -> Result<u64, BankError>;
    #[rpc(transactional, one_way)]
    fn note(&self, tx: &mut Transaction, _: &Context, note: Note) -> Result<(), Rollback>;
    #[rpc(transactional)]
    fn audit(
        &self,
        transaction: &mut Transaction,
        context: &Context,
        page: AuditPage,
    ) -> Result<Vec<Executions>, Rollback>;
    #[rpc(idempotent)]
    async fn stats(&self, context: Context) -> Stats;
}

/// What the methods that only read need.
struct Reader {
    snapshots: Snapshots,
    server: Arc<OnceLock<Server>>,
}

impl TransactionalBank for Reader {
    fn open(
        &self,
        tx: &mut Transaction,
        _: &Context,
        arguments: Open,
    ) -> Result<AccountId, Rollback> {
        transactional::open(tx, &arguments)
    }

    fn deduct(
        &self,
        transaction: &mut Transaction,
        _: &Context,
        arguments: Change,
    ) -> Result<Result<u64, BankError>, Rollback> {
        transactional::deduct(transaction, &arguments)
    }

    fn deposit(
        &self,
        transaction: &mut Transaction,
        _: &Context,
        arguments: Change,
    ) -> Result<Result<u64, BankError>, Rollback> {
        transactional::deposit(transaction, &arguments)
    }

    async fn balance(&self, _: Context, account: AccountId) -> Result<u64, BankError> {
        balance(&self.snapshots.latest(), account)
    }

    fn note(&self, tx: &mut Transaction, _: &Context, note: Note) -> Result<(), Rollback> {
        transactional::note(tx, &note)
    }

    fn audit(
        &self,
        transaction: &mut Transaction,
        _: &Context,
        page: AuditPage,
    ) -> Result<Vec<Executions>, Rollback> {
        transaction.audit(&page)
    }

    async fn stats(&self, _: Context) -> Stats {
        read_stats(&self.snapshots.latest(), self.server.get())
    }
}

fn transactional_server(ledger: RedbLedger) -> Result<Server, String> {
    let this = Arc::new(OnceLock::new());
    let reader = Reader { snapshots: ledger.snapshots(), server: this.clone() };
    let server = Server::builder(SERVICE)
        .ledger(ledger)
        .configure(|config| config.lease = LEASE)
        .service(TransactionalBankServer(reader))
        .signatures()
        .status()
        .build()
        .map_err(|error| error.to_string())?;
    // Neither ends before the process does.
    let _ = this.set(server.clone());
    Ok(server)
}

impl Tables for Transaction {
    fn insert_account(&mut self, balance: u64) -> Result<AccountId, Rollback> {
        self.with_table(ACCOUNTS, move |accounts| {
            let id = accounts.len()? + 1;
            accounts.insert(id, balance)?;
            Ok(id)
        })
    }

    fn balance(&mut self, account: AccountId) -> Result<Option<u64>, Rollback> {
        self.with_table(ACCOUNTS, move |accounts| {
            Ok(accounts.get(account)?.map(|balance| balance.value()))
        })
    }

    fn set_balance(&mut self, account: AccountId, balance: u64) -> Result<(), Rollback> {
        self.with_table(ACCOUNTS, move |accounts| {
            accounts.insert(account, balance)?;
            Ok(())
        })
    }

    fn log(&mut self, operation: Operation, applied: bool) -> Result<(), Rollback> {
        self.with_table(LOG, move |log| {
            let key = (operation.client, operation.number);
            let (executed, before) = log.get(key)?.map_or((0, 0), |entry| entry.value());
            log.insert(key, (executed + 1, before + u32::from(applied)))?;
            Ok(())
        })
    }

    fn audit(&mut self, page: &AuditPage) -> Result<Vec<Executions>, Rollback> {
        let client = page.client;
        let numbers = (page.first..).take(page.count.min(AUDIT_PAGE_LEN_MAX) as usize);
        self.with_table(LOG, move |log| {
            let entries = numbers.map(|number| {
                let entry = log.get((client, number))?;
                let (executed, applied) = entry.map_or((0, 0), |entry| entry.value());
                Ok(Executions { executed, applied })
            });
            entries.collect()
        })
    }
}

fn balance(snapshot: &Snapshot, account: AccountId) -> Result<u64, BankError> {
    let accounts = match snapshot.open_table(ACCOUNTS) {
        Err(TableError::TableDoesNotExist(_)) => return Err(BankError::NoSuchAccount),
        accounts => accounts.expect("the accounts can be read"),
    };
    let balance = accounts.get(account).expect("an account can be read");
    balance.map(|balance| balance.value()).ok_or(BankError::NoSuchAccount)
}

fn read_stats(snapshot: &Snapshot, server: Option<&Server>) -> Stats {
    let mut stats = Stats::of_server(server);
    if let Ok(accounts) = snapshot.open_table(ACCOUNTS) {
        for account in accounts.iter().expect("the accounts can be read") {
            stats.accounts += 1;
            stats.balances += account.expect("an account can be read").1.value();
        }
    }
    if let Ok(log) = snapshot.open_table(LOG) {
        for entry in log.iter().expect("the log can be read") {
            stats.operations += 1;
            let (executed, _) = entry.expect("the log can be read").1.value();
            stats.executed_again += u64::from(executed > 1);
        }
    }
    stats
}

/// A disk that says "it is written" and writes later: what is lost with the process has been answered. To show that the
/// crash test notices.
#[derive(Debug)]
struct LyingDisk {
    path: PathBuf,
    image: Mutex<Image>,
}

#[derive(Debug, Default)]
struct Image {
    bytes: Vec<u8>,
    syncs: u64,
}

/// Syncs of which only the last is true.
const LIES: u64 = 16;

impl LyingDisk {
    fn open(path: &Path) -> io::Result<LyingDisk> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let image = Mutex::new(Image { bytes, syncs: 0 });
        Ok(LyingDisk { path: path.to_owned(), image })
    }

    fn image(&self) -> MutexGuard<'_, Image> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageBackend for LyingDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.image().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = offset as usize;
        let image = self.image();
        let from = image.bytes.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(from);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.image().bytes.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut image = self.image();
        image.syncs += 1;
        if image.syncs.is_multiple_of(LIES) {
            let new = self.path.with_extension("image");
            std::fs::write(&new, &image.bytes)?;
            std::fs::rename(&new, &self.path)?;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = offset as usize;
        self.image().bytes[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
}
