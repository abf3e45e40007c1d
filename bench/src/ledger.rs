//! What a ledger costs, beside the disk's own sync, one commit of redb, and an idempotency-key table made by hand.
//!
//! Rates differ from disk to disk, so figures are ratios to what the same disk did by itself in the same round. Server
//! and clients are one process here, over a pair of sockets: the disk is what is measured.

mod counted;
mod disk;
mod recovery;
mod service;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use oncewire_driver::{CallFailure, Client, Method};
use serde::Serialize;

use crate::Result;
use crate::cells::median;
use crate::cli::Cli;
use crate::clock::{Duration, Instant, now};
use crate::goals::Goal;
pub(crate) use counted::make_calls;
use disk::Bare;
use service::{Kind, Service};

const IN_FLIGHT: [usize; 6] = [1, 4, 16, 64, 256, 1024];
/// Turns of L1 that are compared with each other: a disk that others use is fast at one time and slow at another.
const WINDOW: usize = 16;
/// Records of the ledger that is recovered.
const RECORDS: u64 = 1_000_000;

/// What one round gave of one thing.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LedgerRow {
    part: &'static str,
    round: u32,
    name: String,
    in_flight: usize,
    calls_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    /// In the time of one sync of the same round: calls of L2; of L1, syncs in the time of one call.
    to_sync: f64,
    /// The same of one commit of redb.
    to_commit: f64,
    /// Seconds of L3.
    seconds: f64,
    /// Instructions of a call of L4.
    instructions: f64,
}

impl LedgerRow {
    /// Of what is not measured in calls a second.
    fn of(part: &'static str, round: u32, name: String) -> LedgerRow {
        let [calls_per_s, p50_us, p99_us, to_sync, to_commit, seconds, instructions] = [0.0; 7];
        let in_flight = 0;
        LedgerRow {
            part,
            round,
            name,
            in_flight,
            calls_per_s,
            p50_us,
            p99_us,
            to_sync,
            to_commit,
            seconds,
            instructions,
        }
    }
}

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is left to the system.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Measures what is wanted of it.
pub(crate) fn all(cli: &Cli) -> Result<Vec<LedgerRow>> {
    let parent = cli.dir.clone().unwrap_or_else(std::env::temp_dir);
    let folder = Folder(parent.join(format!("oncewire-bench-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0)?;
    let wanted =
        |part: &str| cli.workload.is_empty() || cli.workload.iter().any(|name| name == part);
    let sample = Duration::from_millis(cli.sample_ms);
    let mut rows = Vec::new();
    if wanted("L1") || wanted("L2") {
        let mut bare = Bare::new(&folder.0)?;
        let service = Service::new(&folder.0)?;
        for round in 0..cli.rounds {
            if wanted("L1") {
                one_at_a_time(&mut rows, round, &mut bare, &service, sample)?;
            }
            if wanted("L2") {
                many_at_once(&mut rows, round, &mut bare, &service, sample)?;
            }
        }
        service.close();
    }
    if wanted("L3") {
        recover(&mut rows, cli.rounds, &folder.0)?;
    }
    if wanted("L4") && crate::callgrind::is_there() {
        count(&mut rows, &folder.0)?;
    }
    Ok(rows)
}

/// What is done by turns with other things, so that whatever else the disk does hits all of them.
type Step<'a> = (String, Box<dyn FnMut() -> Result<()> + 'a>);

fn one_at_a_time(
    rows: &mut Vec<LedgerRow>,
    round: u32,
    bare: &mut Bare,
    service: &Service,
    sample: Duration,
) -> Result<()> {
    let Bare { raw, redb } = bare;
    let mut steps: Vec<Step<'_>> = vec![
        ("one write and fdatasync".into(), Box::new(|| raw.sync())),
        ("one redb commit".into(), Box::new(|| redb.commit())),
    ];
    for kind in Kind::ALL {
        let (client, method) = (service.client(kind), kind.method());
        let mut number = 0;
        let call = move || -> Result<()> {
            number += 1;
            let argument = service.argument(number);
            smol::block_on(async { client.call(method, &argument).await }).ok()?;
            Ok(())
        };
        steps.push((kind.name().into(), Box::new(call)));
    }
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); steps.len()];
    let begun = now();
    while now().duration_since(begun) < sample * steps.len() as u32 {
        for ((_, step), times) in steps.iter_mut().zip(&mut times) {
            let start = now();
            step()?;
            times.push(micros(start));
        }
    }
    let ratios = |index: usize, to: usize| {
        let windows = times[index].chunks(WINDOW).zip(times[to].chunks(WINDOW));
        let middle = |window: &[f64]| median(window.iter().copied());
        median(windows.map(|(ours, theirs)| middle(ours) / middle(theirs)))
    };
    let ratios: Vec<_> = (0..steps.len()).map(|step| (ratios(step, 0), ratios(step, 1))).collect();
    for (((name, _), times), (to_sync, to_commit)) in steps.iter().zip(&mut times).zip(ratios) {
        let p50_us = quantile(times, 0.5);
        rows.push(LedgerRow {
            in_flight: 1,
            calls_per_s: 1e6 / p50_us,
            p50_us,
            p99_us: quantile(times, 0.99),
            to_sync,
            to_commit,
            ..LedgerRow::of("L1", round, name.clone())
        });
    }
    Ok(())
}

