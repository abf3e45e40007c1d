//! What a world waits for: the end of each call by its time, and its own end.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::MS;
use super::executor::{Sim, Turn, lock};

/// Polls that no world needs.
const POLLS_MAX: u64 = 3_000_000;

/// A task waits for something. Dropped when the wait is over.
#[derive(Debug)]
pub struct Awaited {
    deadlines: Arc<Mutex<BTreeMap<(u64, u64), String>>>,
    key: (u64, u64),
}

impl Awaited {
    /// A task waits for what `name` says, and must have it by `due`.
    pub fn new(sim: &Sim, due: u64, name: String) -> Awaited {
        let key = (due, sim.number());
        lock(&sim.awaited).insert(key, name);
        Awaited { deadlines: sim.awaited.clone(), key }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        lock(&self.deadlines).remove(&self.key);
    }
}

impl Sim {
    /// Lets the world go on until `done`; `check` is asked whenever time has passed.
    ///
    /// # Errors
    /// A broken promise, or that it was not done `at` that time.
    pub fn run_until(
        &self,
        at: u64,
        check: impl Fn() -> Result<(), String>,
        done: impl Fn() -> bool,
    ) -> Result<(), String> {
        while !done() {
            let turn = self.turn();
            if let Some(what) = lock(&self.violation).take() {
                return Err(what);
            }
            if self.polls.load(Ordering::Relaxed) > POLLS_MAX {
                return Err("it takes too many polls: something spins".into());
            }
            match turn {
                Turn::Polled => {}
                Turn::Waited => check()?,
                Turn::Stuck => return Err("nothing is ready and nothing is due".into()),
            }
            if self.now() > at {
                return Err(format!("it is not done: {:?}", lock(&self.awaited)));
            }
        }
        Ok(())
    }

    /// Lets `nanos` of virtual time pass.
    ///
    /// # Errors
    /// A broken promise.
    pub fn pass(&self, nanos: u64, check: impl Fn() -> Result<(), String>) -> Result<(), String> {
        let until = self.now() + nanos;
        self.wake_at(until, std::task::Waker::noop().clone());
        self.run_until(u64::MAX, check, || self.now() >= until)
    }

    /// Every wait ends in time. Clocks that stood still for `grace` may have made deadlines that much later.
    ///
    /// # Errors
    /// What is overdue.
    pub fn check_awaited(&self, grace: u64) -> Result<(), String> {
        match lock(&self.awaited).first_key_value() {
            Some(((due, _), name)) if *due + grace < self.now() => {
                let late = (self.now() - due) / MS;
                Err(format!("{name} has not ended, {late} ms after it should have"))
            }
            _ => Ok(()),
        }
    }
}
