//! Both machines against each other, in a small world in which the input makes every choice.

use crate::world::{self, Broken};

/// Runs a world of at most 60 calls: the first eight bytes are its seed, the others its choices. When they are used
/// up, the seed goes on.
pub fn pair(data: &[u8]) {
    if let Err(violation) = pair_traced(data, &mut world::Trace::default()) {
        panic!("{}", violation.0);
    }
}

/// The same, with a trace; `world --input FILE` prints it.
///
/// # Errors
/// The promise that was broken.
pub fn pair_traced(data: &[u8], trace: &mut world::Trace) -> Result<(), world::Violation> {
    let Some((seed, choices)) = data.split_first_chunk::<8>() else { return Ok(()) };
    let seed = u64::from_le_bytes(*seed);
    let calls = 4 + (seed >> 58);
    world::run_with(seed, choices, calls.min(60), Broken::No, trace).map(|_| ())
}
