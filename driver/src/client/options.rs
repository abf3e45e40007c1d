//! How a client behaves, and what it says of itself.

use std::time::Duration;

use oncewire_core::{
    ClientConfig, ClientCounters, CloseReason, Instance, OnDialFailure, ServerId, ServiceName,
    SessionTag, Token,
};

use super::around::{Hooks, NewCall};
use crate::observe::{Observer, ObserverList};
use crate::signatures::SignatureMismatch;

/// How a client behaves, and its limits.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// The service that must answer; any if `None`. At most 64 bytes.
    pub service: Option<ServiceName>,
    /// The server that must answer; any if `None`.
    pub server: Option<ServerId>,
    /// Who this client is, for servers that [demand](crate::ServerBuilder::tokens) a token. It is sent with each handshake, where
    /// the [transport](crate::Connect::may_carry_token) says that others cannot read it; over another one there is no
    /// connection, and calls end at once as [`NeverConnected`](oncewire_core::NotExecuted::NeverConnected). They do so as well where
    /// the server does not know the token, unless [`on_dial_failure`](ClientOptions::on_dial_failure) says otherwise; the
    /// client continues to dial. [`Client::set_token`](crate::Client::set_token) changes it.
    pub token: Option<Token>,
    /// Time until a call gives up, unless it says otherwise, or its method does ([`Method::timeout`](crate::Method::timeout)): 30 s by
    /// default. It never gives up early; if this is a second or more, it may give up 10 ms late.
    pub timeout: Duration,
    /// Whether calls end when the connection breaks, unless they say otherwise (S21).
    pub fail_fast: bool,
    /// What a failed dial does to calls of which no byte was sent. By default those end at once as
    /// [`NeverConnected`](oncewire_core::NotExecuted::NeverConnected) that no later dial can help: there is no such host or
    /// program, or what answers does not speak this protocol. With [`OnDialFailure::End`] a server that is not there ends them
    /// as well, and with [`OnDialFailure::Wait`] nothing but their deadlines does.
    ///
    /// Unlike [`fail_fast`](ClientOptions::fail_fast) it leaves calls in flight to the resume. One-way calls and those of a
    /// [`DurableClient`](crate::DurableClient) always wait.
    pub on_dial_failure: OnDialFailure,
    /// Calls unsettled at once that the server is asked for.
    pub slots: u32,
    /// Calls pending at once, unsettled or waiting.
    pub calls_max: usize,
    /// Bytes of requests pending at once.
    pub pending_bytes_max: usize,
    /// Bytes of the longest request.
    pub request_len_max: u32,
    /// Bytes of the longest reply, 16 MiB by default. An honest server answers a call whose reply is longer with
    /// [`NoReply::ReplyTooLarge`](oncewire_core::NoReply::ReplyTooLarge); a hostile one can make the client hold that much for each call
    /// whose outcome was not taken yet, whatever its method declares.
    pub reply_len_max: u32,
    /// How long dialling may take, and the handshake after it. A server that is asked what it means by a method has as long to
    /// answer (S33); then the calls that wait for it end as [`NotCompared`](oncewire_core::NotExecuted::NotCompared).
    pub connect_timeout: Duration,
    /// How long the server may be silent before it is called dead, if that is longer than it grants (10 s by default).
    ///
    /// [`NEVER`](crate::NEVER) is for debugging a service: a server stopped at a breakpoint keeps its connection, and
    /// so does a client, as far as [`keepalive_max`](oncewire_core::ServerConfig::keepalive_max) of the server allows: an
    /// hour by default. A server can say the same of all its clients:
    /// [`keepalive`](oncewire_core::ServerConfig::keepalive).
    pub keepalive: Duration,
    /// The longest pause before the second attempt to connect; doubles with each failure. The pause itself is random.
    pub backoff_min: Duration,
    /// The longest pause between attempts.
    pub backoff_max: Duration,
    /// How long [`Client::close`](crate::Client::close), and the drop of the last handle, wait for what is pending.
    pub close_timeout: Duration,
    pub(crate) observers: ObserverList,
    pub(crate) hooks: Hooks,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            service: None,
            server: None,
            token: None,
            timeout: Duration::from_secs(30),
            fail_fast: false,
            on_dial_failure: OnDialFailure::default(),
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
            observers: ObserverList::default(),
            hooks: Hooks::default(),
        }
    }
}

