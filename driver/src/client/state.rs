//! What the tasks of one client share.
//!
//! One lock, held for as long as it takes to move bytes between the machine, the buffers and the stream, never across
//! an await. Wakers are called after it was let go.

mod alarm;
mod lead;
mod lifecycle;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use oncewire_core::{
    Call, CallError, CallId, Client as Machine, ClientEvent, CloseReason, Heap, Instant,
    NotExecuted,
};

pub(super) use lead::Leader;
use lead::{Step, Watch};

use alarm::Alarm;

use super::durable::JournalState;
use super::pending::{PendingCalls, PendingId};
use super::{ClientOptions, ClientStatus};
use crate::buffer::{self, ReadBuffer, WriteBuffer};
use crate::caught::wake_all;
use crate::outcome::RawOutcome;
use crate::runtime::Runtime;
use crate::spin::{self, SpinAttempt, SpinPolicy};
use crate::sync::{Lock, MutexGuard};
use crate::transport::{BoxStream, Connect};

/// When nobody has waited for an answer for so long, the client's task reads the socket itself.
pub(super) const LEAD_AFTER: Duration = Duration::from_millis(50);

/// Bytes that are read in one turn, under one lock: at 20 ns a frame that says nothing, a few hundred microseconds at the
/// most.
const TURN_LEN: usize = 32 << 10;
/// The same before deadlines are judged: as much as sockets usually hold.
const OVERDUE_LEN: usize = 256 << 10;
/// Bytes that are still read from a stream that takes no more: more than sockets hold.
const LAST_LEN_MAX: usize = 16 << 20;

/// With less time than this, a call counts it from the very moment.
const RECENT_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// What all handles, calls and the task of a client have in common.
pub(super) struct Shared {
    pub(super) options: ClientOptions,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) connector: Box<dyn Connect>,
    state: Lock<State>,
}

pub(super) struct State {
    pub(super) machine: Machine<Heap>,
    /// Of a durable client, whose calls are not among `pending`.
    pub(super) durable: Option<Box<JournalState>>,
    pub(super) stream: Option<BoxStream>,
    read: ReadBuffer,
    /// What is in `read` may be whole frames.
    backlog: bool,
    write: WriteBuffer,
    pending: PendingCalls,
    pub(super) leader: Leader,
    /// Calls that wait while another one leads; some have ended meanwhile.
    followers: VecDeque<PendingId>,
    /// When a leading call was last polled, or passed the lead on.
    pub(super) led_at: Instant,
    /// Whoever read last had its turn, and the stream had more.
    overran: bool,
    /// How often leading calls were polled, or passed the lead on.
    leads: u64,
    watch: Option<Watch>,
    /// The leader was told that there is something to write.
    flush_requested: bool,
    /// The client's task.
    pub(super) task: Option<Waker>,
    pub(super) task_gone: bool,
    /// When the task's timer fires.
    pub(super) armed: Instant,
    alarm: Alarm,
    pub(super) closing_since: Option<Instant>,
    pub(super) closed: bool,
    closed_wakers: Vec<Waker>,
    connected_wakers: Vec<Waker>,
    pub(super) last_error: Option<String>,
    /// Handshakes that went through.
    connections: u64,
    /// When the handshake of the current or the last connection went through, and whether an answer came on it.
    pub(super) connected_at: Option<Instant>,
    pub(super) answered: bool,
    /// The current connection is new: the task leads since it was made.
    fresh: bool,
    /// Why the last connection ended, if either side said so.
    pub(super) disconnected: Option<CloseReason>,
    pub(super) to_wake: Vec<Waker>,
    /// Wakers that are not needed any more, to be dropped without the lock.
    pub(super) dropped: Vec<Waker>,
    /// The call that is being polled: it takes its outcome itself.
    polled: Option<PendingId>,
    /// Whether replies come so soon that nobody need sleep for them.
    spin: SpinPolicy,
    /// Reads that brought something.
    reads: u64,
    /// Looks that paid, one after the other.
    looks: u32,
    /// The call that has let others act before it.
    waited: Option<PendingId>,
}

impl Shared {
    pub(super) fn new(
        connector: Box<dyn Connect>,
        options: ClientOptions,
        runtime: Arc<dyn Runtime>,
    ) -> Arc<Shared> {
        let machine = Machine::new(options.machine_config());
        Shared::with_machine(connector, options, runtime, machine, None)
    }

