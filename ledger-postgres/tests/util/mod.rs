//! Databases that tests start by themselves, and services on them.
#![allow(dead_code, unreachable_pub)]

mod cluster;
mod databases;
pub mod processes;
mod service;

pub use cluster::*;
pub use databases::*;
pub use service::*;
