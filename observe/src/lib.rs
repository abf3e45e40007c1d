#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod counting;
mod labels;
#[cfg(feature = "metrics")]
mod metrics_facade;
#[cfg(feature = "trace-context")]
mod otlp;
mod prometheus;
#[cfg(feature = "trace-context")]
mod span;
#[cfg(feature = "tracing")]
mod spans;
#[cfg(feature = "trace-context")]
mod trace_context;
#[cfg(feature = "trace-context")]
mod traces;

pub use counting::{CallCounters, Counters, Counting, DURATION_BOUNDS, Durations, SideCounters};
#[cfg(feature = "metrics")]
pub use metrics_facade::Metrics;
#[cfg(feature = "trace-context")]
pub use otlp::OtlpFile;
#[cfg(feature = "trace-context")]
pub use span::{AttributeValue, FinishedSpan, SpanEvent, SpanKind};
#[cfg(feature = "tracing")]
pub use spans::Tracing;
#[cfg(feature = "trace-context")]
pub use trace_context::{SpanId, TRACEPARENT, TRACESTATE, TraceContext, TraceId};
#[cfg(feature = "trace-context")]
pub use traces::{SpanSink, Traces};
