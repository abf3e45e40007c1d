//! What is under the lock of a client: the machine, and the parts around it.
//!
//! | file | what it does |
//! |---|---|
//! | `state.rs` | the parts; bytes and events between stream, machine and calls |
//! | `state/connection.rs` | a connection begins and ends |
//! | `state/polls.rs` | a call is polled: it reads for all, or follows |
//! | `state/turns.rs` | the task's part: it reads for all, says goodbye |
//! | `state/deadlines.rs` | calls end on time, whatever the executor does |
//! | `state/watch.rs` | calls that depend on another one's polls are watched over |
//! | `state/fork.rs` | nothing is done in a fork of the process |

mod connection;
mod deadlines;
mod fork;
mod polls;
mod turns;
mod watch;

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use oncewire_core::{
    Call, CallId, Client as Machine, ClientEvent, Comparison, Heap, Instant, NotBegun, NotExecuted,
    SessionLoss,
};

use super::call::CalledMethod;
use super::comparisons::Comparisons;
use super::description::Description;
use super::journal_state::JournalState;
use super::lifecycle::Lifecycle;
use super::link::{Link, TURN_LEN, no_server};
use super::observed::Notes;
use super::parked::Parked;
use super::pending::{PendingCalls, PendingId, Trace};
use super::reader::{Flush, Leader, Reader};
use super::shared::Restored;
use crate::observe::{ConnectionEnd, Event};
use crate::reply::Received;
use crate::spin::SpinPolicy;
pub(super) use deadlines::DeadlineTimer;
use fork::Process;
pub(super) use polls::Step;
pub(super) use watch::WatchTimer;

/// Bytes that are read before deadlines are judged: as much as sockets usually hold.
const OVERDUE_LEN: usize = 256 << 10;
/// The most bytes that are read from a stream that accepts no more writes: more than sockets hold.
const LAST_LEN_MAX: usize = 16 << 20;

/// Each part keeps its own invariants; see there. Between them: without a connection there is no leader; and a change that
/// makes something to write or to read has the leader or the task woken for it.
pub(super) struct State {
    pub(super) machine: Machine<Heap>,
    pub(super) link: Link,
    /// The calls of a plain client.
    pub(super) pending: PendingCalls,
    /// The calls of a durable client.
    pub(super) journal: Option<Box<JournalState>>,
    /// What client and server mean by the methods that are called.
    pub(super) comparisons: Comparisons,
    /// How long the server may take to say what it means by a method.
    answer_timeout: Duration,
    pub(super) reader: Reader,
    /// Whether replies come so soon that spinning pays.
    pub(super) spin: SpinPolicy,
    pub(super) lifecycle: Lifecycle,
    pub(super) process: Process,
    deadline_timer: DeadlineTimer,
    watch_timer: WatchTimer,
    /// For the observers, if there are any.
    pub(super) notes: Option<Box<Notes>>,
    /// The client's task.
    pub(super) task: Option<Waker>,
    /// Where it is, unless the runtime is known to have it.
    pub(super) parked: Option<Arc<Parked>>,
    /// The call that polls it: that need not be woken.
    pub(super) driver: Option<PendingId>,
    /// When the task's timer fires.
    pub(super) armed: Instant,
    /// Woken when the lock is free again.
    pub(super) to_wake: Vec<Waker>,
    /// Wakers that are not needed any more. A waker's drop may run its task's drop, which is the user's code: they are
    /// dropped when the lock is free again.
    pub(super) dropped: Vec<Waker>,
}

impl State {
    pub(super) fn new(
        restored: Restored,
        notes: Option<Box<Notes>>,
        deadline_timer: DeadlineTimer,
        watch_timer: WatchTimer,
        answer_timeout: Duration,
        pid: u32,
    ) -> State {
        let Restored { machine, journal, comparisons } = restored;
        State {
            machine,
            link: Link::default(),
            pending: PendingCalls::default(),
            journal,
            comparisons,
            answer_timeout,
            reader: Reader::default(),
            spin: SpinPolicy::default(),
            lifecycle: Lifecycle::default(),
            process: Process::new(pid),
            deadline_timer,
            watch_timer,
            notes,
            task: None,
            parked: None,
            driver: None,
            armed: Instant::ZERO,
            to_wake: Vec::new(),
            dropped: Vec::new(),
        }
    }

