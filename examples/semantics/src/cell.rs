//! One cell of the table: a server's process, the injector, a client, and what came of it.

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use oncewire::{Client, ClientOptions, Outcome, Runtime, SmolRuntime, TcpConnector, Ticket};
use smol::channel::{Sender, unbounded};
use smol::future::{or, zip};
use smol::net::TcpStream;

use crate::account::{AccountClient, Failure, effects_in};
use crate::naive::NaiveClient;
use crate::relay::{Door, Relay};
use crate::server::{ON_LEDGER, ServerProcess};
use crate::table::{Act, Fault, Row};

/// How long one run may take. Only what fails takes so long.
const RUN_MAX: Duration = Duration::from_secs(60);
/// How long a server keeps a session without a connection: more than any run takes, and in one row less than its client stays away.
const LEASE: Duration = Duration::from_secs(300);
const SHORT_LEASE: Duration = Duration::from_millis(40);

// What a server says of a call that comes again, or that it is asked about.
const KEPT: &str = "question answered from what is kept";
const WHEN_DONE: &str = "question answered when the call is done";
const DROPPED: &str = "request dropped: the answer was acknowledged";

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Seen {
    /// What the client has learned of its first call.
    pub(crate) learned: String,
    /// What was done to the account, in order.
    pub(crate) effects: Vec<String>,
    /// The numbers of the rules that were seen at work, at the server or on the wire.
    pub(crate) rules: BTreeSet<u32>,
}

/// A client of either kind.
enum Caller {
    Naive(NaiveClient),
    Oncewire(AccountClient, Option<Ticket<()>>),
}

impl Caller {
    /// Makes a call; what it learns of it.
    async fn call(&mut self, (what, dollars): Act, fail_fast: bool) -> String {
        match self {
            Caller::Naive(client) => match client.call(what, dollars).await {
                Ok(()) => "reply".to_owned(),
                Err(why) => why,
            },
            Caller::Oncewire(client, ticket) => {
                let is_put = what == "put";
                let call = if is_put { client.put(dollars) } else { client.deduct(dollars) };
                match call.fail_fast(fail_fast).await {
                    Outcome::Reply(()) => "reply".to_owned(),
                    Outcome::Unknown(_, left) => {
                        *ticket = left;
                        "unknown".to_owned()
                    }
                    other => format!("{other:?}"),
                }
            }
        }
    }
}

