//! From rows to a table: medians over rounds, and ratios to the bare socket of the same round.

use crate::case::{Figures, Subject, Transport, Workload};
use crate::goals;
use crate::run::Row;

/// The rows of one case over all rounds.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) workload: Workload,
    pub(crate) cores: u32,
    pub(crate) subject: Subject,
    pub(crate) transport: Transport,
    /// The workload's figure, by round: see [`figure`].
    by_round: Vec<(u32, f64)>,
    pub(crate) figures: Vec<Figures>,
}

/// What a workload is about: nanoseconds, calls per second, or bytes.
pub(crate) fn figure(workload: Workload, figures: &Figures) -> f64 {
    match workload {
        Workload::W1 => figures.p50_ns as f64,
        Workload::W6 => figures.connection_bytes as f64,
        _ => figures.calls_per_s(),
    }
}

impl Cell {
    pub(crate) fn median(&self) -> f64 {
        median(self.by_round.iter().map(|(_, figure)| *figure))
    }

    pub(crate) fn median_of(&self, of: impl Fn(&Figures) -> f64) -> f64 {
        median(self.figures.iter().map(of))
    }

    /// The median of the rounds' ratios.
    pub(crate) fn ratio_to(&self, other: &Cell) -> f64 {
        let ratio = |(round, figure): &(u32, f64)| {
            let other = other.by_round.iter().find(|(other, _)| other == round)?;
            Some(figure / other.1)
        };
        median(self.by_round.iter().filter_map(ratio))
    }

    /// Half of the distance between the lowest and the highest round, as a share of the median.
    fn spread(&self) -> f64 {
        let low = self.by_round.iter().map(|(_, figure)| *figure).fold(f64::MAX, f64::min);
        let high = self.by_round.iter().map(|(_, figure)| *figure).fold(0.0, f64::max);
        (high - low) / 2.0 / self.median()
    }
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}

/// Gathers the rounds of each case.
pub(crate) fn cells(rows: &[Row]) -> Vec<Cell> {
    let mut cells: Vec<Cell> = Vec::new();
    for row in rows {
        let same = |cell: &&mut Cell| {
            (cell.workload, cell.cores, cell.subject, cell.transport)
                == (row.workload, row.cores, row.subject, row.transport)
        };
        let by_round = (row.round, figure(row.workload, &row.figures));
        match cells.iter_mut().find(same) {
            Some(cell) => {
                cell.by_round.push(by_round);
                cell.figures.push(row.figures.clone());
            }
            None => cells.push(Cell {
                workload: row.workload,
                cores: row.cores,
                subject: row.subject,
                transport: row.transport,
                by_round: vec![by_round],
                figures: vec![row.figures.clone()],
            }),
        }
    }
    cells
}

/// The cell of a case.
pub(crate) fn find(
    cells: &[Cell],
    workload: Workload,
    cores: u32,
    subject: Subject,
    transport: Transport,
) -> Option<&Cell> {
    let key = (workload, cores, subject, transport);
    cells.iter().find(|cell| (cell.workload, cell.cores, cell.subject, cell.transport) == key)
}

pub(crate) fn print(rows: &[Row]) {
    let cells = cells(rows);
    let mut block = None;
    for cell in &cells {
        if block != Some((cell.workload, cell.cores)) {
            block = Some((cell.workload, cell.cores));
            println!("\n{:?}/{}  {}", cell.workload, cell.cores, cell.workload.title());
            println!(
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
        println!(
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
