//! A measurement: workloads, subjects, streams, cores; and the figures of one measurement.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

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

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    /// A bare socket, one smol task.
    SmolLoop,
    /// A bare socket, blocking threads.
    BareThreads,
    /// Oncewire, at most once: on an executor of one thread made by hand, as many loops as calls are outstanding, in one
    /// task.
    Oncewire,
    /// The same, each loop in a task of its own.
    OncewireTasks,
    /// The same, one loop that keeps the calls in flight.
    OncewireBuffered,
    /// Oncewire as in its README: the default runtime, typed methods, loops in the main thread's task.
    OncewireReadme,
    /// The same, each loop in a task of its own.
    OncewireReadmeTasks,
    /// The same, one loop that keeps the calls in flight.
    OncewireReadmeBuffered,
    /// Oncewire, idempotent calls.
    OncewireIdempotent,
    /// Oncewire, its client on a thread that blocks.
    OncewireBlocking,
    /// The tarpc crate.
    Tarpc,
    /// The tonic crate.
    Tonic,
    /// The capnp-rpc crate.
    Capnp,
    /// The postcard-rpc crate.
    PostcardRpc,
    /// The net/rpc package of Go.
    GoRpc,
}

/// How a client keeps many calls outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Loops that each await their own call, all in one `FuturesUnordered`.
    Loops,
    /// Such loops, each in a task of its own.
    Tasks,
    /// One loop that begins a call for each that completes: `buffer_unordered`.
    Buffered,
}

/// What kind of subject one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bare,
    Oncewire,
    Peer,
}

impl Subject {
    pub(crate) const ALL: [Subject; 15] = [
        Subject::SmolLoop,
        Subject::BareThreads,
        Subject::Oncewire,
        Subject::OncewireTasks,
        Subject::OncewireBuffered,
        Subject::OncewireReadme,
        Subject::OncewireReadmeTasks,
        Subject::OncewireReadmeBuffered,
        Subject::OncewireIdempotent,
        Subject::OncewireBlocking,
        Subject::Tarpc,
        Subject::Tonic,
        Subject::Capnp,
        Subject::PostcardRpc,
        Subject::GoRpc,
    ];

    pub(crate) fn kind(self) -> Kind {
        match self {
            Subject::SmolLoop | Subject::BareThreads => Kind::Bare,
            Subject::Oncewire
            | Subject::OncewireTasks
            | Subject::OncewireBuffered
            | Subject::OncewireReadme
            | Subject::OncewireReadmeTasks
            | Subject::OncewireReadmeBuffered
            | Subject::OncewireIdempotent
            | Subject::OncewireBlocking => Kind::Oncewire,
            Subject::Tarpc
            | Subject::Tonic
            | Subject::Capnp
            | Subject::PostcardRpc
            | Subject::GoRpc => Kind::Peer,
        }
    }

    pub(crate) fn way(self) -> Way {
        match self {
            Subject::OncewireTasks | Subject::OncewireReadmeTasks => Way::Tasks,
            Subject::OncewireBuffered | Subject::OncewireReadmeBuffered => Way::Buffered,
            _ => Way::Loops,
        }
    }

    /// Whether client and server are written as in the README.
    pub(crate) fn is_readme(self) -> bool {
        matches!(
            self,
            Subject::OncewireReadme
                | Subject::OncewireReadmeTasks
                | Subject::OncewireReadmeBuffered
        )
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Subject::SmolLoop => "smol loop",
            Subject::BareThreads => "bare threads",
            Subject::Oncewire => "oncewire",
            Subject::OncewireTasks => "oncewire tasks",
            Subject::OncewireBuffered => "oncewire buff.",
            Subject::OncewireReadme => "README",
            Subject::OncewireReadmeTasks => "README tasks",
            Subject::OncewireReadmeBuffered => "README buff.",
            Subject::OncewireIdempotent => "oncewire idem.",
            Subject::OncewireBlocking => "oncewire block.",
            Subject::Tarpc => "tarpc",
            Subject::Tonic => "tonic",
            Subject::Capnp => "capnp-rpc",
            Subject::PostcardRpc => "postcard-rpc",
            Subject::GoRpc => "go net/rpc",
        }
    }

    /// Whether the subject does this workload over this stream.
    pub(crate) fn offers(self, transport: Transport, workload: Workload) -> bool {
        use Workload::{W1, W2, W3, W4, W7, W8};
        match self {
            Subject::SmolLoop | Subject::Oncewire => {
                transport != Transport::Pipe || matches!(workload, W1 | W2 | W3 | W4)
            }
            // A thread that blocks waits for one connection, and one that handles for one call.
            Subject::BareThreads => transport != Transport::Pipe && !matches!(workload, W7 | W8),
            Subject::OncewireTasks
            | Subject::OncewireBuffered
            | Subject::OncewireReadmeTasks
            | Subject::OncewireReadmeBuffered => {
                transport != Transport::Pipe && matches!(workload, W2 | W3)
            }
            Subject::OncewireIdempotent => workload == W2,
            Subject::OncewireBlocking => transport != Transport::Pipe && workload == W1,
            Subject::Tarpc
            | Subject::Tonic
            | Subject::Capnp
            | Subject::PostcardRpc
            | Subject::GoRpc
            | Subject::OncewireReadme => transport != Transport::Pipe,
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
