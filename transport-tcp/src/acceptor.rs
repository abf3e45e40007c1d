//! Listens on an address and accepts connections.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};

use async_io::Async;
use oncewire_driver::{Accept, BoxFuture, BoxStream, Subject};

use crate::resolve::{all_failed, resolve};
use crate::socket::{self, connected};

/// Listens on a TCP address.
///
/// Errors of a single `accept`, such as too many open files or a caller that was gone before it was admitted, come out as
/// they are; the acceptor keeps listening.
#[derive(Debug)]
pub struct TcpAcceptor {
    listener: Async<TcpListener>,
    local: SocketAddr,
}

impl TcpAcceptor {
    /// Listens on `host:port` or a [`SocketAddr`]; port 0 takes a free one. Of a name with several addresses the first
    /// that can be had is taken. On Linux, as many connections may wait to be accepted as the system allows
    /// (`net.core.somaxconn`).
    ///
    /// ```
    /// # smol::block_on(async {
    /// let acceptor = oncewire_tcp::TcpAcceptor::bind("127.0.0.1:0").await?;
    /// assert_ne!(acceptor.local_addr().port(), 0);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub async fn bind(address: impl fmt::Display) -> io::Result<TcpAcceptor> {
        let name = address.to_string();
        let mut tried = Vec::new();
        for address in resolve(&name).await? {
            match socket::listen(address) {
                Ok(listener) => return TcpAcceptor::from_listener(listener),
                Err(e) => tried.push((address, e)),
            }
        }
        Err(all_failed(&format!("tcp:{name}"), tried))
    }

    /// Takes a listener made elsewhere: inherited, or with its own options.
    ///
    /// ```
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let acceptor = oncewire_tcp::TcpAcceptor::from_listener(listener)?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn from_listener(listener: TcpListener) -> io::Result<TcpAcceptor> {
        let local = listener.local_addr()?;
        Ok(TcpAcceptor { listener: Async::new(listener)?, local })
    }

    /// Where it listens, with the port that it got.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

impl Accept for TcpAcceptor {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async {
            let stream = socket::accept(&self.listener).await?;
            Ok((Box::new(connected(stream)?) as BoxStream, Subject::Anonymous))
        })
    }

    fn address(&self) -> String {
        format!("tcp:{}", self.local)
    }
}
