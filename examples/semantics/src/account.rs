//! The account, with $100 in it, and two ways to change it: `deduct` is wrong if it runs twice, `put` if an old one runs after a new one.
//!
//! What a handler has done cannot be taken back by a crash: it is a line to the parent process, which keeps it, or a row in the ledger's
//! file. So the rows of the table differ only in who remembers which calls have run.

use std::io::{Write, stdout};
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use oncewire::Context;
use oncewire::ledger::Rollback;
use oncewire::redb::redb::{ReadableTable, TableDefinition, TableError};
use oncewire::redb::{RedbLedger, Transaction};

/// The service. On a ledger its methods are transactional; its clients do not notice.
#[oncewire::service(name = "account")]
pub(crate) trait Account {
    /// Takes dollars.
    #[rpc(blocking)]
    fn deduct(&self, context: Context, dollars: i64);
    /// Sets what is in it.
    #[rpc(blocking)]
    fn put(&self, context: Context, dollars: i64);
}

const EFFECTS: TableDefinition<'_, u64, &str> = TableDefinition::new("effects");

/// Why something could not be run.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Says something to the parent. If that is gone this process ends by its stdin.
pub(crate) fn say(line: impl std::fmt::Display) {
    let _ = writeln!(stdout(), "{line}");
}

/// What changes the account. `slow`: the first one that runs waits for it.
#[derive(Clone, Debug)]
pub(crate) struct Handlers {
    pub(crate) slow: Arc<Mutex<Option<Receiver<()>>>>,
}

impl Handlers {
    fn pass(&self) {
        let slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(slow) = slow {
            say("running");
            let _ = slow.recv();
        }
    }

    /// Does it, for good.
    pub(crate) fn apply(&self, what: &str, dollars: i64) {
        self.pass();
        say(format_args!("{what} {dollars}"));
        say("applied");
    }

    /// Does it in a transaction.
    pub(crate) fn apply_in(
        &self,
        tx: &mut Transaction,
        what: &str,
        dollars: i64,
    ) -> Result<(), Rollback> {
        self.pass();
        let mut table = tx.open_table(EFFECTS)?;
        let number = table.last()?.map_or(0, |(last, _)| last.value() + 1);
        table.insert(number, &*format!("{what} {dollars}"))?;
        Ok(())
    }
}

impl Account for Handlers {
    fn deduct(&self, _: Context, dollars: i64) {
        self.apply("deduct", dollars);
    }

    fn put(&self, _: Context, dollars: i64) {
        self.apply("put", dollars);
    }
}

/// All effects in a ledger's file, in order, when its server is gone.
///
/// # Errors
/// Why they cannot be read.
pub(crate) fn effects_in(file: &Path) -> Result<Vec<String>, Failure> {
    let ledger = RedbLedger::open(file)?;
    let table = match ledger.snapshots().latest().open_table(EFFECTS) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        table => table?,
    };
    table.iter()?.map(|row| Ok(row?.1.value().to_owned())).collect()
}
