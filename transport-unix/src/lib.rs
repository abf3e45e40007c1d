#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod acceptor;
mod connector;
mod lock;
mod name;
mod place;
mod socket;

pub use acceptor::{BindOptions, UnixAcceptor};
pub use connector::UnixConnector;
pub use oncewire_driver::*;
