//! What the handles, the calls and the task of a client share.
//!
//! One lock, held for as long as it takes to move bytes between the machine, the buffers and the stream, never across an
//! await. Wakers are called, and dropped, after it was released.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use oncewire_core::{Call, Client as Machine, Heap, Instant, NotBegun, NotExecuted};

use super::call::CalledMethod;
use super::comparisons::Comparisons;
use super::description::Description;
use super::journal_state::JournalState;
use super::observed::{Notes, Observed};
use super::options::{ClientOptions, ClientStatus};
use super::outcome::CallFailure;
use super::pending::{PendingId, Trace};
use super::reader::Leader;
use super::report::CallReport;
use super::state::{DeadlineTimer, State, Step, WatchTimer};
use crate::caught::wake_all;
use crate::reply::RawOutcome;
use crate::runtime::Runtime;
use crate::spin;
use crate::sync::Lock;
use crate::transport::Connect;
use crate::waiters::Place;

/// Calls with a shorter timeout begin at the exact time.
const COARSE_TIMEOUT_MIN: Duration = Duration::from_secs(1);

pub(super) struct Shared {
    pub(super) options: ClientOptions,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) connector: Box<dyn Connect>,
    pub(super) observed: Option<Box<Observed>>,
    /// The process that made it: in a fork of that, nothing drives it.
    pid: AtomicU32,
    state: Lock<State>,
}

/// Ends overdue calls on whatever thread the timer wakes it.
struct DeadlineWaker(Weak<Shared>);

impl Wake for DeadlineWaker {
    fn wake(self: Arc<Self>) {
        let Some(shared) = self.0.upgrade() else { return };
        let mut goes_on = false;
        let is_durable = loop {
            let is_durable = shared.with(|state, now| {
                goes_on = state.poll_deadline_timer(now, goes_on);
                state.journal.is_some()
            });
            if !goes_on {
                break is_durable;
            }
            shared.state.let_others();
        };
        if is_durable {
            shared.submit();
        }
    }
}

/// What a client begins with.
pub(super) struct Restored {
    pub(super) machine: Machine<Heap>,
    pub(super) journal: Option<Box<JournalState>>,
    pub(super) comparisons: Comparisons,
}

impl Shared {
    pub(super) fn new(
        connector: Box<dyn Connect>,
        options: ClientOptions,
        runtime: Arc<dyn Runtime>,
    ) -> Arc<Shared> {
        let machine = Machine::new(options.machine_config());
        let restored = Restored { machine, journal: None, comparisons: Comparisons::default() };
        Shared::restored(connector, options, runtime, restored)
    }

    pub(super) fn restored(
        connector: Box<dyn Connect>,
        options: ClientOptions,
        runtime: Arc<dyn Runtime>,
        restored: Restored,
    ) -> Arc<Shared> {
        let [timer, watch_timer] = [(); 2].map(|()| runtime.timer());
        let mut observed = Observed::new(&options.observers, &*connector);
        let make = |shared: &Weak<Shared>| {
            observed.iter_mut().for_each(|observed| observed.shared = shared.clone());
            let waker = Waker::from(Arc::new(DeadlineWaker(shared.clone())));
            let notes = Notes::new(&observed);
            let timer = DeadlineTimer::new(timer, waker);
            let watch_timer = WatchTimer::new(watch_timer, shared.clone());
            let pid = std::process::id();
            let state =
                State::new(restored, notes, timer, watch_timer, options.connect_timeout, pid);
            let (pid, state) = (AtomicU32::new(pid), Lock::new(state));
            Shared { options, runtime, connector, observed, pid, state }
        };
        Arc::new_cyclic(make)
    }

    /// Whether this process is a fork of the one that made the client.
    pub(super) fn is_forked(&self) -> bool {
        self.pid.load(Ordering::Relaxed) != std::process::id()
    }

    #[cfg(test)]
    pub(super) fn pretend_forked(&self) {
        self.pid.fetch_xor(1, Ordering::Relaxed);
        self.with_quietly(|state| state.process.pretend_forked());
    }