    /// Takes a call. It leaves when it is first polled.
    ///
    /// It is inlined into [`UntypedCall::poll`](super::untyped::UntypedCall::poll), with the usual path of what it calls.
    #[inline(always)]
    pub(super) fn begin(
        &mut self,
        now: Instant,
        description: &mut Description,
        method: &CalledMethod,
        timeout: Duration,
    ) -> Result<PendingId, NotExecuted> {
        if self.machine.refusal().is_some() {
            return Err(NotExecuted::SessionRefused);
        }
        if self.begins_in_fork() {
            return Err(NotExecuted::NotBegun(NotBegun::Forked));
        }
        if self.lifecycle.task_gone {
            return Err(NotExecuted::NotBegun(NotBegun::Closed));
        }
        let described = self.described(method);
        let may_leave = matches!(described.1, Comparison::NotNeeded | Comparison::Same);
        // Made where the machine takes it: it is large.
        let call = self.machine.call(now, description.take_call(method, timeout, described));
        let call = call.map_err(NotExecuted::NotBegun)?;
        let id = self.pending.insert(call);
        if !self.link.is_up() || !may_leave {
            // A call that fails fast has ended already; and one that is not compared, or differs, is not sent.
            self.deliver(now);
            self.begin_batch();
        }
        Ok(id)
    }

    /// Says of a call what is known of its method's signature.
    pub(super) fn describe(&mut self, call: &mut Call<'_>, method: &CalledMethod) {
        (call.signature, call.comparison) = self.described(method);
    }

    /// The number of a method's signature, and what is known of it.
    #[inline]
    fn described(&mut self, method: &CalledMethod) -> (u32, Comparison) {
        match &method.typed {
            Some(typed) => self.comparisons.describe(method.name, typed),
            None => (0, Comparison::NotNeeded),
        }
    }

    /// Writes what there is to write and reads what there is to read, until `own` has its outcome, the stream has nothing
    /// more, or `len_max` bytes were read; then `cx` is woken at once for the rest. The caller must lead.
    fn run(&mut self, now: Instant, cx: &mut Context<'_>, own: Option<PendingId>, len_max: usize) {
        self.flush(now, cx);
        self.read_on(now, cx, own, len_max);
    }

    /// The same where there is nothing to write before something was read.
    fn read_on(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
        own: Option<PendingId>,
        len_max: usize,
    ) {
        let mut left = len_max;
        loop {
            if own.is_some_and(|id| self.pending.has_outcome(id)) {
                return;
            }
            if left == 0 {
                self.end_turn(cx);
                return;
            }
            match self.read_once(now, cx) {
                Poll::Ready(len) => left = left.saturating_sub(len),
                Poll::Pending => return,
            }
            self.flush(now, cx);
        }
    }

    /// The reader's turn is over, though the stream may have more: other tasks run before it continues.
    fn end_turn(&mut self, cx: &mut Context<'_>) {
        self.reader.overran = true;
        cx.waker().wake_by_ref();
    }

