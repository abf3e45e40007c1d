//! Who gets which job, and which result counts. Time is an argument: every decision can be repeated.

use std::fmt;
use std::time::Duration;

use oncewire::Instant;
use serde::{Deserialize, Serialize};

/// A job that fails so often ends the run: it would fail everywhere.
const FAILURES_MAX: u32 = 3;

/// Maps come first, and reduces when each map has a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Chunks of the input.
    Map,
    /// Parts of the keys.
    Reduce,
}

/// A job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobId {
    /// Map or reduce.
    pub phase: Phase,
    /// Which of them, from 0.
    pub number: u32,
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = if self.phase == Phase::Map { "map" } else { "reduce" };
        write!(f, "{phase}-{}", self.number)
    }
}

/// A worker's number, in the order in which they came.
pub type WorkerId = usize;

/// An attempt to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Who makes it.
    pub worker: WorkerId,
    /// Of what.
    pub job: JobId,
    /// Its number.
    pub attempt: u64,
    /// If the job was given to a worker before, a line that says why again. That worker may be at work all the same.
    pub note: Option<String>,
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits for a job.
    Idle,
    /// It has one.
    Busy,
    /// It does not answer. It may have ended, or work on.
    Silent,
    /// It will never answer.
    Gone,
}

#[derive(Debug)]
struct Worker {
    name: String,
    state: State,
    results: u64,
}

#[derive(Debug)]
struct Attempt {
    job: JobId,
    worker: WorkerId,
    begun: Instant,
    /// Whether its worker is at it, as far as the connection tells.
    is_running: bool,
}

#[derive(Debug, Default)]
struct Row {
    attempts: Vec<u64>,
    /// Attempts whose results count, with their words or keys. Only a naive master has more than one.
    counted: Vec<(u64, u64)>,
    failures: u32,
}

/// What the master knows.
#[derive(Debug)]
pub struct Table {
    slow_after: Duration,
    naive: bool,
    jobs: [Vec<Row>; 2],
    workers: Vec<Worker>,
    /// By number.
    attempts: Vec<Attempt>,
    further_results: u64,
}

impl Table {
    /// With so many jobs. A job that takes longer than `slow_after` is given to an idle worker as well. `naive`: each result counts.
    pub fn new(maps: usize, reduces: usize, slow_after: Duration, naive: bool) -> Table {
        let jobs = [maps, reduces].map(|count| (0..count).map(|_| Row::default()).collect());
        let (workers, attempts) = (Vec::new(), Vec::new());
        Table { slow_after, naive, jobs, workers, attempts, further_results: 0 }
    }

    /// A worker has come.
    pub fn join(&mut self, name: &str) -> WorkerId {
        self.workers.push(Worker { name: name.to_owned(), state: State::Idle, results: 0 });
        self.workers.len() - 1
    }

    /// The phase that is not done, if there is one.
    pub fn phase(&self) -> Option<Phase> {
        let is_open = |phase: &Phase| self.rows(*phase).iter().any(|row| row.counted.is_empty());
        [Phase::Map, Phase::Reduce].into_iter().find(is_open)
    }

    /// An idle worker gets a job: first one that no worker is known to be at, otherwise the one that takes longest, if that is longer
    /// than it should. To be called until there is nothing more.
    pub fn next(&mut self, now: Instant) -> Option<Assignment> {
        let worker = self.workers.iter().position(|worker| worker.state == State::Idle)?;
        let phase = self.phase()?;
        let is_free = |row: &Row| row.counted.is_empty() && self.latest_begin(row).is_none();
        let free = self.rows(phase).iter().position(is_free);
        let overdue = self.overdue().filter(|(due, _)| *due <= now).map(|(_, number)| number);
        let number = free.or(overdue)?;
        let (attempt, job) = (self.attempts.len() as u64, JobId { phase, number: number as u32 });
        let before = self.rows(phase)[number].attempts.last();
        let note = before.map(|before| {
            let Attempt { worker: first, is_running, .. } = self.attempts[*before as usize];
            let why = match self.workers[first].state {
                _ if is_running => "takes long",
                State::Silent | State::Gone => "does not answer",
                State::Idle | State::Busy => "has no result",
            };
            format!("{job} goes to {} as well: {} {why}", self.name(worker), self.name(first))
        });
        self.attempts.push(Attempt { job, worker, begun: now, is_running: true });
        self.jobs[phase as usize][number].attempts.push(attempt);
        self.workers[worker].state = State::Busy;
        Some(Assignment { worker, job, attempt, note })
    }

    /// When [`next`](Table::next) has something for an idle worker though nothing else happens.
    pub fn due(&self) -> Option<Instant> {
        let is_idle = self.workers.iter().any(|worker| worker.state == State::Idle);
        self.overdue().filter(|_| is_idle).map(|(due, _)| due)
    }

