#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod counting;
mod labels;
#[cfg(feature = "metrics")]
mod metrics_facade;
mod prometheus;
#[cfg(feature = "tracing")]
mod spans;

pub use counting::{CallCounters, Counters, Counting, DURATION_BOUNDS, Durations, SideCounters};
#[cfg(feature = "metrics")]
pub use metrics_facade::Metrics;
#[cfg(feature = "tracing")]
pub use spans::Tracing;
