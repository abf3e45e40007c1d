//! `tcp:HOST:PORT`, `unix:PATH`, `pipe:COMMAND`: where a bank is. To clients also `tcp:IP:PORT,IP:PORT`: of several servers the one
//! that has the ledger.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use oncewire::{Accept, BoxFuture, BoxStream, Connect, Subject};
use oncewire::{ChildConnector, StdioAcceptor};
use oncewire::{TcpAcceptor, TcpConnector};
use oncewire::{UnixAcceptor, UnixConnector};

/// Where a bank is, or will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// `host:port`.
    Tcp(String),
    /// Servers that take over from each other.
    AnyOf(Vec<SocketAddr>),
    /// A socket's path.
    Unix(PathBuf),
    /// A command for the shell, whose stdin and stdout are the connection. To a server, `-`: its own.
    Pipe(String),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        if !matches!(kind, "tcp" | "unix" | "pipe") {
            return Err("an address is tcp:HOST:PORT, unix:PATH or pipe:COMMAND".to_owned());
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

    /// Dials here.
    pub(crate) fn connector(&self) -> Dial {
        let connector: Box<dyn Connect> = match self {
            Address::Tcp(address) => Box::new(TcpConnector::new(address)),
            Address::AnyOf(all) => Box::new(TcpConnector::any_of(all.iter().copied())),
            Address::Unix(path) => Box::new(UnixConnector::new(path)),
            Address::Pipe(command) => {
                let mut shell = Command::new("/bin/sh");
                // Without `exec` the shell may stay, and stand between us and the program.
                shell.arg("-c").arg(format!("exec {command}"));
                Box::new(ChildConnector::new(shell))
            }
        };
        Dial { connector, first: Mutex::new(None) }
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
