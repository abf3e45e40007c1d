//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};

use crate::address::Address;
#[cfg(feature = "etcd")]
use crate::etcd_place::EtcdPlace;
use crate::fault;

/// A bank that is called over connections that break.
///
/// Without a command: starts servers and clients over TCP, unix sockets and pipes, breaks their connections, kills
/// clients, and shows what that did to the balances. Exit status 0: every balance is exact; 1: one is not; 2: it could not
/// be tried.
#[derive(Debug, Parser)]
#[command(name = "bank", args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) demo: DemoArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serves a bank until SIGTERM, then drains.
    Serve(ServeArgs),
    /// Makes calls and checks every outcome against the bank's books: 0 if they agree, 1 if not, 2 if there is no bank.
    Client(ClientArgs),
    /// A relay between clients and a server that cuts connections, swallows replies and delays.
    Faults(FaultsArgs),
    /// Kills the server and its clients while money moves, starts them again, and holds every balance and every outcome
    /// against the bank's books: 0 if they agree, 1 if not, 2 if it could not be tried.
    CrashTest(CrashTestArgs),
    /// Joins stdin and stdout to a server's socket.
    #[command(hide = true)]
    Relay(RelayArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Decides about the calls and the faults; drawn if not given.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Calls over each transport, those of killed clients not counted.
    #[arg(long, default_value_t = 90_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) calls: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// tcp:HOST:PORT, unix:PATH, or pipe:- for stdin and stdout.
    pub(crate) address: Address,
    /// How long clients have to end cleanly, in seconds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub(crate) grace: u64,
    #[command(flatten)]
    pub(crate) ledger: LedgerArgs,
}

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mutant {
    /// The ledger says that it has written what it writes later: replies leave before they are durable.
    HastyLedger,
    /// In a cluster: a server neither waits for its turn nor finds out that another one has taken over.
    NoFence,
}

/// What the servers of a cluster have their ledger in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Store {
    Postgres,
    Etcd,
}

/// What is said where PostgreSQL is asked for and was not built in.
#[cfg(not(feature = "postgres"))]
pub(crate) const WITHOUT_POSTGRES: &str = "this bank was built without PostgreSQL: \
    cargo run --release -p oncewire-bank --features postgres -- …";
/// The same of etcd.
#[cfg(not(feature = "etcd"))]
pub(crate) const WITHOUT_ETCD: &str = "this bank was built without etcd: \
    cargo run --release -p oncewire-bank --features etcd -- …";

/// Where a ledger is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    File(PathBuf),
    /// A connection string.
    #[cfg(feature = "postgres")]
    Postgres(String),
    #[cfg(feature = "etcd")]
    Etcd(EtcdPlace),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
        match text.strip_prefix("postgres:") {
            _ if is_url => Place::of_postgres(text),
            Some(connection) => Place::of_postgres(connection),
            None if text.starts_with("etcd:") => Place::of_etcd(&text["etcd:".len()..]),
            None => Ok(Place::File(text.into())),
        }
    }
}

impl Place {
    #[cfg(feature = "postgres")]
    fn of_postgres(connection: &str) -> Result<Place, String> {
        Ok(Place::Postgres(connection.to_owned()))
    }

    #[cfg(not(feature = "postgres"))]
    fn of_postgres(_: &str) -> Result<Place, String> {
        Err(WITHOUT_POSTGRES.to_owned())
    }

    #[cfg(feature = "etcd")]
    fn of_etcd(place: &str) -> Result<Place, String> {
        place.parse().map(Place::Etcd)
    }

    #[cfg(not(feature = "etcd"))]
    fn of_etcd(_: &str) -> Result<Place, String> {
        Err(WITHOUT_ETCD.to_owned())
    }
}

