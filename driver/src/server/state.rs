//! What the tasks of one server share: the machine, and which task to wake for which connection.
//!
//! There is one lock. It is held for a frame at a time, and never while user code runs: handlers, wakers and the drops of
//! futures come after it, in [`Shared::with_at`]. A waker may poll, and a drop may make a call; either would find its own
//! server locked (C115).

use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use oncewire_core::{CallKey, ConnId, Heap, Instant, Server as Machine, ServerEvent};

use super::authorization::Authorization;
use super::batch::Submit;
use super::cancels::Cancels;
use super::context::CallWatch;
use super::handler::MethodEntry;
use super::ledger_queue::LedgerQueue;
use super::limits::{Limits, Permit, Waiting};
use super::observed::Observed;
use super::principals::PrincipalTable;
use super::runner::IdleRunners;
use crate::caught::wake_all;
use crate::faults::{Planted, ServerFault};
use crate::observe::{Event, Observers};
use crate::runtime::Runtime;
use crate::spin::Newcomers;
use crate::status::About;
use crate::sync::{Lock, MutexGuard};
use crate::tokens::Tokens;
use crate::transport::Subject;

/// What all connections, handlers and handles of a server have in common.
pub(crate) struct Shared {
    pub(super) runtime: Arc<dyn Runtime>,
    /// In the order of the machine's methods.
    pub(super) methods: Vec<MethodEntry>,
    pub(super) ledger: Option<Box<dyn Submit>>,
    pub(super) authorization: Option<Authorization>,
    pub(super) tokens: Option<Tokens>,
    pub(super) observers: Option<Observers>,
    pub(super) about: About,
    pub(super) newcomers: Newcomers,
    /// Itself, for the contexts of calls.
    pub(super) watch: Weak<dyn CallWatch>,
    state: Lock<State>,
}

pub(super) struct State {
    pub(super) machine: Machine<Heap>,
    /// By [`ConnId::index`].
    conns: Vec<ConnEntry>,
    pub(super) principals: PrincipalTable,
    /// What is on its way to the ledger, if there is one.
    pub(super) ledger_queue: Option<Box<LedgerQueue>>,
    /// The task that keeps time, and when its timer fires.
    pub(super) timer_task: Option<Waker>,
    pub(super) armed: Instant,
    pub(super) drained: bool,
    drain_wakers: Vec<Waker>,
    pub(super) panics: u64,
    pub(super) replies_too_large: u64,
    pub(super) unencodable: u64,
    pub(super) last_unencodable: Option<String>,
    pub(super) rollbacks: u64,
    pub(super) last_rollback: Option<String>,
    pub(super) to_wake: Vec<Waker>,
    pub(super) later: Later,
    /// How many handlers run.
    pub(super) limits: Limits,
    /// Which of them wait for their calls' cancels.
    pub(super) cancels: Cancels,
    pub(super) idle_runners: IdleRunners,
    /// Calls refused because too many waited.
    pub(super) overloaded: u64,
    /// For the observers, if there are any.
    pub(super) observed: Option<Box<Observed>>,
    /// What is broken on purpose.
    pub(super) planted: Planted,
}

/// What must be done without the lock.
#[derive(Default)]
pub(super) struct Later {
    /// What is left of calls that will not run. Its drop is the user's code and may call the server.
    drop: Vec<Box<dyn Send>>,
    /// Calls whose turn it is.
    pub(super) begin: Vec<(Waiting, Permit)>,
}

impl Later {
    #[inline]
    fn is_empty(&self) -> bool {
        self.drop.is_empty() && self.begin.is_empty()
    }
}

/// What a server is made of, beside its machine and its runtime.
pub(super) struct Parts {
    pub(super) methods: Vec<MethodEntry>,
    pub(super) authorization: Option<Authorization>,
    pub(super) tokens: Option<Tokens>,
    pub(super) limits: Limits,
    pub(super) principals: PrincipalTable,
    pub(super) ledger: Option<(Box<dyn Submit>, Box<LedgerQueue>)>,
    pub(super) observers: Option<(Observers, Box<Observed>)>,
    pub(super) about: About,
    pub(super) planted: Planted,
}

