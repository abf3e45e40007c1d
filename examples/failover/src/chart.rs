//! The chart: a bar for each median, on a logarithmic scale.

use std::fmt::Write;
use std::time::Duration;

use crate::{Median, text};

const WIDTH: f64 = 720.0;
const LEFT: f64 = 290.0;
const ROW: f64 = 34.0;
/// The scale's ends, in milliseconds.
const FROM: f64 = 0.01;
const TO: f64 = 10_000.0;

fn x(millis: f64) -> f64 {
    let share = (millis.clamp(FROM, TO) / FROM).log10() / (TO / FROM).log10();
    LEFT + share * (WIDTH - LEFT - 70.0)
}

/// The chart as a file's text.
pub(crate) fn svg(medians: &[Median<'_>]) -> String {
    let height = ROW * (medians.len() as f64 + 2.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"22\" font-weight=\"bold\">From the fault of a backup to the primary's answer</text>\n"
    );
    for power in -2..=4 {
        let millis = 10_f64.powi(power);
        let (at, bottom) = (x(millis), height - ROW);
        let _ = writeln!(
            out,
            "<line x1=\"{at:.0}\" y1=\"{ROW}\" x2=\"{at:.0}\" y2=\"{bottom}\" stroke=\"#ccc\"/>\n\
             <text x=\"{at:.0}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{millis} ms</text>",
            bottom + 18.0
        );
    }
    for (row, (trial, median)) in medians.iter().enumerate() {
        let y = ROW * (row as f64 + 1.0) + 6.0;
        let end = x(millis(*median));
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.0}\" height=\"20\" fill=\"#4a7ebb\"/>\n\
             <text x=\"{:.0}\" y=\"{}\">{}</text>",
            LEFT - 8.0,
            y + 15.0,
            trial.name,
            end - LEFT,
            end + 6.0,
            y + 15.0,
            text(*median),
        );
    }
    out + "</svg>\n"
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
