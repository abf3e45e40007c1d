//! **Decides** which instance a client dials next. Nothing here waits.

use std::collections::BTreeMap;
use std::time::Duration;

use oncewire_driver::Instant;

use crate::registry::{InstanceState, RegisteredInstance};

/// What a client remembers of its dials.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The instance that was reached last: it has the session.
    last: Option<RegisteredInstance>,
    /// Since when that one does not answer.
    silent_since: Option<Instant>,
    /// How often that one was dialled since it drains.
    dials_while_draining: u32,
    /// When each of the others did not answer.
    failed_at: BTreeMap<Vec<u8>, Instant>,
}

/// In which order instances are dialled.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) candidates: Vec<RegisteredInstance>,
}

/// How long an instance that did not answer comes last.
const AVOIDED_FOR: Duration = Duration::from_secs(5);
/// Instances whose failures are remembered.
const FAILURES_MAX: usize = 256;
/// How often an instance that drains is dialled for the session that may be left there. One that is not is refused, which costs the
/// client a short pause each time.
const DIALS_WHILE_DRAINING_MAX: u32 = 3;

impl Memory {
    pub(crate) fn last(&self) -> Option<&RegisteredInstance> {
        self.last.as_ref()
    }

    /// The instance was reached: if it has no session of ours, it will.
    pub(crate) fn reached(&mut self, instance: &RegisteredInstance) {
        if !self.is_last(instance) {
            self.silent_since = None;
            self.dials_while_draining = 0;
        }
        if instance.state == InstanceState::Draining {
            self.dials_while_draining += 1;
        }
        self.last = Some(instance.clone());
    }

    /// The instance was not reached.
    pub(crate) fn failed(&mut self, instance: &RegisteredInstance, now: Instant) {
        if self.is_last(instance) {
            self.silent_since.get_or_insert(now);
        }
        self.failed_at.retain(|_, at| now.since(*at) < AVOIDED_FOR);
        if self.failed_at.len() < FAILURES_MAX {
            self.failed_at.insert(instance.key.clone(), now);
        }
    }

    /// The instance has answered, or the connection has ended without.
    pub(crate) fn ended(&mut self, instance: &RegisteredInstance, answered: bool, now: Instant) {
        if !answered {
            self.failed(instance, now);
        } else if self.is_last(instance) {
            self.silent_since = None;
            self.failed_at.remove(&instance.key);
        }
    }

    /// Decides by the instances that are registered. `random` is spread over all of `u64`.
    pub(crate) fn plan(
        &self,
        list: &[RegisteredInstance],
        now: Instant,
        stay_max: Duration,
        random: u64,
    ) -> Plan {
        let Some(last) = &self.last else {
            return Plan { candidates: self.ordered(list.iter(), now, random) };
        };
        let registered = list.iter().find(|instance| instance.key == last.key);
        let others = || list.iter().filter(|instance| instance.key != last.key);
        // S3: only these can resume the session.
        let twins = others().filter(|instance| instance.server == last.server);
        let strangers = others().filter(|instance| instance.server != last.server);
        let has_left = match registered.map(|instance| instance.state) {
            None => true,
            Some(InstanceState::Draining) => {
                self.dials_while_draining >= DIALS_WHILE_DRAINING_MAX || self.silent_since.is_some()
            }
            Some(_) => self.silent_since.is_some_and(|since| now.since(since) >= stay_max),
        };
        let is_draining = registered.is_some_and(|of| of.state == InstanceState::Draining);
        let mut candidates = Vec::new();
        candidates.extend(registered.filter(|_| !(is_draining && has_left)).cloned());
        candidates.extend(self.ordered(twins, now, random));
        if has_left {
            candidates.extend(self.ordered(strangers, now, random));
        }
        if candidates.is_empty() {
            // Nothing is registered: more likely is that something is wrong with the registry.
            candidates.push(last.clone());
        }
        Plan { candidates }
    }

    fn is_last(&self, instance: &RegisteredInstance) -> bool {
        self.last.as_ref().is_some_and(|last| last.key == instance.key)
    }

    /// Those that serve first, those that did not answer just now behind them, and each kind in an order by chance.
    fn ordered<'a>(
        &self,
        instances: impl Iterator<Item = &'a RegisteredInstance>,
        now: Instant,
        mut random: u64,
    ) -> Vec<RegisteredInstance> {
        let rank = |instance: &RegisteredInstance| {
            let failed_at = self.failed_at.get(&instance.key);
            let is_avoided = failed_at.is_some_and(|at| now.since(*at) < AVOIDED_FOR);
            match instance.state {
                InstanceState::Serving => u8::from(is_avoided),
                InstanceState::Unready => 2,
                // It refuses new sessions.
                InstanceState::Draining => 3,
            }
        };
        let mut ranked: Vec<(u8, u64, &RegisteredInstance)> = instances
            .map(|instance| {
                random = mix(random);
                (rank(instance), random, instance)
            })
            .collect();
        ranked.sort_by_key(|(rank, chance, _)| (*rank, *chance));
        ranked.into_iter().map(|(_, _, instance)| instance.clone()).collect()
    }
}

