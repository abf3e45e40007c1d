//! What a client's observers learn.
//!
//! The thread that begins a call or takes its outcome delivers its start or end, without any lock. What happens to connections
//! and sessions is noted under the lock, and delivered when it is free.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use oncewire_core::{CloseReason, Instant, NotExecuted, SessionLoss};

use super::call::CalledMethod;
use super::outcome::{CallFailure, Outcome};
use super::pending::{PendingId, Trace};
use super::shared::Shared;
use super::state::State;
use crate::caught::caught;
use crate::observe::{
    CallEnd, CallInfo, ConnectionEnd, Event, MethodName, ObserverList, Observers, Queue,
    ROUNDS_MAX, Round, Source,
};
use crate::sync::Lock;
use crate::transport::Connect;

/// A client's observers, and the calls that they have seen begin.
pub(super) struct Observed {
    observers: Observers,
    /// By the names of pending calls.
    calls: Lock<HashMap<u64, Begun>>,
    /// How many these are, for those who do not take the lock.
    seen: AtomicUsize,
    next: AtomicU64,
    /// [`Notes::batches`].
    batches: Arc<AtomicU32>,
    /// How many these were when the observers were last asked.
    asked_at: AtomicU32,
    /// For a task that delivers what a turn had no time for.
    pub(super) shared: Weak<Shared>,
}

/// A call that was seen to begin.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    call: CallInfo,
    at: Instant,
    /// Connections that the client had had by then.
    connections: u64,
    /// It has ended as unknown, and may be known later.
    in_doubt: bool,
}

/// What is noted under a client's lock.
pub(super) struct Notes {
    queue: Queue,
    /// How often there was a chance to send calls: those that begin between two of them leave together, and the observers are
    /// asked once for all. Written under the lock, and read without it.
    batches: Arc<AtomicU32>,
    /// Connections made, and whether the last one is open.
    connections: u64,
    open: bool,
}

impl Observed {
    pub(super) fn new(list: &ObserverList, connector: &dyn Connect) -> Option<Box<Observed>> {
        if list.is_empty() {
            return None;
        }
        let address = caught(|| connector.address()).unwrap_or_default();
        let observers = Observers::new(Source::Client { address }, list.clone());
        let (calls, next) = (Lock::default(), AtomicU64::new(0));
        let seen = AtomicUsize::new(0);
        let (batches, asked_at) = (Arc::new(AtomicU32::new(1)), AtomicU32::new(0));
        let shared = Weak::new();
        Some(Box::new(Observed { observers, calls, seen, next, batches, asked_at, shared }))
    }

    /// Whether a call that begins now is observed. Not under the lock: it may ask.
    #[inline]
    fn is_heard(&self) -> bool {
        let batches = self.batches.load(Ordering::Relaxed);
        match self.asked_at.load(Ordering::Acquire) == batches {
            true => self.observers.heard().load(Ordering::Relaxed),
            false => self.ask(batches),
        }
    }

    #[cold]
    #[inline(never)]
    fn ask(&self, batches: u32) -> bool {
        let heard = self.observers.ask();
        // Behind the answer: who finds this number finds an answer that is as new.
        self.asked_at.store(batches, Ordering::Release);
        heard
    }

    /// The calls that were seen to begin, and their number after `change`.
    fn change_calls<T>(&self, change: impl FnOnce(&mut HashMap<u64, Begun>) -> T) -> T {
        let mut calls = self.calls.lock();
        let changed = change(&mut calls);
        self.seen.store(calls.len(), Ordering::Relaxed);
        changed
    }
}

impl Begun {
    fn ended(&self, now: Instant, end: CallEnd) -> Event {
        let Begun { call, at, in_doubt, .. } = *self;
        let elapsed = now.since(at);
        match in_doubt {
            true => Event::LateOutcome { call, end, elapsed },
            false => Event::CallEnded { call, end, elapsed, reconnects: 0, report: None },
        }
    }
}

/// How a call has ended, as its caller sees it.
fn end_of<R>(outcome: &Outcome<R>) -> CallEnd {
    outcome.failure().map_or(CallEnd::Replied, CallEnd::Failed)
}

impl Shared {
    /// A call is about to begin.
    #[inline]
    pub(super) fn observe_start(&self, method: &CalledMethod) -> Option<Begun> {
        let observed = self.observed.as_ref().filter(|observed| observed.is_heard())?;
        Some(self.begun(observed, method))
    }

