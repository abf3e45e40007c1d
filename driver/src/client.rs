//! Clients: the handle.
//!
//! | file | what it does |
//! |---|---|
//! | `client.rs` | the handle |
//! | `client/options.rs` | how a client behaves, and its status |
//! | `client/with_options.rs` | the same, set one by one |
//! | `client/around.rs` | hooks that see calls before they begin, and what a handle gives to its calls |
//! | `client/call.rs` | a call, described and then awaited |
//! | `client/untyped.rs` | the same apart from the type of its reply: it begins, and is polled |
//! | `client/one_way.rs` | calls whose outcome is not reported |
//! | `client/description.rs` | what is called, until it begins |
//! | `client/outcome.rs` | its outcome, decoded, and the ticket that may be left of it |
//! | `client/resolve.rs` | tickets, waited for |
//! | `client/result.rs` | outcomes as `Result`s |
//! | `client/retry.rs` | makes calls again that were not executed |
//! | `client/report.rs` | what is known of a call without a reply |
//! | `client/shared.rs` | what the handles, the calls and the task of a client share, and the lock around it |
//! | `client/state.rs` | what is under that lock: the machine and the parts below |
//! | `client/link.rs` | the stream and its buffers |
//! | `client/comparisons.rs` | what client and server mean by the methods that are called |
//! | `client/pending.rs` | the calls that wait for their outcomes |
//! | `client/reader.rs` | which of them reads the socket for all: leader and followers |
//! | `client/lifecycle.rs` | connected, closing, closed, and who waits for that |
//! | `client/connected.rs` | one that waits for the session |
//! | `client/task.rs` | the task behind a client: dials, keeps time, reads when no call does |
//! | `client/parked.rs` | where it is until the runtime has it: a first call dials by it on its own thread |
//! | `client/backoff.rs` | how long it pauses before it dials again |
//! | `client/observed.rs` | what observers learn |
//! | `client/servers.rs` | one client for several servers |
//! | `client/durable.rs` | clients whose calls outlive their process |
//! | `client/journal_state.rs` | which of their calls is journaled, and what waits for which write |

mod around;
mod backoff;
mod call;
mod comparisons;
mod connected;
mod description;
mod durable;
mod end;
mod journal_state;
mod lifecycle;
mod link;
mod observed;
mod one_way;
mod options;
mod outcome;
mod parked;
mod pending;
mod reader;
mod report;
mod resolve;
mod result;
mod retry;
mod servers;
mod shared;
mod state;
mod task;
mod untyped;
mod with_options;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oncewire_core::{MethodId, Token};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::buffer::Encoded;
use crate::metadata::Metadata;
use crate::method::Method;
#[cfg(feature = "stream")]
use crate::method::Typed;
use crate::runtime::{Runtime, SmolRuntime};
use crate::transport::Connect;
use around::CallDefaults;
pub use around::NewCall;
pub use call::Call;
use call::CalledMethod;
use connected::Connected;
pub use durable::{Delivery, DurableCall, DurableClient, Receipt, RecoveredCall};
pub use options::{ClientOptions, ClientStatus, CloseReport};
use outcome::Decode;
pub use outcome::{CallFailure, Outcome, Ticket};
use parked::Parked;
pub use report::{CallReport, EarlierAttempt};
pub use resolve::Resolve;
pub use result::{CallResult, FailedCall};
pub use retry::Retry;
use servers::Group;
pub use servers::{NoServers, ServerStatus, Servers};
use shared::Shared;

/// A client: makes calls in one session at one server, over one connection after another.
///
/// Cheap to clone; works from many tasks and threads. When the last clone is dropped, the session is ended in good
/// order as soon as its calls are settled.
///
/// ```no_run
/// use oncewire_driver::{Client, ClientOptions, Connect, Method, Outcome};
///
/// const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");
///
/// async fn call(connector: impl Connect) {
///     let client = Client::new(connector, ClientOptions::default());
///     match client.call(&ADD_ONE, &100).await {
///         Outcome::Reply(sum) => println!("executed: {sum}"),
///         Outcome::NoReply(why) => println!("executed, but {why}"),
///         Outcome::NotExecuted(why) => println!("{why}"),
///         Outcome::Unknown(why, _ticket) => println!("{why}"),
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
    /// What calls through this clone have, unless they say otherwise.
    defaults: Option<Arc<CallDefaults>>,
}

/// Ends the client when the last clone is gone.
struct Handle {
    /// With several servers, that of the first: what all have in common can be asked of it.
    shared: Arc<Shared>,
    /// The clients of several servers, which end themselves.
    group: Option<Arc<Group>>,
    /// Which of them all calls of this handle get: those of a stream, say.
    member: Option<usize>,
}

