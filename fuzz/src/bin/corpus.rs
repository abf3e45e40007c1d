//! Writes the first inputs of each fuzz target into a directory of its own.

use std::path::PathBuf;

use clap::Parser;
use oncewire_fuzz::targets::{ALL, seeds};

/// Writes the first inputs of every fuzz target.
#[derive(Parser)]
struct Options {
    /// Where the directories of the targets are made.
    #[arg(default_value = "corpus")]
    directory: PathBuf,
}

fn main() -> std::io::Result<()> {
    let options = Options::parse();
    for (name, target) in ALL {
        let directory = options.directory.join(name);
        std::fs::create_dir_all(&directory)?;
        for (number, seed) in seeds(name).iter().enumerate() {
            target(seed);
            std::fs::write(directory.join(format!("seed-{number:02}")), seed)?;
        }
    }
    Ok(())
}
