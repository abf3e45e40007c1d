//! Random numbers from a seed.

/// A small generator whose whole state is one number (splitmix64), to draw choices from.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
    /// The first choices, two bytes each; empty where the seed chooses alone.
    choices: Vec<u8>,
    at: usize,
}

/// What the state grows by.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes a number into one whose bits all depend on all of its own.
#[inline]
pub const fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The generator of this seed.
    pub fn new(seed: u64) -> Rng {
        Rng::choosing(seed, &[])
    }

    /// One of many generators of this seed: another one for each `purpose`.
    pub fn apart(seed: u64, purpose: u64) -> Rng {
        Rng { state: mix(seed ^ mix(purpose)).wrapping_add(STEP), choices: Vec::new(), at: 0 }
    }

    /// The same as [`new`](Rng::new), but `choices` come first.
    pub fn choosing(seed: u64, choices: &[u8]) -> Rng {
        Rng { state: mix(seed), choices: choices.to_vec(), at: 0 }
    }

    #[cold]
    fn chosen(&mut self, random: u64) -> u64 {
        let first = self.choices[self.at];
        let second = self.choices.get(self.at + 1).copied().unwrap_or(0);
        self.at += 2;
        u64::from(first) << 56 | u64::from(second) << 48 | random >> 16
    }

    /// The next number.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let out = mix(self.state);
        self.state = self.state.wrapping_add(STEP);
        if self.at < self.choices.len() { self.chosen(out) } else { out }
    }

    /// A number below `end`; 0 if `end` is 0.
    #[inline]
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(end)) >> 64) as u64
    }

    /// An index below `end`.
    #[inline]
    pub fn index(&mut self, end: usize) -> usize {
        self.below(end as u64) as usize
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.index(all.len())]
    }

    /// A number from `from` to `to`, both included.
    #[inline]
    pub fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// True once in `n` times; never if `n` is 0.
    #[inline]
    pub fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }

    /// A duration in nanoseconds up to `max`, mostly much shorter.
    pub fn delay(&mut self, max: u64) -> u64 {
        let shift = self.below(12);
        self.below((max >> shift).max(1))
    }
}
