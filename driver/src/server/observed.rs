//! What a server's observers learn, and the verbs of the machine that start, refuse and end calls: each goes through here,
//! so that none of them goes unobserved.
//!
//! Events are made under the lock and delivered when it is free ([`Shared::report`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oncewire_core::{
    Admission, CallKey, CallRefused, CloseReason, ConnId, Heap, Instance, Instant, MethodId,
    NoReply, NotExecuted, Notice, Payload, Running, Server as Machine, ServerId, SessionEnd,
    SessionId, SessionTag,
};

use super::state::{Shared, State};
use super::tags::Tags;
use crate::client::CallFailure;
use crate::observe::{
    CallEnd, CallInfo, ConnectionEnd, Event, MethodName, Observers, Queue, ROUNDS_MAX, Round,
};
use crate::runtime::Runtime;
use crate::transport::Subject;

/// What is kept for the observers; none of it without any.
pub(super) struct Observed {
    queue: Queue,
    runtime: Arc<dyn Runtime>,
    identity: (ServerId, Instance),
    /// In the order of the machine's methods.
    methods: Vec<MethodName>,
    conns: HashMap<ConnId, Line>,
    running: HashMap<CallKey, (CallInfo, Instant)>,
    /// Whether calls that start now are observed.
    heard: Arc<AtomicBool>,
    /// Numbers given out.
    connections: u64,
    calls: u64,
    tags: Tags,
}

/// A connection.
struct Line {
    number: u64,
    session: Option<SessionTag>,
    /// Why its stream broke.
    lost: Option<String>,
}

impl Observed {
    pub(super) fn new(
        runtime: Arc<dyn Runtime>,
        identity: (ServerId, Instance),
        methods: Vec<MethodName>,
        heard: Arc<AtomicBool>,
    ) -> Observed {
        Observed {
            queue: Queue::default(),
            runtime,
            identity,
            methods,
            conns: HashMap::new(),
            running: HashMap::new(),
            heard,
            connections: 0,
            calls: 0,
            tags: Tags::default(),
        }
    }

    pub(super) fn push(&mut self, event: Event) {
        self.queue.push(event);
    }

    fn method(&self, index: usize) -> MethodName {
        let unknown = MethodName::new(MethodId::from_number(0), "");
        self.methods.get(index).copied().unwrap_or(unknown)
    }

    fn call(&mut self, machine: &Machine<Heap>, key: CallKey, method: MethodName) -> CallInfo {
        self.calls += 1;
        let session = machine.session_record(key.session()).map(|record| self.tags.of(record.id));
        CallInfo::new(self.calls, method, session, Some(key.xid()))
    }

    /// Starts a call.
    #[cold]
    #[inline(never)]
    fn start(
        &mut self,
        machine: &mut Machine<Heap>,
        now: Instant,
        admission: Admission,
        method: usize,
    ) -> Result<Running, CallRefused> {
        let key = admission.key();
        let result = machine.start(now, admission);
        match &result {
            Ok(_) => self.started(machine, key, method),
            Err(CallRefused(why)) => self.refused(machine, key, self.method(method), *why),
        }
        result
    }

    fn started(&mut self, machine: &Machine<Heap>, key: CallKey, method: usize) {
        let call = self.call(machine, key, self.method(method));
        self.running.insert(key, (call, self.runtime.now()));
        self.queue.push(Event::CallStarted { call });
    }

    fn refused(
        &mut self,
        machine: &Machine<Heap>,
        key: CallKey,
        method: MethodName,
        why: NotExecuted,
    ) {
        let call = self.call(machine, key, method);
        self.queue.push(Event::CallRefused { call, why });
    }

    fn ended(&mut self, key: CallKey, end: CallEnd) {
        if self.running.is_empty() {
            return;
        }
        let Some((call, at)) = self.running.remove(&key) else { return };
        let elapsed = self.runtime.now().since(at);
        self.queue.push(Event::CallEnded { call, end, elapsed, reconnects: 0, report: None });
    }

    fn notice(&mut self, machine: &Machine<Heap>, conn: ConnId, notice: Notice) {
        let event = match notice {
            Notice::Opened | Notice::Resumed => {
                let key = machine.session_of(conn);
                let record = key.and_then(|key| machine.session_record(key));
                let (Some(record), Some(line)) = (record, self.conns.get_mut(&conn)) else {
                    return;
                };
                let Some(session) = machine.session_tag(conn) else { return };
                self.tags.note(record.id, session);
                let connection = line.number;
                line.session = Some(session);
                let (server, instance) = self.identity;
                match notice {
                    Notice::Opened => {
                        Event::SessionOpened { connection, session, server, instance }
                    }
                    _ => Event::SessionResumed { connection, session, server, instance },
                }
            }
            Notice::Duplicate { call, method, verdict } => {
                let record = machine.session_record(call.session());
                let session = record.map(|record| self.tags.of(record.id));
                let method = method.map(|id| self.named(id));
                Event::Duplicate { session, xid: call.xid(), method, verdict }
            }
            Notice::Refused { call, method, why } => {
                return self.refused(machine, call, self.named(method), why);
            }
            _ => return,
        };
        self.queue.push(event);
    }