    /// The worker of an attempt has answered. Returns a line, if it is worth one.
    ///
    /// # Errors
    /// That the run can come to no end: the job fails everywhere.
    pub fn answered(
        &mut self,
        attempt: u64,
        result: Result<u64, String>,
    ) -> Result<Option<String>, String> {
        let Attempt { job, worker, is_running, .. } = &mut self.attempts[attempt as usize];
        *is_running = false;
        let worker = &mut self.workers[*worker];
        worker.state = State::Idle;
        let (name, row) = (&worker.name, &mut self.jobs[job.phase as usize][job.number as usize]);
        let is_first = row.counted.is_empty();
        let count = match result {
            Ok(count) => count,
            // Its files may be gone, because the job has a result.
            Err(_) if !is_first => return Ok(None),
            Err(why) => {
                row.failures += 1;
                let line = format!("{job} failed at {name}: {why}");
                return if row.failures < FAILURES_MAX { Ok(Some(line)) } else { Err(line) };
            }
        };
        // The whole of the rule: the first result counts, whichever worker sends it.
        if is_first || self.naive {
            row.counted.push((attempt, count));
        }
        worker.results += 1;
        self.further_results += u64::from(!is_first);
        let what = match (is_first, self.naive) {
            (true, _) if row.attempts.len() == 1 => return Ok(None),
            (true, _) => "is the first, and counts",
            (false, true) => "is counted AGAIN",
            (false, false) => "comes second, is dropped",
        };
        Ok(Some(format!("{job}: {}'s result {what}", worker.name)))
    }

    /// The worker of an attempt does not answer, for this reason. Returns a line.
    pub fn is_silent(&mut self, attempt: u64, why: &str) -> String {
        let Attempt { job, worker, is_running, .. } = &mut self.attempts[attempt as usize];
        *is_running = false;
        self.workers[*worker].state = State::Silent;
        format!("{job} at {}: {why}", self.workers[*worker].name)
    }

    /// A worker that did not answer is there again, idle, or is gone.
    pub fn set_state(&mut self, worker: WorkerId, state: State) {
        self.workers[worker].state = state;
    }

    /// Workers that are there, as far as the connections tell.
    pub fn present(&self) -> impl Iterator<Item = WorkerId> + '_ {
        let is_there = |row: &Worker| matches!(row.state, State::Idle | State::Busy);
        (0..self.workers.len()).filter(move |worker| is_there(&self.workers[*worker]))
    }

    /// A worker's name.
    pub fn name(&self, worker: WorkerId) -> &str {
        &self.workers[worker].name
    }

    /// Numbers of jobs of a phase, and of their attempts that count.
    pub fn counted(&self, phase: Phase) -> Vec<(u32, u64)> {
        let counted = |(number, row): (u32, &Row)| {
            row.counted.iter().map(|(attempt, _)| (number, *attempt)).collect::<Vec<_>>()
        };
        (0..).zip(self.rows(phase)).flat_map(counted).collect()
    }

    /// A line that sums up a run, with the words that were read as the results that count say.
    pub fn summary(&self) -> String {
        let jobs = self.jobs.iter().map(Vec::len).sum::<usize>();
        let (attempts, further) = (self.attempts.len(), self.further_results);
        let by_worker =
            self.workers.iter().map(|worker| format!(" {} {}", worker.name, worker.results));
        let by_worker: String = by_worker.collect();
        let counted = self.rows(Phase::Map).iter().flat_map(|row| &row.counted);
        let words: u64 = counted.map(|(_, words)| words).sum();
        format!(
            "{jobs} jobs in {attempts} attempts, {further} results too many; by worker:{by_worker}; {words} words"
        )
    }

    fn rows(&self, phase: Phase) -> &[Row] {
        &self.jobs[phase as usize]
    }

    /// When the last attempt of a job began at which a worker is.
    fn latest_begin(&self, row: &Row) -> Option<Instant> {
        let attempts = row.attempts.iter().map(|attempt| &self.attempts[*attempt as usize]);
        attempts.filter(|attempt| attempt.is_running).map(|attempt| attempt.begun).max()
    }

    /// The job of this phase that has been at a worker longest, and when it takes too long.
    fn overdue(&self) -> Option<(Instant, usize)> {
        let rows = self.rows(self.phase()?).iter().enumerate();
        let open = rows.filter(|(_, row)| row.counted.is_empty());
        let due = |row: &Row| Some(self.latest_begin(row)? + self.slow_after);
        open.filter_map(|(number, row)| Some((due(row)?, number))).min()
    }
}

impl fmt::Display for Table {
    /// How far it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (phase, rows) in ["map", "reduce"].into_iter().zip(&self.jobs) {
            let done = rows.iter().filter(|row| !row.counted.is_empty()).count();
            write!(f, "{phase} {done}/{}, ", rows.len())?;
        }
        let silent = self.workers.iter().filter(|worker| worker.state == State::Silent).count();
        write!(f, "{} workers, {silent} silent", self.present().count())
    }
}
