//! Who is measured: bare sockets, Oncewire in the ways that programs use it, and other libraries.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::case::{Transport, Workload};

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
    /// As in the README with `SMOL_THREADS=4`, each loop in a task of its own.
    OncewireSmol4,
    /// The same, one loop that keeps the calls in flight.
    OncewireSmol4Buffered,
    /// Oncewire in a program on tokio's runtime of one thread, each loop in a task of tokio's.
    OncewireTokio,
    /// The same, one loop that keeps the calls in flight.
    OncewireTokioBuffered,
    /// The same on tokio's runtime of several threads, each loop in a task.
    OncewireTokioThreads,
    /// The same, one loop that keeps the calls in flight.
    OncewireTokioThreadsBuffered,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    /// Loops that each await their own call, all in one `FuturesUnordered`.
    Loops,
    /// Such loops, each in a task of its own.
    Tasks,
    /// One loop that begins a call for each that completes: `buffer_unordered`.
    Buffered,
}

/// What an Oncewire program runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// An executor of one thread, made by hand; raw bodies.
    ByHand,
    /// The default runtime, `block_on` in `main`, typed methods: the README's program. With as many threads as
    /// `SMOL_THREADS` says.
    Readme { threads: usize },
    /// The same in tokio's runtime: the program's own tasks are tokio's, the library's are the default runtime's.
    Tokio { threads: usize },
}

/// What kind of subject one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bare,
    Oncewire,
    Peer,
}

impl Subject {
    pub(crate) fn all() -> impl Iterator<Item = Subject> {
        Subject::value_variants().iter().copied()
    }

    pub(crate) fn kind(self) -> Kind {
        match self {
            Subject::SmolLoop | Subject::BareThreads => Kind::Bare,
            Subject::Tarpc
            | Subject::Tonic
            | Subject::Capnp
            | Subject::PostcardRpc
            | Subject::GoRpc => Kind::Peer,
            _ => Kind::Oncewire,
        }
    }

    pub(crate) fn way(self) -> Way {
        match self {
            Subject::OncewireTasks
            | Subject::OncewireReadmeTasks
            | Subject::OncewireSmol4
            | Subject::OncewireTokio
            | Subject::OncewireTokioThreads => Way::Tasks,
            Subject::OncewireBuffered
            | Subject::OncewireReadmeBuffered
            | Subject::OncewireSmol4Buffered
            | Subject::OncewireTokioBuffered
            | Subject::OncewireTokioThreadsBuffered => Way::Buffered,
            _ => Way::Loops,
        }
    }

    /// What an Oncewire program of this subject runs on.
    pub(crate) fn host(self) -> Host {
        match self {
            Subject::OncewireReadme
            | Subject::OncewireReadmeTasks
            | Subject::OncewireReadmeBuffered => Host::Readme { threads: 1 },
            Subject::OncewireSmol4 | Subject::OncewireSmol4Buffered => Host::Readme { threads: 4 },
            Subject::OncewireTokio | Subject::OncewireTokioBuffered => Host::Tokio { threads: 1 },
            Subject::OncewireTokioThreads | Subject::OncewireTokioThreadsBuffered => {
                Host::Tokio { threads: 4 }
            }
            _ => Host::ByHand,
        }
    }

    /// Threads of smol's default executor.
    pub(crate) fn smol_threads(self) -> usize {
        if let Host::Readme { threads } = self.host() { threads } else { 1 }
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
            Subject::OncewireSmol4 => "smol 4 tasks",
            Subject::OncewireSmol4Buffered => "smol 4 buff.",
            Subject::OncewireTokio => "tokio tasks",
            Subject::OncewireTokioBuffered => "tokio buff.",
            Subject::OncewireTokioThreads => "tokio 4 tasks",
            Subject::OncewireTokioThreadsBuffered => "tokio 4 buff.",
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
        use Workload::{W1, W2, W3, W4, W6, W7, W8};
        match self {
            Subject::SmolLoop | Subject::Oncewire | Subject::OncewireReadme => {
                transport != Transport::Pipe || matches!(workload, W1 | W2 | W3 | W4)
            }
            // A thread that blocks waits for one connection, and one that handles for one call.
            Subject::BareThreads => transport != Transport::Pipe && !matches!(workload, W7 | W8),
            Subject::OncewireTasks | Subject::OncewireReadmeTasks => {
                transport != Transport::Pipe && matches!(workload, W2 | W3)
            }
            // W6 and W7 would show nothing new: idle memory does not depend on threads, and one task makes all calls of W7.
            Subject::OncewireSmol4 | Subject::OncewireTokio | Subject::OncewireTokioThreads => {
                transport != Transport::Pipe && !matches!(workload, W6 | W7)
            }
            Subject::OncewireBuffered
            | Subject::OncewireReadmeBuffered
            | Subject::OncewireSmol4Buffered
            | Subject::OncewireTokioBuffered
            | Subject::OncewireTokioThreadsBuffered => {
                transport != Transport::Pipe && matches!(workload, W2 | W3)
            }
            Subject::OncewireIdempotent => workload == W2,
            Subject::OncewireBlocking => transport != Transport::Pipe && workload == W1,
            Subject::Tarpc
            | Subject::Tonic
            | Subject::Capnp
            | Subject::PostcardRpc
            | Subject::GoRpc => transport != Transport::Pipe,
        }
    }
}
