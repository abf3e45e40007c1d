//! Which call reads the socket for all: the pattern Leader/Followers (Schmidt et al., POSA2).
//!
//! There is one socket, and many calls wait for what comes on it. Waking a task for each read and another for each answer
//! would cost two wake-ups a call, so one of the calls reads: the leader, which finds its own answer, and wakes the others
//! for theirs. When its outcome is there, or it is dropped, it promotes a follower. Where no call waits, or the leader is
//! not polled any more, the client's task reads.
//!
//! The leader also writes. Outcomes that one read has brought lead to new calls, and these should leave in one write. So the
//! first of them, which leads, lets the others run once before it writes; what they begin joins.

use std::task::Waker;
use std::time::Duration;

use oncewire_core::Instant;

use super::pending::{PendingCalls, PendingId};

/// If no call has read for this long, the client's task reads the socket.
pub(super) const LEAD_AFTER: Duration = Duration::from_millis(50);

/// While calls read all the time, the task looks less and less often whether they still do: at last at this interval. It is no longer
/// than the usual `ack_delay`, by whose timer the task would be woken otherwise.
const LOOK_INTERVAL_MAX: Duration = Duration::from_millis(100);
/// Such looks come at multiples of this, so that those of a process's clients come together. Each is a timer, and may wake a thread
/// that then waits for sockets, and takes the core from the one that calls.
const LOOK_GRID: Duration = Duration::from_millis(25);

/// A leader's future may be polled once and then forgotten by its owner. While others depend on it, or what it has not
/// written yet, a [timer](super::state::WatchTimer) checks at this interval that a leader was polled.
const WATCH_INTERVAL: Duration = Duration::from_micros(325);
/// If none was, it is woken, and has this time to be polled before the task reads.
const NUDGE_INTERVAL: Duration = Duration::from_micros(100);
/// Leaders woken like that, one after another, before calls are answered: then answers take long, and the task reads.
const NUDGES_MAX: u32 = 3;

/// Calls in a row that are answered within a spin: then other tasks get their turn.
const HITS_MAX: u32 = 64;

/// Invariants: a leading call is not among the followers, or it has lost the lead since. Followers may have ended; they
/// are skipped. Without a connection there is no leader.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) leader: Leader,
    /// Calls that wait while another one leads.
    followers: Followers,
    /// When a leading call was last polled, or passed the lead on.
    led_at: Instant,
    /// How often leading calls were polled, or passed the lead on.
    leads: u64,
    watch: Option<Watch>,
    /// Leaders that were [nudged](NUDGES_MAX) since calls were last answered.
    nudges: u32,
    /// [`Reader::leads`] when the leader was woken, since it had not been polled.
    nudged_at: Option<u64>,
    /// The same when the task was woken to read, because no leader had been polled.
    stalled_at: Option<u64>,
    look: Look,
    /// Who was asked to write what there is to write.
    pub(super) flush: Flush,
    /// The leader had its turn, and the stream had more.
    pub(super) overran: bool,
    /// Spins that hit, one after the other.
    pub(super) hits: u32,
    /// Calls that were answered since something was last written: their callers may be about to call again.
    answered: usize,
    /// The call that has let others act before it.
    yielded: Option<PendingId>,
}

/// Calls in the order in which they began to follow. Those before `start` have been taken out.
#[derive(Debug, Default)]
struct Followers {
    ids: Vec<PendingId>,
    start: usize,
}

impl Followers {
    #[inline]
    fn is_empty(&self) -> bool {
        self.start == self.ids.len()
    }

    #[inline]
    fn push(&mut self, id: PendingId, pending: &PendingCalls) {
        self.ids.push(id);
        if self.ids.len() > 2 * pending.len() + 64 {
            self.ids.drain(..std::mem::take(&mut self.start));
            self.ids.retain(|id| pending.contains(*id));
        }
    }

    fn pop(&mut self) -> Option<PendingId> {
        let id = *self.ids.get(self.start)?;
        self.start += 1;
        Some(id)
    }

    #[inline]
    fn clear(&mut self) {
        self.ids.clear();
        self.start = 0;
    }
}

/// Who reads the socket for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Leader {
    /// No one yet: the next call that is polled, or the task if none is.
    #[default]
    None,
    Task,
    Call(PendingId),
}

