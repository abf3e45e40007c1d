//! The client's end of an upload.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::messages::{Commit, Committed, HEADER_LEN};
use super::sender::{Phase, Sender};
use super::{UploadBreak, UploadError, UploadMethod};
use crate::client::{Call, CallFailure, Client, Outcome, Ticket};
use crate::method::Method;
use crate::stream::item::{Codec, Piece, put};

impl Client {
    /// Sends a stream of items, and then commits it: see [`upload`](crate::stream::upload). It is opened when its first chunk is
    /// sent. Feature `stream`.
    pub fn upload<A: Serialize, T, R>(
        &self,
        method: &UploadMethod<A, T, R>,
        arguments: &A,
    ) -> Upload<T, R> {
        let UploadMethod { name, shape, codec, typed, .. } = *method;
        Upload {
            sender: Sender::new(self, (name, typed), shape, postcard::to_allocvec(arguments).ok()),
            codec,
            position: 0,
            draft: vec![0; HEADER_LEN],
            rest: None,
            commit: method.commit(),
            end: End::Open,
        }
    }
}

/// A stream of items that a client sends: see [`upload`](crate::stream::upload).
///
/// Dropping it before the commit frees what it held, here and at the server, and nothing is committed.
#[must_use = "nothing takes effect before it is committed"]
pub struct Upload<T, R> {
    sender: Sender,
    codec: Codec<T>,
    /// Behind the last item that was taken.
    position: u64,
    /// The header's place, and the items of the next chunk.
    draft: Vec<u8>,
    /// What has not gone into a chunk yet.
    rest: Option<Piece>,
    commit: Method<Commit, Committed<R>>,
    end: End<R>,
}

/// How far its end has come.
enum End<R> {
    /// It may still be committed.
    Open,
    Committing(Call<Committed<R>>),
    /// The commit's outcome was not known.
    InDoubt(Ticket<Committed<R>>),
    Over(UploadBreak),
}

