//! A measurement: workloads, streams, cores; and the figures of one measurement.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::subject::Subject;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[value(rename_all = "UPPER")]
pub(crate) enum Workload {
    /// One call outstanding, 32 bytes.
    W1,
    /// 64 calls outstanding on one connection.
    W2,
    /// 1,024 calls outstanding on one connection.
    W3,
    /// 1 MiB echoed, 4 calls outstanding.
    W4,
    /// Connect, one call, close.
    W5,
    /// Server memory that an idle connection costs.
    W6,
    /// One client task, 1,000 connections, one call in flight on each.
    W7,
    /// Handlers that wait a millisecond, 1,024 calls outstanding.
    W8,
}

impl Workload {
    pub(crate) const ALL: [Workload; 8] = [
        Workload::W1,
        Workload::W2,
        Workload::W3,
        Workload::W4,
        Workload::W5,
        Workload::W6,
        Workload::W7,
        Workload::W8,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Workload::W1 => "one call outstanding, 32 bytes",
            Workload::W2 => "64 outstanding on one connection",
            Workload::W3 => "1,024 outstanding on one connection",
            Workload::W4 => "1 MiB echoed, 4 outstanding",
            Workload::W5 => "connect, one call, close",
            Workload::W6 => "server memory of an idle connection",
            Workload::W7 => "one client task, 1,000 connections, a call in flight on each",
            Workload::W8 => "handlers wait 1 ms, 1,024 outstanding",
        }
    }

    /// Calls outstanding on a connection.
    pub(crate) fn outstanding(self) -> usize {
        match self {
            Workload::W1 | Workload::W5 | Workload::W6 | Workload::W7 => 1,
            Workload::W2 => 64,
            Workload::W3 | Workload::W8 => 1024,
            Workload::W4 => 4,
        }
    }

    pub(crate) fn connections(self) -> usize {
        if matches!(self, Workload::W6 | Workload::W7) { 1000 } else { 1 }
    }

    /// Bytes of a request's body, and of its reply's.
    pub(crate) fn body_len(self) -> usize {
        if self == Workload::W4 { 1 << 20 } else { 32 }
    }

    /// How long a handler waits.
    pub(crate) fn wait(self) -> Option<Duration> {
        (self == Workload::W8).then_some(Duration::from_millis(1))
    }

    /// Calls between two looks at the clock.
    pub(crate) fn look_every(self) -> u64 {
        match self {
            Workload::W2 | Workload::W3 | Workload::W7 | Workload::W8 => 64,
            Workload::W1 | Workload::W4 | Workload::W5 | Workload::W6 => 1,
        }
    }
}

/// Over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transport {
    Tcp,
    Unix,
    Pipe,
}

impl Transport {
    pub(crate) const ALL: [Transport; 3] = [Transport::Tcp, Transport::Unix, Transport::Pipe];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Unix => "unix",
            Transport::Pipe => "pipe",
        }
    }
}

/// One measurement, as it is described to its two processes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) subject: Subject,
    pub(crate) transport: Transport,
    pub(crate) workload: Workload,
    /// Cores that server and client share (1), or have one each of (2).
    pub(crate) cores: u32,
    pub(crate) warm_ms: u64,
    pub(crate) sample_ms: u64,
    /// The core of the server; the client's was set before it started.
    pub(crate) server_core: usize,
    /// Where to listen, or where the server listens.
    pub(crate) address: String,
    /// The process that serves; 0 if the client starts it.
    pub(crate) server_pid: u32,
    /// What `address` leaves open: bytes of a body, calls outstanding, connections, and the handlers' wait. For
    /// programs in other languages.
    pub(crate) body_len: usize,
    pub(crate) outstanding: usize,
    pub(crate) connections: usize,
    pub(crate) wait_ms: u64,
}

/// What one measurement gave.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Figures {
    /// Calls that ended in the sample.
    pub(crate) calls: u64,
    pub(crate) wall_ns: u64,
    /// Processor time of the two processes in the sample.
    pub(crate) client_cpu_ns: u64,
    pub(crate) server_cpu_ns: u64,
    /// Only W1.
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
    /// Only W6.
    pub(crate) connection_bytes: u64,
}

impl Figures {
    pub(crate) fn calls_per_s(&self) -> f64 {
        self.calls as f64 * 1e9 / (self.wall_ns.max(1)) as f64
    }

    /// Microseconds of processor time that a call costs, both sides.
    pub(crate) fn cpu_us(&self) -> f64 {
        (self.client_cpu_ns + self.server_cpu_ns) as f64 / 1e3 / self.calls.max(1) as f64
    }
}