    pub(super) fn with_machine(
        connector: Box<dyn Connect>,
        options: ClientOptions,
        runtime: Arc<dyn Runtime>,
        machine: Machine<Heap>,
        durable: Option<Box<JournalState>>,
    ) -> Arc<Shared> {
        let timer = runtime.timer();
        let make = |shared: &Weak<Shared>| {
            let alarm = Alarm::new(shared.clone(), timer);
            let state = State::new(machine, durable, alarm);
            Shared { options, runtime, connector, state: Lock::new(state) }
        };
        Arc::new_cyclic(make)
    }

    /// Runs `f` under the lock, then wakes whom it wants woken.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut State, Instant) -> T) -> T {
        self.with_at(self.runtime.now(), f)
    }

    /// The same at a moment that may have passed a little, where nothing depends on the time that is.
    #[inline]
    fn with_at<T>(&self, now: Instant, f: impl FnOnce(&mut State, Instant) -> T) -> T {
        let mut state = self.lock();
        let result = f(&mut state, now);
        let overran = std::mem::take(&mut state.overran);
        if !state.to_wake.is_empty() || !state.dropped.is_empty() {
            let to_wake = std::mem::take(&mut state.to_wake);
            let dropped = std::mem::take(&mut state.dropped);
            drop(state);
            wake_all(to_wake);
            drop(dropped);
        } else if overran {
            drop(state);
        }
        if overran {
            // The next turn follows at once.
            self.state.let_others();
        }
        result
    }

    #[inline]
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Takes a call in; it leaves when it is first polled.
    #[inline]
    pub(super) fn begin(&self, mut call: Call<'_>) -> Result<PendingId, NotExecuted> {
        self.with_at(self.begins_at(&mut call), |state, now| state.begin(now, call))
    }

    /// When a call begins. What may take seconds need not know it to the microsecond: then its time is longer by as
    /// much as the moment may be old, so that nobody gives up early.
    #[inline]
    fn begins_at(&self, call: &mut Call<'_>) -> Instant {
        if call.timeout < RECENT_TIMEOUT_MIN {
            return self.runtime.now();
        }
        let (moment, age_max) = self.runtime.coarse_now();
        call.timeout = call.timeout.saturating_add(age_max);
        moment
    }

    /// The same, and polls it for the first time.
    pub(super) fn begin_and_poll(
        &self,
        mut call: Call<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(PendingId, Poll<RawOutcome>), NotExecuted> {
        let (id, step) = self.with_at(self.begins_at(&mut call), |state, now| {
            let id = state.begin(now, call)?;
            Ok((id, state.poll_waiting(id, now, cx, true)))
        })?;
        Ok((id, self.finish_poll(id, step, cx)))
    }

    /// Sees that a call leaves though nobody polls it.
    pub(super) fn ensure_sent(&self) {
        self.with(|state, _| state.request_flush());
    }

    /// Takes a one-way call in, and sees that it leaves.
    pub(super) fn send(&self, call: Call<'_>) -> Result<(), CallError> {
        self.with(|state, now| {
            if state.task_gone {
                return Err(CallError::Closed);
            }
            state.machine.call(now, call)?;
            state.deliver(now);
            state.request_flush();
            Ok(())
        })
    }

    /// The outcome of a call, once it is there. Meanwhile the caller may read the socket for all.
    #[inline]
    pub(super) fn poll_outcome(&self, id: PendingId, cx: &mut Context<'_>) -> Poll<RawOutcome> {
        // What others have read for us is there to be taken, and the time does not matter.
        if let Some(outcome) = self.lock().take_outcome_as_follower(id) {
            return Poll::Ready(outcome);
        }
        let step = self.with(|state, now| state.poll_outcome(id, now, cx, true));
        self.finish_poll(id, step, cx)
    }

    /// Goes on with a poll after the lock was let go.
    #[inline]
    fn finish_poll(&self, id: PendingId, step: Step, cx: &mut Context<'_>) -> Poll<RawOutcome> {
        match step {
            Step::Done(outcome) => Poll::Ready(outcome),
            Step::Sleep => Poll::Pending,
            Step::Look => self.look(id, cx),
        }
    }

    /// Lets whoever may answer act, and looks whether it has.
    fn look(&self, id: PendingId, cx: &mut Context<'_>) -> Poll<RawOutcome> {
        let spin = self.runtime.spin_budget(std::ptr::from_ref(self).addr());
        let mut tries = spin.map(|time| SpinAttempt::new(self.runtime.now(), time));
        loop {
            if tries.is_some() {
                self.runtime.yield_now();
            }
            let poll = self.with(|state, now| {
                let reads = state.reads;
                let step = spin::with_forced_reads(|| state.poll_outcome(id, now, cx, false));
                if let Some(tries) = &mut tries {
                    // Its outcome may have been read by others.
                    let paid = state.reads > reads || matches!(step, Step::Done(_));
                    state.spin.record(tries.judge(now, paid)?);
                    state.looks += 1;
                }
                Some(match step {
                    Step::Done(outcome) => Poll::Ready(outcome),
                    Step::Look | Step::Sleep => Poll::Pending,
                })
            });
            if let Some(poll) = poll {
                return poll;
            }
        }
    }

    /// Nobody waits for a call any more.
    pub(super) fn abandon(&self, id: PendingId) {
        self.with(|state, now| {
            if let Some(call) = state.pending.remove(id, &mut state.dropped) {
                state.machine.cancel(now, call);
                state.machine.forget(now, call);
            }
            state.deliver(now);
            if matches!(state.leader, Leader::Nobody) || state.leader == Leader::Call(id) {
                state.pass_lead(now);
            }
            // Its cancel is to leave, and what it could not write others must.
            state.request_flush();
        });
    }

    /// Nobody polls a call for now: it reads for nobody.
    pub(super) fn stop_waiting(&self, id: PendingId) {
        self.with(|state, now| {
            if state.leader == Leader::Call(id) {
                state.pass_lead(now);
            }
        });
    }

    /// Ends the session in good order; whether somebody waits for the end of it, `waited_for` says.
    pub(super) fn close(&self, waited_for: bool) {
        self.with(|state, now| {
            state.machine.close(now);
            state.closing_since.get_or_insert(now);
            state.deliver(now);
            if !state.say_goodbye(now, self.options.close_timeout, waited_for) {
                state.request_flush();
                state.wake_task();
            }
        });
    }

    pub(super) fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.with(|state, _| {
            if state.closed || state.task_gone {
                return Poll::Ready(());
            }
            crate::buffer::add_waker(&mut state.closed_wakers, cx);
            Poll::Pending
        })
    }

    pub(super) fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<bool> {
        self.with(|state, _| {
            if state.machine.is_connected() {
                return Poll::Ready(true);
            }
            if state.closed || state.task_gone || state.machine.refusal().is_some() {
                return Poll::Ready(false);
            }
            crate::buffer::add_waker(&mut state.connected_wakers, cx);
            Poll::Pending
        })
    }

    pub(super) fn status(&self) -> ClientStatus {
        self.with(|state, _| ClientStatus {
            connected: state.machine.is_connected(),
            server: state.machine.session().map(|session| session.server),
            last_error: state.last_error.clone(),
            refused: state.machine.refusal(),
            reconnects: state.connections.saturating_sub(1),
            counters: state.machine.counters(),
        })
    }

    /// The task is gone, in good order or not: nothing will be sent or received any more.
    pub(super) fn end(&self) {
        self.with(|state, now| {
            state.task_gone = true;
            state.stream = None;
            state.machine.close(now);
            state.machine.handle_disconnected(now);
            for call in state.pending.calls() {
                // What was not handed ends as cancelled; of the rest nobody will know.
                state.machine.cancel(now, call);
            }
            state.deliver(now);
            state.pending.end_all(&mut state.to_wake);
            if let Some(journal) = &mut state.durable {
                journal.end(&mut state.to_wake);
            }
            state.wake_watchers();
        });
    }
}

