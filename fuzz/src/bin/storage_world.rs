//! Runs the ledger on simulated disks: `storage_world [--seeds FROM..TO] [--seed S] [--trace] [--broken HOW]`.
//!
//! Exits with 1 and a trace of the end if a promise was broken, or with 2 if it was not understood.

use std::collections::BTreeMap;
use std::process::ExitCode;

use oncewire_fuzz::rng::seeds;
use oncewire_fuzz::storage_world::{self, Broken, Report};

const HELP: &str = "storage_world [--seeds FROM..TO] [--seed S] [--trace] \
                    [--broken lying|deaf|cached|fresh|apart|hasty-journal|hasty-goodbye]";
/// Lines of the trace that are printed of a failure.
const LINES_MAX: usize = 120;

struct Options {
    seeds: std::ops::Range<u64>,
    trace: bool,
    broken: Option<Broken>,
}

fn options() -> Option<Options> {
    let mut all = Options { seeds: 0..1_000, trace: false, broken: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--trace" => all.trace = true,
            "--broken" => all.broken = Some(args.next()?.parse().ok()?),
            "--seeds" => all.seeds = seeds(&args.next()?)?,
            "--seed" => {
                let seed = args.next()?.parse().ok()?;
                all.seeds = seed..seed + 1;
            }
            _ => return None,
        }
    }
    Some(all)
}

#[derive(Default)]
struct Sum {
    worlds: u64,
    all: Report,
    faults: BTreeMap<&'static str, u64>,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.worlds += 1;
        self.all.calls += report.calls;
        self.all.runs += report.runs;
        self.all.syncs += report.syncs;
        self.all.virtual_time += report.virtual_time;
        for (sum, of) in self.all.outcomes.iter_mut().zip(report.outcomes) {
            *sum += of;
        }
        for (name, count) in &report.faults {
            *self.faults.entry(name).or_default() += count;
        }
    }

    fn print(&self, seconds: f64) {
        let [replies, without, not_executed, unknown] = self.all.outcomes;
        println!("worlds        {}", self.worlds);
        println!(
            "calls         {} ({:.0} a second)",
            self.all.calls,
            self.all.calls as f64 / seconds
        );
        println!("runs          {}", self.all.runs);
        println!(
            "outcomes      {replies} replies, {without} without reply, {not_executed} not executed, \
             {unknown} unknown"
        );
        println!("faults        {:?}", self.faults);
        println!("syncs         {}", self.all.syncs);
        println!("virtual time  {:.0} s in {seconds:.1} s", self.all.virtual_time as f64 / 1e9);
    }
}

#[allow(clippy::disallowed_methods)]
fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("{HELP}");
        return ExitCode::from(2);
    };
    // How fast it goes is told to people and changes nothing.
    let since = std::time::Instant::now();
    let mut sum = Sum::default();
    for seed in options.seeds.clone() {
        let lines_max = if options.trace { usize::MAX } else { 0 };
        match storage_world::run(seed, lines_max, options.broken) {
            Ok(report) => sum.add(&report),
            Err(failure) if options.trace => {
                println!("{failure}");
                return ExitCode::FAILURE;
            }
            Err(_) => {
                // Once more, with its trace: it is the same run.
                let again = storage_world::run(seed, LINES_MAX, options.broken);
                match again {
                    Err(failure) => println!("{failure}"),
                    Ok(_) => println!("seed {seed} failed, and not again: it is not deterministic"),
                }
                println!("once more: storage_world --seed {seed} --trace");
                return ExitCode::FAILURE;
            }
        }
    }
    sum.print(since.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}
