//! What a server says of itself when asked: for tools, and for probes.
//!
//! A built-in service answers, of ordinary methods but for their names; it is off unless a server offers it. So it is above
//! the protocol, and nothing of it delays a call.

use std::fmt;

use oncewire_core::{NotExecuted, ServerConfig};
use serde::{Deserialize, Serialize};

use crate::client::{Call, CallFailure, Client};
use crate::method::Method;
use crate::server::{Server, ServerBuilder};

const STATUS: Method<(), Option<Status>> =
    Method::new("oncewire/status").idempotent().reply_len_max(1 << 20);
const HEALTH: Method<(), ()> = Method::new("oncewire/health").idempotent().reply_len_max(0);

/// Sessions that are shown, at most.
pub(crate) const SESSIONS_MAX: usize = 1_000;
/// Places in the table of sessions that are looked at for them.
pub(crate) const PLACES_MAX: u32 = 4_096;

/// What a server says of itself: see [`Client::status_of_server`].
///
/// Counters and limits have names, so that a tool shows those of later versions too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// What it calls its service.
    pub service: String,
    /// Its set of records, in hexadecimal digits.
    pub server: String,
    /// This start of it: its name, and what is random at each start.
    pub instance: String,
    /// The host on which it runs, as that calls itself; empty if it does not say.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// The version of this library.
    pub version: String,
    /// Milliseconds since it was built.
    pub uptime_ms: u64,
    /// Whether it takes calls.
    pub health: Health,
    /// Its methods.
    pub methods: Vec<MethodStatus>,
    /// What it holds and has done, by the names of the fields of [`ServerCounters`](crate::ServerCounters),
    /// [`Load`](crate::Load) and [`HandlerFaults`](crate::HandlerFaults).
    pub counters: Vec<(String, u64)>,
    /// Its sessions, or a thousand of them.
    pub sessions: Vec<SessionStatus>,
    /// Its limits, by the names of the fields of [`ServerConfig`](crate::ServerConfig); times in milliseconds.
    pub limits: Vec<(String, u64)>,
}

/// A method of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MethodStatus {
    /// Its full name, or its number if it has no name.
    pub name: String,
    /// What it takes and returns, which may be cut; empty if that is not known.
    pub signature: String,
    /// Whether it may run more than once (S22).
    pub idempotent: bool,
}

/// A session of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionStatus {
    /// Its name, which is no secret.
    pub session: String,
    /// Whose it is.
    pub caller: String,
    /// Whether it has a connection.
    pub connected: bool,
    /// Its calls that are admitted or run.
    pub running: u32,
    /// Bytes of replies kept or reserved for it.
    pub kept_bytes: u64,
}

/// Whether a server takes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Health {
    /// It does.
    Serving,
    /// It shuts down, and refuses new calls (S25).
    Draining,
    /// Its ledger cannot write, and new calls are refused (S31).
    LedgerFailed,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Health::Serving => "serving",
            Health::Draining => "draining",
            Health::LedgerFailed => "ledger failed",
        })
    }
}

impl<L> ServerBuilder<L> {
    /// Offers every client what [`Server::status`] says, and a probe of its health. Who may ask is
    /// [`authorize`](ServerBuilder::authorize)'s to say: the methods are `oncewire/status`, which names hosts and callers, and
    /// `oncewire/health`.
    pub fn status(mut self) -> Self {
        self.offers_status = true;
        self
    }

    /// Adds the methods that answer.
    pub(crate) fn with_status_methods(self) -> Self {
        if !self.offers_status {
            return self;
        }
        self.method(&STATUS, |context, ()| std::future::ready(context.server_status()))
            .method(&HEALTH, |_, ()| std::future::ready(()))
    }
}

impl Client {
    /// Asks the server what it says of itself; `None` if it is about to end.
    ///
    /// A server that was built without [`ServerBuilder::status`] answers `NotExecuted(UnknownMethod)`.
    pub fn status_of_server(&self) -> Call<Option<Status>> {
        self.call(&STATUS, &())
    }

    /// Asks the server whether it takes calls: a probe of all that a call goes through. Its refusal is an answer, which a client with a
    /// session gets: a server that drains, or whose ledger has failed, refuses new sessions.
    ///
    /// # Errors
    /// There is no server, or none that takes new sessions, or none that was built with [`ServerBuilder::status`].
    pub async fn health(&self) -> Result<Health, CallFailure> {
        match self.call(&HEALTH, &()).await.ok() {
            Ok(()) => Ok(Health::Serving),
            Err(CallFailure::NotExecuted(NotExecuted::ShuttingDown)) => Ok(Health::Draining),
            Err(CallFailure::NotExecuted(NotExecuted::LedgerFailed)) => Ok(Health::LedgerFailed),
            Err(failure) => Err(failure),
        }
    }
}

/// What does not change of a server.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) config: ServerConfig,
    pub(crate) started: oncewire_core::Instant,
    /// The signatures of methods that have one, by their names.
    pub(crate) signatures: Vec<(&'static str, String)>,
}

/// The name of this host, if it has one.
pub(crate) fn host_name() -> String {
    let of_system = || std::fs::read_to_string("/proc/sys/kernel/hostname");
    let host = of_system()
        .or_else(|_| std::env::var("HOSTNAME").or_else(|_| std::env::var("COMPUTERNAME")));
    host.unwrap_or_default().trim().to_owned()
}

/// The limits of a configuration.
pub(crate) fn limits(config: &ServerConfig) -> Vec<(String, u64)> {
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let numbers = [
        ("slots", u64::from(config.slots)),
        ("request_len_max", u64::from(config.request_len_max)),
        ("reply_len_max", u64::from(config.reply_len_max)),
        ("lease_ms", millis(config.lease)),
        ("lease_unused_ms", millis(config.lease_unused)),
        ("keepalive_ms", millis(config.keepalive)),
        ("handshake_timeout_ms", millis(config.handshake_timeout)),
        ("frame_timeout_ms", millis(config.frame_timeout)),
        ("conns_max", config.conns_max as u64),
        ("sessions_max", config.sessions_max as u64),
        ("sessions_per_principal_max", u64::from(config.sessions_per_principal_max)),
        ("kept_per_session_max", config.kept_per_session_max),
        ("kept_per_principal_max", config.kept_per_principal_max),
        ("kept_max", config.kept_max),
        ("requests_per_session_max", config.requests_per_session_max),
        ("requests_per_principal_max", config.requests_per_principal_max),
        ("requests_max", config.requests_max),
    ];
    numbers.into_iter().map(|(name, number)| (name.to_owned(), number)).collect()
}

impl Server {
    /// What it says of itself: for a page or a log of the process's own. Takes the server's lock while it looks at up to 4,096
    /// places for sessions.
    pub fn status(&self) -> Status {
        self.shared().status()
    }

    /// Whether it takes calls.
    pub fn health(&self) -> Health {
        self.shared().health()
    }
}
