//! Dialling.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use oncewire_driver::{BoxFuture, BoxStream, Connect, Nonblocking};

use crate::resolve::{all_failed, resolve};
use crate::socket::{self, connected};

/// Dials a TCP address, or several until one answers.
///
/// A dial begins with the address that answered last. One that was abandoned, because the driver's patience ended, say,
/// makes the next one begin with the following address: so an address that swallows packets does not hide those behind it.
///
/// ```
/// use oncewire_tcp::{Connect, TcpConnector};
///
/// let by_name = TcpConnector::new("localhost:7000");
/// assert_eq!(by_name.address(), "tcp:localhost:7000");
///
/// let by_address = TcpConnector::new(std::net::SocketAddr::from(([127, 0, 0, 1], 7000)));
/// assert_eq!(by_address.address(), "tcp:127.0.0.1:7000");
/// ```
#[derive(Debug)]
pub struct TcpConnector {
    target: Target,
    /// Where in the list of addresses the next dial begins.
    first: AtomicUsize,
}

#[derive(Debug)]
enum Target {
    Name(String),
    Addresses(Vec<SocketAddr>),
}

impl TcpConnector {
    /// Dials `host:port`, `1.2.3.4:port`, `[::1]:port`, or a [`SocketAddr`]. Whether it makes sense is seen at the dial.
    pub fn new(address: impl fmt::Display) -> TcpConnector {
        TcpConnector::to(Target::Name(address.to_string()))
    }

    /// Dials one of these addresses, the first that answers.
    ///
    /// ```
    /// use oncewire_tcp::{Connect, TcpConnector};
    ///
    /// let v6 = "[::1]:7000".parse().unwrap();
    /// let v4 = "127.0.0.1:7000".parse().unwrap();
    /// let connector = TcpConnector::any_of([v6, v4]);
    /// assert_eq!(connector.address(), "tcp:[::1]:7000,127.0.0.1:7000");
    /// ```
    pub fn any_of(addresses: impl IntoIterator<Item = SocketAddr>) -> TcpConnector {
        TcpConnector::to(Target::Addresses(addresses.into_iter().collect()))
    }

    fn to(target: Target) -> TcpConnector {
        TcpConnector { target, first: AtomicUsize::new(0) }
    }

    async fn dial(&self) -> io::Result<Nonblocking<TcpStream>> {
        let addresses = match &self.target {
            Target::Name(name) => &resolve(name).await?,
            Target::Addresses(addresses) => addresses,
        };
        let first = self.first.load(Ordering::Relaxed);
        let mut tried = Vec::new();
        for i in (0..addresses.len()).map(|n| first.wrapping_add(n) % addresses.len()) {
            // Stands if this future is dropped while it waits.
            self.first.store(i + 1, Ordering::Relaxed);
            match dial_one(addresses[i]).await {
                Ok(socket) => {
                    self.first.store(i, Ordering::Relaxed);
                    return Ok(socket);
                }
                Err(e) => tried.push((addresses[i], e)),
            }
        }
        self.first.store(0, Ordering::Relaxed);
        Err(all_failed(&self.address(), tried))
    }
}

async fn dial_one(address: SocketAddr) -> io::Result<Nonblocking<TcpStream>> {
    let stream = socket::connect(address).await?;
    // Where nobody listens on a local port of the ephemeral range, TCP may connect the socket to itself.
    if stream.get_ref().local_addr()? == stream.get_ref().peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    connected(stream)
}

impl Connect for TcpConnector {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async { Ok(Box::new(self.dial().await?) as BoxStream) })
    }

    fn address(&self) -> String {
        match &self.target {
            Target::Name(name) => format!("tcp:{name}"),
            Target::Addresses(addresses) => {
                let list: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
                format!("tcp:{}", list.join(","))
            }
        }
    }
}
