//! What clients did and saw, and whether it is linearizable: whether each call could have taken effect at one moment between its
//! beginning and its end, so that all replies are right.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oncewire::{CallFailure, Executed};
use oncewire_sim::Rng;
use oncewire_sim::history::check::{Model, Verdict, check};
use oncewire_sim::history::{Begun, Operation, Recorder};

use crate::{Compared, KvClient};

/// Keys that clients use together.
pub const KEYS: usize = 3;
/// Steps that the search for an order may take.
const STEPS_MAX: usize = 20_000_000;

/// What a client does with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Act {
    Put(String),
    Append(String),
    CompareAndSet(Option<String>, String),
    Get,
}

/// What it sees.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Saw {
    Done,
    Whole(String),
    Compared(Compared),
    Value(Option<String>),
}

/// One key, as a program that does one thing after another.
struct Key;

impl Model for Key {
    type State = Option<String>;
    type Call = Act;
    type Return = Saw;

    fn initial() -> Option<String> {
        None
    }

    fn step(state: &Option<String>, act: &Act) -> (Option<String>, Saw) {
        match act {
            Act::Put(value) => (Some(value.clone()), Saw::Done),
            Act::Append(value) => {
                let whole = state.clone().unwrap_or_default() + value;
                (Some(whole.clone()), Saw::Whole(whole))
            }
            Act::CompareAndSet(expected, value) if state == expected => {
                (Some(value.clone()), Saw::Compared(Ok(())))
            }
            Act::CompareAndSet(..) => (state.clone(), Saw::Compared(Err(state.clone()))),
            Act::Get => (state.clone(), Saw::Value(state.clone())),
        }
    }
}

/// How many calls ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// With a reply.
    pub replied: u64,
    /// They were not executed.
    pub not_executed: u64,
    /// It is not known whether they were executed.
    pub unknown: u64,
}

/// What all clients did and saw. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Of each key: they do not depend on each other, which makes the search short.
    keys: Arc<[Recorder<Act, Saw>; KEYS]>,
    ended: Arc<[AtomicU64; 3]>,
}

impl History {
    /// How calls have ended so far.
    pub fn outcomes(&self) -> Outcomes {
        let [replied, not_executed, unknown] =
            [0, 1, 2].map(|kind: usize| self.ended[kind].load(Ordering::Relaxed));
        Outcomes { replied, not_executed, unknown }
    }

    fn end(&self, key: usize, begun: Begun, result: Result<Saw, CallFailure>) {
        let kind = match result {
            Ok(saw) => {
                self.keys[key].returned(begun, saw);
                0
            }
            Err(failure) if failure.executed() == Executed::No => {
                self.keys[key].not_executed(begun);
                1
            }
            // It may take effect at any time from now on, or never.
            Err(_) => 2,
        };
        self.ended[kind].fetch_add(1, Ordering::Relaxed);
    }

    /// One client makes one call at random. `number` is another one for each call.
    pub async fn act(&self, kv: &KvClient, rng: &mut Rng, number: u64) {
        let at = rng.index(KEYS);
        let (name, value) = (format!("key-{at}"), format!("{number}"));
        let act = match rng.below(8) {
            0 | 1 => Act::Put(value),
            2 | 3 => Act::Append(format!(".{value}")),
            4 | 5 => {
                // Some of these find what they expect.
                let seen = kv.get(name.clone()).await.ok();
                let guess = Some(rng.below(number + 1).to_string());
                Act::CompareAndSet(seen.unwrap_or(guess), value)
            }
            _ => Act::Get,
        };
        let begun = self.keys[at].invoke(act.clone());
        let result = match act {
            Act::Put(value) => kv.put(name, value).await.ok().map(|()| Saw::Done),
            Act::Append(value) => kv.append(name, value).await.ok().map(Saw::Whole),
            Act::CompareAndSet(expected, value) => {
                kv.compare_and_set(name, expected, value).await.ok().map(Saw::Compared)
            }
            Act::Get => kv.get(name).await.ok().map(Saw::Value),
        };
        self.end(at, begun, result);
    }

    /// Searches for an order of each key's calls.
    ///
    /// # Errors
    /// There is none, or none was found in time; in words.
    pub fn check(&self) -> Result<(), String> {
        for (key, recorder) in self.keys.iter().enumerate() {
            let history: Vec<Operation<Act, Saw>> = recorder.history();
            match check::<Key>(&history, STEPS_MAX) {
                Verdict::Linearizable => {}
                Verdict::NotLinearizable { longest } => {
                    let of = history.len();
                    return Err(format!(
                        "key {key} is not linearizable: {longest} of {of} calls can be put in order"
                    ));
                }
                Verdict::Undecided => return Err(format!("no verdict about key {key}")),
            }
        }
        Ok(())
    }
}
