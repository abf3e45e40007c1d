//! The command line of Oncewire: `oncewire ping|list|call|top ADDR`, `oncewire record|replay FILE`.
//!
//! | file | what it does |
//! |---|---|
//! | `main.rs` | the command line |
//! | `address.rs` | where a server is |
//! | `exit.rs` | exit statuses, and the lines that go with them |
//! | `connect.rs` | one session, or why there is none |
//! | `ping.rs`, `list.rs`, `call.rs`, `top.rs`, `record.rs`, `replay.rs` | the commands |
#![forbid(unsafe_code)]

mod address;
mod call;
mod connect;
mod exit;
mod list;
mod ping;
mod record;
mod replay;
mod top;

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use address::Address;
use exit::Failure;

/// Talks to Oncewire servers.
///
/// An address is tcp:HOST:PORT, unix:PATH or pipe:COMMAND. Exit status: 0 done; 2 wrong command line; 10 to 16 and 20 not
/// executed; 21 unknown whether executed; 22 executed without a reply to show; 23 nowhere to write to.
#[derive(Debug, Parser)]
#[command(name = "oncewire", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Says who answers, and how fast: with a new connection each time, so that two servers behind one name are seen.
    Ping(PingArgs),
    /// Names the methods, with what they take and return.
    List(ListArgs),
    /// Makes one call: JSON in, JSON out.
    Call(CallArgs),
    /// Shows what a server holds and does, again and again.
    Top(TopArgs),
    /// Relays connections to a server, and records what passes: without session ids, and without bodies unless asked for.
    ///
    /// What is encrypted cannot be recorded. The server sees the relay's user and address, not the client's.
    Record(RecordArgs),
    /// Runs a recording through the real machines: prints the conversation step by step, and writes a page with a diagram.
    Replay(ReplayArgs),
}

/// Who calls.
#[derive(Debug, Args)]
struct IdentityArgs {
    /// A file with the token that says who you are, which other users cannot read.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Send the token over plain TCP too, where others may read it.
    #[arg(long, requires = "token_file")]
    insecure: bool,
}

#[derive(Debug, Args)]
struct PingArgs {
    /// Where the server is.
    address: Address,
    #[command(flatten)]
    identity: IdentityArgs,
    /// How often.
    #[arg(short = 'n', long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// The pause between two tries.
    #[arg(long, default_value = "200ms", value_parser = duration)]
    interval: Duration,
    /// How long one try may take.
    #[arg(long, default_value = "5s", value_parser = duration)]
    timeout: Duration,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Where the server is.
    address: Address,
    #[command(flatten)]
    identity: IdentityArgs,
    /// How long it may take.
    #[arg(long, default_value = "5s", value_parser = duration)]
    timeout: Duration,
}

#[derive(Debug, Args)]
struct CallArgs {
    /// Where the server is.
    address: Address,
    #[command(flatten)]
    identity: IdentityArgs,
    /// The method: service/method, or service.method.
    method: String,
    /// Its arguments: an object by the names of its parameters, or an array of them.
    #[arg(default_value = "[]")]
    arguments: String,
    /// How long to wait for the outcome.
    #[arg(long, default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// End when the connection breaks, instead of resuming the session.
    #[arg(long)]
    fail_fast: bool,
    /// The call may run more than once: it is refused unless the method is declared idempotent.
    #[arg(long)]
    idempotent: bool,
}

#[derive(Debug, Args)]
struct TopArgs {
    /// Where the server is.
    address: Address,
    #[command(flatten)]
    identity: IdentityArgs,
    /// The pause between two looks.
    #[arg(long, default_value = "1s", value_parser = duration)]
    interval: Duration,
    /// So many looks; without it, until it is interrupted.
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// How long one look may take.
    #[arg(long, default_value = "5s", value_parser = duration)]
    timeout: Duration,
}

#[derive(Debug, Args)]
struct RecordArgs {
    /// The recording: a file that is not there yet.
    file: PathBuf,
    /// Where clients connect: tcp:HOST:PORT or unix:PATH.
    #[arg(long)]
    listen: Address,
    /// Where the server is.
    #[arg(long)]
    to: Address,
    /// Record bodies and metadata as they are. They may be secrets; without this they are replaced under a key that is lost.
    #[arg(long)]
    bodies: bool,
    /// End when so many connections have ended; without it, when it is interrupted.
    #[arg(short = 'n', long)]
    connections: Option<u64>,
}

#[derive(Debug, Args)]
struct ReplayArgs {
    /// The recording.
    file: PathBuf,
    /// Where the page goes; FILE.html if it is not said.
    #[arg(long, conflicts_with = "no_html")]
    html: Option<PathBuf>,
    /// Write no page.
    #[arg(long)]
    no_html: bool,
    /// Print acknowledgements, Pings and Pongs, too.
    #[arg(long)]
    all: bool,
    /// The full name of a method, such as bank/deduct, where the recording does not know it; may be repeated.
    #[arg(long = "method", value_name = "NAME")]
    methods: Vec<String>,
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let result = smol::block_on(async {
        match command {
            Command::Ping(args) => ping::run(args).await,
            Command::List(args) => list::run(args).await,
            Command::Call(args) => call::run(args).await,
            Command::Top(args) => top::run(args).await,
            Command::Record(args) => record::run(args).await,
            Command::Replay(args) => replay::run(&args),
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Its reader has what it wanted.
        Err(Failure::Unwritable(why)) if why.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            // Where stderr is closed, the status still says it.
            let _ = writeln!(std::io::stderr(), "oncewire: {}", plain(&failure.to_string()));
            failure.code()
        }
    }
}

/// `5s`, `200ms`, `2m`; a number alone is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: write 5s, 200ms or 2m");
    let digits = text.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    let seconds = match &text[digits.len()..] {
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" => number * 60.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// Writes a line.
fn say(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(Failure::Unwritable)
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
    fn the_command_line_is_well_formed() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "5h", "-1s", "5 s", "1e400s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
