//! Tries every schedule of small worlds; `--help` says how.
//!
//! Exits with 1 and a shortest schedule if a promise was broken, or if a limit was met before every schedule was tried.

use std::process::ExitCode;

use clap::Parser;
use clap::builder::PossibleValuesParser;
use oncewire_fuzz::explore::{self, BROKEN, Limits, SCENES, Scene};

#[derive(Parser)]
struct Options {
    /// Only this world; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = names(SCENES))]
    world: Vec<String>,
    /// The smallest world in which a planted bug shows, with that bug.
    #[arg(long, value_parser = names(BROKEN), conflicts_with_all = ["world", "quick"])]
    mutant: Option<String>,
    /// Only worlds small enough for a test.
    #[arg(long)]
    quick: bool,
    /// Most states of a world.
    #[arg(long, default_value_t = Limits::default().states)]
    states: usize,
    /// Most things that happen in one schedule.
    #[arg(long, default_value_t = Limits::default().depth)]
    depth: usize,
    /// Say what the worlds are, and do nothing.
    #[arg(long)]
    list: bool,
}

fn names(scenes: &[Scene]) -> PossibleValuesParser {
    PossibleValuesParser::new(scenes.iter().map(|scene| scene.name))
}

fn fail(scene: &'static Scene, found: &explore::Found, limits: Limits) {
    output::show!("{}: {}", scene.name, found.violation.0);
    output::show!("{:?}", found.schedule);
    // A shorter schedule says the same, and is soon found if it is short.
    let limits = Limits { states: limits.states.min(5_000_000), ..limits };
    let shortest = explore::shortest(scene, limits);
    let found = shortest.as_deref().unwrap_or(found);
    output::show!("the shortest schedule found, of {} steps:", found.schedule.len());
    for line in explore::narrate(scene, &found.schedule) {
        output::show!("  {line}");
    }
    output::show!("{:?}", found.schedule);
    output::show!("{}", found.violation.0);
}

fn main() -> ExitCode {
    let options = Options::parse();
    let limits = Limits { depth: options.depth, states: options.states };
    let is_named = |scene: &&Scene| options.world.iter().any(|name| name == scene.name);
    let is_wanted = |scene: &&'static Scene| {
        (options.world.is_empty() || is_named(scene)) && (!options.quick || scene.quick)
    };
    let scenes: Vec<&'static Scene> = match &options.mutant {
        Some(mutant) => BROKEN.iter().filter(|scene| scene.name == mutant).collect(),
        None => SCENES.iter().filter(is_wanted).collect(),
    };
    let mut code = ExitCode::SUCCESS;
    for scene in scenes {
        if options.list {
            output::show!("{:16} {}", scene.name, scene.about);
            continue;
        }
        #[expect(clippy::disallowed_methods, reason = "measures; nothing in a world reads a clock")]
        let start = std::time::Instant::now();
        match explore::explore(scene, limits) {
            Err(found) => {
                fail(scene, &found, limits);
                return ExitCode::from(1);
            }
            Ok(report) => {
                let seconds = start.elapsed().as_secs_f64();
                output::show!(
                    "{:16} {:>10} states {:>11} transitions {:>9} rests, depth {:>3}, {seconds:>6.1} s, {}",
                    scene.name,
                    report.states,
                    report.transitions,
                    report.rests,
                    report.depth,
                    if report.exhausted { "exhausted" } else { "NOT exhausted" }
                );
                if !report.exhausted {
                    code = ExitCode::from(1);
                }
            }
        }
    }
    code
}
