//! Ledgers whose kind the server forgets, so that its own type does not name it.

use std::sync::Arc;

use oncewire_core::SessionId;

use super::batch::{Batch, BatchOwner, Submit};
use super::lanes::Lanes;
use super::ledger_queue::Item;
use super::restore::Restore;
use crate::ledger::{Claim, Identity, Ledger, LedgerError};

impl<L: Ledger> Submit for L {
    fn submit(&self, owner: Arc<dyn BatchOwner>, lane: usize, items: Vec<Item>) {
        self.commit(Batch::new(lane, items, owner));
    }

    fn claim(&self, claim: Claim) {
        Ledger::claim(self, claim);
    }
}

/// A ledger of any kind.
pub(super) trait AnyLedger: Submit {
    fn identity(&self) -> Identity;
    fn session_hash(&self) -> Option<fn(SessionId) -> SessionId>;
    fn reply_len_max(&self) -> Option<u32>;
    fn shared(&self) -> bool;
    fn lanes(&self) -> Lanes;
    fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError>;
    fn into_submit(self: Box<Self>) -> Box<dyn Submit>;
}

impl<L: Ledger> AnyLedger for L {
    fn identity(&self) -> Identity {
        Ledger::identity(self)
    }

    fn session_hash(&self) -> Option<fn(SessionId) -> SessionId> {
        Ledger::session_hash(self)
    }

    fn reply_len_max(&self) -> Option<u32> {
        Ledger::reply_len_max(self)
    }

    fn shared(&self) -> bool {
        Ledger::shared(self)
    }

    fn lanes(&self) -> Lanes {
        Lanes::new(Ledger::lanes(self), Ledger::batch_calls_max(self))
    }

    fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError> {
        Ledger::recover(self, restore)
    }

    fn into_submit(self: Box<Self>) -> Box<dyn Submit> {
        self
    }
}
