//! Uploads: streams of items that a client sends, which take effect by one commit.
//!
//! ```
//! use oncewire_driver::stream::{Incoming, UploadError, UploadMethod};
//! use oncewire_driver::{Client, Context, Server};
//!
//! /// The sum of numbers, counted from another.
//! const SUM: UploadMethod<u64, u64, u64> = UploadMethod::new("toy/sum");
//!
//! async fn sum(_: Context, from: u64, mut numbers: Incoming<u64>) -> u64 {
//!     let mut sum = from;
//!     while let Some(number) = numbers.next().await {
//!         sum += number;
//!     }
//!     // From here on it is the call that commits: what changes something belongs here.
//!     sum
//! }
//! let server = Server::builder("toy").upload(&SUM, sum).build()?;
//!
//! async fn send(client: &Client) -> Result<u64, UploadError> {
//!     let mut numbers = client.upload(&SUM, &100);
//!     for number in 0..1_000 {
//!         numbers.send(number).await?;
//!     }
//!     numbers.commit().await
//! }
//! # drop(server);
//! # Ok::<(), oncewire_driver::BuildError>(())
//! ```
//!
//! | what | how it is called | how often it runs |
//! |---|---|---|
//! | open | at most once | its function begins to read |
//! | chunks | idempotent: each has its number | the server takes each once |
//! | end, of a transactional method | idempotent | the function reads `None`, and returns its [`Commit`] |
//! | commit | at most once; with a ledger it is recorded, or [transactional](#a-commit-in-a-transaction) | the function reads `None`, and what it returns is the reply |
//!
//! The function runs while chunks arrive, and so needs no memory for all of them. It reads `None` only when the commit's call was
//! started: what it does before that must have no effect that lasts (a temporary file, a hash), and what it does after it is done
//! by a call like any other. A function whose upload ends without a commit is dropped where it waits.
//!
//! The client sends as many chunks ahead as its [`credit`](UploadMethod::credit) allows: so many the server holds at most, the one
//! that is read among them. [`send`](Upload::send) waits while there is no credit. While nothing reads, an upload holds no slot
//! for more than two seconds, unless a sender waits.
//!
//! # How an upload ends
//!
//! | [`commit`](Upload::commit) returns | what it means |
//! |---|---|
//! | `Ok` | the function has returned this |
//! | an error whose [`executed`](UploadError::executed) is `No` | the function has not read `None` and never will: the upload was lost, or the commit was not started |
//! | one for which it is `Yes` | it has, and there is no reply: it has panicked, say |
//! | one for which it is `Unknown` | the connection or the session was lost during the commit: `commit` may be awaited again if the answer may still come. Or there was nothing to [`resume`](Upload::resume): it may have been committed before |
//!
//! A connection that breaks costs nothing but time. A server that was started again, or the end of the session, loses the upload;
//! one of a [`resumable`](UploadMethod::resumable) method survives its session for a minute, and [`resume`](Upload::resume)
//! continues it from another client, or another process. The writer that it had before can then neither commit nor drop it.
//!
//! # A commit in a transaction
//!
//! With a ledger, the commit of a [`transactional`](UploadMethod::transactional) method is one transaction: what it writes and the
//! record of its reply become durable together, or not at all. Its function returns what to do, a [`Commit`]:
//!
//! ```
//! use oncewire_driver::ledger::Ledger;
//! use oncewire_driver::stream::{Commit, Incoming, UploadMethod};
//! use oncewire_driver::{Context, ServerBuilder};
//! # struct Transaction;
//! # impl Transaction { fn insert(&mut self, _: &str, _: u64) -> std::io::Result<()> { Ok(()) } }
//!
//! /// Keeps the sum of numbers under a name.
//! const KEEP: UploadMethod<String, u64, u64> = UploadMethod::new("toy/keep").transactional();
//!
//! async fn keep(_: Context, name: String, mut numbers: Incoming<u64>) -> Commit<Transaction, u64> {
//!     let mut sum = 0;
//!     while let Some(number) = numbers.next().await {
//!         sum += number;
//!     }
//!     Commit::new(move |transaction: &mut Transaction, _| {
//!         transaction.insert(&name, sum)?;
//!         Ok(sum)
//!     })
//! }
//!
//! fn offer<L: Ledger<Transaction = Transaction>>(builder: ServerBuilder<L>) -> ServerBuilder<L> {
//!     builder.upload_transactional(&KEEP, keep)
//! }
//! ```
//!
//! The function reads `None` when the client has sent all, before the commit's call: what it does then must have no effect that lasts
//! either. A crash before the commit's record loses the upload, and the commit ends as not executed; behind it the client gets the
//! reply that was kept. A commit that was rolled back may be made again.
//!
//! | file | what it does |
//! |---|---|
//! | `upload.rs` | a method that takes an upload, and why one breaks |
//! | `upload/messages.rs` | what the calls of an upload say |
//! | `upload/client.rs` | the client's end |
//! | `upload/sender.rs` | the calls that carry its chunks |
//! | `upload/server.rs` | how a server offers one, and which are open |
//! | `upload/queue.rs` | chunks that have arrived and were not read yet |
//! | `upload/incoming.rs` | the items in them, for the function |
//! | `upload/commit.rs` | a commit in the ledger's transaction |
//! | `upload/staging.rs` | the function, until the commit's call takes it over |

