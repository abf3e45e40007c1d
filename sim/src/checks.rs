//! The outcomes that callers have, what took effect, and whether they agree.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use oncewire_ledger_redb::redb::{Key, ReadOnlyTable, TableDefinition, TableError, Value};
use oncewire_ledger_redb::{RedbJournalStore, RedbStore};

use crate::AnyError;
use crate::parts::disk::Handle;
use crate::process::Process;
use crate::recordable::RecordedEnd;

/// What the disks of a dead process hold, for [`ServerHandle::effects`](crate::ServerHandle::effects) and
/// [`ServerHandle::check`](crate::ServerHandle::check).
#[derive(Debug)]
pub struct Disks<'p> {
    process: &'p Process,
    /// Opened once; what was read of it is of no use without it.
    ledger: OnceCell<RedbStore>,
}

impl<'p> Disks<'p> {
    pub(crate) fn new(process: &'p Process) -> Disks<'p> {
        Disks { process, ledger: OnceCell::new() }
    }

    /// A table in the ledger; `None` if there is none yet.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
    ) -> Result<Option<ReadOnlyTable<K, V>>, AnyError> {
        if self.ledger.get().is_none() {
            let _ = self.ledger.set(self.process.open_ledger()?);
        }
        let Some(ledger) = self.ledger.get() else { return Ok(None) };
        match ledger.snapshots().latest().open_table(table) {
            Ok(table) => Ok(Some(table)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The journal of a durable client.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn journal(&self) -> Result<RedbJournalStore, oncewire_driver::journal::JournalError> {
        RedbJournalStore::with_backend(self.process.disk("journal").handle())
    }

    /// The disk of this name: see [`Host::disk`](crate::Host::disk).
    pub fn disk(&self, name: &str) -> Handle {
        self.process.disk(name).handle()
    }
}

/// The outcomes of one operation's calls.
#[derive(Debug, Default)]
struct Operation {
    /// Calls that have not ended.
    open: u32,
    /// One of them was answered.
    replied: bool,
    /// One of them may have been executed.
    doubtful: bool,
    /// Effects that no crash takes back.
    effects: u64,
}

impl Operation {
    /// How often it may have taken effect.
    fn max(&self) -> u64 {
        u64::from(self.replied || self.doubtful || self.open > 0)
    }
}

/// Operations by what they are called, and what took effect.
#[derive(Debug, Default)]
pub(crate) struct Book {
    operations: BTreeMap<String, Operation>,
    /// What the last look at the disks of a process has shown.
    durable: BTreeMap<String, BTreeMap<String, u64>>,
    pub(crate) outcomes: [u64; 4],
}

impl Book {
    pub(crate) fn begin(&mut self, key: &str) {
        self.operations.entry(key.to_owned()).or_default().open += 1;
    }

    /// A call has ended; `None`: it was dropped.
    pub(crate) fn end(&mut self, key: &str, end: Option<RecordedEnd>) {
        let operation = self.operations.entry(key.to_owned()).or_default();
        operation.open = operation.open.saturating_sub(1);
        let end = end.unwrap_or(RecordedEnd::Unknown);
        match end {
            RecordedEnd::Replied => operation.replied = true,
            RecordedEnd::NotExecuted => {}
            RecordedEnd::NoReply | RecordedEnd::Unknown => operation.doubtful = true,
        }
        self.outcomes[end as usize] += 1;
    }

    /// Something happened that no crash takes back.
    pub(crate) fn effect(&mut self, key: &str) -> Result<(), String> {
        // What was not recorded has no outcome to contradict.
        let unknown = || Operation { doubtful: true, ..Operation::default() };
        let operation = self.operations.entry(key.to_owned()).or_insert_with(unknown);
        operation.effects += 1;
        self.check_max(key)
    }

    /// What the disks of a process show, which is dead or has just ended.
    pub(crate) fn audit(&mut self, process: &str, keys: Vec<String>) -> Result<(), String> {
        let mut counts = BTreeMap::new();
        for key in keys {
            *counts.entry(key).or_insert(0) += 1;
        }
        let all: Vec<String> = counts.keys().cloned().collect();
        self.durable.insert(process.to_owned(), counts);
        all.iter().try_for_each(|key| self.check_max(key))
    }

    /// Whether a service has said that something took effect.
    pub(crate) fn has_effects(&self) -> bool {
        self.operations.values().any(|operation| operation.effects > 0)
    }

    fn count(&self, key: &str) -> u64 {
        let durable = self.durable.values().filter_map(|of| of.get(key)).sum::<u64>();
        durable + self.operations.get(key).map_or(0, |operation| operation.effects)
    }

    fn check_max(&self, key: &str) -> Result<(), String> {
        let max = self.operations.get(key).map_or(1, Operation::max);
        match self.count(key) {
            count if count <= max => Ok(()),
            count if max == 0 => Err(format!(
                "operation {key}: its outcome is not executed, and it took effect ({count} times)"
            )),
            count => Err(format!("operation {key} took effect {count} times")),
        }
    }

    /// Where no effect is known.
    pub(crate) fn check_none_replied(&self) -> Result<(), String> {
        match self.operations.iter().find(|(_, operation)| operation.replied) {
            Some((key, _)) => Err(format!(
                "operation {key}: its caller got a reply, and nothing in the test says what takes effect: call `Sim::effect` \
                 where it does, or `ServerHandle::effects`"
            )),
            None => Ok(()),
        }
    }

    /// What was answered has taken effect: where all effects are known.
    pub(crate) fn check_replied(&self) -> Result<(), String> {
        for (key, operation) in &self.operations {
            if operation.replied && self.count(key) == 0 {
                return Err(format!(
                    "operation {key}: its caller got a reply, and it has no effect"
                ));
            }
        }
        Ok(())
    }
}
