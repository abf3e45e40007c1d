//! Whether it pays to look once more before sleeping.
//!
//! An answer often comes so soon that falling asleep and being woken for it costs more than to wait for it: on a core
//! that both sides share, to let the other side run is all it takes. Where that does not pay it is soon given up, and
//! tried again ever more seldom.

/// Decides from what the last looks brought.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// Occasions to let pass before the next look.
    skip: u32,
    /// The same after the next look in vain.
    penalty: u32,
}

/// Most occasions let pass.
const PENALTY_MAX: u32 = 1023;

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

    /// What a look has brought.
    pub(crate) fn note(&mut self, paid: bool) {
        self.penalty =
            if paid { self.penalty / 2 } else { (2 * self.penalty + 1).min(PENALTY_MAX) };
        self.skip = self.penalty;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_that_do_not_pay_become_seldom_and_those_that_do_come_back() {
        let mut patience = Patience::default();
        let mut looks = |pays: bool| {
            let mut looks = 0;
            for _ in 0..10_000 {
                if patience.looks() {
                    looks += 1;
                    patience.note(pays);
                }
            }
            looks
        };
        assert!(looks(false) < 25);
        let later = looks(true);
        assert!(later > 8_000, "{later}");
    }
}
