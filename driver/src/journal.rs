//! The seam between a durable client and a store of what it has asked for.
//!
//! A plain client that dies forgets its session and its calls. A [`DurableClient`](crate::DurableClient) keeps them in a
//! journal, so that the next run of its program resumes the session inside its lease and learns the outcome of each
//! call. With a [ledger](crate::ledger) at the server, exactly once then survives the death of either side.
//!
//! ```text
//!  client                                            journal
//!    │  a call gets its xid                            │
//!    ├── session, xid, method, tag, arguments ─────────► durable
//!    │  the request leaves                             │
//!    │  the answer comes; the server keeps it          │
//!    ├── outcome ──────────────────────────────────────► durable
//!    │  the call is settled, and its outcome delivered │
//!    │  the caller confirms that it has acted on it    │
//!    └── removal ──────────────────────────────────────► durable, some time
//! ```
//!
//! Wherever the client dies, the journal knows enough. Before the first line nothing was sent. After it the call may have
//! been sent, and the server says so. After the second the outcome is known, and delivered again after every restart,
//! until the caller has confirmed it.
//!
//! At most one batch is in flight, and calls that are ready together share one. After an error nothing is written any
//! more, no request leaves that is not in the journal, and every call ends with that error.
//!
//! # How to write one
//!
//! A journal is a small map from keys to bytes, which are the client's business. A store whose commits block implements
//! [`JournalStore`], and [`JournalThread`] gives it its own thread. For SQL: one table `journal(kind, number, bytes,
//! primary key (kind, number))`; a batch is one transaction whose durability is not turned off.
//!
//! Do not put back a copy of a journal in place of a later one. The server shows that it is old, by a number or an answer that
//! the copy does not know: the session ends, calls that the copy has unfinished end as `Unknown`, though the later run may
//! have learned their outcomes, and new calls continue in a new session. No call gets the reply of another. Calls that the copy
//! does not have are not heard of again. Only what the server does not know cannot be shown: a call that was refused after the
//! copy was made, by a server that has been started again since, is sent from the copy, and executed once (S32).

mod thread;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::ledger::LedgerError;
pub use thread::{JournalStore, JournalThread};

/// A durable store of what one client has asked for.
///
/// One journal belongs to one client at a time: an implementation must refuse to be opened twice.
pub trait Journal: Send + Sync + 'static {
    /// Gives back all that is kept, in any order. Called once, before the first commit.
    ///
    /// # Errors
    /// What cannot be read, and what to do about it. The client is not made then.
    fn recover(&self, keep: &mut dyn FnMut(JournalKey, &[u8])) -> Result<(), JournalError>;

    /// Makes a batch durable, in order and as a whole, and then calls [`JournalBatch::finish`]. Does not block; the next
    /// batch comes after the finish of this one.
    fn commit(&self, batch: JournalBatch);
}

/// What a journal keeps something under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JournalKey {
    /// The session, and how far its numbers have come.
    Session,
    /// A call, by a number that the journal's client gave it.
    Call(u64),
    /// The outcome of that call.
    Outcome(u64),
}

impl JournalKey {
    /// Nine bytes, in the order of the keys.
    pub fn to_bytes(self) -> [u8; 9] {
        let (kind, number) = match self {
            JournalKey::Session => (0, 0),
            JournalKey::Call(number) => (1, number),
            JournalKey::Outcome(number) => (2, number),
        };
        let mut bytes = [kind; 9];
        bytes[1..].copy_from_slice(&number.to_be_bytes());
        bytes
    }

    /// The key of these bytes; `None` if [`to_bytes`](JournalKey::to_bytes) makes no such.
    pub fn from_bytes(bytes: [u8; 9]) -> Option<JournalKey> {
        let [kind, number @ ..] = bytes;
        match (kind, u64::from_be_bytes(number)) {
            (0, 0) => Some(JournalKey::Session),
            (1, number) => Some(JournalKey::Call(number)),
            (2, number) => Some(JournalKey::Outcome(number)),
            _ => None,
        }
    }
}

/// One thing to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalWrite {
    /// Where.
    pub key: JournalKey,
    /// What replaces any value that is there; `None` removes it.
    pub value: Option<Bytes>,
}

/// Writes of one client, to be made durable as a whole.
///
/// A batch that is dropped instead of finished has failed.
pub struct JournalBatch {
    writes: Vec<JournalWrite>,
    /// Until it is finished.
    owner: Option<Arc<dyn BatchOwner>>,
}

/// The client that a batch belongs to.
pub(crate) trait BatchOwner: Send + Sync {
    /// The batch is durable, or may not be, and why.
    fn conclude(self: Arc<Self>, result: Result<(), JournalError>);
}

impl JournalBatch {
    pub(crate) fn new(writes: Vec<JournalWrite>, owner: Arc<dyn BatchOwner>) -> JournalBatch {
        debug_assert!(!writes.is_empty(), "there is something to write");
        JournalBatch { writes, owner: Some(owner) }
    }

    /// What must be written, in order.
    pub fn writes(&self) -> &[JournalWrite] {
        &self.writes
    }

    /// Reports that all of it is durable, or that it may not be: then the client writes no more.
    pub fn finish(mut self, result: Result<(), JournalError>) {
        self.conclude(result);
    }

    fn conclude(&mut self, result: Result<(), JournalError>) {
        if let Some(owner) = self.owner.take() {
            owner.conclude(result);
        }
    }
}

impl Drop for JournalBatch {
    fn drop(&mut self) {
        let why = "the journal has let go of a batch without writing it";
        self.conclude(Err(JournalError::new(why)));
    }
}

impl fmt::Debug for JournalBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalBatch").field("writes", &self.writes.len()).finish_non_exhaustive()
    }
}

/// Why a journal cannot be opened, read or written, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalError(Arc<str>);

impl JournalError {
    /// Says what is wrong and what to do, in a sentence for a person.
    pub fn new(text: impl Into<String>) -> JournalError {
        JournalError(text.into().into())
    }
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for JournalError {}

/// For stores that are ledgers as well.
impl From<LedgerError> for JournalError {
    fn from(error: LedgerError) -> JournalError {
        JournalError::new(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_their_bytes() {
        let keys = [
            JournalKey::Session,
            JournalKey::Call(0),
            JournalKey::Call(u64::MAX),
            JournalKey::Outcome(7),
        ];
        for key in keys {
            assert_eq!(JournalKey::from_bytes(key.to_bytes()), Some(key));
        }
        assert_eq!(JournalKey::from_bytes([3; 9]), None);
        assert_eq!(JournalKey::from_bytes([0, 0, 0, 0, 0, 0, 0, 0, 1]), None);
    }
}
