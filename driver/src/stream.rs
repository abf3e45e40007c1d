//! Streams of items, and bodies that are too large for one reply: feature `stream`.
//!
//! ```
//! use oncewire_driver::stream::{StreamError, StreamMethod};
//! use oncewire_driver::{Client, Context, Server};
//! use smol::stream;
//!
//! /// The numbers below a limit. It can be read from any of them on.
//! const COUNT: StreamMethod<u64, u64> = StreamMethod::new("toy/count").resumable();
//!
//! let count = |_: Context, below: u64, from: u64| async move { stream::iter(from..below) };
//! let server = Server::builder("toy").stream(&COUNT, count).build()?;
//!
//! async fn sum(client: &Client) -> Result<u64, StreamError> {
//!     let mut numbers = client.stream(&COUNT, &1_000);
//!     let mut sum = 0;
//!     while let Some(number) = numbers.next().await {
//!         sum += number?;
//!     }
//!     Ok(sum)
//! }
//! # drop(server);
//! # Ok::<(), oncewire_driver::BuildError>(())
//! ```
//!
//! # A stream is calls
//!
//! The protocol knows nothing of streams. A stream is opened by a call that runs at most once, and read by calls that each ask
//! for the next *chunk*: as many items as there are, [`chunk_len`](StreamMethod::chunk_len) bytes at most. Those are idempotent,
//! since they name the chunk by its number and the server keeps each chunk until the client says that it has it: so a connection
//! that breaks costs nothing but time, and a chunk is neither lost nor received twice. They leave no record in a ledger.
//!
//! The *credit* is the number of chunks that a client asks for ahead of its reader
//! ([`credit`](StreamMethod::credit)). It bounds what a stream costs, and is the back-pressure:
//!
//! | | holds at most |
//! |---|---|
//! | server | the credit's chunks, one more in the making, and the piece that the function gave last; it is polled only while a chunk is asked for |
//! | client | the credit's chunks, and the one that is read |
//! | slots | the credit, while a chunk is awaited that the server does not have yet: each for two seconds at most, after which only a reader that still waits asks again |
//!
//! A stream that nothing reads so comes to rest: it holds no slot, and the function at the server is not polled. Between two chunks
//! other calls of the connection pass, so that a small call waits for the credit's bytes at most and not for the whole body.
//!
//! All streams of a method hold at most 256 MiB of chunks at a server, and as much of arguments: those of one may take as much
//! memory as its chunks, 64 KiB at least, and are [`BadArguments`](crate::NotExecuted::BadArguments) beyond that. A session has at
//! most 64 streams of a method, and as many as are left for others: one more is not opened, and ends as
//! [`NotExecuted(Overloaded)`](crate::NotExecuted::Overloaded).
//!
//! # How a stream ends
//!
//! | at the client | what it means |
//! |---|---|
//! | `None` | the function's stream has ended, and all items of it were received |
//! | [`StreamError`] | it broke: all items before its position were received, those after it were not |
//!
//! A client that drops a stream says so to the server, which drops the function's stream. So does a server whose client's session has
//! ended: within some seconds, not at the moment at which the connection breaks, since it may come back. A stream of which the server
//! knows nothing any more, because it was started again or the session is over, continues by itself where its method is
//! [`resumable`](StreamMethod::resumable): it is opened again at the position that the reader has reached. The position is the number
//! of items, or of bytes for a stream of [`bytes`](StreamMethod::bytes). Else it breaks as [`Lost`](StreamBreak::Lost).
//!
//! | file | what it does |
//! |---|---|
//! | `stream.rs` | a method that returns a stream, and why one breaks |
//! | `stream/messages.rs` | what the calls of a stream say |
//! | `stream/item.rs` | items as bytes, and back |
//! | `stream/client.rs` | the client's end |
//! | `stream/outgoing.rs` | a stream of items without its type |
//! | `stream/server.rs` | how a server offers one, and which are open |
//! | `stream/source.rs` | an open one at the server: its function's stream, and the chunks that were not received yet |
//! | `stream/upload.rs` | the other direction: [`upload`] |

mod client;
mod item;
mod messages;
mod outgoing;
mod server;
mod source;
pub mod upload;

use std::fmt;