mod client;
mod commit;
mod incoming;
mod messages;
mod queue;
mod sender;
mod server;
mod staging;

use std::fmt;

use bytes::Bytes;
use oncewire_core::{Executed, MethodId};
use oncewire_schema::Signature;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::item::Codec;
use super::{CHUNK_LEN, CREDIT, beside, chunk_len, credit, described, typed, typed_in};
use crate::client::CallFailure;
use crate::method::{Method, Typed};
use crate::signatures::MethodSignature;
pub use client::Upload;
pub use commit::Commit;
pub use incoming::Incoming;
use messages::ServerBreak;

/// A method that takes an upload: its name, the types of its arguments, its items and its reply, and what it may cost.
///
/// Client and server use the same constant. Its commit has the number of the method of the same name; there are more, of
/// `NAME#open`, `NAME#put`, `NAME#close` and, if it is transactional, `NAME#end`. A server's [`authorize`](crate::ServerBuilder::authorize) is asked for each by `NAME`.
pub struct UploadMethod<A, T, R> {
    name: &'static str,
    shape: Shape,
    codec: Codec<T>,
    typed: Option<Typed>,
    types: std::marker::PhantomData<fn(A, T) -> R>,
}

/// What does not depend on the types.
#[derive(Clone, Copy, Debug)]
struct Shape {
    open: MethodId,
    put: MethodId,
    close: MethodId,
    end: MethodId,
    chunk_len: u32,
    credit: u32,
    reply_len_max: Option<u32>,
    resumable: bool,
    transactional: bool,
}

impl<A, T: Serialize + DeserializeOwned + 'static, R> UploadMethod<A, T, R> {
    /// Items of a type. Each is encoded as an argument is, and must fit into a chunk.
    pub const fn new(name: &'static str) -> UploadMethod<A, T, R> {
        UploadMethod::with_codec(name, Codec::postcard())
    }
}

impl<A, R> UploadMethod<A, Bytes, R> {
    /// Bytes: what the client sends in pieces of any length is read in pieces of at most a chunk, cut anywhere.
    pub const fn bytes(name: &'static str) -> UploadMethod<A, Bytes, R> {
        UploadMethod::with_codec(name, Codec::bytes())
    }
}

impl<A, T, R> UploadMethod<A, T, R> {
    const fn with_codec(name: &'static str, codec: Codec<T>) -> UploadMethod<A, T, R> {
        let commit = MethodId::of(name);
        let shape = Shape {
            open: beside(commit, b"#open"),
            put: beside(commit, b"#put"),
            close: beside(commit, b"#close"),
            end: beside(commit, b"#end"),
            chunk_len: CHUNK_LEN,
            credit: CREDIT,
            reply_len_max: None,
            resumable: false,
            transactional: false,
        };
        UploadMethod { name, shape, codec, typed: None, types: std::marker::PhantomData }
    }

    /// What opens and what commits it is compared with the server's by this, as calls are (S33). A chunk is sent to where the
    /// upload was opened.
    #[doc(hidden)]
    pub const fn with_signature(mut self, signature: Option<Signature>) -> Self {
        self.typed = typed(self.id(), signature);
        self
    }

    /// See [`Method::in_service`](crate::Method::in_service).
    #[doc(hidden)]
    pub const fn in_service(mut self, methods: fn() -> Vec<MethodSignature>) -> Self {
        self.typed = typed_in(self.typed, methods);
        self
    }

    /// Its name and its signature, if it has one: see [`Method::described`](crate::Method::described).
    pub const fn described(&self) -> Option<MethodSignature> {
        described(self.name, self.typed)
    }

    /// Its commit, as a method that is compared.
    const fn commit<C, K>(&self) -> Method<C, K> {
        let commit = Method::new(self.name);
        match self.typed {
            None => commit,
            Some(Typed { signature, service, .. }) => {
                let commit = commit.with_signature(Some(signature));
                match service {
                    Some(methods) => commit.in_service(methods),
                    None => commit,
                }
            }
        }
    }

    /// An upload survives its client's session for a minute, so that it can be [resumed](Upload::resume). Without this the server
    /// drops it some seconds after the session has ended.
    pub const fn resumable(mut self) -> Self {
        self.shape.resumable = true;
        self
    }

    /// Its commit runs in the ledger's transaction: see [`upload`](crate::stream::upload#a-commit-in-a-transaction). A server offers it
    /// by [`upload_transactional`](crate::ServerBuilder::upload_transactional).
    pub const fn transactional(mut self) -> Self {
        self.shape.transactional = true;
        self
    }

