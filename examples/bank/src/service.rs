//! The bank's methods, and the server that executes them.
//!
//! Besides accounts the bank keeps a log: how often it executed each operation. Neither the protocol nor the driver
//! knows of it. It is how this example finds out whether what they promise is true.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use oncewire::ledger::Ledger;
use oncewire::{BuildError, Context, Schema, Server, ServerBuilder};
use serde::{Deserialize, Serialize};

use crate::books_file::{BooksFile, Line};

/// What the service is called.
pub(crate) const SERVICE: &str = "bank";

/// The bank as its clients call it.
#[oncewire::service(name = "bank")]
pub(crate) trait Bank {
    /// Opens an account.
    #[rpc(reply_len_max = 16)]
    async fn open(&self, context: Context, open: Open) -> AccountId;
    /// Takes money out of an account; the reply is the balance.
    #[rpc(reply_len_max = 32)]
    async fn deduct(&self, context: Context, change: Change) -> Result<u64, BankError>;
    /// Puts money into an account; the reply is the balance.
    #[rpc(reply_len_max = 32)]
    async fn deposit(&self, context: Context, change: Change) -> Result<u64, BankError>;
    /// What an account holds.
    #[rpc(idempotent)]
    async fn balance(&self, context: Context, account: AccountId) -> Result<u64, BankError>;
    /// Writes a line onto an account's statement: nothing is reported of it.
    #[rpc(one_way)]
    async fn note(&self, context: Context, note: Note);
    /// How often a client's operations were executed. Not idempotent, though it changes nothing: so it is executed after
    /// everything that its session sent before it.
    async fn audit(&self, context: Context, page: AuditPage) -> Vec<Executions>;
    /// What the server has done.
    #[rpc(idempotent)]
    async fn stats(&self, context: Context) -> Stats;
}

/// Operations in one reply of [`Bank::audit`], at most.
pub(crate) const AUDIT_PAGE_LEN_MAX: u64 = 4096;

/// The number of an account: the bank gives it.
pub(crate) type AccountId = u64;

/// An operation of a client: its name in the bank's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub(crate) struct Operation {
    /// A random number that names the client.
    pub(crate) client: u64,
    /// Counts the client's operations.
    pub(crate) number: u64,
}

/// The argument of [`Bank::open`].
#[derive(Debug, Serialize, Deserialize, Schema)]
pub(crate) struct Open {
    pub(crate) operation: Operation,
    /// The account's first balance.
    pub(crate) opening: u64,
}

/// The argument of [`Bank::deduct`] and [`Bank::deposit`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize, Schema)]
pub(crate) struct Change {
    pub(crate) operation: Operation,
    pub(crate) account: AccountId,
    pub(crate) amount: u64,
}

/// The argument of [`Bank::note`].
#[derive(Debug, Serialize, Deserialize, Schema)]
pub(crate) struct Note {
    pub(crate) operation: Operation,
    pub(crate) account: AccountId,
    pub(crate) text: String,
}

/// The argument of [`Bank::audit`]: these operations of a client.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, Schema)]
pub(crate) struct AuditPage {
    pub(crate) client: u64,
    pub(crate) first: u64,
    /// At most [`AUDIT_PAGE_LEN_MAX`].
    pub(crate) count: u64,
}

/// What the log says of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub(crate) struct Executions {
    /// How often it was executed.
    pub(crate) executed: u32,
    /// How often it changed something, rather than being declined.
    pub(crate) applied: u32,
}

/// Why the bank declines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub(crate) enum BankError {
    NoSuchAccount,
    Insufficient { balance: u64 },
}

impl fmt::Display for BankError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BankError::NoSuchAccount => f.write_str("there is no such account"),
            BankError::Insufficient { balance } => write!(f, "the account holds only {balance}"),
        }
    }
}

impl std::error::Error for BankError {}

/// The reply of [`Bank::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub(crate) struct Stats {
    /// Accounts that were opened.
    pub(crate) accounts: u64,
    /// What they hold together.
    pub(crate) balances: u64,
    /// Operations in the log.
    pub(crate) operations: u64,
    /// Operations that were executed more than once.
    pub(crate) executed_again: u64,
    /// Connections now.
    pub(crate) conns: u64,
    /// Calls that run now, this one among them.
    pub(crate) running: u64,
    /// Requests that the server recognised as duplicates and did not execute.
    pub(crate) duplicates: u64,
    /// Requests that came after their slot was used again, dropped.
    pub(crate) stale: u64,
    /// Questions about calls in doubt that were answered.
    pub(crate) asks: u64,
    /// Sessions resumed.
    pub(crate) resumes: u64,
}

impl Stats {
    /// What the server counts; nothing of the books.
    pub(crate) fn of_server(server: Option<&Server>) -> Stats {
        let counters = server.map(Server::counters).unwrap_or_default();
        Stats {
            conns: counters.conns as u64,
            running: counters.running,
            duplicates: counters.duplicates,
            stale: counters.stale,
            asks: counters.asks,
            resumes: counters.resumes,
            ..Stats::default()
        }
    }
}

#[derive(Debug, Default)]
struct Account {
    balance: u64,
    notes: Vec<String>,
}

#[derive(Debug, Default)]
struct Books {
    accounts: BTreeMap<AccountId, Account>,
    log: BTreeMap<Operation, Executions>,
    executed_again: u64,
    /// Where it all is written down, in a bank whose books survive it.
    file: Option<BooksFile>,
}

