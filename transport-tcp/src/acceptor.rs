//! Listens on an address and accepts connections.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use async_io::Async;
use oncewire_driver::probe::who_listens;
use oncewire_driver::{Accept, BoxFuture, BoxStream, Subject};

use crate::resolve::{all_failed, resolve};
use crate::socket::{self, connected};

/// Listens on a TCP address.
///
/// Errors of a single `accept`, such as too many open files or a caller that was gone before it was admitted, come out as
/// they are; the acceptor keeps listening.
///
/// On an address that other machines can reach it accepts only for TLS around it (`oncewire-tls`), unless it was made
/// [`insecure`](TcpAcceptor::insecure): otherwise [`accept`](Accept::accept) fails with
/// [`InvalidInput`](io::ErrorKind::InvalidInput), which ends [`Server::serve`](crate::Server::serve) with that error.
#[derive(Debug)]
pub struct TcpAcceptor {
    listener: Async<TcpListener>,
    local: SocketAddr,
    insecure: bool,
}

impl TcpAcceptor {
    /// Listens on `host:port` or a [`SocketAddr`]; port 0 takes a free one. Of a name with several addresses the first
    /// that can be had is taken. On Linux, as many connections may wait to be accepted as the system allows
    /// (`net.core.somaxconn`).
    ///
    /// Where another server has the address, the error says which, as far as that says within a second: an Oncewire server its
    /// service and its instance.
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
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                    tried.push((address, in_use(address, &e).await));
                }
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
        Ok(TcpAcceptor { listener: Async::new(listener)?, local, insecure: false })
    }

    /// Accepts without TLS on any address. All who can reach it are served, and anyone on the way can read and change every
    /// byte: for networks on which all are trusted, or a tunnel.
    ///
    /// ```
    /// # smol::block_on(async {
    /// let acceptor = oncewire_tcp::TcpAcceptor::bind("0.0.0.0:0").await?.insecure();
    /// # drop(acceptor);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn insecure(mut self) -> TcpAcceptor {
        self.insecure = true;
        self
    }

    /// An error unless only this machine can reach it, or its owner has said that it does not matter.
    fn check_exposure(&self) -> io::Result<()> {
        if self.insecure || self.local.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        let message = format!(
            "tcp:{}: other machines can reach this address, and without TLS they can read and change everything; put it in TLS \
             (oncewire-tls), listen on a loopback address, or say TcpAcceptor::insecure",
            self.local
        );
        Err(io::Error::new(io::ErrorKind::InvalidInput, message))
    }

    /// Where it listens, with the port that it got.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

/// The error of the server that comes second: what has the address.
async fn in_use(address: SocketAddr, error: &io::Error) -> io::Error {
    let mut dialled = address;
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv4() {
            IpAddr::from(Ipv4Addr::LOCALHOST)
        } else {
            IpAddr::from(Ipv6Addr::LOCALHOST)
        };
        dialled.set_ip(loopback);
    }
    let dial = async {
        let stream = socket::connect(dialled).await?;
        Ok(Box::new(connected(stream)) as BoxStream)
    };
    let listener = who_listens(dial).await;
    io::Error::new(io::ErrorKind::AddrInUse, format!("{error}: {listener}"))
}

impl Accept for TcpAcceptor {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async {
            self.check_exposure()?;
            self.accept_protected().await
        })
    }

    fn accept_protected(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async {
            let stream = socket::accept(&self.listener).await?;
            Ok((Box::new(connected(stream)) as BoxStream, Subject::Anonymous))
        })
    }

    fn address(&self) -> String {
        format!("tcp:{}", self.local)
    }
}
