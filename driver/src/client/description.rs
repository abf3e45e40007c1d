//! A call that has not begun: its arguments, and what may still be changed of it.

use std::time::Duration;

use bytes::Bytes;
use oncewire_core::{self as core, NotExecuted};

use super::around::Surroundings;
use super::call::CalledMethod;
use super::observed::Begun;
use super::options::ClientOptions;
use super::shared::Shared;
use crate::buffer::Encoded;
use crate::metadata::Metadata;

/// A call that has not begun, apart from its method.
pub(super) struct Description {
    pub(super) arguments: Encoded,
    pub(super) metadata: Option<Box<Metadata>>,
    /// Time until the caller gives up (S17).
    pub(super) timeout: Duration,
    /// It may run more than once (S22).
    pub(super) idempotent: bool,
    /// It ends when the connection breaks (S21).
    pub(super) fail_fast: bool,
    /// The client's hooks see it before it begins.
    pub(super) hooked: bool,
    /// The arguments begin with metadata.
    joined: bool,
}

impl Description {
    /// What a client's calls are, unless they say otherwise. `timeout`: what their method says.
    #[inline(always)]
    pub(super) fn new(
        options: &ClientOptions,
        idempotent: bool,
        timeout: Option<Duration>,
        arguments: Encoded,
    ) -> Self {
        let (timeout, fail_fast) = (timeout.unwrap_or(options.timeout), options.fail_fast);
        let hooked = !options.hooks.is_empty();
        let (metadata, joined) = (None, false);
        Description { arguments, metadata, timeout, idempotent, fail_fast, hooked, joined }
    }

    /// All of it; what is left begins no call.
    pub(super) fn take(&mut self) -> Description {
        let arguments = std::mem::replace(&mut self.arguments, Encoded::EMPTY);
        Description { arguments, metadata: self.metadata.take(), ..*self }
    }

    /// The same call once more, with another timeout.
    pub(super) fn attempt(&self, timeout: Duration, fail_fast: bool) -> Description {
        let (arguments, metadata) = (self.arguments.clone(), self.metadata.clone());
        Description { arguments, metadata, timeout, fail_fast, ..*self }
    }

    /// Shows it to hooks and joins its metadata, if there are any: before [`Description::take_call`].
    #[inline]
    pub(super) fn prepare(
        &mut self,
        shared: &Shared,
        method: &CalledMethod,
        begun: Option<&Begun>,
    ) -> Result<(), NotExecuted> {
        match self.hooked || self.metadata.is_some() {
            true => self.complete(shared, method, begun),
            false => Ok(()),
        }
    }

    /// What the machine takes: once.
    #[inline(always)]
    pub(super) fn take_call(
        &mut self,
        method: &CalledMethod,
        timeout: Duration,
        (signature, comparison): (u32, core::Comparison),
    ) -> core::Call<'_> {
        let (body, with_len) = self.arguments.take_payload();
        core::Call {
            method: method.id,
            body,
            with_len,
            timeout,
            idempotent: self.idempotent,
            one_way: false,
            fail_fast: self.fail_fast,
            comparison,
            signature,
            metadata: self.joined,
        }
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
        let arguments = std::mem::replace(&mut self.arguments, Encoded::from(Bytes::new()));
        let (timeout, metadata) = (self.timeout, self.metadata.take());
        let around = Surroundings { timeout, one_way: false, metadata };
        let joined = match self.hooked {
            true => around.join(shared, method, begun, arguments),
            false => around.join_unseen(arguments),
        };
        let (timeout, body) = joined.map_err(NotExecuted::NotBegun)?;
        self.timeout = timeout;
        (self.arguments, self.joined) = body;
        Ok(())
    }
}
