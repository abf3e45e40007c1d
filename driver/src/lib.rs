//! Drives the Oncewire protocol over any byte stream.

mod runtime;
mod transport;

pub use oncewire_core as core;
pub use runtime::{Runtime, SmolRuntime, Timer};
pub use transport::{Accept, BoxFuture, BoxStream, ByteStream, Connect, Subject};
