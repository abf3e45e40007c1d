//! Whether it pays to look once more before sleeping.
//!
//! An answer often comes so soon that falling asleep and being woken for it costs more than to wait for it: on a core
//! that both sides share, to let the other side run is all it takes. Where that does not pay it is soon given up, and
//! tried again ever more seldom.

/// So often a look is repeated before it was in vain. Two sides that give way to each other fall into step by it: whose
/// turn it is, a kernel may see otherwise once, and then one side would sleep for ever after.
pub(crate) const TRIES: u32 = 2;

/// Decides from what the last looks brought.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// Occasions to let pass before the next look.
    skip: u32,
    /// The same after the next look in vain.
    penalty: u32,
}

/// What a look has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// What it was for.
    Paid,
    /// Nothing, which cost little.
    Vain,
    /// It took longer than sleeping would have.
    Long,
}

/// Most occasions let pass after looks in vain: one in so many costs next to nothing, and finds out when they pay again.
const VAIN_MAX: u32 = 31;
/// The same after looks that took too long.
const LONG_MAX: u32 = 1023;

impl Patience {
    /// An occasion to look: whether to.
    pub(crate) fn looks(&mut self) -> bool {
        match self.skip.checked_sub(1) {
            Some(skip) => {
                self.skip = skip;
                false
            }
            None => true,
        }
    }

    /// What the look has brought.
    pub(crate) fn note(&mut self, look: Look) {
        let worse = 2 * self.penalty + 1;
        self.penalty = match look {
            Look::Paid => self.penalty / 2,
            Look::Vain => worse.min(self.penalty.max(VAIN_MAX)),
            Look::Long => worse.min(LONG_MAX),
        };
        self.skip = self.penalty;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_that_do_not_pay_become_seldom_and_those_that_do_come_back() {
        let mut patience = Patience::default();
        let mut looks = |brings: Look| {
            let mut looks = 0;
            for _ in 0..10_000 {
                if patience.looks() {
                    looks += 1;
                    patience.note(brings);
                }
            }
            looks
        };
        let (long, after_long) = (looks(Look::Long), looks(Look::Paid));
        assert!(long < 25 && after_long > 8_000, "{long}, {after_long}");
        let (vain, after_vain) = (looks(Look::Vain), looks(Look::Paid));
        assert!((300..350).contains(&vain) && after_vain > 9_900, "{vain}, {after_vain}");
    }
}
