//! Records in memory, and changes of them that can be sent: what a replicated ledger is made of.

use std::collections::BTreeMap;
use std::fmt;

use oncewire_core::{ServerId, SessionId};
use serde::{Deserialize, Serialize};

use super::{CallEntry, Entry, Identity, LedgerError, Restore, SessionEntry};

/// What one entry of a batch makes of the records. It can be encoded, sent to another process, and applied there.
///
/// It holds ids of sessions, which are secrets, and replies: send it only to a peer that may read both.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordChange(Change);

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Change {
    SessionOpened { session: SessionId, entry: Vec<u8> },
    SessionEnded { session: SessionId },
    Call { session: SessionId, slot: u16, record: Vec<u8> },
    Withdrawn { session: SessionId, slot: u16, xid: u64 },
    Settled { session: SessionId, seen: u64, held: Vec<u64> },
}

impl RecordChange {
    /// What an entry makes of the records; `None` for a transactional call, which must be run first: its record is
    /// [`of_call`](RecordChange::of_call).
    pub fn of<X>(entry: &Entry<'_, X>) -> Option<RecordChange> {
        Some(RecordChange(match entry {
            Entry::SessionOpened(opened) => {
                Change::SessionOpened { session: opened.id, entry: opened.encode() }
            }
            Entry::SessionEnded(session) => Change::SessionEnded { session: *session },
            Entry::Call(call) => return Some(RecordChange::of_call(*call)),
            Entry::Withdrawn(name) => {
                Change::Withdrawn { session: name.session, slot: name.slot, xid: name.xid.get() }
            }
            Entry::Settled { session, seen, held } => {
                let held = held.iter().map(|xid| xid.get()).collect();
                Change::Settled { session: *session, seen: *seen, held }
            }
            Entry::Transaction(_) => return None,
        }))
    }

    /// The record of a call, as a transactional one gives it when it was run.
    pub fn of_call(call: CallEntry<'_>) -> RecordChange {
        let mut record = Vec::new();
        call.encode(&mut record);
        RecordChange(Change::Call { session: call.session, slot: call.slot, record })
    }

    /// Whether what it holds can be decoded.
    fn is_sound(&self) -> bool {
        match &self.0 {
            Change::SessionOpened { session, entry } => {
                SessionEntry::decode(*session, entry).is_some()
            }
            Change::Call { session, slot, record } => {
                CallEntry::decode(*session, *slot, record).is_some()
            }
            Change::SessionEnded { .. } | Change::Withdrawn { .. } | Change::Settled { .. } => true,
        }
    }
}

impl fmt::Debug for RecordChange {
    /// Names the kind and the session's tag: replies may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, session) = match &self.0 {
            Change::SessionOpened { session, .. } => ("SessionOpened", session),
            Change::SessionEnded { session } => ("SessionEnded", session),
            Change::Call { session, .. } => ("Call", session),
            Change::Withdrawn { session, .. } => ("Withdrawn", session),
            Change::Settled { session, .. } => ("Settled", session),
        };
        f.debug_struct(kind).field("session", &session.tag()).finish_non_exhaustive()
    }
}

/// The records of a ledger, in memory: those of the process that serves, or a copy of them in another one.
///
/// Two of the same server and the same [`commit`](Identity::commit) number are equal, wherever each change was applied. A
/// whole one can be encoded and sent, to begin a new copy. What it holds is as secret as a [`RecordChange`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    server: ServerId,
    commit: u64,
    sessions: BTreeMap<[u8; 16], KeptSession>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeptSession {
    /// As [`SessionEntry::encode`] wrote it.
    entry: Vec<u8>,
    /// As [`CallEntry::encode`] wrote them, by slot.
    calls: BTreeMap<u16, Vec<u8>>,
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("server", &self.server)
            .field("commit", &self.commit)
            .field("sessions", &self.sessions.len())
            .field("calls", &self.calls())
            .finish_non_exhaustive()
    }
}

impl Records {
    /// None yet. `server` must be random, and the same in all copies of these records (S32).
    pub fn new(server: ServerId) -> Records {
        Records { server, commit: 0, sessions: BTreeMap::new() }
    }

    /// Whose they are, and how far they have come: for [`Ledger::identity`](super::Ledger::identity).
    pub fn identity(&self) -> Identity {
        Identity { server: self.server, commit: self.commit }
    }