use bytes::Bytes;
use oncewire_core::MethodId;
use oncewire_schema::{self as schema, Field, Fields, Link, Named, Schema, Signature, Type};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::CallFailure;
use crate::method::Typed;
use crate::signatures::MethodSignature;
pub use client::ServerStream;
use item::Codec;
pub use outgoing::Outgoing;
pub use upload::{Commit, Incoming, Upload, UploadBreak, UploadError, UploadMethod};

/// A method that returns a stream of items: its name, the types of its arguments and its items, and what it may cost.
///
/// Client and server use the same constant. It has the number of the method of the same name, and two more: of
/// `NAME#next` and `NAME#close`. A server's [`authorize`](crate::ServerBuilder::authorize) is asked for each by `NAME`.
pub struct StreamMethod<A, T> {
    name: &'static str,
    shape: Shape,
    codec: Codec<T>,
    typed: Option<Typed>,
    types: std::marker::PhantomData<fn(A) -> T>,
}

/// What does not depend on the types.
#[derive(Clone, Copy, Debug)]
struct Shape {
    open: MethodId,
    next: MethodId,
    close: MethodId,
    chunk_len: u32,
    credit: u32,
    resumable: bool,
}

/// Twice what is read from a connection at once: most of such a chunk is received where it stays, without a copy. With 64 KiB
/// all of it is copied, and streams are half as fast.
const CHUNK_LEN: u32 = 128 << 10;
/// One is on its way while the other is made or read. With four, streams are no faster on loopback, and small calls wait longer.
const CREDIT: u32 = 2;
/// So many chunks that a server may be asked to keep.
const CREDIT_MAX: u32 = 64;

impl<A, T: Serialize + DeserializeOwned + 'static> StreamMethod<A, T> {
    /// Items of a type. Each is encoded as an argument is, and must fit into a chunk.
    pub const fn new(name: &'static str) -> StreamMethod<A, T> {
        StreamMethod::with_codec(name, Codec::postcard())
    }
}

impl<A> StreamMethod<A, Bytes> {
    /// Bytes: what the function gives in pieces of any length is read in pieces of at most a chunk, cut anywhere.
    pub const fn bytes(name: &'static str) -> StreamMethod<A, Bytes> {
        StreamMethod::with_codec(name, Codec::bytes())
    }
}

impl<A, T> StreamMethod<A, T> {
    const fn with_codec(name: &'static str, codec: Codec<T>) -> StreamMethod<A, T> {
        let open = MethodId::of(name);
        let (next, close) = (beside(open, b"#next"), beside(open, b"#close"));
        let shape =
            Shape { open, next, close, chunk_len: CHUNK_LEN, credit: CREDIT, resumable: false };
        StreamMethod { name, shape, codec, typed: None, types: std::marker::PhantomData }
    }

    /// Its opens are compared with the server's by this, as calls are (S33). A chunk is asked for where the stream was opened.
    #[doc(hidden)]
    pub const fn with_signature(mut self, signature: Option<Signature>) -> Self {
        self.typed = typed(self.shape.open, signature);
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

    /// It can be opened at any position: the same arguments give the same items, and the function begins at the position that it
    /// is given. The stream then survives the server that it was opened at. Without this, the function is only given 0.
    pub const fn resumable(mut self) -> Self {
        self.shape.resumable = true;
        self
    }

    /// A chunk has at most this many bytes, and so has an item; 128 KiB unless this says otherwise. It must fit into the replies that
    /// client and server allow.
    pub const fn chunk_len(mut self, len: u32) -> Self {
        self.shape.chunk_len = chunk_len(len);
        self
    }

    /// This many chunks are asked for ahead of the reader: 2 unless this says otherwise, 1 at least and 64 at most. More are for
    /// connections of which a round trip takes long.
    pub const fn credit(mut self, chunks: u32) -> Self {
        self.shape.credit = credit(chunks);
        self
    }

    /// Its full name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Its number: a hash of the name.
    pub const fn id(&self) -> MethodId {
        self.shape.open
    }
}

const fn typed(id: MethodId, signature: Option<Signature>) -> Option<Typed> {
    match signature {
        Some(signature) => Some(Typed { id, signature, service: None }),
        None => None,
    }
}

const fn typed_in(typed: Option<Typed>, methods: fn() -> Vec<MethodSignature>) -> Option<Typed> {
    match typed {
        Some(Typed { id, signature, .. }) => Some(Typed { id, signature, service: Some(methods) }),
        None => None,
    }
}

const fn described(name: &'static str, typed: Option<Typed>) -> Option<MethodSignature> {
    match typed {
        Some(Typed { signature, .. }) => Some(MethodSignature { name, signature }),
        None => None,
    }
}

/// How a stream of items stands in a signature: as nothing that a value could be, since what opens a stream is no plain call.
struct StreamOf<T>(std::marker::PhantomData<fn() -> T>);

impl<T: Schema> StreamOf<T> {
    const PARAMETERS: &[Link] = &[T::LINK];
    const FIELDS: &[Field] = &[Field { name: "each item", of: T::LINK }];

