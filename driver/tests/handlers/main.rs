//! Handlers over a socket pair: what they are given, how they end, and what their users' code may do meanwhile.
#![allow(missing_docs)]

mod callers;
mod cancel;
mod contexts;
mod limits;
mod link;
mod long_bytes;
#[path = "../util/longer.rs"]
mod longer;
mod panics;
mod turns;
mod values;
mod waits;
