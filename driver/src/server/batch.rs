//! A batch as a ledger sees it.

use std::any::Any;
use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use oncewire_core::{CallRecord, NoReply, RecordState, Running, SessionId, Xid};

use super::handler::Ran;
use super::ledger_queue::{Item, Transact};
use crate::buffer::Encoded;
use crate::ledger::RecordChange;
use crate::ledger::claim::Claim;
use crate::ledger::entry::{CallEntry, CallName, LedgerError, SessionEntry};

/// Entries that a ledger must make durable together, in this order.
///
/// A batch that is dropped instead of finished has failed.
pub struct Batch<X> {
    lane: usize,
    items: Vec<Item>,
    /// Sessions that another server has.
    taken: HashSet<[u8; 16]>,
    owner: Arc<dyn BatchOwner>,
    types: PhantomData<fn(&mut X)>,
}

/// The server that a batch belongs to.
pub(super) trait BatchOwner: Send + Sync {
    /// The batch is durable, and this is the number of its commit; or it may not be, and why.
    fn conclude(
        self: Arc<Self>,
        lane: usize,
        items: Vec<Item>,
        result: Result<u64, LedgerError>,
        taken: &HashSet<[u8; 16]>,
    );
}

/// A ledger, whatever its transactions are.
pub(super) trait Submit: Send + Sync {
    /// Gives the ledger a batch, which may be finished before this returns.
    fn submit(&self, owner: Arc<dyn BatchOwner>, lane: usize, items: Vec<Item>);
    /// Gives it a session to claim, which may be answered before this returns.
    fn claim(&self, claim: Claim);
}

impl<X> Batch<X> {
    pub(super) fn new(lane: usize, items: Vec<Item>, owner: Arc<dyn BatchOwner>) -> Batch<X> {
        debug_assert!(!items.is_empty(), "there is something to write");
        Batch { lane, items, taken: HashSet::new(), owner, types: PhantomData }
    }
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

    /// Which lane it is in, from 0. No other batch that is under way is in the same one.
    pub fn lane(&self) -> usize {
        self.lane
    }

    /// How many of them are transactional calls.
    pub fn transactions(&self) -> usize {
        self.items.iter().filter(|item| matches!(item, Item::Transaction(_))).count()
    }

    /// The entries, without those of sessions that were [taken](Batch::taken). A transactional call can be run again in another
    /// pass, after all that it did was rolled back: what the last run said counts.
    pub fn entries(&mut self) -> impl Iterator<Item = Entry<'_, X>> {
        let taken = &self.taken;
        let stays =
            |item: &&mut Item| taken.is_empty() || !taken.contains(&item.session().to_bytes());
        self.items.iter_mut().filter(stays).map(entry)
    }

    /// The sessions of its entries, each once and in order, without those that are opened in it: whose they are decides what may be
    /// written, where several servers have the ledger ([`Ledger::shared`](crate::ledger::Ledger::shared)).
    pub fn sessions(&self) -> Vec<SessionId> {
        let opened = |item: &Item| matches!(item, Item::Opened { .. });
        let ids = |is_opened: bool| {
            let items = self.items.iter().filter(move |item| opened(item) == is_opened);
            items.map(|item| item.session().to_bytes())
        };
        let mut sessions: BTreeSet<[u8; 16]> = ids(false).collect();
        sessions.retain(|id| !ids(true).any(|opened| opened == *id));
        sessions.into_iter().map(SessionId::from_bytes).collect()
    }

    /// Another server has this session, or none has: none of its entries may be in this commit. Say so before [`entries`](Batch::entries),
    /// which leaves them out. Its calls here end unheard, and its client learns that it is superseded.
    pub fn taken(&mut self, session: SessionId) {
        self.taken.insert(session.to_bytes());
    }

    /// What the batch makes of the records, in order: to be applied to [`Records`](crate::ledger::Records), here and in
    /// every copy.
    ///
    /// `run` runs each transactional call, by [`Transactional::run`], and returns what that returned. If that is `None`, it has
    /// taken back what the call did in its transaction, and only that.
    pub fn changes(
        &mut self,
        mut run: impl for<'a> FnMut(Transactional<'a, X>) -> Option<CallEntry<'a>>,
    ) -> Vec<RecordChange> {
        let change = |entry| match entry {
            Entry::Transaction(call) => run(call).map(RecordChange::of_call),
            entry => RecordChange::of(&entry),
        };
        self.entries().filter_map(change).collect()
    }
}

impl<X> Batch<X> {
    /// All of it is durable, and this is the number of its commit; or it may not be, and why.
    ///
    /// A batch of which a transactional call was not run has failed, whatever `result` says: such a call has no outcome,
    /// and would keep its slot and its client for ever (C190).
    pub fn finish(mut self, result: Result<u64, LedgerError>) {
        let items = std::mem::take(&mut self.items);
        let taken = std::mem::take(&mut self.taken);
        let was_left_out = |item: &Item| match item {
            Item::Transaction(call) => {
                call.ran.is_none() && !taken.contains(&item.session().to_bytes())
            }
            _ => false,
        };
        let result = match result {
            Ok(_) if items.iter().any(was_left_out) => Err(LedgerError::new(
                "the ledger has finished a batch without running its transactional calls",
            )),
            result => result,
        };
        self.owner.clone().conclude(self.lane, items, result, &taken);
    }
}

impl<X> Drop for Batch<X> {
    fn drop(&mut self) {
        let items = std::mem::take(&mut self.items);
        if !items.is_empty() {
            let dropped = LedgerError::new("the ledger has let go of a batch without writing it");
            self.owner.clone().conclude(self.lane, items, Err(dropped), &HashSet::new());
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

/// What a batch asks a ledger to write.
#[derive(Debug)]
pub enum Entry<'a, X> {
    /// A session was opened: it must survive, even if no call of it is ever recorded.
    SessionOpened(&'a SessionEntry),
    /// A session is over: it and all its calls may be forgotten.
    SessionEnded(SessionId),
    /// What is known of a call. Never replaces a record of a later xid on its slot (C76).
    Call(CallEntry<'a>),
    /// A call whose started record was written, and that was refused after all: its record must go, if it is still there.
    Withdrawn(CallName),
    /// The client has seen the answers to all calls of a session but these: other records of it may go. `seen` need not
    /// be written for its own sake, but is worth writing beside.
    Settled {
        /// Which session.
        session: SessionId,
        /// The highest xid that the session had seen when this was queued.
        seen: u64,
        /// Calls whose records stay, in order.
        held: &'a [Xid],
    },
    /// A transactional call to execute.
    Transaction(Transactional<'a, X>),
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
            // S23: a one-way call has no reply.
            *body = Encoded::EMPTY;
        }
        match call.ran.insert(ran) {
            Ran::Done(body) => {
                let state = reply_state(Ok(body.as_slice()), max);
                Some(call_entry(call.name, call.digest, state))
            }
            Ran::RolledBack { .. } | Ran::Refused(_) => None,
        }
    }
}