    /// Whether a call that begins now is observed.
    #[inline]
    pub(super) fn is_heard(&self) -> bool {
        self.observed.as_ref().is_some_and(|observed| observed.is_heard())
    }

    /// Whether a call is on its way that was seen to begin.
    #[inline]
    pub(super) fn has_seen_calls(&self) -> bool {
        let seen = |observed: &Observed| observed.seen.load(Ordering::Relaxed) > 0;
        self.observed.as_deref().is_some_and(seen)
    }

    #[cold]
    fn begun(&self, observed: &Observed, method: &CalledMethod) -> Begun {
        let number = observed.next.fetch_add(1, Ordering::Relaxed) + 1;
        let method = MethodName::new(method.id, method.name);
        let call = CallInfo::new(number, method, None, None);
        let at = self.runtime.now();
        observed.observers.tell(&Event::CallStarted { call });
        Begun { call, at, connections: 0, in_doubt: false }
    }

    /// It has begun, by this name.
    #[cold]
    pub(super) fn observe_begun(&self, state: &mut State, id: PendingId, begun: Option<Begun>) {
        if begun.is_some() {
            state.pending.set_observed(id);
            self.note_begun(id.name(), begun, state.lifecycle.connections);
        }
    }

    fn note_begun(&self, name: u64, begun: Option<Begun>, connections: u64) {
        if let (Some(observed), Some(begun)) = (&self.observed, begun) {
            observed.change_calls(|calls| calls.insert(name, Begun { connections, ..begun }));
        }
    }

    /// The same of a durable call.
    pub(super) fn observe_durable(&self, number: u64, begun: Option<Begun>) {
        if begun.is_some() {
            let connections = self.with_quietly(|state| state.lifecycle.connections);
            self.note_begun(number, begun, connections);
        }
    }

    /// A call did not begin, so nothing of it leaves: the next one asks the observers again.
    #[cold]
    pub(super) fn ask_again(&self) {
        if let Some(observed) = &self.observed {
            let batches = observed.batches.load(Ordering::Relaxed);
            observed.asked_at.store(batches.wrapping_sub(1), Ordering::Relaxed);
        }
    }

    /// It did not begin.
    #[cold]
    pub(super) fn observe_not_begun(&self, begun: Option<Begun>, why: NotExecuted) {
        self.ask_again();
        if let (Some(observed), Some(begun)) = (&self.observed, begun) {
            let end = CallEnd::Failed(CallFailure::NotExecuted(why));
            observed.observers.tell(&begun.ended(self.runtime.now(), end));
        }
    }

    /// The outcome of a pending call was taken.
    #[cold]
    pub(super) fn observe_outcome<R>(
        &self,
        name: u64,
        outcome: &Outcome<R>,
        trace: Option<Trace>,
        method: Option<CalledMethod>,
    ) {
        let Some(observed) = self.observed.as_ref().filter(|_| self.has_seen_calls()) else {
            return;
        };
        let end = end_of(outcome);
        let Some(begun) = observed.change_calls(|calls| {
            let mut begun = calls.remove(&name)?;
            if let Some(Trace { xid, session }) = &trace {
                begun.call.xid = *xid;
                begun.call.session = session.as_deref().map(|session| session.tag);
            }
            if let Outcome::Unknown(_, Some(_)) = outcome {
                calls.insert(name, Begun { in_doubt: true, ..begun });
            }
            Some(begun)
        }) else {
            return;
        };
        let mut event = begun.ended(self.runtime.now(), end);
        if let Event::CallEnded { reconnects, report, .. } = &mut event {
            let connections = self.with_quietly(|state| state.lifecycle.connections);
            *reconnects = connections.saturating_sub(begun.connections.max(1));
            if let (Some(method), CallEnd::Failed(failure)) = (method, end) {
                *report = Some(Box::new(self.report(method, failure, trace)));
            }
        }
        observed.observers.tell(&event);
    }

    /// A pending call, or its ticket, was dropped.
    #[cold]
    pub(super) fn observe_drop(&self, name: u64) {
        let Some(observed) = &self.observed else { return };
        let begun = observed.change_calls(|calls| calls.remove(&name));
        if let Some(begun) = begun.filter(|begun| !begun.in_doubt) {
            observed.observers.tell(&begun.ended(self.runtime.now(), CallEnd::Dropped));
        }
    }

    /// How the client's observers know a call that they have seen begin.
    pub(super) fn observed_as(&self, begun: &Begun) -> Option<(Arc<Source>, u64)> {
        let observed = self.observed.as_ref()?;
        Some((observed.observers.source().clone(), begun.call.number))
    }

