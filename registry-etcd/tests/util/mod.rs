//! Clusters of etcd that tests start by themselves.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

mod cluster;
mod members;
pub mod process;
pub mod relay;

pub use cluster::*;
pub use members::*;
