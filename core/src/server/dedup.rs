//! What happens to a call at its server: the one place that decides it.
//!
//! The functions here are pure. The machine looks up what it knows of a call, asks, and does what it is told.

/// What a request is to the server that reads it (S10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The client has long settled it: dropped.
    Stale,
    /// It is here already: answered from what is kept, or when it is done.
    Duplicate,
    /// The same xid with other arguments: the session ends.
    FalseRetry,
    /// A new call.
    New,
}

/// What the server knows of a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotView {
    /// The last xid admitted or refused on it; 0 if none.
    pub(crate) xid: u64,
    /// That call's digest.
    pub(crate) digest: u64,
    /// Whether nothing of that call is here any more.
    pub(crate) discarded: bool,
}

impl SlotView {
    /// A slot on which nothing ever came.
    pub(crate) const UNUSED: SlotView = SlotView { xid: 0, digest: 0, discarded: true };
}

/// S10, for a request with `xid` and `digest` after everything up to `acked` was acknowledged.
pub(crate) fn classify_request(acked: u64, slot: SlotView, xid: u64, digest: u64) -> Arrival {
    if xid <= acked || xid < slot.xid {
        Arrival::Stale
    } else if xid > slot.xid {
        Arrival::New
    } else if slot.discarded {
        Arrival::Stale
    } else if digest != slot.digest {
        Arrival::FalseRetry
    } else {
        Arrival::Duplicate
    }
}

/// What an `Ask` is to the server that reads it (S21).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The client has long settled it: it would not ask, unless it goes on from an old copy of its journal (S7).
    Settled,
    /// Answered from what is kept, or when it is done.
    Here,
    /// The server has nothing for it.
    NotSeen,
}

/// S21, for an `Ask` about `xid`.
pub(crate) fn classify_ask(acked: u64, slot: SlotView, xid: u64) -> Asked {
    if xid <= acked || xid < slot.xid || (xid == slot.xid && slot.discarded) {
        Asked::Settled
    } else if xid == slot.xid {
        Asked::Here
    } else {
        Asked::NotSeen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: SlotView = SlotView { xid: 9, digest: 77, discarded: false };
    const DISCARDED: SlotView = SlotView { discarded: true, ..KEPT };

    #[test]
    fn a_request_is_stale_a_duplicate_a_false_retry_or_new() {
        assert_eq!(classify_request(9, KEPT, 9, 77), Arrival::Stale, "at acked");
        assert_eq!(classify_request(0, KEPT, 5, 77), Arrival::Stale, "below the slot's xid");
        assert_eq!(
            classify_request(0, DISCARDED, 9, 77),
            Arrival::Stale,
            "acknowledged by its bit"
        );
        assert_eq!(classify_request(8, KEPT, 9, 77), Arrival::Duplicate);
        assert_eq!(classify_request(8, KEPT, 9, 78), Arrival::FalseRetry);
        assert_eq!(classify_request(8, KEPT, 13, 77), Arrival::New);
    }

    #[test]
    fn an_ask_is_for_what_is_settled_here_or_not_seen() {
        assert_eq!(classify_ask(9, KEPT, 9), Asked::Settled);
        assert_eq!(classify_ask(0, KEPT, 5), Asked::Settled);
        assert_eq!(classify_ask(0, DISCARDED, 9), Asked::Settled);
        assert_eq!(classify_ask(8, KEPT, 9), Asked::Here);
        assert_eq!(classify_ask(8, KEPT, 13), Asked::NotSeen);
    }
}
