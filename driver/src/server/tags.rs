//! Names for logs of sessions that the server knows by a hash of their ids.

use std::collections::HashMap;

use oncewire_core::{SessionId, SessionTag};

/// The tags of sessions' real ids, where the machine knows a hash in place of them: clients know nothing of hashes, and both sides
/// are to call a session the same.
#[derive(Debug, Default)]
pub(super) struct Tags(HashMap<[u8; 16], SessionTag>);

impl Tags {
    /// Holds only what does not follow from `known_by`.
    pub(super) fn note(&mut self, known_by: SessionId, tag: SessionTag) {
        if known_by.tag() != tag {
            self.0.insert(known_by.to_bytes(), tag);
        }
    }

    pub(super) fn of(&self, known_by: SessionId) -> SessionTag {
        self.0.get(&known_by.to_bytes()).copied().unwrap_or_else(|| known_by.tag())
    }

    pub(super) fn forget(&mut self, known_by: SessionId) {
        self.0.remove(&known_by.to_bytes());
    }
}
