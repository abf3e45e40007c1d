//! The programs that are measured: each has a server and a client, in processes of their own.

mod bare_threads;
mod oncewire;
#[cfg(feature = "peers")]
mod peers;
mod smol_loop;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::Result;
use crate::case::{Case, Figures, Transport};
use crate::subject::{Host, Kind, Subject};
use crate::sys;

/// The server's process. Ends with its parent.
pub(crate) fn serve(case: &Case) -> Result<()> {
    if case.transport == Transport::Pipe {
        // Started by a client that runs elsewhere.
        sys::pin(&[case.server_core])?;
    }
    match case.subject {
        Subject::BareThreads => bare_threads::serve(case),
        Subject::SmolLoop => smol_loop::serve(case),
        subject if subject.kind() == Kind::Oncewire => oncewire::serve(case),
        #[cfg(feature = "peers")]
        _ => peers::serve(case),
        #[cfg(not(feature = "peers"))]
        _ => Err("built without peers".into()),
    }
}

/// The client's process.
pub(crate) fn drive(case: &Case) -> Result<Figures> {
    match case.subject {
        Subject::BareThreads => bare_threads::drive(case),
        Subject::SmolLoop => smol_loop::drive(case),
        subject if subject.kind() == Kind::Oncewire => oncewire::drive(case),
        #[cfg(feature = "peers")]
        _ => peers::drive(case),
        #[cfg(not(feature = "peers"))]
        _ => Err("built without peers".into()),
    }
}

/// Whether this build, on this machine, can run the subject.
pub(crate) fn is_built(subject: Subject) -> bool {
    match subject {
        Subject::GoRpc => go_program().is_some(),
        _ if matches!(subject.host(), Host::Tokio { .. }) => cfg!(feature = "tokio"),
        _ => subject.kind() != Kind::Peer || cfg!(feature = "peers"),
    }
}

/// The program that plays the subject's roles.
pub(crate) fn program(subject: Subject) -> Result<PathBuf> {
    if subject == Subject::GoRpc {
        return Ok(go_program().ok_or("there is no go on the path")?.clone());
    }
    Ok(std::env::current_exe()?)
}

/// The program in `go/`, built at its first use if there is a `go` tool.
fn go_program() -> Option<&'static PathBuf> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        let program = std::env::current_exe().ok()?.with_file_name("oncewire-bench-go");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/go");
        let mut go = Command::new("go");
        let status = go.args(["build", "-o"]).arg(&program).current_dir(source).status();
        status.is_ok_and(|status| status.success()).then_some(program)
    };
    PROGRAM.get_or_init(build).as_ref()
}

/// The server listens: says so, and ends when its parent does.
pub(crate) fn ready(address: &str) -> Result<()> {
    sys::use_cubic()?;
    output::show!("ready {address}");
    std::io::stdout().flush()?;
    end_with_parent();
    Ok(())
}

/// Ends this process when its parent's end closes its stdin.
pub(crate) fn end_with_parent() {
    std::thread::spawn(|| {
        let mut nothing = [0];
        let _at_end = std::io::stdin().read(&mut nothing);
        std::process::exit(0);
    });
}

/// The program that a pipe's client starts.
fn server_command(case: &Case) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("serve").arg(serde_json::to_string(case)?);
    Ok(command)
}