impl Handle {
    /// The client that has the session.
    #[inline]
    fn session(&self) -> &Arc<Shared> {
        match (&self.group, self.member) {
            (Some(group), None) => group.session(),
            _ => &self.shared,
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.group.is_none() {
            self.shared.close(false);
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("status", &self.status()).finish()
    }
}

impl Client {
    /// A client on the default runtime. Connects in the background; calls wait for it. Where its first call follows within
    /// milliseconds, that dials on its own thread, if the connector [allows it](Connect::dials_anywhere).
    pub fn new(connector: impl Connect, options: ClientOptions) -> Client {
        Client::with_runtime(connector, options, SmolRuntime::global())
    }

    /// A client on a runtime of your own.
    pub fn with_runtime(
        connector: impl Connect,
        options: ClientOptions,
        runtime: Arc<dyn Runtime>,
    ) -> Client {
        let shared = Shared::new(Box::new(connector), options, runtime.clone());
        let task = task::ClientTask::new(shared.clone());
        match shared.connector.dials_anywhere() && runtime.parks_client() {
            true => Parked::park(&shared, task),
            false => runtime.spawn(Box::pin(task)),
        }
        Client { handle: Arc::new(Handle { shared, group: None, member: None }), defaults: None }
    }

    /// A clone whose calls carry this metadata, instead of what the calls of this one carry. It is of the same session: what needs other
    /// metadata for each caller makes such a clone for each, and a typed client of it.
    ///
    /// ```
    /// use oncewire_driver::{Client, Metadata, MetadataKey, Method};
    ///
    /// const TENANT: MetadataKey<String> = MetadataKey::new("tenant");
    /// const NOTE: Method<String, ()> = Method::new("bank/note");
    ///
    /// fn note(client: &Client, text: String) -> Result<(), oncewire_driver::NotBegun> {
    ///     // In front of a client that the attribute `service` wrote: BankClient(acme).note(text)
    ///     let acme = client.with_metadata(Metadata::new().with(&TENANT, "acme"));
    ///     acme.send(&NOTE, &text)
    /// }
    /// ```
    ///
    /// One-way calls carry it too, and so do streams and uploads where they are opened and committed. A call may say otherwise, or add to
    /// it: [`Call::with_metadata`], [`Call::metadata`].
    #[must_use = "it is another handle of the client that carries the metadata"]
    pub fn with_metadata(&self, metadata: Metadata) -> Client {
        let defaults = CallDefaults::with_metadata(self.defaults.as_ref(), metadata);
        Client { handle: self.handle.clone(), defaults }
    }

    /// A clone whose calls wait this long, unless they say otherwise. It overrides [`ClientOptions::timeout`] and [`Method::timeout`].
    #[must_use = "it is another handle of the client that has the timeout"]
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        let defaults = CallDefaults::with_timeout(self.defaults.as_ref(), timeout);
        Client { handle: self.handle.clone(), defaults }
    }

    /// A call, with what this handle gives to it. It is made where it is returned: a call is large, and moving it costs.
    #[inline(always)]
    fn make<R>(
        &self,
        called: CalledMethod,
        idempotent: bool,
        timeout: Option<Duration>,
        arguments: Encoded,
        decode: Decode<R>,
    ) -> Call<R> {
        let shared = &self.handle.shared;
        if self.handle.group.is_some() || self.defaults.is_some() {
            let call = Call::new(shared, called, idempotent, timeout, arguments, decode);
            return self.described(call);
        }
        Call::new(shared, called, idempotent, timeout, arguments, decode)
    }

    #[cold]
    #[inline(never)]
    fn described<R>(&self, mut call: Call<R>) -> Call<R> {
        if let Some(group) = &self.handle.group {
            call.make_at_any(group.clone(), self.handle.member);
        }
        if let Some(defaults) = &self.defaults {
            defaults.apply(&mut call);
        }
        call
    }

    /// A call of a typed method: await it, or set its options first. It may run more than once if the method is
    /// [`idempotent`](Method::idempotent), unless the call says [`at_most_once`](Call::at_most_once).
    ///
    /// Arguments that are [`Bytes`] and nothing else, 64 KiB or more, are sent from where they lie. The client keeps a clone of them until
    /// the call is settled, and drops it under its lock: if they have an owner of their own (`Bytes::from_owner`), that must not call
    /// the client, nor panic, when it is dropped. A part of longer `Bytes` keeps all of these in memory meanwhile.
    pub fn call<A: Serialize + 'static, R: DeserializeOwned + 'static>(
        &self,
        method: &Method<A, R>,
        arguments: &A,
    ) -> Call<R> {
        let (called, decode) = (CalledMethod::of(method), Decode::postcard(method.values()));
        let mut encoded = Encoded::EMPTY;
        if crate::buffer::encode_arguments(arguments, &mut encoded).is_err() {
            return Call::unencodable(&self.handle.shared, called, decode);
        }
        let (idempotent, timeout) = (method.spec().idempotent, method.own_timeout());
        self.make(called, idempotent, timeout, encoded, decode)
    }

    /// A call with bytes for arguments and bytes for a reply. It runs at most once, unless it says
    /// [`idempotent`](Call::idempotent). A body of any length may be dropped under the
    /// client's lock, as [long arguments](Client::call) are.
    pub fn call_raw(&self, method: MethodId, body: impl Into<Bytes>) -> Call<Bytes> {
        self.call_bytes(CalledMethod::of_bytes(method), body.into())
    }

    /// [`call_raw`](Client::call_raw) with a body that may be short enough to lie where it is, for a part of a stream: hooks have
    /// seen that when it was opened, and it has the metadata.
    #[cfg(feature = "stream")]
    pub(crate) fn call_encoded(&self, method: MethodId, body: Encoded) -> Call<Bytes> {
        let called = CalledMethod::of_bytes(method);
        let mut call = Call::new(&self.handle.shared, called, false, None, body, Decode::raw());
        if let Some(group) = &self.handle.group {
            call.make_at_any(group.clone(), self.handle.member);
        }
        call.unseen()
    }

    /// A call of bytes that opens a stream or an upload: it is compared by the signature of that.
    #[cfg(feature = "stream")]
    pub(crate) fn call_opening(
        &self,
        (id, name): (MethodId, &'static str),
        typed: Option<Typed>,
        body: Vec<u8>,
    ) -> Call<Bytes> {
        self.call_bytes(CalledMethod { id, name, typed }, body.into())
    }

    fn call_bytes(&self, called: CalledMethod, body: Bytes) -> Call<Bytes> {
        self.make(called, false, None, Encoded::from(body), Decode::raw())
    }

    /// How long calls of this client wait, unless they say otherwise.
    #[cfg(feature = "stream")]
    pub(crate) fn timeout(&self) -> Duration {
        let own = self.defaults.as_ref().and_then(|defaults| defaults.timeout);
        own.unwrap_or(self.handle.shared.options.timeout)
    }

    /// Unpredictable bits, of the client's runtime.
    #[cfg(feature = "stream")]
    pub(crate) fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        self.handle.shared.runtime.random(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Takes no more calls, waits for those pending, and ends the session cleanly; at most
    /// [`ClientOptions::close_timeout`]. Says what could not be delivered.
    ///
    /// With several [`Servers`] it ends the sessions at all of them; the report is of all together, and names the server that had the
    /// session.
    pub async fn close(&self) -> CloseReport {
        if let Some(group) = &self.handle.group {
            return group.close().await;
        }
        self.handle.shared.close(true);
        std::future::poll_fn(|cx| self.handle.shared.poll_closed(cx)).await
    }

    /// The same for a thread that runs nothing else: see [`Call::block`].
    pub fn close_blocking(&self) -> CloseReport {
        smol::block_on(self.close())
    }

    /// What the server has said of its services; none before the first connection.
    pub(crate) fn schemas(&self) -> oncewire_core::Schemas {
        self.handle.shared.schemas()
    }

    /// What the client is doing. With several [`Servers`]: at the one that has the session; [`servers`](Client::servers) says it of all.
    pub fn status(&self) -> ClientStatus {
        match &self.handle.group {
            None => self.handle.shared.status(),
            Some(group) => group.home().status(),
        }
    }

    /// The servers of a client of several, in the order of their list; none of any other client.
    pub fn servers(&self) -> Vec<ServerStatus> {
        self.handle.group.as_ref().map(|group| group.statuses()).unwrap_or_default()
    }

    /// The client of the server at which this call of it was made: for what consists of several calls.
    pub(crate) fn at_server_of<R>(&self, call: &Call<R>) -> Client {
        let handle = match (&self.handle.group, call.member()) {
            (Some(group), member @ Some(at)) => {
                let (shared, group) = (group.shared(at).clone(), Some(group.clone()));
                Arc::new(Handle { shared, group, member })
            }
            _ => self.handle.clone(),
        };
        Client { handle, defaults: self.defaults.clone() }
    }

    /// Changes the [token](ClientOptions::token) by which the client says who it is when it connects next. The connection that
    /// exists lives on, and so does the session, if the new token is one of the same name.
    pub fn set_token(&self, token: Token) {
        if let Some(group) = &self.handle.group {
            return group.set_token(token);
        }
        self.handle.shared.with(|state, _| state.lifecycle.next_token = Some(token));
    }

    /// Waits until the session is open, or the server has refused it for good, or the client is closed; says whether
    /// it is open. Calls do not need it: they wait by themselves.
    ///
    /// With several [`Servers`]: until it is open at one of them.
    pub async fn connected(&self) -> bool {
        if let Some(group) = &self.handle.group {
            return group.connected().await;
        }
        Connected::new(&self.handle.shared).await
    }
}

const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    const fn assert_send<T: Send + Future>() {}
    assert_send_sync::<Client>();
    assert_send_sync::<Ticket<Vec<u8>>>();
    assert_send_sync::<Call<Vec<u8>>>();
    assert_send::<Call<Vec<u8>>>();
};
