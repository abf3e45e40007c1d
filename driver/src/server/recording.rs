//! What the server records, and when: the rules S28 to S31.
//!
//! | what happens | what is queued | what waits until it is durable |
//! |---|---|---|
//! | a session is opened | [`Item::Opened`] | its `Welcome`, and so its first call (S30) |
//! | a call is admitted whose handler is a future | [`Item::Started`] | the start of its handler (S28) |
//! | that call ends | [`Item::Finished`] | its reply (S28) |
//! | a call is admitted whose handler is transactional | [`Item::Transaction`] | its reply; it runs in the commit (S29) |
//! | a call is refused after its `Started` was written | [`Item::Withdrawn`] | nothing |
//! | a client has seen replies | [`Item::Settled`] | nothing |
//! | a session ends | [`Item::Ended`] | nothing |
//!
//! A call of an idempotent method is not recorded (S22): after a crash it may run again.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use oncewire_core::{
    Admission, CallKey, ConnId, Instant, NoReply, NotExecuted, Running, SessionEnd, SessionId,
    SessionRecord, SessionTag, Unknown, Xid,
};

use super::batch::BatchOwner;
use super::context::Context;
use super::handler::Work;
use super::ledger_queue::{
    Concluded, Finished, Item, LedgerQueue, Prepared, SWEEP, Started, Transact,
};
use super::limits::Permit;
use super::state::{Shared, State};
use crate::caught::{Guarded, caught};
use crate::client::CallFailure;
use crate::faults::ServerFault;
use crate::ledger::entry::{CallName, LedgerError, SessionEntry};
use crate::observe::{CallEnd, Event};

/// S31: whether a call was executed that is not answered, the next run of the server says.
pub(super) const UNANSWERED: CallEnd = CallEnd::Failed(CallFailure::Unknown(Unknown::Interrupted));

impl State {
    /// S30: a session was opened on a connection, and must be recorded.
    pub(super) fn record_session(&mut self, conn: ConnId) {
        let record = self.machine.session_of(conn).and_then(|key| self.machine.session_record(key));
        let tag = self.machine.session_tag(conn);
        match (&mut self.ledger_queue, record.zip(tag)) {
            (Some(queue), Some((record, tag))) if queue.error.is_none() => {
                let SessionRecord { id, principal, grants, seen, .. } = record;
                let subject = self.principals.subject(principal);
                queue.tags.note(id, tag);
                let session = SessionEntry { id, tag, subject, grants, seen };
                queue.push(Item::Opened { conn, session });
            }
            // The connection is gone, or the ledger has failed: then the machine has refused the session (S31).
            _ => {}
        }
    }

    /// The name for logs of a session that the machine knows by this.
    pub(super) fn tag_of(&self, known_by: SessionId) -> SessionTag {
        match &self.ledger_queue {
            Some(queue) => queue.tags.of(known_by),
            None => known_by.tag(),
        }
    }

    pub(super) fn record_session_end(&mut self, session: SessionId, why: SessionEnd) {
        if why == SessionEnd::Taken {
            // Its records are another server's, and its name may be that of a session which has come back.
            return;
        }
        if let Some(queue) = &mut self.ledger_queue {
            queue.tags.forget(session);
        }
        if let Some(queue) = self.ledger_queue.as_mut().filter(|queue| queue.error.is_none()) {
            queue.watched.remove(&session.to_bytes());
            queue.push(Item::Ended(session));
        }
    }

    pub(super) fn name_of(&self, key: CallKey) -> Option<(CallName, u64)> {
        let (session, digest) = self.machine.record_of(key)?;
        if self.is_lost(key, session) {
            return None;
        }
        Some((CallName { session, slot: key.slot() as u16, xid: key.xid() }, digest))
    }

    /// S28: the call is started once its record is stable.
    pub(super) fn record_start(&mut self, now: Instant, admission: Admission, call: Prepared) {
        let named = self.name_of(admission.key());
        match (self.writable(), named) {
            (Some(queue), Some((name, digest))) => {
                let started = Started { name, digest, admission, call };
                queue.push(Item::Started(Box::new(started)));
            }
            _ => {
                let method = call.permit.method();
                self.refuse(now, admission, method, NotExecuted::LedgerFailed);
                self.drop_later(call.future);
                self.release(call.permit);
            }
        }
    }

