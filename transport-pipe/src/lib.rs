#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod accept_queue;
mod child;
pub mod memory;
pub mod os;
#[cfg(target_os = "linux")]
pub mod plugin;
mod relay;
mod stdio;

pub use child::ChildConnector;
pub use oncewire_driver::*;
pub use relay::relay;
pub use stdio::StdioAcceptor;