fn many_at_once(
    rows: &mut Vec<LedgerRow>,
    round: u32,
    bare: &mut Bare,
    service: &Service,
    sample: Duration,
) -> Result<()> {
    for in_flight in IN_FLIGHT {
        for kind in Kind::ALL {
            let before = bare.medians(sample / 8)?;
            let (rate, mut times) = rate(service, kind, in_flight, sample)?;
            let after = bare.medians(sample / 8)?;
            let [sync_us, commit_us] = [0, 1].map(|at| (before[at] + after[at]) / 2.0);
            rows.push(LedgerRow {
                in_flight,
                calls_per_s: rate,
                p50_us: quantile(&mut times, 0.5),
                p99_us: quantile(&mut times, 0.99),
                to_sync: rate * sync_us / 1e6,
                to_commit: rate * commit_us / 1e6,
                ..LedgerRow::of("L2", round, kind.name().into())
            });
        }
    }
    Ok(())
}

/// Calls a second with so many in flight, and the microseconds that each took.
fn rate(
    service: &Service,
    kind: Kind,
    in_flight: usize,
    sample: Duration,
) -> Result<(f64, Vec<f64>)> {
    let method: &'static Method<(u64, u64), u64> = kind.method();
    let begun = now();
    let numbers = Arc::clone(&service.numbers);
    let lane = |client: Client| {
        let numbers = numbers.clone();
        async move {
            let mut times = Vec::new();
            while now().duration_since(begun) < sample {
                let start = now();
                client.call(method, &service::argument(&numbers, 0)).await.ok()?;
                times.push(micros(start));
            }
            Ok::<_, CallFailure>(times)
        }
    };
    // On this thread; the server's tasks are on the executor's, and the ledger has its own.
    smol::block_on(async {
        let mut lanes: FuturesUnordered<_> =
            (0..in_flight).map(|_| lane(service.client(kind).clone())).collect();
        let mut times = Vec::new();
        while let Some(of_lane) = lanes.next().await {
            times.extend(of_lane?);
        }
        let took = now().duration_since(begun).as_secs_f64();
        Ok((times.len() as f64 / took, times))
    })
}

fn recover(rows: &mut Vec<LedgerRow>, rounds: u32, folder: &Path) -> Result<()> {
    let path = folder.join("million");
    recovery::fill(&path, RECORDS)?;
    for round in 0..rounds {
        for (name, seconds) in recovery::measure(&path, folder)? {
            rows.push(LedgerRow { seconds, ..LedgerRow::of("L3", round, name) });
        }
    }
    Ok(())
}

/// Counts repeat, so once is enough.
fn count(rows: &mut Vec<LedgerRow>, folder: &Path) -> Result<()> {
    for kind in [Kind::Transactional, Kind::Recorded] {
        for in_flight in [1, 256] {
            let instructions = counted::instructions(folder, kind, in_flight)?;
            let row = LedgerRow::of("L4", 0, kind.name().into());
            rows.push(LedgerRow { in_flight, instructions, ..row });
        }
    }
    Ok(())
}

