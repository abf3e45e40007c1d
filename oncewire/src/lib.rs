// Its code is a service over TCP.
#![cfg_attr(
    any(not(doctest), all(feature = "tcp", feature = "macros")),
    doc = include_str!("../README.md")
)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub use oncewire_driver::*;
#[cfg(feature = "redb")]
pub use oncewire_ledger_redb as redb;
#[cfg(feature = "pipe")]
pub use oncewire_pipe::{ChildConnector, StdioAcceptor, memory, os};
#[cfg(feature = "tcp")]
pub use oncewire_tcp::{TcpAcceptor, TcpConnector};
#[cfg(all(unix, feature = "unix"))]
pub use oncewire_unix::{BindOptions, SocketEvent, UnixAcceptor, UnixConnector};
