//! Decides the next view. Time is an argument: every decision can be repeated.

use std::time::Duration;

use oncewire::Instant;

use crate::{Member, View};

/// A server is dead when it has not pinged for so many intervals.
pub const DEAD_PINGS: u32 = 5;

/// What the service knows.
#[derive(Debug)]
pub struct ViewTable {
    dead_after: Duration,
    view: View,
    /// The primary has acknowledged the view: the next one may come.
    acknowledged: bool,
    /// Servers that live, in the order in which they came.
    alive: Vec<(Member, Instant)>,
}

impl ViewTable {
    /// Servers ping once in each `interval`.
    pub fn new(interval: Duration) -> ViewTable {
        ViewTable {
            dead_after: interval * DEAD_PINGS,
            view: View::default(),
            acknowledged: false,
            alive: Vec::new(),
        }
    }

    /// A server lives, and has done what view `knows` asks of it.
    pub fn ping(&mut self, now: Instant, member: Member, knows: u64) -> View {
        // An earlier start of the same server is dead, and its memory is gone.
        self.alive.retain(|(other, _)| other.name != member.name || *other == member);
        match self.alive.iter_mut().find(|(other, _)| *other == member) {
            Some((_, seen)) => *seen = now,
            None => self.alive.push((member.clone(), now)),
        }
        if self.view.primary.as_ref() == Some(&member) && knows == self.view.number {
            self.acknowledged = true;
        }
        self.get(now)
    }

    /// The present view.
    pub fn get(&mut self, now: Instant) -> View {
        let dead_after = self.dead_after;
        self.alive.retain(|(_, seen)| now.since(*seen) < dead_after);
        self.advance();
        self.view.clone()
    }

    /// The last view that its primary has acknowledged.
    pub fn acknowledged(&self) -> u64 {
        if self.acknowledged { self.view.number } else { self.view.number.saturating_sub(1) }
    }

    fn advance(&mut self) {
        let lives = |member: &Member| self.alive.iter().any(|(other, _)| other == member);
        let View { number, primary, backup } = self.view.clone();
        let is_first = number == 0;
        if !is_first && !self.acknowledged {
            return;
        }
        let backup = backup.filter(lives);
        let (primary, backup) = match (primary.filter(lives), backup) {
            (Some(primary), backup) => (primary, backup),
            (None, Some(backup)) => (backup, None),
            // The very first one begins with nothing. Later there is no one else who has the state.
            (None, None) => match self.alive.first() {
                Some((first, _)) if is_first => (first.clone(), None),
                _ => return,
            },
        };
        let is_idle = |member: &&Member| **member != primary && Some(*member) != backup.as_ref();
        let idle = self.alive.iter().map(|(member, _)| member).find(is_idle).cloned();
        // Not in the first view: a primary begins alone.
        let backup = backup.or(idle.filter(|_| !is_first));
        let (primary, next) = (Some(primary), number + 1);
        if (&primary, &backup) != (&self.view.primary, &self.view.backup) {
            self.view = View { number: next, primary, backup };
            self.acknowledged = false;
        }
    }
}
