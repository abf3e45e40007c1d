//! What one client keeps of its operations: records for the check, lines for the journal.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::chance::unique;
use crate::check::{Kind, Record, Records, Verdict};
use crate::journal::Journal;
use crate::service::{AccountId, Operation};

/// The operations of one client.
#[derive(Debug)]
pub(crate) struct Book {
    /// Names the client in the bank's log.
    pub(crate) client: u64,
    records: Mutex<Records>,
    journal: Option<Arc<Journal>>,
}

impl Book {
    pub(crate) fn new(journal: Option<Arc<Journal>>) -> Book {
        Book { client: unique(), records: Mutex::default(), journal }
    }

    /// The book of a client that was started again.
    pub(crate) fn resume(client: u64, records: Records, journal: Arc<Journal>) -> Book {
        Book { client, records: Mutex::new(records), journal: Some(journal) }
    }

    /// What became of an operation of an earlier run is about to be learned.
    pub(crate) fn learned_late(&self, number: u64) {
        if let Some(journal) = &self.journal {
            journal.write_late(Operation { client: self.client, number });
        }
    }

    /// An operation is about to begin; returns its name.
    pub(crate) fn begin(
        &self,
        number: u64,
        kind: Kind,
        account: AccountId,
        amount: u64,
    ) -> Operation {
        let operation = Operation { client: self.client, number };
        let verdict = if kind == Kind::Note { Verdict::Untold } else { Verdict::InDoubt };
        let record = Record { kind, account, amount, verdict };
        if let Some(journal) = &self.journal {
            journal.write_begin(operation, &record);
        }
        self.lock().insert(number, record);
        operation
    }

    /// What became of it is known.
    pub(crate) fn end(&self, operation: Operation, verdict: Verdict) {
        self.finish(operation, verdict, None);
    }

    /// An account was opened.
    pub(crate) fn end_open(&self, operation: Operation, account: AccountId) {
        self.finish(operation, Verdict::Applied, Some(account));
    }

    fn finish(&self, operation: Operation, verdict: Verdict, account: Option<AccountId>) {
        let mut records = self.lock();
        let Some(record) = records.get_mut(&operation.number) else { return };
        record.verdict = verdict;
        record.account = account.unwrap_or(record.account);
        if let Some(journal) = &self.journal {
            journal.write_end(operation, verdict, record.account);
        }
    }

    /// What is known of all operations.
    pub(crate) fn records(&self) -> Records {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
