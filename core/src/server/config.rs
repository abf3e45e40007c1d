//! What a server is configured with.

use core::time::Duration;

use crate::ids::{MethodId, ServerId, SessionId};
use crate::instance::{Instance, Schemas};
use crate::text::ServiceName;

/// Who a server is, what it grants, and its limits.
///
/// Every number and time may be anything: none makes a server panic or spin. What is not obvious of 0 and of very small
/// values:
///
/// | field | then |
/// |---|---|
/// | `slots` | counts as 1; as 65,536 above that |
/// | `keepalive`, `handshake_timeout`, `frame_timeout` | count as a few milliseconds; an incomplete frame always has the keepalive's time |
/// | `lease`, `lease_unused` | a session ends with its connection, calls that run excepted; `Duration::MAX`: never |
/// | `conns_max`, `sessions_max`, `sessions_per_principal_max` | no connection, or no session, is taken |
/// | `request_len_max`, `reply_len_max` | only empty bodies, and replies without one (S15) |
/// | `kept_…_max` | only calls whose replies are empty by declaration, and one-way calls; others are `Overloaded` |
/// | `requests_…_max` | count as 4,096 if they are less: without tables of slots a call cannot even be refused |
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub struct ServerConfig {
    /// Names its set of completion records: random at every start, unless a ledger kept them.
    pub server: ServerId,
    /// The service's name.
    pub service: ServiceName,
    /// This start of the server: said to every client, and named in their errors.
    pub instance: Instance,
    /// The schemas of its services: said to every client.
    pub schemas: Schemas,
    /// Most slots granted to a session; at most 65,536.
    pub slots: u32,
    /// Bytes of the longest request body granted.
    pub request_len_max: u32,
    /// Bytes of the longest reply body granted.
    pub reply_len_max: u32,
    /// How long a session is kept without a connection (S6).
    pub lease: Duration,
    /// The same for a session that never carried a request, and that neither a ledger nor its client's journal knows (S1).
    pub lease_unused: Duration,
    /// Silence after which a peer is called dead (S20); [`NEVER`](crate::NEVER) for debugging a service.
    pub keepalive: Duration,
    /// The same, if it is longer, for a client that asks never to be called dead because it is being debugged. The cost:
    /// a client that asks and then vanishes keeps its connection and its session for so long. The default is an hour.
    pub keepalive_max: Duration,
    /// How long a new connection may take to say `Hello` (C42).
    pub handshake_timeout: Duration,
    /// How long an incomplete frame may take to grow by 64 KiB or to be whole (C42).
    pub frame_timeout: Duration,
    /// Connections at once, 1,048,576 by default. A principal has at most three times as many as it leaves free; so with sessions.
    ///
    /// Set it below the number of files that the process may open (`ulimit -n`, often 1,024), less what the program opens itself, or
    /// raise that number: above it the system's limit comes first, which knows no shares, so that one peer can take all descriptors.
    pub conns_max: usize,
    /// Sessions at once.
    pub sessions_max: usize,
    /// Sessions at once of one principal.
    pub sessions_per_principal_max: u32,
    /// Bytes of replies kept or reserved for one session.
    ///
    /// Of this and the five limits that follow, no client gets so much that others are left without: a session holds at
    /// most as much as it leaves free, and a principal at most three times as much, but for sessions that hold little.
    pub kept_per_session_max: u64,
    /// Bytes of replies kept or reserved for one principal.
    pub kept_per_principal_max: u64,
    /// Bytes of replies kept or reserved in all.
    pub kept_max: u64,
    /// Bytes of requests that are admitted or run in one session, and of its tables of slots.
    pub requests_per_session_max: u64,
    /// The same for one principal.
    pub requests_per_principal_max: u64,
    /// The same in all.
    pub requests_max: u64,
    /// Whether links lose messages without breaking (S27).
    pub lossy: bool,
    /// How far the ledger has come (S32).
    pub commit: u64,
    /// Whether a ledger keeps sessions: the `Welcome` of a new one waits for
    /// [`confirm_session`](crate::Server::confirm_session) (S30).
    pub records_sessions: bool,
    /// Whether other servers have the same records at the same time: then the owner is asked for each session that a client
    /// resumes, by [`ServerEvent::SessionWanted`](crate::ServerEvent::SessionWanted) (S34).
    pub shares_records: bool,
    /// A one-way function of a session's id, if records are not to hold the id itself: then the server knows sessions by what it
    /// returns, also in records and events, and only clients have their ids. `None`: it knows them by their ids.
    pub session_hash: Option<fn(SessionId) -> SessionId>,
    /// Whether the owner says of each new call if its caller may make it: every admission must go through
    /// [`authorize`](crate::Server::authorize) before it is started, and until then nothing is set aside for it.
    pub authorizes: bool,
    /// Whether clients must show a token: a `Hello` on a connection that was not
    /// [identified](crate::Server::identify) by its owner is refused.
    pub demands_tokens: bool,
    /// Whether the machine says what it decides by itself, as [`Incoming::Notice`](crate::Incoming::Notice): for logs.
    pub notices: bool,
}

