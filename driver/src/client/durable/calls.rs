//! Durable calls on the shared state: what the handle, its calls and its receipts do under the lock, and what follows.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use oncewire_core::{Instant, NotBegun, NotExecuted, Unknown};

use crate::caught::caught;
use crate::client::call::CalledMethod;
use crate::client::journal_state::{Delivered, call_of};
use crate::client::options::CloseReport;
use crate::client::shared::Shared;
use crate::client::state::State;
use crate::journal::{BatchOwner, Journal, JournalBatch, JournalError, JournalWrite};
use crate::reply::RawOutcome;

/// Durable calls on the shared state. In a fork of the process they do nothing: calls and journal are the parent's (C163).
impl Shared {
    pub(super) fn begin_durable(
        &self,
        tag: Bytes,
        method: &CalledMethod,
        (body, metadata): (Bytes, bool),
        timeout: Duration,
    ) -> Result<u64, NotExecuted> {
        if self.is_forked() {
            return Err(NotExecuted::NotBegun(NotBegun::Forked));
        }
        self.with(|state, now| {
            // It leaves when it is in the journal.
            state.begin_batch();
            if state.machine.refusal().is_some() {
                return Err(NotExecuted::SessionRefused);
            }
            if state.lifecycle.task_gone {
                return Err(NotExecuted::NotBegun(NotBegun::Closed));
            }
            let closed = NotExecuted::NotBegun(NotBegun::Closed);
            let mut call = call_of(method.id, body.clone(), metadata, timeout);
            state.describe(&mut call, method);
            let journal = state.journal.as_mut().ok_or(closed)?;
            let compared = state.comparisons.of(&call);
            let machine = &mut state.machine;
            let number = journal.begin(machine, now, tag, call, body, compared)?;
            state.deliver(now);
            state.wake_task();
            Ok(number)
        })
    }

    pub(super) fn poll_durable(&self, number: u64, cx: &mut Context<'_>) -> Poll<Delivered> {
        if self.is_forked() {
            // The parent, or the next run, learns its outcome.
            let outcome = RawOutcome::Unknown(Unknown::Closed, false);
            return Poll::Ready(Delivered { outcome, stable: false });
        }
        self.with(|state, _| match &mut state.journal {
            Some(journal) => {
                let poll = journal.poll(number, cx, &mut state.dropped);
                state.set_deadline_timer();
                poll
            }
            None => Poll::Pending,
        })
    }

    pub(super) fn cancel_durable(&self, number: u64) {
        if self.is_forked() {
            return;
        }
        self.with(|state, now| {
            if let Some(call) = state.journal.as_ref().and_then(|journal| journal.call(number)) {
                state.machine.cancel(now, call);
                state.deliver(now);
                state.wake_task();
            }
        });
    }

    pub(super) fn leave_durable(&self, number: u64) {
        if self.is_forked() {
            return;
        }
        self.with(|state, _| {
            if let Some(journal) = &mut state.journal {
                journal.leave(number, &mut state.dropped);
            }
        });
    }

    pub(super) fn confirm_durable(self: &Arc<Self>, number: u64) {
        if self.is_forked() {
            return;
        }
        let task_gone = self.with(|state, _| {
            if let Some(journal) = &mut state.journal {
                journal.confirm(number);
            }
            state.wake_task();
            state.lifecycle.task_gone
        });
        if task_gone {
            self.submit();
        }
    }

    fn conclude_durable(self: &Arc<Self>, result: Result<(), JournalError>) {
        let task_gone = self.with(|state, now| {
            if let Some(journal) = &mut state.journal {
                journal.conclude(&mut state.machine, now, result, &mut state.to_wake);
            }
            state.deliver(now);
            // Journaled calls can leave now, and the next batch can be written.
            state.request_flush();
            state.wake_task();
            state.lifecycle.task_gone
        });
        if task_gone {
            self.submit();
        }
    }

    /// Gives the journal the next batch, if there is one. Not under the lock: the journal may finish it at once.
    pub(in crate::client) fn submit(self: &Arc<Self>) {
        let batch = self.with(|state, now| {
            let first = state.take_batch(now);
            // Calls that cannot be sent have ended by that, and their outcomes may have to be written.
            state.deliver(now);
            first.or_else(|| state.take_batch(now))
        });
        if let Some((journal, writes)) = batch {
            let batch = JournalBatch::new(writes, self.clone());
            // A batch that is dropped in a panic has failed.
            let _panicked = caught(|| journal.commit(batch));
        }
    }

    /// What is left of a closed client, once all is written that can be.
    pub(super) fn poll_written(
        &self,
        cx: &mut Context<'_>,
        closed: CloseReport,
    ) -> Poll<CloseReport> {
        self.with(|state, _| {
            let Some(journal) = &mut state.journal else { return Poll::Ready(closed) };
            journal.poll_idle(cx).map(|()| CloseReport {
                in_good_order: closed.in_good_order && journal.error().is_none(),
                left_in_journal: journal.left(),
                ..closed
            })
        })
    }

    pub(super) fn journal_error(&self) -> Option<JournalError> {
        self.with(|state, _| state.journal.as_ref()?.error().cloned())
    }
}

impl BatchOwner for Shared {
    fn conclude(self: Arc<Self>, result: Result<(), JournalError>) {
        self.conclude_durable(result);
    }
}

impl State {
    fn take_batch(&mut self, now: Instant) -> Option<(Arc<dyn Journal>, Vec<JournalWrite>)> {
        let journal = self.journal.as_mut()?;
        let question = self.comparisons.question();
        let writes = journal.take_batch(&mut self.machine, now, question)?;
        Some((journal.journal(), writes))
    }
}
