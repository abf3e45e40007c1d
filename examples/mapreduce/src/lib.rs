//! MapReduce by a master and workers, which are processes. It teaches what at-most-once does not do: when a worker does not answer, its
//! job goes to another one, and then two servers execute it. These are two calls, and each is executed at most once.
//!
//! | file | what it does |
//! |---|---|
//! | `lib.rs` | the two services, and what passes between them |
//! | `app.rs` | word count and inverted index |
//! | `table.rs` | decides who gets which job, and which result counts: a pure function of events and time |
//! | `files.rs` | chunks of the input, parts in between, and the result |
//! | `master.rs` | the master: one task that owns the table, and one for each job under way |
//! | `worker.rs` | the worker |
//! | `demo.rs` | the demonstration: workers that are stopped, killed, slow and late |
//! | `main.rs` | the program |
//!
//! The rule that makes a job count once is in two halves:
//!
//! 1. Each time that a job is given to a worker is an *attempt* with a number of its own, which is in the names of the files that the
//!    worker writes. No two attempts write the same file, however late one of them is.
//! 2. The master takes **the first result of each job**, and no other: the files of that attempt are what the next phase reads. The
//!    master itself publishes the whole result, by a rename.

use std::net::SocketAddr;

use oncewire::{Accept, Context, ServerId};
use serde::{Deserialize, Serialize};
use viewservice::Address;

mod app;
pub mod demo;
pub mod files;
mod master;
mod table;
mod worker;

pub use app::{App, sequential};
pub use master::{Plan, Screen};
pub use table::{Assignment, JobId, Phase, State, Table, WorkerId};
pub use worker::serve;

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// With what was asked for.
    Input(String),
    /// With what was tried.
    Trial(String),
}

/// Listens; returns where that is, as other processes know it: with the port that it has got, or with the whole path.
///
/// # Errors
/// That it cannot, or that other machines could reach it.
pub async fn listen(at: &Address) -> Result<(Box<dyn Accept>, String), Failure> {
    let cannot = |error| Failure::Input(format!("cannot listen at {at}: {error}"));
    let acceptor = at.bind().await.map_err(cannot)?;
    let address = match at {
        Address::Unix(path) => std::path::absolute(path).map_err(cannot)?.display().to_string(),
        Address::Tcp(_) => acceptor.address().trim_start_matches("tcp:").to_owned(),
    };
    // The transport would refuse each caller: here before anything is done.
    if address.parse().is_ok_and(|address: SocketAddr| !address.ip().is_loopback()) {
        return Err(Failure::Input(format!("{address}: other machines can reach it, without TLS")));
    }
    Ok((acceptor, address))
}

/// What workers call.
#[oncewire::service(name = "mapreduce-master")]
pub trait Master {
    /// A worker is there, and takes jobs from now on. Returns what is wrong with its address, if something is.
    ///
    /// Not idempotent: a late copy would make a second worker of one process.
    async fn register(&self, context: Context, worker: Registration) -> Result<(), String>;
    /// Answers as long as there is a master: a worker without one ends.
    #[rpc(idempotent)]
    async fn is_running(&self, context: Context);
}

/// What the master calls.
#[oncewire::service(name = "mapreduce-worker")]
pub trait Worker {
    /// Executes one attempt of a job. Returns the words read by a map job, or the keys written by a reduce job; or which file could not be
    /// read or written, and why.
    #[rpc(blocking)]
    fn do_job(&self, context: Context, job: Job) -> Result<u64, String>;
    /// How many jobs it has executed. Also asked to learn whether a worker is there again.
    #[rpc(idempotent)]
    async fn jobs_done(&self, context: Context) -> u64;
    /// There is nothing more to do: it ends when it has answered. Returns how many jobs it has executed.
    async fn shutdown(&self, context: Context) -> u64;
}

/// What a worker says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// For people.
    pub name: String,
    /// Where it takes jobs: `host:port`, or the path of a unix socket.
    pub address: String,
    /// This start of it. Another process at the same address has not the jobs that this one was given.
    pub server: ServerId,
}

/// One attempt of a job, on its way to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Which of its phase.
    pub id: JobId,
    /// No other attempt of any job has this number.
    pub attempt: u64,
    /// What is computed.
    pub app: App,
    /// The folder of what lies between map and reduce.
    pub parts: String,
    /// Into so many parts each map job divides its keys.
    pub reduces: u32,
    /// What to do.
    pub work: Work,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// The words of a piece of a file, between two words.
    Map {
        /// The file's whole path.
        file: String,
        /// Bytes before it.
        start: u64,
        /// Bytes of it.
        len: u64,
    },
    /// The part of these maps' keys that is this job's: numbers of map jobs, and of their attempts that count.
    Reduce(Vec<(u32, u64)>),
}
