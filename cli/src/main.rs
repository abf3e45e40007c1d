//! The command line of Oncewire: `oncewire ping|list|call|top|tls-check ADDR`, `oncewire record|replay FILE`.
//!
//! | file | what it does |
//! |---|---|
//! | `main.rs` | runs a command, and writes to stdout and stderr |
//! | `args.rs` | the command line as types |
//! | `address.rs` | where a server is |
//! | `exit.rs` | exit statuses, and the lines that go with them |
//! | `connect.rs` | one session, or why there is none |
//! | `tls.rs` | servers in TLS, and what can be wrong with them |
//! | `ping.rs`, `list.rs`, `call.rs`, `top.rs`, `tls_check.rs`, `record.rs`, `replay.rs` | the commands |
//! | `durable.rs` | `call --durable` |
//! | `shell.rs` | completions and the manual |
#![forbid(unsafe_code)]

mod address;
mod args;
mod call;
mod connect;
mod durable;
mod exit;
mod list;
mod ping;
mod record;
mod replay;
mod shell;
mod tls;
mod tls_check;
mod top;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind as Parsed;

use args::{Cli, Command};
use exit::Failure;

fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) if !error.use_stderr() => {
            return end(write_out(error.render().to_string().as_bytes()));
        }
        // Help where there is no command at all.
        Err(error) if error.kind() == Parsed::DisplayHelpOnMissingArgumentOrSubcommand => {
            error.exit()
        }
        Err(error) => return end(Err(Failure::Usage(one_line(&error.to_string())))),
    };
    let result = smol::block_on(async {
        match command {
            Command::Ping(args) => ping::run(args).await,
            Command::List(args) => list::run(args).await,
            Command::Call(args) => call::run(args).await,
            Command::Top(args) => top::run(args).await,
            Command::Record(args) => record::run(args).await,
            Command::Replay(args) => replay::run(&args),
            Command::TlsCheck(args) => tls_check::run(args).await,
            Command::Completions { shell } => shell::completions(shell),
            Command::Man(args) => shell::manual(&args),
        }
    });
    end(result)
}

/// What is wrong with a command line, without the usage that clap writes behind it.
fn one_line(error: &str) -> String {
    let error = error.strip_prefix("error: ").unwrap_or(error);
    let is_message = |part: &&str| !part.starts_with("Usage:") && !part.starts_with("For more");
    let parts = error.split("\n\n").map(str::trim).take_while(is_message);
    let lines = |part: &str| part.split_whitespace().collect::<Vec<_>>().join(" ");
    let message: Vec<_> = parts.map(lines).collect();
    format!("{}; see --help", message.join("; "))
}

/// The line on stderr, and the exit status.
fn end(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Its reader has what it wanted.
        Err(Failure::Unwritable(why)) if why.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            note(&failure.to_string());
            failure.code()
        }
    }
}

/// Writes a line.
fn say(line: &str) -> Result<(), Failure> {
    write_out(format!("{line}\n").as_bytes())
}

/// Writes to stdout.
fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::Unwritable)
}

/// Writes a line to stderr. Where that is closed, the status still says what matters.
fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "oncewire: {}", plain(line));
}

/// A text that a server may have written, without what a terminal obeys.
fn plain(text: &str) -> String {
    let escaped = |letter: char| match letter.is_control() {
        true => letter.escape_default().to_string(),
        false => letter.to_string(),
    };
    text.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_command_line_is_one_line() {
        for (arguments, line) in [
            (&["pong"][..], "unrecognized subcommand 'pong'; see --help"),
            (
                &["call", "tcp:a:1"],
                "the following required arguments were not provided: <METHOD>; see --help",
            ),
        ] {
            let error = Cli::try_parse_from([&["oncewire"], arguments].concat()).unwrap_err();
            assert_eq!(one_line(&error.to_string()), line);
        }
    }
}
