//! Who is measured; each has a server and a client, in processes of their own.

mod bare_threads;
mod oncewire;
mod smol_loop;

use std::io::{Read, Write};
use std::path::PathBuf;

use crate::Result;
use crate::case::{Case, Figures, Kind, Subject, Via};
use crate::cli::Cli;
use crate::sys;

/// The server's process. Ends with its parent.
pub(crate) fn serve(case: &Case) -> Result<()> {
    if case.via == Via::Pipe {
        // Started by a client that runs elsewhere.
        sys::pin(&[case.server_core])?;
    }
    match case.subject {
        Subject::BareThreads => bare_threads::serve(case),
        Subject::SmolLoop => smol_loop::serve(case),
        Subject::Oncewire | Subject::OncewireIdempotent | Subject::OncewireBlocking => {
            oncewire::serve(case)
        }
        _ => Err("a peer of another build".into()),
    }
}

/// The client's process.
pub(crate) fn drive(case: &Case) -> Result<Figures> {
    match case.subject {
        Subject::BareThreads => bare_threads::drive(case),
        Subject::SmolLoop => smol_loop::drive(case),
        Subject::Oncewire | Subject::OncewireIdempotent | Subject::OncewireBlocking => {
            oncewire::drive(case)
        }
        _ => Err("a peer of another build".into()),
    }
}

/// Whether this build, on this machine, can run the subject.
pub(crate) fn is_built(_cli: &Cli, subject: Subject) -> bool {
    subject.kind() != Kind::Peer
}

/// The program that plays the subject's roles.
pub(crate) fn program(_cli: &Cli, _subject: Subject) -> Result<PathBuf> {
    Ok(std::env::current_exe()?)
}

/// The server listens: says so, and ends when its parent does.
fn ready(address: &str) -> Result<()> {
    sys::use_cubic()?;
    println!("ready {address}");
    std::io::stdout().flush()?;
    std::thread::spawn(|| {
        let mut nothing = [0];
        let _at_end = std::io::stdin().read(&mut nothing);
        std::process::exit(0);
    });
    Ok(())
}

/// The program that a pipe's client starts.
fn server_command(case: &Case) -> Result<std::process::Command> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.arg("serve").arg(serde_json::to_string(case)?);
    Ok(command)
}
