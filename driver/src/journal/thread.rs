//! A thread for journals whose commits block.

use std::fmt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use super::{Journal, JournalBatch, JournalError, JournalKey, JournalWrite};

/// A store whose commits block, as those of files do: [`JournalThread`] makes a [`Journal`] of it.
pub trait JournalStore: Send + 'static {
    /// See [`Journal::recover`].
    ///
    /// # Errors
    /// What cannot be read, and what to do about it.
    fn recover(&mut self, keep: &mut dyn FnMut(JournalKey, &[u8])) -> Result<(), JournalError>;

    /// Makes writes durable, in order and as a whole.
    ///
    /// # Errors
    /// They may or may not be durable. No other ones will come.
    fn commit(&mut self, writes: &[JournalWrite]) -> Result<(), JournalError>;
}

/// A [`Journal`] of a [`JournalStore`]: batches are committed on a thread of its own, which ends with it.
pub struct JournalThread<S: JournalStore> {
    /// Until the thread is started, by the first batch.
    store: Mutex<Option<S>>,
    thread: Mutex<Option<Running>>,
}

/// The thread, and the way to it.
struct Running {
    batches: Sender<JournalBatch>,
    thread: JoinHandle<()>,
}

impl<S: JournalStore> fmt::Debug for JournalThread<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalThread").finish_non_exhaustive()
    }
}

impl<S: JournalStore> JournalThread<S> {
    /// Of this store.
    pub fn new(store: S) -> JournalThread<S> {
        JournalThread { store: Mutex::new(Some(store)), thread: Mutex::new(None) }
    }

    fn start(&self) -> Result<Running, JournalError> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner).take();
        let store = store.ok_or_else(|| JournalError::new("the journal's thread has ended"))?;
        let (batches, receiver) = channel();
        let thread = std::thread::Builder::new()
            .name("oncewire-journal".to_owned())
            .spawn(move || run(store, &receiver))
            .map_err(|error| JournalError::new(format!("no thread for the journal: {error}")))?;
        Ok(Running { batches, thread })
    }
}

fn run<S: JournalStore>(mut store: S, batches: &Receiver<JournalBatch>) {
    while let Ok(batch) = batches.recv() {
        let result = store.commit(batch.writes());
        batch.finish(result);
    }
}

impl<S: JournalStore> Journal for JournalThread<S> {
    fn recover(&self, keep: &mut dyn FnMut(JournalKey, &[u8])) -> Result<(), JournalError> {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let used = || JournalError::new("the journal is in use: one journal serves one client");
        store.as_mut().ok_or_else(used)?.recover(keep)
    }

    fn commit(&self, batch: JournalBatch) {
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

impl<S: JournalStore> Drop for JournalThread<S> {
    /// Waits until the store is closed, so that it can be opened again.
    fn drop(&mut self) {
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { batches, thread }) = thread else { return };
        drop(batches);
        // The last batch may have been the last that knew the client: then this is the thread itself.
        if thread.thread().id() != std::thread::current().id() {
            // A panic of the store has been told of by the panic hook, and by its unfinished batch.
            if let Err(payload) = thread.join() {
                crate::caught::bury(payload);
            }
        }
    }
}
