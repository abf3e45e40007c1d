//! A client of the world, its clock, and the operations it waits for.

use std::cell::Cell;

use oncewire_core::{CallId, Client, ClientConfig, Heap, Instant, Principal};

use super::journal::Journal;
use crate::rng::mix;

/// A clock that runs at a rate of its own and jumps.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Nanoseconds ahead of the world.
    pub ahead: i64,
    /// The rate's deviation, in 1/64.
    pub drift: i64,
    /// The latest time that its machine was given: to the machine, time does not go back.
    pub latest: Cell<u64>,
    /// By how much it may show less than it should, now and then.
    pub jitter: u64,
    /// How often it was read.
    pub reads: Cell<u64>,
    /// How often it showed less than before.
    pub went_back: Cell<u64>,
}

impl Clock {
    fn exact(&self, now: u64) -> i64 {
        now as i64 + self.ahead + (now as i64 >> 6) * self.drift
    }

    fn shows(&self, now: u64) -> u64 {
        self.exact(now).max(0) as u64
    }

    /// Whether it shows `at` or later when it is `now` in the world.
    pub fn has_come(&self, at: Option<Instant>, now: u64) -> bool {
        at.is_some_and(|at| at.as_nanos() <= self.shows(now))
    }

    /// What its machine is shown when it is `now` in the world.
    #[inline]
    pub fn read(&self, now: u64) -> Instant {
        let mut shown = self.shows(now);
        if self.jitter > 0 {
            shown = self.earlier(shown);
        }
        self.latest.set(self.latest.get().max(shown));
        Instant::from_nanos(shown)
    }

    #[cold]
    fn earlier(&self, shown: u64) -> u64 {
        let chance = mix(self.reads.get());
        self.reads.set(self.reads.get() + 1);
        let shown = match chance % 8 {
            0 => shown.saturating_sub((chance >> 8) % self.jitter),
            _ => shown,
        };
        if shown < self.latest.get() {
            self.went_back.set(self.went_back.get() + 1);
        }
        shown
    }

    /// Whether it shows less than it has shown its machine: to the machine, time has stopped.
    pub fn is_behind(&self, now: u64) -> bool {
        // A clock that went back below zero shows zero.
        self.exact(now) < self.latest.get() as i64
    }

    /// From now on it goes on from the newest time that it has shown.
    pub fn go_on(&mut self, now: u64) {
        self.jitter = 0;
        self.ahead += (self.latest.get() as i64 - self.exact(now)).max(0);
    }

    /// When it is `at` on this clock, in the world; not exact, but never too late by more than a moment.
    pub fn world(&self, at: Instant, now: u64) -> u64 {
        let wait = at.as_nanos().saturating_sub(self.shows(now));
        // A slow clock takes longer; a fast one shorter: asking too early only asks again.
        now + wait - (wait >> 6) * self.drift.max(0) as u64
    }
}

/// A client and what the world knows of it.
pub struct Peer {
    /// The machine.
    pub client: Client<Heap>,
    /// Its connection.
    pub link: Option<usize>,
    /// Who the transport says it is.
    pub principal: Principal,
    /// Its clock.
    pub clock: Clock,
    /// The operations it waits for, by the index of their calls, and when each is given up on the client's clock.
    calls: Vec<Option<(CallId, u32, u64)>>,
    /// Some of its calls, for cancels and forgets.
    recent: [Option<CallId>; 8],
    /// Bytes of its connections were damaged: nothing is known of its operations any more.
    pub tainted: bool,
    /// It makes no connection before this.
    pub away_until: u64,
    /// It has reported that it is closed.
    pub closed: bool,
    /// It has a journal.
    pub durable: bool,
    /// What is in that.
    pub journal: Journal,
    /// Its session's number.
    pub session: Option<u32>,
    /// Which of the servers that have one ledger it dialled last.
    pub home: usize,
}

impl Peer {
    /// A client without a connection.
    pub fn new(config: ClientConfig, principal: Principal, clock: Clock) -> Peer {
        Peer {
            client: Client::new(config),
            link: None,
            principal,
            clock,
            calls: Vec::new(),
            recent: [None; 8],
            tainted: false,
            away_until: 0,
            closed: false,
            durable: config.durable,
            journal: Journal::default(),
            session: None,
            home: 0,
        }
    }

    /// Its process has died, and this is the next one's machine.
    pub fn start_again(&mut self, client: Client<Heap>) {
        self.client = client;
        self.calls.clear();
        self.recent = [None; 8];
    }

    /// Remembers which operation a call makes.
    #[inline]
    pub fn made(&mut self, id: CallId, op: u32, unheard: bool, due: u64) {
        self.recent[op as usize % 8] = Some(id);
        if unheard {
            return;
        }
        if self.calls.len() <= id.index() {
            self.calls.resize(id.index() + 1, None);
        }
        self.calls[id.index()] = Some((id, op, due));
    }

    /// When a call is given up, if that was not reported yet.
    pub fn due(&self, id: CallId) -> u64 {
        match self.calls.get(id.index()) {
            Some(Some((known, _, due))) if *known == id => *due,
            _ => u64::MAX,
        }
    }

    /// An outcome of a call has come, and its caller may wait for a later one.
    pub fn reported(&mut self, id: CallId) {
        if let Some(Some((known, _, due))) = self.calls.get_mut(id.index())
            && *known == id
        {
            *due = u64::MAX;
        }
    }

    /// An operation that should have been given up by this time and was not.
    pub fn overdue(&self, now: u64) -> Option<u32> {
        let late = self.calls.iter().flatten().find(|(_, _, due)| *due <= now);
        late.map(|(_, op, _)| *op)
    }

    /// The operation that a call makes, unless its outcome has come.
    #[inline]
    pub fn op(&self, id: CallId) -> Option<u32> {
        match self.calls.get(id.index()) {
            Some(Some((known, op, _))) if *known == id => Some(*op),
            _ => None,
        }
    }

    /// The call's id is not valid any more.
    #[inline]
    pub fn over(&mut self, id: CallId) {
        if let Some(place) = self.calls.get_mut(id.index())
            && place.is_some_and(|(known, ..)| known == id)
        {
            *place = None;
        }
    }

    /// The oldest call that waits for an outcome.
    pub fn oldest(&self) -> Option<CallId> {
        self.calls.iter().flatten().min_by_key(|(_, op, _)| *op).map(|(id, ..)| *id)
    }

    /// A call that was made not long ago.
    pub fn recent(&self, chance: u64) -> Option<CallId> {
        self.recent[chance as usize % 8]
    }

    /// Operations that wait for an outcome.
    pub fn waits_for(&self) -> impl Iterator<Item = u32> + '_ {
        self.calls.iter().flatten().map(|(_, op, _)| *op)
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer")
            .field("client", &self.client)
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}
