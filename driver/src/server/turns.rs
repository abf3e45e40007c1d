//! The order of calls that wait for the same handler: principals take turns, the sessions of a principal take turns, and a session's
//! calls come in order.
//!
//! So a call waits for at most one call of each other principal, and of each other session of its own, however many wait there: in
//! one order for all, a client that always kept a queue full had nearly every turn. Each step costs a few look-ups in trees.

use std::collections::BTreeMap;

use oncewire_core::Principal;
use oncewire_core::budget::Amounts;

/// Where a call waits. `number` is greater than that of every call and turn before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place<S> {
    pub(super) principal: Principal,
    pub(super) session: S,
    pub(super) number: u64,
}

/// Calls that wait for one handler.
pub(super) struct Queue<S, T> {
    calls: BTreeMap<Place<S>, T>,
    principals: Round<(), Principal>,
    sessions: Round<Principal, S>,
}

impl<S: Ord + Copy, T> Queue<S, T> {
    pub(super) fn new() -> Self {
        Queue { calls: BTreeMap::new(), principals: Round::new(), sessions: Round::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// How many calls of a session wait here, how many of its principal, and how many in all.
    pub(super) fn held(&self, principal: Principal, session: S) -> Amounts {
        Amounts {
            session: self.sessions.waiting(principal, session) as u64,
            principal: self.principals.waiting((), principal) as u64,
            server: self.calls.len() as u64,
        }
    }

    /// A call waits from now on, behind those of its session.
    pub(super) fn push(&mut self, place: Place<S>, call: T) {
        let Place { principal, session, number } = place;
        self.calls.insert(place, call);
        self.principals.add((), principal, number);
        self.sessions.add(principal, session, number);
        self.debug_check();
    }

    /// Whose turn it is, after the number of the turn that it had last, or of the call with which it came.
    pub(super) fn next_principal(&self) -> Option<(u64, Principal)> {
        self.principals.first(())
    }

    /// The same among the sessions of a principal.
    pub(super) fn next_session(&self, principal: Principal) -> Option<(u64, S)> {
        self.sessions.first(principal)
    }

    /// The call of a session that waits longest.
    pub(super) fn next_call(&self, principal: Principal, session: S) -> Option<Place<S>> {
        let place = |number| Place { principal, session, number };
        self.calls.range(place(0)..=place(u64::MAX)).next().map(|(place, _)| *place)
    }

    /// Any call that waits; of its session it is the one that waits longest.
    pub(super) fn any(&self) -> Option<Place<S>> {
        self.calls.first_key_value().map(|(place, _)| *place)
    }

    /// Takes a call out. The turns of others stay as they are; who has no other call here has no turn any more.
    pub(super) fn remove(&mut self, place: Place<S>) -> Option<T> {
        let call = self.calls.remove(&place)?;
        self.principals.remove((), place.principal);
        self.sessions.remove(place.principal, place.session);
        self.debug_check();
        Some(call)
    }

    /// A principal and one of its sessions have had a turn: their next ones come after those of all others that wait now.
    pub(super) fn had_turn(&mut self, principal: Principal, session: S, number: u64) {
        self.principals.put_last((), principal, number);
        self.sessions.put_last(principal, session, number);
        self.debug_check();
    }

    fn debug_check(&self) {
        for (members, order) in [self.principals.lens(), self.sessions.lens()] {
            debug_assert_eq!(members, order, "who waits has one turn");
            debug_assert!(members <= self.calls.len(), "who has a turn has a call that waits");
        }
    }
}

/// Groups of members that take turns.
struct Round<G, M> {
    members: BTreeMap<(G, M), Member>,
    /// By the numbers of their last turns, or of their first calls.
    order: BTreeMap<(G, u64), M>,
}

struct Member {
    /// Calls of it that wait: never 0.
    waiting: usize,
    /// Its number in the order.
    turn: u64,
}

impl<G: Ord + Copy, M: Ord + Copy> Round<G, M> {
    fn new() -> Self {
        Round { members: BTreeMap::new(), order: BTreeMap::new() }
    }

    fn lens(&self) -> (usize, usize) {
        (self.members.len(), self.order.len())
    }

    fn waiting(&self, group: G, member: M) -> usize {
        self.members.get(&(group, member)).map_or(0, |member| member.waiting)
    }

    /// Who has its turn next.
    fn first(&self, group: G) -> Option<(u64, M)> {
        let of_group = (group, 0)..=(group, u64::MAX);
        self.order.range(of_group).next().map(|((_, turn), member)| (*turn, *member))
    }

    /// One more call of a member waits. A newcomer is last.
    fn add(&mut self, group: G, who: M, number: u64) {
        let member = self.members.entry((group, who)).or_insert_with(|| {
            self.order.insert((group, number), who);
            Member { waiting: 0, turn: number }
        });
        member.waiting += 1;
    }

    /// One fewer waits.
    fn remove(&mut self, group: G, who: M) {
        let Some(member) = self.members.get_mut(&(group, who)) else { return };
        member.waiting -= 1;
        if member.waiting == 0 {
            self.order.remove(&(group, member.turn));
            self.members.remove(&(group, who));
        }
    }

    fn put_last(&mut self, group: G, who: M, number: u64) {
        let Some(member) = self.members.get_mut(&(group, who)) else { return };
        self.order.remove(&(group, member.turn));
        member.turn = number;
        self.order.insert((group, number), who);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls with their principal, session and number; all of them in one queue.
    #[derive(Default)]
    struct World {
        queue: Queue<u32, u64>,
        next: u64,
    }

    impl Default for Queue<u32, u64> {
        fn default() -> Self {
            Queue::new()
        }
    }

    impl World {
        fn push(&mut self, principal: u64, session: u32) -> u64 {
            let place = Place { principal: Principal(principal), session, number: self.next };
            self.queue.push(place, self.next);
            self.next += 1;
            place.number
        }

        fn pop(&mut self) -> Option<u64> {
            let (_, principal) = self.queue.next_principal()?;
            let (_, session) = self.queue.next_session(principal)?;
            let call = self.queue.remove(self.queue.next_call(principal, session)?)?;
            self.queue.had_turn(principal, session, self.next);
            self.next += 1;
            Some(call)
        }

        fn rest(&mut self) -> Vec<u64> {
            std::iter::from_fn(|| self.pop()).collect()
        }
    }

    #[test]
    fn principals_take_turns_and_so_do_the_sessions_of_each() {
        let mut world = World::default();
        let of_one: Vec<u64> = (0..6).map(|n| world.push(1, 10 + n % 2)).collect();
        let others = [world.push(2, 20), world.push(2, 20), world.push(3, 30)];
        let order = world.rest();
        let [a, b, c, d, e, f] = of_one[..] else { panic!() };
        assert_eq!(order, [a, others[0], others[2], b, others[1], c, d, e, f]);
    }

    #[test]
    fn a_newcomer_waits_for_one_call_of_each_that_waits() {
        let mut world = World::default();
        for n in 0..300 {
            world.push(u64::from(n % 3), n % 30);
        }
        for _ in 0..100 {
            let call = world.push(77, 777);
            let turns = std::iter::from_fn(|| world.pop()).take_while(|popped| *popped != call);
            assert!(turns.count() <= 3);
            for n in 0..4 {
                world.push(u64::from(n % 3), n % 30);
            }
        }
    }

    #[test]
    fn what_is_taken_out_leaves_no_hole() {
        let mut world = World::default();
        let mut places = Vec::new();
        for n in 0..100_u64 {
            let place = Place { principal: Principal(n % 5), session: (n % 10) as u32, number: n };
            assert_eq!(world.push(n % 5, (n % 10) as u32), n);
            places.push(place);
        }
        // All of one principal, all of one session of another, and every third call of the others.
        let gone = |place: &Place<u32>| {
            place.principal.0 == 0 || place.session == 1 || place.number.is_multiple_of(3)
        };
        for place in places.iter().filter(|place| gone(place)) {
            assert_eq!(world.queue.remove(*place), Some(place.number));
            assert_eq!(world.queue.remove(*place), None, "only once");
        }
        assert_eq!(world.queue.held(Principal(0), 0).principal, 0);
        assert_eq!(world.queue.held(Principal(1), 1).session, 0);
        let order = world.rest();
        let mut expected: Vec<u64> =
            places.iter().filter(|place| !gone(place)).map(|place| place.number).collect();
        // The others have their turns as if it had never been there.
        let first: Vec<u64> = order[..4].iter().map(|number| number % 5).collect();
        assert_eq!(first, [1, 2, 3, 4]);
        let mut sorted = order;
        sorted.sort_unstable();
        expected.sort_unstable();
        assert_eq!(sorted, expected);
        assert_eq!((world.queue.len(), world.queue.next_principal()), (0, None));
    }
}
