//! A thread for a store whose commits block: ledgers and journals both have one.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// A store, and the thread that commits batches `B` to it, one after another.
///
/// The store is here until the first batch starts the thread, and then there: so it can be read before, and only before.
/// The thread ends with this, after the batches that it has.
pub(crate) struct CommitThread<S, B> {
    /// "ledger" or "journal": names the thread, and errors.
    what: &'static str,
    store: Mutex<Option<S>>,
    thread: Mutex<Option<Running<B>>>,
}

struct Running<B> {
    batches: Sender<B>,
    thread: JoinHandle<()>,
}

impl<S: Send + 'static, B: Send + 'static> CommitThread<S, B> {
    pub(crate) fn new(what: &'static str, store: S) -> CommitThread<S, B> {
        CommitThread { what, store: Mutex::new(Some(store)), thread: Mutex::new(None) }
    }

    /// Runs `read` on the store; `None` if the thread has it.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&mut S) -> T) -> Option<T> {
        lock(&self.store).as_mut().map(read)
    }

    /// Has the thread `commit` a batch, which it does not before those that came earlier. A batch that the thread cannot
    /// take any more, because it has panicked, is dropped.
    ///
    /// # Errors
    /// The batch, and why there is no thread.
    pub(crate) fn commit(&self, batch: B, commit: fn(&mut S, B)) -> Result<(), (B, String)> {
        let mut thread = lock(&self.thread);
        if thread.is_none() {
            match self.start(commit) {
                Ok(started) => *thread = Some(started),
                Err(error) => return Err((batch, error)),
            }
        }
        let sent = thread.as_ref().map(|running| running.batches.send(batch));
        drop(thread);
        // Without the lock: what a batch's drop concludes may commit the next one here.
        drop(sent);
        Ok(())
    }

    fn start(&self, commit: fn(&mut S, B)) -> Result<Running<B>, String> {
        let what = self.what;
        let store = lock(&self.store).take();
        let mut store = store.ok_or_else(|| format!("the {what}'s thread has ended"))?;
        let (batches, receiver) = channel();
        let run = move || {
            while let Ok(batch) = receiver.recv() {
                commit(&mut store, batch);
            }
        };
        let builder = std::thread::Builder::new().name(format!("oncewire-{what}"));
        let thread =
            builder.spawn(run).map_err(|error| format!("no thread for the {what}: {error}"))?;
        Ok(Running { batches, thread })
    }
}

impl<S, B> Drop for CommitThread<S, B> {
    /// Waits until the store is closed, so that it can be opened again.
    fn drop(&mut self) {
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { batches, thread }) = thread else { return };
        drop(batches);
        // The last batch may have held the last handle of its server or client: then this is the thread itself.
        if thread.thread().id() != std::thread::current().id() {
            // The panic hook has reported a panic of the store, and so has its unfinished batch.
            if let Err(payload) = thread.join() {
                crate::caught::bury(payload);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
