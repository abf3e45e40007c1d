//! What clients did and saw, and whether one server that executes one call after another could have done it.

use std::collections::BTreeMap;
use std::sync::Arc;

use oncewire::{CallFailure, Executed};
use oncewire_sim::history::check::{Model, Verdict, check};
use oncewire_sim::history::{Begun, Recorder};

/// A key, and what is put there, if anything is.
type Call = (u64, Option<String>);

#[derive(Clone, Default)]
pub struct History(Arc<Recorder<Call, Option<String>>>);

struct Registers;

impl Model for Registers {
    type State = BTreeMap<u64, String>;
    type Call = Call;
    type Return = Option<String>;

    fn initial() -> Self::State {
        BTreeMap::new()
    }

    fn step(state: &Self::State, (key, value): &Call) -> (Self::State, Self::Return) {
        let mut state = state.clone();
        match value {
            Some(value) => {
                state.insert(*key, value.clone());
                (state, None)
            }
            None => {
                let value = state.get(key).cloned().unwrap_or_default();
                (state, Some(value))
            }
        }
    }
}

impl History {
    pub fn invoke(&self, key: u64, puts: Option<String>) -> Begun {
        self.0.invoke((key, puts))
    }

    pub fn returned(&self, begun: Begun, result: Result<Option<String>, CallFailure>) {
        match result {
            Ok(value) => self.0.returned(begun, value),
            Err(failure) if failure.executed() == Executed::No => self.0.not_executed(begun),
            // It may have been executed, or may be later.
            Err(_) => {}
        }
    }

    pub fn check(&self) {
        let history = self.0.history();
        let verdict = check::<Registers>(&history, 2_000_000);
        assert_eq!(verdict, Verdict::Linearizable, "of {} calls", history.len());
    }
}
