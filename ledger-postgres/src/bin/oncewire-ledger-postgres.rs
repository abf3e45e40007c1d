//! Inspects and restores ledgers of Oncewire servers in PostgreSQL: `oncewire-ledger-postgres --help`.
#![allow(missing_docs)]

use std::io::{ErrorKind, Write, stderr, stdout};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use oncewire_driver::ledger::LedgerError;
use oncewire_driver::{SessionTag, Xid};
use oncewire_ledger_postgres::{PostgresOptions, tool};

/// Inspects the ledger of a server in PostgreSQL, and makes a restored one usable.
///
/// CONNECTION names the database: "host=/run/postgresql dbname=bank user=bank", or postgres://user@host/bank. With sslmode=require it is
/// reached with TLS only, and its certificate is checked: sslrootcert=FILE names the authority's file (PEM), unless the system trusts that.
/// TLS is there where this program was built with the feature `tls`.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says what is in a ledger; a server may be using it.
    Inspect {
        /// The database.
        connection: String,
    },
    /// Decodes every record; exits with 1 if one is broken.
    Verify {
        /// The database.
        connection: String,
    },
    /// Says what is recorded of one call: for a client that could not learn its outcome, and whose error names session and xid.
    Call {
        /// The database.
        connection: String,
        /// The session, in 16 hexadecimal digits.
        session: SessionTag,
        /// The call's number.
        xid: u64,
    },
    /// Makes a database that was restored from a backup, or copied, a ledger with a new server id, so that no client takes it for the
    /// old one: sessions and kept replies are removed, the service's own tables stay.
    Restore {
        /// The database.
        connection: String,
    },
}

/// What was given on the command line cannot be: 2. All else: 1.
enum Failure {
    Input(LedgerError),
    Ledger(LedgerError),
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Failure {
        Failure::Ledger(error)
    }
}

fn main() -> ExitCode {
    let (status, error) = match run(&Arguments::parse().command) {
        // What a reader that has gone has not read, it does not want.
        Ok(text) => match writeln!(stdout(), "{text}") {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                (1, format!("stdout cannot be written: {error}"))
            }
            _ => return ExitCode::SUCCESS,
        },
        Err(Failure::Input(error)) => (2, error.to_string()),
        Err(Failure::Ledger(error)) => (1, error.to_string()),
    };
    // Where stderr cannot be written, the status still says it.
    let _ = writeln!(stderr(), "oncewire-ledger-postgres: {error}");
    ExitCode::from(status)
}

fn run(command: &Command) -> Result<String, Failure> {
    let options = |connection: &str| PostgresOptions::new(connection).map_err(Failure::Input);
    Ok(match command {
        Command::Inspect { connection } => tool::inspect(&options(connection)?)?.to_string(),
        Command::Verify { connection } => {
            format!("{}\nnothing is broken", tool::verify(&options(connection)?)?)
        }
        Command::Call { connection, session, xid } => {
            let none = || Failure::Input(LedgerError::new(format!("{xid} is no xid")));
            let xid = Xid::new(*xid).ok_or_else(none)?;
            tool::call(&options(connection)?, *session, xid)?.to_string()
        }
        Command::Restore { connection } => {
            format!("it is the ledger of the new server {}", tool::restore(&options(connection)?)?)
        }
    })
}
