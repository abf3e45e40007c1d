//! `tcp:HOST:PORT`, `unix:PATH`, `pipe:COMMAND`: where a server is.

use std::fmt;
use std::io;
use std::process::Command;
use std::str::FromStr;

use oncewire::{Accept, ChildConnector, Connect, TcpAcceptor, TcpConnector};
#[cfg(unix)]
use oncewire::{UnixAcceptor, UnixConnector};

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// `host:port`.
    Tcp(String),
    /// A socket's path.
    #[cfg(unix)]
    Unix(std::path::PathBuf),
    /// A command for the shell, whose stdin and stdout are the connection.
    Pipe(String),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let is_port = |port: &str| port.parse::<u16>().is_ok();
        match (kind, rest) {
            ("tcp" | "unix" | "pipe", "") => Err(format!("there is nothing after {kind}:")),
            ("tcp", rest) => match rest.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && is_port(port) => {
                    Ok(Address::Tcp(rest.to_owned()))
                }
                _ => Err("tcp: wants HOST:PORT, the port a number".to_owned()),
            },
            #[cfg(unix)]
            ("unix", rest) => Ok(Address::Unix(rest.into())),
            ("pipe", rest) => Ok(Address::Pipe(rest.to_owned())),
            _ => Err("an address is tcp:HOST:PORT, unix:PATH or pipe:COMMAND".to_owned()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "tcp:{address}"),
            #[cfg(unix)]
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Pipe(command) => write!(f, "pipe:{command}"),
        }
    }
}

impl Address {
    /// Listens there.
    pub(crate) async fn acceptor(&self) -> io::Result<Box<dyn Accept>> {
        Ok(match self {
            Address::Tcp(address) => Box::new(TcpAcceptor::bind(address).await?),
            #[cfg(unix)]
            Address::Unix(path) => Box::new(UnixAcceptor::bind(path)?),
            Address::Pipe(_) => {
                let why = "no clients come to a command; listen on tcp: or unix:";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
        })
    }

    /// Dials there.
    ///
    /// `insecure`: a token may be sent over plain TCP.
    pub(crate) fn connector(&self, insecure: bool) -> Box<dyn Connect> {
        match self {
            Address::Tcp(address) if insecure => Box::new(TcpConnector::new(address).insecure()),
            Address::Tcp(address) => Box::new(TcpConnector::new(address)),
            #[cfg(unix)]
            Address::Unix(path) => Box::new(UnixConnector::new(path)),
            Address::Pipe(command) => {
                let mut shell = Command::new("/bin/sh");
                shell.arg("-c").arg(command);
                Box::new(ChildConnector::new(shell))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for text in ["tcp:localhost:80", "tcp:[::1]:80", "unix:/run/app", "pipe:app serve pipe:-"] {
            assert_eq!(
                text.parse::<Address>().map(|address| address.to_string()).as_deref(),
                Ok(text)
            );
        }
        for wrong in ["", "tcp:", "tcp:80", "tcp::80", "tcp:localhost:x", "http://a", "unix:"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