#[derive(Debug, Args)]
pub(crate) struct LedgerArgs {
    /// Keeps sessions, calls and accounts in this file, so that they survive a crash; or in the database of
    /// postgres:'host=… dbname=…' (built with the feature `postgres`): then money moves in its transactions, and of several servers
    /// one serves while the others wait for their turn; or in that of etcd:HOST:PORT,HOST:PORT/NAME (feature `etcd`), in turns too,
    /// and registered there by that name, "bank" unless it is given, so that clients of etcd:HOST:PORT/NAME find the one that serves.
    #[arg(long, value_name = "FILE|postgres:CONNECTION|etcd:HOST:PORT/NAME")]
    pub(crate) ledger: Option<Place>,
    /// With PostgreSQL: ends the connection of the server whose turn it is, which hangs or is cut off.
    #[arg(long, requires = "ledger")]
    pub(crate) take_over: bool,
    /// With PostgreSQL: serves at the same time as others that are started so, instead of in turns.
    #[arg(long, requires = "ledger", conflicts_with_all = ["take_over", "mutant"])]
    pub(crate) shared: bool,
    /// With etcd: how long a server keeps its turn when it has died or etcd does not answer, in seconds. 5 unless this says otherwise.
    #[arg(long, value_name = "SECONDS", requires = "ledger", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) lease: Option<u64>,
    /// Money moves in the ledger's own transactions: exactly once, whenever the crash comes.
    #[arg(long, requires = "ledger")]
    pub(crate) transactional: bool,
    /// Plants a bug.
    #[arg(long, requires = "ledger")]
    pub(crate) mutant: Option<Mutant>,
}

#[derive(Debug, Args)]
pub(crate) struct CrashTestArgs {
    /// Processes to kill.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) kills: u64,
    /// Money moves in the ledger's own transactions, instead of in handlers whose calls it records.
    #[arg(long)]
    pub(crate) transactional: bool,
    /// Three servers on one ledger, and what that is in, all of which it starts: a primary of PostgreSQL with a synchronous stand-by, or
    /// three members of etcd, where clients find the servers by name. Kills and pauses servers, kills clients, kills the primary, or
    /// kills and pauses members. Says how long no server answered. Built with the feature of the same name.
    #[arg(long, value_name = "STORE", num_args = 0..=1, default_missing_value = "postgres")]
    pub(crate) cluster: Option<Store>,
    /// The servers of the cluster serve at once, instead of in turns: on PostgreSQL.
    #[arg(long, requires = "cluster", conflicts_with = "mutant")]
    pub(crate) shared: bool,
    /// Clients keep their calls on disk too: those that were killed are started again, and learn what became of each.
    #[arg(long)]
    pub(crate) durable: bool,
    /// Plants a bug: the test must fail.
    #[arg(long)]
    pub(crate) mutant: Option<Mutant>,
    /// Decides who is killed, and the calls; drawn if not given.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// tcp:HOST:PORT, unix:PATH, or pipe:COMMAND, a command for the shell; tcp:IP:PORT,IP:PORT for servers that take over from each
    /// other; etcd:HOST:PORT,HOST:PORT/NAME for those that are registered there.
    pub(crate) address: Address,
    /// Calls to make, in all.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    pub(crate) calls: u64,
    /// Sessions that share them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) clients: u64,
    /// Calls at once in each session.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) in_flight: u64,
    /// Decides about the calls; drawn if not given.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How long most calls wait for their outcome, in seconds.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) call_timeout: u64,
    /// Prints one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Retries whatever has no reply as a new call, as other libraries do, to see what that costs.
    #[arg(long)]
    pub(crate) at_least_once: bool,
    /// Writes each operation down before it begins.
    #[arg(long)]
    pub(crate) journal: Option<PathBuf>,
    /// Keeps its calls on disk, beside the file of --journal: killed and started again with the same arguments, it learns
    /// what became of each, and goes on.
    #[arg(long, requires = "journal", conflicts_with = "at_least_once")]
    pub(crate) durable: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FaultsArgs {
    /// Where clients come in: tcp:HOST:PORT or unix:PATH.
    pub(crate) entrance: Address,
    /// The server: tcp:HOST:PORT or unix:PATH.
    pub(crate) server: Address,
    /// Decides about the faults; drawn if not given.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Every connection is cut within so many frames.
    #[arg(long, default_value_t = fault::FRAMES_MAX, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) frames: u64,
}

#[derive(Debug, Args)]
pub(crate) struct RelayArgs {
    /// unix:PATH of the server.
    pub(crate) address: Address,
}
