//! One client for several servers, by a list of them.
//!
//! | file | what it does |
//! |---|---|
//! | `servers.rs` | the list, how calls are spread over it, and what can be known of each server |
//! | `servers/group.rs` | the clients of the servers: which of them gets a call, which has the session, their close |
//! | `servers/moving.rs` | a call that may be made at one server after another |

mod group;
mod moving;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::options::{ClientOptions, ClientStatus};
use super::{Client, Handle};
use crate::runtime::{Runtime, SmolRuntime};
use crate::transport::Connect;
pub(super) use group::Group;
pub(super) use moving::Moving;

/// Several servers of one service, whose addresses are known: a list in place of a registry. [`client`](Servers::client) makes a
/// [`Client`] of them, which typed clients are made of as of any other.
///
/// ```no_run
/// use oncewire_driver::{Client, ClientOptions, Connect, Method, Outcome, Servers};
///
/// const LOOK_UP: Method<String, Option<u64>> = Method::new("index/look_up").idempotent();
/// const STORE: Method<(String, u64), ()> = Method::new("index/store");
///
/// async fn calls(connectors: Vec<Box<dyn Connect>>) -> Result<(), Box<dyn std::error::Error>> {
///     let client = Servers::new(connectors).client(ClientOptions::default())?;
///     // Idempotent: at any of them, and at another one if that is lost.
///     let found = client.call(&LOOK_UP, &"answer".to_owned()).result().await?;
///     // At most once: at the server that has the client's session, and nowhere else while its outcome is in doubt.
///     client.call(&STORE, &("answer".to_owned(), 42)).result().await?;
///     println!("{found:?}, {}", client.close().await);
///     Ok(())
/// }
/// ```
///
/// # Which server gets a call
///
/// The client keeps a connection and a session at each server of the list. A server is *healthy* while its session is open and
/// it is not draining.
///
/// - **A call that is idempotent** goes to a healthy server: of two that are chosen at random, to the one at which
///   this client has fewer calls pending. One that has just failed a call comes last for a second ([`avoid_for`](Servers::avoid_for)).
/// - **Every other call** goes to the server that *has the session*: the first that was chosen for such a call. It stays there
///   until that server drains, or cannot be dialled; then new calls go to another healthy one, and stay there. The same server has
///   one-way calls, and streams and uploads are opened there.
///
/// While no server is healthy, calls wait, as those of any client do: until their deadlines, or as
/// [`fail_fast`](ClientOptions::fail_fast) and [`on_dial_failure`](ClientOptions::on_dial_failure) say. The latter looks at the list as
/// a whole: calls end when no dial of any server can help. One that was [started](crate::Call::start) meanwhile leaves when it
/// is awaited. A one-way call cannot wait for any of them: then the server that has the session gets it, or the first of the list, once that
/// is connected.
///
/// # When a server is lost
///
/// - An idempotent call is made at another server as soon as its connection breaks, or when it was refused because the server
///   drains, has lost its ledger or is overloaded and another one is healthy; [`attempts_max`](Servers::attempts_max) times in all.
///   A server that is connected and silent is noticed by its [`keepalive`](ClientOptions::keepalive), or sooner with
///   [`try_next_after`](Servers::try_next_after).
///   The session of a server that hangs moves when that no longer answers dials either: after the keepalive and
///   [`connect_timeout`](ClientOptions::connect_timeout), 20 s by default.
/// - Any other call that was truthfully not executed, because it had not left or was refused by a server that drains, is made at the
///   server that has the session then.
/// - A stream or an upload stays at the server that has opened it, and lasts as long as with one server. A resumable stream that
///   was lost is opened again where the session is then.
/// - **One in doubt is never sent elsewhere.** It stays with its session: it is asked for when that server is back, and its ticket
///   waits for that.
///
/// All of it inside the call's one timeout. The outcome is that of the last attempt; but after an attempt that may have run it
/// is not `NotExecuted`. What the attempts before it came to is in the report ([`CallReport::earlier`](crate::CallReport::earlier)).
///
/// # What it is not
///
/// Servers that take over from each other with one ledger have one set of records and one session: they are one server here, dialled by
/// a connector that tries several addresses. No server learns of another by this; a list that changes needs a new client. Calls of one
/// client are executed in their order at one server only. An address that is twice in the list gets twice the calls.
///
/// Observers and hooks see each attempt as a call of its own, with its server's address. A
/// [`DurableClient`](crate::DurableClient) has one server.
pub struct Servers {
    connectors: Vec<Box<dyn Connect>>,
    plan: Plan,
}

