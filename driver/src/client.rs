//! Clients: handles, calls, tickets.
//!
//! | file | what it does |
//! |---|---|
//! | `client.rs` | the handle, and how a call is described |
//! | `client/state.rs` | what all tasks share: the machine, the stream, the buffers, who waits for what |
//! | `client/state/lead.rs` | who of them reads the socket for all |
//! | `client/pending.rs` | who waits for which call |
//! | `client/call.rs` | the future of one call; whoever waits may read the socket for all |
//! | `client/durable.rs` | clients whose calls outlive them |
//! | `client/backoff.rs` | how long it pauses before it dials again |
//! | `client/task.rs` | the task behind a client: dials, keeps time, reads when nobody waits |

mod backoff;
mod call;
mod durable;
mod pending;
mod state;
mod task;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oncewire_core::{
    CallError, ClientConfig, ClientCounters, CloseReason, MethodId, NotExecuted, ServerId,
    ServiceName,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::method::Method;
use crate::outcome::{Decode, Outcome};
use crate::runtime::{Runtime, SmolRuntime};
use crate::transport::Connect;
pub use call::{CallFuture, Ticket};
pub use durable::{Delivery, DurableCall, DurableClient, JournalBatch, Receipt, RecoveredCall};
use state::Shared;

/// How a client behaves, and its limits.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// The service that must answer; any if `None`. At most 64 bytes.
    pub service: Option<ServiceName>,
    /// The server that must answer; any if `None`.
    pub server: Option<ServerId>,
    /// Time until a call gives up, unless it says otherwise. It never gives up early; where this is a second or more, it may
    /// by 10 ms late.
    pub timeout: Duration,
    /// Whether calls end when the connection breaks, unless they say otherwise (S21).
    pub fail_fast: bool,
    /// Calls unsettled at once that the server is asked for.
    pub slots: u32,
    /// Calls pending at once, unsettled or waiting.
    pub calls_max: usize,
    /// Bytes of requests pending at once.
    pub pending_bytes_max: usize,
    /// Bytes of the longest request.
    pub request_len_max: u32,
    /// Bytes of the longest reply.
    pub reply_len_max: u32,
    /// How long dialling may take, and the handshake after it.
    pub connect_timeout: Duration,
    /// How long the server may be silent before it is called dead, if that is longer than it grants (10 s by default).
    ///
    /// [`NEVER`](crate::NEVER) is for debugging a service: a server that stands at a breakpoint keeps its connection, and
    /// so does a client, as far as [`keepalive_max`](oncewire_core::ServerConfig::keepalive_max) of the server allows: an
    /// hour by default. A server can say the same of all its clients:
    /// [`keepalive`](oncewire_core::ServerConfig::keepalive).
    pub keepalive: Duration,
    /// The longest pause before the second attempt to connect; doubles with each failure. The pause itself is random.
    pub backoff_min: Duration,
    /// The longest pause between attempts.
    pub backoff_max: Duration,
    /// How long [`Client::close`], and the drop of the last handle, wait for what is pending.
    pub close_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            service: None,
            server: None,
            timeout: Duration::from_secs(30),
            fail_fast: false,
            slots: 1024,
            calls_max: 65_536,
            pending_bytes_max: 256 << 20,
            request_len_max: 16 << 20,
            reply_len_max: 16 << 20,
            connect_timeout: Duration::from_secs(10),
            keepalive: Duration::ZERO,
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(5),
            close_timeout: Duration::from_secs(5),
        }
    }
}

impl ClientOptions {
    /// What of it is the machine's to keep.
    fn machine_config(&self) -> ClientConfig {
        let mut config = ClientConfig::default();
        config.service = self.service;
        config.server = self.server;
        config.slots = self.slots;
        config.calls_max = self.calls_max;
        config.pending_bytes_max = self.pending_bytes_max;
        config.request_len_max = self.request_len_max;
        config.reply_len_max = self.reply_len_max;
        config.keepalive = self.keepalive;
        config.handshake_timeout = self.connect_timeout;
        config
    }
}

/// What a client is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientStatus {
    /// Whether the session is open on a connection.
    pub connected: bool,
    /// The server that opened the session.
    pub server: Option<ServerId>,
    /// Why the last connection ended or could not be made.
    pub last_error: Option<String>,
    /// Why the server refuses this client for good, if it does.
    pub refused: Option<CloseReason>,
    /// Connections whose handshake went through, after the first one.
    pub reconnects: u64,
    /// How calls have fared.
    pub counters: ClientCounters,
}

/// A client: makes calls in one session at one server, over one connection after another.
///
/// Cheap to clone; works from many tasks and threads. When the last clone is dropped, the session is ended in good
/// order as soon as its calls are settled.
///
/// ```no_run
/// use oncewire_driver::{Client, ClientOptions, Connect, Method, Outcome};
///
/// const ADD_ONE: Method<i32, i32> = Method::new("toy.add_one");
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
}

/// Ends the client when the last clone is gone.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close(false);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("status", &self.status()).finish()
    }
}