impl State {
    fn new(machine: Machine<Heap>, durable: Option<Box<JournalState>>, alarm: Alarm) -> State {
        State {
            machine,
            durable,
            stream: None,
            read: ReadBuffer::default(),
            backlog: false,
            write: WriteBuffer::default(),
            pending: PendingCalls::default(),
            leader: Leader::Nobody,
            followers: VecDeque::new(),
            led_at: Instant::ZERO,
            overran: false,
            leads: 0,
            watch: None,
            flush_requested: false,
            task: None,
            task_gone: false,
            armed: Instant::ZERO,
            alarm,
            closing_since: None,
            closed: false,
            closed_wakers: Vec::new(),
            connected_wakers: Vec::new(),
            last_error: None,
            connections: 0,
            connected_at: None,
            answered: false,
            fresh: false,
            disconnected: None,
            to_wake: Vec::new(),
            dropped: Vec::new(),
            polled: None,
            spin: SpinPolicy::default(),
            reads: 0,
            looks: 0,
            waited: None,
        }
    }

    #[inline]
    fn begin(&mut self, now: Instant, call: Call<'_>) -> Result<PendingId, NotExecuted> {
        if self.machine.refusal().is_some() {
            return Err(NotExecuted::SessionRefused);
        }
        if self.task_gone {
            return Err(NotExecuted::NotBegun(CallError::Closed));
        }
        let call = self.machine.call(now, call).map_err(NotExecuted::NotBegun)?;
        let id = self.pending.insert(call);
        if self.stream.is_none() {
            // What fails fast has ended already.
            self.deliver(now);
        }
        Ok(id)
    }

