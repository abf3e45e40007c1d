//! Real processes, really killed: a server and its clients over TCP, unix sockets or pipes, with `SIGKILL`, `SIGSTOP` and
//! `SIGCONT` at random moments, and journals on disk that say afterwards whether every outcome was true.
//!
//! | file | what it does |
//! |---|---|
//! | `killer.rs` | options and report |
//! | `killer/run.rs` | the loop: wait for progress, kill a process, start it again |
//! | `killer/stage.rs` | the temporary directory, the processes, and what they report |
//! | `killer/netns.rs` | network namespaces, and a bad link between them |
//! | `killer/control.rs` | a process's connection to the stage |
//! | `killer/service.rs` | the service, and the journal that it writes before it answers |
//! | `killer/caller.rs` | a client that calls without end and journals each outcome |
//! | `killer/relay.rs` | joins a client's pipes to the server's socket |
//! | `killer/journal.rs` | the journals |
//! | `killer/check.rs` | whether they agree |
//!
//! Every client appends elements to a log and adds to a counter of its own. Nothing of the server survives its death but
//! its journal, which the kernel keeps: a line that was written is there, though its writer was killed. What must hold,
//! over all lives of the server:
//!
//! - a call with a reply was executed once, by the life and at the position that the reply names;
//! - a call that ended as not executed never ran;
//! - any other call, unknown, given up, or of a client that was killed, was executed at most once;
//! - one life of the server executes the calls of one client in the order in which they were made (S13);
//! - as long as a client and a server live, calls are answered.

mod caller;
mod check;
mod control;
mod journal;
mod netns;
mod relay;
mod run;
mod service;
mod stage;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::ValueEnum;

use crate::cli;
use crate::mutant::Mutant;
pub use check::{Tally, Violation};
pub use run::run;

/// What connects the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// TCP over a loopback address of its own.
    Tcp,
    /// A unix socket.
    Unix,
    /// The stdin and stdout of a relay that every dial starts, and for one client those of a server of its own.
    Pipe,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// What connects the processes.
    pub transport: Transport,
    /// How many processes to kill or stop. Those that are continued again are not counted.
    pub kills: u64,
    /// Where chance comes from. It replays who is hit and after how many replies, not what the kernel does meanwhile.
    pub seed: u64,
    /// How many clients call.
    pub clients: u32,
    /// What is broken on purpose.
    pub mutant: Option<Mutant>,
    /// Whether server and clients are in network namespaces with a bad link between them; TCP only.
    pub netns: bool,
    /// Whether the journals stay, to be read.
    pub keep: bool,
}

/// Who was hit by what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kills {
    /// Servers that were killed.
    pub servers: u64,
    /// Clients that were killed.
    pub clients: u64,
    /// Relays, and clients' own servers, that were killed.
    pub relays: u64,
    /// Servers that were stopped for a while.
    pub server_stops: u64,
    /// Clients that were stopped for a while.
    pub client_stops: u64,
    /// Links that were taken down for a while.
    pub link_drops: u64,
}

impl Kills {
    /// All kills and stops.
    pub fn all(&self) -> u64 {
        self.servers
            + self.clients
            + self.relays
            + self.server_stops
            + self.client_stops
            + self.link_drops
    }
}

/// What a run was like.
#[derive(Clone, Debug)]
pub struct Report {
    /// What connected the processes.
    pub transport: Transport,
    /// What the link between the namespaces did, if there was one.
    pub link: Option<String>,
    /// Who was hit.
    pub kills: Kills,
    /// How the calls fared.
    pub tally: Tally,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { transport, link, kills, tally } = self;
        writeln!(
            f,
            "{}: {} kills: {} servers, {} clients, {} relays killed; {} servers, {} clients stopped",
            cli::name(transport),
            kills.all(),
            kills.servers,
            kills.clients,
            kills.relays,
            kills.server_stops,
            kills.client_stops,
        )?;
        if let Some(link) = link {
            writeln!(f, "  {} links dropped; {link}", kills.link_drops)?;
        }
        writeln!(
            f,
            "  {} calls: {} replies, {} not executed, {} unknown, {} without an outcome; {} tickets brought more",
            tally.calls, tally.replies, tally.not_executed, tally.unknown, tally.silent, tally.late,
        )?;
        write!(
            f,
            "  {} executions in {} lives of servers; {} sessions, {} reconnects, {} asks, {} resends",
            tally.runs, tally.lives, tally.sessions, tally.reconnects, tally.asks, tally.resends,
        )
    }
}

/// Why a run did not end well.
#[derive(Debug)]
pub enum Failure {
    /// A promise was broken.
    Violation(Violation),
    /// No call was answered for a long time, although a server was alive.
    Wedged(String),
    /// A process ended that was not killed.
    Ended(String),
    /// The machine does not allow network namespaces, or has no tools for them.
    NotAllowed(std::io::Error),
    /// The machine did not do what was asked of it.
    Machine(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Violation(violation) => violation.fmt(f),
            Failure::Wedged(what) => write!(f, "wedged: {what}"),
            Failure::Ended(who) => write!(f, "{who} ended without being killed"),
            Failure::NotAllowed(why) => {
                write!(f, "network namespaces need root, ip and tc, and this machine says: {why}")
            }
            Failure::Machine(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::Machine(error.to_string())
    }
}

/// The first argument of a process that the killer starts.
pub const ROLE: &str = "role";

/// Plays a role of those that the killer gives to processes it starts; the arguments are those after [`ROLE`].
///
/// # Errors
/// Why it could not play it to its end.
pub fn play(arguments: &[OsString]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let texts: Vec<&str> = arguments.iter().filter_map(|one| one.to_str()).collect();
    let [role, dir, rest @ ..] = texts.as_slice() else { return Err("no role".into()) };
    let dir = PathBuf::from(dir);
    match (*role, rest) {
        ("server", [life, place]) => service::play_server(&dir, life.parse()?, place),
        ("child", [client]) => service::play_child(&dir, client.parse()?),
        ("relay", [client]) => relay::play(&dir, client.parse()?),
        ("client", [client, generation, place, seed, mutant]) => {
            let mutant = Mutant::from_str(mutant, false).ok();
            let part = caller::Part {
                client: client.parse()?,
                generation: generation.parse()?,
                place: (*place).to_owned(),
                seed: seed.parse()?,
                mutant,
            };
            caller::play(&dir, part)
        }
        _ => Err(format!("no such role: {texts:?}").into()),
    }
}
