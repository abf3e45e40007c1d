//! The tasks of handlers that are not ready at once. Each runs one handler, and then waits for another.
//!
//! A task that is there costs no memory and no executor's entry a call. And a handler that is likely to wait is polled with that task's
//! waker from the first time on: with a waker that does nothing, a task of its own had to poll it once more at once, and what it waits for, a timer
//! say, was set twice.
//!
//! A handler may be woken before it lies where its task finds it. The task finds nothing then, and notes that; who puts the handler there
//! sees the note, and wakes the task again.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll, Waker};

use oncewire_core::{NotExecuted, Running};

use super::context::{CallWatch, Context};
use super::execution::{Call, End, Ended, Execution};
use super::handler::{MethodEntry, Plan};
use super::limits::Permit;
use super::state::{Shared, State};
use crate::caught::caught;
use crate::method::MethodOptions;
use crate::runtime::Timer;
use crate::sync::Lock;
use crate::transport::Subject;
use crate::waiters::Place;

/// Tasks that wait for a handler, at most. They take some 400 bytes each, until there is no connection any more.
const IDLE_MAX: usize = 1_024;

/// Whether the last call of a method had to wait: then the next one is likely to.
#[derive(Debug, Default)]
pub(super) struct Waits(AtomicBool);

impl Waits {
    #[inline]
    pub(super) fn is_likely(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// A call of the method had to wait, or had not.
    pub(super) fn note(&self, waited: bool) {
        if self.is_likely() != waited {
            self.0.store(waited, Ordering::Relaxed);
        }
    }
}

/// Where a runner's task finds its next handler.
#[derive(Default)]
struct Inbox {
    job: Option<Job>,
    /// The task was polled and found nothing, with this waker: one that it was polled with before need not wake it any more.
    missed: Option<Waker>,
    /// The task has ended, or must end.
    over: bool,
}

/// A runner that has no handler. Dropped, its task ends: no lock may be held.
pub(super) struct Idle {
    /// `None` once it has a handler.
    inbox: Option<Arc<Lock<Inbox>>>,
    waker: Waker,
}

impl Idle {
    /// Gives it a handler that is not ready. `polled`: with its waker.
    ///
    /// # Errors
    /// The handler, if the task has ended, with its executor.
    fn give(mut self, job: Job, polled: bool) -> Result<(), Job> {
        let Some(inbox) = self.inbox.take() else { return Err(job) };
        // The rest of what it waits for is known once its task has polled it.
        let must_poll = !polled || job.is_watched();
        let missed = {
            let mut inbox = inbox.lock();
            if inbox.over {
                return Err(job);
            }
            inbox.job = Some(job);
            inbox.missed.take()
        };
        match missed {
            Some(waker) => waker.wake(),
            None if must_poll => self.waker.wake_by_ref(),
            None => {}
        }
        Ok(())
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let Some(inbox) = self.inbox.take() else { return };
        let missed = {
            let mut inbox = inbox.lock();
            inbox.over = true;
            inbox.missed.take()
        };
        let _panicked = caught(|| missed.as_ref().unwrap_or(&self.waker).wake_by_ref());
    }
}

/// The runners that have no handler, the last one first: what it touches is in a cache.
#[derive(Default)]
pub(super) struct IdleRunners(Vec<Idle>);

impl IdleRunners {
    /// Returns one that is too many.
    #[must_use = "it must be dropped without the lock"]
    fn keep(&mut self, idle: Idle) -> Option<Idle> {
        if self.0.len() >= IDLE_MAX {
            return Some(idle);
        }
        self.0.push(idle);
        None
    }

    /// All of them.
    #[must_use = "they must be dropped without the lock"]
    pub(super) fn take_all(&mut self) -> Vec<Idle> {
        std::mem::take(&mut self.0)
    }
}

/// A task for handlers that wait.
struct Runner {
    job: Option<Job>,
    /// Since it was idle for the first time.
    inbox: Option<Arc<Lock<Inbox>>>,
}

impl Runner {
    /// Whether it has a handler, and if not, whether it is over.
    fn find_job(&mut self, cx: &TaskContext<'_>) -> Result<(), Poll<()>> {
        if self.job.is_some() {
            return Ok(());
        }
        let Some(inbox) = &self.inbox else { return Err(Poll::Ready(())) };
        let mut inbox = inbox.lock();
        self.job = inbox.job.take();
        if self.job.is_some() {
            return Ok(());
        }
        if inbox.over {
            return Err(Poll::Ready(()));
        }
        let replaced = inbox.missed.replace(cx.waker().clone());
        drop(inbox);
        drop(replaced);
        Err(Poll::Pending)
    }
}

impl Future for Runner {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let this = &mut *self;
        if let Err(nothing) = this.find_job(cx) {
            return nothing;
        }
        let Some(job) = &mut this.job else { return Poll::Ready(()) };
        let Poll::Ready(end) = job.poll(cx) else { return Poll::Pending };
        // With a ledger, handlers begin when their records are stable, and are not polled before.
        let idle = job.shared.ledger.is_none().then(|| Idle {
            inbox: Some(this.inbox.get_or_insert_default().clone()),
            waker: cx.waker().clone(),
        });
        let is_kept = job.end(end, idle);
        this.job = None;
        if is_kept { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let Some(inbox) = &self.inbox else { return };
        let job = {
            let mut inbox = inbox.lock();
            inbox.over = true;
            inbox.job.take()
        };
        // Its call ends, which takes other locks.
        drop(job);
    }
}

/// A handler that was not ready at once: catches its panics and watches its time limit. Dropped before it has ended, the call
/// ends as aborted.
struct Job {
    execution: Option<Execution>,
    limit: Option<Box<dyn Timer>>,
    drop_on_cancel: bool,
    /// Where it waits for its cancel.
    place: Place,
    shared: Arc<Shared>,
}

impl Job {
    fn new(execution: Execution, shared: &Arc<Shared>, options: &MethodOptions) -> Job {
        let limit = options.time_limit.map(|limit| {
            let mut timer = shared.runtime.timer();
            timer.set(shared.runtime.now() + limit);
            timer
        });
        let drop_on_cancel = options.drop_on_cancel;
        let (execution, place, shared) = (Some(execution), None, shared.clone());
        Job { execution, limit, drop_on_cancel, place, shared }
    }

