//! From rows to a table: medians over rounds, and ratios to the bare socket of the same round.

use crate::case::{Figures, Workload};
use crate::cells::{Cell, Row, cells, find};
use crate::goals;
use crate::subject::Subject;

pub(crate) fn print(rows: &[Row]) {
    let cells = cells(rows);
    let mut block = None;
    for cell in &cells {
        if block != Some((cell.workload, cell.cores)) {
            block = Some((cell.workload, cell.cores));
            output::show!("\n{:?}/{}  {}", cell.workload, cell.cores, cell.workload.title());
            output::show!(
                "  {:<16}{:<6}{:>12}{:>7}{:>8}{:>10}  {}",
                "",
                "",
                unit(cell.workload),
                "±",
                "× loop",
                "cpu µs",
                more_title(cell.workload)
            );
        }
        let bare = find(&cells, cell.workload, cell.cores, Subject::SmolLoop, cell.transport);
        let ratio = bare.map_or(f64::NAN, |bare| cell.ratio_to(bare));
        let goals = goals::of_cell(&cells, cell);
        let goals: Vec<String> = goals.iter().map(goals::Goal::shown).collect();
        output::show!(
            "  {:<16}{:<6}{:>12}{:>6.0}%{:>8.2}{:>10.2}  {}  {}",
            cell.subject.name(),
            cell.transport.name(),
            show(cell.workload, cell.median()),
            cell.spread() * 100.0,
            ratio,
            cell.median_of(Figures::cpu_us),
            more(cell),
            goals.join("; "),
        );
    }
}

fn unit(workload: Workload) -> &'static str {
    match workload {
        Workload::W1 => "p50 µs",
        Workload::W4 => "MiB/s",
        Workload::W5 => "conn./s",
        Workload::W6 => "bytes",
        _ => "calls/s",
    }
}

fn show(workload: Workload, figure: f64) -> String {
    if workload == Workload::W1 { format!("{:.1}", figure / 1e3) } else { format!("{figure:.0}") }
}

fn more_title(workload: Workload) -> &'static str {
    if workload == Workload::W1 { "p99 µs  p99.9 µs  goals" } else { "goals" }
}

fn more(cell: &Cell) -> String {
    if cell.workload != Workload::W1 {
        return String::new();
    }
    let p99 = cell.median_of(|figures| figures.p99_ns as f64 / 1e3);
    let p999 = cell.median_of(|figures| figures.p999_ns as f64 / 1e3);
    format!("{p99:>6.1}{p999:>10.1}")
}
