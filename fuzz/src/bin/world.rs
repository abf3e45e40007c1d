//! Runs simulated worlds of the core; `--help` says how.
//!
//! Exits with 1 and a trace of the end if a promise was broken, with 2 if the command line was not understood, and with 3 if
//! a thousand worlds or more never met one of the kinds of situations.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use rustix::time::{ClockId, clock_gettime};

use oncewire_fuzz::cli::{Worlds, planted};
use oncewire_fuzz::filmed;
use oncewire_fuzz::targets::pair_traced;
use oncewire_fuzz::world::{self, Broken, Fault, Kind, Report, Trace, Violation, memory, profile};

/// What servers hold is compared with what it counts.
#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// The methods of the worlds' servers.
const METHODS: [&str; 5] =
    ["world/plain", "world/long", "world/idem", "world/transaction", "world/absent"];
/// So many worlds meet every kind.
const ALL_KINDS: u64 = 1_000;
/// Lines of the trace that are printed of a failure.
const LINES_MAX: usize = 80;

/// Runs machines of the core in simulated worlds. Exits 1 if a promise was broken.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    worlds: Worlds,
    /// How many calls are made in each world.
    #[arg(long, default_value_t = 2_000)]
    calls: u64,
    /// Plants a bug for the model to find.
    #[arg(long)]
    mutant: Option<Broken>,
    /// Runs and prints the world of an input of the fuzz target `pair` instead.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "seed", "calls", "mutant", "record"])]
    input: Option<PathBuf>,
}

/// A run whose panics are violations too.
fn run(seed: u64, options: &Options, trace: &mut Trace) -> Result<Report, Violation> {
    let body = AssertUnwindSafe(|| {
        world::run(seed, options.calls, options.mutant.unwrap_or_default(), trace)
    });
    catch_unwind(body).unwrap_or_else(|_| Err(Violation("a panic".into())))
}

/// Writes what passed in the world of a seed.
fn write_recording(seed: u64, options: &Options, trace: &Trace, to: &Path) -> std::io::Result<()> {
    let Some(film) = &trace.film else { return Ok(()) };
    let lossy = profile::Profile::of(seed, options.mutant.unwrap_or_default()).lossy;
    filmed::write(film, format!("world {}", again(seed, options)), lossy, to)
}

/// The arguments that run the world of a seed again.
fn again(seed: u64, options: &Options) -> String {
    format!("--calls {} --seed {seed}{}", options.calls, planted(options.mutant.as_ref()))
}

fn fail(seed: u64, options: &Options, violation: &Violation) -> ExitCode {
    let mut trace = Trace::keeping(if options.worlds.trace { usize::MAX } else { LINES_MAX });
    let second = run(seed, options, &mut trace);
    for line in &trace.lines {
        output::show!("{line}");
    }
    output::show!("seed {seed} failed: {}", violation.0);
    if second.as_ref() != Err(violation) {
        output::show!("and it does not replay: {second:?}");
    }
    let all = Worlds::again(seed, options.mutant.as_ref());
    output::show!("to see all of it: world --calls {} {all}", options.calls);
    output::show!("{}", Worlds::picture("world", &again(seed, options)));
    ExitCode::from(1)
}

/// Runs and prints the world of an input of the fuzz target `pair`.
fn show(input: &Path) -> ExitCode {
    let bytes = match std::fs::read(input) {
        Ok(bytes) => bytes,
        Err(error) => {
            output::note!("{}: {error}", input.display());
            return ExitCode::from(2);
        }
    };
    let mut trace = Trace::keeping(usize::MAX);
    let result = pair_traced(&bytes, &mut trace);
    trace.lines.iter().for_each(|line| output::show!("{line}"));
    if result.is_err() { ExitCode::from(1) } else { ExitCode::SUCCESS }
}

/// Megabytes of memory in use now, and the most that ever were, where the system says so.
fn resident() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = |name| {
        let line = status.lines().find_map(|line: &str| line.strip_prefix(name))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? >> 10)
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}

/// Seconds that the processor worked for this process.
fn processor_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn print(sum: &Report, seconds: f64, early: Option<(u64, u64)>) {
    let processor = processor_seconds();
    let per_second = |number: u64| number as f64 / processor;
    let faults = sum.faults.iter().sum::<u64>();
    output::show!(
        "{} calls, {} executions, {} frames, {} turns; {:.0} s simulated in {seconds:.1} s",
        sum.calls,
        sum.runs,
        sum.frames,
        sum.turns,
        sum.simulated as f64 / 1e9
    );
    output::show!(
        "{:.0} calls and {:.0} frames a second of one core; a fault in {:.1} calls; hash {:016x}",
        per_second(sum.calls),
        per_second(sum.frames),
        sum.calls as f64 / faults.max(1) as f64,
        sum.hash
    );
    let [reply, no_reply, not_executed, ticket, unknown] = sum.outcomes;
    output::show!(
        "outcomes: reply {reply}, no reply {no_reply}, not executed {not_executed}, \
         unknown with a ticket {ticket}, unknown for good {unknown}"
    );
    let faults = Fault::NAMES.iter().zip(sum.faults).map(|(name, count)| format!("{name} {count}"));
    output::show!("faults: {}", faults.collect::<Vec<_>>().join(", "));
    let kinds = Kind::NAMES.iter().zip(sum.kinds).map(|(name, count)| format!("{name} {count}"));
    output::show!("met: {}", kinds.collect::<Vec<_>>().join(", "));
    if let (Some((early, _)), Some((now, most))) = (early, resident()) {
        output::show!(
            "memory: {early} MB after a tenth of the worlds, {now} MB now, {most} MB at most"
        );
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(input) = &options.input {
        return show(input);
    }
    #[expect(clippy::disallowed_methods, reason = "measures the run; nothing in it reads a clock")]
    let start = std::time::Instant::now();
    let mut sum = Report::default();
    let seeds = options.worlds.seeds();
    let tenth = seeds.start + seeds.end.saturating_sub(seeds.start) / 10;
    let worlds = seeds.end.saturating_sub(seeds.start);
    let mut early = None;
    for seed in seeds {
        let mut trace =
            if options.worlds.trace { Trace::keeping(usize::MAX) } else { Trace::default() };
        trace.film = options.worlds.record.as_ref().map(|_| filmed::film(seed, &METHODS));
        let result = run(seed, &options, &mut trace);
        if let Some(to) = &options.worlds.record
            && let Err(error) = write_recording(seed, &options, &trace, to)
        {
            output::note!("{}: {error}", to.display());
            return ExitCode::from(2);
        }
        match result {
            Ok(report) => sum.add(&report),
            Err(violation) => return fail(seed, &options, &violation),
        }
        for line in &trace.lines {
            output::show!("{line}");
        }
        if seed == tenth {
            early = resident();
        }
    }
    print(&sum, start.elapsed().as_secs_f64(), early);
    let never = Kind::NAMES.iter().zip(sum.kinds).filter(|(_, count)| *count == 0);
    let never: Vec<_> = never.map(|(name, _)| *name).collect();
    if !never.is_empty() {
        output::show!("never met: {}", never.join(", "));
    }
    let many = worlds >= ALL_KINDS;
    if never.is_empty() || !many { ExitCode::SUCCESS } else { ExitCode::from(3) }
}
