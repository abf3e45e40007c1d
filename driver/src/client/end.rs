//! How a client ends: its owner closes it, or its task is gone.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::options::CloseReport;
use super::shared::Shared;
use crate::observe::ConnectionEnd;

impl Shared {
    /// Ends the session cleanly. `is_awaited`: whether [`Shared::poll_closed`] follows.
    ///
    /// In a fork it does nothing: session and sockets are the parent's, and its calls would end with them (C163).
    pub(super) fn close(&self, is_awaited: bool) {
        if self.is_forked() {
            return;
        }
        let (parked, has_ended) = self.with(|state, now| {
            state.process.continue_poll();
            // What wakes it here need not have it spawned.
            let parked = state.parked.clone().and_then(|parked| Some((parked.take()?, parked)));
            state.machine.close(now);
            state.lifecycle.closing_since.get_or_insert(now);
            state.deliver(now);
            if !state.say_goodbye(now, self.options.close_timeout, is_awaited) {
                state.request_flush();
                state.wake_task();
            }
            (parked, state.lifecycle.ended)
        });
        match parked {
            Some((task, parked)) if has_ended => parked.end(task),
            Some((task, parked)) => parked.put_back(task),
            None => {}
        }
    }

    pub(super) fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<CloseReport> {
        if self.is_forked() {
            return Poll::Ready(CloseReport::default());
        }
        self.with(|state, _| {
            if state.lifecycle.is_closed() {
                let counters = state.machine.counters();
                let session = state.lifecycle.session.as_deref();
                return Poll::Ready(CloseReport {
                    in_good_order: state.lifecycle.ended,
                    unfinished: state.lifecycle.unfinished,
                    one_way_unconfirmed: counters.one_way - counters.one_way_executed,
                    server: session.map(|session| session.server),
                    instance: state.machine.server_info().map(|info| info.instance),
                    session: session.map(|session| session.tag),
                    left_in_journal: 0,
                });
            }
            crate::caught::add_waker(&mut state.lifecycle.close_wakers, cx);
            Poll::Pending
        })
    }

    /// The task has ended, cleanly or not: nothing is sent or received any more.
    ///
    /// A runtime that has been shut down may drop a parked task when it is spawned, and what wakes that may hold the lock; or another
    /// thread has it for long. Then a thread of its own waits for it: a client that did not end would let calls and closes hang.
    pub(super) fn end(self: &Arc<Self>, is_durable: bool) {
        if self.is_free_soon() {
            return self.end_now(is_durable);
        }
        let shared = self.clone();
        let waits = std::thread::Builder::new().name("oncewire-end".to_owned());
        if waits.spawn(move || shared.end_now(is_durable)).is_err() {
            // This is right unless this thread has the lock itself.
            self.end_now(is_durable);
        }
    }

    fn end_now(self: &Arc<Self>, is_durable: bool) {
        self.with(|state, now| {
            state.lifecycle.task_gone = true;
            state.note_close(|| ConnectionEnd::Lost("the client has ended".to_owned()));
            state.link.disconnect();
            state.machine.close(now);
            state.machine.handle_disconnected(now);
            let calls = state.pending.calls();
            state.lifecycle.unfinished = calls.len() as u64;
            for call in calls {
                // A call of which no byte was sent ends as cancelled; of the others it is not known whether they ran.
                state.machine.cancel(now, call);
            }
            state.deliver(now);
            state.trace_unsettled();
            state.pending.end_all(&mut state.to_wake);
            if let Some(journal) = &mut state.journal {
                state.lifecycle.unfinished += journal.end(&mut state.to_wake);
            }
            state.lifecycle.wake_all(&mut state.to_wake);
        });
        if is_durable {
            self.submit();
        }
    }
}
