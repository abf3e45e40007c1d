//! Drives the Oncewire protocol over any byte stream.

mod buffer;
mod client;
mod method;
mod outcome;
mod runtime;
mod server;
mod transport;

pub use bytes::Bytes;
pub use client::{Call, CallFuture, Client, ClientOptions, ClientStatus, Ticket};
pub use method::Method;
pub use oncewire_core as core;
pub use outcome::{CallFailure, Outcome};
pub use runtime::{Runtime, SmolRuntime, Timer};
pub use server::{BuildError, Context, Mishaps, Server, ServerBuilder};
pub use transport::{Accept, BoxFuture, BoxStream, ByteStream, Connect, Subject};
