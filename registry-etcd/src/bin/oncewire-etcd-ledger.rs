//! Inspects and restores ledgers of Oncewire servers in etcd: `oncewire-etcd-ledger --help`.
#![allow(missing_docs)]

use std::io::{ErrorKind, Write, stderr, stdout};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use oncewire_driver::ledger::LedgerError;
use oncewire_driver::{SessionTag, Xid};
use oncewire_etcd::ledger::tool;
use oncewire_etcd::{Etcd, Registry};

/// Inspects the ledger of a server in etcd, and makes a restored one usable.
///
/// Without TLS: run it where etcd can be reached without.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Which ledger.
#[derive(Args)]
struct Place {
    /// The members of etcd: HOST:PORT,HOST:PORT.
    endpoints: String,
    /// The ledger's name.
    name: String,
    /// What is in front of all keys.
    #[arg(long, default_value = "oncewire/")]
    prefix: String,
    /// A user of etcd's, whose password is in the variable ETCD_PASSWORD.
    #[arg(long)]
    user: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Says what is in a ledger; a server may be using it.
    Inspect {
        #[command(flatten)]
        place: Place,
    },
    /// Decodes every record; exits with 1 if one is broken.
    Verify {
        #[command(flatten)]
        place: Place,
    },
    /// Says what is recorded of one call: for a client that could not learn its outcome, and whose error names session and xid.
    Call {
        #[command(flatten)]
        place: Place,
        /// The session, in 16 hexadecimal digits.
        session: SessionTag,
        /// The call's number.
        xid: u64,
    },
    /// Makes an etcd that was restored from a backup, or copied, a ledger with a new server id, so that no client takes it for the
    /// old one: sessions and kept replies are removed, the service's own keys stay.
    Restore {
        #[command(flatten)]
        place: Place,
    },
}

/// What was given on the command line cannot be: 2. All else: 1.
enum Failure {
    Input(String),
    Ledger(LedgerError),
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Failure {
        Failure::Ledger(error)
    }
}

fn main() -> ExitCode {
    let (status, error) = match smol::block_on(run(&Arguments::parse().command)) {
        // What a reader that has gone has not read, it does not want.
        Ok(text) => match writeln!(stdout(), "{text}") {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                (1, format!("stdout cannot be written: {error}"))
            }
            _ => return ExitCode::SUCCESS,
        },
        Err(Failure::Input(why)) => (2, why),
        Err(Failure::Ledger(error)) => (1, error.to_string()),
    };
    // Where stderr cannot be written, the status still says it.
    let _ = writeln!(stderr(), "oncewire-etcd-ledger: {error}");
    ExitCode::from(status)
}

impl Place {
    fn registry(&self) -> Result<Registry, Failure> {
        let mut etcd = Etcd::builder(self.endpoints.split(','));
        if let Some(user) = &self.user {
            let none = |_| Failure::Input("--user wants a password in ETCD_PASSWORD".to_owned());
            etcd = etcd.user(user, std::env::var("ETCD_PASSWORD").map_err(none)?);
        }
        let etcd = etcd.build().map_err(|error| Failure::Input(error.to_string()))?;
        let registry = Registry::new(etcd).with_prefix(&self.prefix);
        // A name that cannot be one.
        let named = registry.election(&self.name);
        named.map_err(|error| Failure::Input(error.to_string()))?;
        Ok(registry)
    }
}

async fn run(command: &Command) -> Result<String, Failure> {
    Ok(match command {
        Command::Inspect { place } => {
            tool::inspect(&place.registry()?, &place.name).await?.to_string()
        }
        Command::Verify { place } => {
            format!("{}\nnothing is broken", tool::verify(&place.registry()?, &place.name).await?)
        }
        Command::Call { place, session, xid } => {
            let none = || Failure::Input(format!("{xid} is no xid"));
            let xid = Xid::new(*xid).ok_or_else(none)?;
            tool::call(&place.registry()?, &place.name, *session, xid).await?.to_string()
        }
        Command::Restore { place } => {
            let server = tool::restore(&place.registry()?, &place.name).await?;
            format!("it is the ledger of the new server {server}")
        }
    })
}
