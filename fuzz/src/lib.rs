//! Attacks on Oncewire: a simulated world with a reference model, and the functions behind the fuzz targets.
//!
//! | module | what it does |
//! |---|---|
//! | [`world`] | clients, servers, connections, clocks and crashes from one seed; checked after every step |
//! | [`driver_world`] | the driver's real clients and servers over simulated streams, timers and scheduling |
//! | [`explore`] | every schedule of small worlds, state by state |
//! | [`storage_world`] | the real ledger on a disk that tears, fails, fills up and lies |
//! | [`targets`] | the functions behind the fuzz targets |
//! | [`history`] | whether what callers were told while connections broke and servers went is linearizable |
//! | [`killer`] | real processes, killed at random moments, whose journals must agree |
//! | [`mutant`] | servers and callers that are broken on purpose, for the checkers to find out |
//! | [`rng`] | chance from a seed |
//! | [`cli`] | the command line that the simulators share |

pub mod cli;
pub mod driver_world;
pub mod explore;
pub mod history;
pub mod killer;
pub mod mutant;
pub mod rng;
pub mod storage_world;
pub mod targets;
pub mod world;
