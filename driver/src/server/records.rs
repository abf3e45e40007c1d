//! What is on its way to the ledger: collected under the machine's lock, committed outside of it.
//!
//! Entries are noted in the order in which things happened, and one batch is under way at most. So a ledger sees a
//! session before its calls, and the calls of a slot in the order of their xids.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use oncewire_core::{
    Admission, CallKey, CallRecord, ConnId, Heap, Instant, NoReply, NotExecuted, RecordState,
    Running, Server as Machine, SessionId, SessionKey, SessionRecord, Xid,
};

use super::handler::{Context, ReplyFuture};
use super::limits::Permit;
use super::principals::PrincipalTable;
use super::state::{Shared, State};
use super::transactional::{Ran, Work};
use crate::caught::{Guarded, caught};
use crate::ledger::{CallEntry, CallName, Entry, Ledger, LedgerError, SessionEntry};
use crate::method::MethodOptions;

/// A ledger, whatever its transactions are.
pub(super) trait Submit: Send + Sync {
    /// Hands a batch over. It may be finished before this returns.
    fn submit(&self, shared: &Arc<Shared>, items: Vec<Item>);
}

impl<L: Ledger> Submit for L {
    fn submit(&self, shared: &Arc<Shared>, items: Vec<Item>) {
        self.commit(Batch { items, shared: shared.clone(), types: PhantomData });
    }
}

/// One thing to be written, and what waits for it.
pub(super) enum Item {
    Opened { conn: ConnId, session: SessionEntry },
    Ended(SessionId),
    Started(Box<Started>),
    Withdrawn(CallName),
    Finished(Finished),
    Settled { session: SessionId, seen: u64, held: Vec<Xid> },
    Transaction(Box<Transact>),
}

/// A call that is started when its record is stable.
pub(super) struct Started {
    pub(super) name: CallName,
    digest: u64,
    pub(super) admission: Admission,
    pub(super) call: Prepared,
}

/// All that it takes to start a call.
pub(super) struct Prepared {
    pub(super) future: ReplyFuture,
    pub(super) permit: Permit,
    pub(super) one_way: bool,
    pub(super) options: MethodOptions,
}

/// A call that is answered when its record is stable.
pub(super) struct Finished {
    name: CallName,
    digest: u64,
    pub(super) running: Running,
    pub(super) reply: Result<Bytes, NoReply>,
}

/// A call that runs in the ledger's transaction.
pub(super) struct Transact {
    name: CallName,
    digest: u64,
    work: Guarded<Box<dyn Work>>,
    context: Context,
    one_way: bool,
    admission: Option<Admission>,
    pub(super) permit: Option<Permit>,
    pub(super) running: Option<Running>,
    pub(super) ran: Option<Ran>,
}

impl Transact {
    /// Decides whether it runs (S17), as late as can be.
    fn start(&mut self, machine: &mut Machine<Heap>, now: Instant) -> bool {
        if let Some(admission) = self.admission.take() {
            self.running = machine.start(now, admission).ok();
        }
        self.running.is_some()
    }

    /// Refuses it if it was not started.
    pub(super) fn refuse(&mut self, machine: &mut Machine<Heap>, now: Instant) {
        if let Some(admission) = self.admission.take() {
            machine.refuse(now, admission, NotExecuted::LedgerFailed);
        }
    }
}

/// A batch that has come back.
pub(super) struct Concluded {
    pub(super) items: Vec<Item>,
    pub(super) result: Result<u64, LedgerError>,
}

/// A session of which the ledger may keep more than it must.
struct Watch {
    key: SessionKey,
    /// What it was told to keep.
    held: Vec<Xid>,
    /// More was recorded since.
    fresh: bool,
}

/// What is between the machine and its ledger.
#[derive(Default)]
pub(super) struct Records {
    items: Vec<Item>,
    in_flight: bool,
    /// A batch is being handed over.
    submitting: bool,
    pub(super) concluded: Vec<Concluded>,
    pub(super) ledger_task: Option<Waker>,
    /// Those who want to hear of an error.
    pub(super) error_wakers: Vec<Waker>,
    pub(super) error: Option<LedgerError>,
    watched: BTreeMap<[u8; 16], Watch>,
    next_sweep: Instant,
}

/// How often the ledger is told what it may forget.
const SWEEP: Duration = Duration::from_secs(1);

