//! A bank as a process: says where it is, serves, and ends cleanly.

use std::io::{self, Write};
use std::time::Duration;

use async_signal::{Signal, Signals};
use oncewire::{Accept, Server};
use smol::stream::StreamExt;

use crate::address::Address;
use crate::cli::{LedgerArgs, Place};
#[cfg(feature = "postgres")]
use crate::{cli::Mutant, sql::How};
use crate::{durable, service};

/// Serves until `SIGTERM` or `SIGINT` comes, then drains; a server on its stdin and stdout also ends with these.
///
/// # Errors
/// Why it could not begin, or had to stop.
pub(crate) async fn run(
    address: &Address,
    grace: Duration,
    ledger: LedgerArgs,
) -> Result<(), String> {
    let mut signals = Signals::new([Signal::Term, Signal::Int])
        .map_err(|error| format!("cannot wait for signals: {error}"))?;
    let is_postgres = !matches!(ledger.ledger, None | Some(Place::File(_)));
    if (ledger.take_over || ledger.shared) && !is_postgres {
        return Err("only a ledger in PostgreSQL is taken over, or shared".to_owned());
    }
    // First of all: two banks with one ledger do not get as far as to listen.
    let server = match ledger.ledger {
        None => service::server().map_err(|error| error.to_string())?,
        Some(Place::File(path)) => durable::server(&path, ledger.transactional, ledger.mutant)?,
        #[cfg(feature = "postgres")]
        Some(Place::Postgres(connection)) => {
            let how = match (ledger.mutant, ledger.shared) {
                (Some(Mutant::NoFence), _) => How::WithoutFence,
                (_, true) => How::Shared,
                (_, false) => How::InTurns,
            };
            let turns = turns::Turns { connection, how };
            return turns.run(address, grace, ledger.take_over, &mut signals).await;
        }
    };
    serve(&server, address, grace, &mut signals).await
}

async fn serve(
    server: &Server,
    address: &Address,
    grace: Duration,
    signals: &mut Signals,
) -> Result<(), String> {
    let explain = |error: io::Error| format!("cannot serve: {error}");
    let acceptor = address.bind().await.map_err(explain)?;
    let ready = format!("listening on {}, server {}\n", acceptor.address(), server.id());
    if matches!(address, Address::Pipe(_)) {
        // Its stdout is the connection.
        tell(&mut io::stderr(), &ready);
    } else {
        tell(&mut io::stdout(), &ready);
    }
    let served = async { server.serve(acceptor).await.map_err(explain) };
    let drained = async {
        signals.next().await;
        tell(&mut io::stderr(), "draining\n");
        server.drain(grace).await;
        Ok(())
    };
    smol::future::or(served, drained).await?;
    if matches!(address, Address::Pipe(_)) {
        // The connection has ended; what it left behind ends, too.
        server.drain(Duration::ZERO).await;
    }
    let counters = server.counters();
    tell(&mut io::stderr(), &format!("ended; {} calls admitted\n", counters.admitted));
    Ok(())
}

/// A reader that has gone is not the server's concern.
fn tell(out: &mut impl Write, line: &str) {
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

/// Several servers on one ledger: one serves, and the others wait for their turn; or all serve at once.
#[cfg(feature = "postgres")]
mod turns {
    use super::*;
    use crate::chance::pause;
    use crate::sql::{How, Turn, open};

    /// Attempts to open a ledger that was lost, a second apart.
    const ATTEMPTS_MAX: u32 = 60;

    #[derive(Clone)]
    pub(super) struct Turns {
        pub(super) connection: String,
        pub(super) how: How,
    }

    impl Turns {
        /// Serves whenever it is this server's turn, until a signal comes.
        pub(super) async fn run(
            &self,
            address: &Address,
            grace: Duration,
            take_over: bool,
            signals: &mut Signals,
        ) -> Result<(), String> {
            let Some(mut turn) = self.wait(take_over, signals).await? else { return Ok(()) };
            loop {
                let served = serve(&turn.server, address, grace, signals).await;
                if turn.server.ledger_error().is_none() {
                    return served;
                }
                let why = served.err().unwrap_or_default();
                tell(&mut io::stderr(), &format!("{why}\n"));
                // Its clients resume at the next server; what is in doubt here would wait for ever.
                turn.server.drain(Duration::ZERO).await;
                drop(turn);
                turn = match self.wait_again(signals).await? {
                    Some(turn) => turn,
                    None => return Ok(()),
                };
            }
        }

        /// The next turn; `None` if a signal comes first.
        async fn wait(
            &self,
            take_over: bool,
            signals: &mut Signals,
        ) -> Result<Option<Turn>, String> {
            tell(&mut io::stdout(), "waiting for its turn\n");
            let Turns { connection, how } = self.clone();
            let how = if take_over { How::TakeOver } else { how };
            let opened = async { smol::unblock(move || open(&connection, how)).await.map(Some) };
            let ended = async {
                signals.next().await;
                Ok(None)
            };
            smol::future::or(opened, ended).await
        }

        /// The same after an error of the database, which may not be back yet.
        async fn wait_again(&self, signals: &mut Signals) -> Result<Option<Turn>, String> {
            let mut attempts = 0;
            loop {
                match self.wait(false, signals).await {
                    Err(why) if attempts < ATTEMPTS_MAX => {
                        tell(&mut io::stderr(), &format!("{why}\n"));
                        attempts += 1;
                        pause(Duration::from_secs(1)).await;
                    }
                    result => return result,
                }
            }
        }
    }
}
