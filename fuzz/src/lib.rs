//! Simulation and verification of Oncewire: worlds from a seed, a model checker, fuzz targets, and real kills.
//!
//! Each module has a binary of the same name, where it says so; `TESTING.md` says what each of them proves.
//!
//! | module | what it does |
//! |---|---|
//! | [`world`] | binary; the core's machines, connections, clocks and crashes from one seed, checked after every step |
//! | [`driver_world`] | binary; the driver's real clients and servers over simulated streams, timers and scheduling |
//! | [`explore`] | binary; model checking: every schedule of small worlds, state by state |
//! | [`storage_world`] | binary; the real ledger on a disk that tears, fails, fills up and lies |
//! | [`targets`] | the functions behind the fuzz targets |
//! | [`history`] | whether what callers learned while connections broke and servers were replaced is linearizable |
//! | [`killer`] | binary; real processes, killed at random moments, whose journals must agree |
//! | [`mutant`] | planted bugs that the checkers must find |
//! | [`rng`] | random numbers from a seed |
//! | [`filmed`] | recordings of worlds |
//! | [`cli`] | the command line that the simulators share |

pub mod cli;
pub mod driver_world;
pub mod explore;
pub mod filmed;
pub mod history;
pub mod killer;
pub mod mutant;
pub mod storage_world;
pub mod targets;
pub mod world;

pub use oncewire_sim::parts::rng;