impl Records {
    fn push(&mut self, item: Item) {
        self.items.push(item);
    }

    /// Whether a batch can be handed over.
    fn ready(&self) -> bool {
        !self.items.is_empty() && !self.in_flight && !self.submitting
    }

    /// The task to wake, if there is something for it to hand over.
    pub(super) fn take_ledger_task(&mut self) -> Option<Waker> {
        if self.ready() { self.ledger_task.take() } else { None }
    }

    /// S31: nothing is written any more. What waits is told so, or never told anything.
    pub(super) fn fail(&mut self, error: LedgerError) {
        let items = std::mem::take(&mut self.items);
        self.concluded.push(Concluded { items, result: Err(error.clone()) });
        self.error.get_or_insert(error);
    }
}

impl State {
    /// S30: the session that was opened on a connection is to be recorded.
    pub(super) fn record_session(&mut self, conn: ConnId) {
        let record = self.machine.session_of(conn).and_then(|key| self.machine.session_record(key));
        match (&mut self.records, record) {
            (Some(records), Some(record)) if records.error.is_none() => {
                let SessionRecord { id, principal, grants, seen, .. } = record;
                let subject = self.principals.subject(principal);
                let session = SessionEntry { id, subject, grants, seen };
                records.push(Item::Opened { conn, session });
            }
            // All its calls will be refused: nothing of it needs to survive.
            _ => self.machine.confirm_session(conn),
        }
    }

    pub(super) fn record_session_end(&mut self, session: SessionId) {
        if let Some(records) = self.records.as_mut().filter(|records| records.error.is_none()) {
            records.watched.remove(&session.to_bytes());
            records.push(Item::Ended(session));
        }
    }

    fn name_of(&self, key: CallKey) -> Option<(CallName, u64)> {
        let (session, digest) = self.machine.record_of(key)?;
        Some((CallName { session, slot: key.slot() as u16, xid: key.xid() }, digest))
    }