impl ClientOptions {
    /// Tells an observer what happens: see [`observe`](crate::observe). There may be several.
    pub fn with_observer(mut self, observer: impl Observer) -> Self {
        self.observers.add(observer);
        self
    }

    /// Has `hook` see each call before it begins: it may add metadata, for whatever reads that at the server, and shorten the
    /// timeout. Several are called in the order in which they were given.
    ///
    /// ```
    /// use oncewire_driver::{ClientOptions, MetadataKey, NewCall};
    ///
    /// const TENANT: MetadataKey<String> = MetadataKey::new("tenant");
    ///
    /// let options = ClientOptions::default().with_around(|call: &mut NewCall| {
    ///     if call.method().name.starts_with("bank/") {
    ///         call.set_metadata(&TENANT, "acme");
    ///     }
    /// });
    /// # drop(options);
    /// ```
    ///
    /// It is called once for each call, before that gets its number, in the thread that begins it: a request that is sent again
    /// carries the same. For a [`DurableClient`](crate::DurableClient) that is before the call is journaled; what an earlier run has
    /// left behind continues as it is. One-way calls are seen too, and a stream or an upload where it is opened, and an upload where it is
    /// committed, but not the calls that carry chunks. If it panics the call is not begun. Without one, a call costs a branch.
    pub fn with_around(mut self, hook: impl Fn(&mut NewCall) + Send + Sync + 'static) -> Self {
        self.hooks.add(hook);
        self
    }

    /// The part that the machine enforces.
    pub(super) fn machine_config(&self) -> ClientConfig {
        let mut config = ClientConfig::default();
        config.service = self.service;
        config.server = self.server;
        config.token = self.token;
        config.on_dial_failure = self.on_dial_failure;
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
    /// Which process of it has answered on this connection, or on the last one while there is none: the server id names a
    /// set of records, which several may share.
    pub instance: Option<Instance>,
    /// Why the last connection ended or could not be made; it names the instance that answered, if one did.
    pub last_error: Option<String>,
    /// Attempts to connect that failed, since the last one that led to a session.
    pub failed_attempts: u32,
    /// Why the server refuses this client for good, if it does.
    pub refused: Option<CloseReason>,
    /// Connections whose handshake went through, after the first one.
    pub reconnects: u64,
    /// The methods that calls were made of and that this server, or the last one, means something else by (S33).
    pub mismatches: Vec<SignatureMismatch>,
    /// How calls have fared.
    pub counters: ClientCounters,
}

/// How the close of a client went. Its `Display` is a line for a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// Everything was settled and acknowledged, and the server has the `Goodbye` that ends the session, if there was one to end:
    /// there is none for a client that was refused. Otherwise the time was up first, or this process is a fork of the one that
    /// made it, or the journal cannot write.
    pub in_good_order: bool,
    /// Calls that the close ended: their callers learn `Closed`, as not executed or as unknown.
    pub unfinished: u64,
    /// One-way calls, of all that the client has made, of which the server has not said that it executed them: the close or their
    /// deadlines came first, or the server refused them.
    pub one_way_unconfirmed: u64,
    /// The server of the last session, if there was one.
    pub server: Option<ServerId>,
    /// The process that the client last heard from, a refusal included.
    pub instance: Option<Instance>,
    /// The last session: what the server's records know those calls by that end as unknown.
    pub session: Option<SessionTag>,
    /// Calls of a [`DurableClient`](crate::DurableClient) that its next run is given: those that the close ended after they were
    /// journaled, and those whose outcomes were not confirmed. After an error of the journal it is the most that they can be.
    pub left_in_journal: u64,
}
