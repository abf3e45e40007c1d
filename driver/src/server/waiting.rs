//! Calls that do not run as soon as they are admitted: they wait for their turn, or, with a ledger, for their record.
//!
//! A call leaves its queue as soon as it cannot run any more, whatever the reason: its deadline has passed, it was
//! cancelled, its session is over, or the server drains. Calls once stayed until their turn, and behind one that never
//! ended it never came: the client's slot was lost, and its ticket said nothing (C117, C146).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use oncewire_core::{Admission, CallKey, Instant, NotExecuted, Principal, Request, SessionKey};

use super::context::Context;
use super::execution::{Call, Execution, Replied};
use super::handler::{Body, Plan};
use super::ledger_queue::Prepared;
use super::limits::{Permit, Waiting};
use super::state::{Shared, State};
use crate::buffer::Spares;
use crate::caught::caught;
use crate::metadata::Metadata;
use crate::transport::Subject;

impl Waiting {
    pub(super) fn new(request: Request<'_>, large: Option<&Bytes>, caller: Subject) -> Waiting {
        let Request { admission, deadline, idempotent, one_way, body, method_index, .. } = request;
        let metadata = Metadata::received(request.metadata);
        let body = crate::buffer::share(body, large);
        Waiting { admission, method_index, body, metadata, caller, deadline, idempotent, one_way }
    }
}

/// Calls that are refused under one lock because they are overdue.
const OVERDUE_MAX: usize = 1_024;

impl State {
    /// A call cannot run now: it waits for its turn, or is refused.
    pub(super) fn enqueue(&mut self, now: Instant, call: Waiting) {
        // While the server's owner was asked whether its caller may make it (S5), it may have been cancelled on another connection; a
        // drain may have begun, or the ledger failed, which refused only the calls that already waited (C451, C455).
        if let Some(why) = self.is_over(now, call.key(), call.deadline) {
            return self.refuse_waiting_call(now, call, why);
        }
        let deadline = call.deadline;
        // A call without a session is over, and is withdrawn wherever it waits.
        let record = self.machine.session_record(call.key().session());
        let principal = record.map_or(Principal::ANONYMOUS, |record| record.principal);
        if let Err(call) = self.limits.wait(principal, call) {
            // The timer task may be late: those that are overdue make room.
            self.refuse_overdue(now);
            if let Err(call) = self.limits.wait(principal, call) {
                self.overloaded += 1;
                self.refuse_waiting_call(now, call, NotExecuted::Overloaded);
                return;
            }
        }
        if deadline < self.armed {
            self.to_wake.extend(self.timer_task.take());
        }
    }

    /// Refuses those that wait and whose deadlines have passed, or many of them: their clients keep their slots, and wait
    /// for their outcomes, until they are refused.
    pub(super) fn refuse_overdue(&mut self, now: Instant) {
        for _ in 0..OVERDUE_MAX {
            let Some(call) = self.limits.take_overdue(now) else { return };
            self.refuse_waiting_call(now, call, NotExecuted::DeadlinePassed);
        }
    }

    pub(super) fn begin_next(&mut self) {
        while let Some(turn) = self.limits.next() {
            self.later.begin.push(turn);
        }
    }

    /// Refuses all that wait: a drain, a failed ledger or an executor that shuts down lets none of them run.
    pub(super) fn refuse_waiting(&mut self, now: Instant, why: NotExecuted) {
        while let Some(call) = self.limits.pop_any() {
            self.refuse_waiting_call(now, call, why);
        }
    }

    fn refuse_waiting_call(&mut self, now: Instant, call: Waiting, why: NotExecuted) {
        self.refuse(now, call.admission, call.method_index, why);
    }

    /// A call was cancelled before it was started. If it waits for its turn, it waits no more: others of its client need
    /// its slot, and it might never come to be its turn.
    pub(super) fn withdraw(&mut self, now: Instant, call: CallKey) {
        if let Some(call) = self.limits.take(call) {
            self.refuse_waiting_call(now, call, NotExecuted::Cancelled);
        }
    }

    /// The same for all calls of a session that is over but for them and what runs in it.
    pub(super) fn withdraw_all(&mut self, session: SessionKey) {
        while let Some(call) = self.limits.take_of(session) {
            // The machine's own time is what counts here.
            self.refuse_waiting_call(Instant::ZERO, call, NotExecuted::Cancelled);
        }
    }

    /// Why a call that waits must not run any more. The machine checks that too when the call starts (S17); but by then the
    /// call has had its turn instead of another one, and a ledger has written that it began.
    fn is_over(&self, now: Instant, call: CallKey, deadline: Instant) -> Option<NotExecuted> {
        if deadline <= now {
            Some(NotExecuted::DeadlinePassed)
        } else if !self.machine.is_wanted(call) {
            Some(NotExecuted::Cancelled)
        } else if self.machine.is_draining() {
            Some(NotExecuted::ShuttingDown)
        } else if self.ledger_queue.as_ref().is_some_and(|queue| queue.error.is_some()) {
            Some(NotExecuted::LedgerFailed)
        } else {
            None
        }
    }

