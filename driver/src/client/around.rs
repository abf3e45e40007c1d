//! What surrounds a client's calls: hooks that see each before it begins, and what a handle gives to all of its calls.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use oncewire_core::NotBegun;

use super::call::{Call, CalledMethod};
use super::observed::Begun;
use super::shared::Shared;
use crate::buffer::Encoded;
use crate::caught::caught;
use crate::metadata::{Metadata, MetadataKey, MetadataType};
use crate::observe::{MethodName, Source};

/// A call that is about to begin, as hooks see it: see [`ClientOptions::with_around`](crate::ClientOptions::with_around).
pub struct NewCall {
    method: MethodName,
    one_way: bool,
    timeout: Duration,
    metadata: Metadata,
    observed: Option<(Arc<Source>, u64)>,
}

impl NewCall {
    /// What is called. A call of bytes, and one that opens a stream, has a number and no name.
    pub fn method(&self) -> MethodName {
        self.method
    }

    /// Whether its outcome is not reported.
    pub fn is_one_way(&self) -> bool {
        self.one_way
    }

    /// Time until its caller gives up.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Has its caller give up after this time, if that is sooner.
    pub fn timeout_at_most(&mut self, timeout: Duration) {
        self.timeout = self.timeout.min(timeout);
    }

    /// What it carries beside its arguments.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Has it carry this pair too, in the place of one of the same key. With more than fits into a call's metadata the call is not
    /// begun, and a server that takes no metadata does not execute it: see [`Call::metadata`].
    pub fn set_metadata<T: MetadataType>(&mut self, key: &MetadataKey<T>, value: impl Into<T>) {
        self.metadata.set(key, value);
    }

    /// Its source and its number, as [`CallStarted`](crate::observe::Event::CallStarted) has shown them to the client's observers in this
    /// thread. `None` without any, and for one-way calls.
    pub fn observed(&self) -> Option<(&Source, u64)> {
        self.observed.as_ref().map(|(source, number)| (&**source, *number))
    }
}

impl fmt::Debug for NewCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewCall")
            .field("method", &self.method)
            .field("timeout", &self.timeout)
            .field("one_way", &self.one_way)
            .finish_non_exhaustive()
    }
}

type Hook = Arc<dyn Fn(&mut NewCall) + Send + Sync>;

/// The hooks of a client, in the order in which they were given.
#[derive(Clone, Default)]
pub(crate) struct Hooks(Vec<Hook>);

impl Hooks {
    pub(super) fn add(&mut self, hook: impl Fn(&mut NewCall) + Send + Sync + 'static) {
        self.0.push(Arc::new(hook));
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hooks", self.0.len())
    }
}

/// A call's own part of what hooks may change.
pub(super) struct Surroundings {
    pub(super) timeout: Duration,
    pub(super) one_way: bool,
    pub(super) metadata: Option<Box<Metadata>>,
}

impl Surroundings {
    /// Shows the call to the client's hooks.
    fn pass_hooks(
        mut self,
        shared: &Shared,
        method: &CalledMethod,
        begun: Option<&Begun>,
    ) -> Result<Surroundings, NotBegun> {
        let mut call = NewCall {
            method: MethodName::new(method.id, method.name),
            one_way: self.one_way,
            timeout: self.timeout,
            metadata: self.metadata.take().map(|metadata| *metadata).unwrap_or_default(),
            observed: begun.and_then(|begun| shared.observed_as(begun)),
        };
        let pass = |call: &mut NewCall| shared.options.hooks.0.iter().for_each(|hook| hook(call));
        caught(|| pass(&mut call)).map_err(|_| NotBegun::HookPanicked)?;
        let NewCall { timeout, metadata, .. } = call;
        Ok(Surroundings { timeout, metadata: Some(Box::new(metadata)), ..self })
    }

    /// [`join`](Surroundings::join) for a call that hooks do not see.
    pub(super) fn join_unseen(
        self,
        arguments: Encoded,
    ) -> Result<(Duration, (Encoded, bool)), NotBegun> {
        let body = match self.metadata {
            Some(metadata) => metadata.join(arguments)?,
            None => (arguments, false),
        };
        Ok((self.timeout, body))
    }

    /// The call's timeout and the body of its request, with the metadata before the arguments if it has any, as the flag says.
    #[cold]
    #[inline(never)]
    pub(super) fn join(
        self,
        shared: &Shared,
        method: &CalledMethod,
        begun: Option<&Begun>,
        arguments: Encoded,
    ) -> Result<(Duration, (Encoded, bool)), NotBegun> {
        let passed = match shared.options.hooks.is_empty() {
            true => self,
            false => self.pass_hooks(shared, method, begun)?,
        };
        passed.join_unseen(arguments)
    }
}

/// What a handle gives to all calls that are made through it.
#[derive(Clone, Debug, Default)]
pub(super) struct CallDefaults {
    pub(super) metadata: Option<Metadata>,
    pub(super) timeout: Option<Duration>,
}

impl CallDefaults {
    /// The same with another metadata.
    pub(super) fn with_metadata(of: Option<&Arc<Self>>, metadata: Metadata) -> Option<Arc<Self>> {
        let timeout = of.and_then(|defaults| defaults.timeout);
        Some(Arc::new(CallDefaults { metadata: Some(metadata), timeout }))
    }

    /// The same with another timeout.
    pub(super) fn with_timeout(of: Option<&Arc<Self>>, timeout: Duration) -> Option<Arc<Self>> {
        let metadata = of.and_then(|defaults| defaults.metadata.clone());
        Some(Arc::new(CallDefaults { metadata, timeout: Some(timeout) }))
    }

    #[cold]
    #[inline(never)]
    pub(super) fn apply<R>(&self, call: &mut Call<R>) {
        if let Some(metadata) = &self.metadata {
            call.set_metadata(metadata.clone());
        }
        if let Some(timeout) = self.timeout {
            call.set_timeout(timeout);
        }
    }
}