impl<T, R: DeserializeOwned + 'static> Upload<T, R> {
    /// Continues the upload with this [`id`](Upload::id), of a [`resumable`](UploadMethod::resumable) method, instead of a new one;
    /// the arguments are those of the first. [`ready`](Upload::ready) says at which position. For an upload that has begun it has
    /// no effect.
    pub fn resume(mut self, id: u64) -> Self {
        self.sender.resume(id);
        self
    }

    /// The upload breaks when the server has not answered for this long, and the commit may take as long:
    /// [`ClientOptions::timeout`](crate::ClientOptions::timeout) unless this says otherwise.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.sender.timeout = timeout;
        self
    }

    /// What the server knows it by. It is no secret, but the same caller can continue the upload with it.
    pub fn id(&self) -> u64 {
        self.sender.id
    }

    /// Items that were given to [`send`](Upload::send), or bytes, from the upload's begin on.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Opens it, if it is not open, and says at which position it continues: where the server has all before it. Only an upload that
    /// is [resumed](Upload::resume) need wait for this.
    ///
    /// # Errors
    /// Why it could not be opened.
    pub async fn ready(&mut self) -> Result<u64, UploadError> {
        poll_fn(|cx| self.poll_open(cx)).await.map_err(|why| self.fail(why))?;
        Ok(self.position)
    }

    /// Takes an item, and waits while there is no credit for the chunk that it fills. Items are sent when they fill a chunk, with
    /// [`flush`](Upload::flush), and with the commit.
    ///
    /// An item whose future was dropped while it waited was taken or not: [`position`](Upload::position) says which.
    ///
    /// # Errors
    /// Why the upload broke; or that this item was not taken.
    pub async fn send(&mut self, item: T) -> Result<(), UploadError> {
        self.ready().await?;
        // What is left of an item whose future was dropped.
        poll_fn(|cx| self.poll_rest(cx)).await.map_err(|why| self.fail(why))?;
        let len_max = self.sender.shape.chunk_len as usize;
        let Some(piece) = self.codec.encode(item).filter(|piece| piece.fits(len_max)) else {
            return Err(UploadError { position: self.position, why: UploadBreak::ItemTooLong });
        };
        self.position += piece.advance();
        self.rest = Some(piece);
        poll_fn(|cx| self.poll_rest(cx)).await.map_err(|why| self.fail(why))
    }

    /// Sends what does not fill a chunk yet: for items that come one by one, and must not wait for others.
    ///
    /// # Errors
    /// Why the upload broke.
    pub async fn flush(&mut self) -> Result<(), UploadError> {
        self.ready().await?;
        poll_fn(|cx| self.poll_flush(cx)).await.map_err(|why| self.fail(why))
    }

    /// Sends what is left, and commits: the function at the server reads its last item and then `None`, and what it returns is the
    /// reply. This is one call, which runs at most once.
    ///
    /// It may be awaited again after an error: if the commit was not executed it is made again, and if that is not known this waits
    /// for the answer. It never commits twice. Dropping its future does not stop the call; dropping the upload cancels it.
    ///
    /// # Errors
    /// [`UploadError::executed`] says whether it was committed.
    pub async fn commit(&mut self) -> Result<R, UploadError> {
        let outcome = match &mut self.end {
            End::Over(why) => return Err(UploadError { position: self.position, why: *why }),
            End::InDoubt(ticket) => ticket.wait().await,
            End::Open | End::Committing(_) => {
                poll_fn(|cx| self.poll_commit(cx)).await.map_err(|why| self.fail(why))?
            }
        };
        let why = match outcome {
            Outcome::Reply(Committed::Done(reply)) => {
                self.end = End::Over(UploadBreak::Over);
                self.sender.forget();
                return Ok(reply);
            }
            Outcome::Reply(Committed::No(why)) => return Err(self.fail(why.into())),
            Outcome::NotExecuted(why) => {
                self.end = End::Open;
                UploadBreak::Commit(CallFailure::NotExecuted(why))
            }
            Outcome::Unknown(why, Some(ticket)) => {
                self.end = End::InDoubt(ticket);
                UploadBreak::Commit(CallFailure::Unknown(why))
            }
            Outcome::Unknown(why, None) => {
                return Err(self.fail(UploadBreak::Commit(CallFailure::Unknown(why))));
            }
            Outcome::NoReply(why) => {
                return Err(self.fail(UploadBreak::Commit(CallFailure::NoReply(why))));
            }
        };
        Err(UploadError { position: self.position, why })
    }

    /// Leaves it at the server, uncommitted, for another client to [`resume`](Upload::resume) it by this id, also after it broke:
    /// what is in no chunk yet, and chunks that are on their way, may not be in it. Of a method that is not resumable it is gone
    /// soon. An upload that the server has not answered yet may be gone too, since its open is cancelled: to resume it ends as
    /// [`NothingToResume`](super::UploadBreak::NothingToResume).
    pub fn detach(mut self) -> u64 {
        self.sender.forget();
        self.sender.id
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadBreak>> {
        if let End::Over(why) = self.end {
            return Poll::Ready(Err(why));
        }
        let opened = ready!(self.sender.poll_open(cx))?;
        self.position += opened.unwrap_or(0);
        Poll::Ready(Ok(()))
    }

    /// Puts what is left of an item into chunks.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadBreak>> {
        let len_max = self.sender.shape.chunk_len as usize;
        loop {
            // What is no item was not taken.
            let put = put(&mut self.rest, &mut self.draft, HEADER_LEN, len_max);
            put.map_err(|_| UploadBreak::ItemTooLong)?;
            if self.rest.is_none() && self.draft.len() < HEADER_LEN + len_max {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_draft(cx))?;
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadBreak>> {
        ready!(self.poll_rest(cx))?;
        if self.draft.len() > HEADER_LEN { self.poll_draft(cx) } else { Poll::Ready(Ok(())) }
    }

    /// Sends the draft as the next chunk.
    fn poll_draft(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadBreak>> {
        ready!(self.sender.poll_credit(cx))?;
        let fresh = {
            let mut fresh = Vec::with_capacity(self.draft.len());
            fresh.resize(HEADER_LEN, 0);
            fresh
        };
        let draft = std::mem::replace(&mut self.draft, fresh);
        let end = self.position - self.rest.as_ref().map_or(0, Piece::advance);
        self.sender.send(draft, end);
        Poll::Ready(Ok(()))
    }

    fn poll_commit(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Outcome<Committed<R>>, UploadBreak>> {
        if let End::Open = self.end {
            ready!(self.poll_open(cx))?;
            match ready!(self.poll_sent(cx)) {
                // What the function has returned is what the commit brings.
                Ok(()) | Err(UploadBreak::Stopped) => {}
                Err(why) => return Poll::Ready(Err(why)),
            }
            if self.sender.shape.transactional {
                ready!(self.sender.poll_ended(cx))?;
            }
            let Sender { id, writer, next, timeout, ref client, .. } = self.sender;
            let message = Commit { id, writer, chunks: next };
            self.end = End::Committing(client.call(&self.commit, &message).timeout(timeout));
        }
        let End::Committing(call) = &mut self.end else {
            debug_assert!(false, "the commit's call was begun");
            return Poll::Ready(Err(UploadBreak::Over));
        };
        Pin::new(call).poll(cx).map(Ok)
    }

    /// All that was taken has arrived at the server.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadBreak>> {
        ready!(self.poll_flush(cx))?;
        self.sender.poll_arrived(cx)
    }

    /// It is over, unless the function has only stopped to read. What can be resumed is left at the server until this is
    /// dropped.
    fn fail(&mut self, why: UploadBreak) -> UploadError {
        if why != UploadBreak::Stopped {
            self.end = End::Over(why);
            match self.sender.shape.resumable {
                true => self.sender.end_calls(),
                false => self.sender.close(),
            }
        }
        UploadError { position: self.position, why }
    }
}

impl<T, R> fmt::Debug for Upload<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match (&self.end, &self.sender.phase) {
            (End::Over(_), _) => "over",
            (End::InDoubt(_), _) => "in doubt",
            (End::Committing(_), _) => "committing",
            (End::Open, Phase::Fresh) => "not opened",
            (End::Open, Phase::Opening(_)) => "opening",
            (End::Open, Phase::Open | Phase::Stopped) => "open",
        };
        f.debug_struct("Upload")
            .field("id", &self.sender.id)
            .field("position", &self.position)
            .field("phase", &phase)
            .finish_non_exhaustive()
    }
}
