//! Tables that stay open from one call of a batch to the next.
//!
//! Opening and closing a table takes redb longer than looking up and writing a row of it. A table borrows its transaction, so what
//! keeps both is a future: it opens the table, and then does one job a poll. It waits for nothing but its next job.

use std::any::Any;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use redb::{Key, Table, TableDefinition, TableError, TableHandle, Value, WriteTransaction};

/// Most tables that are kept open. The one that was not used for longest makes room for another.
const KEPT_MAX: usize = 16;

/// The tables of a transaction that are open, the last used one last.
#[derive(Default)]
pub(crate) struct KeptTables(Vec<Kept>);

struct Kept {
    name: String,
    /// An [`OpenTable`] of its types.
    table: Box<dyn Any + Send>,
}

impl fmt::Debug for KeptTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|kept| &kept.name)).finish()
    }
}

impl KeptTables {
    /// Calls `work` with the table, which is opened unless it is kept.
    ///
    /// # Errors
    /// The table cannot be opened.
    pub(crate) fn with<K, V, R>(
        &mut self,
        transaction: &Arc<WriteTransaction>,
        definition: TableDefinition<'_, K, V>,
        work: impl FnOnce(&mut Table<'_, K, V>) -> R + Send + 'static,
    ) -> Result<R, TableError>
    where
        K: Key + Send + 'static,
        V: Value + Send + 'static,
        R: Send + 'static,
    {
        // It is put back when the work is done: after a panic it is closed.
        let kept = self.take(definition.name());
        let (name, mut table) =
            match kept.map(|kept| (kept.name, kept.table.downcast::<OpenTable<K, V>>())) {
                Some((name, Ok(table))) => (name, table),
                // None, or it was opened as a table of other types: redb says what is wrong with that.
                other => {
                    drop(other);
                    let name = definition.name().to_owned();
                    (name.clone(), Box::new(OpenTable::new(transaction.clone(), name)))
                }
            };
        let result = table.run(work)?;
        if self.0.len() == KEPT_MAX {
            self.0.remove(0);
        }
        self.0.push(Kept { name, table });
        Ok(result)
    }

    /// Closes a table if it is kept, so that it can be opened otherwise.
    pub(crate) fn close(&mut self, name: &str) {
        drop(self.take(name));
    }

    fn take(&mut self, name: &str) -> Option<Kept> {
        let at = self.0.iter().rposition(|kept| kept.name == name)?;
        Some(self.0.remove(at))
    }
}

/// A table that is open, or is opened by its first job.
struct OpenTable<K: 'static, V: 'static> {
    /// Ready if the table cannot be opened.
    future: Pin<Box<dyn Future<Output = TableError> + Send>>,
    slot: Arc<Slot<K, V>>,
}

impl<K: Key + Send + 'static, V: Value + Send + 'static> OpenTable<K, V> {
    fn new(transaction: Arc<WriteTransaction>, name: String) -> OpenTable<K, V> {
        let slot = Arc::new(Slot::default());
        OpenTable { future: Box::pin(keep_open(transaction, name, slot.clone())), slot }
    }

    fn run<F, R>(&mut self, work: F) -> Result<R, TableError>
    where
        F: FnOnce(&mut Table<'_, K, V>) -> R + Send + 'static,
        R: Send + 'static,
    {
        self.slot.put(State::Asked(Box::new(Work { work: Some(work), result: None })));
        match self.future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(error) => return Err(error),
            Poll::Pending => {}
        }
        let done = match self.slot.take() {
            State::Done(job) => job.into_any().downcast::<Work<F, R>>().ok(),
            State::Empty | State::Asked(_) => None,
        };
        let result = done.and_then(|work| work.result);
        debug_assert!(result.is_some(), "each poll does the job that it finds");
        result.ok_or_else(|| {
            let why = std::io::Error::other("the work with a table was not done");
            TableError::Storage(redb::StorageError::Io(why))
        })
    }
}

/// Opens the table and does its jobs, until it is dropped, which closes it.
async fn keep_open<K: Key + 'static, V: Value + 'static>(
    transaction: Arc<WriteTransaction>,
    name: String,
    slot: Arc<Slot<K, V>>,
) -> TableError {
    let mut table = match transaction.open_table(TableDefinition::<K, V>::new(&name)) {
        Ok(table) => table,
        Err(error) => return error,
    };
    loop {
        let mut job = poll_fn(|_| slot.poll_asked()).await;
        job.run(&mut table);
        slot.put(State::Done(job));
    }
}

/// Between a table and who uses it.
struct Slot<K: 'static, V: 'static>(Mutex<State<K, V>>);

enum State<K: 'static, V: 'static> {
    Empty,
    Asked(Box<dyn Job<K, V>>),
    Done(Box<dyn Job<K, V>>),
}

impl<K, V> Default for Slot<K, V> {
    fn default() -> Slot<K, V> {
        Slot(Mutex::new(State::Empty))
    }
}

impl<K, V> Slot<K, V> {
    fn put(&self, state: State<K, V>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn take(&self) -> State<K, V> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *state, State::Empty)
    }

