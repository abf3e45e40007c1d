//! The parts that the simulation is made of, for worlds of your own: [`Sim`](crate::Sim) is one.
//!
//! | module | what it does |
//! |---|---|
//! | [`executor`] | the clock, timers, chance, and an executor whose choices the seed makes |
//! | [`clocks`] | the clocks of processes: behind the world's, jumping, stopped |
//! | [`net`] | byte streams that are bounded, slow, delivered in pieces, and cut anywhere |
//! | [`disk`] | a disk that tears what was not synced, fails, fills up, is slow, and lies if asked to |
//! | [`awaited`] | what must end, and by when |
//! | [`trace`] | what happened, to be read, and a hash of it |
//! | [`rng`] | random numbers from a seed |

pub mod awaited;
pub mod clocks;
pub mod disk;
pub mod executor;
pub mod net;
pub mod rng;
pub mod trace;

/// Nanoseconds in a millisecond.
pub const MS: u64 = 1_000_000;
/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000 * MS;
