//! What fail fast is worth, measured: a primary has forwarded an operation to its backup, and the backup is killed, or hangs. It teaches
//! what ends a call then, and how soon.
//!
//! | file | what it does |
//! |---|---|
//! | `main.rs` | the program |
//! | `backup.rs` | the backup: a process that never answers |
//! | `trials.rs` | one measurement |
//! | `chart.rs` | the chart |

mod backup;
mod chart;
mod trials;

use std::process::ExitCode;
use std::time::Duration;

use trials::{TRIALS, Trial};

const HELP: &str = "\
What fail fast is worth: how long a primary waits for a backup that was killed or hangs.

Usage: failover [ROUNDS] [FILE.svg]     measures, 5 rounds unless said; draws a chart into FILE.svg

Exit status 0: each wait ended as it should; 1: one did not; 2: bad input, with a line that says what.";

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["--help" | "-h"] => {
            output::show!("{HELP}");
            Ok(true)
        }
        ["backup", socket] => backup::serve(socket).map(|()| true),
        [] => run("5", None),
        [rounds] => run(rounds, None),
        [rounds, file] => run(rounds, Some(file)),
        _ => Err("what is asked for is not clear; see --help".to_owned()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            output::note!("failover: {text}");
            ExitCode::from(2)
        }
    }
}

fn run(rounds: &str, file: Option<&str>) -> Result<bool, String> {
    let rounds = match rounds.parse() {
        Ok(rounds @ 1..=1_000) => rounds,
        _ => return Err(format!("{rounds:?} is no number of rounds, 1 to 1000; see --help")),
    };
    // Before anything is measured: a chart that cannot be written would waste all of it.
    if let Some(file) = file {
        std::fs::write(file, "").map_err(|error| format!("{file} cannot be written: {error}"))?;
    }
    let mut held = true;
    let mut medians = Vec::new();
    output::show!(
        "{:<46}{:>10}{:>10}   the primary learns",
        "from the fault to the primary's answer",
        "median",
        "longest"
    );
    for trial in &TRIALS {
        let mut waits: Vec<Duration> = Vec::new();
        let mut learned = String::new();
        for _ in 0..rounds {
            let (wait, what) = match smol::block_on(trials::measure(trial)) {
                Ok(measured) => measured,
                // Not the input's fault.
                Err(why) => {
                    output::note!("failover: {why}");
                    return Ok(false);
                }
            };
            held &= trial.is_as_expected(&what);
            waits.push(wait);
            learned = what;
        }
        waits.sort();
        let (median, longest) = (waits[waits.len() / 2], waits[waits.len() - 1]);
        output::show!("{:<46}{:>10}{:>10}   {learned}", trial.name, text(median), text(longest));
        medians.push((trial, median));
    }
    if let Some(file) = file {
        std::fs::write(file, chart::svg(&medians))
            .map_err(|error| format!("{file} cannot be written: {error}"))?;
    }
    output::show!("{}", if held { "Each wait ended as it should." } else { "WRONG" });
    Ok(held)
}

/// A time in milliseconds.
fn text(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// What the chart shows of a trial.
type Median<'a> = (&'a Trial, Duration);
