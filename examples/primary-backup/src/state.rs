//! What a server holds: values, and the records of the calls that made them. Both change together, here and at the backup.

use std::collections::BTreeMap;

use oncewire::ServerId;
use oncewire::ledger::{Batch, LedgerError, RecordChange, Records};
use serde::{Deserialize, Serialize};

/// In which calls read and write. What one call wrote can be taken back without its neighbours'.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    values: BTreeMap<String, String>,
    /// What the present batch has written, and what was there before.
    #[serde(skip)]
    written: Vec<(String, Option<String>)>,
}

impl Transaction {
    /// A value; empty where there is none.
    pub fn get(&self, key: &str) -> &str {
        self.values.get(key).map_or("", String::as_str)
    }

    /// Sets a value.
    pub fn put(&mut self, key: String, value: String) {
        let before = self.values.insert(key.clone(), value);
        self.written.push((key, before));
    }

    fn undo_to(&mut self, mark: usize) {
        for (key, before) in self.written.drain(mark..).rev() {
            match before {
                Some(before) => drop(self.values.insert(key, before)),
                None => drop(self.values.remove(&key)),
            }
        }
    }

    /// The new values of what was written.
    fn take_writes(&mut self) -> BTreeMap<String, String> {
        let written = std::mem::take(&mut self.written);
        let new = |(key, _): (String, _)| {
            let value = self.values.get(&key).cloned().unwrap_or_default();
            (key, value)
        };
        written.into_iter().map(new).collect()
    }
}

/// All that a server holds. A whole one begins a new backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub(crate) records: Records,
    pub(crate) values: Transaction,
}

/// One batch: what it makes of a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shipment {
    /// Counts batches, so that one that comes twice is applied once, and none is left out.
    pub(crate) number: u64,
    changes: Vec<RecordChange>,
    writes: BTreeMap<String, String>,
}

impl State {
    /// Nothing yet.
    pub(crate) fn new(server: ServerId) -> State {
        State { records: Records::new(server), values: Transaction::default() }
    }

    /// The number of the last batch.
    pub(crate) fn number(&self) -> u64 {
        self.records.identity().commit
    }

    /// At the primary: executes a batch, and says what it makes of a state.
    pub(crate) fn execute(
        &mut self,
        batch: &mut Batch<Transaction>,
    ) -> Result<Shipment, LedgerError> {
        let values = &mut self.values;
        let changes = batch.changes(|call| {
            let mark = values.written.len();
            let record = call.run(values);
            if record.is_none() {
                values.undo_to(mark);
            }
            record
        });
        let (number, writes) = (self.number() + 1, self.values.take_writes());
        self.records.apply(number, &changes)?;
        Ok(Shipment { number, changes, writes })
    }

    /// At the backup: the same batch, without executing anything.
    pub(crate) fn apply(&mut self, shipment: Shipment) -> Result<(), LedgerError> {
        self.records.apply(shipment.number, &shipment.changes)?;
        self.values.values.extend(shipment.writes);
        Ok(())
    }
}
