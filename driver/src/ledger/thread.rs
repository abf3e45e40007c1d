//! A thread for stores whose commits block.

use std::fmt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use super::{Batch, Identity, Ledger, LedgerError, Restore};

/// A store whose commits block, as those of files do: [`LedgerThread`] makes a [`Ledger`] of it.
pub trait Store: Send + 'static {
    /// In which transactional handlers write.
    type Transaction: 'static;

    /// See [`Ledger::identity`].
    fn identity(&self) -> Identity;

    /// See [`Ledger::recover`].
    ///
    /// # Errors
    /// What cannot be read, and what to do about it.
    fn recover(&mut self, restore: &mut Restore<'_>) -> Result<(), LedgerError>;

    /// Makes a batch durable and returns the number of its commit; see [`Ledger::commit`].
    ///
    /// # Errors
    /// The batch may or may not be durable. No other one will come.
    fn commit(&mut self, batch: &mut Batch<Self::Transaction>) -> Result<u64, LedgerError>;
}

/// A [`Ledger`] of a [`Store`]: batches are committed on a thread of its own, which ends with it.
pub struct LedgerThread<S: Store> {
    identity: Identity,
    /// Until the thread is started, by the first batch.
    store: Mutex<Option<S>>,
    thread: Mutex<Option<Running<S::Transaction>>>,
}

/// The thread, and the way to it.
struct Running<X> {
    batches: Sender<Batch<X>>,
    thread: JoinHandle<()>,
}

impl<S: Store> fmt::Debug for LedgerThread<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerThread").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl<S: Store> LedgerThread<S> {
    /// Of this store.
    pub fn new(store: S) -> LedgerThread<S> {
        let identity = store.identity();
        LedgerThread { identity, store: Mutex::new(Some(store)), thread: Mutex::new(None) }
    }

    fn start(&self) -> Result<Running<S::Transaction>, LedgerError> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner).take();
        let store = store.ok_or_else(|| LedgerError::new("the ledger's thread has ended"))?;
        let (batches, receiver) = channel();
        let thread = std::thread::Builder::new()
            .name("oncewire-ledger".to_owned())
            .spawn(move || run(store, &receiver))
            .map_err(|error| LedgerError::new(format!("no thread for the ledger: {error}")))?;
        Ok(Running { batches, thread })
    }
}

fn run<S: Store>(mut store: S, batches: &Receiver<Batch<S::Transaction>>) {
    while let Ok(mut batch) = batches.recv() {
        let result = store.commit(&mut batch);
        batch.finish(result);
    }
}

impl<S: Store> Ledger for LedgerThread<S> {
    type Transaction = S::Transaction;

    fn identity(&self) -> Identity {
        self.identity
    }

    fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError> {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let used = || LedgerError::new("the ledger is in use: one ledger serves one server");
        store.as_mut().ok_or_else(used)?.recover(restore)
    }

    fn commit(&self, batch: Batch<S::Transaction>) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            match self.start() {
                Ok(started) => *thread = Some(started),
                Err(error) => {
                    drop(thread);
                    return batch.finish(Err(error));
                }
            }
        }
        let sent = thread.as_ref().map(|running| running.batches.send(batch));
        drop(thread);
        // A batch that a dead thread does not take is dropped, and so finished with an error.
        drop(sent);
    }
}

impl<S: Store> Drop for LedgerThread<S> {
    /// Waits until the store is closed, so that it can be opened again.
    fn drop(&mut self) {
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { batches, thread }) = thread else { return };
        drop(batches);
        // The last batch may have been the last that knew the server: then this is the thread itself.
        if thread.thread().id() != std::thread::current().id() {
            // A panic of the store has been told of by the panic hook, and by its unfinished batch.
            if let Err(payload) = thread.join() {
                crate::caught::bury(payload);
            }
        }
    }
}
