//! Methods as values that client and server share: a name, the types, and what may be done with its calls.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use oncewire_core::{MethodId, MethodSpec};
use oncewire_schema::{Schema, Signature};
use serde::de::DeserializeOwned;

use crate::decode::{ValueLimits, decode};
use crate::signatures::MethodSignature;

/// A procedure: its full name, the types of its arguments and its reply, and what a server may do with it.
///
/// Client and server use the same constant, so they agree about all of it.
///
/// ```
/// use oncewire_driver::Method;
///
/// const DEDUCT: Method<(u64, u64), Result<u64, String>> = Method::new("bank/deduct");
/// const BALANCE: Method<u64, u64> = Method::new("bank/balance").idempotent();
/// assert_ne!(DEDUCT.id(), BALANCE.id());
/// ```
///
/// # What a peer's bytes may unfold to
///
/// Arguments are decoded before the handler is called, and replies before the caller has them. Either must be one value
/// of its type and nothing behind it. How deep it may nest and how much memory it may take is limited, because a few bytes
/// could otherwise overflow the stack, keep a thread busy for ever, or take all memory. What exceeds a limit ends the
/// call as `NotExecuted(BadArguments)` at the server, and as `NoReply(Undecodable)` at the client.
///
/// | limit | default | to change it |
/// |---|---|---|
/// | nesting | 128 levels | [`depth_max`](Method::depth_max) |
/// | memory | 64 KiB and 32 times the bytes | [`memory_max`](Method::memory_max) |
/// | elements | what memory allows: each counts as a byte at least | [`memory_max`](Method::memory_max) |
pub struct Method<A, R> {
    name: &'static str,
    spec: MethodSpec,
    options: MethodOptions,
    values: ValueLimits,
    timeout: Option<Duration>,
    signature: Option<Signature>,
    service: Option<fn() -> Vec<MethodSignature>>,
    types: PhantomData<fn(A) -> R>,
}

/// What calls of a method with a signature are compared by.
#[derive(Clone, Copy)]
pub(crate) struct Typed {
    /// The number of the method whose signature it is. What opens an upload has another one.
    pub(crate) id: MethodId,
    pub(crate) signature: Signature,
    /// All methods of its service, if the program knows them.
    pub(crate) service: Option<fn() -> Vec<MethodSignature>>,
}

impl<A, R> Method<A, R> {
    /// A method that runs at most once, whose replies have at most 64 KiB, and that may take as long as it likes.
    pub const fn new(name: &'static str) -> Method<A, R> {
        Method {
            name,
            spec: MethodSpec::new(MethodId::of(name)),
            options: MethodOptions::NONE,
            values: ValueLimits::DEFAULT,
            timeout: None,
            signature: None,
            service: None,
            types: PhantomData,
        }
    }

    /// It may run more than once: its replies are neither kept nor recorded, and calls in doubt are repeated, at another
    /// server too (S22). All calls of it are so, but for those that say [`at_most_once`](crate::Call::at_most_once), and
    /// those of a [`DurableClient`](crate::DurableClient), which are in its journal.
    pub const fn idempotent(mut self) -> Method<A, R> {
        self.spec.idempotent = true;
        self
    }

    /// Its replies have at most `len` bytes: that much memory is reserved before each call (S11).
    pub const fn reply_len_max(mut self, len: u32) -> Method<A, R> {
        self.spec.reply_len_max = len;
        self
    }

    /// How long callers of this method wait (S17), instead of [`ClientOptions::timeout`](crate::ClientOptions::timeout): for a method
    /// that takes longer than others, or whose reply is useless sooner. [`NEVER`](crate::NEVER) is without a limit. It holds for
    /// one-way and durable calls too. A durable call that is restored from its journal waits as its client says: the journal keeps no
    /// timeouts.
    ///
    /// [`Call::timeout`](crate::Call::timeout) overrides it, and so does the timeout of the client's handle,
    /// [`Client::with_timeout`](crate::Client::with_timeout).
    ///
    /// Only clients use it; a server ignores it. [`time_limit`](Method::time_limit) bounds how long a call may run there.
    ///
    /// ```
    /// use oncewire_driver::{Client, Method, Outcome};
    /// use std::time::Duration;
    ///
    /// const REPORT: Method<u32, String> = Method::new("bank/report").timeout(Duration::from_secs(300));
    ///
    /// async fn report(client: &Client, year: u32) -> Outcome<String> {
    ///     client.call(&REPORT, &year).await
    /// }
    /// ```
    pub const fn timeout(mut self, timeout: Duration) -> Method<A, R> {
        self.timeout = Some(timeout);
        self
    }

