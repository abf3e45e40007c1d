//! Drives the Oncewire protocol over any byte stream: **every call has one truthful outcome**.
//!
//! | to | use |
//! |---|---|
//! | make calls | [`Client`], [`Method`], [`Outcome`], [`Ticket`] |
//! | make them at several servers | [`Servers`] |
//! | execute them | [`Server`], [`ServerBuilder`], [`Context`] |
//! | write a transport | [`Connect`], [`Accept`], [`ByteStream`] |
//! | survive a crash of the server | [`ledger`], [`ServerBuilder::ledger`] |
//! | survive a crash of the client | [`journal`], [`DurableClient`] |
//! | keep secrets in files | [`files`] |
//! | describe types and methods | [`Schema`], [`schema`] |
//! | see what happens | [`observe`] |
//! | choose the executor, or simulate | [`Runtime`], [`SmolRuntime`] |
//!
//! The rules S1 to S34 that comments cite are stated in the core's `PROTOCOL.md`. What happens to a
//! call is decided in the core, and nowhere here.
//!
//! # A transport in a few lines, a client and a server
//!
//! ```
//! use std::io;
//! use oncewire_driver::*;
//! use smol::channel::{Receiver, Sender, unbounded};
//! use smol::net::unix::UnixStream;
//!
//! /// Dials by making a pair of sockets: one end is ours, the other one is sent to the listener.
//! struct Dial(Sender<UnixStream>);
//! struct Listen(Receiver<UnixStream>);
//!
//! impl Connect for Dial {
//!     fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
//!         Box::pin(async {
//!             let (ours, theirs) = UnixStream::pair()?;
//!             self.0.send(theirs).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
//!             Ok(Box::new(ours) as BoxStream)
//!         })
//!     }
//!     fn address(&self) -> String {
//!         "a socket pair".to_owned()
//!     }
//! }
//!
//! impl Accept for Listen {
//!     fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
//!         Box::pin(async {
//!             let stream = self.0.recv().await.map_err(|_| io::ErrorKind::BrokenPipe)?;
//!             Ok((Box::new(stream) as BoxStream, Subject::Anonymous))
//!         })
//!     }
//!     fn address(&self) -> String {
//!         "a socket pair".to_owned()
//!     }
//! }
//!
//! const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");
//!
//! smol::block_on(async {
//!     let (sender, receiver) = unbounded();
//!     let server = Server::builder("toy")
//!         .method(&ADD_ONE, |_context, n: i32| async move { n + 1 })
//!         .build()
//!         .unwrap();
//!     smol::spawn(async move { server.serve(Listen(receiver)).await }).detach();
//!     let client = Client::new(Dial(sender), ClientOptions::default());
//!     assert_eq!(client.call(&ADD_ONE, &100).await.ok(), Ok(101));
//! });
//! ```

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod accept_policy;
mod buffer;
mod caught;
mod client;
mod commit_thread;
#[cfg(feature = "conformance")]
pub mod conformance;
mod decode;
#[cfg(feature = "_faults")]
#[doc(hidden)]
pub mod faults;
#[cfg(not(feature = "_faults"))]
mod faults;
pub mod files;
pub mod journal;
pub mod ledger;
mod metadata;
mod method;
mod nonblocking;
pub mod observe;
mod pool;
pub mod probe;
mod reply;
mod runtime;
mod server;
mod service;
mod signatures;
mod spin;
mod status;
#[cfg(feature = "stream")]
pub mod stream;
mod sync;
pub mod tokens;
mod transport;
mod waiters;

pub use accept_policy::AcceptPolicy;
pub use bytes::Bytes;
pub use client::{
    Call, CallFailure, CallReport, CallResult, Client, ClientOptions, ClientStatus, CloseReport,
    Delivery, DurableCall, DurableClient, EarlierAttempt, FailedCall, NewCall, NoServers, Outcome,
    Receipt, RecoveredCall, Resolve, Retry, ServerStatus, Servers, Ticket,
};
pub use metadata::{Metadata, MetadataError, MetadataKey, MetadataType, MetadataValue};
pub use method::{Method, RawMethod};
pub use nonblocking::Nonblocking;
pub use oncewire_core as protocol;
pub use oncewire_core::{
    ClientCounters, CloseReason, Executed, Instance, Instant, MethodId, MethodSpec, NEVER, NoReply,
    NotBegun, NotExecuted, OnDialFailure, ServerConfig, ServerCounters, ServerError, ServerId,
    ServiceName, SessionId, SessionTag, Token, Unknown, Xid,
};
#[cfg(feature = "macros")]
pub use oncewire_macros::service;
pub use oncewire_schema as schema;
pub use oncewire_schema::Schema;
pub use runtime::{Runtime, SmolRuntime, Timer};
pub use server::{
    BuildError, Context, Handled, HandlerFaults, Load, Next, NextTransactional, Refusal, Server,
    ServerBuilder, StateHandler, StatefulBuilder,
};
#[doc(hidden)]
pub use service::__private;
pub use service::Service;
pub use signatures::{MethodSignature, SignatureMismatch};
pub use status::{Health, MethodStatus, SessionStatus, Status};
pub use transport::{Accept, BoxFuture, BoxStream, ByteStream, Connect, Subject, yield_now};
