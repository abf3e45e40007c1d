//! The cases that every transport must show: over memory, over memory of a few bytes, and over pipes of the system.

use std::io;

use oncewire_pipe::conformance::{Endpoint, Fixture};
use oncewire_pipe::{BoxFuture, memory, os};

struct Memory;

impl Fixture for Memory {
    fn bind(&self) -> BoxFuture<'_, io::Result<Endpoint>> {
        let (connector, acceptor) = memory::listener();
        Box::pin(async { Ok(Endpoint::new(connector, acceptor)) })
    }
}

/// Every frame but the shortest takes several writes and reads.
struct NarrowMemory;

impl Fixture for NarrowMemory {
    fn bind(&self) -> BoxFuture<'_, io::Result<Endpoint>> {
        let (connector, acceptor) = memory::listener_with_capacity(13);
        Box::pin(async { Ok(Endpoint::new(connector, acceptor)) })
    }
}

struct Pipes;

impl Fixture for Pipes {
    fn bind(&self) -> BoxFuture<'_, io::Result<Endpoint>> {
        let (connector, acceptor) = os::listener();
        Box::pin(async { Ok(Endpoint::new(connector, acceptor)) })
    }
}

mod over_memory {
    oncewire_pipe::conformance_tests!(crate::Memory);
}

mod over_narrow_memory {
    oncewire_pipe::conformance_tests!(but_large, crate::NarrowMemory);
}

mod over_pipes {
    oncewire_pipe::conformance_tests!(crate::Pipes);
}
