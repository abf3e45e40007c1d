//! The runner: the lease, the jobs and what it remembers of them lie in its ledger's file, and change in one transaction with the
//! record of the call that changes them.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oncewire::ledger::Rollback;
use oncewire::redb::redb::{ReadableTable, StorageError, TableDefinition, TableError};
use oncewire::redb::{RedbLedger, Snapshots, Transaction};
use oncewire::{Context, Instant, Server};

use crate::{Done, Fenced, Job, Lease, Run, Runner, RunnerServer, Started, Token, now};

/// Under one key: the newest token, and the instance that has it.
const LEASE: TableDefinition<'_, &str, (u64, &str)> = TableDefinition::new("lease");
const KEY: &str = "spool";
/// Jobs that were started and whose files may still be in the spool, with the numbers of their runs.
const STARTED: TableDefinition<'_, &str, u64> = TableDefinition::new("started");
/// What was started: job, text, token, owner.
const RUNS: TableDefinition<'_, u64, (&str, &str, u64, &str)> = TableDefinition::new("runs");

/// Runs that [`Runner::runs`] returns at once.
pub const RUNS_PAGE: u64 = 100;

/// What the runner compares before it starts a job. All of it, but where a test or a story shows what it is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Old tokens are refused.
    pub fences: bool,
    /// A job that was started is not started again.
    pub remembers: bool,
}

impl Rules {
    /// All.
    pub const ALL: Rules = Rules { fences: true, remembers: true };
}

/// Its server, on this ledger's file. A lease lasts so long after its owner was last heard.
///
/// # Errors
/// What is wrong with the file.
pub fn runner(
    file: &Path,
    instance: &str,
    lease: Duration,
    rules: Rules,
) -> Result<Server, String> {
    let ledger = RedbLedger::open(file).map_err(|error| error.to_string())?;
    let (by, durable) = (instance.to_owned(), ledger.snapshots());
    let runner = OnLedger { by, lease, rules, durable, heard: Mutex::new((Token(0), now())) };
    // An owner that was heard before a restart has the full time again.
    runner.heard().0 = runner.durable_lease().token;
    let builder = Server::builder("runner").instance(instance).ledger(ledger);
    builder.service(RunnerServer(runner)).build().map_err(|error| error.to_string())
}

struct OnLedger {
    by: String,
    lease: Duration,
    rules: Rules,
    durable: Snapshots,
    /// Which owner was heard last, and when. In memory only: a clock says when another may become owner, and nothing else.
    heard: Mutex<(Token, Instant)>,
}

impl OnLedger {
    fn heard(&self) -> MutexGuard<'_, (Token, Instant)> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease(&self, row: Option<(u64, &str)>) -> Lease {
        let (token, owner) = row.unwrap_or((0, ""));
        let millis = self.lease.as_millis().try_into().unwrap_or(u64::MAX);
        Lease { token: Token(token), owner: owner.to_owned(), millis, by: self.by.clone() }
    }

    /// The lease as it is durable.
    fn durable_lease(&self) -> Lease {
        let read = || -> Result<Vec<Lease>, TableError> {
            let table = self.durable.latest().open_table(LEASE)?;
            Ok(vec![self.lease(table.get(KEY)?.as_ref().map(|row| row.value()))])
        };
        there_or_none(read()).pop().unwrap_or_else(|| self.lease(None))
    }

    /// The lease, or that this token is not the newest: in the transaction that the token is shown for.
    fn fence(&self, tx: &Transaction, token: Token) -> Result<Result<Lease, Fenced>, Rollback> {
        let lease = self.lease(tx.open_table(LEASE)?.get(KEY)?.as_ref().map(|row| row.value()));
        let is_old = self.rules.fences && (lease.token != token || token == Token(0));
        Ok(if is_old { Err(Fenced(lease)) } else { Ok(lease) })
    }
}

