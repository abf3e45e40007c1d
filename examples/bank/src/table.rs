//! A table with a column for each transport.

use std::fmt;

use crate::demo::Column;
use crate::fault::get;

/// What the demo found.
pub(crate) fn tabulate(columns: &[Column]) -> Table {
    let mut table = Table::default();
    let row = |table: &mut Table, label: &str, cell: &dyn Fn(&Column) -> u64| {
        table.row(label, columns.iter().map(cell));
    };
    table.row("", columns.iter().map(|c| c.transport.name()));
    table.heading("What was done to them");
    row(&mut table, "calls", &|c| c.report.calls);
    row(&mut table, "cuts", &|c| c.injector.cuts());
    row(&mut table, "  before a frame", &|c| get(&c.injector.before));
    row(&mut table, "  inside a frame", &|c| get(&c.injector.inside));
    row(&mut table, "  after a frame", &|c| get(&c.injector.after));
    row(&mut table, "  with a reply swallowed", &|c| get(&c.injector.swallowed));
    row(&mut table, "delays", &|c| get(&c.injector.delays));
    row(&mut table, "clients killed", &|c| c.killed.clients);
    row(&mut table, "  operations they had begun", &|c| c.killed.operations);
    row(&mut table, "  of these, without an outcome", &|c| c.killed.in_doubt);
    table.heading("What they did about it");
    row(&mut table, "reconnects", &|c| c.report.reconnects);
    row(&mut table, "resends", &|c| c.report.resends);
    row(&mut table, "asked about instead", &|c| c.report.asks);
    row(&mut table, "duplicates suppressed", &|c| c.server.duplicates + c.server.asks);
    row(&mut table, "not executed, and reported so", &|c| c.report.not_executed);
    row(&mut table, "unknown outcomes resolved", &|c| c.report.resolved);
    row(&mut table, "unknown outcomes left", &|c| c.report.unknown);
    table.heading("What came of it");
    row(&mut table, "operations executed twice", &|c| c.server.executed_again);
    row(&mut table, "expected balance", &|c| c.expected);
    row(&mut table, "actual balance", &|c| c.server.balances);
    table.row("exact", columns.iter().map(|c| if c.exact { "yes" } else { "NO" }));
    table.heading("The same calls, at least once: plain retries, no clients killed");
    row(&mut table, "operations executed twice", &|c| c.naive.executed_twice);
    row(&mut table, "expected balance", &|c| c.naive.expected);
    row(&mut table, "actual balance", &|c| c.naive.actual);
    let error = |c: &Column| i128::from(c.naive.actual) - i128::from(c.naive.expected);
    table.row("money made or lost", columns.iter().map(|c| format!("{:+}", error(c))));
    table
}

/// Rows of a label and a cell for each column.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<(String, Vec<String>)>,
}

impl Table {
    pub(crate) fn row<T: fmt::Display>(&mut self, label: &str, cells: impl IntoIterator<Item = T>) {
        let cells = cells.into_iter().map(|cell| cell.to_string()).collect();
        self.rows.push((label.to_owned(), cells));
    }

    /// A heading over the rows that follow.
    pub(crate) fn heading(&mut self, text: &str) {
        self.rows.push((text.to_owned(), Vec::new()));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filled = || self.rows.iter().filter(|(_, cells)| !cells.is_empty());
        let first = filled().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        let columns = filled().map(|(_, cells)| cells.len()).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = filled().filter_map(|(_, cells)| cells.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (label, cells) in &self.rows {
            if cells.is_empty() {
                writeln!(f, "\n{label}")?;
                continue;
            }
            write!(f, "  {label:<first$}")?;
            for (cell, &width) in cells.iter().zip(&widths) {
                write!(f, "   {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
