//! Inspects and copies ledgers of Oncewire servers: `oncewire-ledger --help`.
#![allow(missing_docs)]

use std::io::{ErrorKind, Write, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use oncewire_driver::ledger::LedgerError;
use oncewire_driver::{SessionTag, Xid};
use oncewire_ledger_redb::tool;

/// Inspects and copies the ledger of a server that does not run.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says what is in a ledger.
    Inspect {
        /// The ledger's file.
        file: PathBuf,
    },
    /// Checks every page and every record; exits with 1 if something is broken.
    Verify {
        /// The ledger's file.
        file: PathBuf,
    },
    /// Gives back to the disk what the file does not need.
    Compact {
        /// The ledger's file.
        file: PathBuf,
    },
    /// Says what is recorded of one call: for a client that could not learn its outcome, and whose error names session and xid.
    Call {
        /// The ledger's file.
        file: PathBuf,
        /// The session, in 16 hexadecimal digits.
        session: SessionTag,
        /// The call's number.
        xid: u64,
    },
    /// Copies a ledger for use by a server: with a new server id, so that no client takes it for the old one.
    ///
    /// The only right way to use a copy: sessions and kept replies stay behind, what transactional handlers wrote comes
    /// along.
    Restore {
        /// The copy or backup.
        from: PathBuf,
        /// The ledger to be made.
        to: PathBuf,
    },
}

fn main() -> ExitCode {
    let failure = match run(&Arguments::parse().command) {
        // What a reader that has gone has not read, it does not want.
        Ok(text) => match writeln!(stdout(), "{text}") {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                format!("stdout cannot be written: {error}")
            }
            _ => return ExitCode::SUCCESS,
        },
        Err(error) => error.to_string(),
    };
    // Where stderr cannot be written, the status still says it.
    let _ = writeln!(stderr(), "oncewire-ledger: {failure}");
    ExitCode::FAILURE
}

fn run(command: &Command) -> Result<String, LedgerError> {
    Ok(match command {
        Command::Call { file, session, xid } => {
            let xid = Xid::new(*xid).ok_or_else(|| LedgerError::new(format!("{xid} is no xid")))?;
            tool::call(file, *session, xid)?.to_string()
        }
        Command::Inspect { file } => tool::inspect(file)?.to_string(),
        Command::Verify { file } => format!("{}\nnothing is broken", tool::verify(file)?),
        Command::Compact { file } => {
            let (before, after) = tool::compact(file)?;
            format!("{before} bytes before, {after} bytes after")
        }
        Command::Restore { from, to } => {
            format!("{} is the ledger of the new server {}", to.display(), tool::restore(from, to)?)
        }
    })
}