impl Client {
    /// A client on the default runtime. Connects in the background; calls wait for it.
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
        runtime.spawn(Box::pin(task::ClientTask::new(shared.clone())));
        Client { handle: Arc::new(Handle { shared }) }
    }

    /// A call of a typed method: await it, or set its options first.
    pub fn call<A: Serialize, R: DeserializeOwned>(
        &self,
        method: &Method<A, R>,
        arguments: &A,
    ) -> Call<R> {
        let body = crate::buffer::encode(arguments).map_err(|_| CallError::Unencodable);
        self.build(method.id(), body, Decode::postcard(method.values()))
    }

    /// A call with bytes for arguments and bytes for a reply.
    pub fn call_raw(&self, method: MethodId, body: impl Into<Bytes>) -> Call<Bytes> {
        self.build(method, Ok(body.into()), Decode::raw())
    }

    /// A one-way call: nothing is reported of it. It is executed at most once all the same, and sent again if the
    /// connection breaks before it was read (S23).
    ///
    /// # Errors
    /// If it was not even begun.
    pub fn send<A: Serialize, R>(
        &self,
        method: &Method<A, R>,
        arguments: &A,
    ) -> Result<(), CallError> {
        let body = crate::buffer::encode(arguments).map_err(|_| CallError::Unencodable)?;
        self.send_raw(method.id(), body)
    }

    /// A one-way call with bytes for arguments.
    ///
    /// # Errors
    /// If it was not even begun.
    pub fn send_raw(&self, method: MethodId, body: impl Into<Bytes>) -> Result<(), CallError> {
        let timeout = self.handle.shared.options.timeout;
        let mut call = oncewire_core::Call::new(method, body.into());
        call.timeout = timeout;
        call.one_way = true;
        self.handle.shared.send(call)
    }

    /// Takes no more calls, waits for those pending, and ends the session in good order; at most
    /// [`ClientOptions::close_timeout`].
    pub async fn close(&self) {
        self.handle.shared.close(true);
        std::future::poll_fn(|cx| self.handle.shared.poll_closed(cx)).await;
    }

    /// What the client is doing.
    pub fn status(&self) -> ClientStatus {
        self.handle.shared.status()
    }

    /// Waits until the session is open, or the server has refused it for good, or the client is closed; says whether
    /// it is open. Calls do not need it: they wait by themselves.
    pub async fn connected(&self) -> bool {
        std::future::poll_fn(|cx| self.handle.shared.poll_connected(cx)).await
    }

    fn build<R>(
        &self,
        method: MethodId,
        body: Result<Bytes, CallError>,
        decode: Decode<R>,
    ) -> Call<R> {
        let options = &self.handle.shared.options;
        Call {
            shared: self.handle.shared.clone(),
            method,
            body,
            timeout: options.timeout,
            fail_fast: options.fail_fast,
            idempotent: false,
            decode,
            reply: PhantomData,
        }
    }
}

/// A call that was described and not begun: await it.
#[must_use = "a call begins when it is awaited"]
pub struct Call<R> {
    shared: Arc<Shared>,
    method: MethodId,
    body: Result<Bytes, CallError>,
    timeout: Duration,
    fail_fast: bool,
    idempotent: bool,
    decode: Decode<R>,
    reply: PhantomData<fn() -> R>,
}

impl<R> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.method)
            .field("timeout", &self.timeout)
            .field("fail_fast", &self.fail_fast)
            .field("idempotent", &self.idempotent)
            .finish_non_exhaustive()
    }
}

impl<R> Call<R> {
    /// Time until the caller gives up (S17).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Ends when the connection breaks, instead of waiting for the resume (S21).
    pub fn fail_fast(mut self, fail_fast: bool) -> Self {
        self.fail_fast = fail_fast;
        self
    }

    /// May run more than once: it is repeated, on another server too, until it is answered. The server refuses it if
    /// the method is not declared so (S22).
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Begins the call now, though nobody waits for it yet.
    pub fn start(mut self) -> CallFuture<R> {
        let begun = match self.describe() {
            Ok(call) => self.shared.begin(call),
            Err(error) => Err(NotExecuted::NotBegun(error)),
        };
        self.shared.ensure_sent();
        CallFuture::new(self.shared, begun, self.decode)
    }

    fn describe(&mut self) -> Result<oncewire_core::Call<'static>, CallError> {
        let body = std::mem::replace(&mut self.body, Ok(Bytes::new()))?;
        let mut call = oncewire_core::Call::new(self.method, body);
        call.timeout = self.timeout;
        call.fail_fast = self.fail_fast;
        call.idempotent = self.idempotent;
        Ok(call)
    }
}

impl<R> IntoFuture for Call<R> {
    type Output = Outcome<R>;
    type IntoFuture = CallFuture<R>;

    fn into_future(mut self) -> CallFuture<R> {
        let call = self.describe();
        CallFuture::fresh(self.shared, call, self.decode)
    }
}

const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    const fn assert_send<T: Send + Future>() {}
    assert_send_sync::<Client>();
    assert_send_sync::<Ticket<Vec<u8>>>();
    assert_send::<CallFuture<Vec<u8>>>();
};
