//! `tcp:HOST:PORT`, `unix:PATH`, `pipe:COMMAND`: where a bank is. To clients also `tcp:IP:PORT,IP:PORT`: of several servers the one
//! that has the ledger; and `etcd:HOST:PORT,HOST:PORT/NAME`: the one that is registered there.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use oncewire::{Accept, BoxFuture, BoxStream, Connect, Subject};
use oncewire::{ChildConnector, StdioAcceptor};
use oncewire::{TcpAcceptor, TcpConnector};
use oncewire::{UnixAcceptor, UnixConnector};

#[cfg(feature = "etcd")]
use crate::etcd_place::EtcdPlace;

/// How long a client tries to reach its server at first.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The same where the next server has to wait for the end of the turn before its own.
#[cfg(feature = "etcd")]
const TURN_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a bank is, or will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// `host:port`.
    Tcp(String),
    /// Servers that take over from each other.
    AnyOf(Vec<SocketAddr>),
    /// Where the server that has its turn is registered.
    #[cfg(feature = "etcd")]
    Etcd(EtcdPlace),
    /// A socket's path.
    Unix(PathBuf),
    /// A command for the shell, whose stdin and stdout are the connection. To a server, `-`: its own.
    Pipe(String),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        if !matches!(kind, "tcp" | "unix" | "pipe" | "etcd") {
            let text =
                "an address is tcp:HOST:PORT, unix:PATH, pipe:COMMAND or etcd:HOST:PORT/NAME";
            return Err(text.to_owned());
        }
        if rest.is_empty() {
            return Err(format!("there is nothing after {kind}:"));
        }
        Ok(match kind {
            "tcp" if rest.contains(',') => {
                let all: Result<_, _> = rest.split(',').map(str::parse).collect();
                let why = |_| "tcp: with several addresses wants IP:PORT,IP:PORT".to_owned();
                Address::AnyOf(all.map_err(why)?)
            }
            "tcp" => match rest.rsplit_once(':') {
                Some((_, port)) if port.parse::<u16>().is_ok() => Address::Tcp(rest.to_owned()),
                _ => return Err("tcp: wants HOST:PORT, the port a number".to_owned()),
            },
            "unix" => Address::Unix(rest.into()),
            #[cfg(feature = "etcd")]
            "etcd" => Address::Etcd(rest.parse()?),
            #[cfg(not(feature = "etcd"))]
            "etcd" => return Err(crate::cli::WITHOUT_ETCD.to_owned()),
            _ => Address::Pipe(rest.to_owned()),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "tcp:{address}"),
            Address::AnyOf(all) => {
                let all: Vec<String> = all.iter().map(SocketAddr::to_string).collect();
                write!(f, "tcp:{}", all.join(","))
            }
            #[cfg(feature = "etcd")]
            Address::Etcd(place) => place.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Pipe(command) => write!(f, "pipe:{command}"),
        }
    }
}

impl Address {
    /// Of several addresses another one first, so that clients are spread.
    pub(crate) fn rotated(&self, by: usize) -> Address {
        let mut address = self.clone();
        if let Address::AnyOf(all) = &mut address {
            let by = by % all.len().max(1);
            all.rotate_left(by);
        }
        address
    }

    /// Whether another server takes over from the one that clients reach.
    pub(crate) fn has_stand_bys(&self) -> bool {
        match self {
            Address::AnyOf(_) => true,
            #[cfg(feature = "etcd")]
            Address::Etcd(_) => true,
            _ => false,
        }
    }

    /// Whether there may be no server for a moment, so that a first dial that fails says nothing.
    pub(crate) fn is_a_name(&self) -> bool {
        match self {
            #[cfg(feature = "etcd")]
            Address::Etcd(_) => true,
            _ => false,
        }
    }

    /// How long a client tries to reach it at first.
    pub(crate) fn connect_timeout(&self) -> Duration {
        match self {
            #[cfg(feature = "etcd")]
            Address::Etcd(_) => TURN_TIMEOUT,
            _ => CONNECT_TIMEOUT,
        }
    }

    /// Dials here.
    pub(crate) fn connector(&self) -> Result<Dial, String> {
        let connector: Box<dyn Connect> = match self {
            Address::Tcp(address) => Box::new(TcpConnector::new(address)),
            Address::AnyOf(all) => Box::new(TcpConnector::any_of(all.iter().copied())),
            #[cfg(feature = "etcd")]
            Address::Etcd(place) => Box::new(place.connector().map_err(|error| error.to_string())?),
            Address::Unix(path) => Box::new(UnixConnector::new(path)),
            Address::Pipe(command) => {
                let mut shell = Command::new("/bin/sh");
                // Without `exec` the shell may stay, and stand between us and the program.
                shell.arg("-c").arg(format!("exec {command}"));
                Box::new(ChildConnector::new(shell))
            }
        };
        Ok(Dial { connector, first: Mutex::new(None) })
    }

    /// Listens here.
    pub(crate) async fn bind(&self) -> io::Result<Listen> {
        Ok(Listen(match self {
            Address::Tcp(address) => Box::new(TcpAcceptor::bind(address).await?),
            Address::Unix(path) => Box::new(UnixAcceptor::bind(path)?),
            Address::AnyOf(_) => {
                let text = "a server takes one address";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            #[cfg(feature = "etcd")]
            Address::Etcd(_) => {
                let text =
                    "a server listens at tcp:HOST:PORT; etcd: is where its clients look for it";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            Address::Pipe(own) if own == "-" => Box::new(StdioAcceptor::new()?),
            Address::Pipe(_) => {
                let text = "a server takes pipe:- only, which is its stdin and stdout";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        }))
    }
}

/// A connector of any transport.
pub(crate) struct Dial {
    connector: Box<dyn Connect>,
    first: Mutex<Option<BoxStream>>,
}

impl Dial {
    /// Makes the first connection now; the next dial hands it out.
    ///
    /// The driver would try for ever. If there never was a server, it is better to say so at once.
    pub(crate) async fn dial_first(&self) -> io::Result<()> {
        let stream = self.connector.connect().await?;
        *self.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        Ok(())
    }
}

impl Connect for Dial {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        match first {
            Some(stream) => Box::pin(async { Ok(stream) }),
            None => self.connector.connect(),
        }
    }
    fn address(&self) -> String {
        self.connector.address()
    }

    fn may_carry_token(&self) -> bool {
        self.connector.may_carry_token()
    }

    fn handshake_failed(&self) {
        self.connector.handshake_failed();
    }
}

/// An acceptor of any transport.
pub(crate) struct Listen(Box<dyn Accept>);

impl Accept for Listen {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        self.0.accept()
    }
    fn address(&self) -> String {
        self.0.address()
    }
}