    /// A method that may not be offered.
    fn named(&self, id: MethodId) -> MethodName {
        let found = self.methods.binary_search_by_key(&id, |method| method.id);
        found.map_or(MethodName::new(id, ""), |at| self.methods[at])
    }

    fn closed(&mut self, conn: ConnId, reason: Option<CloseReason>) {
        let Some(Line { number: connection, session, lost }) = self.conns.remove(&conn) else {
            return;
        };
        if let (None, Some(why)) = (session, reason.filter(is_refusal)) {
            self.queue.push(Event::SessionRefused { connection, why });
        }
        let why = match reason {
            Some(reason) => ConnectionEnd::Closed(reason),
            None => {
                let ended = || "the client closed the connection".to_owned();
                ConnectionEnd::Lost(lost.unwrap_or_else(ended))
            }
        };
        self.queue.push(Event::ConnectionClosed { connection, session, why });
    }
}

/// Whether a connection without a session was closed because it was to have none.
fn is_refusal(reason: &CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::Refused(_)
            | CloseReason::WrongService { .. }
            | CloseReason::WrongServer { .. }
    )
}

/// [`State::start`] where only parts of the state are at hand.
#[inline]
pub(super) fn start(
    machine: &mut Machine<Heap>,
    observed: &mut Option<Box<Observed>>,
    now: Instant,
    admission: Admission,
    method: usize,
) -> Result<Running, CallRefused> {
    match observed {
        Some(observed) if observed.heard.load(Ordering::Relaxed) => {
            observed.start(machine, now, admission, method)
        }
        _ => machine.start(now, admission),
    }
}

/// [`State::refuse`] where only parts of the state are at hand.
pub(super) fn refuse(
    machine: &mut Machine<Heap>,
    observed: &mut Option<Box<Observed>>,
    now: Instant,
    (admission, method): (Admission, usize),
    why: NotExecuted,
) {
    if let Some(observed) = observed {
        observed.refused(machine, admission.key(), observed.method(method), why);
    }
    machine.refuse(now, admission, why);
}

impl State {
    /// Starts a call of the method at this index, if it may still be.
    #[inline]
    pub(super) fn start(
        &mut self,
        now: Instant,
        admission: Admission,
        method: usize,
    ) -> Result<Running, CallRefused> {
        start(&mut self.machine, &mut self.observed, now, admission, method)
    }

    /// Refuses a call of the method at this index.
    pub(super) fn refuse(
        &mut self,
        now: Instant,
        admission: Admission,
        method: usize,
        why: NotExecuted,
    ) {
        refuse(&mut self.machine, &mut self.observed, now, (admission, method), why);
    }

    /// Whether the caller may make a call that was admitted.
    pub(super) fn authorize(
        &mut self,
        now: Instant,
        admission: Admission,
        method: usize,
        len: usize,
        allowed: bool,
    ) -> Result<Admission, CallRefused> {
        let key = admission.key();
        let result = self.machine.authorize(now, admission, method, len, allowed);
        if let (Err(CallRefused(why)), Some(observed)) = (&result, &mut self.observed) {
            observed.refused(&self.machine, key, observed.method(method), *why);
        }
        result
    }

