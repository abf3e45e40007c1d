//! The seam between a server and a durable store of completion records (S28 to S32).
//!
//! Without a ledger, what a server keeps is gone when it ends. With one, a call that was answered before a crash is
//! answered alike after it, and one that may have been interrupted never runs again.
//!
//! ```text
//!  server                                              ledger
//!    │  entries collect while a commit is in flight      │
//!    ├── Ledger::commit(batch) ──────────────────────────► one durable commit
//!    │                                  Batch::finish ◄──┤
//!    │  welcomes and replies leave, calls are started    │
//! ```
//!
//! At most one batch is in flight in each [lane](Ledger::lanes), of which there is one unless the ledger says otherwise. No reply or
//! welcome leaves before the [`Batch::finish`] of the batch that records it, and after an error none does any more: the server
//! refuses new calls and [`Server::serve`](crate::Server::serve) ends with the error (S31).
//!
//! # Two kinds of handlers
//!
//! - **Recorded**: every handler of [`ServerBuilder::method`](crate::ServerBuilder::method), unless the call is
//!   idempotent. A started record is stable before it runs, a completion record before its reply leaves: two commits.
//! - **Transactional**: [`ServerBuilder::transactional`](crate::ServerBuilder::transactional). The handler writes in the
//!   ledger's own transaction, and its completion record is written in the same one: one commit, and exactly once across
//!   crashes.
//!
//! What a client keeps, to survive its own crash, is another thing: see [`journal`](crate::journal).
//!
//! [`writing`] says how to write one.

#[doc = include_str!("../LEDGERS.md")]
pub mod writing {}
mod changes;
pub(crate) mod claim;
pub(crate) mod entry;
mod lookup;
mod records;
mod thread;

use oncewire_core::{ServerId, SessionId};

pub use crate::server::batch::{Batch, Entry, Transactional};
pub use crate::server::restore::Restore;
pub use changes::{ChangeSource, Changed, Changes};
pub use claim::Claim;
pub use entry::{CallEntry, CallName, LedgerError, SessionEntry};
pub use lookup::CallFound;
pub use records::{RecordChange, Records};
pub use thread::{LedgerThread, Store};

/// A durable store of completion records.
///
/// One ledger belongs to one server at a time, and an implementation must refuse to be opened twice; unless it is
/// [shared](Ledger::shared).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a ledger",
    note = "transactional methods need one: write `.ledger(…)` before them, or before the `.service(…)` that has them"
)]
pub trait Ledger: Send + Sync + 'static {
    /// In which transactional handlers write.
    type Transaction: 'static;

    /// Whose records these are, and how far they have come.
    fn identity(&self) -> Identity;

    /// What entries name sessions by in place of their ids: a one-way function of an id, always the same one for this ledger's records.
    ///
    /// An id is a secret, and a store that others can read, such as a database and its backups, should hold none: then every
    /// [`SessionId`] that this ledger gets and gives back is a hash. `None`: they are the ids themselves.
    fn session_hash(&self) -> Option<fn(SessionId) -> SessionId> {
        None
    }

    /// Bytes of the longest reply that can be recorded, if there is a limit: a server with a method that declares longer ones is not
    /// built, unless the method is idempotent and so has no record.
    fn reply_len_max(&self) -> Option<u32> {
        None
    }

    /// Gives back all that is kept: each session, and then its calls. Called once, before the first commit.
    ///
    /// # Errors
    /// What cannot be read, and what to do about it. The server is not built then.
    fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError>;

    /// Whether several servers may have it open at the same time, so that a client finds its session at each of them (S34). Then
    ///
    /// - each session is one server's, and a batch writes no entry of one that is another's: [`Batch::taken`]. Whose it is must
    ///   be decided in the batch's own transaction;
    /// - [`claim`](Ledger::claim) makes a session this server's;
    /// - all servers have one [`Identity::server`], and the numbers of commits grow through all of them: a claim knows of each
    ///   number that any server has reported;
    /// - [`recover`](Ledger::recover) gives back sessions of servers that have ended, and makes them this one's; or none,
    ///   and then their leases run only once they are claimed.
    fn shared(&self) -> bool {
        false
    }

    /// Finds out whose a session is, whose client has come here; and unless it is this server's already, makes it that, durably,
    /// and reads what is recorded of it. Called only if it is [`shared`](Ledger::shared). Does not block; a few claims of other
    /// sessions, and batches with nothing of this one, may come before it is answered.
    ///
    /// From then on, no other server's batch may write anything of the session, late as it may come.
    fn claim(&self, claim: Claim) {
        claim.unavailable(LedgerError::new("this ledger is not shared"));
    }

    /// How many batches may be under way at once, each in a [lane](Batch::lane) of its own: one unless said otherwise.
    ///
    /// All entries of a session that are under way are in one batch, so those of two batches may become durable in any order, and no
    /// claim is under way with a batch that has entries of its session. But transactional calls of different sessions then run at the
    /// same time, and what keeps them apart is the store.
    fn lanes(&self) -> usize {
        1
    }

    /// Most transactional calls of a batch, where there are several [lanes](Ledger::lanes): no limit unless said otherwise. A batch has either
    /// such calls or other entries then. Two batches of
    /// several calls that lock the same rows, each in its own order, end as a deadlock; those of one call do no more than
    /// that call does.
    fn batch_calls_max(&self) -> usize {
        usize::MAX
    }

    /// Makes a batch durable, in order and as a whole, and then calls [`Batch::finish`]. Does not block; the next batch of its lane
    /// comes after the finish of this one.
    ///
    /// After an error no other batch comes (S31), but those in the other lanes may still become durable, and are finished as they end.
    fn commit(&self, batch: Batch<Self::Transaction>);
}

/// Whose records a ledger holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The server id: random, made with the ledger, and new for a copy (S32).
    pub server: ServerId,
    /// The number of the last durable commit: grows with each.
    pub commit: u64,
}

/// A transactional handler's decision that nothing of the call may remain: `NotExecuted(Aborted)` to the client.
///
/// Every error becomes one with `?`. An answer that the client must read is not a rollback but a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollback(String);

impl Rollback {
    /// Rolls back for this reason, which stays at the server.
    pub fn new(why: impl Into<String>) -> Rollback {
        Rollback(why.into())
    }

    /// The reason.
    pub fn why(&self) -> &str {
        &self.0
    }
}

impl<E: std::error::Error> From<E> for Rollback {
    fn from(error: E) -> Rollback {
        Rollback(error.to_string())
    }
}

/// No ledger: what is kept is kept in memory.
#[derive(Clone, Copy, Debug)]
pub struct NoLedger;
