//! The Oncewire protocol as a sans-IO state machine: **every call has one truthful outcome**.
//!
//! A call was executed, and here is its reply, or why there is none; or it was not executed, and never will be; or that is
//! not known yet, and the call's id is a ticket to learn it later. A request that arrives twice runs once, unless its method
//! is declared idempotent; a lost reply is sent again, not computed again; what is kept is bounded, and nothing that may
//! still be asked for is forgotten. `PROTOCOL.md` beside this crate specifies the wire.
//!
//! # Two machines
//!
//! [`Client`] makes calls, [`Server`] executes them. Neither does I/O, reads a clock, makes a random number, takes a lock
//! or (with inline storage) allocates. Each has one owner, who runs this loop:
//!
//! 1. Report what happened: `handle_connected`, `handle_data`, `handle_disconnected`, `handle_timeout`.
//! 2. Give commands: [`Client::call`], [`Client::cancel`]; [`Server::start`], [`Server::reply`].
//! 3. Ask what the machine wants: `poll_event` and `poll_transmit` until both return `None` (each may cause the other), then
//!    `poll_timeout`.
//!
//! What was received, a request or a reply, is returned by `handle_data`: it borrows from the caller's buffer, and is not
//! copied. Methods may be called in any order and at any time; none panics.
//!
//! # A call, from end to end
//!
//! ```
//! use oncewire_core::*;
//!
//! let now = Instant::ZERO;
//! let add_one = MethodId::of("toy/add_one");
//! let mut client: Client<InlineClient<4, 4, 16>> = Client::new(ClientConfig::default());
//! let config = ServerConfig::new(ServerId::from_bytes([7; 16]), ServiceName::new("toy").unwrap());
//! let mut server: Server<InlineServer<2, 3, 4, 1, 16>> =
//!     Server::new(config, &[MethodSpec::new(add_one)]).unwrap();
//!
//! // A connection: bytes that leave one machine arrive at the other.
//! client.handle_connected(now);
//! let secret = SessionId::from_bytes([1; 16]);
//! let conn = server.handle_connected(now, Principal::ANONYMOUS, secret).unwrap();
//! let call = client.call(now, Call::new(add_one, &[100])).unwrap();
//! let mut wire = [0; 512];
//! loop {
//!     if let Some(len) = client.poll_transmit(now, &mut wire) {
//!         let received = server.handle_data(now, conn, &wire[..len.get()]).unwrap();
//!         if let Some(Incoming::Request(request)) = received.item {
//!             let reply = [request.body[0] + 1];
//!             let running = server.start(now, request.admission).unwrap();
//!             server.reply(now, running, &reply).unwrap();
//!         }
//!     }
//!     if let Some(len) = server.poll_transmit(now, conn, &mut wire) {
//!         let received = client.handle_data(now, &wire[..len.get()]).unwrap();
//!         if let Some(reply) = received.item {
//!             assert_eq!((reply.call, reply.outcome), (call, Outcome::Reply(&[101])));
//!             break;
//!         }
//!     }
//! }
//! ```
//!
//! # Features
//!
//! - `alloc` (default): [`Heap`] storage on the `bytes` crate. Without it, the crate needs no allocator.

#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(feature = "alloc")]
extern crate alloc;

pub mod budget;
mod client;
mod digest;
mod error;
#[cfg(feature = "_explore")]
mod explore;
mod ids;
mod instance;
mod keepalive;
mod outcome;
mod server;
mod storage;
mod text;
mod time;
mod token;
pub mod wire;
#[cfg(all(test, feature = "alloc"))]
mod work;

pub use client::{
    Call, Client, ClientConfig, ClientCounters, ClientEvent, ClientSession, Comparison,
    DialFailure, OnDialFailure, Received, Reply, ServerInfo, UnjournaledCall,
};
pub use digest::digest;
pub use error::{CloseReason, ProtocolError, SessionLoss};
pub use ids::{
    CallId, ConnId, MethodId, Principal, ServerId, SessionId, SessionKey, SessionTag, Xid,
};
pub use instance::{Instance, Schemas};
pub use keepalive::NEVER;
pub use outcome::{Executed, NoReply, NotBegun, NotExecuted, Outcome, Status, Unknown};
pub use server::{
    Admission, CallKey, CallRecord, CallRefused, Claimed, Incoming, MethodSpec, Notice,
    RecordState, ReplyTooLarge, Request, Running, Server, ServerConfig, ServerCounters,
    ServerError, ServerEvent, SessionEnd, SessionRecord, SessionSummary, Verdict,
};
#[cfg(feature = "alloc")]
pub use storage::Heap;
pub use storage::{ClientStorage, InlineClient, InlineServer, Payload, ServerStorage};
pub use text::{ServiceName, Text};
pub use time::Instant;
pub use token::{TOKEN_LEN_MAX, TOKEN_LEN_MIN, Token};
pub use wire::Refuse;