/// Who will write: it was woken for that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Flush {
    /// There is nothing to write, as far as is known.
    #[default]
    None,
    /// The call that leads, or the next one that does: others add to what it writes until it is polled.
    ByLeader,
    ByTask,
}

/// The followers are watched over.
#[derive(Clone, Copy, Debug)]
struct Watch {
    /// [`Reader::leads`] when it began.
    leads: u64,
    /// The leader was woken then, since it had not been polled.
    nudged: bool,
}

/// What a watch has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    /// Leading calls are polled, or none is needed.
    Well,
    /// This leader was not polled, and must be woken.
    Idle(PendingId),
    /// Nor was it after that: the task must read.
    Stalled,
}

/// The task looks now and then whether calls still read, though none may depend on another.
#[derive(Debug, Default)]
struct Look {
    /// When it does so next.
    at: Instant,
    /// How long that was after the look before it; zero at first.
    interval: Duration,
    /// [`Reader::leads`] at the last look.
    leads: u64,
}

impl Reader {
    /// A call leads. If another call did, that becomes a follower.
    #[inline]
    pub(super) fn lead_as(&mut self, id: PendingId, now: Instant, pending: &mut PendingCalls) {
        if let Leader::Call(other) = self.leader
            && other != id
        {
            self.add_follower(other, pending);
        }
        self.leader = Leader::Call(id);
        self.led_at = now;
        self.leads += 1;
    }

    /// The task leads. If a call did, that becomes a follower.
    pub(super) fn lead_as_task(&mut self, pending: &mut PendingCalls) {
        if let Leader::Call(id) = self.leader {
            self.add_follower(id, pending);
        }
        self.leader = Leader::Task;
        self.look = Look::default();
        // A watch that began with the leader before would find another one, and only then watch that. The next sets the timer again.
        self.watch = None;
    }

    /// There is nothing to read from any more.
    pub(super) fn stop(&mut self, pending: &mut PendingCalls) {
        if let Leader::Call(id) = self.leader {
            self.add_follower(id, pending);
        }
        self.leader = Leader::None;
    }

    /// A call waits while another one leads, if it did not before.
    pub(super) fn add_follower(&mut self, id: PendingId, pending: &mut PendingCalls) {
        if pending.set_follows(id) {
            self.enqueue(id, pending);
        }
    }

    /// A call is among the followers, and was not before.
    #[inline]
    pub(super) fn enqueue(&mut self, id: PendingId, pending: &PendingCalls) {
        self.followers.push(id, pending);
    }

    /// The leader gives the lead up. Returns the waker of the follower that should take it, if there is one.
    pub(super) fn pass(&mut self, now: Instant, pending: &mut PendingCalls) -> Option<Waker> {
        self.leader = Leader::None;
        self.led_at = now;
        self.leads += 1;
        if pending.has_waiting() {
            while let Some(id) = self.followers.pop() {
                let waker = pending.take_follower(id);
                if waker.is_some() {
                    return waker;
                }
            }
        }
        // What is left of them has its outcome.
        self.followers.clear();
        pending.forget_followers();
        None
    }

    /// How often leading calls were polled, if another call leads than this one.
    #[inline]
    pub(super) fn leads_of_another(&self, id: PendingId) -> Option<u64> {
        match self.leader {
            Leader::Call(leader) if leader != id => Some(self.leads),
            _ => None,
        }
    }

    /// True if it is time for the task to read, because no call does.
    pub(super) fn task_should_lead(&mut self, now: Instant) -> bool {
        match self.leader {
            Leader::Task => false,
            Leader::None | Leader::Call(_) if !self.is_depended_on() => {
                self.led_at + LEAD_AFTER <= now
            }
            Leader::None | Leader::Call(_) => self.stalled_at.take() == Some(self.leads),
        }
    }

    /// A watch over the followers begins. Returns when it ends.
    pub(super) fn begin_watch(&mut self, now: Instant) -> Instant {
        let nudged = self.nudged_at.take() == Some(self.leads);
        self.watch = Some(Watch { leads: self.leads, nudged });
        now + if nudged { NUDGE_INTERVAL } else { WATCH_INTERVAL }
    }