/// The next of a sequence that looks like chance (SplitMix64).
fn mix(state: u64) -> u64 {
    let mut mixed = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use oncewire_driver::ServerId;

    use super::*;

    const STAY: Duration = Duration::from_secs(10);

    fn instance(key: u8, server: u8, state: InstanceState) -> RegisteredInstance {
        RegisteredInstance {
            address: format!("10.0.0.{key}:1"),
            server: ServerId::from_bytes([server; 16]),
            instance: u64::from(key),
            name: String::new(),
            state,
            key: vec![key],
        }
    }

    fn serving(key: u8, server: u8) -> RegisteredInstance {
        instance(key, server, InstanceState::Serving)
    }

    fn keys(memory: &Memory, list: &[RegisteredInstance], seconds: u64) -> Vec<u8> {
        let plan = memory.plan(list, at(seconds), STAY, 7);
        plan.candidates.iter().map(|instance| instance.key[0]).collect()
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(100 + seconds)
    }

    #[test]
    fn the_instance_that_has_the_session_is_the_only_one_while_it_stays() {
        let (mut memory, list) = (Memory::default(), [serving(1, 1), serving(2, 2), serving(3, 3)]);
        memory.reached(&list[1]);
        assert_eq!(keys(&memory, &list, 0), [2]);
        memory.ended(&list[1], false, at(0));
        assert_eq!(keys(&memory, &list, 9), [2]);
        assert_eq!(keys(&memory, &list, 10)[0], 2);
        assert_eq!(keys(&memory, &list, 10).len(), 3);
        // It answers again.
        memory.ended(&list[1], true, at(11));
        assert_eq!(keys(&memory, &list, 30), [2]);
        // It has left.
        assert_eq!(keys(&memory, &[list[0].clone(), list[2].clone()], 30).len(), 2);
        // All have: etcd has lost them.
        assert_eq!(keys(&memory, &[], 30), [2]);
        assert_eq!(keys(&Memory::default(), &[], 30), [0; 0]);
    }

    #[test]
    fn one_with_the_same_records_is_next_and_strangers_come_after_it() {
        let list = [serving(1, 9), serving(2, 2), serving(3, 9)];
        let mut memory = Memory::default();
        memory.reached(&list[0]);
        assert_eq!(keys(&memory, &list, 0), [1, 3]);
        assert_eq!(keys(&memory, &list[1..], 0), [3, 2]);
    }

    #[test]
    fn one_that_drains_is_dialled_for_its_sessions_and_not_for_new_ones() {
        let drains = instance(1, 1, InstanceState::Draining);
        let list = [drains.clone(), serving(2, 2)];
        let mut memory = Memory::default();
        assert_eq!(keys(&memory, &list, 0), [2, 1]);
        memory.reached(&serving(1, 1));
        for _ in 0..DIALS_WHILE_DRAINING_MAX {
            assert_eq!(keys(&memory, &list, 0), [1]);
            memory.reached(&drains);
        }
        assert_eq!(keys(&memory, &list, 0), [2]);
        // Its process has ended.
        let mut memory = Memory::default();
        memory.reached(&drains);
        memory.failed(&drains, at(0));
        assert_eq!(keys(&memory, &list, 0), [2]);
    }

    #[test]
    fn those_that_do_not_answer_or_are_not_ready_come_last_and_the_rest_by_chance() {
        let mut list: Vec<_> = (1..=4).map(|key| serving(key, key)).collect();
        list.push(instance(5, 5, InstanceState::Unready));
        let mut memory = Memory::default();
        memory.failed(&list[0], at(0));
        let mut firsts = [0; 5];
        for random in 0..3_000 {
            let plan = memory.plan(&list, at(1), STAY, random);
            assert_eq!(plan.candidates[3].key, [1]);
            assert_eq!(plan.candidates[4].key, [5]);
            firsts[usize::from(plan.candidates[0].key[0])] += 1;
        }
        assert!(firsts[2..].iter().all(|times| (900..1_100).contains(times)), "{firsts:?}");
        let again = memory.plan(&list, at(5), STAY, 1);
        assert_ne!(again.candidates[4].key, [1]);
    }
}
