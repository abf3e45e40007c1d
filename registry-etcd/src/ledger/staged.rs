//! What a batch makes of the keys.

use std::collections::BTreeMap;

use oncewire_driver::ledger::{CallEntry, CallName, SessionEntry};
use oncewire_driver::protocol::{SessionId, Xid};

use super::encode_session;
use super::transaction::Effects;

/// Where something is kept, in the ledger's terms.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Session([u8; 16]),
    Call([u8; 16], u16),
    Data(Vec<u8>),
}

/// What is written together or not at all.
pub(super) type Step = Vec<(Place, Option<Vec<u8>>)>;

/// Steps in the order of a batch's entries. Each leaves the records sound, so that the batch may be cut between them: a crash there is
/// one that came earlier, since no reply has left.
#[derive(Debug, Default)]
pub(super) struct Staged {
    /// The number of the record on each slot, by session.
    xids: BTreeMap<[u8; 16], BTreeMap<u16, u64>>,
    steps: Vec<Step>,
}

impl Staged {
    pub(super) fn new(
        sessions: &BTreeMap<[u8; 16], Vec<u8>>,
        calls: &BTreeMap<([u8; 16], u16), Vec<u8>>,
    ) -> Staged {
        let mut staged = Staged::default();
        for id in sessions.keys() {
            staged.xids.insert(*id, BTreeMap::new());
        }
        for ((id, slot), record) in calls {
            match staged.xids.get_mut(id) {
                Some(xids) => drop(xids.insert(*slot, CallEntry::xid_of(record).unwrap_or(0))),
                // Its session has ended, and what was left is removed with the next batch.
                None => staged.steps.push(vec![(Place::Call(*id, *slot), None)]),
            }
        }
        staged
    }

    pub(super) fn take(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.steps)
    }

    pub(super) fn open(&mut self, session: &SessionEntry) {
        let id = session.id.to_bytes();
        self.xids.insert(id, BTreeMap::new());
        self.steps.push(vec![(Place::Session(id), Some(encode_session(session)))]);
    }

    /// The session goes first: records without it are ignored, a session without its records would run its calls again.
    pub(super) fn end(&mut self, session: SessionId) {
        let id = session.to_bytes();
        self.steps.push(vec![(Place::Session(id), None)]);
        for slot in self.xids.remove(&id).unwrap_or_default().into_keys() {
            self.steps.push(vec![(Place::Call(id, slot), None)]);
        }
    }

    /// A record, and the effects that belong to it.
    pub(super) fn call(&mut self, entry: CallEntry<'_>, effects: Effects) {
        let mut step: Step =
            effects.into_iter().map(|(key, value)| (Place::Data(key), value)).collect();
        let (id, xid) = (entry.session.to_bytes(), entry.record.xid.get());
        let known = self.xids.entry(id).or_default().entry(entry.slot).or_insert(0);
        // C76: a late record never replaces that of a later call on its slot.
        if *known <= xid {
            *known = xid;
            let mut record = Vec::new();
            entry.encode(&mut record);
            step.push((Place::Call(id, entry.slot), Some(record)));
        }
        self.steps.push(step);
    }

    pub(super) fn withdraw(&mut self, name: CallName) {
        let id = name.session.to_bytes();
        if let Some(xids) = self.xids.get_mut(&id)
            && xids.get(&name.slot) == Some(&name.xid.get())
        {
            xids.remove(&name.slot);
            self.steps.push(vec![(Place::Call(id, name.slot), None)]);
        }
    }

    pub(super) fn settle(&mut self, session: SessionId, seen: u64, held: &[Xid]) {
        let id = session.to_bytes();
        let Some(xids) = self.xids.get_mut(&id) else { return };
        let steps = &mut self.steps;
        xids.retain(|slot, xid| {
            let stays = *xid > seen || held.iter().any(|held| held.get() == *xid);
            if !stays {
                steps.push(vec![(Place::Call(id, *slot), None)]);
            }
            stays
        });
    }
}
