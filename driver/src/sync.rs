//! The lock around what tasks share, in one place: a build with `--cfg shuttle` gets the one of a model whose scheduler
//! decides who runs next at every lock (`tests/interleavings`).

#[cfg(not(shuttle))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};