    /// S28: the call is started once its record is stable.
    pub(super) fn record_start(&mut self, now: Instant, admission: Admission, call: Prepared) {
        let named = self.name_of(admission.key());
        match (self.writable(), named) {
            (Some(records), Some((name, digest))) => {
                let started = Started { name, digest, admission, call };
                records.push(Item::Started(Box::new(started)));
            }
            _ => {
                self.machine.refuse(now, admission, NotExecuted::LedgerFailed);
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
            (Some(records), Some((name, digest))) => {
                records.watch(name.session, key.session());
                records.push(Item::Transaction(Box::new(Transact {
                    name,
                    digest,
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
                self.machine.refuse(now, admission, NotExecuted::LedgerFailed);
                self.drop_later(work);
                self.release(permit);
            }
        }
    }

    /// S28: the reply leaves once its record is stable.
    pub(super) fn record_finish(
        &mut self,
        now: Instant,
        running: Running,
        reply: Result<Bytes, NoReply>,
    ) {
        let key = running.key();
        match (self.name_of(key), self.writable()) {
            (Some((name, digest)), Some(records)) => {
                records.watch(name.session, key.session());
                records.push(Item::Finished(Finished { name, digest, running, reply }));
            }
            // Its session is gone, and nobody will hear of it.
            (None, _) => self.machine.abort(now, running),
            // S31: not answered without its record.
            (Some(_), None) => drop(running),
        }
    }

    fn writable(&mut self) -> Option<&mut Records> {
        self.records.as_deref_mut().filter(|records| records.error.is_none())
    }

    /// A call was refused after its started record was written.
    pub(super) fn record_withdrawal(&mut self, name: CallName) {
        if let Some(records) = self.writable() {
            records.push(Item::Withdrawn(name));
        }
    }

    /// Tells the ledger what it may forget, now and then.
    pub(super) fn sweep(&mut self, now: Instant) {
        let Some(records) = self.records.as_deref_mut().filter(|r| r.error.is_none()) else {
            return;
        };
        if now < records.next_sweep {
            return;
        }
        records.next_sweep = now + SWEEP;
        let (machine, items) = (&self.machine, &mut records.items);
        records.watched.retain(|id, watch| {
            let Some(record) = machine.session_record(watch.key) else { return false };
            let held: Vec<Xid> = machine.held_calls(watch.key).collect();
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

    /// The next batch, if one is due.
    fn take_batch(&mut self, now: Instant) -> Option<Vec<Item>> {
        let records = self.records.as_deref_mut()?;
        if !records.ready() || records.error.is_some() {
            return None;
        }
        let mut items = std::mem::take(&mut records.items);
        let machine = &mut self.machine;
        let refused = |item: &mut Item| match item {
            Item::Transaction(call) => !call.start(machine, now),
            _ => false,
        };
        let refused: Vec<Item> = items.extract_if(.., refused).collect();
        for mut item in refused {
            if let Item::Transaction(call) = &mut item {
                self.release_transaction(call);
            }
            self.drop_later(item);
        }
        let records = self.records.as_deref_mut()?;
        if items.is_empty() {
            return None;
        }
        records.in_flight = true;
        records.submitting = true;
        Some(items)
    }
}

impl Records {
    fn watch(&mut self, session: SessionId, key: SessionKey) {
        let watch = || Watch { key, held: Vec::new(), fresh: true };
        self.watched.entry(session.to_bytes()).or_insert_with(watch).fresh = true;
    }
}

impl Shared {
    /// Hands over what is due, if nothing is under way.
    pub(super) fn submit(self: &Arc<Self>) {
        let Some(ledger) = &self.ledger else { return };
        let mut next = self.with(|state, now| state.take_batch(now));
        while let Some(items) = next {
            // A batch that is dropped in a panic has failed.
            let _panicked = caught(|| ledger.submit(self, items));
            // It may have come back already.
            next = self.with(|state, now| {
                if let Some(records) = &mut state.records {
                    records.submitting = false;
                }
                state.take_batch(now)
            });
        }
    }

    /// A batch has come back: the next one goes, and the ledger task sees to what waited for this one.
    fn conclude(self: &Arc<Self>, items: Vec<Item>, result: Result<u64, LedgerError>) {
        self.with(|state, now| {
            let Some(records) = &mut state.records else { return };
            records.in_flight = false;
            let error = result.as_ref().err().cloned();
            records.concluded.push(Concluded { items, result });
            if let Some(error) = error {
                records.fail(error);
                state.machine.fail_ledger();
                state.to_wake.append(&mut records.error_wakers);
            }
            state.to_wake.extend(records.ledger_task.take());
            if records.error.is_some() {
                state.refuse_waiting(now, NotExecuted::LedgerFailed);
            }
        });
        self.submit();
    }
}

/// Entries that a ledger is to make durable together, in this order.
///
/// A batch that is dropped instead of finished has failed.
pub struct Batch<X> {
    items: Vec<Item>,
    shared: Arc<Shared>,
    types: PhantomData<fn(&mut X)>,
}

impl<X> fmt::Debug for Batch<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("len", &self.items.len()).finish_non_exhaustive()
    }
}

impl<X: 'static> Batch<X> {
    /// How many entries; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// How many of them are transactional calls.
    pub fn transactions(&self) -> usize {
        self.items.iter().filter(|item| matches!(item, Item::Transaction(_))).count()
    }

    /// The entries. A transactional call can be run again in another pass, after all that it did was rolled back: what
    /// the last run said counts.
    pub fn entries(&mut self) -> impl Iterator<Item = Entry<'_, X>> {
        self.items.iter_mut().map(entry)
    }
}

impl<X> Batch<X> {
    /// All of it is durable, and this is the number of its commit; or it may not be, and why.
    pub fn finish(mut self, result: Result<u64, LedgerError>) {
        let items = std::mem::take(&mut self.items);
        self.shared.conclude(items, result);
    }
}

impl<X> Drop for Batch<X> {
    fn drop(&mut self) {
        let items = std::mem::take(&mut self.items);
        if !items.is_empty() {
            let dropped = LedgerError::new("the ledger has let go of a batch without writing it");
            self.shared.conclude(items, Err(dropped));
        }
    }
}

fn entry<X>(item: &mut Item) -> Entry<'_, X> {
    match item {
        Item::Opened { session, .. } => Entry::SessionOpened(session),
        Item::Ended(session) => Entry::SessionEnded(*session),
        Item::Started(call) => {
            Entry::Call(call_entry(call.name, call.digest, RecordState::Started))
        }
        Item::Withdrawn(name) => Entry::Withdrawn(*name),
        Item::Finished(call) => {
            let max = call.running.reply_len_max();
            let state = reply_state(call.reply.as_deref().map_err(|why| *why), max);
            Entry::Call(call_entry(call.name, call.digest, state))
        }
        Item::Settled { session, seen, held } => {
            Entry::Settled { session: *session, seen: *seen, held }
        }
        Item::Transaction(call) => Entry::Transaction(Transactional { call, types: PhantomData }),
    }
}

fn call_entry(name: CallName, digest: u64, state: RecordState<'_>) -> CallEntry<'_> {
    let CallName { session, slot, xid } = name;
    CallEntry { session, slot, record: CallRecord { xid, digest, state } }
}

/// What is recorded of a reply, or of there being none (S14, S15).
fn reply_state(reply: Result<&[u8], NoReply>, max: usize) -> RecordState<'_> {
    match reply {
        Err(why) => RecordState::NoReply(why),
        Ok(body) if body.len() > max => RecordState::NoReply(NoReply::ReplyTooLarge),
        Ok(body) => RecordState::Done(body),
    }
}

/// A call to execute in a ledger's transaction (S29).
pub struct Transactional<'a, X> {
    call: &'a mut Transact,
    types: PhantomData<fn(&mut X)>,
}

impl<X> fmt::Debug for Transactional<'_, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transactional").field("name", &self.call.name).finish_non_exhaustive()
    }
}