/// How calls are spread.
#[derive(Clone, Copy, Debug)]
struct Plan {
    attempts_max: u32,
    try_next_after: Option<Duration>,
    avoid_for: Duration,
}

impl Servers {
    /// The servers that these dial. For different kinds of connectors, give `Box<dyn Connect>`s.
    pub fn new<C: Connect>(connectors: impl IntoIterator<Item = C>) -> Servers {
        let boxed = |connector| Box::new(connector) as Box<dyn Connect>;
        let plan =
            Plan { attempts_max: 3, try_next_after: None, avoid_for: Duration::from_secs(1) };
        Servers { connectors: connectors.into_iter().map(boxed).collect(), plan }
    }

    /// A call is made at most so often, 3 times unless this says otherwise; 0 counts as 1. The last attempt is left to its server as
    /// if there were no other: it waits for the connection to come back. A request that crashes its servers crashes no more of them
    /// than this.
    pub fn attempts_max(mut self, attempts: u32) -> Servers {
        self.plan.attempts_max = attempts.max(1);
        self
    }

    /// An idempotent call that has no answer after this time is given up at its server, and made at another one, if there is a
    /// healthy one; the last attempt has all the time that is left. For servers that hang. It should be longer than
    /// the slowest method takes, or that runs several times. Without it a server is waited for while it is connected.
    pub fn try_next_after(mut self, time: Duration) -> Servers {
        self.plan.try_next_after = Some(time);
        self
    }

    /// For so long after a server has failed a call it gets new ones only if no other is healthy: 1 s unless this says otherwise.
    pub fn avoid_for(mut self, time: Duration) -> Servers {
        self.plan.avoid_for = time;
        self
    }

    /// A client of all of them, on the default runtime. Connects in the background; calls wait for the first connection.
    ///
    /// # Errors
    /// The list is empty.
    pub fn client(self, options: ClientOptions) -> Result<Client, NoServers> {
        self.client_with_runtime(options, SmolRuntime::global())
    }

    /// The same on a runtime of your own.
    ///
    /// # Errors
    /// The list is empty.
    pub fn client_with_runtime(
        self,
        options: ClientOptions,
        runtime: Arc<dyn Runtime>,
    ) -> Result<Client, NoServers> {
        let group = Group::new(self.connectors, self.plan, options, runtime)?;
        let shared = group.first().clone();
        let handle = Handle { shared, group: Some(group), member: None };
        Ok(Client { handle: Arc::new(handle), defaults: None })
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servers")
            .field("servers", &self.connectors.len())
            .field("plan", &self.plan)
            .finish()
    }
}

/// A list of servers with none in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoServers;

impl fmt::Display for NoServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the list of servers is empty: a client needs one at least")
    }
}

impl std::error::Error for NoServers {}

/// What a client knows of one of its servers: see [`Client::servers`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerStatus {
    /// What is dialled.
    pub address: String,
    /// Whether it has the client's session: calls that are not idempotent go there. None has it before the first such call.
    pub has_session: bool,
    /// Whether calls may begin there: its session is open, and it is not draining.
    pub healthy: bool,
    /// Calls of this client that wait there, or that it has not answered: also those that were given up, or made elsewhere since.
    pub pending: usize,
    /// The rest.
    pub client: ClientStatus,
}
