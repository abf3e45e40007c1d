#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod acceptor;
mod bound;
mod connector;
mod lock;
mod name;
mod options;
mod socket;
mod socket_file;

pub use acceptor::UnixAcceptor;
pub use connector::UnixConnector;
pub use oncewire_driver::*;
pub use options::{BindOptions, SocketEvent};
