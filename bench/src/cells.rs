//! What was measured: a row a measurement, and the rounds of each case together.

use serde::Serialize;

use crate::case::{Figures, Transport, Workload};
use crate::subject::Subject;

/// One measurement and what it gave.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) round: u32,
    pub(crate) workload: Workload,
    pub(crate) cores: u32,
    pub(crate) subject: Subject,
    pub(crate) transport: Transport,
    pub(crate) figures: Figures,
    /// The system's load averages after it.
    pub(crate) load: String,
}

/// The rows of one case over all rounds.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) workload: Workload,
    pub(crate) cores: u32,
    pub(crate) subject: Subject,
    pub(crate) transport: Transport,
    /// The workload's figure, by round: see [`figure`].
    pub(crate) by_round: Vec<(u32, f64)>,
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
    pub(crate) fn spread(&self) -> f64 {
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
