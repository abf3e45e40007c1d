//! Kills servers and clients at random moments, and checks that every outcome which a caller got was true.
//!
//! `cargo run --release -p oncewire-fuzz --bin killer -- --kills 200`

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use oncewire_fuzz::cli::{mutants, name, planted};
use oncewire_fuzz::killer::{Failure, Options, ROLE, Transport, play, run};
use oncewire_fuzz::mutant::{ALL, Mutant};

/// Kills servers and clients at random moments, and checks that every outcome which a caller got was true. Exits 1 if not.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many signals hit a process, for each transport.
    #[arg(long, default_value_t = 100)]
    kills: u64,
    /// Only this transport; without it, all of them one after another.
    #[arg(long)]
    transport: Option<Transport>,
    /// The seed of the random choices: which process is hit, and after how many replies.
    #[arg(long)]
    seed: Option<u64>,
    /// How many clients call.
    #[arg(long, default_value_t = 4)]
    clients: u32,
    /// Plants a bug for the journals to show: the run should fail.
    #[arg(long, value_parser = mutants(|mutant: Mutant| ALL.contains(&mutant)))]
    mutant: Option<Mutant>,
    /// Puts server and clients into network namespaces, with a link that delays, loses and is dropped; TCP only. Needs
    /// root, ip and tc, and exits 3 where the machine does not allow it.
    #[arg(long)]
    netns: bool,
    /// Keeps the journals, to be read.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some((first, rest)) = arguments.split_first().filter(|(first, _)| *first == ROLE) {
        let played = play(rest);
        if let Err(error) = &played {
            output::note!("{} {}: {error}", first.display(), rest[0].display());
        }
        return ExitCode::from(u8::from(played.is_err()));
    }
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| u64::from(std::process::id()));
    let only = arguments.transport.or(arguments.netns.then_some(Transport::Tcp));
    if arguments.netns && only != Some(Transport::Tcp) {
        output::note!("--netns is for TCP");
        return ExitCode::from(2);
    }
    for &transport in Transport::value_variants() {
        if only.is_some_and(|only| only != transport) {
            continue;
        }
        let options = Options {
            transport,
            kills: arguments.kills,
            seed,
            clients: arguments.clients.max(1),
            mutant: arguments.mutant,
            netns: arguments.netns,
            keep: arguments.keep,
        };
        match run(&options) {
            Ok(report) => output::show!("{report}"),
            Err(failure @ Failure::NotAllowed(_)) => {
                output::note!("{failure}");
                return ExitCode::from(3);
            }
            Err(failure) => {
                let (transport, kills) = (name(&transport), options.kills);
                output::note!("{transport}: {failure}");
                let netns = if arguments.netns { " --netns" } else { "" };
                let planted = planted(arguments.mutant.as_ref());
                output::note!(
                    "again: killer --transport {transport} --kills {kills} --seed {seed}{netns}{planted}"
                );
                return ExitCode::FAILURE;
            }
        }
    }
    output::show!("seed {seed}: every outcome was true");
    ExitCode::SUCCESS
}
