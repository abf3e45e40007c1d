//! `tcp:HOST:PORT`, `tls:HOST:PORT`, `unix:PATH`, `pipe:COMMAND`: where a server is.

use std::fmt;
use std::io;
use std::process::Command;
use std::str::FromStr;
use std::sync::Arc;

use oncewire::{Accept, ChildConnector, Connect, TcpAcceptor, TcpConnector};
#[cfg(unix)]
use oncewire::{UnixAcceptor, UnixConnector};

use crate::args::TrustArgs;
use crate::exit::Failure;
use crate::tls;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// `host:port`.
    Tcp(String),
    /// `host:port`, in TLS.
    Tls(String),
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
            ("tcp" | "tls" | "unix" | "pipe", "") => Err(format!("there is nothing after {kind}:")),
            ("tcp" | "tls", rest) => match rest.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && is_port(port) => {
                    Ok(if kind == "tls" { Address::Tls } else { Address::Tcp }(rest.to_owned()))
                }
                _ => Err(format!("{kind}: wants HOST:PORT, the port a number")),
            },
            #[cfg(unix)]
            ("unix", rest) => Ok(Address::Unix(rest.into())),
            ("pipe", rest) => Ok(Address::Pipe(rest.to_owned())),
            _ => {
                let kinds = "tcp:HOST:PORT, tls:HOST:PORT, unix:PATH or pipe:COMMAND";
                Err(format!("an address is {kinds}"))
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "tcp:{address}"),
            Address::Tls(address) => write!(f, "tls:{address}"),
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
            Address::Tls(_) | Address::Pipe(_) => {
                let why = match self {
                    Address::Tls(_) => "what is encrypted cannot be recorded",
                    _ => "no clients come to a command",
                };
                let why = format!("{why}; listen on tcp: or unix:");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
        })
    }

    /// Dials there.
    ///
    /// `insecure`: a token may be sent over plain TCP.
    ///
    /// # Errors
    /// What cannot be used of that with which a TLS server is met.
    pub(crate) fn connector(
        &self,
        insecure: bool,
        trust: &TrustArgs,
    ) -> Result<Arc<dyn Connect>, Failure> {
        if !matches!(self, Address::Tls(_)) {
            tls::refuse_options(self, trust)?;
        }
        Ok(match self {
            Address::Tcp(address) if insecure => Arc::new(TcpConnector::new(address).insecure()),
            Address::Tcp(address) => Arc::new(TcpConnector::new(address)),
            Address::Tls(address) => Arc::new(tls::connector(address, trust)?),
            #[cfg(unix)]
            Address::Unix(path) => Arc::new(UnixConnector::new(path)),
            Address::Pipe(command) => {
                let mut shell = Command::new("/bin/sh");
                shell.arg("-c").arg(command);
                Arc::new(ChildConnector::new(shell))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for text in ["tcp:localhost:80", "tls:[::1]:80", "unix:/run/app", "pipe:app serve pipe:-"] {
            assert_eq!(
                text.parse::<Address>().map(|address| address.to_string()).as_deref(),
                Ok(text)
            );
        }
        for wrong in [
            "",
            "tcp:",
            "tcp:80",
            "tcp::80",
            "tls:",
            "tls:localhost",
            "tcp:localhost:x",
            "http://a",
            "unix:",
        ] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
