//! W9: how long a client waits that makes a call now and then, alone and beside a connection that sends as fast as it can.
//!
//! The server, the honest client and its neighbour are three processes; the clients share a core, and with `/1` the server
//! does, too.

mod neighbour;

use bytes::Bytes;
use oncewire_driver::{Client, Method, Server};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::case::Transport;
use crate::cells::median;
use crate::cli::Cli;
use crate::clock::{Duration, now, sleep};
use crate::goals::Goal;
use crate::parties::{self, Setting, Waits};
use crate::process::{LINE_TIMEOUT, Process};
use crate::{subjects, sys};
use neighbour::Neighbour;

const ECHO: Method<u32, u32> = Method::new("bench/echo");
/// Takes [`WORK`] of the processor.
const COMPUTE: Method<u32, u32> = Method::new("bench/compute");
const WORK: Duration = Duration::from_micros(10);
/// Says how long its argument is.
const MEASURE: Method<Bytes, u32> = Method::new("bench/measure");
/// Between two calls of the honest client.
const PAUSE: Duration = Duration::from_millis(1);
/// A sample is so many times as long as those of the other workloads: its calls are few.
const SAMPLES: u32 = 3;

/// A role's process, as it is described to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Part {
    Serve { transport: Transport, address: String },
    Beside { neighbour: Neighbour, transport: Transport, address: String },
    Call { transport: Transport, address: String, sample_ms: u64 },
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FairnessRow {
    round: u32,
    transport: Transport,
    cores: u32,
    neighbour: Neighbour,
    waits: Waits,
}

pub(crate) fn all(cli: &Cli) -> Result<Vec<FairnessRow>> {
    let mut rows = Vec::new();
    parties::each_setting(cli, |setting| measure(cli, setting, &mut rows))?;
    Ok(rows)
}

/// One server, and the honest client beside each neighbour in turn.
fn measure(cli: &Cli, setting: Setting, rows: &mut Vec<FairnessRow>) -> Result<()> {
    let Setting { round, transport, cores, .. } = setting;
    let server = setting.serve(|address| start(&Part::Serve { transport, address }))?;
    for neighbour in Neighbour::ALL {
        crate::run::progress(&format!("W9/{cores} {} {neighbour:?}", transport.name()));
        let address = server.address.clone();
        let mut beside = start(&Part::Beside { neighbour, transport, address: address.clone() })?;
        beside.line(LINE_TIMEOUT)?;
        let sample_ms = cli.sample_ms * u64::from(SAMPLES);
        let client = start(&Part::Call { transport, address, sample_ms })?;
        let line = client.line(LINE_TIMEOUT + Duration::from_millis(sample_ms))?;
        let waits = serde_json::from_str(&line)?;
        if beside.has_ended()? {
            return Err(format!("{neighbour:?} did not stay to the end").into());
        }
        rows.push(FairnessRow { round, transport, cores, neighbour, waits });
    }
    Ok(())
}

fn start(part: &Part) -> Result<Process> {
    Process::start(&std::env::current_exe()?, "fairness", part, 1)
}

/// Plays a part in a process of its own.
pub(crate) fn play(part: &Part) -> Result<()> {
    match part {
        Part::Serve { transport, address } => smol::block_on(serve(*transport, address)),
        Part::Beside { neighbour, transport, address } => neighbour.run(*transport, address),
        Part::Call { transport, address, sample_ms } => {
            subjects::end_with_parent();
            let client = parties::client(*transport, address);
            let waits = smol::block_on(call(&client, Duration::from_millis(*sample_ms)))?;
            output::show!("{}", serde_json::to_string(&waits)?);
            Ok(())
        }
    }
}

async fn serve(transport: Transport, address: &str) -> Result<()> {
    let server = Server::builder("bench")
        .method(&ECHO, |_, n| async move { n })
        .method(&MEASURE, |_, body: Bytes| async move { body.len() as u32 })
        .method(&COMPUTE, |_, n| {
            let begun = now();
            while begun.elapsed() < WORK {
                std::hint::spin_loop();
            }
            async move { n }
        })
        .build()?;
    parties::serve(server, transport, address).await
}

/// The honest client: one call after the other, with pauses.
async fn call(client: &Client, sample: Duration) -> Result<Waits> {
    client.call(&ECHO, &0).await.ok()?;
    sys::use_cubic()?;
    let begun = now();
    let mut waits = Vec::new();
    while begun.elapsed() < sample {
        sleep(PAUSE).await;
        let before = now();
        client.call(&ECHO, &1).await.ok()?;
        waits.push(before.elapsed().as_nanos() as f64 / 1e3);
    }
    Waits::of(waits)
}

/// The rounds of one measurement: what it was, p50 and p99 in µs, and the latter as a ratio to that alone.
struct Cell {
    transport: Transport,
    cores: u32,
    neighbour: Neighbour,
    p50_us: f64,
    p99_us: f64,
    to_alone: f64,
}

fn cells(rows: &[FairnessRow]) -> Vec<Cell> {
    let same = |a: &FairnessRow, b: &FairnessRow| (a.transport, a.cores) == (b.transport, b.cores);
    let mut cells = Vec::new();
    for first in rows.iter().filter(|row| row.round == 0) {
        let rounds =
            || rows.iter().filter(|row| same(row, first) && row.neighbour == first.neighbour);
        let to_alone = |row: &FairnessRow| {
            let alone = rows.iter().find(|other| {
                same(other, row) && other.round == row.round && other.neighbour == Neighbour::Alone
            })?;
            Some(row.waits.p99_us / alone.waits.p99_us)
        };
        cells.push(Cell {
            transport: first.transport,
            cores: first.cores,
            neighbour: first.neighbour,
            p50_us: median(rounds().map(|row| row.waits.p50_us)),
            p99_us: median(rounds().map(|row| row.waits.p99_us)),
            to_alone: median(rounds().filter_map(to_alone)),
        });
    }
    cells
}

impl Cell {
    /// Five times what it is alone, or 5 ms.
    fn goal(&self) -> Option<Goal> {
        let bound = (5.0 * self.p99_us / self.to_alone).max(5000.0).round();
        let Cell { transport, cores, neighbour, .. } = self;
        let text = format!("W9/{cores} {} {}, p99 µs", transport.name(), neighbour.name());
        (*neighbour != Neighbour::Alone).then(|| Goal::most(&text, self.p99_us, bound))
    }
}

pub(crate) fn goals(rows: &[FairnessRow]) -> Vec<Goal> {
    cells(rows).iter().filter_map(Cell::goal).collect()
}

pub(crate) fn print(rows: &[FairnessRow]) {
    if rows.is_empty() {
        return;
    }
    output::show!("\nW9  a client that makes a call each millisecond, beside another connection");
    output::show!(
        "  {:<24}{:<6}{:>6}{:>10}{:>10}{:>9}  goals",
        "beside",
        "",
        "cores",
        "p50 µs",
        "p99 µs",
        "× alone"
    );
    for cell in cells(rows) {
        output::show!(
            "  {:<24}{:<6}{:>6}{:>10.1}{:>10.1}{:>9.2}  {}",
            cell.neighbour.name(),
            cell.transport.name(),
            cell.cores,
            cell.p50_us,
            cell.p99_us,
            cell.to_alone,
            cell.goal().map_or(String::new(), |goal| goal.shown()),
        );
    }
}