/// Names checked in one sweep.
const SWEEP_MAX: usize = 1_024;

/// What a connection's task must know.
///
/// Invariant: while `at_work`, the task checks the flags itself before it sleeps, and is not woken for them.
#[derive(Default)]
struct ConnEntry {
    id: Option<ConnId>,
    waker: Option<Waker>,
    /// Its task has its turn.
    at_work: bool,
    /// There is something to send.
    transmit: bool,
    /// The machine has closed it.
    close: bool,
}

/// What a connection's task has to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum ConnWork {
    Nothing,
    Transmit,
    Close,
}

impl Shared {
    pub(super) fn new(
        machine: Machine<Heap>,
        runtime: Arc<dyn Runtime>,
        parts: Parts,
    ) -> Arc<Shared> {
        let Parts {
            methods,
            authorization,
            tokens,
            limits,
            principals,
            ledger,
            observers,
            about,
            planted,
        } = parts;
        let (ledger, ledger_queue) = ledger.unzip();
        let (observers, observed) = observers.unzip();
        let state = State {
            machine,
            conns: Vec::new(),
            principals,
            ledger_queue,
            timer_task: None,
            armed: Instant::ZERO,
            drained: false,
            drain_wakers: Vec::new(),
            panics: 0,
            replies_too_large: 0,
            unencodable: 0,
            last_unencodable: None,
            rollbacks: 0,
            last_rollback: None,
            to_wake: Vec::new(),
            later: Later::default(),
            limits,
            cancels: Cancels::default(),
            idle_runners: IdleRunners::default(),
            overloaded: 0,
            observed,
            planted,
        };
        Arc::new_cyclic(|watch: &Weak<Shared>| Shared {
            runtime,
            methods,
            ledger,
            authorization,
            tokens,
            observers,
            about,
            newcomers: Newcomers::default(),
            watch: watch.clone(),
            state: Lock::new(state),
        })
    }

    /// Runs `f` under the lock, passes the machine's events on, then wakes whom they concern.
    pub(super) fn with<T>(self: &Arc<Self>, f: impl FnOnce(&mut State, Instant) -> T) -> T {
        self.with_at(self.runtime.now(), |state, now| {
            let result = f(state, now);
            state.wake_timer_if_due_earlier();
            result
        })
    }

    /// The same within a connection's turn: at a moment that may have passed a little, so that the clock need not be read.
    /// Nor are the machine's timers: [`State::end_turn`] does that.
    #[inline]
    pub(super) fn with_at<T>(
        self: &Arc<Self>,
        now: Instant,
        f: impl FnOnce(&mut State, Instant) -> T,
    ) -> T {
        let mut state = self.state.lock();
        let result = f(&mut state, now);
        state.deliver();
        let to_wake = std::mem::take(&mut state.to_wake);
        let later = (!state.later.is_empty()).then(|| std::mem::take(&mut state.later));
        let must_report = state.must_report();
        drop(state);
        wake_all(to_wake);
        if must_report {
            self.report();
        }
        if let Some(Later { drop: of_user, begin }) = later {
            drop(of_user);
            self.begin_all(begin);
        }
        result
    }