    /// Refuses a call that must not run any more, though it is its turn.
    fn still_wanted(
        &mut self,
        now: Instant,
        admission: Admission,
        method: usize,
        deadline: Instant,
    ) -> Option<Admission> {
        let Some(why) = self.is_over(now, admission.key(), deadline) else {
            return Some(admission);
        };
        self.refuse(now, admission, method, why);
        None
    }
}

/// The task of a call whose turn has come.
///
/// If it is dropped before it is polled, its executor is shutting down and would run none of those that wait: all are
/// refused. To begin the next one instead would drop them one inside the other.
struct Turn {
    shared: Arc<Shared>,
    call: Option<(Waiting, Permit)>,
}

impl Turn {
    fn new(shared: Arc<Shared>, waiting: Waiting, permit: Permit) -> Turn {
        Turn { shared, call: Some((waiting, permit)) }
    }
}

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<()> {
        if let Some((waiting, permit)) = self.call.take() {
            self.shared.begin(waiting, permit);
        }
        Poll::Ready(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some((waiting, permit)) = self.call.take() else { return };
        self.shared.with(|state, now| {
            state.refuse_waiting_call(now, waiting, NotExecuted::ShuttingDown);
            state.refuse_waiting(now, NotExecuted::ShuttingDown);
            state.release(permit);
        });
    }
}

impl Shared {
    /// With a ledger: has a call recorded before it is started, unless it is idempotent.
    pub(super) fn record(
        self: &Arc<Self>,
        admission: Admission,
        permit: Permit,
        call: Call<'_>,
        caller: &Subject,
    ) {
        let Some(method) = self.methods.get(call.method_index) else { return };
        let caller = caller.clone();
        let context =
            Context::new(self.watch.clone(), call.key, call.deadline, caller, call.metadata);
        // What panics is only the decoding.
        let plan = caught(|| method.handler.plan(context, call.body))
            .unwrap_or(Err(NotExecuted::BadArguments));
        let (one_way, options) = (call.one_way, method.options);
        // Those before it may have taken their time.
        let now = self.runtime.now();
        let started = self.with_quietly(|state| match plan {
            // S22: idempotent calls leave no record.
            Ok(Plan::Future(future)) if call.idempotent => {
                match state.start(now, admission, call.method_index) {
                    Ok(running) => Some(Execution::new(running, permit, future)),
                    Err(_) => {
                        state.drop_later(future);
                        state.release(permit);
                        None
                    }
                }
            }
            Ok(Plan::Future(future)) => {
                let prepared = Prepared { future, permit, one_way, options };
                state.record_start(now, admission, prepared);
                None
            }
            Ok(Plan::Transaction(work, context)) => {
                state.record_transaction(now, admission, permit, work, context, one_way);
                None
            }
            Err(why) => {
                state.refuse(now, admission, call.method_index, why);
                state.release(permit);
                None
            }
        });
        if let Some(ended) = started.and_then(|execution| execution.run(self, &options)) {
            self.with_quietly(|state| state.finish(now, ended));
        }
    }

    /// It is the turn of these calls. Each begins in its own task: its handler may run for long, and the task that gave
    /// back the permit has other work.
    #[cold]
    pub(super) fn begin_all(self: &Arc<Self>, calls: Vec<(Waiting, Permit)>) {
        for (waiting, permit) in calls {
            self.runtime.spawn(Box::pin(Turn::new(self.clone(), waiting, permit)));
        }
    }

    /// It is the turn of a call that has waited.
    fn begin(self: &Arc<Self>, waiting: Waiting, permit: Permit) {
        let Waiting { admission, method_index, caller, deadline, idempotent, one_way, .. } =
            waiting;
        let (body, metadata) = (waiting.body, waiting.metadata);
        let key = admission.key();
        let body = Body { bytes: &body, large: Some(&body) };
        let call = Call { key, method_index, body, metadata, deadline, idempotent, one_way };
        if self.ledger.is_some() {
            let admission =
                self.with(|state, now| state.still_wanted(now, admission, method_index, deadline));
            match admission {
                Some(admission) => self.record(admission, permit, call, &caller),
                None => self.with(|state, _| state.release(permit)),
            }
            // Delivers what `record` has left.
            return self.with(|_, _| ());
        }
        let start = |state: &mut State, now| {
            let admission = state.still_wanted(now, admission, method_index, deadline)?;
            state.start(now, admission, method_index).ok()
        };
        match self.with(start) {
            Some(running) => {
                let (mut spares, mut replied) = (Spares::default(), Replied::none());
                let started = (running, permit);
                match self.execute(started, || call, &caller, &mut spares, &mut replied) {
                    Ok(()) => self.with(|state, now| state.finish_replied(now, &mut replied)),
                    Err(ended) => self.with(|state, now| state.finish(now, ended)),
                }
            }
            None => self.with(|state, _| state.release(permit)),
        }
    }
}
