//! The task behind a client: dials, waits between attempts, keeps time, and reads the socket when no call does.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use oncewire_core::Instant;

use super::backoff::{Backoff, Ended};
use super::state::{LEAD_AFTER, Leader, Shared, State};
use crate::caught::{Guarded, caught};
use crate::runtime::Timer;
use crate::spin::SpinAttempt;
use crate::transport::{BoxFuture, BoxStream};

/// Looks for an answer in one poll: then other tasks get their turn.
const LOOKS_MAX: u32 = 8;

pub(super) struct ClientTask {
    shared: Arc<Shared>,
    /// Whether there is a journal to be served.
    is_durable: bool,
    timer: Box<dyn Timer>,
    /// When it fires, which may be before there is something to do: that costs a turn, and setting it a system call or
    /// more. `None` before it was first set.
    armed: Option<Instant>,
    dial: Option<Dial>,
    backoff: Backoff,
    /// When to dial next.
    dial_at: Instant,
    /// Whether there was a connection when the task last looked.
    was_connected: bool,
    /// A look that has not been judged yet.
    look: Option<SpinAttempt>,
}

/// How the task goes on after a turn.
enum Next {
    /// The client has ended.
    End,
    /// Something was written that may be answered as soon as others have run.
    Look,
    /// There is nothing to do, at this moment perhaps.
    Sleep(Instant),
}

struct Dial {
    attempt: Guarded<BoxFuture<'static, io::Result<BoxStream>>>,
    until: Instant,
}

impl ClientTask {
    pub(super) fn new(shared: Arc<Shared>) -> ClientTask {
        let timer = shared.runtime.timer();
        let is_durable = shared.with(|state, _| state.durable.is_some());
        let backoff = Backoff::new(shared.options.backoff_min, shared.options.backoff_max);
        ClientTask {
            shared,
            is_durable,
            timer,
            armed: None,
            dial: None,
            backoff,
            dial_at: Instant::ZERO,
            was_connected: false,
            look: None,
        }
    }

    /// One turn under the lock.
    fn turn(
        &mut self,
        state: &mut State,
        now: Instant,
        cx: &mut Context<'_>,
        may_look: bool,
    ) -> Next {
        match &mut state.task {
            Some(waker) => waker.clone_from(cx.waker()),
            None => state.task = Some(cx.waker().clone()),
        }
        let looked = self.look.take();
        let mut soonest = Instant::ZERO;
        if state.machine.poll_timeout().is_some_and(|at| at <= now) {
            if state.stream.is_some() {
                // What has arrived counts: it is read before anything is judged by the time (S20).
                state.lead_as_task(now, cx);
            }
            state.machine.handle_timeout(now);
            state.deliver(now);
            // Whatever came of it is to leave. If the stream takes nothing, it is tried again a little later.
            state.flush(now, cx);
            soonest = now + Duration::from_millis(1);
        }
        if self.has_ended(state, now) {
            return Next::End;
        }
        if state.stream.is_none() {
            self.note_loss(state, now);
            return Next::Sleep(self.alarm(self.next_look(state).max(soonest), now));
        }
        self.was_connected = true;
        let is_left = state.task_should_lead(now);
        let looks = match state.leader {
            Leader::Task => state.lead_or_look(now, cx, may_look, looked),
            // What nobody waits for is answered, too.
            Leader::Nobody if state.awaits_control() || state.wants_flush() => {
                state.lead_or_look(now, cx, may_look, looked)
            }
            // A call that leads may wait for long, or be alive and not polled any more.
            Leader::Nobody | Leader::Call(_) if is_left => {
                state.lead_or_look(now, cx, may_look, looked)
            }
            Leader::Call(_) if state.wants_flush() => {
                state.flush(now, cx);
                None
            }
            Leader::Nobody | Leader::Call(_) => None,
        };
        if self.has_ended(state, now) {
            return Next::End;
        }
        if looks.is_some() {
            self.look = looks;
            return Next::Look;
        }
        if state.stream.is_none() {
            self.note_loss(state, now);
        }
        let lead = state.watch_lead(now);
        Next::Sleep(self.alarm(self.next_look(state).max(soonest).min(lead), now))
    }

    /// When the timer is to fire so that the task looks at that moment or before.
    fn alarm(&self, at: Instant, now: Instant) -> Instant {
        match self.armed {
            Some(armed) => armed.min(at),
            // Whoever leads next, it is to be seen to so soon.
            None => at.min(now + LEAD_AFTER),
        }
    }