    /// Runs `f` under the lock, without delivering events or calling wakers. The caller must call [`Shared::with`] before its
    /// turn ends.
    #[inline]
    pub(super) fn with_quietly<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock())
    }

    /// The same where the lock is released early.
    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// At the end of a turn that another one follows at once.
    pub(super) fn let_others(&self) {
        self.state.let_others();
    }

    /// A moment that is past a deadline only if the present is.
    #[inline]
    pub(super) fn time_near(&self, deadline: Instant) -> Instant {
        let (moment, age_max) = self.runtime.coarse_now();
        if moment + age_max < deadline { moment } else { self.runtime.now() }
    }

    /// A connection was accepted; `None` if there are too many.
    pub(super) fn connect(self: &Arc<Self>, subject: &Subject) -> Option<ConnId> {
        let mut secret = [0; 16];
        self.runtime.random(&mut secret);
        self.with(|state, now| {
            let State { machine, principals, .. } = state;
            let principal = principals.principal(subject, |of| machine.knows(of));
            let secret = oncewire_core::SessionId::from_bytes(secret);
            let id = machine.handle_connected(now, principal, secret);
            state.observe_connection(id, subject);
            let id = id?;
            let index = id.index();
            if state.conns.len() <= index {
                state.conns.resize_with(index + 1, ConnEntry::default);
            }
            // It may still have the entry of a connection that the machine has closed and whose task lingers. That task
            // finds no entry then, and ends.
            state.conns[index] = ConnEntry { id: Some(id), ..ConnEntry::default() };
            Some(id)
        })
    }

    /// What has come on a connection that has said nothing before: who calls, if it shows a token that is known.
    #[cold]
    pub(super) fn identify(self: &Arc<Self>, conn: ConnId, data: &[u8]) -> Option<Subject> {
        let subject = self.tokens.as_ref()?.identify(data)?;
        self.with_quietly(|state| {
            let State { machine, principals, .. } = state;
            let principal = principals.principal(&subject, |of| machine.knows(of));
            machine.identify(conn, principal);
            state.observe_caller(conn, &subject);
        });
        Some(subject)
    }

    pub(super) fn disconnect(self: &Arc<Self>, conn: ConnId) {
        let unused = self.with(|state, now| {
            state.machine.handle_disconnected(now, conn);
            state.observe_close(conn, None);
            if let Some(entry) = state.entry(conn) {
                *entry = ConnEntry::default();
            }
            let is_last = state.machine.counters().conns == 0;
            is_last.then(|| state.idle_runners.take_all())
        });
        drop(unused);
    }

    pub(super) fn poll_drained(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.with(|state, _| {
            if state.drained {
                return Poll::Ready(());
            }
            crate::caught::add_waker(&mut state.drain_wakers, cx);
            Poll::Pending
        })
    }
}

impl State {
    /// Drops the user's part of a call when the lock is free.
    pub(super) fn drop_later(&mut self, what: impl Send + 'static) {
        self.later.drop.push(Box::new(what));
    }

    /// When the timer task has something to do.
    pub(super) fn next_timeout(&self) -> Instant {
        let machine = self.machine.poll_timeout().unwrap_or(Instant::FAR_FUTURE);
        self.limits.next_deadline().map_or(machine, |deadline| machine.min(deadline))
    }

    /// Whether the outcome of a call that runs is needed.
    pub(super) fn is_wanted(&self, call: CallKey) -> bool {
        let ended = |queue: &LedgerQueue| queue.unanswered.contains(&call);
        self.machine.is_wanted(call) && !self.ledger_queue.as_deref().is_some_and(ended)
    }

    /// A call that runs was cancelled.
    pub(super) fn cancel(&mut self, call: CallKey) {
        if !self.planted.is(ServerFault::LostCancels) {
            self.note_cancel(call);
        }
    }

    /// A call's outcome is not needed any more, or it has ended.
    #[inline]
    pub(super) fn note_cancel(&mut self, call: CallKey) {
        self.cancels.wake(call, &mut self.to_wake);
    }

    #[inline]
    fn entry(&mut self, conn: ConnId) -> Option<&mut ConnEntry> {
        self.conns.get_mut(conn.index()).filter(|entry| entry.id == Some(conn))
    }

    /// Forgets names that are over, a few at a time.
    pub(super) fn sweep_principals(&mut self) {
        let State { machine, principals, .. } = self;
        principals.sweep(SWEEP_MAX, |of| machine.knows(of));
    }

