//! A bank as a process: says where it is, serves, and ends cleanly.

use std::io::{self, Write};
use std::time::Duration;

use async_signal::{Signal, Signals};
use oncewire::Accept;
use smol::stream::StreamExt;

use crate::address::Address;
use crate::cli::{LedgerArgs, Mutant, Place};
use crate::turn::Turn;
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
    check(&ledger)?;
    // First of all: two banks with one ledger do not get as far as to listen.
    let server = match ledger.ledger {
        None => service::server().map_err(|error| error.to_string())?,
        Some(Place::File(path)) => durable::server(&path, ledger.transactional, ledger.mutant)?,
        #[cfg(feature = "postgres")]
        Some(Place::Postgres(connection)) => {
            use crate::sql::How;
            let how = match (ledger.mutant, ledger.shared) {
                (Some(_), _) => How::WithoutFence,
                (_, true) => How::Shared,
                (_, false) => How::InTurns,
            };
            let take_over = ledger.take_over;
            let turns = turns::Turns::Postgres { connection, how };
            return turns.run(address, grace, take_over, &mut signals).await;
        }
        #[cfg(feature = "etcd")]
        Some(Place::Etcd(place)) => {
            use crate::etcd::How;
            let how = if ledger.mutant.is_some() { How::WithoutFence } else { How::InTurns };
            let lease = Duration::from_secs(ledger.lease.unwrap_or(LEASE_SECS));
            let turns = turns::Turns::Etcd { place, lease, how };
            return turns.run(address, grace, false, &mut signals).await;
        }
    };
    serve(&Turn::for_good(server), address, grace, &mut signals).await.map(drop)
}

/// How long a turn lasts behind the death of its server, in seconds, unless the command line says otherwise.
#[cfg(feature = "etcd")]
const LEASE_SECS: u64 = 5;

/// What the kind of ledger decides about the other arguments.
fn check(ledger: &LedgerArgs) -> Result<(), String> {
    let (is_postgres, is_etcd) = match &ledger.ledger {
        None | Some(Place::File(_)) => (false, false),
        #[cfg(feature = "postgres")]
        Some(Place::Postgres(_)) => (true, false),
        #[cfg(feature = "etcd")]
        Some(Place::Etcd(_)) => (false, true),
    };
    if (ledger.take_over || ledger.shared) && !is_postgres {
        return Err("only a ledger in PostgreSQL is taken over, or shared".to_owned());
    }
    if ledger.lease.is_some() && !is_etcd {
        return Err("only a ledger in etcd has a lease".to_owned());
    }
    match (ledger.mutant, is_postgres || is_etcd) {
        (Some(Mutant::HastyLedger), true) => {
            Err("hasty-ledger is a mutant of a ledger in a file".to_owned())
        }
        (Some(Mutant::NoFence), false) => {
            Err("no-fence is a mutant of a ledger in PostgreSQL or etcd".to_owned())
        }
        _ => Ok(()),
    }
}

/// Why a server does not serve any more, if that was no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It was asked to end, or its only connection has.
    Asked,
    /// It has lost its turn.
    Lost,
}

async fn serve(
    turn: &Turn,
    address: &Address,
    grace: Duration,
    signals: &mut Signals,
) -> Result<End, String> {
    let (server, explain) = (&turn.server, |error: io::Error| format!("cannot serve: {error}"));
    let acceptor = address.bind().await.map_err(explain)?;
    let mut entry = turn.enter(&acceptor.address())?;
    let ready = format!("listening on {}, server {}\n", acceptor.address(), server.id());
    if matches!(address, Address::Pipe(_)) {
        // Its stdout is the connection.
        tell(&mut io::stderr(), &ready);
    } else {
        tell(&mut io::stdout(), &ready);
    }
    let served = async { server.serve(acceptor).await.map_err(explain).map(|()| End::Asked) };
    let lost = async {
        turn.lost().await;
        Ok(End::Lost)
    };
    let drained = async {
        signals.next().await;
        tell(&mut io::stderr(), "draining\n");
        match entry.take() {
            Some(entry) => entry.drain(grace).await,
            None => server.drain(grace).await,
        }
        Ok(End::Asked)
    };
    let end = smol::future::or(served, smol::future::or(lost, drained)).await?;
    if end == End::Lost {
        return Ok(end);
    }
    if matches!(address, Address::Pipe(_)) {
        // The connection has ended; what it left behind ends, too.
        server.drain(Duration::ZERO).await;
    }
    let counters = server.counters();
    tell(&mut io::stderr(), &format!("ended; {} calls admitted\n", counters.admitted));
    Ok(end)
}

/// A reader that has gone is not the server's concern.
fn tell(out: &mut impl Write, line: &str) {
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

/// Several servers on one ledger: one serves, and the others wait for their turn; or all serve at once.
#[cfg(any(feature = "postgres", feature = "etcd"))]
mod turns {
    use super::*;
    use crate::chance::pause;
    #[cfg(feature = "postgres")]
    use crate::sql;
    #[cfg(feature = "etcd")]
    use crate::{etcd, etcd_place::EtcdPlace};

    /// Attempts to open a ledger that was lost, a second apart.
    const ATTEMPTS_MAX: u32 = 60;

    /// How a server gets its turn.
    #[derive(Clone)]
    pub(super) enum Turns {
        #[cfg(feature = "postgres")]
        Postgres { connection: String, how: sql::How },
        #[cfg(feature = "etcd")]
        Etcd { place: EtcdPlace, lease: Duration, how: etcd::How },
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
                let served = serve(&turn, address, grace, signals).await;
                let why = match (served, turn.server.ledger_error()) {
                    (Ok(End::Asked), _) => return Ok(()),
                    (Err(why), None) => return Err(why),
                    (Err(why), Some(_)) => why,
                    (Ok(End::Lost), _) => {
                        "the turn is over: the lease could not be kept".to_owned()
                    }
                };
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
            let opened = async { self.open(take_over).await.map(Some) };
            let ended = async {
                signals.next().await;
                Ok(None)
            };
            smol::future::or(opened, ended).await
        }

        #[cfg_attr(not(feature = "postgres"), expect(unused_variables, reason = "PostgreSQL's"))]
        async fn open(&self, take_over: bool) -> Result<Turn, String> {
            match self.clone() {
                #[cfg(feature = "postgres")]
                Turns::Postgres { connection, how } => {
                    let how = if take_over { sql::How::TakeOver } else { how };
                    smol::unblock(move || sql::open(&connection, how)).await
                }
                #[cfg(feature = "etcd")]
                Turns::Etcd { place, lease, how } => etcd::open(&place, lease, how).await,
            }
        }

        /// The same after an error of the ledger, which may not be back yet.
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
