//! A call that has not begun: its arguments, and what may still be changed of it.

use std::time::Duration;

use bytes::Bytes;
use oncewire_core::{self as core, NotExecuted};

use super::around::Surroundings;
use super::call::CalledMethod;
use super::observed::Begun;
use super::shared::Shared;
use crate::buffer::Encoded;
use crate::metadata::Metadata;

/// A call that has not begun.
pub(super) struct Description {
    /// With empty arguments.
    pub(super) call: core::Call<'static>,
    pub(super) arguments: Encoded,
    pub(super) metadata: Option<Box<Metadata>>,
    /// The client's hooks see it before it begins.
    pub(super) hooked: bool,
}

impl Description {
    /// The same call once more, with another timeout.
    pub(super) fn attempt(&self, timeout: Duration, fail_fast: bool) -> Description {
        let mut call = core::Call::new(self.call.method, &[]);
        (call.timeout, call.idempotent, call.fail_fast) =
            (timeout, self.call.idempotent, fail_fast);
        let (arguments, metadata) = (self.arguments.clone(), self.metadata.clone());
        Description { call, arguments, metadata, hooked: self.hooked }
    }

    pub(super) fn timeout(&self) -> Duration {
        self.call.timeout
    }

    pub(super) fn is_idempotent(&self) -> bool {
        self.call.idempotent
    }

    pub(super) fn fails_fast(&self) -> bool {
        self.call.fail_fast
    }

    /// What the machine takes: once.
    #[inline]
    pub(super) fn take_call(
        &mut self,
        shared: &Shared,
        method: &CalledMethod,
        begun: Option<&Begun>,
    ) -> Result<core::Call<'_>, NotExecuted> {
        if self.hooked || self.metadata.is_some() {
            self.complete(shared, method, begun)?;
        }
        let core::Call { method, timeout, idempotent, fail_fast, metadata, .. } = self.call;
        let mut call = core::Call::new(method, self.arguments.take_payload());
        (call.timeout, call.idempotent, call.fail_fast) = (timeout, idempotent, fail_fast);
        call.metadata = metadata;
        Ok(call)
    }

    /// Shows the call to the client's hooks, and puts the metadata before the arguments.
    #[cold]
    #[inline(never)]
    fn complete(
        &mut self,
        shared: &Shared,
        method: &CalledMethod,
        begun: Option<&Begun>,
    ) -> Result<(), NotExecuted> {
        let arguments = std::mem::replace(&mut self.arguments, Encoded::Shared(Bytes::new()));
        let (timeout, metadata) = (self.call.timeout, self.metadata.take());
        let around = Surroundings { timeout, one_way: false, metadata };
        let joined = match self.hooked {
            true => around.join(shared, method, begun, arguments),
            false => around.join_unseen(arguments),
        };
        let (timeout, body) = joined.map_err(NotExecuted::NotBegun)?;
        self.call.timeout = timeout;
        (self.arguments, self.call.metadata) = body;
        Ok(())
    }
}
