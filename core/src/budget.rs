//! Who gets how much of what a server has (S11): pure decisions.
//!
//! One rule shares memory between calls, and the places of a queue between calls that wait. The machine asks it for memory; a driver
//! whose handlers have queues before them asks it for their places.
//!
//! Static limits cannot do it. Where the transport gives no names, a stranger opens as many sessions as it likes, and
//! seventeen of them with the default grants once reserved all of it. So besides the limits there is a rule
//! that depends on what is free: the more is taken, the less a claimant that holds much may still take, while one that
//! holds little gets its first calls in, and greedy ones always leave something free.

/// What is held of one kind, as bytes of kept replies or places of a queue: by a session, by its principal, and by the whole
/// server; or the limits of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amounts {
    /// Of the session.
    pub session: u64,
    /// Of all sessions of its principal.
    pub principal: u64,
    /// Of all sessions.
    pub server: u64,
}

/// A principal holds at most this multiple of what it leaves free: alone, three quarters of the budget.
const PRINCIPAL_WEIGHT: u64 = 3;
/// A session that holds no more than this part of what is free may take it even where its principal holds its share.
const SMALL_PART: u64 = 16;

/// Whether a session may take `wanted` more. It may always take none.
///
/// A session holds at most as much as it leaves free: alone, half of all there is. A principal holds at most three times what it leaves
/// free. A session of a principal that holds its share already is not shut out by its neighbours, as long as it holds no more than
/// a sixteenth of what is free.
///
/// ```
/// use oncewire_core::budget::{Amounts, has_room};
///
/// let limits = Amounts { session: 64, principal: 64, server: 64 };
/// // One principal has three quarters, in two sessions: neither gets more, and a stranger does.
/// assert!(!has_room(Amounts { session: 32, principal: 48, server: 48 }, limits, 1));
/// assert!(has_room(Amounts { session: 0, principal: 0, server: 48 }, limits, 1));
/// ```
#[inline]
pub fn has_room(held: Amounts, limits: Amounts, wanted: u64) -> bool {
    let free = limits.server.saturating_sub(held.server);
    let session = held.session.saturating_add(wanted);
    let principal = held.principal.saturating_add(wanted);
    let within = session <= limits.session && principal <= limits.principal;
    let is_small = session <= free / SMALL_PART;
    let has_share = session <= free && principal <= free.saturating_mul(PRINCIPAL_WEIGHT);
    // Last, since it is rarely asked for.
    within && (is_small || has_share) || wanted == 0
}

/// Whether a principal that has `held` sessions, or connections, may have one more, while there is room for `free` more
/// in all: all strangers together leave some for those whom the transport names, and one name for another.
pub(crate) fn may_have_another(held: u32, free: usize) -> bool {
    u64::from(held) < (free as u64).saturating_mul(PRINCIPAL_WEIGHT)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;
    use std::{format, vec};

    use super::*;

    const LIMITS: Amounts = Amounts { session: 256 << 20, principal: 1 << 30, server: 1 << 30 };

    /// What each of `sessions` sessions of each of `principals` principals gets when all take calls of 64 KiB in turn; and
    /// what a session of another principal, and one more of the same, get after that.
    fn taken(principals: usize, sessions: usize) -> (u64, u64, u64) {
        const CALL: u64 = 64 << 10;
        let mut held = vec![vec![0; sessions]; principals];
        let room = |held: &[Vec<u64>], p: usize, session: u64| {
            let principal = held.get(p).map_or(session, |sessions| sessions.iter().sum());
            let server = held.iter().flatten().sum::<u64>();
            has_room(Amounts { session, principal, server }, LIMITS, CALL)
        };
        loop {
            let before = held.clone();
            for p in 0..principals {
                for s in 0..sessions {
                    if room(&held, p, held[p][s]) {
                        held[p][s] += CALL;
                    }
                }
            }
            if held == before {
                break;
            }
        }
        let more = |p: usize| {
            let mut held = held.clone();
            held.resize(held.len().max(p + 1), vec![]);
            held[p].push(0);
            let last = held[p].len() - 1;
            while room(&held, p, held[p][last]) {
                held[p][last] += CALL;
            }
            held[p][last] / CALL
        };
        (held[0][0], more(principals), more(0))
    }

    #[test]
    fn greedy_sessions_leave_room_for_others() {
        for (principals, sessions) in [(1, 1), (1, 4), (1, 17), (1, 1_000), (4, 4), (8, 17)] {
            let (each, other, same) = taken(principals, sessions);
            let case = format!("{principals} × {sessions}: {each} bytes; {other}, {same} calls");
            assert!(each <= LIMITS.session, "{case}");
            assert!(other >= 64, "another principal's: {case}");
            assert!(same >= 8, "the same principal's: {case}");
        }
    }

    #[test]
    fn a_principal_that_holds_its_share_does_not_shut_out_its_small_sessions() {
        // Others have come since, and its share has become less than it holds.
        let held = Amounts { session: 0, principal: 700 << 20, server: 900 << 20 };
        assert!(has_room(held, LIMITS, 1 << 20));
        assert!(!has_room(Amounts { session: 10 << 20, ..held }, LIMITS, 1 << 20));
    }

    #[test]
    fn nothing_fits_whoever_holds_how_much() {
        // It holds more than is free, since others have come.
        let held = Amounts { session: 200 << 20, principal: 900 << 20, server: 1 << 30 };
        assert!(has_room(held, LIMITS, 0));
        assert!(!has_room(held, LIMITS, 1));
    }

    #[test]
    fn what_fits_at_all_fits_when_nothing_is_held() {
        let none = Amounts { session: 0, principal: 0, server: 0 };
        let limits = Amounts { session: 100, principal: 100, server: 100 };
        assert!(has_room(none, limits, 100));
        assert!(!has_room(none, limits, 101));
        assert!(!has_room(none, Amounts { session: 99, ..limits }, 100));
        assert!(!has_room(none, Amounts { principal: 99, ..limits }, 100));
    }
}