impl Runner for OnLedger {
    fn acquire(&self, tx: &mut Transaction, _: &Context, instance: String) -> Done<Lease, Lease> {
        let mut table = tx.open_table(LEASE)?;
        let mut lease = self.lease(table.get(KEY)?.as_ref().map(|row| row.value()));
        let mut heard = self.heard();
        let is_running = heard.0 == lease.token && now().since(heard.1) < self.lease;
        if is_running && lease.token != Token(0) {
            return Ok(Err(lease));
        }
        (lease.token.0, lease.owner) = (lease.token.0 + 1, instance);
        table.insert(KEY, (lease.token.0, &*lease.owner))?;
        *heard = (lease.token, now());
        Ok(Ok(lease))
    }

    fn start(
        &self,
        tx: &mut Transaction,
        _: &Context,
        t: Token,
        job: Job,
    ) -> Done<Started, Fenced> {
        let Lease { owner, by, .. } = match self.fence(tx, t)? {
            Ok(lease) => lease,
            Err(fenced) => return Ok(Err(fenced)),
        };
        let mut started = tx.open_table(STARTED)?;
        let before = started.get(&*job.name)?.map(|run| run.value());
        if let Some(run) = before.filter(|_| self.rules.remembers) {
            return Ok(Ok(Started { run, before: true, by }));
        }
        let mut runs = tx.open_table(RUNS)?;
        let run = runs.last()?.map_or(1, |(run, _)| run.value() + 1);
        // A real cluster begins here to do what the job says.
        runs.insert(run, (&*job.name, &*job.text, t.0, &*owner))?;
        started.insert(&*job.name, run)?;
        Ok(Ok(Started { run, before: false, by }))
    }

    fn forget(
        &self,
        tx: &mut Transaction,
        _: &Context,
        token: Token,
        jobs: Vec<String>,
    ) -> Done<(), Fenced> {
        if let Err(fenced) = self.fence(tx, token)? {
            return Ok(Err(fenced));
        }
        let mut started = tx.open_table(STARTED)?;
        for job in jobs {
            started.remove(&*job)?;
        }
        Ok(Ok(()))
    }

    async fn renew(&self, _: Context, token: Token) -> Result<(), Fenced> {
        let lease = self.durable_lease();
        if lease.token != token {
            return Err(Fenced(lease));
        }
        let mut heard = self.heard();
        if heard.0 == token {
            heard.1 = now();
        }
        Ok(())
    }

    async fn owner(&self, _: Context) -> Lease {
        self.durable_lease()
    }

    async fn remembered(&self, _: Context) -> Vec<String> {
        let read = || -> Result<Vec<String>, TableError> {
            let table = self.durable.latest().open_table(STARTED)?;
            let names = table.iter()?.take(1024).map(|row| Ok(row?.0.value().to_owned()));
            names.collect::<Result<_, StorageError>>().map_err(TableError::Storage)
        };
        there_or_none(read())
    }

    async fn runs(&self, _: Context, from: u64) -> Vec<Run> {
        let read = || -> Result<Vec<Run>, TableError> {
            let table = self.durable.latest().open_table(RUNS)?;
            let runs = table.range(from..from.saturating_add(RUNS_PAGE))?.map(|row| {
                let row = row?.1;
                let (name, text, token, owner) = row.value();
                let job = Job { name: name.to_owned(), text: text.to_owned() };
                Ok(Run { job, token: Token(token), owner: owner.to_owned() })
            });
            runs.collect::<Result<_, StorageError>>().map_err(TableError::Storage)
        };
        there_or_none(read())
    }
}

/// The rows of a table; none where it was never written.
fn there_or_none<T>(read: Result<Vec<T>, TableError>) -> Vec<T> {
    match read {
        Ok(rows) => rows,
        Err(TableError::TableDoesNotExist(_)) => Vec::new(),
        // The call ends as executed without a reply, and says nothing that is not so (S14).
        Err(error) => panic!("the runner cannot read: {error}"),
    }
}