    /// A chunk has at most this many bytes, and so has an item; 128 KiB unless this says otherwise. It must fit into the requests
    /// that client and server allow.
    pub const fn chunk_len(mut self, len: u32) -> Self {
        self.shape.chunk_len = chunk_len(len);
        self
    }

    /// This many chunks are sent ahead of their reader: 2 unless this says otherwise, 1 at least and 64 at most. More are for
    /// connections of which a round trip takes long.
    pub const fn credit(mut self, chunks: u32) -> Self {
        self.shape.credit = credit(chunks);
        self
    }

    /// The commit's reply has at most `len` bytes, as [`Method::reply_len_max`](crate::Method::reply_len_max) says it.
    pub const fn reply_len_max(mut self, len: u32) -> Self {
        self.shape.reply_len_max = Some(len);
        self
    }

    /// Its full name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The number of its commit: a hash of the name.
    pub const fn id(&self) -> MethodId {
        MethodId::of(self.name)
    }
}

impl<A, T, R> Clone for UploadMethod<A, T, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A, T, R> Copy for UploadMethod<A, T, R> {}

impl<A, T, R> fmt::Debug for UploadMethod<A, T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadMethod")
            .field("name", &self.name)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

/// An upload broke, an item was not taken, or the commit has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UploadError {
    /// Items that were given to [`send`](Upload::send), or bytes, from the upload's begin on.
    pub position: u64,
    /// Why.
    pub why: UploadBreak,
}

impl UploadError {
    /// Whether the upload was committed: by this client, or by one that had it before.
    pub fn executed(&self) -> Executed {
        match self.why {
            UploadBreak::Commit(why) => why.executed(),
            UploadBreak::NothingToResume => Executed::Unknown,
            _ => Executed::No,
        }
    }
}

/// Why an upload broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UploadBreak {
    /// The call that opens it has no reply. Nothing was committed.
    NotOpened(CallFailure),
    /// A call that carries items has no reply. Nothing was committed.
    NoAnswer(CallFailure),
    /// The server knows nothing of it any more: it was started again, or the session is over. Nothing was committed.
    Lost,
    /// The server knows of no upload to [`resume`](Upload::resume) by this id: it was committed before, or dropped, or lost.
    NothingToResume,
    /// The function panicked before the commit.
    Panicked,
    /// The function has returned without reading all items: [`commit`](Upload::commit) brings what it has returned.
    Stopped,
    /// The item cannot be encoded, or has more bytes than a chunk. It was not sent, and the upload may continue without it.
    ItemTooLong,
    /// What was sent is no item for the server, or what it has answered is no answer.
    Undecodable,
    /// The commit's call has no reply: this says whether it was executed.
    Commit(CallFailure),
    /// It was committed before.
    Over,
}

impl From<ServerBreak> for UploadBreak {
    fn from(why: ServerBreak) -> UploadBreak {
        match why {
            ServerBreak::Lost => UploadBreak::Lost,
            ServerBreak::Panicked => UploadBreak::Panicked,
            ServerBreak::Undecodable => UploadBreak::Undecodable,
        }
    }
}

impl fmt::Display for UploadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let UploadBreak::Commit(why) = &self.why {
            return write!(f, "the upload's commit: {why}");
        }
        write!(f, "the upload stopped at position {}: ", self.position)?;
        match &self.why {
            UploadBreak::NotOpened(why) => write!(f, "it could not be opened: {why}"),
            UploadBreak::NoAnswer(why) => write!(f, "not committed; its items: {why}"),
            UploadBreak::Lost => {
                f.write_str("not committed: the server knows nothing of it any more")
            }
            UploadBreak::NothingToResume => {
                f.write_str("there is none to resume: it was committed before, or is lost")
            }
            UploadBreak::Panicked => {
                f.write_str("not committed: the function panicked at the server")
            }
            UploadBreak::Stopped => f.write_str("the function reads no more items"),
            UploadBreak::ItemTooLong => {
                f.write_str("the item cannot be encoded, or is longer than a chunk")
            }
            UploadBreak::Undecodable => {
                f.write_str("not committed: client and server disagree about the method's types")
            }
            UploadBreak::Commit(why) => why.fmt(f),
            UploadBreak::Over => f.write_str("it was committed before"),
        }
    }
}

impl std::error::Error for UploadError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BuildError, Context, Server};

    #[test]
    fn an_upload_that_is_offered_in_another_way_than_it_is_declared_is_not_built() {
        const KEEP: UploadMethod<(), u64, ()> = UploadMethod::new("toy/keep").transactional();
        let keep = |_: Context, (): (), _: Incoming<u64>| async {};
        let built = Server::builder("toy").upload(&KEEP, keep).build();
        let (method, offer) = ("toy/keep", "upload_transactional");
        assert_eq!(built.err(), Some(BuildError::UploadCommit { method, offer }));
    }
}
