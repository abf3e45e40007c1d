//! The core in memory, measured: whole calls, without a socket. What makes them is a crate of its own.

pub(crate) use oncewire_bench_core::Setup;
use oncewire_bench_core::World;
use serde::Serialize;

use crate::clock::now;
use crate::{Result, allocs};

/// What it gave.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CoreRow {
    pub(crate) setup: Setup,
    /// A whole call: the median of the batches.
    pub(crate) ns: f64,
    pub(crate) allocations: f64,
    /// By callgrind.
    pub(crate) instructions: Option<f64>,
    /// Heap of the server that an idle session costs, with its connection and without.
    pub(crate) connected_bytes: Option<f64>,
    pub(crate) disconnected_bytes: Option<f64>,
}

const BATCHES: usize = 15;

/// Runs a setup in this process.
pub(crate) fn run(setup: Setup) -> Result<CoreRow> {
    let mut world = World::new(setup, allocs::live_bytes)?;
    // Every slot is used before the measurement.
    let per_batch = (2_000_000 / (setup.body_len as u64 + 200)).max(u64::from(setup.slots) / 4);
    world.calls(setup, per_batch.max(2 * u64::from(setup.slots) * world.active_len() as u64))?;
    let mut batches = Vec::with_capacity(BATCHES);
    let allocations = allocs::count();
    let mut made = 0;
    for _ in 0..BATCHES {
        let begun = now();
        let calls = world.calls(setup, per_batch)?;
        batches.push(begun.elapsed().as_nanos() as f64 / calls as f64);
        made += calls;
    }
    let allocations = allocs::count() - allocations;
    Ok(CoreRow {
        setup,
        ns: crate::cells::median(batches.into_iter()),
        allocations: allocations as f64 / made as f64,
        instructions: None,
        connected_bytes: world.connected_bytes(),
        disconnected_bytes: World::disconnected_bytes(setup, allocs::live_bytes)?,
    })
}

/// Only makes calls: what callgrind counts.
pub(crate) fn make_calls(setup: Setup, calls: u64) -> Result<()> {
    let mut world = World::new(setup, allocs::live_bytes)?;
    world.calls(setup, calls)?;
    Ok(())
}
