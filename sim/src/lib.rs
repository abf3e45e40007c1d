#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod chaos;
mod checks;
mod counted;
mod faults;
mod host;
mod ledger;
mod ports;
mod process;
mod recordable;
mod run;
mod sim;

pub mod history;
pub mod parts;

pub use checks::Disks;
pub use faults::Faults;
pub use host::{Host, ServerHandle};
pub use ledger::{SimJournal, SimLedger};
pub use parts::disk::{Death, Faults as DiskFaults};
pub use parts::rng::Rng;
pub use ports::PortAcceptor;
pub use recordable::{Recordable, RecordedEnd};
pub use run::{Failure, Report, run, trace, try_run};
pub use sim::Sim;

/// What goes wrong in a test, of any kind.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;
