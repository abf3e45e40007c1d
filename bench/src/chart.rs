//! The chart for the README: calls per second of W2, relative to the bare socket.

use std::fmt::Write;

use crate::case::{Transport, Workload};
use crate::cells::{Cell, find};
use crate::subject::{Kind, Subject};

const WIDTH: f64 = 720.0;
const LEFT: f64 = 170.0;
const BAR: f64 = 18.0;
const ROW: f64 = 24.0;
const TOP: f64 = 44.0;

/// Bars of calls per second with 64 outstanding, on one core, as shares of the bare loop's; logarithmic, since peers lie
/// orders of magnitude apart.
pub(crate) fn svg(cells: &[Cell]) -> String {
    let mut bars = Vec::new();
    for cell in cells.iter().filter(|cell| cell.workload == Workload::W2 && cell.cores == 1) {
        let bare = find(cells, Workload::W2, 1, Subject::SmolLoop, cell.transport);
        let (true, Some(bare)) = (cell.transport != Transport::Pipe, bare) else { continue };
        bars.push((cell, cell.ratio_to(bare)));
    }
    bars.sort_by(|a, b| {
        (a.0.transport, b.1).partial_cmp(&(b.0.transport, a.1)).unwrap_or(std::cmp::Ordering::Equal)
    });
    let least = bars.iter().map(|(_, ratio)| *ratio).fold(1.0, f64::min) / 2.0;
    let most = bars.iter().map(|(_, ratio)| *ratio).fold(1.0, f64::max);
    let height = TOP + ROW * bars.len() as f64 + 16.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"24\" font-size=\"15\">Calls per second, 64 outstanding, one core, \
         × bare smol loop (logarithmic)</text>\n"
    );
    for (row, (cell, ratio)) in bars.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        let share = (ratio / least).ln() / (most / least).ln();
        let width = share * (WIDTH - LEFT - 70.0);
        let colour = match cell.subject.kind() {
            Kind::Bare => "#9aa5b1",
            Kind::Oncewire => "#d9480f",
            Kind::Peer => "#4c6ef5",
        };
        let name = format!("{}, {}", cell.subject.name(), cell.transport.name());
        let text = y + 14.0;
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{text:.0}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{text:.0}\">{ratio:.3}</text>",
            LEFT - 8.0,
            LEFT + width + 6.0,
        );
    }
    svg + "</svg>\n"
}
