//! Runs a test in the worlds of many seeds.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use crate::faults::{END_MAX, TICK, schedule};
use crate::parts::executor::{Sim as Executor, lock};
use crate::parts::trace::Trace;
use crate::sim::{CHAOS, OPERATORS, Sim, USERS, World};

/// Selects the one seed that is run, in the environment; all of its trace is printed.
const SEED: &str = "ONCEWIRE_SIM_SEED";
/// Lines of a failure's trace.
const LINES_MAX: usize = 100;

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed of the world.
    pub seed: u64,
    /// In words.
    pub what: String,
    /// What happened before, oldest first: the last hundred lines. [`trace`] has all of them.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        // The threads of tests are called as they are.
        let thread = std::thread::current();
        let test = thread.name().filter(|name| *name != "main").unwrap_or("…");
        write!(f, "to repeat it, with all of its trace: {SEED}={} cargo test {test}", self.seed)
    }
}

impl std::error::Error for Failure {}

/// What happened in the worlds of all seeds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Worlds.
    pub worlds: u64,
    /// Recorded calls that ended with a reply, without one, not executed, and unknown.
    pub outcomes: [u64; 4],
    /// What went wrong, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// The time that passed on the virtual clocks.
    pub virtual_time: Duration,
    /// A hash of all that happened: the same for the same seeds.
    pub hash: u64,
}

impl Report {
    fn add(&mut self, other: &Report) {
        self.worlds += other.worlds;
        for (sum, of) in self.outcomes.iter_mut().zip(other.outcomes) {
            *sum += of;
        }
        for (kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.virtual_time += other.virtual_time;
        self.hash = crate::parts::rng::mix(self.hash ^ other.hash);
    }
}

/// Runs `test` in the world of each seed. `ONCEWIRE_SIM_SEED=n` runs one of them, and shows all of its trace.
///
/// # Panics
/// At the first broken promise, with the seed and what happened before; and if the variable is not a number.
pub fn run<F, Fut>(seeds: Range<u64>, test: F) -> Report
where
    F: Fn(Sim) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let Some(seed) = std::env::var_os(SEED) else {
        return try_run(seeds, test).unwrap_or_else(|failure| panic!("{failure}"));
    };
    let Some(seed) = seed.to_str().and_then(|seed| seed.parse().ok()) else {
        panic!("{SEED} is {seed:?}, and must be a seed: a whole number below 2^64");
    };
    let (result, lines) = world(seed, usize::MAX, &test);
    match result {
        Ok(report) => {
            lines.iter().for_each(|line| eprintln!("{line}"));
            report
        }
        Err(what) => panic!("{}", Failure { seed, what, trace: lines }),
    }
}

/// The same without a panic, and without a look at the environment.
///
/// # Errors
/// The first broken promise.
pub fn try_run<F, Fut>(seeds: Range<u64>, test: F) -> Result<Report, Failure>
where
    F: Fn(Sim) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut sum = Report::default();
    for seed in seeds {
        match world(seed, 0, &test).0 {
            Ok(report) => sum.add(&report),
            Err(what) => {
                // Once more for its trace.
                let (again, trace) = world(seed, LINES_MAX, &test);
                let what = match again {
                    Err(again) if again == what => what,
                    _ => format!("{what}; and not again: the test depends on more than the seed"),
                };
                return Err(Failure { seed, what, trace });
            }
        }
    }
    Ok(sum)
}

/// All that happens in the world of one seed, a line each.
pub fn trace<F, Fut>(seed: u64, test: F) -> Vec<String>
where
    F: Fn(Sim) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    world(seed, usize::MAX, &test).1
}

fn world<F, Fut>(seed: u64, lines_max: usize, test: &F) -> (Result<Report, String>, Vec<String>)
where
    F: Fn(Sim) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let exec = Executor::new(seed, schedule(seed), Trace::keeping(lines_max));
    let world = World::new(seed, exec.clone());
    let sim = Sim(world.clone());
    exec.note(|| format!("seed {seed}: {:?}", world.faults()));
    exec.spawn(USERS, test(sim.clone()));
    exec.spawn(CHAOS, sim.clone().chaos());
    exec.spawn(CHAOS, sim.clone().bad_machines());
    let result = play(&sim).inspect_err(|what| exec.note(|| format!("FAILED {what}")));
    let report = Report {
        worlds: 1,
        outcomes: lock(&world.book).outcomes,
        faults: lock(&world.counts).clone(),
        virtual_time: Duration::from_nanos(exec.now()),
        hash: lock(&exec.trace).hash(),
    };
    exec.end();
    world.forget();
    exec.end();
    let lines = lock(&exec.trace).lines.iter().cloned().collect();
    (result.map(|()| report), lines)
}

fn play(sim: &Sim) -> Result<(), String> {
    let Sim(world) = sim;
    let exec = &world.exec;
    exec.run_until(END_MAX, || world.check(), || exec.living(USERS) == 0)?;
    sim.calm();
    exec.kill(OPERATORS);
    exec.pass(TICK, || world.check())?;
    let processes = lock(&world.processes).clone();
    for process in &processes {
        process.end_for_good()?;
    }
    let book = lock(&world.book);
    if !processes.iter().any(|process| process.has_effects()) && !book.has_effects() {
        // A test that checks nothing would pass.
        book.check_none_replied()?;
    }
    book.check_replied()?;
    drop(book);
    let violation = lock(&exec.violation).take();
    violation.map_or_else(|| world.check(), Err)
}