    /// It is over.
    pub(super) fn end_watch(&mut self) -> Watched {
        let Some(watch) = self.watch.take() else { return Watched::Well };
        if watch.leads != self.leads || !self.is_depended_on() {
            return Watched::Well;
        }
        match self.leader {
            Leader::Task => Watched::Well,
            Leader::Call(id) if !watch.nudged && self.nudges < NUDGES_MAX => {
                self.nudges += 1;
                self.nudged_at = Some(self.leads);
                Watched::Idle(id)
            }
            Leader::None | Leader::Call(_) => {
                self.stalled_at = Some(self.leads);
                Watched::Stalled
            }
        }
    }

    /// When the task should look next whether calls still read.
    pub(super) fn next_look(&mut self, now: Instant) -> Instant {
        if self.leader == Leader::Task {
            return Instant::FAR_FUTURE;
        }
        if self.look.at <= now {
            let interval = match self.look.leads == self.leads {
                true => LEAD_AFTER,
                false => (2 * self.look.interval).clamp(LEAD_AFTER, LOOK_INTERVAL_MAX),
            };
            let at = match interval == LEAD_AFTER {
                true => self.led_at + LEAD_AFTER,
                false => on_grid(now + interval),
            };
            let at = at.max(now + Duration::from_millis(1));
            self.look = Look { at, interval, leads: self.leads };
        }
        self.look.at
    }

    /// Whether calls depend on a leading call, and it is not watched yet.
    #[inline]
    pub(super) fn wants_watch(&self) -> bool {
        self.watch.is_none() && self.leader != Leader::Task && self.is_depended_on()
    }

    /// Whether a leading call reads for others, or has put off a write (C172).
    #[inline]
    fn is_depended_on(&self) -> bool {
        !self.followers.is_empty() || self.flush == Flush::ByLeader
    }

    /// Calls were answered.
    #[inline]
    pub(super) fn note_answers(&mut self, count: usize) {
        self.answered += count;
        self.nudges = 0;
    }

    /// What there was to write was written, if there was something.
    #[inline]
    pub(super) fn note_flush(&mut self, wrote: bool) {
        self.flush = Flush::None;
        if wrote {
            self.answered = 0;
        }
    }

    /// True, once a call, if its task should yield before it writes, so that the calls of others leave with it: several were
    /// answered together, and their callers may issue new ones. A caller that keeps calls in flight takes all outcomes
    /// before it polls the first new call; so it is not enough to look whether outcomes are left. The same if calls have
    /// been answered without a sleep for long: a caller that is always answered at once would keep the others from being
    /// polled. At most once a call, since those futures may never be polled.
    #[inline]
    pub(super) fn should_yield_before_write(
        &mut self,
        id: PendingId,
        pending: &PendingCalls,
    ) -> bool {
        let has_company = pending.has_ready() || self.answered > 1;
        if !has_company && self.hits < HITS_MAX || self.yielded == Some(id) {
            return false;
        }
        self.yielded = Some(id);
        self.hits = 0;
        self.flush = Flush::ByLeader;
        true
    }
}

/// The last moment of the grid that is not later.
fn on_grid(at: Instant) -> Instant {
    let grid = LOOK_GRID.as_nanos() as u64;
    Instant::from_nanos(at.as_nanos() / grid * grid)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times in milliseconds.
    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    /// The looks of the task of a client whose calls read until `until`, every millisecond, and when it takes the lead then.
    fn looks(begins: u64, until: u64) -> (Vec<u64>, u64) {
        let (mut reader, mut pending) = (Reader::default(), PendingCalls::default());
        reader.lead_as_task(&mut pending);
        let (mut looks, mut next) = (Vec::new(), at(begins));
        for now in begins.. {
            if now <= until {
                reader.pass(at(now), &mut pending);
            }
            if next > at(now) {
                continue;
            }
            if reader.task_should_lead(at(now)) {
                return (looks, now);
            }
            looks.push(now);
            next = reader.next_look(at(now));
        }
        unreachable!("it never took the lead");
    }

    #[test]
    fn while_calls_read_the_task_looks_less_often_and_at_moments_that_clients_share() {
        let (rare, leads_at) = looks(1_003, 1_500);
        assert_eq!(rare, [1_003, 1_053, 1_150, 1_250, 1_350, 1_450]);
        assert_eq!(leads_at, 1_550, "50 ms after the last call");
        assert_eq!(looks(1_017, 1_220).0, [1_017, 1_067, 1_150, 1_250]);
        assert_eq!(looks(1_003, 1_003), (vec![1_003], 1_053), "a lone call");
    }
}
