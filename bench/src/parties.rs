//! What the workloads share that measure waits: a server and its clients in processes of their own, on chosen cores.

use std::process::exit;

use oncewire_driver::{Client, ClientOptions, Server};
use oncewire_tcp::{TcpAcceptor, TcpConnector};
use oncewire_unix::{UnixAcceptor, UnixConnector};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::case::Transport;
use crate::cli::Cli;
use crate::place::Place;
use crate::process::{LINE_TIMEOUT, Process};
use crate::{subjects, sys};

/// One measurement of a round: the transport, and whether server and clients share a core or have one each.
#[derive(Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) round: u32,
    pub(crate) transport: Transport,
    /// 1 or 2.
    pub(crate) cores: u32,
    client_core: usize,
    server_core: usize,
}

/// Runs each measurement of all rounds that the command line asks for and that the machine has cores for.
pub(crate) fn each_setting(
    cli: &Cli,
    mut measure: impl FnMut(Setting) -> Result<()>,
) -> Result<()> {
    let available = sys::cores()?;
    let client_core = *available.last().ok_or("no core")?;
    for round in 0..cli.rounds {
        for (cores, transport) in
            [(1, Transport::Tcp), (1, Transport::Unix), (2, Transport::Tcp), (2, Transport::Unix)]
        {
            let skip = cli.cores.is_some_and(|only| only != cores)
                || cli.transport.is_some_and(|only| only != transport);
            if skip || cores as usize > available.len() {
                continue;
            }
            let server_core = if cores == 1 { client_core } else { available[0] };
            measure(Setting { round, transport, cores, client_core, server_core })?;
        }
    }
    sys::pin(&available)?;
    crate::run::progress("");
    Ok(())
}

/// A server's process that runs until this is dropped.
pub(crate) struct Serving {
    /// Where it listens.
    pub(crate) address: String,
    _process: Process,
    _place: Place,
}

impl Setting {
    /// Starts the server with `start`, which is given an address to listen at. What is started after this is on the clients' core.
    pub(crate) fn serve(&self, start: impl FnOnce(String) -> Result<Process>) -> Result<Serving> {
        let place = Place::of(self.transport);
        sys::pin(&[self.server_core])?;
        let process = start(place.address())?;
        let line = process.line(LINE_TIMEOUT)?;
        let address = line.strip_prefix("ready ").ok_or("it is not ready")?.to_owned();
        sys::pin(&[self.client_core])?;
        Ok(Serving { address, _process: process, _place: place })
    }
}

/// The server's process: serves, and says where, until its parent ends it.
pub(crate) async fn serve(server: Server, transport: Transport, address: &str) -> Result<()> {
    if transport == Transport::Tcp {
        let acceptor = TcpAcceptor::bind_insecure(address).await?;
        subjects::ready(&acceptor.local_addr().to_string())?;
        smol::spawn(async move { server.serve(acceptor).await }).await?;
    } else {
        let acceptor = UnixAcceptor::bind(address)?;
        subjects::ready(address)?;
        smol::spawn(async move { server.serve(acceptor).await }).await?;
    }
    exit(0)
}

/// A client with the default options.
pub(crate) fn client(transport: Transport, address: &str) -> Client {
    let options = ClientOptions::default();
    match transport {
        Transport::Tcp => Client::new(TcpConnector::new(address), options),
        _ => Client::new(UnixConnector::new(address), options),
    }
}

/// How long calls took that were made one after the other.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Waits {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) calls: usize,
}

impl Waits {
    /// Of these times in µs.
    pub(crate) fn of(mut times_us: Vec<f64>) -> Result<Waits> {
        times_us.sort_unstable_by(f64::total_cmp);
        let last = times_us.len().checked_sub(1).ok_or("no call was made")?;
        let quantile = |q: f64| times_us[(last as f64 * q) as usize];
        Ok(Waits { p50_us: quantile(0.5), p99_us: quantile(0.99), calls: times_us.len() })
    }
}
