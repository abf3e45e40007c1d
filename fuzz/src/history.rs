//! The real client and server over memory, connections cut, and whether what callers learned is linearizable.
//!
//! | file | what it does |
//! |---|---|
//! | `history/model.rs` | a register and an append log, as sequential programs |
//! | `history/run.rs` | the real client and server over memory, connections cut, servers replaced |
//! | `history/cut.rs` | connections that break after some bytes |
//!
//! The recorder and the checker are those of `oncewire-sim`.

#[cfg(test)]
mod checked;
pub mod cut;
pub mod model;
pub mod run;

pub use oncewire_sim::history::{Begun, Operation, Recorder, check};
