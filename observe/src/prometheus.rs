//! Counters as Prometheus text.

use std::fmt::{self, Write};

use crate::counting::{Counters, DURATION_BOUNDS, Durations, SideCounters};

/// All of them, each with its type.
pub(crate) fn text(counters: &Counters) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(counters, &mut text);
    text
}

fn write(counters: &Counters, out: &mut String) -> fmt::Result {
    let sides = [("server", &counters.server), ("client", &counters.client)];
    for (side, counters) in sides {
        write_calls(side, counters, out)?;
        for (name, number) in numbers(counters) {
            writeln!(out, "# TYPE oncewire_{side}_{name}_total counter")?;
            writeln!(out, "oncewire_{side}_{name}_total {number}")?;
        }
    }
    writeln!(out, "# TYPE oncewire_server_duplicates_total counter")?;
    for (verdict, number) in &counters.server.duplicates {
        writeln!(
            out,
            "oncewire_server_duplicates_total{{oncewire_verdict=\"{verdict}\"}} {number}"
        )?;
    }
    writeln!(out, "# TYPE oncewire_events_lost_total counter")?;
    writeln!(out, "oncewire_events_lost_total {}", counters.events_lost)
}

fn numbers(side: &SideCounters) -> [(&'static str, u64); 16] {
    [
        ("connections_opened", side.connections_opened),
        ("connections_closed", side.connections_closed),
        ("connections_refused", side.connections_refused),
        ("accepts_failed", side.accepts_failed),
        ("dials_failed", side.dials_failed),
        ("sessions_opened", side.sessions_opened),
        ("sessions_resumed", side.sessions_resumed),
        ("sessions_refused", side.sessions_refused),
        ("sessions_ended", side.sessions_ended),
        ("sessions_lost", side.sessions_lost),
        ("reconnects", side.reconnects),
        ("calls_late", side.late_outcomes),
        ("one_way", side.one_way),
        ("panics", side.panics),
        ("rollbacks", side.rollbacks),
        ("ledger_failures", side.ledger_failures),
    ]
}

fn write_calls(side: &str, counters: &SideCounters, out: &mut String) -> fmt::Result {
    writeln!(out, "# TYPE rpc_{side}_call_duration_seconds histogram")?;
    for (method, calls) in &counters.calls {
        for (status, durations) in &calls.ended {
            let labels = format!(
                "rpc_system_name=\"oncewire\",rpc_method=\"{}\",rpc_response_status_code=\"{status}\"",
                Escaped(method)
            );
            write_durations(side, &labels, durations, out)?;
        }
    }
    writeln!(out, "# TYPE oncewire_{side}_calls_in_flight gauge")?;
    for (method, calls) in &counters.calls {
        let (method, number) = (Escaped(method), calls.in_flight());
        writeln!(out, "oncewire_{side}_calls_in_flight{{rpc_method=\"{method}\"}} {number}")?;
    }
    writeln!(out, "# TYPE oncewire_{side}_calls_refused_total counter")?;
    for (method, calls) in &counters.calls {
        for (status, number) in &calls.refused {
            writeln!(
                out,
                "oncewire_{side}_calls_refused_total{{rpc_method=\"{}\",rpc_response_status_code=\"{status}\"}} {number}",
                Escaped(method)
            )?;
        }
    }
    Ok(())
}

/// Its buckets count all that is at most as long.
fn write_durations(
    side: &str,
    labels: &str,
    durations: &Durations,
    out: &mut String,
) -> fmt::Result {
    let name = format!("rpc_{side}_call_duration_seconds");
    let mut so_far = 0;
    for (bound, count) in DURATION_BOUNDS.iter().zip(durations.buckets) {
        so_far += count;
        writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {so_far}")?;
    }
    let count = durations.count();
    writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
    writeln!(out, "{name}_sum{{{labels}}} {}", durations.seconds)?;
    writeln!(out, "{name}_count{{{labels}}} {count}")
}

/// The value of a label.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                char => f.write_char(char)?,
            }
        }
        Ok(())
    }
}