impl Books {
    /// The books that are in a file, which goes on being written.
    fn of_file(path: &Path) -> Result<Books, String> {
        let mut books = Books::default();
        let file = BooksFile::open(path, |line| books.again(line))?;
        books.file = Some(file);
        Ok(books)
    }

    fn again(&mut self, line: Line) {
        match line {
            Line::Open(open) => drop(self.open(open)),
            Line::Deduct(change) => drop(self.deduct(change)),
            Line::Deposit(change) => drop(self.deposit(change)),
            Line::Note(note) => self.note(note),
        }
    }

    fn write(&mut self, line: impl FnOnce() -> Line) {
        if let Some(file) = &mut self.file {
            file.write(&line());
        }
    }

    /// Notes an execution.
    fn log(&mut self, operation: Operation, applied: bool) {
        let entry = self.log.entry(operation).or_default();
        entry.executed += 1;
        entry.applied += u32::from(applied);
        self.executed_again += u64::from(entry.executed == 2);
    }

    fn open(&mut self, open: Open) -> AccountId {
        let id = self.accounts.len() as AccountId + 1;
        self.accounts.insert(id, Account { balance: open.opening, notes: Vec::new() });
        self.log(open.operation, true);
        self.write(|| Line::Open(open));
        id
    }

    fn deduct(&mut self, change: Change) -> Result<u64, BankError> {
        let result = self.change(&change, u64::checked_sub);
        self.write(|| Line::Deduct(change));
        result
    }

    fn deposit(&mut self, change: Change) -> Result<u64, BankError> {
        let result = self.change(&change, u64::checked_add);
        self.write(|| Line::Deposit(change));
        result
    }

    fn change(
        &mut self,
        change: &Change,
        new_balance: impl FnOnce(u64, u64) -> Option<u64>,
    ) -> Result<u64, BankError> {
        let result = match self.accounts.get_mut(&change.account) {
            None => Err(BankError::NoSuchAccount),
            Some(account) => match new_balance(account.balance, change.amount) {
                None => Err(BankError::Insufficient { balance: account.balance }),
                Some(balance) => {
                    account.balance = balance;
                    Ok(balance)
                }
            },
        };
        self.log(change.operation, result.is_ok());
        result
    }

    fn note(&mut self, note: Note) {
        let account = self.accounts.get_mut(&note.account);
        let applied = account.is_some();
        if let Some(account) = account {
            account.notes.push(note.text.clone());
        }
        self.log(note.operation, applied);
        self.write(|| Line::Note(note));
    }

    fn balance(&self, account: AccountId) -> Result<u64, BankError> {
        self.accounts.get(&account).map(|a| a.balance).ok_or(BankError::NoSuchAccount)
    }

    fn audit(&self, page: &AuditPage) -> Vec<Executions> {
        let numbers = (page.first..).take(page.count.min(AUDIT_PAGE_LEN_MAX) as usize);
        let operations = numbers.map(|number| Operation { client: page.client, number });
        operations.map(|o| self.log.get(&o).copied().unwrap_or_default()).collect()
    }

    fn stats(&self, server: Option<&Server>) -> Stats {
        Stats {
            accounts: self.accounts.len() as u64,
            balances: self.accounts.values().map(|account| account.balance).sum(),
            operations: self.log.len() as u64,
            executed_again: self.executed_again,
            ..Stats::of_server(server)
        }
    }
}

/// The books, and the server once it is built.
#[derive(Debug, Default)]
struct State {
    books: Mutex<Books>,
    server: OnceLock<Server>,
}

impl State {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bank for Arc<State> {
    async fn open(&self, _: Context, open: Open) -> AccountId {
        self.books().open(open)
    }

    async fn deduct(&self, _: Context, change: Change) -> Result<u64, BankError> {
        self.books().deduct(change)
    }

    async fn deposit(&self, _: Context, change: Change) -> Result<u64, BankError> {
        self.books().deposit(change)
    }

    async fn balance(&self, _: Context, account: AccountId) -> Result<u64, BankError> {
        self.books().balance(account)
    }

    async fn note(&self, _: Context, note: Note) {
        self.books().note(note);
    }

    async fn audit(&self, _: Context, page: AuditPage) -> Vec<Executions> {
        self.books().audit(&page)
    }

    async fn stats(&self, _: Context) -> Stats {
        self.books().stats(self.server.get())
    }
}

/// How long a client that was cut off may take to come back.
pub(crate) const LEASE: Duration = Duration::from_secs(60);

/// A bank without accounts.
pub(crate) fn server() -> Result<Server, BuildError> {
    build(Server::builder(SERVICE), State::default())
}

/// A bank whose calls a ledger records, and whose books are in a file beside it.
pub(crate) fn recorded_server(ledger: impl Ledger, books: &Path) -> Result<Server, String> {
    let books = Mutex::new(Books::of_file(books)?);
    let state = State { books, server: OnceLock::new() };
    build(Server::builder(SERVICE).ledger(ledger), state).map_err(|error| error.to_string())
}

fn build<L>(builder: ServerBuilder<L>, state: State) -> Result<Server, BuildError> {
    let state = Arc::new(state);
    let builder = builder.configure(|config| config.lease = LEASE);
    let builder = builder.service(BankServer(state.clone())).signatures().status();
    let server = builder.build()?;
    // The state refers to the server that holds it: neither ends before the process does.
    let _ = state.server.set(server.clone());
    Ok(server)
}
