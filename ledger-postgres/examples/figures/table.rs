//! Turns, in rounds, and the table of them.

use std::time::{Duration, Instant};

pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// How long something is done before the next has its turn.
pub const TURN: Duration = Duration::from_millis(300);

/// How something went in its turn.
#[derive(Debug)]
pub struct Turn {
    elapsed: Duration,
    /// How long each took.
    times: Vec<Duration>,
}

impl Turn {
    /// Of those who did it at the same time, since `begun`.
    pub fn of(begun: Instant, times: impl IntoIterator<Item = Vec<Duration>>) -> Turn {
        let mut times: Vec<Duration> = times.into_iter().flatten().collect();
        times.sort();
        Turn { elapsed: begun.elapsed(), times }
    }

    fn rate(&self) -> f64 {
        self.times.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// In ms, of this share of them at most.
    fn time(&self, share: f64) -> f64 {
        let last = self.times.len().saturating_sub(1);
        let at = (last as f64 * share) as usize;
        self.times.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1_000.0)
    }
}

/// The turns of all rounds, by what was done. The first of each round is what the others are compared with.
#[derive(Default)]
pub struct Table(Vec<(String, Vec<Turn>)>);

impl Table {
    pub fn note(&mut self, name: &str, turn: Turn) {
        match self.0.iter_mut().find(|row| row.0 == name) {
            Some(row) => row.1.push(turn),
            None => self.0.push((name.to_owned(), vec![turn])),
        }
    }

    /// Medians; and those of the ratios of each round, since a disk that others use is another one in the next.
    pub fn show(&self) {
        let base = self.0.first().map_or(&[][..], |row| &row.1[..]);
        output::show!(
            "{:<38} {:>8} {:>8} {:>8} {:>10} {:>10}",
            "",
            "per s",
            "p50 ms",
            "p99 ms",
            "rate by 1",
            "p50 by 1"
        );
        for (name, turns) in &self.0 {
            let of = |measure: fn(&Turn) -> f64| median(turns.iter().map(measure));
            let by = |measure: fn(&Turn) -> f64| {
                median(turns.iter().zip(base).map(|(turn, base)| measure(turn) / measure(base)))
            };
            output::show!(
                "{name:<38} {:>8.0} {:>8.3} {:>8.3} {:>10.2} {:>10.2}",
                of(Turn::rate),
                of(|turn| turn.time(0.5)),
                of(|turn| turn.time(0.99)),
                by(Turn::rate),
                by(|turn| turn.time(0.5)),
            );
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
