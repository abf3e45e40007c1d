//! What is on its way to the ledger: collected under the machine's lock, committed outside of it.
//!
//! Entries are queued in the order in which things happened, and those of one session are in one batch at a time. So a ledger sees a
//! session before its calls, and the calls of a slot in the order of their xids.

use std::collections::{BTreeMap, HashSet};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use oncewire_core::{
    Admission, CallKey, ConnId, Heap, Instant, NoReply, Running, Server as Machine, SessionId,
    SessionKey, Xid,
};

use super::context::Context;
use super::handler::{Ran, ReplyFuture, Work};
use super::lanes::Lanes;
use super::limits::Permit;
use super::observed::{self, Observed};
use super::sharing::Sharing;
use super::tags::Tags;
use crate::caught::Guarded;
use crate::ledger::entry::{CallName, LedgerError, SessionEntry};
use crate::method::MethodOptions;

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

impl Item {
    pub(super) fn session(&self) -> SessionId {
        match self {
            Item::Opened { session, .. } => session.id,
            Item::Ended(session) | Item::Settled { session, .. } => *session,
            Item::Started(call) => call.name.session,
            Item::Withdrawn(name) => name.session,
            Item::Finished(call) => call.name.session,
            Item::Transaction(call) => call.name.session,
        }
    }
}

/// A call that is started when its record is stable.
pub(super) struct Started {
    pub(super) name: CallName,
    pub(super) digest: u64,
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
    pub(super) name: CallName,
    pub(super) digest: u64,
    pub(super) running: Running,
    pub(super) reply: Result<Bytes, NoReply>,
}

/// A call that runs in the ledger's transaction.
pub(super) struct Transact {
    pub(super) name: CallName,
    pub(super) digest: u64,
    /// The index of its method.
    pub(super) method: usize,
    pub(super) work: Guarded<Box<dyn Work>>,
    pub(super) context: Context,
    pub(super) one_way: bool,
    pub(super) admission: Option<Admission>,
    pub(super) permit: Option<Permit>,
    pub(super) running: Option<Running>,
    pub(super) ran: Option<Ran>,
}

impl Transact {
    /// Decides whether it runs (S17), as late as can be.
    pub(super) fn start(
        &mut self,
        machine: &mut Machine<Heap>,
        observed: &mut Option<Box<Observed>>,
        now: Instant,
    ) -> bool {
        debug_assert!(self.admission.is_some() && self.running.is_none(), "it is started once");
        if let Some(admission) = self.admission.take() {
            self.running = observed::start(machine, observed, now, admission, self.method).ok();
        }
        self.running.is_some()
    }
}

/// A batch that has come back.
pub(super) struct Concluded {
    pub(super) items: Vec<Item>,
    pub(super) result: Result<u64, LedgerError>,
}

/// A session of which the ledger may keep more than it must: see [`Item::Settled`].
pub(super) struct Watch {
    pub(super) key: SessionKey,
    /// What the ledger was last asked to keep.
    pub(super) held: Vec<Xid>,
    /// More was recorded since.
    pub(super) fresh: bool,
}

/// Between the machine and its ledger.
///
/// Invariants: no more batches are in flight than there are lanes, and `items` keep the order in which things happened. After an
/// error nothing is written any more.
#[derive(Default)]
pub(super) struct LedgerQueue {
    /// What was queued since the last batch was taken.
    pub(super) items: Vec<Item>,
    /// The memory of a batch that has come back, for the next ones to queue in.
    pub(super) spare: Vec<Item>,
    pub(super) lanes: Lanes,
    /// A batch is being given to the ledger, which may finish it at once.
    pub(super) submitting: bool,
    pub(super) concluded: Vec<Concluded>,
    pub(super) ledger_task: Option<Waker>,
    /// Woken when there is an error.
    pub(super) error_wakers: Vec<Waker>,
    pub(super) error: Option<LedgerError>,
    /// The error once what is in flight has come back: a claim has found it, or a batch in another lane.
    pub(super) fails_next: Option<LedgerError>,
    /// Calls that have ended and are never answered, because of the error: to the machine they still run.
    pub(super) unanswered: HashSet<CallKey>,
    pub(super) watched: BTreeMap<[u8; 16], Watch>,
    pub(super) next_sweep: Instant,
    pub(super) tags: Tags,
    /// If other servers have the same ledger.
    pub(super) sharing: Option<Box<Sharing>>,
}

/// Entries of which the memory is kept.
const SPARE_MAX: usize = 1_024;

/// How often the ledger learns what it may forget.
pub(super) const SWEEP: Duration = Duration::from_secs(1);

impl LedgerQueue {
    pub(super) fn push(&mut self, item: Item) {
        debug_assert!(self.error.is_none(), "S31: after an error nothing is written");
        let item = match self.sharing.as_deref_mut() {
            Some(sharing) => sharing.hold_back(item),
            None => Some(item),
        };
        self.items.extend(item);
    }

    /// The entries of the next batch and its lane: see [`Lanes::take`].
    pub(super) fn take_items(&mut self, overlaps: bool) -> Option<(usize, Vec<Item>)> {
        let taken = self.lanes.take(&mut self.items, overlaps);
        if self.items.capacity() == 0 {
            self.items = std::mem::take(&mut self.spare);
        }
        taken
    }

    /// Keeps the memory of a batch that is over. One large batch does not cost its memory for ever.
    pub(super) fn keep_spare(&mut self, mut items: Vec<Item>) {
        items.clear();
        if items.capacity() > SPARE_MAX {
            return;
        }
        match self.items.capacity() {
            0 => self.items = items,
            _ => self.spare = items,
        }
    }

    /// Whether a batch can be given to the ledger.
    pub(super) fn ready(&self) -> bool {
        let waits = !self.items.is_empty() || self.lanes.has_ready();
        waits && self.lanes.has_free() && !self.submitting && self.fails_next.is_none()
    }

    /// The task to wake, if there is a batch for it.
    pub(super) fn take_ledger_task(&mut self) -> Option<Waker> {
        let has_claims = self.sharing.as_deref().is_some_and(|sharing| sharing.has_due);
        if has_claims || self.ready() { self.ledger_task.take() } else { None }
    }

    /// S31: nothing is written any more. What has not run is refused; what has is never answered.
    pub(super) fn fail(&mut self, error: LedgerError) {
        debug_assert!(self.lanes.is_idle(), "what was in flight has come back");
        let mut items = self.lanes.clear();
        items.append(&mut self.items);
        if let Some(sharing) = self.sharing.as_deref_mut() {
            items.extend(sharing.release_all());
        }
        self.concluded.push(Concluded { items, result: Err(error.clone()) });
        self.error.get_or_insert(error);
    }
}

impl LedgerQueue {
    pub(super) fn watch(&mut self, session: SessionId, key: SessionKey) {
        let watch = || Watch { key, held: Vec::new(), fresh: true };
        self.watched.entry(session.to_bytes()).or_insert_with(watch).fresh = true;
    }
}