fn micros(since: Instant) -> f64 {
    now().duration_since(since).as_secs_f64() * 1e6
}

fn quantile(times: &mut [f64], q: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    let at = (times.len() as f64 * q) as usize;
    times.get(at).copied().unwrap_or(f64::NAN)
}

/// The rows of one thing in all rounds, in the order in which they were first measured.
fn grouped(rows: &[LedgerRow]) -> Vec<Vec<&LedgerRow>> {
    let mut groups: Vec<Vec<&LedgerRow>> = Vec::new();
    for row in rows {
        let key = (row.part, &row.name, row.in_flight);
        let same = |group: &&mut Vec<&LedgerRow>| {
            (group[0].part, &group[0].name, group[0].in_flight) == key
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}

fn middle(group: &[&LedgerRow], of: impl Fn(&LedgerRow) -> f64) -> f64 {
    median(group.iter().map(|row| of(row)))
}

/// What is promised of one thing.
fn goal(group: &[&LedgerRow]) -> Option<Goal> {
    let row = group[0];
    let ledger = row.name == Kind::Transactional.name() || row.name == Kind::Recorded.name();
    match (row.part, row.in_flight) {
        ("L1", _) if row.name == Kind::Transactional.name() => {
            Some(Goal::most("redb commits", middle(group, |row| row.to_commit), 1.2))
        }
        ("L2", 256) if ledger => {
            Some(Goal::least("calls a sync", middle(group, |row| row.to_sync), 50.0))
        }
        ("L3", _) => Some(Goal::most("s", middle(group, |row| row.seconds), 2.0)),
        _ => None,
    }
}

/// All promises, with what they are of.
pub(crate) fn goals(rows: &[LedgerRow]) -> Vec<serde_json::Value> {
    let named = |group: Vec<&LedgerRow>| {
        let goal = goal(&group)?;
        let of = format!("{} {} {}", group[0].part, group[0].name, group[0].in_flight);
        Some(serde_json::json!({ "of": of, "goal": goal }))
    };
    grouped(rows).into_iter().filter_map(named).collect()
}

pub(crate) fn print(rows: &[LedgerRow]) {
    let mut part = "";
    for group in grouped(rows) {
        let row = group[0];
        if row.part != part {
            part = row.part;
            output::show!("\n{}", title(part));
        }
        let goal = goal(&group).map(|goal| goal.shown()).unwrap_or_default();
        let name = match row.in_flight {
            0 | 1 if part != "L2" && part != "L4" => row.name.clone(),
            many => format!("{many:>5} {}", row.name),
        };
        if part == "L3" {
            output::show!("  {name:<32}{:>10.2}  {goal}", middle(&group, |row| row.seconds));
            continue;
        }
        if part == "L4" {
            output::show!("  {name:<32}{:>10.0}", middle(&group, |row| row.instructions));
            continue;
        }
        output::show!(
            "  {name:<32}{:>10.0}{:>10.0}{:>10.0}{:>9.2}{:>9.2}  {goal}",
            middle(&group, |row| row.calls_per_s),
            middle(&group, |row| row.p50_us),
            middle(&group, |row| row.p99_us),
            middle(&group, |row| row.to_sync),
            middle(&group, |row| row.to_commit),
        );
    }
}

fn title(part: &str) -> String {
    let columns = |what: &str, sync: &str, commit: &str| {
        format!("{what:<34}{:>10}{:>10}{:>10}{sync:>9}{commit:>9}", "/s", "p50 µs", "p99 µs")
    };
    match part {
        "L1" => columns("L1  one at a time, by turns", "syncs", "commits"),
        "L2" => columns("L2  in flight; calls in the time of", "a sync", "a commit"),
        "L3" => format!("L3  recovery of {RECORDS} records of 32 bytes, seconds"),
        _ => {
            "L4  in flight, with commits on the server's own thread; instructions a call".to_owned()
        }
    }
}
