//! What the explorer of every schedule needs: copies and digests of whole machines (feature `_explore`).
//!
//! The machines and all that they hold derive `Clone` and `Hash` where the feature is on. Here is what cannot be derived.

use core::hash::{Hash, Hasher};

use crate::client::ClientCounters;
use crate::server::{Admission, Running, ServerCounters};

/// Counters of the past decide nothing: machines that differ only in them behave alike.
impl Hash for ClientCounters {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// The same; but what is held now decides what is admitted.
impl Hash for ServerCounters {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.kept_bytes, self.request_bytes, self.coming_bytes, self.table_bytes, self.running)
            .hash(state);
    }
}

impl Admission {
    /// The same right for a copy of the server: a world is copied with all that is in it.
    #[doc(hidden)]
    pub fn copy_for_explorer(&self) -> Admission {
        Admission { key: self.key }
    }
}

impl Running {
    /// The same right for a copy of the server.
    #[doc(hidden)]
    pub fn copy_for_explorer(&self) -> Running {
        Running { ..*self }
    }
}