    /// Whether something else than the handler itself can end it.
    fn is_watched(&self) -> bool {
        self.limit.is_some() || self.drop_on_cancel
    }

    #[inline]
    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<End> {
        let Some(execution) = &mut self.execution else { return Poll::Ready(End::Dropped) };
        match execution.poll(cx) {
            Poll::Ready(end) => Poll::Ready(end),
            Poll::Pending if self.is_watched() && self.is_over(cx) => Poll::Ready(End::Dropped),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Whether its call must be dropped: it has taken too long, or its outcome is not needed any more.
    fn is_over(&mut self, cx: &mut TaskContext<'_>) -> bool {
        let Some(execution) = &self.execution else { return false };
        let key = execution.key();
        let unwanted = self.drop_on_cancel
            && self.shared.clone().poll_unwanted(key, &mut self.place, cx).is_ready();
        unwanted || self.limit.as_mut().is_some_and(|limit| limit.poll(cx).is_ready())
    }

    /// Reports its end, and that its runner is idle. Returns whether that is kept.
    fn end(&mut self, end: End, idle: Option<Idle>) -> bool {
        let Some(execution) = self.execution.take() else { return false };
        let ended = execution.ended(end);
        let had_one = idle.is_some();
        let shared = &self.shared;
        // No one measures with it, and no one's time is over by it.
        let is_exact = shared.ledger.is_some() || shared.observers.is_some();
        let now = if is_exact { shared.runtime.now() } else { shared.runtime.coarse_now().0 };
        let surplus = shared.with_at(now, |state, now| {
            state.finish(now, ended);
            state.wake_timer_if_due_earlier();
            state.keep_runner(idle?)
        });
        had_one && surplus.is_none()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.end(End::Dropped, None);
    }
}

impl State {
    /// Keeps a runner for the next handler. Returns one that is not needed: without connections none are.
    #[must_use = "it must be dropped without the lock"]
    fn keep_runner(&mut self, idle: Idle) -> Option<Idle> {
        if self.machine.counters().conns == 0 { Some(idle) } else { self.idle_runners.keep(idle) }
    }
}

impl Shared {
    /// Runs a handler that is not ready in a task of its own.
    pub(super) fn run_apart(self: &Arc<Self>, execution: Execution, options: &MethodOptions) {
        let job = Job::new(execution, self, options);
        let given = match self.idle_runner() {
            Some(idle) => idle.give(job, false),
            None => Err(job),
        };
        given.unwrap_or_else(|job| self.spawn_runner(job));
    }

    fn spawn_runner(&self, job: Job) {
        self.runtime.spawn(Box::pin(Runner { job: Some(job), inbox: None }));
    }

    /// One that is idle, if there is one.
    #[inline(never)]
    pub(super) fn idle_runner(&self) -> Option<Idle> {
        self.with_quietly(|state| state.idle_runners.0.pop())
    }

    /// Executes a call that is likely to wait: it is polled with the waker of the task in which it continues then.
    ///
    /// # Errors
    /// How it has ended, if it did not wait.
    #[inline(never)]
    pub(super) fn execute_in(
        self: &Arc<Self>,
        idle: Idle,
        method: &MethodEntry,
        (running, permit): (Running, Permit),
        call: Call<'_>,
        caller: &Subject,
    ) -> Result<(), Ended> {
        let (caller, metadata) = (caller.clone(), call.metadata);
        let context = Context::new(self.watch.clone(), call.key, call.deadline, caller, metadata);
        let plan = caught(|| method.handler.plan(context, call.body))
            .unwrap_or(Err(NotExecuted::BadArguments));
        let ended = match plan {
            Ok(Plan::Future(future)) => {
                let mut execution = Execution::new(running, permit, future);
                match execution.poll(&mut TaskContext::from_waker(&idle.waker)) {
                    Poll::Pending => {
                        let job = Job::new(execution, self, &method.options);
                        idle.give(job, true).unwrap_or_else(|job| self.spawn_runner(job));
                        return Ok(());
                    }
                    Poll::Ready(end) => {
                        method.waits.note(false);
                        execution.ended(end)
                    }
                }
            }
            // There are no transactions without a ledger, and with one no call is started before its plan.
            Ok(Plan::Transaction(..)) => Ended::refused(running, permit, NotExecuted::LedgerFailed),
            Err(why) => Ended::refused(running, permit, why),
        };
        let surplus = self.with_quietly(|state| state.keep_runner(idle));
        drop(surplus);
        Err(ended)
    }
}