/// Twice the tables of a session's first slots, and small requests.
const REQUESTS_MIN: u64 = 4096;

impl ServerConfig {
    /// The limits as they are used.
    pub(super) fn with_floors(mut self) -> ServerConfig {
        for requests in [
            &mut self.requests_per_session_max,
            &mut self.requests_per_principal_max,
            &mut self.requests_max,
        ] {
            *requests = (*requests).max(REQUESTS_MIN);
        }
        self
    }

    /// The defaults, for this server and service.
    pub const fn new(server: ServerId, service: ServiceName) -> ServerConfig {
        ServerConfig {
            server,
            service,
            instance: Instance::UNNAMED,
            schemas: Schemas::EMPTY,
            slots: 1024,
            request_len_max: 16 << 20,
            reply_len_max: 16 << 20,
            lease: Duration::from_secs(300),
            lease_unused: Duration::from_secs(10),
            keepalive: Duration::from_secs(10),
            keepalive_max: Duration::from_secs(3600),
            handshake_timeout: Duration::from_secs(10),
            frame_timeout: Duration::from_secs(60),
            conns_max: 1 << 20,
            sessions_max: 1 << 20,
            sessions_per_principal_max: 1 << 20,
            kept_per_session_max: 256 << 20,
            kept_per_principal_max: 1 << 30,
            kept_max: 1 << 30,
            requests_per_session_max: 128 << 20,
            requests_per_principal_max: 512 << 20,
            requests_max: 512 << 20,
            lossy: false,
            commit: 0,
            records_sessions: false,
            shares_records: false,
            session_hash: None,
            authorizes: false,
            demands_tokens: false,
            notices: false,
        }
    }
}

/// A procedure that a server offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub struct MethodSpec {
    /// Its number.
    pub id: MethodId,
    /// Whether it may run more than once (S22).
    pub idempotent: bool,
    /// Bytes of its longest reply: so much room is reserved before it runs (S11).
    pub reply_len_max: u32,
}

impl MethodSpec {
    /// A method that runs at most once and whose replies have at most 64 KiB.
    pub const fn new(id: MethodId) -> MethodSpec {
        MethodSpec { id, idempotent: false, reply_len_max: 64 << 10 }
    }
}

impl Default for MethodSpec {
    fn default() -> Self {
        MethodSpec::new(MethodId::from_number(0))
    }
}

/// Why a [`Server`](crate::Server) could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerError {
    /// Two methods have the same number: their names' hashes collide, or one was given twice.
    DuplicateMethod(MethodId),
    /// More methods than the storage holds.
    TooManyMethods,
}

impl core::fmt::Display for ServerError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            ServerError::DuplicateMethod(id) => write!(f, "two methods have the number {id}"),
            ServerError::TooManyMethods => f.write_str("more methods than the storage holds"),
        }
    }
}

impl core::error::Error for ServerError {}
