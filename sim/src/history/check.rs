//! Whether a history is linearizable.
//!
//! The search is Wing and Gong's (JPDC 1993): take an operation that no other one precedes, let the sequential model
//! execute it, go on with the rest; go back when the model returns something else than the client got. Lowe's memory
//! (CCPE 2017) cuts it short: the same operations taken in another order, with the same state after them, need not be
//! looked at again. Operations of unknown outcome may be taken at any time or left out.

use std::collections::HashSet;
use std::hash::Hash;

use super::Operation;

/// A sequential program that the history of a concurrent one is compared with.
pub trait Model {
    /// What it remembers.
    type State: Clone + Eq + Hash;
    /// What can be called.
    type Call;
    /// What a call returns.
    type Return: PartialEq;

    /// The state before the first call.
    fn initial() -> Self::State;
    /// Executes one call.
    fn step(state: &Self::State, call: &Self::Call) -> (Self::State, Self::Return);
}

/// What the search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order in which every operation was right.
    Linearizable,
    /// There is none. `longest` operations of the history could be put in order at most.
    NotLinearizable {
        /// Completed operations in the best order.
        longest: usize,
    },
    /// The search was given up.
    Undecided,
}

/// The operations that were taken, a bit each.
type Taken = Box<[u64]>;

struct Search<'h, M: Model> {
    history: &'h [Operation<M::Call, M::Return>],
    taken: Taken,
    /// Completed operations that were not taken.
    left: usize,
    seen: HashSet<(Taken, M::State)>,
}

/// A choice that can be taken back.
struct Choice<S> {
    operation: usize,
    before: S,
    /// What else could be chosen, the next one last.
    others: Vec<usize>,
}

/// Searches for an order of `history`, at most `steps_max` steps long. The operations must stand in order of their
/// invocation, as a [`Recorder`](super::Recorder) gives them.
pub fn check<M: Model>(history: &[Operation<M::Call, M::Return>], steps_max: usize) -> Verdict {
    debug_assert!(history.is_sorted_by_key(|operation| operation.invoked));
    let completed = history.iter().filter(|operation| operation.returned.is_some()).count();
    let mut search = Search::<M> {
        history,
        taken: vec![0; history.len().div_ceil(64)].into(),
        left: completed,
        seen: HashSet::new(),
    };
    let mut state = M::initial();
    let mut choices: Vec<Choice<M::State>> = Vec::new();
    let mut candidates = search.candidates();
    let mut fewest_left = completed;
    for _ in 0..steps_max {
        if search.left == 0 {
            return Verdict::Linearizable;
        }
        if let Some(operation) = candidates.pop() {
            let Some(after) = search.take(operation, &state) else { continue };
            let others = std::mem::replace(&mut candidates, search.candidates());
            choices.push(Choice {
                operation,
                before: std::mem::replace(&mut state, after),
                others,
            });
            fewest_left = fewest_left.min(search.left);
        } else if let Some(choice) = choices.pop() {
            search.put_back(choice.operation);
            state = choice.before;
            candidates = choice.others;
        } else {
            return Verdict::NotLinearizable { longest: completed - fewest_left };
        }
    }
    Verdict::Undecided
}

impl<M: Model> Search<'_, M> {
    /// The operations that may come next: those that began before any other one ended. The likeliest is last: of those
    /// that ended, the first to end; the unknown ones only when these fail.
    fn candidates(&self) -> Vec<usize> {
        let mut first_return = u64::MAX;
        let mut found = Vec::new();
        for (index, operation) in self.history.iter().enumerate() {
            if operation.invoked > first_return {
                break;
            }
            if self.is_taken(index) {
                continue;
            }
            let returned = operation.returned.as_ref().map_or(u64::MAX, |(at, _)| *at);
            first_return = first_return.min(returned);
            found.push((returned, index));
        }
        found.sort_unstable_by(|one, other| other.cmp(one));
        found.into_iter().map(|(_, index)| index).collect()
    }

    /// Takes an operation if its return is right, and if this was not tried before; gives the state after it.
    fn take(&mut self, index: usize, state: &M::State) -> Option<M::State> {
        let operation = &self.history[index];
        let (after, value) = M::step(state, &operation.call);
        match &operation.returned {
            Some((_, observed)) if *observed != value => return None,
            // Without an effect it can as well be left out.
            None if after == *state => return None,
            _ => {}
        }
        self.taken[index / 64] |= 1 << (index % 64);
        if !self.seen.insert((self.taken.clone(), after.clone())) {
            self.taken[index / 64] &= !(1 << (index % 64));
            return None;
        }
        self.left -= usize::from(operation.returned.is_some());
        Some(after)
    }

    fn put_back(&mut self, index: usize) {
        self.taken[index / 64] &= !(1 << (index % 64));
        self.left += usize::from(self.history[index].returned.is_some());
    }

    fn is_taken(&self, index: usize) -> bool {
        self.taken[index / 64] & (1 << (index % 64)) != 0
    }
}
