//! A journal whose disk outlives its client, and whose commits the test holds in its hand.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use oncewire_driver::Bytes;
use oncewire_driver::journal::{Journal, JournalBatch, JournalError, JournalKey, JournalWrite};

use super::disk::Mode;
use super::sim::lock;

/// What survives a crash of the client.
pub type Pages = BTreeMap<JournalKey, Bytes>;

#[derive(Default)]
struct State {
    pages: Pages,
    mode: Mode,
    held: VecDeque<JournalBatch>,
    /// A disk that lies says "written" of so many batches that are not.
    lies: usize,
    unwritten: VecDeque<Vec<JournalWrite>>,
    batches: Vec<usize>,
    dead: bool,
}

#[derive(Clone, Default)]
pub struct TestJournal(Arc<Mutex<State>>);

impl TestJournal {
    pub fn on(pages: Pages) -> TestJournal {
        let journal = TestJournal::default();
        lock(&journal.0).pages = pages;
        journal
    }

    pub fn pages(&self) -> Pages {
        lock(&self.0).pages.clone()
    }

    pub fn mode(&self, mode: Mode) {
        lock(&self.0).mode = mode;
    }

    /// From now on this many batches count as written before they are.
    pub fn lie(&self, lies: usize) {
        lock(&self.0).lies = lies;
    }

    pub fn handles(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    pub fn held(&self) -> usize {
        lock(&self.0).held.len()
    }

    /// How many writes each batch had.
    pub fn batches(&self) -> Vec<usize> {
        lock(&self.0).batches.clone()
    }

    pub fn calls(&self) -> usize {
        let is_call = |key: &&JournalKey| matches!(key, JournalKey::Call(_));
        lock(&self.0).pages.keys().filter(is_call).count()
    }

    pub fn outcomes(&self) -> usize {
        let is_outcome = |key: &&JournalKey| matches!(key, JournalKey::Outcome(_));
        lock(&self.0).pages.keys().filter(is_outcome).count()
    }

    /// Writes the batch that is held, without telling.
    pub fn write(&self) {
        let mut state = lock(&self.0);
        let writes = state.held.front().expect("a batch is held").writes().to_vec();
        state.apply(writes);
    }

    /// Writes the batch that is held, and finishes it.
    pub fn release(&self) {
        self.write();
        let batch = lock(&self.0).held.pop_front().expect("a batch is held");
        batch.finish(Ok(()));
    }

    /// Its process is about to die: nothing is written any more. Returns what it held, to be dropped after its death.
    pub fn crash(&self) -> VecDeque<JournalBatch> {
        let mut state = lock(&self.0);
        state.dead = true;
        std::mem::take(&mut state.held)
    }
}

impl State {
    fn apply(&mut self, writes: Vec<JournalWrite>) {
        self.unwritten.push_back(writes);
        while self.unwritten.len() > self.lies {
            for write in self.unwritten.pop_front().into_iter().flatten() {
                match write.value {
                    Some(value) => drop(self.pages.insert(write.key, value)),
                    None => drop(self.pages.remove(&write.key)),
                }
            }
        }
    }
}

impl Journal for TestJournal {
    fn recover(&self, keep: &mut dyn FnMut(JournalKey, &[u8])) -> Result<(), JournalError> {
        self.pages().iter().for_each(|(key, bytes)| keep(*key, bytes));
        Ok(())
    }

    fn commit(&self, batch: JournalBatch) {
        let mut state = lock(&self.0);
        if state.dead {
            drop(state);
            return drop(batch);
        }
        state.batches.push(batch.writes().len());
        match state.mode {
            // A journal runs nothing.
            Mode::Commit | Mode::LeaveOut => {
                state.apply(batch.writes().to_vec());
                drop(state);
                batch.finish(Ok(()));
            }
            Mode::Hold => state.held.push_back(batch),
            Mode::Fail => {
                drop(state);
                batch.finish(Err(JournalError::new("no space left on the disk")));
            }
        }
    }
}
