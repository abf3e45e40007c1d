//! Both machines against each other, in a small world whose every choice is the input's.

use crate::world::{self, Broken};

/// Runs a world of at most 60 calls: the first eight bytes are its seed, the others its choices. When they are used
/// up, the seed goes on.
pub fn pair(data: &[u8]) {
    let Some((seed, choices)) = data.split_first_chunk::<8>() else { return };
    let seed = u64::from_le_bytes(*seed);
    let calls = 4 + (seed >> 58);
    let mut trace = world::Trace::default();
    let report = world::run_with(seed, choices, calls.min(60), Broken::No, &mut trace);
    if let Err(violation) = report {
        panic!("{}", violation.0);
    }
}
