//! How many handlers run at once, and the queues before them.
//!
//! A call takes a [`Permit`] before its handler begins, and gives it back when it has ended. Without one it waits in its
//! method's queue. There principals take turns, and none has so many places that others are left without: by the rule that
//! shares memory (S11). One that was cancelled leaves the queue at once, and one whose deadline passes at its deadline: its client
//! needs the slot, and others its place. Whether a call may still run is checked once more when its turn has come (S17).

use std::collections::BTreeMap;

use bytes::Bytes;
use oncewire_core::budget::{Amounts, has_room};
use oncewire_core::{Admission, CallKey, Instant, Principal, SessionKey, Xid};

use super::turns::{Place, Queue};
use crate::transport::Subject;

/// The right of one call to run. Give it to [`Limits::release`]: what is lost is taken from its method for good.
#[derive(Debug)]
#[must_use = "a permit that is not given back is lost for its method"]
pub(super) struct Permit {
    method: usize,
}

impl Permit {
    /// The index of the method that may run.
    pub(super) fn method(&self) -> usize {
        self.method
    }
}

/// A call that waits: all that it takes to begin it.
pub(super) struct Waiting {
    pub(super) admission: Admission,
    pub(super) method_index: usize,
    pub(super) body: Bytes,
    pub(super) metadata: Option<std::sync::Arc<crate::metadata::Metadata>>,
    pub(super) caller: Subject,
    pub(super) deadline: Instant,
    pub(super) idempotent: bool,
    pub(super) one_way: bool,
}

impl Waiting {
    pub(super) fn key(&self) -> CallKey {
        self.admission.key()
    }
}

/// At most this many at once, and this many that wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) running: usize,
    pub(super) queue: usize,
}

impl Bounds {
    /// `running` as given, and a queue in proportion, unless its length is given too.
    pub(super) fn new(running: Option<usize>, queue: Option<usize>) -> Bounds {
        let running = running.unwrap_or(usize::MAX).max(1);
        let queue = queue.unwrap_or(running.saturating_mul(4).clamp(QUEUE_MIN, QUEUE_MAX));
        Bounds { running, queue }
    }
}

/// The queue before one handler. It takes several clients with the slots that they have by default to fill it, of more than one
/// principal.
const QUEUE_MIN: usize = 4096;
const QUEUE_MAX: usize = 65_536;

struct Gate {
    bounds: Bounds,
    running: usize,
    queue: Queue<SessionKey, Waiting>,
}

impl Gate {
    fn has_room(&self) -> bool {
        self.running < self.bounds.running
    }

    /// Whether calls wait that its own bound does not keep from running.
    fn is_ready(&self) -> bool {
        self.has_room() && !self.queue.is_empty()
    }
}

/// The handlers of one server.
pub(super) struct Limits {
    bounds: Bounds,
    running: usize,
    /// In the order of the machine's methods.
    methods: Vec<Gate>,
    /// Calls that wait, in all queues.
    waiting: usize,
    /// The same by session, with their methods and places.
    by_session: BTreeMap<SessionKey, BTreeMap<Xid, (usize, Place<SessionKey>)>>,
    /// How many they are of each principal.
    by_principal: BTreeMap<Principal, usize>,
    /// The same by deadline and number, with their methods and places.
    by_deadline: BTreeMap<(Instant, u64), (usize, Place<SessionKey>)>,
    /// The number of the next call that waits, or has its turn.
    next: u64,
}

impl Limits {
    pub(super) fn new(bounds: Bounds, methods: impl Iterator<Item = Bounds>) -> Limits {
        let gate = |bounds| Gate { bounds, running: 0, queue: Queue::new() };
        Limits {
            bounds,
            running: 0,
            methods: methods.map(gate).collect(),
            waiting: 0,
            by_session: BTreeMap::new(),
            by_principal: BTreeMap::new(),
            by_deadline: BTreeMap::new(),
            next: 0,
        }
    }

    /// Lets a call run at once, if none has its turn before it.
    #[inline]
    pub(super) fn enter(&mut self, method: usize) -> Option<Permit> {
        let gate = self.methods.get_mut(method)?;
        if self.running >= self.bounds.running || !gate.has_room() || !gate.queue.is_empty() {
            return None;
        }
        gate.running += 1;
        self.running += 1;
        debug_assert!(self.running <= self.bounds.running && gate.running <= gate.bounds.running);
        Some(Permit { method })
    }

    /// Puts a call at the end of its session's, in its method's queue.
    ///
    /// # Errors
    /// The call again, if there is no room for it, or if its session or its principal has its share of that.
    pub(super) fn wait(&mut self, principal: Principal, call: Waiting) -> Result<(), Waiting> {
        let (session, xid) = (call.key().session(), call.key().xid());
        let method = call.method_index;
        let in_all = Amounts {
            session: self.by_session.get(&session).map_or(0, BTreeMap::len) as u64,
            principal: self.by_principal.get(&principal).map_or(0, |count| *count as u64),
            server: self.waiting as u64,
        };
        let Some(gate) = self.methods.get_mut(method) else { return Err(call) };
        let length = gate.bounds.queue.min(self.bounds.queue);
        let has_room = has_place(gate.queue.held(principal, session), length)
            && has_place(in_all, self.bounds.queue);
        if !has_room {
            return Err(call);
        }
        let place = Place { principal, session, number: self.next };
        self.by_deadline.insert((call.deadline, self.next), (method, place));
        gate.queue.push(place, call);
        self.by_session.entry(session).or_default().insert(xid, (method, place));
        *self.by_principal.entry(principal).or_default() += 1;
        self.next += 1;
        self.waiting += 1;
        self.debug_check();
        Ok(())
    }