    /// S29: the call runs in the ledger's next transaction.
    pub(super) fn record_transaction(
        &mut self,
        now: Instant,
        admission: Admission,
        permit: Permit,
        work: Guarded<Box<dyn Work>>,
        context: Context,
        one_way: bool,
    ) {
        let key = admission.key();
        let named = self.name_of(key);
        match (self.writable(), named) {
            (Some(queue), Some((name, digest))) => {
                queue.watch(name.session, key.session());
                queue.push(Item::Transaction(Box::new(Transact {
                    name,
                    digest,
                    method: permit.method(),
                    work,
                    context,
                    one_way,
                    admission: Some(admission),
                    permit: Some(permit),
                    running: None,
                    ran: None,
                })));
            }
            _ => {
                self.refuse(now, admission, permit.method(), NotExecuted::LedgerFailed);
                self.drop_later(work);
                self.release(permit);
            }
        }
    }

    /// S28: the reply leaves once its record is stable.
    ///
    /// Where there is no reply because the ledger has failed, the call is not aborted: an `Aborted` would say that it was
    /// executed, and the next run of the server may find that it was not, or the other way round (S31, C58).
    pub(super) fn record_finish(
        &mut self,
        now: Instant,
        running: Running,
        reply: Result<Bytes, NoReply>,
    ) {
        let key = running.key();
        match (self.name_of(key), self.writable()) {
            (Some((name, digest)), Some(queue)) => {
                queue.watch(name.session, key.session());
                queue.push(Item::Finished(Finished { name, digest, running, reply }));
            }
            // Its session is gone: there is no one to answer.
            (None, _) => self.no_reply(now, running, NoReply::Aborted),
            // S31: not answered without its record.
            (Some(_), None) => self.leave_unanswered(running),
        }
    }

    /// A call has ended, and keeps its slot and its session: the next run of the server, which knows what is durable, answers
    /// it. Clones of its context may still wait for its end.
    pub(super) fn leave_unanswered(&mut self, running: Running) {
        let call = running.key();
        self.observe_end(call, UNANSWERED);
        if let Some(queue) = &mut self.ledger_queue {
            queue.unanswered.insert(call);
        }
        self.note_cancel(call);
    }

    fn writable(&mut self) -> Option<&mut LedgerQueue> {
        self.ledger_queue.as_deref_mut().filter(|queue| queue.error.is_none())
    }

    /// A call was refused after its started record was written.
    pub(super) fn record_withdrawal(&mut self, name: CallName) {
        if let Some(queue) = self.writable() {
            queue.push(Item::Withdrawn(name));
        }
    }

    /// Tells the ledger what it may forget, once a second.
    pub(super) fn sweep(&mut self, now: Instant) {
        let Some(queue) = self.ledger_queue.as_deref_mut().filter(|r| r.error.is_none()) else {
            return;
        };
        if now < queue.next_sweep {
            return;
        }
        queue.next_sweep = now + SWEEP;
        let (machine, items) = (&self.machine, &mut queue.items);
        let sharing = queue.sharing.as_deref();
        queue.watched.retain(|id, watch| {
            if sharing.is_some_and(|sharing| sharing.is_wanted(id)) {
                return true;
            }
            let Some(record) = machine.session_record(watch.key) else { return false };
            let held: Vec<Xid> = machine.held_calls(watch.key).collect();
            debug_assert!(held.is_sorted(), "ledgers search it by halves");
            let changed = std::mem::take(&mut watch.fresh) || held != watch.held;
            let all_gone = held.is_empty();
            watch.held.clone_from(&held);
            if changed {
                let (session, seen) = (SessionId::from_bytes(*id), record.seen);
                items.push(Item::Settled { session, seen, held });
            }
            !all_gone
        });
    }

    /// A transactional call has ended, or will not run.
    pub(super) fn release_transaction(&mut self, call: &mut Transact) {
        if let Some(permit) = call.permit.take() {
            self.release(permit);
        }
    }

