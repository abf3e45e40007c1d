//! Takes back what a ledger has kept, before the server accepts its first connection.

use std::collections::{BTreeMap, HashMap};

use oncewire_core::{Heap, Instant, Server as Machine, SessionId, SessionKey, SessionRecord, Xid};

use super::any_ledger::AnyLedger;
use super::ledger_queue::{Item, LedgerQueue, Watch};
use super::principals::PrincipalTable;
use super::tags::Tags;
use crate::ledger::LedgerError;
use crate::ledger::entry::{CallEntry, SessionEntry};

/// Takes back what a ledger has kept.
#[derive(Debug)]
pub struct Restore<'a> {
    machine: &'a mut Machine<Heap>,
    principals: &'a mut PrincipalTable,
    now: Instant,
    sessions: HashMap<[u8; 16], SessionKey>,
    /// Sessions that cannot be honoured (C67).
    lost: Vec<SessionId>,
    tags: Tags,
}

impl<'a> Restore<'a> {
    pub(super) fn new(
        machine: &'a mut Machine<Heap>,
        principals: &'a mut PrincipalTable,
        now: Instant,
    ) -> Restore<'a> {
        let (sessions, lost, tags) = (HashMap::new(), Vec::new(), Tags::default());
        Restore { machine, principals, now, sessions, lost, tags }
    }

    /// A session; its lease starts again. One that this server cannot honour is forgotten, and its client learns that when
    /// it resumes. One that is given again changes nothing.
    pub fn session(&mut self, entry: &SessionEntry) {
        if self.sessions.contains_key(&entry.id.to_bytes()) {
            // The machine refuses an id that it has: the ledger was asked to forget a session that went on (C178).
            return;
        }
        let machine = &*self.machine;
        let principal = self.principals.principal(&entry.subject, |of| machine.knows(of));
        let SessionEntry { id, tag, grants, seen, .. } = *entry;
        let record = SessionRecord { id, principal, grants, seen, acked: 0 };
        match self.machine.restore_session(self.now, record) {
            Some(key) => {
                self.tags.note(id, tag);
                self.sessions.insert(id.to_bytes(), key);
            }
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

    /// Takes back what this ledger has kept. Returns the queue of what it will keep.
    pub(super) fn recover(mut self, ledger: &dyn AnyLedger) -> Result<LedgerQueue, LedgerError> {
        ledger.recover(&mut self)?;
        let mut queue = self.into_queue();
        queue.sharing = ledger.shared().then(Box::default);
        queue.lanes = ledger.lanes();
        Ok(queue)
    }

    /// What cannot be honoured is forgotten by the ledger as well.
    fn into_queue(self) -> LedgerQueue {
        let items = self.lost.into_iter().map(Item::Ended).collect();
        // What is acknowledged after a restart is forgotten without waiting for the session's next call.
        let mut watched = BTreeMap::new();
        for (id, key) in self.sessions {
            let held: Vec<Xid> = self.machine.held_calls(key).collect();
            if !held.is_empty() {
                watched.insert(id, Watch { key, held, fresh: false });
            }
        }
        LedgerQueue { items, watched, tags: self.tags, ..LedgerQueue::default() }
    }
}