impl<'a, X: 'static> Transactional<'a, X> {
    /// Runs the handler; its panics end here. `Some` is the record to be written in the same transaction. `None` says
    /// that nothing that it did may remain, and that its neighbours' effects must.
    ///
    /// It may be run again if all that it did was rolled back.
    pub fn run(self, transaction: &mut X) -> Option<CallEntry<'a>> {
        let call = self.call;
        let max = call.running.as_ref().map_or(0, Running::reply_len_max);
        let work = call.work.get_mut();
        let mut ran = match work {
            Some(work) => work.run(transaction as &mut dyn Any, &call.context),
            None => Ran::rolled_back("the call is over"),
        };
        if let (Ran::Done(body), true) = (&mut ran, call.one_way) {
            // S23: nobody waits for it.
            body.clear();
        }
        match call.ran.insert(ran) {
            Ran::Done(body) => Some(call_entry(call.name, call.digest, reply_state(Ok(body), max))),
            Ran::RolledBack { .. } => None,
        }
    }
}

/// Takes back what a ledger has kept.
#[derive(Debug)]
pub struct Restore<'a> {
    pub(super) machine: &'a mut Machine<Heap>,
    pub(super) principals: &'a mut PrincipalTable,
    pub(super) now: Instant,
    pub(super) sessions: HashMap<[u8; 16], SessionKey>,
    /// Sessions that cannot be honoured (C67).
    pub(super) lost: Vec<SessionId>,
}

impl Restore<'_> {
    /// A session; its lease begins anew. One that this server cannot honour is forgotten, and its client told so.
    pub fn session(&mut self, entry: &SessionEntry) {
        let machine = &*self.machine;
        let principal = self.principals.principal(&entry.subject, |of| machine.knows(of));
        let SessionEntry { id, grants, seen, .. } = *entry;
        let record = SessionRecord { id, principal, grants, seen, acked: 0 };
        match self.machine.restore_session(self.now, record) {
            Some(key) => drop(self.sessions.insert(id.to_bytes(), key)),
            None => self.lost.push(id),
        }
    }

    /// A call of a session that was given before.
    pub fn call(&mut self, entry: CallEntry<'_>) {
        if let Some(key) = self.sessions.get(&entry.session.to_bytes()) {
            // False for what is already there, with a later xid: that one counts.
            let _stale = self.machine.restore_call(*key, entry.record);
        }
    }

    /// What cannot be honoured is forgotten by the ledger as well.
    pub(super) fn into_records(self) -> Records {
        let items = self.lost.into_iter().map(Item::Ended).collect();
        // What is acknowledged after a restart is forgotten without waiting for the session's next call.
        let mut watched = BTreeMap::new();
        for (id, key) in self.sessions {
            let held: Vec<Xid> = self.machine.held_calls(key).collect();
            if !held.is_empty() {
                watched.insert(id, Watch { key, held, fresh: false });
            }
        }
        Records { items, watched, ..Records::default() }
    }
}
