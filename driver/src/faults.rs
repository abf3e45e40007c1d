//! Faults that no peer, stream or runtime can show, for simulators (feature `_faults`); not for programs.
//!
//! A simulator plants one in a server and must notice it. Without the feature `Planted` has no size, and asking it costs
//! nothing.

/// What is broken in a server on purpose.
#[cfg_attr(not(feature = "_faults"), allow(dead_code, unreachable_pub))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerFault {
    /// A connection's turn has no bounds: it lasts for as long as there is something to read.
    Greedy,
    /// A cancelled call's handler is not woken.
    LostCancels,
    /// Every fourth call that ends keeps its place among those that run.
    LeakedPermits,
    /// A chunk of an upload that comes again, and was read, is read again.
    RepeatedChunks,
    /// Several lanes of the ledger may have one session.
    SharedLanes,
    /// A session that is here is resumed without asking the ledger whether its client was at another server (S34).
    TrustedSessions,
    /// A session is claimed while something of it is on its way to the ledger.
    OvertakingClaims,
}

/// The fault of a server, if it has one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Planted {
    #[cfg(feature = "_faults")]
    fault: Option<ServerFault>,
    /// Calls that have ended.
    #[cfg(feature = "_faults")]
    ended: u64,
}

#[cfg(feature = "_faults")]
impl Planted {
    pub(crate) fn plant(&mut self, fault: ServerFault) {
        self.fault = Some(fault);
    }

    pub(crate) fn is(&self, fault: ServerFault) -> bool {
        self.fault == Some(fault)
    }

    /// Whether the permit of a call that has ended is lost.
    pub(crate) fn loses_permit(&mut self) -> bool {
        self.ended += 1;
        self.is(ServerFault::LeakedPermits) && self.ended.is_multiple_of(4)
    }
}

#[cfg(not(feature = "_faults"))]
impl Planted {
    #[inline(always)]
    pub(crate) fn is(&self, _: ServerFault) -> bool {
        false
    }

    #[inline(always)]
    pub(crate) fn loses_permit(&mut self) -> bool {
        false
    }
}
