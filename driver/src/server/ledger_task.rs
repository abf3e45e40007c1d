//! The task between a server and its ledger: gives it batches, and does what waited for them.
//!
//! It is a task because a ledger may finish a batch in any thread, also before `submit` has returned. Handlers that
//! waited for their records must run on the server's executor, not on the ledger's thread: the next commit would wait for
//! them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context as TaskContext, Poll};

use oncewire_core::{Instant, NotExecuted};

use super::execution::{Ended, Execution};
use super::handler::Ran;
use super::ledger_queue::{Concluded, Item, LedgerQueue, Prepared, Transact};
use super::state::{Shared, State};
use crate::ledger::entry::LedgerError;
use crate::method::MethodOptions;
use crate::observe::Event;

/// Ends with the server. It runs after the tasks that were ready before it, so that what they queue goes in one batch.
pub(super) struct LedgerTask {
    pub(super) shared: Weak<Shared>,
}

/// A call whose started record is stable, and how it is run.
type Start = (Execution, MethodOptions);

/// What is left to do without the lock when batches have come back.
#[derive(Default)]
struct Unlocked {
    starts: Vec<Start>,
    /// Their drop is the user's code. They come in their boxes.
    #[allow(clippy::vec_box)]
    over: Vec<Box<Transact>>,
}

impl Future for LedgerTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let Some(shared) = self.shared.upgrade() else { return Poll::Ready(()) };
        // First, so that the ledger works on the next batch while the last one is answered.
        shared.submit();
        let Unlocked { starts, over } = shared.with(|state, now| {
            if let Some(queue) = &mut state.ledger_queue {
                queue.ledger_task = Some(cx.waker().clone());
            }
            state.conclude_all(now)
        });
        drop(over);
        if !starts.is_empty() {
            shared.runtime.spawn(Box::pin(StartAll { shared: shared.clone(), starts }));
        }
        Poll::Pending
    }
}

impl Shared {
    /// Ready with the error after which the ledger can write no more.
    pub(super) fn poll_ledger_failed(
        self: &Arc<Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<LedgerError> {
        if self.ledger.is_none() {
            return Poll::Pending;
        }
        self.with(|state, _| match state.ledger_queue.as_deref_mut() {
            Some(LedgerQueue { error: Some(error), .. }) => Poll::Ready(error.clone()),
            Some(queue) => {
                crate::caught::add_waker(&mut queue.error_wakers, cx);
                Poll::Pending
            }
            None => Poll::Pending,
        })
    }
}

/// Polls each handler once; only one that is not ready becomes a task. Those that are dropped before are refused.
struct StartAll {
    shared: Arc<Shared>,
    starts: Vec<Start>,
}

impl StartAll {
    fn end(&mut self, end: impl Fn(&Arc<Shared>, Start) -> Option<Ended>) {
        let StartAll { shared, starts } = self;
        let ended: Vec<_> = starts.drain(..).filter_map(|start| end(shared, start)).collect();
        shared.with(|state, now| ended.into_iter().for_each(|ended| state.finish(now, ended)));
    }
}

impl Future for StartAll {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<()> {
        self.end(|shared, (execution, options)| execution.run(shared, &options));
        Poll::Ready(())
    }
}

impl Drop for StartAll {
    fn drop(&mut self) {
        if !self.starts.is_empty() {
            // The executor is shutting down.
            self.end(|_, (execution, _)| Some(execution.refuse(NotExecuted::ShuttingDown)));
        }
    }
}

impl State {
    /// What waited for the batches that have come back.
    fn conclude_all(&mut self, now: Instant) -> Unlocked {
        let mut unlocked = Unlocked::default();
        let Some(queue) = &mut self.ledger_queue else { return unlocked };
        for Concluded { mut items, result } in std::mem::take(&mut queue.concluded) {
            match result {
                Ok(commit) => {
                    self.machine.set_commit(commit);
                    unlocked.over.reserve(items.len());
                    for item in items.drain(..) {
                        self.conclude(now, item, &mut unlocked);
                    }
                }
                Err(_) => items.drain(..).for_each(|item| self.give_up(now, item)),
            }
            if let Some(queue) = &mut self.ledger_queue {
                queue.keep_spare(items);
            }
        }
        unlocked
    }

    /// What waited for an entry that is durable now.
    fn conclude(&mut self, now: Instant, item: Item, unlocked: &mut Unlocked) {
        match item {
            Item::Opened { conn, .. } => self.machine.confirm_session(conn),
            Item::Started(started) => {
                let key = started.admission.key();
                match self.start(now, started.admission, started.call.permit.method()) {
                    Ok(running) => {
                        let Prepared { future, permit, one_way, options } = started.call;
                        let execution = Execution::new(running, permit, future).recorded(one_way);
                        unlocked.starts.push((execution, options));
                    }
                    // The machine has refused it. Its record must go, or after a crash the client would learn that it was
                    // interrupted.
                    Err(_) => {
                        if !self.is_lost(key, started.name.session) {
                            self.record_withdrawal(started.name);
                        }
                        self.drop_later(started.call.future);
                        self.release(started.call.permit);
                    }
                }
            }
            Item::Finished(finished) => {
                let call = finished.running.key();
                match finished.reply {
                    Ok(body) => self.reply(now, finished.running, (body.into(), false)),
                    Err(why) => self.no_reply(now, finished.running, why),
                }
                // Clones of its context may still wait for its cancel.
                self.note_cancel(call);
            }
            Item::Transaction(mut call) => {
                debug_assert!(
                    call.running.is_some() && call.ran.is_some(),
                    "it was started, and run"
                );
                if let (Some(running), Some(ran)) = (call.running.take(), call.ran.take()) {
                    let key = running.key();
                    match ran {
                        Ran::Done(mut body) => self.reply(now, running, body.take_payload()),
                        Ran::Refused(why) => self.roll_back(now, running, why),
                        Ran::RolledBack { why, panicked } => {
                            self.panics += u64::from(panicked);
                            self.rollbacks += 1;
                            self.observe_call(key, |call| {
                                let why = why.clone();
                                Event::RolledBack { call, why, panicked }
                            });
                            self.last_rollback = Some(why);
                            self.roll_back(now, running, NotExecuted::Aborted);
                        }
                    }
                    self.note_cancel(key);
                }
                self.release_transaction(&mut call);
                unlocked.over.push(call);
            }
            Item::Ended(_) | Item::Withdrawn(_) | Item::Settled { .. } => {}
        }
    }

    /// S31: an entry that may not be durable. What has not run is refused; what has is not answered.
    pub(super) fn give_up(&mut self, now: Instant, item: Item) {
        match item {
            Item::Started(started) => {
                // Refused: the machine knows that the ledger has failed.
                let method = started.call.permit.method();
                drop(self.start(now, started.admission, method));
                self.drop_later(started.call.future);
                self.release(started.call.permit);
            }
            Item::Transaction(mut call) => {
                if let Some(admission) = call.admission.take() {
                    self.refuse(now, admission, call.method, NotExecuted::LedgerFailed);
                }
                if let Some(running) = call.running.take() {
                    self.leave_unanswered(running);
                }
                self.release_transaction(&mut call);
                self.drop_later(call);
            }
            Item::Finished(finished) => self.leave_unanswered(finished.running),
            // A session without a record was refused when the ledger failed.
            Item::Opened { .. } | Item::Ended(_) | Item::Withdrawn(_) | Item::Settled { .. } => {}
        }
    }
}
