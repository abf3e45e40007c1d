//! Runs the driver in simulated worlds; `--help` says how.
//!
//! Exits with 1 and a trace of the end if a promise was broken, or with 2 if the command line was not understood.

use std::process::ExitCode;

use clap::Parser;
use oncewire_fuzz::cli::{Worlds, mutants};
use oncewire_fuzz::driver_world;
use oncewire_fuzz::mutant::Mutant;

/// Runs the driver's clients and servers over simulated streams, timers and scheduling. Exits 1 if a promise was broken.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    worlds: Worlds,
    /// Plants a bug for the model to find.
    // Calls in this world are never repeated by their callers.
    #[arg(long, value_parser = mutants(|mutant: Mutant| mutant != Mutant::Again))]
    mutant: Option<Mutant>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let methods = driver_world::handlers::METHODS;
    options.worlds.run("driver_world", &methods, options.mutant, driver_world::run_filmed)
}