    /// A connection's task begins a turn: it need not be woken for what it does itself.
    pub(super) fn begin_turn(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        let Some(entry) = self.entry(conn) else { return };
        debug_assert!(!entry.at_work, "a turn begins when the last one has ended");
        entry.at_work = true;
        match &mut entry.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => entry.waker = Some(cx.waker().clone()),
        }
    }

    /// What there is to do on a connection. `blocked`: its stream accepts no more bytes now.
    pub(super) fn next_work(&mut self, conn: ConnId, blocked: bool) -> ConnWork {
        // Events that say so may not have been delivered yet.
        self.deliver();
        // The machine emits Close only after its final frame was taken. A connection with output but no session is
        // already closing.
        let stuck = blocked && self.machine.session_of(conn).is_none();
        match self.entry(conn) {
            None => ConnWork::Close,
            Some(_) if stuck => ConnWork::Close,
            Some(entry) if entry.transmit => ConnWork::Transmit,
            Some(entry) if entry.close => ConnWork::Close,
            Some(_) => ConnWork::Nothing,
        }
    }

    /// Whether the machine has closed a connection, and everything has left.
    pub(super) fn is_closed(&mut self, conn: ConnId) -> bool {
        self.deliver();
        self.entry(conn).is_none_or(|entry| entry.close && !entry.transmit)
    }

    /// Notes whether a connection's task has something to send.
    #[inline]
    pub(super) fn set_transmit(&mut self, conn: ConnId, transmit: bool) {
        if let Some(entry) = self.entry(conn) {
            entry.transmit = transmit;
        }
    }

    /// A connection's task sleeps until it is woken.
    pub(super) fn end_turn(&mut self, conn: ConnId) {
        if let Some(entry) = self.entry(conn) {
            entry.at_work = false;
        }
        self.wake_timer_if_due_earlier();
    }

    /// What the machine says has happened.
    #[inline]
    fn deliver(&mut self) {
        while let Some(event) = self.machine.poll_event() {
            match event {
                ServerEvent::Transmit(conn) => self.wake_conn(conn, |entry| entry.transmit = true),
                ServerEvent::Close(conn, reason) => {
                    self.observe_close(conn, Some(reason));
                    self.wake_conn(conn, |entry| entry.close = true);
                }
                ServerEvent::Drained => {
                    self.drained = true;
                    self.observe(|| Event::Drained);
                    self.cancels.wake_all(&mut self.to_wake);
                    self.to_wake.append(&mut self.drain_wakers);
                    self.to_wake.extend(self.timer_task.take());
                }
                ServerEvent::SessionOpened(conn) => self.record_session(conn),
                // The machine's own time is what counts here.
                ServerEvent::SessionWanted(conn) => self.want_session(Instant::ZERO, conn),
                ServerEvent::Abandoned(session) => {
                    self.cancels.wake_session(session, &mut self.to_wake);
                    self.withdraw_all(session);
                }
                ServerEvent::SessionEnded(session, why) => {
                    self.observe_session_end(session, why);
                    self.record_session_end(session, why);
                }
                _ => {}
            }
        }
        if let Some(queue) = &mut self.ledger_queue {
            self.to_wake.extend(queue.take_ledger_task());
        }
    }

    /// Wakes the task that keeps time if the machine has something to do before its timer fires.
    pub(super) fn wake_timer_if_due_earlier(&mut self) {
        if self.machine.poll_timeout().is_some_and(|at| at < self.armed) {
            self.to_wake.extend(self.timer_task.take());
        }
    }

    fn wake_conn(&mut self, conn: ConnId, note: impl FnOnce(&mut ConnEntry)) {
        let Some(entry) = self.conns.get_mut(conn.index()).filter(|entry| entry.id == Some(conn))
        else {
            return;
        };
        note(entry);
        if !entry.at_work
            && let Some(waker) = entry.waker.take()
        {
            self.to_wake.push(waker);
        }
    }
}