    /// Runs `f` under the lock, then calls the wakers that it has collected.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut State, Instant) -> T) -> T {
        self.with_at(self.runtime.now(), f)
    }

    /// The same at a time that may be a little in the past, where nothing depends on that: saves reading the clock.
    #[inline]
    pub(super) fn with_at<T>(&self, now: Instant, f: impl FnOnce(&mut State, Instant) -> T) -> T {
        let mut state = self.state.lock();
        // A stream that panicked has left it there.
        state.pending.polled = state.driver;
        state.process.begin_poll();
        let result = f(&mut state, now);
        if state.wants_watch() {
            self.begin_watch(&mut state);
        }
        let overran = std::mem::take(&mut state.reader.overran);
        let must_tell = state.must_tell();
        if !state.to_wake.is_empty() || !state.dropped.is_empty() {
            let to_wake = std::mem::take(&mut state.to_wake);
            let dropped = std::mem::take(&mut state.dropped);
            drop(state);
            wake_all(to_wake);
            drop(dropped);
        } else {
            drop(state);
        }
        if must_tell {
            self.tell_notes();
        }
        if overran {
            // The next turn follows at once.
            self.state.let_others();
        }
        result
    }

    /// Calls have begun to depend on one that leads.
    #[cold]
    #[inline(never)]
    fn begin_watch(&self, state: &mut State) {
        // The time of a poll may be in the past.
        state.begin_watch(self.runtime.now());
    }

    /// Runs `f` under the lock, where it changes nothing that others wait for.
    pub(super) fn with_quietly<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock())
    }

    /// Begins a call. It leaves when it is first polled. `on_begun` gets its name.
    #[inline]
    pub(super) fn begin(
        &self,
        description: &mut Description,
        method: &CalledMethod,
        on_begun: impl FnOnce(&mut State, PendingId),
    ) -> Result<PendingId, NotExecuted> {
        let (now, timeout) = self.begins_at(description.timeout);
        self.with_at(now, |state, now| {
            let id = state.begin(now, description, method, timeout)?;
            on_begun(state, id);
            Ok(id)
        })
    }

    /// When a call begins, and its timeout. Where that is long a coarse timestamp will do. The timeout is then longer by its
    /// staleness, so that no call gives up early.
    #[inline]
    fn begins_at(&self, timeout: Duration) -> (Instant, Duration) {
        if timeout < COARSE_TIMEOUT_MIN {
            return (self.runtime.now(), timeout);
        }
        let (now, staleness) = self.runtime.coarse_now();
        (now, timeout.saturating_add(staleness))
    }

    /// Begins a call, and polls it for the first time. That may panic, in the stream or the waker, when the call has begun
    /// and `on_begun` was called: a call that has begun must not end as one that has not (C177).
    #[inline(always)]
    pub(super) fn begin_and_poll(
        &self,
        description: &mut Description,
        method: &CalledMethod,
        cx: &mut Context<'_>,
        on_begun: impl FnOnce(&mut State, PendingId),
        outcome: &mut Option<RawOutcome>,
    ) -> Result<(), NotExecuted> {
        let (now, timeout) = self.begins_at(description.timeout);
        // Not what the closure returns: it would be moved.
        let mut begun = Err(NotExecuted::Closed);
        let step = self.with_at(now, |state, now| {
            begun = state.begin(now, description, method, timeout);
            let Ok(id) = begun else { return Step::Done };
            on_begun(state, id);
            state.poll_waiting(id, now, cx, true, outcome)
        });
        self.follow_up(step, begun?, cx, outcome);
        Ok(())
    }

    /// Has a call sent that is not polled yet.
    pub(super) fn ensure_sent(&self) {
        self.with(|state, _| state.request_flush());
    }

    /// Writes what was begun on this thread.
    #[cfg(feature = "stream")]
    pub(super) fn write_now(&self) {
        self.with(|state, now| state.flush_for_task(now));
    }

    /// Begins a one-way call, and has it sent.
    pub(super) fn send(&self, mut call: Call<'_>, method: &CalledMethod) -> Result<(), NotBegun> {
        self.with(|state, now| {
            if state.begins_in_fork() {
                return Err(NotBegun::Forked);
            }
            if state.lifecycle.task_gone {
                return Err(NotBegun::Closed);
            }
            state.describe(&mut call, method);
            state.machine.call(now, call)?;
            state.deliver(now);
            state.request_flush();
            Ok(())
        })
    }

    /// Puts the outcome of a call into `outcome`, once it is there. Meanwhile the call may read the socket for all.
    #[inline]
    pub(super) fn poll_outcome(
        &self,
        id: PendingId,
        cx: &mut Context<'_>,
        outcome: &mut Option<RawOutcome>,
    ) {
        if self.state.lock().take_outcome_as_follower(id, outcome) {
            return;
        }
        let step = self.with(|state, now| state.poll_outcome(id, now, cx, true, outcome));
        self.follow_up(step, id, cx, outcome);
    }

    /// What a poll of a call does without the lock.
    #[inline]
    fn follow_up(
        &self,
        step: Step,
        id: PendingId,
        cx: &mut Context<'_>,
        outcome: &mut Option<RawOutcome>,
    ) {
        if step == Step::Spin {
            self.spin(id, cx, outcome);
        } else if step == Step::Dial {
            self.dial(id, cx, outcome);
        }
    }

    /// Spins for the reply to what a call has written.
    fn spin(&self, id: PendingId, cx: &mut Context<'_>, outcome: &mut Option<RawOutcome>) {
        let runtime = &*self.runtime;
        let budget = runtime.spin_budget(std::ptr::from_ref(self).addr());
        let mut poll = |state: &mut State, now, outcome: &mut _| {
            state.poll_outcome(id, now, cx, false, outcome);
        };
        let Some(budget) = budget else {
            return self.with(|state, now| {
                state.process.continue_poll();
                state.spin.skip_some();
                poll(state, now, outcome);
            });
        };
        spin::spin(runtime, runtime.now(), budget, |now, spin| {
            self.with_at(now, |state, now| {
                state.process.continue_poll();
                let reads = state.link.reads();
                spin::with_forced_reads(|| poll(state, now, outcome));
                // Others may have read its outcome.
                let hit = state.link.reads() > reads || outcome.is_some();
                if !state.spin.is_over(spin, now, hit) {
                    return None;
                }
                state.reader.hits += 1;
                Some(())
            })
        });
        if outcome.is_none() {
            self.with(|state, now| poll(state, now, outcome));
        }
    }

    /// Where a call was whose outcome was taken and is no reply.
    #[cold]
    pub(super) fn take_trace(&self, id: PendingId) -> Option<Trace> {
        self.state.lock().pending.take_trace(id)
    }

    pub(super) fn report(
        &self,
        method: CalledMethod,
        failure: CallFailure,
        trace: Option<Trace>,
    ) -> CallReport {
        let state = self.state.lock();
        let last_heard = state.machine.server_info().map(|info| info.instance);
        let mut report =
            CallReport::new(method.id, method.name, trace, &state.lifecycle, last_heard);
        if failure == CallFailure::NotExecuted(NotExecuted::SignatureMismatch) {
            report.mismatch = method.typed.and_then(|typed| state.comparisons.mismatch(&typed));
        }
        report
    }

    /// A call's future, or its ticket, was dropped: cancels the call. In a fork it is the parent's to cancel.
    pub(super) fn abandon(&self, id: PendingId) {
        if self.is_forked() {
            return;
        }
        if self.has_seen_calls() {
            self.observe_drop(id.name());
        }
        self.with(|state, now| {
            if let Some(call) = state.pending.remove(id, &mut state.dropped) {
                state.machine.cancel(now, call);
                state.machine.forget(now, call);
            }
            state.deliver(now);
            match state.reader.leader {
                Leader::None => state.pass_lead(now),
                _ => state.stop_leading(id, now),
            }
            // Its cancel must leave, and what it was asked to write.
            state.request_flush();
        });
    }

    /// A call is not polled for now: it reads no more.
    pub(super) fn stop_waiting(&self, id: PendingId) {
        self.with(|state, now| state.stop_leading(id, now));
    }

    pub(super) fn poll_connected(&self, place: &mut Place, cx: &mut Context<'_>) -> Poll<bool> {
        self.with(|state, _| {
            if state.is_forked() {
                return Poll::Ready(false);
            }
            if state.machine.is_connected() {
                return Poll::Ready(true);
            }
            if state.lifecycle.is_closed() || state.machine.refusal().is_some() {
                return Poll::Ready(false);
            }
            let before = state.lifecycle.connect_waiters.wait(place, cx);
            state.dropped.extend(before);
            if state.parked.take().is_some() {
                state.wake_task();
            }
            Poll::Pending
        })
    }

    /// Who has waited by [`Shared::poll_connected`] waits no more.
    pub(super) fn leave_connected(&self, place: &mut Place) {
        if place.is_none() || self.is_forked() {
            return;
        }
        let dropped = self.with_quietly(|state| state.lifecycle.connect_waiters.leave(place));
        drop(dropped);
    }

    pub(super) fn schemas(&self) -> oncewire_core::Schemas {
        self.with(|state, _| {
            state.machine.server_info().map(|info| info.schemas).unwrap_or_default()
        })
    }

    pub(super) fn status(&self) -> ClientStatus {
        self.with(|state, _| ClientStatus {
            connected: state.machine.is_connected(),
            server: state.machine.session().map(|session| session.server),
            instance: state.machine.server_info().map(|info| info.instance),
            last_error: state.lifecycle.last_error.clone(),
            failed_attempts: state.lifecycle.failed_attempts,
            refused: state.machine.refusal(),
            reconnects: state.lifecycle.connections.saturating_sub(1),
            mismatches: state.comparisons.mismatches(),
            counters: state.machine.counters(),
        })
    }

    /// Whether the lock is free now, or soon: it never is where this thread has it.
    pub(super) fn is_free_soon(&self) -> bool {
        self.state.is_free_soon()
    }
}
