//! How many handlers run at once, and the queues before them.
//!
//! A call takes a [`Permit`] before its handler begins, and gives it back when it has ended. Without one it waits in its
//! method's queue, in order. One that was cancelled leaves the queue at once, and one whose deadline passes at its deadline:
//! its client needs the slot, and others its place. Whether a call may still run is checked once more when its turn has come
//! (S17).

use std::collections::BTreeMap;

use bytes::Bytes;
use oncewire_core::{Admission, CallKey, Instant, SessionKey, Xid};

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

/// The queue before one handler. Four clients with the slots that they have by default fill it, not one.
const QUEUE_MIN: usize = 4096;
const QUEUE_MAX: usize = 65_536;

struct Gate {
    bounds: Bounds,
    running: usize,
    /// By their places in the order of all that came.
    queue: BTreeMap<u64, Waiting>,
}

impl Gate {
    fn has_room(&self) -> bool {
        self.running < self.bounds.running
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
    /// The same by session, with their methods and places: none has more than half of a queue.
    by_session: BTreeMap<SessionKey, BTreeMap<Xid, (usize, u64)>>,
    /// The same by deadline and place, with their methods.
    by_deadline: BTreeMap<(Instant, u64), usize>,
    next: u64,
}

impl Limits {
    pub(super) fn new(bounds: Bounds, methods: impl Iterator<Item = Bounds>) -> Limits {
        let gate = |bounds| Gate { bounds, running: 0, queue: BTreeMap::new() };
        Limits {
            bounds,
            running: 0,
            methods: methods.map(gate).collect(),
            waiting: 0,
            by_session: BTreeMap::new(),
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

    /// Puts a call at the end of its method's queue.
    ///
    /// # Errors
    /// The call again, if there is no room for it, or if its session has its share of it.
    pub(super) fn wait(&mut self, call: Waiting) -> Result<(), Waiting> {
        let (session, xid) = (call.key().session(), call.key().xid());
        let of_session = self.by_session.get(&session).map_or(0, BTreeMap::len);
        let method = call.method_index;
        let Some(gate) = self.methods.get_mut(method) else { return Err(call) };
        let length = gate.bounds.queue.min(self.bounds.queue);
        let full = gate.queue.len() >= length || self.waiting >= self.bounds.queue;
        if full || of_session >= length.div_ceil(2) {
            return Err(call);
        }
        self.by_deadline.insert((call.deadline, self.next), method);
        gate.queue.insert(self.next, call);
        self.by_session.entry(session).or_default().insert(xid, (method, self.next));
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

    /// The call that waits longest among those that may run now, with its permit. It looks at each method: queues are the
    /// exception, and a server has few methods.
    pub(super) fn next(&mut self) -> Option<(Waiting, Permit)> {
        if self.running >= self.bounds.running {
            return None;
        }
        let gates = self.methods.iter().enumerate();
        let ready = gates.filter(|(_, gate)| gate.has_room());
        let first = ready.filter_map(|(at, gate)| Some((*gate.queue.first_key_value()?.0, at)));
        let (_, method) = first.min()?;
        let call = self.pop(method)?;
        self.methods[method].running += 1;
        self.running += 1;
        Some((call, Permit { method }))
    }

    /// The earliest deadline of the calls that wait.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// The call that waits and has the earliest deadline, taken out, if that is past.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Option<Waiting> {
        let ((deadline, place), method) = self.by_deadline.first_key_value()?;
        let (deadline, place, method) = (*deadline, *place, *method);
        if deadline > now { None } else { self.take_out(method, place) }
    }

    /// Any call that waits.
    pub(super) fn pop_any(&mut self) -> Option<Waiting> {
        let method = self.methods.iter().position(|gate| !gate.queue.is_empty())?;
        self.pop(method)
    }

    /// The call that waits longest for a method, taken out.
    fn pop(&mut self, method: usize) -> Option<Waiting> {
        let place = *self.methods.get(method)?.queue.first_key_value()?.0;
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

    fn take_out(&mut self, method: usize, place: u64) -> Option<Waiting> {
        let call = self.methods.get_mut(method)?.queue.remove(&place)?;
        self.waiting -= 1;
        let by_deadline = self.by_deadline.remove(&(call.deadline, place));
        debug_assert_eq!(by_deadline, Some(method), "a call is in all three orders, or in none");
        let (session, xid) = (call.key().session(), call.key().xid());
        if let Some(of_session) = self.by_session.get_mut(&session) {
            of_session.remove(&xid);
            if of_session.is_empty() {
                self.by_session.remove(&session);
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
