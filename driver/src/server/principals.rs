//! The principals of subjects: a number for each caller (S5).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use oncewire_core::Principal;

use crate::transport::Subject;

/// Names and their numbers: a uid is its own number, a name gets the next free one.
///
/// A name is forgotten once it has no connection and no session: peers choose their names, and 500,000 of them used to
/// take 72 MB for good. Its number is never used again.
#[derive(Debug)]
pub(super) struct PrincipalTable {
    numbers: HashMap<Arc<str>, u64>,
    names: HashMap<u64, Arc<str>>,
    /// All numbers, in the order in which they are checked.
    order: VecDeque<u64>,
    next: u64,
}

/// Above every uid.
const FIRST: u64 = 1 << 32;
/// Older names checked for each new one: more than one, so that unused ones go faster than new ones come.
const CHECKS: usize = 2;

impl Default for PrincipalTable {
    fn default() -> Self {
        PrincipalTable {
            numbers: HashMap::new(),
            names: HashMap::new(),
            order: VecDeque::new(),
            next: FIRST,
        }
    }
}

impl PrincipalTable {
    /// The number of a subject. `in_use` says whether there are connections or sessions of a number.
    pub(super) fn principal(
        &mut self,
        subject: &Subject,
        in_use: impl Fn(Principal) -> bool,
    ) -> Principal {
        let text = match subject {
            Subject::Anonymous => return Principal::ANONYMOUS,
            Subject::Uid(uid) => return Principal(u64::from(*uid)),
            Subject::Name(text) => text,
        };
        if let Some(number) = self.numbers.get(text) {
            return Principal(*number);
        }
        self.sweep(CHECKS, in_use);
        let number = self.next;
        self.next += 1;
        self.numbers.insert(text.clone(), number);
        self.names.insert(number, text.clone());
        self.order.push_back(number);
        debug_assert_eq!(self.names.len(), self.numbers.len(), "one number a name");
        Principal(number)
    }

    /// The subject of a number that was given here.
    pub(super) fn subject(&self, principal: Principal) -> Subject {
        match (u32::try_from(principal.0), self.names.get(&principal.0)) {
            (Ok(uid), _) => Subject::Uid(uid),
            (Err(_), Some(name)) => Subject::Name(name.clone()),
            (Err(_), None) => Subject::Anonymous,
        }
    }

    /// Checks `count` names and forgets those without a connection or session.
    pub(super) fn sweep(&mut self, count: usize, in_use: impl Fn(Principal) -> bool) {
        for _ in 0..count.min(self.order.len()) {
            let Some(number) = self.order.pop_front() else { return };
            if in_use(Principal(number)) {
                self.order.push_back(number);
            } else if let Some(name) = self.names.remove(&number) {
                self.numbers.remove(&name);
            }
        }
        self.give_memory_back();
    }

    fn give_memory_back(&mut self) {
        let len = self.order.len();
        debug_assert_eq!(len, self.names.len(), "each number has its turn to be checked");
        if self.order.capacity() > 4 * len + 64 {
            self.order.shrink_to(2 * len);
            self.names.shrink_to(2 * len);
            self.numbers.shrink_to(2 * len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> Subject {
        Subject::Name(format!("client {number}").into())
    }

    #[test]
    fn a_name_has_one_number_as_long_as_that_is_in_use() {
        let mut names = PrincipalTable::default();
        let alice = names.principal(&name(0), |_| false);
        let bob = names.principal(&name(1), |number| number == alice);
        for _ in 0..10 {
            names.sweep(10, |number| number == alice || number == bob);
            assert_eq!(names.principal(&name(0), |_| false), alice);
            assert_eq!(names.principal(&name(1), |_| false), bob);
            assert_eq!(names.subject(bob), name(1));
        }
        names.sweep(10, |number| number == bob);
        assert_eq!(names.subject(alice), Subject::Anonymous);
        let again = names.principal(&name(0), |_| true);
        assert!(again != alice && again != bob, "no number is used twice");
    }

    #[test]
    fn half_a_million_names_that_came_and_went_take_no_memory() {
        let mut names = PrincipalTable::default();
        for number in 0..500_000 {
            names.principal(&name(number), |_| false);
            assert!(names.order.len() <= 4);
        }
        assert!(names.names.capacity() + names.numbers.capacity() < 1_000);
    }

    #[test]
    fn names_whose_sessions_live_on_go_when_those_end() {
        let mut names = PrincipalTable::default();
        for number in 0..10_000 {
            names.principal(&name(number), |_| true);
        }
        assert_eq!(names.order.len(), 10_000);
        for _ in 0..100 {
            names.sweep(256, |_| false);
        }
        assert_eq!(names.order.len(), 0);
        assert!(names.names.capacity() + names.numbers.capacity() < 1_000);
    }
}