    fn wake_watchers(&mut self) {
        self.to_wake.append(&mut self.closed_wakers);
        self.to_wake.append(&mut self.connected_wakers);
    }

    /// Writes what there is to write and reads what there is to read, until `own` has its outcome, the stream has nothing
    /// more, or `len_max` bytes were read. Whoever calls this leads, and is woken at once for the rest.
    pub(super) fn run(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
        own: Option<PendingId>,
        len_max: usize,
    ) {
        let mut left = len_max;
        loop {
            self.flush(now, cx);
            if own.is_some_and(|id| self.pending.has_outcome(id)) {
                return;
            }
            if left == 0 {
                self.overrun(cx);
                return;
            }
            match self.read_once(now, cx) {
                Poll::Ready(len) => left = left.saturating_sub(len),
                Poll::Pending => return,
            }
        }
    }

    /// Whoever reads has had its turn, though the stream may have more: others are polled before it goes on.
    fn overrun(&mut self, cx: &mut Context<'_>) {
        self.overran = true;
        cx.waker().wake_by_ref();
    }

    /// Reads once, and says how many bytes that were; pending when there is nothing to read, or nothing to read from.
    fn read_once(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<usize> {
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        if self.backlog {
            return Poll::Ready(self.take_data(now));
        }
        match std::task::ready!(self.read.poll_fill(stream, cx)) {
            Ok(0) => self.lose_stream(now, "the server closed the connection".to_owned()),
            Ok(len) => {
                self.reads += 1;
                return Poll::Ready(self.take_data(now).max(len.min(TURN_LEN / 2)));
            }
            Err(error) => self.lose_stream(now, error.to_string()),
        }
        Poll::Ready(0)
    }

    /// Gives the machine what was received, or half a turn's worth of it; says how many bytes it took.
    fn take_data(&mut self, now: Instant) -> usize {
        // Answers borrow from the buffer; everything else of the state is beside it.
        let mut read = std::mem::take(&mut self.read);
        let (mut taken, mut window) = (0, 0);
        self.backlog = false;
        let result = loop {
            let large = read.take_large();
            let data = match &large {
                Some(large) => &large[..],
                None => read.unread(),
            };
            if window == 0 {
                if taken >= TURN_LEN / 2 && !data.is_empty() {
                    self.backlog = true;
                    break Ok(());
                }
                window = buffer::window(data);
            }
            let received = match self.machine.handle_data(now, &data[..window]) {
                Ok(received) => received,
                Err(error) => break Err(error),
            };
            let (consumed, wanted) = (received.consumed, received.wanted);
            let more = received.item.is_some() || window < data.len();
            if let Some(reply) = received.item {
                self.answered = true;
                self.tell(reply.call, RawOutcome::new(reply.outcome, large.as_ref()));
            }
            taken += consumed;
            window -= consumed;
            if large.is_none() {
                read.consume(consumed);
            } else {
                window = 0;
            }
            if !more {
                read.prepare(wanted);
                break Ok(());
            }
        };
        self.read = read;
        match result {
            Ok(()) => self.deliver(now),
            Err(error) => self.lose_stream(now, error.to_string()),
        }
        taken
    }

    /// A call has an outcome.
    #[inline]
    fn tell(&mut self, call: CallId, outcome: RawOutcome) {
        match &mut self.durable {
            None => self.pending.tell(call, outcome, self.polled, &mut self.to_wake),
            Some(journal) => {
                let refused = self.machine.refusal().is_some();
                journal.answer(call, outcome, refused, &mut self.to_wake);
            }
        }
    }

    /// Hands what the machine wants to send, and writes it; says whether there was anything.
    pub(super) fn flush(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        self.flush_requested = false;
        let mut wrote = false;
        loop {
            let Some(stream) = &mut self.stream else { return wrote };
            if !self.write.is_empty() {
                let written = self.write.poll_write(stream, cx);
                if self.write.take_progress() {
                    self.machine.handle_progress(now);
                }
                match written {
                    Poll::Pending => return wrote,
                    Poll::Ready(Ok(())) => wrote = true,
                    // What has arrived is still to be read: the end of the connection is told by reading.
                    Poll::Ready(Err(error)) => {
                        self.stop_writing(now, &error);
                        return wrote;
                    }
                }
            }
            let machine = &mut self.machine;
            let filled = self.write.fill(|out| {
                let mut len = 0;
                while let Some(more) = machine.poll_transmit(now, &mut out[len..]) {
                    len += more.get();
                }
                len
            });
            if let Some(rest) = machine.take_shared_tail() {
                self.write.append(rest);
            }
            self.deliver(now);
            if !filled {
                return wrote;
            }
        }
    }

    /// The stream takes no more bytes. Replies may have arrived before it broke, so it is read to its end first.
    fn stop_writing(&mut self, now: Instant, error: &io::Error) {
        let message = error.to_string();
        let mut cx = Context::from_waker(Waker::noop());
        let mut left = LAST_LEN_MAX;
        while let Some(stream) = &mut self.stream {
            if self.backlog {
                self.take_data(now);
                continue;
            }
            self.read.prepare(0);
            match self.read.poll_fill(stream, &mut cx) {
                Poll::Ready(Ok(len)) if len > 0 && left > 0 => {
                    left = left.saturating_sub(len);
                    self.take_data(now);
                }
                _ => return self.lose_stream(now, message),
            }
        }
    }

    /// A connection stands.
    pub(super) fn gain_stream(&mut self, now: Instant, stream: BoxStream) {
        self.stream = Some(stream);
        self.read = ReadBuffer::default();
        self.backlog = false;
        self.read.prepare(0);
        self.write = WriteBuffer::default();
        self.answered = false;
        self.connected_at = None;
        self.disconnected = None;
        self.fresh = true;
        self.machine.handle_connected(now);
        self.deliver(now);
    }

    /// The connection is gone, or could not be made.
    pub(super) fn lose_stream(&mut self, now: Instant, why: String) {
        self.last_error = Some(why);
        self.machine.handle_disconnected(now);
        self.let_stream_go();
        self.deliver(now);
    }

    /// Closes the connection.
    fn let_stream_go(&mut self) {
        self.stream = None;
        self.backlog = false;
        if let Leader::Call(id) = self.leader {
            self.add_follower(id);
        }
        self.leader = Leader::Nobody;
        self.wake_task();
    }

    /// Passes the machine's events on.
    #[inline]
    pub(super) fn deliver(&mut self, now: Instant) {
        while let Some(event) = self.machine.poll_event() {
            match event {
                ClientEvent::Connected { .. } => {
                    self.connections += 1;
                    self.connected_at = Some(now);
                    self.to_wake.append(&mut self.connected_wakers);
                }
                ClientEvent::Disconnect(reason) => {
                    self.disconnected = Some(reason);
                    self.last_error = Some(reason.to_string());
                    self.let_stream_go();
                }
                ClientEvent::SessionLost(end) => self.last_error = Some(end.to_string()),
                ClientEvent::Ended { call, outcome } => {
                    let outcome = RawOutcome::new(outcome, None);
                    self.tell(call, outcome);
                }
                ClientEvent::Closed => {
                    self.closed = true;
                    self.wake_watchers();
                    self.wake_task();
                }
                _ => {}
            }
        }
        if self.machine.refusal().is_some() {
            self.to_wake.append(&mut self.connected_wakers);
        }
    }
}
