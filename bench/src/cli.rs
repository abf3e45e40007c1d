//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::case::{Transport, Workload};
use crate::subject::{Kind, Subject};
use crate::subjects;

/// The parts of the ledger for `--workload`: one call at a time, many at once, recovery, instructions.
pub(crate) const LEDGER_PARTS: [&str; 4] = ["L1", "L2", "L3", "L4"];

/// The parts that have tables of their own.
const OTHER_PARTS: [&str; 4] = ["W9", "streams", "core", "both"];

/// Measures Oncewire beside bare sockets and its peers: server and client as processes of their own, interleaved in
/// rounds, each workload with both on one core and with one core each.
#[derive(Debug, Parser)]
#[command(name = "oncewire-bench")]
pub(crate) struct Cli {
    /// Only these parts: W1 to W8, W9 (fairness), streams, core, both (instructions of both ends), L1 to L4 (the ledger).
    #[arg(long, value_delimiter = ',')]
    pub(crate) workload: Vec<String>,
    /// Only these peers, or "none"; needs the feature `peers`.
    #[arg(long, value_delimiter = ',')]
    pub(crate) peers: Option<Vec<String>>,
    /// Only these subjects, of any kind.
    #[arg(long, value_delimiter = ',')]
    pub(crate) subjects: Vec<Subject>,
    /// Only this transport: tcp, unix, pipe.
    #[arg(long, value_parser = transport)]
    pub(crate) transport: Option<Transport>,
    /// Only with both processes on one core (1), or with one core each (2).
    #[arg(long)]
    pub(crate) cores: Option<u32>,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: u32,
    /// Milliseconds of a sample, after a warm-up of a quarter of it.
    #[arg(long, default_value_t = 700)]
    pub(crate) sample_ms: u64,
    /// Where the ledger's files are while L1 to L4 run; the system's directory for temporary files by default.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Writes every figure to this file.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Draws the chart of the README into this file.
    #[arg(long)]
    pub(crate) svg: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) role: Option<RoleCommand>,
}

/// What the processes that this program starts are.
#[derive(Debug, Subcommand)]
pub(crate) enum RoleCommand {
    #[command(hide = true)]
    Serve { case: String },
    #[command(hide = true)]
    Drive { case: String },
    #[command(hide = true)]
    CoreCalls { setup: String, calls: u64 },
    #[command(hide = true)]
    BothEndsCalls { setup: String, calls: u64 },
    #[command(hide = true)]
    LedgerCalls { setup: String, calls: u64 },
    #[command(hide = true)]
    Fairness { part: String },
    #[command(hide = true)]
    Streams { part: String },
}

fn transport(name: &str) -> Result<Transport, String> {
    let find = Transport::ALL.into_iter().find(|transport| transport.name() == name);
    find.ok_or_else(|| "tcp, unix or pipe".to_owned())
}

impl Cli {
    /// What is wrong with it, if anything is.
    pub(crate) fn check(&self) -> Result<(), String> {
        let known = |name: &String| {
            OTHER_PARTS.contains(&&name[..])
                || LEDGER_PARTS.contains(&&name[..])
                || Workload::ALL.iter().any(|workload| format!("{workload:?}") == *name)
        };
        if let Some(name) = self.workload.iter().find(|name| !known(name)) {
            return Err(format!(
                "--workload {name}: there are W1 to W9, streams, core, both, and L1 to L4"
            ));
        }
        let peer = |name: &String| name == "none" || Subject::all().any(|s| is(s, name));
        match self.peers.iter().flatten().find(|name| !peer(name)) {
            Some(name) => Err(format!("--peers {name}: there is no such peer")),
            None => Ok(()),
        }
    }

    pub(crate) fn workloads(&self) -> Vec<Workload> {
        let wanted = |workload: &Workload| {
            self.workload.is_empty() || self.workload.contains(&format!("{workload:?}"))
        };
        Workload::ALL.into_iter().filter(wanted).collect()
    }

    pub(crate) fn wants(&self, part: &str) -> bool {
        self.workload.is_empty() || self.workload.iter().any(|name| name == part)
    }

    pub(crate) fn wants_ledger(&self) -> bool {
        LEDGER_PARTS.iter().any(|part| self.wants(part))
    }

    /// Which subjects to measure. The bare ones always are, since all others are reported as ratios to them.
    pub(crate) fn subjects(&self) -> Vec<Subject> {
        let wanted = |subject: &Subject| {
            let named = self.subjects.is_empty() || self.subjects.contains(subject);
            let peer = subject.kind() != Kind::Peer
                || self
                    .peers
                    .as_ref()
                    .is_none_or(|some| some.iter().any(|name| is(*subject, name)));
            (named && peer || *subject == Subject::SmolLoop) && subjects::is_built(*subject)
        };
        Subject::all().filter(wanted).collect()
    }
}

/// Whether a peer has this name on the command line.
fn is(subject: Subject, name: &str) -> bool {
    let value = clap::ValueEnum::to_possible_value(&subject);
    subject.kind() == Kind::Peer && value.is_some_and(|value| value.matches(name, true))
}