    const fn named(name: &'static str) -> Type {
        let shape = schema::Shape::Struct(Fields::Named(Self::FIELDS));
        Type::Named(Named { name, parameters: Self::PARAMETERS, shape })
    }
}

/// What stands for [`Bytes`] there: the pieces of a body, which are no values.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum BodyBytes {}

impl Schema for BodyBytes {
    const TYPE: Type = {
        const FIELDS: &[Field] = &[Field { name: "of a body", of: <Vec<u8> as Schema>::LINK }];
        let shape = schema::Shape::Struct(Fields::Named(FIELDS));
        Type::Named(Named { name: "Bytes", parameters: &[], shape })
    };
}

const fn chunk_len(len: u32) -> u32 {
    if len < 16 { 16 } else { len }
}

const fn credit(chunks: u32) -> u32 {
    match chunks {
        0 => 1,
        chunks if chunks > CREDIT_MAX => CREDIT_MAX,
        chunks => chunks,
    }
}

/// The number of the method with this name and `suffix`: FNV-1a of the suffix, begun with the name's.
const fn beside(method: MethodId, suffix: &[u8]) -> MethodId {
    let mut hash = method.number();
    let mut at = 0;
    while at < suffix.len() {
        hash = (hash ^ suffix[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    MethodId::from_number(hash)
}

impl<A, T> Clone for StreamMethod<A, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A, T> Copy for StreamMethod<A, T> {}

impl<A, T> fmt::Debug for StreamMethod<A, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamMethod")
            .field("name", &self.name)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

/// A stream broke: all items before its position were received, and none after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamError {
    /// Items that were received, or bytes, from the stream's begin on: where one of a resumable method can be
    /// [opened again](ServerStream::from_position).
    pub position: u64,
    /// Why.
    pub why: StreamBreak,
}

/// Why a stream broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamBreak {
    /// The call that opens it has no reply: this says whether the function was called.
    NotOpened(CallFailure),
    /// A call for more items has no reply.
    NoAnswer(CallFailure),
    /// The server knows nothing of it any more: it was started again, or the session is over.
    Lost,
    /// The function's stream panicked.
    Panicked,
    /// An item cannot be encoded, or has more bytes than a chunk.
    ItemTooLong,
    /// What came is no item of this type.
    Undecodable,
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the stream broke at position {}: ", self.position)?;
        match &self.why {
            StreamBreak::NotOpened(why) => write!(f, "it could not be opened: {why}"),
            StreamBreak::NoAnswer(why) => why.fmt(f),
            StreamBreak::Lost => f.write_str("the server knows nothing of it any more"),
            StreamBreak::Panicked => f.write_str("the function's stream panicked at the server"),
            StreamBreak::ItemTooLong => {
                f.write_str("the next item cannot be encoded, or is longer than a chunk")
            }
            StreamBreak::Undecodable => f.write_str("what came is no item of this type"),
        }
    }
}

impl std::error::Error for StreamError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_names() {
        const COUNT: StreamMethod<u64, u64> = StreamMethod::new("toy/count").credit(0);
        assert_eq!(COUNT.shape.open, MethodId::of("toy/count"));
        assert_eq!(COUNT.shape.next, MethodId::of("toy/count#next"));
        assert_eq!(COUNT.shape.close, MethodId::of("toy/count#close"));
        assert_eq!((COUNT.shape.credit, COUNT.credit(1_000).shape.credit), (1, CREDIT_MAX));
    }
}