    /// Reads once, and says how many bytes that were; pending when there is nothing to read, or nothing to read from.
    fn read_once(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<usize> {
        if self.link.has_backlog() {
            return Poll::Ready(self.take_data(now));
        }
        if self.moves_in_fork() {
            return Poll::Pending;
        }
        match std::task::ready!(self.link.poll_fill(cx)) {
            Ok(0) => self.lose_connection(now, "the server closed the connection".to_owned()),
            Ok(len) => return Poll::Ready(self.take_data(now).max(len.min(TURN_LEN / 2))),
            Err(error) => self.fail_stream(now, &error),
        }
        Poll::Ready(0)
    }

    /// Gives the machine what was received, or half a turn's worth of it; says how many bytes it took.
    fn take_data(&mut self, now: Instant) -> usize {
        let State { machine, link, pending, journal, comparisons, lifecycle, to_wake, .. } = self;
        let mut answered = 0;
        let (taken, result) = link.take_data(machine, now, |machine, call, xid, outcome| {
            if comparisons.question() == Some(call) {
                return comparisons.answer(outcome.keep(), true);
            }
            answered += 1;
            let trace = || Trace { xid: Some(xid), session: lifecycle.session.clone() };
            complete(machine, pending, journal, call, outcome, trace, to_wake);
        });
        if answered > 0 {
            lifecycle.connection.answered = true;
            self.reader.note_answers(answered);
        }
        match result {
            Ok(()) => self.deliver(now),
            Err(error) if self.lifecycle.connection.since.is_none() => {
                self.lose_connection(now, no_server(&error));
            }
            Err(error) => self.lose_connection(now, error.to_string()),
        }
        taken
    }

    /// Takes what the machine wants to send, and writes it; whether anything was written.
    pub(super) fn flush(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let wrote = self.write(now, cx);
        self.reader.note_flush(wrote);
        self.begin_batch();
        wrote
    }

    fn write(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let mut wrote = false;
        while self.link.is_up() && !self.moves_in_fork() {
            if !self.link.is_flushed() {
                match self.link.poll_write(&mut self.machine, now, cx) {
                    Poll::Pending => return wrote,
                    Poll::Ready(Ok(())) => wrote = true,
                    Poll::Ready(Err(error)) => {
                        self.stop_writing(now, &error);
                        return wrote;
                    }
                }
            }
            let filled = self.link.fill(&mut self.machine, now);
            self.deliver(now);
            if !filled {
                return wrote;
            }
        }
        wrote
    }

    /// The stream accepts no more bytes. Replies may have arrived before it broke, so it is read to its end first: a call
    /// that was answered must not end as in doubt.
    fn stop_writing(&mut self, now: Instant, error: &io::Error) {
        let message = error.to_string();
        let mut cx = Context::from_waker(Waker::noop());
        let mut left = LAST_LEN_MAX;
        while self.link.is_up() {
            if self.link.has_backlog() {
                self.take_data(now);
                continue;
            }
            self.link.prepare();
            match self.link.poll_fill(&mut cx) {
                Poll::Ready(Ok(len)) if len > 0 && left > 0 => {
                    left = left.saturating_sub(len);
                    self.take_data(now);
                }
                Poll::Ready(Err(last)) => return self.fail_stream(now, &last),
                _ => return self.lose_connection(now, message),
            }
        }
    }

    /// Passes the machine's events on.
    #[inline]
    pub(super) fn deliver(&mut self, now: Instant) {
        self.deliver_events(now);
        while self.comparisons.is_due {
            self.compare(now);
            self.deliver_events(now);
        }
    }

    /// Decides about calls whose methods must be compared, and has sent what can leave by that.
    #[cold]
    fn compare(&mut self, now: Instant) {
        self.comparisons.decide(&mut self.machine, now, self.answer_timeout);
        if self.link.is_up() {
            self.request_flush();
        }
    }

    #[inline]
    fn deliver_events(&mut self, now: Instant) {
        while let Some(event) = self.machine.poll_event() {
            match event {
                ClientEvent::Connected { resumed } => {
                    self.comparisons.connected(self.machine.server_info().copied());
                    self.note_session(resumed);
                    let session = self.machine.session();
                    let instance = self.machine.server_info().map(|info| info.instance);
                    self.lifecycle.opened(now, session, instance, &mut self.to_wake);
                }
                ClientEvent::Disconnect(reason) => {
                    self.lifecycle.connection.reason = Some(reason);
                    let why = self.with_instance(&reason);
                    self.note_close(|| ConnectionEnd::Closed(reason));
                    self.lifecycle.disconnected(why, &mut self.to_wake);
                    self.drop_stream(now);
                }
                // It was said when the connection ended, with the reason.
                ClientEvent::SessionLost(SessionLoss::Refused) => {
                    self.note_session_lost(SessionLoss::Refused);
                }
                ClientEvent::SessionLost(why) => {
                    self.note_session_lost(why);
                    self.lifecycle.last_error = Some(self.with_instance(&why));
                }
                ClientEvent::Ended { call, xid, outcome } => {
                    let outcome = Received { outcome, large: None };
                    if self.comparisons.question() == Some(call) {
                        self.comparisons.answer(outcome.keep(), xid.is_some());
                        continue;
                    }
                    let State { machine, pending, journal, lifecycle, to_wake, .. } = self;
                    let trace = || Trace { xid, session: lifecycle.session.clone() };
                    complete(machine, pending, journal, call, outcome, trace, to_wake);
                }
                ClientEvent::Closed => {
                    self.lifecycle.ended = true;
                    self.note(|state| {
                        let session = state.lifecycle.session.as_deref();
                        Event::ClientClosed { session: session.map(|session| session.tag) }
                    });
                    self.lifecycle.wake_all(&mut self.to_wake);
                    self.wake_task();
                }
                _ => {}
            }
        }
        if self.machine.refusal().is_some() {
            self.to_wake.extend(self.lifecycle.connect_waiters.take());
        }
    }

    /// Notes where the calls were that end with the client.
    pub(super) fn trace_unsettled(&mut self) {
        for call in self.pending.calls() {
            let (xid, session) = (self.machine.xid(call), self.lifecycle.session.clone());
            self.pending.set_trace(call, Trace { xid, session });
        }
    }

    /// A call promotes a follower to leader, or leaves reading to the task.
    pub(super) fn pass_lead(&mut self, now: Instant) {
        match self.reader.pass(now, &mut self.pending) {
            Some(waker) => self.to_wake.push(waker),
            // The call that was asked to write is gone, or the one that would have read.
            None if self.reader.flush != Flush::None => self.ask_task_to_flush(),
            None if self.awaits_control() => self.wake_task(),
            None => {}
        }
    }

    /// A call reads no more, if it did.
    pub(super) fn stop_leading(&mut self, id: PendingId, now: Instant) {
        if self.reader.leader == Leader::Call(id) {
            self.pass_lead(now);
        }
    }

    /// Whether something will come that is for no call: the server's Welcome, its Goodbye, or what it means by a method.
    pub(super) fn awaits_control(&self) -> bool {
        self.machine.is_closing()
            || !self.machine.is_connected()
            || self.comparisons.question().is_some()
    }

    /// There is something to write. The leader does that, with whatever else there is by then.
    #[inline]
    pub(super) fn request_flush(&mut self) {
        if self.reader.flush == Flush::None {
            self.ask_to_flush();
        }
    }

    fn ask_to_flush(&mut self) {
        let leader = match self.reader.leader {
            Leader::Call(id) => self.pending.waker(id),
            Leader::None | Leader::Task => None,
        };
        match leader {
            Some(waker) => {
                self.to_wake.push(waker.clone());
                // Its future may have been forgotten: it is watched over from now on (C175).
                self.reader.flush = Flush::ByLeader;
            }
            None => self.ask_task_to_flush(),
        }
    }

    fn ask_task_to_flush(&mut self) {
        self.reader.flush = Flush::ByTask;
        self.wake_task();
    }

    pub(super) fn wake_task(&mut self) {
        self.to_wake.extend(self.task.clone());
    }
}

/// A call has an outcome. `trace` says where it was.
#[inline]
fn complete(
    machine: &Machine<Heap>,
    pending: &mut PendingCalls,
    journal: &mut Option<Box<JournalState>>,
    call: CallId,
    outcome: Received<'_>,
    trace: impl FnOnce() -> Trace,
    wake: &mut Vec<Waker>,
) {
    match journal {
        None => pending.complete(call, outcome, trace, wake),
        Some(journal) => {
            journal.complete(call, outcome.keep(), machine.refusal().is_some(), wake);
        }
    }
}
