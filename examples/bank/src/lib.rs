//! A bank whose balances stay exact, whatever happens to its connections and clients.
//!
//! `cargo run --release --example bank` at the top of the repository shows it; `bank serve ADDR` and `bank client ADDR` are the pieces.
//!
//! | file | what it does |
//! |---|---|
//! | `service.rs` | the methods, and what executes them |
//! | `serve.rs` | the server process |
//! | `client.rs` | the client process: makes calls, and judges their outcomes |
//! | `settle.rs`, `audit.rs`, `report.rs` | how one call is made and ends, what the bank says of all, and the numbers |
//! | `check.rs`, `book.rs`, `journal.rs` | what outcomes imply, and how it is kept |
//! | `durable.rs`, `books_file.rs` | the same bank with a ledger |
//! | `crash.rs`, `clients.rs` | kills it and its clients while money moves |
//! | `transactional.rs`, `turn.rs` | what its methods do in any ledger's transactions; a server that has the ledger for a while |
//! | `sql.rs`, `etcd.rs`, `etcd_place.rs` | the same bank in PostgreSQL and in etcd |
//! | `cluster.rs`, `cluster`, `instance.rs` | several servers on such a ledger, and what kills them and what the ledger is in |
//! | `persistent.rs` | a client whose calls outlive it |
//! | `naive.rs` | the same calls with plain retries |
//! | `fault.rs` | cuts, swallows and delays between the two |
//! | `demo.rs`, `process.rs`, `table.rs` | all of it together |
//! | `address.rs`, `chance.rs`, `cli.rs` | addresses, random numbers, the command line |

mod address;
mod audit;
mod book;
mod books_file;
mod chance;
mod check;
mod cli;
mod client;
mod clients;
#[cfg(any(feature = "postgres", feature = "etcd"))]
mod cluster;
mod crash;
#[cfg(feature = "postgres")]
#[path = "../../../ledger-postgres/tests/util/cluster.rs"]
mod database;
mod demo;
mod durable;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "etcd")]
mod etcd_place;
mod fault;
#[cfg(any(feature = "postgres", feature = "etcd"))]
mod instance;
mod journal;
#[cfg(feature = "etcd")]
#[allow(dead_code, reason = "tests of the ledger in etcd use the rest")]
#[path = "../../../registry-etcd/tests/util/members.rs"]
mod members;
mod naive;
mod persistent;
mod process;
mod relay;
mod report;
mod serve;
mod service;
mod settle;
#[cfg(feature = "postgres")]
mod sql;
mod table;
mod transactional;
mod turn;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use cli::{Cli, ClientArgs, Command, CrashTestArgs, Mutant, Store};
use client::Load;
use demo::Demo;
use report::Report;

/// Does what the command line asks for; without a command, shows all of it.
pub fn main() -> ExitCode {
    run(Cli::parse())
}

/// The same with a command line of the caller's, for tests of other programs: its first word is the program's name.
pub fn main_with(arguments: &[&str]) -> ExitCode {
    run(Cli::parse_from(arguments))
}

fn run(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Some(Command::Serve(args)) => {
            let grace = Duration::from_secs(args.grace);
            smol::block_on(serve::run(&args.address, grace, args.ledger)).map(|()| true)
        }
        Some(Command::CrashTest(args)) => {
            let seed = args.seed.unwrap_or_else(chance::unique);
            smol::block_on(crash_test(&args, seed))
        }
        Some(Command::Client(args)) => smol::block_on(run_client(args)),
        Some(Command::Faults(args)) => {
            let seed = args.seed.unwrap_or_else(chance::unique);
            smol::block_on(fault::run(&args.entrance, &args.server, seed, args.frames))
                .map(|()| true)
        }
        Some(Command::Relay(args)) => relay::run(&args.address).map(|()| true),
        None => {
            let seed = cli.demo.seed.unwrap_or_else(chance::unique);
            smol::block_on(demo::run(Demo { seed, calls: cli.demo.calls }))
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            output::note!("bank: {why}");
            ExitCode::from(2)
        }
    }
}

async fn crash_test(args: &CrashTestArgs, seed: u64) -> Result<bool, String> {
    match (args.cluster, args.mutant) {
        (Some(_), Some(Mutant::HastyLedger)) => {
            Err("hasty-ledger is no mutant of a cluster".to_owned())
        }
        (None, Some(Mutant::NoFence)) => {
            Err("no-fence is a mutant of a cluster: --cluster".to_owned())
        }
        (Some(Store::Etcd), _) if args.shared => {
            Err("a ledger in etcd has one server at a time: --shared is PostgreSQL's".to_owned())
        }
        (None, _) => crash::run(args, seed).await,
        #[cfg(not(feature = "postgres"))]
        (Some(Store::Postgres), _) => Err(cli::WITHOUT_POSTGRES.to_owned()),
        #[cfg(not(feature = "etcd"))]
        (Some(Store::Etcd), _) => Err(cli::WITHOUT_ETCD.to_owned()),
        #[cfg(any(feature = "postgres", feature = "etcd"))]
        (Some(store), _) => cluster::run(args, store, seed).await,
    }
}

/// Whether the bank agrees with the outcomes.
async fn run_client(args: ClientArgs) -> Result<bool, String> {
    let load = Load {
        address: args.address,
        calls: args.calls,
        clients: args.clients,
        in_flight: args.in_flight,
        seed: args.seed.unwrap_or_else(chance::unique),
        call_timeout: Duration::from_secs(args.call_timeout),
        journal: args.journal,
        at_least_once: args.at_least_once,
        durable: args.durable,
    };
    let report =
        if load.durable { persistent::run(&load).await? } else { client::run(&load).await? };
    let text = if args.json {
        serde_json::to_string(&report).map_err(|error| error.to_string())?
    } else {
        describe(&report)
    };
    // A reader that has closed its end still has the exit status.
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(report.faults.is_empty())
}

fn describe(report: &Report) -> String {
    let Report { calls, replied, not_executed, unknown, resolved, .. } = report;
    let Report { resends, asks, reconnects, seed, .. } = report;
    let mut text = format!(
        "{calls} calls (seed {seed}): {replied} replied, {not_executed} not executed, {unknown} unknown; \
         {resolved} were unknown for a while\n\
         {reconnects} reconnects, {resends} requests sent again, {asks} asked about\n"
    );
    let Report { expected_min, expected_max, actual, .. } = report;
    text += &if expected_min == expected_max {
        format!("expected {expected_min}, actual {actual}")
    } else {
        format!("expected {expected_min} to {expected_max}, actual {actual}")
    };
    text += match (report.exact, report.faults.is_empty()) {
        (true, _) => ": exact",
        (false, true) => ": as far as the outcomes tell",
        (false, false) => ": WRONG",
    };
    for fault in &report.faults {
        text += "\n  ";
        text += fault;
    }
    text
}
