//! Listens on an address and accepts connections.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use async_io::Async;
use oncewire_driver::probe::who_listens;
use oncewire_driver::{Accept, AcceptPolicy, BoxFuture, BoxStream, Subject};

use crate::resolve::{all_failed, resolve};
use crate::socket;

/// Listens on a TCP address.
///
/// Errors of a single `accept`, such as too many open files or a caller that was gone before it was admitted, come out as
/// they are; the acceptor keeps listening.
///
/// An address that other machines can reach is listened on for TLS only ([`bind_for_tls`](TcpAcceptor::bind_for_tls)), or where
/// the owner says that it may be ([`bind_insecure`](TcpAcceptor::bind_insecure)).
#[derive(Debug)]
pub struct TcpAcceptor {
    listener: Async<TcpListener>,
    policy: AcceptPolicy,
    local: SocketAddr,
    insecure: bool,
}

impl TcpAcceptor {
    /// Listens on `host:port` or a [`SocketAddr`]; port 0 takes a free one. Of a name with several addresses the first
    /// that can be had is taken. On Linux, as many connections may wait to be accepted as the system allows
    /// (`net.core.somaxconn`).
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) on an address that other machines can reach, before anything is listened on.
    /// [`AddrInUse`](io::ErrorKind::AddrInUse) where another server has the address; the error says which, as far as that says
    /// within a second: an Oncewire server its service and its instance.
    ///
    /// ```
    /// # smol::block_on(async {
    /// use oncewire_tcp::TcpAcceptor;
    ///
    /// let acceptor = TcpAcceptor::bind("127.0.0.1:0").await?;
    /// assert_ne!(acceptor.local_addr().port(), 0);
    /// assert!(TcpAcceptor::bind("0.0.0.0:0").await.is_err());
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub async fn bind(address: impl fmt::Display) -> io::Result<TcpAcceptor> {
        TcpAcceptor::bind_where(&address.to_string(), |local| is_allowed(local).map(|()| false))
            .await
    }

    /// The same on any address, for TLS around it. On an address that other machines can reach it accepts for TLS only:
    /// [`Accept::accept`], which a server would call without it, is [`InvalidInput`](io::ErrorKind::InvalidInput) then.
    ///
    /// # Errors
    /// As [`bind`](TcpAcceptor::bind), but for the first one.
    ///
    /// ```
    /// # smol::block_on(async {
    /// let acceptor = oncewire_tcp::TcpAcceptor::bind_for_tls("0.0.0.0:0").await?;
    /// // TlsAcceptor::new(acceptor, tls)
    /// # drop(acceptor);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub async fn bind_for_tls(address: impl fmt::Display) -> io::Result<TcpAcceptor> {
        TcpAcceptor::bind_where(&address.to_string(), |_| Ok(false)).await
    }

    /// The same on any address, without TLS. All who can reach it are served, and anyone on the way can read and change every
    /// byte: for networks on which all are trusted, or a tunnel.
    ///
    /// # Errors
    /// As [`bind`](TcpAcceptor::bind), but for the first one.
    ///
    /// ```
    /// # smol::block_on(async {
    /// let acceptor = oncewire_tcp::TcpAcceptor::bind_insecure("0.0.0.0:0").await?;
    /// # drop(acceptor);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub async fn bind_insecure(address: impl fmt::Display) -> io::Result<TcpAcceptor> {
        TcpAcceptor::bind_where(&address.to_string(), |_| Ok(true)).await
    }

    /// Takes a listener made elsewhere: inherited, or with its own options. On an address that other machines can reach it
    /// accepts for TLS only, unless it is made [`insecure`](TcpAcceptor::insecure).
    ///
    /// ```
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let acceptor = oncewire_tcp::TcpAcceptor::from_listener(listener)?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn from_listener(listener: TcpListener) -> io::Result<TcpAcceptor> {
        let local = listener.local_addr()?;
        let (listener, policy) = (Async::new(listener)?, AcceptPolicy::default());
        Ok(TcpAcceptor { listener, policy, local, insecure: false })
    }

    /// Accepts without TLS, as [`bind_insecure`](TcpAcceptor::bind_insecure): for a listener that was made elsewhere.
    pub fn insecure(mut self) -> TcpAcceptor {
        self.insecure = true;
        self
    }

    /// Listens on the first address of this name that can be had and for which `insecure` is no error.
    async fn bind_where(
        name: &str,
        insecure: impl Fn(SocketAddr) -> io::Result<bool>,
    ) -> io::Result<TcpAcceptor> {
        let mut tried = Vec::new();
        for address in resolve(name).await? {
            let listening =
                insecure(address).and_then(|insecure| Ok((socket::listen(address)?, insecure)));
            match listening {
                Ok((listener, insecure)) => {
                    let acceptor = TcpAcceptor::from_listener(listener)?;
                    return Ok(TcpAcceptor { insecure, ..acceptor });
                }
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                    tried.push((address, in_use(address, &e).await));
                }
                Err(e) => tried.push((address, e)),
            }
        }
        Err(all_failed(&format!("tcp:{name}"), tried))
    }

    /// Where it listens, with the port that it got.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

/// An error where other machines can reach the address.
fn is_allowed(local: SocketAddr) -> io::Result<()> {
    if local.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let message = "other machines can reach this address, and without TLS they can read and change everything; listen on a \
                   loopback address, put it in TLS (oncewire-tls, TcpAcceptor::bind_for_tls), or say TcpAcceptor::bind_insecure";
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
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
        Ok(Box::new(stream) as BoxStream)
    };
    let listener = who_listens(dial).await;
    io::Error::new(io::ErrorKind::AddrInUse, format!("{error}: {listener}"))
}

impl Accept for TcpAcceptor {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async {
            if !self.insecure {
                let named =
                    |e: io::Error| io::Error::new(e.kind(), format!("tcp:{}: {e}", self.local));
                is_allowed(self.local).map_err(named)?;
            }
            self.accept_protected().await
        })
    }

    fn accept_protected(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async {
            let stream = socket::accept(&self.policy, &self.listener).await?;
            Ok((Box::new(stream) as BoxStream, Subject::Anonymous))
        })
    }

    fn address(&self) -> String {
        format!("tcp:{}", self.local)
    }
}