    /// A one-way call was begun.
    pub(super) fn observe_one_way(&self, method: &CalledMethod) {
        if let Some(observed) = &self.observed {
            let method = MethodName::new(method.id, method.name);
            observed.observers.tell(&Event::OneWayStarted { method });
        }
    }

    /// Tells what was noted.
    #[cold]
    pub(super) fn tell_notes(&self) {
        let Some(observed) = &self.observed else { return };
        let next = |step: fn(&mut Queue) -> Round| {
            let step = |state: &mut State| state.notes.as_mut().map(|notes| step(&mut notes.queue));
            self.with_quietly(step).unwrap_or(Round::Done)
        };
        let mut round = next(Queue::begin);
        // Events of connections are rare: one thread delivers all that are noted, unless an observer makes more of them.
        for _ in 0..ROUNDS_MAX {
            let Round::Deliver(events) = round else { return };
            events.iter().for_each(|event| observed.observers.tell(event));
            round = next(Queue::next);
        }
        if let Round::Deliver(events) = round {
            events.iter().for_each(|event| observed.observers.tell(event));
            let hand_over = |state: &mut State| {
                state.notes.as_mut().is_some_and(|notes| notes.queue.hand_over())
            };
            // Nothing else may happen to this client that would deliver them.
            if self.with_quietly(hand_over)
                && let Some(shared) = observed.shared.upgrade()
            {
                self.runtime.spawn(Box::pin(async move { shared.tell_notes() }));
            }
        }
    }
}

impl Notes {
    pub(super) fn new(observed: &Option<Box<Observed>>) -> Option<Box<Notes>> {
        let batches = observed.as_ref()?.batches.clone();
        Some(Box::new(Notes { queue: Queue::default(), batches, connections: 0, open: false }))
    }
}

impl State {
    /// Calls that begin from now on do not leave with those before them.
    #[inline]
    pub(super) fn begin_batch(&self) {
        if let Some(notes) = &self.notes {
            let batches = notes.batches.load(Ordering::Relaxed);
            notes.batches.store(batches.wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Whether something was noted that must be delivered when the lock is free.
    #[inline]
    pub(super) fn must_tell(&self) -> bool {
        self.notes.as_ref().is_some_and(|notes| notes.queue.is_due())
    }

    pub(super) fn note(&mut self, event: impl FnOnce(&State) -> Event) {
        let Some(mut notes) = self.notes.take() else { return };
        notes.queue.push(event(self));
        self.notes = Some(notes);
    }

    /// The session is over. Without one there never was one, and its refusal was noted.
    pub(super) fn note_session_lost(&mut self, why: SessionLoss) {
        if let Some(session) = self.lifecycle.session.as_deref().map(|session| session.tag) {
            self.note(|_| Event::SessionLost { session, why });
        }
    }

    pub(super) fn note_connection(&mut self) {
        if let Some(notes) = &mut self.notes {
            notes.connections += 1;
            notes.open = true;
            let connection = notes.connections;
            notes.queue.push(Event::ConnectionOpened { connection, caller: None });
        }
    }

    /// The connection is over, if it was not before.
    pub(super) fn note_close(&mut self, why: impl FnOnce() -> ConnectionEnd) {
        let Some(notes) = self.notes.as_mut().filter(|notes| notes.open) else { return };
        notes.open = false;
        let (connection, why) = (notes.connections, why());
        let had_session = self.lifecycle.connection.since.is_some();
        let session = self.lifecycle.session.as_deref().filter(|_| had_session);
        let session = session.map(|session| session.tag);
        if let (false, ConnectionEnd::Closed(reason)) = (had_session, &why)
            && *reason != CloseReason::Goodbye
        {
            notes.queue.push(Event::SessionRefused { connection, why: *reason });
        }
        notes.queue.push(Event::ConnectionClosed { connection, session, why });
    }

    /// The session is open on the connection.
    pub(super) fn note_session(&mut self, resumed: bool) {
        let Some(notes) = &mut self.notes else { return };
        let (session, info) = (self.machine.session(), self.machine.server_info());
        let (Some(session), Some(info)) = (session, info) else { return };
        let (connection, server, instance) = (notes.connections, session.server, info.instance);
        let session = session.id.tag();
        notes.queue.push(match resumed {
            true => Event::SessionResumed { connection, session, server, instance },
            false => Event::SessionOpened { connection, session, server, instance },
        });
    }
}
