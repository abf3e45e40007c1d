//! The rounds: every case of a round once, one after another, so that a disturbance hits all cases alike.

use std::io::{IsTerminal, Write};

use crate::Result;
use crate::case::{Case, Figures, Transport, Workload};
use crate::cells::Row;
use crate::cli::Cli;
use crate::clock::Duration;
use crate::place::Place;
use crate::process::{LINE_TIMEOUT, Process};
use crate::subject::Subject;
use crate::{subjects, sys};

pub(crate) fn all(cli: &Cli) -> Result<Vec<Row>> {
    let cores = sys::cores()?;
    let plan = plan(cli, cores.len());
    let mut rows = Vec::new();
    for round in 0..cli.rounds {
        for (index, case) in plan.iter().enumerate() {
            let (nth, of) = (index + 1, plan.len());
            let text = format!("round {} of {}, {nth} of {of}: ", round + 1, cli.rounds);
            progress(&format!("{text}{}", name(case)));
            match measure(case, &cores) {
                Ok(figures) => rows.push(Row {
                    round,
                    workload: case.workload,
                    cores: case.cores,
                    subject: case.subject,
                    transport: case.transport,
                    figures,
                    load: sys::load_average(),
                }),
                Err(error) => output::note!("\r{}: {error}", name(case)),
            }
        }
    }
    sys::pin(&cores)?;
    progress("");
    Ok(rows)
}

fn name(case: &Case) -> String {
    let Case { workload, cores, subject, transport, .. } = case;
    format!("{workload:?}/{cores} {} {}", subject.name(), transport.name())
}

/// Shows what is being done, on a terminal.
pub(crate) fn progress(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        // A lost line does no harm.
        let _ = write!(stderr, "\r\x1b[K{text}");
    }
}

/// The cases of a round.
fn plan(cli: &Cli, cores_len: usize) -> Vec<Case> {
    let mut plan = Vec::new();
    for &workload in &cli.workloads() {
        for cores in [1, 2] {
            // Memory does not depend on cores.
            let skip = workload == Workload::W6 && cores == 2 || cores as usize > cores_len;
            if skip || cli.cores.is_some_and(|only| only != cores) {
                continue;
            }
            for subject in cli.subjects() {
                for transport in Transport::ALL {
                    if subject.offers(transport, workload)
                        && cli.transport.is_none_or(|only| only == transport)
                    {
                        plan.push(case(cli, subject, transport, workload, cores));
                    }
                }
            }
        }
    }
    plan
}

fn case(cli: &Cli, subject: Subject, transport: Transport, workload: Workload, cores: u32) -> Case {
    Case {
        subject,
        transport,
        workload,
        cores,
        warm_ms: (cli.sample_ms / 4).min(250),
        sample_ms: cli.sample_ms,
        server_core: 0,
        address: String::new(),
        server_pid: 0,
        body_len: workload.body_len(),
        outstanding: workload.outstanding(),
        connections: workload.connections(),
        wait_ms: workload.wait().map_or(0, |wait| wait.as_millis() as u64),
    }
}

/// Starts the two processes of a case, each on its core.
fn measure(case: &Case, cores: &[usize]) -> Result<Figures> {
    let program = subjects::program(case.subject)?;
    // The first core has the interrupts, more often than not.
    let client_core = *cores.last().ok_or("no core")?;
    let server_core = if case.cores == 1 { client_core } else { cores[0] };
    let threads = case.subject.smol_threads();
    let place = Place::of(case.transport);
    let mut case = Case { server_core, address: place.address(), ..case.clone() };
    let mut server = None;
    if case.transport != Transport::Pipe {
        sys::pin(&[server_core])?;
        let process = Process::start(&program, "serve", &case, threads)?;
        let line = process.line(LINE_TIMEOUT)?;
        case.address = line.strip_prefix("ready ").ok_or("it is not ready")?.to_owned();
        case.server_pid = process.pid();
        server = Some(process);
    }
    sys::pin(&[client_core])?;
    let client = Process::start(&program, "drive", &case, threads)?;
    let line = client.line(LINE_TIMEOUT + Duration::from_millis(case.warm_ms + case.sample_ms))?;
    drop((client, server, place));
    Ok(serde_json::from_str(&line)?)
}