    /// The next batch and its lane, if one is due.
    fn take_batch(&mut self, now: Instant) -> Option<(usize, Vec<Item>)> {
        let overlaps = self.planted.is(ServerFault::SharedLanes);
        loop {
            let queue = self.ledger_queue.as_deref_mut()?;
            if !queue.ready() || queue.error.is_some() {
                return None;
            }
            let (lane, mut items) = queue.take_items(overlaps)?;
            self.start_transactions(now, &mut items);
            let queue = self.ledger_queue.as_deref_mut()?;
            if !items.is_empty() {
                if let Some(sharing) = queue.sharing.as_deref_mut() {
                    sharing.takes_off(&items);
                }
                queue.submitting = true;
                return Some((lane, items));
            }
            // Other sessions may have something.
            queue.lanes.land(lane);
            if let Some(sharing) = queue.sharing.as_deref_mut() {
                sharing.has_landed(&[]);
            }
        }
    }

    /// Starts the transactional calls of a batch. Those that are refused are not in it.
    fn start_transactions(&mut self, now: Instant, items: &mut Vec<Item>) {
        let (machine, observed) = (&mut self.machine, &mut self.observed);
        let refused = |item: &mut Item| match item {
            Item::Transaction(call) => !call.start(machine, observed, now),
            _ => false,
        };
        let refused: Vec<Item> = items.extract_if(.., refused).collect();
        for mut item in refused {
            if let Item::Transaction(call) = &mut item {
                self.release_transaction(call);
            }
            self.drop_later(item);
        }
    }

    /// S31: the ledger can write no more. What is in flight comes back first: it may be durable.
    pub(super) fn fail_ledger(&mut self, now: Instant, error: &LedgerError) {
        let Some(queue) = self.ledger_queue.as_deref_mut() else { return };
        if !queue.lanes.is_idle() {
            queue.fails_next.get_or_insert_with(|| error.clone());
            return;
        }
        if queue.error.is_none() {
            queue.fail(error.clone());
            if let Some(observed) = &mut self.observed {
                observed.push(Event::LedgerFailed { why: error.to_string() });
            }
            self.machine.fail_ledger();
            self.to_wake.append(&mut queue.error_wakers);
            self.to_wake.extend(queue.ledger_task.take());
        }
        self.refuse_waiting(now, NotExecuted::LedgerFailed);
    }
}

impl Shared {
    /// Gives the ledger what is due, in the lanes that are free.
    pub(super) fn submit(self: &Arc<Self>) {
        let Some(ledger) = &self.ledger else { return };
        self.submit_claims();
        let mut next = self.with(|state, now| state.take_batch(now));
        while let Some((lane, items)) = next {
            // A batch that is dropped in a panic has failed.
            let _panicked = caught(|| ledger.submit(self.clone(), lane, items));
            // It may have come back already.
            next = self.with(|state, now| {
                if let Some(queue) = &mut state.ledger_queue {
                    queue.submitting = false;
                }
                state.take_batch(now)
            });
        }
    }

    /// A batch has come back: the next one goes, and the ledger task does what waited for this one.
    fn conclude_batch(
        self: &Arc<Self>,
        lane: usize,
        mut items: Vec<Item>,
        result: Result<u64, LedgerError>,
        taken: &HashSet<[u8; 16]>,
    ) {
        self.with(|state, now| {
            let Some(queue) = &mut state.ledger_queue else { return };
            queue.lanes.land(lane);
            if let Some(sharing) = queue.sharing.as_deref_mut() {
                sharing.has_landed(&items);
            }
            let error = result.as_ref().err().cloned();
            if error.is_none() && !taken.is_empty() {
                // Now, and not in the ledger task: a claim may bring a session back before that has its turn.
                let lost = queue.part_taken(&mut items, taken);
                // In order: simulated worlds repeat exactly.
                let mut taken: Vec<_> = taken.iter().copied().collect();
                taken.sort_unstable();
                for id in taken {
                    state.lose(now, SessionId::from_bytes(id), Vec::new());
                }
                lost.into_iter().for_each(|item| state.give_up_lost(now, item));
            }
            let Some(queue) = &mut state.ledger_queue else { return };
            queue.concluded.push(Concluded { items, result });
            state.to_wake.extend(queue.ledger_task.take());
            let error = queue.fails_next.take().or(error);
            if let Some(error) = error {
                state.fail_ledger(now, &error);
            }
        });
        self.submit();
    }
}

impl BatchOwner for Shared {
    fn conclude(
        self: Arc<Self>,
        lane: usize,
        items: Vec<Item>,
        result: Result<u64, LedgerError>,
        taken: &HashSet<[u8; 16]>,
    ) {
        self.conclude_batch(lane, items, result, taken);
    }
}
