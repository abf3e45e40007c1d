//! The core's part of the benchmark: which setups, callgrind, and the table.

use crate::machine::{CoreRow, Setup};
use crate::{Result, callgrind, machine, sys};

const LONE: Setup = Setup { slots: 1024, sessions: 1, body_len: 32, window: false };

fn setups() -> Vec<Setup> {
    let mut setups = vec![LONE];
    for slots in [1, 16, 256, 4096, 16_384, 65_536] {
        setups.push(Setup { slots, ..LONE });
    }
    for slots in [64, 1024, 4096, 65_536] {
        setups.push(Setup { slots, window: true, ..LONE });
    }
    for sessions in [16, 1_000, 10_000, 100_000, 1_000_000] {
        setups.push(Setup { sessions, ..LONE });
    }
    for body_len in [0, 256, 1024, 16 << 10, 1 << 20] {
        setups.push(Setup { body_len, slots: 16, ..LONE });
    }
    setups
}

/// Callgrind makes a program fifty times slower: more sessions than these are not opened under it.
const CALLGRIND_SESSIONS_MAX: usize = 10_000;

pub(crate) fn all() -> Result<Vec<CoreRow>> {
    let cores = sys::cores()?;
    sys::pin(&cores[cores.len() - 1..])?;
    let has_callgrind = callgrind::is_there();
    let mut rows = Vec::new();
    // The first run of all is slow: the core wakes up, and memory is fresh.
    machine::run(LONE)?;
    for setup in setups() {
        crate::run::progress(&format!("core: {setup:?}"));
        let mut row = machine::run(setup)?;
        if has_callgrind && setup.sessions <= CALLGRIND_SESSIONS_MAX {
            row.instructions = instructions(setup).ok();
        }
        rows.push(row);
    }
    sys::pin(&cores)?;
    Ok(rows)
}

/// Instructions of a whole call: the difference of two runs that differ in nothing but their calls.
fn instructions(setup: Setup) -> Result<f64> {
    let warm = 2 * u64::from(setup.slots) * setup.sessions.min(16) as u64;
    let calls = (400_000 / (setup.body_len as u64 + 200)).max(u64::from(setup.slots));
    let counted = |calls| callgrind::instructions("core-calls", &setup, calls);
    let (less, more) = (counted(warm)?, counted(warm + calls)?);
    Ok((more - less) as f64 / calls as f64)
}

pub(crate) fn print(rows: &[CoreRow]) {
    output::show!("\nThe core in memory: a whole call, and the heap of an idle session");
    output::show!(
        "  {:>9}{:>10}{:>8}{:>8}{:>10}{:>10}{:>8}{:>11}{:>11}",
        "sessions",
        "body",
        "slots",
        "flight",
        "ns",
        "instr.",
        "alloc.",
        "connected",
        "no conn."
    );
    for row in rows {
        let Setup { slots, sessions, body_len, window } = row.setup;
        let shown = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.0}"));
        output::show!(
            "  {sessions:>9}{body_len:>10}{slots:>8}{:>8}{:>10.1}{:>10}{:>8.3}{:>11}{:>11}",
            if window { slots } else { 1 },
            row.ns,
            shown(row.instructions),
            row.allocations,
            shown(row.connected_bytes),
            shown(row.disconnected_bytes),
        );
    }
    for goal in crate::goals::of_core(rows) {
        output::show!("  {}", goal.shown());
    }
}
