//! Kills servers and clients, and looks whether what callers were told was true.
//!
//! `cargo run --release -p oncewire-fuzz --bin killer -- --kills 200`

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use oncewire_fuzz::killer::{Options, ROLE, TRANSPORTS, Transport, play, run};
use oncewire_fuzz::mutant::Mutant;

/// Kills servers and clients at random moments, and looks whether what callers were told was true. Exits 1 if not.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many signals hit somebody, for each transport.
    #[arg(long, default_value_t = 100)]
    kills: u64,
    /// tcp, unix or pipe; all of them if not said.
    #[arg(long)]
    transport: Option<Transport>,
    /// Where chance comes from: who is hit, and after how many replies.
    #[arg(long)]
    seed: Option<u64>,
    /// How many clients call.
    #[arg(long, default_value_t = 4)]
    clients: u32,
    /// What is broken on purpose: twice, fake, denied or again. The run should fail then.
    #[arg(long)]
    mutant: Option<Mutant>,
    /// Leaves the journals for you to read.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some((first, rest)) = arguments.split_first().filter(|(first, _)| *first == ROLE) {
        let played = play(rest);
        if let Err(error) = &played {
            eprintln!("{} {}: {error}", first.display(), rest[0].display());
        }
        return ExitCode::from(u8::from(played.is_err()));
    }
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| u64::from(std::process::id()));
    for transport in TRANSPORTS {
        if arguments.transport.is_some_and(|only| only != transport) {
            continue;
        }
        let options = Options {
            transport,
            kills: arguments.kills,
            seed,
            clients: arguments.clients.max(1),
            mutant: arguments.mutant,
            keep: arguments.keep,
        };
        match run(&options) {
            Ok(report) => println!("{report}"),
            Err(failure) => {
                eprintln!("{}: {failure}", transport.name());
                let (name, kills) = (transport.name(), options.kills);
                eprintln!("again: --transport {name} --kills {kills} --seed {seed}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("seed {seed}: every outcome was true");
    ExitCode::SUCCESS
}
