//! A host and its plugins. It teaches what a host must count with when it runs other people's programs as child processes, and
//! what its callers see then: a plugin crashes, hangs, fills its stderr, prints garbage, is held by a debugger, leaves
//! programs behind, or is not there at all.
//!
//! ```text
//! cargo run --release -p plugin
//! ```
//!
//! The plugin is this program again, started with `as-plugin`: `service.rs` has the service that both share. `cases.rs` has what
//! goes wrong, and `system.rs` looks for what is left of it.

mod cases;
mod service;
mod system;

use std::process::ExitCode;

use cases::{CASES, Case, Finding, Groups};
use service::Role;

const HELP: &str = "\
A host that runs plugins as child processes, and tells the truth when they misbehave.

Usage: plugin [CASE]...

Without a case, all of them. Prints for each what the caller sees, how long that takes, and what is left running. Exit
status 0: all was as it should be; 1: something was not; 2: no such case.

Cases:";

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    match args.as_slice() {
        [help] if help == "--help" || help == "-h" => {
            output::show!("{HELP}");
            for case in CASES {
                output::show!("  {:12}the plugin {}", case.name, case.does);
            }
            ExitCode::SUCCESS
        }
        [as_plugin, role] if as_plugin == "as-plugin" => match Role::from_name(role) {
            Some(role) => service::main(role),
            None => complain(&format!("there is no role {role:?}")),
        },
        names => match chosen(names) {
            Ok(chosen) => run(&chosen),
            Err(text) => complain(&text),
        },
    }
}

fn complain(text: &str) -> ExitCode {
    output::note!("plugin: {text}");
    ExitCode::from(2)
}

/// The cases of these names; all, if there are none.
fn chosen(names: &[String]) -> Result<Vec<&'static Case>, String> {
    if names.is_empty() {
        return Ok(CASES.iter().collect());
    }
    let find = |name: &String| {
        let case = CASES.iter().find(|case| case.name == name);
        case.ok_or_else(|| format!("there is no case {name:?}; --help lists them"))
    };
    names.iter().map(find).collect()
}

fn run(cases: &[&Case]) -> ExitCode {
    let mut held = 0;
    for case in cases {
        held += u32::from(smol::block_on(run_one(case)));
    }
    output::show!("{held} of {} cases were as they should be.", cases.len());
    if held as usize == cases.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a case and prints what it found; whether all of that was as it should be.
async fn run_one(case: &Case) -> bool {
    output::show!("{}: the plugin {}", case.name, case.does);
    let groups = Groups::default();
    let finding = match (case.run)(groups.clone()).await {
        Ok(finding) => finding,
        Err(failure) => {
            output::show!("    a call failed that should not have: {failure}\n");
            return false;
        }
    };
    // The case has dropped its plugin.
    let is_clean = system::until(|| system::left_of(&groups.borrow()) == 0).await;
    let Finding { seen, took, then, held } = finding;
    output::show!("    the caller sees after {:.3} s: {seen}", took.as_secs_f64());
    if !then.is_empty() {
        output::show!("    {then}");
    }
    match is_clean {
        true => output::show!("    left running: nothing"),
        false => output::show!("    left running: {} processes", system::left_of(&groups.borrow())),
    }
    output::show!("{}", if held && is_clean { "" } else { "    THIS IS NOT AS IT SHOULD BE\n" });
    held && is_clean
}