    fn poll_asked(&self) -> Poll<Box<dyn Job<K, V>>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::Empty) {
            State::Asked(job) => Poll::Ready(job),
            other => {
                *state = other;
                Poll::Pending
            }
        }
    }
}

/// A job for a table, of whatever types its arguments and result are.
trait Job<K: 'static, V: 'static>: Send {
    fn run(&mut self, table: &mut Table<'_, K, V>)
    where
        K: Key,
        V: Value;

    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

struct Work<F, R> {
    work: Option<F>,
    result: Option<R>,
}

impl<K, V, F, R> Job<K, V> for Work<F, R>
where
    K: Key + 'static,
    V: Value + 'static,
    F: FnOnce(&mut Table<'_, K, V>) -> R + Send + 'static,
    R: Send + 'static,
{
    fn run(&mut self, table: &mut Table<'_, K, V>) {
        self.result = self.work.take().map(|work| work(table));
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use redb::backends::InMemoryBackend;
    use redb::{Database, Error, ReadableDatabase, ReadableTable, ReadableTableMetadata};

    use crate::Transaction;

    use super::*;

    const ROWS: TableDefinition<'_, u32, &str> = TableDefinition::new("rows");

    fn database() -> Database {
        Database::builder().create_with_backend(InMemoryBackend::new()).unwrap()
    }

    fn begin(database: &Database) -> Transaction {
        Transaction::new(database.begin_write().unwrap())
    }

    fn insert(transaction: &mut Transaction, key: u32) -> Result<u64, Error> {
        transaction.with_table(ROWS, move |rows| {
            rows.insert(key, "row")?;
            Ok(rows.len()?)
        })
    }

    fn rows(database: &Database) -> u64 {
        database.begin_read().unwrap().open_table(ROWS).unwrap().len().unwrap()
    }

    #[test]
    fn a_kept_table_is_one_with_those_that_are_opened() {
        let database = database();
        let mut transaction = begin(&database);
        assert_eq!(insert(&mut transaction, 1).unwrap(), 1);
        assert_eq!(insert(&mut transaction, 2).unwrap(), 2);
        {
            let mut opened = transaction.open_table(ROWS).unwrap();
            assert_eq!(opened.len().unwrap(), 2);
            opened.insert(3, "row").unwrap();
        }
        assert_eq!(insert(&mut transaction, 4).unwrap(), 4);
        assert!(transaction.has_effects());
        transaction.into_inner().unwrap().commit().unwrap();
        assert_eq!(rows(&database), 4);
    }

    #[test]
    fn what_a_kept_table_wrote_is_gone_with_its_transaction() {
        let database = database();
        let mut transaction = begin(&database);
        insert(&mut transaction, 1).unwrap();
        transaction.into_inner().unwrap().commit().unwrap();
        let mut transaction = begin(&database);
        insert(&mut transaction, 2).unwrap();
        transaction.into_inner().unwrap().abort().unwrap();
        let mut transaction = begin(&database);
        insert(&mut transaction, 3).unwrap();
        drop(transaction);
        assert_eq!(rows(&database), 1);
    }

    #[test]
    fn more_tables_than_are_kept_hold_what_was_written() {
        let database = database();
        let mut transaction = begin(&database);
        let names: Vec<String> = (0..2 * KEPT_MAX).map(|nth| format!("table {nth}")).collect();
        for round in 0..3_u64 {
            for name in &names {
                let table = TableDefinition::<u64, u64>::new(name);
                let len = transaction.with_table(table, move |table| {
                    table.insert(round, round)?;
                    Ok::<_, Error>(table.len()?)
                });
                assert_eq!(len.unwrap(), round + 1);
            }
        }
        transaction.into_inner().unwrap().commit().unwrap();
    }

    #[test]
    fn an_error_names_the_table_that_cannot_be_opened() {
        let database = database();
        let mut transaction = begin(&database);
        insert(&mut transaction, 1).unwrap();
        let other = TableDefinition::<u64, u64>::new("rows");
        let found = transaction.with_table(other, |_| Ok::<_, TableError>(()));
        assert!(matches!(found, Err(TableError::TableTypeMismatch { .. })), "{found:?}");
        let own = TableDefinition::<&str, &[u8]>::new("oncewire.meta");
        let found = transaction.with_table(own, |_| Ok::<_, TableError>(()));
        assert!(matches!(found, Err(TableError::TableDoesNotExist(_))), "{found:?}");
        assert_eq!(insert(&mut transaction, 2).unwrap(), 2, "it can be used as what it is");
    }

    #[test]
    fn a_table_is_closed_by_a_panic_of_who_uses_it() {
        let database = database();
        let mut transaction = begin(&database);
        insert(&mut transaction, 1).unwrap();
        let panics = || -> Result<(), TableError> {
            transaction.with_table(ROWS, |_| panic!("a handler that panics"))
        };
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        assert_eq!(insert(&mut transaction, 2).unwrap(), 2);
        let text = transaction.with_table(ROWS, |rows| {
            Ok::<_, Error>(rows.get(2)?.map(|text| text.value().to_owned()))
        });
        assert_eq!(text.unwrap().as_deref(), Some("row"));
    }
}
