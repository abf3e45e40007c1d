//! Copies of bodies, most of which are short.

/// Copies a slice onto another one of the same length. One of 8 to 64 bytes is copied here, as its two ends, which may
/// overlap: a call takes more instructions than that, and what is around it loses its registers.
#[inline(always)]
pub(crate) fn copy(from: &[u8], to: &mut [u8]) {
    debug_assert_eq!(from.len(), to.len());
    let is_copied = match from.len() {
        8..=16 => copy_ends::<8>(from, to),
        17..=32 => copy_ends::<16>(from, to),
        33..=64 => copy_ends::<32>(from, to),
        _ => false,
    };
    if !is_copied {
        to.copy_from_slice(from);
    }
}

/// Copies the first and the last `N` bytes; false, and nothing done, where there are fewer.
#[inline(always)]
fn copy_ends<const N: usize>(from: &[u8], to: &mut [u8]) -> bool {
    let (Some(first), Some(last)) = (from.first_chunk::<N>(), from.last_chunk::<N>()) else {
        return false;
    };
    let Some(to_first) = to.first_chunk_mut::<N>() else { return false };
    *to_first = *first;
    let Some(to_last) = to.last_chunk_mut::<N>() else { return false };
    *to_last = *last;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_copied_whole_and_nothing_else() {
        let from: [u8; 100] = core::array::from_fn(|at| at as u8 + 1);
        for len in 0..=from.len() {
            let mut to = [0; 102];
            copy(&from[..len], &mut to[1..=len]);
            assert_eq!(to[1..=len], from[..len]);
            assert!(to[0] == 0 && to[len + 1..].iter().all(|byte| *byte == 0), "length {len}");
        }
    }
}
