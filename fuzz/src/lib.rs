//! Attacks on Oncewire: a simulated world with a reference model, and the functions behind the fuzz targets.
//!
//! | module | what it does |
//! |---|---|
//! | [`world`] | clients, servers, connections, clocks and crashes from one seed; checked after every step |

pub mod world;
