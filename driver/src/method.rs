//! Methods as values that client and server share.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use oncewire_core::{MethodId, MethodSpec};

/// A procedure: its full name, the types of its arguments and its reply, and what a server may do with it.
///
/// Client and server use the same constant, so they agree about all of it.
///
/// ```
/// use oncewire_driver::Method;
///
/// const DEDUCT: Method<(u64, u64), Result<u64, String>> = Method::new("bank.deduct");
/// const BALANCE: Method<u64, u64> = Method::new("bank.balance").idempotent();
/// assert_ne!(DEDUCT.id(), BALANCE.id());
/// ```
pub struct Method<A, R> {
    name: &'static str,
    spec: MethodSpec,
    time_limit: Option<Duration>,
    types: PhantomData<fn(A) -> R>,
}

impl<A, R> Method<A, R> {
    /// A method that runs at most once, whose replies have at most 64 KiB, and that may take as long as it likes.
    pub const fn new(name: &'static str) -> Method<A, R> {
        Method {
            name,
            spec: MethodSpec::new(MethodId::of(name)),
            time_limit: None,
            types: PhantomData,
        }
    }

    /// It may run more than once: its replies are not kept, and calls in doubt are repeated (S22).
    pub const fn idempotent(mut self) -> Method<A, R> {
        self.spec.idempotent = true;
        self
    }

    /// Its replies have at most `len` bytes: so much room is reserved before each call (S11).
    pub const fn reply_len_max(mut self, len: u32) -> Method<A, R> {
        self.spec.reply_len_max = len;
        self
    }

    /// A call that takes longer ends as aborted (S14).
    pub const fn time_limit(mut self, limit: Duration) -> Method<A, R> {
        self.time_limit = Some(limit);
        self
    }

    /// Its full name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Its number: a hash of the name.
    pub const fn id(&self) -> MethodId {
        self.spec.id
    }

    pub(crate) const fn spec(&self) -> MethodSpec {
        self.spec
    }

    pub(crate) const fn limit(&self) -> Option<Duration> {
        self.time_limit
    }
}

impl<A, R> Clone for Method<A, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A, R> Copy for Method<A, R> {}

impl<A, R> fmt::Debug for Method<A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Method").field("name", &self.name).field("spec", &self.spec).finish()
    }
}