/// A folder that goes when it is dropped.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> std::io::Result<TempDir> {
        let mut random = [0; 8];
        SmolRuntime::global().random(&mut random);
        let name = format!("oncewire-semantics-{:016x}", u64::from_le_bytes(random));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).map(|()| TempDir(path))
    }

    fn ledger(&self) -> PathBuf {
        self.0.join("ledger")
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn pause(time: Duration) {
    let runtime = SmolRuntime::global();
    let mut timer = runtime.timer();
    timer.set(runtime.now() + time);
    poll_fn(|cx| timer.poll(cx)).await;
}

/// Ends what takes too long.
pub(crate) async fn in_time<T>(run: impl Future<Output = Result<T, Failure>>) -> Result<T, String> {
    let late = async {
        pause(RUN_MAX).await;
        Err("it does not end".into())
    };
    or(run, late).await.map_err(|error| error.to_string())
}

/// A run under way.
struct Run {
    row: Row,
    fault: Fault,
    dir: TempDir,
    server: ServerProcess,
    relay: Arc<Relay>,
    /// Fires the naive client's timer.
    timer: Sender<()>,
    /// The server's side of the connection on which the first request is late.
    held: Option<TcpStream>,
    /// No connection is let through any more.
    door: Option<Door>,
    rules: BTreeSet<u32>,
}

/// Runs one cell: two calls, of which the first suffers.
///
/// # Errors
/// Why it could not be run.
pub(crate) async fn run(row: Row, fault: Fault, acts: [Act; 2]) -> Result<Seen, Failure> {
    let dir = TempDir::new()?;
    let server = start(row, fault, &dir).await?;
    let relay = Relay::start(server.address, fault).await?;
    let ((timer, fires), address) = (unbounded(), relay.address);
    let caller = if row.has_sessions() {
        let slots = if row == Row::OneSlot { 1 } else { 64 };
        let options = ClientOptions::default().with_slots(slots);
        Caller::Oncewire(AccountClient(Client::new(TcpConnector::new(address), options)), None)
    } else {
        let sends_again = row != Row::NoRetry;
        Caller::Naive(NaiveClient { address, sends_again, uid: 0, replies: None, timer: fires })
    };
    let (held, door, rules) = (None, None, BTreeSet::new());
    let run = Run { row, fault, dir, server, relay, timer, held, door, rules };
    run.play(caller, acts).await
}

async fn start(row: Row, fault: Fault, dir: &TempDir) -> Result<ServerProcess, Failure> {
    // A server that shall crash does not end a session before.
    let is_short = row == Row::AfterLease && fault != Fault::ServerCrash;
    let lease = if is_short { SHORT_LEASE } else { LEASE };
    ServerProcess::start(row.server(), &dir.ledger(), lease, fault == Fault::SlowServer).await
}

impl Run {
    async fn play(mut self, mut caller: Caller, acts: [Act; 2]) -> Result<Seen, Failure> {
        let is_slow = self.fault == Fault::SlowServer;
        let gives_up = is_slow && self.row == Row::OneSlot;
        let (mut learned, harmed) = zip(caller.call(acts[0], gives_up), self.harm()).await;
        harmed?;
        // A client that has given up its first call begins the second one while that still runs.
        let released = async { if gives_up { self.server.order("go").await } else { Ok(()) } };
        let (second, released) = zip(caller.call(acts[1], false), released).await;
        released?;
        if second != "reply" {
            return Err(format!("of its second call the client learned: {second}").into());
        }
        if let (true, Caller::Oncewire(_, Some(ticket))) = (gives_up, &mut caller)
            && matches!(ticket.wait().await, Outcome::Reply(()))
        {
            learned += ", reply";
            self.rules.insert(18);
        }
        if is_slow && !self.row.has_sessions() {
            // The first handler ends at last, after all others: their client has the replies.
            let others = if self.row == Row::NoRetry { 1 } else { 2 };
            self.server.wait("applied", others).await?;
            self.server.order("go").await?;
            self.server.wait("applied", others + 1).await?;
        }
        if acts[0].0 == "put" || self.fault == Fault::DelayedDuplicate {
            self.late_copies().await?;
        }
        self.end(learned)
    }

    /// What is done to the first call while it is under way.
    async fn harm(&mut self) -> Result<(), Failure> {
        if self.fault == Fault::SlowServer {
            return self.outlast_slow_server().await;
        }
        let mut struck = self.relay.struck().await?;
        self.held = struck.held.take();
        if self.fault == Fault::ServerCrash {
            self.server.kill();
            let said = std::mem::take(&mut self.server.said);
            self.server = start(self.row, self.fault, &self.dir).await?;
            self.server.said.splice(..0, said);
            *struck.door = self.server.address;
        } else if self.row == Row::AfterLease && self.fault != Fault::DelayedDuplicate {
            self.server.wait("lease over", 1).await?;
        }
        Ok(())
    }

    /// The handler runs, and the client waits no longer; one with a session comes back, and asks.
    async fn outlast_slow_server(&mut self) -> Result<(), Failure> {
        self.server.wait("running", 1).await?;
        if !self.row.has_sessions() {
            return Ok(self.timer.send(()).await?);
        }
        let door = self.relay.cut().await;
        if self.row == Row::AfterLease {
            // Were it shorter, the outcome would be the same.
            pause(3 * SHORT_LEASE).await;
            self.rules.insert(6);
        }
        drop(door);
        self.server.wait(WHEN_DONE, 1).await?;
        if self.row == Row::OneSlot { Ok(()) } else { self.server.order("go").await }
    }

    /// The first request comes once more, wherever the network can deliver it.
    async fn late_copies(&mut self) -> Result<(), Failure> {
        match (self.fault, self.row) {
            // "Server discards after 5+ minutes."
            (Fault::DelayedDuplicate, Row::Remembers) => self.server.order("forget").await?,
            (Fault::DelayedDuplicate, Row::AfterLease) => {
                // The client does not come back.
                self.door = Some(self.relay.cut().await);
                self.server.wait("lease over", 1).await?;
            }
            _ => {}
        }
        let has_sessions = self.row.has_sessions();
        let copies = match self.held.take() {
            Some(held) => {
                self.relay.release(held, has_sessions).await;
                has_sessions
            }
            // TCP delivers nothing of a connection that has ended, and Go makes no second one.
            None => self.row != Row::NoRetry,
        };
        if copies {
            self.relay.copy_on_new(self.server.address).await?;
        }
        if copies && has_sessions && self.session_lives() {
            self.relay.copy_on_live().await?;
            self.server.wait(DROPPED, 1).await?;
        }
        Ok(())
    }

    /// Whether the session of the first call is still that of the client.
    fn session_lives(&self) -> bool {
        match self.fault {
            Fault::ServerCrash => self.row == Row::Ledger,
            Fault::SlowServer => true,
            _ => self.row != Row::AfterLease,
        }
    }

    fn end(mut self, learned: String) -> Result<Seen, Failure> {
        self.server.kill();
        let (said, is_ledger) = (&self.server.said, self.row.server() == ON_LEDGER);
        let effects = if is_ledger {
            effects_in(&self.dir.ledger())?
        } else {
            let is_effect = |line: &&String| line.starts_with("deduct") || line.starts_with("put");
            said.iter().filter(is_effect).cloned().collect()
        };
        let seen = self.relay.seen();
        let says = |what: &str| said.iter().any(|line| line == what);
        let answered = |what: &str| seen.answers.contains(what);
        let is_crashed_ledger = is_ledger && self.fault == Fault::ServerCrash;
        let tries_less = seen.remaining_max_ms < seen.lease_ms;
        let at_work = [
            (2, answered("Protocol(6)")),
            (3, says("session unknown")),
            (4, answered("Superseded")),
            (6, says("lease over") || self.row == Row::WithinLease && tries_less),
            (8, seen.granted_slots == 1),
            (9, self.row == Row::OneSlot && says(DROPPED)),
            (10, says(KEPT) || says(WHEN_DONE) || says(DROPPED)),
            (21, says("resumed")),
            (29, is_crashed_ledger && says(KEPT)),
            (30, is_crashed_ledger && says("resumed")),
        ];
        self.rules.extend(at_work.iter().filter(|(_, is_seen)| *is_seen).map(|(rule, _)| rule));
        Ok(Seen { learned, effects, rules: self.rules.clone() })
    }
}