    /// Sessions that are kept.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Calls of which there is a record.
    pub fn calls(&self) -> usize {
        self.sessions.values().map(|session| session.calls.len()).sum()
    }

    /// Applies the changes of one batch, all of them or, after an error, none. `commit` is the batch's number: the one that
    /// [`Batch::finish`](super::Batch::finish) is given.
    ///
    /// # Errors
    /// The number is not the next one, so that a batch is missing or came again; or a change cannot be decoded.
    pub fn apply(&mut self, commit: u64, changes: &[RecordChange]) -> Result<(), LedgerError> {
        if self.commit.checked_add(1) != Some(commit) {
            let text = format!("commit {commit} does not follow commit {}", self.commit);
            return Err(LedgerError::new(text));
        }
        if !changes.iter().all(RecordChange::is_sound) {
            return Err(LedgerError::new(format!("a record of commit {commit} cannot be decoded")));
        }
        changes.iter().for_each(|change| self.apply_one(&change.0));
        self.commit = commit;
        Ok(())
    }

    fn apply_one(&mut self, change: &Change) {
        match change {
            Change::SessionOpened { session, entry } => {
                let kept = KeptSession { entry: entry.clone(), calls: BTreeMap::new() };
                self.sessions.insert(session.to_bytes(), kept);
            }
            Change::SessionEnded { session } => drop(self.sessions.remove(&session.to_bytes())),
            Change::Call { session, slot, record } => {
                // A session that has ended has no calls.
                let Some(kept) = self.sessions.get_mut(&session.to_bytes()) else { return };
                let there = kept.calls.get(slot).and_then(|old| CallEntry::xid_of(old));
                // C76: the record of an older call may come after that of a newer one on its slot.
                if there <= CallEntry::xid_of(record) {
                    kept.calls.insert(*slot, record.clone());
                }
            }
            Change::Withdrawn { session, slot, xid } => {
                let Some(kept) = self.sessions.get_mut(&session.to_bytes()) else { return };
                let there = kept.calls.get(slot).and_then(|old| CallEntry::xid_of(old));
                if there == Some(*xid) {
                    kept.calls.remove(slot);
                }
            }
            Change::Settled { session, seen, held } => {
                let Some(kept) = self.sessions.get_mut(&session.to_bytes()) else { return };
                kept.calls.retain(|_, record| {
                    CallEntry::xid_of(record)
                        .is_some_and(|xid| xid > *seen || held.binary_search(&xid).is_ok())
                });
                if let Some(mut entry) = SessionEntry::decode(*session, &kept.entry) {
                    entry.seen = *seen;
                    kept.entry = entry.encode();
                }
            }
        }
    }

    /// What is kept of one session: for [`Claim::found`](super::Claim::found). `None` if it is not here.
    ///
    /// # Errors
    /// A record that cannot be decoded.
    pub fn session(
        &self,
        session: SessionId,
    ) -> Result<Option<(SessionEntry, Vec<CallEntry<'_>>)>, LedgerError> {
        let Some(kept) = self.sessions.get(&session.to_bytes()) else { return Ok(None) };
        let broken = || LedgerError::new("a record of the copy cannot be decoded");
        let entry = SessionEntry::decode(session, &kept.entry).ok_or_else(broken)?;
        let calls = kept
            .calls
            .iter()
            .map(|(slot, record)| CallEntry::decode(session, *slot, record).ok_or_else(broken));
        Ok(Some((entry, calls.collect::<Result<_, _>>()?)))
    }

    /// Gives all of it back to a server that starts: for [`Ledger::recover`](super::Ledger::recover).
    ///
    /// # Errors
    /// A record that cannot be decoded. There is none unless these records came from elsewhere.
    pub fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError> {
        let broken = || LedgerError::new("a record of the copy cannot be decoded");
        for (id, kept) in &self.sessions {
            let id = SessionId::from_bytes(*id);
            restore.session(&SessionEntry::decode(id, &kept.entry).ok_or_else(broken)?);
            for (slot, record) in &kept.calls {
                restore.call(CallEntry::decode(id, *slot, record).ok_or_else(broken)?);
            }
        }
        Ok(())
    }
}
