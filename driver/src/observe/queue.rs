//! Events that wait until the lock is free under which they happened.
//!
//! One thread at a time delivers them: the first that releases the lock while some wait. Others leave theirs to it, so that
//! they come in order. It delivers a few rounds, and then leaves the rest to a task, so that no turn is without end.

use std::mem;

use super::Event;

/// Events that wait; more are dropped.
const EVENTS_MAX: usize = 65_536;

/// Rounds that one turn delivers.
pub(crate) const ROUNDS_MAX: usize = 8;

/// What waits, under the lock.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    events: Vec<Event>,
    lost: u64,
    delivering: bool,
}

/// What to do in a round of delivery.
pub(crate) enum Round {
    /// Give these to the observers, and ask again.
    Deliver(Vec<Event>),
    /// Nothing waits.
    Done,
}

impl Queue {
    pub(crate) fn push(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX {
            self.events.push(event);
        } else {
            self.lost += 1;
        }
    }

    /// Whether who releases the lock must deliver.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        !self.delivering && !self.events.is_empty()
    }

    /// Begins a round, if no one else delivers.
    pub(crate) fn begin(&mut self) -> Round {
        if self.delivering { Round::Done } else { self.next() }
    }

    /// Who delivers has done so for long, and leaves the rest to a task. Whether there is any.
    pub(crate) fn hand_over(&mut self) -> bool {
        self.delivering = false;
        !self.events.is_empty()
    }

    /// The next round of who delivers.
    pub(crate) fn next(&mut self) -> Round {
        self.delivering = !self.events.is_empty();
        if !self.delivering {
            return Round::Done;
        }
        let mut events = mem::take(&mut self.events);
        if let lost @ 1.. = mem::take(&mut self.lost) {
            events.push(Event::EventsLost { events: lost });
        }
        Round::Deliver(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(round: Round) -> Vec<String> {
        match round {
            Round::Deliver(events) => events.iter().map(Event::to_string).collect(),
            Round::Done => Vec::new(),
        }
    }

    #[test]
    fn one_delivers_for_all_until_nothing_waits() {
        let mut queue = Queue::default();
        assert!(!queue.is_due());
        queue.push(Event::DrainBegan);
        assert!(queue.is_due());
        assert_eq!(delivered(queue.begin()), ["drain began"]);
        queue.push(Event::Drained);
        assert!(!queue.is_due(), "another one delivers");
        assert_eq!(delivered(queue.begin()), [""; 0]);
        assert_eq!(delivered(queue.next()), ["drained"]);
        assert_eq!(delivered(queue.next()), [""; 0]);
        queue.push(Event::Drained);
        assert!(queue.is_due());
    }

    #[test]
    fn what_finds_no_place_is_counted() {
        let mut queue = Queue::default();
        for _ in 0..EVENTS_MAX + 7 {
            queue.push(Event::Drained);
        }
        let events = delivered(queue.begin());
        assert_eq!(events.len(), EVENTS_MAX + 1);
        assert_eq!(events.last().unwrap(), "7 events lost");
    }
}
