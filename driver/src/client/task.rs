//! The task behind a client: dials, waits between attempts, keeps time, and reads the socket when no call does.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use oncewire_core::{CloseReason, DialFailure, Instant, Refuse};

use super::backoff::{Backoff, Ended};
use super::reader::{Flush, LEAD_AFTER, Leader};
use super::shared::Shared;
use super::state::State;
use crate::caught::{Guarded, caught};
use crate::runtime::Timer;
use crate::spin;
use crate::transport::{BoxFuture, BoxStream};

/// Spins in one poll: then other tasks get their turn.
const SPINS_MAX: u32 = 4;
/// Turns in one poll, likewise. A client that does not pause between dials, and is refused at once, never slept (C170).
const TURNS_MAX: u32 = 16;

pub(super) struct ClientTask {
    shared: Arc<Shared>,
    /// Whether there is a journal to write to.
    is_durable: bool,
    timer: Box<dyn Timer>,
    /// When it fires, which may be before there is something to do: an idle turn costs less than the system calls that set
    /// it. `None` before it was first set.
    armed: Option<Instant>,
    dial: Option<Dial>,
    backoff: Backoff,
    /// When to dial next.
    dial_at: Instant,
    /// Whether there was a connection in the last turn.
    was_connected: bool,
    /// It came to no handshake, which the connector does not know yet.
    is_unwelcome: bool,
}

/// What the task does after a turn.
enum Next {
    /// The client has ended.
    End,
    /// Something was written that may be answered within microseconds.
    Spin,
    /// There is nothing to do before this time, unless it is woken.
    Sleep(Instant),
}

struct Dial {
    attempt: Guarded<BoxFuture<'static, io::Result<BoxStream>>>,
    until: Instant,
}

impl ClientTask {
    pub(super) fn new(shared: Arc<Shared>) -> ClientTask {
        let timer = shared.runtime.timer();
        let is_durable = shared.with(|state, _| state.journal.is_some());
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
            is_unwelcome: false,
        }
    }

    /// Sets its timer, and says whether it has fired at once.
    pub(super) fn set_timer(&mut self, until: Instant, cx: &mut Context<'_>) -> bool {
        if self.armed.replace(until) != Some(until) {
            self.timer.set(until);
        }
        let is_due = self.timer.poll(cx).is_ready();
        if is_due {
            self.armed = Some(Instant::FAR_FUTURE);
        }
        is_due
    }

    /// One turn under the lock.
    fn turn(
        &mut self,
        state: &mut State,
        now: Instant,
        cx: &mut Context<'_>,
        may_spin: bool,
    ) -> Next {
        match &mut state.task {
            Some(waker) => waker.clone_from(cx.waker()),
            None => state.task = Some(cx.waker().clone()),
        }
        let soonest = self.handle_timeout(state, now, cx);
        if self.has_ended(state, now) {
            return Next::End;
        }
        if !state.link.is_up() {
            self.note_loss(state, now);
            return Next::Sleep(self.timer_for(self.next_timeout(state).max(soonest), now));
        }
        self.was_connected = true;
        let should_lead = state.reader.task_should_lead(now);
        let has_work = state.awaits_control() || state.reader.flush == Flush::ByTask;
        let spin = match state.reader.leader {
            Leader::Task => state.lead_or_spin(now, cx, may_spin),
            // The server's answers that no call waits for are read, too.
            Leader::None if has_work => state.lead_or_spin(now, cx, may_spin),
            // A call that leads may wait for long, or its future may have been forgotten.
            Leader::None | Leader::Call(_) if should_lead => state.lead_or_spin(now, cx, may_spin),
            Leader::Call(_) if state.reader.flush == Flush::ByTask => {
                state.flush(now, cx);
                false
            }
            Leader::None | Leader::Call(_) => false,
        };
        if self.has_ended(state, now) {
            return Next::End;
        }
        if spin {
            return Next::Spin;
        }
        if !state.link.is_up() {
            self.note_loss(state, now);
        }
        let look = state.reader.next_look(now);
        Next::Sleep(self.timer_for(self.next_timeout(state).max(soonest).min(look), now))
    }

    /// Handles a timeout of the machine that is due. Returns when the next one may be handled.
    fn handle_timeout(&self, state: &mut State, now: Instant, cx: &mut Context<'_>) -> Instant {
        if state.machine.poll_timeout().is_none_or(|at| at > now) {
            return Instant::ZERO;
        }
        if state.link.is_up() {
            // What has arrived counts: it is read before the server is judged by the time (S20).
            state.lead_as_task(now, cx);
        }
        state.machine.handle_timeout(now);
        state.deliver(now);
        state.flush(now, cx);
        if state.machine.poll_deadline().is_some_and(|at| at <= now) {
            // More calls are due than the machine ends in one step: others get their turn, then it continues.
            cx.waker().wake_by_ref();
        }
        // If the stream takes nothing, the machine's timeout stays due.
        now + Duration::from_millis(1)
    }

    /// When the timer must fire for something to be done at `at` or before.
    fn timer_for(&self, at: Instant, now: Instant) -> Instant {
        match self.armed {
            Some(armed) => armed.min(at),
            // The first turn: a call may lead next, and must be watched.
            None => at.min(now + LEAD_AFTER),
        }
    }

    fn next_timeout(&self, state: &State) -> Instant {
        let mut at = state.machine.poll_timeout().unwrap_or(Instant::FAR_FUTURE);
        if !state.link.is_up() && state.machine.wants_connection() {
            at = at.min(self.dial.as_ref().map_or(self.dial_at, |dial| dial.until));
        }
        if let Some(since) = state.lifecycle.closing_since {
            at = at.min(since + self.shared.options.close_timeout);
        }
        at
    }

    fn has_ended(&self, state: &mut State, now: Instant) -> bool {
        if state.lifecycle.ended || state.machine.refusal().is_some() {
            return true;
        }
        if !state.machine.is_closing() {
            return false;
        }
        let since = *state.lifecycle.closing_since.get_or_insert(now);
        now >= since + self.shared.options.close_timeout
    }

    /// The connection is gone: decides when to dial again.
    fn note_loss(&mut self, state: &mut State, now: Instant) {
        if !std::mem::take(&mut self.was_connected) {
            return;
        }
        let connection = &mut state.lifecycle.connection;
        let (reason, answered) = (connection.reason.take(), connection.answered);
        let ended = match connection.since {
            None => {
                self.is_unwelcome = is_of_server(reason);
                Ended::Unconnected(reason)
            }
            Some(since) => Ended::Connected { lasted: now.since(since), answered, reason },
        };
        if state.machine.wants_connection() {
            self.back_off(now, ended);
        }
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
            if !state.link.is_up() {
                // A call that read for all may have noticed.
                self.note_loss(state, now);
            }
            (now, !state.link.is_up() && state.machine.wants_connection())
        });
        if !wants_stream {
            self.dial = None;
            return;
        }
        if self.dial.is_none() && self.dial_at <= now {
            if std::mem::take(&mut self.is_unwelcome) {
                // What the program's connector does with it is its own affair, a panic too.
                let _ = caught(|| shared.connector.handshake_failed());
            }
            let address = caught(|| shared.connector.address()).unwrap_or_default();
            let has_token = shared.with(|state, _| {
                state.lifecycle.address = address;
                has_token(state)
            });
            if has_token && !self.may_carry_token() {
                return self.refuse_to_dial(now);
            }
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
        match result {
            Ok(stream) => {
                let may_carry_token = self.may_carry_token();
                let is_refused = self.shared.with(|state, now| {
                    // It may have come while we dialled.
                    let is_refused = has_token(state) && !may_carry_token;
                    if !is_refused {
                        state.gain_connection(now, stream);
                    }
                    is_refused
                });
                match is_refused {
                    true => self.refuse_to_dial(now),
                    false => self.was_connected = true,
                }
            }
            Err(error) => {
                let is_permanent = caught(|| self.shared.connector.is_permanent(&error));
                let failure = match is_permanent {
                    Ok(true) => DialFailure::Permanent,
                    Ok(false) | Err(_) => DialFailure::Transient,
                };
                self.back_off(now, Ended::Unconnected(None));
                self.shared.with(|state, now| state.fail_dial(now, &error, failure));
            }
        }
    }

    fn may_carry_token(&self) -> bool {
        caught(|| self.shared.connector.may_carry_token()).unwrap_or(false)
    }

    /// There is a token, and it must not be sent there.
    fn refuse_to_dial(&mut self, now: Instant) {
        self.back_off(now, Ended::Unconnected(None));
        let why = "others may read what passes there, so the client's token is not sent: put it in TLS (oncewire-tls), or make \
                   the connector insecure";
        let error = io::Error::new(io::ErrorKind::InvalidInput, why);
        self.shared.with(|state, now| state.fail_dial(now, &error, DialFailure::Permanent));
    }
}

