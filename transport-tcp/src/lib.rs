#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod acceptor;
mod connector;
mod race;
mod resolve;
mod socket;

pub use acceptor::TcpAcceptor;
pub use connector::TcpConnector;
pub use oncewire_driver::*;
