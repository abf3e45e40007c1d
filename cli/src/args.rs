//! The command line as types.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::address::Address;
use crate::exit::STATUSES;

/// Talks to Oncewire servers.
///
/// An address is tcp:HOST:PORT, tls:HOST:PORT, unix:PATH or pipe:COMMAND, a command for the shell whose stdin and stdout are the
/// connection.
#[derive(Debug, Parser)]
#[command(name = "oncewire", version, after_long_help = STATUSES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Says who answers, and how fast: with a new connection each time, so that two servers behind one name are seen.
    Ping(PingArgs),
    /// Names the methods, with what they take and return.
    List(ListArgs),
    /// Makes one call: JSON in, JSON out.
    #[command(after_long_help = STATUSES)]
    Call(CallArgs),
    /// Shows what a server holds and does, again and again.
    Top(TopArgs),
    /// Shows the certificates of a server, whether they are accepted, and whether it then speaks Oncewire.
    ///
    /// Certificates are shown also where they are refused; then nothing is sent to the server. Those that are accepted here
    /// are those that the other commands accept.
    #[command(after_long_help = STATUSES)]
    TlsCheck(TlsCheckArgs),
    /// Relays connections to a server, and records what passes: without session ids, and without bodies unless asked for.
    ///
    /// The relay listens on tcp: or unix:, since what is encrypted cannot be recorded; the server may be at tls:. It sees the
    /// relay's user, address and certificate, not the client's.
    Record(RecordArgs),
    /// Runs a recording through the real machines: prints the conversation step by step, and writes a page with a diagram.
    Replay(ReplayArgs),
    /// Prints what makes a shell complete this command line.
    ///
    /// For bash: oncewire completions bash > ~/.local/share/bash-completion/completions/oncewire
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Prints the manual page, of the program or of a command.
    ///
    /// To read it: oncewire man | man -l -
    Man(ManArgs),
}

/// Whom to trust, and as whom to be trusted, in TLS.
#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    /// tls: trust servers with a certificate of these authorities (PEM), instead of those that the system trusts; may be
    /// repeated.
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    pub(crate) ca: Vec<PathBuf>,
    /// tls: show this certificate to servers that ask for one (PEM, with those between it and its authority).
    #[arg(long, value_name = "FILE", requires = "key", help_heading = "Identity")]
    pub(crate) cert: Option<PathBuf>,
    /// tls: its private key (PEM).
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = "Identity")]
    pub(crate) key: Option<PathBuf>,
    /// tls: the name that the server's certificate must be for, instead of the address's host.
    #[arg(long, value_name = "NAME", help_heading = "Identity")]
    pub(crate) server_name: Option<String>,
}

/// Whom to trust, and who calls.
#[derive(Debug, Args)]
pub(crate) struct IdentityArgs {
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    /// A file with the token that says who you are, which other users cannot read.
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    pub(crate) token_file: Option<PathBuf>,
    /// Send the token over plain TCP too, where others may read it.
    #[arg(long, requires = "token_file", help_heading = "Identity")]
    pub(crate) insecure: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    /// Where the server is.
    pub(crate) address: Address,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
    /// How often.
    #[arg(short = 'n', long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// The pause between two tries.
    #[arg(long, default_value = "200ms", value_parser = duration)]
    pub(crate) interval: Duration,
    /// How long one try may take.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Where the server is.
    pub(crate) address: Address,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
    /// How long it may take.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct CallArgs {
    /// Where the server is.
    pub(crate) address: Address,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
    /// The method: service/method, or service.method.
    pub(crate) method: String,
    /// Its arguments: an object by the names of its parameters, or an array of them.
    #[arg(default_value = "[]")]
    pub(crate) arguments: String,
    /// How long to wait for the outcome.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// End when the connection breaks, instead of resuming the session.
    #[arg(long)]
    pub(crate) fail_fast: bool,
    /// The call may run more than once: it is refused unless the method is declared idempotent.
    #[arg(long)]
    pub(crate) idempotent: bool,
    /// Keep the session and the call in FILE, so that this command line, run again, learns what became of the call.
    ///
    /// FILE is for one call: run the same command line as often as you like, and the call is made once. Killed at any moment
    /// and run again, it makes the call if it was never sent, and else resumes the session and asks the server. What was
    /// executed, or is unknown for good, stays in FILE: every later run prints the same reply with the same status, and says on
    /// stderr that the call was not made again. A call that was not executed (status 20) is removed from FILE, and the next run
    /// makes it. Where it is not known yet (status 24), run it again. Another method or other arguments with the same FILE are
    /// refused. Remove FILE (and FILE.lock) when you have acted on the outcome, not before.
    ///
    /// A server keeps the session for its lease, five minutes unless it says otherwise. Run later than that, or after a
    /// restart of a server without a ledger, or at the address of another server, the outcome of a call that may have been sent
    /// is unknown, for good. FILE holds the session's id, the arguments and the reply: it is made for this user alone.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["fail_fast", "idempotent"])]
    pub(crate) durable: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Where the server is.
    pub(crate) address: Address,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
    /// The pause between two looks.
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub(crate) interval: Duration,
    /// So many looks; without it, until it is interrupted.
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: Option<u32>,
    /// How long one look may take.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct TlsCheckArgs {
    /// Where the server is: tls:HOST:PORT.
    pub(crate) address: Address,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
    /// Fail as if it had expired when a certificate that is shown ends within so many days; and if it cannot be read.
    #[arg(long, value_name = "DAYS")]
    pub(crate) min_days: Option<u32>,
    /// How long the handshake may take, and then the session.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct RecordArgs {
    /// The recording: a file that is not there yet.
    pub(crate) file: PathBuf,
    /// Where clients connect: tcp:HOST:PORT or unix:PATH.
    #[arg(long)]
    pub(crate) listen: Address,
    /// Where the server is.
    #[arg(long)]
    pub(crate) to: Address,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    /// Record bodies and metadata as they are. They may be secrets; without this they are replaced under a key that is lost.
    #[arg(long)]
    pub(crate) bodies: bool,
    /// End when so many connections have ended; without it, when it is interrupted.
    #[arg(short = 'n', long)]
    pub(crate) connections: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The recording.
    pub(crate) file: PathBuf,
    /// Where the page goes; FILE.html if it is not said.
    #[arg(long, conflicts_with = "no_html")]
    pub(crate) html: Option<PathBuf>,
    /// Write no page.
    #[arg(long)]
    pub(crate) no_html: bool,
    /// Print acknowledgements, Pings and Pongs, too.
    #[arg(long)]
    pub(crate) all: bool,
    /// The full name of a method, such as bank/deduct, where the recording does not know it; may be repeated.
    #[arg(long = "method", value_name = "NAME")]
    pub(crate) methods: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The command; the program if none is said.
    pub(crate) command: Option<String>,
    /// Write the pages of the program and of all commands into this directory instead.
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub(crate) dir: Option<PathBuf>,
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
