//! Bounded work: how often each step of a machine that is full looks into its tables.
//!
//! Not timed: the tests count, so that they hold on any machine. "A small constant times log2(n)" is [`BOUND`].

mod client;
mod server;

extern crate std;

use std::vec::Vec;

use crate::wire::{self, Frame};

/// Slots, and calls, of a full machine: as many as the wire allows.
const FULL: u64 = 65_536;
/// The most looks that a step may take, 20 · log2(65,536); the client's and the server's steps take a few dozen for
/// one call among few.
const BOUND: u64 = 20 * 16;

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = [0; 512];
    let len = wire::encode(frame, &mut out).unwrap();
    out[..len].to_vec()
}

/// The numbers from 1 to [`FULL`], in three orders.
fn orders() -> [(&'static str, Vec<u64>); 3] {
    let ascending: Vec<u64> = (1..=FULL).collect();
    let descending = ascending.iter().rev().copied().collect();
    let mut random = ascending.clone();
    let mut seed = 1_u64;
    for at in (1..random.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        random.swap(at, (seed >> 33) as usize % (at + 1));
    }
    [("ascending", ascending), ("descending", descending), ("random", random)]
}

/// The most looks of one step, and of all together.
#[derive(Default)]
struct Worst {
    step: u64,
    total: u64,
}

impl Worst {
    fn note(&mut self, looks: u64) {
        self.step = self.step.max(looks);
        self.total += looks;
    }
}
