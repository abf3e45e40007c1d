//! A bank as a process: says where it is, serves, and ends cleanly.

use std::io::{self, Write};
use std::time::Duration;

use async_signal::{Signal, Signals};
use oncewire::Accept;
use smol::stream::StreamExt;

use crate::address::Address;
use crate::cli::LedgerArgs;
use crate::{durable, service};

/// Serves until `SIGTERM` or `SIGINT` comes, then drains; a server on its stdin and stdout also ends with these.
///
/// # Errors
/// Why it could not begin, or had to stop.
pub(crate) async fn run(
    address: &Address,
    grace: Duration,
    ledger: &LedgerArgs,
) -> Result<(), String> {
    let mut signals = Signals::new([Signal::Term, Signal::Int])
        .map_err(|error| format!("cannot wait for signals: {error}"))?;
    let explain = |error: io::Error| format!("cannot serve: {error}");
    // First of all: two banks with one ledger do not get as far as to listen.
    let server = match &ledger.ledger {
        None => service::server().map_err(|error| error.to_string())?,
        Some(path) => durable::server(path, ledger.transactional, ledger.mutant)?,
    };
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
