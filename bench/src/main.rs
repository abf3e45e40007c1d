//! Measures Oncewire beside bare sockets and its peers. `PERFORMANCE.md` says what is measured and how.

mod allocs;
mod both_ends;
mod callgrind;
mod case;
mod cells;
mod chart;
mod cli;
mod clock;
mod core_bench;
mod fairness;
mod frames;
mod goals;
mod ledger;
mod load;
mod machine;
mod meter;
mod parties;
mod place;
mod process;
mod report;
mod run;
mod streams;
mod subject;
mod subjects;
mod sys;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, RoleCommand};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.role {
        Some(RoleCommand::Serve { case }) => {
            serde_json::from_str(case).map_err(Into::into).and_then(|case| subjects::serve(&case))
        }
        Some(RoleCommand::Drive { case }) => drive(case),
        Some(RoleCommand::CoreCalls { setup, calls }) => serde_json::from_str(setup)
            .map_err(Into::into)
            .and_then(|setup| machine::make_calls(setup, *calls)),
        Some(RoleCommand::BothEndsCalls { setup, calls }) => serde_json::from_str(setup)
            .map_err(Into::into)
            .and_then(|setup| both_ends::make_calls(setup, *calls)),
        Some(RoleCommand::LedgerCalls { setup, calls }) => serde_json::from_str(setup)
            .map_err(Into::into)
            .and_then(|setup| ledger::make_calls(&setup, *calls)),
        Some(RoleCommand::Fairness { part }) => {
            serde_json::from_str(part).map_err(Into::into).and_then(|part| fairness::play(&part))
        }
        Some(RoleCommand::Streams { part }) => {
            serde_json::from_str(part).map_err(Into::into).and_then(|part| streams::play(&part))
        }
        None => measure(&cli),
    };
    if let Err(error) = done {
        output::note!("oncewire-bench: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn drive(case: &str) -> Result<()> {
    subjects::end_with_parent();
    let figures = subjects::drive(&serde_json::from_str(case)?)?;
    output::show!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

fn measure(cli: &Cli) -> Result<()> {
    cli.check()?;
    let rows = if cli.workloads().is_empty() { Vec::new() } else { run::all(cli)? };
    let core = if cli.wants("core") { core_bench::all()? } else { Vec::new() };
    let both_ends = if cli.wants("both") { both_ends::all()? } else { Vec::new() };
    let fairness = if cli.wants("W9") { fairness::all(cli)? } else { Vec::new() };
    let streams = if cli.wants("streams") { streams::all(cli)? } else { Vec::new() };
    let ledger = if cli.wants_ledger() { ledger::all(cli)? } else { Vec::new() };
    report::print(&rows);
    if !core.is_empty() {
        core_bench::print(&core);
    }
    both_ends::print(&both_ends);
    fairness::print(&fairness);
    streams::print(&streams);
    if !cfg!(feature = "peers") && !rows.is_empty() {
        output::show!("\nWithout the peers in Rust: they need a build with `--features peers`.");
    }
    ledger::print(&ledger);
    let cells = cells::cells(&rows);
    if let Some(path) = &cli.svg {
        std::fs::write(path, chart::svg(&cells))?;
    }
    if let Some(path) = &cli.json {
        let mut goals = goals::of_core(&core);
        goals.extend(both_ends::goals(&both_ends));
        goals.extend(fairness::goals(&fairness));
        goals.extend(streams::goals(&streams));
        goals.extend(cells.iter().flat_map(|cell| goals::named(&cells, cell)));
        let (of_ledger, promised) = (&ledger, ledger::goals(&ledger));
        let all = serde_json::json!({
            "rows": rows, "core": core, "both_ends": both_ends, "fairness": fairness, "streams": streams, "goals": goals,
            "ledger": of_ledger, "ledger_goals": promised,
        });
        std::fs::write(path, serde_json::to_string_pretty(&all)?)?;
    }
    Ok(())
}