/// Whether what ended a connection without a handshake is its server, and not the session that was asked for: the next attempt
/// opens another one.
fn is_of_server(reason: Option<CloseReason>) -> bool {
    let session = [Refuse::SessionUnknown, Refuse::WrongPrincipal].map(CloseReason::Refused);
    reason.is_none_or(|reason| !session.contains(&reason))
}

/// Whether the next `Hello` has a token.
fn has_token(state: &State) -> bool {
    state.lifecycle.next_token.is_some() || state.machine.has_token()
}

impl Future for ClientTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let shared = this.shared.clone();
        if shared.is_forked() {
            // In a fork whose owner drives the executor that it was given a copy of: the session is the parent's.
            return Poll::Pending;
        }
        let mut spins = 0;
        for _ in 0..TURNS_MAX {
            this.poll_dial(cx);
            let next = shared.with(|state, now| {
                state.process.continue_poll();
                let next = this.turn(state, now, cx, spins < SPINS_MAX);
                state.armed = match next {
                    Next::End => Instant::FAR_FUTURE,
                    Next::Spin => now,
                    Next::Sleep(until) => until,
                };
                next
            });
            if this.is_durable {
                // Now that all ready calls have noted what they want written, it goes in one batch.
                shared.submit();
            }
            match next {
                // `Shared::end` does the rest when this is dropped.
                Next::End => return Poll::Ready(()),
                Next::Spin => {
                    spins += 1;
                    let runtime = &*shared.runtime;
                    spin::spin(runtime, runtime.now(), Duration::ZERO, |now, spin| {
                        shared.with_at(now, |state, now| {
                            state.process.continue_poll();
                            state.spin_as_task(now, cx, spin)
                        })
                    });
                }
                Next::Sleep(until) => {
                    if !this.set_timer(until, cx) {
                        return Poll::Pending;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for ClientTask {
    fn drop(&mut self) {
        if self.shared.is_forked() {
            return;
        }
        self.shared.end(self.is_durable);
    }
}
