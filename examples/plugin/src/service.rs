//! The service, and the program that is the plugin: it counts words, and misbehaves on demand.

use std::process::{Command, ExitCode};

use oncewire::{Context, Server, StdioAcceptor};

/// What a host may ask of the plugin.
#[oncewire::service(name = "words")]
pub(crate) trait Words {
    /// The words of a text. It may be counted again.
    #[rpc(idempotent)]
    async fn count(&self, context: Context, text: String) -> u64;
    /// The process that answers.
    #[rpc(idempotent)]
    async fn process(&self, context: Context) -> u32;
    /// Ends the program in mid call.
    async fn exit(&self, context: Context, status: u8, last_words: String);
    /// A bug that the system ends the program for.
    async fn abort(&self, context: Context);
    /// A bug in which the handler never returns.
    async fn hang(&self, context: Context);
    /// Writes so many lines of 100 bytes to stderr.
    async fn complain(&self, context: Context, lines: u64);
}

struct Counter;

impl Words for Counter {
    async fn count(&self, _: Context, text: String) -> u64 {
        text.split_whitespace().count() as u64
    }

    async fn process(&self, _: Context) -> u32 {
        std::process::id()
    }

    async fn exit(&self, _: Context, status: u8, last_words: String) {
        output::note!("{last_words}");
        std::process::exit(i32::from(status))
    }

    async fn abort(&self, _: Context) {
        std::process::abort()
    }

    async fn hang(&self, _: Context) {
        std::future::pending().await
    }

    async fn complain(&self, _: Context, lines: u64) {
        for line in 0..lines {
            output::note!("{:99}", format!("complaint {line}"));
        }
    }
}

/// How a plugin begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// As it should.
    Good,
    /// With a greeting on stdout.
    Banner,
    /// It speaks another protocol.
    Stranger,
    /// It finds that it cannot work.
    Broken,
    /// It starts another program, which holds its stdin, stdout and stderr.
    Parent,
}

impl Role {
    pub(crate) const ALL: [Role; 5] =
        [Role::Good, Role::Banner, Role::Stranger, Role::Broken, Role::Parent];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Good => "good",
            Role::Banner => "banner",
            Role::Stranger => "stranger",
            Role::Broken => "broken",
            Role::Parent => "parent",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// The plugin's `main`.
pub(crate) fn main(role: Role) -> ExitCode {
    match role {
        Role::Good => {}
        Role::Banner => output::show!("words 1.0 (c) 2026\nReady."),
        Role::Stranger => {
            output::show!("{{\"jsonrpc\":\"2.0\",\"method\":\"initialize\"}}");
            let mut text = String::new();
            let _ = std::io::stdin().read_line(&mut text);
        }
        Role::Broken => {
            output::note!("words: cannot open its dictionary");
            return ExitCode::from(1);
        }
        Role::Parent => match Command::new("sleep").arg("1000").spawn() {
            Ok(_) => {}
            Err(error) => output::note!("words: cannot start sleep: {error}"),
        },
    }
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note!("words: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), Box<dyn std::error::Error>> {
    // First of all: from now on stray prints go to stderr.
    let acceptor = StdioAcceptor::new()?;
    let server = Server::builder("words").service(WordsServer(Counter)).build()?;
    smol::block_on(server.serve(acceptor))?;
    Ok(())
}
