//! Which batches are under way, and what waits for the next ones.
//!
//! With one lane, the next batch is everything that is queued. With several, each session's entries wait in a queue of their own, and while
//! a batch with some of them is under way the rest of them wait: so a session is in one lane at a time, and its entries become
//! durable in their order, whichever lane ends first.

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::ledger_queue::Item;

type Id = [u8; 16];

/// The lanes of a ledger. By default there is one.
pub(super) struct Lanes {
    /// Most transactional calls of one batch.
    calls_max: usize,
    /// Those without a batch.
    free: Vec<usize>,
    /// By lane, the sessions of its batch; empty if there is one lane only.
    under_way: Vec<Vec<Id>>,
    /// What waits, by session, and the sessions whose batch is under way; empty if there is one lane only.
    queues: BTreeMap<Id, SessionQueue>,
    /// Sessions of which something waits and nothing is under way, the oldest first.
    ready: VecDeque<Id>,
}

#[derive(Default)]
struct SessionQueue {
    items: VecDeque<Item>,
    is_under_way: bool,
}

impl Default for Lanes {
    fn default() -> Lanes {
        Lanes::new(1, usize::MAX)
    }
}

impl Lanes {
    pub(super) fn new(lanes: usize, calls_max: usize) -> Lanes {
        let lanes = lanes.max(1);
        Lanes {
            calls_max: if lanes == 1 { usize::MAX } else { calls_max.max(1) },
            free: (0..lanes).rev().collect(),
            under_way: (0..lanes).map(|_| Vec::new()).collect(),
            queues: BTreeMap::new(),
            ready: VecDeque::new(),
        }
    }

    fn is_one(&self) -> bool {
        self.under_way.len() == 1
    }

    /// Whether a batch could be given to the ledger, if there is one.
    pub(super) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// No batch is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.free.len() == self.under_way.len()
    }

    /// Whether there is something for a batch beside what was queued since the last one was taken.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The entries of the next batch and its lane, which is taken: it must [land](Lanes::land). `queued` is what has come since. A server
    /// that `overlaps` is broken.
    pub(super) fn take(
        &mut self,
        queued: &mut Vec<Item>,
        overlaps: bool,
    ) -> Option<(usize, Vec<Item>)> {
        let lane = self.free.pop()?;
        let items = match self.is_one() {
            true => std::mem::take(queued),
            false => {
                queued.drain(..).for_each(|item| self.sort_in(item));
                self.collect(lane, overlaps)
            }
        };
        if items.is_empty() {
            self.free.push(lane);
            return None;
        }
        Some((lane, items))
    }

    fn sort_in(&mut self, item: Item) {
        let id = item.session().to_bytes();
        let queue = self.queues.entry(id).or_default();
        if queue.items.is_empty() && !queue.is_under_way {
            self.ready.push_back(id);
        }
        queue.items.push_back(item);
    }

    /// Either transactional calls or what is recorded of others: a store can keep apart from each other only what must be.
    fn collect(&mut self, lane: usize, overlaps: bool) -> Vec<Item> {
        let is_call = |item: &Item| matches!(item, Item::Transaction(_));
        let (mut items, mut of_calls, mut passed) = (Vec::new(), None, Vec::new());
        let calls_max = self.calls_max;
        let is_full =
            |items: &[Item]| items.len() >= calls_max && items.first().is_some_and(is_call);
        while !is_full(&items)
            && let Some(id) = self.ready.pop_front()
        {
            // What waited of it may have been removed meanwhile, and more have come.
            let Some(queue) = self.queues.get_mut(&id).filter(|queue| !queue.is_under_way) else {
                continue;
            };
            let Some(first) = queue.items.front() else { continue };
            let of_calls = *of_calls.get_or_insert(is_call(first));
            if is_call(first) != of_calls {
                passed.push(id);
                continue;
            }
            while queue.items.front().is_some_and(|item| is_call(item) == of_calls)
                && !is_full(&items)
            {
                items.extend(queue.items.pop_front());
            }
            queue.is_under_way = !overlaps;
            if overlaps && !queue.items.is_empty() {
                self.ready.push_back(id);
            }
            self.under_way[lane].push(id);
        }
        passed.into_iter().rev().for_each(|id| self.ready.push_front(id));
        items
    }

    /// The batch of this lane has come back, or will not be given to the ledger.
    pub(super) fn land(&mut self, lane: usize) {
        debug_assert!(!self.free.contains(&lane), "a batch comes back once");
        self.free.push(lane);
        for id in std::mem::take(&mut self.under_way[lane]) {
            let Some(queue) = self.queues.get_mut(&id) else { continue };
            queue.is_under_way = false;
            match queue.items.is_empty() {
                true => drop(self.queues.remove(&id)),
                false => self.ready.push_back(id),
            }
        }
    }

    /// Sessions of which something waits, beside what was queued since the last batch was taken.
    pub(super) fn sessions(&self) -> impl Iterator<Item = Id> {
        let waits = self.queues.iter().filter(|(_, queue)| !queue.items.is_empty());
        waits.map(|(id, _)| *id)
    }

    /// Removes what waits of these sessions.
    pub(super) fn remove(&mut self, sessions: &HashSet<Id>) -> Vec<Item> {
        let mut removed = Vec::new();
        for id in sessions {
            if let Some(queue) = self.queues.get_mut(id) {
                removed.extend(queue.items.drain(..));
                if !queue.is_under_way {
                    self.queues.remove(id);
                }
            }
        }
        removed
    }

    /// Removes all that waits, while nothing is under way.
    pub(super) fn clear(&mut self) -> Vec<Item> {
        self.ready.clear();
        std::mem::take(&mut self.queues).into_values().flat_map(|queue| queue.items).collect()
    }
}
