//! A commit in the ledger's transaction.
//!
//! The function of such an upload reads its end before the commit's call, and what it returns stays in the table until then. The call
//! takes it out in its first run, and keeps it for the next one: a neighbour in the same transaction may be rolled back. If it is
//! rolled back itself, it puts the upload back, and the commit may be made again.

use std::fmt;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use bytes::Bytes;
use serde::Serialize;

use super::messages::{self, Committed, ServerBreak};
use super::server::{Entry, UploadTable};
use super::staging::Claimed;
use crate::buffer::encode;
use crate::caught::Guarded;
use crate::ledger::Rollback;
use crate::server::{Context, InTransaction};

type Run<X, R> = dyn Fn(&mut X, &Context) -> Result<R, Rollback> + Send;

/// What an upload does when it is committed, in the ledger's transaction `X`; `R` is the commit's reply. What the function of a
/// [`transactional`](super::UploadMethod::transactional) method returns.
pub struct Commit<X, R>(Box<Run<X, R>>);

impl<X, R> Commit<X, R> {
    /// What [`transactional`](crate::ServerBuilder::transactional) says of functions holds for this one: it runs on the ledger's
    /// thread, may run again, and does nothing but read and write in the transaction. An error or a panic rolls it back.
    pub fn new(
        run: impl Fn(&mut X, &Context) -> Result<R, Rollback> + Send + 'static,
    ) -> Commit<X, R> {
        Commit(Box::new(run))
    }
}

impl<X, R> fmt::Debug for Commit<X, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commit").finish_non_exhaustive()
    }
}

/// The commit's call.
pub(super) struct CommitCall<X: 'static, R: 'static> {
    table: Arc<UploadTable<Commit<X, R>>>,
    message: messages::Commit,
    /// Since its first run.
    claim: Option<Claim<X, R>>,
}

impl<X: 'static, R: 'static> CommitCall<X, R> {
    pub(super) fn new(
        table: Arc<UploadTable<Commit<X, R>>>,
        message: messages::Commit,
    ) -> CommitCall<X, R> {
        CommitCall { table, message, claim: None }
    }

    fn claim(&self, context: &Context) -> Result<Claim<X, R>, ServerBreak> {
        let messages::Commit { id, writer, .. } = self.message;
        let entry = self.table.take(context, id, writer).ok_or(ServerBreak::Lost)?;
        let table = self.table.clone();
        let mut claim =
            Claim { table, id, entry: Some(entry), commit: Guarded::new(None), succeeded: false };
        claim.take()?;
        Ok(claim)
    }
}

impl<X: 'static, R: Serialize + 'static> InTransaction<X> for CommitCall<X, R> {
    fn run(&mut self, transaction: &mut X, context: &Context) -> Result<Bytes, Rollback> {
        // Dropped if the run fails or panics: that puts it back.
        let claim = self.claim.take().map_or_else(|| self.claim(context), Ok);
        let mut claim = match claim {
            Ok(claim) => claim,
            Err(why) => return Ok(encode(&Committed::<R>::No(why))?.into_bytes()),
        };
        claim.succeeded = false;
        let reply = claim.run(transaction, context)?;
        let reply = encode(&Committed::Done(reply))?.into_bytes();
        claim.succeeded = true;
        self.claim = Some(claim);
        Ok(reply)
    }
}

/// An upload that a commit has taken out of the table.
struct Claim<X: 'static, R: 'static> {
    table: Arc<UploadTable<Commit<X, R>>>,
    id: messages::UploadId,
    entry: Option<Entry<Commit<X, R>>>,
    commit: Guarded<Option<Commit<X, R>>>,
    /// Its last run has.
    succeeded: bool,
}

impl<X: 'static, R: 'static> Claim<X, R> {
    /// Takes what the function has returned.
    fn take(&mut self) -> Result<(), ServerBreak> {
        let Some(entry) = &self.entry else { return Err(ServerBreak::Lost) };
        let mut cx = TaskContext::from_waker(Waker::noop());
        match entry.upload.poll_claim(&mut cx) {
            Poll::Ready(Claimed::Returned(commit)) => {
                self.commit = Guarded::new(Some(commit));
                return Ok(());
            }
            Poll::Ready(Claimed::Broken(why)) => return Err(why),
            // A client that commits without having said that it has sent all has no commit.
            Poll::Ready(Claimed::Function(_)) | Poll::Pending => {}
        }
        entry.upload.close();
        Err(ServerBreak::Lost)
    }

    fn run(&mut self, transaction: &mut X, context: &Context) -> Result<R, Rollback> {
        let commit = self.commit.get_mut().and_then(|commit| commit.as_ref());
        commit.map_or_else(
            || Err(Rollback::new("the upload is over")),
            |commit| (commit.0)(transaction, context),
        )
    }
}

impl<X: 'static, R: 'static> Drop for Claim<X, R> {
    fn drop(&mut self) {
        let commit = std::mem::replace(&mut self.commit, Guarded::new(None));
        if let (false, Some(entry)) = (self.succeeded, self.entry.take()) {
            // Without a commit it is closed, and stays out of the table.
            if entry.upload.give_back(commit) {
                self.table.put_back(self.id, entry);
            }
        }
    }
}
