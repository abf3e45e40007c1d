//! A session that its client resumes at a server whose ledger other servers have too (S34).

use std::fmt;
use std::sync::Arc;

use oncewire_core::SessionId;

use super::entry::{CallEntry, LedgerError, SessionEntry};
use crate::transport::Subject;

/// A session to be claimed: see [`Ledger::claim`](super::Ledger::claim). One that is dropped was not reached.
pub struct Claim {
    session: SessionId,
    subject: Subject,
    is_held: bool,
    /// None once it is answered.
    owner: Option<Arc<dyn ClaimOwner>>,
}

/// The server that a claim belongs to.
pub(crate) trait ClaimOwner: Send + Sync {
    /// The claim of this session is answered.
    fn claimed(self: Arc<Self>, session: SessionId, answer: Answer);
}

/// What a ledger says of a session.
pub(crate) enum Answer {
    Unchanged {
        commit: u64,
    },
    Found {
        entry: SessionEntry,
        /// By slot, as [`CallEntry::encode`] wrote them.
        calls: Vec<(u16, Vec<u8>)>,
        commit: u64,
    },
    Unknown,
    NotTheirs,
    Unavailable,
    Failed(LedgerError),
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Claim");
        out.field("session", &self.session.tag()).field("is_held", &self.is_held);
        out.finish_non_exhaustive()
    }
}

impl Claim {
    pub(crate) fn new(
        session: SessionId,
        subject: Subject,
        is_held: bool,
        owner: Arc<dyn ClaimOwner>,
    ) -> Claim {
        Claim { session, subject, is_held, owner: Some(owner) }
    }

    /// Which session: its id, or the hash of it in a ledger that has those.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Whether this server has the session, as of when it was opened here or last claimed by this server.
    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// Whether the caller is the one who opened the session (S5). A session of another one must not be claimed: who knows its
    /// id could take it from its client for as long as he tries.
    pub fn is_theirs(&self, entry: &SessionEntry) -> bool {
        entry.subject == self.subject
    }

    /// No other server has claimed it since this one did: only if [`is_held`](Claim::is_held). `commit` is the number of the
    /// last durable commit of any server. Said of a session that the server does not have, it is as if the records were out of reach.
    pub fn unchanged(self, commit: u64) {
        let answer = match self.is_held {
            true => Answer::Unchanged { commit },
            false => Answer::Unavailable,
        };
        self.answer(answer);
    }

    /// It is this server's from now on, durably, and this is what is recorded of it. `commit` is the number of the last
    /// durable commit of any server.
    pub fn found<'a>(
        self,
        entry: SessionEntry,
        calls: impl IntoIterator<Item = CallEntry<'a>>,
        commit: u64,
    ) {
        debug_assert!(self.is_theirs(&entry), "S5");
        let bytes = |call: CallEntry<'_>| {
            let mut bytes = Vec::new();
            call.encode(&mut bytes);
            (call.slot, bytes)
        };
        let calls = calls.into_iter().map(bytes).collect();
        self.answer(Answer::Found { entry, calls, commit });
    }

    /// There is no record of it: it has ended. Its client loses it, so say so only if that is certain.
    pub fn unknown(self) {
        self.answer(Answer::Unknown);
    }

    /// It is another caller's, and was not claimed: see [`is_theirs`](Claim::is_theirs).
    pub fn not_theirs(self) {
        self.answer(Answer::NotTheirs);
    }

    /// This session's records cannot be read or written now, or it is not known whether they were. Its client tries again, here or at
    /// another server. The ledger must be able to write others: see [`failed`](Claim::failed).
    pub fn unavailable(self, _why: LedgerError) {
        self.answer(Answer::Unavailable);
    }

    /// The ledger can do no more, as after a batch that has failed (S31): its server refuses new calls and
    /// [`Server::serve`](crate::Server::serve) ends. The session's client tries again, here or at another server. Batches that come
    /// later must fail, too.
    pub fn failed(self, why: LedgerError) {
        self.answer(Answer::Failed(why));
    }

    fn answer(mut self, answer: Answer) {
        if let Some(owner) = self.owner.take() {
            owner.claimed(self.session, answer);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner.claimed(self.session, Answer::Unavailable);
        }
    }
}