    /// A call has ended, or will not run.
    #[inline]
    pub(super) fn release(&mut self, permit: Permit) {
        if let Some(gate) = self.methods.get_mut(permit.method) {
            debug_assert!(gate.running > 0 && self.running > 0, "a permit is given back once");
            gate.running -= 1;
            self.running -= 1;
        }
    }

    #[inline]
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// The call whose turn it is among those that may run now, with its permit. It looks at each method: queues are the
    /// exception, and a server has few methods.
    ///
    /// A turn counts in all queues from which a call could be taken now, so that who waits in many has no more turns. In the others
    /// it does not: who has turns all the time in a quick one would never have one there.
    pub(super) fn next(&mut self) -> Option<(Waiting, Permit)> {
        if self.running >= self.bounds.running {
            return None;
        }
        let ((_, principal), _) = self.first_ready(|queue| queue.next_principal())?;
        let ((_, session), _) = self.first_ready(|queue| queue.next_session(principal))?;
        let (place, method) = self.first_ready(|queue| queue.next_call(principal, session))?;
        let call = self.take_out(method, place)?;
        for gate in self.methods.iter_mut().filter(|gate| gate.is_ready()) {
            gate.queue.had_turn(principal, session, self.next);
        }
        self.next += 1;
        self.methods.get_mut(method)?.running += 1;
        self.running += 1;
        Some((call, Permit { method }))
    }

    /// The least of what `look` finds in the queues whose calls may run now, with the method.
    fn first_ready<K: Ord>(
        &self,
        look: impl Fn(&Queue<SessionKey, Waiting>) -> Option<K>,
    ) -> Option<(K, usize)> {
        let gates = self.methods.iter().enumerate().filter(|(_, gate)| gate.is_ready());
        gates.filter_map(|(method, gate)| Some((look(&gate.queue)?, method))).min()
    }

    /// The earliest deadline of the calls that wait.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// The call that waits and has the earliest deadline, taken out, if that is past.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Option<Waiting> {
        let ((deadline, _), (method, place)) = self.by_deadline.first_key_value()?;
        let (deadline, method, place) = (*deadline, *method, *place);
        if deadline > now { None } else { self.take_out(method, place) }
    }

    /// Any call that waits, taken out.
    pub(super) fn pop_any(&mut self) -> Option<Waiting> {
        let mut gates = self.methods.iter().enumerate();
        let (method, place) = gates.find_map(|(at, gate)| Some((at, gate.queue.any()?)))?;
        self.take_out(method, place)
    }

    /// A call that waits, taken out.
    pub(super) fn take(&mut self, call: CallKey) -> Option<Waiting> {
        let (method, place) = *self.by_session.get(&call.session())?.get(&call.xid())?;
        self.take_out(method, place)
    }

    /// Any call of a session that waits, taken out.
    pub(super) fn take_of(&mut self, session: SessionKey) -> Option<Waiting> {
        let (_, (method, place)) = self.by_session.get(&session)?.first_key_value()?;
        self.take_out(*method, *place)
    }

    fn take_out(&mut self, method: usize, place: Place<SessionKey>) -> Option<Waiting> {
        let call = self.methods.get_mut(method)?.queue.remove(place)?;
        self.waiting -= 1;
        let by_deadline = self.by_deadline.remove(&(call.deadline, place.number));
        debug_assert!(by_deadline.is_some(), "a call is in all orders, or in none");
        if let Some(of_session) = self.by_session.get_mut(&place.session) {
            of_session.remove(&call.key().xid());
            if of_session.is_empty() {
                self.by_session.remove(&place.session);
            }
        }
        if let Some(count) = self.by_principal.get_mut(&place.principal) {
            *count -= 1;
            if *count == 0 {
                self.by_principal.remove(&place.principal);
            }
        }
        self.debug_check();
        Some(call)
    }

    /// The queues, the deadlines and the count are of the same calls.
    fn debug_check(&self) {
        debug_assert_eq!(self.waiting, self.by_deadline.len());
        debug_assert_eq!(
            self.waiting,
            self.methods.iter().map(|gate| gate.queue.len()).sum::<usize>()
        );
    }

    /// Handlers that run, and calls that wait for one.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.running, self.waiting)
    }
}

/// Whether a session that holds so many places may have another one of `length`, so that others are not left without (S11).
fn has_place(held: Amounts, length: usize) -> bool {
    let length = length as u64;
    has_room(held, Amounts { session: length, principal: length, server: length }, 1)
}
