//! Histories of concurrent calls, and whether they are linearizable.
//!
//! | file | what it does |
//! |---|---|
//! | `history.rs` | records each call, when it was made, and what it returned |
//! | `history/check.rs` | the checker: Wing and Gong's search, with Lowe's memory |
//!
//! An outcome means to a history what Oncewire promises: a reply is an operation that took effect once, between its call and
//! its return; a call that was not executed is not in the history, so that any effect of it contradicts the
//! rest; an unknown one may take effect at any time after its call, once, or never.

pub mod check;

use std::sync::{Mutex, PoisonError};

/// One operation of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<C, R> {
    /// What was called.
    pub call: C,
    /// When: before the call began.
    pub invoked: u64,
    /// When the outcome was there, and what it said. `None`: the client never learned it.
    pub returned: Option<(u64, R)>,
}

/// Records a history from many threads. Its clock is the order of the records.
#[derive(Debug)]
pub struct Recorder<C, R> {
    log: Mutex<Log<C, R>>,
}

#[derive(Debug)]
struct Log<C, R> {
    clock: u64,
    /// `None`: not executed, and so no operation.
    operations: Vec<Option<Operation<C, R>>>,
}

/// An operation of a [`Recorder`] whose end is still to be recorded.
#[derive(Clone, Copy, Debug)]
#[must_use = "an operation without an end counts as unknown"]
pub struct Begun(usize);

impl<C, R> Default for Recorder<C, R> {
    fn default() -> Self {
        Recorder { log: Mutex::new(Log { clock: 0, operations: Vec::new() }) }
    }
}

impl<C: Clone, R: Clone> Recorder<C, R> {
    /// To be recorded before the call begins.
    pub fn invoke(&self, call: C) -> Begun {
        self.with(|log| {
            log.clock += 1;
            let invoked = log.clock;
            log.operations.push(Some(Operation { call, invoked, returned: None }));
            Begun(log.operations.len() - 1)
        })
    }

    /// To be recorded when the reply is there.
    pub fn returned(&self, begun: Begun, value: R) {
        self.with(|log| {
            log.clock += 1;
            let now = log.clock;
            if let Some(operation) = &mut log.operations[begun.0] {
                operation.returned = Some((now, value));
            }
        });
    }

    /// The client learned that the call was not executed.
    pub fn not_executed(&self, begun: Begun) {
        self.with(|log| log.operations[begun.0] = None);
    }

    /// What was recorded so far, by time of invocation.
    pub fn history(&self) -> Vec<Operation<C, R>> {
        self.with(|log| log.operations.iter().flatten().cloned().collect())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Log<C, R>) -> T) -> T {
        f(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
