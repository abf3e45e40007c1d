//! Addresses on the command line: `host:port`, or the path of a unix socket.

use std::fmt;
use std::io;
use std::path::PathBuf;

use oncewire::{Accept, Connect, TcpAcceptor, TcpConnector, UnixAcceptor, UnixConnector};

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `host:port`.
    Tcp(String),
    /// A path: it has a `/` in it.
    Unix(PathBuf),
}

impl Address {
    /// From the command line.
    ///
    /// # Errors
    /// What it should look like.
    pub fn parse(text: &str) -> Result<Address, String> {
        let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        match (text.contains('/'), port) {
            (true, _) => Ok(Address::Unix(text.into())),
            (false, Some(_)) => Ok(Address::Tcp(text.to_owned())),
            (false, None) => Err(format!("{text:?} is neither host:port nor a path with a /")),
        }
    }

    /// Dials it.
    pub fn connector(&self) -> Box<dyn Connect> {
        match self {
            Address::Tcp(name) => Box::new(TcpConnector::new(name)),
            Address::Unix(path) => Box::new(UnixConnector::new(path)),
        }
    }

    /// Listens there.
    ///
    /// # Errors
    /// Why that is not possible: the port is taken, say.
    pub async fn bind(&self) -> io::Result<Box<dyn Accept>> {
        Ok(match self {
            Address::Tcp(name) => Box::new(TcpAcceptor::bind(name.as_str()).await?),
            Address::Unix(path) => Box::new(UnixAcceptor::bind(path)?),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(name) => name.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}