    /// A call that takes longer ends as aborted (S14): its future is dropped. Time counts from its start, and is judged
    /// whenever the future waits: one that blocks its thread is not interrupted.
    ///
    /// Not for transactional methods, whose functions cannot be dropped half-way: a server that offers one with a limit
    /// is not built.
    pub const fn time_limit(mut self, limit: Duration) -> Method<A, R> {
        self.options.time_limit = Some(limit);
        self
    }

    /// The greatest number of its calls that run at once at a server, of all clients; 0 counts as 1. Others wait in a queue
    /// ([`queue_max`](Method::queue_max)), where principals take turns, then the sessions of each, and a session's calls come in order. One
    /// that is cancelled leaves the queue at once, and one whose deadline passes is refused then (S17).
    ///
    /// A handler that calls a method with such a limit at its own server may wait for itself. Not for transactional
    /// methods: of those one runs at a time.
    pub const fn concurrency(mut self, calls: usize) -> Method<A, R> {
        self.options.concurrency = Some(calls);
        self
    }

    /// The number of calls that may wait for those that run, instead of four for each of
    /// [`concurrency`](Method::concurrency), 4,096 at least and 65,536 at most; with 0 none waits. One session
    /// has no more than half of the queue, and two of one principal three quarters; each further one takes a sixteenth at most of what is left, so
    /// that another principal always finds places (S11). A call that finds none ends as `NotExecuted(Overloaded)`.
    pub const fn queue_max(mut self, calls: usize) -> Method<A, R> {
        self.options.queue_max = Some(calls);
        self
    }

    /// A call whose outcome is not needed any more is dropped, wherever its future waits, and ends as aborted: executed,
    /// perhaps in part (S14). For handlers that wait for long and need not finish what they have begun, as long polls do.
    /// Without this, what a handler does about it is its own affair: see [`Context::cancelled`](crate::Context::cancelled),
    /// which also says when an outcome is not needed any more.
    ///
    /// Not for transactional methods.
    pub const fn drop_on_cancel(mut self) -> Method<A, R> {
        self.options.drop_on_cancel = true;
        self
    }

    /// Its arguments and its reply may nest so deep. Each sequence, map, struct, tuple, enum and `Some` on the way from the
    /// outermost value to the innermost is a level, and one more for each 512 bytes of its type.
    ///
    /// Decoding takes a few hundred bytes of stack a level, and some kilobytes without optimisation: 128 levels fit into
    /// the 2 MiB that threads have by default.
    pub const fn depth_max(mut self, levels: u32) -> Method<A, R> {
        self.values.depth_max = levels;
        self
    }

    /// Its arguments, and likewise its reply, may take this many bytes of memory beside their own size, instead of 64 KiB
    /// and 32 times their bytes on the wire. Raise it for values that are much larger in memory than on the wire: mostly
    /// empty rows of many columns, say.
    ///
    /// It is an estimate from the sizes of the types. Collections that grow may take twice as much, and what a
    /// hand-written `Deserialize` allocates is not seen.
    pub const fn memory_max(mut self, bytes: usize) -> Method<A, R> {
        self.values.memory_max = Some(bytes);
        self
    }

