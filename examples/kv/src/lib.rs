//! A key/value service, in memory and on a ledger. It teaches what linearizable means for a service that clients reach over connections
//! which break, and what each of the two keeps of it when the server is killed.
//!
//! | file | what it does |
//! |---|---|
//! | `lib.rs` | the service, in memory and on a ledger: the same on the wire |
//! | `history.rs` | what clients did and saw, and whether it is linearizable |
//! | `demo.rs` | the demonstration: connections that are cut, and a server that is killed |
//! | `main.rs` | the program |

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use oncewire::Context;
use oncewire::ledger::Rollback;
use oncewire::redb::redb::{ReadableTable, TableDefinition, TableError};
use oncewire::redb::{Snapshots, Transaction};

pub mod demo;
pub mod history;

/// What [`Kv::compare_and_set`] returns: nothing if it set the value, otherwise the value that was there.
pub type Compared = Result<(), Option<String>>;

/// The service in memory.
#[oncewire::service(name = "kv")]
pub trait Kv {
    /// Sets a value.
    async fn put(&self, context: Context, key: String, value: String);
    /// Adds to the end of a value; returns the whole of it.
    async fn append(&self, context: Context, key: String, value: String) -> String;
    /// Sets a value if the one that is there is as expected.
    async fn compare_and_set(
        &self,
        context: Context,
        key: String,
        expected: Option<String>,
        value: String,
    ) -> Compared;
    /// A value. It may be read again.
    #[rpc(idempotent)]
    async fn get(&self, context: Context, key: String) -> Option<String>;
}

/// The same service on a ledger: its clients are those of [`Kv`], and notice nothing. What changes a value is executed exactly once,
/// also when the server is killed.
#[oncewire::service(name = "kv")]
pub trait KvOnLedger {
    /// [`Kv::put`].
    #[rpc(transactional)]
    fn put(
        &self,
        transaction: &mut Transaction,
        context: &Context,
        key: String,
        value: String,
    ) -> Result<(), Rollback>;
    /// [`Kv::append`].
    #[rpc(transactional)]
    fn append(
        &self,
        transaction: &mut Transaction,
        context: &Context,
        key: String,
        value: String,
    ) -> Result<String, Rollback>;
    /// [`Kv::compare_and_set`].
    #[rpc(transactional)]
    fn compare_and_set(
        &self,
        transaction: &mut Transaction,
        context: &Context,
        key: String,
        expected: Option<String>,
        value: String,
    ) -> Result<Compared, Rollback>;
    /// [`Kv::get`]. It reads what is durable, and so never a value that a crash takes back.
    #[rpc(idempotent)]
    async fn get(&self, context: Context, key: String) -> Option<String>;
}

/// Values in memory: gone when the process ends.
#[derive(Debug, Default)]
pub struct InMemory(Mutex<BTreeMap<String, String>>);

impl InMemory {
    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<String, String>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kv for InMemory {
    async fn put(&self, _: Context, key: String, value: String) {
        self.with(|values| drop(values.insert(key, value)));
    }

    async fn append(&self, _: Context, key: String, value: String) -> String {
        self.with(|values| {
            let whole = values.entry(key).or_default();
            whole.push_str(&value);
            whole.clone()
        })
    }

    async fn compare_and_set(
        &self,
        _: Context,
        key: String,
        expected: Option<String>,
        value: String,
    ) -> Compared {
        self.with(|values| {
            let there = values.get(&key).cloned();
            if there != expected {
                return Err(there);
            }
            values.insert(key, value);
            Ok(())
        })
    }

    async fn get(&self, _: Context, key: String) -> Option<String> {
        self.with(|values| values.get(&key).cloned())
    }
}

const VALUES: TableDefinition<'_, &str, &str> = TableDefinition::new("values");

/// Values in the ledger's file, beside the records of the calls that made them.
#[derive(Debug)]
pub struct OnLedger(pub Snapshots);

impl KvOnLedger for OnLedger {
    fn put(
        &self,
        transaction: &mut Transaction,
        _: &Context,
        key: String,
        value: String,
    ) -> Result<(), Rollback> {
        transaction.with_table(VALUES, move |values| {
            values.insert(&*key, &*value)?;
            Ok(())
        })
    }

    fn append(
        &self,
        transaction: &mut Transaction,
        _: &Context,
        key: String,
        value: String,
    ) -> Result<String, Rollback> {
        transaction.with_table(VALUES, move |values| {
            let there = values.get(&*key)?.map(|there| there.value().to_owned());
            let whole = there.unwrap_or_default() + &value;
            values.insert(&*key, &*whole)?;
            Ok(whole)
        })
    }

    fn compare_and_set(
        &self,
        transaction: &mut Transaction,
        _: &Context,
        key: String,
        expected: Option<String>,
        value: String,
    ) -> Result<Compared, Rollback> {
        transaction.with_table(VALUES, move |values| {
            let there = values.get(&*key)?.map(|there| there.value().to_owned());
            if there != expected {
                return Ok(Err(there));
            }
            values.insert(&*key, &*value)?;
            Ok(Ok(()))
        })
    }

    async fn get(&self, _: Context, key: String) -> Option<String> {
        let values = match self.0.latest().open_table(VALUES) {
            Ok(values) => values,
            // Nothing was ever put.
            Err(TableError::TableDoesNotExist(_)) => return None,
            // The call ends as executed without a reply, and not with a value that is not there (S14).
            Err(error) => panic!("the values cannot be read: {error}"),
        };
        match values.get(&*key) {
            Ok(value) => value.map(|value| value.value().to_owned()),
            Err(error) => panic!("a value cannot be read: {error}"),
        }
    }
}