    fn next_look(&self, state: &State) -> Instant {
        let mut at = state.machine.poll_timeout().unwrap_or(Instant::FAR_FUTURE);
        if state.stream.is_none() && state.machine.wants_connection() {
            at = at.min(self.dial.as_ref().map_or(self.dial_at, |dial| dial.until));
        }
        if let Some(since) = state.closing_since {
            at = at.min(since + self.shared.options.close_timeout);
        }
        at
    }

    fn has_ended(&self, state: &mut State, now: Instant) -> bool {
        if state.closed || state.machine.refusal().is_some() {
            return true;
        }
        if !state.machine.is_closing() {
            return false;
        }
        let since = *state.closing_since.get_or_insert(now);
        now >= since + self.shared.options.close_timeout
    }

    /// The connection is gone: decides when to dial again.
    fn note_loss(&mut self, state: &mut State, now: Instant) {
        if !std::mem::take(&mut self.was_connected) {
            return;
        }
        let reason = state.disconnected.take();
        let ended = match state.connected_at {
            None => Ended::Unconnected(reason),
            Some(at) => {
                Ended::Connected { lasted: now.since(at), answered: state.answered, reason }
            }
        };
        self.back_off(now, ended);
    }

    fn back_off(&mut self, now: Instant, ended: Ended) {
        let mut random = [0; 8];
        self.shared.runtime.random(&mut random);
        self.dial_at = now + self.backoff.pause(ended, u64::from_le_bytes(random));
    }

    /// Dials if it is time to, until the connection has come or could not be made.
    fn poll_dial(&mut self, cx: &mut Context<'_>) {
        let shared = self.shared.clone();
        let (now, wants_stream) = shared.with(|state, now| {
            if state.stream.is_none() {
                // A call that read for all may have found that it is gone.
                self.note_loss(state, now);
            }
            (now, state.stream.is_none() && state.machine.wants_connection())
        });
        if !wants_stream {
            self.dial = None;
            return;
        }
        if self.dial.is_none() && self.dial_at <= now {
            let attempt: BoxFuture<'static, _> =
                Box::pin(async move { shared.connector.connect().await });
            let attempt = Guarded::new(attempt);
            self.dial = Some(Dial { attempt, until: now + self.shared.options.connect_timeout });
        }
        let Some(dial) = &mut self.dial else { return };
        let poll = caught(|| dial.attempt.get_mut().map(|attempt| attempt.as_mut().poll(cx)));
        let panicked = || Poll::Ready(Err(io::Error::other("the connector panicked")));
        let result = match poll.ok().flatten().unwrap_or_else(panicked) {
            Poll::Ready(result) => result,
            Poll::Pending if dial.until > now => return,
            Poll::Pending => Err(io::ErrorKind::TimedOut.into()),
        };
        self.dial = None;
        let address = || caught(|| self.shared.connector.address()).unwrap_or_default();
        match result {
            Ok(stream) => {
                self.was_connected = true;
                self.shared.with(|state, now| {
                    state.gain_stream(now, stream);
                    state.leader = Leader::Task;
                });
            }
            Err(error) => {
                let why = format!("cannot connect to {}: {error}", address());
                self.back_off(now, Ended::Unconnected(None));
                self.shared.with(|state, now| state.lose_stream(now, why));
            }
        }
    }
}

impl Future for ClientTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let shared = this.shared.clone();
        let mut looks = 0;
        loop {
            if this.look.is_none() {
                this.poll_dial(cx);
            }
            let next = shared.with(|state, now| {
                let next = this.turn(state, now, cx, looks < LOOKS_MAX);
                state.armed = match next {
                    Next::End => Instant::FAR_FUTURE,
                    Next::Look => now,
                    Next::Sleep(until) => until,
                };
                next
            });
            if this.is_durable {
                // After all that was ready has noted what it wants written, so that it goes in one batch.
                shared.submit();
            }
            match next {
                // `end` sees to what is left to write.
                Next::End => return Poll::Ready(()),
                Next::Look => {
                    looks += 1;
                    shared.runtime.yield_now();
                }
                Next::Sleep(until) => {
                    if this.armed.replace(until) != Some(until) {
                        this.timer.set(until);
                    }
                    if this.timer.poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    this.armed = Some(Instant::FAR_FUTURE);
                }
            }
        }
    }
}

impl Drop for ClientTask {
    fn drop(&mut self) {
        self.shared.end();
        self.shared.submit();
    }
}