    /// Answers a call, and counts what it should not have been.
    #[inline]
    pub(super) fn reply(
        &mut self,
        now: Instant,
        running: Running,
        (body, with_len): (Payload<'_>, bool),
    ) {
        let is_heard = self.observed.as_ref().is_some_and(|observed| !observed.running.is_empty());
        if is_heard | with_len {
            return self.reply_observed(now, running, body, with_len);
        }
        if self.machine.reply(now, running, body).is_err() {
            self.replies_too_large += 1;
        }
    }

    #[cold]
    #[inline(never)]
    fn reply_observed(
        &mut self,
        now: Instant,
        running: Running,
        body: Payload<'_>,
        with_len: bool,
    ) {
        let key = running.key();
        let mut end = CallEnd::Replied;
        let replied = match body {
            Payload::Shared(bytes) if with_len => self.machine.reply_with_len(now, running, bytes),
            body => self.machine.reply(now, running, body),
        };
        if replied.is_err() {
            self.replies_too_large += 1;
            end = CallEnd::Failed(CallFailure::NoReply(NoReply::ReplyTooLarge));
        }
        self.observe_end(key, end);
    }

    /// A call was executed, and there is no reply to show.
    pub(super) fn no_reply(&mut self, now: Instant, running: Running, why: NoReply) {
        self.observe_end(running.key(), CallEnd::Failed(CallFailure::NoReply(why)));
        self.machine.no_reply(now, running, why);
    }

    /// A call that was started has left no trace.
    pub(super) fn roll_back(&mut self, now: Instant, running: Running, why: NotExecuted) {
        self.observe_end(running.key(), CallEnd::Failed(CallFailure::NotExecuted(why)));
        self.machine.roll_back(now, running, why);
    }

    /// A call has ended otherwise.
    pub(super) fn observe_end(&mut self, key: CallKey, end: CallEnd) {
        if let Some(observed) = &mut self.observed {
            observed.ended(key, end);
        }
    }

    /// Something has happened that no other function here knows of.
    pub(super) fn observe(&mut self, event: impl FnOnce() -> Event) {
        if let Some(observed) = &mut self.observed {
            observed.push(event());
        }
    }

    /// Something has happened to a call that runs.
    pub(super) fn observe_call(&mut self, key: CallKey, event: impl FnOnce(CallInfo) -> Event) {
        if let Some(observed) = &mut self.observed
            && let Some((call, _)) = observed.running.get(&key)
        {
            observed.queue.push(event(*call));
        }
    }

    /// A connection was accepted, or there was no room for it.
    pub(super) fn observe_connection(&mut self, conn: Option<ConnId>, caller: &Subject) {
        let Some(observed) = &mut self.observed else { return };
        let caller = caller.clone();
        let Some(conn) = conn else {
            return observed.queue.push(Event::ConnectionRefused { caller });
        };
        observed.connections += 1;
        let number = observed.connections;
        observed.conns.insert(conn, Line { number, session: None, lost: None });
        let caller = Some(caller);
        observed.queue.push(Event::ConnectionOpened { connection: number, caller });
    }

    /// A caller has said by a token who it is.
    pub(super) fn observe_caller(&mut self, conn: ConnId, caller: &Subject) {
        if let Some(observed) = &mut self.observed
            && let Some(line) = observed.conns.get(&conn)
        {
            let connection = line.number;
            observed.queue.push(Event::CallerIdentified { connection, caller: caller.clone() });
        }
    }

    /// A connection is over: the machine has closed it, or its stream.
    pub(super) fn observe_close(&mut self, conn: ConnId, reason: Option<CloseReason>) {
        if let Some(observed) = &mut self.observed {
            observed.closed(conn, reason);
        }
    }

    pub(super) fn observe_session_end(&mut self, session: SessionId, why: SessionEnd) {
        if let Some(observed) = &mut self.observed {
            let tag = observed.tags.of(session);
            observed.tags.forget(session);
            observed.push(Event::SessionEnded { session: tag, why });
        }
    }

    /// What the machine has decided by itself.
    #[cold]
    pub(super) fn observe_notice(&mut self, conn: ConnId) {
        if let (Some(notice), Some(observed)) = (self.machine.take_notice(), &mut self.observed) {
            observed.notice(&self.machine, conn, notice);
        }
    }

    /// Whether events wait for the end of the lock.
    #[inline]
    pub(super) fn must_report(&self) -> bool {
        self.observed.as_ref().is_some_and(|observed| observed.queue.is_due())
    }
}

impl Shared {
    /// Asks the observers whether calls that start in this turn are to be observed.
    #[inline]
    pub(super) fn ask_observers(&self) {
        if let Some(observers) = &self.observers {
            observers.ask();
        }
    }

    /// What they said.
    #[inline]
    pub(super) fn is_heard(&self) -> bool {
        let heard = |observers: &Observers| observers.heard().load(Ordering::Relaxed);
        self.observers.as_ref().is_some_and(heard)
    }

    /// A connection's stream broke.
    pub(super) fn note_lost(&self, conn: ConnId, why: impl FnOnce() -> String) {
        if self.observers.is_some() {
            self.with_quietly(|state| {
                let observed = state.observed.as_mut();
                if let Some(line) = observed.and_then(|observed| observed.conns.get_mut(&conn)) {
                    line.lost.get_or_insert_with(why);
                }
            });
        }
    }

    /// A transport could not accept a connection. Its address is its own code: the lock is free.
    #[cold]
    pub(super) fn note_accept_failed(
        self: &Arc<Self>,
        address: impl FnOnce() -> String,
        why: &std::io::Error,
        attempts: u32,
    ) {
        if self.observers.is_some() {
            let event = Event::AcceptFailed { address: address(), why: why.to_string(), attempts };
            self.with(|state, _| state.observe(|| event));
        }
    }

    /// Delivers the events that wait.
    #[cold]
    pub(super) fn report(self: &Arc<Self>) {
        let Some(observers) = &self.observers else { return };
        let next = |step: fn(&mut Queue) -> Round| {
            self.with_quietly(|state| {
                state.observed.as_mut().map_or(Round::Done, |observed| step(&mut observed.queue))
            })
        };
        let mut round = next(Queue::begin);
        for _ in 0..ROUNDS_MAX {
            let Round::Deliver(events) = round else { return };
            events.iter().for_each(|event| observers.tell(event));
            round = next(Queue::next);
        }
        let Round::Deliver(events) = round else { return };
        events.iter().for_each(|event| observers.tell(event));
        let hand_over = |state: &mut State| {
            state.observed.as_mut().is_some_and(|observed| observed.queue.hand_over())
        };
        if self.with_quietly(hand_over) {
            let shared = self.clone();
            self.runtime.spawn(Box::pin(async move { shared.report() }));
        }
    }
}
