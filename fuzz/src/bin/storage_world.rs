//! Runs the ledger on simulated disks; `--help` says how.
//!
//! Exits with 1 and a trace of the end if a promise was broken, or with 2 if the command line was not understood.

use std::process::ExitCode;

use clap::Parser;
use oncewire_fuzz::cli::Worlds;
use oncewire_fuzz::storage_world::{self, Broken};

/// Runs the redb ledger and journals on simulated disks. Exits 1 if a promise was broken.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    worlds: Worlds,
    /// Plants a bug for the model to find.
    #[arg(long)]
    mutant: Option<Broken>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let methods = storage_world::service::METHODS;
    options.worlds.run("storage_world", &methods, options.mutant, storage_world::run_filmed)
}
