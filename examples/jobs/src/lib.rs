//! The tale of two servers. A job server takes jobs, writes them to a spool directory, and submits each to a runner, which owns the
//! effect. A second server on the same spool, by mistake or as a stand-by, must not make jobs vanish or run twice. It teaches that
//! **who may act is decided where the effect is**: by a token that grows, compared in the transaction that starts the job.
//!
//! | file | what it does |
//! |---|---|
//! | `lib.rs` | the two services as their clients call them |
//! | `runner.rs` | the runner: the lease, the jobs and what it remembers of them, in its ledger |
//! | `spool.rs` | the directory that servers share |
//! | `server.rs` | a server: keeps the lease, or stands by; submits what is in the spool |
//! | `client.rs` | submits a job to whichever server takes it |
//! | `naive.rs` | a server as in the story: no lease, and outcomes are not looked at |
//! | `processes.rs` | processes of this program that are killed and paused |
//! | `story.rs`, `chaos.rs` | the two demonstrations |
//! | `main.rs` | the program |
//!
//! Three rules make "exactly once" of it; `tests/rules.rs` shows what happens without the first two:
//!
//! 1. A job has a name. The runner remembers those it has started, until their files are out of the way: a new owner of the spool
//!    that submits once more what the last one had submitted starts nothing.
//! 2. What comes with an old token is refused. So the runner may forget a job whose file is out of the way: only an owner of the past,
//!    which has slept, could still submit it.
//! 3. A call in doubt is waited for, never made again beside itself: its ticket says when it can do nothing any more.

use std::fmt;
use std::time::Duration;

use oncewire::ledger::Rollback;
use oncewire::redb::Transaction;
use oncewire::{Call, ClientOptions, Context, Instant, Runtime, SmolRuntime};
use serde::{Deserialize, Serialize};

pub mod chaos;
mod client;
mod naive;
pub mod processes;
mod runner;
mod server;
mod spool;
pub mod story;

pub use client::{NotTaken, Submitter};
pub use runner::{RUNS_PAGE, Rules, runner};
pub use server::serve;

/// A program to run. A name is used for one job only, ever: it is how a job that comes twice is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// 1 to 64 letters, digits, `-` and `_`: it is the job's file, too.
    pub name: String,
    /// What a cluster would run: 16 KiB at most.
    pub text: String,
}

/// Counts the owners of the spool: a newer one has a greater one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Token(pub u64);

/// Who owns the spool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The owner's; 0 if there has been none.
    pub token: Token,
    /// The owner's instance.
    pub owner: String,
    /// For how many milliseconds the owner may be silent.
    pub millis: u64,
    /// The runner's instance, which says so.
    pub by: String,
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lease { token: Token(token), owner, by, .. } = self;
        let owner = if owner.is_empty() { "nothing" } else { owner };
        write!(f, "{owner} owns the spool with token {token}, says {by}")
    }
}

/// Not done, because the caller's token is not the newest; with the lease that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fenced(pub Lease);

/// A job was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Counts what the runner has started.
    pub run: u64,
    /// It was started by an earlier call: this one has started nothing.
    pub before: bool,
    /// The runner's instance.
    pub by: String,
}

/// One start of a job: the effect that must be there once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// What was started.
    pub job: Job,
    /// The token that was shown for it.
    pub token: Token,
    /// Which instance owned the spool.
    pub owner: String,
}

/// What a transaction of the runner returns.
pub type Done<T, E> = Result<Result<T, E>, Rollback>;

/// The runner, which stands for a cluster. It has the ledger: what it does, it does exactly once for each call, also when it is killed.
#[oncewire::service(name = "runner")]
pub trait Runner {
    /// Makes an instance the owner of the spool, with a token that none has had, unless another's lease is running.
    #[rpc(transactional)]
    fn acquire(&self, tx: &mut Transaction, c: &Context, instance: String) -> Done<Lease, Lease>;
    /// Starts a job, unless the token is old or the job was started before.
    #[rpc(transactional)]
    fn start(&self, tx: &mut Transaction, c: &Context, t: Token, job: Job)
    -> Done<Started, Fenced>;
    /// Forgets jobs that are out of the spool.
    #[rpc(transactional)]
    fn forget(
        &self,
        tx: &mut Transaction,
        c: &Context,
        token: Token,
        jobs: Vec<String>,
    ) -> Done<(), Fenced>;
    /// Begins the lease's time again. It may run twice: the second time changes nothing that matters.
    #[rpc(idempotent)]
    async fn renew(&self, c: Context, token: Token) -> Result<(), Fenced>;
    /// Who owns the spool.
    #[rpc(idempotent)]
    async fn owner(&self, c: Context) -> Lease;
    /// The names of jobs that it has started and not forgotten, 1,024 at most.
    #[rpc(idempotent, reply_len_max = 128 << 10)]
    async fn remembered(&self, c: Context) -> Vec<String>;
    /// What it has started, from the run with this number on, [`RUNS_PAGE`] at most. The first run is number 1.
    #[rpc(idempotent, reply_len_max = 2 << 20)]
    async fn runs(&self, c: Context, from: u64) -> Vec<Run>;
}

/// A job is in the spool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Which instance has taken it.
    pub by: String,
}

/// A job was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Which instance has not taken it.
    pub by: String,
    /// Why not, for a person.
    pub why: String,
    /// No instance will: it is the job's fault.
    pub for_good: bool,
}

/// A job server.
#[oncewire::service(name = "jobs")]
pub trait Jobs {
    /// Writes a job to the spool. It may be submitted again, to any server: its name says that it is the same one.
    #[rpc(idempotent, blocking)]
    fn submit(&self, c: Context, job: Job) -> Result<Taken, Refused>;
}

/// The reply, however long it takes to know it; or why there is none, and then the call will do nothing any more (rule 3).
async fn certain<R>(call: Call<R>) -> Result<R, String> {
    let failed = match call.result().await {
        Ok(reply) => return Ok(reply),
        Err(failed) => failed,
    };
    let why = failed.to_string();
    match failed.into_ticket() {
        Some(mut ticket) => ticket.wait().await.ok().map_err(|_| why),
        None => Err(why),
    }
}

/// Dials again soon: what is down here is back in a moment.
fn options() -> ClientOptions {
    ClientOptions::default().with_backoff_max(Duration::from_millis(50))
}

fn now() -> Instant {
    SmolRuntime::global().now()
}

async fn sleep(time: Duration) {
    let runtime = SmolRuntime::global();
    let mut timer = runtime.timer();
    timer.set(runtime.now() + time);
    smol::future::poll_fn(|cx| timer.poll(cx)).await;
}