    /// It has a [`signature`](Method::signature), of types that have a schema and parameters of these names; of none if its
    /// arguments are not a tuple. The attribute `service` does this by itself.
    ///
    /// ```
    /// use oncewire_driver::Method;
    ///
    /// const DEDUCT: Method<(u64, u64), Result<u64, String>> =
    ///     Method::new("bank/deduct").parameters(&["account", "cents"]);
    /// let signature = DEDUCT.signature().unwrap();
    /// assert_eq!(signature.to_string(), "(account: u64, cents: u64) -> Result<u64, String>");
    /// ```
    ///
    /// # Panics
    /// If the arguments are a tuple of another number of elements. In a constant it is the compiler that says so.
    pub const fn parameters(self, names: &'static [&'static str]) -> Method<A, R>
    where
        A: Schema,
        R: Schema,
    {
        self.with_signature(Some(Signature::of::<A, R>(names)))
    }

    /// It has another number than its name's.
    #[cfg(feature = "stream")]
    pub(crate) const fn numbered(mut self, id: MethodId) -> Method<A, R> {
        self.spec.id = id;
        self
    }

    #[doc(hidden)]
    pub const fn with_signature(mut self, signature: Option<Signature>) -> Method<A, R> {
        self.signature = signature;
        self
    }

    /// Of a service with these methods: while a server says the hash of all of them, none need be compared by itself.
    #[doc(hidden)]
    pub const fn in_service(mut self, methods: fn() -> Vec<MethodSignature>) -> Method<A, R> {
        self.service = Some(methods);
        self
    }

    pub(crate) fn typed(&self) -> Option<Typed> {
        let (id, service) = (self.id(), self.service);
        self.signature.map(|signature| Typed { id, signature, service })
    }

    /// What it takes and returns, if all its types have a [`Schema`]: of a constant that the attribute `service` wrote, or
    /// of one with [`parameters`](Method::parameters).
    pub const fn signature(&self) -> Option<Signature> {
        self.signature
    }

    /// Its name and its signature, if it has one: what [`Client::mismatches`](crate::Client::mismatches) compares.
    pub const fn described(&self) -> Option<MethodSignature> {
        match self.signature {
            Some(signature) => Some(MethodSignature { name: self.name, signature }),
            None => None,
        }
    }

    /// The arguments in a request's body, decoded as a server does it: for a handler of bytes, or a tool.
    ///
    /// `None` if they cannot be decoded, if there is more behind them, or if they exceed the method's limits.
    pub fn decode_arguments(&self, body: &[u8]) -> Option<A>
    where
        A: DeserializeOwned,
    {
        decode(body, self.values)
    }

    /// The same for a reply's body, as a client does it.
    pub fn decode_reply(&self, body: &[u8]) -> Option<R>
    where
        R: DeserializeOwned,
    {
        decode(body, self.values)
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

    pub(crate) const fn values(&self) -> ValueLimits {
        self.values
    }

    /// How long its callers wait, unless they say otherwise; `None`: as long as the client says.
    pub(crate) const fn own_timeout(&self) -> Option<Duration> {
        self.timeout
    }

    pub(crate) const fn options(&self) -> MethodOptions {
        self.options
    }
}

/// How a server runs a method's calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MethodOptions {
    pub(crate) time_limit: Option<Duration>,
    pub(crate) concurrency: Option<usize>,
    pub(crate) queue_max: Option<usize>,
    pub(crate) drop_on_cancel: bool,
    /// Its calls are parts of a stream, which was opened by another one: no hook sees them.
    pub(crate) carries_chunks: bool,
}

impl MethodOptions {
    pub(crate) const NONE: MethodOptions = MethodOptions {
        time_limit: None,
        concurrency: None,
        queue_max: None,
        drop_on_cancel: false,
        carries_chunks: false,
    };

    /// Of a method whose calls are parts of a stream.
    #[cfg(feature = "stream")]
    pub(crate) const CHUNKS: MethodOptions =
        MethodOptions { carries_chunks: true, ..MethodOptions::NONE };

    /// The first of them that makes no sense for a transactional method.
    pub(crate) fn not_transactional(&self) -> Option<&'static str> {
        let Self { time_limit, concurrency, queue_max, drop_on_cancel, .. } = *self;
        [
            (time_limit.is_some(), "time_limit"),
            (concurrency.is_some(), "concurrency"),
            (queue_max.is_some(), "queue_max"),
            (drop_on_cancel, "drop_on_cancel"),
        ]
        .into_iter()
        .find_map(|(set, name)| set.then_some(name))
    }
}

/// What a server must know of a method of bytes: a [`Method`], whose types do not matter, or a
/// [`MethodSpec`](oncewire_core::MethodSpec) for one that has a number and no name.
#[derive(Clone, Copy, Debug)]
pub struct RawMethod {
    /// Empty for one that has a number only.
    pub(crate) name: &'static str,
    pub(crate) spec: MethodSpec,
    pub(crate) options: MethodOptions,
    pub(crate) described: Option<MethodSignature>,
}

impl From<MethodSpec> for RawMethod {
    fn from(spec: MethodSpec) -> RawMethod {
        RawMethod { name: "", spec, options: MethodOptions::NONE, described: None }
    }
}

impl<A, R> From<&Method<A, R>> for RawMethod {
    fn from(method: &Method<A, R>) -> RawMethod {
        RawMethod {
            name: method.name,
            spec: method.spec,
            options: method.options,
            described: method.described(),
        }
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
